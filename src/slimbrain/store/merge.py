"""Merge several stores into one, or copy some sessions into another: each session whole or not at all; an interrupted copy resumes."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from slimbrain.disk.locks import claim
from slimbrain.disk.seal import sha256
from slimbrain.errors import InputError, SlimbrainError, StoreError
from slimbrain.progress import track
from slimbrain.store.contract import ROI
from slimbrain.store.description import DATA_SHA256
from slimbrain.store.manifest import LEDGER_COLUMNS, SessionInfo, read_parts
from slimbrain.store.participants import merge_participants
from slimbrain.store.parts import collect_parts
from slimbrain.store.purge import finish_withdrawals
from slimbrain.store.records import Governance, keep_records, record_of, strictest_record
from slimbrain.store.store import Store
from slimbrain.store.terms import UNKNOWN
from slimbrain.store.verify import require_own_row, sweep
from slimbrain.store.withdrawn import Withdrawn, record_withdrawals, withdrawn
from slimbrain.store.write import assign, copy_session

_Keep = Literal["first", "last"]


@dataclass(frozen=True)
class CopySummary:
    """What became of every session asked for.

    Attributes
    ----------
    copied, present : list of str
        Keys that were added, and keys that were there already with the same data.
    tightened : list of str
        Keys of those that are under stricter terms now than in the store that their data are from.
    failures : list of str
        One sentence for each session that could not be copied.
    """

    copied: list[str] = field(default_factory=list)
    present: list[str] = field(default_factory=list)
    tightened: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    @property
    def exit_code(self) -> int:
        return 1 if self.failures else 0


def merge(out: str | Path, stores: Sequence[Store], keep: _Keep | None = None, link: bool = False) -> CopySummary:
    """Bring the sessions and participants of several stores into one, which may be there already.

    The same command again resumes where it stopped. Two sessions of one name are one if their data files hold the same
    bytes; the first's sidecar stays. Of their terms the strictest hold, in whatever order they come. What another process is writing
    in `out` is waited for.

    Parameters
    ----------
    out : str or Path
        Store to make or to add to.
    stores : sequence of Store
        Where from; contracts must agree.
    keep : Keep, optional
        Which of two sessions of one name and different data to take, counting `out` first and then `stores` in order; None refuses.
    link : bool
        Hard links where the file system can, which take no space; copies elsewhere.

    Returns
    -------
    CopySummary
        Keys of the sessions that were `copied` or are `present`, and `failures`, a sentence each.

    Raises
    ------
    ContractError
        If the contracts differ.
    InputError
        If one name stands for different data and `keep` is None, or for terms of which none are the strictest; nothing is copied then.

    Examples
    --------
    >>> from slimbrain import Store
    >>> from slimbrain.store.merge import merge
    >>> summary = merge("merged", [Store("store"), Store("visits")], keep="first")  # of 3 and 8 sessions, of which one has the same name
    >>> len(Store("merged").sessions), summary.failures
    (10, [])
    """
    for other in stores[1:]:
        stores[0].contract.require(other.contract, f"the store {stores[0].root}", f"the store {other.root}")
    failures = [line for store in stores for line in _uncollected(store)]
    chosen: dict[str, _Pick] = {}
    found: dict[str, list[_Pick]] = {}
    for store in stores:
        for info in store.sessions:
            found.setdefault(info.key, []).append(pick := _Pick(store, info))
            _weigh(chosen, pick, keep, failures)
    target = _target(out, stores)
    rows = [row for store in stores for row in _rows(store, target.root, store.participants)]
    return _copy_all(target, _Request(chosen, found, keep, link), rows, failures)


def subset(store: Store, out: str | Path, sessions: Collection[SessionInfo], link: bool = False) -> CopySummary:
    """Copy some sessions of a store, and the rows of their participants, into another; the same command again resumes.

    Parameters
    ----------
    store : Store
        Where from.
    out : str or Path
        Store to make or to add to.
    sessions : collection of SessionInfo
        Which, as `choose_sessions` gives them.
    link : bool
        As in `merge`.

    Returns
    -------
    CopySummary
        As of `merge`.

    Raises
    ------
    ContractError
        If `out` is a store of another contract.
    InputError
        If `out` has a session of one of these names with different data, or under terms of which none are the strictest.

    Examples
    --------
    >>> from slimbrain import Store
    >>> from slimbrain.store.merge import subset
    >>> store = Store("store")
    >>> summary = subset(store, "two", [info for info in store.sessions if info.n_frames > 24])
    >>> len(summary.copied), sorted(Store("two").sessions.subjects)
    (2, ['sub-01', 'sub-02'])
    """
    target = _target(out, [store])
    rows = _rows(store, target.root, {info.subject for info in sessions})
    chosen = {info.key: _Pick(store, info) for info in sessions}
    found = {key: [pick] for key, pick in chosen.items()}
    return _copy_all(target, _Request(chosen, found, None, link), rows, _uncollected(store))


@dataclass(frozen=True)
class _Pick:
    store: Store
    info: SessionInfo

    @property
    def path(self) -> Path:
        return self.store.root / self.info.path

    @property
    def cells(self) -> list[str | None]:
        """What its row says of its terms."""
        return [self.info.qc.get(name) for name in LEDGER_COLUMNS]

    def seal(self) -> str:
        """SHA-256 of the data as they were written; of the data as they are where that was not recorded."""
        return str(self.store.sidecar(self.info.key).get(DATA_SHA256) or sha256(self.path))


@dataclass(frozen=True)
class _Request:
    """What is to be brought together: the pick of each key, all picks of it, and how."""

    chosen: Mapping[str, _Pick]
    found: Mapping[str, Sequence[_Pick]]
    keep: _Keep | None
    link: bool


def _target(out: str | Path, stores: Sequence[Store]) -> Store:
    first = stores[0]
    if any(os.path.realpath(store.root) == os.path.realpath(out) for store in stores):
        raise InputError(f"{out}: is also one of the stores to read from; choose another folder to write to.")
    listed = [source for store in stores for source in store.description.get("SourceDatasets") or []]
    sources = list(dict.fromkeys(str(source["URL"]) for source in listed if isinstance(source, dict) and "URL" in source))
    Store.create(out, None if first.contract.lattice == ROI else first.grid, first.contract.tr, sources)
    collect_parts(Path(out))
    sweep(Path(out))
    finish_withdrawals(Path(out))
    _carry_withdrawals(Store(out), stores)
    return Store(out)


def _uncollected(store: Store) -> list[str]:
    """A sentence on sessions of a store that shards prepared and that were not collected, which a copy of it would lack."""
    count = len(read_parts(store.root).keys() - {info.key for info in store.sessions})
    again = f"run `slimbrain store collect {store.root}`, then this again"
    return [f"{store.root}: {count} sessions that shards prepared are not listed yet and were not copied; {again}."] if count else []


def _carry_withdrawals(target: Store, stores: Sequence[Store]) -> None:
    """Who was withdrawn from one of the stores is withdrawn from what is made of them.

    Raises
    ------
    InputError
        If the target holds data of one of them: nobody asked for these to be deleted.
    """
    records = [record for store in stores for record in withdrawn(store.root).active]
    coming = Withdrawn(records)
    held = sorted({info.subject for info in target.sessions if coming and coming.find(info.subject, target.cohort(info))})
    if held:
        raise InputError(
            f"{target.root}: holds data of {len(held)} participants who were withdrawn from the stores to read, first {held[0]}; "
            f"run `slimbrain withdraw {target.root} {held[0]}` first."
        )
    record_withdrawals(target.root, [replace(record, removed=record.removed or record.date) for record in records])


def _rows(store: Store, root: Path, names: Collection[str]) -> list[dict[str, str]]:
    """Rows of a store's participants, but for those who were withdrawn from the store at `root`."""
    gone, cohorts = withdrawn(root), {info.subject: info.cohort for info in store.sessions}
    return [row for name, row in store.participants.items() if name in names and not (gone and gone.find(name, cohorts.get(name, "")))]


def _weigh(chosen: dict[str, _Pick], pick: _Pick, keep: _Keep | None, failures: list[str]) -> None:
    """Take `pick` unless another of its name was taken that is the same or preferred."""
    taken = chosen.setdefault(pick.info.key, pick)
    try:
        if taken is pick or taken.seal() == pick.seal():
            return
    except (SlimbrainError, OSError) as error:
        failures.append(str(error) if isinstance(error, SlimbrainError) else f"{pick.path}: cannot be read ({error.strerror}); restore it.")
        return
    if keep is None:
        raise InputError(
            f"{pick.path}: holds other data than {taken.path} under one name; "
            "rename one of them at its source, or choose with --keep first or --keep last."
        )
    if keep == "last":
        chosen[pick.info.key] = pick


def _copy_all(target: Store, request: _Request, participants: list[dict[str, str]], failures: list[str]) -> CopySummary:
    result = CopySummary(failures=failures)
    # Every clash is known before anything is written, and terms are tightened before anything more comes under them.
    terms = {key: _settle(key, request, target) for key in request.chosen}
    if changed := {key: record for key, (wins, record) in terms.items() if record and not wins}:
        assign(target.root, changed)
        result.tightened.extend(sorted(changed))
    merge_participants(target.root, participants)
    for key in track(sorted(request.chosen), "copy"):
        try:
            with claim(target.root, key, wait=True):
                # Opened again, since another process may have put the session there while this one waited.
                now = Store(target.root)
                wins, record = _settle(key, request, now)
                if wins:
                    _copy(request.chosen[key], now, request.link, record)
                elif record:
                    assign(now.root, {key: record})
            (result.copied if wins else result.present).append(key)
            result.tightened.extend([key] if record else [])
        except SlimbrainError as error:
            result.failures.append(str(error))
    return result


def _settle(key: str, request: _Request, target: Store) -> tuple[bool, Governance | None]:
    """Whether the pick is to be written, and the record that has to apply to the session, where it is not the one that does."""
    pick, there = request.chosen[key], target.find(key)
    wins = _wins(pick, target, request.keep)
    mine = [_Pick(target, there)] if there else []
    return wins, _strictest(pick if wins else mine[0], [*mine, *request.found[key]])


def _strictest(winner: _Pick, picks: Sequence[_Pick]) -> Governance | None:
    """The strictest record of all that say something of one participant's session; None where it is the winner's own.

    Raises
    ------
    InputError
        If none is the strictest.
    """
    others = [pick for pick in picks if pick.cells != winner.cells]
    if not others:
        return None
    told = winner.store.governance(winner.info)
    records = [told]
    for pick in others:
        record = pick.store.governance(pick.info)
        another = UNKNOWN not in (record.cohort, told.cohort) and record.cohort != told.cohort
        # Other data of another cohort are another person's, whose terms went with them.
        if not another or _same_data(pick, winner):
            records.append(record)
    held = strictest_record(records)
    if held is None:
        named = " and ".join(f"{record.licence}, {','.join(record.consent)}" for record in records[:2])
        raise InputError(
            f"{winner.path}: is under several terms ({named}), none of which are the strictest in everything; say which hold with "
            f"`slimbrain ledger {winner.store.root} --set FILE --where \"session == '{winner.info.key}'\"`, in every store that has it."
        )
    return held if held != told else None


def _same_data(one: _Pick, other: _Pick) -> bool:
    try:
        return one.seal() == other.seal()
    except (SlimbrainError, OSError):
        # Nobody can tell, and terms must not be lost for that; the copy says what is damaged.
        return True


def _wins(pick: _Pick, target: Store, keep: _Keep | None) -> bool:
    """Whether `pick` is to be written: there is no whole session of its name in `target`, or it is preferred to that."""
    there = target.find(pick.info.key)
    if there is None or not target.is_whole(there.key):
        return True
    winner = {there.key: _Pick(target, there)}
    failures: list[str] = []
    _weigh(winner, pick, keep, failures)
    if failures:
        raise StoreError(failures[0])
    return winner[pick.info.key] is pick


def _copy(pick: _Pick, target: Store, link: bool, record: Governance | None) -> None:
    """Copy or link one session whose row, sidecar and data agree; `copy_session` refuses data that are not what was written.

    Parameters
    ----------
    record : Governance, optional
        The record that is to apply; the one that it has, if None.
    """
    sidecar = pick.store.sidecar(pick.info.key)
    if not pick.path.is_file():
        raise StoreError(f"{pick.path}: is gone; restore it, or run `slimbrain prep` again for {pick.info.subject}.")
    require_own_row(pick.store, pick.info, sidecar)
    info = replace(pick.info, qc={**pick.info.qc, **record.cells()}) if record else pick.info
    if record := record or record_of(pick.store.root, pick.info):
        keep_records(target.root, [record])
    copy_session(target, info, pick.path, sidecar, link)
