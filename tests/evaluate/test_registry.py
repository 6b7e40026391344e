"""The benchmarks on small files with the published columns: labels, exclusions by reason, splits, what is listed."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from phenotype_samples import COLUMNS, write_phenotypes, write_store

from slimbrain.cli import run_command
from slimbrain.errors import InputError
from slimbrain.evaluate.baselines import store_baselines
from slimbrain.evaluate.labels import _visit_month
from slimbrain.evaluate.leaks import _require_apart
from slimbrain.evaluate.listing import _as_markdown, as_records
from slimbrain.evaluate.phenotypes import column_key
from slimbrain.evaluate.registry import ENTRIES
from slimbrain.evaluate.result import Grouping
from slimbrain.evaluate.splits import Split, outer_splits
from slimbrain.evaluate.stats import CLASSIFICATION_METRICS, IDENTIFICATION_METRICS, REGRESSION_METRICS
from slimbrain.evaluate.tasks import Target, get_task, primary_metric, read_target
from slimbrain.store import Store

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "tasks.md"


def read(tmp_path: Path, task: str, cohort: str, rows: Sequence[Mapping[str, object]], sessions: Sequence[tuple[str, ...]]) -> Target:
    path = write_phenotypes(tmp_path / f"{cohort}.csv", cohort, rows)
    return read_target(get_task(task, phenotypes=[path]), write_store(tmp_path / "store", sessions))


def labels_of(target: Target) -> dict[str, Any]:
    return dict(zip(target.subjects.tolist(), target.labels.tolist(), strict=True))


# --- labels and exclusions


def test_hcp_sex(tmp_path: Path) -> None:
    rows = [
        {"Subject": "100307", "Gender": "F", "Age": "26-30"},
        {"Subject": "100408", "Gender": "M", "Age": "31-35"},
        {"Subject": "100610", "Gender": ""},
    ]
    target = read(tmp_path, "hcp-sex", "hcp", rows, [("100307",), ("100408",), ("100610",), ("999999",)])
    assert labels_of(target) == {"sub-100307": "F", "sub-100408": "M"} and target.kind == "classification"
    assert target.excluded == {"Gender missing": 1, "not in the phenotype file": 1}
    assert target.strata is None and target.known == ({"age": "28", "sex": "F"}, {"age": "33", "sex": "M"})


def test_hcp_families_stay_on_one_side(tmp_path: Path) -> None:
    """Twins, siblings and half-siblings of 14 mothers; one person of whom nothing is known."""
    people = [str(100 + number) for number in range(41)]
    public = [{"Subject": name, "Gender": "FM"[number % 2], "Age": "26-30"} for number, name in enumerate(people)]
    families: list[dict[str, object]] = []
    for number, name in enumerate(people[:40]):
        mother, father = 50 + number // 3, 80 + number // 3
        if number == 5:
            # A half-sibling: the next family's father, so that both families are one.
            father += 1
        line = {"Subject": name, "Family_ID": f"{mother}_{father}", "Mother_ID": mother, "Father_ID": father}
        families.append({**line, "ZygositySR": "NotMZ" if number % 3 else "NotTwin", "Age_in_Yrs": 27})
    files = [write_phenotypes(tmp_path / "RESTRICTED_x.csv", "hcp-restricted", families)]
    files.append(write_phenotypes(tmp_path / "unrestricted_x.csv", "hcp", public))
    store = write_store(tmp_path / "store", [(name,) for name in people])
    task = get_task("hcp-sex", phenotypes=files)
    target = read_target(task, store)
    assert len(target.keys) == 41 and target.known[0] == {"age": "28", "sex": "F"}
    assert target.bound == Grouping(by="Family_ID, Mother_ID, Father_ID", count=14) and target.groups is not None
    together = dict(zip(target.subjects.tolist(), target.groups.tolist(), strict=True))
    assert len({together[f"sub-{100 + number}"] for number in range(3, 9)}) == 1 and together["sub-140"] == "sub-140"
    for seed in task.policy.seeds:
        (split,) = outer_splits(target.subjects, target.labels, target.kind, task.policy, seed, target.strata, target.groups)
        sides = [{together[name] for name in target.subjects[rows].tolist()} for rows in (split.train, split.valid, split.test)]
        assert not (sides[0] & sides[1] or sides[0] & sides[2] or sides[1] & sides[2]) and all(sides)
        _require_apart(target, split)
    with pytest.raises(InputError, match="is in train and in test"):
        _require_apart(target, Split(np.arange(1, 41), np.arange(0), np.arange(1)))
    alone = read_target(get_task("hcp-sex", phenotypes=files[1:]), store)
    assert alone.groups is None and alone.bound == Grouping(by="Family_ID, Mother_ID, Father_ID", count=None)


def test_adni_takes_the_diagnosis_of_the_visit(tmp_path: Path) -> None:
    def lines(number: int, **diagnoses: str) -> list[dict[str, object]]:
        person = {"RID": number, "PTID": f"002_S_{number:04d}", "SITE": 2, "DX_bl": "LMCI", "AGE": 71.3, "PTGENDER": "Male"}
        return [{**person, "VISCODE": visit, "DX": diagnosis} for visit, diagnosis in diagnoses.items()]

    rows = [
        *lines(1, bl="CN", m12="CN", m24="MCI"),
        *lines(2, bl="MCI", m12="Dementia"),
        *lines(3, bl="MCI", m06="", m12="MCI"),
        *lines(4, bl="CN", m12="CN"),
        *lines(5, bl="CN", m12="MCI"),
    ]
    sessions = [
        *(("ADNI002S0001", visit) for visit in ("M000", "M012", "M024")),
        *(("ADNI002S0002", visit) for visit in ("bl", "m12")),
        *(("ADNI002S0003", visit) for visit in ("M006", "M012", "M048")),
        ("ADNI002S0004", "20120203"),
        ("ADNI002S0005", "20120203"),
        ("ADNI002S0006", "M000"),
    ]
    target = read(tmp_path, "adni-mci", "adni", rows, sessions)
    assert labels_of(target) == {"sub-ADNI002S0001": "CN", "sub-ADNI002S0002": "MCI", "sub-ADNI002S0003": "MCI", "sub-ADNI002S0004": "CN"}
    assert len(target.keys) == 5
    assert target.excluded == {
        "label differs from that of the participant's first session": 1,
        "diagnosis is Dementia": 1,
        "no diagnosis at the visit": 1,
        "no line for the visit of the session": 1,
        "diagnosis changes over visits, and the session names none (ses-M012)": 1,
        "not in the phenotype file": 1,
    }
    assert target.strata is not None and set(target.strata) == {"2"}


@pytest.mark.parametrize(
    ("text", "month"), [("bl", 0), ("ses-M000", 0), ("m06", 6), ("ses-M012", 12), ("ses-sc", 0), ("m", None), ("1", None)]
)
def test_visits(text: str, month: int | None) -> None:
    assert _visit_month(text) == month


def test_adhd200(tmp_path: Path) -> None:
    rows = [
        {"ScanDir ID": "1018959", "Site": "3", "DX": "0", "QC_Rest_1": "1", "Gender": "1", "Age": "12.36"},
        {"ScanDir ID": "10001", "Site": "5", "DX": "1", "QC_Rest_1": "1", "QC_Rest_2": "0"},
        {"ScanDir ID": "10002", "Site": "5", "DX": "3", "QC_Rest_1": "N/A"},
        {"ScanDir ID": "10003", "Site": "5", "DX": "2", "QC_Rest_1": "0"},
        {"ScanDir ID": "10004", "Site": "5", "DX": "pending", "QC_Rest_1": "1"},
    ]
    sessions = [
        ("1018959", "1", "rest", "1"),
        ("0010001", "1", "rest", "1"),
        ("0010001", "1", "rest", "2"),
        *((f"001000{number}", "1", "rest", "1") for number in (2, 3, 4)),
    ]
    target = read(tmp_path, "adhd200", "adhd200", rows, sessions)
    assert labels_of(target) == {"sub-1018959": "control", "sub-0010001": "ADHD", "sub-0010002": "ADHD"}
    assert target.excluded == {"questionable in quality control (QC_Rest)": 2, "diagnosis withheld or missing": 1}
    assert target.strata is not None and sorted(target.strata) == ["3", "5", "5"]


def test_ppmi_reads_the_words_and_not_the_numbers(tmp_path: Path) -> None:
    rows = [
        {"PATNO": 3001, "COHORT": 1, "COHORT_DEFINITION": "Parkinson's Disease", "ENROLL_STATUS": "Enrolled", "ENROLL_AGE": "64.0"},
        {"PATNO": 3002, "COHORT": 1, "COHORT_DEFINITION": "Parkinson\N{RIGHT SINGLE QUOTATION MARK}s Disease", "ENROLL_STATUS": "Withdrew"},
        {"PATNO": 3003, "COHORT": 2, "COHORT_DEFINITION": "Healthy Control", "ENROLL_STATUS": "Complete"},
        {"PATNO": 3004, "COHORT": 4, "COHORT_DEFINITION": "Prodromal", "ENROLL_STATUS": "Enrolled"},
        {"PATNO": 3005, "COHORT": 3, "COHORT_DEFINITION": "SWEDD", "ENROLL_STATUS": "Enrolled"},
        {"PATNO": 3006, "COHORT": 2, "COHORT_DEFINITION": "Healthy Control", "ENROLL_STATUS": "Excluded"},
    ]
    target = read(tmp_path, "ppmi", "ppmi", rows, [(f"PPMI{number}",) for number in range(3001, 3007)])
    assert labels_of(target) == {"sub-PPMI3001": "PD", "sub-PPMI3002": "PD", "sub-PPMI3003": "HC"}
    assert target.excluded == {"cohort is Prodromal": 1, "cohort is SWEDD": 1, "status is excluded": 1}


ABIDE_ROWS = [
    {"SUB_ID": "50003", "SITE_ID": "PITT", "FILE_ID": "Pitt_0050003", "DX_GROUP": "1", "AGE_AT_SCAN": "24.45", "SEX": "1"},
    {"SUB_ID": "50004", "SITE_ID": "PITT", "FILE_ID": "no_filename", "DX_GROUP": "2", "AGE_AT_SCAN": "19.0", "SEX": "2"},
    {"SUB_ID": "50005", "SITE_ID": "NYU", "FILE_ID": "NYU_0050005", "DX_GROUP": "2", "AGE_AT_SCAN": "12.99", "SEX": "1"},
    {"SUB_ID": "50006", "SITE_ID": "NYU", "FILE_ID": "NYU_0050006", "DX_GROUP": "1", "AGE_AT_SCAN": "13", "SEX": "1"},
    {"SUB_ID": "50007", "SITE_ID": "NYU", "FILE_ID": "NYU_0050007", "DX_GROUP": "-9999", "AGE_AT_SCAN": "18.9", "SEX": "1"},
    {"SUB_ID": "50008", "SITE_ID": "NYU", "FILE_ID": "NYU_0050008", "DX_GROUP": "1", "AGE_AT_SCAN": "-9999", "SEX": "1"},
]
ABIDE_SESSIONS = [(f"005000{number}",) for number in range(3, 9)]


def test_abide_diagnosis(tmp_path: Path) -> None:
    target = read(tmp_path, "abide-diagnosis", "abide", ABIDE_ROWS, ABIDE_SESSIONS)
    assert target.labels.tolist() == ["autism", "control", "control", "autism", "autism"]
    assert target.excluded == {"DX_GROUP missing": 1}
    assert target.strata is not None and target.strata.tolist() == ["PITT", "PITT", "NYU", "NYU", "NYU"]


def test_abide_age_and_its_classes(tmp_path: Path) -> None:
    age = read(tmp_path, "abide-age", "abide", ABIDE_ROWS, ABIDE_SESSIONS)
    assert age.kind == "regression" and age.labels.dtype == np.float64 and age.labels.tolist() == [24.45, 19.0, 12.99, 13.0, 18.9]
    assert age.excluded == {"AGE_AT_SCAN missing": 1}
    classes = read(tmp_path, "abide-age-class", "abide", ABIDE_ROWS, ABIDE_SESSIONS)
    assert classes.labels.tolist() == ["adult", "adult", "child", "adolescent", "adolescent"]


def test_a_participant_listed_twice_with_two_values_is_left_out(tmp_path: Path) -> None:
    rows = [*ABIDE_ROWS, {**ABIDE_ROWS[0], "DX_GROUP": "2", "AGE_AT_SCAN": "30"}, {**ABIDE_ROWS[1], "SEX": "1"}]
    target = read(tmp_path, "abide-diagnosis", "abide", rows, ABIDE_SESSIONS)
    assert "sub-0050003" not in target.subjects and "sub-0050004" in target.subjects
    assert target.excluded["listed with several values of DX_GROUP"] == 1
    ages = read(tmp_path, "abide-age", "abide", rows, ABIDE_SESSIONS)
    assert ages.excluded["listed with several values of AGE_AT_SCAN"] == 1


def test_fingerprint_needs_two_resting_sessions_and_no_file(tmp_path: Path) -> None:
    sessions = [
        *(("100307", "", task, "") for task in ("REST1", "REST2", "MOTOR")),
        ("100408", "", "REST1", ""),
        ("100610", "", "REST1", ""),
        ("100610", "", "REST2", ""),
    ]
    target = read_target(get_task("hcp-fingerprint"), write_store(tmp_path / "store", sessions))
    assert target.kind == "identification" and target.labels.tolist() == target.subjects.tolist() == ["sub-100307"] * 2 + ["sub-100610"] * 2
    assert len(target.keys) == 4 and target.excluded == {"not a resting run": 1, "participant has one session": 1}
    assert primary_metric(get_task("hcp-fingerprint"), target) == "top1"


# --- what baselines may know


@pytest.mark.parametrize(("task", "known"), [("abide-diagnosis", "age, sex, site"), ("abide-age", "sex, site")])
def test_age_sex_and_site_of_the_file_are_a_baseline_unless_they_are_the_label(tmp_path: Path, task: str, known: str) -> None:
    path = write_phenotypes(tmp_path / "abide.csv", "abide", ABIDE_ROWS)
    store, entry = write_store(tmp_path / "store", ABIDE_SESSIONS), get_task(task, phenotypes=[path])
    target = read_target(entry, store)
    sets = store_baselines(store, target.keys, exclude=entry.hidden, known=target.known)
    assert [features.method for features in sets if features.model == "confounds"] == [known]


# --- where labels come from


def test_participants_tsv_serves_where_it_has_the_columns(tmp_path: Path) -> None:
    store = write_store(tmp_path / "store", ABIDE_SESSIONS)
    lines = ["participant_id\tDX_GROUP\tSITE_ID", "sub-0050003\t1\tPITT", "sub-0050004\t2\tPITT", "sub-0050005\tn/a\tNYU"]
    (tmp_path / "store" / "participants.tsv").write_text("\n".join(lines) + "\n")
    target = read_target(get_task("abide-diagnosis"), store)
    assert labels_of(target) == {"sub-0050003": "autism", "sub-0050004": "control"}
    with pytest.raises(
        InputError, match=r"participants.tsv: has no column AGE_AT_SCAN, .*; name Phenotypic_V1_0b.* with --phenotypes \(from http"
    ):
        read_target(get_task("abide-age"), store)


def test_the_words_of_bids_are_read_as_the_codes_of_the_cohort(tmp_path: Path) -> None:
    """The same four tasks from a table with the words of BIDS and from the cohort's own file."""
    store = write_store(tmp_path / "store", ABIDE_SESSIONS)
    words = {"1": "autism", "2": "control", "-9999": "n/a"}
    lines = ["participant_id\tage\tsex\tdiagnosis\tsite"]
    for row in ABIDE_ROWS:
        age = row["AGE_AT_SCAN"].replace("-9999", "n/a")
        lines.append("\t".join([f"sub-00{row['SUB_ID']}", age, "MF"[int(row["SEX"]) - 1], words[row["DX_GROUP"]], row["SITE_ID"]]))
    (store.root / "participants.tsv").write_text("\n".join(lines) + "\n")
    official = write_phenotypes(tmp_path / "abide.csv", "abide", ABIDE_ROWS)
    for name in ("abide-age", "abide-age-class", "abide-diagnosis", "abide-sex"):
        told, coded = (read_target(get_task(name, phenotypes=files), Store(store.root)) for files in ((), [official]))
        assert labels_of(told) == labels_of(coded) and told.strata is not None and told.strata.tolist() == coded.strata.tolist()
        assert [known.get("age") for known in told.known] == [known.get("age") for known in coded.known]


def test_a_file_of_other_people_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"lists none of the 2 participants of .* \(there sub-1, here "):
        read(tmp_path, "abide-diagnosis", "abide", ABIDE_ROWS, [("1",), ("2",)])


def test_a_file_without_the_column_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("SUB_ID,AGE_AT_SCAN\n50003,12\n")
    with pytest.raises(InputError, match=r"x.csv: has no column DX_GROUP, which task abide-diagnosis reads; give Phenotypic_V1_0b"):
        read_target(get_task("abide-diagnosis", phenotypes=[tmp_path / "x.csv"]), write_store(tmp_path / "store", ABIDE_SESSIONS))


def test_too_few_labels_say_where_the_others_went(tmp_path: Path) -> None:
    rows = [{"Subject": "1", "Gender": "F"}, {"Subject": "2"}]
    with pytest.raises(InputError, match=r"1 subject with a label for hcp-sex; at least two are needed; left out: 1 Gender missing\."):
        read(tmp_path, "hcp-sex", "hcp", rows, [("1",), ("2",)])


@pytest.mark.parametrize("name", ["hcp-fingerprint", "column:sex"])
def test_tasks_without_a_file_refuse_one(name: str) -> None:
    with pytest.raises(InputError, match="leave --phenotypes out"):
        get_task(name, phenotypes=["x.csv"])


# --- splits


def test_splits_keep_participants_whole_and_balance_label_and_site(tmp_path: Path) -> None:
    """Seventy people of two sessions at three sites: of every cell of label and site each side holds its share, give or take one."""
    rng = np.random.default_rng(0)
    codes, sites = rng.choice([1, 2], size=70, p=[0.4, 0.6]), rng.choice(["NYU", "UM_1", "USM"], size=70, p=[0.5, 0.3, 0.2])
    rows = [{"SUB_ID": 50000 + number, "SITE_ID": sites[number], "DX_GROUP": codes[number]} for number in range(70)]
    target = read(tmp_path, "abide-diagnosis", "abide", rows, [(str(50000 + n), visit) for n in range(70) for visit in "12"])
    task = get_task("abide-diagnosis")
    assert task.policy.kind == "70/10/20" and len(task.policy.seeds) == 3
    cells = Counter(zip(codes.tolist(), sites.tolist(), strict=True))
    code = {"autism": 1, "control": 2}
    tested = []
    for seed in task.policy.seeds:
        (split,) = outer_splits(target.subjects, target.labels, "classification", task.policy, seed, target.strata)
        sides = {"train": (split.train, 0.7), "valid": (split.valid, 0.1), "test": (split.test, 0.2)}
        people = {name: set(target.subjects[side].tolist()) for name, (side, _) in sides.items()}
        assert sum(map(len, people.values())) == len(set.union(*people.values())) == 70
        assert target.strata is not None
        for name, (side, share) in sides.items():
            assert abs(len(people[name]) - 70 * share) <= 1
            of_person = {str(target.subjects[row]): (code[target.labels[row]], str(target.strata[row])) for row in side}
            by_cell = Counter(of_person.values())
            # A side is made of 7, 1 or 2 of ten parts, and each part holds its share of a cell give or take one.
            assert all(abs(by_cell[place] - share * size) <= 10 * min(share, 1 - share) for place, size in cells.items())
        tested.append(people["test"])
    assert tested[0] != tested[1]


# --- what is told of them


def test_every_column_an_entry_reads_is_a_published_one() -> None:
    names = {"HCP": "hcp", "ADNI": "adni", "ADHD-200": "adhd200", "PPMI": "ppmi", "ABIDE": "abide"}
    for entry in ENTRIES.values():
        cohort = entry.cohort
        published = {column_key(name) for name in COLUMNS[names[cohort.name]]}
        read_here = (*cohort.ids, *entry.columns, cohort.site, cohort.age, cohort.sex)
        assert {column_key(name) for name in read_here if name} <= published, entry.name


def test_entries_say_all_that_a_user_needs() -> None:
    for record in as_records():
        assert all(record[name] for name in ("made", "excluded", "where", "terms", "sources", "metrics", "not_said_by_the_paper")), record[
            "task"
        ]
    for entry in ENTRIES.values():
        known = {"classification": CLASSIFICATION_METRICS, "regression": REGRESSION_METRICS, "identification": IDENTIFICATION_METRICS}[
            entry.kind
        ]
        assert entry.primary in entry.metrics and set(entry.metrics) <= set(known)
        assert {name.split(",")[0] for name in entry.published} <= {*known, "macro_f1"}


def test_the_published_values_are_those_of_the_paper() -> None:
    """Per cent, as in the table of the paper."""
    values = {entry.name: [round(100 * value, 2) for value in entry.published.values()] for entry in ENTRIES.values()}
    assert values == {
        "hcp-sex": [91.1, 91.1, 90.6, 90.5],
        "hcp-fingerprint": [98.5, 98.1],
        "adni-mci": [69.12, 68.96, 66.66, 64.52],
        "adhd200": [63.53],
        "ppmi": [70.4],
        "abide-age-class": [64.41],
        "abide-age": [21.75],
        "abide-diagnosis": [],
        "abide-sex": [],
    }


def test_the_list_is_printed_without_naming_a_store(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["evaluate", "--list"]) == 0
    text = capsys.readouterr().out
    assert all(f"{name}: " in text for name in ENTRIES) and "Phenotypic_V1_0b_preprocessed1.csv" in text and "Data Use Terms" in text
    assert all(source.split()[0] in text for entry in ENTRIES.values() for source in entry.cohort.sources)
    assert max(map(len, text.splitlines())) <= 120
    assert run_command(["evaluate", "--list", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == as_records()


def test_the_documented_table_is_that_of_the_registry() -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    assert _as_markdown() in text, f"put this into {DOCUMENT.name}:\n{_as_markdown()}"
    assert all(_as_markdown().count(f"\n| `{name}` |") == 1 for name in ENTRIES)


def test_an_entry_can_be_changed_for_a_study_of_ones_own(tmp_path: Path) -> None:
    entry = replace(ENTRIES["abide-diagnosis"], name="mine", seeds=(5,))
    path = write_phenotypes(tmp_path / "abide.csv", "abide", ABIDE_ROWS)
    task = replace(get_task("abide-diagnosis", phenotypes=[path]), entry=entry, name="mine")
    assert read_target(task, write_store(tmp_path / "store", ABIDE_SESSIONS)).n_subjects == 5
