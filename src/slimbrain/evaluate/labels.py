"""How labels are made of the columns that cohorts publish: one function per task, which says what sessions it leaves out and why."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from slimbrain.evaluate.phenotypes import Row, cell, number
from slimbrain.store import SessionInfo


@dataclass(frozen=True)
class LeftOut:
    """A session that gets no label, and the reason that the result counts it under."""

    reason: str


Labelled = str | float | LeftOut
Label = Callable[[Sequence[Row], SessionInfo], Labelled]
"""From the lines about a participant and the session to its label."""

_CHILD_UNTIL, _ADOLESCENT_UNTIL = 12, 18
"""Completed years with which childhood and adolescence end in MEDLINE's age groups."""

_VISIT = re.compile(r"(?:ses-)?m(?P<month>\d{1,3})", re.IGNORECASE)
_BASELINE = re.compile(r"(?:ses-)?(?:bl|baseline|sc|screening)", re.IGNORECASE)
_RUN_NUMBER = re.compile(r"\d+")

_PPMI_CLASSES = {"parkinson's disease": "PD", "healthy control": "HC", "healthy controls": "HC"}
_PPMI_STAYED = frozenset({"enrolled", "withdrew", "complete", ""})
"""Statuses of those who completed a visit; the others never were in the study."""

_ADHD200_CLASSES = {0: "control", 1: "ADHD", 2: "ADHD", 3: "ADHD"}
_ABIDE_CLASSES = {1: "autism", 2: "control"}
_ABIDE_SEXES = {1: "M", 2: "F"}


def hcp_sex(rows: Sequence[Row], session: SessionInfo) -> Labelled:
    """`Gender`, F or M."""
    value = _same(rows, "Gender")
    return value if isinstance(value, LeftOut) or value in ("F", "M") else LeftOut(f"Gender is {value}")


def adni_mci(rows: Sequence[Row], session: SessionInfo) -> Labelled:
    """`DX` at the visit of the session: CN or MCI.

    Where the session's name tells no visit, the label is that of all visits, if it never changed: a scan years after the baseline must
    not get the baseline's diagnosis.
    """
    month = _visit_month(session.session)
    there = rows if month is None else [row for row in rows if _visit_month(cell(row, "VISCODE")) == month]
    if not there:
        return LeftOut("no line for the visit of the session")
    found = {value for row in there if (value := cell(row, "DX"))}
    if not found:
        return LeftOut("no diagnosis at the visit")
    if len(found) > 1:
        return LeftOut("diagnosis changes over visits, and the session names none (ses-M012)")
    (diagnosis,) = found
    return diagnosis if diagnosis in ("CN", "MCI") else LeftOut(f"diagnosis is {diagnosis}")


def _visit_month(text: str) -> int | None:
    """Months since baseline of a visit code (`bl`, `m06`, `ses-M012`); None if it is none."""
    if _BASELINE.fullmatch(text):
        return 0
    found = _VISIT.fullmatch(text)
    return int(found["month"]) if found else None


def adhd200_diagnosis(rows: Sequence[Row], session: SessionInfo) -> Labelled:
    """`DX`: 0 is control; 1, 2 and 3 are the types of ADHD, taken together. Runs that quality control marks 0 are left out."""
    if any(_questionable(row, session) for row in rows):
        return LeftOut("questionable in quality control (QC_Rest)")
    return _coded(rows, "DX", _ADHD200_CLASSES, "diagnosis withheld or missing")


def ppmi_diagnosis(rows: Sequence[Row], session: SessionInfo) -> Labelled:
    """`COHORT_DEFINITION`: Parkinson's disease or healthy control; `ENROLL_STATUS` must be one with visits."""
    statuses = {cell(row, "ENROLL_STATUS").casefold() for row in rows}
    if not statuses <= _PPMI_STAYED:
        return LeftOut(f"status is {', '.join(sorted(statuses - _PPMI_STAYED))}")
    value = _same(rows, "COHORT_DEFINITION")
    if isinstance(value, LeftOut):
        return value
    return _PPMI_CLASSES.get(value.replace("\N{RIGHT SINGLE QUOTATION MARK}", "'").casefold()) or LeftOut(f"cohort is {value}")


def abide_diagnosis(rows: Sequence[Row], session: SessionInfo) -> Labelled:
    """`DX_GROUP`: 1 is autism, 2 is control, or the words."""
    return _coded(rows, "DX_GROUP", _ABIDE_CLASSES, "DX_GROUP missing")


def abide_sex(rows: Sequence[Row], session: SessionInfo) -> Labelled:
    """`SEX`: 1 is male, 2 is female, or M and F."""
    return _coded(rows, "SEX", _ABIDE_SEXES, "SEX missing")


def abide_age(rows: Sequence[Row], session: SessionInfo) -> Labelled:
    """`AGE_AT_SCAN`, years."""
    ages = {number(row, "AGE_AT_SCAN") for row in rows}
    if len(ages) > 1:
        return LeftOut("listed with several values of AGE_AT_SCAN")
    (age,) = ages
    return age if age is not None and 0 < age < 120 else LeftOut("AGE_AT_SCAN missing")


def abide_age_class(rows: Sequence[Row], session: SessionInfo) -> Labelled:
    """Child (to 12 completed years), adolescent (13 to 18) or adult, from `AGE_AT_SCAN`.

    The bounds are fixed beforehand: bounds from the data, such as terciles, would be a statistic that the test subjects had a part in.
    """
    age = abide_age(rows, session)
    if not isinstance(age, float):
        return age
    years = int(age)
    return "child" if years <= _CHILD_UNTIL else "adolescent" if years <= _ADOLESCENT_UNTIL else "adult"


def _same(rows: Sequence[Row], column: str) -> str | LeftOut:
    """What all lines say in a column."""
    values = {cell(row, column) for row in rows}
    if len(values) > 1:
        return LeftOut(f"listed with several values of {column}")
    return values.pop() or LeftOut(f"{column} missing")


def _coded(rows: Sequence[Row], column: str, classes: Mapping[int, str], otherwise: str) -> Labelled:
    words = {word.casefold(): word for word in classes.values()}
    if len(said := {words.get(cell(row, column).casefold(), "") for row in rows}) == 1 and (word := said.pop()):
        return word
    codes = {number(row, column) for row in rows}
    if len(codes) > 1:
        return LeftOut(f"listed with several values of {column}")
    code = codes.pop()
    return LeftOut(otherwise) if code is None or code not in classes else classes[int(code)]


def _questionable(row: Row, session: SessionInfo) -> bool:
    """Whether a QC column of the run says 0; the site with two visits counts them by S1, S2."""
    run, visit = (found[0] if (found := _RUN_NUMBER.search(text)) else "1" for text in (session.run, session.session))
    return any(number(row, name) == 0 for name in (f"QC_Rest_{int(run)}", f"QC_S{int(visit)}_Rest_{int(run)}"))
