"""Nuisance regression with fMRIPrep's confounds, chosen by nilearn's named strategies."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sized
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from slimbrain.errors import InputError
from slimbrain.prep.runs import Run

_FloatArray = npt.NDArray[Any]
_WAY_OUT = "complete the table, or use --denoise none"
Strategy = Literal["none", "simple", "scrubbing"]


@dataclass(frozen=True)
class Confounds:
    """What to regress out.

    Attributes
    ----------
    design : ndarray
        (T, K) regressors, centred.
    kept : ndarray of bool
        (T,) False at frames that the strategy flags; they do not shape the fit, but stay in the series.
    names : tuple of str
        K column names.
    """

    design: _FloatArray
    kept: npt.NDArray[np.bool_]
    names: tuple[str, ...]

    def remove(self, series: _FloatArray) -> _FloatArray:
        """What least squares on the kept frames leaves of (T, N) series; every frame is cleaned, the mean is not removed."""
        design = self.design - self.design[self.kept].mean(axis=0)
        kept = series[self.kept]
        weights = np.linalg.pinv(design[self.kept]) @ (kept - kept.mean(axis=0))
        return np.asarray(series - design @ weights)


def load_confounds(run: Run, strategy: Strategy, n_frames: int) -> Confounds | None:
    """Read the run's confounds as nilearn's strategy of that name takes them; None for `none`.

    `simple`: high-pass cosines, 24 motion terms, white matter and CSF. `scrubbing`: the same with derivatives and squares of
    white matter and CSF, and frames with framewise displacement over 0.5 mm or standardised DVARS over 1.5 (nilearn 0.14)
    flagged, with segments of fewer than 5 frames between them. Frames before the steady state are flagged by both.

    Raises
    ------
    InputError
        If the table is missing, lacks columns, has another length, or leaves no degree of freedom.
    """
    if strategy == "none":
        return None
    if run.confounds is None:
        raise InputError(f"{run.name}: has no desc-confounds_timeseries.tsv beside it; add it, or use --denoise none.")
    from nilearn.interfaces.fmriprep import load_confounds_strategy

    try:
        with _named_as_by_fmriprep(run.confounds) as image:
            table, sample = load_confounds_strategy(str(image), denoise_strategy=strategy)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{run.confounds}: does not serve --denoise {strategy} ({_one_line(error)}); {_WAY_OUT}.") from error
    if table is None or len(table) != n_frames:
        raise InputError(f"{run.confounds}: has {_length(table)} rows for {n_frames} frames; use the table of this run.")
    kept = np.ones(n_frames, bool) if sample is None else np.isin(np.arange(n_frames), sample)
    design = table.to_numpy(np.float64)
    if not np.isfinite(design).all():
        raise InputError(f"{run.confounds}: lacks numbers that --denoise {strategy} needs; {_WAY_OUT}.")
    if kept.sum() <= design.shape[1] + 1:
        unflagged = int(kept.sum())
        raise InputError(f"{run.confounds}: {design.shape[1]} regressors on {unflagged} kept frames leave nothing; use --denoise none.")
    return Confounds(design, kept, tuple(map(str, table.columns)))


@contextmanager
def _named_as_by_fmriprep(table: Path) -> Iterator[Path]:
    """An image's name beside which nilearn finds the table: it looks tables up by name alone, and a list may name any file."""
    with tempfile.TemporaryDirectory(prefix="slimbrain-") as folder:
        ending = "regressors" if table.stem.endswith("regressors") else "timeseries"
        link = Path(folder) / f"sub-x_task-x_desc-confounds_{ending}.tsv"
        link.symlink_to(table.resolve())
        # fMRIPrep describes the columns in a JSON file of the same name.
        if table.with_suffix(".json").is_file():
            link.with_suffix(".json").symlink_to(table.with_suffix(".json").resolve())
        image = Path(folder) / "sub-x_task-x_space-MNI152NLin6Asym_desc-preproc_bold.nii.gz"
        image.touch()
        yield image


def _length(table: Sized | None) -> int:
    return 0 if table is None else len(table)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()).rstrip(".")
