"""Reading windows from a store, ours beside an npy memmap, the published loader's npz chunks, and nii.gz.

    python benchmarks/store.py [--quick]

One JSON line per case, nothing else on standard output. The same z-scored noise is written in all four ways; every read opens its file
again, and the files lie in the page cache.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import struct
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import nibabel
import numpy as np
import numpy.typing as npt
import torch
from case import Case
from torch.utils.data import DataLoader, Dataset

from slimbrain.config import load_preset
from slimbrain.data.clip import read_clip
from slimbrain.data.draws import ClipDraws
from slimbrain.governance.duplicates import find_duplicates
from slimbrain.grid import Grid
from slimbrain.store import Channels, SessionInfo, Store
from slimbrain.store import manifest as manifest_module
from slimbrain.store.write import write_roi_session, write_session

Array = npt.NDArray[Any]

TR_S, SPACE = 0.72, "MNI152NLin6Asym"
WINDOW_FRAMES = 8
WINDOWS = (1, 5, 9, 14, 20)
"""The five windows of a clip; all lie in one chunk of the published kind, which favours that kind."""

CHUNK_FRAMES = 200
SHORT, LONG = 300, 10_000
SESSIONS = 4000
QC = {"coverage": 0.9871, "tsnr": 61.25, "dvars_mean": 1.213, "spikes": 7, "fd_mean": 0.132, "fd_max": 1.11, "n_warnings": 0}


@dataclass(frozen=True)
class Size:
    """`resolution` of the lattice, clips that the data loaders give, and how often a read of each speed is repeated."""

    resolution: str
    clips: int
    fast_repeats: int
    slow_repeats: int
    quick: bool


FULL, QUICK = Size("2mm", 120, 25, 3, False), Size("4mm", 16, 9, 1, True)


@dataclass(frozen=True)
class Files:
    """One session, written in four ways."""

    store: Store
    info: SessionInfo
    npy: Path
    npz: Path
    nii: Path

    @property
    def grid(self) -> Grid:
        return self.store.grid


def make_files(folder: Path, size: Size) -> Files:
    grid = Grid.mni152(size.resolution)
    shape = grid.voxel_mask.shape
    noise = np.random.default_rng(0).standard_normal((SHORT, *shape), dtype=np.float32) * grid.voxel_mask
    voxels = noise.astype(np.float16)
    store = Store.create(folder / "store", grid, TR_S)
    info = write_session(store, {"sub": "01", "task": "rest", "space": SPACE}, voxels, np.ones(shape), np.ones(shape), TR_S)
    files = Files(store, info, folder / "voxels.npy", folder / "sub-01_run-1_0000-0199_1.npz", folder / "bold.nii.gz")
    np.save(files.npy, voxels)
    dense = np.moveaxis(grid.unpack(voxels[:CHUNK_FRAMES]), 0, -1)
    np.savez_compressed(files.npz, data=dense)
    # NIfTI has no float16.
    nibabel.openers.Opener.default_compresslevel = 1
    nibabel.Nifti1Image(dense.astype(np.float32), grid.lattice.affine).to_filename(files.nii)
    return files


# --- ways to read a clip of five windows: (40, P, V), or (E, E, E, 40)


def from_store(files: Files) -> Array:
    return read_clip(files.store, files.info, WINDOWS, WINDOW_FRAMES).voxels.numpy()


def from_memmap(path: Path, windows: Sequence[int] = WINDOWS) -> Array:
    voxels = np.load(path, mmap_mode="r")
    return np.concatenate([voxels[number * WINDOW_FRAMES : (number + 1) * WINDOW_FRAMES] for number in windows])


def from_npz(files: Files) -> Array:
    with np.load(files.npz) as chunk:
        data = chunk[chunk.files[0]]
    return np.concatenate([data[..., number * WINDOW_FRAMES : (number + 1) * WINDOW_FRAMES] for number in WINDOWS], axis=-1)


def from_nifti(files: Files) -> Array:
    """One pass up to the last window: gzip cannot skip."""
    first, last = WINDOWS[0], WINDOWS[-1] + 1
    span = np.asarray(nibabel.load(files.nii).dataobj[..., first * WINDOW_FRAMES : last * WINDOW_FRAMES])
    parts = [span[..., (number - first) * WINDOW_FRAMES : (number - first + 1) * WINDOW_FRAMES] for number in WINDOWS]
    return np.concatenate(parts, axis=-1)


def milliseconds(read: Callable[[], object], repeats: int) -> list[float]:
    """Of each of several reads, after one that is not counted."""
    read()
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        read()
        times.append(1000 * (time.perf_counter() - started))
    return times


def in_turns(reads: Sequence[Callable[[], object]], repeats: int) -> list[list[float]]:
    """Milliseconds of each read, taken in turns, so that other work on the machine meets all alike."""
    rounds = [[milliseconds(read, 1)[0] for read in reads] for _ in range(repeats)]
    return [list(times) for times in zip(*rounds, strict=True)]


# --- cases


def facts(files: Files, size: Size) -> dict[str, Any]:
    grid = files.grid
    return {
        "quick": size.quick,
        "lattice": grid.lattice.id,
        "patches": grid.n_patches,
        "frames": files.info.n_frames,
        "window": f"{len(WINDOWS)} x {WINDOW_FRAMES} frames",
    }


def check_alike(files: Files) -> None:
    """All four must give the same numbers, or the comparison means nothing."""
    ours = from_store(files)
    dense = np.moveaxis(files.grid.unpack(ours), 0, -1)
    for other, mine in ((from_memmap(files.npy), ours), (from_npz(files), dense), (from_nifti(files), dense)):
        np.testing.assert_array_equal(mine, other)


def window_cases(files: Files, size: Size) -> Iterator[Case]:
    check_alike(files)
    ours, mapped = in_turns([lambda: from_store(files), lambda: from_memmap(files.npy)], size.fast_repeats)
    timing = {"statistic": "median", "repeats": size.fast_repeats, "fastest": round(min(ours), 3), "fastest_against": round(min(mapped), 3)}
    yield Case("store/window_ms", median(ours), "ms", "npy-memmap", median(mapped), {**facts(files, size), **timing})
    for case, against, read, path in (
        ("store/window_ms_npz", "npz", from_npz, files.npz),
        ("store/window_ms_nii_gz", "nii.gz", from_nifti, files.nii),
    ):
        times = milliseconds(partial(read, files), size.slow_repeats)
        kind = {"chunk_frames": CHUNK_FRAMES, "file_mib": round(path.stat().st_size / 2**20, 1), "repeats_against": size.slow_repeats}
        yield Case(case, median(ours), "ms", against, median(times), {**facts(files, size), **timing, **kind})


def bytes_case(files: Files, size: Size) -> Case:
    """Bytes of the session's file against the box as dense float16."""
    value = (files.store.root / files.info.path).stat().st_size
    voxels = files.info.n_frames * files.grid.lattice.edge**3
    detail = {
        "of_dense_float32": round(value / voxels / 4, 4),
        "of_npz_chunk_per_frame": round(value / files.info.n_frames / (files.npz.stat().st_size / CHUNK_FRAMES), 4),
        "share_of_patches": round(files.grid.n_patches / files.grid.lattice.patches**3, 4),
        "share_of_brain_voxels": round(files.grid.n_voxels / files.grid.lattice.edge**3, 4),
    }
    return Case("store/bytes", value, "B", "dense-float16", 2.0 * voxels, {**facts(files, size), **detail})


class MappedClips(Dataset[Array]):
    """Clips of random windows from an npy memmap, as the least that a loader must do."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __getitem__(self, draw: int) -> Array:
        return from_memmap(self.path, np.random.default_rng(draw).permutation(SHORT // WINDOW_FRAMES)[: len(WINDOWS)].tolist())


def loader_case(files: Files, size: Size) -> Case:
    """Windows a second of a torch DataLoader with 2 workers."""
    preset = load_preset("base")
    draws = ClipDraws(files.store, preset.window, 0, preset.voxel.unit, preset.voxel.unit_frames, preset.jepa)
    ours, mapped = (windows_per_second(dataset, size.clips) for dataset in (draws, MappedClips(files.npy)))
    detail = {"workers": 2, "clips": size.clips, "not_counted": "the first clip, by which the workers have started"}
    return Case("store/windows_per_second", ours, "1/s", "npy-memmap", mapped, {**facts(files, size), **detail})


def windows_per_second(dataset: Dataset[Any], clips: int) -> float:
    clip = iter(DataLoader(dataset, batch_size=None, sampler=range(clips + 1), num_workers=2))
    next(clip)
    started = time.perf_counter()
    for _ in clip:
        pass
    return len(WINDOWS) * clips / (time.perf_counter() - started)


def length_case(files: Files, size: Size) -> Case:
    """A clip from a session of 10,000 frames against one of 300. The long file is a hole but for the windows that are read."""
    windows = np.linspace(0, LONG // WINDOW_FRAMES - 1, len(WINDOWS)).astype(int).tolist()
    store, long = lengthen(files, windows)
    reads = [partial(read_clip, store, long, windows, WINDOW_FRAMES), partial(from_store, files)]
    ours, short = in_turns(reads, size.fast_repeats)
    detail = {"frames_long": LONG, "statistic": "median", "repeats": size.fast_repeats}
    return Case("store/window_ms_long", median(ours), "ms", "300-frames", median(short), {**facts(files, size), **detail})


def lengthen(files: Files, windows: Sequence[int]) -> tuple[Store, SessionInfo]:
    """Add a session of `LONG` frames that holds noise at these windows; the store, opened again, and that session."""
    shape = files.grid.voxel_mask.shape
    ones = np.ones(shape)
    info = write_session(files.store, {"sub": "02", "task": "rest", "space": SPACE}, np.zeros((1, *shape)), ones, ones, TR_S)
    path = files.store.root / info.path
    frame_bytes = 2 * math.prod(shape)
    header = json.dumps({"voxels": {"dtype": "F16", "shape": [LONG, *shape], "data_offsets": [0, LONG * frame_bytes]}}).encode()
    noise = np.random.default_rng(1).standard_normal((WINDOW_FRAMES, *shape), dtype=np.float32).astype(np.float16).tobytes()
    with open(path, "wb") as handle:
        handle.write(struct.pack("<Q", len(header)) + header)
        for number in windows:
            handle.seek(8 + len(header) + number * WINDOW_FRAMES * frame_bytes)
            handle.write(noise)
        handle.truncate(8 + len(header) + LONG * frame_bytes)
    manifest = files.store.root / "sessions.tsv"
    lines = [line.split("\t") for line in manifest.read_text(encoding="utf-8").splitlines()]
    place = lines[0].index("n_frames")
    lines = [[*cells[:place], str(LONG), *cells[place + 1 :]] if cells[0] == info.key else cells for cells in lines]
    manifest.write_text("".join("\t".join(cells) + "\n" for cells in lines), encoding="utf-8")
    store = Store(files.store.root)
    return store, store.session(info.key)


def many_cases(folder: Path, size: Size) -> Iterator[Case]:
    """A store of 4,000 sessions: opened by its manifest against a walk, and given one session more against an empty store."""
    root = folder / "many"
    store = Store.create(root, Grid.mni152("8mm"), TR_S)
    empty = add_session(store, 0)
    empty_ms = median(milliseconds(lambda: add_session(store, 0), size.fast_repeats))
    template = (root / empty.path).read_bytes()
    rows = [empty, *(copy_session(root, empty, number, template) for number in range(1, SESSIONS))]
    write_manifest(root, rows)

    def opened_anew() -> list[SessionInfo]:
        manifest_module._parse_once.cache_clear()  # a process parses a manifest that has not changed only once
        return Store(root).sessions

    opened, walked = in_turns([opened_anew, lambda: walk(root)], size.slow_repeats + 2)
    found = len(Store(root).sessions)
    if not found == walk(root) == SESSIONS:
        raise SystemExit(f"{found} sessions opened, {walk(root)} found by walking, {SESSIONS} made")
    note = {"quick": size.quick, "sessions": SESSIONS, "statistic": "median"}
    walking = {"walk": "os.walk, and the header and sidecar of each session"}
    yield Case("store/open_ms", median(opened), "ms", "walk", median(walked), {**note, **walking, "repeats": size.slow_repeats + 2})
    added = milliseconds(lambda: add_session(Store(root), 0), size.fast_repeats)
    yield Case("store/add_ms", median(added), "ms", "store-of-one", empty_ms, {**note, "repeats": size.fast_repeats, "frames": 1})


def add_session(store: Store, number: int) -> SessionInfo:
    shape = store.grid.voxel_mask.shape
    ones = np.ones(shape)
    return write_session(store, {"sub": f"{number:05d}", "task": "rest", "space": SPACE}, np.zeros((1, *shape)), ones, ones, TR_S, qc=QC)


def copy_session(root: Path, info: SessionInfo, number: int, data: bytes) -> SessionInfo:
    old, new = info.subject, f"sub-{number:05d}"
    path = root / info.path.replace(old, new)
    path.parent.mkdir(parents=True)
    path.write_bytes(data)
    path.with_suffix(".json").write_text('{"RepetitionTime": 0.72}')
    return SessionInfo(**{**vars(info), "key": info.key.replace(old, new), "subject": new, "path": info.path.replace(old, new)})


def write_manifest(root: Path, rows: Sequence[SessionInfo]) -> None:
    manifest = root / "sessions.tsv"
    header, line = manifest.read_text(encoding="utf-8").splitlines()
    manifest.write_text("\n".join([header, *(line.replace(rows[0].subject, info.subject) for info in rows)]) + "\n", encoding="utf-8")


def walk(root: Path) -> int:
    """How many sessions a walk finds, reading what the manifest would have told: length and TR."""
    found = 0
    for folder, _, names in os.walk(root):
        for name in names:
            if not name.endswith(".safetensors"):
                continue
            path = Path(folder, name)
            with open(path, "rb") as handle:
                header = json.loads(handle.read(struct.unpack("<Q", handle.read(8))[0]))
            json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
            found += header["voxels"]["shape"][0] > 0
    return found


def copies_case(folder: Path, size: Size) -> Case:
    """Milliseconds per session that a look for copies takes, against reading the same series."""
    sessions, channels = (20 if size.quick else 200), 685
    store, rng = Store.create(folder / "series", None, TR_S), np.random.default_rng(0)
    named = Channels(tuple(f"c{number}" for number in range(channels)), np.zeros((channels, 3)))
    for number in range(sessions):
        series = rng.standard_normal((SHORT, channels), dtype=np.float32)
        write_roi_session(store, {"sub": f"{number:03d}", "task": "rest"}, series, named, TR_S)
    store = Store(store.root)
    keys = [info.key for info in store.sessions]
    found = find_duplicates(store)
    if found:
        raise SystemExit(f"{len(found)} pairs found in noise")
    ours, read = in_turns([lambda: find_duplicates(store), lambda: [store.coarse(key) for key in keys]], size.slow_repeats)
    detail = {"quick": size.quick, "sessions": sessions, "frames": SHORT, "channels": channels, "statistic": "median per session"}
    return Case("store/copies_ms", median(ours) / sessions, "ms", "reading", median(read) / sessions, detail)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="the 4 mm lattice, fewer reads")
    size = QUICK if parser.parse_args().quick else FULL
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        files = make_files(folder, size)
        for case in window_cases(files, size):
            case.print()
        bytes_case(files, size).print()
        loader_case(files, size).print()
        length_case(files, size).print()
        for case in many_cases(folder, size):
            case.print()
        copies_case(folder, size).print()


if __name__ == "__main__":
    main()
