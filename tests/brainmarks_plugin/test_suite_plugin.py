"""The plugin by itself: places, units and times of a sample, and the embeddings against `slimbrain prep` and `slimbrain embed`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from suite_samples import VOXEL, WINDOW, Array, noise, sample, save_models
from torch.utils.data import default_collate

from slimbrain import Grid, Store, from_pretrained
from slimbrain.config import WindowConfig
from slimbrain.embed.features import embed_store
from slimbrain.errors import InputError
from slimbrain.governance.provenance import REMEMBERED, people_in, remember
from slimbrain.models.hub import save_pretrained
from slimbrain.prep import PrepOptions, prepare
from slimbrain.saliency import select_uniform

MM = ((-40.0, 30.0, 10.0), (52.0, -20.0, -8.0), (6.0, -70.0, 44.0))
"""Places inside the mask, none the mirror image of another."""


def z(series: Array) -> Array:
    return np.asarray((series - series.mean(0)) / series.std(0))


def correlation(voxels: Array, course: Array) -> Array:
    """(P, V) of float16 series with a course."""
    series = voxels.astype(np.float32)
    spread = np.maximum(series.std(0), 1e-6)
    return np.einsum("tpv,t->pv", series - series.mean(0), z(course)) / len(course) / spread


def test_a_voxel_lands_in_its_patch(plugin: Any, brain: Array, mask_source: Path) -> None:
    grid = Grid.from_nifti(mask_source)
    volumes = noise(24)
    courses = np.random.default_rng(5).standard_normal((len(MM), 24)).astype(np.float32)
    for course, (x, y, z_) in zip(courses, MM, strict=True):
        place = (int(x + 90) // 2, int(y + 126) // 2, int(z_ + 72) // 2)
        assert brain[place]
        volumes[(slice(None), *place)] = 1000 + 20 * course
    transform = plugin.SlimBrainTransform(grid, WindowConfig(frames=8, k=3), 4, mask_source)
    clip = transform(sample(volumes, brain))
    assert clip["bold"].shape == (24, grid.n_patches, 64) and clip["bold"].dtype == torch.float16
    for course, mm in zip(courses, MM, strict=True):
        likeness = correlation(clip["bold"].numpy(), course)
        patch, within = np.argwhere(likeness > 0.99)[0]
        assert (likeness > 0.99).sum() == 1
        lattice = ((np.array(mm) - (-96, -112, -78)) / 2).astype(int)
        np.testing.assert_array_equal(grid.patches.index[patch], lattice // 4)
        assert within == np.ravel_multi_index(tuple(lattice % 4), (4, 4, 4))


def test_the_z_score_is_undone_before_voxels_are_averaged(plugin: Any, brain: Array, mask_source: Path, small_grid: Grid) -> None:
    volumes = noise(12)
    transform = plugin.SlimBrainTransform(small_grid, WINDOW, 4, mask_source)
    dense = small_grid.unpack(transform(sample(volumes, brain))["bold"].numpy().astype(np.float32))
    # Lattice voxel i of 8 mm holds the 2 mm voxels 4 i - 3 to 4 i along x; by count along y and z as well.
    inside = np.where(brain, volumes, 0)
    i, j, k = 10, 12, 11
    first = [int(corner + 8 * number - origin + 1) // 2 for corner, number, origin in ((-97, i, -90), (-113, j, -126), (-79, k, -72))]
    block = inside[(slice(None), *(slice(start, start + 4) for start in first))]
    assert (block != 0).all()
    np.testing.assert_allclose(dense[:, i, j, k], z(block.mean((1, 2, 3))), atol=0.02)
    assert np.abs(dense[:, i, j, k] - z(z(block).mean((1, 2, 3)))).max() > 0.3, "the test must tell raw units from z-scores"


def test_frames_come_to_the_tr_of_the_checkpoint(plugin: Any, brain: Array, mask_source: Path, small_grid: Grid) -> None:
    seconds = np.arange(20) * 2.0
    course = np.sin(2 * np.pi * seconds / 24).astype(np.float32)
    volumes = np.broadcast_to(1000 + 10 * course[:, None, None, None], (20, *brain.shape))
    transform = plugin.SlimBrainTransform(small_grid, WindowConfig(frames=4, k=13), 4, mask_source)
    clip = transform(sample(volumes, brain, tr=2.0))
    # 38 s at 0.72 s are 53 frames: 13 windows of 4.
    np.testing.assert_allclose(clip["seconds"], np.arange(52) * 0.72)
    assert clip["frames"] == 52
    wave = np.sin(2 * np.pi * clip["seconds"].numpy() / 24)
    series = small_grid.unpack(clip["bold"].numpy())[:, 11, 12, 11]
    assert np.corrcoef(series, wave)[0, 1] > 0.999


def test_a_tr_as_float32_counts_as_itself(plugin: Any, brain: Array, mask_source: Path, small_grid: Grid) -> None:
    transform = plugin.SlimBrainTransform(small_grid, WINDOW, 4, mask_source)
    assert float(torch.tensor(0.8, dtype=torch.float32)) > 0.8
    np.testing.assert_allclose(transform(sample(noise(12), brain, tr=0.8))["seconds"], np.arange(12) * 0.8)


@pytest.mark.parametrize("scored", [False, True])
def test_the_embedding_is_that_of_prep_and_embed(
    plugin: Any, brain: Array, mask_source: Path, small_grid: Grid, models: tuple[Path, Path], tmp_path: Path, scored: bool
) -> None:
    row = sample(drifting(40), brain, tr=1.4)
    write_row(tmp_path / "x.arrow", row)
    prepare(tmp_path / "x.arrow", tmp_path / "store", PrepOptions(mask=mask_source, resolution="8mm", mask_source=mask_source))
    temporal = models[1] if scored else None
    expected = embed_store(Store(tmp_path / "store"), from_pretrained(models[0]), windows=temporal)
    transform, wrapper = plugin.slimbrain(str(models[0]), str(temporal) if temporal else None, mask_path=str(mask_source))
    clip = transform(row)
    with torch.inference_mode():
        cls, reg, patch = wrapper(default_collate([clip, clip]))
    assert reg is None and cls.shape == (2, 1, 3 * 64) and patch.shape == (2, 3 * small_grid.n_units, 64)
    np.testing.assert_allclose(cls[0, 0], expected.values[0], atol=1e-5)
    used = expected.frames_used["sub-01_space-MNI152NLin6Asym"]
    np.testing.assert_allclose(clip["seconds"], used * 0.72)
    uniform = select_uniform(Store(tmp_path / "store").sessions[0].n_windows(4), 3)
    assert scored != np.array_equal(used[::4] // 4, uniform), "stage 1 must choose other windows than no stage 1"


def drifting(frames: int) -> Array:
    """(T, X, Y, Z) noise that shares a course in the last third, so that windows are unlike each other."""
    volumes = noise(frames)
    shared = np.random.default_rng(3).standard_normal(frames).astype(np.float32) * (np.arange(frames) > 2 * frames / 3)
    volumes += 60 * shared[:, None, None, None]
    return volumes


def write_row(path: Path, row: dict[str, Any]) -> None:
    pa = pytest.importorskip("pyarrow", reason="pyarrow is not installed; it is part of the extra dev")

    def nested(array: Array) -> Any:
        inner = pa.ListArray.from_arrays(np.arange(0, array.size + 1, array.shape[1], dtype=np.int32), pa.array(array.ravel()))
        return pa.ListArray.from_arrays(np.array([0, len(array)], np.int32), inner)

    cells = {"sub": pa.array([row["sub"]]), "tr": pa.array([np.float32(row["tr"])])}
    arrays = cells | {name: nested(row[name].numpy()) for name in ("bold", "mean", "std")}
    batch = pa.RecordBatch.from_arrays(list(arrays.values()), names=list(arrays))
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, batch.schema) as stream:
        stream.write_batch(batch)


def test_recordings_of_unlike_length_make_a_batch(
    plugin: Any, brain: Array, mask_source: Path, small_grid: Grid, models: tuple[Path, Path]
) -> None:
    transform, wrapper = plugin.slimbrain(str(models[0]), mask_path=str(mask_source))
    long, short = (transform(sample(noise(frames, frames), brain, target=frames > 10)) for frames in (13, 9))
    assert (long["frames"], short["frames"]) == (12, 8) and long["bold"].shape == short["bold"].shape
    with torch.inference_mode():
        together, alone = wrapper(default_collate([long, short])), wrapper(default_collate([short]))
    assert alone.patch_embeds.shape[1] == 2 * small_grid.n_units and together.patch_embeds.shape[1] == 3 * small_grid.n_units
    torch.testing.assert_close(together.cls_embeds[1], alone.cls_embeds[0])
    torch.testing.assert_close(together.patch_embeds[1].mean(0), alone.patch_embeds[0].mean(0))
    assert default_collate([long, short])["target"].tolist() == [True, False]


def test_too_short_a_recording_is_filled_up_and_said_so(plugin: Any, brain: Array, mask_source: Path, small_grid: Grid) -> None:
    transform = plugin.SlimBrainTransform(small_grid, WindowConfig(frames=5, k=8), 8, mask_source)
    with pytest.warns(UserWarning, match="7 frames of 0.72 s are under the 40"):
        clip = transform(sample(noise(7), brain))
    assert clip["frames"] == 40
    assert clip["bold"][:7].abs().max() > 1 and not clip["bold"][7:].any()


def test_what_cannot_be_used_is_refused_in_one_sentence(plugin: Any, brain: Array, mask_source: Path, small_grid: Grid) -> None:
    transform = plugin.SlimBrainTransform(small_grid, WINDOW, 4, mask_source)
    whole = sample(noise(12), brain, path="sub-01_bold.nii.gz")
    for change, reason in (
        ({"bold": torch.zeros(12, 400)}, r"sub-01_bold.nii.gz: has bold \(12, 400\).*space `mni`"),
        ({"tr": torch.tensor(float("nan"))}, "sub-01_bold.nii.gz: its column `tr` gives RepetitionTime nan"),
        ({"bold": torch.zeros(12, 228_483)}, "sub-01_bold.nii.gz: every brain voxel is constant"),
        ({"bold": whole["bold"][:3], "tr": torch.tensor(2.0)}, "sub-01_bold.nii.gz: has 3 frames"),
    ):
        with pytest.raises(InputError, match=reason):
            transform({**whole, **change})


def test_a_wrong_checkpoint_is_refused_in_one_sentence(
    plugin: Any, mask_source: Path, small_grid: Grid, models: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SLIMBRAIN_CHECKPOINT", raising=False)
    monkeypatch.delenv("SLIMBRAIN_TEMPORAL", raising=False)
    with pytest.raises(InputError, match="is a HieraJEPA, a TemporalExtractor is needed"):
        plugin.slimbrain(str(models[0]), str(models[0]), mask_path=str(mask_source))
    wide, _ = save_models(tmp_path, small_grid, VOXEL.model_copy(update={"unit_frames": 8}), WindowConfig(frames=4, k=4))
    with pytest.raises(InputError, match=r"k=1: 1 windows of 4 frames.* give a multiple of 2"):
        plugin.slimbrain(str(wide), k=1, mask_path=str(mask_source))
    monkeypatch.setenv("SLIMBRAIN_CHECKPOINT", str(models[0]))
    monkeypatch.setenv("SLIMBRAIN_TEMPORAL", str(models[1]))
    monkeypatch.setenv("SLIMBRAIN_MASK", str(mask_source))
    transform, wrapper = plugin.slimbrain()
    assert transform.temporal is not None and wrapper.__space__ == "mni"


def test_participants_of_the_pretraining_are_refused(
    plugin: Any, brain: Array, mask_source: Path, small_grid: Grid, tmp_path: Path
) -> None:
    stage2, stage1 = (str(path) for path in save_models(tmp_path, small_grid, seen=["sub-HCA001"]))
    planted, other = (sample(noise(12), brain, sub=subject) for subject in ("HCA_001", "HCA_002"))
    transform, _ = plugin.slimbrain(stage2, stage1, mask_path=str(mask_source))
    with pytest.raises(InputError, match=r"sub-HCA001: the model was trained on this participant.*allow_overlap=true"):
        transform(planted)
    assert transform(other)["frames"] == 12
    allowed, _ = plugin.slimbrain(stage2, stage1, mask_path=str(mask_source), allow_overlap=True)
    assert allowed(planted)["frames"] == 12


def test_a_recording_of_the_pretraining_is_known_under_another_name(
    plugin: Any, brain: Array, mask_source: Path, small_grid: Grid, models: tuple[Path, Path], tmp_path: Path
) -> None:
    """Prepared by `slimbrain prep` there and by the plugin here; another recording of the same length is not refused."""
    pytest.importorskip("pyarrow", reason="pyarrow is not installed; it is part of the extra dev")
    row = sample(drifting(40), brain, tr=1.4)
    write_row(tmp_path / "x.arrow", row)
    prepare(tmp_path / "x.arrow", tmp_path / "store", PrepOptions(mask=mask_source, resolution="8mm", mask_source=mask_source))
    people = people_in(Store(tmp_path / "store"))
    model = from_pretrained(models[0])
    assert model.provenance is not None
    seen = save_pretrained(model, tmp_path / "model", replace(model.provenance, training={REMEMBERED: remember(people)}))
    transform, _ = plugin.slimbrain(str(seen), mask_path=str(mask_source))
    with pytest.raises(InputError, match=r"sub-other: the model was trained on this participant or recording"):
        transform({**row, "sub": "other"})
    assert transform({**sample(noise(40, 7), brain, tr=1.4), "sub": "other"})["frames"] == 12


def test_without_any_argument_the_shipped_model_reads_cells(
    plugin: Any, brain: Array, mask_source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The cls vector is what the package's own encoder makes of the same cells; recordings of two lengths make a batch."""
    for name in ("SLIMBRAIN_CHECKPOINT", "SLIMBRAIN_TEMPORAL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("SLIMBRAIN_MASK", str(mask_source))
    transform, wrapper = plugin.slimbrain()
    samples = [sample(noise(frames, seed), brain, sub=f"new{seed}") for seed, frames in enumerate((40, 24))]
    made = [transform(one) for one in samples]
    batch = {name: default_collate([one[name] for one in made]) for name in ("bold", "frames")}
    with torch.no_grad():
        cls, registers, patch = wrapper(batch)
    assert cls.shape == (2, 1, 4100) and registers is None and patch.shape == (2, 8, 64)
    assert torch.isfinite(cls).all() and torch.isfinite(patch).all()
    sessions = [transform.session(one) for one in samples]
    model = from_pretrained("slimbrain-temporal")
    for session, vector in zip(sessions, cls[:, 0], strict=True):
        np.testing.assert_allclose(vector, embed_store(session, model).values[0], rtol=1e-3, atol=1e-4)
