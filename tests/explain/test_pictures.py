"""Pictures of maps: a voxel that has a value is painted, one that has none shows the template."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pytest
from matplotlib import pyplot

from slimbrain.explain import pictures
from slimbrain.explain.pictures import SHOWN_SHARE, draw_mosaic
from slimbrain.grid import Grid


@pytest.mark.parametrize("signed", [False, True])
def test_as_many_voxels_are_painted_as_the_picture_says(grid8: Grid, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, signed: bool) -> None:
    """Of all slices of the mosaic, counted in the image itself: all voxels of the brain, or the strongest quarter of it."""
    values = np.random.default_rng(0).lognormal(0, 1, grid8.voxel_mask.shape).astype(np.float32) * grid8.voxel_mask
    values = np.where(np.random.default_rng(1).random(values.shape) < 0.5, -values, values) if signed else values
    painted: dict[str, list[int]] = {}

    def counted(path: Path, _: object) -> Path:
        for ax in pyplot.gcf().axes:
            for one in ax.images:
                if one.get_cmap().name.startswith("slimbrain-map"):
                    painted.setdefault("pixels", []).append(int(np.ma.masked_invalid(one.get_array()).count()))
        return path

    monkeypatch.setattr(pictures, "write_atomic", counted)
    image = grid8.to_nifti(values)
    draw_mosaic(image, values[grid8.voxel_mask], "title", "", "unit", tmp_path / "map.png")
    dense = np.asarray(image.dataobj)
    size = np.abs(dense)
    shown = size >= np.quantile(np.abs(values[grid8.voxel_mask]), 1 - SHOWN_SHARE) if signed else size > 0
    to_voxel = np.linalg.inv(image.affine)
    wanted = []
    for axis, cuts in enumerate(pictures._CUTS_MM.values()):
        for mm in cuts:
            place = to_voxel @ np.insert(np.eye(3)[axis] * mm, 3, 1)
            wanted.append(int(np.take(shown, round(place[axis]), axis=axis).sum()))
    assert painted["pixels"] == wanted and sum(wanted) > 500
    assert nibabel.aff2axcodes(image.affine) == ("R", "A", "S")
