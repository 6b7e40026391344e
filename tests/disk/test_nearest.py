"""The neighbour that a path with a typo was meant to be."""

from __future__ import annotations

from pathlib import Path

import pytest

from slimbrain.disk.nearest import nearest_path


@pytest.mark.parametrize(
    ("typed", "suffix", "near"),
    [
        ("widnows.tsv", "", "windows.tsv"),
        ("widnows.json", "", "windows.json"),
        ("widnows", ".tsv", "windows.tsv"),
        ("mapps", "", "maps"),
        ("maap.nii.gz", "", "map.nii.gz"),
        # The suffix alone makes no name alike.
        ("z.nii.gz", "", ""),
        ("nothing.tsv", "", ""),
        ("away/windows.tsv", "", ""),
    ],
)
def test_the_nearest_name_of_the_same_folder(typed: str, suffix: str, near: str, tmp_path: Path) -> None:
    for name in ("windows.json", "windows.rank.json", "windows.tsv", "map.nii.gz"):
        (tmp_path / name).touch()
    (tmp_path / "maps").mkdir()
    assert nearest_path(tmp_path / typed, suffix) == (str(tmp_path / near) if near else "")
