"""The command blocks of README and docs run, page by page, as they stand there.

A page is covered by being listed in `COVERED`, with what it expects to find: things that the README's own commands made, or a tree in
another layout. Blocks of a covered page (```sh, ```console after its prompt, ```python) run in order in one folder, and an error fails the
test. A block that cannot run here stands after `<!-- not run: REASON -->`. So that all pages take a minute and not a day, commands of
slimbrain get further options that make them smaller (`smaller`), and evaluations two folds of one seed; what is for Slurm prints its batch
script and submits nothing (`--dry-run`). Nothing else is changed. `CHECKED` looks at what came out of some pages.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest

from slimbrain.cli import run_command
from slimbrain.disk.tsv import read_tsv
from slimbrain.evaluate import attention
from slimbrain.evaluate.splits import DEFAULT_POLICY
from slimbrain.simulate import CohortSpec, simulate_cohort
from slimbrain.store import Store

ROOT = Path(__file__).resolve().parents[2]
PARTICIPANTS, KNOWN = 18, 4
FRAMES = 64
MADE = ("fmriprep", "store", "runs", "windows.tsv", "pretraining.tsv", "evaluation.tsv", "embeddings.npz", "sex.json", "maps")
"""What the README's commands leave; pages that go on from there get copies."""

LANGUAGES = ("sh", "console", "python")
MARKER = re.compile(r"<!-- not run: (.+?) -->")
FENCE = re.compile(r"^(\s*)```(\w*)\s*$")
SHELL = set("|<>;&$`*()~")
"""A line with one of these is the shell's to read."""

SMALL_NETWORKS = (
    *("temporal.width=16", "temporal.depth=1", "temporal.heads=2", "temporal.groups=4", "voxel.embed=8", "voxel.depths=[1,1,1,1]"),
    *("voxel.heads=[1,1,1,1]", "voxel.mlp_ratio=1", "jepa.predictor_width=16", "jepa.predictor_depth=1", "jepa.predictor_heads=2"),
)
SHORT_RUNS = tuple(f"train_{stage}.{value}" for stage in ("temporal", "voxel") for value in ("steps=2", "batch=2", "log_every=1"))


# --- what a page holds


@dataclass(frozen=True)
class Block:
    """A fenced block: where it begins, its language and lines, and why it is not run, if it says so."""

    line: int
    language: str
    lines: tuple[str, ...]
    reason: str = ""

    @property
    def commands(self) -> list[str]:
        """Logical lines: continued ones joined, of a console only what follows a prompt, without comments."""
        text = "\n".join(self.lines)
        if self.language == "console":
            text = re.sub(r"\s*\\\n\s*", " ", text)
            text = "\n".join(line.removeprefix("$ ") for line in text.splitlines() if line.startswith("$ "))
        joined = re.sub(r"\s*\\\n\s*", " ", text)
        return [line for line in joined.splitlines() if line.strip() and not line.lstrip().startswith("#")]


def blocks_of(text: str) -> list[Block]:
    """Blocks of the languages that are run."""
    blocks: list[Block] = []
    reason, opened, lines = "", None, []
    for number, line in enumerate(text.splitlines(), start=1):
        fence = FENCE.match(line)
        if opened:
            if fence and not fence.group(2):
                start, indent, language = opened
                if language in LANGUAGES:
                    blocks.append(Block(start, language, tuple(text.removeprefix(indent) for text in lines), reason))
                opened, reason, lines = None, "", []
            else:
                lines.append(line)
        elif fence:
            opened = (number, fence.group(1), fence.group(2))
        elif marker := MARKER.search(line):
            reason = marker.group(1)
        elif line.strip():
            # A marker speaks of the block that follows it, and of no other.
            reason = ""
    return blocks


def pages() -> list[Path]:
    return [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


# --- what pages need


def hcp(folder: Path) -> None:
    """The cohort in the HCP's tree."""
    for number, image in enumerate(_images(folder)[:2]):
        place = folder / "HCP_1200" / str(100307 + number) / "MNINonLinear" / "Results" / "rfMRI_REST1_LR"
        place.mkdir(parents=True)
        (place / "rfMRI_REST1_LR_hp2000_clean.nii.gz").symlink_to(image)


def cpac(folder: Path) -> None:
    """The cohort as C-PAC names ABIDE's."""
    place = folder / "Outputs" / "cpac" / "filt_global" / "func_preproc"
    place.mkdir(parents=True)
    for number, image in enumerate(_images(folder)[:2]):
        (place / f"Pitt_{50003 + number:07d}_func_preproc.nii.gz").symlink_to(image)


def table(folder: Path) -> None:
    """The cohort as a table of images."""
    rows = [f"{image}\tsub-{number:02d}\tMNI152NLin6Asym" for number, image in enumerate(_images(folder)[:2], start=1)]
    (folder / "images.tsv").write_text("\n".join(["path\tparticipant_id\tspace", *rows]) + "\n", encoding="utf-8")


def two_stores(folder: Path) -> None:
    """Two stores to bring together."""
    for name in ("hcp", "abide"):
        shutil.copytree(folder / "store", folder / name)


def bids_filter(folder: Path) -> None:
    (folder / "filter.json").write_text('{"bold": {"task": "rest"}}', encoding="utf-8")


def yaml_of(name: str) -> Callable[[Path], None]:
    """The files that a page shows as ```yaml with their name as a comment in the first line."""

    def write(folder: Path) -> None:
        text = (ROOT / name).read_text(encoding="utf-8")
        for file, content in re.findall(r"^```yaml\n# (\S+\.yaml)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
            (folder / file).write_text(content, encoding="utf-8")

    return write


def atlas(folder: Path) -> None:
    """Left and right, on the lattice of the store."""
    grid = Store(folder / "store").grid
    sides = np.where(np.arange(grid.mask.shape[0]) < grid.mask.shape[0] // 2, 1, 2)[:, None, None] * np.ones(grid.mask.shape)
    nibabel.Nifti1Image(sides.astype(np.int16), grid.lattice.affine).to_filename(folder / "atlas.nii.gz")
    (folder / "atlas.tsv").write_text("index\tname\n1\tleft\n2\tright\n", encoding="utf-8")


def few_sessions(folder: Path) -> None:
    """Three participants in the store: a report draws a carpet of each."""
    labels = [word for label in ("05", "06", "07") for word in ("--participant-label", label)]
    (folder / "store").rename(folder / "whole")
    assert run_command(["store", "subset", str(folder / "whole"), str(folder / "store"), *labels]) == 0


def demo_run(folder: Path) -> None:
    """A folder as the demo leaves it, and a map of somebody else's."""
    (folder / "demo-run").mkdir()
    for name in ("store", "runs", "windows.tsv", "sex.json", "maps"):
        (folder / "demo-run" / name).symlink_to(folder / name)
    shutil.copy(next((folder / "maps" / "sex").glob("group_*_map.nii.gz")), folder / "attribution.nii.gz")


def _images(folder: Path) -> list[Path]:
    return sorted(path.resolve() for path in (folder / "fmriprep").rglob("*_bold.nii.gz"))


def only(*names: str) -> Callable[[Path], None]:
    """Keep these of what the README made, so that the page's commands meet an empty place."""

    def drop(folder: Path) -> None:
        for name in set(MADE) - set(names):
            path = folder / name
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    return drop


COVERED: dict[str, tuple[Callable[[Path], None], ...]] = {
    "README.md": (),
    "CONTRIBUTING.md": (),
    "docs/benchmarks.md": (),
    "docs/brainmarks.md": (),
    "docs/collapse.md": (),
    "docs/contract.md": (),
    "docs/datasets.md": (),
    "docs/embedding.md": (),
    "docs/evaluation.md": (only(),),
    "docs/faq.md": (),
    "docs/finetuning.md": (only("store", "runs", "windows.tsv", "evaluation.tsv"),),
    "docs/glossary.md": (),
    "docs/gpu.md": (),
    "docs/hub.md": (),
    "docs/inputs.md": (hcp, cpac, table, bids_filter, atlas, only("fmriprep")),
    "docs/install.md": (),
    "docs/ledger.md": (only(),),
    "docs/mixtures.md": (yaml_of("docs/mixtures.md"), only()),
    "docs/maps.md": (atlas, only("store", "runs", "windows.tsv")),
    "docs/own_data.md": (hcp, cpac, table, only("fmriprep")),
    "docs/performance.md": (),
    "docs/plan.md": (),
    "docs/plotting.md": (only("store", "windows.tsv", "sex.json", "maps"),),
    "docs/pretrained.md": (only("store", "runs"),),
    "docs/pretraining.md": (only("store"),),
    "docs/published_weights.md": (),
    "docs/quality.md": (),
    "docs/real_data.md": (),
    "docs/report.md": (few_sessions, demo_run),
    "docs/saliency.md": (only("store", "runs"),),
    "docs/scale.md": (),
    "docs/scikit_learn.md": (),
    "docs/slurm.md": (only("fmriprep", "store", "runs", "windows.tsv", "evaluation.tsv"),),
    "docs/stage1.md": (),
    "docs/stage2.md": (),
    "docs/store_format.md": (),
    "docs/store_tools.md": (two_stores,),
    "docs/tasks.md": (),
    "docs/tour.md": (only(),),
    "docs/training.md": (only("store", "windows.tsv"),),
}
"""Pages whose blocks run, with what is put into, or taken out of, the folder before. To cover a page: list it, mark what cannot run."""


def evaluation_results(folder: Path) -> None:
    """Rows of the methods asked for; vectors made before give the same row; whom the model knows is marked."""
    results = {name: json.loads((folder / f"{name}.json").read_text()) for name in ("group", "identity", "tuned", "again")}
    assert [(row["model"], row["method"]) for row in results["group"]["differences"]] == [
        ("slimbrain voxel", "linear probe"),
        ("slimbrain voxel", "attention probe"),
        ("connectivity + slimbrain voxel", "tangent towards the population, whole run, and linear probe"),
    ]
    assert results["group"]["n_subjects"] == 6 and results["identity"]["rows"][0]["metric"] == "top1"
    assert results["tuned"]["rows"][0]["method"] == "fine-tuning" and (folder / "tuned" / "head.safetensors").exists()
    assert results["again"]["rows"][0] == results["group"]["rows"][0]
    assert all((folder / f"{name}.md").read_text().startswith(f"## {result['task']}") for name, result in results.items())
    rows = read_tsv(folder / "predictions.tsv")
    assert len(rows) == 24 and {row["in_training"] for row in rows} == {"yes"}
    assert {row["prediction"] for row in rows} <= {name.removeprefix("p_") for name in rows[0] if name.startswith("p_")}
    average = json.loads((folder / "maps" / "group_desc-gradientContrast_map.json").read_text())
    assert average["decided_by"]["kind"] == "fine-tuned head" and average["in_training"] == average["participants"] == 12


def report_pages(folder: Path) -> None:
    """The first page has every section but for quality's extras; the second has both maps."""
    first, second = ((folder / name).read_text(encoding="utf-8") for name in ("demo-run/report.html", "maps.html"))
    assert "Integrated gradients, sex" in first and "column:sex" in second and "attribution.nii.gz" in second


CHECKED: dict[str, Callable[[Path], None]] = {"docs/evaluation.md": evaluation_results, "docs/report.md": report_pages}
"""What has to be true of a page's folder after its blocks."""


# --- running


def smaller(words: list[str]) -> list[str]:
    """A command of slimbrain with options that make it small, and in one process of this machine."""
    if words[0] == "launch":
        return ["launch", "--dry-run", *words[1:]]
    for option in {"--nprocs", "--seeds"} & set(words):
        place = words.index(option) + 1
        words = [*words[:place], "1", *words[place + 1 :]]
    if words[0] == "prep" and "--resolution" not in words:
        return [*words, "--resolution", "8mm"]
    if words[0] == "pretrain":
        return [*words, *(word for setting in (*SMALL_NETWORKS, *SHORT_RUNS) for word in ("--set", setting))]
    if words[0] == "simulate":
        place = words.index("--subjects") + 1
        return [*words, "--frames", "130", "--subjects", str(min(int(words[place]), PARTICIPANTS))]
    if words[0] == "explain":
        return [*words, "--k", "1", "--pictures", "none", *(() if "--method" in words else ("--steps", "1"))]
    if words[0] == "doctor":
        return [*words, *(word for setting in SMALL_NETWORKS for word in ("--set", setting))]
    return words


def run_line(line: str, folder: Path, programs: Path) -> int:
    """One logical line: commands of slimbrain in this process, all else by bash."""
    words = shlex.split(line, comments=True)
    if words and words[0] == "slimbrain" and not SHELL & set(line.split(" #")[0]):
        return run_command(smaller(words[1:]))
    environment = {**os.environ, "PATH": f"{programs}{os.pathsep}{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    return subprocess.run(["bash", "-euo", "pipefail", "-c", line], cwd=folder, env=environment, check=False).returncode


def run_page(name: str, folder: Path, programs: Path) -> None:
    """All blocks of a page that can run, in order, in `folder`."""
    names: dict[str, Any] = {}
    before = Path.cwd()
    os.chdir(folder)
    try:
        for block in blocks_of((ROOT / name).read_text(encoding="utf-8")):
            if block.reason:
                continue
            if block.language == "python":
                exec(compile("\n".join(block.lines), f"{name}:{block.line}", "exec"), names)
                continue
            for line in block.commands:
                assert run_line(line, folder, programs) == 0, f"{name}, block at line {block.line}: {line}"
    finally:
        os.chdir(before)


@pytest.fixture(scope="module", autouse=True)
def few_folds() -> Iterator[None]:
    """Evaluations deal out two folds once, not five three times, and attend for three epochs: they are here to run, not to be believed."""
    before = asdict(DEFAULT_POLICY)
    for name, value in {"seeds": (0,), "n_splits": 2}.items():
        object.__setattr__(DEFAULT_POLICY, name, value)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(attention, "EPOCHS", 3)
        yield
    for name, value in before.items():
        object.__setattr__(DEFAULT_POLICY, name, value)


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `slimbrain`, for lines that the shell reads."""
    folder = tmp_path_factory.mktemp("bin")
    (folder / "slimbrain").write_text(f"#!/bin/sh\nexec '{sys.executable}' -m slimbrain \"$@\"\n", encoding="utf-8")
    (folder / "slimbrain").chmod(0o755)
    return folder


@pytest.fixture(scope="module")
def readme(tmp_path_factory: pytest.TempPathFactory, programs: Path) -> Path:
    """A folder with a small cohort in which the README's commands have run: what other pages go on from."""
    folder = tmp_path_factory.mktemp("readme")
    spec = CohortSpec(subjects=PARTICIPANTS, sessions=1, frames=FRAMES, events_per_session=0, spikes_per_session=0)
    simulate_cohort(folder / "fmriprep", spec)
    _two_digits(folder / "fmriprep")
    people = [f"sub-{number:02d}" for number in range(1, PARTICIPANTS + 1)]
    for table, listed in {"pretraining.tsv": people[:KNOWN], "evaluation.tsv": people[KNOWN:]}.items():
        (folder / table).write_text("\n".join(["participant_id", *listed]) + "\n", encoding="utf-8")
    run_page("README.md", folder, programs)
    return folder


def _two_digits(cohort: Path) -> None:
    """Call participants 01, 02, ... as the pages do."""
    for path in sorted(cohort.rglob("*sub-0*"), key=lambda path: -len(path.parts)):
        path.rename(path.with_name(path.name.replace("sub-0", "sub-")))
    people = cohort / "participants.tsv"
    people.write_text(people.read_text(encoding="utf-8").replace("sub-0", "sub-"), encoding="utf-8")


@pytest.fixture
def folder(readme: Path, tmp_path: Path) -> Iterator[Path]:
    """A copy of what the README made, for one page."""
    for name in MADE:
        source = readme / name
        shutil.copytree(source, tmp_path / name) if source.is_dir() else shutil.copy(source, tmp_path / name)
    yield tmp_path


# --- the tests


@pytest.mark.slow
def test_the_readme_runs(readme: Path) -> None:
    assert [name for name in MADE if not (readme / name).exists()] == []
    assert (readme / "report.html").stat().st_size > 10_000


@pytest.mark.slow
@pytest.mark.timeout(1500)
@pytest.mark.parametrize("name", [name for name in COVERED if name != "README.md"])
def test_a_page_runs(name: str, folder: Path, programs: Path) -> None:
    blocks = blocks_of((ROOT / name).read_text(encoding="utf-8"))
    if all(block.reason for block in blocks):
        pytest.skip("; ".join(f"line {block.line}: {block.reason}" for block in blocks) or "has no command block")
    for prepare in COVERED[name]:
        prepare(folder)
    run_page(name, folder, programs)
    if name in CHECKED:
        CHECKED[name](folder)


def test_pages_that_nothing_runs_yet_are_named() -> None:
    """Not silently: pytest prints the reason of a skip."""
    names = {path.relative_to(ROOT).as_posix(): path for path in pages()}
    assert COVERED.keys() <= names.keys()
    open_pages = {
        name: len(blocks)
        for name, path in names.items()
        if name not in COVERED and (blocks := [block for block in blocks_of(path.read_text(encoding="utf-8")) if not block.reason])
    }
    if open_pages:
        listed = ", ".join(f"{name} ({count} blocks)" for name, count in open_pages.items())
        pytest.skip(f"not covered yet, list them in COVERED: {listed}")


def test_blocks_are_found_with_their_markers() -> None:
    page = (
        "```sh\nslimbrain a \\\n  --x 1\n# said\n```\n<!-- not run: needs a GPU -->\n```sh\nslimbrain b\n```\n"
        "<!-- not run: stale -->\nText.\n\n1. Item:\n\n   ```console\n   $ slimbrain c\n   output\n   ```\n```text\nslimbrain d\n```\n"
    )
    found = blocks_of(page)
    assert [(block.commands, block.reason) for block in found] == [
        (["slimbrain a --x 1"], ""),
        (["slimbrain b"], "needs a GPU"),
        (["slimbrain c"], ""),
    ]


def test_a_command_that_fails_is_noticed(tmp_path: Path, programs: Path) -> None:
    assert run_line("slimbrain inspect nowhere", tmp_path, programs) == 1
    assert run_line("false | cat", tmp_path, programs) == 1
    assert run_line('test -x "$(command -v slimbrain)"  # found', tmp_path, programs) == 0
