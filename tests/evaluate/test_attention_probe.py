"""The attention probe on planted tokens: what a mean hides it finds, what is not there it does not."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from slimbrain.errors import InputError
from slimbrain.evaluate.attention import AttentionProbe, _AttentionReader
from slimbrain.evaluate.probes import FeatureSet, cross_validate
from slimbrain.evaluate.splits import SplitPolicy
from slimbrain.evaluate.stats import bootstrap, score

N, DIM = 96, 6
FOLDS = SplitPolicy(n_splits=3, seeds=(0,))


def planted(values: np.ndarray, seed: int = 0, length: int = 40) -> list[torch.Tensor]:
    """Feature 1 of the three tokens that feature 0 marks says the session's value; in the other tokens it is louder noise."""
    rng = np.random.default_rng(seed)
    sessions = []
    for value in values:
        tokens = rng.normal(size=(length + rng.integers(5), DIM))
        tokens[:, 1] *= 3
        marked = rng.permutation(len(tokens))[:3]
        tokens[marked, 0] = 6
        tokens[marked, 1] = 2 * value + rng.normal(size=3)
        sessions.append(torch.tensor(tokens, dtype=torch.float16))
    return sessions


def test_a_label_in_three_of_forty_tokens_is_found_where_their_mean_hides_it() -> None:
    labels = np.arange(N) % 2
    tokens = planted(2.0 * labels - 1)
    attention = cross_validate(AttentionProbe("ours", tokens), labels, np.arange(N), "classification", FOLDS)
    means = FeatureSet("ours", "mean", np.stack([values.double().mean(0).numpy() for values in tokens]))
    linear = cross_validate(means, labels, np.arange(N), "classification", FOLDS)
    assert bootstrap(attention, "auc").low > 0.8
    assert score(attention, "auc")[0] > score(linear, "auc")[0] + 0.15


def test_a_value_in_the_tokens_is_found_in_its_own_unit() -> None:
    values = np.random.default_rng(1).normal(size=N)
    oof = cross_validate(AttentionProbe("ours", planted(values)), 50 + 10 * values, np.arange(N), "regression", FOLDS)
    assert score(oof, "r")[0] > 0.6 and score(oof, "r2")[0] > 0.3
    assert oof.scores.mean() == pytest.approx(50, abs=3)


@pytest.mark.parametrize("kind", ["classification", "regression"])
def test_shuffled_labels_are_not_found(kind: str) -> None:
    """Two sessions per subject that look alike: a subject on both sides of a split, outer or inner, would show."""
    values = []
    for seed in range(6):
        rng = np.random.default_rng(seed)
        who = np.repeat(np.arange(N // 2), 2)
        tokens = planted(rng.normal(size=N // 2)[who], seed)
        labels = (rng.permutation(N // 2) % 2 if kind == "classification" else rng.normal(size=N // 2))[who]
        oof = cross_validate(AttentionProbe("ours", tokens), labels, who, kind, FOLDS)
        assert len(oof.truth) == N // 2
        values.append(score(oof, "auc" if kind == "classification" else "r")[0])
    # The standard error of six is 0.035 (AUC) and 0.06 (r).
    assert np.mean(values) < (0.6 if kind == "classification" else 0.2)


@pytest.mark.parametrize("policy", [FOLDS, SplitPolicy("70/10/20", seeds=(0,))])
def test_nothing_is_fitted_on_the_test_subjects(policy: SplitPolicy) -> None:
    """Make one test subject monstrous: the predictions of the others in its fold must not move by a bit."""
    labels, tokens = np.arange(40) % 2, [values + 3 * (row % 2) for row, values in enumerate(planted(np.zeros(40)))]
    before = cross_validate(AttentionProbe("ours", tokens), labels, np.arange(40), "classification", policy)
    outlier, *others = np.flatnonzero(before.fold[0] == 0)
    tokens[outlier] = -100 * tokens[outlier]
    after = cross_validate(AttentionProbe("ours", tokens), labels, np.arange(40), "classification", policy)
    assert after.scores[0, others] == pytest.approx(before.scores[0, others], abs=1e-12)
    assert not np.allclose(after.scores[0, outlier], before.scores[0, outlier])


def test_padding_and_the_order_of_tokens_do_not_matter() -> None:
    generator = torch.Generator().manual_seed(0)
    reader = _AttentionReader(torch.zeros(4), torch.ones(4), torch.ones(4), 2)
    with torch.no_grad():
        for parameter in reader.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    tokens = torch.randn(1, 7, 4, generator=generator)
    alone = reader(tokens, torch.ones(1, 7, dtype=torch.bool))
    padded = torch.cat([tokens.flip(1), torch.full((1, 3, 4), 1e3)], 1)
    assert torch.allclose(reader(padded, torch.arange(10)[None] < 7), alone, atol=1e-5)
    weight = torch.softmax(tokens[0] @ reader.query, 0)
    assert torch.allclose(alone[0], (weight @ tokens[0]) / 2 @ reader.read.weight.T + reader.read.bias, atol=1e-5)


def test_a_handful_of_subjects_is_trained_without_stopping() -> None:
    labels = np.array([0, 1, 0, 1])
    oof = cross_validate(AttentionProbe("ours", planted(2.0 * labels - 1)), labels, np.arange(4), "classification", FOLDS)
    assert np.isfinite(oof.scores).all() and np.isinf(oof.inner_loss).all()


def test_tokens_that_are_not_finite_are_refused() -> None:
    with pytest.raises(InputError, match="NaN"):
        AttentionProbe("ours", [torch.full((3, 2), torch.nan)])
