"""Everything that a tree of recordings can have wrong with it, in one batch: a sentence for each, and the rest goes on."""

from __future__ import annotations

import csv
import gzip
import os
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from prep_samples import Array, affine, brain_series, save

from slimbrain.cli import run_command
from slimbrain.errors import InputError
from slimbrain.prep import PrepOptions, prepare
from slimbrain.prep.source import frame_blocks, open_source
from slimbrain.store import Store
from slimbrain.store.verify import verify

FRAMES = 12
SHAPE = (14, 14, 14)

# Byte offsets in a NIfTI-1 header (nifti1.h).
DIM, PIXDIM, VOX_OFFSET, SROW = 40, 76, 108, 280
GZIP_TRAILER_BYTES = 8

Write = Callable[[Path], object]


def good() -> Array:
    return brain_series(SHAPE, FRAMES)


def image(data: Array, matrix: Array | None = None, tr: float = 0.72) -> Write:
    return lambda path: save(path, data, affine(16.0) if matrix is None else matrix, tr)


def header(offset: int, values: Array) -> Write:
    """A good image with other bytes in its header."""

    def write(path: Path) -> None:
        content = bytearray(gzip.decompress(save(path, good(), affine(16.0), 0.72).read_bytes()))
        content[offset : offset + values.nbytes] = values.tobytes()
        path.write_bytes(gzip.compress(bytes(content)))

    return write


def dims(*sizes: int) -> Write:
    return header(DIM, np.array([len(sizes), *sizes], "<i2"))


def damaged(change: Callable[[bytearray], object]) -> Write:
    """A good compressed image with other bytes on disk."""

    def write(path: Path) -> None:
        content = bytearray(save(path, good(), affine(16.0), 0.72).read_bytes())
        change(content)
        path.write_bytes(content)

    return write


def cut(share: float) -> Write:
    return damaged(lambda content: content.__delitem__(slice(int(share * len(content)), None)))


def flip(share: float) -> Write:
    def change(content: bytearray) -> None:
        content[int(share * (len(content) - 1))] ^= 0x10

    return damaged(change)


def filled(value: float) -> Array:
    data = good()
    data[...] = value
    return data


def scaled(matrix: Array, by: float) -> Array:
    other = matrix.copy()
    other[:3] *= by
    return other


def instead(make: Callable[[Path], object]) -> Write:
    def write(path: Path) -> None:
        path.parent.mkdir(parents=True)
        make(path)

    return write


BAD: dict[str, tuple[Write, str]] = {
    **{f"cut{share}": (cut(share / 100), "damaged|truncated|NIfTI") for share in (0, 1, 10, 50, 90)},
    "cutTrailer": (damaged(lambda content: content.__delitem__(slice(-GZIP_TRAILER_BYTES, None))), "damaged|truncated"),
    **{f"flip{share}": (flip(share / 100), "damaged|truncated|NIfTI|header|affine|sform") for share in (10, 30, 50, 70, 90)},
    "flipSum": (damaged(lambda content: content.__setitem__(-6, content[-6] ^ 1)), "damaged"),
    "flipLength": (damaged(lambda content: content.__setitem__(-1, content[-1] ^ 1)), "damaged"),
    "nan": (image(filled(np.nan)), "not finite"),
    "inf": (image(filled(np.inf)), "not finite"),
    "zero": (image(filled(0.0)), "constant"),
    "3D": (image(good()[..., 0]), "3 dimensions"),
    "5D": (image(good()[..., None, :]), "5 dimensions"),
    "1frame": (image(good()[..., :1]), "3 dimensions|under a window"),
    "dimsHuge": (dims(32767, 32767, 32767, 32767), "its header claims"),
    "dimsLong": (dims(1000, 1000, 1000, 32000), "its header claims"),
    "dimsWide": (dims(1000, 1000, 1000, 1), "its header claims"),
    "dimsNegative": (dims(-14, 14, 14, 12), "header"),
    "dimsZero": (dims(0, 14, 14, 12), "header|NIfTI"),
    "dimsMore": (dims(14, 14, 14, 13), "truncated"),
    "dims7": (dims(14, 14, 14, 12, 2, 2, 2), "7 dimensions"),
    "offsetHuge": (header(VOX_OFFSET, np.array([2.0**40], "<f4")), "header|NIfTI|truncated"),
    "offsetNan": (header(VOX_OFFSET, np.array([np.nan], "<f4")), "header|NIfTI|truncated"),
    "singular": (header(SROW + 32, np.zeros(4, "<f4")), "affine"),
    "affineNan": (header(SROW, np.array([np.nan], "<f4")), "affine"),
    "metres": (image(good(), scaled(affine(16.0), 1e-3)), "affine"),
    "micrometres": (image(good(), scaled(affine(16.0), 1e3)), "affine"),
    "far": (image(good(), affine(16.0, (500.0, 500.0, 500.0))), "no voxel lies inside"),
    "text": (instead(lambda path: path.write_text("moved to the archive")), "NIfTI|damaged"),
    "empty": (instead(lambda path: path.touch()), "NIfTI|damaged|truncated"),
    "folder": (instead(lambda path: path.mkdir()), "is not a file|cannot be"),
    "pipe": (instead(lambda path: os.mkfifo(path)), "is not a file"),
    "dangling": (instead(lambda path: path.symlink_to(path.parent / "annex" / "gone")), "cannot be opened"),
    "loop": (instead(lambda path: path.symlink_to(path.name)), "cannot be opened"),
}
"""How to make it, and words of which one must be in the sentence."""


def image_path(root: Path, label: str) -> Path:
    return root / f"sub-{label}" / "func" / f"sub-{label}_task-rest_space-MNI152NLin6Asym_desc-preproc_bold.nii.gz"


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A good run of every kind that must work, in a folder with a space and letters outside ASCII."""
    root = tmp_path / "dérivés d'IRMf 日本"
    save(image_path(root, "good"), good(), affine(16.0), 0.72)
    save(image_path(root, "slow"), good(), affine(16.0), 2.0)
    save(image_path(root, "fast"), brain_series(SHAPE, 20), affine(16.0), 0.5)
    save(image_path(root, "Ünï"), good(), affine(16.0), 0.72)
    kept = save(tmp_path / "annex" / "objects" / "MD5E-s1--0123.nii.gz", good(), affine(16.0), 0.72)
    link = image_path(root, "annexed")
    link.parent.mkdir(parents=True)
    link.symlink_to(os.path.relpath(kept, link.parent))
    return root


GOOD = ("annexed", "fast", "good", "slow", "Ünï")


def test_each_has_a_sentence_and_the_rest_goes_on(tree: Path, mask8: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for label, (write, _) in BAD.items():
        write(image_path(tree, label))
    out = tmp_path / "a store"
    summary = prepare(tree, out, PrepOptions(mask=mask8, resolution="8mm"))
    assert sorted(run.key.split("_")[0] for run in summary.prepared) == [f"sub-{label}" for label in GOOD]
    said = capfd.readouterr().err.splitlines()
    with open(out / "failures.tsv", encoding="utf-8", newline="") as handle:
        table = {row["file"]: row["reason"] for row in csv.DictReader(handle, delimiter="\t")}
    assert table.keys() == {image_path(tree, label).relative_to(tree).as_posix() for label in BAD}
    assert summary.exit_code == 1
    for label, (_, words) in BAD.items():
        path = image_path(tree, label)
        reason = table[path.relative_to(tree).as_posix()]
        assert reason.startswith(f"{path}: ") and reason.endswith(".") and reason in said, reason
        assert "fault of slimbrain" not in reason
        assert any(word in reason for word in words.split("|")), reason
    assert verify(out).problems == []


def test_runs_of_any_tr_come_to_their_own(tree: Path, mask8: Path, tmp_path: Path) -> None:
    assert prepare(tree, tmp_path / "store", PrepOptions(mask=mask8, resolution="8mm")).exit_code == 0
    frames = {info.subject: (info.n_frames, info.tr) for info in Store(tmp_path / "store").sessions}
    assert frames == {
        "sub-annexed": (12, 0.72),
        "sub-good": (12, 0.72),
        "sub-Ünï": (12, 0.72),
        "sub-slow": (int(11 * 2.0 / 0.72) + 1, 0.72),
        "sub-fast": (int(19 * 0.5 / 0.72) + 1, 0.72),
    }
    assert len(prepare(tree, tmp_path / "store", PrepOptions(mask=mask8, resolution="8mm")).skipped) == len(GOOD)


def test_a_run_that_is_a_link_is_prepared_again_when_its_content_changes(tree: Path, mask8: Path, tmp_path: Path) -> None:
    """git-annex replaces the target, never the link."""
    options = PrepOptions(mask=mask8, resolution="8mm", participant_label=("annexed",))
    prepare(tree, tmp_path / "store", options)
    save(image_path(tree, "annexed").resolve(), brain_series(SHAPE, 14), affine(16.0), 0.72)
    (run,) = prepare(tree, tmp_path / "store", options).prepared
    assert Store(tmp_path / "store").session(run.key).n_frames == 14


def test_the_command_leaves_with_1(tree: Path, mask8: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("slimbrain.report.data_page.write_report", lambda *_: None)
    words = ["prep", str(tree), str(tmp_path / "store"), "participant", "--mask", str(mask8), "--resolution", "8mm"]
    assert run_command(words) == 0
    BAD["cut50"][0](image_path(tree, "bad"))
    assert run_command(words) == 1


def test_an_exception_nobody_thought_of_costs_its_own_run(tree: Path, mask8: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def surprise(run: object, *_: object) -> None:
        if "good" in str(run):
            raise RuntimeError("out of luck.\nReally.")

    monkeypatch.setattr("slimbrain.prep.session.load_confounds", surprise)
    summary = prepare(tree, tmp_path / "store", PrepOptions(mask=mask8, resolution="8mm"))
    (failure,) = summary.failures
    assert failure.reason.startswith(f"{image_path(tree, 'good')}: ") and "RuntimeError out of luck. Really)" in failure.reason
    assert len(summary.prepared) == len(GOOD) - 1


# --- nothing is allocated before it is checked

BIG_BYTES = 64 * 2**20


def peak_bytes(work: Callable[[], object]) -> int:
    """The most memory that Python and numpy held while `work` met its InputError."""
    tracemalloc.start()
    try:
        with pytest.raises(InputError):
            work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def read_through(path: Path) -> None:
    for _ in frame_blocks(open_source(path)):
        pass


@pytest.mark.parametrize("label", [label for label in BAD if label.startswith(("dims", "offset"))])
def test_a_header_that_claims_much_costs_nothing(label: str, tmp_path: Path) -> None:
    path = image_path(tmp_path, label)
    BAD[label][0](path)
    assert peak_bytes(lambda: read_through(path)) < BIG_BYTES


def sparse(path: Path, shape: tuple[int, ...], n_bytes: int, offset: float = 352.0) -> Path:
    """An uncompressed image that claims a shape, in a file that is mostly a hole."""
    content = bytearray(gzip.decompress(save(path.with_suffix(".nii.gz"), good(), affine(16.0), 0.72).read_bytes()))[:352]
    content[DIM : DIM + 2 * (len(shape) + 1)] = np.array([len(shape), *shape], "<i2").tobytes()
    content[VOX_OFFSET : VOX_OFFSET + 4] = np.array([offset], "<f4").tobytes()
    with open(path, "wb") as handle:
        handle.write(content)
        handle.truncate(n_bytes)
    return path


def test_a_long_file_does_not_make_an_absurd_frame_believed(tmp_path: Path) -> None:
    """Its length bears the claim out, 12 GB for three frames; a frame alone would need 4 GB."""
    path = sparse(tmp_path / "image.nii", (1000, 1000, 1000, 3), 352 + 3 * 4 * 10**9)
    assert peak_bytes(lambda: read_through(path)) < BIG_BYTES


def test_a_far_offset_is_skipped_without_holding_what_is_skipped(tmp_path: Path) -> None:
    path = sparse(tmp_path / "image.nii", (14, 14, 14, 12), 2**30, offset=float(2**30 - 64))
    assert peak_bytes(lambda: read_through(path)) < BIG_BYTES
    whole = sparse(tmp_path / "whole.nii", (14, 14, 14, 12), 2**30, offset=float(2**29))
    tracemalloc.start()
    read_through(whole)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < BIG_BYTES


def test_a_gzip_file_that_ends_early_is_not_given_room_for_what_it_promised(tmp_path: Path) -> None:
    """What is left of a file of noise bears out, by the best that gzip could do, a claim of gigabytes."""
    path = tmp_path / "image.nii.gz"
    plain = sparse(tmp_path / "plain.nii", (400, 400, 400, 30), 352)
    noise = np.random.default_rng(0).bytes(8 * 2**20)
    path.write_bytes(gzip.compress(plain.read_bytes() + noise, 1))
    assert peak_bytes(lambda: read_through(path)) < BIG_BYTES
