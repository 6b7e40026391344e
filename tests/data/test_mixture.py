"""Mixtures: who is drawn as what, who is held out, what is refused, and what the user is told."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
import yaml
from store_samples import TR_S, make_store, write_run

from slimbrain.config import MixtureConfig, SamplingConfig, load_mixture, load_preset, with_mixture
from slimbrain.data.draws import Draws, SeriesDraws
from slimbrain.data.mixture import Division, _cohorts_of, divide
from slimbrain.data.samplers import Pace
from slimbrain.errors import InputError, SlimbrainError
from slimbrain.grid import Grid
from slimbrain.store import Store
from slimbrain.store.select import Columns

AGES = ("20", "30", "n/a", "50", "60", "70", "35", "45")


@pytest.fixture(scope="module")
def store(grid8: Grid, tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Eight participants of one session each: five of site A, three of site B; the third's age is not known."""
    root = tmp_path_factory.mktemp("store")
    made = Store.create(root, grid8, TR_S)
    for number in range(1, 9):
        write_run(made, 24, f"{number:02d}", seed=number, coverage=f"{0.9 + number / 100:.2f}")
    rows = "".join(f"sub-{number:02d}\t{'AB'[number > 5]}\t{AGES[number - 1]}\n" for number in range(1, 9))
    (root / "participants.tsv").write_text("participant_id\tsite\tage\n" + rows)
    return Store(root)


def sampling(text: str) -> SamplingConfig:
    return SamplingConfig(mixture=MixtureConfig.model_validate(yaml.safe_load(text)))


def subjects(division: Division) -> dict[str, str]:
    return {info.subject.removeprefix("sub-"): name for info, name in zip(division.trained, division.drawn_as, strict=True)}


TWO = """
components:
  young: {filter: "age < 45", weight: 2}
  old: {filter: "age >= 45", weight: sessions}
"""


def test_components_are_what_their_filters_say(store: Store) -> None:
    division = divide(store, store.sessions, sampling(TWO), 0)
    assert subjects(division) == {
        **dict.fromkeys(("01", "02", "07"), "young"),
        **dict.fromkeys(("04", "05", "06", "08"), "old"),
    }
    assert division.weights == {"young": 2.0, "old": 4.0}
    assert division.notes == [
        "mixture: 1 session is in no component and not trained on, first sub-03_task-rest_run-1_space-MNI152NLin6Asym."
    ]


def test_every_table_can_be_filtered(store: Store, tmp_path: Path) -> None:
    table = tmp_path / "groups.tsv"
    table.write_text(
        "session\tgroup\tsite\n" + "".join(f"{info.key}\tg{n % 2}\t{'XY'[n > 2]}\n" for n, info in enumerate(store.sessions[:6]))
    )
    config = {"table": str(table), "components": {"it": {"filter": "", "weight": 1}}}

    def taken(text: str) -> str:
        config["components"]["it"]["filter"] = text  # type: ignore[index]
        division = divide(store, store.sessions, SamplingConfig(mixture=MixtureConfig.model_validate(config)), 0)
        return " ".join(subjects(division))

    assert taken("site == 'X' and coverage > 0.91") == "02 03", "what is given with the mixture counts first"
    assert taken("age > 20 and coverage < 0.95") == "02 04"
    assert taken("group == 'g1'") == "02 04 06"
    assert taken("n_frames == 24 and tr < 1 and task == 'rest' and participant_id >= 'sub-07'") == "07 08"
    assert taken("session in ['sub-02_task-rest_run-1_space-MNI152NLin6Asym']") == "02"
    grouped = store.only([info.key for info in store.sessions[:6]])
    by_group = SamplingConfig(mixture=MixtureConfig(by="group", table=str(table)))
    assert Counter(subjects(divide(grouped, grouped.sessions, by_group, 0)).values()) == {"g0": 3, "g1": 3}


OVERLAPPING = """
overlap: first
components:
  a: {filter: "site == 'A'", weight: 1}
  old: {filter: "age >= 45", weight: 1}
"""


def test_a_session_of_two_components_is_refused_or_the_firsts(store: Store) -> None:
    with pytest.raises(InputError, match=r"2 sessions are in more than one component, first sub-04\S* in a and old; .* overlap: first"):
        divide(store, store.sessions, sampling(OVERLAPPING.replace("overlap: first", "")), 0)
    assert subjects(divide(store, store.sessions, sampling(OVERLAPPING), 0))["04"] == "a"
    swallowed = OVERLAPPING.replace("age >= 45", "age == 20")
    with pytest.raises(InputError, match="component old: all that pass its filter are taken by components before it"):
        divide(store, store.sessions, sampling(swallowed), 0)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (TWO + "rest: refuse", "1 session is in no component .* rest: leave_out"),
        (TWO.replace("age < 45", "age < 5"), "component young: no session that can be trained on passes 'age < 5'"),
        (TWO.replace("age < 45", "ages < 5"), "there is no column ages; there are age, coverage, n_frames"),
        (TWO.replace("weight: 2", "weight: 0.001"), "young would have under one in 1000 draws"),
        ("by: scanner", "has a column scanner"),
        ("by: age", "1 session has no age, first sub-03"),
        ("{by: site, weights: {A: 1}}", "has none for cohort B"),
        ("{by: site, table: nothing.tsv}", "nothing.tsv: cannot be read"),
    ],
)
def test_what_does_not_fit_is_refused(text: str, words: str, store: Store) -> None:
    with pytest.raises(SlimbrainError, match=words):
        SeriesDraws(store, load_preset("tiny").window, 0, sampling(text))


def test_a_component_without_weight_is_left_out(store: Store) -> None:
    draws = SeriesDraws(store, load_preset("tiny").window, 0, sampling(TWO.replace("weight: sessions", "weight: {0: 0, 100: 0}")))
    assert set(draws.cohorts) == {"young"} and len(draws.sessions) == 3


def test_weights_follow_the_steps(store: Store) -> None:
    scheduled = sampling(TWO.replace("weight: 2", "weight: {0: 0, 10: 4}"))
    draws = Draws(store, store.sessions, 0, scheduled, Pace(50, 40))
    young = [[draws.cohorts[draws.mixture.session(50 * step + place)] for place in range(50)].count("young") for step in (0, 5, 10, 39)]
    # 0 of 4, 2 of 6, and from step 10 on 4 of 8: of 50 draws 0, 16.7 and 25.
    assert young[0] == 0 and young[1] in (16, 17, 18) and young[2] in (24, 25, 26) and young[3] in (24, 25, 26)
    assert draws.mixture.shares_at(50 * 5) == {"old": 0.667, "young": 0.333}


def test_a_cap_says_what_it_takes(store: Store) -> None:
    capped = sampling("{by: site, weights: {A: 1, B: 9}, most_repeats: 2}")
    draws = Draws(store, store.sessions, 0, capped)
    assert draws.notes == [
        "mixture: B would be drawn 2.4 times per session and epoch, most_repeats allows 2: "
        "it gets 75.0% of draws instead of 90.0%, the others share the rest by weight."
    ]
    for epoch in range(20):
        assert max(Counter(draws.session_of(8 * epoch + place).key for place in range(8)).values()) <= 2
    counts = Counter(draws.cohorts[draws.mixture.session(draw)] for draw in range(800))
    assert counts == {"B": 600, "A": 200}


# --- held out


def test_held_out_participants_are_never_drawn(grid8: Grid, tmp_path: Path) -> None:
    store = make_store(tmp_path, grid8, subjects=6, frames=16)
    write_run(store, 16, "02", run=2)
    (tmp_path / "participants.tsv").write_text("participant_id\tsite\n" + "".join(f"sub-{n:02d}\t{'AB'[n > 3]}\n" for n in range(1, 7)))
    adaptive = sampling("{by: site, adaptive: {held_out: 0.4, every: 3}}")
    seen: set[str] = set()
    for seed in range(6):
        draws = SeriesDraws(Store(tmp_path), load_preset("tiny").window, seed, adaptive)
        aside = {info.subject for info in draws.held_out}
        assert Counter("A" if subject <= "sub-03" else "B" for subject in aside) == {"A": 1, "B": 1}
        assert aside.isdisjoint(info.subject for info in draws.sessions)
        assert len(draws.held_out) + len(draws.sessions) == 7
        picks = [draws.pick_held_out(site, number) for site in "AB" for number in range(4)]
        assert {draws.session_of(pick).subject for pick in picks} == aside
        # Sessions of one component in turn, each time with randomness of its own.
        assert len({pick.draw for pick in picks[:4]}) == 4
        seen |= aside
    assert len(seen) > 2, "a seed decides who is held out"


def test_a_component_of_one_participant_cannot_hold_out(store: Store) -> None:
    alone = sampling("{components: {one: {filter: age == 20, weight: 1}, rest: {filter: age > 20, weight: 1}}, adaptive: {}}")
    with pytest.raises(InputError, match="one has one participant, so none can be held out"):
        divide(store, store.sessions, alone, 0)


# --- the file


def test_a_mixture_file_becomes_part_of_the_preset(tmp_path: Path) -> None:
    path = tmp_path / "mixture.yaml"
    path.write_text(TWO + "table: groups.tsv\nmost_repeats: 3\n")
    preset = with_mixture(load_preset("tiny", ["sampling.windows=uniform"]), load_mixture(path))
    assert preset.sampling.windows == "uniform" and preset.sampling.mixture is not None
    assert preset.sampling.mixture.table == str(tmp_path / "groups.tsv")
    assert preset.sampling.mixture.components is not None and preset.sampling.mixture.components["young"].weight == 2
    with pytest.raises(InputError, match="either `by` or `mixture`"):
        with_mixture(load_preset("tiny", ["sampling.by=site"]), load_mixture(path))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("- a", "does not hold names and values"),
        ("most_repeats: 2", "either `components` or `by`"),
        (TWO + "by: site", "either `components` or `by`"),
        ("components: {}", "there are none"),
        ("components: {a: {filter: x == 1}}", "weight: is missing"),
        ("components: {a: {filter: x == 1, weight: -1}}", r"yaml: components\.a\.weight: must be at least 0, not -1;"),
        ("components: {a: {filter: x == 1, weight: all}}", r"yaml: components\.a\.weight: must be a number, not 'all';"),
        ("{by: site, weights: {a: -1}}", r"yaml: weights\.a: must be at least 0, not -1;"),
        ("{by: site, weights: {1: {0: -1}}}", r"yaml: weights\.1\.0: must be at least 0, not -1;"),
        ("{by: site, weights: {a: {soon: 1}}}", r"yaml: weights\.a\.soon: must be a whole number, not 'soon';"),
        ("components: {a: {filter: x == 1, weight: {}}}", "a.weight"),
        ("{by: site, most_repeats: 0}", "most_repeats: must be at least 1, not 0"),
        ("{by: site, weights: {A: {0: 1, 5: 2}, B: 1}, adaptive: {}}", "cannot follow both steps and losses"),
        ("{by: site, adaptive: {floor: 0}}", "floor"),
        ("{by: [site", "is not YAML"),
        ("{by: site, nonsense: 1}", "nonsense"),
    ],
)
def test_a_file_that_makes_no_sense_is_refused(text: str, words: str, tmp_path: Path) -> None:
    path = tmp_path / "mixture.yaml"
    path.write_text(text)
    with pytest.raises(InputError, match=words) as refused:
        load_mixture(path)
    assert str(refused.value).startswith(str(path))


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nowhere\.yaml: there is no such file"):
        load_mixture(tmp_path / "nowhere.yaml")


# --- cohorts by a column


def test_cohorts_come_from_the_manifest_or_the_participants(grid8: Grid, tmp_path: Path) -> None:
    store = Store.create(tmp_path, grid8, TR_S)
    write_run(store, frames=16, subject="01", scanner="one")
    write_run(store, frames=16, subject="02", scanner="two")
    (tmp_path / "participants.tsv").write_text("participant_id\tsite\tscanner\nsub-01\tA\tx\nsub-02\tn/a\ty\n")
    store = Store(tmp_path)
    columns = Columns(store, store.sessions)
    assert _cohorts_of(columns, None) == ["", ""]
    assert _cohorts_of(columns, "scanner") == ["one", "two"], "the session's own value counts first"
    assert _cohorts_of(columns, "task") == ["rest", "rest"]
    with pytest.raises(InputError, match="1 session has no site, first sub-02"):
        _cohorts_of(columns, "site")
    with pytest.raises(InputError, match="has a column diagnosis"):
        _cohorts_of(columns, "diagnosis")
