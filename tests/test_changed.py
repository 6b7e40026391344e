"""`make check` runs the tests that a change can affect, and stops in time."""

from __future__ import annotations

import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest
from changed import ALWAYS, affected_tests, changed_files, distances, imported_names, named_in


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A branch that left main one commit ago; main has moved on since."""

    def git(*words: str) -> None:
        subprocess.run(["git", "-c", "user.name=x", "-c", "user.email=x", *words], cwd=tmp_path, check=True, capture_output=True)

    def commit(name: str, text: str) -> None:
        (tmp_path / name).write_text(text)
        git("add", "--all")
        git("commit", "--message", name)

    git("init", "--initial-branch=main")
    commit(".gitignore", "*.log\n")
    commit("kept.py", "1")
    commit("deleted.py", "a file of its own")
    git("checkout", "-b", "work")
    commit("committed.py", "2")
    git("checkout", "main")
    commit("of_others.py", "3")
    git("checkout", "work")
    (tmp_path / "deleted.py").unlink()
    (tmp_path / "new é.py").write_text("4")
    (tmp_path / "ignored.log").write_text("5")
    return tmp_path


def test_changes_are_those_of_the_branch_committed_or_not(repository: Path) -> None:
    assert changed_files("main", repository) == ["committed.py", "deleted.py", "new é.py"]
    assert changed_files("HEAD", repository) == ["deleted.py", "new é.py"]


def test_an_unknown_commit_is_refused_with_the_way_out(repository: Path) -> None:
    with pytest.raises(SystemExit, match="SINCE=COMMIT"):
        changed_files("no-such-branch", repository)


def test_imports_are_found_wherever_they_stand() -> None:
    source = "import a.b as c\nfrom d import e\ndef f():\n    from g.h import i\n    from . import j\n"
    assert imported_names(source) == {"a.b", "d", "d.e", "g.h", "g.h.i"}
    assert imported_names(source, inside=False) == {"a.b", "d", "d.e"}


def test_distances_are_the_fewest_imports() -> None:
    imports = {"a": {"b", "c"}, "b": {"c"}, "c": set(), "d": {"a"}, "e": {"d", "b"}, "f": {"f"}}
    assert distances(["c"], imports) == {"c": 0, "a": 1, "b": 1, "d": 2, "e": 2}


def test_files_that_python_does_not_import_are_known_by_name() -> None:
    assert named_in('read("style.css")', "src/x/style.css") and named_in('ROOT / "docs"', "docs/page.md")
    assert not named_in("docs of a style", "docs/style.css") and not named_in("x", "README.md")


def test_the_room_that_changed_comes_first_and_what_cannot_notice_is_left_out() -> None:
    assert affected_tests(["src/slimbrain/grid.py"])[0] == "tests/test_grid.py"
    files = affected_tests(["src/slimbrain/report/ink.py"])
    assert files[0].startswith("tests/report/") and "tests/e2e/test_pipeline.py" in files
    assert {"tests/test_grid.py", "tests/store/test_store.py", "tests/disk/test_tsv.py"}.isdisjoint(files)
    # By the public names of the package.
    assert "tests/e2e/test_pipeline.py" in affected_tests(["src/slimbrain/evaluate/publish.py"])


def test_samples_presets_and_pages_have_their_tests() -> None:
    assert {"tests/train/test_train.py", "tests/launch/test_local.py"} <= set(affected_tests(["tests/train_samples.py"]))
    # This file, too, has that name in it.
    assert set(affected_tests(["src/slimbrain/configs/tiny.yaml"])[:2]) == {"tests/test_config.py", "tests/test_changed.py"}
    assert {"tests/e2e/test_documented_commands.py", *ALWAYS} <= set(affected_tests(["docs/tour.md"]))
    assert affected_tests([f"{'x' * 9}/{'y' * 9}"]) == sorted(ALWAYS)


def test_what_does_not_start_in_time_is_skipped(request: pytest.FixtureRequest) -> None:
    conftest = request.config.pluginmanager.get_plugin(str(Path(__file__).with_name("conftest.py")))
    assert conftest
    for seconds, late in ((-1.0, True), (1e6, False), (None, False)):
        item = SimpleNamespace(config=SimpleNamespace(getoption={"--seconds": seconds}.get))
        try:
            conftest.pytest_runtest_setup(item)
        except pytest.skip.Exception as skipped:
            assert late and "make test" in str(skipped)
        else:
            assert not late
