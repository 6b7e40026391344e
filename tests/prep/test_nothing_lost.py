"""A prep that is killed, and one that meets a full or read-only disk: what is in the store stays, and the same command finishes it."""

from __future__ import annotations

import gzip
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from disk_samples import mounted, remount
from prep_victim import distinct
from store_samples import files_but_commands

from slimbrain.cli import run_command
from slimbrain.disk.atomic import TEMPORARY_PREFIX, write_text
from slimbrain.disk.locks import claim
from slimbrain.prep import PrepOptions, prepare
from slimbrain.prep import run as run_module
from slimbrain.prep import session as session_module
from slimbrain.store import Store
from slimbrain.store import write as placing
from slimbrain.store.verify import verify

WriteRun = Callable[..., Path]

N_KILLS = 30
FINAL = ("sessions.tsv", "participants.tsv", "failures.tsv", "dataset_description.json", "report.html")


def victim(plan: dict[str, Any]) -> dict[str, Any]:
    program = Path(__file__).parents[1] / "prep_victim.py"
    done = subprocess.run([sys.executable, str(program)], input=json.dumps(plan), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout.splitlines()[-1]))


@pytest.fixture
def batch(write_run: WriteRun, bids_dir: Path) -> Path:
    """Four runs, one of which is too short, and a table of participants."""
    for number in range(3):
        write_run(f"sub-{number}", seed=number, tr=(0.72, 2.0, 0.8)[number], frames=12)
    write_run("sub-short", frames=3)
    (bids_dir / "participants.tsv").write_text("participant_id\tage\nsub-0\t31\nsub-1\t\n")
    return bids_dir


@pytest.mark.slow
def test_killed_at_thirty_moments_and_resumed_it_is_the_store_of_an_uninterrupted_prep(
    batch: Path, mask8: Path, tmp_path: Path, write_run: WriteRun
) -> None:
    out = tmp_path / "store"
    # Half of the kills hit a prep that replaces a session whose source has changed since.
    old = tmp_path / "older"
    prepare(batch, old, PrepOptions(mask=mask8, resolution="8mm", participant_label=("0", "1")))
    write_run("sub-1", seed=9, tr=2.0, frames=16)
    random_moments = random.Random(20260101)
    kinds = ["event"] * 20 + ["time"] * (N_KILLS - 20)
    moments = [{kind: random_moments.random(), "before": ("nothing", "older store")[number % 2]} for number, kind in enumerate(kinds)]
    argv = ["prep", str(batch), str(out), "participant", "--mask", str(mask8), "--resolution", "8mm"]
    told = victim(
        {
            "argv": argv,
            "out": str(out),
            "before": {"nothing": None, "older store": str(old)},
            "moments": moments,
            "log": str(tmp_path / "log"),
            "exit": 1,
        }
    )
    reference = told["reference"]
    assert set(FINAL) <= reference.keys() and sum(name.endswith(".safetensors") for name in reference) == 3
    results = told["results"]
    kills = distinct(moments, {name: events for name, (events, _) in told["totals"].items()})
    assert [result["status"] for result in results] == [-signal.SIGKILL] * len(kills)
    # The moments are worth something: some left half a store, some a temporary file.
    assert sum(result["left"] != reference for result in results) >= N_KILLS // 2
    assert any(TEMPORARY_PREFIX in name for result in results for name in result["left"])
    for result in results:
        assert result["resumed"] == 1
        assert result["files"] == reference, (result["moment"], sorted(set(result["files"].items()) ^ set(reference.items())))


def slimbrain(*words: object) -> list[str]:
    return [sys.executable, "-m", "slimbrain", *map(str, words)]


def eventually(holds: Callable[[], bool], process: subprocess.Popen[bytes] | None = None) -> None:
    """Wait until something holds; the test's own time limit ends what never does."""
    while not holds():
        assert process is None or process.poll() is None, "the process ended before that"
        time.sleep(0.005)


@pytest.mark.slow
def test_a_killed_parent_takes_its_workers_along_and_the_command_finishes_its_work(batch: Path, mask8: Path, tmp_path: Path) -> None:
    """The real program, with two workers, killed when its first session appears."""
    prepare(batch, tmp_path / "reference", PrepOptions(mask=mask8, resolution="8mm"))
    out = tmp_path / "store"
    command = slimbrain("prep", batch, out, "participant", "--mask", mask8, "--resolution", "8mm", "--nprocs", 2)
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    eventually(lambda: any(out.rglob("*.safetensors")), process)
    workers = psutil.Process(process.pid).children()
    process.kill()
    process.wait()
    assert len(workers) >= 2
    eventually(lambda: not any(worker.is_running() for worker in workers))
    assert subprocess.run(command, capture_output=True, check=False).returncode == 1
    assert (out / "report.html").stat().st_size
    assert files_but_commands(out) == files_but_commands(tmp_path / "reference")
    assert verify(out).problems == []


def files(root: Path) -> dict[str, bytes]:
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def test_a_prep_killed_after_the_data_does_not_leave_them_beside_words_about_others(
    batch: Path, mask8: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The source changes, the prep that notices dies between data and sidecar, and the source is put back as it was."""
    options = PrepOptions(mask=mask8, resolution="8mm", participant_label=("0",))
    out = tmp_path / "store"
    prepare(batch, out, options)
    before = files(out)
    source, other = (next((batch / f"sub-{number}").rglob("*.nii.gz")) for number in (0, 1))
    kept, times = source.read_bytes(), source.stat()
    source.write_bytes(other.read_bytes())
    write_json = placing.write_json

    def die_before_the_sidecar(path: Path, value: Any) -> Path:
        if path.name.endswith("_bold.json"):
            raise KeyboardInterrupt
        return write_json(path, value)

    monkeypatch.setattr(placing, "write_json", die_before_the_sidecar)
    with pytest.raises(KeyboardInterrupt):
        prepare(batch, out, options)
    monkeypatch.undo()
    source.write_bytes(kept)
    os.utime(source, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert len(prepare(batch, out, options).prepared) == 1
    assert files(out) == before


# --- several at once


def prepared_by(*arguments: Any, **options: Any) -> tuple[threading.Thread, list[Any]]:
    """`prepare` in a thread, and the list that its summary goes to."""
    told: list[Any] = []
    thread = threading.Thread(target=lambda: told.append(prepare(*arguments, PrepOptions(**options))))
    thread.start()
    return thread, told


def test_a_run_in_other_hands_comes_last_and_is_waited_for(
    batch: Path, mask8: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    monkeypatch.setattr(run_module, "_say", said.append)
    out = tmp_path / "store"
    out.mkdir()
    key = "sub-0_task-rest_space-MNI152NLin6Asym"
    with claim(out, key) as mine:
        assert mine
        thread, told = prepared_by(batch, out, mask=mask8, resolution="8mm")
        eventually(lambda: (out / "dataset_description.json").exists() and len(Store(out).sessions) == 2)
        eventually(lambda: any("another process prepares 1 of these runs" in line for line in said))
        assert thread.is_alive() and key not in [info.key for info in Store(out).sessions]
    thread.join()
    assert told[0].prepared[0].key == key and len(told[0].prepared) == 3 and len(told[0].failures) == 1


@pytest.mark.parametrize("force", [False, True])
def test_two_preps_on_one_store_never_work_on_the_same_run_at_once(
    force: bool, batch: Path, mask8: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare(batch, tmp_path / "reference", PrepOptions(mask=mask8, resolution="8mm"))
    inside: list[str] = []
    done: list[str] = []
    both = threading.Barrier(2)
    work = session_module._store_run

    def watched(job: Any, *rest: Any) -> Any:
        assert job.file not in inside
        inside.append(job.file)
        if len(done) + len(inside) <= 2 and "short" not in job.file:
            # The first run of each is held until the other has begun one too.
            both.wait()
        try:
            return work(job, *rest)
        finally:
            inside.remove(job.file)
            done.append(job.file)

    monkeypatch.setattr(session_module, "_store_run", watched)
    options = {"mask": mask8, "resolution": "8mm", "force": force}
    pairs = [prepared_by(batch, tmp_path / "store", **options) for _ in range(2)]
    for thread, _ in pairs:
        thread.join()
    summaries = [told[0] for _, told in pairs]
    finished = [file for file in done if "short" not in file]
    assert len(finished) == (6 if force else 3)
    assert sum(len(summary.prepared) for summary in summaries) == len(finished)
    # What the other did is already there for this one; what neither can do, both say.
    assert [len(summary.prepared) + len(summary.skipped) for summary in summaries] == [3, 3]
    assert [len(summary.failures) for summary in summaries] == [1, 1]
    assert files(tmp_path / "store") == files(tmp_path / "reference")


def test_failures_of_two_commands_on_one_source_are_both_in_the_table(
    batch: Path, mask8: Path, tmp_path: Path, write_run: WriteRun
) -> None:
    write_run("sub-tiny", frames=2)
    out = tmp_path / "store"
    for label in ("short", "tiny"):
        prepare(batch, out, PrepOptions(mask=mask8, resolution="8mm", participant_label=(label,)))
    rows = (out / "failures.tsv").read_text().splitlines()[1:]
    assert [row.split("/")[0] for row in rows] == ["sub-short", "sub-tiny"]
    shutil.rmtree(batch / "sub-tiny")
    write_run("sub-short", frames=12)
    assert prepare(batch, out, PrepOptions(mask=mask8, resolution="8mm")).exit_code == 0
    assert (out / "failures.tsv").read_text() == "file\treason\n"


# --- disks


def prep_command(batch: Path, out: Path, mask8: Path, capfd: pytest.CaptureFixture[str]) -> tuple[int, list[str]]:
    """Exit code and lines on standard error, but for those on progress."""
    capfd.readouterr()
    status = run_command(["prep", str(batch), str(out), "participant", "--mask", str(mask8), "--resolution", "8mm"])
    return status, [line for line in capfd.readouterr().err.splitlines() if not line.startswith("prep: ")]


@pytest.fixture
def plain_page(monkeypatch: pytest.MonkeyPatch) -> None:
    """A report without drawings."""
    monkeypatch.setattr("slimbrain.report.data_page.write_report", lambda path, inputs: write_text(path, str(inputs.store.sessions)))


@pytest.mark.usefixtures("plain_page")
@pytest.mark.parametrize("size_kib", [16, 100, 220, 340, 480])
def test_a_full_disk_costs_what_does_not_fit_and_nothing_else(
    size_kib: int, batch: Path, mask8: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """From no room for an empty store to room for two of three sessions; then room is made, and the same command finishes."""
    prepare(batch, tmp_path / "reference", PrepOptions(mask=mask8, resolution="8mm"))
    with mounted(tmp_path / "small", f"size={size_kib}k") as disk:
        out = disk / "store"
        status, lines = prep_command(batch, out, mask8, capfd)
        assert status == 1
        full = [line for line in lines if "No space left on device" in line]
        assert full and all(line.endswith(".") and str(disk) in line for line in full)
        whole = [info.key for info in Store(out).sessions] if (out / "dataset_description.json").exists() else []
        assert len(whole) < 3
        if whole:
            assert verify(out).problems == []
        assert not any(path.name.startswith(TEMPORARY_PREFIX) for path in disk.rglob("*"))
        remount(disk, "size=20m")
        assert prep_command(batch, out, mask8, capfd)[0] == 1
        assert (out / "report.html").stat().st_size
        assert files_but_commands(out) == files_but_commands(tmp_path / "reference")


def test_a_limit_on_the_size_of_files_is_met_in_the_same_way(batch: Path, mask8: Path, tmp_path: Path) -> None:
    """For those who may not mount: the system refuses to make files beyond a size, here of the longest run's data."""
    prepare(batch, tmp_path / "reference", PrepOptions(mask=mask8, resolution="8mm"))
    sizes = sorted(path.stat().st_size for path in (tmp_path / "reference").rglob("*.safetensors"))
    code = (
        "import resource, sys; from slimbrain.prep import PrepOptions, prepare\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]), resource.RLIM_INFINITY))\n"
        "summary = prepare(sys.argv[2], sys.argv[3], PrepOptions(mask=sys.argv[4], resolution='8mm'))\n"
        "print(len(summary.prepared), len(summary.failures), summary.exit_code)"
    )
    words = [str(sizes[-1] - 1), str(batch), str(tmp_path / "store"), str(mask8)]
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["2", "2", "1"]
    (line,) = [line for line in done.stderr.splitlines() if "File too large" in line]
    assert "sub-1" in line and line.endswith(".")
    assert len(Store(tmp_path / "store").sessions) == 2 and verify(tmp_path / "store").problems == []


@pytest.mark.usefixtures("plain_page")
def test_a_target_that_may_only_be_read_is_refused_in_one_sentence(
    batch: Path, mask8: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with mounted(tmp_path / "disk", "size=20m") as disk:
        assert prep_command(batch, disk / "there", mask8, capfd)[0] == 1
        before = files(disk)
        remount(disk, "ro")
        for name in ("new", "there"):
            status, lines = prep_command(batch, disk / name, mask8, capfd)
            assert status == 1 and len(lines) == 1
            assert (
                lines[0].startswith("slimbrain: ") and str(disk / name) in lines[0] and "Read-only" in lines[0] and lines[0].endswith(".")
            )
        # Reading needs no permission to write.
        assert verify(disk / "there").problems == []
        assert run_command(["store", "merge", str(tmp_path / "copy"), str(disk / "there")]) == 0
        assert files(disk) == before


# --- sources that change under way

opened: dict[str, Any] = {"path": None}


def _act_on_opening(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "open" and opened["path"] is not None and str(arguments[0]) == opened["path"]:
        opened["left"] -= 1
        if opened["left"] == 0:
            opened["path"] = None
            opened["act"]()


@pytest.fixture
def when_opened() -> Iterator[Callable[[Path, int, Callable[[], object]], None]]:
    """Arrange that something happens just before the n-th opening of a file."""
    # A hook cannot be taken away again; while `path` is None it does nothing.
    if "hooked" not in opened:
        opened["hooked"] = True
        sys.addaudithook(_act_on_opening)

    def arrange(path: Path, number: int, act: Callable[[], object]) -> None:
        opened.update(path=str(path), left=number, act=act)

    yield arrange
    opened["path"] = None


@pytest.mark.parametrize("suffix", [".nii.gz", ".nii"])
@pytest.mark.parametrize("how", ["unlinked", "cut short", "emptied", "replaced by a folder"])
@pytest.mark.parametrize("number", range(1, 6))
def test_a_source_that_vanishes_while_it_is_read_fails_alone(
    number: int,
    how: str,
    suffix: str,
    batch: Path,
    mask8: Path,
    tmp_path: Path,
    when_opened: Callable[..., None],
    capfd: pytest.CaptureFixture[str],
) -> None:
    compressed = next((batch / "sub-1").rglob("*.nii.gz"))
    path = compressed.with_name(compressed.name.removesuffix(".gz")) if suffix == ".nii" else compressed
    if path != compressed:
        path.write_bytes(gzip.decompress(compressed.read_bytes()))
        compressed.unlink()

    def folder() -> None:
        path.unlink()
        path.mkdir()

    acts: dict[str, Callable[[], object]] = {
        "unlinked": path.unlink,
        "cut short": lambda: os.truncate(path, path.stat().st_size // 2),
        "emptied": lambda: os.truncate(path, 0),
        "replaced by a folder": folder,
    }
    when_opened(path, number, acts[how])
    summary = prepare(batch, tmp_path / "store", PrepOptions(mask=mask8, resolution="8mm"))
    said = capfd.readouterr().err
    failed = {failure.file.split("/")[0]: failure.reason for failure in summary.failures}
    happened = opened["path"] is None
    assert set(failed) == ({"sub-short", "sub-1"} if happened else {"sub-short"})
    assert happened or number > 1
    if happened:
        reason = failed["sub-1"]
        assert reason.startswith(f"{path}: ") and reason.endswith(".") and "\n" not in reason and reason in said
        assert "fault of slimbrain" not in reason
    assert len(summary.prepared) == 3 - happened
    assert verify(tmp_path / "store").problems == []
