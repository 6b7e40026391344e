"""What licences and use agreements permit, and what holds where several meet: the strictest of each.

A table of facts, read conservatively, not legal advice. What the text of a licence does not answer counts as unknown, and what is
unknown is not permitted. docs/ledger.md names the texts.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum

from packaging.licenses import InvalidLicenseExpression, canonicalize_license_expression

UNKNOWN = "unknown"
"""What is written where nobody knows."""

_AGREEMENT = "LicenseRef-"
"""SPDX' own prefix of a licence that it does not list."""

_CORE_CONSENT = ("broad-research", "disease-specific", "no-commercial", "no-derivatives", UNKNOWN)
"""Scopes of consent whose meaning is fixed; `disease-specific:epilepsy` names the disease."""

_SCOPE = re.compile(r"[a-z0-9][a-z0-9._:-]*")
_LIKE_CORE = 0.75
"""Likeness (difflib) above which another word is taken for a core scope with a slip: `non-commercial` is 0.92 from `no-commercial`."""

_SPELT = {"cc0": "CC0-1.0", "pddl": "PDDL-1.0"}
"""What BIDS recommends to write in `License`, as SPDX has it."""


class _Permission(IntEnum):
    """Answers in order of strictness: of two, the smaller holds."""

    NO = 0
    UNKNOWN = 1
    YES = 2


NO, _MAYBE, YES = _Permission


@dataclass(frozen=True)
class Terms:
    """What may be done with data, and with what is derived from them.

    Attributes
    ----------
    commercial, derivatives, redistribution : Permission
        Is it permitted?
    attribution : bool
        The source must be named.
    share_alike : frozenset of str
        Licences that what is derived must carry.
    limits : frozenset of str
        What else stands in the way, in words.
    """

    commercial: _Permission = YES
    derivatives: _Permission = YES
    redistribution: _Permission = YES
    attribution: bool = False
    share_alike: frozenset[str] = frozenset()
    limits: frozenset[str] = frozenset()

    def __and__(self, other: Terms) -> Terms:
        """The terms of something made from both: of each answer the stricter, and all duties and limits of either."""
        return Terms(
            min(self.commercial, other.commercial),
            min(self.derivatives, other.derivatives),
            min(self.redistribution, other.redistribution),
            self.attribution or other.attribution,
            self.share_alike | other.share_alike,
            self.limits | other.limits,
        )

    def permits(self, other: Terms) -> bool:
        """Whether everything that `other` permits is permitted here, under no further duty."""
        return self & other == other


def strictest(terms: Iterable[Terms]) -> Terms:
    """What is permitted with things made from all; everything, if there are none."""
    together = Terms()
    for each in terms:
        together = together & each
    return together


def _creative_commons() -> dict[str, Terms]:
    found = {}
    for elements in ("BY", "BY-SA", "BY-NC", "BY-NC-SA", "BY-ND", "BY-NC-ND"):
        for version in ("1.0", "2.0", "2.5", "3.0", "4.0"):
            name, parts = f"CC-{elements}-{version}", elements.split("-")
            alike = frozenset({name}) if "SA" in parts else frozenset[str]()
            found[name] = Terms(NO if "NC" in parts else YES, NO if "ND" in parts else YES, YES, True, alike)
    return found


def _agreement(commercial: _Permission, derivatives: _Permission, redistribution: _Permission, limit: str) -> Terms:
    return Terms(commercial, derivatives, redistribution, True, limits=frozenset({limit}))


_HCP_OPEN = "HCP-Open-Access-DUT"
_AI_TOOLS = "restricts the use of AI tools, generative and analytical models among them, and participants' data may not be passed on"
_AGREEMENTS = {
    # Point 4 of the text: original and derived data may be passed on under the same terms. Of commerce it says nothing.
    _HCP_OPEN: Terms(_MAYBE, YES, YES, True, frozenset({f"{_AGREEMENT}{_HCP_OPEN}"})),
    "HCP-Restricted-DUT": _agreement(_MAYBE, _MAYBE, NO, "HCP-Restricted-DUT: everyone who sees the data applies, each by name"),
    "ABCD-DUC": _agreement(_MAYBE, _MAYBE, NO, "ABCD-DUC: for the recipients it lists, who delete the data when it ends"),
    "UKB-MTA": _agreement(_MAYBE, _MAYBE, NO, "UKB-MTA: for one approved project, and downloaded data are deleted when it ends"),
    "ADNI-DUA": _agreement(_MAYBE, _MAYBE, NO, f"ADNI-DUA {_AI_TOOLS}"),
    "PPMI-DUA": _agreement(_MAYBE, _MAYBE, NO, f"PPMI-DUA {_AI_TOOLS}"),
}
"""Use agreements by name; docs/ledger.md says where each was read, and how much of it. The user's own agreement decides."""

_NAMING = Terms(attribution=True)
_LICENCES = {
    **{name: Terms() for name in ("CC0-1.0", "PDDL-1.0", "0BSD", "Unlicense", "MIT-0")},
    **{name: _NAMING for name in ("ODC-By-1.0", "CDLA-Permissive-1.0", "CDLA-Permissive-2.0")},
    **{name: _NAMING for name in ("MIT", "Apache-2.0", "BSD-2-Clause", "BSD-3-Clause")},
    **{name: Terms(attribution=True, share_alike=frozenset({name})) for name in ("ODbL-1.0", "CDLA-Sharing-1.0")},
    **_creative_commons(),
    **{f"{_AGREEMENT}{name}": terms for name, terms in _AGREEMENTS.items()},
}
"""Licences by SPDX id, agreements by `LicenseRef-` and their name. One that is not here may be used, and counts as unknown."""


def canonical_licence(text: str) -> str:
    """A licence as SPDX spells it: an id or expression, or `LicenseRef-` and the name of an agreement.

    Raises
    ------
    ValueError
        If it is none of these.
    """
    name = " ".join(text.split())
    if name.casefold() == UNKNOWN:
        return UNKNOWN
    bare = name.removeprefix(_AGREEMENT).casefold()
    for agreement in _AGREEMENTS:
        if bare == agreement.casefold():
            return f"{_AGREEMENT}{agreement}"
    try:
        return str(canonicalize_license_expression(_SPELT.get(name.casefold(), name)))
    except InvalidLicenseExpression as error:
        raise ValueError(
            f"{text!r} is no licence of the SPDX list and no agreement known here ({', '.join(_AGREEMENTS)}); "
            f"write another as {_AGREEMENT}NAME, or {UNKNOWN}"
        ) from error


def canonical_scopes(scopes: Iterable[str]) -> tuple[str, ...]:
    """Scopes of consent, sorted, each once; words outside the core are kept as they are.

    Raises
    ------
    ValueError
        If one is misspelt, or stands beside `unknown`.
    """
    words = sorted({scope.strip().casefold() for scope in scopes} - {""}) or [UNKNOWN]
    for word in words:
        head = word.partition(":")[0]
        if not _SCOPE.fullmatch(word):
            raise ValueError(f"{word!r} is no scope of consent; write letters, digits and - . _ :, such as {_CORE_CONSENT[0]}")
        if head not in _CORE_CONSENT and (near := difflib.get_close_matches(head, _CORE_CONSENT, 1, _LIKE_CORE)):
            raise ValueError(f"{word!r} looks like {near[0]}, misspelt; write that, or another word")
    if UNKNOWN in words and len(words) > 1:
        raise ValueError(f"{UNKNOWN} cannot stand beside {', '.join(word for word in words if word != UNKNOWN)}; leave one out")
    return tuple(words)


def _licence_terms(licence: str) -> Terms:
    """What a licence permits; of an expression (`A AND B`, `A OR B`) the strictest part, since nobody said which was chosen."""
    if "WITH" in licence.split():
        return _nobody_knows(licence)
    parts = [part for part in re.split(r"[\s()]+", licence) if part and part not in ("AND", "OR")]
    return strictest(_LICENCES.get(part) or _nobody_knows(part) for part in parts)


def _nobody_knows(licence: str) -> Terms:
    what = "licence unknown" if licence == UNKNOWN else f"what {licence} permits is not known here"
    return Terms(_MAYBE, _MAYBE, _MAYBE, True, limits=frozenset({what}))


def _consent_terms(scope: str) -> Terms:
    """What a scope of consent takes away; `broad-research` adds nothing to what the licence says."""
    if scope == "broad-research":
        return Terms()
    if scope == "no-commercial":
        return Terms(commercial=NO)
    if scope == "no-derivatives":
        return Terms(derivatives=NO)
    if scope == UNKNOWN:
        return Terms(_MAYBE, _MAYBE, _MAYBE, limits=frozenset({"consent unknown"}))
    if scope.partition(":")[0] == "disease-specific":
        return Terms(limits=frozenset({f"consent is {scope}"}))
    return Terms(_MAYBE, _MAYBE, _MAYBE, limits=frozenset({f"what consent {scope} permits is not known here"}))


def terms_of(licence: str, consent: Iterable[str], not_for: Iterable[str] = ()) -> Terms:
    """What licence, consent and those whom the data are kept from leave together.

    Parameters
    ----------
    licence, consent : str
        As `canonical_licence` and `canonical_scopes` write them.
    not_for : iterable of str
        Who may not see the data.
    """
    kept_from = Terms(limits=frozenset(f"not for {who}" for who in not_for))
    return strictest([_licence_terms(licence), *map(_consent_terms, consent), kept_from])


def obstacles(data: Terms, licence: str) -> list[str]:
    """Why what is made from the data may not be given away under a licence, in words; nothing if it may.

    Parameters
    ----------
    licence : str
        As `canonical_licence` writes it.
    """
    if licence not in _LICENCES:
        return [f"what {licence} permits is not known here"]
    offered = _LICENCES[licence]
    reasons = sorted(data.limits)
    for name, permission in (("derivatives", data.derivatives), ("redistribution", data.redistribution)):
        if permission is not YES:
            reasons.append(f"{name} {'not permitted' if permission is NO else 'not known to be permitted'}")
    if data.commercial < offered.commercial:
        reasons.append(f"commercial use {'not permitted' if data.commercial is NO else 'not known to be permitted'}")
    if data.attribution and not offered.attribution:
        reasons.append(f"the source must be named, which {licence} does not ask of others")
    reasons += [f"must be passed on under {alike}" for alike in sorted(data.share_alike - {licence})]
    return reasons
