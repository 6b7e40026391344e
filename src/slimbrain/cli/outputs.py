"""What a command writes must not take the place of what it, or a store, lives on: one check for every command."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import typer
from typer.core import TyperCommand

from slimbrain.errors import InputError, SlimbrainError

_Read = TypeVar("_Read")

_OUTPUTS = ("out", "save", "launch_folder")
"""Parameters of commands that say where to write."""


class WritingCommand(TyperCommand):
    """A command whose outputs are checked before it runs."""

    def invoke(self, ctx: typer.Context) -> Any:  # type: ignore[override]
        """Check, then run."""
        require_free_outputs(ctx.params)
        return super().invoke(ctx)


def require_free_outputs(parameters: Mapping[str, Any]) -> None:
    """Refuse outputs that would replace a store, one of its files, or a file that the same command reads, or that cannot be written.

    Parameters
    ----------
    parameters : mapping
        The command's parameters by name; outputs are those called `out`, `save` and `launch_folder`.

    Raises
    ------
    InputError
        If one of them is such a place.
    """
    inputs = [path for name, value in parameters.items() if name not in _OUTPUTS for path in _paths(value)]
    for name in _OUTPUTS:
        for out in _paths(parameters.get(name)):
            _require_outside_stores(name, out)
            _require_writable(name, out)
            if out.is_file() and any(path.is_file() and os.path.samefile(path, out) for path in inputs):
                raise InputError(f"--{name.replace('_', '-')} {out}: is a file that this command reads; choose another name.")


def _require_writable(name: str, out: Path) -> None:
    """Before the work, not after it; a disk may still fill up meanwhile."""
    place = out.absolute()
    folder = place if place.is_dir() else next(path for path in place.parents if path.exists())
    if not folder.is_dir():
        raise InputError(f"--{name.replace('_', '-')} {out}: {folder} is a file, not a folder; choose another place.")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise InputError(f"--{name.replace('_', '-')} {out}: {folder} cannot be written to; choose a folder of your own.")


def require_own_output(out: Path, read: Callable[[Path], _Read], command: str) -> _Read | None:
    """Refuse to write over a file that `read` does not take for what the command writes; what it read, or None where no file is.

    Raises
    ------
    InputError
        Then.
    """
    if not out.is_file():
        return None
    try:
        return read(out)
    except SlimbrainError as error:
        raise InputError(f"{out}: exists and is not what slimbrain {command} writes; choose another --out, or delete it.") from error


def _paths(value: object) -> list[Path]:
    """The paths that a parameter's value names; text may be the name of a model on the hub and then is no file."""
    if isinstance(value, (list, tuple)):
        return [path for each in value for path in _paths(each)]
    return [Path(value)] if isinstance(value, (str, Path)) and str(value) and "\0" not in str(value) else []


def _require_outside_stores(name: str, out: Path) -> None:
    from slimbrain.store.description import is_store

    # Both where the name lies and what it may link to.
    for place in (Path(os.path.realpath(out)), Path(os.path.realpath(out.parent), out.name)):
        for root in (place, *place.parents):
            if is_store(root) and _belongs_to_store(place.relative_to(root).parts):
                raise InputError(
                    f"--{name.replace('_', '-')} {out}: belongs to the store {root}, whose files only slimbrain prep and slimbrain store "
                    "write; choose a place beside it."
                )


def _belongs_to_store(parts: tuple[str, ...]) -> bool:
    """Whether a path below a store's root, or the root itself, is the store's own."""
    from slimbrain.grid import MASK_FILE
    from slimbrain.prep.exclusion import EXCLUDED_FILE
    from slimbrain.prep.run import FAILURES_FILE
    from slimbrain.store.description import DESCRIPTION_FILE
    from slimbrain.store.manifest import MANIFEST_FILE
    from slimbrain.store.participants import PARTICIPANTS_FILE
    from slimbrain.store.purge import EXCLUDED_FOLDER
    from slimbrain.store.records import GOVERNANCE_FILE, RECORDS_FILE
    from slimbrain.store.withdrawn import WITHDRAWN_FILE

    tables = {MANIFEST_FILE, PARTICIPANTS_FILE, FAILURES_FILE, EXCLUDED_FILE, WITHDRAWN_FILE}
    others = {DESCRIPTION_FILE, MASK_FILE, RECORDS_FILE, GOVERNANCE_FILE, EXCLUDED_FOLDER}
    return not parts or parts[0] in tables | others or parts[0].startswith((".", "sub-"))
