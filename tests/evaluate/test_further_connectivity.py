"""PoSCE, matrix powers, co-skewness and adjusted connectivity against formulas written out, scipy and scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.linalg import expm, fractional_matrix_power, logm, sqrtm
from scipy.stats import skew
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.preprocessing import StandardScaler

from slimbrain.evaluate.baselines import confounds
from slimbrain.evaluate.connectivity import connectivity_vectors, packed, stacked
from slimbrain.evaluate.further_connectivity import ADJUSTED, MatrixPower, PopulationPrior, coskewness, further_sets
from slimbrain.evaluate.probes import STRENGTHS, FeatureSet, _adjusted, cross_validate
from slimbrain.evaluate.splits import Split, SplitPolicy, inner_parts, outer_splits, pose
from slimbrain.evaluate.stats import score


def covariances(rng: np.random.Generator, n: int, width: int) -> np.ndarray:
    roots = rng.normal(size=(n, width, 3 * width)) / np.sqrt(3 * width)
    return roots @ np.swapaxes(roots, 1, 2)


def test_posce_is_the_posterior_mean() -> None:
    """Written out in full for 4 channels, with scipy's logarithm: mean + S (S + noise I)^-1 (session - mean)."""
    matrices = covariances(np.random.default_rng(0), 40, 4)
    train, test = matrices[:30], matrices[30:]
    origin = 0.999 * train.mean(axis=0) + 0.001 * np.eye(4)
    root = np.linalg.inv(np.real(sqrtm(origin)))
    scale = np.where(np.tri(4, 4, -1) > 0, np.sqrt(2), 1)[np.tril_indices(4)]
    vectors = np.stack([np.real(logm(root @ matrix @ root))[np.tril_indices(4)] * scale for matrix in matrices])
    mean = vectors[:30].mean(axis=0)
    values, axes = np.linalg.eigh(np.cov(vectors[:30].T, bias=True))
    order = np.argsort(values)[::-1]
    count = int(np.argmax(np.cumsum(values[order]) >= 0.7 * values.sum())) + 1
    prior = np.full(len(values), values[order[count:]].sum() / (len(values) - count))
    prior[order[:count]] = values[order[:count]]
    whole = axes @ np.diag(prior) @ axes.T
    for noise in (0.3, 1.0):
        gain = whole @ np.linalg.inv(whole + noise * values.mean() * np.eye(len(values)))
        found = PopulationPrior(noise).fit(packed(train))
        assert found.transform(packed(test)) == pytest.approx(mean + (vectors[30:] - mean) @ gain.T, abs=1e-8)
        assert PopulationPrior(noise).fit_transform(packed(train)) == pytest.approx(found.transform(packed(train)), abs=1e-8)
    single = PopulationPrior().fit(packed(train).astype(np.float32)).transform(packed(test).astype(np.float32))
    assert single.dtype == np.float32 and single == pytest.approx(PopulationPrior().fit(packed(train)).transform(packed(test)), abs=1e-4)


def test_posce_brings_noisy_sessions_nearer_to_the_people() -> None:
    """People differ along two axes, sessions add noise in all directions; estimates of new sessions are nearer to their people."""
    rng, width = np.random.default_rng(1), 8
    axes = rng.normal(size=(2, width, width))
    axes += np.swapaxes(axes, 1, 2)
    people = np.einsum("na,aij->nij", 0.04 * rng.uniform(-1, 1, size=(120, 2)), axes)
    noise = 0.05 * rng.normal(size=people.shape)
    sessions, truth = (packed(np.stack([expm(each) for each in logs])) for logs in (people + noise + np.swapaxes(noise, 1, 2), people))
    errors = []
    for estimator in (PopulationPrior().fit(sessions[:90]), PopulationPrior(noise=0.0).fit(sessions[:90])):
        aim = PopulationPrior(noise=0.0).fit(sessions[:90]).transform(truth[90:])
        errors.append(np.mean((estimator.transform(sessions[90:]) - aim) ** 2))
    assert errors[0] < 0.6 * errors[1]


def test_the_power_of_a_correlation_matrix_is_that_of_scipy() -> None:
    matrices = covariances(np.random.default_rng(2), 5, 6)
    deviations = np.sqrt(np.einsum("nii->ni", matrices))
    correlations = matrices / deviations[:, :, None] / deviations[:, None]
    for power in (0.35, 1.0):
        expected = np.stack([fractional_matrix_power(each, power)[np.tril_indices(6)] for each in correlations])
        assert MatrixPower(power).fit_transform(packed(matrices)) == pytest.approx(expected, abs=1e-10)


def test_coskewness_is_the_third_cumulant() -> None:
    rng = np.random.default_rng(3)
    values = 5 + 2 * rng.gamma(1.0, size=(400, 4))
    values[:, 1] += values[:, 0] ** 2 / 10
    z = (values - values.mean(axis=0)) / values.std(axis=0)
    found = coskewness(values)["coskewness"].reshape(4, 4)
    expected = [[np.mean([frame[i] ** 2 * frame[j] for frame in z]) for j in range(4)] for i in range(4)]
    assert found == pytest.approx(np.array(expected), abs=1e-5)
    assert np.diag(found) == pytest.approx(skew(values, axis=0), abs=1e-5)
    assert np.isfinite(coskewness(np.zeros((10, 3)))["coskewness"]).all()


def adjusted(data: np.ndarray, known: np.ndarray) -> FeatureSet:
    return FeatureSet("m", "adjusted", data, confounds=FeatureSet("confounds", "all", known))


def test_confounds_are_regressed_out_by_the_training_rows_alone() -> None:
    rng = np.random.default_rng(4)
    known = rng.normal(size=(50, 3))
    data = 4 + known @ rng.normal(size=(3, 7)) + rng.normal(size=(50, 7))
    rows = np.arange(50)
    train, valid, test = adjusted(data, known).fitted(Split(rows[:30], rows[30:35], rows[35:]))
    plain = LinearRegression().fit(known[:30], data[:30])
    for held, at in ((valid, slice(30, 35)), (test, slice(35, 50))):
        found, others = _adjusted(train, held)
        assert found == pytest.approx(data[:30] - plain.predict(known[:30]), abs=1e-9)
        assert others == pytest.approx(data[at] - plain.predict(known[at]), abs=1e-9)


def test_a_probe_of_adjusted_features_is_a_plain_one_of_residuals() -> None:
    """Inner splits included: the penalty is that of residuals of a regression without the rows that choose it."""
    rng = np.random.default_rng(7)
    known, labels = rng.normal(size=(60, 2)), np.arange(60) % 2
    data = known @ rng.normal(size=(2, 9)) + rng.normal(size=(60, 9)) + 0.5 * labels[:, None]
    policy = SplitPolicy(n_splits=3, seeds=(0,))
    found = cross_validate(adjusted(data, known), labels, np.arange(60), "classification", policy)
    problem = pose(labels, np.arange(60), "classification")
    for split in outer_splits(np.arange(60), labels, "classification", policy, 0):
        areas = np.zeros(len(STRENGTHS))
        part = inner_parts(problem, split.train, 0)
        for number in range(3):
            fit, held = split.train[part != number], split.train[part == number]
            areas += [roc_auc_score(labels[held], said) for said in residual_probes(data, known, labels, fit, held)]
        best = np.flatnonzero(areas >= areas.max() - 1e-6)
        (said,) = (each for place, each in enumerate(residual_probes(data, known, labels, split.train, split.test)) if place == best[0])
        if len(best) == 1:
            assert found.scores[0, split.test, 1] == pytest.approx(said, abs=1e-3)


def residual_probes(data: np.ndarray, known: np.ndarray, labels: np.ndarray, fit: np.ndarray, held: np.ndarray) -> list[np.ndarray]:
    """Probabilities by each penalty, of plain scikit-learn."""
    regression = LinearRegression().fit(known[fit], data[fit])
    rows, others = (data[at] - regression.predict(known[at]) for at in (fit, held))
    scaler = StandardScaler().fit(rows)
    rows, others = (scaler.transform(each) / np.sqrt(data.shape[1]) for each in (rows, others))
    models = [LogisticRegression(C=strength, tol=1e-8, max_iter=5000).fit(rows, labels[fit]) for strength in STRENGTHS]
    return [model.predict_proba(others)[:, 1] for model in models]


def test_a_label_that_only_a_confound_carries_is_gone_from_adjusted_features() -> None:
    rng = np.random.default_rng(5)
    labels = np.arange(80) % 2
    known = (1.5 * labels + rng.normal(size=80))[:, None]
    data = known @ rng.normal(size=(1, 20)) + 0.1 * rng.normal(size=(80, 20))
    policy = SplitPolicy(n_splits=4, seeds=(0, 1))
    raw, less = (
        cross_validate(each, labels, np.arange(80), "classification", policy)
        for each in (FeatureSet("m", "raw", data), adjusted(data, known))
    )
    assert np.mean(score(raw, "auc")) > 0.7 and np.mean(score(less, "auc")) < 0.6


def test_further_sets_say_what_they_are_and_where_they_are_from() -> None:
    rng = np.random.default_rng(6)
    series = [rng.normal(size=(40, 5)) for _ in range(8)]
    vectors = stacked(series, lambda values: connectivity_vectors(values) | coskewness(values))
    known = confounds([{"age": str(20 + number), "site": "ab"[number % 2]} for number in range(8)])
    sets = further_sets(vectors, "whole run", known)
    assert [features.model for features in sets] == ["connectivity", "connectivity", "co-skewness", ADJUSTED]
    assert all(features.source and features.method.endswith("whole run") for features in sets)
    assert "less age, site" in sets[-1].method
    assert len(further_sets(vectors, "whole run", None)) == 3
    taken = sets[-1].take([5, 1])
    assert taken.confounds is not None and taken.confounds.data[:, 0].tolist() == [25, 21]
    for features in sets:
        predictions = cross_validate(features, np.arange(8) % 2, np.arange(8), "classification", SplitPolicy(n_splits=2, seeds=(0,)))
        assert np.isfinite(predictions.scores).all()
