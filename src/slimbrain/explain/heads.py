"""What is explained: one number per clip, computed from its tokens by a probe or by the head of a fine-tuned model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from slimbrain.embed.pooling import pool_tokens
from slimbrain.errors import InputError
from slimbrain.evaluate.finetune import TunedEncoder
from slimbrain.evaluate.probes import FeatureSet, LinearRule, cross_validate, fit_linear
from slimbrain.evaluate.splits import SplitPolicy, outer_splits, pose
from slimbrain.evaluate.stats import CLASSIFICATION_METRICS, REGRESSION_METRICS, OutOfFold, bootstrap
from slimbrain.evaluate.tasks import Target
from slimbrain.models.hiera import Tokens

_FOLDS = 5
"""Folds of subjects; a subject is explained by the probe that was fitted on the other four."""


class Head(Protocol):
    """One number per clip, from its tokens: all that an explanation needs of a probe or a fine-tuned model."""

    def __call__(self, tokens: Tokens) -> Tensor:
        """(B,) decisions on B clips."""
        ...


@dataclass(frozen=True)
class LinearHead:
    """Log-odds of one class against all others, or a value in its own unit, by an affine map of a pooled vector.

    Attributes
    ----------
    rule : LinearRule
        The map.
    chosen : int or None
        Number of the class; None for a value.
    pooling : str
        How tokens become a vector, as of `pool_tokens`.
    """

    rule: LinearRule
    chosen: int | None
    pooling: str = "moments"

    def __call__(self, tokens: Tokens) -> Tensor:
        return self.decide(pool_tokens(tokens, self.pooling))

    def decide(self, vectors: Tensor) -> Tensor:
        """(B,) decisions on (B, D) pooled vectors."""
        weight, bias = (torch.as_tensor(part, dtype=vectors.dtype, device=vectors.device) for part in (self.rule.weight, self.rule.bias))
        said = vectors @ weight.T + bias
        if self.chosen is None:
            return said[:, 0]
        others = [number for number in range(said.shape[1]) if number != self.chosen]
        return said[:, self.chosen] - said[:, others].logsumexp(1)


def tuned_head(tuned: TunedEncoder, chosen: int | None, centre: float = 0.0, scale: float = 1.0) -> LinearHead:
    """The head of a fine-tuned model; the encoder that belongs to it is `tuned.encoder`.

    Parameters
    ----------
    chosen : int or None
        Number of the class; None for a regression.
    centre, scale : float
        Of the training targets (`Problem.scaling`), which restore a value's unit.
    """
    with torch.no_grad():
        weight = tuned.head.weight.double() / tuned.spread.double()
        bias = tuned.head.bias.double() - weight @ tuned.centre.double()
    rule = LinearRule(weight.cpu().numpy(), bias.cpu().numpy())
    if chosen is None:
        rule = LinearRule(scale * rule.weight, scale * rule.bias + centre)
    return LinearHead(rule, chosen)


@dataclass(frozen=True)
class Deciders:
    """The heads whose decisions are explained, one per session.

    Attributes
    ----------
    heads : mapping of str to LinearHead
        By session key.
    facts : mapping of str to mapping of str to object
        What a session's record says of its head: the `fold` of a probe, or whether a head was fitted on the subject.
    code : mapping of str to float
        Of each session: 1 for the class explained and 0 for others, or the label's own value; see `contrast`.
    unit : str
        Unit of a decision.
    contrast : str
        In words, what the slope of a map on `code` is.
    known : mapping of str to object
        What every record says of them: their `kind`, and how well they predict subjects they were not fitted on (`metric`, `mean`, `low`,
        `high`), where that is known.
    learnt_from : str
        A hash of what they were fitted on.
    """

    heads: Mapping[str, LinearHead]
    facts: Mapping[str, Mapping[str, Any]]
    code: Mapping[str, float]
    unit: str
    contrast: str
    known: Mapping[str, Any]
    learnt_from: str = ""


def fit_probes(vectors: Mapping[str, NDArray[Any]], target: Target, chosen: str | None, seed: int) -> Deciders:
    """Fit one probe per fold, as `slimbrain evaluate` does; a session is explained by the probe fitted without its subject.

    Parameters
    ----------
    vectors : mapping of str to array
        (D,) frozen embedding of each session of the target.
    chosen : str or None
        Class whose log-odds are explained; of two classes the second by name if None.
    seed : int
        Of the division into folds.

    Raises
    ------
    InputError
        If the class does not exist, or has to be named; if embeddings or subjects do not allow a probe.
    """
    if target.kind == "identification":
        raise InputError("identification: makes no decision that a map could explain; give a task with a label, such as column:sex.")
    problem = pose(target.labels, target.subjects, target.kind)
    number = class_number(problem.classes, chosen)
    data = np.stack([np.asarray(vectors[key], dtype=np.float64) for key in target.keys])
    policy = SplitPolicy(n_splits=_FOLDS, seeds=(seed,))
    predictions = cross_validate(FeatureSet("probe", "linear", data), target.labels, target.subjects, target.kind, policy, target.strata)
    heads: dict[str, LinearHead] = {}
    facts: dict[str, dict[str, Any]] = {}
    splits = outer_splits(target.subjects, target.labels, target.kind, policy, seed, target.strata)
    for part, split in enumerate(splits):
        head = LinearHead(fit_linear(data, problem, split, seed), number)
        heads |= {target.keys[row]: head for row in split.test}
        facts |= {target.keys[row]: {"fold": part} for row in split.test}
    code = problem.target if number is None else (problem.target == number).astype(np.float64)
    return Deciders(
        heads,
        facts,
        dict(zip(target.keys, code.tolist(), strict=True)),
        unit=decision_unit(problem.classes, number),
        contrast=label_contrast(problem.classes, number),
        known={"kind": "probe", "folds": len(splits), **held_out_score(predictions)},
    )


def decision_unit(classes: Sequence[str], number: int | None) -> str:
    return "unit of the label" if number is None else f"log-odds of {classes[number]}"


def label_contrast(classes: Sequence[str], number: int | None) -> str:
    return "change with the label" if number is None else f"{classes[number]} less others"


def held_out_score(predictions: OutOfFold) -> dict[str, Any]:
    """`metric`, `mean`, `low`, `high`; empty where the metric is not defined because there is one class."""
    metric = CLASSIFICATION_METRICS[len(predictions.classes) > 2] if predictions.classes else REGRESSION_METRICS[0]
    found = bootstrap(predictions, metric)
    return {} if np.isnan(found.mean) else {"metric": metric, "mean": found.mean, "low": found.low, "high": found.high}


def class_number(classes: Sequence[str], chosen: str | None) -> int | None:
    """The class whose log-odds are explained: the one named, or of two the second; None for a value.

    Raises
    ------
    InputError
        If the class does not exist, or has to be named.
    """
    if not classes:
        if chosen is not None:
            raise InputError(f"--target {chosen}: the label is a number, which has no classes; leave --target out.")
        return None
    if chosen is None and len(classes) == 2:
        return 1
    if chosen is None or chosen not in classes:
        raise InputError(f"--target {chosen or ''}: name the class to explain, one of {', '.join(classes)}.")
    return list(classes).index(chosen)
