"""Labels from participants.tsv: what kind they are, and who is left out."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

import slimbrain
from slimbrain.errors import InputError
from slimbrain.evaluate.tasks import Task, get_task, label_name, primary_metric, read_target
from slimbrain.store import Channels, Store
from slimbrain.store.write import write_roi_session

COLUMNS = {
    "sex": ["F", "M", "F", "M", "F", "n/a", ""],
    "age": ["20", "31.5", "40", "22", "50", "61", "n/a"],
    "stage": ["0", "1", "2", "0", "1", "2", "0"],
    "site": ["a", "a", "b", "b", "a", "b", "a"],
    "empty": ["n/a"] * 7,
}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Seven listed subjects with two sessions each, and one that participants.tsv does not list."""
    store = Store.create(tmp_path, None, tr=1.0)
    for subject in range(8):
        for session in "12":
            channels = Channels(("x", "y"), np.zeros((2, 3)))
            write_roi_session(store, {"sub": str(subject), "ses": session, "task": "rest"}, np.ones((4, 2)), channels, 1.0)
    lines = ["\t".join(["participant_id", *COLUMNS])]
    lines += ["\t".join([f"sub-{row}", *cells]) for row, cells in enumerate(zip(*COLUMNS.values(), strict=True))]
    (tmp_path / "participants.tsv").write_text("\n".join(lines) + "\n")
    return Store(tmp_path)


def test_text_is_classes_and_the_missing_are_counted(store: Store) -> None:
    target = read_target(get_task("column:sex"), store)
    assert target.kind == "classification" and target.n_subjects == 5
    assert target.labels.tolist() == [sex for sex in "FMFMF" for _ in range(2)]
    assert target.subjects.tolist() == [f"sub-{number}" for number in range(5) for _ in range(2)]
    assert target.keys[:2] == ("sub-0_ses-1_task-rest_space-roi", "sub-0_ses-2_task-rest_space-roi")
    assert target.excluded == {"not in participants.tsv": 2, "sex missing": 4}
    assert primary_metric(get_task("column:sex"), target) == "auc"


def test_many_numbers_are_a_quantity_and_few_are_classes(store: Store) -> None:
    age = read_target(get_task("column:age"), store)
    assert age.kind == "regression" and age.labels[2] == 31.5 and primary_metric(get_task("column:age"), age) == "r2"
    stage = read_target(get_task("column:stage"), store)
    assert stage.kind == "classification" and primary_metric(get_task("column:stage"), stage) == "balanced_accuracy"
    forced = read_target(Task("stage", "stage", kind="regression", strata="site"), store)
    assert forced.kind == "regression" and forced.strata is not None and forced.strata[:6].tolist() == list("aaaabb")


@pytest.mark.parametrize(
    ("cells", "spellings"),
    [
        (["m", "M", "f", "F", "M", "n/a", "m"], "'f' (1 participant), 'F' (1 participant)"),
        (["Case", "x", "case", "x", "x", "x", "x"], "'case' (1 participant), 'Case' (1 participant)"),
        (["1", "2", "1.0", "2", "1", "2", "2"], "'1' (2 participants), '1.0' (1 participant)"),
        (["a b", "c", "a  b", "c", "c", "c", "c"], "'a  b' (1 participant), 'a b' (1 participant)"),
    ],
)
def test_classes_that_differ_only_in_spelling_are_refused(store: Store, cells: list[str], spellings: str) -> None:
    """`m/M/f/F` made four classes without a word."""
    lines = ["participant_id\tgroup", *(f"sub-{row}\t{cell}" for row, cell in enumerate(cells))]
    (store.root / "participants.tsv").write_text("\n".join(lines) + "\n")
    with pytest.raises(InputError) as refusal:
        read_target(get_task("column:group"), Store(store.root))
    message = str(refusal.value)
    assert "participants.tsv: column group spells one class in several ways" in message and spellings in message
    assert message.endswith("; write each class in one way.")


def test_a_target_counts_the_participants_of_its_classes(store: Store) -> None:
    assert read_target(get_task("column:sex"), store).classes == {"F": 3, "M": 2}
    assert read_target(get_task("column:stage"), store).classes == {"0": 3, "1": 2, "2": 2}
    assert read_target(get_task("column:age"), store).classes == {} and read_target(get_task("identity"), store).classes == {}


def test_sessions_can_be_chosen(store: Store) -> None:
    chosen = [info for info in store.sessions if info.session == "ses-1"]
    assert read_target(get_task("column:sex"), store, chosen).keys == tuple(info.key for info in chosen[:5])


@pytest.mark.parametrize(
    ("task", "message"),
    [
        (Task("column:iq", "iq"), "has age, empty, sex, site, stage; task column:iq needs the column iq"),
        (Task("column:empty", "empty"), "0 subject with a value in empty"),
        (Task("sex", "sex", kind="regression"), "holds text"),
    ],
)
def test_unusable_columns_are_refused(store: Store, task: Task, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_target(task, store)


@pytest.mark.parametrize("name", ["height", "column:", ""])
def test_unknown_tasks_are_refused(name: str) -> None:
    with pytest.raises(InputError, match="column:sex"):
        get_task(name)


@pytest.mark.parametrize(
    ("name", "meant"),
    [("sex", "column:sex"), ("Sex", "column:sex"), ("colum:sex", "column:sex"), ("abide-sx", "abide-sex"), ("identify", "identity")],
)
def test_a_task_that_was_probably_meant_is_named(store: Store, name: str, meant: str) -> None:
    with pytest.raises(InputError, match=rf"^{name}: no such task; {meant} was probably meant\.$"):
        get_task(name, source=store)


@pytest.mark.parametrize(("column", "meant"), [("sxe", "sex"), ("Age", "age"), ("tsk", "task")])
def test_a_column_that_was_probably_meant_is_named(store: Store, column: str, meant: str) -> None:
    with pytest.raises(InputError, match=rf"needs the column {column}; column:{meant} was probably meant\.$"):
        read_target(get_task(f"column:{column}"), store)


def test_a_group_that_was_probably_meant_is_named(store: Store) -> None:
    with pytest.raises(InputError, match=r"needs the column sites; site was probably meant\.$"):
        read_target(get_task("column:sex", group="sites"), store)


def test_sites_are_balanced_without_being_asked(store: Store) -> None:
    target = read_target(get_task("column:sex"), store)
    assert target.strata is not None and target.strata.tolist() == [site for site in "aabba" for _ in range(2)]
    assert read_target(get_task("column:site"), store).strata is None


def test_a_label_is_named_without_the_prefix_of_its_task_and_in_one_place() -> None:
    assert [label_name(task) for task in ("column:sex", "column:column:", "identity", "hcp-sex")] == [
        "sex",
        "column:",
        "identity",
        "hcp-sex",
    ]
    package = Path(slimbrain.__file__).parent
    others = [
        path.name
        for path in package.rglob("*.py")
        if re.search(r"""removeprefix\((["']column:|_COLUMN)""", path.read_text(encoding="utf-8"))
    ]
    assert others == ["tasks.py"]


def test_identity_is_a_task_without_a_column() -> None:
    assert get_task("identity").identification and get_task("identity:ses-1:ses-2").occasions == ("ses-1", "ses-2")
    with pytest.raises(InputError, match="name both"):
        get_task("identity:ses-1")
    with pytest.raises(InputError, match="no such task"):
        get_task("fingerprint")
