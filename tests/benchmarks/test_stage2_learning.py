"""What the study of stage 2 rests on: painting, linear ceilings and skill, against closed forms."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks" / "stage2_learning"
MODULES = {path.stem for path in FOLDER.glob("*.py")}


@pytest.fixture
def lab(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, ModuleType]]:
    """Modules of the folder, which is no package; another study may have modules of the same names."""
    from slimbrain import grid

    monkeypatch.setattr(grid, "LATTICES", dict(grid.LATTICES))
    for name in MODULES:
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.syspath_prepend(str(FOLDER))
    yield {name: __import__(name) for name in ("painted", "painted_cohort", "ceilings", "product_contest")}
    for name in MODULES:
        sys.modules.pop(name, None)


def test_without_noise_every_voxel_follows_its_nearest_parcel(lab: dict[str, ModuleType]) -> None:
    random = np.random.default_rng(0)
    mm, places = random.uniform(-60, 60, (50, 3)), random.uniform(-60, 60, (7, 3))
    series = random.standard_normal((40, 7))
    nearest = lab["painted"].nearest_parcel(mm, places)
    voxels = lab["painted"].paint(series, nearest, random.uniform(0.5, 2, 50), 0.0, share=0.0)
    for voxel, place in enumerate(mm):
        own = min(range(7), key=lambda parcel: np.linalg.norm(place - places[parcel]))
        assert np.corrcoef(voxels[:, voxel], series[:, own])[0, 1] == pytest.approx(1)
    assert voxels.mean(0) == pytest.approx(0) and voxels.std(0) == pytest.approx(1)


def test_noise_takes_the_share_of_the_variance_it_is_said_to(lab: dict[str, ModuleType]) -> None:
    random = np.random.default_rng(1)
    series, noise = (random.standard_normal((20_000, 2)) for _ in range(2))
    voxels = lab["painted"].paint(series, np.array([0, 1]), np.ones(2), noise, share=0.45)
    explained = [np.corrcoef(voxels[:, place], series[:, place])[0, 1] ** 2 for place in (0, 1)]
    assert explained == pytest.approx([0.55, 0.55], abs=0.02)


def test_the_ceiling_of_two_gaussian_variables_is_their_squared_correlation(lab: dict[str, ModuleType]) -> None:
    correlation, spread = 0.6, 3.0
    weights = lab["ceilings"].conditional_weights(np.array([[1.0]]), np.array([[correlation * spread]]))
    assert weights.item() == pytest.approx(correlation * spread)
    x, rest = np.random.default_rng(2).standard_normal((2, 200_000, 1))
    y = spread * (correlation * x + np.sqrt(1 - correlation**2) * rest)
    assert lab["painted_cohort"].skill(x @ weights, y) == pytest.approx(correlation**2, abs=0.01)


def test_the_best_constant_has_a_skill_of_zero(lab: dict[str, ModuleType]) -> None:
    y = np.random.default_rng(3).normal(5.0, 2.0, (100, 3))
    skill, best = lab["painted_cohort"].skill, y.mean(0)
    assert skill(np.broadcast_to(best, y.shape), y, best) == 0
    assert skill(y, y, best) == 1
    assert skill(np.zeros_like(y), y, best) < 0


def test_halves_and_seeds_count_alike_however_many_people_they_have(lab: dict[str, ModuleType]) -> None:
    """A variant that is right in one half and one that is right in the other differ by nothing; their seeds are averaged."""
    random, compared = np.random.default_rng(4), lab["product_contest"].compared
    runs = {
        half: [lab["painted_cohort"].Run(f"sub-{number}", "A", 0, 100, 10.0 + number, bool(number % 2), False) for number in range(people)]
        for half, people in (("first", 40), ("second", 60))
    }
    truth = {half: np.array([run.female for run in people], float) for half, people in runs.items()}
    wrong = {half: random.permutation(y) for half, y in truth.items()}
    right_first = {"first": [{"cells/sex": truth["first"]}], "second": [{"cells/sex": wrong["second"]}]}
    right_second = {"first": [{"cells/sex": wrong["first"]}], "second": [{"cells/sex": truth["second"]}]}
    areas = {half: lab["painted_cohort"].score("sex", truth[half], wrong[half]) for half in runs}
    mean, low, high = compared(runs, "cells/sex", right_first, right_second)
    assert mean == pytest.approx((areas["second"] - areas["first"]) / 2) and low < mean < high
    alone = compared(runs, "cells/sex", right_first, None)[0]
    assert alone == pytest.approx((1 + areas["second"]) / 2)
    two_seeds = {half: [*right_first[half], *right_second[half]] for half in runs}
    assert compared(runs, "cells/sex", two_seeds, None)[0] == pytest.approx((2 + sum(areas.values())) / 4)


def test_each_place_has_a_ridge_of_its_own(lab: dict[str, ModuleType]) -> None:
    from sklearn.linear_model import Ridge

    random = np.random.default_rng(6)
    tokens = [random.standard_normal((20, 2, 5)) + 3 for _ in range(4)]
    signals = [token @ random.standard_normal((5, 3)) for token in tokens]
    decoded, mean = lab["product_contest"].patch_decoder(tokens, signals)(tokens[0]), np.concatenate(tokens).mean(0)
    x, y = np.concatenate(tokens) - mean, np.concatenate(signals)
    for place in range(2):
        penalty = 1e-3 * np.square(x[:, place]).sum() / 5
        ridge = Ridge(alpha=penalty, fit_intercept=False).fit(x[:, place], y[:, place])
        np.testing.assert_allclose(decoded[:, place], ridge.predict(tokens[0][:, place] - mean[place]), rtol=1e-4, atol=1e-4)


def test_other_people_teach_in_every_fold(lab: dict[str, ModuleType]) -> None:
    """A label that tested people alone are too few to learn is learnt with others beside them; and nobody teaches of himself."""
    random, out_of_fold = np.random.default_rng(7), lab["painted_cohort"].out_of_fold
    weights = random.standard_normal(40)
    own, others = random.standard_normal((20, 40)), random.standard_normal((400, 40))
    alone = out_of_fold(own, own @ weights, 2)
    taught = out_of_fold(own, own @ weights, 2, others=(others, others @ weights))
    assert np.corrcoef(alone, own @ weights)[0, 1] < 0.9 < 0.99 < np.corrcoef(taught, own @ weights)[0, 1]
    noise = random.standard_normal(20)
    assert abs(np.corrcoef(out_of_fold(own, noise, 2, others=(others, random.standard_normal(400))), noise)[0, 1]) < 0.5


def test_a_site_left_out_teaches_nothing_of_itself(lab: dict[str, ModuleType]) -> None:
    """What differs between sites alone is told in folds, from others of the site, and not where the site is left out."""
    random, cohort = np.random.default_rng(8), lab["painted_cohort"]
    sites = np.repeat(np.arange(12), 10)
    effect = random.standard_normal(12)[sites]
    features = np.eye(12)[sites] + 0.01 * random.standard_normal((120, 12))
    assert cohort.score("log_age", effect, cohort.out_of_fold(features, effect, 1)) > 0.9
    others = (features, effect, sites)
    assert cohort.score("log_age", effect, cohort.site_left_out(features, effect, sites)) < 0.1
    assert cohort.score("log_age", effect, cohort.site_left_out(features, effect, sites, others)) < 0.1


def test_few_labels_teach_and_all_others_are_tested(lab: dict[str, ModuleType]) -> None:
    random, cohort = np.random.default_rng(9), lab["painted_cohort"]
    features = random.standard_normal((200, 3))
    women = (features[:, 0] > 1).astype(float)
    predicted = cohort.few_labels(features, women, 30, draws=4)
    labelled = np.isnan(predicted)
    assert (labelled.sum(0) == 30).all()
    assert (abs(labelled.T @ women - 30 * women.mean()) <= 1).all()
    areas = [cohort.score("sex", women[~own], p[~own]) for own, p in zip(labelled.T, predicted.T, strict=True)]
    assert cohort.score("sex", women, predicted) == pytest.approx(np.mean(areas))
    assert min(areas) > 0.9
