"""`slimbrain store verify`, `duplicates`, `merge` and `subset`: parse, import late, call, print."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from slimbrain.errors import InputError

if TYPE_CHECKING:
    from slimbrain.store.merge import CopySummary

commands = typer.Typer(help="Check a store, or copy sessions between stores.", no_args_is_help=True, rich_markup_mode="markdown")

_DUPLICATE_COLUMNS = ("session", "participant_id", "other_session", "other_participant_id", "same_file", "bits_apart", "correlation")

_LINK = Annotated[bool, typer.Option("--link", help="Use hard links, which take no space, where the file system can.")]


@commands.command()
def verify(
    store: Annotated[Path, typer.Argument(help="Store made by `slimbrain prep`.", show_default=False)],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Verify the checksum of every session, and name what is damaged, missing or not listed; exit code 1 if anything is.

    Example: `slimbrain store verify store/`
    """
    from slimbrain.store.verify import verify as check

    verdict = check(store)
    if as_json:
        print(json.dumps(verdict.to_dict(), indent=2, ensure_ascii=False))
        raise typer.Exit(verdict.exit_code)
    for problem in verdict.problems:
        print(f"{problem.kind}: {problem.reason}")
    for key in verdict.unsealed:
        print(f"no checksum: {key} could be read to its end, which is all that can be said.")
    for key in verdict.busy:
        print(f"not checked: {key} is being written by another process.")
    for note in verdict.notes:
        print(f"note: {note}")
    print(f"{verdict.n_sessions} sessions, {len(verdict.problems)} problems")
    raise typer.Exit(verdict.exit_code)


@commands.command()
def duplicates(
    store: Annotated[Path, typer.Argument(help="Store made by `slimbrain prep`.", show_default=False)],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List recordings that a store holds twice, whatever their names, as a TSV; exit code 1 if there are any.

    Example: `slimbrain store duplicates store/`
    """
    from slimbrain.cli.options import open_store
    from slimbrain.disk.tsv import format_tsv
    from slimbrain.governance.duplicates import find_duplicates

    found = find_duplicates(open_store(store, None))
    rows = [
        {
            "session": pair.first.key,
            "participant_id": pair.first.subject,
            "other_session": pair.second.key,
            "other_participant_id": pair.second.subject,
            "same_file": "yes" if pair.same_file else "no",
            "bits_apart": "n/a" if pair.bits is None else pair.bits,
            "correlation": f"{pair.correlation:.4f}",
        }
        for pair in found
    ]
    print(json.dumps(rows, indent=2) if as_json else format_tsv(_DUPLICATE_COLUMNS, rows), end="\n" if as_json else "")
    raise typer.Exit(1 if found else 0)


@commands.command()
def collect(
    context: typer.Context, store: Annotated[Path, typer.Argument(help="Store that `slimbrain prep --shard` wrote.", show_default=False)]
) -> None:
    """List the sessions that shards of `slimbrain prep` prepared in sessions.tsv, and write the report.

    Example: `slimbrain store collect store/`
    """
    from slimbrain.cli.options import typed_command
    from slimbrain.prep.run import collect as bring_together
    from slimbrain.report.data_page import write_data_page

    listed = bring_together(store)
    print(f"{listed} sessions listed; see {write_data_page(store, typed_command(context))}")


@commands.command()
def merge(
    out: Annotated[Path, typer.Argument(help="Store to make or to add to.", show_default=False)],
    stores: Annotated[list[Path], typer.Argument(help="Stores to read.", show_default=False)],
    keep: Annotated[str | None, typer.Option(help="first or last: which session to keep where two differ under one name.")] = None,
    link: _LINK = False,
) -> None:
    """Merge the sessions of several stores into one; run again, it resumes where it stopped.

    Example: `slimbrain store merge all/ hcp/ abide/ --link`
    """
    from slimbrain.store import Store
    from slimbrain.store.merge import merge as bring_together

    if keep not in (None, "first", "last"):
        raise InputError(f"--keep {keep}: choose first or last, or leave it out to refuse different data under one name.")
    _tell(bring_together(out, [Store(store) for store in stores], "first" if keep == "first" else "last" if keep else None, link), out)


@commands.command()
def subset(
    store: Annotated[Path, typer.Argument(help="Store to read.", show_default=False)],
    out: Annotated[Path, typer.Argument(help="Store to make or to add to.", show_default=False)],
    participant_label: Annotated[list[str] | None, typer.Option(help="Only these participants, with or without sub-.")] = None,
    session_id: Annotated[list[str] | None, typer.Option(help="Only these sessions, with or without ses-.")] = None,
    task_id: Annotated[list[str] | None, typer.Option(help="Only these tasks.")] = None,
    space: Annotated[list[str] | None, typer.Option(help="Only images from this template, e.g. MNI152NLin6Asym.")] = None,
    where: Annotated[
        list[str] | None,
        typer.Option(
            help="Filter on columns of sessions.tsv or participants.tsv, e.g. \"sex == 'F' and age >= 18\". Repeat: all must hold."
        ),
    ] = None,
    sessions: Annotated[Path | None, typer.Option(help="TSV with a column `session`: only these recordings.")] = None,
    link: _LINK = False,
) -> None:
    """Copy some sessions of a store into another; run again, it resumes where it stopped.

    Example: `slimbrain store subset store/ good/ --task-id rest --where "coverage >= 0.9 and sex == 'F'"`
    """
    from slimbrain.disk.tsv import read_tsv
    from slimbrain.store import Store
    from slimbrain.store.merge import subset as copy_some
    from slimbrain.store.select import Choice, choose_sessions

    keys = None
    if sessions is not None:
        rows = read_tsv(sessions)
        if not rows or "session" not in rows[0]:
            raise InputError(f"{sessions}: has no column session; give a table with one, such as sessions.tsv or a window table.")
        keys = tuple(row["session"] for row in rows)
    opened = Store(store)
    choice = Choice(
        tuple(participant_label or ()), tuple(session_id or ()), tuple(task_id or ()), tuple(space or ()), keys, tuple(where or ())
    )
    _tell(copy_some(opened, out, choose_sessions(opened, choice), link), out)


def _tell(summary: CopySummary, out: Path) -> None:
    for failure in summary.failures:
        typer.echo(failure, err=True)
    print(f"{len(summary.copied)} copied, {len(summary.present)} already there, {len(summary.failures)} refused; the store is {out}")
    if summary.tightened:
        more = f" and {len(summary.tightened) - 1} more" if len(summary.tightened) > 1 else ""
        print(f"under stricter terms, which another store has for the same session: {summary.tightened[0]}{more}")
    raise typer.Exit(summary.exit_code)
