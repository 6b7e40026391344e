"""Other people's layouts: which one a source has, and the runs in it.

Each layout is one file: the names it is recognised by, the runs it finds, and, where the container is not NIfTI, a `Source`
that reads it. From there all take the same path (`slimbrain.prep.run`).
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from slimbrain.errors import InputError
from slimbrain.prep.layouts.adhd200 import ADHD200
from slimbrain.prep.layouts.base import Layout, RecordingQuery, Recordings
from slimbrain.prep.layouts.brainmarks import BRAINMARKS
from slimbrain.prep.layouts.cpac import CPAC
from slimbrain.prep.layouts.fmriprep import BIDS
from slimbrain.prep.layouts.hcp import HCP
from slimbrain.prep.layouts.npz import NPZ
from slimbrain.prep.layouts.parcellated import PARCELLATED
from slimbrain.prep.layouts.roi import REGIONS
from slimbrain.prep.layouts.table import TABLE
from slimbrain.prep.runs import Failure, Filters, Run, file_of, is_wanted, is_wanted_version
from slimbrain.prep.source import IMAGE_SUFFIXES
from slimbrain.store.description import is_store
from slimbrain.store.manifest import session_key
from slimbrain.store.write import require_name

AUTO = "auto"
LAYOUTS = {layout.name: layout for layout in (BIDS, HCP, CPAC, ADHD200, NPZ, BRAINMARKS, REGIONS, PARCELLATED, TABLE)}


def choose_layout(source: Path, name: str = AUTO) -> Layout:
    """The layout called `name`, or the one that the source has.

    Raises
    ------
    InputError
        If the source does not exist, or `auto` finds none or several.
    """
    if name not in (AUTO, *LAYOUTS):
        raise InputError(f"--layout {name}: choose one of {AUTO}, {', '.join(LAYOUTS)}.")
    if not source.exists():
        raise InputError(f"{source}: does not exist, neither as a folder nor as a file; check the path.")
    if name != AUTO:
        return LAYOUTS[name]
    matching = [layout for layout in LAYOUTS.values() if layout.matches(source)]
    if not matching and (what := _single(source)):
        raise InputError(
            f"{source}: is {what}; name the folder that holds sub-*, and choose with --participant-label, or list images in a table."
        )
    if not matching and is_store(source):
        raise InputError(f"{source}: is a store, which is prepared already; name the recordings that more sessions are to be made from.")
    if not matching:
        looked = "; ".join(f"{layout.name}: {layout.looks_for}" for layout in LAYOUTS.values())
        raise InputError(f"{source}: holds nothing that is known. Looked for {looked}. Name another folder, or list the images in a table.")
    if len(matching) > 1:
        seen = "; ".join(f"{layout.name}: {layout.looks_for}" for layout in matching)
        raise InputError(f"{source}: has more than one layout ({seen}); choose one with --layout, or name the folder of one.")
    return matching[0]


def _single(source: Path) -> str:
    """What a part of a source is called; empty for anything else."""
    if source.is_file():
        return "an image" if source.name.endswith(IMAGE_SUFFIXES) else ""
    return "the folder of one participant" if source.name.startswith("sub-") else ""


def find_recordings(source: Path, layout: Layout, request: RecordingQuery) -> Recordings:
    """The runs of a source that pass the filters.

    Raises
    ------
    InputError
        If there is none, or an option does not concern the layout.
    """
    if layout is not BIDS and request.filters.res:
        raise InputError(f"--res {request.filters.res}: chooses among images of a BIDS derivative; {layout.name} has one image per run.")
    if layout is not PARCELLATED and request.atlas:
        raise InputError(f"--atlas {request.atlas}: chooses among series of several atlases; {layout.name} has none, leave it out.")
    found = layout.find(source, request)
    if not layout.filters_itself:
        wanted = [run for run in found.runs if _passes(run, request.filters)]
        found = replace(found, runs=sorted(wanted, key=lambda run: (run.image, run.place)))
    found = _without_unfit_names(found)
    if not found.runs and not found.failures:
        raise InputError(f"{source}: holds no run ({layout.looks_for}) that passes the filters; check folder and labels.")
    return found


def _without_unfit_names(found: Recordings) -> Recordings:
    """The same, with runs whose names no session can have among the failures."""
    runs, failures = [], list(found.failures)
    for run in found.runs:
        try:
            require_name(session_key(run.entities))
            runs.append(run)
        except InputError as error:
            failures.append(Failure(file_of(found.root, run), f"{run.name}: {error}"))
    return replace(found, runs=runs, failures=failures)


def _passes(run: Run, filters: Filters) -> bool:
    return is_wanted(run.entities, filters) and is_wanted_version(run.entities, filters)
