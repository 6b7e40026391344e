"""Is a store still what was written: every session hashed again, every file accounted for, and what a killed process left."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from slimbrain.disk.atomic import TEMPORARY_PREFIX
from slimbrain.disk.locks import CLAIM_SUFFIX, CLAIMS_FOLDER, claim, locked
from slimbrain.disk.seal import sha256
from slimbrain.errors import SlimbrainError, StoreError
from slimbrain.progress import track
from slimbrain.store.contract import ROI, TR_TOLERANCE_S
from slimbrain.store.description import DATA_BYTES, DATA_SHA256
from slimbrain.store.manifest import DATA_SUFFIX, MANIFEST_FILE, PARTS_FOLDER, SessionInfo, misplaced, read_parts, row_differences
from slimbrain.store.participants import PARTICIPANTS_FILE, unmatched
from slimbrain.store.parts import part_claim
from slimbrain.store.records import records
from slimbrain.store.store import Store
from slimbrain.store.withdrawn import WITHDRAWN_FILE, withdrawn

_SIDECAR_SUFFIX = DATA_SUFFIX.replace(".safetensors", ".json")
_TEMPORARY = re.compile(re.escape(TEMPORARY_PREFIX) + r"\d+-(?P<target>.+)", re.DOTALL)

_BLOCK_FRAMES = 64
"""Frames read at once; 34 MB on the 2 mm lattice."""


@dataclass(frozen=True)
class _StoreProblem:
    """Something about a store that is not as it was written.

    Attributes
    ----------
    file : str
        Where, relative to the store.
    kind : str
        `damaged`; `missing`, where the manifest lists it; `unlisted`, where it does not.
    reason : str
        One sentence, with the way out.
    session : str
        Key; empty for a file of the store as a whole.
    """

    file: str
    kind: Literal["damaged", "missing", "unlisted"]
    reason: str
    session: str = ""


@dataclass(frozen=True)
class Verification:
    """What became of a check.

    Attributes
    ----------
    n_sessions : int
        Rows of the manifest.
    unsealed : list of str
        Sessions without a checksum; they were read from end to end, no more can be said of them.
    busy : list of str
        Sessions that another process was writing.
    problems : list of _StoreProblem
        Everything that is wrong.
    notes : list of str
        What is not wrong, and may not be meant.
    """

    n_sessions: int = 0
    unsealed: list[str] = field(default_factory=list)
    busy: list[str] = field(default_factory=list)
    problems: list[_StoreProblem] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def exit_code(self) -> int:
        return 1 if self.problems else 0

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def verify(root: str | Path) -> Verification:
    """Hash every session again, and compare what lies in the store with its manifest.

    May run while sessions are added: what another process is writing is looked at no further.

    Parameters
    ----------
    root : str or Path
        The store.

    Returns
    -------
    Verification
        Its `problems`, one per file that is damaged, missing or unlisted; empty where all is well.

    Raises
    ------
    StoreError, ContractError
        If `root` is not a store at all.

    Examples
    --------
    >>> from slimbrain.store.verify import verify
    >>> found = verify("store")
    >>> found.n_sessions, found.problems
    (3, [])
    """
    store = Store(root)
    try:
        sessions = store.sessions
    except StoreError as error:
        return Verification(
            problems=[_StoreProblem(WITHDRAWN_FILE if WITHDRAWN_FILE in str(error) else MANIFEST_FILE, "damaged", str(error))]
        )
    verdict = Verification(len(sessions), problems=_store_files(store))
    if not any(problem.file == PARTICIPANTS_FILE for problem in verdict.problems):
        verdict.notes.extend(f"{PARTICIPANTS_FILE}: {line}" for line in unmatched(store.participants, sessions.subjects))
    for info in track(sessions, "verify"):
        problems = _session(store, info)
        if problems:
            settled = _look_again(store, info)
            verdict.busy.extend([info.key] if settled is None else [])
            verdict.problems.extend(settled or [])
        elif DATA_SHA256 not in store.sidecar(info.key):
            verdict.unsealed.append(info.key)
    verdict.problems.extend(_unlisted(store))
    return verdict


def _store_files(store: Store) -> list[_StoreProblem]:
    problems = []
    looks = (lambda: store.participants, lambda: records(store.root), lambda: read_parts(store.root))
    for look in (lambda: store.contract.lattice == ROI or store.grid, *looks):
        try:
            look()
        except SlimbrainError as error:
            file = Path(str(error).partition(": ")[0])
            problems.append(_StoreProblem(file.name, "damaged", str(error)))
    return problems


def _session(store: Store, info: SessionInfo) -> list[_StoreProblem]:
    data = store.root / info.path
    again = f"run `slimbrain prep` again for {info.subject}"
    absent = [path for path in (data, data.with_suffix(".json")) if not path.is_file()]
    if absent:
        return [_problem(store, path, "missing", f"is gone; {again}.", info.key) for path in absent]
    try:
        sidecar = store.sidecar(info.key)
        _compare(store, info, sidecar)
    except (SlimbrainError, OSError) as error:
        reason = f"{data}: {error.strerror or error}; {again}." if isinstance(error, OSError) else str(error)
        return [_StoreProblem(_file_of(store, reason, info), "damaged", reason, info.key)]
    return []


def _compare(store: Store, info: SessionInfo, sidecar: dict[str, Any]) -> None:
    """Raise unless the data are what the sidecar vouches for and what the manifest lists."""
    path = store.root / info.path
    require_own_row(store, info, sidecar)
    if sidecar.get(DATA_SHA256) not in (None, sha256(path)):
        again = f"delete it and run `slimbrain prep` again for {info.subject}."
        raise StoreError(f"{path}: is not what was written, its SHA-256 differs from its sidecar's; {again}")
    store.governance(info)
    # Cheap, but for voxels: those are read only where no checksum speaks for them.
    store.channels(info.key)
    if info.space != ROI:
        store.moments(info.key)
        for start in range(0, info.n_frames if DATA_SHA256 not in sidecar else 1, _BLOCK_FRAMES):
            store.voxels(info.key, start, min(start + _BLOCK_FRAMES, info.n_frames))


def require_own_row(store: Store, info: SessionInfo, sidecar: Mapping[str, Any]) -> None:
    """Hold a session's row against its sidecar and against the header of its data, without reading the voxels.

    Raises
    ------
    StoreError, ContractError
        If they disagree: a copy of the session would be sealed as it is, and nothing could tell any more.
    """
    path = store.root / info.path
    again = f"delete it and run `slimbrain prep` again for {info.subject}."
    row = f"{path}: the row {info.key} in {MANIFEST_FILE}"
    size = path.stat().st_size
    if sidecar.get(DATA_BYTES, size) != size:
        raise StoreError(f"{path}: holds {size} bytes where {sidecar[DATA_BYTES]} were written; {again}")
    if differing := row_differences(info, sidecar):
        raise StoreError(f"{row} differs from its sidecar in {', '.join(differing)}; {again}")
    if fault := misplaced(info):
        raise StoreError(f"{row} {fault}; {again}")
    written = store.session_contract(info.key)
    store.contract.require(written, str(path), f"the store {store.root}")
    if abs(info.tr - written.tr) > TR_TOLERANCE_S:
        raise StoreError(f"{row} has tr {info.tr:g} s where its data have {written.tr:g} s; {again}")
    store.coarse(info.key)


def _look_again(store: Store, info: SessionInfo) -> list[_StoreProblem] | None:
    """The session's problems now that nobody writes it; None if somebody does."""
    try:
        with claim(store.root, info.key) as mine:
            return _session(store, info) if mine else None
    except StoreError:
        # A store on a medium that cannot be written has no writers.
        return _session(store, info)


def _file_of(store: Store, reason: str, info: SessionInfo) -> str:
    data = store.root / info.path
    sidecar = data.with_suffix(".json")
    return (sidecar if reason.startswith(f"{sidecar}:") else data).relative_to(store.root).as_posix()


def _problem(store: Store, path: Path, kind: Literal["damaged", "missing", "unlisted"], reason: str, session: str = "") -> _StoreProblem:
    return _StoreProblem(path.relative_to(store.root).as_posix(), kind, f"{path}: {reason}", session)


def _unlisted(store: Store) -> list[_StoreProblem]:
    listed = {(store.root / info.path) for info in store.sessions}
    listed |= {path.with_suffix(".json") for path in listed}
    try:
        waiting = set(read_parts(store.root))
    except StoreError:
        # Named already, as a file of the store.
        waiting = set()
    problems = []
    for path in _session_files(store.root):
        if path not in listed and _nobody_writes(store.root, path):
            key = session_of(path.name)
            problems.append(_problem(store, path, "unlisted", _stray(store.root, path, key in waiting), key))
    for path in _temporaries(store.root):
        if _nobody_writes(store.root, path):
            reason = "was left by a process that was killed; the next `slimbrain prep` removes it."
            problems.append(_problem(store, path, "unlisted", reason))
    return problems


def _stray(root: Path, path: Path, waiting: bool) -> str:
    """What is to be said of a file that no row lists.

    Parameters
    ----------
    waiting : bool
        A shard prepared it.
    """
    label = session_of(path.name).split("_", 1)[0]
    if withdrawn(root).find(label, ""):
        return "is of a participant who was withdrawn; run `slimbrain withdraw` again, which resumes where it stopped."
    if waiting:
        return f"was prepared by a shard and is not in {MANIFEST_FILE} yet; run `slimbrain store collect` when all shards are done."
    if path.suffix == ".json" and not path.with_suffix(".safetensors").exists():
        return f"has no row in {MANIFEST_FILE}; it has no data, and the next `slimbrain prep` removes it."
    return f"has no row in {MANIFEST_FILE}; run `slimbrain prep` again on its source, or delete it."


def _nobody_writes(root: Path, path: Path) -> bool:
    """Whether no process holds the session, or the file, that `path` belongs to; a file gone meanwhile was somebody's."""
    try:
        with claim(root, _claim_name(path)) as mine:
            return mine and path.exists()
    except StoreError:
        return True


def _session_files(root: Path) -> Iterator[Path]:
    """Data files and sidecars that lie in a store, listed or not."""
    for path in _files(root):
        if path.name.endswith((DATA_SUFFIX, _SIDECAR_SUFFIX)) and not path.name.startswith(TEMPORARY_PREFIX):
            yield path


def _temporaries(root: Path) -> Iterator[Path]:
    """Files that some process began to write in a store, and finished under another name or not at all."""
    return (path for path in _files(root) if _TEMPORARY.fullmatch(path.name))


def _files(root: Path) -> Iterator[Path]:
    yield from sorted(path for path in root.iterdir() if path.is_file())
    for folder in [*sorted(root.glob("sub-*")), root / PARTS_FOLDER]:
        for place, _, names in os.walk(folder):
            yield from (Path(place) / name for name in sorted(names))


def session_of(name: str) -> str:
    """The key in the name of a data file, its sidecar, or a temporary of one of them; empty for other files."""
    matched = _TEMPORARY.fullmatch(name)
    target = matched["target"] if matched else name
    ending = next((ending for ending in (DATA_SUFFIX, _SIDECAR_SUFFIX) if target.endswith(ending)), None)
    return target.removesuffix(ending) if ending else ""


def _claim_name(path: Path) -> str:
    matched = _TEMPORARY.fullmatch(path.name)
    target = matched["target"] if matched else path.name
    return part_claim(Path(target).stem) if path.parent.name == PARTS_FOLDER else session_of(path.name) or target


def sweep(root: Path) -> None:
    """Remove what killed processes left in a store: temporary files, sidecars without data, claims.

    Whether a process lives is told by its lock, not by its number: it may run on another machine.

    Raises
    ------
    StoreError
        If the store cannot be written.
    """
    try:
        for path in [*_temporaries(root), *_widowed(root)]:
            # The manifest and what stands beside it are written under the store's own lock, all else under a claim.
            with locked(root), claim(root, _claim_name(path)) as mine:
                if mine and (_TEMPORARY.fullmatch(path.name) or not path.with_suffix(".safetensors").exists()):
                    path.unlink(missing_ok=True)
        for path in sorted((root / CLAIMS_FOLDER).glob(f"*{CLAIM_SUFFIX}")):
            with claim(root, path.name.removesuffix(CLAIM_SUFFIX)):
                # Taking it and giving it back removes its file.
                pass
    except OSError as error:
        raise StoreError(f"{root}: cannot be written ({error.strerror}); choose a store you may write to.") from error


def _widowed(root: Path) -> Iterator[Path]:
    """Sidecars whose data are not there; one of a session that is listed says what was lost, and stays."""
    listed = {root / info.path for info in [*Store(root).sessions, *read_parts(root).values()]}
    for path in _session_files(root):
        data = path.with_suffix(".safetensors")
        if path.suffix == ".json" and data not in listed and not data.exists():
            yield path
