"""Terms of the data that are prepared: from a governance.yaml, from options, and from the source itself."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path

from slimbrain.errors import InputError
from slimbrain.prep.cohort import DOI, cohort_of
from slimbrain.prep.options import PrepOptions
from slimbrain.store import Store
from slimbrain.store.records import GOVERNANCE_FILE, Governance, checked_governance, merged, read_governance, record_of
from slimbrain.store.subjects import with_prefix
from slimbrain.store.terms import UNKNOWN
from slimbrain.store.withdrawn import mark, withdrawn
from slimbrain.store.write import assign

_FIELDS = {"cohort": "cohort", "source": "source_id", "licence": "license", "consent": "consent", "not_for": "not_for"}
"""The option that gives each entry of a record."""


@dataclass(frozen=True)
class Declared:
    """Terms as the user declared them.

    Attributes
    ----------
    record : Governance
        The terms, `unknown` where nothing was declared.
    given : frozenset of str
        Names of the entries that were declared.
    """

    record: Governance
    given: frozenset[str] = frozenset()

    def of(self, root: Path, layout: str) -> Governance:
        """The same, with cohort and DOI from the source itself where they were not declared."""
        told = cohort_of(root, layout)
        found = {"cohort": told, "source": f"doi:{told}" if DOI.fullmatch(told) else ""}
        gaps = {name: value for name, value in found.items() if value and getattr(self.record, name) == UNKNOWN}
        return self.record.model_copy(update=gaps)

    def for_new(self, store: Store, key: str, found: Governance) -> Governance:
        """The record of a session that is prepared now.

        What was set earlier of a session of the same name and cohort stays where nothing is given. Of another cohort it says nothing, nor
        where no cohort is known: the name alone may be another participant's.

        Parameters
        ----------
        found : Governance
            What is said now, from `of`.
        """
        before = store.find(key)
        told = record_of(store.root, before) if before else None
        if told is None or found.cohort == UNKNOWN or told.cohort != found.cohort:
            return found
        return self.renewed(told)

    def renewed(self, told: Governance) -> Governance:
        """A record of before with what is given now, where that fills a gap or is stricter; nothing is loosened in passing.

        Raises
        ------
        InputError
            If its cohort would become another.
        """
        wanted = self.wanted(told)
        gaps = {name: getattr(wanted, name) for name in _FIELDS if getattr(told, name) in (UNKNOWN, (UNKNOWN,))}
        filled = told.model_copy(update=gaps)
        return wanted if filled.terms.permits(wanted.terms) else filled

    def wanted(self, told: Governance) -> Governance:
        """A record of before with all that is given now."""
        return merged(told, self.record, self.given)


def declare(root: Path, options: PrepOptions) -> Declared:
    """Read what is said of a source's terms; options stand over its governance.yaml.

    Parameters
    ----------
    root : Path
        Folder of the source; a governance.yaml there, or in the raw dataset around `RAW/derivatives/PIPELINE`, is read.
    options : PrepOptions
        Among them a governance.yaml elsewhere, and entries of one.

    Raises
    ------
    InputError
        If an entry is not accepted.
    """
    around = [root.parents[1]] if root.parent.name == "derivatives" and len(root.parents) > 1 else []
    places = (
        [options.governance] if options.governance else [path for folder in (root, *around) if (path := folder / GOVERNANCE_FILE).is_file()]
    )
    record = read_governance(places[0]) if places else Governance()
    said = {name: value for name, field in _FIELDS.items() if (value := getattr(options, field))}
    for name, value in said.items():
        checked_governance({name: value}, f"--{_FIELDS[name].replace('_', '-')}")
    # Through the model again, since an option may not fit what the file says.
    whole = checked_governance({**record.model_dump(), **said}, str(places[0]) if places else "options")
    return Declared(whole, frozenset(record.model_fields_set | said.keys()))


def renew(out: Path, keys: Sequence[str], declared: Declared, part: str = "") -> dict[str, str]:
    """Put stored sessions under the declared terms, in one write; what is not declared stays as it was.

    Parameters
    ----------
    part : str
        Name of the part that lists this process' sessions (`Store`); empty for the manifest.

    Returns
    -------
    dict
        Sessions whose terms clash with it, each with the reason.
    """
    store, changed, clashes, kept = Store(out, part), dict[str, Governance](), dict[str, str](), 0
    for key in keys if declared.given else ():
        info = store.session(key)
        told = store.governance(info)
        try:
            terms = declared.renewed(told)
        except InputError as error:
            clashes[key] = str(error)
            continue
        kept += terms != declared.wanted(told)
        if terms.name != info.qc.get("governance"):
            changed[key] = terms
    if changed:
        assign(out, changed, part)
    if kept:
        what = f"{kept} sessions stay under stricter terms set before; `slimbrain ledger {out} --set FILE` is what loosens them."
        print(f"{out}: {what}", file=sys.stderr)
    return clashes


def readmit(out: Path, labels: Sequence[str], cohorts: Mapping[str, str]) -> None:
    """Let participants who were withdrawn be prepared again; each by name, so that nobody is readmitted by accident.

    Parameters
    ----------
    cohorts : mapping
        Cohort by participant who has a run here, empty where it is not known.

    Raises
    ------
    InputError
        If one has no run here, or was not withdrawn.
    """
    for label in map(with_prefix, labels):
        if label not in cohorts:
            raise InputError(f"--readmit {label}: has no run here; name a participant of this source.")
        records = withdrawn(out)
        record = records.find(label, cohorts[label])
        if record is None and any(old.readmitted and old.is_of(label, cohorts[label]) for old in records.all):
            # By another shard, or by the same command before.
            continue
        if record is None:
            raise InputError(f"--readmit {label}: was not withdrawn from {out}; leave the option out.")
        mark(out, record.who, readmitted=date.today().isoformat())
