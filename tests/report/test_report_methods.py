"""The paragraph to paste, and the references under it."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from report_samples import Page

from slimbrain.report import ReportInputs, methods, references
from slimbrain.report.blocks import Code
from slimbrain.report.inputs import read_material


def paragraph(inputs: ReportInputs) -> tuple[str, str]:
    """The text and the BibTeX."""
    text, bibtex = (block for block in methods.build(read_material(inputs)).blocks if isinstance(block, Code))
    return "\n".join(text.lines), "\n".join(bibtex.lines)


def test_the_paragraph_says_what_the_inputs_hold(inputs: ReportInputs) -> None:
    text, _ = paragraph(inputs)
    for words in (
        "3 functional MRI sessions of 3 participants (task rest)",
        "Images normalised to MNI152NLin6Asym",
        "a lattice of 24 voxels of 8 mm a side",
        # 0.1234, 0.1334 and 0.1434 mm.
        "was 0.13 mm (SD 0.01)",
        "1 run was left out by a threshold on fd mean",
        "1 run could not be used",
        "18 windows of 5.76 s of 3 sessions were scored by mutual masked reconstruction, and the 2 that rank first",
        "(3 sessions; 41 steps; preset tiny; seed 7)",
        "Group was predicted by linear probe in 3 participants (3-fold by subject; metric auc) beside 3 baselines.",
        "What moved the decision on group was mapped by the gradient times the input (Shrikumar et al., 2016) in 3 sessions.",
        "The encoder's errors in predicting hidden places were mapped in 3 sessions.",
    ):
        assert words in text, words


def test_every_work_cited_has_its_entry_and_every_entry_is_cited(inputs: ReportInputs) -> None:
    text, bibtex = paragraph(inputs)
    works = [work for work in vars(references).values() if isinstance(work, references.Reference)]
    assert {work.key for work in works if work.cite in text} == set(re.findall(r"^@\w+\{(\w+),$", bibtex, flags=re.MULTILINE))
    assert bibtex.count("{") == bibtex.count("}") and len({work.key for work in works}) == len(works)


def test_what_was_not_given_is_neither_told_nor_cited(inputs: ReportInputs) -> None:
    text, bibtex = paragraph(replace(inputs, runs=(), evaluations=(), windows=None))
    assert "trained" not in text and "predicted" not in text and "windows" not in text
    assert "paszke" not in bibtex and "pedregosa" not in bibtex and "power2012" in bibtex


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
