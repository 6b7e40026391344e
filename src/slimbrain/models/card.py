"""The model card: what to know before using the weights, as text for people and as metadata for the hub."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from slimbrain.governance.ledger import LedgerEntry, entries_from, terms_lines
from slimbrain.governance.provenance import PRETRAINING_UNKNOWN, count_remembered
from slimbrain.store.terms import UNKNOWN

_STAGES = {"temporal": "temporal extractor (stage 1)", "voxel": "Hiera-JEPA voxel encoder (stage 2)"}

_INTENDED = (
    "Research on groups: frozen vectors of preprocessed fMRI sessions for probes, clustering and identification, or a starting point for "
    "fine-tuning, on data prepared as above, beside the baselines that `slimbrain evaluate` puts into every table."
)
_OUT_OF_SCOPE = (
    "Diagnosis, prognosis, or any decision about one person: nothing here is validated for it. Finding out who somebody is, which vectors "
    "of brain activity can serve. Children, patients, scanners and protocols unlike those of the cohorts above, unless they are evaluated "
    "first. Images in native space, other templates, or prepared otherwise."
)


_CONNECTOME = (
    "how the recording's connectivity differs from the population: scores on axes learnt without labels{}, turned so that all columns vary "
    "alike: standardise them or not"
)
_SUMS = " and signed sums of the whole tangent vector"

LICENCE = "licence"
"""Field of a checkpoint's `training`: the SPDX id of the weights' own licence."""


@dataclass(frozen=True)
class Measured:
    """What one evaluation adds to a card.

    Attributes
    ----------
    text : str
        Markdown, a heading of the second level and a table.
    task, cohort, metrics : str, str, mapping of str to float
        What was predicted, in whom, and the model's own figures, for the hub's metadata.
    """

    text: str
    task: str
    cohort: str
    metrics: Mapping[str, float]


def model_card(model: nn.Module, config: Mapping[str, Any], measured: Sequence[Measured] = ()) -> str:
    """The card of a model folder.

    Parameters
    ----------
    config : mapping of str to Any
        The folder's config.json.
    measured : sequence of Measured
        Evaluations to show.
    """
    training = config.get("training", {})
    entries = entries_from(training)
    stage = _STAGES[config["kind"]]
    lines = [
        *("---", _front_matter(f"slimbrain {stage}", str(training.get(LICENCE, UNKNOWN)), measured), "---"),
        f"# slimbrain {stage}",
        "",
        f"{sum(parameter.numel() for parameter in model.parameters()):,} parameters, written by slimbrain {config['version']}.",
        "Method: SLIM-Brain, arXiv 2512.21881.",
        "",
        "## What it reads",
        "",
        *_reads(config),
        "",
        "## What it was trained on",
        "",
        *_data(entries),
        "",
        *(f"- {name}: {value}" for name, value in training.items() if not isinstance(value, (dict, list))),
        "",
        *_licence(training),
        *("## What the terms of the data allow", "", *_terms(entries), ""),
        "## Pretrained on",
        "",
        _leakage(training),
        "",
        *("## Intended use", "", _INTENDED, "", "## Out of scope", "", _OUT_OF_SCOPE, ""),
        *("## Use", "", "    import slimbrain", '    model = slimbrain.from_pretrained("path/to/this/folder, or its hub id")'),
        '    vectors = slimbrain.SlimBrainEncoder("path/to/this/folder, or its hub id").fit().transform(["bold.nii.gz"])',
        "",
        *("## Evaluation", "", *(_evaluation(measured))),
    ]
    return "\n".join(lines) + "\n"


def _reads(config: Mapping[str, Any]) -> list[str]:
    """Which data, and with a connectome what comes out."""
    contract, beside = config["contract"], config.get("connectome")
    windows = f"windows of {contract['window_frames']} frames"
    any_channels = config["kind"] == "temporal" and beside is not None
    if any_channels:
        what = f"Sessions prepared by `slimbrain prep`: any parcellation with MNI places, or images, at any TR; {windows} of the network."
    else:
        what = (
            f"Sessions prepared by `slimbrain prep` on lattice `{contract['lattice']}`, mask `{contract['mask'][:12]}`, "
            f"space {contract['space']}, TR {contract['tr']:g} s, {contract['normalisation']}, {windows}. Anything else is refused."
        )
    if beside is None:
        return [what]
    lines = [what, "", "| pooling of `slimbrain embed` | numbers | what they are |", "|---|---|---|"]
    rows = _pooled_series(config, beside) if any_channels else _pooled_clips(beside)
    return lines + [f"| {' | '.join(row)} |" for row in rows]


def _pooled_series(config: Mapping[str, Any], connectome: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Poolings of stage 1: name, numbers, what they are."""
    axes, tangent = _pooled_connectome(connectome)
    turned = connectome["axes"] + connectome["sums"]
    return [
        ("`both` (default)", str(turned + connectome["token_axes"]), "the two below; leading axes of the tokens only"),
        ("`connectome`", str(turned), _CONNECTOME.format(_SUMS if connectome["sums"] else "")),
        ("`tokens`", str(2 * config["model"]["width"]), "mean and standard deviation over windows of the network's features"),
        axes,
        tangent,
        (
            "`native`",
            "by the channels",
            "the logarithm of their own correlation, without the model; the default where they have no MNI places",
        ),
    ]


def _pooled_clips(connectome: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Poolings of stage 2 that read what its tokens decode to."""
    what = "learnt parcels of the patches" if connectome["patches"] else "the cells"
    return [
        ("`connectome` (default)", str(connectome["axes"]), f"of {what} that tokens decode to: {_CONNECTOME.format('')}"),
        *_pooled_connectome(connectome),
    ]


def _pooled_connectome(connectome: Mapping[str, Any]) -> tuple[tuple[str, str, str], tuple[str, str, str]]:
    entries = connectome["anchors"] * (connectome["anchors"] + 1) // 2
    return (
        ("`axes`", str(connectome["axes"]), "the connectome's before it is turned, ordered by variance; never standardise these"),
        ("`tangent`", str(entries), "the whole tangent vector; with many labels it tells more"),
    )


def _licence(training: Mapping[str, Any]) -> list[str]:
    """Of the weights themselves, where somebody chose one."""
    if LICENCE not in training:
        return []
    return ["## Licence of the weights", "", f"{training[LICENCE]}, and no use that the terms of the data below do not allow.", ""]


def _front_matter(title: str, licence: str, measured: Sequence[Measured]) -> str:
    from huggingface_hub import EvalResult, ModelCardData

    results = [
        EvalResult(
            task_type="other",
            task_name=found.task,
            dataset_type=re.sub(r"[^a-z0-9]+", "-", found.cohort.lower()).strip("-") or UNKNOWN,
            dataset_name=found.cohort,
            metric_type=metric,
            metric_value=value,
        )
        for found in measured
        for metric, value in found.metrics.items()
    ]
    data = ModelCardData(
        library_name="slimbrain",
        pipeline_tag="feature-extraction",
        license=licence.lower(),
        tags=["fmri", "neuroimaging", "self-supervised"],
        model_name=title if results else None,
        eval_results=results or None,
    )
    return data.to_yaml().strip()


def _data(entries: Sequence[LedgerEntry]) -> list[str]:
    lines = ["| cohort | participants | sessions | hours | times drawn | licence | consent |", "|---|---|---|---|---|---|---|"]
    for entry in entries:
        said = entry.governance
        hours = UNKNOWN if entry.seconds is None else f"{entry.seconds / 3600:.2f}"
        counts = [UNKNOWN if value is None else value for value in (entry.subjects, entry.sessions, hours, entry.times_seen)]
        cells = map(_cell, (said.cohort, *counts, said.licence, ", ".join(said.consent)))
        lines.append(f"| {' | '.join(cells)} |")
    if any(entry.governance.licence == UNKNOWN for entry in entries):
        lines += ["", "**The licence of training data is unknown.** Find it out before you share the weights, or what is made with them."]
    return lines


def _terms(entries: Sequence[LedgerEntry]) -> list[str]:
    """The strictest terms of all data hold for the whole."""
    return [
        "Of every cohort above the strictest answer holds, for the weights and for what is made with them. Read from a table of what",
        "licences and agreements say, conservatively; this is not legal advice.",
        "",
        *(f"- {line.replace('|', '/')}" for line in terms_lines(entries)),
    ]


def _cell(value: object) -> str:
    text = " ".join(str(value).replace("|", "/").split())
    return f"**{UNKNOWN}**" if text == UNKNOWN else text


def _leakage(training: Mapping[str, Any]) -> str:
    count = count_remembered(training)
    if training.get(PRETRAINING_UNKNOWN):
        return (
            f"**The participants of its pretraining are {UNKNOWN}.** `config.json` carries salted hashes of the {count} participants of "
            "fine-tuning alone; `slimbrain evaluate` refuses to score on these."
        )
    if not count:
        return (
            f"**The participants of its pretraining are {UNKNOWN}**: the model carries no hashes of them, so nobody can tell whether an "
            "evaluation is on people it knows."
        )
    return (
        f"`config.json` carries salted hashes of the {count} participants it was trained on, no names. `slimbrain evaluate` looks "
        "for them among those it is to score, and refuses to score on them unless `--allow-overlap` is given, which the table then says."
    )


def _evaluation(measured: Sequence[Measured]) -> list[str]:
    if not measured:
        return ["None is recorded here; `slimbrain.add_evaluation` adds what `slimbrain evaluate` wrote."]
    # A level down: the tables have headings of their own.
    return [line for found in measured for line in (f"#{found.text}".rstrip(), "")]
