"""Who is held out as a whole: each site in turn, or another cohort that nothing was fitted on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from slimbrain.errors import InputError
from slimbrain.evaluate.phenotypes import is_missing
from slimbrain.evaluate.splits import TESTED, TRAINED
from slimbrain.evaluate.stats import OutOfFold
from slimbrain.evaluate.tasks import Target
from slimbrain.store import Store
from slimbrain.store.participants import PARTICIPANTS_FILE

_FEWEST_TESTED = 2
"""Participants of a site, say, without which it is not tested."""


def with_blocks(target: Target, store: Store, column: str) -> Target:
    """The target with what each participant has in a column, for `leave-out`; those who have nothing there are left out.

    Raises
    ------
    InputError
        If neither `participants.tsv` nor the phenotype file has such a column, or all participants have the same in it.
    """
    rows = [store.participants.get(subject, {}) for subject in target.subjects.tolist()]
    cells = [{**row, **more}.get(column, "") for row, more in zip(rows, target.known or ({},) * len(rows), strict=True)]
    if all(map(is_missing, cells)):
        columns = ", ".join(sorted({name for row in rows for name in row} - {"participant_id"})) or "no columns"
        raise InputError(f"{store.root / PARTICIPANTS_FILE}: has {columns}; --leave-out {column} needs a column of that name.")
    people = Counter(dict(zip(target.subjects.tolist(), cells, strict=True)).values())
    few = {key for key, cell in zip(target.keys, cells, strict=True) if is_missing(cell) or people[cell] < _FEWEST_TESTED}
    cells = [cell for key, cell in zip(target.keys, cells, strict=True) if key not in few]
    kept = replace(target.without(few, f"{column} missing, or of one participant alone"), blocks=np.array(cells, dtype=np.str_))
    if len(set(cells)) < 2:
        raise InputError(f"{store.root / PARTICIPANTS_FILE}: all participants have the same {column}; leave out a column they differ in.")
    # Folds are balanced over sites no longer: a site is a fold.
    return replace(kept, strata=None)


def joined(here: Target, there: Target) -> Target:
    """One target of two cohorts, of which the first is trained on and the second tested.

    Raises
    ------
    InputError
        If one is a regression and the other is not, or the second has classes that the first lacks.
    """
    if here.kind != there.kind:
        raise InputError(f"The labels are a {here.kind} here and a {there.kind} in the store of --transfer-to; write them alike.")
    if strange := sorted(there.classes.keys() - here.classes.keys()):
        raise InputError(
            f"The store of --transfer-to has the class {strange[0]}, and here there are {', '.join(here.classes)}; write the classes alike."
        )
    groups = None
    if here.groups is not None or there.groups is not None:
        groups = np.concatenate([_marked(side.subjects if side.groups is None else side.groups, of) for side, of in _sides(here, there)])
    excluded = Counter(here.excluded) + Counter({f"there: {reason}": count for reason, count in there.excluded.items()})
    return Target(
        keys=tuple(f"{of}/{key}" for side, of in _sides(here, there) for key in side.keys),
        subjects=np.concatenate([_marked(side.subjects, of) for side, of in _sides(here, there)]),
        labels=np.concatenate([here.labels, there.labels]),
        kind=here.kind,
        strata=None,
        excluded=excluded,
        groups=groups,
        bound=here.bound,
        blocks=np.concatenate([np.full(len(side.keys), of) for side, of in _sides(here, there)]),
    )


def _sides(here: Target, there: Target) -> tuple[tuple[Target, str], tuple[Target, str]]:
    return (here, TRAINED), (there, TESTED)


def _marked(names: NDArray[np.str_], of: str) -> NDArray[np.str_]:
    """Names of one cohort, which are none of the other's."""
    return np.array([f"{of}/{name}" for name in names.tolist()], dtype=np.str_)


def tested_folds(predictions: OutOfFold, names: Sequence[str]) -> dict[str, OutOfFold]:
    """The predictions of each test fold by itself, under the folds' names, in their order."""
    return {name: predictions.take((predictions.fold == number).any(axis=0)) for number, name in enumerate(names)}
