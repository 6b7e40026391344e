"""What a machine is: versions, CPU cores, memory, disk, and the precisions and speed of its devices."""

from __future__ import annotations

import errno
import fcntl
import os
import platform
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from slimbrain import __version__
from slimbrain.models.size import memory_bytes

_GIB = 2**30

_LEAST_FREE_GIB = 1.0
"""One session of 1,200 frames on the 2 mm lattice takes 0.7 GiB in a store."""

_READ_ONLY = (errno.EROFS, errno.EACCES, errno.EPERM)
"""What the system answers where a folder may be read and not written."""

_LEAST_MEMORY_GIB = 1.5
"""Preparing 1,200 frames at 2 mm takes 0.5 GiB, a step of preset `base` 0.8 GiB (docs/performance.md), the system the rest."""

_EDGE_CPU, _EDGE_CUDA = 512, 4096
"""Side of the matrices whose product is timed: 0.3 GFLOP, which a CPU that emulates a type still ends in a second; 137 GFLOP."""

_TF32_CAPABILITY = 8
"""CUDA devices from Ampere on multiply in TF32."""


def versions() -> tuple[dict[str, str], list[str]]:
    """Version of slimbrain, Python and every package that slimbrain needs; and a sentence for each one that is missing."""
    found, problems = {"slimbrain": __version__, "python": platform.python_version(), "system": platform.platform()}, []
    for name in _needed():
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            problems.append(f"{name}: is not installed; install slimbrain again (docs/install.md).")
    return found, problems


def _needed() -> list[str]:
    """Names of the packages that slimbrain requires, without those of its extras."""
    try:
        lines = metadata.requires("slimbrain") or []
    except metadata.PackageNotFoundError:
        # Run from a source tree that nobody installed: torch is here, or this module would not be.
        lines = ["torch"]
    return [matched.group() for line in lines if "extra ==" not in line and (matched := re.match(r"[\w.-]+", line))]


def cores() -> str:
    """Cores that this process may use, and how many there are."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{usable} of {os.cpu_count()}"


def disk(place: Path) -> tuple[str, list[str]]:
    """Free space on the disk of `place`, and problems that prevent writing there.

    That it may only be read is none: a store that is finished is read from then on.
    """
    if not place.is_dir():
        return f"{place} is not there", []
    try:
        with tempfile.TemporaryFile(dir=place) as handle:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        state = "can be written, has file locks"
    except OSError as error:
        if error.errno in _READ_ONLY:
            return f"read-only: fine for all that only reads; outputs must go elsewhere ({error.strerror})", []
        state = f"cannot be written or has no file locks ({error.strerror})"
    free = shutil.disk_usage(place).free / _GIB
    problems = []
    if free < _LEAST_FREE_GIB:
        problems.append(f"{place}: has {free:.2f} GiB free, a session can take as much; free space, or work in a folder on another disk.")
    return f"{free:.1f} GiB free, {state}", problems


def memory() -> tuple[str, list[str]]:
    """Memory in words, and whether it is too little."""
    total, free = (size / _GIB for size in memory_bytes())
    short = [
        f"memory: {free:.1f} GiB are free, {_LEAST_MEMORY_GIB:g} GiB are needed to prepare and train at 2 mm; "
        "end other programs, or use another machine."
    ]
    return f"{free:.1f} of {total:.1f} GiB free", short if free < _LEAST_MEMORY_GIB else []


def devices() -> dict[str, str]:
    """Every device that can compute, with its memory and the speed of a matrix product in each precision."""
    found = {f"cpu ({torch.get_num_threads()} threads)": _precisions(torch.device("cpu"))}
    for number in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(number)
        name = f"cuda:{number} ({properties.name}, {properties.total_memory / _GIB:.0f} GiB)"
        found[name] = _precisions(torch.device("cuda", number))
    return found


def _precisions(device: torch.device) -> str:
    """Each precision with the speed of a matrix product in it; those slower than float32 are marked."""
    edge = _EDGE_CUDA if device.type == "cuda" else _EDGE_CPU
    speeds = {
        "float32": _speed(device, torch.float32, edge),
        "tf32": _tf32(device, edge),
        "bfloat16": _speed(device, torch.bfloat16, edge),
        "float16": _speed(device, torch.float16, edge),
    }
    plain = speeds["float32"] or 0.0
    return ", ".join(_in_words(name, speed, plain) for name, speed in speeds.items())


def _in_words(name: str, speed: float | None, plain: float) -> str:
    if speed is None:
        return f"{name} no"
    return f"{name} {speed:.3g} GFLOP/s{' (slower than float32: use that)' if name != 'float32' and speed < plain else ''}"


def _tf32(device: torch.device, edge: int) -> float | None:
    if device.type != "cuda" or torch.cuda.get_device_capability(device)[0] < _TF32_CAPABILITY:
        return None
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = True
    try:
        return _speed(device, torch.float32, edge)
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before


def _speed(device: torch.device, dtype: torch.dtype, edge: int) -> float | None:
    """GFLOP/s of a matrix product; None if the device has none in this type."""
    try:
        matrix = torch.randn(edge, edge, device=device).to(dtype)
        seconds = min(timed(lambda: matrix @ matrix, device) for _ in range(3))
    except RuntimeError:
        return None
    return 2 * edge**3 / seconds / 1e9


def timed(work: Callable[[], Any], device: torch.device) -> float:
    """Seconds that `work` takes, including what it queued on a device."""
    with _settled(device):
        started = time.perf_counter()
        work()
    return time.perf_counter() - started


@contextmanager
def _settled(device: torch.device) -> Iterator[None]:
    """Synchronise a device before and after; a CPU needs none."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    yield
    if device.type == "cuda":
        torch.cuda.synchronize(device)
