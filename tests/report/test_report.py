"""The page, against the made-up inputs it was written from."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from itertools import combinations, pairwise
from pathlib import Path

import numpy as np
import pytest
import typer
from killed_samples import assert_rerun_gives_the_same
from report_samples import EVIL, FRAMES, SECTIONS, TR, WINDOW_S, K, Page, make_result, make_run, make_store, window_rows

from slimbrain.cli import app
from slimbrain.errors import InputError, StoreError
from slimbrain.grid import Grid
from slimbrain.report import ReportInputs, write_report
from slimbrain.report.explorer import Happened, describe
from slimbrain.report.figures import Marks, _curve_styles, _thinned, carpet, curves, window_scores
from slimbrain.report.ink import _THEME
from slimbrain.report.inputs import MAX_DETAILED, N_WORST, _session_labels
from slimbrain.report.maps import _VIEWER_BYTES
from slimbrain.report.page import _content_hash, _page_script
from slimbrain.report.recall import chance, pooled, session_recall
from slimbrain.report.recorded import read_run
from slimbrain.report.training import _panels
from slimbrain.report.volumes import encode_values, scale_of, template
from slimbrain.report.window_maps import _MAPS_BYTES, _STEPS
from slimbrain.simulate import Event, SessionTruth
from slimbrain.store import Channels, Store
from slimbrain.store.write import write_roi_session


@pytest.fixture(scope="module")
def page(text: str) -> Page:
    return Page(text)


def test_html_is_well_formed(page: Page) -> None:
    assert page.problems == [] and page.open == []
    ids = [attributes["id"] for _, attributes in page.tags if attributes.get("id")]
    assert len(ids) == len(set(ids))


def test_every_reference_within_the_page_has_a_target(text: str, page: Page) -> None:
    ids = {attributes.get("id") for _, attributes in page.tags}
    references = re.findall(r'href="#([^"]+)"', text) + re.findall(r"url\(#([^)]+)\)", text)
    assert references and set(references) <= ids


def test_all_sections_stand_in_order_under_headings_without_gaps(page: Page) -> None:
    assert [section["id"] for section in page.named("section")] == SECTIONS
    levels = [int(tag[1]) for tag, _ in page.tags if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))


def test_nothing_is_loaded_from_elsewhere(text: str, page: Page) -> None:
    for tag, attributes in page.tags:
        assert tag not in ("link", "iframe", "object", "embed")
        for name in ("src", "href", "xlink:href", "srcset", "data", "poster"):
            value = attributes.get(name)
            assert value is None or value.startswith(("#", "data:")), (tag, name, str(value)[:60])
    assert not re.search(r"https?://", text)
    assert "@import" not in text and not re.search(r"url\((?!#)", text)


def test_no_script_runs_but_the_one_that_the_policy_names(text: str, page: Page) -> None:
    """The others are data, which a browser does not run."""
    scripts = re.findall(r"<script>(.*?)</script>", text, flags=re.DOTALL)
    assert len(scripts) == 1
    policy = next(meta["content"] or "" for meta in page.named("meta") if meta.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'") and f"script-src '{_content_hash(scripts[0])}'" in policy
    kinds = [script.get("type") for script in page.named("script")]
    assert kinds.count(None) == 1 and set(kinds) == {None, "application/json"}
    assert not any(name.startswith("on") for _, attributes in page.tags for name in attributes)


def test_every_figure_has_words_for_it(page: Page) -> None:
    drawings = page.named("svg")
    # A mosaic, three carpets, three score figures, two runs, one forest plot.
    assert len(drawings) == 10
    assert all(drawing["role"] == "img" and len(drawing["aria-label"] or "") > 20 for drawing in drawings)
    assert all(image.get("alt") for image in page.named("img"))
    assert all(canvas.get("aria-label") for canvas in page.named("canvas"))
    assert len(page.named("figcaption")) == len(page.named("figure"))
    assert len(page.named("caption")) == len(page.named("table"))


def test_names_and_warnings_are_escaped(text: str, page: Page) -> None:
    assert "<script>alert" not in text
    assert EVIL in page.words
    warnings = page.rows("warning")
    assert warnings["sub-003"]["warning"] == EVIL
    assert EVIL in {cell for row in page.rows("model").values() for cell in row.values()}


def test_quality_table_equals_the_sidecars(inputs: ReportInputs, page: Page) -> None:
    rows = page.rows("tSNR")
    assert inputs.store is not None
    assert list(rows) == ["sub-001", "sub-002", "sub-003"]
    for name, info in zip(rows, inputs.store.sessions, strict=True):
        qc, row = inputs.store.sidecar(info.key)["QC"], rows[name]
        assert float(row["coverage (%)"]) == pytest.approx(100 * qc["coverage"], abs=0.051)
        assert float(row["tSNR"]) == pytest.approx(qc["tsnr"], abs=0.051)
        assert float(row["mean FD (mm)"]) == pytest.approx(qc["fd_mean"], abs=0.00051)
        assert (int(row["frames"]), float(row["TR (s)"])) == (info.n_frames, info.tr)
    # Columns that no session has are left out.
    assert not any(name in next(iter(rows.values())) for name in ("mean DVARS (SD)", "overlap with template"))
    assert [row["warnings"] for row in rows.values()] == ["0", "0", "1"]
    assert "Cohort: unknown. Licence: unknown for 3 of 3 sessions. Consent: unknown for 3 of 3 sessions." in page.words
    assert "Set what is unknown with: slimbrain ledger STORE --set FILE." in page.words
    assert page.rows("reason")["sub-99/func/bad.nii.gz"]["reason"].startswith("no TR")


def test_runs_left_out_stand_with_value_and_threshold(inputs: ReportInputs, page: Page) -> None:
    row = page.rows("left out")["sub-77_task-rest"]
    assert (row["measure"], row["value"], row["threshold"]) == ("fd_mean", "0.3679", "0.3")
    assert "1 run was excluded by a quality threshold and 1 run was refused" in page.words


FLAGS = re.compile(r'd="([^"]+)"[^>]*style="[^"]*stroke: var\(--orange\); stroke-width: 1.2')
"""The path of all ticks at flagged frames."""


def flagged_in(svg: str) -> list[float]:
    """Where the ticks of a carpet begin, in points from its left end."""
    found = FLAGS.search(svg)
    return [] if found is None else [float(x) for x in re.findall(r"M ([\d.]+)", found[1])]


def test_flagged_frames_are_marked_where_they_were_recorded(text: str) -> None:
    """Frames 3 and 9 of 40; panels over time are 5.85 inches wide, of 72 points each."""
    begins = text.index('aria-label="Carpet plot of sub-001')
    ticks = flagged_in(text[begins : text.index("</svg>", begins)])
    assert [tick - 1.6 * 72 for tick in ticks] == pytest.approx([5.85 * 72 * frame / FRAMES for frame in (3, 9)], abs=0.1)


def test_carpets_mark_flagged_frames_and_chosen_windows(page: Page) -> None:
    alts = [drawing["aria-label"] or "" for drawing in page.named("svg")]
    carpets = [alt for alt in alts if alt.startswith("Carpet")]
    assert len(carpets) == 3 and all(f"2 flagged frames, {K} chosen windows" in alt for alt in carpets)


def test_marks_stand_at_their_seconds() -> None:
    """Read back from the drawing: its time axis runs from 0 to 72 s between the ends of the carpet."""
    times = np.arange(100) * TR
    marks = Marks(np.array([0.0, 18.0, 72.0]), [(36.0, 18.0)], {"FD (mm)": 0.5})
    svg = carpet(
        np.random.default_rng(0).standard_normal((100, 9)), np.arange(9.0), TR, {"FD (mm)": (times, times / 72)}, marks, "c", "words"
    )
    first, second, third = flagged_in(svg)
    assert second == pytest.approx(first + (third - first) / 4, abs=0.01)
    bar = re.search(r'd="M ([\d.]+) [\d.]+ \nL ([\d.]+) [\d.]+ \nL ([\d.]+) [^"]*"[^>]*style="fill: var\(--blue\)', svg)
    assert bar is not None
    ends = sorted({float(number) for number in bar.groups()})
    np.testing.assert_allclose(ends, [first + (third - first) * share for share in (0.5, 0.75)], atol=0.01)
    assert "stroke-dasharray" in svg


@pytest.mark.parametrize("n", [1, 4, 5, 9])
def test_every_curve_of_a_panel_is_drawn_and_looks_different(n: int) -> None:
    """A curve that is flat at its own height is a line from edge to edge: as many heights as curves, and each in a style of its own."""
    svg = str(curves({"loss": {f"curve {i}": ([0.0, 1.0], [float(i), float(i)]) for i in range(n)}}, "c", "words"))
    assert len(set(_curve_styles(n))) == n
    lines = re.findall(r'd="M ([\d.]+) ([\d.]+) \nL ([\d.]+) ([\d.]+) \n" clip-path="[^"]*" style="([^"]*)"', svg)
    flat = {(y, style) for left, y, right, end, style in lines if y == end and "--line" not in style and float(right) > float(left)}
    assert len(flat) == len({style for _, style in flat}) == n
    assert all(f">curve {i}</text>" in svg for i in range(n)) or n == 1


def test_small_numbers_on_an_axis_keep_their_digits() -> None:
    """A learning rate from 0 to 0.004 has ticks at its thousandths, not several zeros."""
    svg = str(curves({"learning rate": {"lr": ([0.0, 1.0], [0.0, 0.004])}}, "c", "words"))
    labels = re.findall(r"<text[^>]*>([^<]*)</text>", svg)
    numbers = {float(label) for label in labels if re.fullmatch(r"[\d.]+", label)}
    assert len({number for number in numbers if 0 < number < 0.01}) >= 2


def test_every_trace_and_every_kind_of_tick_is_drawn() -> None:
    times = np.arange(20.0)
    traces = {f"trace {i}": (times, times) for i in range(6)}
    svg = carpet(np.ones((20, 3)), np.arange(3.0), TR, traces, Marks(), "c", "words")
    assert all(f">{label}</text>" in svg for label in traces)
    ticks = {f"kind {i}": np.array([1.0]) for i in range(5)}
    svg = window_scores(window_rows("sub-001", [1.0, 0.0]), 1, ticks, "w", "words")
    assert len(re.findall(r"stroke-width: 1\.6", svg)) == len(ticks)


def test_a_carpet_without_marks_has_no_row_for_them() -> None:
    def height(marks: Marks) -> float:
        svg = carpet(np.ones((20, 3)), np.arange(3.0), TR, {}, marks, "c", "words")
        return float(re.search(r'viewBox="0 0 [\d.]+ ([\d.]+)"', svg)[1])  # type: ignore[index]

    assert height(Marks()) < height(Marks(np.array([1.0]))) < height(Marks(np.array([1.0]), [(2.0, 3.0)]))


def test_training_table_equals_the_logs(page: Page) -> None:
    row = page.rows("first loss")["voxel"]
    assert (row["first loss"], row["last loss"], row["steps"], row["last content std"]) == ("0.8", "0.4", "41", "0.25")
    assert float(row["last effective rank"]) == 43.5
    assert page.rows("first loss")["temporal"]["windows per second"] == "n/a"


def test_of_two_equal_curves_one_is_drawn(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "voxel", "voxel")
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    for place, line in enumerate(lines):
        line |= {"skill": 0.1 * place, "skill_cross_location": 0.1 * place, "skill_cross_time": 0.2 * place}
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    panels = _panels(read_run(folder))
    assert list(panels["skill"]) == ["all", "cross time"], "the second of two equal curves would hide the first"
    assert list(panels["loss"]) == ["total", "cross time", "double cross"], "curves that differ stay"


def test_evaluation_table_and_verdict_equal_the_result(inputs: ReportInputs, page: Page) -> None:
    result = json.loads(inputs.evaluations[0].read_text())
    rows = page.rows("AUC")
    for line in result["rows"]:
        numbers = [float(part) for part in re.findall(r"-?\d+\.\d+", rows[line["model"]]["AUC"])]
        wanted = [] if line["mean"] is None else [line["mean"], line["low"], line["high"]]
        assert numbers == pytest.approx(wanted, abs=0.00051)
    assert [row["role"] for row in rows.values()] == ["ours", "baseline", "best baseline", "baseline", "published"]
    assert float(rows["published"]["AUC"]) == 0.911
    difference = result["differences"][0]
    ours = "{mean:.3f} [{low:.3f}, {high:.3f}]".format(**next(row for row in result["rows"] if row["model"] == "ours-1"))
    gap = f"difference +0.112 [+{difference['low']:.3f}, +0.200]"
    verdict = f"ours-1 (AUC {ours}) beats the best baseline, {EVIL} (tangent): {gap}"
    assert page.words.count(verdict) == 1, "the summary says it, and the evaluation says the rest"


def test_what_the_summary_says_the_evaluation_does_not_repeat(tmp_path: Path) -> None:
    first = make_result(tmp_path / "group.json")
    value = json.loads(first.read_text())
    other = {**value["differences"][0], "model": "ours-2"}
    first.write_text(
        json.dumps(
            {**value, "differences": [*value["differences"], other], "rows": [*value["rows"], {**value["rows"][0], "model": "ours-2"}]}
        )
    )
    second = tmp_path / "score.json"
    second.write_text(json.dumps({**value, "task": "column:score"}))
    text = write_report(tmp_path / "page.html", ReportInputs(evaluations=(first, second))).read_text()
    said = re.findall(r"<p class=\"verdict\">(.*?)</p>", text, flags=re.DOTALL)
    assert [line.split(" (AUC")[0] for line in said] == ["On group, ours-1", "ours-1"]
    assert said[0].endswith("; 1 further task below.") and text.index("<h3>score (") < text.index(said[1], text.index(said[0]) + 1)
    words = Page(text).words
    assert "column:" not in text, "a reader meets the column's name; only a command line has what --task takes"
    assert words.count("ours-2 (AUC") == 1 and words.count("ours-1 (AUC") == 2, "once in the summary, once for the second task"


def test_verdict_follows_the_interval(tmp_path: Path) -> None:
    result = make_result(tmp_path / "group.json", low=-0.02)
    words = Page(write_report(tmp_path / "page.html", ReportInputs(evaluations=(result,))).read_text()).words
    assert re.search(r"ours-1 \(AUC [^)]*\) is not distinguishable from the best baseline", words) and "beats" not in words


def test_recall_of_planted_events_equals_a_count_by_hand(page: Page) -> None:
    """Windows 0 and 3 are the best of the first session (all 3 events), 4 and 5 of the second (none), 0 and 1 of the third (2)."""
    rows = page.rows("planted events")
    assert [rows[name]["found"] for name in ("sub-001", "sub-002", "sub-003", "all sessions")] == ["3", "0", "2", "5"]
    assert rows["all sessions"]["recall (%)"] == "55.6"
    assert {row["random (%)"] for row in rows.values()} == {"33.3"}
    assert "hold 5 of 9 planted events (55.6 %); as many random windows hold 33.3 % on average" in page.words


def test_chance_equals_an_enumeration_of_all_choices() -> None:
    counts, k = [2, 0, 1, 0, 3, 1, 0], 3
    totals = [sum(choice) for choice in combinations(counts, k)]
    wanted = np.bincount(totals, minlength=sum(counts) + 1) / math.comb(len(counts), k)
    np.testing.assert_allclose(chance(counts, k), wanted, atol=1e-12)


def test_pooled_chance_equals_an_enumeration_over_two_sessions() -> None:
    first = session_recall(window_rows("a", [1.0, 2, 3, 4]), 2, _planted([0, 3, 3]))
    second = session_recall(window_rows("b", [1.0, 2, 3]), 1, _planted([0, 1]))
    total = pooled([first, second])
    pairs = [sum(x) + sum(y) for x in combinations([1, 0, 0, 2], 2) for y in combinations([1, 1, 0], 1)]
    assert total.found == 2
    assert total.expected == pytest.approx((3 * 2 / 4 + 2 * 1 / 3) / 5)
    assert total.p == pytest.approx(np.mean(np.array(pairs) >= 2))


def test_an_event_in_the_dropped_tail_is_not_counted() -> None:
    assert session_recall(window_rows("a", [1.0, 2, 3]), 1, _planted([0, 3, 7])).events == 1


def _planted(windows: Sequence[int]) -> SessionTruth:
    events = tuple(Event(onset_s=0.0, duration_s=2.0, peak_s=(window + 0.5) * WINDOW_S, kind="sound", amplitude=1.0) for window in windows)
    return SessionTruth(key="a", subject="sub-001", session="", events=events, spikes=())


def test_versions_hashes_seeds_and_commands_are_there(inputs: ReportInputs, text: str, page: Page) -> None:
    assert inputs.store is not None
    assert inputs.store.contract.mask in text
    assert page.rows("seed")["voxel"]["seed"] == "7"
    assert "9.9.9" in page.words and all(command in page.words for command in inputs.commands)


def test_summary_has_at_most_five_sentences(text: str) -> None:
    summary = text[text.index('<section id="summary"') : text.index('<section id="evaluation"')]
    verdict, *paragraphs = re.findall(r"<p(?: class=\"verdict\")?>(.*?)</p>", summary, flags=re.DOTALL)
    assert len(paragraphs) == 4 and verdict.startswith("On group, ours-1 (AUC 0.813")
    assert (
        paragraphs[0]
        == "3 sessions of 3 participants went in, 2 minutes of recording; 1 run was excluded by a quality threshold and 1 run was refused."
    )
    assert "at least 97.0 % of the brain mask" in paragraphs[1] and "1 session carries a warning" in paragraphs[1]


@pytest.mark.parametrize(
    ("kept", "n_missing"), [("nothing", 7), ("store", 3), ("windows", 4), ("runs", 4), ("evaluations", 4), ("failures", 5)]
)
def test_what_is_missing_stands_in_one_list(inputs: ReportInputs, tmp_path: Path, kept: str, n_missing: int) -> None:
    given = ReportInputs(title="one part") if kept == "nothing" else ReportInputs(**{kept: getattr(inputs, kept), "title": "one part"})
    path = write_report(tmp_path / "page.html", given)
    page = Page(path.read_text(encoding="utf-8"))
    assert page.problems == []
    ids = [section["id"] for section in page.named("section")]
    # One list at the end for all that was not given; otherwise the order is that of the whole page.
    *shown, last = ids
    assert last == "missing" and shown == [name for name in SECTIONS if name in shown] and len(SECTIONS) - len(shown) == n_missing
    assert [link["href"] for link in page.named("a") if link.get("class") != "skip"] == [f"#{name}" for name in ids]
    text = path.read_text(encoding="utf-8")
    items = re.findall(r"<li>(.*?)</li>", text[text.index('<section id="missing"') :], re.DOTALL)
    listed = [" ".join(re.sub("<[^>]*>", "", item).split()) for item in items]
    assert len(listed) == n_missing and all(re.fullmatch(r"[A-Z]\w+: no\w* .*was given.*; .*--.*\.", line) for line in listed)
    # Which options there are, the command itself says.
    options = {word for parameter in typer.main.get_command(app).commands["report"].params for word in parameter.opts}  # type: ignore[attr-defined]
    assert set(re.findall(r"--\w+", " ".join(listed))) <= options
    # Refused runs are shown in a section that says what else it lacks; without a script, the viewer says that it needs one.
    absent = [attributes for attributes in page.named("p") if attributes.get("class") == "absent"]
    assert len(absent) == (kept in ("store", "failures"))


def test_a_whole_page_has_no_list_of_what_is_missing(page: Page) -> None:
    assert "Not part of this report" not in page.words


def test_missing_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"lost/run\.json"):
        write_report(tmp_path / "page.html", ReportInputs(runs=(tmp_path / "lost",)))
    (tmp_path / "other.json").write_text('{"task": "x"}')
    with pytest.raises(InputError, match=r"other\.json: is no result of .*lacks best_baseline, difference"):
        write_report(tmp_path / "page.html", ReportInputs(evaluations=(tmp_path / "other.json",)))
    with pytest.raises(StoreError, match=r"failures\.tsv"):
        write_report(tmp_path / "page.html", ReportInputs(failures=tmp_path / "failures.tsv"))
    assert not (tmp_path / "page.html").exists()


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("run.json", "{"),
        ("run.json", "[" * 100_000),
        ("run.json", "[]"),
        ("run.json", '{"stage": "voxel", "preset": 3}'),
        ("run.json", '{"stage": "voxel", "seed": "many"}'),
        ("metrics.jsonl", "{\n"),
        ("metrics.jsonl", "3\n"),
        ("metrics.jsonl", '{"loss": 1}\n'),
    ],
)
def test_a_damaged_run_is_named(tmp_path: Path, file: str, text: str) -> None:
    run = make_run(tmp_path / "voxel", "voxel")
    (run / file).write_text(text)
    with pytest.raises(InputError, match=file):
        write_report(tmp_path / "page.html", ReportInputs(runs=(run,)))


def test_region_of_interest_store_has_carpets_and_no_mean_image(tmp_path: Path) -> None:
    channels = Channels(("left", "right"), np.array([[-30.0, 0, 0], [30, 0, 0]]))
    store = Store.create(tmp_path / "store", None, TR)
    series = np.random.default_rng(0).standard_normal((FRAMES, 2))
    write_roi_session(store, {"sub": "01", "task": "rest"}, series, channels, TR)
    page = Page(write_report(tmp_path / "page.html", ReportInputs(store=store)).read_text(encoding="utf-8"))
    labels = [drawing["aria-label"] or "" for drawing in page.named("svg")]
    carpets = [label for label in labels if label.startswith("Carpet plot")]
    assert len(carpets) == 1 and carpets[0].startswith("Carpet plot of sub-01: 2 channels over 35 s")
    assert not any(label.startswith("Mean image") for label in labels)


def test_many_sessions_are_summed_up_and_the_worst_shown(tmp_path: Path, grid8: Grid) -> None:
    store = make_store(tmp_path / "store", grid8, n=MAX_DETAILED + 2)
    path = write_report(tmp_path / "page.html", ReportInputs(store=store))
    page = Page(path.read_text(encoding="utf-8"))
    shown = page.rows("tSNR")
    # The last one has the warning; with each session coverage falls and motion grows, tSNR alone gets better.
    assert len(shown) == N_WORST and next(iter(shown)) == f"sub-{MAX_DETAILED + 2:03d}"
    overview = page.rows("lowest")["tSNR"]
    assert (overview["lowest"], overview["highest"], overview["sessions"]) == (
        "50.2",
        f"{50.25 + MAX_DETAILED + 1:.1f}",
        str(MAX_DETAILED + 2),
    )
    assert path.stat().st_size < 8_000_000
    carpets = [drawing for drawing in page.named("svg") if (drawing["aria-label"] or "").startswith("Carpet")]
    assert len(carpets) == N_WORST


def test_every_session_of_a_small_store_has_its_carpet(tmp_path: Path, grid8: Grid) -> None:
    store = make_store(tmp_path / "store", grid8, n=9)
    text = write_report(tmp_path / "page.html", ReportInputs(store=store)).read_text(encoding="utf-8")
    assert [f"sub-{number:03d}" for number in range(1, 10)] == re.findall(r'aria-label="Carpet plot of (sub-\d+)', text)
    # The first at once, the rest to be unfolded.
    folded = text.index("Carpet plots of 8 more sessions")
    assert text.index('aria-label="Carpet plot of sub-001') < folded < text.index('aria-label="Carpet plot of sub-002')


def test_twenty_long_sessions_of_noise_stay_under_8_mb() -> None:
    """White noise is the hardest to compress: 1,200 frames, 150 windows, 685 cells, an event every 7 s, each piece at its largest."""
    rng, times, ticks = np.random.default_rng(0), np.arange(1200) * TR, np.arange(0, 1200 * TR, 7)
    noise = {name: (times, rng.standard_normal(1200)) for name in ("FD (mm)", "DVARS (SD)", "global signal")}
    drawn = carpet(rng.standard_normal((1200, 685)), np.arange(685.0), TR, noise, Marks(ticks, [(0.0, 5.76)] * 5), "c", "noise")
    rows = window_rows("sub-001", rng.standard_normal(150).tolist())
    scores = window_scores(rows, 5, {"events": ticks, "planted peaks": ticks, "flagged": ticks}, "s", "noise", noise["FD (mm)"])
    told = json.dumps(describe("sub-001", rows, 5, Happened(times, noise["FD (mm)"][1], ticks, [(tick, "a long name") for tick in ticks])))
    means = rng.standard_normal((150, 685))
    maps = encode_values(means, *scale_of(means), _STEPS)["data"]
    assert 20 * means.size <= _MAPS_BYTES
    every, once = len(drawn) + len(scores) + len(told) + len(maps), _VIEWER_BYTES + len(json.dumps(template())) + 250_000
    assert len(_page_script()) < 30_000
    assert 20 * every + once < 8_000_000


def test_a_thinned_trace_keeps_spikes_ends_of_gaps_and_order() -> None:
    times, values = np.arange(5000) * TR, np.zeros(5000)
    values[[17, 2500]], values[4001] = 9.0, -4.0
    values[1000:1500] = np.nan
    kept, seen = _thinned(times, values)
    assert len(kept) <= 400 and (np.diff(kept) > 0).all()
    assert set(kept[seen == 9]) == {times[17], times[2500]} and kept[seen == -4] == times[4001]
    assert np.isnan(seen[(kept > times[1030]) & (kept < times[1470])]).all()
    assert _thinned(times[:400], values[:400])[0] is not None and len(_thinned(times[:400], values[:400])[0]) == 400


def test_labels_tell_sessions_apart() -> None:
    keys = ["sub-01_ses-1_task-rest_space-A", "sub-01_ses-2_task-rest_space-A", "sub-02_ses-1_task-rest_space-A"]
    assert list(_session_labels(keys).values()) == ["sub-01_ses-1", "sub-01_ses-2", "sub-02_ses-1"]
    assert _session_labels(keys[:1]) == {keys[0]: "sub-01"}


@pytest.mark.parametrize(("place", "paper"), [(0, "#ffffff"), (1, "#14181d")])
def test_text_colours_have_aa_contrast(place: int, paper: str) -> None:
    """WCAG 2.2: 4.5 to 1 for text; `line` and `band` carry none."""

    def luminance(colour: str) -> float:
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return float(np.dot(linear, (0.2126, 0.7152, 0.0722)))

    for name in set(_THEME) - {"line", "band"}:
        light, dark = sorted((luminance(_THEME[name][place]), luminance(paper)), reverse=True)
        assert (light + 0.05) / (dark + 0.05) >= 4.5, name
    band, ink = luminance(_THEME["band"][place]), luminance(_THEME["ink"][place])
    assert (max(band, ink) + 0.05) / (min(band, ink) + 0.05) >= 4.5


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_killed_at_thirty_moments_and_run_again_it_is_the_page_of_an_uninterrupted_run(tmp_path: Path) -> None:
    """A page of two figures, since drawing is most of the time."""
    result, run = make_result(tmp_path / "group.json"), make_run(tmp_path / "voxel", "voxel")
    words = ["report", "--evaluation", result, "--run", run, "--out", tmp_path / "page" / "report.html"]
    assert_rerun_gives_the_same(words, tmp_path / "page", tmp_path / "log", ["slimbrain.report.page", "slimbrain.prep.run"])
