"""Phenotype files as the cohorts publish them: spellings of identifiers and columns, encodings, cells that say nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from phenotype_samples import write_phenotypes

from slimbrain.errors import InputError
from slimbrain.evaluate.phenotypes import _plain_id, _read_rows, age_in_years, cell, number, read_phenotypes
from slimbrain.evaluate.registry import _ABIDE, _ADHD200, _ADNI, _PPMI, HCP, Cohort


@pytest.mark.parametrize(
    ("cohort", "listed", "subjects"),
    [
        (HCP, "100307", ["sub-100307", "sub-HCP100307"]),
        (_ADNI, "002_S_0413", ["sub-ADNI002S0413", "sub-002S0413", "sub-adni002s0413"]),
        (_ADNI, "413", ["sub-413", "sub-0413", "sub-ADNI0413"]),
        (_ADHD200, "10001", ["sub-0010001", "sub-10001", "sub-ADHD20010001"]),
        (_PPMI, "3001", ["sub-3001", "sub-PPMI3001", "sub-PATNO3001"]),
        (_ABIDE, "50003", ["sub-0050003", "sub-50003", "sub-ABIDEII50003"]),
        (_ABIDE, "50003.0", ["sub-0050003"]),
        (_ABIDE, "Pitt_0050003", ["sub-Pitt0050003", "sub-pitt0050003"]),
    ],
)
def test_participants_are_found_in_every_usual_spelling(cohort: Cohort, listed: str, subjects: list[str]) -> None:
    for subject in subjects:
        assert _plain_id(subject.removeprefix("sub-"), cohort.prefixes) == _plain_id(listed, cohort.prefixes)


@given(st.integers(0, 10**7), st.integers(0, 10**7))
def test_different_numbers_stay_different(one: int, other: int) -> None:
    assert (_plain_id(f"{one:07d}") == _plain_id(str(other))) == (one == other)


def test_identifiers_that_are_not_alike_stay_apart() -> None:
    assert len({_plain_id(text, _ADNI.prefixes) for text in ("002_S_0413", "002_S_0414", "022_S_0413", "413", "0", "ADNI")}) == 6


def test_rows_of_several_files_are_joined(tmp_path: Path) -> None:
    """One site of ADHD-200 writes `ScanDirID`, and Excel left a byte-order mark."""
    write_phenotypes(tmp_path / "KKI_phenotypic.csv", "adhd200", [{"ScanDir ID": "1018959", "DX": "0"}], "utf-8-sig")
    (tmp_path / "WashU_phenotypic.csv").write_text("ScanDirID,Site,DX\n0015001,6,0\n")
    table = read_phenotypes(_ADHD200, [tmp_path / "KKI_phenotypic.csv", tmp_path / "WashU_phenotypic.csv"])
    assert [cell(row, "DX") for subject in ("sub-1018959", "sub-15001") for row in table.of(subject)] == ["0", "0"]
    assert table.of("sub-2") == ()


def test_both_identifiers_of_a_row_lead_to_it(tmp_path: Path) -> None:
    path = write_phenotypes(tmp_path / "a.csv", "abide", [{"SUB_ID": "50003", "FILE_ID": "Pitt_0050003", "SEX": "1"}])
    table = read_phenotypes(_ABIDE, [path])
    assert table.of("sub-0050003") == table.of("sub-Pitt0050003") and len(table.of("sub-50003")) == 1


def test_tabs_blanks_in_names_and_windows_encoding(tmp_path: Path) -> None:
    (tmp_path / "abide2.csv").write_bytes("SUB_ID\tAGE_AT_SCAN \tSITE_ID\n28675\t11.5 \tZürich\n\n".encode("cp1252"))
    (row,) = _read_rows(tmp_path / "abide2.csv")
    assert (number(row, "AGE_AT_SCAN"), cell(row, "SITE_ID")) == (11.5, "Zürich")


@pytest.mark.parametrize("text", ["", "n/a", "NaN", "-9999", "-999", " ", "None"])
def test_cells_that_say_nothing(text: str) -> None:
    assert cell({"age": text}, "Age") == "" and number({"age": text}, "Age") is None and cell({}, "Age") == ""


@pytest.mark.parametrize(("text", "age"), [("26-30", "28"), ("22-25", "23.5"), ("36+", "36"), ("71.3", "71.3"), ("", "")])
def test_ages_in_bands_become_numbers(text: str, age: str) -> None:
    assert age_in_years(text) == age


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty or no table"),
        (b"Subject,Gender\n", "has a header and no lines"),
        (b"a,b\n1,2\n", "has none of the columns Subject; give unrestricted_"),
        (b"\x81\x8d\xff,b\n1,2\n", "is not text"),
        (None, "cannot be read"),
    ],
)
def test_files_that_cannot_serve_are_refused(tmp_path: Path, content: bytes | None, message: str) -> None:
    path = tmp_path / "unrestricted.csv"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=message) as refusal:
        read_phenotypes(HCP, [path])
    assert str(path) in str(refusal.value)
