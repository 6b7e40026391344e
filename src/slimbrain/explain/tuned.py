"""The head of a fine-tuned model: one for all sessions, which may have been fitted on some of those it is explained on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from slimbrain.evaluate.attention import as_scores
from slimbrain.evaluate.probes import average_sessions
from slimbrain.evaluate.stats import OutOfFold
from slimbrain.evaluate.tasks import Target
from slimbrain.evaluate.tuned import IN_TRAINING, Tuned
from slimbrain.explain.heads import Deciders, class_number, decision_unit, held_out_score, label_contrast, tuned_head

_KIND = "fine-tuned head"
_BY_DECISION = "change with the decision"
"""The contrast where not every session has a label."""


def tuned_deciders(
    tuned: Tuned,
    vectors: Mapping[str, NDArray[Any]],
    subjects: Mapping[str, str],
    target: Target | None,
    trained_on: frozenset[str],
    chosen: str | None,
) -> Deciders:
    """The head for every session, with whether it was fitted on the subject, and its score on those it was not fitted on.

    Parameters
    ----------
    vectors : mapping of str to array
        (D,) pooled tokens of each session to be explained, by the tuned encoder.
    subjects : mapping of str to str
        Of each of them.
    target : Target or None
        Labels of the head's own task, where the store has any.
    trained_on : set of str
        Participants the model was pretrained or fine-tuned on.
    chosen : str or None
        Class whose log-odds are explained; of two classes the second by name if None.

    Raises
    ------
    InputError
        If the class does not exist, or has to be named.
    """
    head, classes = tuned.head, tuned.head.classes
    number = class_number(classes, chosen)
    decider = tuned_head(tuned.encoder(), number, head.centre, head.scale)
    pooled = torch.from_numpy(np.stack([np.asarray(vectors[key], dtype=np.float64) for key in vectors]))
    truth = _truth(target, classes)
    if truth.keys() >= vectors.keys():
        code = {key: truth[key] if number is None else float(truth[key] == number) for key in vectors}
        contrast = label_contrast(classes, number)
    else:
        code, contrast = dict(zip(vectors, decider.decide(pooled).tolist(), strict=True)), _BY_DECISION
    scores = as_scores(torch.from_numpy(pooled.numpy() @ decider.rule.weight.T + decider.rule.bias), classes)
    unseen = {key: said for key, said in zip(vectors, scores, strict=True) if key in truth and subjects[key] not in trained_on}
    known = _held_out(tuned, unseen, subjects, truth)
    return Deciders(
        dict.fromkeys(vectors, decider),
        {key: {IN_TRAINING: subjects[key] in trained_on} for key in vectors},
        code,
        decision_unit(classes, number),
        contrast,
        {"kind": _KIND, **known},
        head.made_by,
    )


def _truth(target: Target | None, classes: tuple[str, ...]) -> dict[str, float]:
    """Class number, or value, of each session with a label of the head's task."""
    if target is None:
        return {}
    labelled = zip(target.keys, target.labels, strict=True)
    if not classes:
        return {key: float(label) for key, label in labelled} if target.kind == "regression" else {}
    return {key: float(classes.index(str(label))) for key, label in labelled if str(label) in classes}


def _held_out(
    tuned: Tuned, scores: Mapping[str, NDArray[np.float64]], subjects: Mapping[str, str], truth: Mapping[str, float]
) -> dict[str, Any]:
    """Its score on these sessions, and how many participants they are from; empty with fewer than two, or one class."""
    who, shape = np.array([subjects[key] for key in scores], dtype=np.str_), (1, len(scores))
    if len(np.unique(who)) < 2:
        return {}
    labels, said = np.array([truth[key] for key in scores]), np.stack(list(scores.values()))
    scale, loss = np.full(shape, tuned.head.scale), np.full(shape, np.inf)
    predictions = OutOfFold(who, labels, said[None], np.zeros(shape, np.int64), scale, loss, tuned.head.classes)
    found = held_out_score(average_sessions(predictions))
    return {**found, "unseen": len(np.unique(who))} if found else {}
