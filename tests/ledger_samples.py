"""Small stores of region-of-interest sessions under terms, which are written in milliseconds."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from slimbrain.store import Channels, Store
from slimbrain.store.description import COHORT
from slimbrain.store.records import Governance, keep_records
from slimbrain.store.write import write_roi_session

TR_S = 1.5
OPEN = {"cohort": "open study", "licence": "CC0-1.0", "consent": ["broad-research"]}
CLOSED = {"cohort": "closed study", "licence": "CC-BY-NC-4.0", "consent": ["no-commercial"], "not_for": ["insurers"]}


def write(store: Store, subject: str, session: str, said: Mapping[str, Any] | None, frames: int = 40) -> str:
    """One session of four channels; under no terms, as older stores have them, if `said` is None. Its key."""
    seed = int(subject) * 100 + int(session) + (7 if said and "closed" in said["cohort"] else 0)
    series = np.random.default_rng(seed).normal(size=(frames, 4)).astype(np.float32)
    record = Governance.model_validate(said) if said else None
    if record:
        keep_records(store.root, [record])
    info = write_roi_session(
        store,
        {"sub": subject, "ses": session, "task": "rest"},
        series,
        Channels(tuple("abcd"), np.zeros((4, 3), np.float32)),
        TR_S,
        sidecar={COHORT: record.cohort} if record else {},
        qc=record.cells() if record else {},
    )
    return info.key


def make(root: Path, said: Mapping[str, Mapping[str, Any] | None], sessions: int = 2) -> Store:
    """A store of one record a participant, by label without `sub-`, and a table of them."""
    store = Store.create(root, None, TR_S)
    for subject, record in said.items():
        for session in range(1, sessions + 1):
            write(store, subject, str(session), record)
    rows = "".join(f"sub-{subject}\t{30 + number}\n" for number, subject in enumerate(said))
    (root / "participants.tsv").write_text(f"participant_id\tage\n{rows}")
    return Store(root)
