"""`slimbrain simulate` and `prep`: where sessions come from."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from slimbrain.cli.options import SEED, one_of, typed_command, whole_command
from slimbrain.errors import InputError


def simulate(
    context: typer.Context,
    out: Annotated[Path, typer.Argument(help="Folder to write the BIDS derivative to.", show_default=False)],
    subjects: Annotated[int, typer.Option(min=1, help="Participants.")] = 24,
    sessions: Annotated[int, typer.Option(min=1, help="Sessions per participant.")] = 2,
    frames: Annotated[int, typer.Option(min=8, help="Frames per session; its six events need 128 at a TR of 0.72 s.")] = 200,
    tr: Annotated[float, typer.Option(help="Seconds per frame.")] = 0.72,
    voxel_mm: Annotated[float, typer.Option(help="Voxel size in mm.")] = 8.0,
    orientation: Annotated[str, typer.Option(help="RAS or LAS.")] = "RAS",
    first: Annotated[int, typer.Option(min=1, help="Number of the first participant, for cohorts that are to be merged.")] = 1,
    seed: SEED = 0,
) -> None:
    """Write a synthetic cohort with known truth, as fMRIPrep would.

    Example: `slimbrain simulate cohort --subjects 12 --sessions 2`
    """
    from slimbrain.config import checked_options
    from slimbrain.simulate import CohortSpec, require_frames

    values = {
        "subjects": subjects,
        "first": first,
        "sessions": sessions,
        "frames": frames,
        "tr": tr,
        "voxel_mm": voxel_mm,
        "orientation": orientation,
        "seed": seed,
    }
    spec = checked_options(CohortSpec, values, "slimbrain simulate")
    require_frames(spec)
    # Only now, since it loads scipy: a number that cannot work would wait for that.
    from slimbrain.simulate import simulate_cohort

    simulate_cohort(out, spec, command=typed_command(context))
    print(f"{subjects} participants, {subjects * sessions} sessions, truth in {out / 'truth.json'}")


def _layout_names(incomplete: str) -> list[str]:
    """Shell completion for `--layout`."""
    from slimbrain.prep.layouts import AUTO, LAYOUTS

    return one_of(AUTO, *LAYOUTS)(incomplete)


def prep(
    context: typer.Context,
    source: Annotated[Path, typer.Argument(help="fMRIPrep, HCP or C-PAC folder, table of images, ...; see --layout.", show_default=False)],
    out: Annotated[Path, typer.Argument(help="Store to make or add to.", show_default=False)],
    level: Annotated[str, typer.Argument(help="Always `participant`, as in BIDS Apps.")] = "participant",
    layout: Annotated[
        str, typer.Option(help="auto, bids, hcp, cpac, adhd200, npz, brainmarks, roi, parcellated or table.", autocompletion=_layout_names)
    ] = "auto",
    participant_label: Annotated[list[str] | None, typer.Option(help="Only these participants, with or without sub-.")] = None,
    session_id: Annotated[list[str] | None, typer.Option(help="Only these sessions.")] = None,
    task_id: Annotated[list[str] | None, typer.Option(help="Only these tasks.")] = None,
    space: Annotated[str | None, typer.Option(help="Only images in this template, e.g. MNI152NLin6Asym.")] = None,
    res: Annotated[str | None, typer.Option(help="Only images with this res- in their BIDS name, e.g. 2.")] = None,
    bids_filter_file: Annotated[Path | None, typer.Option(help='fMRIPrep\'s JSON filter, e.g. {"bold": {"run": 1}}.')] = None,
    mask_source: Annotated[Path | None, typer.Option(help="Mask whose voxels a Brainmarks file lists.")] = None,
    channels: Annotated[str | None, typer.Option(help="TSV of region names and places (name, x, y, z), or none.")] = None,
    atlas: Annotated[str | None, typer.Option(help="Atlas to take, where XCP-D or giga_connectome wrote series of several.")] = None,
    resolution: Annotated[str, typer.Option(help="Lattice: 2mm, 4mm, 8mm or 8mm-p1 (patches of one voxel).")] = "2mm",
    mask: Annotated[Path | None, typer.Option(help="Brain mask in MNI space; nilearn's MNI152 mask if not given.")] = None,
    tr: Annotated[float | None, typer.Option(help="Seconds per frame, where the files do not say.")] = None,
    min_coverage: Annotated[float, typer.Option(help="Leave out runs that cover a smaller share of the mask.")] = 0.7,
    min_tsnr: Annotated[float | None, typer.Option(help="Leave out runs with a lower tSNR.")] = None,
    max_fd_mean: Annotated[float | None, typer.Option(help="Leave out runs with a higher mean framewise displacement, in mm.")] = None,
    max_flagged: Annotated[float | None, typer.Option(help="Leave out runs with a larger share of flagged frames.")] = None,
    min_template_overlap: Annotated[float | None, typer.Option(help="Leave out runs that overlap less with the MNI brain mask.")] = None,
    denoise: Annotated[str, typer.Option(help="none, simple or scrubbing (fMRIPrep confounds).")] = "none",
    flag_nonfinite: Annotated[
        bool, typer.Option("--flag-nonfinite", help="Interpolate and flag frames that are NaN or infinite in most of the brain.")
    ] = False,
    nprocs: Annotated[int, typer.Option(min=1, help="Runs prepared in parallel.")] = 1,
    window_frames: Annotated[int, typer.Option(help="Refuse runs with fewer frames.")] = 8,
    force: Annotated[bool, typer.Option("--force", help="Prepare again what is in the store already.")] = False,
    shard: Annotated[
        str | None, typer.Option(help="Prepare only this part of the runs, e.g. 3/16; then `slimbrain store collect`.")
    ] = None,
    governance: Annotated[Path | None, typer.Option(help="Terms of the data; governance.yaml at the source's root if not given.")] = None,
    cohort: Annotated[str | None, typer.Option(help="Study that the participants are of.")] = None,
    source_id: Annotated[str | None, typer.Option(help="Where the data come from, e.g. a DOI.")] = None,
    license_name: Annotated[
        str | None,
        typer.Option("--license", help="Licence of the data: SPDX id, or a use agreement such as ABCD-DUC."),
    ] = None,
    consent: Annotated[
        list[str] | None,
        typer.Option(help="Scope of consent: broad-research, disease-specific, no-commercial, no-derivatives, ...; repeat for several."),
    ] = None,
    not_for: Annotated[list[str] | None, typer.Option(help="Who may not use the data; repeat for several.")] = None,
    readmit: Annotated[
        list[str] | None, typer.Option(help="A participant who was withdrawn and consented again; repeat for several.")
    ] = None,
) -> None:
    """Bring preprocessed fMRI in MNI space into a store; resumes where it stopped, and several commands may share a store.

    Exit code 1 if a run could not be used (failures.tsv); runs that --min-... and --max-... leave out (excluded.tsv) do not count.

    Example: `slimbrain prep fmriprep/ store/ participant --participant-label 01 02 --nprocs 4`
    """
    from slimbrain.config import checked_options
    from slimbrain.prep.options import PrepOptions
    from slimbrain.prep.run import prepare
    from slimbrain.store.description import commands_in, record_commands

    if level != "participant":
        raise InputError(f"{level}: slimbrain prep has no such level; write `participant` after the two folders.")
    values: dict[str, Any] = {
        "layout": layout,
        "space": space,
        "res": res,
        "bids_filter_file": bids_filter_file,
        "mask_source": mask_source,
        "channels": channels,
        "atlas": atlas,
        "resolution": resolution,
        "mask": mask,
        "tr": tr,
        "min_coverage": min_coverage,
        "min_tsnr": min_tsnr,
        "max_fd_mean": max_fd_mean,
        "max_flagged": max_flagged,
        "min_template_overlap": min_template_overlap,
        "denoise": denoise,
        "flag_nonfinite": flag_nonfinite,
    }
    values |= {"governance": governance, "cohort": cohort, "source_id": source_id, "license": license_name}
    values |= {"consent": consent, "not_for": not_for, "readmit": readmit}
    values |= {"nprocs": nprocs, "window_frames": window_frames, "force": force, "shard": shard}
    values |= {"participant_label": participant_label, "session_id": session_id, "task_id": task_id}
    summary = prepare(source, out, checked_options(PrepOptions, values, "slimbrain prep"))
    record_commands(out, *commands_in(source), whole_command(context))
    counts = f"{len(summary.prepared)} prepared, {len(summary.skipped)} already there, {len(summary.excluded)} excluded"
    gone = f", {len(summary.withdrawn)} of participants who were withdrawn" if summary.withdrawn else ""
    if shard is None:
        # Only here, since it loads torch: shards would each wait for that.
        from slimbrain.report.data_page import write_data_page

        where = f"see {write_data_page(out, typed_command(context))}"
    else:
        where = f"`slimbrain store collect {out}` lists them once all shards are done"
    print(f"{counts}, {len(summary.failures)} refused{gone}; {where}")
    raise typer.Exit(summary.exit_code)
