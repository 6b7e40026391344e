"""Write a session and list it, take one out, or change what the table says of it.

Data come first, then the sidecar with their size and SHA-256, then the row of the manifest (or of a part); they are taken out in the
opposite order. A process that is killed in between leaves a session that `Store.is_whole` does not accept. Nothing of a participant who was
withdrawn is written.
"""

from __future__ import annotations

import json
import mmap
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from slimbrain import __version__
from slimbrain.disk.atomic import replacing, write_json, write_text
from slimbrain.disk.locks import locked
from slimbrain.disk.seal import sha256
from slimbrain.disk.tensorfile import TensorFile, TensorSpec
from slimbrain.disk.tsv import MISSING
from slimbrain.errors import ContractError, InputError, StoreError
from slimbrain.store.channels import Channels
from slimbrain.store.contract import ROI, Contract, same_tr
from slimbrain.store.description import COHORT, DATA_BYTES, DATA_SHA256
from slimbrain.store.manifest import (
    DATA_SUFFIX,
    MANIFEST_FILE,
    SESSION_ROW,
    SessionInfo,
    SessionTable,
    manifest_text,
    manifest_with,
    misplaced,
    read_manifest,
    read_part,
    row_to_repeat,
    session_key,
    session_path,
)
from slimbrain.store.parts import add_to_part, take_from_part
from slimbrain.store.records import Governance, keep_records
from slimbrain.store.store import Store
from slimbrain.store.withdrawn import refusal, refuse_withdrawn, withdrawn

_FloatArray = npt.NDArray[Any]

_LONGEST_NAME = 240
"""Bytes of a data file's name. File systems take 255, of which its temporary name (`.tmp-PID-NAME`) needs some."""

_WRITE_BLOCK_BYTES = 32 * 2**20
"""How much of a session's voxels is in memory at once while it is written."""


def write_session(
    store: Store,
    entities: Mapping[str, str],
    voxels: _FloatArray,
    mean: _FloatArray,
    std: _FloatArray,
    tr: float,
    sidecar: Mapping[str, Any] | None = None,
    qc: Mapping[str, object] | None = None,
    coarse: _FloatArray | None = None,
) -> SessionInfo:
    """Add or replace one session, atomically; its row comes last.

    Parameters
    ----------
    store : Store
        Where to; a store opened with a part lists the session in that part.
    entities : mapping
        `sub`, optional `ses`, `task`, `run`, and `space`.
    voxels : (T, P, V) array
        z-scored, 0 outside the mask; stored as float16. May be a `np.memmap`: it is read once, in blocks of frames.
    mean, std : (P, V) array
        Undo the z-score; stored as float32.
    tr : float
        Seconds per frame.
    sidecar : mapping, optional
        What to record beside the data.
    qc : mapping, optional
        Columns to add to the manifest.
    coarse : (T, C) array, optional
        Channel series; computed from `voxels` if not given.

    Raises
    ------
    ContractError
        If shape or TR do not fit the store.
    StoreError
        If something cannot be written, or the participant was withdrawn.
    """
    grid = store.grid
    if voxels.ndim != 3 or voxels.shape[1:] != grid.voxel_mask.shape:
        raise ContractError(
            f"{session_key(entities)}: voxels of shape {voxels.shape} do not fit {grid!r}; pack them with the store's grid."
        )
    store.contract.require(Contract(grid.lattice.id, grid.hash, "MNI152", tr), f"the store {store.root}", session_key(entities))
    n_frames, moment = len(voxels), TensorSpec("float32", grid.voxel_mask.shape)
    specs = {
        "voxels": TensorSpec("float16", (n_frames, *grid.voxel_mask.shape)),
        "mean": moment,
        "std": moment,
        "coarse": TensorSpec("float32", (n_frames, grid.n_cells)),
    }
    info = _new_row(entities, n_frames, tr, qc or {})
    with _placed(store, info, {"RepetitionTime": tr, **(sidecar or {})}) as data, TensorFile(data, specs, _metadata(store, tr)) as file:
        for frames in _frame_blocks(voxels):
            file.write("voxels", voxels[frames], frames.start)
            file.write("coarse", (grid.coarse(voxels[frames]) if coarse is None else coarse[frames]), frames.start)
            _release(voxels)
        file.write("mean", mean)
        file.write("std", std)
    return info


def write_roi_session(
    store: Store,
    entities: Mapping[str, str],
    series: _FloatArray,
    channels: Channels,
    tr: float,
    sidecar: Mapping[str, Any] | None = None,
    qc: Mapping[str, object] | None = None,
) -> SessionInfo:
    """Add or replace a session that has the channels of a parcellation and no voxels; as `write_session`.

    Parameters
    ----------
    series : (T, C) array
        Stored as float32.
    channels : Channels
        Names and MNI places of the C columns.
    tr : float
        Seconds per frame; must be the store's own.

    Raises
    ------
    ContractError
        If the TR is another.
    InputError
        If series and channels do not fit each other, or places are not finite.
    StoreError
        If something cannot be written, or the participant was withdrawn.
    """
    if not same_tr(store.contract.tr, tr):
        raise ContractError(
            f"{session_key(entities)}: has TR {tr:g} s but the store {store.root} has {store.contract.tr:g} s: "
            f"bring the series to {store.contract.tr:g} s, or write them to another store."
        )
    if series.ndim != 2 or series.shape[1] != len(channels.names) or channels.mm.shape != (len(channels.names), 3):
        raise InputError(
            f"{session_key(entities)}: series {series.shape} do not fit {len(channels.names)} channels "
            f"with places {channels.mm.shape}; give one name and (x, y, z) per column."
        )
    if not np.isfinite(channels.mm).all():
        raise InputError(f"{session_key(entities)}: has channels whose places are not finite; give 0, 0, 0 for all where they are unknown.")
    specs = {"coarse": TensorSpec("float32", series.shape), "coordinates": TensorSpec("float32", channels.mm.shape)}
    info = _new_row({**entities, "space": ROI}, len(series), tr, qc or {})
    told = {"RepetitionTime": tr, **(sidecar or {}), "Channels": list(channels.names)}
    with _placed(store, info, told) as data, TensorFile(data, specs, _metadata(store, tr)) as file:
        file.write("coarse", series)
        file.write("coordinates", channels.mm)
    return info


def copy_session(store: Store, info: SessionInfo, data: Path, sidecar: Mapping[str, Any], link: bool = False) -> None:
    """Add or replace a session whose data are a file of another store.

    Parameters
    ----------
    info : SessionInfo
        The row to add.
    data : Path
        File to copy.
    sidecar : mapping
        Of the other store; if it has size and SHA-256 of the data, they must hold.
    link : bool
        Hard link instead of a copy, where the file system can.

    Raises
    ------
    StoreError
        If something cannot be written, the data are not those of the sidecar, or the participant was withdrawn.
    """
    with _placed(store, info, sidecar) as temporary:
        if not (link and _linked(data, temporary)):
            shutil.copyfile(data, temporary)


@contextmanager
def _placed(store: Store, info: SessionInfo, sidecar: Mapping[str, Any]) -> Iterator[Path]:
    """The one way into a store: yields a file for a session's data; when it is filled, data, sidecar and row are put in place."""
    path = store.root / info.path
    require_name(info.key)
    if fault := misplaced(info):
        raise StoreError(f"{store.root}: {info.key} cannot be written, its row {fault}; correct the table that it is from.")
    cohort = info.cohort or str(sidecar.get(COHORT) or "")
    refuse_withdrawn(store.root, info.subject, cohort)
    try:
        with replacing(path) as temporary:
            yield temporary
            seal = {DATA_BYTES: temporary.stat().st_size, DATA_SHA256: sha256(temporary)}
            if any(sidecar.get(name, value) != value for name, value in seal.items()):
                raise StoreError(f"{path}: would not be what was written once, the data are damaged at their source; prepare them again.")
            # Not before: a full disk is found while writing, and the old session then stays whole.
            path.with_suffix(".json").unlink(missing_ok=True)
        write_json(path.with_suffix(".json"), {**sidecar, **seal, SESSION_ROW: row_to_repeat(info)})
        _list(store, info, cohort)
    except OSError as error:
        raise StoreError(
            f"{path}: cannot be written ({error.strerror or error}); free space or choose another folder, then run the same command again."
        ) from error
    store.refresh()


def require_name(key: str) -> None:
    """Refuse what no table can carry, or no file system: a session that was written and then cannot be read is lost."""
    if "/" in key or not key.isprintable():
        raise InputError(f"{key!r}: a label has a character that no file name or table can carry; use letters and digits.")
    if (size := len(os.fsencode(key + DATA_SUFFIX))) > _LONGEST_NAME:
        raise InputError(f"{key[:60]}...: the name of its file would have {size} bytes, {_LONGEST_NAME} are the most; shorten its labels.")


def _list(store: Store, info: SessionInfo, cohort: str) -> None:
    root = store.root
    if store.part:
        # Outside the lock, which whoever collects the parts takes after them. A withdrawal that begins after this finds the row.
        add_to_part(root, store.part, info)
    with locked(root):
        # A withdrawal that began meanwhile did not find what was not there yet.
        record = withdrawn(root).find(info.subject, cohort)
        if record is None:
            if not store.part:
                write_text(root / MANIFEST_FILE, manifest_with(root / MANIFEST_FILE, info))
            return
    _take_out(store, info.key, info.path)
    raise StoreError(refusal(root, info.subject, record))


def remove_session(store: Store, entities: Mapping[str, str]) -> None:
    """Take a session out, its row before its files, so that no row is left without data; nothing happens if there is none.

    Parameters
    ----------
    entities : mapping
        As it was written with.

    Raises
    ------
    StoreError
        If its files cannot be deleted.
    """
    _take_out(store, session_key(entities), session_path(entities))


def _take_out(store: Store, key: str, place: str | Path) -> None:
    root, path = store.root, store.root / place
    if store.part:
        take_from_part(root, store.part, key)
    with locked(root):
        listed = read_manifest(root / MANIFEST_FILE).by_key()
        if listed.pop(key, None) is not None:
            write_text(root / MANIFEST_FILE, manifest_text(list(listed.values())))
    store.refresh()
    try:
        for file in (path, path.with_suffix(".json")):
            file.unlink(missing_ok=True)
    except OSError as error:
        raise StoreError(f"{path}: cannot be deleted ({error.strerror}); delete it and its .json, no table lists them.") from error


def assign(root: Path, chosen: Mapping[str, Governance], part: str = "") -> None:
    """Put sessions under records of governance; holds for all of them at one moment.

    Parameters
    ----------
    chosen : mapping
        The record of each session, by key; sessions that are no longer there are passed over.
    part : str
        Name of a part whose sessions are meant as well (`slimbrain.store.parts`).
    """

    def under_records(listed: SessionTable) -> list[SessionInfo]:
        there = [info for key in chosen if (info := listed.find(key))]
        return [replace(info, qc={**info.qc, **chosen[info.key].cells()}) for info in there]

    keep_records(root, chosen.values())
    with locked(root):
        sessions = read_manifest(root / MANIFEST_FILE)
        write_text(root / MANIFEST_FILE, manifest_text(sessions.updated(under_records(sessions))))
    if part:
        for info in under_records(read_part(root, part)):
            add_to_part(root, part, info)


def _new_row(entities: Mapping[str, str], n_frames: int, tr: float, qc: Mapping[str, object]) -> SessionInfo:
    if not entities["sub"]:
        raise InputError("sub: has no label; give the participant one, in letters and digits.")
    return SessionInfo(
        key=session_key(entities),
        subject=f"sub-{entities['sub']}",
        session=f"ses-{entities['ses']}" if entities.get("ses") else "",
        task=entities.get("task", ""),
        run=entities.get("run", ""),
        space=entities["space"],
        n_frames=n_frames,
        tr=tr,
        path=str(session_path(entities)),
        qc={name: _cell(value) for name, value in qc.items()},
    )


def _metadata(store: Store, tr: float) -> dict[str, str]:
    return {"slimbrain": json.dumps({"contract": {**store.contract.to_dict(), "tr": tr}, "version": __version__})}


def _cell(value: object) -> str:
    """A BIDS table has no way to write a tab or a line break in a cell."""
    return f"{value:.4g}" if isinstance(value, float) else " ".join(str(value).split()) or MISSING


def _frame_blocks(voxels: _FloatArray) -> Iterator[slice]:
    step = max(1, _WRITE_BLOCK_BYTES // max(1, voxels[0].nbytes))
    for start in range(0, len(voxels), step):
        yield slice(start, min(start + step, len(voxels)))


def _release(array: _FloatArray) -> None:
    """Pages of a mapped file count as this process' memory until they are released; the file keeps what they hold."""
    mapped = getattr(array, "_mmap", None)
    if mapped is not None and hasattr(mmap, "MADV_DONTNEED"):
        mapped.madvise(mmap.MADV_DONTNEED)


def _linked(data: Path, temporary: Path) -> bool:
    """Whether `temporary` could be made a hard link to `data`."""
    temporary.unlink()
    try:
        # Not `data` itself: where that is a symbolic link, the system would make another one.
        os.link(os.path.realpath(data), temporary)
    except OSError:
        # Another file system, or one without hard links.
        return False
    return True
