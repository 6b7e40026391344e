"""Commands on a cluster: cut into shards of themselves, submitted to Slurm or to processes of this machine, and gathered."""

from slimbrain.launch.client import LaunchOutcome, launch
from slimbrain.launch.resources import Resources
from slimbrain.launch.work import Work

__all__ = ["LaunchOutcome", "Resources", "Work", "launch"]
