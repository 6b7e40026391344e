"""What the page says, against what is true: texts of drawings, what a run learnt, chance, one score per model, one colour code."""

from __future__ import annotations

import html
import io
import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from report_samples import TR, Page, make_explained, make_result, make_run, make_store, result_json, window_rows

from slimbrain.colours import page_colours, stops
from slimbrain.evaluate.result import Estimate, Row, as_result, read_result
from slimbrain.evaluate.stats import OutOfFold, bootstrap
from slimbrain.evaluate.table import _is_one_value, remarks
from slimbrain.explain.files import group_map
from slimbrain.grid import Grid
from slimbrain.report import ReportInputs, figures, forest, ink, label_curve, small_plots, write_report
from slimbrain.report.blocks import Column, TableBuilder
from slimbrain.report.figures import Marks
from slimbrain.report.page import _page_script
from slimbrain.report.recorded import read_run
from slimbrain.report.training import sentence
from slimbrain.saliency import write_window_table
from slimbrain.store import Channels, Store
from slimbrain.store.description import record_commands
from slimbrain.store.write import write_roi_session

# --- drawings

_TEXT = re.compile(r"<text\b[^>]*>(.*?)</text>", re.DOTALL)


@contextmanager
def matplotlibs_own(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The same figures as matplotlib itself writes them, beside what the page has of them."""
    written: list[str] = []
    original = ink.to_svg

    def both(figure: Figure, name: str, alt: str) -> Any:
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg")
        written.append(buffer.getvalue())
        return original(figure, name, alt)

    with monkeypatch.context() as patched:
        for module in (figures, forest, label_curve, small_plots):
            patched.setattr(module, "to_svg", both)
        yield written


def labelled(n: int) -> dict[str, Any]:
    """A place of a curve over labelled people."""
    value = result_json()
    return {"labelled": n, "n_tested": 9, **{name: value[name] for name in ("rows", "best_baseline", "differences")}}


def drawings(grid: Grid) -> Mapping[str, Any]:
    """Every figure of the page, with values whose ticks need many digits."""
    times = np.arange(60) * TR
    rows = [replace(row, informativeness=0.0025 * row.window, novelty=0.98765 + 1e-4 * row.window) for row in window_rows("a", [1.0, 3, 2])]
    result = as_result("x", result_json())
    curve = as_result("x", {**result_json(), "labelled": [labelled(30), labelled(60)]})
    small = {"learning rate": {"lr": ([0.0, 50.0], [0.0, 4e-4])}, "EMA momentum": {"ema": ([0.0, 50.0], [0.9951, 0.9999])}}
    shown = [row for row in result.rows if row.mean is not None]
    return {
        "carpet": figures.carpet(np.ones((60, 3)), np.arange(3.0), TR, {"FD (mm)": (times, times / 10_000)}, Marks(), "c", "words"),
        "scores": figures.window_scores(rows, 1, {"events": times[:3]}, "w", "words", (times, times / 3e4)),
        "curves": figures.curves(small, "l", "words"),
        "mosaic": figures.mosaic(grid, np.ones(grid.voxel_mask.shape), grid.voxel_mask, "m", "words"),
        "label curve": label_curve.label_curve(curve, "AUC", "k", "words"),
        "small plots": small_plots.small_plots(
            [small_plots.Panel.of_numbers("FD", [1e-4, 2e-4, 5e-4]), small_plots.Panel.of_names("site", ["A", "B", "B"])], "s", "words"
        ),
        "forest": forest.forest(shown, result.ours, result.best_baseline.predictor, 0.911, 0.5, "AUC", "f", "words"),
    }


def test_every_text_of_every_figure_is_matplotlibs(grid8: Grid, monkeypatch: pytest.MonkeyPatch) -> None:
    """Coordinates are rounded to keep the page small; a label that is rounded with them would be another number."""
    with matplotlibs_own(monkeypatch) as written:
        drawn = drawings(grid8)
    assert len(written) == len(drawn) == 7
    for (name, ours), theirs in zip(drawn.items(), written, strict=True):
        texts = _TEXT.findall(str(ours))
        assert texts == _TEXT.findall(theirs) and texts, name
    # The axes of this figure do need more than two digits: rounded, two ticks would read the same.
    ticks = [text for text in _TEXT.findall(str(drawn["curves"])) if re.fullmatch(r"[\d.]+", text)]
    assert len({float(tick) for tick in ticks if 0 < float(tick) < 0.001}) >= 2 and any(
        re.fullmatch(r"0\.99[5-9]\d*", tick) for tick in ticks
    )


def test_chance_is_drawn_and_named() -> None:
    result = as_result("x", result_json())
    shown = [row for row in result.rows if row.mean is not None]
    with_chance, without = (
        str(forest.forest(shown, result.ours, result.best_baseline.predictor, None, chance, "AUC", "f", "words")) for chance in (0.5, None)
    )
    assert "> chance </text>" in with_chance and "chance" not in without


def test_long_names_of_a_forest_plot_are_read_in_full() -> None:
    """A line has at most 56 letters, and no two lines are at one place."""
    model, method = (
        "connectivity + slimbrain voxel",
        "tangent towards the population, whole run, and linear probe, on frames that were chosen",
    )
    row = Row(model=model, method=method, metric="auc", mean=0.8, low=0.7, high=0.9)
    other = row.model_copy(update={"model": "other", "method": "probe"})
    svg = str(forest.forest([row, other, row], frozenset([model]), ("", ""), None, None, "AUC", "f", "words"))
    placed = re.findall(r'<text\b[^>]*?\bx="([^"]*)" y="([^"]*)"[^>]*>(.*?)</text>', svg)
    assert len({(x, y) for x, y, _ in placed}) == len(placed) == len(_TEXT.findall(svg))
    names = [text for _, _, text in sorted(placed, key=lambda each: float(each[1])) if not re.fullmatch(r"[\d.]+|AUC, .*", text)]
    long = f"{model}: {method}"
    assert " ".join(names) == f"{long} other: probe {long}" and max(map(len, names)) <= 56
    value = result_json()
    value["rows"][1] |= {"model": model, "method": method}
    curve = as_result("x", {**value, "labelled": [{**labelled(n), "rows": value["rows"]} for n in (30, 60)]})
    assert long in " ".join(_TEXT.findall(str(label_curve.label_curve(curve, "AUC", "k", "words"))))


# --- training


def test_noisy_losses_are_compared_by_their_first_and_last_tenths(tmp_path: Path) -> None:
    """The first and the last logged loss say the contrary: 0.665 and 0.678, between means of 0.753 and 0.671."""
    run = make_run(tmp_path / "voxel", "voxel")
    first, last = [0.665, 0.841], [0.664, 0.678]
    losses = [*first, *np.linspace(0.75, 0.68, 16), *last]
    lines = [json.dumps({"step": 10 * place, "loss": float(loss)}) for place, loss in enumerate(losses)]
    (run / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    assert "the loss fell, from 0.753 to 0.671 (means of the first and last tenth)" in sentence(read_run(run))


@pytest.mark.parametrize(("stages", "said", "unsaid"), [(["temporal"], "Stage 1.", "Stage 2."), (["voxel"], "Stage 2.", "Stage 1.")])
def test_each_stage_has_its_own_healthy_range(tmp_path: Path, stages: list[str], said: str, unsaid: str) -> None:
    runs = tuple(make_run(tmp_path / stage, stage) for stage in stages)
    words = Page(write_report(tmp_path / "page.html", ReportInputs(runs=runs)).read_text(encoding="utf-8")).words
    training = words[words.index("Training of both stages") :]
    assert f"{said} " in training and unsaid not in training
    assert ("a rank of 1 to 5 is usual" in training) == (stages == ["temporal"])


@pytest.mark.parametrize(
    ("held_out", "whom"), [(2, "of participants held out; 0 is"), (0, "of participants trained on, too few"), (None, "(0 is")]
)
def test_skill_is_said_to_be_of_whom_it_is_of(tmp_path: Path, held_out: int | None, whom: str) -> None:
    run = make_run(tmp_path / "voxel", "voxel")
    settings, log = run / "run.json", run / "metrics.jsonl"
    settings.write_text(json.dumps(json.loads(settings.read_text()) | {"held_out_sessions": held_out}))
    log.write_text("".join(json.dumps(json.loads(line) | {"skill": 0.2}) + "\n" for line in log.read_text().splitlines()))
    words = Page(write_report(tmp_path / "page.html", ReportInputs(runs=(run,))).read_text(encoding="utf-8")).words
    assert "a skill of 0.2 (" in words and whom in words


# --- chance


def at(path: Path, mean: float, low: float, high: float, gap: tuple[float, float] = (-0.3, 0.2)) -> Path:
    """A result whose first row is ours, with such a score, in 40 people."""
    value = json.loads(make_result(path).read_text())
    value["rows"][0] |= {"mean": mean, "low": low, "high": high}
    value["differences"][0] |= {"low": gap[0], "high": gap[1]}
    value |= {"n_subjects": 40, "classes": {"A": 20, "B": 20}}
    path.write_text(json.dumps(value))
    return path


@pytest.mark.parametrize(
    ("p", "said"), [(0.089, "cannot be told from chance (p 0.089, permuted labels); difference"), (0.04, "is not distinguishable")]
)
def test_permuted_labels_have_a_say_where_the_interval_is_too_narrow(tmp_path: Path, p: float, said: str) -> None:
    value = json.loads(at(tmp_path / "x.json", 0.95, 0.6, 1.0).read_text())
    value["rows"][0]["p"] = p
    (tmp_path / "x.json").write_text(json.dumps(value))
    assert f"ours-1 (AUC 0.950 [0.600, 1.000]) {said}" in remarks(read_result(tmp_path / "x.json"))[0]


@pytest.mark.parametrize(
    ("mean", "low", "high", "gap", "in_verdict", "shown"),
    [
        (1.0, 1.0, 1.0, (0.2, 0.2), True, "[1.000, 1.000]"),
        (0.0, 0.0, 0.0, (-0.7, -0.5), True, "[0.000, 0.000]"),
        (0.8, 0.0, 1.0, (0.0, 0.0), True, ""),
        (0.8, 0.0, 1.0, (-0.2, 0.2), False, ""),
        # What a constant prediction always has, however many there are.
        (0.5, 0.5, 0.5, (-0.2, 0.2), False, ""),
        (0.5, 0.5, 0.5, (0.0, 0.0), False, ""),
    ],
)
def test_an_interval_of_one_value_is_not_left_to_stand_for_certainty(
    tmp_path: Path, mean: float, low: float, high: float, gap: tuple[float, float], in_verdict: bool, shown: str
) -> None:
    path = at(tmp_path / "x.json", mean, low, high, gap)
    lines = remarks(read_result(path))
    assert ("(paired bootstrap; too few subjects for an interval)" in lines[0]) == in_verdict
    said = [line for line in lines if "is not certainty" in line]
    assert [line.split(", ", 1)[1].split(", is not")[0] for line in said] == ([f"such as {shown}"] if shown else [])
    page = Page(write_report(tmp_path / "page.html", ReportInputs(evaluations=(path,))).read_text()).words
    assert ("so few cannot give an interval" in page) == bool(shown)


def test_resamples_of_a_perfect_score_give_one_value() -> None:
    """Of the real bootstrap: two people of each class, all in the right order."""
    truth, folds = np.array([0.0, 0, 1, 1]), np.zeros((1, 4), dtype=np.int64)
    scores = np.stack([1 - truth, truth], axis=1)[None]
    names = np.array(["a", "b", "c", "d"])
    found = bootstrap(OutOfFold(names, truth, scores, folds, np.ones((1, 4)), np.zeros((1, 4)), ("A", "B")), "auc")
    assert _is_one_value(Estimate(model="m", method="x", metric="auc", mean=found.mean, low=found.low, high=found.high))


def test_a_score_whose_interval_holds_chance_is_called_so(tmp_path: Path) -> None:
    verdict, below, *_ = remarks(read_result(at(tmp_path / "x.json", 0.314, 0.13, 0.53)))
    assert "ours-1 (AUC 0.314 [0.130, 0.530]) is at chance (0.5)" in verdict and "not distinguishable" not in verdict
    assert below.startswith("A score below chance is what cross-validation of few participants gives")


@pytest.mark.parametrize(
    ("mean", "low", "high", "gap", "said"),
    [
        (0.56, 0.45, 0.66, (-0.4, -0.1), "is at chance (0.5), as far as 40 subjects can tell, and is beaten by the best baseline"),
        (0.56, 0.45, 0.66, (-0.1, 0.1), "is at chance (0.5), as far as 40 subjects can tell; difference from"),
        (0.81, 0.70, 0.90, (-0.1, 0.1), "is not distinguishable from the best baseline"),
    ],
)
def test_chance_and_the_best_baseline_are_two_questions(
    tmp_path: Path, mean: float, low: float, high: float, gap: tuple[float, float], said: str
) -> None:
    lines = remarks(read_result(at(tmp_path / "x.json", mean, low, high, gap)))
    assert said in lines[0] and not any("below chance" in line for line in lines)


# --- commands


def test_commands_are_read_from_the_files_that_they_made(tmp_path: Path, grid8: Grid) -> None:
    store = make_store(tmp_path / "store", grid8, n=1)
    for _ in range(2):
        record_commands(store.root, "slimbrain prep in store participant")
    windows = write_window_table(tmp_path / "windows.tsv", window_rows(store.sessions[0].key, [1.0, 2, 3, 4, 5, 6]), "slimbrain rank store")
    result = make_result(tmp_path / "group.json")
    value = json.loads(result.read_text()) | {"commands": ["slimbrain embed store", "slimbrain evaluate store"]}
    result.write_text(json.dumps(value))
    runs = tuple(make_run(tmp_path / stage, stage) for stage in ("temporal", "voxel"))
    settings = json.loads((runs[0] / "run.json").read_text())
    (runs[0] / "run.json").write_text(json.dumps({**settings, "commands": ["slimbrain split store", *settings["commands"]]}))
    inputs = ReportInputs(Store(store.root), windows, runs, (result,), commands=("slimbrain report",))
    text = write_report(tmp_path / "page.html", inputs).read_text(encoding="utf-8")
    listed = re.search(r"Command lines, in order</figcaption>\s*<pre[^>]*><code>(.*?)</code>", text, re.DOTALL)
    assert listed is not None
    words = ["prep in store participant", "split store", "pretrain temporal", "rank store", "pretrain voxel"]
    words += ["embed store", "evaluate store", "report"]
    assert html.unescape(listed[1]).split("\n") == [f"slimbrain {each}" for each in words]


# --- maps


def explained(tmp_path: Path, grid: Grid, low: float, pooling: str = "moments") -> tuple[Path, Path]:
    """Maps of a probe on moments, and an evaluation of the same weights and task that gives it another score."""
    folder = make_explained(tmp_path / "maps", grid)
    for method in ("gradientContrast", "gradient"):
        path = group_map(folder, method).record
        record = json.loads(path.read_text())
        record["model"] = {"weights_sha256": "f00d"}
        record["decided_by"] |= {"mean": 0.26, "low": 0.1, "high": 0.45, "pooling": "moments"}
        path.write_text(json.dumps(record))
    value = json.loads(at(tmp_path / "group.json", 0.314, low, 0.53).read_text())
    value["models"] = [{"name": "ours-1", "weights_sha256": "f00d", "pooling": pooling}]
    (tmp_path / "group.json").write_text(json.dumps(value))
    return folder, tmp_path / "group.json"


def test_one_model_has_one_score_on_the_page(tmp_path: Path, grid8: Grid) -> None:
    folder, result = explained(tmp_path, grid8, 0.13)
    words = Page(write_report(tmp_path / "a.html", ReportInputs(evaluations=(result,), explained=(folder,))).read_text()).words
    assert "0.26" not in words and "Held-out AUC 0.314 [0.130, 0.530], as in the evaluation" in words
    alone = Page(write_report(tmp_path / "b.html", ReportInputs(explained=(folder,))).read_text()).words
    assert "Held-out AUC 0.26 [0.10, 0.45]" in alone


def test_a_map_has_its_own_score_where_the_evaluation_read_the_model_otherwise(tmp_path: Path, grid8: Grid) -> None:
    folder, result = explained(tmp_path, grid8, 0.13, pooling="connectome")
    words = Page(write_report(tmp_path / "a.html", ReportInputs(evaluations=(result,), explained=(folder,))).read_text()).words
    assert "Held-out AUC 0.26 [0.10, 0.45]" in words and "as in the evaluation" not in words


@pytest.mark.parametrize(("low", "noise"), [(0.13, True), (0.51, False)])
def test_maps_of_a_decision_at_chance_carry_a_banner(tmp_path: Path, grid8: Grid, low: float, noise: bool) -> None:
    folder, result = explained(tmp_path, grid8, low)
    page = Page(write_report(tmp_path / "a.html", ReportInputs(evaluations=(result,), explained=(folder,))).read_text())
    banners = [attributes for attributes in page.named("p") if attributes.get("class") == "warning"]
    assert len(banners) == noise and ("so they show noise" in page.words) == noise


def test_page_and_pictures_have_one_colour_code() -> None:
    """The script's blend of its stops, redone here, is matplotlib's colour map of the pictures, sign by sign."""
    script = str(_page_script())
    named = {name: json.loads(re.search(rf"const {name} = (.*?);", script)[1]) for name in page_colours()}  # type: ignore[index]
    signed = LinearSegmentedColormap.from_list("signed", stops(True), N=2001)
    for share in (0.1, 0.5, 0.9, 1.0):
        for name, place in (("WARM", 0.5 + share / 2), ("COLD", 0.5 - share / 2)):
            channels = np.array(named[name]).T
            wanted = [np.interp(share, np.linspace(0, 1, channels.shape[1]), channel) for channel in channels]
            np.testing.assert_allclose(np.array(signed(place)[:3]) * 255, wanted, atol=1)


@pytest.mark.parametrize(("n", "words"), [(1, "1 flagged frame,"), (2, "2 flagged frames,")])
def test_counts_agree_with_their_nouns(tmp_path: Path, grid8: Grid, n: int, words: str) -> None:
    store = make_store(tmp_path / "store", grid8, n=1)
    sidecar = next((tmp_path / "store").rglob("*_bold.json"))
    value = json.loads(sidecar.read_text())
    value["Series"]["flagged"] = list(range(n))
    sidecar.write_text(json.dumps(value))
    text = write_report(tmp_path / "page.html", ReportInputs(store=Store(store.root))).read_text(encoding="utf-8")
    assert f"global signal, {words}" in text or words in text


def test_regions_without_an_atlas_are_not_listed(tmp_path: Path, grid8: Grid) -> None:
    """Units have places and no names."""
    named, nameless = make_explained(tmp_path / "a", grid8), make_explained(tmp_path / "b", grid8, atlas=None)
    for folder, tables in ((named, True), (nameless, False)):
        words = Page(write_report(tmp_path / "page.html", ReportInputs(explained=(folder,))).read_text(encoding="utf-8")).words
        assert ("unit_" in words) == tables and ("No atlas was given" in words) != tables


def test_flagged_frames_of_chosen_windows_are_counted_against_all(tmp_path: Path, grid8: Grid) -> None:
    """Frames 3 and 9 of 48 are flagged; windows of 8 frames; the first is chosen of each of the two that hold one."""
    store = make_store(tmp_path / "store", grid8, n=1)
    rows = window_rows(store.sessions[0].key, [5.0, 0, 3, 1, 1, 1])
    windows = write_window_table(tmp_path / "windows.tsv", rows)
    run = make_run(tmp_path / "voxel", "voxel")
    words = Page(write_report(tmp_path / "page.html", ReportInputs(store=store, windows=windows, runs=(run,))).read_text()).words
    # The two best are windows 0 and 2: one flagged frame of 16; in all, 2 of 48.
    assert "are 6.2 % of those in chosen windows, 4.2 % of those in all" in words


# --- a store of regions


def region_store(root: Path) -> Store:
    """Three people of two sites; one recording stands under two names, one person has a silent channel."""
    rng = np.random.default_rng(0)
    channels = Channels(tuple("abcdefgh"), rng.uniform(-60, 60, (8, 3)))
    store = Store.create(root, None, TR)
    twice = np.cumsum(rng.standard_normal((200, 8)), axis=0)
    for subject, series in (("01", twice), ("02", twice + 1e-3 * rng.standard_normal((200, 8))), ("03", rng.standard_normal((200, 8)))):
        if subject == "03":
            series[:, 5] = 0
        sidecar = {"SourceShape": [120, 8], "SourceRepetitionTime": 1.5 if subject == "03" else 2.0}
        write_roi_session(store, {"sub": subject, "task": "rest"}, series, channels, TR, sidecar)
    lines = ["participant_id\tsex\tage\tsite\tdiagnosis\tfd_mean", "sub-01\tF\t20.5\tA\tautism\t0.1", "sub-02\tM\t30\tB\tcontrol\t0.2"]
    (root / "participants.tsv").write_text("\n".join([*lines, "sub-03\tM\tn/a\tB\tcontrol\tn/a"]) + "\n")
    return Store(root)


def test_a_store_of_regions_says_who_is_in_it_and_how_it_was_recorded(tmp_path: Path) -> None:
    page = Page(write_report(tmp_path / "page.html", ReportInputs(store=region_store(tmp_path / "store"))).read_text(encoding="utf-8"))
    words = page.words
    for said in (
        "sex: M 2, F 1.",
        "age, years (1 unknown): 20.5 to 30, median 25.2.",
        "site: B 2, A 1.",
        "diagnosis: control 2, autism 1.",
    ):
        assert said in words
    rows = page.rows("lowest")
    assert (rows["TR as recorded (s)"]["lowest"], rows["TR as recorded (s)"]["highest"]) == ("1.50", "2.00")
    # 120 frames as recorded, at 1.5 and 2 s; the 200 stored ones are resampled.
    assert (rows["minutes"]["lowest"], rows["minutes"]["highest"]) == ("3.0", "4.0")
    assert rows["frames as recorded"]["median"] == "120" and rows["silent channels"]["highest"] == "1"
    assert rows["mean FD (mm)"]["sessions"] == "2"
    assert page.rows("also stands as")["sub-01"]["also stands as"] == "sub-02"
    assert all(len(table) > 1 for table in page.tables)
    assert "had a repetition time of 1.5 to 2 s. " in words
    # Nobody spikes more than the other two; who moved most is known of two.
    assert next(iter(page.rows("spikes (%)"))) == "sub-02"


def test_columns_in_which_nothing_is_known_are_left_out() -> None:
    table = TableBuilder("words", (Column("name"), Column("known", True), Column("unknown", True)))
    table.add(["a", "1", "n/a"])
    table.add(["b", "n/a", "n/a"])
    built = table.build()
    assert [column.name for column in built.columns] == ["name", "known"] and built.rows[1].cells == ("b", "n/a")


@pytest.mark.parametrize(("sites", "title"), [(8, "site"), (20, "site, 7 largest of 20")])
def test_a_panel_that_leaves_names_out_says_so(sites: int, title: str) -> None:
    panel = small_plots.Panel.of_names("site", [f"s{number}" for number in range(sites) for _ in range(number + 1)])
    assert panel.title == title and sum(count for _, count in panel.bars) == sites * (sites + 1) // 2
