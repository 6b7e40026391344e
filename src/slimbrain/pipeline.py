"""Own recordings to a page: the commands a user would type, one after the other, each printed, those that are done left out."""

from __future__ import annotations

import hashlib
import json
import shlex
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from slimbrain.config import checked_options
from slimbrain.disk.atomic import write_json
from slimbrain.errors import InputError, ReportedError
from slimbrain.evaluate.leaks import require_labels
from slimbrain.evaluate.tasks import label_name
from slimbrain.governance.provenance import MODEL_FOLDER, people_in
from slimbrain.models import shipped
from slimbrain.models.hub import from_pretrained
from slimbrain.prep.options import PrepOptions
from slimbrain.prep.roster import LATER_COLUMNS, read_roster
from slimbrain.store import Store
from slimbrain.store.description import is_store
from slimbrain.store.manifest import MANIFEST_FILE
from slimbrain.store.participants import PARTICIPANTS_FILE

_STEPS_FILE = "steps.json"
_SOME_RUNS_FAILED = 1
"""Exit code of `slimbrain prep` that also stands for single runs which cannot be used: one bad run stops nothing."""
_STOPPED = 128 + signal.SIGTERM
"""Exit code of a shell's for what this signal ends; `slimbrain pretrain` saves its state and returns 0."""
_FRACTIONS = "0.5,0.5"
"""Of the participants, to pretrain on and to evaluate."""

RunCommand = Callable[[Sequence[str]], int]


class Steps:
    """Runs commands of slimbrain in this process and prints each as it could be typed.

    Parameters
    ----------
    run_command : callable
        Runs one command and returns its exit code.
    folder : Path or None
        Where it is kept which steps are done; nothing is left out without.
    """

    def __init__(self, run_command: RunCommand, folder: Path | None = None) -> None:
        self._run_command, self._record = run_command, folder / _STEPS_FILE if folder else None
        self._done: dict[str, str] = _read(self._record) if self._record else {}

    def run(self, *arguments: object, tolerated: int = 0) -> None:
        """Run a command.

        Parameters
        ----------
        tolerated : int
            An exit code with which the steps go on.

        Raises
        ------
        ReportedError
            If it fails; its own sentence has been printed.
        """
        words = [str(word) for word in arguments]
        print(f"\n$ slimbrain {shlex.join(words)}", flush=True)
        if (code := self._run_command(words)) not in (0, tolerated):
            raise ReportedError(f"slimbrain {words[0]}: ended with an error; see its message above.", code)

    def once(self, out: Path, state: str, *arguments: object) -> None:
        """Run a command that writes `out`, unless the same one did, and what it reads is as it was.

        Parameters
        ----------
        out : Path
            What it writes.
        state : str
            A hash of what it reads.
        """
        line = shlex.join(str(word) for word in arguments)
        if out.exists() and self._done.get(line) == state:
            print(f"\n$ slimbrain {line}\ndone before: {out}", flush=True)
            return
        self.run(*arguments)
        self._done[line] = state
        if self._record:
            write_json(self._record, self._done)


@dataclass(frozen=True)
class OwnData:
    """What `slimbrain run` is told.

    Attributes
    ----------
    source : Path
        Recordings, or a store.
    task : str
        As for `slimbrain evaluate`.
    model : str
        Folder or hub id. If empty, one that comes with the package, or, where that was trained on some of the participants, one pretrained
        here on half of them.
    preset : str
        To pretrain with.
    resolution : str
        Of the store.
    prep : Mapping[str, object]
        Further options of `slimbrain prep` by name, such as `tr`.
    seed : int
        Of the division and of pretraining.
    """

    source: Path
    task: str
    model: str = ""
    preset: str = "tiny"
    resolution: str = "8mm"
    prep: Mapping[str, object] = field(default_factory=dict)
    seed: int = 0


def run_own_data(asked: OwnData, out: Path, run_command: RunCommand) -> Path:
    """Prepare, pretrain where there is no model, embed, evaluate, report; steps that are done are not done again.

    Returns
    -------
    Path
        The report.

    Raises
    ------
    InputError
        If the labels cannot be predicted (found before anything is prepared), or the results would lie among the recordings.
    ReportedError
        If a step fails.
    """
    if out.resolve().is_relative_to(asked.source.resolve()):
        raise InputError(f"{out}: is inside {asked.source}, which is only read; choose another --out.")
    steps = Steps(run_command, out)
    store = asked.source
    if not is_store(asked.source):
        store = out / "store"
        if not is_store(store):
            _require_labels_of_source(asked)
        options = [word for name, value in asked.prep.items() for word in (f"--{name}", value)]
        # `prep` knows by itself what is done, and new recordings may have come.
        prep = ("prep", asked.source, store, "participant", "--resolution", asked.resolution, *options)
        steps.run(*prep, tolerated=_SOME_RUNS_FAILED)
        if not is_store(store):
            raise ReportedError("slimbrain prep: made no store; see its message above.", _SOME_RUNS_FAILED)
    require_labels(Store(store), asked.task)
    state = _hash_of(store)
    model, reason = (asked.model, "") if asked.model else _model_of_the_package(Store(store))
    who: tuple[object, ...] = ()
    pieces: list[object] = ["--store", store]
    if not model:
        print(f"\n{reason}: stage 1 is pretrained here on half of the participants.", flush=True)
        run = out / "temporal"
        model, who = str(run / MODEL_FOLDER), ("--participants", out / "evaluation.tsv")
        _pretrain(steps, asked, store, out, run)
        pieces += ["--run", run]
    vectors, result = out / "embeddings.npz", out / f"{label_name(asked.task)}.json"
    steps.once(vectors, state, "embed", store, "--model", model, "--out", vectors)
    evaluate = ("evaluate", store, "--task", asked.task, "--model", model, "--embeddings", vectors, *who, "--out", result)
    steps.once(result, state, *evaluate)
    report = out / "report.html"
    steps.run("report", *pieces, "--evaluation", result, "--title", f"{asked.task} in {asked.source.name}", "--out", report)
    return report


def _pretrain(steps: Steps, asked: OwnData, store: Path, out: Path, run: Path) -> None:
    if not (out / "evaluation.tsv").exists():
        # Once only: people who join later must not move those who were pretrained on to the other side.
        columns = Store(store).participants.values()
        alike = [name for name in (label_name(asked.task), "site") if any(name in row for row in columns)]
        options = ("--stratify", ",".join(dict.fromkeys(alike))) if alike else ()
        steps.run("split", store, "--fractions", _FRACTIONS, *options, "--seed", asked.seed, "--out", out)
    known = ("--participants", out / "pretraining.tsv", "--resume", "auto", "--seed", asked.seed)
    steps.run("pretrain", "temporal", store, "--preset", asked.preset, "--out", run, *known)
    if not (run / MODEL_FOLDER).is_dir():
        print("slimbrain: stopped; run the same command again to resume.", file=sys.stderr)
        raise ReportedError("slimbrain pretrain: was stopped by a signal; see its message above.", _STOPPED)


def _require_labels_of_source(asked: OwnData) -> None:
    """Refuse labels that cannot be predicted before hours of work and not after; measures of quality are not known yet."""
    roster = read_roster(asked.source, checked_options(PrepOptions, asked.prep, "slimbrain prep"))
    column = label_name(asked.task)
    if column not in LATER_COLUMNS or any(column in row for row in roster.participants.values()):
        require_labels(roster, asked.task)


def _hash_of(store: Path) -> str:
    """What sessions and participants the store has."""
    tables = [path.read_bytes() for name in (MANIFEST_FILE, PARTICIPANTS_FILE) if (path := store / name).is_file()]
    return hashlib.sha256(b"\0".join(tables)).hexdigest()


def _model_of_the_package(store: Store) -> tuple[str, str]:
    """The model that comes with the package and reads every store, if it may be tested on this one's participants; else empty, and why."""
    if shipped.TEMPORAL not in shipped.list_models():
        return "", "No model was given and none comes with this package"
    provenance = from_pretrained(shipped.TEMPORAL).provenance
    if known := provenance.trained_on(people_in(store)) if provenance else []:
        return "", f"{shipped.TEMPORAL}, which comes with this package, was trained on {len(known)} of those in the store"
    return shipped.TEMPORAL, ""


def _read(path: Path) -> dict[str, str]:
    try:
        value: Any = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read ({error}); delete it, and what is done is done again.") from error
    return {str(name): str(state) for name, state in value.items()} if isinstance(value, Mapping) else {}
