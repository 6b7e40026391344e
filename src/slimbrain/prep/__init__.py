"""Preparation: a BIDS derivative of preprocessed fMRI in, a store out."""

from __future__ import annotations

from slimbrain.prep.bids import Failure
from slimbrain.prep.exclusion import ExcludedRun
from slimbrain.prep.run import PreparedRun, PrepOptions, PrepSummary, prepare

__all__ = ["ExcludedRun", "Failure", "PrepOptions", "PrepSummary", "PreparedRun", "prepare"]
