"""What `slimbrain prep` lets one choose."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError

from slimbrain.config import refusal
from slimbrain.errors import InputError
from slimbrain.prep.denoise import Strategy
from slimbrain.prep.exclusion import Limits
from slimbrain.prep.layouts import AUTO


class PrepOptions(Limits):
    """Which runs are taken, and what is made of them.

    Examples
    --------
    >>> PrepOptions(participant_label=("01",), resolution="8mm").denoise
    'none'
    """

    layout: str = Field(AUTO, description="how the source is laid out; recognised if auto")
    participant_label: tuple[str, ...] = Field((), description="only these participants, with or without `sub-`")
    session_id: tuple[str, ...] = Field((), description="only these sessions, with or without `ses-`")
    task_id: tuple[str, ...] = Field((), description="only these tasks, with or without `task-`")
    space: str | None = Field(None, description="only images in this template, for example MNI152NLin6Asym")
    res: str | None = Field(None, description="only images with this `res` in their BIDS name, for example 2")
    bids_filter_file: Path | None = Field(None, description="fMRIPrep's JSON of entities to take")
    mask_source: Path | None = Field(None, description="mask whose voxels a Brainmarks file lists")
    channels: str | None = Field(None, description="table of region names and places, or `none` where they are not known")
    atlas: str | None = Field(None, description="atlas whose series are taken, where XCP-D or giga_connectome wrote those of several")
    resolution: Literal["2mm", "4mm", "8mm", "8mm-p1"] = "2mm"
    mask: Path | None = Field(None, description="brain mask in MNI space; nilearn's MNI152 mask if not given")
    tr: float | None = Field(None, gt=0, description="seconds per frame, where neither sidecar nor header says")
    window_frames: int = Field(8, ge=1, description="a run shorter than one window is refused")
    warn_coverage: float = Field(0.95, ge=0, le=1, description="share of the mask under which a run is kept with a warning")
    denoise: Strategy = Field("none", description="nuisance regression with fMRIPrep's confounds")
    flag_nonfinite: bool = Field(False, description="frames without finite values in most of the brain are bridged and flagged")
    nprocs: int = Field(1, ge=1, description="runs worked on at once")
    force: bool = Field(False, description="prepare again what the store already has")
    shard: str | None = Field(None, description="only this part of the runs, such as 3/16; `collect` lists what all parts prepared")
    governance: Path | None = Field(None, description="governance.yaml of the source; the one at its root if not given")
    cohort: str | None = Field(None, description="study that the participants are of")
    source_id: str | None = Field(None, description="where the data were got, for example a DOI")
    license: str | None = Field(None, description="SPDX id of the licence, or the name of a use agreement")
    consent: tuple[str, ...] = Field((), description="scopes of the participants' consent")
    not_for: tuple[str, ...] = Field((), description="who may not see the data")
    readmit: tuple[str, ...] = Field((), description="participants who were withdrawn and consented again, with or without `sub-`")


def checked_options(values: Mapping[str, Any]) -> PrepOptions:
    """What was typed, by the names of the options; None counts as not given.

    Raises
    ------
    InputError
        If a value is not accepted.
    """
    try:
        return PrepOptions.model_validate({name: value for name, value in values.items() if value is not None})
    except ValidationError as error:
        option = str(error.errors()[0]["loc"][0]).replace("_", "-")
        raise InputError(f"--{option}: {refusal(error)}; see `slimbrain prep --help`.") from error
