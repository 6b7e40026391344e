"""The paragraph to paste, and the references under it."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from importlib import resources
from pathlib import Path

import pytest
from report_samples import Page, make_result

import slimbrain
from slimbrain.models.hub import weights_sha256
from slimbrain.report import ReportInputs, methods, references
from slimbrain.report.blocks import Block, Code, Fold
from slimbrain.report.inputs import read_material


def unfolded(blocks: Sequence[Block]) -> list[Block]:
    """Blocks with those that are folded in their place."""
    return [inner for block in blocks for inner in (block.blocks if isinstance(block, Fold) else (block,))]


def paragraph(inputs: ReportInputs) -> tuple[str, str]:
    """The text and the BibTeX."""
    text, bibtex = (block for block in unfolded(methods.build(read_material(inputs)).blocks) if isinstance(block, Code))
    return "\n".join(text.lines), "\n".join(bibtex.lines)


def test_the_paragraph_says_what_the_inputs_hold(inputs: ReportInputs) -> None:
    text, _ = paragraph(inputs)
    for words in (
        "3 functional MRI sessions of 3 participants (task rest)",
        "Images normalised to MNI152NLin6Asym",
        "a lattice of 24 x 24 x 24 voxels of 8 mm",
        # 0.1234, 0.1334 and 0.1434 mm.
        "was 0.13 mm (SD 0.01)",
        "1 run was excluded by a threshold on fd mean",
        "1 run could not be used",
        "18 windows of 5.76 s of 3 sessions were scored by mutual masked reconstruction and ranked; the 2 best of each session were used",
        "(3 sessions; 41 steps; preset tiny; seed 7)",
        "Group was predicted by linear probe from ours-1 in 3 participants (3-fold by subject; metric AUC) beside 3 baselines.",
        "Contributions to the decision on group were mapped by the gradient times the input (Shrikumar et al., 2016) in 3 sessions.",
        "The encoder's prediction errors at hidden places were mapped in 3 sessions.",
    ):
        assert words in text, words


def test_every_work_cited_has_its_entry_and_every_entry_is_cited(inputs: ReportInputs) -> None:
    text, bibtex = paragraph(inputs)
    works = [work for work in vars(references).values() if isinstance(work, references.Reference)]
    assert {work.key for work in works if work.cite in text} == set(re.findall(r"^@\w+\{(\w+),$", bibtex, flags=re.MULTILINE))
    assert len({work.key for work in works}) == len(works)


def result_with(folder: Path, metric: str, method: str = "linear probe") -> Path:
    """A result with another metric, and another method in place of the linear probe."""
    path = make_result(folder / f"{metric}.json")
    path.write_text(path.read_text().replace('"auc"', f'"{metric}"').replace('"linear probe"', f'"{method}"'))
    return path


@pytest.mark.parametrize(
    ("metrics", "told", "not_told"),
    [
        (["r2"], ["Linear models were ridge regressions, fitted by slimbrain on"], ["L-BFGS-B", "logistic", "identified", "virtanen"]),
        (
            ["auc"],
            ["L2-penalised logistic regressions, fitted by slimbrain (by L-BFGS-B in SciPy, Virtanen et al., 2020)", "virtanen2020"],
            ["ridge", "finn2015"],
        ),
        (["auc", "r2"], ["ridge regressions and L2-penalised logistic regressions"], ["identified"]),
        (["top1"], ["identified by the correlation of their sessions (Finn et al., 2015)", "finn2015"], ["Linear models", "folds were"]),
    ],
)
def test_what_fitted_the_models_is_told_as_it_is(tmp_path: Path, metrics: list[str], told: list[str], not_told: list[str]) -> None:
    results = tuple(result_with(tmp_path, metric, "identification" if metric == "top1" else "linear probe") for metric in metrics)
    written = "\n".join(paragraph(ReportInputs(evaluations=results)))
    assert [words for words in told if words not in written] == []
    assert [words for words in not_told if words in written] == []


def test_the_model_that_comes_with_the_package_is_told_with_its_data_and_licence(tmp_path: Path) -> None:
    """Known by its weights."""
    path = result_with(tmp_path, "auc")
    value, shipped = json.loads(path.read_text()), weights_sha256("slimbrain-temporal")
    for sha, told in ((shipped, True), ("f00d", False)):
        path.write_text(json.dumps(value | {"models": [{"name": "slimbrain temporal", "weights_sha256": sha}]}))
        words, _ = paragraph(ReportInputs(evaluations=(path,)))
        assert ("pretrained on ABIDE and HCP; the licence of its weights is CC-BY-NC-4.0." in words) is told


def test_no_linear_model_and_no_fold_is_scikit_learns() -> None:
    """What the paragraph calls slimbrain's own; of scikit-learn it names the standardisation and Ledoit-Wolf."""
    sources = [path.read_text(encoding="utf-8") for path in (Path(slimbrain.__file__).parent / "evaluate").glob("*.py")]
    assert not [text for text in sources if re.search(r"sklearn\.(linear_model|model_selection|svm)", text)]
    assert any("from sklearn.preprocessing import StandardScaler" in text for text in sources)
    assert any("from sklearn.covariance import LedoitWolf" in text for text in sources)


def test_every_entry_of_the_bibliography_is_read_and_complete() -> None:
    """Against a count and a reading of the file line by line: an entry that the reader skips, or half a field, would not be noticed."""
    text = (resources.files("slimbrain.report") / "references.bib").read_text(encoding="utf-8")
    read = references._read_references(text)
    starts = [line for line in text.splitlines() if line.startswith("@")]
    assert list(read) == [line.partition("{")[2].rstrip(",") for line in starts]
    required = {"@article": {"title", "author", "year", "journal"}, "@inproceedings": {"title", "author", "year", "booktitle"}}
    for start, work in zip(starts, read.values(), strict=True):
        first, *fields, last = work.bibtex.splitlines()
        assert (first, last) == (start, "}")
        assert all(re.fullmatch(r"  \w+ = \{.+\},", line) and line.count("{") == line.count("}") for line in fields), work.key
        names = {line.split()[0] for line in fields}
        assert required.get(start.partition("{")[0], {"title", "author", "note"}) <= names, work.key
    assert "\n\n".join(work.bibtex for work in read.values()) + "\n" == text
    assert read["slimbrain"].bibtex.count(f"version {slimbrain.__version__}}}") == 1
    expected = {"ledoit2004": "Ledoit and Wolf, 2004", "power2012": "Power et al., 2012", "slimbrain": "The slimbrain developers"}
    assert {key: read[key].cite for key in expected} == expected


def test_what_was_not_given_is_neither_told_nor_cited(inputs: ReportInputs) -> None:
    text, bibtex = paragraph(replace(inputs, runs=(), evaluations=(), windows=None))
    assert "trained" not in text and "predicted" not in text and "windows" not in text
    assert not any(name in bibtex for name in ("paszke", "pedregosa", "virtanen")) and "power2012" in bibtex


@pytest.mark.parametrize(
    ("strategies", "words"),
    [
        (("none", "none", "none"), "No confounds were regressed out and each voxel's series was z-scored over time."),
        (("simple", "none", "none"), "Confounds were regressed out of 1 session (nilearn's strategy simple) and"),
        (("simple", "scrubbing", "simple"), "Confounds were regressed out of 3 sessions (nilearn's strategy scrubbing and simple) and"),
        # Not recorded is not the same as none.
        (("", "none", "none"), "Each voxel's series was z-scored over time."),
    ],
)
def test_denoising_is_told_as_it_was_recorded(inputs: ReportInputs, strategies: tuple[str, ...], words: str) -> None:
    material = read_material(inputs)
    sessions = tuple(replace(session, denoise=one) for session, one in zip(material.sessions, strategies, strict=True))
    assert methods._time(replace(material, sessions=sessions)).startswith(words)


def test_the_files_of_the_page_stand_with_their_hashes(inputs: ReportInputs, text: str) -> None:
    import hashlib

    rows = next(table for table in Page(text).tables if table[0][:2] == ["what", "path"])
    found = {row[1]: row[2] for row in rows[1:]}
    assert inputs.windows is not None and inputs.store is not None
    for path in (inputs.windows, *inputs.evaluations, *inputs.maps):
        assert found[str(path)] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert found[str(inputs.store.root)] == "n/a"
