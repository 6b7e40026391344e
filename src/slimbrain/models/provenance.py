"""What a model's weights cannot say: which data they may read and which they were trained on."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from slimbrain.config import WindowConfig
from slimbrain.grid import Grid
from slimbrain.store import Contract


@dataclass(frozen=True)
class Provenance:
    """Travels with every trained model.

    Attributes
    ----------
    contract : lattice, mask, space and TR of the training store.
    window : how sessions were cut.
    grid : the mask itself, so that the model can prepare new images; None for region-of-interest stores.
    training : counts, seed, steps, losses, as they stand in config.json.
    """

    contract: Contract
    window: WindowConfig
    grid: Grid | None
    training: Mapping[str, Any] = field(default_factory=dict)

    def seen(self, subjects: Collection[str]) -> int:
        """How many of these participants (`sub-01`) the model was pretrained on."""
        return len(set(map(subject_hash, subjects)) & set(self.training.get("subject_hashes", ())))


def subject_hash(subject: str) -> str:
    """A salted hash by which a checkpoint remembers a participant without naming it."""
    return hashlib.sha256(f"slimbrain:{subject}".encode()).hexdigest()[:16]
