"""Simulated cohorts: what truth.json says can be found again in the files, by methods that know nothing of how they were made."""

from __future__ import annotations

import filecmp
import json
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pandas as pd
import pytest
from nilearn.connectome import ConnectivityMeasure
from nilearn.glm.first_level import FirstLevelModel
from nilearn.interfaces.bids import get_bids_files, parse_bids_filename
from nilearn.interfaces.fmriprep import load_confounds
from scipy.signal import welch
from scipy.stats import gamma, pearsonr, ttest_ind
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedGroupKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from slimbrain.errors import InputError
from slimbrain.simulate import CohortSpec, Place, SessionTruth, Truth, draw_truth, load_truth, simulate_cohort
from slimbrain.simulate.cohort import response
from slimbrain.simulate.signals import _coloured

PEOPLE = 24
SMALL = CohortSpec(subjects=2, sessions=2, frames=60, events_per_session=1, spikes_per_session=1, seed=3)


@dataclass(frozen=True)
class Cohort:
    """A cohort read back from disk: `series` (T, V) of the brain's voxels by session key, `mm` (V, 3) where they lie."""

    root: Path
    truth: Truth
    series: dict[str, Any]
    mm: Any

    def near(self, place: Place, radius_mm: float = 12.0) -> Any:
        distance = np.linalg.norm(self.mm[:, None] - np.array(place.centres_mm), axis=2).min(axis=1)
        return distance < radius_mm

    def confounds(self, session: SessionTruth) -> pd.DataFrame:
        return pd.read_csv(next(self.root.rglob(f"{session.subject}_{session.session}_*confounds_timeseries.tsv")), sep="\t")


def bold_files(root: Path) -> list[str]:
    return get_bids_files(str(root), file_tag="bold", file_type="nii.gz", sub_folder=True)


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Cohort:
    root = tmp_path_factory.mktemp("cohort")
    simulate_cohort(root, CohortSpec())
    truth = load_truth(root)
    series = {}
    for session in truth.sessions:
        image = nibabel.load(next(root.rglob(f"{session.key}_*_bold.nii.gz")))
        data = np.asarray(image.dataobj)
        mask = data[..., 0] > 0
        series[session.key] = data[mask].T.astype(np.float64)
    return Cohort(root, truth, series, nibabel.affines.apply_affine(image.affine, np.argwhere(mask)))


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("small")
    simulate_cohort(root, SMALL)
    return root


def autocorrelation(series: Any, lag: int = 1) -> Any:
    """Autocorrelation of each column of (T, V)."""
    z = (series - series.mean(axis=0)) / series.std(axis=0)
    return (z[lag:] * z[:-lag]).mean(axis=0)


def without_spikes(cohort: Cohort, session: SessionTruth) -> Any:
    return np.delete(cohort.series[session.key], list(session.spikes), axis=0)


def parcels(cohort: Cohort, session: SessionTruth) -> Any:
    """One course for every blob of every network, from the voxels around it, spikes cut out."""
    series = without_spikes(cohort, session)
    centres = [centre for network in cohort.truth.networks for centre in network.centres_mm]
    return np.stack([series[:, np.linalg.norm(cohort.mm - centre, axis=1) < 11].mean(axis=1) for centre in centres], axis=1)


def connectivity(cohort: Cohort) -> Any:
    courses = [parcels(cohort, session) for session in cohort.truth.sessions]
    return ConnectivityMeasure(kind="correlation", vectorize=True, discard_diagonal=True, standardize="zscore_sample").fit_transform(
        courses
    )


def people(cohort: Cohort) -> pd.DataFrame:
    """The participants table, one row per session."""
    table = pd.read_csv(cohort.root / "participants.tsv", sep="\t").set_index("participant_id")
    return table.loc[[session.subject for session in cohort.truth.sessions]]


def held_out_auc(features: Any, labels: Any, subjects: Any) -> float:
    # Whole folds, balanced: leaving out one person at a time shifts each fold's intercept against the one left out.
    folds = StratifiedGroupKFold(6, shuffle=True, random_state=0)
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=1000))
    scores = cross_val_predict(model, features, labels, groups=subjects, cv=folds, method="decision_function")
    return float(roc_auc_score(labels, scores))


# --- the files


def test_nilearn_finds_every_run_with_its_entities(small: Path) -> None:
    found = [parse_bids_filename(file)["entities"] for file in bold_files(small)]
    assert [(entry["sub"], entry["ses"], entry["space"], entry["res"], entry["desc"]) for entry in found] == [
        (subject, session, "MNI152NLin6Asym", "8", "preproc") for subject in ("001", "002") for session in ("1", "2")
    ]


def test_images_lie_in_mni_space_and_hold_the_brain(small: Path) -> None:
    image = nibabel.load(bold_files(small)[0])
    assert nibabel.aff2axcodes(image.affine) == ("R", "A", "S")
    assert np.allclose(np.diag(image.affine), [8, 8, 8, 1])
    assert image.header["sform_code"] == 4
    assert np.allclose(image.header.get_zooms(), (8, 8, 8, 0.72))
    first, last = image.affine[:3, 3], image.affine[:3, :3] @ (np.array(image.shape[:3]) - 1) + image.affine[:3, 3]
    assert np.all(first == (-90, -126, -72)) and np.all(last <= (90, 90, 108)) and np.all(last > np.array([90, 90, 108]) - 8)
    data = np.asarray(image.dataobj)
    # The bundled 1 mm mask holds about 1.88 litres; a nearest-voxel copy of it must hold as much.
    from nilearn.datasets import load_mni152_brain_mask

    litres = np.asarray(load_mni152_brain_mask().dataobj).sum() / 1e6
    assert (data[..., 0] > 0).sum() * 8**3 / 1e6 == pytest.approx(litres, rel=0.02)
    mask = np.asarray(nibabel.load(next(small.rglob("*desc-brain_mask.nii.gz"))).dataobj) > 0
    assert np.array_equal(mask, (data > 0).all(axis=-1)) and np.array_equal(mask, (data > 0).any(axis=-1))
    assert data[mask].mean() == pytest.approx(10000, rel=0.15)


def test_sidecars_and_tables_are_complete(small: Path) -> None:
    description = json.loads((small / "dataset_description.json").read_text())
    assert description["DatasetType"] == "derivative" and {"Name", "BIDSVersion", "GeneratedBy"} <= set(description)
    table = pd.read_csv(small / "participants.tsv", sep="\t")
    assert list(table.columns) == ["participant_id", "site", "group", "score", "age", "sex"]
    assert list(table.participant_id) == ["sub-001", "sub-002"]
    for bold in map(Path, bold_files(small)):
        sidecar = json.loads(bold.with_name(bold.name.replace(".nii.gz", ".json")).read_text())
        assert sidecar["RepetitionTime"] == 0.72 and sidecar["TaskName"] == "rest"
        events = pd.read_csv(next(bold.parent.glob("*_events.tsv")), sep="\t")
        assert list(events.columns) == ["onset", "duration", "trial_type"] and len(events) == 1
    assert not [path for path in small.rglob("*") if path.name.startswith(".tmp")]


def test_nilearn_reads_the_confounds_of_an_image(cohort: Cohort) -> None:
    file = next(name for name in bold_files(cohort.root) if "sub-003_ses-2" in name)
    strategy = ("motion", "high_pass", "wm_csf", "global_signal", "scrub")
    confounds, kept = load_confounds(file, strategy=strategy, scrub=0, fd_threshold=0.5, std_dvars_threshold=100)
    asked = {"trans_x", "rot_z_derivative1_power2", "csf", "white_matter", "global_signal", "cosine00"}
    assert len(confounds) == 200 and asked <= set(confounds)
    # nilearn's own scrubbing finds the planted frames and no others.
    spikes = next(session.spikes for session in cohort.truth.sessions if session.key in file)
    assert kept is not None and sorted(set(range(200)) - set(kept)) == list(spikes)


def test_global_signal_is_the_mean_over_the_mask(cohort: Cohort) -> None:
    session = cohort.truth.sessions[5]
    assert np.allclose(cohort.confounds(session).global_signal, cohort.series[session.key].mean(axis=1), rtol=1e-5)


# --- the same values, the same files


def test_same_spec_gives_the_same_bytes(small: Path, tmp_path: Path) -> None:
    simulate_cohort(tmp_path, SMALL)
    names = sorted(str(path.relative_to(small)) for path in small.rglob("*") if path.is_file())
    assert names == sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file())
    _, different, missing = filecmp.cmpfiles(small, tmp_path, names, shallow=False)
    assert not different and not missing


def test_a_person_does_not_depend_on_how_many_there_are(small: Path, tmp_path: Path) -> None:
    simulate_cohort(tmp_path, SMALL.model_copy(update={"subjects": 1, "sessions": 2}))
    for path in (tmp_path / "sub-001").rglob("*.*"):
        assert path.read_bytes() == (small / path.relative_to(tmp_path)).read_bytes(), path.name


def test_other_seeds_sessions_and_people_differ(small: Path, tmp_path: Path) -> None:
    simulate_cohort(tmp_path, SMALL.model_copy(update={"seed": 4, "subjects": 1}))
    files = [*bold_files(small), *bold_files(tmp_path)]
    images = {np.asarray(nibabel.load(file).dataobj).tobytes() for file in files}
    assert len(files) == len(images) == 6


def test_a_stopped_run_goes_on_and_leaves_finished_sessions_alone(small: Path, tmp_path: Path) -> None:
    simulate_cohort(tmp_path, SMALL)
    lost, kept = Path(bold_files(tmp_path)[1]), Path(bold_files(tmp_path)[0])
    before = kept.stat().st_mtime_ns
    lost.unlink()
    simulate_cohort(tmp_path, SMALL)
    assert lost.read_bytes() == (small / lost.relative_to(tmp_path)).read_bytes()
    assert kept.stat().st_mtime_ns == before


def test_left_handed_storage_holds_the_same_brain(small: Path, tmp_path: Path) -> None:
    simulate_cohort(tmp_path, SMALL.model_copy(update={"orientation": "LAS", "subjects": 1}))
    right, left = nibabel.load(bold_files(small)[0]), nibabel.load(bold_files(tmp_path)[0])
    assert nibabel.aff2axcodes(left.affine) == ("L", "A", "S")
    assert not np.array_equal(left.dataobj, right.dataobj)
    turned = nibabel.as_closest_canonical(left)
    assert np.allclose(turned.affine, right.affine) and np.array_equal(turned.dataobj, right.dataobj)


def test_one_session_has_no_session_folder_and_other_sizes_work(tmp_path: Path) -> None:
    simulate_cohort(tmp_path, CohortSpec(subjects=1, sessions=1, frames=30, tr=2.0, voxel_mm=12.5, events_per_session=1, networks=10))
    (bold,) = bold_files(tmp_path)
    assert bold.endswith("sub-001/func/sub-001_task-rest_space-MNI152NLin6Asym_res-12p5_desc-preproc_bold.nii.gz")
    assert nibabel.load(bold).header.get_zooms() == (12.5, 12.5, 12.5, 2.0)


def test_a_mask_of_ones_own_is_sampled_at_each_voxel_centre(tmp_path: Path) -> None:
    half = np.zeros((46, 55, 46), dtype=np.uint8)
    half[24:40, 15:40, 10:35] = 1
    affine = np.array([[4.0, 0, 0, -91], [0, 4, 0, -127], [0, 0, 4, -73], [0, 0, 0, 1]])
    nibabel.save(nibabel.Nifti1Image(half, affine), tmp_path / "half.nii.gz")
    simulate_cohort(tmp_path / "out", SMALL.model_copy(update={"subjects": 1}), mask=tmp_path / "half.nii.gz")
    image = nibabel.load(bold_files(tmp_path / "out")[0])
    brain = nibabel.affines.apply_affine(image.affine, np.argwhere(np.asarray(image.dataobj)[..., 0] > 0))
    # Voxel i of the source reaches from 4 i - 93 to 4 i - 89 mm along x.
    assert brain[:, 0].min() >= 4 * 24 - 93 and brain[:, 0].max() <= 4 * 39 - 89
    assert len(brain) * 8**3 == pytest.approx(half.sum() * 4**3, rel=0.15)


# --- refusals


def test_refuses_a_folder_of_something_else(small: Path, tmp_path: Path) -> None:
    (tmp_path / "dataset_description.json").write_text("{}")
    with pytest.raises(InputError, match="not simulated"):
        simulate_cohort(tmp_path, SMALL)
    with pytest.raises(InputError, match="other settings"):
        simulate_cohort(small, SMALL.model_copy(update={"seed": 9}))


@pytest.mark.parametrize(("change", "cause"), [({"events_per_session": 30}, "30 events"), ({"spikes_per_session": 50}, "50 motion spikes")])
def test_refuses_more_than_fits(tmp_path: Path, change: dict[str, int], cause: str) -> None:
    with pytest.raises(InputError, match=cause):
        simulate_cohort(tmp_path / "out", SMALL.model_copy(update=change))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "spec", [CohortSpec(), CohortSpec(tr=2.0), CohortSpec(tr=0.1), CohortSpec(events_per_session=2, spikes_per_session=9)]
)
def test_the_number_of_frames_that_is_named_is_enough(spec: CohortSpec) -> None:
    short = spec.model_copy(update={"subjects": 200, "frames": 8})
    with pytest.raises(
        InputError, match=r"^\d+ events, 16 s apart, do not fit into 8 frames of .* s; --frames \d+ is enough\.$"
    ) as refused:
        draw_truth(short)
    enough = int(re.findall(r"--frames (\d+)", str(refused.value))[0])
    truth = draw_truth(short.model_copy(update={"frames": enough}))
    assert {len(session.events) for session in truth.sessions} == {spec.events_per_session}
    assert all(spec.spikes_per_session <= len(session.spikes) <= 2 * spec.spikes_per_session for session in truth.sessions)


def test_the_command_refuses_a_number_of_frames_before_it_loads_anything(tmp_path: Path) -> None:
    code = (
        "import sys\nfrom slimbrain.cli import run_command\nout = sys.argv[1]\n"
        "assert [run_command(['simulate', out, '--frames', frames]) for frames in ('127', '20001')] == [1, 1]\n"
        "assert not {'scipy', 'nibabel'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "out")], capture_output=True, text=True)
    assert done.returncode == 0 and not (tmp_path / "out").exists(), done.stderr
    short, long = done.stderr.splitlines()
    assert short == "slimbrain: 6 events, 16 s apart, do not fit into 127 frames of 0.72 s; --frames 164 is enough."
    assert long == "slimbrain: --frames: must be at most 20000, not 20001; see `slimbrain simulate --help`."


def test_refuses_a_damaged_truth_and_a_useless_mask(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        load_truth(tmp_path)
    (tmp_path / "truth.json").write_text("{}")
    with pytest.raises(InputError, match=r"truth\.json"):
        load_truth(tmp_path)
    nibabel.save(nibabel.Nifti1Image(np.zeros((4, 4, 4), np.uint8), np.eye(4)), tmp_path / "empty.nii")
    with pytest.raises(InputError, match="no voxel"):
        simulate_cohort(tmp_path / "out", SMALL, mask=tmp_path / "empty.nii")


# --- the truth


def test_truth_on_disk_is_the_truth_returned(small: Path) -> None:
    assert load_truth(small) == load_truth(small / "truth.json") == draw_truth(SMALL)


def test_groups_are_balanced_over_sites() -> None:
    truth = draw_truth(CohortSpec(subjects=24, sites=3))
    counts = pd.crosstab([subject.site for subject in truth.subjects], [subject.group for subject in truth.subjects])
    assert counts.shape == (3, 2) and (counts == 4).all().all()


@pytest.mark.parametrize("seed", range(20))
def test_events_and_spikes_keep_their_distance(seed: int) -> None:
    spec = CohortSpec(subjects=2, seed=seed)
    for session in draw_truth(spec).sessions:
        onsets = np.array([event.onset_s for event in session.events])
        spikes = spec.tr * np.array(session.spikes)
        assert len(onsets) == 6 and 3 <= len(spikes) <= 6
        assert np.diff(onsets).min() > 15.99 and onsets[0] >= 0 and onsets[-1] + 12 <= 144.01
        assert all(((spikes < onset) | (spikes > onset + 12)).all() for onset in onsets)


def test_events_are_counted_in_the_window_of_their_peak(small: Path) -> None:
    session = load_truth(small).sessions[0]
    (event,) = session.events
    # A two-second burst under the canonical shape peaks about six seconds after it began.
    assert 5.5 < event.peak_s - event.onset_s < 7
    counts = session.events_per_window(window_frames=8, tr=0.72, n_windows=7)
    assert counts.sum() == (event.peak_s < 7 * 8 * 0.72)
    assert list(np.flatnonzero(counts)) == [window for window in range(7) if window * 5.76 <= event.peak_s < (window + 1) * 5.76]


def test_response_is_the_convolution_it_stands_for() -> None:
    times = np.arange(0, 40, 0.01)
    shape = gamma.pdf(times, 6) - gamma.pdf(times, 16) / 6
    convolved = np.convolve(shape, np.ones(200))[: len(times)]
    assert np.allclose(response(times), convolved / convolved.max(), atol=0.005)
    assert np.all(response(np.array([-5.0, -0.01, 0.0])) == 0)


def test_courses_have_unit_variance_and_the_documented_spectrum() -> None:
    white = np.random.default_rng(0).standard_normal((400, 2048))
    courses = _coloured(white, np.full(400, 0.1), tr=0.72)
    assert courses.shape == (400, 1024) and courses.var() == pytest.approx(1, rel=0.03)
    frequency, power = welch(courses, fs=1 / 0.72, nperseg=256)
    found = power.mean(axis=0) / power.mean(axis=0)[np.argmin(abs(frequency - 0.05))]
    expected = frequency**2 / (frequency**2 + 0.01**2) / (1 + (frequency / 0.1) ** 4)
    expected /= expected[np.argmin(abs(frequency - 0.05))]
    band = (frequency > 0.03) & (frequency < 0.25)
    assert np.allclose(found[band], expected[band], rtol=0.15)


# --- the planted signal, found again


def test_a_glm_finds_events_where_and_when_they_happened(cohort: Cohort) -> None:
    inside, outside, shifted = [], [], []
    for session in cohort.truth.sessions[:2]:
        file = next(name for name in bold_files(cohort.root) if session.key in name)
        events = pd.read_csv(next(Path(file).parent.glob("*_events.tsv")), sep="\t")
        confounds = cohort.confounds(session)[["framewise_displacement", "global_signal"]].fillna(0)
        mask = nibabel.load(file.replace("preproc_bold", "brain_mask"))
        for delay, found in ((0.0, inside), (8.0, shifted)):
            model = FirstLevelModel(t_r=0.72, mask_img=mask, high_pass=0.01, minimize_memory=True)
            model.fit(file, events.assign(onset=events.onset + delay), confounds)
            for kind in set(events.trial_type):
                t = np.asarray(model.compute_contrast(kind, stat_type="t", output_type="stat").dataobj)[np.asarray(mask.dataobj) > 0]
                where = cohort.near(cohort.truth.event_place(kind))
                elsewhere = ~cohort.near(cohort.truth.event_place(kind), 45)
                found.append(t[where].mean())
                if delay == 0:
                    outside.append(t[elsewhere].mean())
    assert min(inside) > 2
    assert np.mean(inside) > 4 and abs(np.mean(outside)) < 1 and np.mean(inside) > 3 * abs(np.mean(shifted))


def test_event_amplitude_is_about_the_one_asked_for(cohort: Cohort) -> None:
    peaks = []
    for session in cohort.truth.sessions:
        series = cohort.series[session.key]
        for event in session.events:
            peak, before = round(event.peak_s / 0.72), max(0, round(event.onset_s / 0.72) - 3)
            where = cohort.near(cohort.truth.event_place(event.kind), 6)
            change = series[peak - 1 : peak + 2][:, where].mean(axis=0) - series[before : before + 4][:, where].mean(axis=0)
            peaks.append((change / series[:, where].std(axis=0)).mean())
    # Events raise the standard deviation they are measured in, and the undershoot of the one before lowers the start.
    assert len(peaks) == 2 * PEOPLE * 6 and 1.3 < np.mean(peaks) < 3.0


def test_displacement_peaks_and_the_image_jumps_at_spikes_and_nowhere_else(cohort: Cohort) -> None:
    for session in cohort.truth.sessions:
        confounds = cohort.confounds(session)
        displacement = confounds.framewise_displacement.to_numpy()
        assert np.isnan(displacement[0])
        assert set(np.flatnonzero(displacement > 0.5)) == set(session.spikes)
        assert np.nanmedian(displacement) < 0.2
        change = np.abs(np.diff(cohort.series[session.key], axis=0)).mean(axis=1)
        jumps = set(np.flatnonzero(change > 2 * np.median(change)) + 1)
        assert jumps <= {frame for spike in session.spikes for frame in (spike, spike + 1)}
        assert {spike for spike in session.spikes if spike - 1 not in session.spikes} <= jumps


def test_people_are_recognised_across_sessions_by_connectivity(cohort: Cohort) -> None:
    features = connectivity(cohort).reshape(PEOPLE, 2, -1)
    similar = np.corrcoef(features[:, 0], features[:, 1])[:PEOPLE, PEOPLE:]
    accuracy = np.mean([similar.argmax(axis=axis) == np.arange(PEOPLE) for axis in (0, 1)])
    assert accuracy > 0.5  # chance is 0.04


def test_group_is_read_from_connectivity_of_people_left_out(cohort: Cohort) -> None:
    table = people(cohort)
    assert held_out_auc(connectivity(cohort), (table.group == "B").to_numpy(), table.index) > 0.8


def test_group_is_read_from_the_time_scale_of_its_networks_alone(cohort: Cohort) -> None:
    slow, auc_of_voxels, auc_of_means = (people(cohort).group == "A").to_numpy(), {}, {}
    for network in cohort.truth.networks:
        series = [without_spikes(cohort, session)[:, cohort.near(network)] for session in cohort.truth.sessions]
        auc_of_voxels[network.name] = roc_auc_score(slow, [autocorrelation(values, lag=3).mean() for values in series])
        auc_of_means[network.name] = roc_auc_score(slow, [autocorrelation(values.mean(axis=1)) for values in series])
    for auc in (auc_of_voxels, auc_of_means):
        assert min(auc[name] for name in cohort.truth.group_networks) > 0.95
        assert max(abs(value - 0.5) for name, value in auc.items() if name not in cohort.truth.group_networks) < 0.3


def test_group_shows_in_voxels_of_a_few_short_windows(cohort: Cohort) -> None:
    # What a voxel model is given: five windows of eight frames, each voxel z-scored over the whole run.
    table, steps = people(cohort), []
    where = cohort.near(cohort.truth.network("default")) | cohort.near(cohort.truth.network("control"))
    for session in cohort.truth.sessions:
        z = cohort.series[session.key][:, where]
        z = (z - z.mean(axis=0)) / z.std(axis=0)
        windows = z.reshape(25, 8, -1)[2:25:5]
        steps.append(np.median((windows[:, 4:].mean(axis=1) - windows[:, :4].mean(axis=1)) ** 2))
    assert roc_auc_score((table.group == "B").to_numpy(), steps) > 0.75


def test_score_goes_with_coupling_and_time_scale_of_its_networks(cohort: Cohort) -> None:
    first, second, other = (cohort.near(cohort.truth.network(name)) for name in (*cohort.truth.score_networks, "visual"))
    pair, slow, control = [], [], []
    for session in cohort.truth.sessions:
        series = without_spikes(cohort, session)
        pair.append(np.corrcoef(series[:, first].mean(axis=1), series[:, second].mean(axis=1))[0, 1])
        slow.append(autocorrelation(series[:, first | second], lag=3).mean())
        control.append(autocorrelation(series[:, other], lag=3).mean())
    score = people(cohort).score.to_numpy()
    assert pearsonr(score, pair).statistic > 0.5
    assert pearsonr(score, slow).statistic < -0.7
    assert abs(pearsonr(score, control).statistic) < 0.5


def test_coupling_of_the_planted_pair_rises_from_a_to_b(cohort: Cohort) -> None:
    first, second = (cohort.near(cohort.truth.network(name)) for name in cohort.truth.group_networks)
    coupling = []
    for session in cohort.truth.sessions:
        series = without_spikes(cohort, session)
        coupling.append(np.corrcoef(series[:, first].mean(axis=1), series[:, second].mean(axis=1))[0, 1])
    fast = (people(cohort).group == "B").to_numpy()
    values = np.array(coupling)
    assert ttest_ind(values[fast], values[~fast], alternative="greater").pvalue < 1e-3


def test_traits_of_no_strength_are_not_there(tmp_path: Path) -> None:
    subjects = draw_truth(CohortSpec(trait_strength=0)).subjects
    assert len({subject.group_coupling for subject in subjects}) == len({subject.score_cutoff_hz for subject in subjects}) == 1


def test_series_are_autocorrelated_and_smooth(cohort: Cohort) -> None:
    series = without_spikes(cohort, cohort.truth.sessions[0])
    far = [int(index) for index in np.argwhere(np.abs(cohort.mm[:, 0]) < 20).ravel()[::7]]
    neighbours = [(index, other) for index in far for other in np.flatnonzero(np.abs(cohort.mm - cohort.mm[index]).sum(axis=1) == 8)[:1]]
    correlation = np.corrcoef(series.T)
    assert autocorrelation(series).mean() > 0.4 and (autocorrelation(series) > 0).mean() > 0.99
    near = np.mean([correlation[pair] for pair in neighbours])
    assert near > 0.3 and near > 3 * abs(np.mean(correlation[np.ix_(far, far)][~np.eye(len(far), dtype=bool)]))


def test_sites_differ_in_noise_intensity_and_smoothness(cohort: Cohort) -> None:
    table, rows = people(cohort), []
    low = cohort.mm[:, 2] < -40
    index = {tuple(place): number for number, place in enumerate(cohort.mm)}
    pairs = [(number, index[x, y, z + 8]) for (x, y, z), number in index.items() if (x, y, z + 8) in index]
    first, second = np.array(pairs).T
    for session in cohort.truth.sessions:
        series = cohort.series[session.key]
        steps = np.diff(series / series.mean(axis=0), axis=0)
        steps = np.delete(steps, [step for spike in session.spikes for step in (spike - 1, spike)], axis=0)
        z = (steps - steps.mean(axis=0)) / steps.std(axis=0)
        alike = (z[:, first] * z[:, second]).mean()
        rows.append((steps[:, low].std(), series.mean(), alike))
    for values in np.array(rows).T:
        assert roc_auc_score((table.site == "site2").to_numpy(), values) > 0.9
