"""What preparing and pretraining cost at cohort sizes that no laptop sees: a model from rates that were measured, and a simulation.

    python benchmarks/scale.py [--quick] [--table] [--utilisation 0.2] [--servers 8]

One JSON line per case, nothing else on standard output: for three sets of devices the clips per second that come through a shared file
system (benchmarks/readers.py) against what the devices alone would do; and, measured now, what it costs to list a session in a large
manifest and to find a run. `--table` prints the tables of docs/scale.md instead. No device was at hand: what is not measured says where
it is from.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from case import Case
from readers import Seen, Storage, Training, simulate

from slimbrain.disk.atomic import write_text
from slimbrain.disk.shards import Shard
from slimbrain.grid import LATTICES, Grid
from slimbrain.prep.layouts import LAYOUTS, find_recordings
from slimbrain.prep.layouts.base import RecordingQuery
from slimbrain.prep.run import own_runs
from slimbrain.store import SessionInfo, Store
from slimbrain.store import write as placing
from slimbrain.store.manifest import MANIFEST_FILE, manifest_text
from slimbrain.store.parts import collect_parts

COHORTS = (4_129, 50_000, 500_000)
EPOCHS, FRAMES, CLIP_FRAMES = 40, 600, 40

PREP_FRAMES_S, PREP_CORES = 101.0, 2
"""Measured: benchmarks/prep.py, a 2 mm run with its TR kept, compressed file to written session, one process on two cores."""

CLIPS_A_WORKER_S = 319 / 5 / 2
"""Measured: benchmarks/store.py, `store/windows_per_second`, 5 windows per clip, 2 workers, files in the page cache."""

READ_S = 0.0040
"""Measured: benchmarks/store.py, `store/window_ms`; the part of the above that is reading."""

GFLOPS_A_CLIP, PARAMETERS = 1_517 / 4, 22_456_000 + 1_552_832
"""Measured: `slimbrain plan --preset base --batch 4 --precision bfloat16`."""

GIB_A_CLIP = (80 - 16) / (465 - 86)
BASE_GIB = 16 - 86 * GIB_A_CLIP
"""Planned, not measured on a device: the same command's largest micro-batches of 16 and 80 GiB."""

SOURCE_BYTES_A_FRAME = 0.85e6
"""Published: an HCP resting run, 1,200 frames at 2 mm, is about 1 GB as nii.gz."""

OVERHEAD_S = 0.020
"""Assumed: thousands of kernels are started a step, a few microseconds each, whatever the batch."""


@dataclass(frozen=True)
class Devices:
    """A set of devices, by their data sheets.

    Attributes
    ----------
    flops : dense bfloat16 operations a second of one.
    link_bytes_s : of one device to the others, one way.
    node_bytes_s : of a machine's network to the file system.
    cores : of a machine.
    batch : clips per step, of all devices.
    """

    name: str
    nodes: int
    a_node: int
    flops: float
    link_bytes_s: float
    node_bytes_s: float
    cores: int
    batch: int

    @property
    def count(self) -> int:
        return self.nodes * self.a_node


SETS = (
    Devices("1 A100", 1, 1, 312e12, 300e9, 25e9, 16, 8),
    Devices("8 H100", 1, 8, 989e12, 450e9, 50e9, 96, 8),
    Devices("64 H100", 8, 8, 989e12, 50e9, 50e9, 96, 64),
)
"""A100 80 GB: 312 TFLOP/s, 200 Gb/s network. H100 SXM: 989 TFLOP/s, NVLink 450 GB/s each way, 400 Gb/s a device between machines."""


@dataclass(frozen=True)
class Assumptions:
    """What a site has to fill in: share of a device's peak that is reached, and the shared file system."""

    utilisation: float
    storage: Storage


def session_bytes(grid: Grid, frames: int = FRAMES) -> int:
    """Of a stored session: voxels in float16, moments and coarse series in float32; headers left out."""
    values = grid.n_patches * grid.voxels_per_patch
    return frames * (2 * values + 4 * grid.n_cells) + 2 * 4 * values


def clip_bytes(grid: Grid) -> int:
    return CLIP_FRAMES * grid.n_patches * grid.voxels_per_patch * 2


def step_seconds(devices: Devices, utilisation: float) -> float:
    """Of one step without any waiting for data: passes, what starting kernels takes, gradients added up around a ring."""
    passes = GFLOPS_A_CLIP * 1e9 * devices.batch / devices.count / (devices.flops * utilisation)
    ring = 2 * (devices.count - 1) / devices.count * 4 * PARAMETERS / devices.link_bytes_s
    return passes + OVERHEAD_S + ring


def training_of(devices: Devices, grid: Grid, utilisation: float) -> Training:
    readers = max(1, devices.cores // devices.a_node - 1)
    prepare = 1 / CLIPS_A_WORKER_S - READ_S
    step = step_seconds(devices, utilisation)
    return Training(devices.nodes, devices.a_node, readers, clip_bytes(grid), prepare, devices.batch // devices.count, step)


def pace(devices: Devices, grid: Grid, assumed: Assumptions, steps: int) -> Seen:
    storage = replace(assumed.storage, node_bytes_s=devices.node_bytes_s)
    return simulate(training_of(devices, grid, assumed.utilisation), storage, steps)


def bottleneck(seen: Seen) -> str:
    """The part that is busiest."""
    shares = {
        "devices": seen.devices_busy,
        "file system": seen.servers_busy,
        "network": seen.nodes_busy,
        "readers' cores": seen.readers_busy,
    }
    return max(shares, key=lambda name: shares[name])


def prep_hours(sessions: int, devices: Devices, grid: Grid, assumed: Assumptions) -> tuple[float, str]:
    """Of preparing a cohort on the cores of these machines, and what limits it."""
    processes = devices.nodes * devices.cores // PREP_CORES
    computing = sessions * FRAMES / PREP_FRAMES_S / processes / 3600
    moved = sessions * (FRAMES * SOURCE_BYTES_A_FRAME + session_bytes(grid))
    moving = moved / (assumed.storage.servers * assumed.storage.server_bytes_s) / 3600
    return max((computing, "cores"), (moving, "file system"))


# --- the lines


def pace_cases(grid: Grid, assumed: Assumptions, steps: int, quick: bool) -> Iterator[Case]:
    for devices in SETS:
        seen = pace(devices, grid, assumed, steps)
        alone = devices.batch / step_seconds(devices, assumed.utilisation)
        detail = {"quick": quick, "steps": steps, "utilisation": assumed.utilisation, "limit": bottleneck(seen), **vars(seen)}
        yield Case(f"scale/clips_per_second_{devices.name.replace(' ', '_').lower()}", seen.clips_s, "1/s", "devices-alone", alone, detail)


def listing_case(rows: int, added: int, quick: bool) -> Case:
    """Milliseconds to list a session in a manifest of so many, by itself and with others of a shard."""
    with tempfile.TemporaryDirectory() as folder:
        grid = Grid(LATTICES["8mm"], np.ones((24, 24, 24), bool))
        single, shard = (Store.create(Path(folder) / name, grid, 0.72) for name in ("single", "shard"))
        for store in (single, shard):
            write_text(store.root / MANIFEST_FILE, manifest_text([_session(number) for number in range(rows)]))
        started = time.perf_counter()
        _list(single, range(rows, rows + added))
        alone = time.perf_counter() - started
        started = time.perf_counter()
        _list(Store(shard.root, "part"), range(rows, rows + added))
        collect_parts(shard.root)
        together = time.perf_counter() - started
    detail = {"quick": quick, "rows": rows, "added": added, "cores": "one process"}
    return Case("scale/list_ms", together / added * 1e3, "ms", "one-by-one", alone / added * 1e3, detail)


def finding_case(runs: int, quick: bool) -> Case:
    """Milliseconds of processor for each run of a source until one shard of 64 has its own, against one process that has them all."""
    with tempfile.TemporaryDirectory() as folder:
        for number in range(runs):
            place = Path(folder) / f"sub-{number:06d}" / "func"
            place.mkdir(parents=True)
            stem = f"sub-{number:06d}_task-rest_space-MNI152NLin6Asym_desc-preproc_bold"
            (place / f"{stem}.nii.gz").write_bytes(b"image")
            (place / f"{stem}.json").write_text('{"RepetitionTime": 0.72}', encoding="utf-8")
        _find(Path(folder), Shard(1, 1))  # imports nilearn, and the folders are in memory
        (own, seconds), (every, all_seconds) = _find(Path(folder), Shard(1, 64)), _find(Path(folder), Shard(1, 1))
    detail = {"quick": quick, "runs": runs, "own": own, "all": every}
    return Case("scale/find_ms", seconds / runs * 1e3, "ms", "all-described", all_seconds / runs * 1e3, detail)


def _find(folder: Path, shard: Shard) -> tuple[int, float]:
    """How many runs a shard has, and the seconds of processor to find them."""
    started, layout = time.process_time(), LAYOUTS["bids"]
    runs, _ = own_runs(layout, find_recordings(folder, layout, RecordingQuery()), shard)
    return len(runs), time.process_time() - started


def _list(store: Store, numbers: range) -> None:
    for number in numbers:
        placing._list(store, _session(number), "")


def _session(number: int) -> SessionInfo:
    subject, key = f"sub-{number:06d}", f"sub-{number:06d}_task-rest_space-MNI152NLin6Asym"
    qc = {name: f"{number % 97 / 97:.4g}" for name in ("coverage", "dvars_median", "fd_mean", "n_warnings", "tsnr_median")}
    path = f"{subject}/func/{key}_desc-slimbrain_bold.safetensors"
    return SessionInfo(key, subject, "", "rest", "", "MNI152NLin6Asym", FRAMES, 0.72, path, qc)


# --- the tables of docs/scale.md


def table(grid: Grid, assumed: Assumptions, steps: int) -> Iterator[str]:
    """Hours, disk and limits, one row per cohort and set of devices."""
    paces = {devices.name: pace(devices, grid, assumed, steps) for devices in SETS}
    yield "| sessions | store | devices | preparing | limit | memory per device | clips per second | pretraining | limit | devices busy |"
    yield "|---" * 10 + "|"
    for sessions in COHORTS:
        size = f"{sessions * session_bytes(grid) / 1e12:.1f} TB"
        for devices in SETS:
            seen, (hours, limit) = paces[devices.name], prep_hours(sessions, devices, grid, assumed)
            trained = f"{seen.clips_s:,.0f} | {_hours(EPOCHS * sessions / seen.clips_s / 3600)} | {bottleneck(seen)}"
            memory = f"{BASE_GIB + GIB_A_CLIP * devices.batch / devices.count:.1f} GiB"
            prepared = f"{devices.name} | {_hours(hours)} | {limit} | {memory}"
            yield f"| {sessions:,} | {size} | {prepared} | {trained} | {seen.devices_busy:.0%} |"


def sensitivity(grid: Grid, assumed: Assumptions, steps: int) -> Iterator[str]:
    """What other assumptions would make of the pace."""
    yield "| " + " | ".join(["utilisation", "file system", *(f"{devices.name}: clips per second (limit)" for devices in SETS)]) + " |"
    yield "|---" * (2 + len(SETS)) + "|"
    for utilisation in (0.05, 0.2, 0.4):
        for servers in (1, 8, 64):
            other = Assumptions(utilisation, replace(assumed.storage, servers=servers))
            seen = [pace(devices, grid, other, steps) for devices in SETS]
            cells = " | ".join(f"{each.clips_s:,.0f} ({bottleneck(each)})" for each in seen)
            yield f"| {utilisation:.0%} | {servers * other.storage.server_bytes_s / 1e9:g} GB/s | {cells} |"


def _hours(hours: float) -> str:
    return f"{hours * 60:.0f} min" if hours < 1 else f"{hours:,.1f} h" if hours < 48 else f"{hours / 24:,.1f} days"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer steps, a shorter manifest")
    parser.add_argument("--table", action="store_true", help="print the tables of docs/scale.md instead")
    parser.add_argument("--utilisation", type=float, default=0.2, help="share of a device's peak that is reached")
    parser.add_argument("--servers", type=int, default=8, help="of the file system")
    parser.add_argument("--server-gb-s", type=float, default=2.5, help="of each of them")
    asked = parser.parse_args()
    assumed = Assumptions(asked.utilisation, Storage(asked.servers, asked.server_gb_s * 1e9, 1e12))
    grid, steps = Grid.mni152("2mm"), 100 if asked.quick else 400
    if asked.table:
        sys.stdout.write("\n".join([*table(grid, assumed, steps), "", *sensitivity(grid, assumed, steps), ""]))
        return
    for case in pace_cases(grid, assumed, steps, asked.quick):
        case.print()
    listing_case(*((200, 20, True) if asked.quick else (20_000, 200, False))).print()
    finding_case(*((64, True) if asked.quick else (6_400, False))).print()


if __name__ == "__main__":
    main()
