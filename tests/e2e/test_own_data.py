"""`slimbrain run`: recordings to a page by commands that are printed, resumed where it was stopped, nothing done twice."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from slimbrain.cli import run_command
from slimbrain.errors import InputError, ReportedError
from slimbrain.models import shipped
from slimbrain.pipeline import OwnData, Steps, run_own_data
from slimbrain.store import Channels, Store
from slimbrain.store.write import write_roi_session

PEOPLE, CHANNELS = 24, 8


class Recorder:
    """Stands for the command line: notes what it was asked, and writes what the commands would."""

    def __init__(self, failing: str = "") -> None:
        self.asked: list[list[str]] = []
        self.failing = failing

    def __call__(self, words: Sequence[str]) -> int:
        self.asked.append(list(words))
        if words[0] == self.failing:
            return 1
        out = Path(words[list(words).index("--out") + 1]) if "--out" in words else None
        if words[0] == "split":
            assert out is not None
            out.mkdir(parents=True, exist_ok=True)
            for name in ("pretraining", "evaluation"):
                (out / f"{name}.tsv").write_text("participant_id\n")
        elif out is not None:
            out.parent.mkdir(parents=True, exist_ok=True)
            out.write_text("x") if out.suffix else (out / "model").mkdir(parents=True, exist_ok=True)
        return 0

    @property
    def names(self) -> list[str]:
        return [words[0] for words in self.asked]


@pytest.fixture(autouse=True)
def nothing_shipped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shipped, "list_models", list)


def parcels(root: Path, first: int = 0) -> Store:
    """Regions of people of two sexes, named from this number on, whose two first regions go together in one of them."""
    made = Store.create(root, None, 0.72)
    for number in range(first, first + PEOPLE):
        values = np.random.default_rng(number).standard_normal((90, CHANNELS))
        if number % 2:
            values[:, 1] = values[:, 0] + 0.3 * values[:, 1]
        mm = np.random.default_rng(99).uniform(-50, 50, (CHANNELS, 3))
        channels = Channels(tuple(f"r{place}" for place in range(CHANNELS)), mm)
        write_roi_session(made, {"sub": f"{number:02d}", "task": "rest", "space": "roi"}, values, channels, 0.72)
    rows = "".join(f"sub-{number:02d}\t{'FM'[number % 2]}\n" for number in range(first, first + PEOPLE))
    (made.root / "participants.tsv").write_text(f"participant_id\tsex\n{rows}")
    return made


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return parcels(tmp_path / "mine")


def recordings(source: Path, sexes: Sequence[str]) -> Path:
    """Names of images in fMRIPrep's layout, of a movie and of rest, and a table of participants with these cells; none without."""
    for number in range(4):
        for task in ("rest", "movie"):
            image = source / f"sub-{number}/func/sub-{number}_task-{task}_space-MNI152NLin6Asym_desc-preproc_bold.nii.gz"
            image.parent.mkdir(parents=True, exist_ok=True)
            image.touch()
    rows = "".join(f"sub-{number}\t{sex}\n" for number, sex in enumerate(sexes))
    if rows:
        (source / "participants.tsv").write_text(f"participant_id\tsex\n{rows}")
    return source


def test_every_step_is_printed_as_its_command(store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = Recorder()
    run_own_data(OwnData(store.root, "column:sex"), tmp_path / "out", line)
    assert line.names == ["split", "pretrain", "embed", "evaluate", "report"]
    shown = [shlex.split(text)[2:] for text in capsys.readouterr().out.splitlines() if text.startswith("$ slimbrain ")]
    assert shown == line.asked
    words = line.asked[0]
    assert words[words.index("--stratify") + 1] == "sex"
    known, tested = (line.asked[place][line.asked[place].index("--participants") + 1] for place in (1, 3))
    assert (Path(known).name, Path(tested).name) == ("pretraining.tsv", "evaluation.tsv")


def test_a_model_that_is_given_is_used_and_nobody_is_pretrained_on(store: Store, tmp_path: Path) -> None:
    line = Recorder()
    run_own_data(OwnData(store.root, "column:sex", model="lab/model"), tmp_path / "out", line)
    assert line.names == ["embed", "evaluate", "report"] and "--participants" not in line.asked[1]
    assert line.asked[0][line.asked[0].index("--model") + 1] == "lab/model"


def test_a_model_of_the_package_comes_before_pretraining(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shipped, "list_models", lambda: ["slimbrain-temporal"])
    line = Recorder()
    run_own_data(OwnData(store.root, "column:sex"), tmp_path / "out", line)
    assert line.names == ["embed", "evaluate", "report"] and "slimbrain-temporal" in line.asked[0]


def test_a_model_of_the_package_is_not_tested_on_people_that_it_was_trained_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(shipped, "list_models", lambda: ["slimbrain-temporal"])
    abide = parcels(tmp_path / "abide", first=50100)
    line = Recorder()
    run_own_data(OwnData(abide.root, "column:sex"), tmp_path / "out", line)
    assert line.names == ["split", "pretrain", "embed", "evaluate", "report"]
    assert "slimbrain-temporal, which comes with this package, was trained on" in capsys.readouterr().out


def test_recordings_are_prepared_first_with_the_options_given(store: Store, tmp_path: Path) -> None:
    class Preparing(Recorder):
        def __call__(self, words: Sequence[str]) -> int:
            if words[0] == "prep":
                Path(words[2]).parent.mkdir(parents=True, exist_ok=True)
                Path(words[2]).symlink_to(store.root)
            return super().__call__(words)

    source, line = recordings(tmp_path / "fmriprep", "FMFM"), Preparing()
    run_own_data(OwnData(source, "column:sex", "m", resolution="4mm", prep={"tr": 2.0}), tmp_path / "out", line)
    assert line.asked[0] == ["prep", str(source), str(tmp_path / "out" / "store"), "participant", "--resolution", "4mm", "--tr", "2.0"]
    # Single runs that cannot be used stop nothing; where there are no others, there is no store.
    some, none = Preparing(failing="prep"), Recorder(failing="prep")
    run_own_data(OwnData(source, "column:sex", "m"), tmp_path / "other", some)
    assert some.names == ["prep", "embed", "evaluate", "report"]
    with pytest.raises(ReportedError, match="slimbrain prep"):
        run_own_data(OwnData(source, "column:sex", "m"), tmp_path / "third", none)


@pytest.mark.parametrize(
    ("task", "sexes", "message"),
    [
        ("column:height", "FMFM", r"fmriprep/participants\.tsv: .*needs the column height"),
        ("height", "FMFM", "height: no such task"),
        ("sex", "FMFM", "column:sex was probably meant"),
        ("column:sex", "", r"fmriprep/participants\.tsv: is missing or tells nothing of anybody"),
        ("column:sex", ["F", "M", "n/a", "m"], r"fmriprep/participants\.tsv: .*one class in several ways"),
        ("column:sex", ["F", "n/a", "", "n/a"], "1 subject with a value in sex"),
        ("column:sex", "FFFF", "All labels are 'F'"),
        ("column:sex", "FMMM", "Participants per class: F 1, M 3"),
    ],
)
def test_labels_that_cannot_be_predicted_are_refused_before_anything_is_prepared(
    tmp_path: Path, task: str, sexes: Sequence[str], message: str
) -> None:
    line, source = Recorder(), recordings(tmp_path / "fmriprep", sexes)
    with pytest.raises(InputError, match=message):
        run_own_data(OwnData(source, task, "m"), tmp_path / "out", line)
    assert line.asked == [] and not (tmp_path / "out").exists()


@pytest.mark.parametrize("task", ["column:sex", "column:task", "column:fd_mean", "column:cohort"])
def test_a_label_that_the_source_or_preparation_can_give_lets_it_begin(tmp_path: Path, task: str) -> None:
    line, source = Recorder(failing="prep"), recordings(tmp_path / "fmriprep", "FMFM")
    with pytest.raises(ReportedError, match="slimbrain prep"):
        run_own_data(OwnData(source, task, "m"), tmp_path / "out", line)
    assert line.names == ["prep"]


def test_what_failed_is_done_again_and_what_is_done_is_not(store: Store, tmp_path: Path) -> None:
    asked, out = OwnData(store.root, "column:sex", "m"), tmp_path / "out"
    first = Recorder(failing="evaluate")
    with pytest.raises(ReportedError, match="slimbrain evaluate"):
        run_own_data(asked, out, first)
    assert first.names == ["embed", "evaluate"]
    again = Recorder()
    run_own_data(asked, out, again)
    assert again.names == ["evaluate", "report"]
    # Another model, or another person in the store, is another result.
    other = Recorder()
    run_own_data(OwnData(store.root, "column:sex", "n"), out, other)
    assert other.names == ["embed", "evaluate", "report"]
    with open(store.root / "participants.tsv", "a") as table:
        table.write("sub-99\tF\n")
    more = Recorder()
    run_own_data(asked, out, more)
    assert more.names == ["embed", "evaluate", "report"]


def test_the_sentence_of_the_step_that_failed_is_the_last(store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """By the real commands: `embed` refuses the model, and nothing is said after that."""
    words = ["run", str(store.root), "--task", "column:sex", "--model", "./nowhere", "--out", str(tmp_path / "out")]
    assert run_command(words) == 1
    said = capsys.readouterr().err
    assert said.startswith("slimbrain: ./nowhere: ") and said.count("\n") == 1


def test_the_page_lists_how_participants_were_divided(store: Store, tmp_path: Path) -> None:
    """By the real commands: with the run, and where only the result is shown."""
    root, run, result = str(store.root), str(tmp_path / "run"), str(tmp_path / "sex.json")
    tables = [str(tmp_path / f"{name}.tsv") for name in ("pretraining", "evaluation")]
    short = [word for name in ("steps=2", "batch=2", "warmup=1") for word in ("--set", f"train_temporal.{name}")]
    for words in (
        ["split", root, "--stratify", "sex", "--out", str(tmp_path)],
        ["pretrain", "temporal", root, "--preset", "tiny", *short, "--participants", tables[0], "--out", run],
        ["evaluate", root, "--model", f"{run}/model", "--task", "column:sex", "--seeds", "1", "--participants", tables[1], "--out", result],
    ):
        assert run_command(words) == 0
    for pieces, names in (
        (["--run", run, "--evaluation", result], ["split", "pretrain", "evaluate", "report"]),
        (["--evaluation", result], ["split", "evaluate", "report"]),
    ):
        assert run_command(["report", *pieces, "--out", str(tmp_path / "page.html")]) == 0
        listed = (tmp_path / "page.html").read_text(encoding="utf-8").split("Command lines, in order</figcaption>")[1].split("</pre>")[0]
        assert re.findall(r"^(?:.*<code>)?slimbrain (\w+)", listed, flags=re.MULTILINE) == names


def test_people_of_the_pretraining_stay_there(store: Store, tmp_path: Path) -> None:
    asked, out = OwnData(store.root, "column:sex"), tmp_path / "out"
    run_own_data(asked, out, Recorder())
    again = Recorder()
    run_own_data(asked, out, again)
    assert again.names == ["pretrain", "report"] and "auto" in again.asked[0]


def test_pretraining_that_a_signal_stops_stops_the_rest(store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It saves its state and returns 0, without a model."""

    class Stopped(Recorder):
        def __call__(self, words: Sequence[str]) -> int:
            code = super().__call__(words)
            if words[0] == "pretrain":
                shutil.rmtree(tmp_path / "out" / "temporal" / "model")
            return code

    line, asked = Stopped(), OwnData(store.root, "column:sex")
    with pytest.raises(ReportedError) as stopped:
        run_own_data(asked, tmp_path / "out", line)
    assert stopped.value.exit_code == 143 and line.names == ["split", "pretrain"]
    assert capsys.readouterr().err == "slimbrain: stopped; run the same command again to resume.\n"
    again = Recorder()
    run_own_data(asked, tmp_path / "out", again)
    assert again.names == ["pretrain", "embed", "evaluate", "report"]


def test_a_column_that_nobody_has_is_refused_before_the_work(store: Store, tmp_path: Path) -> None:
    line = Recorder()
    with pytest.raises(InputError, match="needs the column height"):
        run_own_data(OwnData(store.root, "column:height"), tmp_path / "out", line)
    assert line.asked == []


@pytest.mark.parametrize("where", [".", "derivatives/slimbrain"])
def test_results_never_lie_among_the_recordings(store: Store, where: str) -> None:
    line = Recorder()
    with pytest.raises(InputError, match=r"is inside .*, which is only read; choose another --out"):
        run_own_data(OwnData(store.root, "column:sex"), store.root / where, line)
    assert line.asked == []


def test_a_damaged_record_of_steps_is_named(tmp_path: Path) -> None:
    (tmp_path / "steps.json").write_text("{")
    with pytest.raises(InputError, match=r"steps\.json: cannot be read"):
        Steps(Recorder(), tmp_path)


@pytest.mark.slow
def test_from_a_store_to_a_page(store: Store, tmp_path: Path) -> None:
    """By the real commands: half is pretrained on, the other half evaluated, and connectivity finds what was planted."""
    preset = tmp_path / "small.yaml"
    preset.write_text(
        "name: small\nwindow: {frames: 8, k: 2}\ntemporal: {width: 16, depth: 1, heads: 2, groups: 4, window_frames: 8}\n"
        "train_temporal: {steps: 4, batch: 2, log_every: 2, save_every: 4, warmup: 1}\n"
    )
    words = ["run", str(store.root), "--task", "column:sex", "--preset", str(preset), "--out", str(tmp_path / "out")]
    assert run_command(words) == 0
    result = json.loads((tmp_path / "out" / "sex.json").read_text())
    assert result["n_subjects"] == PEOPLE // 2 and result["seen_in_pretraining"] == 0
    assert result["best_baseline"]["mean"] > 0.9
    assert "column:sex" in (tmp_path / "out" / "report.html").read_text()
