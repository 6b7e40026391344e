"""Groups of sessions: planted ones are found, the same for the same seed, and a mixture reads the table."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from slimbrain.config import SamplingConfig, TemporalConfig, WindowConfig
from slimbrain.data.draws import SeriesDraws
from slimbrain.embed.clusters import group_sessions, write_groups
from slimbrain.errors import InputError
from slimbrain.governance.provenance import Provenance
from slimbrain.models.temporal import TemporalExtractor
from slimbrain.store import ROI, Channels, Store
from slimbrain.store.write import write_roi_session

TR_S, FRAMES, CHANNELS = 0.72, 160, 12


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Nine sessions of slow series that all channels share, and five of fast ones that none shares; the names say nothing of it."""
    made = Store.create(tmp_path_factory.mktemp("store"), None, TR_S)
    generator = np.random.default_rng(0)
    channels = Channels(tuple(f"r{n}" for n in range(CHANNELS)), generator.normal(size=(CHANNELS, 3)) * 40)
    for number in range(14):
        series = generator.normal(size=(FRAMES, CHANNELS))
        if number % 3 != 1:
            series = 0.3 * series + np.cumsum(generator.normal(size=(FRAMES, 1)), axis=0)
        write_roi_session(made, {"sub": f"{number:02d}", "task": "rest", "space": ROI}, series.astype(np.float32), channels, TR_S)
    return made


@pytest.fixture(scope="module")
def model(store: Store) -> TemporalExtractor:
    """Untrained: how fast a series is shows in random features, too."""
    import torch

    torch.manual_seed(0)
    made = TemporalExtractor(TemporalConfig(width=16, depth=1, heads=2, groups=4)).eval()
    made.provenance = Provenance(store.contract, WindowConfig(), None)
    return made


def test_planted_groups_are_found_and_named_by_size(store: Store, model: TemporalExtractor) -> None:
    groups = group_sessions(store, model, 2, seed=3)
    assert list(groups) == [info.key for info in store.sessions]
    assert list(groups.values()) == ["g2" if number % 3 == 1 else "g1" for number in range(14)]
    assert group_sessions(store, model, 2, seed=3) == groups == group_sessions(store, model, 2, seed=4)


def test_a_mixture_draws_by_the_groups(store: Store, model: TemporalExtractor, tmp_path: Path) -> None:
    write_groups(tmp_path / "groups.tsv", group_sessions(store, model, 2))
    mixture = {"by": "group", "table": str(tmp_path / "groups.tsv"), "weights": {"g1": 1, "g2": 3}}
    draws = SeriesDraws(store, WindowConfig(), 0, SamplingConfig.model_validate({"mixture": mixture}))
    subjects = [int(draws.session_of(draw).subject.removeprefix("sub-")) for draw in range(100)]
    assert sum(subject % 3 == 1 for subject in subjects) == 75


def test_more_groups_than_sessions_are_refused(store: Store, model: TemporalExtractor) -> None:
    with pytest.raises(InputError, match="fewer different sessions than 15 groups"):
        group_sessions(store, model, 15)
