"""The encoder as scikit-learn uses it: the numbers of the store from images, labels found again, copies that are the same."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import joblib
import nibabel
import numpy as np
import pytest
import torch
from encoder_samples import CARRY, WINDOW, Cohort, series, write_cohort, write_image, write_models
from sklearn.base import clone
from sklearn.compose import make_column_transformer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import check_estimator

import slimbrain
from slimbrain.cli import run_command
from slimbrain.config import TemporalConfig
from slimbrain.embed.encoder import SlimBrainEncoder
from slimbrain.errors import ContractError, InputError, SlimbrainError, StoreError
from slimbrain.governance.provenance import REMEMBERED, Provenance, people_in, remember
from slimbrain.grid import Grid
from slimbrain.models.hub import from_pretrained, save_pretrained
from slimbrain.models.temporal import TemporalExtractor
from slimbrain.prep import PrepOptions, prepare
from slimbrain.saliency import rank_store, trained_saliency, write_window_table
from slimbrain.saliency.choose import choose_windows
from slimbrain.store import Contract, Store


@pytest.fixture(scope="module")
def grid() -> Grid:
    return Grid.mni152("8mm")


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory, grid: Grid) -> Cohort:
    root = tmp_path_factory.mktemp("encoder")
    images, groups, subjects = write_cohort(root / "bids", grid, 8)
    assert prepare(root / "bids", root / "store", PrepOptions(resolution="8mm")).exit_code == 0
    write_models(root, grid)
    return Cohort(root, images, groups, subjects)


@pytest.fixture(scope="module")
def vectors(cohort: Cohort) -> np.ndarray:
    """(16, 192) of the whole store."""
    return SlimBrainEncoder(cohort.voxel).fit().transform(cohort.store)


# --- participants that the model was trained on


def test_participants_of_the_training_are_warned_of_once(cohort: Cohort, grid: Grid, tmp_path: Path) -> None:
    """Three of eight by name and recording; as images, which have no cohort, by the recording alone."""
    store, model = Store(cohort.store), from_pretrained(cohort.voxel)
    known = store.select({"sub-00", "sub-01", "sub-02"})
    assert model.provenance is not None
    training = {REMEMBERED: remember(people_in(known))}
    folder = save_pretrained(model, tmp_path / "model", replace(model.provenance, training=training))
    encoder = SlimBrainEncoder(folder).fit()
    with pytest.warns(slimbrain.TrainingOverlapWarning, match=r"trained on 3 of the 8 participants to be embedded, first sub-00") as caught:
        encoder.transform(store)
    assert len(caught) == 1
    renamed = [shutil.copy(cohort.images[place], tmp_path / f"{place}.nii.gz") for place in (0, 15)]
    with pytest.warns(slimbrain.TrainingOverlapWarning, match="trained on 1 of the 2 images"):
        encoder.transform(renamed)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        encoder.transform(store.select({"sub-03", "sub-07"}))
        encoder.transform(cohort.images[14:])
        warnings.simplefilter("ignore", slimbrain.TrainingOverlapWarning)
        encoder.transform(cohort.images[:1])


# --- the same numbers, whatever the way in


def test_paths_images_and_arrays_give_the_numbers_of_the_store(cohort: Cohort, vectors: np.ndarray) -> None:
    encoder = SlimBrainEncoder(cohort.voxel).fit()
    few = cohort.images[:3]
    assert np.array_equal(encoder.transform(few), vectors[:3])
    loaded = [nibabel.load(path) for path in few]
    assert np.array_equal(encoder.transform(loaded), vectors[:3])
    arrays = [nibabel.Nifti1Image(np.asanyarray(image.dataobj), image.affine, image.header) for image in loaded]
    assert np.array_equal(encoder.transform(arrays), vectors[:3])
    assert np.array_equal(encoder.transform([arrays[1], few[0], few[0]]), vectors[[1, 0, 0]])


def test_stage_1_reads_images_too(cohort: Cohort) -> None:
    encoder = SlimBrainEncoder(cohort.temporal).fit()
    assert np.array_equal(encoder.transform(cohort.images[:2]), encoder.transform(cohort.store)[:2])


def test_another_tr_place_and_side_give_the_numbers_of_the_store(cohort: Cohort, grid: Grid, tmp_path: Path) -> None:
    """Interpolated in space and time, left-handed, scaled, and the TR only in a JSON file above the participant."""
    affine = np.diag((-12.0, 12.0, 12.0, 1.0))
    affine[:3, 3] = (93.0, -113.0, -79.0)
    scaled = nibabel.Nifti1Image(np.random.default_rng(0).normal(900, 30, (16, 16, 16, 40)).astype(np.float32), affine)
    scaled.set_data_dtype(np.int16)
    path = tmp_path / "bids" / "sub-09" / "func" / "sub-09_task-rest_run-2_space-MNI152NLin2009cAsym_bold.nii.gz"
    path.parent.mkdir(parents=True)
    scaled.to_filename(path)
    (tmp_path / "bids" / "task-rest_bold.json").write_text(json.dumps({"RepetitionTime": 2.0}))
    assert prepare(tmp_path / "bids", tmp_path / "store", PrepOptions(resolution="8mm")).exit_code == 0
    encoder = SlimBrainEncoder(cohort.voxel).fit()
    with pytest.warns(UserWarning, match="does not look like a brain in MNI space"):
        ours = encoder.transform([path])
    assert np.array_equal(ours, encoder.transform(tmp_path / "store"))
    # An image whose header was put right in memory counts as it is in memory.
    image = nibabel.load(path)
    image.header.set_zooms((*image.header.get_zooms()[:3], 2.0))
    with pytest.warns(UserWarning, match="does not look like a brain"):
        assert np.array_equal(encoder.transform([image]), ours)
    image.set_sform(affine @ np.diag((1, 1, -1, 1)) + np.array([0, 0, 180, 0])[:, None] * [0, 0, 0, 1])
    with pytest.warns(UserWarning):
        assert not np.array_equal(encoder.transform([image]), ours)


def test_keys_come_in_the_order_given_and_as_often(cohort: Cohort, vectors: np.ndarray) -> None:
    keys = [info.key for info in Store(cohort.store).sessions]
    for store in (cohort.store, str(cohort.store), Store(cohort.store)):
        encoder = SlimBrainEncoder(cohort.voxel, store=store).fit()
        assert np.array_equal(encoder.transform([keys[5], keys[0], keys[5]]), vectors[[5, 0, 5]])
    assert np.array_equal(encoder.transform(np.array(keys[:2])), vectors[:2])


def test_the_command_gives_the_same_numbers(cohort: Cohort, vectors: np.ndarray, tmp_path: Path) -> None:
    words = ("embed", cohort.store, "--model", cohort.voxel, "--out", tmp_path / "x.npz")
    assert run_command([*map(str, words), "--pooling", "units", "--windows", str(cohort.temporal), "--k", "4"]) == 0
    encoder = SlimBrainEncoder(cohort.voxel, cohort.temporal, pooling="units", k=4).fit()
    assert np.array_equal(np.load(tmp_path / "x.npz")["embedding"], encoder.transform(cohort.store))
    assert run_command([*map(str, words)]) == 0
    assert np.array_equal(np.load(tmp_path / "x.npz")["embedding"], vectors)


def test_a_stage_1_model_chooses_as_its_table_does(cohort: Cohort, grid: Grid, tmp_path: Path) -> None:
    store, scorer = Store(cohort.store), from_pretrained(cohort.temporal)
    assert isinstance(scorer, TemporalExtractor)
    table = write_window_table(tmp_path / "windows.tsv", rank_store(store, scorer, trained_saliency(scorer)))
    on_the_fly = SlimBrainEncoder(cohort.voxel, windows=cohort.temporal).fit().transform(cohort.images[:2])
    by_table = SlimBrainEncoder(cohort.voxel, windows=table).fit()
    assert np.array_equal(by_table.transform(cohort.store)[:2], on_the_fly)
    assert np.array_equal(by_table.transform(cohort.images[:2]), on_the_fly)
    assert not np.array_equal(SlimBrainEncoder(cohort.voxel, windows="uniform").fit().transform(cohort.images[:2]), on_the_fly)


def test_a_table_for_another_window_choice_is_obeyed(cohort: Cohort) -> None:
    """Choosing by a table is what `choose_windows` says: the best k, in order of time."""
    info = Store(cohort.store).sessions[0]
    assert choose_windows(info, WINDOW, 4, [9, 0, 4, 1]) == [0, 4, 9]


# --- inside scikit-learn


def test_a_planted_label_is_found_by_cross_validation_over_participants(cohort: Cohort) -> None:
    keys = [info.key for info in Store(cohort.store).sessions]
    encoder = SlimBrainEncoder(cohort.voxel, k=10, store=cohort.store)
    pipeline = make_pipeline(encoder, StandardScaler(), LogisticRegression())
    slow = np.array(cohort.groups) == "slow"
    found = cross_val_score(pipeline, keys, slow, groups=cohort.subjects, cv=GroupKFold(2), scoring="roc_auc")
    assert found.mean() > 0.95
    # A label that has nothing to do with the recordings: half of each group.
    other = np.array([int(name[-2:]) < 4 for name in cohort.subjects])
    chance = cross_val_score(pipeline, keys, other, groups=cohort.subjects, cv=GroupKFold(2), scoring="roc_auc")
    assert chance.mean() < 0.8


def test_images_go_through_a_pipeline_and_a_column_transformer(cohort: Cohort, vectors: np.ndarray) -> None:
    import pandas as pd

    table = pd.DataFrame({"image": [str(path) for path in cohort.images[:2]], "age": [30.0, 40.0]})
    columns = make_column_transformer((SlimBrainEncoder(cohort.voxel), ["image"]), ("passthrough", ["age"]))
    out = columns.fit_transform(table)
    assert np.array_equal(out[:, :-1].astype(np.float32), vectors[:2]) and out[:, -1].tolist() == [30, 40]


@pytest.mark.parametrize(("pooling", "width"), [("mean", 64), ("moments", 192), ("units", 64 * 27)])
def test_every_number_has_a_name(pooling: str, width: int, cohort: Cohort, vectors: np.ndarray, grid: Grid) -> None:
    encoder = SlimBrainEncoder(cohort.voxel, pooling=pooling).fit().set_output(transform="pandas")
    frame = encoder.transform(cohort.images[:1])
    names = list(encoder.get_feature_names_out())
    assert len(set(names)) == len(names) == width == frame.shape[1] and list(frame.columns) == names
    if pooling == "units":
        # All units have the same tokens over time, so the mean over units is the mean over tokens.
        blocks = frame.to_numpy().reshape(len(grid.units), 64)
        np.testing.assert_allclose(blocks.mean(0), vectors[0, :64], atol=1e-5)
        x, y, z = grid.units.mm[1]
        assert names[64] == f"unit_{x:+g}_{y:+g}_{z:+g}_0"
    else:
        np.testing.assert_allclose(frame.to_numpy()[0], vectors[0, :width], atol=1e-6)


def test_pandas_output_is_indexed_by_session(cohort: Cohort, vectors: np.ndarray, tmp_path: Path) -> None:
    """So that it joins with a table of sessions, in whatever order; a table of images keeps its own index."""
    import pandas as pd

    store = Store(cohort.store)
    encoder = SlimBrainEncoder(cohort.voxel, store=store).fit().set_output(transform="pandas")
    keys = [info.key for info in store.sessions]
    whole = encoder.transform(store)
    assert list(whole.index) == keys and whole.index.name == "session" and np.array_equal(whole.to_numpy(), vectors)
    some = encoder.transform([keys[3], keys[0]])
    pd.testing.assert_frame_equal(some, whole.loc[[keys[3], keys[0]]])
    sessions = pd.read_csv(cohort.store / "sessions.tsv", sep="\t", index_col="session")
    assert list(some.join(sessions["participant_id"])["participant_id"]) == [cohort.subjects[3], cohort.subjects[0]]
    renamed = shutil.copy(cohort.images[1], tmp_path / "scan.nii.gz")
    assert list(encoder.transform([cohort.images[0], renamed]).index) == [keys[0], str(tmp_path / "scan.nii.gz")]
    table = pd.DataFrame({"image": [str(cohort.images[0])]}, index=["mine"])
    assert list(encoder.transform(table).index) == ["mine"]
    encoder.set_output(transform="default")
    assert isinstance(encoder.transform([keys[0]]), np.ndarray)


def test_names_of_stage_1(cohort: Cohort) -> None:
    encoder = SlimBrainEncoder(cohort.temporal).fit()
    assert len(encoder.get_feature_names_out()) == encoder.transform(cohort.images[:1]).shape[1] == 32


def test_copies_read_the_checkpoint_again(cohort: Cohort, vectors: np.ndarray, tmp_path: Path) -> None:
    encoder = SlimBrainEncoder(cohort.voxel, tr=0.72).fit()
    file = tmp_path / "encoder.joblib"
    joblib.dump(encoder, file)
    assert file.stat().st_size < 2000
    again = joblib.load(file)
    assert np.array_equal(again.transform(cohort.images[:1]), vectors[:1])
    assert list(joblib.load(file).get_feature_names_out()) == list(encoder.get_feature_names_out())
    assert clone(encoder).get_params() == encoder.get_params() and not hasattr(clone(encoder), "model_")


def test_a_copy_refuses_other_weights(cohort: Cohort, tmp_path: Path, grid: Grid) -> None:
    write_models(tmp_path, grid)
    encoder = SlimBrainEncoder(tmp_path / "voxel").fit()
    copy = joblib.load(joblib.dump(encoder, tmp_path / "x.joblib")[0])
    model = from_pretrained(tmp_path / "voxel")
    with torch.no_grad():
        next(model.parameters()).add_(1)
    assert model.provenance is not None
    save_pretrained(model, tmp_path / "voxel", model.provenance)
    with pytest.raises(InputError, match=r"holds other weights than when this encoder was fitted; fit it again\.$"):
        copy.transform(cohort.images[:1])
    # The one that is in memory is still the one that was fitted.
    encoder.transform(cohort.images[:1])


def test_check_estimator_passes(cohort: Cohort) -> None:
    """scikit-learn leaves out what needs tables of numbers; `test_check_estimator_on_rows_that_stand_for_sessions` runs that."""
    with pytest.warns(match="requires input"):
        results = check_estimator(SlimBrainEncoder(cohort.voxel), on_fail=None)
    assert [result["check_name"] for result in results if result["status"] == "failed"] == []


class RowsAsSessions(SlimBrainEncoder):
    """The encoder with an adapter in front, since the checks know tables of numbers only: a row stands for one of three sessions."""

    def transform(self, X: Any) -> Any:
        from sklearn.utils.validation import check_array, check_is_fitted

        check_is_fitted(self)
        rows = check_array(X, dtype=np.float64)
        keys = [info.key for info in Store(self.store).sessions[:3]]
        return super().transform([keys[int(abs(row).sum() * 1000) % 3] for row in rows])

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = True
        return tags


EXPECTED_FAILED_CHECKS = {
    "check_estimator_sparse_tag": "fit learns nothing from X and looks at none of it, so it cannot refuse a sparse matrix; transform does",
    "check_transformer_general": "wants fewer columns than in fit to be refused, but sessions have none (all else in it passes)",
}
"""By name, with the reason; documented in docs/scikit_learn.md."""


def test_check_estimator_on_rows_that_stand_for_sessions(cohort: Cohort) -> None:
    encoder = RowsAsSessions(cohort.voxel, pooling="mean", k=1, store=str(cohort.store))
    results = check_estimator(encoder, on_fail=None, on_skip=None, expected_failed_checks=EXPECTED_FAILED_CHECKS)
    failed = {result["check_name"]: repr(result["exception"]) for result in results if result["status"] in ("failed", "xfail")}
    assert failed.keys() == EXPECTED_FAILED_CHECKS.keys(), failed
    assert sum(result["status"] == "passed" for result in results) > 25


# --- refusals


def refused(call: Any, kind: type[SlimbrainError] = InputError) -> str:
    with pytest.raises(kind) as refusal:
        call()
    message = str(refusal.value)
    assert "\n" not in message and message.endswith("."), message
    return message


@pytest.mark.parametrize(
    ("X", "words"),
    [
        ([], "X is a list: give a store"),
        (3, "X is a int: give a store"),
        (np.zeros((3, 4)), "X is a ndarray"),
        ([np.zeros((3, 4))], "X is a list"),
        ("one_bold.nii.gz", "is one image"),
        (["sub-00_task-rest"], "no store= says where"),
        (["nowhere_bold.nii.gz"], "does not exist"),
        (["sub-01_task-rest_bold.nii.gz"], "native space"),
        (["sub-01_task-rest_space-T1w_bold.nii.gz"], "is in T1w"),
    ],
)
def test_what_is_no_session_is_refused(X: Any, words: str, cohort: Cohort) -> None:
    assert words in refused(lambda: SlimBrainEncoder(cohort.voxel).fit().transform(X))


def test_parameters_are_checked_by_fit(cohort: Cohort) -> None:
    assert "choose one of mean, moments, units" in refused(SlimBrainEncoder(cohort.voxel, pooling="max").fit)
    assert "k=0" in refused(SlimBrainEncoder(cohort.voxel, k=0).fit)
    assert "is not a model folder" in refused(SlimBrainEncoder("nothing").fit)
    assert "a TemporalExtractor is needed" in refused(SlimBrainEncoder(cohort.voxel, windows=cohort.voxel).fit)
    assert "has no session nobody" in refused(
        lambda: SlimBrainEncoder(cohort.voxel, store=cohort.store).fit().transform(["nobody"]), StoreError
    )
    assert "none.tsv: there is no such window table" in refused(SlimBrainEncoder(cohort.voxel, windows=cohort.root / "none.tsv").fit)


def test_a_tr_that_nobody_knows_is_asked_for(cohort: Cohort, grid: Grid, tmp_path: Path, vectors: np.ndarray) -> None:
    data = np.asanyarray(nibabel.load(cohort.images[0]).dataobj)
    image = nibabel.Nifti1Image(data, grid.lattice.affine)
    message = refused(lambda: SlimBrainEncoder(cohort.voxel).fit().transform([image]))
    assert message.startswith("image 0 of Nifti1Image: has no TR") and message.endswith("give it in seconds with tr=.")
    assert np.array_equal(SlimBrainEncoder(cohort.voxel, tr=0.72).fit().transform([image]), vectors[:1])
    assert "but tr= says 2" in refused(lambda: SlimBrainEncoder(cohort.voxel, tr=2.0).fit().transform(cohort.images[:1]))


def test_images_that_prep_would_leave_out_are_refused(cohort: Cohort, grid: Grid, tmp_path: Path) -> None:
    encoder = SlimBrainEncoder(cohort.voxel).fit()
    cut = write_image(tmp_path / "cut.nii.gz", series(grid, 40, 0.1, 1)[:, :, :11], grid.lattice.affine)
    message = refused(lambda: encoder.transform([cut]))
    assert str(cut) in message and "above z" in message and "--min-coverage 0.7" in message
    short = write_image(tmp_path / "short.nii.gz", series(grid, 7, 0.1, 1), grid.lattice.affine)
    assert "gives 7 frames" in refused(lambda: encoder.transform([short]))
    flat = write_image(tmp_path / "flat.nii.gz", np.ones((24, 24, 24), np.int16)[..., None].repeat(20, -1), grid.lattice.affine)
    assert "constant over time" in refused(lambda: encoder.transform([flat]))
    other = nibabel.spatialimages.SpatialImage(np.zeros((2, 2, 2, 9)), np.eye(4))
    assert "SpatialImage" in refused(lambda: encoder.transform([other]))


def test_two_versions_of_a_run_are_two_rows(cohort: Cohort, grid: Grid, tmp_path: Path, vectors: np.ndarray) -> None:
    """Their BIDS names give one session key; neither may be taken for the other."""
    first = cohort.images[0]
    name = first.name.replace("desc-preproc", "desc-other")
    second = write_image(tmp_path / name, series(grid, 80, CARRY["slow"], 99), grid.lattice.affine)
    both = SlimBrainEncoder(cohort.voxel).fit().transform([first, second])
    assert np.array_equal(both[0], vectors[0]) and not np.allclose(both[0], both[1])


def test_data_and_models_that_do_not_fit_are_refused(cohort: Cohort, grid: Grid, tmp_path: Path) -> None:
    store = tmp_path / "store4"
    assert prepare(cohort.root / "bids", store, PrepOptions(resolution="4mm", participant_label=("00",), session_id=("1",))).exit_code == 0
    message = refused(lambda: SlimBrainEncoder(cohort.voxel).fit().transform(store), ContractError)
    assert "mni-8mm" in message and "mni-4mm" in message
    regions = Provenance(Contract("roi", "", "roi", 0.72), WINDOW, None)
    save_pretrained(TemporalExtractor(TemporalConfig(width=16, depth=1, heads=2, groups=4, window_frames=8)), tmp_path / "roi", regions)
    encoder = SlimBrainEncoder(tmp_path / "roi").fit()
    assert "not images" in refused(lambda: encoder.transform(cohort.images[:1]))
    longer = TemporalExtractor(TemporalConfig(width=16, depth=1, heads=2, groups=4, window_frames=10))
    provenance = from_pretrained(cohort.temporal).provenance
    assert provenance is not None
    save_pretrained(longer, tmp_path / "longer", replace(provenance, window=WINDOW.model_copy(update={"frames": 10})))
    wrong = SlimBrainEncoder(cohort.voxel, windows=tmp_path / "longer").fit()
    assert "windows of 10 frames" in refused(lambda: wrong.transform(cohort.store))


# --- what is imported


def test_embedding_imports_no_training_code(cohort: Cohort) -> None:
    code = (
        "import sys, slimbrain\n"
        "encoder = slimbrain.SlimBrainEncoder(sys.argv[1], windows=sys.argv[2]).fit()\n"
        "encoder.transform(sys.argv[3]); encoder.transform([sys.argv[4]])\n"
        "print(*sorted(sys.modules), sep='\\n')"
    )
    words = (cohort.voxel, cohort.temporal, cohort.store, cohort.images[0])
    out = subprocess.run([sys.executable, "-c", code, *map(str, words)], check=True, capture_output=True, text=True).stdout.split()
    assert "slimbrain.models.hiera" in out and "slimbrain.prep.volume" in out
    barred = ("slimbrain.train", "slimbrain.train.checkpoint", "slimbrain.train.distributed", "torch.distributed.checkpoint", "tensorboard")
    assert [name for name in out if name.startswith(barred)] == []


def test_it_is_the_encoder_of_the_package() -> None:
    assert slimbrain.SlimBrainEncoder is SlimBrainEncoder
