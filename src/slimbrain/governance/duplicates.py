"""Recordings that stand in a store twice, under whatever names: found by their data files' hashes and by their signatures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations

from slimbrain.governance.fingerprint import PROJECTIONS, close_pairs, correlation, signature
from slimbrain.progress import track
from slimbrain.store import SessionInfo, Store
from slimbrain.store.description import DATA_SHA256

_NAMED = 3
"""Pairs that a sentence names before it counts the rest."""


@dataclass(frozen=True)
class Duplicate:
    """Two sessions that are one recording.

    Attributes
    ----------
    first, second : SessionInfo
        In the order of the store.
    same_file : bool
        Whether their data files are equal to the last byte.
    bits : int or None
        By how many of 256 bits their signatures differ; None where one has no signature, since nothing in it changes.
    correlation : float
        Of the two channel series over the frames that both have.
    """

    first: SessionInfo
    second: SessionInfo
    same_file: bool
    bits: int | None
    correlation: float

    @property
    def one_participant(self) -> bool:
        """Whether both stand under one name."""
        return self.first.subject == self.second.subject

    @property
    def evidence(self) -> str:
        """What shows that they are one recording."""
        if self.same_file:
            return "their data files are the same"
        return f"{bits_apart(self.bits)}, correlation {self.correlation:.4f}"


def bits_apart(bits: int | None) -> str:
    """How far two signatures are apart, in words."""
    return f"by content: signatures differ in {bits} of {PROJECTIONS} bits"


def find_duplicates(store: Store, keys: Sequence[str] | None = None, signature_of: Callable[[str], str] | None = None) -> list[Duplicate]:
    """Pairs of sessions with the same data file, or with signatures that are at most `SIGNATURE_BITS_APART` apart.

    Every series is read once for its signature; only the pairs that are found are read again, for their correlation. A copy that
    starts at another frame, or was cleaned in another way, is not found.

    Parameters
    ----------
    store : Store
        Where to look.
    keys : sequence of str, optional
        Sessions to consider, all by default.
    signature_of : callable, optional
        The signature of a session by its key, where its series was read before.

    Returns
    -------
    list of Duplicate
        In the order of the sessions; empty if each recording stands there once.

    Raises
    ------
    StoreError
        If the store lacks a session of `keys`, or one cannot be read.

    Examples
    --------
    >>> from slimbrain import Store
    >>> from slimbrain.governance.duplicates import find_duplicates
    >>> find_duplicates(Store("store"))
    []
    """
    keys = [info.key for info in store.sessions] if keys is None else list(keys)
    signature_of = signature_of or (lambda key: signature(store.coarse(key)))
    by_content: dict[str, list[int]] = {}
    for place, key in enumerate(keys):
        if content := store.sidecar(key).get(DATA_SHA256):
            by_content.setdefault(str(content), []).append(place)
    same = {pair for places in by_content.values() for pair in combinations(places, 2)}
    close = {(one, other): bits for one, other, bits in close_pairs([signature_of(key) for key in track(keys, "copies sought")])}
    return [
        Duplicate(
            store.session(keys[one]),
            store.session(keys[other]),
            (one, other) in same,
            close.get((one, other)),
            correlation(store.coarse(keys[one]), store.coarse(keys[other])),
        )
        for one, other in sorted(same | close.keys())
    ]


def without_duplicates(store: Store) -> tuple[Store, list[Duplicate]]:
    """A store that shows each recording under one participant, where labels play no part: the later participant is left out.

    Returns
    -------
    store : Store
        Showing the sessions that are left.
    found : list of Duplicate
        The pairs for whose sake a participant was left out.
    """
    dropped: set[str] = set()
    found = [pair for pair in find_duplicates(store) if not pair.one_participant]
    for pair in found:
        if pair.first.subject not in dropped:
            dropped.add(pair.second.subject)
    return store.only([info.key for info in store.sessions if info.subject not in dropped]), found


def copies_note(store: Store) -> str:
    """A sentence that names the recordings that stand in a store under two participants; empty if there are none."""
    pairs = [pair for pair in find_duplicates(store) if not pair.one_participant]
    if not pairs:
        return ""
    named = [f"{pair.first.key} and {pair.second.key} ({pair.evidence})" for pair in pairs[:_NAMED]]
    more = f", and {len(pairs) - _NAMED} more" if len(pairs) > _NAMED else ""
    return (
        f"{store.root}: one recording stands under two participants, and counts twice: {', '.join(named)}{more}; "
        f"`--drop-duplicates` takes it once, `slimbrain store duplicates {store.root}` lists all."
    )
