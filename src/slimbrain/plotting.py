"""Figures for papers and notebooks: scores, windows, maps, curves over labelled participants; matplotlib, each returning its axes."""

from __future__ import annotations

import csv
import json
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slimbrain.colours import stops
from slimbrain.errors import InputError
from slimbrain.evaluate.result import Estimate, Result, Row, read_result
from slimbrain.evaluate.stats import metric_words
from slimbrain.evaluate.tasks import label_name
from slimbrain.saliency import WindowRow, read_window_table

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from nibabel.spatialimages import SpatialImage

__all__ = ["plot_label_curve", "plot_map", "plot_scores", "plot_windows"]

_OURS, _BEST, _OTHER, _FAINT = "#0072b2", "#d55e00", "#555555", "#aaaaaa"
"""Blue for our models, orange for the best baseline (Okabe and Ito's colours), greys for the rest."""

_NOTHING = 1e-6
"""Of a map's largest magnitude: what is smaller is not drawn."""

_ROW_IN, _WIDTH_IN, _NAME_WIDTH = 0.28, 6.5, 42
"""Of figures in inches; of a row's name in letters, after which it goes on in the next line."""


def plot_scores(result: Result | str | Path, metric: str | None = None, ax: Axes | None = None) -> Axes:
    """Every model and baseline of an evaluation with its 95 % interval, and the chance level.

    Parameters
    ----------
    result : Result, str or Path
        What `slimbrain evaluate --out` wrote, or its path.
    metric : str, optional
        The task's primary metric if not given.
    ax : Axes, optional
        Where to draw; a new figure if not given.

    Returns
    -------
    Axes
        Rows from top to bottom in the order of the table.

    Raises
    ------
    InputError
        If the result cannot be read, or has no such metric.

    Examples
    --------
    >>> from slimbrain import plotting
    >>> ax = plotting.plot_scores("sex.json")
    >>> ax.get_title()
    'sex, 40 participants'
    >>> ax.figure.savefig("scores.pdf")
    """
    result = result if isinstance(result, Result) else read_result(result)
    metric = metric or result.metrics[0]
    if metric not in result.metrics:
        raise InputError(f"{metric}: is no metric of this result; choose one of {', '.join(result.metrics)}.")
    rows = [(row, row.mean) for row in result.rows if row.metric == metric and row.mean is not None]
    names = [textwrap.fill(_name(row), _NAME_WIDTH) for row, _ in rows]
    lines = [1 + name.count("\n") for name in names]
    # A row lies in the middle of its name's lines, which do not run into the next one's.
    places = [end - count / 2 for end, count in zip(accumulate(lines), lines, strict=True)]
    ax = _axes(ax, sum(lines) * _ROW_IN + 1)
    best = result.best_baseline.predictor
    for place, (row, mean) in zip(places, rows, strict=True):
        colour = _OURS if row.model in result.ours else _BEST if row.predictor == best else _OTHER
        if row.low is not None and row.high is not None:
            ax.plot([row.low, row.high], [place, place], color=colour, linewidth=2)
        ax.plot([mean], [place], marker="o", color=colour)
    known = metric in result.chance
    if known:
        ax.axvline(result.chance[metric], color=_FAINT, linestyle="--", label="chance")
    ax.set_yticks(places, names)
    ax.invert_yaxis()
    # In the label: a legend would lie on some interval.
    ax.set_xlabel(metric_words(metric) + (" (dashed: chance)" if known else ""))
    ax.set_title(f"{label_name(result.task)}, {result.n_subjects} participants")
    return ax


def plot_windows(
    windows: str | Path | Sequence[WindowRow], session: str | None = None, k: int | None = None, ax: Axes | None = None
) -> Axes:
    """Scores of the windows of one session along time; those taken first are filled.

    Parameters
    ----------
    windows : str, Path or sequence of WindowRow
        A table of `slimbrain rank`, or its rows.
    session : str, optional
        Key of the session; needed where there are several.
    k : int, optional
        How many windows to fill; a third of them if not given.
    ax : Axes, optional
        Where to draw; a new figure if not given.

    Returns
    -------
    Axes
        One bar per window: its score over its onset, in s.

    Raises
    ------
    InputError
        If the table cannot be read, or the session is not there or must be named.

    Examples
    --------
    >>> from slimbrain import plotting
    >>> ax = plotting.plot_windows("windows.tsv", session="sub-01", k=2)
    >>> len(ax.patches), ax.get_xlabel()
    (4, 'time (s)')
    """
    rows = list(windows) if isinstance(windows, Sequence) and not isinstance(windows, str) else []
    table = read_window_table(windows) if isinstance(windows, (str, Path)) else _by_session(rows)
    if session is None and len(table) == 1:
        session = next(iter(table))
    if session not in table:
        what = f"has no session {session}" if session else f"has {len(table)} sessions, one must be named"
        raise InputError(f"the window table {what}; it holds {', '.join(list(table)[:3])}{', ...' if len(table) > 3 else ''}.")
    chosen = sorted(table[session], key=lambda row: row.onset_s)
    k = max(1, len(chosen) // 3) if k is None else k
    ax = _axes(ax, 2.2)
    ax.bar(
        [row.onset_s for row in chosen],
        [row.score for row in chosen],
        width=[row.duration_s for row in chosen],
        align="edge",
        color=[_OURS if row.among(k) else "white" for row in chosen],
        edgecolor=_OURS,
    )
    ax.axhline(0, color=_FAINT, linewidth=0.8)
    ax.set_xlabel("time (s)")
    ax.set_ylabel("score")
    # On two lines: a key takes the width of the figure.
    ax.set_title(f"{session}\nthe {k} windows taken first are filled", fontsize="medium")
    return ax


def plot_map(image: SpatialImage | str | Path, ax: Axes | None = None, title: str = "", **options: Any) -> Axes:
    """A 3D map on the MNI152 template, by nilearn, in the colours of the report and of the pictures of `slimbrain explain`.

    Voxels of zero, or without a value, show the template, however small the others are and whatever `threshold` is.

    Parameters
    ----------
    image : image, str or Path
        3D NIfTI image in MNI space: a map of `slimbrain explain`, or `store.image(key, frame)`.
    ax : Axes, optional
        Where to draw; a new figure if not given.
    title : str, optional
        Above the map.
    **options
        Of nilearn's `plot_stat_map`, such as `threshold` and `cut_coords`.

    Returns
    -------
    Axes
        Those that hold nilearn's slices.

    Raises
    ------
    InputError
        If there is no such file, or the image does not have three axes.

    Examples
    --------
    >>> from slimbrain import Store, plotting
    >>> store = Store("store")
    >>> ax = plotting.plot_map(store.image(store.sessions[0].key, 0, zscored=True), title="first frame", cut_coords=(0, 0, 0))
    >>> ax.get_title()
    'first frame'
    """
    import numpy as np
    from matplotlib.colors import LinearSegmentedColormap
    from nilearn.image import load_img
    from nilearn.plotting import plot_stat_map

    if isinstance(image, (str, Path)) and not Path(image).expanduser().is_file():
        raise InputError(f"{image}: is not there; name a NIfTI map, such as one that slimbrain explain wrote.")
    loaded = load_img(str(image) if isinstance(image, Path) else image)
    if len(loaded.shape) != 3:
        raise InputError(f"the image has the shape {loaded.shape}; give a map with three axes, such as store.image(key, 0).")
    values = np.nan_to_num(np.asarray(loaded.dataobj, dtype=np.float64), posinf=0, neginf=0)
    signed, largest = bool((values < 0).any()), float(np.abs(values).max())
    ax = _axes(ax, 2.6)
    colours = {"cmap": LinearSegmentedColormap.from_list("slimbrain-map", stops(signed)), "symmetric_cbar": signed}
    # Of a spline, zeros beside values would come out as something.
    drawn = {**colours, "resampling_interpolation": "nearest", "threshold": None, **options}
    if drawn["threshold"] is None:
        # nilearn would paint zero with None, and with its own 1e-6 leave out all of a map of small values.
        drawn["threshold"] = _NOTHING * largest
    if not largest and not {"cut_coords", "display_mode"} & set(options):
        drawn["cut_coords"] = (0, 0, 0)
    plot_stat_map(loaded, axes=ax, **drawn)
    # nilearn's own title is a black box over the first slices.
    ax.set_title(title)
    return ax


def plot_label_curve(
    curve: Result | str | Path | Iterable[Mapping[str, Any]], methods: Sequence[str] | None = None, ax: Axes | None = None
) -> Axes:
    """A metric over the number of labelled participants, one line with its 95 % interval per method.

    Parameters
    ----------
    curve : Result, str, Path or iterable of mapping
        A result of `slimbrain evaluate --labelled`, its JSON file, or rows (a CSV file of results/) with the columns labelled, method,
        metric, mean, low and high.
    methods : sequence of str, optional
        Which to draw, in this order; all if not given.
    ax : Axes, optional
        Where to draw; a new figure if not given.

    Returns
    -------
    Axes
        The number of labelled participants, on a logarithmic scale, against the metric.

    Raises
    ------
    InputError
        If it cannot be read, or there is no curve in it, or no such method.

    Examples
    --------
    >>> from slimbrain import plotting
    >>> rows = [
    ...     {"labelled": 30, "method": "ours", "metric": "auc", "mean": 0.60, "low": 0.52, "high": 0.68},
    ...     {"labelled": 120, "method": "ours", "metric": "auc", "mean": 0.71, "low": 0.66, "high": 0.76},
    ... ]
    >>> ax = plotting.plot_label_curve(rows)
    >>> ax.get_xlabel(), ax.get_ylabel()
    ('labelled participants', 'AUC')
    """
    points = [point for point in _points(curve) if point["labelled"] > 0]
    if not points:
        raise InputError("there is no curve over labelled participants in this; run slimbrain evaluate with --labelled 30,60,120.")
    names = list(dict.fromkeys(point["method"] for point in points))
    if lost := sorted(set(methods or ()) - set(names)):
        raise InputError(f"{lost[0]}: is no method of this curve; choose among {', '.join(names)}.")
    ax = _axes(ax, 3.6)
    for name in methods or names:
        line = sorted((point for point in points if point["method"] == name), key=lambda point: point["labelled"])
        sizes = [point["labelled"] for point in line]
        (drawn,) = ax.plot(sizes, [point["mean"] for point in line], marker="o", label=name)
        ax.fill_between(sizes, [point["low"] for point in line], [point["high"] for point in line], alpha=0.15, color=drawn.get_color())
    ax.set_xscale("log")
    everywhere = sorted({point["labelled"] for point in points})
    ax.set_xticks(everywhere, [f"{size:g}" for size in everywhere])
    ax.minorticks_off()
    ax.set_xlabel("labelled participants")
    ax.set_ylabel(metric_words(str(points[0]["metric"])))
    ax.legend(frameon=False)
    return ax


def _points(curve: Result | str | Path | Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    if isinstance(curve, (str, Path)):
        try:
            return _points_of_file(Path(curve))
        except (OSError, ValueError, TypeError, AttributeError, KeyError) as error:
            reason = getattr(error, "strerror", None) or error
            raise InputError(
                f"{curve}: cannot be read as a curve ({reason}); give the JSON of slimbrain evaluate --labelled, or a CSV."
            ) from error
    if isinstance(curve, Result):
        return _from_json(curve.to_dict())
    return _from_rows(curve.to_dict("records") if hasattr(curve, "to_dict") else curve)


def _points_of_file(path: Path) -> list[dict[str, Any]]:
    if path.suffix == ".csv":
        with open(path, encoding="utf-8", newline="") as handle:
            return _from_rows(csv.DictReader(handle))
    return _from_json(json.loads(path.read_text(encoding="utf-8")))


def _from_rows(rows: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    rows = list(rows)
    if rows and (lost := [name for name in ("labelled", "method", "mean") if name not in rows[0]]):
        raise InputError(f"the table has no column {lost[0]}; give one with labelled, method, metric, mean, low and high.")
    return [_point(row, str(row["method"]), row.get("labelled")) for row in rows]


def _from_json(result: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [
        _point(row, f"{row['model']}, {row['method']}", place["labelled"]) for place in result.get("labelled", ()) for row in place["rows"]
    ]


def _point(row: Mapping[str, Any], method: str, labelled: Any) -> dict[str, Any]:
    """A point of a curve; an empty cell is no number, and a row without labelled participants has 0."""
    numbers = {name: float("nan") if row.get(name) in (None, "") else float(row[name]) for name in ("mean", "low", "high")}
    try:
        size = float(labelled or 0)
    except ValueError:
        size = 0.0
    return {"labelled": size, "method": method, "metric": row.get("metric", ""), **numbers}


def _by_session(rows: Sequence[WindowRow]) -> dict[str, list[WindowRow]]:
    found: dict[str, list[WindowRow]] = {}
    for row in rows:
        found.setdefault(row.session, []).append(row)
    return found


def _name(row: Row | Estimate) -> str:
    return f"{row.model}, {row.method}" if row.method and row.method != row.model else row.model


def _axes(ax: Axes | None, height_in: float) -> Axes:
    """The axes given, or those of a new figure."""
    if ax is not None:
        return ax
    from matplotlib import pyplot

    return pyplot.subplots(figsize=(_WIDTH_IN, height_in), layout="constrained")[1]


def __dir__() -> list[str]:
    return __all__
