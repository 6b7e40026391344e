"""What is damaged, missing or unlisted in a store is named, and nothing else is; what a killed process left is swept."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from store_samples import SPACE, TR_S, entities, make_store

from slimbrain.cli import run_command
from slimbrain.disk.locks import claim
from slimbrain.errors import StoreError
from slimbrain.grid import MASK_FILE, Grid
from slimbrain.store import Channels, Store
from slimbrain.store.verify import Verification, sweep, verify
from slimbrain.store.write import write_roi_session

KEY = f"sub-02_task-rest_run-1_space-{SPACE}"
DATA = f"sub-02/func/{KEY}_desc-slimbrain_bold.safetensors"
SIDECAR = DATA.replace(".safetensors", ".json")


@pytest.fixture
def root(grid8: Grid, tmp_path: Path) -> Path:
    """Three sessions of voxels and one of regions, all as written."""
    store = make_store(tmp_path / "store", grid8, 3, frames=8)
    write_roi_session(store, entities("01"), np.ones((9, 2)), Channels(("a", "b"), np.zeros((2, 3))), TR_S)
    (store.root / "participants.tsv").write_text("participant_id\tsex\nsub-01\tF\nsub-02\tM\nsub-03\tF\n")
    return store.root


def found(verdict: Verification) -> list[tuple[str, str, str]]:
    return [(problem.kind, problem.file, problem.session) for problem in verdict.problems]


def edit(path: Path, change: Callable[[bytearray], object]) -> None:
    content = bytearray(path.read_bytes())
    change(content)
    path.write_bytes(content)


def flip(place: int) -> Callable[[bytearray], object]:
    def change(content: bytearray) -> None:
        content[place] ^= 4

    return change


def swap(old: str, new: str) -> Callable[[Path], object]:
    return lambda path: path.write_text(path.read_text().replace(old, new))


def test_a_store_as_written_has_no_problem(root: Path) -> None:
    assert verify(root) == Verification(n_sessions=4)


@pytest.mark.parametrize(
    ("file", "damage", "kind"),
    [
        (DATA, lambda path: edit(path, flip(-1)), "damaged"),
        (DATA, lambda path: edit(path, flip(len(path.read_bytes()) // 2)), "damaged"),
        (DATA, lambda path: edit(path, flip(30)), "damaged"),
        (DATA, lambda path: edit(path, lambda content: content.pop()), "damaged"),
        (DATA, lambda path: path.unlink(), "missing"),
        (SIDECAR, lambda path: path.unlink(), "missing"),
        (SIDECAR, lambda path: path.write_text("{"), "damaged"),
    ],
)
def test_the_one_session_that_is_not_as_written_is_named(file: str, damage: Callable[[Path], object], kind: str, root: Path) -> None:
    damage(root / file)
    verdict = verify(root)
    assert found(verdict) == [(kind, file, KEY)] and verdict.exit_code == 1
    reason = verdict.problems[0].reason
    assert reason.startswith(f"{root / file}: ") and reason.endswith(".") and "\n" not in reason


@pytest.mark.parametrize(
    ("file", "damage", "names"),
    [
        ("sessions.tsv", swap("\t12\t0.72", "\t13\t0.72"), (DATA, KEY)),
        (SIDECAR, swap('"DataBytes": ', '"DataBytes": 1'), (DATA, KEY)),
        (SIDECAR, swap('"task": "rest"', '"task": "face"'), (DATA, KEY)),
        ("sessions.tsv", lambda path: path.write_text("nothing\n1\n"), ("sessions.tsv", "")),
        ("sessions.tsv", lambda path: path.unlink(), ("sessions.tsv", "")),
        ("participants.tsv", swap("participant_id", "id"), ("participants.tsv", "")),
        (MASK_FILE, lambda path: path.write_bytes(b"no image"), (MASK_FILE, "")),
    ],
)
def test_tables_and_sidecars_that_no_longer_fit_are_named(
    file: str, damage: Callable[[Path], object], names: tuple[str, str], root: Path
) -> None:
    damage(root / file)
    problems = verify(root).problems
    assert names in {(problem.file, problem.session) for problem in problems}
    assert all(problem.kind == "damaged" for problem in problems)


def test_files_without_a_row_are_named(root: Path) -> None:
    table = root / "sessions.tsv"
    table.write_text("".join(line for line in table.read_text().splitlines(keepends=True) if not line.startswith(KEY)))
    assert found(verify(root)) == [("unlisted", SIDECAR, KEY), ("unlisted", DATA, KEY)]
    (root / DATA).unlink()
    (verdict,) = verify(root).problems
    assert verdict.file == SIDECAR and "it has no data" in verdict.reason


def test_a_store_from_before_checksums_is_read_through_and_said_to_be(root: Path) -> None:
    for path in root.rglob("*_bold.json"):
        sidecar = json.loads(path.read_text())
        path.write_text(
            json.dumps({name: value for name, value in sidecar.items() if name not in ("DataBytes", "DataSha256", "SessionRow")})
        )
    verdict = verify(root)
    assert verdict.problems == [] and verdict.unsealed == [info.key for info in Store(root).sessions]
    edit(root / DATA, lambda content: content.pop())
    assert found(verify(root)) == [("damaged", DATA, KEY)]


def test_the_command_names_them_and_its_exit_code_says_so(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["store", "verify", str(root)]) == 0
    assert "4 sessions, 0 problems" in capsys.readouterr().out
    edit(root / DATA, flip(-1))
    assert run_command(["store", "verify", str(root)]) == 1
    assert f"damaged: {root / DATA}: " in capsys.readouterr().out
    assert run_command(["store", "verify", str(root), "--json"]) == 1
    (problem,) = json.loads(capsys.readouterr().out)["problems"]
    assert (problem["file"], problem["kind"], problem["session"]) == (DATA, "damaged", KEY)
    assert run_command(["store", "verify", str(root / "sub-02")]) == 1
    assert "dataset_description.json" in capsys.readouterr().err


# --- while others write, and after they were killed


def leave(root: Path) -> list[Path]:
    """What killed processes leave: temporary files, a sidecar without data, a claim."""
    widow = root / "sub-09" / "func" / f"sub-09_task-rest_space-{SPACE}_desc-slimbrain_bold.json"
    widow.parent.mkdir(parents=True)
    left = [
        (root / DATA).with_name(f".tmp-4711-{Path(DATA).name}"),
        (root / DATA).with_name(f".tmp-4711-{Path(SIDECAR).name}"),
        root / ".tmp-4711-sessions.tsv",
        root / ".tmp-4712-report.html",
        widow,
    ]
    for path in left:
        path.write_text("{}")
    return left


def test_leftovers_are_named_and_swept_but_nothing_else(root: Path) -> None:
    before = {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}
    left = leave(root)
    assert {root / problem.file for problem in verify(root).problems} == set(left)
    sweep(root)
    assert {path: path.read_bytes() for path in root.rglob("*") if path.is_file()} == before
    assert verify(root).problems == []


def test_what_a_living_process_writes_is_left_alone(root: Path) -> None:
    left = leave(root)
    names = (KEY, f"sub-09_task-rest_space-{SPACE}", "sessions.tsv", "report.html")
    with claim(root, names[0]), claim(root, names[1]), claim(root, names[2]), claim(root, names[3]):
        assert verify(root).problems == []
        sweep(root)
        assert all(path.exists() for path in left)
        edit(root / DATA, flip(-1))
        verdict = verify(root)
        assert (verdict.problems, verdict.busy) == ([], [KEY])
    assert found(verify(root))[0] == ("damaged", DATA, KEY)


def test_a_sidecar_whose_listed_data_are_lost_is_kept(root: Path) -> None:
    (root / DATA).unlink()
    sweep(root)
    assert (root / SIDECAR).exists()


def test_a_store_that_cannot_be_written_is_not_swept_in_silence(root: Path) -> None:
    leave(root)
    (root / ".lock").unlink()
    (root / ".lock").mkdir()
    with pytest.raises(StoreError, match="cannot be written"):
        sweep(root)


@pytest.mark.parametrize("path", [".", "..", "/", "", "n/a", "sub-02", "participants.tsv", "a\0b", "x" * 300, "sub-02/func/."])
def test_a_row_whose_path_is_no_data_file_is_named(path: str, root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    manifest = root / "sessions.tsv"
    manifest.write_text(manifest.read_text().replace(DATA, path))
    assert run_command(["store", "verify", str(root)]) == 1
    printed = capsys.readouterr()
    assert KEY in printed.out and "Traceback" not in printed.out + printed.err
    assert run_command(["ledger", str(root)]) != 0 and "Traceback" not in capsys.readouterr().err
