"""What a model says of itself in a terminal or a notebook: size, what it reads, whom it was pretrained on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from slimbrain.display import Displayed
from slimbrain.governance.ledger import entries_from
from slimbrain.store.contract import NATIVE_TR_BAND_S, same_tr

if TYPE_CHECKING:
    from slimbrain.governance.provenance import Provenance

_HASH_DIGITS = 12
"""Enough of a SHA-256 to tell models apart."""


class DisplayedModel(Displayed):
    """A network with a `provenance`; its layers are shown by its parts (`print(model.encoder)`)."""

    provenance: Provenance | None = None

    def display_facts(self) -> Mapping[str, object]:
        """Parameters, and what the provenance says."""
        count = sum(parameter.numel() for parameter in self.parameters())  # type: ignore[attr-defined]
        facts: dict[str, object] = {"parameters": f"{count:,}"}
        known = self.provenance
        if known is None:
            return {**facts, "provenance": "none; from_pretrained reads it"}
        if known.any_channels:
            facts["reads"] = "series of regions of any parcellation, and voxel stores"
        elif known.grid is None:
            facts["reads"] = "series of regions"
        else:
            facts["reads"] = f"voxels on {known.contract.lattice}, {known.grid.n_voxels:,} in the mask"
        facts |= {"TR": _trs(known), "windows": f"{known.window.k}, of {known.window.frames} frames each"}
        entries = entries_from(known.training)
        people = [entry.subjects for entry in entries if entry.subjects is not None]
        cohorts = sorted({entry.governance.cohort for entry in entries})
        facts["pretrained on"] = f"{sum(people)} participants ({', '.join(cohorts)})" if people else "nobody known"
        return {**facts, "weights": known.weights_sha256[:_HASH_DIGITS] or "not saved"}


def _trs(known: Provenance) -> str:
    """The TRs that the model reads, and that of the series it was pretrained on."""
    tr = known.contract.tr
    low, high = NATIVE_TR_BAND_S
    if known.any_channels:
        read = "any"
    elif same_tr(tr, low):
        read = f"{low:g} to {high:g} s, to which prep resamples all others"
    else:
        read = f"{tr:g} s alone"
    return f"{read} (pretrained on series of {tr:g} s)"
