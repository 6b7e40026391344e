"""`slimbrain split`: tables of participants for pretraining and for evaluation."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from slimbrain.cli.options import SEED, STORE, open_store, typed_command
from slimbrain.errors import InputError

_TWO = ("pretraining", "evaluation")


def split(
    context: typer.Context,
    store: STORE,
    fractions: Annotated[str, typer.Option(help="Share of each part, e.g. 0.5,0.5 or 0.7,0.1,0.2.")] = "0.5,0.5",
    stratify: Annotated[str, typer.Option(help="Columns of participants.tsv in which the parts should be alike, e.g. sex,site.")] = "",
    group: Annotated[
        str, typer.Option(help="Column of participants.tsv; participants who share a value (a family) stay in one part.")
    ] = "",
    names: Annotated[str, typer.Option(help="Names of the tables; pretraining,evaluation for two parts if not given.")] = "",
    out: Annotated[Path, typer.Option("--out", help="Folder for the tables.")] = Path(),
    seed: SEED = 0,
) -> None:
    """Divide the participants of a store: one table per part, for the --participants of other commands.

    Example: `slimbrain split store/ --fractions 0.5,0.5 --stratify sex,site --out tables/`
    """
    from slimbrain.disk.atomic import write_text
    from slimbrain.disk.made_by import record_maker
    from slimbrain.disk.tsv import format_tsv
    from slimbrain.store.split import Division, balance, rows_of, split_participants

    try:
        shares = tuple(float(part) for part in fractions.split(","))
    except ValueError as error:
        raise InputError(f"--fractions {fractions}: are no numbers; write 0.5,0.5, say.") from error
    columns = tuple(name.strip() for name in stratify.split(",") if name.strip())
    default = _TWO if len(shares) == len(_TWO) else tuple(f"part-{number}" for number in range(1, len(shares) + 1))
    titles = tuple(name.strip() for name in names.split(",")) if names else default
    if len(set(titles)) != len(shares) or not all(title == Path(title).name != "" for title in titles):
        raise InputError(f"--names {names}: are not {len(shares)} different names of files; give one for each of the fractions.")
    opened = open_store(store, None)
    parts = split_participants(opened, Division(shares, columns, group, seed))
    tables = {
        title: format_tsv(["participant_id", *columns], rows_of(opened, part, columns)) for title, part in zip(titles, parts, strict=True)
    }
    for title, text in tables.items():
        path = out / f"{title}.tsv"
        if path.exists() and path.read_text(encoding="utf-8") != text:
            # Whoever was pretrained on is known by this table.
            raise InputError(f"{path}: lists other participants; choose another --out or --names, or delete it.")
    for (title, text), part in zip(tables.items(), parts, strict=True):
        path = out / f"{title}.tsv"
        # First: where there is a table, it is known how it was made.
        record_maker(path, "split", typed_command(context))
        print(f"{len(part)} participants in {write_text(path, text)}")
    for column in columns:
        for title, counts in zip(titles, balance(opened, parts, column), strict=True):
            print(f"{column}, {title}: {', '.join(f'{name} {count}' for name, count in counts.items())}")
