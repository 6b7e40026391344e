"""How a participant is remembered without being named: salted hashes, the same wherever they are kept."""

from __future__ import annotations

import hashlib

HASH_DIGITS = 16
_HEX = frozenset("0123456789abcdef")


def subject_hash(label: str, cohort: str = "") -> str:
    """A salted hash of a participant; of the label alone if no cohort is given.

    The salt is the same everywhere, so that a store, a record of a withdrawal and a checkpoint can be compared. Anybody who guesses cohort
    and label can therefore check the guess: this hides names from readers, and is no encryption.

    Parameters
    ----------
    label : str
        `sub-01`.
    cohort : str
        Study that the label belongs to.
    """
    text = f"slimbrain:{cohort}:{_plain(label)}" if cohort else f"slimbrain:{label}"
    return hashlib.sha256(text.encode()).hexdigest()[:HASH_DIGITS]


def is_hash(value: object, digits: int = HASH_DIGITS) -> bool:
    """Whether a value could be a hash of so many digits."""
    return isinstance(value, str) and len(value) == digits and _HEX.issuperset(value)


def with_prefix(label: str) -> str:
    """`01` and `sub-01` as `sub-01`."""
    return label if label.startswith("sub-") else f"sub-{label}"


def same_label(first: str, second: str) -> bool:
    """Whether two labels are one participant's within a cohort."""
    return _plain(first) == _plain(second)


def _plain(label: str) -> str:
    """`sub-0051` and `sub-51` are one participant of a cohort: layouts differ in how they pad."""
    name = label.removeprefix("sub-").casefold()
    return name.lstrip("0") or "0" if name.isdecimal() else name
