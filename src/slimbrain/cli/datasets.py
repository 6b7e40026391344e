"""`slimbrain datasets`: which public cohorts there are, how to get one, and fetching it where no account is needed."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from slimbrain.errors import InputError

if TYPE_CHECKING:
    from slimbrain.datasets import PublicDataset


def datasets(
    name: Annotated[
        str | None, typer.Argument(help="A cohort of the list; all of them, in brief, if not given.", show_default=False)
    ] = None,
    fetch: Annotated[bool, typer.Option("--fetch", help="Download it, where no account is needed; resumes.")] = False,
    data_dir: Annotated[Path | None, typer.Option(help="Where to keep it; nilearn's data folder if not given.")] = None,
    n_subjects: Annotated[int | None, typer.Option(min=1, help="Only this many participants, from the first.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List public cohorts, with terms, size and the prep command that follows; or download one.

    Example: `slimbrain datasets abide-parcels --fetch --n-subjects 20 --data-dir data/`
    """
    from slimbrain.datasets import CATALOGUE

    if name is not None and name not in CATALOGUE:
        raise InputError(f"{name}: is no cohort of the list; choose one of {', '.join(CATALOGUE)}.")
    chosen = [CATALOGUE[name]] if name else list(CATALOGUE.values())
    if fetch:
        if name is None:
            raise InputError("--fetch: needs the name of a cohort; `slimbrain datasets` lists them.")
        _fetch(chosen[0], n_subjects, data_dir)
    elif as_json:
        print(json.dumps([asdict(dataset) for dataset in chosen], indent=2))
    else:
        print("\n\n".join(map(_in_full if name else _in_short, chosen)))
        if name is None:
            print("\n`slimbrain datasets NAME` says how to get one.")


def _fetch(dataset: PublicDataset, n_subjects: int | None, data_dir: Path | None) -> None:
    from slimbrain import datasets as fetchers

    if not dataset.fetcher:
        raise InputError(f"{dataset.name}: cannot be downloaded by slimbrain; `slimbrain datasets {dataset.name}` says how to get it.")
    fetched = getattr(fetchers, dataset.fetcher)(n_subjects=n_subjects, data_dir=data_dir)
    lost = f"; the server has none of {len(fetched.missing)}, first {fetched.missing[0]}" if fetched.missing else ""
    print(f"{len(fetched.recordings)} recordings in {fetched.source}{lost}. Next:\n  {fetched.prep_command}")


def _in_short(dataset: PublicDataset) -> str:
    how = f"account: {dataset.account}" if dataset.account else "no account"
    return f"{dataset.name}: {dataset.title}\n  {dataset.holds}\n  {dataset.size}; {how}; {dataset.terms}"


def _in_full(dataset: PublicDataset) -> str:
    steps = "\n".join(f"  {number}. {step}" for number, step in enumerate(dataset.steps, start=1))
    prep = "\n".join(f"  {command}" for command in dataset.prep)
    return f"{_in_short(dataset)}\n\nTo get it:\n{steps}\n\nThen:\n{prep}\n\nLooked up at:\n" + "\n".join(
        f"  {source}" for source in dataset.sources
    )
