"""What `slimbrain prep` lets one choose."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from slimbrain.prep.denoise import Strategy
from slimbrain.prep.exclusion import Limits
from slimbrain.prep.layouts import AUTO


class PrepOptions(Limits):
    """Which runs are taken, and what is made of them.

    Parameters
    ----------
    min_coverage : float
        Least share of the brain mask that a run must cover. A run that misses one of these five limits is excluded.
    min_tsnr : float or None
        Least tSNR, median over the brain. None sets no limit, here and below.
    max_fd_mean : float or None
        Largest framewise displacement in mm, mean over the run.
    max_flagged : float or None
        Largest share of frames that moved over 0.5 mm or have a spike.
    min_template_overlap : float or None
        Least overlap of the image with the MNI brain mask.
    layout : str
        How the source is laid out, as `slimbrain prep --layout`; recognised if `auto`.
    participant_label, session_id, task_id : tuple of str
        Only these, with or without `sub-`, `ses-` or `task-`; all if empty.
    space : str or None
        Only images in this template, for example MNI152NLin6Asym.
    res : str or None
        Only images with this `res` in their BIDS name, for example 2.
    bids_filter_file : Path or None
        fMRIPrep's JSON of entities to take.
    mask_source : Path or None
        Mask whose voxels a Brainmarks file lists.
    channels : str or None
        Table of region names and places, or `none` where they are not known.
    atlas : str or None
        Atlas whose series are taken, where XCP-D or giga_connectome wrote those of several.
    resolution : str
        Lattice; `8mm-p1` has patches of one voxel.
    mask : Path or None
        Brain mask in MNI space; nilearn's MNI152 mask if None.
    tr : float or None
        Seconds per frame, where neither sidecar nor header says.
    window_frames : int
        A run shorter than one window is refused.
    warn_coverage : float
        Share of the mask under which a run is kept with a warning.
    denoise : str
        Nuisance regression with fMRIPrep's confounds.
    flag_nonfinite : bool
        Interpolate and flag frames that are not finite in most of the brain, rather than refuse the run.
    nprocs : int
        Runs prepared at once.
    force : bool
        Prepare again what the store already has.
    shard : str or None
        Only this part of the runs, such as 3/16; `collect` lists what all parts prepared.
    governance : Path or None
        governance.yaml of the source; the one at its root if None.
    cohort : str or None
        Study that the participants are of.
    source_id : str or None
        Where the data were got, for example a DOI.
    license : str or None
        SPDX id of the licence, or the name of a use agreement.
    consent : tuple of str
        Scopes of the participants' consent.
    not_for : tuple of str
        Who may not use the data.
    readmit : tuple of str
        Participants who were withdrawn and consented again, with or without `sub-`.

    Examples
    --------
    >>> PrepOptions(participant_label=("01",), resolution="8mm").denoise
    'none'
    """

    layout: str = AUTO
    participant_label: tuple[str, ...] = ()
    session_id: tuple[str, ...] = ()
    task_id: tuple[str, ...] = ()
    space: str | None = None
    res: str | None = None
    bids_filter_file: Path | None = None
    mask_source: Path | None = None
    channels: str | None = None
    atlas: str | None = None
    resolution: Literal["2mm", "4mm", "8mm", "8mm-p1"] = "2mm"
    mask: Path | None = None
    tr: float | None = Field(None, gt=0)
    window_frames: int = Field(8, ge=1)
    warn_coverage: float = Field(0.95, ge=0, le=1)
    denoise: Strategy = "none"
    flag_nonfinite: bool = False
    nprocs: int = Field(1, ge=1)
    force: bool = False
    shard: str | None = None
    governance: Path | None = None
    cohort: str | None = None
    source_id: str | None = None
    license: str | None = None
    consent: tuple[str, ...] = ()
    not_for: tuple[str, ...] = ()
    readmit: tuple[str, ...] = ()
