"""Brainmarks' Arrow files: against the same recording as an image, rows told apart, and what does not fit."""

from __future__ import annotations

import pickle
import sys
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pyarrow as pa
import pytest
from layout_samples import Prep, write_table
from prep_samples import Array, save

from slimbrain.errors import InputError
from slimbrain.prep import PrepOptions, prepare
from slimbrain.prep.layouts import choose_layout
from slimbrain.prep.layouts.base import RecordingQuery, Recordings
from slimbrain.prep.layouts.brainmarks import BRAINMARKS
from slimbrain.prep.source import frame_blocks
from slimbrain.store import Store

SHAPE, VOXELS = (91, 109, 91), 228_483
RAS = np.array([[2.0, 0, 0, -90], [0, 2, 0, -126], [0, 0, 2, -72], [0, 0, 0, 1]])


def volumes(frames: int = 12, seed: int = 0) -> Array:
    """(X, Y, Z, T) levels and courses that change along every axis."""
    rng = np.random.default_rng(seed)
    slope = sum(index / size * weight for index, size, weight in zip(np.indices(SHAPE), SHAPE, (200.0, 300.0, 500.0), strict=True))
    waves = [np.sin(index / size * 5 + axis) for axis, (index, size) in enumerate(zip(np.indices(SHAPE), SHAPE, strict=True))]
    courses = rng.standard_normal((3, frames)) * 20
    return np.asarray(
        1000 + slope[..., None] + sum(wave[..., None] * course for wave, course in zip(waves, courses, strict=True)), np.float32
    )


def row(data: Array, brain: Array, **cells: Any) -> dict[str, Any]:
    """What Brainmarks keeps of a recording: vectors from arrays with axes (Z, Y, X), z-scored, in float16."""
    listed = data.transpose(3, 2, 1, 0)[:, brain.transpose(2, 1, 0)]
    mean, std = listed.mean(axis=0, keepdims=True), listed.std(axis=0, keepdims=True)
    return {"sub": "01", "tr": 0.72, **cells, "bold": ((listed - mean) / std).astype(np.float16), "mean": mean, "std": std}


def nested(array: Array) -> pa.Array:
    """(N, M) as one cell of a column of lists of lists."""
    inner = pa.ListArray.from_arrays(np.arange(0, array.size + 1, array.shape[1], dtype=np.int32), pa.array(array.ravel()))
    return pa.ListArray.from_arrays(np.array([0, len(array)], np.int32), inner)


def write_arrow(path: Path, *rows: dict[str, Any], writer: Any = pa.ipc.new_stream) -> Path:
    """A batch a row, as datasets writes large rows."""
    path.parent.mkdir(parents=True, exist_ok=True)
    batches = [
        pa.RecordBatch.from_arrays([nested(v) if isinstance(v, np.ndarray) else pa.array([v]) for v in cells.values()], names=list(cells))
        for cells in rows
    ]
    with pa.OSFile(str(path), "wb") as sink, writer(sink, batches[0].schema) as stream:
        for batch in batches:
            stream.write_batch(batch)
    return path


def small(**cells: Any) -> dict[str, Any]:
    """A row whose arrays are not looked at."""
    return {"sub": "01", "tr": 0.72, **cells, **{name: np.zeros((1, 2), np.float32) for name in ("bold", "mean", "std")}}


def found(source: Path, mask: Path) -> Recordings:
    return BRAINMARKS.find(source, RecordingQuery(mask_source=mask))


def one_sentence(source: Path, mask: Path) -> str:
    (run,) = found(source, mask).runs
    with pytest.raises(InputError) as refusal:
        run.reader(run)
    return str(refusal.value)


@pytest.mark.parametrize("writer", [pa.ipc.new_stream, pa.ipc.new_file])
def test_a_row_gives_the_session_that_its_image_gives(
    tmp_path: Path, out: Path, prep: Prep, brain: Array, mask8: Path, mask_source: Path, writer: Any
) -> None:
    data = volumes()
    cells = {"ses": "a", "task": "rest", "run": 2, "path": "x.nii.gz", "age": 31.0, "dx": "ADHD"}
    write_arrow(tmp_path / "adhd200.mni.arrow" / "train" / "data-00000-of-00001.arrow", row(data, brain, **cells), writer=writer)
    summary = prep(tmp_path / "adhd200.mni.arrow", mask_source=mask_source)
    assert (len(summary.prepared), summary.failures) == (1, [])
    store = Store(out)
    (info,) = store.sessions
    assert info.key == "sub-01_ses-a_task-rest_run-2_space-MNI152NLin6Asym"
    save(tmp_path / "image.nii.gz", np.where(brain[..., None], data, 0), RAS, 0.72)
    table = write_table(tmp_path / "t.tsv", {"path": "image.nii.gz", "participant_id": "01", "space": "MNI152NLin6Asym"})
    prepare(table, tmp_path / "same", PrepOptions(mask=mask8, resolution="8mm"))
    same = Store(tmp_path / "same")
    other = same.sessions[0].key
    for ours, theirs in zip(store.moments(info.key), same.moments(other), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=2e-3)
    np.testing.assert_allclose(store.voxels(info.key).astype(float), same.voxels(other).astype(float), atol=0.02)
    assert store.moments(info.key)[1].max() > 1, "the moments must be the recording's, not those of a z-scored one"
    sidecar = store.sidecar(info.key)
    assert (sidecar["Layout"], sidecar["Split"], sidecar["SourceRepetitionTimeFrom"]) == ("brainmarks", "train", "row")
    assert "MNI152NLin6Asym" in sidecar["SpaceFrom"] and sidecar["Row"]["dx"] == "ADHD"
    assert store.participants == {"sub-01": {"participant_id": "sub-01", "age": "31.0", "dx": "ADHD", "split": "train"}}
    assert len(prep(tmp_path / "adhd200.mni.arrow", mask_source=mask_source).skipped) == 1


def test_vectors_go_back_to_their_places(tmp_path: Path, brain: Array, mask_source: Path) -> None:
    data = volumes(5)
    path = write_arrow(tmp_path / "x.arrow", row(volumes(6, 1), brain), row(data, brain, sub="02"))
    second = next(run for run in found(path, mask_source).runs if run.entities["sub"] == "02")
    second = pickle.loads(pickle.dumps(second))  # as it goes to a worker process
    source = second.reader(second)
    frames = np.concatenate(list(frame_blocks(source))).reshape(5, *SHAPE, order="F")
    np.testing.assert_allclose(frames, np.where(brain, data.transpose(3, 0, 1, 2), 0), atol=0.1)


def test_labels_come_from_the_columns_people_use(tmp_path: Path, mask_source: Path) -> None:
    rows = (small(mag="7T", dir="AP", task="REST1"), small(sub="sub-02", visit="V1"), small(sub="NDAR_INV", ses=3, run=1))
    for number, cells in enumerate(rows):
        write_arrow(tmp_path / f"{number}.arrow", cells)
    write_arrow(tmp_path / "cache-1.arrow", small(sub="cached"))
    assert choose_layout(tmp_path) is BRAINMARKS
    assert [run.entities for run in found(tmp_path, mask_source).runs] == [
        {"sub": "01", "task": "REST1", "acq": "7T", "dir": "AP", "space": "MNI152NLin6Asym"},
        {"sub": "02", "ses": "V1", "space": "MNI152NLin6Asym"},
        {"sub": "NDARINV", "ses": "3", "run": "1", "space": "MNI152NLin6Asym"},
    ]


def test_clips_of_one_recording_stay_apart(tmp_path: Path, mask_source: Path) -> None:
    clips = [small(run=1, start=start, end=start + 16, cond=f"c{start}", sex="F") for start in (0, 16, 32)]
    path = write_arrow(tmp_path / "nsd.mni.arrow" / "test" / "data.arrow", *clips, small(run=2, start=8, end=24, cond="x", sex="F"))
    everything = found(tmp_path / "nsd.mni.arrow", mask_source)
    assert [(run.entities["run"], run.entities.get("chunk")) for run in everything.runs] == [
        ("1", "0"),
        ("1", "16"),
        ("1", "32"),
        ("2", None),
    ]
    assert everything.participants == [{"participant_id": "sub-01", "sex": "F", "split": "test"}]
    assert everything.runs[1].name == f"{path} (row 1)"


def test_a_row_without_a_tr_asks_for_it(tmp_path: Path, prep: Prep, brain: Array, mask_source: Path) -> None:
    path = write_arrow(tmp_path / "x.arrow", row(volumes(10), brain, tr=float("nan")))
    assert "give it in seconds with --tr" in prep(path, mask_source=mask_source).failures[0].reason
    assert len(prep(path, mask_source=mask_source, tr=0.8).prepared) == 1


def test_what_does_not_fit_the_mask_is_refused(tmp_path: Path, mask_source: Path) -> None:
    path = write_arrow(tmp_path / "schaefer400.arrow", small())
    assert f"bold (1, 2), mean (1, 2), std (1, 2), not (T, {VOXELS})" in one_sentence(path, mask_source)
    ragged = pa.ListArray.from_arrays(
        np.array([0, 2], np.int32), pa.ListArray.from_arrays(np.array([0, 1, 3], np.int32), pa.array([1.0, 2, 3]))
    )
    batch = pa.RecordBatch.from_arrays(
        [pa.array(["01"]), pa.array([0.72]), ragged, ragged, ragged], names=["sub", "tr", "bold", "mean", "std"]
    )
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, batch.schema) as stream:
        stream.write_batch(batch)
    assert "rows of different length" in one_sentence(path, mask_source)


def test_files_and_rows_that_cannot_be_used_cost_themselves(tmp_path: Path, mask_source: Path) -> None:
    write_arrow(tmp_path / "a.arrow", {name: value for name, value in small().items() if name != "std"})
    (tmp_path / "b.arrow").write_bytes(b"not arrow at all")
    whole = write_arrow(tmp_path / "c.arrow", small(sub="ok"), small(sub=""))
    content = write_arrow(tmp_path / "d.arrow", small()).read_bytes()
    (tmp_path / "d.arrow").write_bytes(content[: len(content) // 2])
    everything = found(tmp_path, mask_source)
    assert [(run.image, run.entities["sub"]) for run in everything.runs] == [(whole, "ok")]
    reasons = {failure.file: failure.reason for failure in everything.failures}
    assert reasons.keys() == {"a.arrow", "b.arrow", "c.arrow (row 1)", "d.arrow"}
    assert "has no column std" in reasons["a.arrow"] and "names no participant" in reasons["c.arrow (row 1)"]
    assert all("cannot be read as Arrow" in reasons[name] for name in ("b.arrow", "d.arrow"))


def test_the_mask_is_asked_for_and_checked(tmp_path: Path, brain: Array, mask8: Path) -> None:
    path = write_arrow(tmp_path / "x.arrow", small())
    with pytest.raises(InputError, match="--mask-source"):
        BRAINMARKS.find(path, RecordingQuery())
    with pytest.raises(InputError, match=f"not Brainmarks' {VOXELS}"):
        found(path, mask8)
    smaller = brain.copy()
    smaller[43, 55, 40] = False
    nibabel.Nifti1Image(smaller.astype(np.uint8), RAS).to_filename(tmp_path / "smaller.nii")
    with pytest.raises(InputError, match=f"has {VOXELS - 1} voxels"):
        found(path, tmp_path / "smaller.nii")
    with pytest.raises(InputError, match="cannot be read as a mask"):
        found(path, tmp_path / "gone.nii")


def test_without_pyarrow_the_extra_is_named(tmp_path: Path, mask_source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_arrow(tmp_path / "x.arrow", small())
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(InputError, match=r"install the extra slimbrain\[arrow\]"):
        found(path, mask_source)


def test_the_published_mask_is_taken(shared_data: Path, tmp_path: Path) -> None:
    mask = shared_data / "templates" / "tpl-MNI152NLin6Asym_res-02_desc-brain_mask.nii.gz"
    path = write_arrow(tmp_path / "x.arrow", small())
    assert len(found(path, mask).runs) == 1
