"""The stories of the gallery: what they import is public, they stay short, and each shows what its text says."""

from __future__ import annotations

import ast
import io
import os
import re
import runpy
import shutil
import subprocess
import sys
import tempfile
import tokenize
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import LeaveOneGroupOut, cross_val_predict

from slimbrain.simulate import load_truth

ROOT = Path(__file__).resolve().parents[1]
GALLERY = ROOT / "examples" / "gallery"
STORIES = sorted(path.name for path in GALLERY.glob("*.py"))
CODE_LINES = 40


def code_lines(source: str) -> int:
    """Lines that hold code, strings that stand alone and comments left out."""
    quiet = (tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.ENCODING, tokenize.ENDMARKER, tokenize.INDENT, tokenize.DEDENT)
    docstring = ast.parse(source).body[0].end_lineno or 0
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    return len({token.start[0] for token in tokens if token.type not in quiet and token.start[0] > docstring})


def public_names() -> set[str]:
    """Dotted names of the API page."""
    page = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    return set(re.findall(r"auto(?:class|function):: (slimbrain\.[\w.]+)$", page, flags=re.MULTILINE))


@pytest.mark.parametrize("name", STORIES)
def test_a_story_is_short_and_imports_what_is_public(name: str) -> None:
    source = (GALLERY / name).read_text(encoding="utf-8")
    assert re.match(r'"""\n.+\n=+\n\n', source), "a story begins with its title"
    assert code_lines(source) < CODE_LINES
    imported = [
        f"{node.module}.{one.name}"
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith("slimbrain")
        for one in node.names
    ]
    assert sorted(set(imported) - public_names()) == []


def test_there_are_eight_stories() -> None:
    assert [int(name.split("_")[0]) for name in STORIES] == list(range(1, 9))


# --- told


@pytest.fixture
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where stories write; their figures are closed at the end."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    yield tmp_path
    pyplot.close("all")


def told(name: str, monkeypatch: pytest.MonkeyPatch, folder: Path = GALLERY) -> dict[str, Any]:
    """Run a story where it lies; its names. It must have drawn something."""
    monkeypatch.chdir(folder)
    pyplot.close("all")
    names = runpy.run_path(str(folder / name))
    assert pyplot.get_fignums()
    return names


@pytest.mark.slow
def test_prepare_and_look(scratch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = told("1_prepare_and_look.py", monkeypatch)
    planted = load_truth(names["folder"] / "fmriprep").sessions[0].spikes
    assert set(planted) <= set(names["flagged"])
    assert names["mean"].shape == names["store"].image(names["key"], 0).shape


@pytest.mark.slow
def test_which_windows(scratch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The planted activations are taken, the jumps are not, as the text says."""
    names = told("2_which_windows.py", monkeypatch)
    taken = [(row.onset_s, row.onset_s + row.duration_s) for row in names["windows"] if row.among(8)]
    session, tr = names["session"], names["store"].contract.tr
    assert all(any(start <= event.peak_s < stop for start, stop in taken) for event in session.events)
    assert session.spikes and not any(start <= frame * tr < stop for frame in session.spikes for start, stop in taken)


@pytest.mark.slow
def test_embed_and_map(scratch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A line in the plane of the two axes tells the groups apart, in people that it was not drawn with."""
    names = told("3_embed_and_map.py", monkeypatch)
    folds = LeaveOneGroupOut().split(names["places"], groups=names["people"])
    said = cross_val_predict(LinearDiscriminantAnalysis(), names["places"], names["groups"], cv=folds)
    assert np.mean(said == names["groups"]) > 0.85


@pytest.mark.slow
def test_few_labels(monkeypatch: pytest.MonkeyPatch) -> None:
    curve = told("4_few_labels.py", monkeypatch)["curve"]
    age = curve[(curve.trait == "age") & (curve.labelled == 30)].set_index("method")["mean"]
    assert sorted(curve.labelled.unique()) == [30, 60, 120]
    assert age["connectome"] > 4 * age["tangent"] and age["linear pretraining 50"] > 4 * age["tangent"]
    pyplot.close("all")


@pytest.mark.slow
def test_duplicates_without_the_recordings(scratch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the tables beside the script: every pair of 877 people is counted, and two stand apart."""
    folder = scratch / "examples" / "gallery"
    shutil.copytree(GALLERY, folder)
    names = told("5_duplicates.py", monkeypatch, folder)
    assert names["count"].sum() == 877 * 876 // 2
    assert names["count"][names["place"] > 25].sum() == len(names["found"]) == 2
    assert names["place"][names["place"] < 25].max() * 0.02 < 0.26


@pytest.mark.slow
def test_duplicates_are_those_of_the_tables(scratch: Path, shared_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = told("5_duplicates.py", monkeypatch)
    saved = pd.read_csv(GALLERY / "abide_duplicates.tsv", sep="\t")[list(names["found"].columns)]
    pd.testing.assert_frame_equal(names["found"], saved, atol=1e-3)
    counts = pd.read_csv(GALLERY / "abide_pairs.tsv", sep="\t").to_numpy().T
    np.testing.assert_array_equal(names["place"], counts[0])
    # A correlation at the edge of a bin may fall to either side on another machine.
    assert np.abs(names["count"] - counts[1]).sum() <= 100


@pytest.mark.slow
def test_maps_of_a_decision(scratch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The probe is above chance, and the map speaks for the group where the groups differ."""
    names = told("6_maps_of_a_decision.py", monkeypatch)
    assert names["contrast"].decided_by["low"] > 0.5
    values, planted = (names[name].get_fdata() for name in ("image", "planted_image"))
    brain = nibabel.load(names["folder"] / "store" / "desc-brain_mask.nii.gz").get_fdata() > 0
    assert roc_auc_score(planted[brain] > 0.5, values[brain]) > 0.65


@pytest.mark.slow
def test_plan_a_pretraining(monkeypatch: pytest.MonkeyPatch) -> None:
    names = told("7_plan_a_pretraining.py", monkeypatch)
    total = sum(names["parts"].values())
    assert total[0] == pytest.approx(names["one"].peak_mib) and total[1] == pytest.approx(names["two"].peak_mib)
    weights, inputs = names["parts"]["weights"], names["parts"]["inputs"]
    assert np.ptp(weights) == 0 and inputs[31] == pytest.approx(32 * inputs[0])
    pyplot.close("all")


@pytest.mark.slow
def test_your_own_atlas(scratch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    similarity = told("8_your_own_atlas.py", monkeypatch)["similarity"]
    assert (similarity.argmax(axis=1) == np.arange(10)).sum() >= 9


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_pages_build_without_a_warning_or_a_network(tmp_path: Path) -> None:
    """Stories unrun; the sidebar lists the versions that it is told of, and the index has a door for every page."""
    for name in ("docs", "examples"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("_build", "__pycache__", "[0-9]*.rst"))
    for name in ("CHANGELOG.md", "CONTRIBUTING.md", "README.md"):
        shutil.copy(ROOT / name, tmp_path)
    environment = {**os.environ, "SLIMBRAIN_GALLERY": "0", "SLIMBRAIN_DOCS_VERSIONS": "stable=../stable/index.html"}
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-b", "html", "docs", "html"]
    built = subprocess.run(command, cwd=tmp_path, env=environment, check=False, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    index = (tmp_path / "html" / "index.html").read_text(encoding="utf-8")
    assert '<a href="../stable/index.html">stable</a>' in index
    assert re.findall(r'<span class="caption-text">(\w+)', index) == ["Start", "Use", "Train", "Understand", "Reference"]
    assert all((tmp_path / "html" / "gallery" / name).with_suffix(".html").is_file() for name in STORIES)


def test_code_is_counted_without_text() -> None:
    assert code_lines('"""\nTitle\n=====\n"""\n\n# %%\n# said\nx = (\n    1,\n)\n') == 3
