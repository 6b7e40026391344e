"""The reader of images on damaged bytes: a refusal of ours or what is really in the file, never another exception."""

from __future__ import annotations

import gzip
from pathlib import Path

import nibabel
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mutations import Mutate, byte_edits, fuzzing, little_memory
from prep_samples import HEADER_BYTES, affine, brain_series, save

from slimbrain.errors import InputError
from slimbrain.prep.source import frame_blocks, open_source

FRAMES = 9


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Uncompressed images: of two types, of the other byte order, with a scale, and with an extension in the header."""
    folder = tmp_path_factory.mktemp("images")
    data = brain_series((4, 5, 3), FRAMES)
    save(folder / "float.nii", data, affine(4.0), 2.0)
    save(folder / "big.nii", data.astype(">i2"), affine(4.0), 2.0)
    scaled = nibabel.Nifti1Image(data.astype(np.int16), affine(4.0))
    scaled.header.set_slope_inter(0.5, 3.0)
    scaled.header.extensions.append(nibabel.nifti1.Nifti1Extension("comment", b"scanned on a Monday"))
    scaled.to_filename(folder / "extended.nii")
    return {path.stem: path.read_bytes() for path in folder.iterdir()}


def rewrite(path: Path, content: bytes) -> Path:
    """As a new file: some file systems wait for the disk when an old one is emptied."""
    path.unlink(missing_ok=True)
    path.write_bytes(content)
    return path


KINDS = st.sampled_from(["float", "big", "extended"])


def outcome(path: Path) -> np.ndarray | None:
    """(T, N) values of an image that is taken, None for one that is refused in a sentence that names it."""
    try:
        with little_memory():
            source = open_source(path)
            frames = np.concatenate(list(frame_blocks(source)))
    except InputError as error:
        assert str(error).startswith(f"{path}: ") and str(error).endswith(".") and "\n" not in str(error)
        return None
    assert frames.shape == (source.n_frames, source.n_voxels) and frames.dtype == np.float32
    assert np.isfinite(source.affine).all() and (source.header_tr is None or 0 < source.header_tr < 100)
    return frames


def as_nibabel_reads(path: Path) -> np.ndarray:
    image = nibabel.load(path)
    with np.errstate(all="ignore"):
        return np.asarray(image.dataobj).reshape(-1, image.shape[3], order="F").T.astype(np.float32)


def assert_right(path: Path) -> None:
    frames = outcome(path)
    if frames is not None:
        np.testing.assert_allclose(frames, as_nibabel_reads(path), rtol=1e-5)


@pytest.mark.slow
@fuzzing(500)
@given(kind=KINDS, mutate=byte_edits(HEADER_BYTES + 24))
def test_a_damaged_image(kind: str, mutate: Mutate, images: dict[str, bytes], tmp_path: Path) -> None:
    path = rewrite(tmp_path / "image.nii", mutate(images[kind]))
    assert_right(path)


@pytest.mark.slow
@fuzzing(200)
@given(kind=KINDS, mutate=byte_edits(HEADER_BYTES + 24))
def test_a_damaged_image_that_was_compressed_after(kind: str, mutate: Mutate, images: dict[str, bytes], tmp_path: Path) -> None:
    path = rewrite(tmp_path / "image.nii.gz", gzip.compress(mutate(images[kind]), 1))
    assert_right(path)


@pytest.mark.slow
@fuzzing(500)
@given(kind=KINDS, mutate=byte_edits(40))
def test_a_damaged_compressed_image_is_refused_or_whole(kind: str, mutate: Mutate, images: dict[str, bytes], tmp_path: Path) -> None:
    """The check sum speaks for what was packed: only bytes of the wrapping may change unnoticed."""
    frames = outcome(rewrite(tmp_path / "image.nii.gz", mutate(gzip.compress(images[kind], 1, mtime=0))))
    if frames is not None:
        np.testing.assert_array_equal(frames, as_nibabel_reads(rewrite(tmp_path / "whole.nii", images[kind])))


@pytest.mark.parametrize(
    "content", [b"", b"x" * 347, b"\x1f\x8b", gzip.compress(b"", mtime=0)], ids=["empty", "text", "magic", "packed nothing"]
)
@pytest.mark.parametrize("name", ["image.nii", "image.nii.gz"])
def test_a_file_too_short_for_a_header_once_was_another_exception(name: str, content: bytes, tmp_path: Path) -> None:
    assert outcome(rewrite(tmp_path / name, content)) is None


def test_a_damaged_stream_that_unpacks_to_more_once_passed(tmp_path: Path, images: dict[str, bytes]) -> None:
    """A stream that does not end where the header says: its check sum was never compared."""
    packed = bytearray(gzip.compress(images["float"] + b"more", 1, mtime=0))
    packed[-6] ^= 1
    assert outcome(rewrite(tmp_path / "image.nii.gz", bytes(packed))) is None
