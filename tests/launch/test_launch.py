"""The client, the job and what lies between them, without a cluster; `tests/slurm` has a real one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

import pytest
from store_samples import make_store

from slimbrain.cli import run_command
from slimbrain.errors import InputError
from slimbrain.grid import Grid
from slimbrain.launch import LaunchOutcome, Resources, Work, client, launch, worker
from slimbrain.launch.folder import LaunchFolder, LaunchPlan
from slimbrain.launch.worker import _LOCAL_REQUEUE_CODE, run_shard

SHARDS = {"a": ("--version",), "b": ("--version",), "c": ("--version",)}


class Scripted:
    """Stands in for a cluster: each submission of a shard ends as the next word of its script says; `queued` ones never do."""

    def __init__(self, **scripts: Sequence[str]) -> None:
        self.scripts = {shard: list(script) for shard, script in scripts.items()}
        self.submitted: list[list[str]] = []
        self.queue: set[str] = set()

    def submit(self, folder: LaunchFolder, shards: Sequence[str]) -> list[str]:
        self.submitted.append(list(shards))
        jobs = []
        for shard in shards:
            end = self.scripts.get(shard, ["done"]).pop(0) if self.scripts.get(shard) else "done"
            job = f"{len(self.submitted)}_{shard}"
            if end == "queued":
                self.queue.add(job)
            elif end != "lost":
                failed = {"failures": 2, "exit_code": 1} if end == "failed" else {"exit_code": 0}
                folder.update(shard, state=end, node="somewhere", **failed)
            jobs.append(job)
        return jobs

    def alive(self, jobs: Collection[str]) -> set[str]:
        return self.queue & set(jobs)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "_POLL_S", 0.001)
    monkeypatch.setattr(client, "_ASK_S", 0.002)


@pytest.fixture
def folder(tmp_path: Path) -> LaunchFolder:
    return LaunchFolder(tmp_path / "x.launch")


def run(folder: LaunchFolder, cluster: Scripted, shards: dict[str, tuple[str, ...]] = SHARDS, wait: bool = True) -> LaunchOutcome:
    work = Work(("prep",), Path("x"), shards, gather=lambda done: f"gathered, {'all' if done else 'not all'}")
    return launch(work, Resources(), cluster, folder, wait)


# --- the client


def test_what_its_job_gave_up_is_named_and_gone_on_with(folder: LaunchFolder) -> None:
    """The client does not try it again, since the job has."""
    cluster = Scripted(b=["failed", "done"])
    outcome = run(folder, cluster)
    assert outcome.exit_code == 1 and outcome.line == "gathered, not all"
    log = folder.logs / "1_b_0_log.err"
    assert outcome.table == f"b: failed (exit code 1, 2 times), last on somewhere, submitted 1 times; see {log}"
    rows = [line.split("\t")[:4] for line in (folder.root / "table.tsv").read_text().splitlines()]
    assert rows == [
        ["shard", "state", "submissions", "failures"],
        ["a", "done", "1", "0"],
        ["b", "failed", "1", "2"],
        ["c", "done", "1", "0"],
    ]
    again = run(folder, cluster)
    assert (again.exit_code, again.table, again.line) == (0, "", "gathered, all")
    assert cluster.submitted == [["a", "b", "c"], ["b"]] and folder.read("b").failures == 0


def test_what_ends_without_a_word_is_tried_again(folder: LaunchFolder) -> None:
    cluster = Scripted(c=["lost", "lost"])
    outcome = run(folder, cluster)
    assert cluster.submitted == [["a", "b", "c"], ["c"]] and "c: lost (ended without a state" in outcome.table


def test_what_somebody_cancelled_is_not_tried_again_by_itself(folder: LaunchFolder) -> None:
    cluster = Scripted(a=["stopped", "done"])
    assert "a: stopped" in run(folder, cluster).table and cluster.submitted == [["a", "b", "c"]]
    assert run(folder, cluster).exit_code == 0 and cluster.submitted[1:] == [["a"]]


def test_what_is_on_its_way_is_not_submitted_again(folder: LaunchFolder) -> None:
    cluster = Scripted(a=["queued"], b=["failed", "done"])
    assert run(folder, cluster, wait=False).waiting
    assert run(folder, cluster, wait=False).waiting
    assert cluster.submitted == [["a", "b", "c"], ["b"]]
    folder.update("a", state="done", exit_code=0)
    assert run(folder, cluster).exit_code == 0 and len(cluster.submitted) == 2


def test_what_ended_but_is_still_in_the_queue_is_waited_for_and_submitted_again(folder: LaunchFolder) -> None:
    cluster = Scripted(b=["failed", "done"])
    run(folder, cluster)
    cluster.queue.add("1_b")
    asked: list[Collection[str]] = []
    alive = cluster.alive

    def until_the_third_time(jobs: Collection[str]) -> set[str]:
        asked.append(jobs)
        if len(asked) == 3:
            cluster.queue.clear()
        return alive(jobs)

    cluster.alive = until_the_third_time  # type: ignore[method-assign]
    assert run(folder, cluster).exit_code == 0
    assert cluster.submitted == [["a", "b", "c"], ["b"]] and len(asked) == 3


def test_what_the_shards_share_out_may_change_before_and_while_they_run(folder: LaunchFolder) -> None:
    """A file that comes moves others to other shards, also to some that are done."""
    cluster, source = Scripted(b=["failed", "done"]), ["x"]

    def again() -> LaunchOutcome:
        work = Work(("prep",), Path("x"), SHARDS, gather=str, inputs=lambda: ",".join(source))
        return launch(work, Resources(), cluster, folder)

    assert again().exit_code == 1
    source.append("y")
    assert again().exit_code == 0
    assert cluster.submitted == [["a", "b", "c"], ["a", "b", "c"]]

    cluster.submitted.clear()
    alive = cluster.alive
    cluster.scripts["a"] = ["queued"]

    def come_while_it_runs(jobs: Collection[str]) -> set[str]:
        source.append("z")
        folder.update("a", state="done")
        return alive(jobs)

    cluster.alive = come_while_it_runs  # type: ignore[method-assign]
    outcome = again()
    assert (outcome.exit_code, outcome.changed) == (1, True) and outcome.line.startswith("False\n") and "source changed" in outcome.line
    cluster.alive = alive  # type: ignore[method-assign]
    cluster.queue.clear()
    assert (again().exit_code, cluster.submitted) == (0, [["a", "b", "c"], ["a", "b", "c"]])


def test_a_finished_launch_starts_anew(folder: LaunchFolder) -> None:
    cluster = Scripted()
    run(folder, cluster)
    run(folder, cluster, {"a": ("inspect",)})
    assert cluster.submitted == [["a", "b", "c"], ["a"]]


def test_another_command_does_not_take_over_an_unfinished_launch(folder: LaunchFolder) -> None:
    run(folder, Scripted(a=["failed", "failed"]))
    with pytest.raises(InputError, match=r"unfinished launch of another command.*delete it"):
        run(folder, Scripted(), {"a": ("--version",)})


def test_a_launch_has_one_client(folder: LaunchFolder) -> None:
    from slimbrain.disk.locks import claim

    folder.root.mkdir()
    with claim(folder.root, "client"), pytest.raises(InputError, match="another process is waiting for this launch"):
        run(folder, Scripted())


# --- a job


def plan(folder: LaunchFolder, words: tuple[str, ...], result: Path | str = "") -> None:
    folder.write_plan(LaunchPlan(words, {"a": words}, False, str(result), 1, 5))


def test_a_job_writes_down_that_its_command_is_done(folder: LaunchFolder) -> None:
    plan(folder, ("--version",))
    run_shard(str(folder.root), "a")
    assert (folder.read("a").state, folder.read("a").exit_code) == ("done", 0)


def test_a_job_that_fails_is_run_once_more_and_then_given_up(folder: LaunchFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SUBMITIT_EXECUTOR", "local")
    plan(folder, ("no-such-command",))
    for state, failures, code in (("retried", 1, _LOCAL_REQUEUE_CODE), ("failed", 2, 2)):
        with pytest.raises(SystemExit) as left:
            run_shard(str(folder.root), "a")
        found = folder.read("a")
        assert (found.state, found.failures, found.exit_code, left.value.code) == (state, failures, 2, code)


@pytest.mark.parametrize(("answer", "state"), [(0, "retried"), (1, "failed"), (-signal.SIGTERM, "retried")])
def test_a_job_that_slurm_does_not_queue_again_has_failed(
    answer: int, state: str, folder: LaunchFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Slurm ends the whole job when it queues it again, scontrol with it. The last element of an array has the array's own number."""
    for name, value in {"SLURM_JOB_ID": "7", "SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": "1"}.items():
        monkeypatch.setenv(name, value)
    asked: list[list[str]] = []

    def scontrol(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        asked.append(command)
        return subprocess.CompletedProcess(command, answer)

    monkeypatch.setattr(subprocess, "run", scontrol)
    plan(folder, ("no-such-command",))
    with pytest.raises(SystemExit):
        run_shard(str(folder.root), "a")
    assert (folder.read("a").state, asked) == (state, [["scontrol", "requeue", "7_1"]])


def test_of_two_nodes_that_fail_together_one_counts(folder: LaunchFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SUBMITIT_EXECUTOR", "local")
    plan(folder, ("no-such-command",))
    for process in ("0", "1"):
        monkeypatch.setenv("SLURM_PROCID", process)
        with pytest.raises(SystemExit):
            run_shard(str(folder.root), "a")
    assert (folder.read("a").state, folder.read("a").failures) == ("retried", 1)


LONG = ("simulate", "cohort", "--subjects", "500")


@pytest.mark.parametrize(
    ("number", "state", "code", "requeues"), [(signal.SIGUSR2, "requeued", _LOCAL_REQUEUE_CODE, 1), (signal.SIGTERM, "stopped", 0, 0)]
)
def test_a_job_that_is_told_to_stop_ends_its_command(
    number: int, state: str, code: int, requeues: int, folder: LaunchFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In processes of this machine: the time limit sends SIGUSR2, a user SIGTERM."""
    monkeypatch.setenv("SUBMITIT_EXECUTOR", "local")
    monkeypatch.chdir(tmp_path)
    plan(folder, LONG)
    when_it_works = threading.Thread(target=kill_when, args=(lambda: (tmp_path / "cohort").exists(), number))
    when_it_works.start()
    with pytest.raises(SystemExit) as left:
        run_shard(str(folder.root), "a")
    when_it_works.join()
    found = folder.read("a")
    assert (left.value.code, found.state, found.requeues) == (code, state, requeues)
    assert found.exit_code == -signal.SIGTERM


RECORDS = """
import pathlib, signal, sys
def note(number, _):
    pathlib.Path("heard").write_text(signal.Signals(number).name)
    sys.exit(0)
for number in (signal.SIGTERM, signal.SIGUSR1):
    signal.signal(number, note)
pathlib.Path("listens").touch()
while True:
    signal.pause()
"""


@pytest.mark.parametrize(("number", "passed_on"), [(signal.SIGUSR1, "SIGUSR1"), (signal.SIGUSR2, "SIGUSR1"), (signal.SIGTERM, "SIGTERM")])
def test_what_saves_hears_whether_a_kill_follows(
    number: int, passed_on: str, folder: LaunchFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SUBMITIT_EXECUTOR", "local")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(worker, "_start", lambda *_: subprocess.Popen([sys.executable, "-c", RECORDS]))
    plan(folder, ("pretrain",), tmp_path / "model")
    when_it_listens = threading.Thread(target=kill_when, args=((tmp_path / "listens").exists, number))
    when_it_listens.start()
    with pytest.raises(SystemExit):
        run_shard(str(folder.root), "a")
    when_it_listens.join()
    assert (tmp_path / "heard").read_text() == passed_on


def test_what_saves_is_done_once_its_result_is_there(folder: LaunchFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On several nodes a signal may reach another one first: then the command ends well here, and no signal came."""
    monkeypatch.setenv("SUBMITIT_EXECUTOR", "local")
    plan(folder, ("--version",), tmp_path / "model")
    with pytest.raises(SystemExit) as left:
        run_shard(str(folder.root), "a")
    assert (folder.read("a").state, folder.read("a").requeues, left.value.code) == ("requeued", 1, _LOCAL_REQUEUE_CODE)
    (tmp_path / "model").mkdir()
    run_shard(str(folder.root), "a")
    assert folder.read("a").state == "done"


def kill_when(holds: Callable[[], bool], number: int) -> None:
    while not holds():
        threading.Event().wait(0.05)
    os.kill(os.getpid(), number)


# --- what is asked for


@pytest.mark.parametrize(
    ("text", "minutes"),
    [("90", 90), ("2:30", 2.5), ("24:00:00", 1440), ("2-12", 3600), ("1-01:30", 1530), ("1-00:00:30", 1440.5)],
)
def test_times_are_read_as_sbatch_reads_them(text: str, minutes: float) -> None:
    assert Resources(time=text).minutes == minutes


@pytest.mark.parametrize(
    ("given", "cause"),
    [
        ({"time": "soon"}, "--time soon"),
        ({"time": "2", "grace_s": 120}, "--time 2: leaves no time"),
        ({"sbatch": ("Q 1",)}, "--sbatch Q 1"),
    ],
)
def test_what_sbatch_would_not_understand_is_refused(given: dict[str, object], cause: str) -> None:
    with pytest.raises(InputError, match=cause):
        Resources(**given).for_slurm("x")  # type: ignore[arg-type]


def test_a_dry_run_prints_the_script_and_leaves_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("submitit")
    image = tmp_path / "in" / "sub-01" / "func" / "sub-01_task-rest_space-MNI152Lin_bold.nii"
    image.parent.mkdir(parents=True)
    image.touch()
    asked = ["--partition", "cpu", "--account", "lab", "--time", "2-12", "--memory", "32G", "--gpus", "2", "--constraint", "a100"]
    asked += ["--sbatch", "qos=high", "--sbatch", "--exclusive", "--shards", "3", "--parallel", "2", "--grace", "300", "--dry-run"]
    assert run_command(["launch", *asked, "prep", str(tmp_path / "in"), str(tmp_path / "out"), "--nprocs", "4"]) == 0
    script = capsys.readouterr().out
    lines = {line.removeprefix("#SBATCH --") for line in script.splitlines() if line.startswith("#SBATCH")}
    assert lines >= {"partition=cpu", "account=lab", "time=2-12", "mem=32G", "gpus-per-node=2", "constraint=a100", "qos=high", "exclusive"}
    assert lines >= {"array=0-2%2", "signal=USR1@300", "requeue", "cpus-per-task=4", "ntasks-per-node=1", "nodes=1"}
    assert f"slimbrain prep {tmp_path / 'in'} {tmp_path / 'out'} --nprocs 4 --layout bids --shard 2/3" in script
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


@pytest.mark.parametrize(
    ("words", "cause"),
    [
        (["launch", "--nodes", "2", "evaluate", "in", "--task", "x", "--model", "m", "--out", "out"], "is for pretraining"),
        (["launch", "prep", "nowhere", "out"], "nowhere: does not exist"),
        (["launch", "prep", ".", "out", "--layout", "bids", "--min-coverage", "7"], "--min-coverage: must be at most 1, not 7"),
        (["launch", "prep", "in", "out", "--readmit", "01"], "happens once"),
        (["launch", "--local", "--nodes", "2", "pretrain", "voxel", "in", "--out", "out"], "--local has one machine"),
        (["launch", "prep", "in", "out", "--shard", "1/2"], "leave it out"),
        (["launch", "--partition", "cpu", "report", "--out", "x"], "cannot launch report"),
    ],
)
def test_what_cannot_be_launched_is_refused_in_a_sentence(words: list[str], cause: str, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("submitit")
    assert run_command(words) == 1
    said = capsys.readouterr().err
    assert cause in said and "Traceback" not in said


@pytest.mark.parametrize("option", ["--slurm", "--local"])
@pytest.mark.parametrize("command", ["prep", "embed", "pretrain", "evaluate"])
def test_the_options_that_were_grafted_onto_commands_say_where_they_went(
    command: str, option: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command([command, "in", "--out", "out", option, "--nodes", "2"]) == 2
    said = capsys.readouterr().err
    door = "slimbrain launch --local" if option == "--local" else "slimbrain launch"
    assert said.count("\n") == 1 and said.startswith(f"slimbrain: {option}: ") and f"`{door} {command} ...`" in said


def test_a_cluster_is_told_of_options_that_the_command_does_not_have(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["prep", "in", "out", "--partition", "cpu"]) == 2
    assert run_command(["launch", "prep", "in", "out", "--no-such-option"]) == 2
    assert "--no-such-option" in capsys.readouterr().err


@pytest.mark.parametrize("prefix", ["", "sub-"])
def test_embed_takes_participants_with_and_without_their_prefix(
    prefix: str, grid8: Grid, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of three participants one is chosen, so that of three shards one is left: the same by both doors."""
    pytest.importorskip("submitit")
    store, table = make_store(tmp_path / "store", grid8, frames=12), tmp_path / "some.tsv"
    table.write_text(f"participant_id\n{prefix}02\n")
    given = ["embed", str(store.root), "--model", "m", "--participants", str(table), "--out", str(tmp_path / "x.npz")]
    assert run_command(["launch", "--shards", "3", "--dry-run", *given]) == 0
    shown = [line for line in capsys.readouterr().out.splitlines() if ": slimbrain embed " in line]
    assert len(shown) == 1 and "--shard" not in shown[0]
