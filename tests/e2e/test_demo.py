"""The quick demo: the steps of the whole one, smaller, into a folder of its own."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest
from chromium import CHROMIUM, needs_chromium

from slimbrain.cli import run_command
from slimbrain.demo import run_demo
from slimbrain.errors import InputError

STEPS = ["simulate", "prep", "pretrain", "rank", "pretrain", "embed", "evaluate", "report"]


def walked(out: Path, quick: bool) -> list[list[str]]:
    """The commands of a demo, of which the cohort alone is made, and that small."""
    asked: list[list[str]] = []

    def run(words: Sequence[str]) -> int:
        asked.append(list(words))
        if words[0] != "simulate":
            return 0
        small = [*words[:2], "--subjects", words[words.index("--subjects") + 1], "--sessions", "1", "--frames", "128", "--voxel-mm", "16"]
        return run_command(small)

    run_demo(out, 0, run, quick)
    return asked


def test_the_quick_demo_walks_the_steps_of_the_whole_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    quick = walked(tmp_path / "quick", quick=True)
    assert [words[0] for words in quick] == STEPS
    shown = [line for line in capsys.readouterr().out.splitlines() if line.startswith("$ slimbrain ")]
    assert [line.split()[2] for line in shown] == STEPS
    trained = [" ".join(words) for words in quick if words[0] == "pretrain"]
    assert all("--set train_temporal.steps=40" in line and "--preset tiny" in line for line in trained)
    people = {name: (tmp_path / "quick" / f"{name}.tsv").read_text().split()[1:] for name in ("pretraining", "evaluation")}
    assert [len(names) for names in people.values()] == [4, 10] and not set(people["pretraining"]) & set(people["evaluation"])


def test_a_folder_holds_a_demo_of_one_size(tmp_path: Path) -> None:
    walked(tmp_path, quick=True)
    with pytest.raises(InputError, match="another seed or size"):
        run_demo(tmp_path, 0, lambda words: 0, quick=False)


@pytest.fixture(scope="module")
def quick_demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("demo") / "demo"
    assert run_command(["demo", "--quick", "--out", str(out)]) == 0
    return out


@pytest.mark.slow
def test_the_quick_demo_ends_with_a_page(quick_demo: Path) -> None:
    page = (quick_demo / "report.html").read_text(encoding="utf-8")
    assert "column:group" in page and (quick_demo / "group.json").is_file()


@pytest.mark.slow
@needs_chromium
def test_the_page_prints_on_fewer_than_eight_sheets(quick_demo: Path, tmp_path: Path) -> None:
    """Once its script has run: the slice viewer takes paper as well."""
    sheets = tmp_path / "page.pdf"
    page = (quick_demo / "report.html").resolve().as_uri()
    asked = ["--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=15000", f"--print-to-pdf={sheets}"]
    subprocess.run([str(CHROMIUM), *asked, page], check=True, capture_output=True, timeout=120)
    assert 3 < len(re.findall(rb"/Type /Page\b", sheets.read_bytes())) < 8
