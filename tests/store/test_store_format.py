"""docs/store_format.md is enough to read a store: this reader has only that page, the standard library and numpy."""

from __future__ import annotations

import csv
import gzip
import hashlib
import json
import re
import struct
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import numpy.typing as npt
import pytest

from slimbrain import Grid, Store
from slimbrain.prep import PrepOptions, prepare
from slimbrain.simulate import CohortSpec, simulate_cohort

Array = npt.NDArray[Any]
PAGE = Path(__file__).resolve().parents[2] / "docs" / "store_format.md"

# --- the reader: nothing of slimbrain, nothing of nibabel

SIZES = {"mni-2mm-96-p4": (96, 2.0, 4), "mni-4mm-48-p4": (48, 4.0, 4), "mni-8mm-24-p2": (24, 8.0, 2), "mni-8mm-24-p1": (24, 8.0, 1)}
TYPES = {"F16": "<f2", "F32": "<f4"}
CORNER_MM = (-97.0, -113.0, -79.0)


def read_mask(path: Path, edge: int) -> Array:
    """(E, E, E) bool from a gzipped NIfTI-1 of bytes."""
    content = gzip.decompress(path.read_bytes())
    assert struct.unpack_from("<i", content)[0] == 348
    assert struct.unpack_from("<4h", content, 40) == (3, edge, edge, edge)
    (kind,), (start,) = struct.unpack_from("<h", content, 70), struct.unpack_from("<f", content, 108)
    assert (kind, start) == (2, 352.0)
    return np.frombuffer(content, np.uint8, edge**3, 352).reshape((edge,) * 3, order="F") > 0


def mask_hash(lattice: str, mask: Array) -> str:
    bits = [bool(value) for value in mask.ravel(order="C")]
    bits += [False] * (-len(bits) % 8)
    octets = (bits[start : start + 8] for start in range(0, len(bits), 8))
    return hashlib.sha256(
        lattice.encode("ascii") + bytes(sum(bit << (7 - place) for place, bit in enumerate(octet)) for octet in octets)
    ).hexdigest()


def patches_of(mask: Array, edge: int) -> list[tuple[int, int, int]]:
    """Places of the patches that touch the mask, in the order of the page."""
    side = range(mask.shape[0] // edge)
    there = [(a, b, c) for a, b, c in product(side, side, side) if mask[a * edge :, b * edge :, c * edge :][:edge, :edge, :edge].any()]
    return sorted(there, key=lambda place: [number // step for step in (8, 4, 2, 1) for number in place])


def voxels_of(patch: tuple[int, int, int], edge: int) -> Iterator[tuple[int, int, int]]:
    a, b, c = patch
    for v in range(edge**3):
        yield a * edge + v // edge**2, b * edge + (v // edge) % edge, c * edge + v % edge


def read_tensors(path: Path) -> tuple[dict[str, Array], dict[str, str]]:
    """All tensors of a safetensors file, and its metadata."""
    content = path.read_bytes()
    (length,) = struct.unpack_from("<Q", content)
    header = json.loads(content[8 : 8 + length])
    metadata = header.pop("__metadata__", {})
    tensors = {}
    for name, told in header.items():
        begin, end = (8 + length + offset for offset in told["data_offsets"])
        tensors[name] = np.frombuffer(content[begin:end], TYPES[told["dtype"]]).reshape(told["shape"])
    return tensors, metadata


class PlainStore:
    """A store as the page describes it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.contract = json.loads((root / "dataset_description.json").read_text(encoding="utf-8"))["Slimbrain"]
        edge, self.voxel_mm, self.patch = SIZES[self.contract["lattice"]]
        self.mask = read_mask(root / "desc-brain_mask.nii.gz", edge)
        assert mask_hash(self.contract["lattice"], self.mask) == self.contract["mask"]
        self.patches = patches_of(self.mask, self.patch)
        with open(root / "sessions.tsv", encoding="utf-8", newline="") as handle:
            self.sessions = list(csv.DictReader(handle, delimiter="\t"))

    def volume(self, row: dict[str, str], frame: int) -> Array:
        """(E, E, E) in the image's units, 0 outside the mask."""
        tensors, _ = read_tensors(self.root / row["path"])
        values = tensors["voxels"][frame].astype(np.float32) * tensors["std"] + tensors["mean"]
        dense = np.zeros(self.mask.shape, np.float32)
        for patch, of_patch in zip(self.patches, values, strict=True):
            for place, value in zip(voxels_of(patch, self.patch), of_patch, strict=True):
                dense[place] = value if self.mask[place] else 0
        return dense

    def coarse(self, row: dict[str, str], frame: int) -> list[float]:
        """Mean over each cell of the z-scored voxels, cell after cell."""
        tensors, _ = read_tensors(self.root / row["path"])
        cells: dict[tuple[int, ...], list[float]] = {}
        for patch, of_patch in zip(self.patches, tensors["voxels"][frame].astype(np.float64), strict=True):
            inside = [value for place, value in zip(voxels_of(patch, self.patch), of_patch, strict=True) if self.mask[place]]
            cells.setdefault(tuple(number // 2 for number in patch), []).extend(inside)
        return [sum(cell) / len(cell) for cell in cells.values()]


# --- what it reads is what slimbrain wrote


@pytest.fixture(scope="module", params=["8mm", "8mm-p1", "4mm"])
def root(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store that `slimbrain prep` made of two simulated sessions."""
    folder = tmp_path_factory.mktemp("format")
    simulate_cohort(folder / "cohort", CohortSpec(subjects=2, sessions=1, frames=20, events_per_session=0, spikes_per_session=0))
    prepare(folder / "cohort", folder / "store", PrepOptions(resolution=request.param))
    return folder / "store"


def test_a_volume_is_the_one_that_slimbrain_unpacks(root: Path) -> None:
    plain, store = PlainStore(root), Store(root)
    assert [row["session"] for row in plain.sessions] == [info.key for info in store.sessions]
    row, frame = plain.sessions[1], 7
    mean, std = store.moments(row["session"])
    image = store.grid.to_nifti(store.voxels(row["session"], frame, frame + 1)[0].astype(np.float32) * std + mean)
    assert np.array_equal(plain.volume(row, frame), np.asarray(image.dataobj))
    corner = np.array(CORNER_MM) + plain.voxel_mm / 2
    assert np.array_equal(image.affine, np.r_[np.c_[np.eye(3) * plain.voxel_mm, corner], [[0, 0, 0, 1]]])


def test_a_volume_is_the_one_of_the_source_image(tmp_path: Path) -> None:
    """The image's voxels are the lattice's own, so that nothing but float16 stands between source and store."""
    series = np.random.default_rng(0).normal(100, 5, (24, 24, 24, 12)).astype(np.float32)
    image = nibabel.Nifti1Image(series, np.r_[np.c_[np.eye(3) * 8, np.array(CORNER_MM) + 4], [[0, 0, 0, 1]]])
    image.header.set_xyzt_units("mm", "sec")
    image.header.set_zooms((8, 8, 8, 0.72))
    folder = tmp_path / "bids" / "sub-01" / "func"
    folder.mkdir(parents=True)
    nibabel.save(image, folder / "sub-01_task-rest_space-MNI152NLin6Asym_desc-preproc_bold.nii.gz")
    prepare(tmp_path / "bids", tmp_path / "store", PrepOptions(resolution="8mm"))
    plain = PlainStore(tmp_path / "store")
    volume = plain.volume(plain.sessions[0], 11)
    # float16 keeps 11 bits: a value under 4 standard deviations of 5 is off by less than 20 / 2**11.
    assert np.abs(volume - series[..., 11])[plain.mask].max() < 20 / 2**11
    assert not volume[~plain.mask].any()


def test_coarse_is_the_mean_over_each_cell(root: Path) -> None:
    plain = PlainStore(root)
    row = plain.sessions[0]
    tensors, _ = read_tensors(root / row["path"])
    assert np.allclose(plain.coarse(row, 3), tensors["coarse"][3], atol=1e-3)


def test_files_carry_what_the_page_says(root: Path) -> None:
    plain = PlainStore(root)
    for row in plain.sessions:
        path = root / row["path"]
        tensors, metadata = read_tensors(path)
        shape = (len(plain.patches), plain.patch**3)
        assert {name: tensor.shape for name, tensor in tensors.items() if name != "coarse"} == {
            "voxels": (int(row["n_frames"]), *shape),
            "mean": shape,
            "std": shape,
        }
        assert json.loads(metadata["slimbrain"])["contract"] == plain.contract
        sidecar = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
        assert sidecar["DataBytes"] == path.stat().st_size
        assert sidecar["DataSha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
        terms = ("cohort", "licence", "consent", "governance")
        assert sidecar["SessionRow"] == {name: cell for name, cell in row.items() if cell != "n/a" and name not in terms}
        assert Path(row["path"]).name == f"{row['session']}_desc-slimbrain_bold.safetensors"


def test_the_page_names_every_field_of_a_sidecar(root: Path) -> None:
    named = set(re.findall(r"`(\w+)`", PAGE.read_text(encoding="utf-8")))
    (path,) = (root / "sub-001").rglob("*.json")
    assert set(json.loads(path.read_text(encoding="utf-8"))) <= named


def test_the_order_holds_for_masks_that_are_no_brain(grid8: Grid) -> None:
    generator = np.random.default_rng(0)
    mask = generator.random((24, 24, 24)) < 0.02
    grid = Grid(grid8.lattice, mask)
    assert patches_of(mask, 2) == [tuple(place) for place in grid.patches.index.tolist()]
    assert mask_hash("mni-8mm-24-p2", mask) == grid.hash
