"""What the embedding benchmark compares: pieces that its conclusions rest on, against closed forms and the plain way."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from slimbrain.evaluate.baselines import connectivity
from slimbrain.evaluate.probes import FeatureSet, cross_validate
from slimbrain.evaluate.splits import SplitPolicy, outer_splits
from slimbrain.models.temporal import standardise

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def contest(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return __import__("roi_contest")


@pytest.fixture
def cohorts(contest: ModuleType) -> ModuleType:
    return __import__("roi_cohorts")


@pytest.fixture
def networks(contest: ModuleType) -> ModuleType:
    return __import__("roi_networks")


@pytest.fixture
def embedding(contest: ModuleType) -> ModuleType:
    return __import__("embedding")


def small_cohort(cohorts: ModuleType, people: int = 8, channels: int = 5, frames: int = 130) -> Any:
    rng = np.random.default_rng(3)
    runs = tuple(rng.standard_normal((frames + person, channels)) @ rng.standard_normal((channels, channels)) for person in range(people))
    places = torch.from_numpy(rng.uniform(-50, 50, (channels, 3))).float()
    names = tuple(f"sub-{person}" for person in range(people))
    about = tuple({"sex": "FM"[person % 2], "site": "ab"[person // 2 % 2]} for person in range(people))
    return cohorts.Cohort("small", 2.0, places, names, runs, runs, tuple((run,) for run in runs), about)


def test_contrast_divides_by_the_deviation_within_runs(contest: ModuleType) -> None:
    """Variances 9 and 1 along the axes, ridge 5: lengths become in proportion to 1/sqrt(14) and 1/sqrt(6)."""
    apart = np.array([[3.0, 0.0], [-3.0, 0.0], [0.0, 1.0], [0.0, -1.0]]) * np.sqrt(2)
    moved = contest.Contrast.between(apart)(np.eye(2))
    np.testing.assert_allclose(moved, np.diag([np.sqrt(5 / 14), np.sqrt(5 / 6)]), atol=1e-12)


def test_channels_that_go_together_lie_together(cohorts: ModuleType) -> None:
    rng = np.random.default_rng(2)
    shared = rng.standard_normal((400, 2))
    runs = [shared[:, [0, 0, 1, 1]] + 0.3 * rng.standard_normal((400, 4)) for _ in range(3)]
    distance = torch.cdist(*[cohorts.likely_places(runs)] * 2).numpy()
    assert max(distance[0, 1], distance[2, 3]) < distance[:2, 2:].min()


def test_band_power_of_a_sine_lies_in_its_band(contest: ModuleType) -> None:
    run = np.sin(2 * np.pi * 0.08 * np.arange(200))[:, None]
    np.testing.assert_allclose(contest.band_power(run, 1.0), [0, 1, 0], atol=1e-12)


def test_runs_are_read_together_as_they_are_one_by_one(networks: ModuleType, cohorts: ModuleType) -> None:
    """Tokens of whole windows, and every sample rebuilt in the pass that hid it."""
    cohort = small_cohort(cohorts)
    network = networks.Network(networks.untrained(networks.PLAIN), networks.PLAIN, cohort.places, cohort.tr)
    runs = [cohort.first[0][:22], cohort.first[1][:22], cohort.first[2][:40], cohort.first[3][:3]]
    # Fresh weights write nothing.
    torch.nn.init.normal_(network.model.write.weight)
    tokens, rebuilt = network.tokens(runs), network.rebuilt(runs)
    groups = network.model.nearest_group(cohort.places)
    for run, own, made in zip(runs, tokens, rebuilt, strict=True):
        series = standardise(torch.from_numpy(run).float())
        mirrored = torch.cat((series, series.flip(0)))[: -(-len(run) // 4) * 4]
        hidden = torch.rand((len(mirrored) // 4, 32), generator=torch.Generator().manual_seed(0)) < 0.5
        with torch.no_grad():
            seen = network.model((series if len(run) >= 4 else mirrored)[None], cohort.places, 2.0).tokens[0]
            first, second = (
                network.model(mirrored[None], cohort.places, 2.0, channel_visible=~half[:, groups][None]).reconstruction[0].flatten(0, 1)
                for half in (hidden, ~hidden)
            )
        np.testing.assert_allclose(own, seen, atol=1e-5)
        choose = hidden[:, groups].repeat_interleave(4, 0)
        np.testing.assert_allclose(made, torch.where(choose, first, second)[: len(run)], atol=1e-5)


def test_a_course_that_all_channels_share_can_be_taken_out(networks: ModuleType) -> None:
    """Of two channels that leaves one and its negative."""
    seen = networks.Recipe(channels="less their mean").read(torch.randn(50, 2, generator=torch.Generator().manual_seed(0)))
    torch.testing.assert_close(seen[:, 0], -seen[:, 1], atol=1e-5, rtol=0)


def test_frames_of_one_length_differ_in_direction_only(networks: ModuleType) -> None:
    series = standardise(torch.randn(50, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64))
    direction = series / series.square().sum(1, keepdim=True).sqrt()
    torch.testing.assert_close(networks.Recipe(channels="frames of one length").read(series), standardise(direction))


def test_a_network_that_was_kept_is_not_trained_again(
    networks: ModuleType, cohorts: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(networks, "STRETCHES", 1)
    cohort = small_cohort(cohorts)
    once = networks.trained([(cohort, range(4))], 12, networks.PLAIN, tmp_path)
    (file,) = tmp_path.iterdir()
    again = networks.trained([(cohort, range(4))], 12, networks.PLAIN, tmp_path)
    assert all(torch.equal(mine, theirs) for mine, theirs in zip(once.parameters(), again.parameters(), strict=True))
    assert list(tmp_path.iterdir()) == [file]
    networks.trained([(cohort, range(5))], 12, networks.Recipe(contrast=0.3), tmp_path)
    assert len(list(tmp_path.iterdir())) == 2


def test_contrast_in_training_is_the_cross_entropy_of_finding_ones_own_run(networks: ModuleType, cohorts: ModuleType) -> None:
    cohort = small_cohort(cohorts)
    runs = [torch.from_numpy(run).float() for run in cohort.first]
    model = networks.untrained(networks.PLAIN)
    ours = networks._contrast(model, runs, cohort, networks.PLAIN, np.random.default_rng(7))
    rng = np.random.default_rng(7)
    order = rng.choice(8, 8, replace=False)
    starts = [rng.choice(len(runs[number]) - 39, 2) for number in order]
    cut = [runs[number][s[half] : s[half] + 40] for half in (0, 1) for number, s in zip(order, starts, strict=True)]
    vectors = np.stack([model.embed(part[None], cohort.places, 2.0)[0][0].detach().numpy() for part in cut])
    vectors = vectors - vectors.mean(0)
    cosine = np.corrcoef(np.hstack([vectors, -vectors]))[:8, 8:]
    chance = np.exp(cosine / 0.1)
    own = chance.diagonal()
    assert float(ours.detach()) == pytest.approx(-(np.log(own / chance.sum(1)) + np.log(own / chance.sum(0))).mean() / 2, rel=1e-4)


def test_predictions_of_a_column_are_those_of_cross_validation(
    embedding: ModuleType, cohorts: ModuleType, contest: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Correlations need no network: the same folds, seeds and probe as `slimbrain evaluate`."""
    cohort = small_cohort(cohorts, people=24)
    monkeypatch.setattr(embedding, "COLUMNS", {"correlation": contest.COLUMNS["correlation"]})
    labels, subjects = np.array([row["sex"] for row in cohort.about]), np.array(cohort.people)
    policy = SplitPolicy(n_splits=3, seeds=(0, 1))
    theirs = cross_validate(FeatureSet("", "", connectivity(cohort.first, "")[0].data), labels, subjects, "classification", policy)
    problem = embedding.PredictionProblem((labels == "M").astype(float), subjects, ("F", "M"))
    splits = [outer_splits(subjects, labels, "classification", policy, seed) for seed in policy.seeds]
    ours = embedding.predicted(problem, [contest.Excerpts(list(cohort.first))] * 2, splits, lambda split: contest.Fold(cohort, (), 1), "")
    row = [list(theirs.subject).index(name) for name in subjects]
    np.testing.assert_allclose(ours["correlation"].scores, theirs.scores[:, row])
    np.testing.assert_array_equal(ours["correlation"].fold, theirs.fold[:, row])


def test_people_are_found_by_what_is_theirs_and_no_one_else_by_noise(
    embedding: ModuleType, cohorts: ModuleType, contest: ModuleType
) -> None:
    """Each of eight has a covariance of their own, so 120 frames find everybody; likeness of pure noise finds about one in eight."""
    cohort = small_cohort(cohorts)
    folds = [contest.Fold(cohort, (0, 1, 2, 3), 1), contest.Fold(cohort, (4, 5, 6, 7), 1)]
    galleries = embedding.galleries_of(folds, ["correlation"])
    share = embedding.found(folds, ["correlation"], lambda person, rng: cohort.first[person][:120], 2, galleries)["correlation"]
    np.testing.assert_array_equal(share, 1.0)
    noise = embedding.found(folds, ["correlation"], lambda person, rng: rng.standard_normal((40, 5)), 20, galleries)["correlation"]
    assert 0 < noise.mean() < 0.35
