"""What a store, its sessions and a model must share before one may read the other."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from slimbrain.errors import ContractError

ROI = "roi"
NATIVE_TR_BAND_S = (0.7, 0.8)
"""Series in this band keep their TR (arXiv 2512.21881); all of it counts as one sampling rate in a contract."""

TR_TOLERANCE_S = 1e-3
"""Headers hold a TR as float32: 0.8 arrives as 0.8000000119."""


@dataclass(frozen=True)
class Contract:
    """What two things must share before one may read the other.

    Attributes
    ----------
    lattice : str
        Lattice id, or `roi`.
    mask : str
        Hash of the grid; empty in a store of region-of-interest sessions, whose channels carry their places.
    space : str
        Template family: `MNI152`, or `roi`.
    tr : float
        Seconds per frame.

    Examples
    --------
    >>> first, second = Contract("roi", "", "roi", 0.72), Contract("roi", "", "roi", 2.0)
    >>> second.require(first, "the model", "the store")
    Traceback (most recent call last):
    ...
    slimbrain.errors.ContractError: the model has TR 2 s but the store has 0.72 s: ...
    """

    lattice: str
    mask: str
    space: str
    tr: float

    def to_dict(self) -> dict[str, Any]:
        """The contract as it is written to JSON.

        Returns
        -------
        dict of str to object
            `lattice`, `mask`, `space` and `tr` in seconds.
        """
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Contract:
        """Read back what `to_dict` gave.

        Parameters
        ----------
        values : mapping of str to object
            With all four names.

        Returns
        -------
        Contract
            Equal to the one that was written.

        Raises
        ------
        ContractError
            If a name is missing, or its value is malformed.
        """
        try:
            return cls(str(values["lattice"]), str(values["mask"]), str(values["space"]), float(values["tr"]))
        except (KeyError, TypeError, ValueError) as error:
            raise ContractError(f"contract {values}: {error} is missing or malformed; write the file again with slimbrain.") from error

    def require(self, other: Contract, mine: str, theirs: str) -> None:
        """Refuse a mismatch, naming both sides.

        Parameters
        ----------
        other : Contract
            What is compared with this one.
        mine, theirs : str
            What each belongs to, for the message: `the model`, `the store`.

        Raises
        ------
        ContractError
            If lattice, mask, space family or TR differ.
        """
        for name in ("lattice", "mask", "space"):
            ours, its = getattr(self, name), getattr(other, name)
            if ours != its:
                raise ContractError(
                    f"{mine} has {name} {ours[:24]} but {theirs} has {its[:24]}: "
                    f"prepare the data with the same lattice and mask (`slimbrain prep --resolution --mask`), or use a model trained on it."
                )
        if not same_tr(self.tr, other.tr):
            raise ContractError(
                f"{mine} has TR {self.tr:g} s but {theirs} has {other.tr:g} s: "
                f"prepare the data again at {self.tr:g} s, or use a model trained at {other.tr:g} s."
            )


def same_tr(first: float, second: float) -> bool:
    """Whether two TRs in seconds count as one sampling rate: equal to 1 ms, or both within 0.7-0.8 s to 1 ms."""
    low, high = NATIVE_TR_BAND_S
    return abs(first - second) < TR_TOLERANCE_S or all(low - TR_TOLERANCE_S < tr < high + TR_TOLERANCE_S for tr in (first, second))
