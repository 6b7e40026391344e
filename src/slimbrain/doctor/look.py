"""Identify a file or folder: its kind, its contents and the command that reads it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from slimbrain.doctor.files import describe_file
from slimbrain.errors import InputError, SlimbrainError
from slimbrain.models.shipped import shipped_folder

_Facts = dict[str, Any]

RUNS = "runs"
"""The fact that is a table: the image that would be taken for each run."""

WITHOUT_TR = "refused without --tr"
"""The fact that counts runs whose files do not say their TR."""


def inspect_path(path: Path, shown: int | None = None) -> _Facts:
    """Name, kind and contents of anything that slimbrain reads or writes.

    Folders: store, run, training state(s), model, embeddings, recordings to prepare. Files: see `slimbrain.doctor.files`. A model of the
    package is known by its name.

    Parameters
    ----------
    path : Path
        What to look at.
    shown : int, optional
        Most runs of a source to describe one by one; all if not given.

    Returns
    -------
    dict of str to Any
        `path`, `kind`, what is known of that kind, and `read by`, the commands that take it.

    Raises
    ------
    InputError
        If it is none of these, or damaged.

    Examples
    --------
    >>> from pathlib import Path
    >>> from slimbrain.doctor import inspect_path
    >>> facts = inspect_path(Path("store"))
    >>> facts["kind"], facts["sessions"], facts["frames per session"]
    ('store', 3, '24 to 28')
    """
    if not path.exists() and (shipped := shipped_folder(str(path))):
        path = shipped
    if not path.exists():
        # A path with a typo is most often wrong in one part of it only.
        there = next(parent for parent in (path.absolute(), *path.absolute().parents) if parent.exists())
        raise InputError(f"{path}: does not exist, {there} does; check the path.")
    if not path.is_dir():
        facts = describe_file(path)
        listed = _recordings(path, shown) if facts.get("kind") == "images to prepare" else None
        return {"path": str(path), **(listed or {}), **facts}
    for says in (_store, _run, _states, _state, _model, _embeddings, lambda path: _recordings(path, shown)):
        if found := says(path):
            return {"path": str(path), **found}
    raise InputError(
        f"{path}: is a folder of nothing slimbrain reads; give a store, a run, a model, a training state, or recordings (docs/inputs.md)."
    )


def _store(path: Path) -> _Facts | None:
    from slimbrain.governance.ledger import entries_of, summary
    from slimbrain.store import Store
    from slimbrain.store.description import is_store

    if not is_store(path):
        return None
    store = Store(path)
    sessions = store.sessions
    lengths = sorted(info.n_frames for info in sessions)
    facts: _Facts = {"kind": "store", "sessions": len(sessions), "participants": len({info.subject for info in sessions})}
    facts["frames"] = sum(lengths)
    if sessions:
        facts["frames per session"] = f"{lengths[0]} to {lengths[-1]}"
        facts["tasks"] = ", ".join(sorted({info.task for info in sessions if info.task})) or "none named"
        facts["spaces"] = ", ".join(sorted({info.space for info in sessions}))
        facts["first session"] = sessions[0].key
    columns = [name for name in next(iter(store.participants.values()), {}) if name != "participant_id"]
    facts["columns of participants"] = ", ".join(columns) or "none"
    facts["ledger"] = summary(entries_of(store, sessions))
    return {**facts, **store.contract.to_dict(), "read by": "slimbrain pretrain, rank, embed, evaluate, report, doctor, store verify"}


def _run(path: Path) -> _Facts | None:
    from slimbrain.governance.provenance import MODEL_FOLDER
    from slimbrain.train import RUN_FILE, STATE_FOLDER, read_metrics

    if not (path / RUN_FILE).is_file():
        return None
    from slimbrain.train.checkpoint import saved_steps

    try:
        run = json.loads((path / RUN_FILE).read_text(encoding="utf-8"))
        lines, stage = read_metrics(path), run["stage"]
        steps = run["preset"][f"train_{stage}"]["steps"]
        facts = {"kind": "pretraining run", "stage": stage, "preset": run["preset"]["name"], "seed": run["seed"]}
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: its {RUN_FILE} or metrics are damaged ({error}); restore them, or train into another folder.") from error
    last = lines[-1] if lines else {}
    done = last["step"] + 1 if last else 0
    facts |= {
        "commands": run.get("commands", []),
        "steps": f"{done} of {steps} logged",
        "states": saved_steps(path / STATE_FOLDER),
        "last": last,
    }
    finished = (path / MODEL_FOLDER / "config.json").is_file()
    facts["model"] = str(path / MODEL_FOLDER) if finished else "not yet; the same command with --resume auto resumes it"
    return facts


def _states(path: Path) -> _Facts | None:
    from slimbrain.train.checkpoint import saved_steps

    steps = saved_steps(path)
    if not steps:
        return None
    return {"kind": "training states", "steps": steps, "read by": f"slimbrain pretrain ... --out {path.absolute().parent} --resume auto"}


def _state(path: Path) -> _Facts | None:
    from slimbrain.train.checkpoint import EXTRA_FILE, STATE_PATTERN, state_damage

    if not STATE_PATTERN.fullmatch(path.name):
        return None
    if damage := state_damage(path):
        raise InputError(damage)
    try:
        extra = json.loads((path / EXTRA_FILE).read_text(encoding="utf-8"))
        facts = {"kind": "training state", "step": int(path.name.removeprefix("step-")), "processes": extra["processes"]}
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise InputError(f"{path / EXTRA_FILE}: is not what training writes ({error}); delete {path.name}.") from error
    size = sum(file.stat().st_size for file in path.iterdir() if file.is_file())
    return {**facts, "MiB": round(size / 2**20, 1), "read by": "slimbrain pretrain --resume auto; the model for use is RUN/model"}


def _model(path: Path) -> _Facts | None:
    if not (path / "config.json").is_file():
        return None
    from slimbrain.governance.ledger import LEDGER, TIMES, entries_from, summary
    from slimbrain.governance.provenance import REMEMBERED
    from slimbrain.models.hub import CARD_FILE, from_pretrained, is_sealed

    model = from_pretrained(path)
    assert model.provenance is not None
    training = {name: value for name, value in model.provenance.training.items() if name not in (REMEMBERED, TIMES)}
    training[LEDGER] = summary(entries_from(training))
    facts = {"kind": f"model ({type(model).__name__})", "parameters": sum(parameter.numel() for parameter in model.parameters())}
    unsealed = "none: changes of config.json cannot be detected"
    facts["seal"] = "weights and config.json are as they were exported" if is_sealed(path) else unsealed
    window = {"frames per window": model.provenance.window.frames, "windows": model.provenance.window.k}
    temporal = facts["kind"] == "model (TemporalExtractor)"
    commands = "slimbrain rank --temporal, embed --model, evaluate --model" if temporal else "slimbrain embed --model, evaluate --model"
    card = {"card": str(path / CARD_FILE)} if (path / CARD_FILE).is_file() else {}
    return {**facts, **window, **model.provenance.contract.to_dict(), **training, **card, "read by": commands}


def _embeddings(path: Path) -> _Facts | None:
    from slimbrain.embed.derivative import is_derivative, read_derivative

    if not is_derivative(path):
        return None
    made = read_derivative(path)
    facts = {"kind": "embeddings (BIDS derivative)", "sessions": len(made.keys), "participants": len(set(made.subjects))}
    facts |= {"dimensions": made.values.shape[1], "pooling": made.pooling, **made.contract.to_dict()}
    return {**facts, "read by": "slimbrain evaluate --embeddings, and whatever reads BIDS derivatives"}


def _recordings(path: Path, shown: int | None = None) -> _Facts | None:
    """A folder that `slimbrain prep` would take; it is listed, and of its images at most headers are read."""
    from slimbrain.doctor.recordings import REFUSED, SAYS_NOTHING, describe_taken
    from slimbrain.prep.layouts import LAYOUTS, find_recordings
    from slimbrain.prep.layouts.base import RecordingQuery

    layouts = [layout for layout in LAYOUTS.values() if layout.matches(path)]
    if not layouts:
        return None
    if len(layouts) > 1:
        return {
            "kind": "recordings in several layouts",
            "layouts": [layout.name for layout in layouts],
            "read by": "slimbrain prep --layout",
        }
    try:
        found = find_recordings(path, layouts[0], RecordingQuery())
        runs, damaged = layouts[0].describe(found.root, found.runs)
    except SlimbrainError as error:
        return {"kind": "recordings", "layout": layouts[0].name, "usable runs": 0, "first reason": str(error)}
    rows = describe_taken(found.root, runs, [*found.failures, *damaged])
    refused = [row["why"].removeprefix(REFUSED) for row in rows if row["why"].startswith(REFUSED)]
    without_tr = sum(row["tr"] == SAYS_NOTHING for row in rows)
    facts = {"kind": "recordings", "layout": layouts[0].name, "usable runs": len(rows) - len(refused) - without_tr}
    facts |= {WITHOUT_TR: without_tr} if without_tr else {}
    facts |= {"participants": len({run.entities["sub"] for run in runs})}
    facts |= {"refused": len(refused), "first reason": refused[0]} if refused else {}
    return {**facts, "read by": "slimbrain prep --tr SECONDS" if without_tr else "slimbrain prep", RUNS: rows[:shown]}
