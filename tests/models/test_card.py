"""The model card: read back by the hub's own library, and loud where nobody knows."""

from __future__ import annotations

from typing import Any

import yaml
from huggingface_hub import ModelCard
from torch import nn

from slimbrain.models.card import Measured, model_card

CONTRACT = {"lattice": "mni-2mm-96-p4", "mask": "a" * 64, "space": "MNI152", "tr": 0.72, "normalisation": "z-score", "window_frames": 8}


def card(training: dict[str, Any], *measured: Measured) -> str:
    config = {"kind": "voxel", "contract": CONTRACT, "training": training, "version": "0.1.0"}
    return model_card(nn.Linear(3, 4), config, measured)


def front_matter(text: str) -> dict[str, Any]:
    values = yaml.safe_load(text.split("---\n")[1])
    assert isinstance(values, dict)
    return values


def test_the_hub_reads_the_first_lines() -> None:
    text = card({"stage": "voxel"})
    assert front_matter(text) == {
        "library_name": "slimbrain",
        "license": "unknown",
        "pipeline_tag": "feature-extraction",
        "tags": ["fmri", "neuroimaging", "self-supervised"],
    }
    assert ModelCard(text).data.license == "unknown"
    assert "16 parameters" in text


def test_evaluations_are_metadata_and_text() -> None:
    found = Measured("## column:sex (My: cohort)\n\n| model |\n|---|\n| ours |", "column:sex", "My: cohort", {"accuracy": 0.75, "auc": 0.8})
    text = card({}, found)
    results = ModelCard(text).data.eval_results
    assert results is not None
    assert [(r.task_name, r.dataset_name, r.dataset_type, r.metric_type, r.metric_value) for r in results] == [
        ("column:sex", "My: cohort", "my-cohort", "accuracy", 0.75),
        ("column:sex", "My: cohort", "my-cohort", "auc", 0.8),
    ]
    assert "## Evaluation\n\n### column:sex (My: cohort)\n\n| model |" in text
    assert "None is recorded" in card({}) and "None is recorded" not in text


def test_cohorts_are_a_table() -> None:
    rows = [
        {"cohort": "HCP|A", "subjects": 7, "sessions": 9, "licence": "CC0-1.0"},
        {"cohort": "unknown", "subjects": 2, "sessions": 2, "licence": "unknown"},
    ]
    text = card({"ledger": rows})
    rest = "| **unknown** | **unknown** |"
    assert f"| HCP/A | 7 | 9 {rest} CC0-1.0 | **unknown** |\n| **unknown** | 2 | 2 {rest} **unknown** | **unknown** |" in text
    assert "**The licence of training data is unknown.**" in text
    assert "licence of training data is unknown" not in card({"ledger": rows[:1]})


def test_a_model_that_does_not_say_whom_it_saw_says_so_loudly() -> None:
    text = card({"subjects": 5, "sessions": 6})
    assert f"| **unknown** | 5 | 6 {4 * '| **unknown** '}|" in text and "**The participants of its pretraining are unknown**" in text


def test_the_strictest_terms_of_all_cohorts_hold() -> None:
    counts = {"subjects": 2, "sessions": 3, "seconds": 5400.0, "times_seen": 12}
    rows = [
        {"cohort": "open", "licence": "CC0-1.0", "consent": ["broad-research"], **counts},
        {"cohort": "closed", "licence": "CC-BY-NC-SA-4.0", "consent": ["broad-research"], "not_for": ["insurers"], **counts},
    ]
    text = card({"ledger": rows})
    assert "| open | 2 | 3 | 1.50 | 12 | CC0-1.0 | broad-research |" in text
    said = text.split("## What the terms of the data allow")[1].split("##")[0]
    assert "not legal advice" in said
    assert "- Commercial use: no (closed: CC-BY-NC-SA-4.0)." in said and "- Derivatives: yes." in said
    assert "- Sources must be named: yes." in said and "- Must be passed on under CC-BY-NC-SA-4.0 alone." in said
    assert "- In the way: not for insurers." in said
    free = card({"ledger": rows[:1]}).split("## What the terms of the data allow")[1].split("##")[0]
    assert "- Commercial use: yes." in free and "In the way" not in free


def test_who_was_seen_is_counted_and_not_named() -> None:
    text = card({"participants": {"persons": ["0123456789abcdef", "fedcba9876543210"]}, "stage": "voxel", "seed": 1})
    assert "hashes of the 2 participants" in text and "--allow-overlap" in text and "0123456789abcdef" not in text
    assert "- stage: voxel\n- seed: 1" in text


def test_every_card_says_what_it_is_for() -> None:
    text = card({})
    headings = [line for line in text.splitlines() if line.startswith("## ")]
    assert headings == [
        *(
            "## What it reads",
            "## What it was trained on",
            "## What the terms of the data allow",
            "## Pretrained on",
            "## Intended use",
            "## Out of scope",
            "## Use",
            "## Evaluation",
        )
    ]
    assert "Diagnosis" in text
