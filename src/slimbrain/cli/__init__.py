"""The command line: parse, import late, call, print. Every command is a function of a module beside this one."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import zip_longest
from typing import Annotated, Any, TextIO

import typer
from typer.core import TyperGroup

from slimbrain import __version__
from slimbrain.cli.data import prep, simulate
from slimbrain.cli.datasets import datasets
from slimbrain.cli.first import demo, doctor, inspect, run
from slimbrain.cli.launch import launch, moved
from slimbrain.cli.ledger import ledger, withdraw
from slimbrain.cli.maps import explain
from slimbrain.cli.models import connectome, convert, embed, group, plan, pretrain, rank
from slimbrain.cli.options import CommandLine
from slimbrain.cli.outputs import WritingCommand
from slimbrain.cli.results import evaluate, predict, report
from slimbrain.cli.split import split
from slimbrain.cli.store import commands as store_commands
from slimbrain.errors import ReportedError, SlimbrainError, TransformWarning

_WRONG_USAGE = 2
"""Exit code of a command line that cannot be understood, as click has it."""


class _Commands(TyperGroup):
    """All commands; a value that an option cannot take is answered in one sentence, as are the errors of the commands themselves."""

    def invoke(self, ctx: typer.Context) -> Any:  # type: ignore[override]
        """Parse the rest of the words and run the command they name."""
        try:
            return super().invoke(ctx)
        except typer.BadParameter as error:
            if not error.message or not error.param or not error.ctx:
                # An argument or option that is missing: typer shows how the command is used.
                raise
            print(f"slimbrain: {_bad_value(error)}; see `{error.ctx.command_path} --help`.", file=sys.stderr)
            raise typer.Exit(_WRONG_USAGE) from error


def _bad_value(error: typer.BadParameter) -> str:
    """The option, or argument, and what is wrong with its value."""
    from pydantic import ValidationError

    from slimbrain.config import refusal

    assert error.param is not None
    name = max(error.param.opts, key=len)
    return f"{name}: {refusal(error.__cause__) if isinstance(error.__cause__, ValidationError) else error.message.rstrip('.')}"


app = typer.Typer(
    name="slimbrain",
    cls=_Commands,
    help="Turn fMRI sessions into representations, from voxels, on modest hardware. Start with `slimbrain demo`.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
)
for command in (
    demo,
    run,
    simulate,
    datasets,
    prep,
    split,
    pretrain,
    connectome,
    convert,
    plan,
    rank,
    embed,
    group,
    evaluate,
    predict,
    explain,
    report,
    ledger,
    withdraw,
    inspect,
    doctor,
):
    app.command(cls=None if command is prep else WritingCommand)(command)
# What follows the command to launch belongs to that command.
app.command(cls=WritingCommand, context_settings={"allow_interspersed_args": False})(launch)
app.add_typer(store_commands, name="store")

_INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells have it; typer turns the interrupt into it."""

_OUT_OF_MEMORY = (
    "needs more memory than this machine, or its device, has left; lower train_temporal.batch or train_voxel.batch and raise "
    "accumulate by as much (`slimbrain plan` says what fits), or end other programs."
)


def main() -> None:
    """Run the command line on this program's arguments."""
    sys.exit(run_command(sys.argv[1:]))


def run_command(arguments: Sequence[str]) -> int:
    """Run one command; its exit code. An error a user can act on is one sentence, unless `--debug` is among the arguments."""
    if said := moved(arguments):
        print(f"slimbrain: {said}", file=sys.stderr)
        return _WRONG_USAGE
    try:
        with _warnings_in_a_sentence():
            app(_debug_first(_spread_lists(arguments)), prog_name="slimbrain", obj=CommandLine(tuple(arguments)))
    except SystemExit as leaving:
        if leaving.code == _INTERRUPTED:
            # `pretrain` alone resumes only if asked to.
            more = " with --resume auto" if "pretrain" in arguments and "--resume" not in arguments else ""
            print(f"slimbrain: interrupted; run the same command again{more} to resume.", file=sys.stderr)
        return int(leaving.code or 0)
    except ReportedError as error:
        return error.exit_code
    except (SlimbrainError, OSError) as error:
        if "--debug" in arguments:
            raise
        print(f"slimbrain: {_sentence(error)}", file=sys.stderr)
        return 1
    except (MemoryError, RuntimeError) as error:
        if "--debug" in arguments or not _wants_memory(error):
            raise
        print(f"slimbrain: {_OUT_OF_MEMORY}", file=sys.stderr)
        return 1
    return 0


@contextmanager
def _warnings_in_a_sentence() -> Iterator[None]:
    """Warnings about inputs look like errors, without the place in the code that Python adds."""
    with warnings.catch_warnings():
        usual = warnings.showwarning

        def show(
            message: Warning | str, category: type[Warning], filename: str, lineno: int, file: TextIO | None = None, line: str | None = None
        ) -> None:
            if issubclass(category, TransformWarning):
                print(f"slimbrain: {message}", file=sys.stderr)
            else:
                usual(message, category, filename, lineno, file, line)

        warnings.showwarning = show
        yield


def _wants_memory(error: MemoryError | RuntimeError) -> bool:
    """Whether there was no room: torch has an exception class for devices, and for the CPU a message alone."""
    return isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError" or "can't allocate memory" in str(error)


def _sentence(error: SlimbrainError | OSError) -> str:
    if isinstance(error, OSError):
        place = f"{error.filename}: " if error.filename else ""
        return f"{place}{error.strerror or error}; free space, or choose a place that you may read and write."
    return str(error)


def _debug_first(arguments: Sequence[str]) -> list[str]:
    """Let `--debug` stand anywhere: it is added to the end of a command that has just failed."""
    others = [argument for argument in arguments if argument != "--debug"]
    return ["--debug", *others] if len(others) < len(arguments) else others


def _spread_lists(arguments: Sequence[str]) -> list[str]:
    """Let `--participant-label 01 02` stand for the option given twice, as in every BIDS App."""
    lists, spread, current = {"--participant-label", "--task-id", "--session-id"}, [], ""
    for argument, following in zip_longest(arguments, arguments[1:], fillvalue="-"):
        if argument.startswith("-"):
            # A list option without a value stays, to be refused; dropped, it would mean everybody.
            current = argument if argument in lists and not following.startswith("-") else ""
            spread += [] if current else [argument]
        else:
            spread += [current, argument] if current else [argument]
    return spread


def _show_version(asked: bool) -> None:
    if asked:
        print(__version__)
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[bool, typer.Option("--version", is_eager=True, callback=_show_version, help="Print the version and exit.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """`run_command` looks for --debug itself."""
