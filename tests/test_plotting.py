"""Figures: what is drawn is what the files hold, on the axes given, and what is not there is said."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pandas as pd
import pytest
from figure_samples import result, windows
from matplotlib import pyplot

from slimbrain import plotting
from slimbrain.errors import InputError
from slimbrain.evaluate.result import write_result
from slimbrain.saliency import write_window_table


@pytest.fixture(autouse=True)
def closed() -> Iterator[None]:
    yield
    pyplot.close("all")


def test_scores_are_drawn_where_they_are(tmp_path: Path) -> None:
    figure, ax = pyplot.subplots()
    drawn = plotting.plot_scores(write_result(tmp_path / "sex.json", result()), ax=ax)
    assert drawn is ax and len(figure.axes) == 1
    points = [line for line in ax.lines if line.get_marker() == "o"]
    assert [line.get_xdata()[0] for line in points] == [0.6, 0.7, 0.5]
    assert len({points[0].get_color(), points[1].get_color(), points[2].get_color()}) == 3
    spans = [line.get_xdata() for line in ax.lines if line.get_marker() != "o" and len(set(line.get_ydata())) == 1]
    np.testing.assert_allclose(spans, [[0.5, 0.65], [0.6, 0.75], [0.4, 0.55]])
    assert [label.get_text() for label in ax.get_yticklabels()] == ["ours, linear probe", "tangent, logistic", "majority"]
    assert ax.get_ylim()[0] > ax.get_ylim()[1], "the first row is at the top"
    assert [line.get_xdata()[0] for line in ax.lines if line.get_label() == "chance"] == [0.5]


def test_long_names_leave_room_for_the_scores() -> None:
    method = "tangent towards the population, whole run, and linear probe"
    rows = tuple(row.model_copy(update={"model": "connectivity + slimbrain voxel", "method": method}) for row in result().rows)
    ax = plotting.plot_scores(result().model_copy(update={"rows": rows}))
    ax.figure.canvas.draw()
    assert ax.get_window_extent().width > 0.4 * ax.figure.bbox.width


def test_another_metric_has_its_own_chance() -> None:
    ax = plotting.plot_scores(result(), "accuracy")
    assert [line.get_xdata()[0] for line in ax.lines if line.get_label() == "chance"] == [0.75]
    assert ax.get_xlabel() == "accuracy (dashed: chance)"
    with pytest.raises(InputError, match="choose one of auc, accuracy"):
        plotting.plot_scores(result(), "r2")


def test_windows_are_bars_at_their_times(tmp_path: Path) -> None:
    ax = plotting.plot_windows(write_window_table(tmp_path / "windows.tsv", windows()), k=2)
    bars = list(ax.patches)
    assert [bar.get_height() for bar in bars] == [0.5, -1.0, 2.0, 0.0] and [bar.get_x() for bar in bars] == pytest.approx(
        [0, 5.76, 11.52, 17.28]
    )
    filled = [bar.get_facecolor()[:3] != (1.0, 1.0, 1.0) for bar in bars]
    assert filled == [True, False, True, False]


def test_a_session_must_be_named_where_there_are_several() -> None:
    rows = [*windows(), *(replace(row, session="sub-02") for row in windows())]
    assert "sub-02" in plotting.plot_windows(rows, "sub-02").get_title()
    with pytest.raises(InputError, match="has 2 sessions, one must be named; it holds sub-01, sub-02"):
        plotting.plot_windows(rows)
    with pytest.raises(InputError, match="has no session sub-09"):
        plotting.plot_windows(rows, "sub-09")


def test_a_map_is_drawn_on_the_axes_given() -> None:
    values = np.random.default_rng(0).standard_normal((12, 12, 12)).astype(np.float32)
    affine = np.diag([12.0, 12, 12, 1])
    affine[:3, 3] = (-66, -90, -60)
    image = nibabel.Nifti1Image(values, affine)
    figure, ax = pyplot.subplots()
    assert plotting.plot_map(image, ax=ax, title="x", cut_coords=(0, 0, 0)) is ax and len(figure.axes) > 3
    with pytest.raises(InputError, match="three axes"):
        plotting.plot_map(nibabel.Nifti1Image(values[..., None].repeat(2, -1), affine))


def drawn_of_map(image: nibabel.Nifti1Image, **options: object) -> list[np.ndarray]:
    """(N,) values that each slice paints over the template."""
    figure = plotting.plot_map(image, **options).figure
    shown = [one for ax in figure.axes for one in ax.images if one.get_cmap().name.startswith("slimbrain-map")]
    return [np.ma.masked_invalid(one.get_array()).compressed() for one in shown]


@pytest.mark.parametrize("options", [{}, {"threshold": None}, {"threshold": 0}], ids=str)
@pytest.mark.parametrize("scale", [1.0, -1.0, 1e-9])
@pytest.mark.parametrize("oblique", [False, True])
def test_zero_shows_the_template_and_small_values_are_drawn(options: dict[str, object], scale: float, oblique: bool) -> None:
    values = np.zeros((12, 12, 12), np.float32)
    values[:2] = [[[np.nan]], [[np.inf]]]
    values[3:7, 4:8, 4:8] = 3 * scale
    values[6, 6, 6] = 1e-3 * scale
    affine = np.diag([12.0, 12, 12, 1])
    if oblique:
        affine[:3, :3] = affine[:3, :3] @ [[np.cos(0.3), -np.sin(0.3), 0], [np.sin(0.3), np.cos(0.3), 0], [0, 0, 1]]
    affine[:3, 3] = (-66, -90, -60)
    cuts = tuple(float(place) for place in (affine @ [6, 6, 6, 1])[:3])
    slices = drawn_of_map(nibabel.Nifti1Image(values, affine), cut_coords=cuts, **options)
    assert len(slices) == 3
    for painted in slices:
        assert np.isin(painted, np.float32([3 * scale, 1e-3 * scale])).all()
        assert painted.size > 0 and (oblique or painted.size == 16), "the template is seen around the values"


def test_a_map_of_zeros_shows_the_template_alone() -> None:
    affine = np.diag([12.0, 12, 12, 1])
    affine[:3, 3] = (-66, -90, -60)
    figure = plotting.plot_map(nibabel.Nifti1Image(np.zeros((12, 12, 12), np.float32), affine)).figure
    assert not any(drawn.size for drawn in drawn_of_map(nibabel.Nifti1Image(np.zeros((12, 12, 12), np.float32), affine)))
    template = [one.get_array() for ax in figure.axes for one in ax.images if not one.get_cmap().name.startswith("slimbrain-map")]
    assert sum(np.ma.masked_invalid(one).count() > 1000 for one in template) == 3


def test_a_curve_is_the_same_from_a_table_a_file_and_a_result(tmp_path: Path) -> None:
    table = pd.DataFrame(
        [
            {"task": "sex", "labelled": size, "method": method, "metric": "auc", "mean": mean, "low": mean - 0.1, "high": mean + 0.1}
            for method, means in (("ours, linear probe", (0.55, 0.7)), ("tangent, logistic", (0.6, 0.65)))
            for size, mean in zip((30, 120), means, strict=True)
        ]
    )
    table.loc[len(table)] = ["sex", np.nan, "no curve", "auc", 0.9, 0.8, 1.0]
    table.to_csv(tmp_path / "few.csv", index=False)
    points = [
        {"labelled": size, "rows": [row | dict(zip(("model", "method"), row["method"].split(", "), strict=True)) for row in rows]}
        for size, rows in ((size, table[table["labelled"] == size].to_dict("records")) for size in (120, 30))
    ]
    (tmp_path / "few.json").write_text(json.dumps({"labelled": points}))
    for source in (table.dropna(), tmp_path / "few.csv", str(tmp_path / "few.json"), table.to_dict("records")):
        ax = plotting.plot_label_curve(source)
        drawn = {line.get_label(): (list(line.get_xdata()), list(line.get_ydata())) for line in ax.lines}
        assert drawn == {"ours, linear probe": ([30, 120], [0.55, 0.7]), "tangent, logistic": ([30, 120], [0.6, 0.65])}
        assert [label.get_text() for label in ax.get_xticklabels()] == ["30", "120"] and ax.get_ylabel() == "AUC"
    one = plotting.plot_label_curve(table.dropna(), methods=["tangent, logistic"])
    assert len(one.lines) == 1


def test_what_has_no_curve_says_so() -> None:
    with pytest.raises(InputError, match="--labelled 30,60,120"):
        plotting.plot_label_curve(result())
    rows = [{"labelled": 30, "method": "a", "metric": "auc", "mean": 0.5, "low": 0.4, "high": 0.6}]
    with pytest.raises(InputError, match="b: is no method of this curve; choose among a"):
        plotting.plot_label_curve(rows, methods=["b"])


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("away.json", None, "away.json: cannot be read as a curve (No such file or directory); give the JSON of slimbrain evaluate"),
        ("away.csv", None, "away.csv: cannot be read as a curve (No such file or directory)"),
        ("table.tsv", "a\tb\n", "table.tsv: cannot be read as a curve (Expecting value"),
        ("list.json", "[1]", "list.json: cannot be read as a curve ("),
        ("rows.csv", "labelled,metric,mean\n30,auc,0.5\n", "the table has no column method; give one with labelled, method"),
    ],
)
def test_a_file_that_holds_no_curve_is_refused_in_a_sentence(tmp_path: Path, name: str, text: str | None, said: str) -> None:
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(InputError) as refused:
        plotting.plot_label_curve(tmp_path / name)
    assert said in str(refused.value) and str(refused.value).endswith(".")


def test_a_map_that_is_not_there_is_refused_in_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"away\.nii\.gz: is not there; name a NIfTI map"):
        plotting.plot_map(tmp_path / "away.nii.gz")
