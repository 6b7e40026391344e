"""Which windows are worth looking at: what each is worth, in which order to take them, and the table that says so."""

from slimbrain.saliency.fast import fast_scores
from slimbrain.saliency.ranking import rank_session, rank_store, trained_saliency
from slimbrain.saliency.scores import WindowScores, exact_scores, window_errors, z
from slimbrain.saliency.select import (
    order_apart,
    order_by_score,
    order_diverse,
    order_spread,
    ranks_of,
    select_uniform,
)
from slimbrain.saliency.table import WindowRow, read_window_table, window_rows, within_budget, write_window_table

__all__ = [
    "WindowRow",
    "WindowScores",
    "exact_scores",
    "fast_scores",
    "order_apart",
    "order_by_score",
    "order_diverse",
    "order_spread",
    "rank_session",
    "rank_store",
    "ranks_of",
    "read_window_table",
    "select_uniform",
    "trained_saliency",
    "window_errors",
    "window_rows",
    "within_budget",
    "write_window_table",
    "z",
]
