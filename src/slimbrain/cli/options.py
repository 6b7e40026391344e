"""What several commands share: options, the store they open, the way they print."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from slimbrain.errors import InputError

if TYPE_CHECKING:
    from slimbrain.store import Store


def one_of(*words: str) -> Callable[[str], list[str]]:
    """Shell completion for an option with a few values; where none of them fits, the shell offers files."""

    def complete(incomplete: str) -> list[str]:
        return [word for word in words if word.startswith(incomplete)]

    return complete


def require_model_there(named: str | list[str] | None) -> str | list[str] | None:
    """Refuse a model that is a path with a typo before any work is done."""
    from slimbrain.models.shipped import is_missing_path, model_sources

    for name in [named] if isinstance(named, str) else named or ():
        if is_missing_path(name):
            raise InputError(
                f"{name}: is not in the folder {Path(name).parent}, and not looked for on the hub; give {model_sources(name)}."
            )
    return named


def _preset_names(incomplete: str) -> list[str]:
    """Shell completion for `--preset`."""
    from slimbrain.config import PRESETS

    return one_of(*PRESETS)(incomplete)


PRESET = typer.Option(help="tiny, small, base, paper, or a YAML file.", autocompletion=_preset_names)
STORE = Annotated[Path, typer.Argument(help="Store made by `slimbrain prep`.", show_default=False)]
SEED = Annotated[int, typer.Option(help="Random seed; the same seed, store and machine give the same numbers.")]
THREADS = Annotated[int | None, typer.Option(help="CPU threads for torch; torch's default if not given.")]
TOP = Annotated[
    int | None,
    typer.Option(
        "--k", min=1, help="Windows per session; if not given, as many as in training or, without --windows, as a connectome was fitted to."
    ),
]
PARTICIPANTS = Annotated[Path | None, typer.Option(help="TSV with a column participant_id: only these participants.")]
TEMPORAL_MODEL = Annotated[
    str | None,
    typer.Option(
        callback=require_model_there,
        help="Stage 1 model: RUN/model of a pretraining run, or hub id; the one that comes with slimbrain if not given.",
    ),
]
WINDOWS = Annotated[
    str | None,
    typer.Option(
        help="Window table from `slimbrain rank`, a stage 1 model to score them by, or `still`: from each of k equal stretches "
        "the window that moves least (DVARS). Evenly spread windows if not given."
    ),
]


@dataclass(frozen=True)
class CommandLine:
    """What was typed after `slimbrain`; commands find it as the object of their context."""

    words: tuple[str, ...]

    def __str__(self) -> str:
        return shlex.join(["slimbrain", *self.words])


def open_store(root: Path, participants: Path | None) -> Store:
    """A store that has sessions; of the participants in a table alone, named with or without `sub-`, if one is given."""
    from slimbrain.disk.tsv import read_tsv
    from slimbrain.store import Store

    store = Store(root)
    if not store.sessions:
        raise InputError(f"{root}: holds no session; run `slimbrain prep`, or see in its failures.tsv and excluded.tsv why none came in.")
    if participants is None:
        return store
    rows = read_tsv(participants)
    if not rows or "participant_id" not in rows[0]:
        raise InputError(f"{participants}: has no column participant_id; give a table with one, such as participants.tsv.")
    return store.select({f"sub-{row['participant_id'].removeprefix('sub-')}" for row in rows})


def print_facts(facts: dict[str, Any], as_json: bool) -> None:
    """Names and values below each other, or as JSON."""
    if as_json:
        print(json.dumps(facts, indent=2, default=str))
        return
    width = max(map(len, facts))
    for name, value in facts.items():
        print(f"{name.ljust(width)}  {value}")


def typed_line(context: typer.Context) -> CommandLine:
    """What was typed to run this command."""
    line = context.find_object(CommandLine)
    assert line is not None, "commands are run by slimbrain.cli.run_command"
    return line


def typed_command(context: typer.Context) -> str:
    """The command being run, as it can be typed again."""
    return str(typed_line(context))


def temporal_or_shipped(named: str | None) -> str:
    """The stage 1 model that was named, or the one that comes with the package, with a line that says so."""
    if named is not None:
        return named
    from slimbrain.models.shipped import TEMPORAL

    known = f"its data, terms and card: slimbrain inspect {TEMPORAL}"
    print(f"no model is named: using {TEMPORAL}, which comes with slimbrain ({known})", file=sys.stderr)
    return TEMPORAL


def whole_command(context: typer.Context) -> str:
    """The command being run, without `--shard`: what all shards are parts of."""
    words = list(typed_line(context).words)
    for place, word in enumerate(words):
        if word == "--shard" or word.startswith("--shard="):
            del words[place : place + (2 if word == "--shard" else 1)]
            break
    return str(CommandLine(tuple(words)))


def commands_from(participants: Path | None, command: str) -> tuple[str, ...]:
    """The command that made a table of participants, where one was recorded, and the one that reads it."""
    from slimbrain.disk.made_by import recorded_maker

    return tuple(filter(None, (recorded_maker(participants, "split"), command)))


def set_threads(threads: int | None) -> None:
    """Give torch as many CPU threads, or leave it its own choice."""
    if threads:
        import torch

        torch.set_num_threads(threads)
