"""The decision that is explained is the probe's and the tuned model's own, and a subject is explained by a probe that did not see it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from explain_samples import TINY, clip, slab
from scipy.special import log_softmax

from slimbrain.config import HieraConfig
from slimbrain.errors import InputError
from slimbrain.evaluate.finetune import TunedEncoder
from slimbrain.evaluate.probes import FeatureSet, fit_linear
from slimbrain.evaluate.splits import SplitPolicy, outer_splits, pose
from slimbrain.evaluate.tasks import Target
from slimbrain.explain import tuned_head
from slimbrain.explain.heads import Deciders, LinearHead, fit_probes
from slimbrain.models.hiera import Hiera

SUBJECTS = 24


def samples(labels: np.ndarray, width: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    data = 3 + rng.normal(size=(len(labels), width)) * rng.uniform(0.1, 5, width)
    data[:, 0] += np.unique(labels, return_inverse=True)[1]
    return data, np.array([f"sub-{number:02d}" for number in range(len(labels))])


@pytest.mark.parametrize("width", [5, 60])
@pytest.mark.parametrize("labels", [np.tile(["a", "b"], 12), np.tile(["a", "b", "c"], 8), np.linspace(10, 70, 24)])
def test_the_affine_map_says_what_the_probe_says(labels: np.ndarray, width: int) -> None:
    kind = "regression" if labels.dtype == float else "classification"
    data, subjects = samples(labels, width)
    problem = pose(labels, subjects, kind)
    split = outer_splits(subjects, labels, kind, SplitPolicy(n_splits=3, seeds=(0,)), 0)[0]
    rule = fit_linear(data, problem, split, 0)
    said = data[split.test] @ rule.weight.T + rule.bias
    expected = FeatureSet("x", "y", data).fit_predict(problem, split, 0).scores
    np.testing.assert_allclose(said if kind == "regression" else np.exp(log_softmax(said, axis=1)), expected, rtol=1e-6, atol=1e-8)


def probes(data: np.ndarray, labels: np.ndarray, subjects: np.ndarray, chosen: str | None = None) -> Deciders:
    keys = tuple(f"{name}_rest" for name in subjects)
    kind = "regression" if labels.dtype == float else "classification"
    target = Target(keys, subjects, labels, kind, None, {})
    return fit_probes(dict(zip(keys, data, strict=True)), target, chosen, 0)


def test_log_odds_are_those_of_one_class_against_the_rest() -> None:
    labels = np.tile(["a", "b", "c"], 8)
    data, subjects = samples(labels, 6)
    found = probes(data, labels, subjects, "c")
    head = found.heads["sub-03_rest"]
    (decision,) = head.decide(torch.from_numpy(data[3:4]))
    share = np.exp(log_softmax(data[3] @ head.rule.weight.T + head.rule.bias))[2]
    assert float(decision) == pytest.approx(np.log(share / (1 - share)))
    assert found.unit == "log-odds of c" and found.code["sub-02_rest"] == 1 and found.code["sub-03_rest"] == 0


def test_no_probe_saw_the_subject_it_explains() -> None:
    labels = np.tile(["a", "b"], 12)
    data, subjects = samples(labels, 6)
    before = probes(data, labels, subjects)
    data[5] += 1e3
    after = probes(data, labels, subjects)
    own = "sub-05_rest"
    assert np.array_equal(before.heads[own].rule.weight, after.heads[own].rule.weight)
    other = next(key for key in before.heads if before.facts[key] != before.facts[own])
    assert not np.allclose(before.heads[other].rule.weight, after.heads[other].rule.weight)


def test_what_cannot_be_chosen_is_refused() -> None:
    data, subjects = samples(np.tile(["a", "b", "c"], 8), 4)
    with pytest.raises(InputError, match="one of a, b, c"):
        probes(data, np.tile(["a", "b", "c"], 8), subjects)
    with pytest.raises(InputError, match="one of a, b"):
        probes(data, np.tile(["a", "b"], 12), subjects, "z")
    with pytest.raises(InputError, match="leave --target out"):
        probes(data, np.linspace(0, 1, 24), subjects, "a")
    assert probes(data, np.linspace(0, 1, 24), subjects).unit == "unit of the label"


@pytest.mark.parametrize("outputs", [1, 2, 3])
def test_a_tuned_models_head_decides_as_the_model_does(outputs: int) -> None:
    torch.manual_seed(0)
    tuned = TunedEncoder(Hiera(HieraConfig.model_validate(TINY), 8).double(), outputs).double()
    sample = clip(slab())
    tuned.begin(torch.cat([tuned.pooled([clip(slab(), seed=seed)]) for seed in range(3)]).detach())
    tuned.head.double()
    with torch.no_grad():
        said = tuned([sample])[0]
        head = tuned_head(tuned, None if outputs == 1 else 0, centre=40.0, scale=5.0)
        assert isinstance(head, LinearHead)
        (found,) = head(tuned.encoder([sample]))
    expected = 40 + 5 * said[0] if outputs == 1 else said[0] - said[1:].logsumexp(0)
    assert float(found) == pytest.approx(float(expected), rel=1e-6)
