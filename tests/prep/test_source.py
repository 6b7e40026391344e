"""Headers, TRs, and files that are not what they claim to be."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from pathlib import Path

import nibabel
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from prep_samples import HEADER_BYTES, affine, brain_series, save

from slimbrain.errors import InputError
from slimbrain.prep import source as source_module
from slimbrain.prep.source import Source, ahead, frame_blocks, open_source
from slimbrain.prep.timing import repetition_time


@pytest.fixture(params=["isal", "gzip"])
def gzip_reader(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run the test with the extra `fast`, where it is installed, and without."""
    if request.param == "gzip":
        monkeypatch.setattr(source_module, "_gzip_module", gzip)
        monkeypatch.setattr(source_module, "_GZIP_DAMAGE", (OSError, EOFError, zlib.error))
    elif source_module._gzip_module is gzip:
        pytest.skip("isal, the extra `fast`, is not installed")


def read(source: Source) -> np.ndarray:
    return np.concatenate(list(frame_blocks(source)))


@pytest.mark.usefixtures("gzip_reader")
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize("dtype", ["<f4", ">f4", "<f8", "<i2", "u1"])
def test_blocks_are_what_nibabel_reads(tmp_path: Path, suffix: str, dtype: str) -> None:
    data = np.random.default_rng(0).uniform(0, 200, (5, 6, 7, 71)).astype(dtype)
    path = save(tmp_path / f"image{suffix}", data, affine(4.0))
    blocks = list(frame_blocks(open_source(path)))
    assert len(blocks) > 1
    expected = np.asarray(nibabel.load(path).dataobj).reshape(-1, 71, order="F").T
    np.testing.assert_array_equal(np.concatenate(blocks), expected.astype(np.float32))


def test_slope_and_intercept_are_applied(tmp_path: Path) -> None:
    image = nibabel.Nifti1Image(np.arange(4 * 4 * 4 * 9, dtype=np.int16).reshape(4, 4, 4, 9), affine(4.0))
    image.header.set_slope_inter(0.25, -3.0)
    image.to_filename(tmp_path / "image.nii.gz")
    expected = nibabel.load(tmp_path / "image.nii.gz").get_fdata().reshape(-1, 9, order="F").T
    np.testing.assert_allclose(read(open_source(tmp_path / "image.nii.gz")), expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("zoom", "units", "expected"),
    [(2.0, "sec", 2.0), (0.72, "sec", 0.72), (720.0, "msec", 0.72), (1000.0, "msec", 1.0), (8e5, "usec", 0.8), (1.5, "unknown", 1.5)]
    + [(zoom, units, None) for zoom, units in ((0.0, "sec"), (1.0, "sec"), (1.0, "msec"), (1.0, "unknown"), (2000.0, "sec"), (2.0, "hz"))],
)
def test_header_tr(tmp_path: Path, zoom: float, units: str, expected: float | None) -> None:
    source = open_source(save(tmp_path / "image.nii", brain_series((3, 3, 3), 9), affine(4.0), zoom, units))
    assert source.header_tr == expected


def tr_of(tmp_path: Path, header: float, sidecar: dict[str, object], given_tr: float | None) -> tuple[float, str]:
    return repetition_time(open_source(save(tmp_path / "image.nii", brain_series((3, 3, 3), 9), affine(4.0), header)), sidecar, given_tr)


def test_tr_comes_from_the_sidecar_then_the_header_then_the_user(tmp_path: Path) -> None:
    assert tr_of(tmp_path, 2.0, {"RepetitionTime": 0.8}, None) == (0.8, "sidecar")
    assert tr_of(tmp_path, 2.0, {}, None) == (2.0, "header")
    assert tr_of(tmp_path, 2.0, {}, 2.0) == (2.0, "header")
    assert tr_of(tmp_path, 1.0, {}, 2.0) == (2.0, "--tr")
    assert tr_of(tmp_path, 1.0, {"RepetitionTime": 1}, None) == (1.0, "sidecar")


@pytest.mark.parametrize("header", [0.0, 1.0])
def test_a_placeholder_tr_is_refused_with_the_way_out(tmp_path: Path, header: float) -> None:
    with pytest.raises(InputError, match=r"image\.nii: has no TR .* --tr"):
        tr_of(tmp_path, header, {}, None)


@pytest.mark.parametrize(("header", "sidecar"), [(0.0, {"RepetitionTime": 2.0}), (2.0, {})])
def test_the_user_cannot_contradict_the_file(tmp_path: Path, header: float, sidecar: dict[str, object]) -> None:
    with pytest.raises(InputError, match=r"gives TR 2 s but --tr says 3 s"):
        tr_of(tmp_path, header, sidecar, 3.0)


@pytest.mark.parametrize("stated", [2000, "2", -1, [2.0], True])
def test_a_sidecar_without_a_usable_tr_is_refused(tmp_path: Path, stated: object) -> None:
    with pytest.raises(InputError, match="not a TR in seconds"):
        tr_of(tmp_path, 2.0, {"RepetitionTime": stated}, None)


@pytest.mark.parametrize(("shape", "words"), [((4, 4, 4), "3 dim"), ((4, 4, 4, 1, 9), "5 dim"), ((4, 4, 1, 9), "single slice")])
def test_shapes_that_are_no_time_series_are_refused(tmp_path: Path, shape: tuple[int, ...], words: str) -> None:
    path = save(tmp_path / "image.nii.gz", np.ones(shape, np.float32), affine(4.0))
    with pytest.raises(InputError, match=words):
        open_source(path)


def test_complex_numbers_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="complex64"):
        open_source(save(tmp_path / "image.nii", np.ones((4, 4, 4, 9), np.complex64), affine(4.0)))


def test_an_image_that_does_not_say_where_it_lies_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="neither sform nor qform"):
        open_source(save(tmp_path / "image.nii", brain_series((4, 4, 4), 9), affine(4.0), form=0))


@pytest.mark.parametrize("voxel_mm", [0.01, 500.0])
def test_voxels_of_an_impossible_size_are_refused(tmp_path: Path, voxel_mm: float) -> None:
    with pytest.raises(InputError, match="affine"):
        open_source(save(tmp_path / "image.nii", brain_series((4, 4, 4), 9), affine(voxel_mm)))


def claim(path: Path, shape: tuple[int, int, int, int]) -> Path:
    """Write another shape into the header of an uncompressed image."""
    data = bytearray(path.read_bytes())
    data[42:50] = np.array(shape, "<i2").tobytes()
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("shape", [(30000, 30000, 30000, 30000), (1000, 1000, 1000, 1000), (-4, 4, 4, 9), (4, 4, 4, 10)])
@pytest.mark.parametrize("compress", [False, True])
def test_a_header_that_promises_too_much_is_refused(tmp_path: Path, shape: tuple[int, int, int, int], compress: bool) -> None:
    path = claim(save(tmp_path / "image.nii", brain_series((4, 4, 4), 9), affine(4.0)), shape)
    if compress:
        packed = path.with_suffix(".nii.gz")
        packed.write_bytes(gzip.compress(path.read_bytes()))
        path = packed
    with pytest.raises(InputError, match="image"):
        # A tenth frame fits what gzip could hold: found out at the end of the stream.
        read(open_source(path))


@pytest.mark.usefixtures("gzip_reader")
def test_truncated_and_damaged_gzip_is_refused(tmp_path: Path) -> None:
    whole = save(tmp_path / "whole.nii.gz", brain_series((8, 8, 8), 20), affine(4.0)).read_bytes()
    for name, data in {
        "half": whole[: len(whole) // 2],
        "without its check sum": whole[:-8],
        "flipped": whole[:-4000] + bytes([whole[-4000] ^ 0x10]) + whole[-3999:],
        "empty": b"",
        "text": b"not an image",
    }.items():
        path = tmp_path / f"{name}.nii.gz"
        path.write_bytes(data)
        with pytest.raises(InputError, match=name):
            read(open_source(path))


@pytest.mark.usefixtures("gzip_reader")
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7), cut=st.booleans())
def test_any_damage_to_gzip_is_our_error_or_changes_nothing(tmp_path: Path, place: float, bit: int, cut: bool) -> None:
    """A check sum over all data guards them; only bytes of gzip's own header may differ unnoticed."""
    good = tmp_path / "good.nii.gz"
    if not good.exists():
        save(good, brain_series((4, 4, 4), 9), affine(4.0), 2.0)
    data = bytearray(good.read_bytes())
    number = int(place * len(data))
    data[number] ^= 1 << bit
    path = tmp_path / "image.nii.gz"
    path.write_bytes(data[:number] if cut else data)
    try:
        frames = read(open_source(path))
    except InputError as error:
        assert "image.nii.gz" in str(error)
    else:
        np.testing.assert_array_equal(frames, read(open_source(good)))


@pytest.mark.usefixtures("gzip_reader")
def test_several_gzip_members_are_one_file(tmp_path: Path) -> None:
    whole = save(tmp_path / "image.nii", brain_series((4, 4, 4), 30), affine(4.0))
    data = whole.read_bytes()
    path = tmp_path / "parts.nii.gz"
    path.write_bytes(b"".join(gzip.compress(data[start : start + 2000]) for start in range(0, len(data), 2000)))
    np.testing.assert_array_equal(read(open_source(path)), read(open_source(whole)))


def test_blocks_read_ahead_are_the_same_and_so_are_their_errors() -> None:
    def blocks() -> Iterator[int]:
        yield from range(5)
        raise InputError("x.nii: is damaged.")

    came = []
    with pytest.raises(InputError, match=r"x\.nii"):
        for block in ahead(blocks()):
            came.append(block)
    assert came == list(range(5))
    assert list(ahead(iter(()))) == []


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"gone\.nii\.gz: does not exist"):
        open_source(tmp_path / "gone.nii.gz")


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(changes=st.dictionaries(st.integers(0, HEADER_BYTES - 1), st.integers(0, 255), min_size=1, max_size=12))
def test_any_header_gives_a_right_answer_or_our_error(tmp_path: Path, changes: dict[int, int]) -> None:
    path = tmp_path / "image.nii"
    if not (tmp_path / "good.nii").exists():
        save(tmp_path / "good.nii", brain_series((4, 4, 4), 9), affine(4.0), 2.0)
    data = bytearray((tmp_path / "good.nii").read_bytes())
    for place, value in changes.items():
        data[place] = value
    path.write_bytes(data)
    try:
        source = open_source(path)
        frames = read(source)
    except InputError as error:
        assert "image.nii" in str(error)
    else:
        assert frames.shape == (source.n_frames, source.n_voxels)
