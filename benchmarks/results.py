"""The paper's tasks, and those of docs/benchmarks.md, from the recordings in ../shared/data to results/*.csv.

python benchmarks/results.py [--model NAME-OR-DIR] [--work DIR] [--out DIR] [--only WORD ...] [--quick]

Prepares stores, runs every job, and writes one CSV per cohort: task, cohort, n, split, labelled, method, metric, mean, low, high, seconds,
version, commit. A finished job is kept in the work folder and not run again while weights, job and version stay the same, so that the
program may be stopped at any time; `--fresh` starts over. Thirty minutes on two cores.

Beside the published 70/10/20, ABIDE is divided into five folds that all its tasks share (a column of participants.tsv), so that five copies
of the model serve four tasks.

The participants of ABIDE and HCP are all in the pretraining of the shipped model. What is tested on them is therefore a copy of its
connectome readout, fitted by the same recipe without the tested participants: in folds without those of each test fold, in curves without
a half of the participants, from which the labelled and the tested come, and for HCP on ABIDE alone. The network, whose tokens would know
them, is left out.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from results_stores import FOLD, SHIPPED, CrossFitted, Work, copied_people, fitted_copy, half_of
from results_table import rows_of, write_csv

from slimbrain import __version__
from slimbrain.disk.atomic import write_json
from slimbrain.errors import InputError, SlimbrainError
from slimbrain.evaluate.baselines import confound_rows, confounds, majority, store_baselines
from slimbrain.evaluate.compare import evaluate
from slimbrain.evaluate.designs import Design, Screening, leaving_out
from slimbrain.evaluate.methods import Options, evaluate_models
from slimbrain.evaluate.probes import FeatureSet
from slimbrain.evaluate.result import Result
from slimbrain.evaluate.series import ChannelSeries
from slimbrain.evaluate.tasks import Target, Task, get_task
from slimbrain.models.hub import weights_sha256
from slimbrain.store import Store

ROOT = Path(__file__).resolve().parents[1]
DATA = ROOT.parent / "shared" / "data" / "roi"
STATE_SECONDS = (10, 20, 40, 100)
LABELLED = "30,60,120,250"


@dataclass(frozen=True)
class Job:
    """One table.

    Attributes
    ----------
    task : str
        As for `slimbrain evaluate`.
    cohort : str
        Name of the store; of a transfer, of that which is trained on.
    design : Design
        Who learns and who is tested.
    fitted : str
        On whom the copy of the model was fitted: `fold` (all but the test fold), `half` (the other half of the participants), or the name
        of a cohort; the model as it is if empty.
    called : str
        What the task is called in the CSV; `task` if empty.
    to : str
        Name of the store that is tested, of a transfer.
    """

    task: str
    cohort: str
    design: Design = field(default_factory=Design)
    fitted: str = ""
    called: str = ""
    to: str = ""

    @property
    def name(self) -> str:
        """Unique, and good for a file."""
        how = [f"{name}-{value}" for name, value in asdict(self.design).items() if value and name != "transfer_to"]
        return (
            "_".join([self.cohort, self.called or self.task, *how, *([f"to-{self.to}"] if self.to else [])])
            .replace("/", "-")
            .replace(":", "-")
        )


def jobs() -> list[Job]:
    """All of them, those of the paper first."""
    abide = ("abide-age", "abide-age-class", "abide-diagnosis", "abide-sex")
    return [
        *(Job(task, "abide", Design(split="70/10/20"), "fold") for task in abide),
        Job("hcp-fingerprint", "hcp", fitted="abide"),
        *(Job(task, "abide", Design(leave_out=FOLD), "fold") for task in abide),
        *(Job("column:task", "song25", Design(split="5-fold", seeds=1, frames=frames(seconds)), called=f"state from {seconds} s")
          for seconds in STATE_SECONDS),
        Job("column:sex", "rpn122", Design(split="5-fold", seeds=3), called="sex"),
        Job("column:sex", "rpn122", Design(labelled="30,60", seeds=5), called="sex"),
        Job("column:sex", "abide", Design(), "abide", called="sex", to="rpn122"),
        *(Job(task, "abide", Design(labelled=LABELLED, seeds=3), "half") for task in ("abide-sex", "abide-diagnosis", "abide-age")),
    ]  # fmt: skip


def frames(seconds: float) -> int:
    """Frames of the store, which brings all series to 0.72 s, that last as long."""
    return round(seconds / 0.72)


# --- jobs


class Baselines:
    """Baselines of all sessions of a store, made once for all tasks on it."""

    def __init__(self) -> None:
        self._made: dict[Path, tuple[dict[str, int], list[FeatureSet], ChannelSeries]] = {}

    def of(self, store: Store, task: Task, target: Target) -> list[FeatureSet]:
        """Those of a task's sessions."""
        if store.root not in self._made:
            self._made.clear()
            keys, series = [info.key for info in store.sessions], ChannelSeries(store)
            sets = [each for each in store_baselines(store, keys, series=series) if each.model not in ("confounds", "majority")]
            self._made[store.root] = {key: row for row, key in enumerate(keys)}, sets, series
        place, sets, _ = self._made[store.root]
        rows = [place[key] for key in target.keys]
        told = confound_rows(store, target.keys)
        known = confounds([{**row, **more} for row, more in zip(told, target.known or ({},) * len(told), strict=True)], task.hidden)
        return [*(each.take(rows) for each in sets), *([known] if known else []), majority(len(rows))]


def run_job(work: Work, job: Job, shared: Baselines) -> Result:
    """One table."""
    store, design = work.store(job.cohort), job.design
    if work.quick:
        store = store.select(sorted({info.subject for info in store.sessions})[:: max(1, len(store.sessions) // 60)])
        design = replace(design, seeds=1, labelled=design.labelled and "20,30")
    options = Options(design=design, drop_duplicates=not get_task(job.task).identification)
    if job.to:
        options = replace(options, design=replace(design, transfer_to=work.store(job.to).root))
    if job.fitted == "fold":
        return _cross_fitted(work, job.task, design, store, shared)
    model = work.model
    if job.fitted == "half":
        known, store = (store.select(part) for part in half_of(store))
        model = str(fitted_copy(work, known, {info.subject for info in known.sessions}, "half"))
    elif job.fitted:
        others = work.store(job.fitted)
        model = str(fitted_copy(work, others, {info.subject for info in others.sessions}, job.fitted))
    return evaluate_models(store, job.task, [model], replace(options, pooling="connectome" if job.fitted else None))


def _cross_fitted(work: Work, name: str, design: Design, store: Store, shared: Baselines) -> Result:
    task = design.task(get_task(name))
    store, series, screened = Screening(task, {}, design, drop=True).of(store)
    if design.leave_out:
        task, screened = leaving_out(design.leave_out, task, screened, store)
    ours = CrossFitted(work, store, screened.target.keys, copied_people(store, series))
    baselines = shared.of(store, task, screened.target)
    return evaluate(store, task, screened, [ours], series=series, baselines=baselines)


def finished(work: Work, job: Job, shared: Baselines, commit: str) -> dict[str, Any]:
    """A job's result with what the CSV says beside it, from the work folder if it was run before."""
    path = work.folder / "jobs" / f"{job.name}.json"
    asked = {"job": repr(job), "model": work.model, "weights": weights_sha256(work.model), "version": __version__, "quick": work.quick}
    if path.exists():
        kept = json.loads(path.read_text(encoding="utf-8"))
        if kept["asked"] == asked:
            return dict(kept)
    started = time.perf_counter()
    result = run_job(work, job, shared)
    done = {"asked": asked, "seconds": round(time.perf_counter() - started, 1), "commit": commit, "result": result.to_dict()}
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, done)
    return done


# --- the program


def commit_id() -> str:
    """The commit of the code, marked where the code differs from it."""
    git = ["git", "-C", str(ROOT)]
    found = subprocess.run([*git, "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True, check=False)
    if found.returncode:
        return "unknown"
    changed = subprocess.run([*git, "status", "--porcelain", "--", "src", "benchmarks"], capture_output=True, text=True, check=False).stdout
    return found.stdout.strip() + ("+" if changed.strip() else "")


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=SHIPPED, help="name or folder of the model")
    parser.add_argument("--work", type=Path, default=ROOT / "results-work", help="stores, copies, finished jobs")
    parser.add_argument("--out", type=Path, default=ROOT / "results", help="where the CSVs go")
    parser.add_argument("--data", type=Path, default=DATA, help="recordings, regions of interest")
    parser.add_argument("--only", nargs="*", default=[], metavar="WORD", help="jobs whose name has one of these")
    parser.add_argument("--quick", action="store_true", help="a few participants and seeds; writes no CSV into the repository")
    parser.add_argument("--fresh", action="store_true", help="forget finished jobs")
    arguments = parser.parse_args(words)
    if not arguments.data.is_dir():
        raise InputError(f"{arguments.data}: there are no recordings; give --data.")
    work = Work(arguments.work, arguments.data, arguments.model, arguments.quick)
    if arguments.fresh:
        shutil.rmtree(work.folder / "jobs", ignore_errors=True)
    out = work.folder / "results" if arguments.quick else arguments.out
    chosen = [job for job in jobs() if not arguments.only or any(word in job.name for word in arguments.only)]
    tables: dict[str, list[dict[str, str]]] = {}
    shared, commit, failed = Baselines(), commit_id(), 0
    for number, job in enumerate(chosen, start=1):
        try:
            done = finished(work, job, shared, commit)
        except SlimbrainError as error:
            print(f"{job.name}: {error}", file=sys.stderr, flush=True)
            failed += 1
            continue
        print(f"{number}/{len(chosen)} {job.name}: {done['seconds']} s", file=sys.stderr, flush=True)
        tables.setdefault(job.cohort, []).extend(rows_of(job.called or job.task, done))
    if not arguments.only:
        for cohort, lines in tables.items():
            print(write_csv(out, cohort, lines))
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
