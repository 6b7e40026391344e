"""Pretraining of both stages: what a stage is, the loop, its log, and how it runs on many devices."""

from slimbrain.config import RUN_FILE
from slimbrain.train.log import METRICS_FILE, read_metrics
from slimbrain.train.loop import STATE_FOLDER, Loop
from slimbrain.train.run import pick_device, pretrain
from slimbrain.train.schedule import learning_rate, weight_decay
from slimbrain.train.stages import Stage, TemporalStage, VoxelStage

__all__ = [
    "METRICS_FILE",
    "RUN_FILE",
    "STATE_FOLDER",
    "Loop",
    "Stage",
    "TemporalStage",
    "VoxelStage",
    "learning_rate",
    "pick_device",
    "pretrain",
    "read_metrics",
    "weight_decay",
]
