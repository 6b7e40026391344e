"""Axes against scikit-learn's PCA, who they are learnt in, and the linear model that reads two sets of features together."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from slimbrain.config import WindowConfig
from slimbrain.errors import InputError
from slimbrain.evaluate import probes
from slimbrain.evaluate.connectivity import PopulationTangent, plain_vectors, stacked
from slimbrain.evaluate.linear_pretraining import TangentAxes, linear_pretraining
from slimbrain.evaluate.probes import FeatureSet, Together, cross_validate
from slimbrain.evaluate.series import ChannelSeries
from slimbrain.evaluate.splits import SplitPolicy, outer_splits
from slimbrain.evaluate.stats import score
from slimbrain.governance.provenance import REMEMBERED, Provenance, people_in, remember
from slimbrain.store import Channels, Store
from slimbrain.store.write import write_roi_session


def series(n: int, width: int, seed: int = 0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.normal(size=(60, width)) @ (np.eye(width) + 0.3 * rng.normal(size=(width, width))) for _ in range(n)]


def roi_store(root: Path, n: int, width: int = 4, seed: int = 0) -> Store:
    store = Store.create(root, None, tr=0.72)
    channels = Channels(tuple(f"parcel-{number}" for number in range(width)), np.zeros((width, 3)))
    for number, values in enumerate(series(n, width, seed)):
        write_roi_session(store, {"sub": f"{number:02d}", "task": "rest"}, values, channels, 0.72)
    return Store(root)


def test_axes_are_the_principal_components_of_the_tangent() -> None:
    plain = stacked(series(40, 5), plain_vectors)["plain"].astype(np.float64)
    axes = TangentAxes(plain[:25], axes=6)
    tangent = PopulationTangent().fit(plain[:25])
    reference = PCA(6).fit(tangent.transform(plain[:25])).transform(tangent.transform(plain[25:]))
    found = axes(plain[25:])
    assert found * np.sign((found * reference).sum(axis=0)) == pytest.approx(reference, abs=1e-8)
    assert TangentAxes(plain[:4]).axes.shape[0] == 3


def test_axes_are_learnt_in_the_people_of_the_model_or_in_those_named(tmp_path: Path) -> None:
    store = roi_store(tmp_path / "store", 30)
    channels, keys = ChannelSeries(store), [info.key for info in store.sessions]
    evaluated = keys[14:]
    people = people_in(store, list(store.sessions)[:14])
    remembered = Provenance(store.contract, WindowConfig(), None, {REMEMBERED: remember(people)})
    chosen = store.select({store.session(key).subject for key in evaluated})
    found = linear_pretraining(chosen, evaluated, ChannelSeries(chosen), remembered)
    assert found is not None and "of 14 participants" in found.method and found.source
    learnt = stacked([store.coarse(key).astype(float) for key in keys[:14]], plain_vectors)["plain"]
    own = stacked([store.coarse(key).astype(float) for key in evaluated], plain_vectors)["plain"]
    assert found.data == pytest.approx(TangentAxes(learnt)(own))

    table = tmp_path / "pretraining.tsv"
    table.write_text("participant_id\n" + "\n".join(store.session(key).subject for key in keys[:14]) + "\n")
    told = linear_pretraining(store, evaluated, channels, None, table)
    assert told is not None and np.array_equal(told.data, found.data)
    assert linear_pretraining(store, evaluated, channels, None) is None
    with pytest.raises(InputError, match="who is evaluated"):
        linear_pretraining(store, keys, channels, None, table)
    table.write_text("participant_id\n01\n02\n")
    with pytest.raises(InputError, match="at least 10"):
        linear_pretraining(store, evaluated, channels, None, table)
    table.write_text("subject\n01\n")
    with pytest.raises(InputError, match="participant_id"):
        linear_pretraining(store, evaluated, channels, None, table)


def test_axes_may_be_learnt_in_another_store_of_the_same_channels(tmp_path: Path) -> None:
    store, other, wide = (
        roi_store(tmp_path / name, n, width, seed) for name, n, width, seed in (("a", 6, 4, 0), ("b", 12, 4, 1), ("c", 12, 5, 2))
    )
    keys = [info.key for info in store.sessions]
    found = linear_pretraining(store, keys, ChannelSeries(store), None, other.root)
    assert found is not None and found.data.shape[0] == 6 and "12 participants" in found.method
    with pytest.raises(InputError, match="other channels"):
        linear_pretraining(store, keys, ChannelSeries(store), None, wide.root)


def test_two_sets_together_are_a_plain_model_of_both(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each standardised and divided by the root of its width, then weighted by the roots of their shares."""
    monkeypatch.setattr(probes, "STRENGTHS", (2.0,))
    monkeypatch.setattr(probes, "_SHARES", (0.3,))
    rng = np.random.default_rng(0)
    labels = np.arange(60) % 2
    first, second = rng.normal(size=(60, 90)) + 0.3 * labels[:, None], 5 * rng.normal(size=(60, 7)) + labels[:, None]
    policy = SplitPolicy(n_splits=3, seeds=(0,))
    both = Together("m", "both", (FeatureSet("a", "a", first), FeatureSet("b", "b", second)))
    found = cross_validate(both, labels, np.arange(60), "classification", policy)
    for split in outer_splits(np.arange(60), labels, "classification", policy, 0):
        parts = []
        for data, share in ((first, 0.7), (second, 0.3)):
            scaler = StandardScaler().fit(data[split.train])
            parts.append([np.sqrt(share / data.shape[1]) * scaler.transform(data[rows]) for rows in (split.train, split.test)])
        train, test = (np.hstack(part) for part in zip(*parts, strict=True))
        plain = LogisticRegression(C=2.0, tol=1e-8, max_iter=5000).fit(train, labels[split.train])
        assert found.scores[0, split.test] == pytest.approx(plain.predict_proba(test), abs=1e-4)


@pytest.mark.parametrize("kind", ["classification", "regression"])
def test_two_sets_together_beat_either_where_both_know_something(kind: str) -> None:
    rng = np.random.default_rng(1)
    value = rng.normal(size=120)
    labels = (value > 0).astype(int) if kind == "classification" else value
    first, second = (rng.normal(size=(120, 30)) + 0.25 * (value + 1.2 * rng.normal(size=120))[:, None] for _ in range(2))
    sets = [FeatureSet("a", "a", first), FeatureSet("b", "b", second), FeatureSet("noise", "noise", rng.normal(size=(120, 30)))]
    metric = "auc" if kind == "classification" else "r2"

    def mean(predictor: FeatureSet | Together) -> float:
        return float(np.mean(score(cross_validate(predictor, labels, np.arange(120), kind, SplitPolicy(seeds=(0, 1))), metric)))

    alone = [mean(features) for features in sets[:2]]
    assert mean(Together("m", "both", (sets[0], sets[1]))) > max(alone)
    # Beside noise, the share of what knows something wins.
    assert mean(Together("m", "both", (sets[2], sets[0]))) > alone[0] - 0.05
