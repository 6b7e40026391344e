"""Under what terms a session may be used: one record per dataset, named by the rows of the manifest.

`governance.json` holds each record once, under a name made from its content, so that a row can point at nothing else than what was meant;
`sessions.tsv` repeats cohort, licence and consent, so that a hundred thousand sessions are filtered without opening one. A change writes
the record first and then the whole manifest, which is the moment at which it holds.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml
from pydantic import Field, ValidationError, field_validator, model_validator

from slimbrain.config import Config, refusal
from slimbrain.disk.atomic import FileVersion, file_version, write_json
from slimbrain.disk.locks import claim
from slimbrain.disk.tsv import MISSING
from slimbrain.errors import InputError, StoreError
from slimbrain.store.manifest import LEDGER_COLUMNS, MANIFEST_FILE, SessionInfo
from slimbrain.store.terms import UNKNOWN, Terms, canonical_licence, canonical_scopes, strictest, terms_of

GOVERNANCE_FILE = "governance.yaml"
"""What a dataset says of itself, at its root."""

RECORDS_FILE = "governance.json"
_RECORD_DIGITS = 12


class Governance(Config):
    """Where data come from and what may be done with them."""

    cohort: str = Field(UNKNOWN, description="study; with a participant's label it says who that is")
    source: str = Field(UNKNOWN, description="where the data were got: a DOI, an accession, an address")
    licence: str = Field(UNKNOWN, description="SPDX id, or the name of a use agreement; `license` in a file will do")
    consent: tuple[str, ...] = Field((UNKNOWN,), description="scopes of the participants' consent")
    not_for: tuple[str, ...] = Field((), description="who may not see the data")

    @model_validator(mode="before")
    @classmethod
    def _spellings(cls, values: Any) -> Any:
        if isinstance(values, dict) and "license" in values and "licence" not in values:
            values = {("licence" if name == "license" else name): value for name, value in values.items()}
        return values

    @field_validator("cohort", "source")
    @classmethod
    def _one_line(cls, value: str) -> str:
        return " ".join(value.split()) or UNKNOWN

    @field_validator("licence")
    @classmethod
    def _licence(cls, value: str) -> str:
        return canonical_licence(value)

    @field_validator("consent", "not_for", mode="before")
    @classmethod
    def _listed(cls, value: Any) -> Any:
        return [part for part in value.split(",") if part.strip()] if isinstance(value, str) else value

    @field_validator("consent")
    @classmethod
    def _scopes(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return canonical_scopes(value)

    @field_validator("not_for")
    @classmethod
    def _sorted(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(sorted({" ".join(who.split()) for who in value} - {""}))

    @property
    def name(self) -> str:
        """Made from the content: another record has another name."""
        return _name(self)

    @property
    def known_cohort(self) -> str:
        """The cohort; empty where nobody knows it."""
        return "" if self.cohort == UNKNOWN else self.cohort

    @property
    def terms(self) -> Terms:
        return terms_of(self.licence, self.consent, self.not_for)

    @property
    def gaps(self) -> list[str]:
        """Which of the things that decide about use nobody knows."""
        told = {"licence": self.licence, "consent": self.consent[0]}
        return [name for name, value in told.items() if value == UNKNOWN]

    def cells(self) -> dict[str, str]:
        """What the manifest says of a session under this record."""
        return dict(zip(LEDGER_COLUMNS, (self.cohort, self.licence, ",".join(self.consent), self.name), strict=True))


@lru_cache(maxsize=4096)
def _name(record: Governance) -> str:
    content = json.dumps(record.model_dump(mode="json"), sort_keys=True)
    return f"g-{hashlib.sha256(content.encode()).hexdigest()[:_RECORD_DIGITS]}"


def checked_governance(values: object, said_by: str) -> Governance:
    """The values as a record; `said_by` names them in messages.

    Raises
    ------
    InputError
        If a name or a value is not accepted.
    """
    try:
        return Governance.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"]) or "the file as a whole"
        reason = refusal(error)
        if first["type"] == "extra_forbidden":
            reason = f"is no entry; there are {', '.join(Governance.model_fields)}"
        raise InputError(f"{said_by}: {place}: {reason}.") from error


def read_governance(path: str | Path) -> Governance:
    """The record in a governance.yaml.

    Raises
    ------
    InputError
        If it cannot be read, or an entry is not accepted.
    """
    try:
        values = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())
        raise InputError(f"{path}: cannot be read as YAML ({reason}); see docs/ledger.md for what it holds.") from error
    return checked_governance(values, str(path))


def records(root: Path) -> dict[str, Governance]:
    """Records of a store by name; read again only once the file was replaced.

    Raises
    ------
    StoreError
        If the file is damaged, or a record is not what its name was made from.
    """
    path = root / RECORDS_FILE
    try:
        version = file_version(path)
    except FileNotFoundError:
        return {}
    return dict(_records_once(path, version))


@lru_cache(maxsize=8)
def _records_once(path: Path, version: FileVersion) -> dict[str, Governance]:
    again = "restore it, or set the terms again with `slimbrain ledger --set`."
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        found = {name: Governance.model_validate(value) for name, value in values.items()}
    except (OSError, ValueError, RecursionError, AttributeError, TypeError) as error:
        reason = str(error).splitlines()[0]
        raise StoreError(f"{path}: cannot be read ({reason}); {again}") from error
    if changed := [name for name, record in found.items() if record.name != name]:
        raise StoreError(f"{path}: record {changed[0]} is not what was written; {again}")
    return found


def keep_records(root: Path, wanted: Iterable[Governance]) -> None:
    """Add records to a store that may lack them; rows may then name them."""
    new = {record.name: record for record in wanted}
    if new.keys() <= records(root).keys():
        return
    with claim(root, RECORDS_FILE, wait=True):
        together = records(root) | new
        write_json(root / RECORDS_FILE, {name: together[name].model_dump(mode="json") for name in sorted(together)})


def record_of(root: Path, info: SessionInfo) -> Governance | None:
    """The record that a session's row names; None if it names none.

    Raises
    ------
    StoreError
        If there is no such record, or the row says other than it does.
    """
    cells = {name: info.qc.get(name, MISSING) for name in LEDGER_COLUMNS}
    name = cells["governance"]
    if name in ("", MISSING):
        return None
    record = records(root).get(name)
    if record is None or record.cells() != cells:
        fault = f"names the terms {name}, which {RECORDS_FILE} lacks" if record is None else f"says other than the record {name} it names"
        raise StoreError(f"{root / MANIFEST_FILE}: the row of {info.key} {fault}; set them again with `slimbrain ledger --set`.")
    return record


def strictest_record(records: Sequence[Governance]) -> Governance | None:
    """One record for data under several: the first, under the terms of the one that is the strictest in everything.

    Cohort and source stay the first's, or are of the first that knows them.

    Returns
    -------
    None if no record is the strictest in everything: which one holds is for people to say, and not for a program to make up.
    """
    joint = strictest(record.terms for record in records)
    deciding = next((record for record in records if record.terms == joint), None)
    if deciding is None:
        return None
    said = {name: [value for record in records if (value := getattr(record, name)) != UNKNOWN] for name in ("cohort", "source")}
    return deciding.model_copy(update={name: values[0] for name, values in said.items() if values})


def merged(before: Governance, new: Governance, given: Collection[str]) -> Governance:
    """A session's record with what is given anew.

    Parameters
    ----------
    given : collection of str
        Fields that the new record was given; the others stay as they were.

    Raises
    ------
    InputError
        If its cohort would become another: checkpoints remember participants by cohort and label.
    """
    if "cohort" in given and UNKNOWN not in (before.cohort, new.cohort) and before.cohort != new.cohort:
        raise InputError(
            f"cohort {new.cohort}: these sessions are of cohort {before.cohort}, by which checkpoints know their participants; "
            "leave the cohort out, or prepare them again with `slimbrain prep --force --cohort`."
        )
    kept = {name: getattr(new, name) for name in given if name != "cohort" or new.cohort != UNKNOWN}
    return before.model_copy(update=kept)
