"""The published chunks: joined in order, and what is said where a frame is missing, doubled, or damaged."""

from __future__ import annotations

import io
import pickle
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from layout_samples import Prep
from prep_samples import Array

from slimbrain.errors import InputError
from slimbrain.grid import LATTICES, Grid
from slimbrain.prep import volume
from slimbrain.prep.layouts import choose_layout
from slimbrain.prep.layouts.base import RecordingQuery
from slimbrain.prep.layouts.npz import NPZ, Chunk, ChunkedSource, _check_frames, _open_chunks
from slimbrain.prep.source import frame_blocks
from slimbrain.store import Store

EDGE = 96


def volumes(frames: int, seed: int = 0) -> Array:
    """(96, 96, 96, T) float16: a level and a course that differ by octant, so that no axis can be swapped unseen."""
    rng = np.random.default_rng(seed)
    octant = np.indices((EDGE,) * 3).reshape(3, -1) >= np.array([[40], [50], [60]])
    place = (octant * np.array([[1], [2], [4]])).sum(axis=0)
    courses = rng.standard_normal((8, frames)) * 20 + 100 * np.arange(1, 9)[:, None]
    return courses[place].reshape(EDGE, EDGE, EDGE, frames).astype(np.float16)


def write_chunks(root: Path, data: Array, names: dict[str, slice], subject: str = "0010001", **extra: object) -> list[Path]:
    folder = root / subject
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{subject}_{name}.npz" for name in names]
    for path, part in zip(paths, names.values(), strict=True):
        np.savez_compressed(path, arr=data[..., part], **extra)  # type: ignore[arg-type]
    return paths


def opened(root: Path) -> ChunkedSource:
    (run,) = pickle.loads(pickle.dumps(NPZ.find(root, RecordingQuery()).runs))  # as they go to worker processes
    return _open_chunks(run)


def test_chunks_become_one_session(tmp_path: Path, out: Path, prep: Prep) -> None:
    data = volumes(10)
    names = {"run-1_0006-0009": slice(6, 10), "run-1_0000-0005_2": slice(3, 6), "run-1_0000-0005_1": slice(0, 3)}
    write_chunks(tmp_path / "ABIDE_train", data, names)
    assert "--tr" in prep(tmp_path).failures[0].reason
    summary = prep(tmp_path, tr=0.72)
    store = Store(out)
    (info,) = store.sessions
    assert (info.key, info.n_frames) == ("sub-0010001_run-1_space-MNI152", 10)
    assert any("hold no affine" in warning for warning in summary.prepared[0].warnings)
    sidecar = store.sidecar(info.key)
    assert (sidecar["Layout"], sidecar["Dataset"], sidecar["Split"], len(sidecar["SourceFiles"])) == ("npz", "ABIDE", "train", 3)
    # A lattice voxel of 8 mm well inside an octant is the mean of 64 equal ones.
    mean = store.grid.unpack(store.moments(info.key)[0])
    np.testing.assert_allclose(mean[5, 8, 10], data[20, 32, 40].astype(np.float64).mean(), rtol=1e-4)
    np.testing.assert_allclose(mean[14, 8, 10], data[60, 32, 40].astype(np.float64).mean(), rtol=1e-4)
    course = data[20, 60, 40].astype(np.float64)
    np.testing.assert_allclose(store.grid.unpack(store.voxels(info.key))[:, 5, 15, 10], (course - course.mean()) / course.std(), atol=4e-3)


@pytest.mark.parametrize("block_frames", [32, 3])
def test_frames_come_in_order_with_x_fastest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block_frames: int) -> None:
    monkeypatch.setattr("slimbrain.prep.source._MAX_BLOCK_FRAMES", block_frames)
    data = volumes(15)
    # By name, piece 10 would come before piece 2.
    pieces = {f"run-1_0000-0010_{piece + 1}": slice(piece, piece + 1) for piece in range(11)}
    write_chunks(tmp_path, data, {"run-1_0011-0014": slice(11, 15), **pieces})
    source = opened(tmp_path)
    frames = np.concatenate(list(frame_blocks(source)))
    np.testing.assert_array_equal(frames, data.reshape(-1, 15, order="F").T)
    np.testing.assert_array_equal(source.affine, LATTICES["2mm"].affine)
    on_lattice = volume.interpolation(Grid.mni152("2mm"), tuple(map(tuple, source.affine.tolist())), source.shape[:3])
    assert (on_lattice.data == 1).all(), "voxels of the published lattice are copied, not interpolated"


def test_an_affine_and_a_tr_in_the_file_are_believed(tmp_path: Path) -> None:
    affine = np.diag((-2.0, 2.0, 2.0, 1.0))
    affine[:3, 3] = (94.0, -112.0, -78.0)
    write_chunks(tmp_path, volumes(4), {"run-1_0000-0003": slice(0, 4)}, affine=affine, tr=0.8)
    source = opened(tmp_path)
    np.testing.assert_array_equal(source.affine, affine)
    assert (source.header_tr, source.notes) == (0.8, ())
    write_chunks(tmp_path, volumes(4), {"run-1_0000-0003": slice(0, 4)}, affine=np.zeros((4, 4)))
    with pytest.raises(InputError, match="invertible"):
        opened(tmp_path)


@pytest.mark.parametrize(
    ("names", "reason"),
    [
        ({"run-1_0000-0001": 2, "run-1_0004-0005": 2}, "frames 2-3 are missing"),
        ({"run-1_0002-0003": 2}, "frames 0-1 are missing"),
        ({"run-1_0000-0003": 4, "run-1_0002-0005": 4}, "frames 2-3 are there twice"),
        ({"run-1_0000-0003_1": 2, "run-1_0000-0003_3": 2}, "the pieces 1, 3 are there"),
        ({"run-1_0000-0003_2": 4}, "the pieces 2 are there"),
        ({"run-1_0000-0005_1": 2, "run-1_0000-0005_2": 2}, "hold 4 frames, not 6"),
        ({"run-1_0000-0001_1": 2, "run-1_0000-0001": 2}, "the pieces 1, 1 are there"),
    ],
)
def test_gaps_and_overlaps_are_refused(tmp_path: Path, names: dict[str, int], reason: str) -> None:
    write_chunks(tmp_path, volumes(4), {name: slice(0, frames) for name, frames in names.items()})
    with pytest.raises(InputError, match=reason):
        opened(tmp_path)


@given(st.lists(st.lists(st.integers(1, 5), min_size=1, max_size=4), min_size=1, max_size=4), st.data())
def test_only_whole_ranges_at_the_end_may_be_absent(ranges: list[list[int]], data: st.DataObject) -> None:
    """Each range is the list of its pieces' frames; some files are lost, or one is there twice under the next number."""
    chunks, start = [], 0
    for pieces in ranges:
        stop = start + sum(pieces) - 1
        for number, frames in enumerate(pieces, start=1):
            chunks.append(Chunk(Path(f"{start}_{number}"), start, stop, number, "arr", (EDGE, EDGE, EDGE, frames), np.dtype(np.float32)))
        start = stop + 1
    kept = [chunk for chunk in chunks if data.draw(st.booleans())] or chunks[:1]
    whole = [[chunk for chunk in chunks if chunk.start < end] for end in {chunk.stop + 1 for chunk in chunks}]
    if kept in whole:
        _check_frames(kept)
        doubled = replace(kept[-1], piece=kept[-1].piece + 1)
        kept = [*kept, doubled]
    with pytest.raises(InputError, match="restore"):
        _check_frames(kept)


def test_names_become_entities_and_runs_stay_apart(tmp_path: Path) -> None:
    chunk = np.zeros((1, 1, 1, 1))
    names = {"run-1_0000-0199_1": slice(None), "run-2_0000-0199_1": slice(None), "_REST1_LR_hp2000_clean_0000-0199_1": slice(None)}
    write_chunks(tmp_path / "HCP_val_40", chunk, names, "100307")
    assert choose_layout(tmp_path) is NPZ and choose_layout(tmp_path / "HCP_val_40") is NPZ
    runs = NPZ.find(tmp_path, RecordingQuery()).runs
    labels = sorted("_".join(run.entities.values()) for run in runs)
    assert labels == [
        "100307_1_MNI152",
        "100307_2_MNI152",
        "100307_REST1LRhp2000clean_MNI152",
    ]
    assert runs[0].record["Dataset"] == "HCP"


def test_other_npz_files_are_no_chunks(tmp_path: Path) -> None:
    write_chunks(tmp_path, np.zeros((2, 2)), {"features": slice(None)})
    (tmp_path / "A").mkdir()
    (tmp_path / "A" / "B_run-1_0000-0199_1.npz").touch()
    assert not NPZ.matches(tmp_path)


def test_other_shapes_types_and_damage_are_refused(tmp_path: Path) -> None:
    (path,) = write_chunks(tmp_path, volumes(2)[:48], {"run-1_0000-0001": slice(None)})
    with pytest.raises(InputError, match=r"shape \(48, 96, 96, 2\), not \(96, 96, 96, T\)"):
        opened(tmp_path)
    np.savez(path, arr=np.zeros((EDGE, EDGE, EDGE, 2), np.complex64))
    with pytest.raises(InputError, match="complex64"):
        opened(tmp_path)
    np.savez_compressed(path)
    with pytest.raises(InputError, match="holds no array"):
        opened(tmp_path)
    path.write_bytes(b"PK not a zip")
    with pytest.raises(InputError, match="cannot be read as npz"):
        opened(tmp_path)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_a_flipped_bit_is_noticed_when_the_data_are_read(tmp_path: Path, save: Callable[..., None]) -> None:
    (path,) = write_chunks(tmp_path, volumes(2), {"run-1_0000-0001": slice(None)})
    save(path, arr=volumes(2))
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)
    source = opened(tmp_path)
    with pytest.raises(InputError, match="damaged"):
        list(frame_blocks(source))


def test_a_header_that_claims_more_than_the_file_holds_is_refused_before_reading(tmp_path: Path) -> None:
    folder = tmp_path / "1"
    folder.mkdir()
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f4", "fortran_order": False, "shape": (EDGE, EDGE, EDGE, 50_000)})
    with zipfile.ZipFile(folder / "1_run-1_0000-49999.npz", "w") as archive:
        archive.writestr("arr.npy", header.getvalue() + bytes(1000))
    with pytest.raises(InputError, match="which the file does not hold"):
        opened(tmp_path)
