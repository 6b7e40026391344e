"""The section on pretraining: loss, health and speed of each run."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from slimbrain.report.blocks import MISSING, Block, Column, Figure, Heading, Prose, Section, Table, TableBuilder, count, number, short
from slimbrain.report.figures import Curve, curves
from slimbrain.report.inputs import Material
from slimbrain.report.recorded import RunRecord

_TITLE = "Training of both stages"

_STAGES = {"temporal": "Stage 1, temporal extractor", "voxel": "Stage 2, voxel encoder"}

_PANELS = (
    ("skill", ("skill", "skill_")),
    ("probe on validation participants", ("probe_",)),
    ("loss", ("loss", "loss_")),
    ("learning rate", ("lr",)),
    ("EMA momentum", ("ema",)),
    ("std of embeddings", ("std", "content_std")),
    ("effective rank", ("effective_rank",)),
    ("windows per second", ("windows_per_second",)),
    ("peak memory (MiB)", ("peak_mib",)),
)
"""Title and the logged numbers it shows; a name that ends in `_` stands for all that begin with it."""

_CURVE_NAMES = {"content_std": "content", "std": "all", "loss": "total", "skill": "all"}


_HEALTHY = {
    "temporal": "Stage 1. The loss is the mean absolute error at hidden samples of standardised series: 0.80 is what a constant scores on "
    "Gaussian ones. Std and effective rank (Roy and Vetterli, 2007) are over the windows of one session and say how much these differ: "
    "a rank of 1 to 5 is usual and no sign of collapse.",
    "voxel": "Stage 2. Skill is 1 - error / error of the best constant: 0 is a constant answer, "
    "1 is perfect. Std is the mean over dimensions of the standard deviation over tokens, effective rank the number of directions in "
    "which they vary (Roy and Vetterli, 2007): near 1, and more than 2, in a healthy run. When the encoder collapses, the first falls "
    "towards 0, the second towards 1; content std also falls towards 0 when it encodes only the places of tokens.",
}
"""How to read the numbers of a stage; what is healthy in one is not in the other."""


def build(material: Material) -> Section:
    """One table over all runs, then the curves of each."""
    if not material.runs:
        return Section("training", _TITLE, absent="no pretraining run was given; slimbrain pretrain makes one, --run adds it.")
    blocks: list[Block] = [
        _table(material.runs),
        *(Prose(_HEALTHY[stage]) for stage in dict.fromkeys(run.stage for run in material.runs) if stage in _HEALTHY),
    ]
    for place, run in enumerate(material.runs):
        blocks += [Heading(_heading(run)), *_curves(run, place)]
    return Section("training", _TITLE, tuple(blocks))


def _heading(run: RunRecord) -> str:
    """The run's stage and folder."""
    return f"{_STAGES.get(run.stage, run.stage)} ({run.folder.name})"


def sentence(run: RunRecord) -> str:
    """What a run learnt, in one sentence: skill where it is measured, and else the loss."""
    name = _STAGES.get(run.stage, run.stage)
    steps, losses = run.series("loss")
    if not losses:
        return f"{name} has logged nothing yet."
    skills = run.series("skill")[1]
    if skills:
        learnt = f"it predicts hidden places with a skill of {short(skills[-1])} ({_of_whom(run)}0 is a constant, 1 is perfect)"
    else:
        learnt = f"the loss {_trend(losses)}"
    ranks = run.series("effective_rank")[1]
    rank = f"; its embeddings end with an effective rank of {short(ranks[-1])}" if ranks else ""
    return f"{name}: after {count(int(steps[-1]) + 1, 'step')} {learnt}{rank}."


def _of_whom(run: RunRecord) -> str:
    """On whom skill is measured, as far as that is recorded."""
    if run.settings.held_out_sessions is None:
        return ""
    return "of participants held out; " if run.settings.held_out_sessions else "of participants trained on, too few to hold one out; "


def _trend(losses: list[float]) -> str:
    """Whether the loss fell: single steps are noisy, so the means of the first and of the last tenth of what was logged are compared."""
    tenth = max(1, len(losses) // 10)
    first, last = float(np.mean(losses[:tenth])), float(np.mean(losses[-tenth:]))
    of = " (means of the first and last tenth)" if tenth > 1 else ""
    return f"{'fell' if last < first else 'did not fall'}, from {short(first)} to {short(last)}{of}"


_LOGGED = ("skill", "loss", "std", "content_std", "effective_rank", "windows_per_second", "peak_mib")


def _table(runs: tuple[RunRecord, ...]) -> Table:
    losses, health = ("last skill", "first loss", "last loss"), ("lowest std", "last content std", "last effective rank")
    heads = ("sessions", "steps", *losses, *health, "windows per second", "peak memory (MiB)")
    columns = (Column("run"), *(Column(head, True) for head in heads))
    table = TableBuilder("Pretraining runs: first and last logged values, median speed", columns)
    for run in runs:
        values = {name: run.series(name)[1] for name in _LOGGED}
        steps = run.series("loss")[0]
        table.add(
            [
                run.folder.name,
                MISSING if run.settings.sessions is None else str(run.settings.sessions),
                f"{int(steps[-1]) + 1:,}" if steps else MISSING,
                short(_last(values["skill"])),
                short(_first(values["loss"]), 4),
                short(_last(values["loss"]), 4),
                short(min(values["std"], default=None)),
                short(_last(values["content_std"])),
                short(_last(values["effective_rank"])),
                short(float(np.median(values["windows_per_second"])) if values["windows_per_second"] else None),
                number(max(values["peak_mib"], default=None), 0),
            ]
        )
    return table.build()


def _first(values: list[float]) -> float | None:
    return values[0] if values else None


def _last(values: list[float]) -> float | None:
    return values[-1] if values else None


def _curves(run: RunRecord, place: int) -> list[Block]:
    panels = _panels(run)
    if not panels:
        return [Prose("This run has logged nothing yet.")]
    alt = f"Curves of {_heading(run)} over steps: {', '.join(panels)}. {sentence(run)}"
    return [Figure(curves(panels, f"curves-{place}", alt), sentence(run), alt)]


def _bare(name: str) -> str:
    """A logged number's name without that of its panel."""
    return name.removeprefix("loss_").removeprefix("skill_").removeprefix("probe_")


def _panels(run: RunRecord) -> dict[str, Mapping[str, Curve]]:
    logged = list(dict.fromkeys(name for line in run.metrics for name in line))
    panels: dict[str, Mapping[str, Curve]] = {}
    for title, wanted in _PANELS:
        names = [name for name in logged if any(name == want or (want.endswith("_") and name.startswith(want)) for want in wanted)]
        labelled = {_CURVE_NAMES.get(name, _bare(name).replace("_", " ")): run.series(name) for name in names}
        labelled = {label: curve for label, curve in labelled.items() if curve[0]}
        if labelled:
            panels[title] = _without_copies(labelled)
    return panels


def _without_copies(labelled: Mapping[str, Curve]) -> dict[str, Curve]:
    """The curves, each once: of two that are equal, as skill is where one objective is all there is, the second would hide the first."""
    kept: dict[str, Curve] = {}
    for label, curve in labelled.items():
        if curve not in kept.values():
            kept[label] = curve
    return kept
