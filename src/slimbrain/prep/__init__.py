"""Preparation: preprocessed fMRI in, however it is laid out, a store out."""

from __future__ import annotations

from slimbrain.prep.exclusion import ExcludedRun
from slimbrain.prep.run import PreparedRun, PrepOptions, PrepSummary, prepare
from slimbrain.prep.runs import Failure

__all__ = ["ExcludedRun", "Failure", "PrepOptions", "PrepSummary", "PreparedRun", "prepare"]
