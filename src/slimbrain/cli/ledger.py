"""`slimbrain ledger` and `withdraw`: whose data, under what terms, and out again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from slimbrain.errors import InputError, SlimbrainError

if TYPE_CHECKING:
    from slimbrain.governance.query import Ledger

_NO, _CANNOT_TELL = 1, 2
"""Exit codes of a question, as grep has them: 0 is yes."""

_COHORT = Annotated[str | None, typer.Option(help="Study that the participant is of, where labels alone do not tell.")]


def ledger(
    path: Annotated[str, typer.Argument(help="Store, model folder, run, or hub id of a model.", show_default=False)],
    contains: Annotated[str | None, typer.Option(help="Is this participant in it? A label or a hash. Exit code 0 yes, 1 no.")] = None,
    cohort: _COHORT = None,
    compatible_with: Annotated[
        str | None, typer.Option(help="May derived models or data be shared under this licence? Exit code 0 yes, 1 no.")
    ] = None,
    diff: Annotated[str | None, typer.Option(help="Another store or model to compare with. Exit code 0 same, 1 different.")] = None,
    set_file: Annotated[Path | None, typer.Option("--set", help="governance.yaml whose terms the sessions of a store get.")] = None,
    where: Annotated[
        list[str] | None, typer.Option(help="With --set: only sessions that pass a filter such as \"sex == 'F'\". Repeat: all must hold.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Say whose data a store holds or a model was trained on, and under what terms; exit code 0 yes, 1 no, 2 cannot tell.

    Not legal advice.

    Example: `slimbrain ledger store/ --compatible-with CC-BY-4.0`
    """
    if sum(option is not None for option in (contains, compatible_with, diff, set_file)) > 1:
        raise InputError("slimbrain ledger: one question at a time; give one of --contains, --compatible-with, --diff and --set.")
    if set_file is not None:
        _set(path, set_file, where or [])
    if where:
        raise InputError("--where: belongs to --set; leave it out.")
    try:
        answer, text, facts = _ask(path, contains, cohort or "", compatible_with, diff)
    except SlimbrainError as error:
        if contains is None and compatible_with is None and diff is None:
            raise
        typer.echo(f"slimbrain: {error}", err=True)
        raise typer.Exit(_CANNOT_TELL) from error
    print(json.dumps(facts, indent=2, ensure_ascii=False) if as_json else text)
    raise typer.Exit(0 if answer else _NO)


def open_ledger(source: str) -> Ledger:
    """The ledger of a store, of a model folder or the run it is in, or of a model on the hub.

    Raises
    ------
    InputError, StoreError
        If it is none of these, or is damaged.
    """
    from slimbrain.governance.provenance import CONFIG_FILE, MODEL_FOLDER
    from slimbrain.governance.query import model_ledger, store_ledger
    from slimbrain.store.description import DESCRIPTION_FILE

    path = Path(source)
    if (path / DESCRIPTION_FILE).is_file():
        return store_ledger(path)
    if (path / MODEL_FOLDER / CONFIG_FILE).is_file():
        source = str(path / MODEL_FOLDER)
    elif not path.is_dir() and source.count("/") != 1:
        raise InputError(f"{source}: is neither a store nor a model; give one of `slimbrain prep`, RUN/model of a run, or a hub id.")
    # Brings torch, which asking a store does without.
    from slimbrain.models.hub import read_training

    return model_ledger(source, read_training(source))


def _ask(path: str, contains: str | None, cohort: str, compatible_with: str | None, diff: str | None) -> tuple[bool, str, dict[str, Any]]:
    """The answer to the question that was asked, in words, and as JSON."""
    from slimbrain.governance import query

    opened = open_ledger(path)
    if contains is not None:
        found = query.contains(opened, contains, cohort)
        return found.found, found.how, {"path": path, "contains": found.found, "how": found.how}
    if compatible_with is not None:
        verdict = query.compatibility(opened, compatible_with)
        return verdict["compatible"], query.compatibility_text(verdict), verdict
    if diff is not None:
        differs = query.difference(opened, open_ledger(diff))
        alike = not any(differs[name] for name in ("only_first", "only_second", "changed"))
        return (
            alike and not any(differs["participants"][f"only_{one}"] for one in ("first", "second")),
            (query.difference_text(differs)),
            differs,
        )
    return True, query.as_text(opened), opened.to_dict()


def _set(path: str, file: Path, where: list[str]) -> None:
    from slimbrain.governance.query import set_governance

    print(f"{set_governance(path, file, where)} sessions are under the terms of {file} now")
    raise typer.Exit


def withdraw(
    store: Annotated[Path, typer.Argument(help="Store made by `slimbrain prep`.", show_default=False)],
    subject: Annotated[str, typer.Argument(help="Participant, with or without sub-.", show_default=False)],
    reason: Annotated[str, typer.Option(help="Reason, for the record of the withdrawal, without names.")] = "",
    cohort: _COHORT = None,
    checkpoints: Annotated[
        list[Path] | None, typer.Option(help="Folder to search for models trained on the participant; repeat for more.")
    ] = None,
    follow_links: Annotated[bool, typer.Option("--follow-links", help="Also delete what lies behind symbolic links.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Delete all data of a participant from a store, keep an anonymous record of the withdrawal, and list what else holds data of them.

    If interrupted, the same command resumes. Checkpoints and files elsewhere are listed, not changed, also those behind symbolic links.

    Example: `slimbrain withdraw store/ sub-03 --reason moved --checkpoints runs/`
    """
    from slimbrain.governance.withdraw import withdraw as take_out

    done = take_out(store, subject, reason, cohort or "", checkpoints or [], follow_links)
    if as_json:
        print(json.dumps(done.to_dict(), indent=2, ensure_ascii=False))
        return
    for note in done.notes:
        print(note)
    print(f"{done.label}: {len(done.sessions)} sessions deleted from {store}; withdrawn.tsv holds an anonymous record")
    for path in done.linked:
        print(f"hard link: the content of {path} lies in another store as well; withdraw it there, too")
    for path in done.followed:
        print(f"behind a symbolic link, deleted: {path}")
    for path in done.behind:
        print(f"behind a symbolic link, NOT deleted: {path}")
    if done.behind:
        print("the links are gone; delete these files yourself (--follow-links, given at first, would have deleted them)")
    for trace in done.traces:
        print(f"{trace.kind}: {trace.path} ({trace.how})")
    if not checkpoints:
        print("not searched: no --checkpoints were given; what was trained on or made from these data is not listed")
    elif not done.traces:
        print("nothing of them was found in the folders searched")
