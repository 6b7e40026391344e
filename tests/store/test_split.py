"""Parts of a store's participants: their shares, how alike they are, families together, against counts by hand and random cohorts."""

from __future__ import annotations

import shlex
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slimbrain.cli import run_command
from slimbrain.disk.made_by import recorded_maker
from slimbrain.disk.tsv import read_tsv
from slimbrain.errors import InputError
from slimbrain.store import Channels, Store
from slimbrain.store.split import Division, balance, split_participants
from slimbrain.store.write import write_roi_session


class Cohort(Store):
    """People without recordings: what splitting looks at, and nothing else."""

    def __init__(self, people: dict[str, dict[str, str]]) -> None:
        self.root = Path("store")
        self.__dict__["participants"] = people
        self.__dict__["sessions"] = type("Table", (), {"subjects": set(people)})()


def cohort(n: int, seed: int = 0) -> Cohort:
    rng = np.random.default_rng(seed)
    return Cohort(
        {
            f"sub-{number:03d}": {
                "sex": str(rng.choice(["F", "M", "M"])),
                "site": str(rng.choice(["A", "B", "C"])),
                "age": f"{rng.uniform(6, 60):.1f}",
                "family": str(number // 3),
            }
            for number in range(n)
        }
    )


@given(n=st.integers(6, 90), seed=st.integers(0, 99), shares=st.sampled_from([(0.5, 0.5), (0.7, 0.1, 0.2), (0.25,) * 4]))
@settings(max_examples=40)
def test_parts_have_their_shares_and_everybody_is_in_one(n: int, seed: int, shares: tuple[float, ...]) -> None:
    store = cohort(max(n, 12), seed)
    parts = split_participants(store, Division(shares, ("sex", "site"), seed=seed))
    assert sorted(who for part in parts for who in part) == sorted(store.participants)
    for share, part in zip(shares, parts, strict=True):
        assert abs(len(part) - share * len(store.participants)) < len(shares)
        for sex in "FM":
            whole = sum(row["sex"] == sex for row in store.participants.values())
            there = sum(store.participants[who]["sex"] == sex for who in part)
            assert abs(there - share * whole) < len(shares) + 1


def test_halves_are_alike_in_every_class_of_two_columns() -> None:
    store = cohort(200)
    first, second = (
        Counter((store.participants[who]["sex"], store.participants[who]["site"]) for who in part)
        for part in split_participants(store, Division((0.5, 0.5), ("sex", "site")))
    )
    assert len(first | second) == 6 and max(abs(first[key] - second[key]) for key in first | second) <= 2


def test_ages_are_alike_by_quarters() -> None:
    store = cohort(200)
    parts = split_participants(store, Division((0.5, 0.5), ("age",)))
    ages = np.array([float(row["age"]) for row in store.participants.values()])
    edges = np.quantile(ages, [0.25, 0.5, 0.75])
    for part in parts:
        counts = np.bincount(np.searchsorted(edges, [float(store.participants[who]["age"]) for who in part]), minlength=4)
        assert counts.tolist() == pytest.approx([25] * 4, abs=1)
    assert [sum(counts.values()) for counts in balance(store, parts, "age")] == [100, 100]
    assert len(balance(store, parts, "age")[0]) == 4


def test_families_stay_together() -> None:
    store = cohort(90)
    parts = split_participants(store, Division((0.6, 0.4), ("sex",), group="family"))
    where = [{store.participants[who]["family"] for who in part} for part in parts]
    assert not where[0] & where[1] and abs(len(parts[0]) - 54) <= 3


def test_the_seed_decides_who_and_the_same_seed_the_same() -> None:
    store = cohort(60)
    first, again, other = (split_participants(store, Division((0.5, 0.5), ("sex",), seed=seed)) for seed in (1, 1, 2))
    assert first == again != other


def test_what_cannot_be_divided_is_refused() -> None:
    with pytest.raises(InputError, match="has no column smoker; choose one of: sex, site, age, family"):
        split_participants(cohort(12), Division((0.5, 0.5), ("smoker",)))
    for fractions in ((1.0,), (0.5, 0.6), (1.2, -0.2)):
        with pytest.raises(InputError, match="sum to 1"):
            Division(fractions)
    with pytest.raises(InputError, match="too few participants"):
        split_participants(cohort(2), Division((0.4, 0.3, 0.3)))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    made = Store.create(tmp_path / "store", None, 0.72)
    for number in range(8):
        entities = {"sub": f"{number}", "task": "rest", "space": "roi"}
        write_roi_session(made, entities, np.zeros((20, 2)), Channels(("a", "b"), np.zeros((2, 3))), 0.72)
    rows = "".join(f"sub-{number}\t{'FM'[number % 2]}\n" for number in range(8))
    (made.root / "participants.tsv").write_text(f"participant_id\tsex\n{rows}")
    return made


def test_the_command_writes_tables_that_others_read(store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["split", str(store.root), "--stratify", "sex", "--out", str(tmp_path / "tables")]
    assert run_command(words) == 0
    shown = capsys.readouterr().out
    assert "sex, pretraining: F 2, M 2" in shown and "4 participants in" in shown
    first, second = (read_tsv(tmp_path / "tables" / f"{name}.tsv") for name in ("pretraining", "evaluation"))
    assert {row["participant_id"] for row in (*first, *second)} == store.sessions.subjects and {row["sex"] for row in first} == {"F", "M"}
    assert {recorded_maker(tmp_path / "tables" / f"{name}.tsv", "split") for name in ("pretraining", "evaluation")} == {
        shlex.join(["slimbrain", *words])
    }
    # The same again changes nothing; other people under the same name are refused.
    assert run_command(words) == 0
    assert run_command([*words, "--fractions", "0.75,0.25"]) == 1
    assert "lists other participants; choose another --out" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--fractions", "half"], "are no numbers"),
        (["--fractions", "0.5,0.5", "--names", "a"], "are not 2 different names"),
        (["--names", "a,../b"], "are not 2 different names"),
        (["--stratify", "height"], "has no column height; choose one of: sex"),
    ],
)
def test_what_makes_no_sense_is_said(store: Store, words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["split", str(store.root), *words]) == 1
    assert said in capsys.readouterr().err
