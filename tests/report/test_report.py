"""The page, against the made-up inputs it was written from."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from html.parser import HTMLParser
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from slimbrain.errors import InputError, StoreError
from slimbrain.grid import Grid
from slimbrain.prep.exclusion import COLUMNS as EXCLUDED_COLUMNS
from slimbrain.report import ReportInputs, write_report
from slimbrain.report.figures import Marks, carpet
from slimbrain.report.ink import THEME
from slimbrain.report.inputs import MAX_DETAILED, N_WORST, session_labels
from slimbrain.report.recall import chance, pooled, session_recall
from slimbrain.saliency import WindowRow, ranks, write_window_table
from slimbrain.simulate import CohortSpec, Event, SessionTruth, Truth, draw_truth
from slimbrain.store import Channels, Store

EVIL = "<script>alert(1)</script> & $x^2$ \"q\" 'a' </svg>"
SECTIONS = ["summary", "data", "windows", "training", "evaluation", "provenance"]
VOID = {"meta", "link", "br", "img", "input", "hr"}
FRAMES, TR, WINDOW_S, K = 40, 0.72, 5.76, 2


class Page(HTMLParser):
    """What a browser would make of the page, and the tags that do not close."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.tables: list[list[list[str]]] = []
        self.open: list[str] = []
        self.problems: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("th", "td"):
            self.tables[-1][-1].append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open[-1] != tag:
            self.problems.append(f"</{tag}> closes {self.open[-3:]}")
        else:
            self.open.pop()

    def handle_data(self, data: str) -> None:
        if not {"style", "svg"} & set(self.open):
            self.text.append(data)
        if self.open and self.open[-1] in ("th", "td"):
            self.tables[-1][-1][-1] += data

    def named(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]

    def rows(self, head: str) -> dict[str, dict[str, str]]:
        """Cells by row name and column of the first table that has such a column."""
        table = next(table for table in self.tables if head in table[0])
        return {row[0]: dict(zip(table[0], row, strict=True)) for row in table[1:]}

    @property
    def words(self) -> str:
        return re.sub(r"\s+", " ", "".join(self.text))


def make_store(root: Path, grid: Grid, n: int = 3) -> Store:
    """Sessions of noise whose sidecar says what prep would have said; the last has the evil warning and lacks a corner."""
    store = Store.create(root, grid, TR)
    rng = np.random.default_rng(0)
    for number in range(n):
        voxels = rng.standard_normal((FRAMES, *grid.voxel_mask.shape)) * grid.voxel_mask
        mean, std = 1000.0 * grid.voxel_mask, 10.0 * grid.voxel_mask
        if number == n - 1:
            std[:20] = 0
        sidecar = {
            "QC": {"coverage": 0.99 - 0.01 * number, "tsnr": 50.25 + number, "fd_mean": 0.1234 + number / 100, "fd_max": 0.9, "gap": ""},
            "Series": {
                "time_s": [TR * frame for frame in range(FRAMES)],
                "fd": [None, *rng.uniform(0, 1, FRAMES - 1).tolist()],
                "dvars": [None, *rng.uniform(0, 2, FRAMES - 1).tolist()],
                "flagged": [3, 9],
            },
            "Events": [{"onset": 6.0, "duration": 2.0, "trial_type": EVIL}],
            "Warnings": [EVIL] if number == n - 1 else [],
        }
        store.write_session({"sub": f"{number + 1:03d}", "task": "rest", "space": "MNI152NLin6Asym"}, voxels, mean, std, TR, sidecar)
    return store


def window_rows(key: str, scores: Sequence[float]) -> list[WindowRow]:
    places = ranks(scores)
    return [
        WindowRow(key, i, i * WINDOW_S, WINDOW_S, score / 2, score / 2, score, int(places[i]), 0.5, 1.0) for i, score in enumerate(scores)
    ]


def make_run(folder: Path, stage: str) -> Path:
    folder.mkdir()
    settings = {
        "stage": stage,
        "seed": 7,
        "sessions": 3,
        "threads": 1,
        "command": f"slimbrain pretrain {stage}",
        "versions": {"torch": "9.9.9"},
    }
    settings["preset"] = {"name": "tiny", "window": {"k": K}}
    lines = []
    for step in range(0, 50, 10):
        line = {
            "step": step,
            "loss": 0.8 - step / 100,
            "lr": 1e-3,
            "ema": None,
            "std": 0.5,
            "effective_rank": 3.5 + step,
            "peak_mib": 100.0,
        }
        if stage == "voxel":
            line |= {"ema": 0.99, "content_std": 0.25, "loss_cross_time": 0.5, "loss_double_cross": 0.6, "windows_per_second": 12.0}
        lines.append(json.dumps(line))
    (folder / "run.json").write_text(json.dumps(settings))
    (folder / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    return folder


def make_result(path: Path, low: float = 0.02) -> Path:
    def row(model: str, method: str, mean: float | None) -> dict[str, Any]:
        bounds = {"low": None, "high": None} if mean is None else {"low": mean - 0.0512, "high": mean + 0.0487}
        return {"model": model, "method": method, "metric": "auc", "mean": mean, **bounds, "p": None if mean is None else 0.0123}

    result = {
        "task": "column:group",
        "cohort": "demo",
        "n_subjects": 3,
        "n_sessions": 3,
        "split": "3-fold by subject",
        "seeds": [0],
        "rows": [
            row("ours-1", "linear probe", 0.8127),
            row("untrained", "linear probe", 0.55),
            row(EVIL, "tangent", 0.7011),
            row("empty", "none", None),
        ],
        "best_baseline": {"model": EVIL, "method": "tangent", "metric": "auc", "mean": 0.7011, "low": 0.65, "high": 0.75},
        "difference": {"metric": "auc", "mean": 0.1116, "low": low, "high": 0.2},
        "published": {"auc": 0.911},
        "seen_in_pretraining": 0,
        "contract": {},
        "version": "0.0.1",
        "excluded": {},
    }
    path.write_text(json.dumps(result))
    return path


def make_truth(path: Path, keys: Sequence[str]) -> Path:
    """Events whose responses peak in windows 0, 0 and 3 of each session."""
    template = draw_truth(CohortSpec(subjects=1, sessions=1, frames=100, events_per_session=1))
    events = tuple(
        Event(onset_s=peak - 5, duration_s=2.0, peak_s=peak, kind="sound", amplitude=1.0) for peak in (1.0, 5.7, 3 * WINDOW_S + 0.1)
    )
    sessions = tuple(SessionTruth(key=key, subject=key[:7], session="", events=events, spikes=()) for key in keys)
    truth = Truth(**{**{name: getattr(template, name) for name in Truth.model_fields}, "sessions": sessions})
    path.write_text(truth.model_dump_json())
    return path


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory, grid8: Grid) -> ReportInputs:
    root = tmp_path_factory.mktemp("report")
    store = make_store(root / "store", grid8)
    keys = [info.key for info in store.sessions]
    scores = [[3.0, -1, 0, 2, 0.5, -2], [0.0, 1, 2, 3, 4, 5], [5.0, 4, 3, 2, 1, 0]]
    rows = [row for key, values in zip(keys, scores, strict=True) for row in window_rows(key, values)]
    failures = root / "failures.tsv"
    failures.write_text(f"file\treason\nsub-99/func/bad.nii.gz\tno TR; {EVIL.replace(chr(34), '')}\n")
    excluded = root / "excluded.tsv"
    values = ("a.nii.gz", "sub-77_task-rest", "fd_mean", "0.367949", "0.3", "moves")
    excluded.write_text("\t".join(EXCLUDED_COLUMNS) + "\n" + "\t".join(values) + "\n")
    return ReportInputs(
        store=store,
        excluded=excluded,
        windows=write_window_table(root / "windows.tsv", rows),
        runs=(make_run(root / "temporal", "temporal"), make_run(root / "voxel", "voxel")),
        evaluations=(make_result(root / "group.json"),),
        failures=failures,
        truth=make_truth(root / "truth.json", keys),
        commands=("slimbrain prep in out participant", f"echo {EVIL}"),
        title=EVIL,
    )


@pytest.fixture(scope="module")
def text(inputs: ReportInputs, tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_report(tmp_path_factory.mktemp("page") / "deep" / "report.html", inputs).read_text(encoding="utf-8")


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
        assert tag not in ("script", "link", "iframe", "object", "embed")
        for name in ("src", "href", "xlink:href", "srcset", "data", "poster"):
            value = attributes.get(name)
            assert value is None or value.startswith(("#", "data:")), (tag, name, str(value)[:60])
    assert not re.search(r"https?://", text)
    assert "@import" not in text and not re.search(r"url\((?!#)", text)


def test_every_figure_has_words_for_it(page: Page) -> None:
    drawings = page.named("svg")
    # A mosaic, three carpets, three score figures, two runs, one forest plot.
    assert len(drawings) == 10
    assert all(drawing["role"] == "img" and len(drawing["aria-label"] or "") > 20 for drawing in drawings)
    assert all(image.get("alt") for image in page.named("img"))
    assert len(page.named("figcaption")) == len(page.named("figure"))
    assert len(page.named("caption")) == len(page.named("table"))


def test_names_and_warnings_are_escaped(text: str, page: Page) -> None:
    assert "<script" not in text
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
        assert row["mean DVARS (SD)"] == "n/a"
        assert (int(row["frames"]), float(row["TR (s)"])) == (info.n_frames, info.tr)
    assert [row["warnings"] for row in rows.values()] == ["0", "0", "1"]
    assert page.rows("reason")["sub-99/func/bad.nii.gz"]["reason"].startswith("no TR")


def test_runs_left_out_stand_with_value_and_threshold(inputs: ReportInputs, page: Page) -> None:
    row = page.rows("left out")["sub-77_task-rest"]
    assert (row["measure"], row["value"], row["threshold"]) == ("fd_mean", "0.3679", "0.3")
    assert "1 run was left out by a threshold on quality and 1 run was refused" in page.words


FLAG = re.compile(r'd="M ([\d.]+) ([\d.]+) \nL ([\d.]+) ([\d.]+) \n?"[^>]*style="[^"]*stroke: var\(--orange\); stroke-width: 1.2')
"""A tick at a flagged frame."""


def test_flagged_frames_are_marked_where_they_were_recorded(text: str) -> None:
    """Frames 3 and 9 of 40; panels over time are 5.85 inches wide, of 72 points each."""
    begins = text.index('aria-label="Carpet plot of sub-001')
    ticks = [float(x) for x, *_ in FLAG.findall(text[begins : text.index("</svg>", begins)])]
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
    orange = FLAG.findall(svg)
    first, second, third = (float(x) for x, *_ in orange)
    assert second == pytest.approx(first + (third - first) / 4, abs=0.01)
    bar = re.search(r'd="M ([\d.]+) [\d.]+ \nL ([\d.]+) [\d.]+ \nL ([\d.]+) [^"]*"[^>]*style="fill: var\(--blue\)', svg)
    assert bar is not None
    ends = sorted({float(number) for number in bar.groups()})
    np.testing.assert_allclose(ends, [first + (third - first) * share for share in (0.5, 0.75)], atol=0.01)
    assert "stroke-dasharray" in svg


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


def test_evaluation_table_and_verdict_equal_the_result(inputs: ReportInputs, page: Page) -> None:
    result = json.loads(inputs.evaluations[0].read_text())
    rows = page.rows("AUC")
    for line in result["rows"]:
        numbers = [float(part) for part in re.findall(r"-?\d+\.\d+", rows[line["model"]]["AUC"])]
        wanted = [] if line["mean"] is None else [line["mean"], line["low"], line["high"]]
        assert numbers == pytest.approx(wanted, abs=0.00051)
    assert [row["role"] for row in rows.values()] == ["ours", "baseline", "best baseline", "baseline", "published"]
    assert float(rows["published"]["AUC"]) == 0.911
    difference = result["difference"]
    ours = "{mean:.3f} [{low:.3f}, {high:.3f}]".format(**next(row for row in result["rows"] if row["model"] == "ours-1"))
    gap = f"difference +0.112 [+{difference['low']:.3f}, +0.200]"
    verdict = f"ours-1 (auc {ours}) beats the best baseline, {EVIL} (tangent): {gap}"
    assert page.words.count(verdict) == 2


def test_verdict_follows_the_interval(tmp_path: Path) -> None:
    result = make_result(tmp_path / "group.json", low=-0.02)
    words = Page(write_report(tmp_path / "page.html", ReportInputs(evaluations=(result,))).read_text()).words
    assert re.search(r"ours-1 \(auc [^)]*\) is not distinguishable from the best baseline", words) and "beats" not in words


def test_recall_of_planted_events_equals_a_count_by_hand(page: Page) -> None:
    """Windows 0 and 3 are the best of the first session (all 3 events), 4 and 5 of the second (none), 0 and 1 of the third (2)."""
    rows = page.rows("planted events")
    assert [rows[name]["found"] for name in ("sub-001", "sub-002", "sub-003", "all sessions")] == ["3", "0", "2", "5"]
    assert rows["all sessions"]["recall (%)"] == "55.6"
    assert {row["random (%)"] for row in rows.values()} == {"33.3"}
    assert "hold 5 of 9 planted events (55.6%); as many random windows hold 33.3% on average" in page.words


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
    summary = text[text.index('<section id="summary"') : text.index('<section id="data"')]
    paragraphs = re.findall(r"<p>(.*?)</p>", summary, flags=re.DOTALL)
    assert len(paragraphs) == 5
    assert (
        paragraphs[0]
        == "3 sessions of 3 participants went in, 1 minute in all; 1 run was left out by a threshold on quality and 1 run was refused."
    )
    assert "at least 97.0 % of the brain mask" in paragraphs[1] and "1 session carries a warning" in paragraphs[1]


@pytest.mark.parametrize("kept", ["nothing", "store", "windows", "runs", "evaluations", "failures"])
def test_what_is_missing_leaves_a_sentence(inputs: ReportInputs, tmp_path: Path, kept: str) -> None:
    given = ReportInputs(title="one part") if kept == "nothing" else ReportInputs(**{kept: getattr(inputs, kept), "title": "one part"})
    page = Page(write_report(tmp_path / "page.html", given).read_text(encoding="utf-8"))
    assert page.problems == []
    assert [section["id"] for section in page.named("section")] == SECTIONS
    absent = [attributes for attributes in page.named("p") if attributes.get("class") == "absent"]
    assert len(absent) == (5 if kept == "nothing" else 4 if kept == "failures" else 3)


def test_missing_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"lost/run\.json"):
        write_report(tmp_path / "page.html", ReportInputs(runs=(tmp_path / "lost",)))
    (tmp_path / "other.json").write_text('{"task": "x"}')
    with pytest.raises(InputError, match=r"other\.json: lacks cohort"):
        write_report(tmp_path / "page.html", ReportInputs(evaluations=(tmp_path / "other.json",)))
    with pytest.raises(StoreError, match=r"failures\.tsv"):
        write_report(tmp_path / "page.html", ReportInputs(failures=tmp_path / "failures.tsv"))
    assert not (tmp_path / "page.html").exists()


def test_region_of_interest_store_has_carpets_and_no_mean_image(tmp_path: Path) -> None:
    channels = Channels(("left", "right"), np.array([[-30.0, 0, 0], [30, 0, 0]]))
    store = Store.create(tmp_path / "store", None, TR)
    series = np.random.default_rng(0).standard_normal((FRAMES, 2))
    store.write_roi_session({"sub": "01", "task": "rest"}, series, channels, TR)
    page = Page(write_report(tmp_path / "page.html", ReportInputs(store=store)).read_text(encoding="utf-8"))
    labels = [drawing["aria-label"] or "" for drawing in page.named("svg")]
    assert len(labels) == 1 and labels[0].startswith("Carpet plot of sub-01: 2 channels over 29 s")


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
    # The first six at once, the rest to be unfolded.
    assert text.index("Carpet plots of 3 more sessions") < text.index('aria-label="Carpet plot of sub-007')


def test_a_large_carpet_stays_small(tmp_path: Path) -> None:
    """White noise is the hardest to compress: 20 sessions of such must leave the page under 8 MB."""
    series = np.random.default_rng(0).standard_normal((1200, 685)).astype(np.float32)
    svg = carpet(series, np.arange(685.0), 0.72, {"FD (mm)": (np.arange(1200.0), np.ones(1200))}, Marks(), "c", "noise")
    assert len(svg) < 500_000


def test_labels_tell_sessions_apart() -> None:
    keys = ["sub-01_ses-1_task-rest_space-A", "sub-01_ses-2_task-rest_space-A", "sub-02_ses-1_task-rest_space-A"]
    assert list(session_labels(keys).values()) == ["sub-01_ses-1", "sub-01_ses-2", "sub-02_ses-1"]
    assert session_labels(keys[:1]) == {keys[0]: "sub-01"}


@pytest.mark.parametrize(("place", "paper"), [(0, "#ffffff"), (1, "#14181d")])
def test_text_colours_have_aa_contrast(place: int, paper: str) -> None:
    """WCAG 2.2: 4.5 to 1 for text; `line` and `band` carry none."""

    def luminance(colour: str) -> float:
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return float(np.dot(linear, (0.2126, 0.7152, 0.0722)))

    for name in set(THEME) - {"line", "band"}:
        light, dark = sorted((luminance(THEME[name][place]), luminance(paper)), reverse=True)
        assert (light + 0.05) / (dark + 0.05) >= 4.5, name
    band, ink = luminance(THEME["band"][place]), luminance(THEME["ink"][place])
    assert (max(band, ink) + 0.05) / (min(band, ink) + 0.05) >= 4.5
