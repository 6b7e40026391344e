"""The list of cohorts: every command in it exists, every fetcher too; and nilearn's development_fmri as prep reads it."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from types import SimpleNamespace

import nilearn.datasets
import numpy as np
import pandas as pd
import pytest
from encoder_samples import series, write_image
from test_project import unknown_word

from slimbrain import datasets
from slimbrain.cli import run_command
from slimbrain.datasets import CATALOGUE, fetch_development_fmri
from slimbrain.grid import Grid
from slimbrain.prep import PrepOptions, prepare
from slimbrain.prep.layouts import LAYOUTS
from slimbrain.store import Store


def test_every_command_and_fetcher_of_the_list_exists() -> None:
    commands = [line for entry in CATALOGUE.values() for line in (*entry.steps, *entry.prep) if line.startswith("slimbrain ")]
    assert len(commands) == len(CATALOGUE) + 2
    for line in commands:
        words = shlex.split(line)[1:]
        assert unknown_word(words) is None, line
        if "--layout" in words:
            assert words[words.index("--layout") + 1] in LAYOUTS
    for entry in CATALOGUE.values():
        assert entry.terms and entry.size and entry.sources and (bool(entry.fetcher) <= (not entry.account))
        assert not entry.fetcher or callable(getattr(datasets, entry.fetcher))


def test_the_list_and_one_of_it_are_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["datasets"]) == 0
    shown = capsys.readouterr().out
    assert all(f"{name}: " in shown for name in CATALOGUE)
    assert run_command(["datasets", "hcp"]) == 0
    shown = capsys.readouterr().out
    assert "ConnectomeDB" in shown and "slimbrain prep HCP_1200/ hcp/ participant" in shown
    assert run_command(["datasets", "abide-parcels", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["account"] == ""


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["nothing"], "choose one of abide-parcels"),
        (["--fetch"], "needs the name"),
        (["hcp", "--fetch"], "cannot be downloaded by slimbrain"),
    ],
)
def test_what_cannot_be_fetched_says_so(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["datasets", *words]) == 1
    assert said in capsys.readouterr().err


def test_development_fmri_is_read_as_nilearn_leaves_it(tmp_path: Path, grid8: Grid, monkeypatch: pytest.MonkeyPatch) -> None:
    """nilearn's fetcher is replaced by what it gives: files side by side, and a table of people."""
    folder = tmp_path / "development_fmri"
    people = pd.DataFrame(
        {"participant_id": ["sub-pixar001", "sub-pixar123"], "Age": [4.77, 20.0], "Child_Adult": ["child", "adult"], "Gender": ["M", "F"]}
    )
    bunch = SimpleNamespace(func=[], confounds=[], phenotypic=people, t_r=2)
    for number, name in enumerate(people["participant_id"]):
        image = folder / f"{name}_task-pixar_space-MNI152NLin2009cAsym_desc-preproc_bold.nii.gz"
        write_image(image, series(grid8, 20, 0.1, number), grid8.lattice.affine, tr=2.0)
        confounds = folder / f"{name}_task-pixar_desc-confounds_regressors.tsv"
        pd.DataFrame({"framewise_displacement": np.linspace(0, 0.2, 20)}).to_csv(confounds, sep="\t", index=False)
        bunch.func.append(str(image))
        bunch.confounds.append(str(confounds))
    (folder / "participants.tsv").write_text("nilearn's own\n")
    monkeypatch.setattr(nilearn.datasets, "fetch_development_fmri", lambda **options: bunch if options["n_subjects"] == 2 else None)
    fetched = fetch_development_fmri(2, tmp_path)
    assert (folder / "participants.tsv").read_text() == "nilearn's own\n"
    grid8.save_mask(tmp_path / "mask.nii.gz")
    summary = prepare(fetched.source, tmp_path / "store", PrepOptions(resolution="8mm", mask=tmp_path / "mask.nii.gz"))
    assert summary.failures == []
    store = Store(tmp_path / "store")
    assert [info.subject for info in store.sessions] == ["sub-pixar001", "sub-pixar123"]
    assert store.participants["sub-pixar123"]["group"] == "adult" and store.participants["sub-pixar001"]["sex"] == "M"
    assert {store.sidecar(info.key)["SourceRepetitionTime"] for info in store.sessions} == {2.0}
