"""The files in which cohorts publish what is known of their participants, and whose row belongs to which `sub-XXXX`."""

from __future__ import annotations

import csv
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from slimbrain.errors import InputError

_MISSING_WORDS = frozenset({"", "n/a", "na", "nan", "none", "null"})
"""Cells of a phenotype table that say nothing, in lower case."""

_MISSING_NUMBERS = frozenset({"-9999", "-999", "-9999.0", "-999.0"})
"""ABIDE and ADHD-200 write a number where nothing is known."""

_ENCODINGS = ("utf-8-sig", "cp1252")
"""Some releases come from Excel on Windows."""

_WHOLE_NUMBER = re.compile(r"(\d+)\.0+")
"""A number that a spreadsheet or pandas made of an identifier: 50003.0."""

_AGE_BAND = re.compile(r"(\d+)-(\d+)")

Row = Mapping[str, str]
"""Cells of one line by `column_key` of their column."""


@dataclass(frozen=True)
class Cohort:
    """One study: its phenotype file, how it names participants, where to get it.

    Attributes
    ----------
    name, title : str
        Short and full name.
    file : str
        Name of the phenotype file, with `*` where releases differ.
    ids : tuple[str, ...]
        Columns that hold a participant's identifier, in any of the forms in use.
    prefixes : tuple[str, ...]
        What may stand before the identifier in `sub-XXXX` (`ADNI` in `sub-ADNI002S0413`), lower case, longest first.
    site, age, sex : str
        Columns of these, empty where there is none.
    bids : Mapping[str, str]
        What `participants.tsv` of a BIDS dataset calls these columns, lower case: read where there is no phenotype file.
    relatives : tuple[str, ...]
        Columns by which relatives are known: who shares a value in one of them stays on one side of every split.
    relatives_file : str
        Where these are, if not in `file`.
    where : str
        Where to get the data.
    terms : str
        Under which terms.
    sources : tuple[str, ...]
        Where the columns were looked up.
    """

    name: str
    title: str
    file: str
    ids: tuple[str, ...]
    prefixes: tuple[str, ...] = ()
    site: str = ""
    age: str = ""
    sex: str = ""
    bids: Mapping[str, str] = field(default_factory=dict)
    relatives: tuple[str, ...] = ()
    relatives_file: str = ""
    where: str = ""
    terms: str = ""
    sources: tuple[str, ...] = ()


@dataclass(frozen=True)
class Phenotypes:
    """Rows of one or several files, by participant.

    Attributes
    ----------
    cohort : Cohort
        Whose.
    files : str
        Names for messages.
    columns : frozenset[str]
        Keys of the columns that at least one file has.
    rows : Mapping[str, Sequence[Row]]
        Lines of each participant, by plain identifier.
    """

    cohort: Cohort
    files: str
    columns: frozenset[str]
    rows: Mapping[str, Sequence[Row]]

    def of(self, subject: str) -> Sequence[Row]:
        """Lines about the participant that the store calls `sub-XXXX`; none if the files do not list it."""
        return self.rows.get(_plain_id(subject.removeprefix("sub-"), self.cohort.prefixes), ())


def is_missing(cell: str) -> bool:
    """Whether a cell of a phenotype table says nothing."""
    return cell.strip().lower() in _MISSING_WORDS


def column_key(name: str) -> str:
    """A column's name without what differs between releases: `AGE_AT_SCAN ` of ABIDE II ends in a blank, ADHD-200 has `ScanDirID` too."""
    return "".join(name.split()).casefold()


def cell(row: Row, column: str) -> str:
    """What a row says in a column; empty if it says nothing."""
    text = row.get(column_key(column), "").strip()
    return "" if is_missing(text) or text in _MISSING_NUMBERS else text


def number(row: Row, column: str) -> float | None:
    """The cell as a number; None if it is missing or none."""
    try:
        return float(cell(row, column))
    except ValueError:
        return None


def age_in_years(text: str) -> str:
    """An age as one number: HCP publishes bands, of which the middle stands for all (`26-30` is 28, `36+` is 36)."""
    if band := _AGE_BAND.fullmatch(text):
        return f"{(int(band[1]) + int(band[2])) / 2:g}"
    return text.removesuffix("+")


def _plain_id(text: str, prefixes: Sequence[str] = ()) -> str:
    """An identifier without what differs between spellings: case, separators, a cohort's prefix, leading zeros, a decimal `.0`."""
    text = _WHOLE_NUMBER.sub(r"\1", text.strip()) if _WHOLE_NUMBER.fullmatch(text.strip()) else text
    plain = "".join(character for character in text.casefold() if character.isalnum())
    prefix = next((prefix for prefix in prefixes if plain.startswith(prefix) and plain != prefix), "")
    plain = plain.removeprefix(prefix)
    return (plain.lstrip("0") or "0") if plain.isdecimal() else plain


def read_phenotypes(cohort: Cohort, paths: Sequence[Path]) -> Phenotypes:
    """Read and join phenotype files of a cohort (ADHD-200 has one for every site).

    Raises
    ------
    InputError
        If a file cannot be read or has none of the cohort's identifiers.
    """
    rows: list[Row] = []
    for path in paths:
        found = _read_rows(path)
        if not any(column_key(name) in found[0] for name in cohort.ids):
            raise InputError(
                f"{path}: has none of the columns {', '.join(cohort.ids)}; give {cohort.file} of {cohort.title}, from {cohort.where}."
            )
        rows += found
    return collect(cohort, rows, ", ".join(str(path) for path in paths))


def collect(cohort: Cohort, rows: Iterable[Row], files: str) -> Phenotypes:
    """Rows by participant; a row counts once for each way in which it spells one."""
    rows = list(rows)
    by_person: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        for name in {_plain_id(text, cohort.prefixes) for column in cohort.ids if (text := cell(row, column))}:
            by_person[name].append(row)
    return Phenotypes(cohort, files, frozenset(key for row in rows for key in row), by_person)


def _read_rows(path: Path) -> list[Row]:
    """Lines of a comma- or tab-separated table with a header.

    Raises
    ------
    InputError
        If it cannot be read or has no lines.
    """
    text = _read(path)
    header = text.split("\n", 1)[0]
    reader = csv.reader(text.splitlines(), delimiter="\t" if header.count("\t") > header.count(",") else ",")
    try:
        names, *lines = [line for line in reader if any(field.strip() for field in line)]
    except (csv.Error, ValueError) as error:
        raise InputError(f"{path}: is empty or no table ({error}); give a file with a header, commas or tabs.") from error
    if not lines:
        raise InputError(f"{path}: has a header and no lines; give the whole file.")
    keys = [column_key(name) for name in names]
    return [dict(zip(keys, line, strict=False)) for line in lines]


def _read(path: Path) -> str:
    for encoding in _ENCODINGS:
        try:
            return path.read_text(encoding=encoding)
        except UnicodeDecodeError:
            continue
        except OSError as error:
            raise InputError(f"{path}: cannot be read ({error.strerror}); correct the path of the phenotype file.") from error
    raise InputError(f"{path}: is not text in UTF-8 or Windows-1252; export it as CSV.")
