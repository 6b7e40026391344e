"""The page in a real browser, Debian's chromium without a window: what a user sees, hears and does.

Skipped, with the reason, where there is no chromium or no playwright. Playwright's own browsers are never asked for.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from chromium import CHROMIUM, needs_chromium
from matplotlib.colors import LinearSegmentedColormap
from report_samples import EVIL, EXPLAINED_MM, PEAK, PEAK_MM, SECTIONS, TROUGH, TROUGH_MM, WINDOW_S, K

from slimbrain.colours import stops
from slimbrain.report import ReportInputs

sync_api = pytest.importorskip("playwright.sync_api", reason="no playwright: install the extra `dev`")
axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="no axe-playwright-python: install the extra `dev`")

pytestmark = needs_chromium

QUIET = (
    *("--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update"),
    *("--disable-sync", "--disable-dev-shm-usage"),
)
"""Chromium that asks nothing of the network by itself."""

DESK, PHONE = {"width": 1100, "height": 900}, {"width": 360, "height": 740}
N_WINDOWS = 6
BEST = {"sub-001": 1, "sub-002": 6, "sub-003": 1}
"""Window with the highest score of each session, as `make_inputs` gives them."""


@dataclass
class Visit:
    """A page that was opened, and what it said and asked for meanwhile."""

    page: Any
    said: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)

    def explorer(self, place: int) -> Any:
        return self.page.locator(f"#explorer-{place}")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as play:
        # Root in a container has no sandbox to use.
        browser = play.chromium.launch(executable_path=CHROMIUM, args=list(QUIET), chromium_sandbox=False)
        yield browser
        browser.close()


def open_page(browser: Any, path: Path, **options: Any) -> Visit:
    page = browser.new_context(**{"viewport": DESK, "reduced_motion": "reduce", **options}).new_page()
    visit = Visit(page)
    page.on("console", lambda message: visit.said.append(f"{message.type}: {message.text}"))
    page.on("pageerror", lambda error: visit.said.append(str(error)))
    page.on("request", lambda request: visit.asked.append(request.url))
    page.goto(path.as_uri())
    if options.get("java_script_enabled", True):
        page.wait_for_selector("html[data-ready=yes]", state="attached", timeout=60_000)
    return visit


def unfold(page: Any) -> None:
    page.evaluate("document.querySelectorAll('details').forEach((details) => (details.open = true))")


@pytest.fixture(scope="module")
def desk(browser: Any, page_path: Path) -> Iterator[Visit]:
    visit = open_page(browser, page_path)
    unfold(visit.page)
    yield visit
    visit.page.context.close()


def pixels(canvas: Any) -> str:
    return str(canvas.evaluate("canvas => canvas.toDataURL()"))


# --- the page as a whole


def test_nothing_is_said_on_the_console_and_nothing_asked_of_the_network(desk: Visit, page_path: Path) -> None:
    elsewhere = [url for url in desk.asked if not url.startswith(("data:", "blob:"))]
    assert desk.said == [] and elsewhere == [page_path.as_uri()]


def test_the_policy_stops_what_would_ask(desk: Visit) -> None:
    """So that the test above could fail: the page may not even ask its own disk."""
    assert desk.page.evaluate("fetch(location.href).then(() => 'answered', () => 'refused')") == "refused"
    desk.said.clear()


def test_every_image_is_loaded(desk: Visit) -> None:
    images = desk.page.evaluate(
        """async () => Promise.all(
            [...document.querySelectorAll("svg image")].map((image) => image.href.baseVal)
            .concat([...document.images].map((image) => image.src))
            .map(async (source) => { const image = new Image(); image.src = source; await image.decode(); return image.naturalWidth; }))"""
    )
    # A carpet a session, and the cuts of the mean image.
    assert len(images) > 3 and all(width > 1 for width in images)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_no_serious_violation(browser: Any, page_path: Path, scheme: str) -> None:
    page = open_page(browser, page_path, color_scheme=scheme).page
    unfold(page)
    found = axe.Axe().run(page).response
    serious = [(item["id"], [node["target"] for node in item["nodes"]]) for item in found["violations"]]
    page.context.close()
    assert serious == []


def test_axe_would_notice(desk: Visit) -> None:
    """The rules run: a picture without words, and pale text, are found."""
    desk.page.evaluate(
        """document.querySelector("main").insertAdjacentHTML("beforeend",
           "<div id='bad'><img src='data:image/gif;base64,R0lGODlhAQABAAAAACw='><p style='color:#ccc;background:#fff'>pale</p></div>")"""
    )
    found = {item["id"] for item in axe.Axe().run(desk.page, context="#bad").response["violations"]}
    desk.page.evaluate("document.getElementById('bad').remove()")
    assert {"image-alt", "color-contrast"} <= found


def test_a_phone_does_not_scroll_sideways(browser: Any, page_path: Path) -> None:
    page = open_page(browser, page_path, viewport=PHONE, is_mobile=True, has_touch=True).page
    unfold(page)
    assert page.evaluate("document.documentElement.scrollWidth") == PHONE["width"]
    assert page.locator(".viewer .slice canvas").first.bounding_box()["width"] > 250
    page.context.close()


def test_a_phone_shows_the_score_beside_the_name_and_letters_of_ten_pixels(browser: Any, page_path: Path) -> None:
    page = open_page(browser, page_path, viewport={**PHONE, "width": 390}, is_mobile=True, has_touch=True).page
    unfold(page)
    score = page.locator("#evaluation tbody").first.locator("td.number").first.bounding_box()
    assert score["x"] + score["width"] <= 390
    sizes = page.evaluate("""() => [...document.querySelectorAll("svg text")].map((text) =>
        text.ownerSVGElement.getScreenCTM().a * parseFloat(getComputedStyle(text).fontSize))""")
    assert len(sizes) > 50 and min(sizes) >= 10
    assert set(lines_of(page, "evaluation", "#provenance tbody th")) == {1}, "a word of this length is not broken"
    forest = page.locator("#evaluation .scroll:has(svg)").first
    assert forest.evaluate("box => box.scrollWidth <= box.clientWidth"), "the forest plot is seen whole"
    page.context.close()


def lines_of(page: Any, pattern: str, within: str) -> list[int]:
    """On how many lines each text stands that matches, outside code blocks."""
    return list(
        page.evaluate(
            """([pattern, within]) => {
              const found = [];
              for (const part of document.querySelectorAll(within)) {
                const texts = document.createTreeWalker(part, NodeFilter.SHOW_TEXT);
                while (texts.nextNode()) {
                  if (texts.currentNode.parentElement.closest("pre, script")) continue;
                  for (const text of texts.currentNode.data.matchAll(new RegExp(pattern, "g"))) {
                    const range = document.createRange();
                    range.setStart(texts.currentNode, text.index);
                    range.setEnd(texts.currentNode, text.index + text[0].length);
                    found.push(new Set([...range.getClientRects()].map((box) => Math.round(box.top))).size);
                  }
                }
              }
              return found;
            }""",
            [pattern, within],
        )
    )


def lines_of_options(page: Any) -> set[int]:
    """At many widths, since most leave an option's hyphens in the middle of a line."""
    found: set[int] = set()
    for width in range(220, 420, 4):
        page.set_viewport_size({"width": width, "height": 740})
        found |= set(lines_of(page, "--[a-z][a-z-]+", "main"))
    return found


def test_no_option_breaks_after_its_hyphens(browser: Any, page_path: Path) -> None:
    page = open_page(browser, page_path, viewport=PHONE).page
    unfold(page)
    assert lines_of_options(page) == {1}
    page.add_style_tag(content="code { white-space: normal !important }")
    assert lines_of_options(page) == {1, 2}, "the count above would notice"
    page.context.close()


@pytest.mark.parametrize("width", [1280, 1200])
def test_the_table_of_an_evaluation_fits_a_desktop(browser: Any, page_path: Path, width: int) -> None:
    page = open_page(browser, page_path, viewport={"width": width, "height": 900}).page
    table = page.locator("#evaluation .scroll:has(table)").first
    assert table.evaluate("box => box.scrollWidth <= box.clientWidth")
    page.context.close()


def test_paper_shows_no_controls_and_only_what_is_unfolded(browser: Any, page_path: Path) -> None:
    page = open_page(browser, page_path).page
    page.emulate_media(media="print")
    assert not page.locator("nav").is_visible() and not page.locator(".tools").first.is_visible()
    assert page.get_by_text("Folded parts are not printed").is_visible()
    assert not page.locator("details table").first.is_visible() and page.locator("#evaluation table").is_visible()
    pages = page.pdf(format="A4")
    assert pages.startswith(b"%PDF") and len(re.findall(rb"/Type\s*/Page[^s]", pages)) <= 8
    unfold(page)
    assert page.locator("details table").first.is_visible()
    assert page.locator(".viewer canvas").first.is_visible() and page.locator(".cuts canvas").first.is_visible()
    assert page.locator(".viewer .map-choice").is_visible(), "which map it is"
    assert all(page.locator(f"{part} .scale").first.is_visible() for part in (".viewer", ".explorer")), "what its colours mean"
    assert not any(button.is_visible() for button in page.locator("main button:not(th button), main input").all())
    page.context.close()


def test_small_numbers_are_written_alike(desk: Visit) -> None:
    script = next(text for text in desk.page.locator("script").all_inner_texts() if "function show(" in text)
    show = script[script.index("function show(") :].split("\n}\n")[0] + "\n}"
    shown = desk.page.evaluate(f"() => {{ {show} return [6.654e-6, -9.29e-8, 0.00123, -2.5, 0].map((value) => show(value, 'SD')); }}")
    assert shown == ["6.65e\N{MINUS SIGN}6 SD", "\N{MINUS SIGN}9.29e\N{MINUS SIGN}8 SD", "0.00123 SD", "\N{MINUS SIGN}2.5 SD", "0 SD"]


def test_the_table_of_contents_follows(desk: Visit) -> None:
    for name in ("training", "summary", "maps"):
        desk.page.evaluate("name => document.getElementById(name).scrollIntoView()", name)
        desk.page.wait_for_function("name => document.querySelector('nav a[aria-current]')?.hash === '#' + name", arg=name)
        box = desk.page.locator("nav").bounding_box()
        assert box["y"] == pytest.approx(0, abs=1) or name == "summary"


def test_the_colour_bar_is_that_of_the_pictures(desk: Visit) -> None:
    """Pixels of the viewer's bar, against matplotlib's colour map of the pictures of slimbrain explain."""
    viewer = desk.page.locator(".viewer")
    viewer.locator("select").select_option("planted")
    viewer.locator(".threshold").fill("0")
    ends = "canvas => [0, 60, 190, 253].map((x) => [...canvas.getContext('2d').getImageData(x, 3, 1, 1).data].slice(0, 3))"
    shown, colours = np.array(viewer.locator(".bar").evaluate(ends)), LinearSegmentedColormap.from_list("map", stops(True), N=4001)
    wanted = 255 * np.array([colours(x / 253)[:3] for x in (0, 60, 190, 253)])
    np.testing.assert_allclose(shown, wanted, atol=3)


def test_without_a_script_all_but_the_viewer_can_be_read(browser: Any, page_path: Path) -> None:
    page = open_page(browser, page_path, java_script_enabled=False).page
    assert page.locator("section").count() == len(SECTIONS)
    assert page.get_by_text("The slice viewer needs JavaScript").is_visible()
    assert not page.locator(".viewer").is_visible() and not page.locator(".panel").first.is_visible()
    assert page.locator("#explorer-0 svg").is_visible()
    page.context.close()


# --- tables and texts


def test_a_table_sorts_by_mouse_and_keyboard(desk: Visit) -> None:
    table = desk.page.locator("table", has=desk.page.locator("th", has_text="tSNR"))
    names = lambda: table.locator("tbody th").all_inner_texts()  # noqa: E731
    button = table.get_by_role("button", name="tSNR")
    button.click()
    assert names() == ["sub-001", "sub-002", "sub-003"]
    button.press("Enter")
    assert names() == ["sub-003", "sub-002", "sub-001"]
    assert button.locator("xpath=..").get_attribute("aria-sort") == "descending"
    assert "Sorted by tSNR, descending." in table.locator("xpath=..").inner_text()
    # tSNR rises from session to session, coverage falls.
    table.get_by_role("button", name="coverage").press(" ")
    assert names() == ["sub-003", "sub-002", "sub-001"]


def test_a_minus_counts_when_a_table_is_sorted(desk: Visit) -> None:
    table = desk.page.locator("#maps table").first
    table.get_by_role("button", name="peak").click()
    cells = [float(cell.replace("−", "-")) for cell in table.locator("tbody td:nth-child(5)").all_inner_texts()]
    assert cells == sorted(cells) and cells[0] < 0 < cells[-1]


def test_what_is_unknown_sorts_last_both_ways(desk: Visit) -> None:
    table = desk.page.locator("#evaluation table")
    for _ in range(2):
        table.get_by_role("button", name="AUC").click()
        cells = [cell.split("[")[0].strip() for cell in table.locator("tbody td:nth-child(2)").all_inner_texts()]
        known = [float(cell) for cell in cells if cell != "n/a"]
        assert cells[-1] == "n/a" and len(known) == 4
        assert known == sorted(known) or known == sorted(known, reverse=True)


def test_methods_can_be_copied(browser: Any, page_path: Path) -> None:
    page = open_page(browser, page_path, permissions=["clipboard-read", "clipboard-write"]).page
    unfold(page)
    figure = page.locator("#methods figure", has_text="References, BibTeX")
    figure.get_by_role("button", name="Copy").click()
    figure.get_by_text("Copied.").wait_for()
    copied = page.evaluate("navigator.clipboard.readText()")
    page.context.close()
    assert copied == figure_text(page_path) and "@article{wang2025slimbrain," in copied


def figure_text(path: Path) -> str:
    """The BibTeX as the file has it."""
    found = re.search(r"<code>(@article.*?)</code>", path.read_text(encoding="utf-8"), flags=re.DOTALL)
    assert found is not None
    return html.unescape(found[1])


# --- windows


def test_each_session_begins_at_its_best_window(desk: Visit) -> None:
    for place, (name, window) in enumerate(BEST.items()):
        explorer = desk.explorer(place)
        assert name in explorer.locator("figcaption").inner_text()
        assert explorer.locator(".headline").inner_text().startswith(f"Window {window} of {N_WINDOWS}:")


def test_the_slider_moves_by_keyboard_and_tells_scores_motion_and_events(desk: Visit, inputs: ReportInputs) -> None:
    explorer = desk.explorer(0)
    slider, shown = explorer.locator(".window-slider"), explorer.locator(".readout")
    slider.press("Home")
    first = pixels(explorer.locator(".cuts canvas").nth(3))
    slider.press("ArrowRight")
    assert explorer.locator(".headline").inner_text() == "Window 2 of 6: 5.8 to 11.5 s, rank 5, not chosen"
    assert slider.get_attribute("aria-valuetext") == explorer.locator(".headline").inner_text()
    text = shown.inner_text()
    assert "score −1," in text and f"{EVIL} at 6.0 s" in text
    # Frame 9, at 6.48 s, is flagged; frame 3 lies in the window before.
    assert ", 1 flagged frame. Events" in text
    assert inputs.store is not None
    series = inputs.store.sidecar(inputs.store.sessions[0].key)["Series"]
    times, fd = np.array(series["time_s"]), np.array([np.nan, *series["fd"][1:]])
    under = fd[(times >= WINDOW_S) & (times < 2 * WINDOW_S)]
    assert float(re.search(r"FD mean ([\d.]+) mm", text)[1]) == pytest.approx(under.mean(), rel=5e-3)  # type: ignore[index]
    assert float(re.search(r"largest ([\d.]+) mm", text)[1]) == pytest.approx(under.max(), rel=5e-3)  # type: ignore[index]
    assert pixels(explorer.locator(".cuts canvas").nth(3)) != first
    slider.press("End")
    assert explorer.locator(".headline").inner_text().startswith("Window 6 of 6")


def test_the_pointer_over_the_scores_moves_the_window(desk: Visit) -> None:
    """The time axis runs from 1.6 inches to 0.15 inches before the end of a drawing 7.6 inches wide."""
    explorer = desk.explorer(1)
    explorer.locator("svg").scroll_into_view_if_needed()
    box = explorer.locator("svg").bounding_box()
    for window in (0, 4, 2):
        share = (1.6 + (7.6 - 0.15 - 1.6) * (window + 0.5) / N_WINDOWS) / 7.6
        desk.page.mouse.move(box["x"] + share * box["width"], box["y"] + box["height"] / 3)
        assert explorer.locator(".headline").inner_text().startswith(f"Window {window + 1} of")
        assert explorer.locator(".window-slider").input_value() == str(window)


def test_the_cursor_lies_on_the_shading_of_chosen_windows(desk: Visit) -> None:
    """Where matplotlib drew the band, the script draws its bar: within half a pixel."""
    explorer = desk.explorer(0)
    bands = explorer.locator("svg").evaluate(
        """svg => [...svg.querySelectorAll("path")].filter((path) => path.style.fill === "var(--band)")
                  .map((path) => path.getBoundingClientRect()).map(({ left, right }) => [left, right])"""
    )
    explorer.locator(".window-slider").press("Home")
    seen = set()
    for _ in range(K):
        cursor = explorer.locator(".cursor").evaluate("bar => { const box = bar.getBBox(), m = bar.getScreenCTM(); "
                                                      "return [m.a * box.x + m.e, m.a * (box.x + box.width) + m.e]; }")  # fmt: skip
        assert np.abs(np.array(bands) - cursor).max(axis=1).min() < 0.5
        seen.add(explorer.locator(".headline").inner_text())
        explorer.get_by_role("button", name="Next chosen window").click()
    assert len(seen) == K and all(headline.endswith(" chosen") and "not" not in headline for headline in seen)


def test_a_window_opens_in_the_slice_viewer(desk: Visit) -> None:
    viewer = desk.page.locator(".viewer")
    before = viewer.locator("select option").count()
    for place in (0, 2):
        desk.explorer(place).locator(".window-slider").press("End")
        desk.explorer(place).get_by_role("button", name="Open this map").click()
        assert viewer.locator("select option").count() == before + 1
        assert viewer.locator("select option:checked").inner_text() == f"sub-00{place + 1}, 28.8 to 34.6 s"
        assert viewer.locator(".readout").inner_text().endswith("SD")
    viewer.locator("select").select_option("planted")


# --- the slice viewer


def readout(viewer: Any) -> tuple[list[float], float | None]:
    """Crosshair in mm and value; None where there is none."""
    text = viewer.locator(".readout").inner_text().replace("−", "-")
    place, value = text.split(": ")
    mm = [float(number) for number in re.findall(r"-?\d+", place)]
    return mm, None if value == "no value" else float(value.split()[0])


@pytest.fixture
def viewer(desk: Visit) -> Any:
    found = desk.page.locator(".viewer")
    found.locator("select").select_option("tSNR")
    found.locator("select").select_option("planted")
    return found


def test_the_viewer_begins_at_the_planted_peak(viewer: Any) -> None:
    assert viewer.page.get_by_text("The slice viewer needs JavaScript").count() == 0
    mm, value = readout(viewer)
    # The crosshair stands on the template's even millimetres.
    assert np.abs(np.array(mm) - PEAK_MM).max() <= 1 and value == pytest.approx(PEAK, abs=3 / 127)
    assert viewer.locator(".bar-low").inner_text() == "−3" and viewer.locator(".bar-high").inner_text() == "3"


def test_a_map_of_explain_says_what_it_is_and_how_far_to_trust_it(viewer: Any) -> None:
    viewer.locator("select").select_option("Gradient x input: B less others")
    place, value = viewer.locator(".readout").inner_text().replace("−", "-").split(": ")
    assert np.abs(np.array([float(number) for number in re.findall(r"-?\d+", place)]) - EXPLAINED_MM).max() <= 1
    # One voxel stands far above all others, and does not fade them.
    assert re.fullmatch(r"at least 0\.0\d+ log-odds of B", value)
    assert "trained on 1 of 3 participants" in viewer.locator(".about").inner_text()


def test_sliders_and_keys_reach_the_planted_trough(viewer: Any) -> None:
    for name, mm in zip(("Sagittal", "Coronal"), TROUGH_MM, strict=False):
        viewer.locator(f"input[aria-label^={name}]").fill(str(round(mm + 1)))
    axial = viewer.locator("canvas[aria-label^=Axial]")
    for _ in range(4):
        axial.press("PageDown")
    mm, value = readout(viewer)
    assert np.abs(np.array(mm) - TROUGH_MM).max() <= 1 and value == pytest.approx(TROUGH, abs=3 / 127)
    # A voxel is 8 mm wide: four steps of 2 mm to the right leave it.
    for _ in range(4):
        axial.press("ArrowRight")
    after, value = readout(viewer)
    assert after[0] == mm[0] + 8 and after[1:] == mm[1:] and value == pytest.approx(0.5, abs=3 / 127)
    axial.press("ArrowUp")
    assert readout(viewer)[0][1] == mm[1] + 2
    axial.press("Home")
    assert readout(viewer)[1] == pytest.approx(PEAK, abs=3 / 127)


def test_a_click_moves_the_crosshair_and_the_other_slices(viewer: Any) -> None:
    """A quarter along the axial slice from its left and front ends, in the template's 73 x 90 voxels of 2 mm."""
    axial, sagittal = viewer.locator("canvas[aria-label^=Axial]"), viewer.locator("canvas[aria-label^=Sagittal]")
    before, (start, _) = pixels(sagittal), readout(viewer)
    axial.scroll_into_view_if_needed()
    box = axial.bounding_box()
    axial.click(position={"x": box["width"] / 4, "y": box["height"] / 4})
    mm, _ = readout(viewer)
    assert mm[0] == pytest.approx(-72 + 2 * (73 / 4 - 0.5), abs=2)
    assert mm[1] == pytest.approx(72 - 2 * (90 / 4 - 0.5), abs=2)
    assert mm[2] == start[2] and pixels(sagittal) != before
    assert "x = " in sagittal.get_attribute("aria-label")


def test_the_threshold_hides_what_lies_below(viewer: Any) -> None:
    colours = """canvas => { const { width, height } = canvas, data = canvas.getContext("2d").getImageData(0, 0, width, height).data;
        let n = 0; for (let i = 0; i < data.length; i += 4) n += Math.abs(data[i] - data[i + 2]) > 30; return n; }"""
    axial = viewer.locator("canvas[aria-label^=Axial]")
    threshold = viewer.locator(".threshold")
    counts = []
    for percent in ("0", "50", "100"):
        threshold.fill(percent)
        counts.append(axial.evaluate(colours))
    # All of the brain at 0.5; the one voxel of 8 mm (4 x 4 template voxels of 4 x 4 pixels, less the crosshair); that again at its value.
    assert counts[0] > 20 * counts[1] and 100 < counts[1] <= 256 and counts[2] == counts[1]
    assert viewer.locator(".threshold-value").inner_text() == "3"
    brightest = "canvas => Math.max(...canvas.getContext('2d').getImageData(60, 120, 100, 40).data.filter((_, i) => i % 4 < 3))"
    assert axial.evaluate(brightest) > 100
    viewer.get_by_label("Template").uncheck()
    assert axial.evaluate(brightest) == 0
    viewer.get_by_label("Template").check()


def test_the_crosshair_is_told_to_those_who_listen(viewer: Any) -> None:
    assert viewer.locator(".readout").get_attribute("role") == "status"
    slider = viewer.locator("input[aria-label^=Axial]")
    slider.press("ArrowRight")
    assert slider.get_attribute("aria-valuetext") == f"z = {round(readout(viewer)[0][2])} mm".replace("-", "−")


def test_focus_can_be_seen(desk: Visit) -> None:
    for selector in (".window-slider >> nth=0", ".viewer canvas >> nth=0", "th button >> nth=0", ".viewer select"):
        element = desk.page.locator(selector)
        element.focus()
        desk.page.keyboard.press("Shift+Tab")
        desk.page.keyboard.press("Tab")
        style = desk.page.evaluate(
            "getComputedStyle(document.activeElement).outlineStyle + getComputedStyle(document.activeElement).outlineWidth"
        )
        assert style == "solid2px", selector
