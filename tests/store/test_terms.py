"""What may be done under which terms: cases written by hand, and the strictest of several as a lattice."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from packaging.licenses import canonicalize_license_expression

from slimbrain.store.terms import (
    _AGREEMENT,
    _AGREEMENTS,
    _CORE_CONSENT,
    _LICENCES,
    Terms,
    _Permission,
    canonical_licence,
    canonical_scopes,
    obstacles,
    strictest,
    terms_of,
)

YES, NO, MAYBE = _Permission.YES, _Permission.NO, _Permission.UNKNOWN
OPEN = ("broad-research",)

# By hand, from the legal texts: commercial use, derivatives, redistribution, naming the source, licences of what is derived.
BY_HAND = {
    "CC0-1.0": (YES, YES, YES, False, set()),
    "PDDL-1.0": (YES, YES, YES, False, set()),
    "CC-BY-4.0": (YES, YES, YES, True, set()),
    "CC-BY-SA-4.0": (YES, YES, YES, True, {"CC-BY-SA-4.0"}),
    "CC-BY-NC-4.0": (NO, YES, YES, True, set()),
    "CC-BY-NC-SA-3.0": (NO, YES, YES, True, {"CC-BY-NC-SA-3.0"}),
    "CC-BY-ND-4.0": (YES, NO, YES, True, set()),
    "CC-BY-NC-ND-4.0": (NO, NO, YES, True, set()),
    "ODbL-1.0": (YES, YES, YES, True, {"ODbL-1.0"}),
    "MIT": (YES, YES, YES, True, set()),
    "LicenseRef-HCP-Open-Access-DUT": (MAYBE, YES, YES, True, {"LicenseRef-HCP-Open-Access-DUT"}),
    "LicenseRef-HCP-Restricted-DUT": (MAYBE, MAYBE, NO, True, set()),
    "LicenseRef-ABCD-DUC": (MAYBE, MAYBE, NO, True, set()),
    "LicenseRef-UKB-MTA": (MAYBE, MAYBE, NO, True, set()),
    "LicenseRef-ADNI-DUA": (MAYBE, MAYBE, NO, True, set()),
    "LicenseRef-PPMI-DUA": (MAYBE, MAYBE, NO, True, set()),
}
# What agreements ask for besides, as docs/ledger.md tells where it was read.
CONDITIONS = {
    "LicenseRef-HCP-Restricted-DUT": "everyone who sees the data applies",
    "LicenseRef-ABCD-DUC": "for the recipients it lists, who delete the data when it ends",
    "LicenseRef-UKB-MTA": "downloaded data are deleted when it ends",
    "LicenseRef-ADNI-DUA": "restricts the use of AI tools",
    "LicenseRef-PPMI-DUA": "restricts the use of AI tools",
}


@pytest.mark.parametrize("licence", BY_HAND)
def test_each_licence_permits_what_its_text_does(licence: str) -> None:
    terms = terms_of(licence, OPEN)
    assert (terms.commercial, terms.derivatives, terms.redistribution, terms.attribution, set(terms.share_alike)) == BY_HAND[licence]
    # Each names its agreement, so that a union of several says whose it is.
    name = licence.removeprefix(_AGREEMENT)
    said = " ".join(terms.limits)
    assert (name in said and CONDITIONS[licence] in said) if licence in CONDITIONS else not said


def test_the_page_tells_of_every_agreement_where_it_was_read() -> None:
    page = (Path(__file__).parents[2] / "docs" / "ledger.md").read_text(encoding="utf-8").partition("### How far")[2]
    rows = {line.split("|")[1].strip(): line for line in page.splitlines() if line.startswith("| ")}
    assert _AGREEMENTS.keys() <= rows.keys() and all("](https://" in rows[name] for name in _AGREEMENTS)


def test_the_table_spells_licences_as_spdx_does() -> None:
    for name in _LICENCES:
        assert canonicalize_license_expression(name) == name
    assert {f"{_AGREEMENT}{name}" for name in _AGREEMENTS} <= _LICENCES.keys()


# (data, given away under, whether it may be): the first is licence, consent.
CASES = [
    (("CC0-1.0", OPEN), "CC0-1.0", True),
    (("CC0-1.0", OPEN), "CC-BY-NC-4.0", True),
    (("CC-BY-4.0", OPEN), "CC-BY-4.0", True),
    (("CC-BY-4.0", OPEN), "Apache-2.0", True),
    (("CC-BY-4.0", OPEN), "CC0-1.0", False),  # the name of the source would be lost
    (("CC-BY-NC-4.0", OPEN), "CC-BY-4.0", False),  # would allow commerce
    (("CC-BY-NC-4.0", OPEN), "CC-BY-NC-SA-4.0", True),  # stricter than asked for
    (("CC-BY-SA-4.0", OPEN), "CC-BY-4.0", False),
    (("CC-BY-SA-4.0", OPEN), "CC-BY-SA-4.0", True),
    (("CC-BY-SA-3.0", OPEN), "CC-BY-SA-4.0", False),  # the texts allow later versions; this table does not
    (("CC-BY-ND-4.0", OPEN), "CC-BY-ND-4.0", False),  # weights are a derivative
    (("LicenseRef-HCP-Open-Access-DUT", OPEN), "LicenseRef-HCP-Open-Access-DUT", True),
    (("LicenseRef-HCP-Open-Access-DUT", OPEN), "CC-BY-NC-4.0", False),
    (("LicenseRef-HCP-Open-Access-DUT", OPEN), "MIT", False),
    (("LicenseRef-ABCD-DUC", OPEN), "LicenseRef-ABCD-DUC", False),  # may not be passed on at all
    (("LicenseRef-UKB-MTA", OPEN), "CC-BY-NC-ND-4.0", False),
    (("CC0-1.0", ("no-commercial",)), "CC-BY-4.0", False),
    (("CC0-1.0", ("no-commercial",)), "CC-BY-NC-4.0", True),
    (("CC0-1.0", ("no-derivatives",)), "CC-BY-NC-ND-4.0", False),
    (("CC0-1.0", ("disease-specific",)), "CC-BY-NC-4.0", False),
    (("CC0-1.0", ("disease-specific:epilepsy",)), "CC-BY-NC-4.0", False),
    (("CC0-1.0", ("unknown",)), "CC-BY-NC-ND-4.0", False),
    (("CC0-1.0", ("duo:0000042",)), "CC-BY-NC-4.0", False),  # a word nobody told us the meaning of
    (("unknown", OPEN), "CC-BY-NC-4.0", False),
    (("LicenseRef-Our-Lab", OPEN), "CC-BY-NC-4.0", False),
    (("CC0-1.0", OPEN), "LicenseRef-Our-Lab", False),
    (("LGPL-2.1-only", OPEN), "LGPL-2.1-only", False),  # in SPDX' list, not in the table
    (("MIT OR CC-BY-NC-4.0", OPEN), "MIT", False),  # nobody said which was chosen
    (("MIT AND CC-BY-4.0", OPEN), "CC-BY-4.0", True),
    (("GPL-2.0-only WITH Classpath-exception-2.0", OPEN), "MIT", False),
]


@pytest.mark.parametrize(("data", "licence", "allowed"), CASES)
def test_what_may_be_given_away_under_which_licence(data: tuple[str, tuple[str, ...]], licence: str, allowed: bool) -> None:
    assert (obstacles(terms_of(*data), licence) == []) is allowed


def test_who_may_not_see_the_data_stands_in_the_way() -> None:
    assert obstacles(terms_of("CC0-1.0", OPEN, ("insurers",)), "CC-BY-4.0") == ["not for insurers"]


def test_reasons_are_named_one_by_one() -> None:
    assert obstacles(terms_of("CC-BY-NC-SA-4.0", ("no-derivatives",)), "CC-BY-4.0") == [
        "derivatives not permitted",
        "commercial use not permitted",
        "must be passed on under CC-BY-NC-SA-4.0",
    ]


# --- the lattice

ANY_TERMS = st.builds(
    Terms,
    st.sampled_from(_Permission),
    st.sampled_from(_Permission),
    st.sampled_from(_Permission),
    st.booleans(),
    st.frozensets(st.sampled_from(sorted(_LICENCES)), max_size=3),
    st.frozensets(st.sampled_from(["not for insurers", "licence unknown"]), max_size=2),
)


def uses(terms: Terms) -> set[tuple[str, _Permission]]:
    """By enumeration, apart from the code under test: every degree of every use that is granted."""
    levels = {"commercial": terms.commercial, "derivatives": terms.derivatives, "redistribution": terms.redistribution}
    return {(name, level) for name, granted in levels.items() for level in _Permission if level <= granted}


def duties(terms: Terms) -> set[str]:
    return {*terms.share_alike, *terms.limits, *(["attribution"] if terms.attribution else [])}


@given(ANY_TERMS, ANY_TERMS, ANY_TERMS)
def test_the_order_of_cohorts_does_not_matter(first: Terms, second: Terms, third: Terms) -> None:
    assert first & second == second & first
    assert (first & second) & third == first & (second & third)
    assert first & first == first
    assert strictest([first, second, third]) == strictest([third, first, second, first])


@given(st.lists(ANY_TERMS, max_size=5))
def test_the_whole_is_never_looser_than_a_part_and_no_stricter_than_all(members: list[Terms]) -> None:
    whole = strictest(members)
    assert uses(whole) == set.intersection(uses(Terms()), *map(uses, members))
    assert duties(whole) == set().union(*map(duties, members))
    assert all(member.permits(whole) for member in members)


@given(st.lists(ANY_TERMS, min_size=1, max_size=4), st.sampled_from(sorted(_LICENCES)))
def test_what_stops_a_part_stops_the_whole(members: list[Terms], licence: str) -> None:
    whole = set(obstacles(strictest(members), licence))
    for member in members:
        assert not obstacles(member, licence) or whole


# --- names


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("cc-by-4.0", "CC-BY-4.0"),
        ("CC0", "CC0-1.0"),
        (" Unknown ", "unknown"),
        ("ABCD-DUC", "LicenseRef-ABCD-DUC"),
        ("hcp-open-access-dut", "LicenseRef-HCP-Open-Access-DUT"),
        ("LicenseRef-UKB-MTA", "LicenseRef-UKB-MTA"),
        ("LicenseRef-Our-Lab", "LicenseRef-Our-Lab"),
        ("MIT or apache-2.0", "MIT OR Apache-2.0"),
    ],
)
def test_licences_are_known_however_they_are_written(written: str, meant: str) -> None:
    assert canonical_licence(written) == meant


@pytest.mark.parametrize("text", ["CC-BY-9.0", "free for all", "", "MIT AND"])
def test_what_is_no_licence_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is no licence of the SPDX list and no agreement known here"):
        canonical_licence(text)


def test_scopes_are_sorted_and_kept() -> None:
    assert canonical_scopes(["No-Commercial", "broad-research", "no-commercial"]) == ("broad-research", "no-commercial")
    assert canonical_scopes([]) == ("unknown",)
    assert canonical_scopes(["duo:0000006", "disease-specific:epilepsy"]) == ("disease-specific:epilepsy", "duo:0000006")
    for word in _CORE_CONSENT:
        assert canonical_scopes([word]) == (word,)


@pytest.mark.parametrize(
    ("scopes", "reason"),
    [
        (["non-commercial"], "looks like no-commercial"),
        (["no_commercial"], "looks like no-commercial"),
        (["broad research"], "is no scope"),
        (["broad-reserch"], "looks like broad-research"),
        (["desease-specific:epilepsy"], "looks like disease-specific"),
        (["unknown", "broad-research"], "cannot stand beside"),
    ],
)
def test_a_slip_in_a_scope_is_refused(scopes: list[str], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        canonical_scopes(scopes)
