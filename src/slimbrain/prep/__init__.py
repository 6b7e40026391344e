"""Preparation: preprocessed fMRI in, however it is laid out, a store out."""

from __future__ import annotations

from slimbrain.prep.exclusion import ExcludedRun
from slimbrain.prep.options import PrepOptions
from slimbrain.prep.run import PrepSummary, prepare
from slimbrain.prep.runs import Failure
from slimbrain.prep.session import PreparedRun

__all__ = ["ExcludedRun", "Failure", "PrepOptions", "PrepSummary", "PreparedRun", "prepare"]
