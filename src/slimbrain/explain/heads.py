"""What is explained: one number that is decided from the tokens of a clip, by a probe or by the head of a fine-tuned model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from slimbrain.errors import InputError
from slimbrain.evaluate.finetune import TunedEncoder
from slimbrain.evaluate.pooling import pool_tokens
from slimbrain.evaluate.probe import FeatureSet, LinearRule, SplitPolicy, cross_validate, fit_linear, outer_splits, pose
from slimbrain.evaluate.stats import CLASSIFICATION_METRICS, REGRESSION_METRICS, bootstrap
from slimbrain.evaluate.tasks import Target
from slimbrain.models.hiera import Tokens

FOLDS = 5
"""Parts that subjects are divided in; a subject is explained by the probe that learnt from the other four."""


class Head(Protocol):
    """One number a clip, from its tokens; nothing else of a probe or a fine-tuned model is asked for."""

    def __call__(self, tokens: Tokens) -> Tensor:
        """(B,) decisions on B clips."""
        ...


@dataclass(frozen=True)
class LinearHead:
    """Log-odds of one class against all others, or a value in its own unit, by an affine map of a pooled vector.

    Attributes
    ----------
    rule : the map.
    chosen : number of the class; None for a value.
    pooling : how tokens become a vector, as of `pool_tokens`.
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
    chosen : number of the class; None for a regression.
    centre, scale : of the training targets (`Problem.scaling`), which give a value back its unit.
    """
    with torch.no_grad():
        weight = tuned.head.weight.double() / tuned.spread.double()
        bias = tuned.head.bias.double() - weight @ tuned.centre.double()
    rule = LinearRule(weight.cpu().numpy(), bias.cpu().numpy())
    if chosen is None:
        rule = LinearRule(scale * rule.weight, scale * rule.bias + centre)
    return LinearHead(rule, chosen)


@dataclass(frozen=True)
class Probes:
    """Probes on a labelled store, each session's own one fitted without its subject.

    Attributes
    ----------
    heads : by session key.
    fold : number of the probe of each session.
    code : of each session: 1 for the class explained and 0 for others, or the label's own value.
    unit : what a decision is counted in.
    contrast : in words, what the slope of a map on `code` is.
    score : how well the probes predict subjects they did not see: `metric`, `mean`, `low`, `high`.
    """

    heads: Mapping[str, LinearHead]
    fold: Mapping[str, int]
    code: Mapping[str, float]
    unit: str
    contrast: str
    score: Mapping[str, Any]


def fit_probes(vectors: Mapping[str, NDArray[Any]], target: Target, chosen: str | None, seed: int) -> Probes:
    """Fit one probe a fold, as `slimbrain evaluate` does.

    Parameters
    ----------
    vectors : (D,) frozen embedding of each session of the target.
    chosen : class whose log-odds are explained; of two classes the second by name if None.
    seed : of the division into folds.

    Raises
    ------
    InputError
        If the class does not exist, or has to be named; if embeddings or subjects do not allow a probe.
    """
    if target.kind == "identification":
        raise InputError("identification: decides nothing that a map could explain; give a task with a label, such as column:sex.")
    problem = pose(target.labels, target.subjects, target.kind)
    number = _class_number(problem.classes, chosen)
    data = np.stack([np.asarray(vectors[key], dtype=np.float64) for key in target.keys])
    policy = SplitPolicy(n_splits=FOLDS, seeds=(seed,))
    predictions = cross_validate(FeatureSet("probe", "linear", data), target.labels, target.subjects, target.kind, policy, target.strata)
    heads: dict[str, LinearHead] = {}
    fold: dict[str, int] = {}
    for part, split in enumerate(outer_splits(target.subjects, target.labels, target.kind, policy, seed, target.strata)):
        head = LinearHead(fit_linear(data, problem, split, seed), number)
        heads |= {target.keys[row]: head for row in split.test}
        fold |= {target.keys[row]: part for row in split.test}
    metric = CLASSIFICATION_METRICS[len(problem.classes) > 2] if problem.classes else REGRESSION_METRICS[0]
    interval = bootstrap(predictions, metric)
    code = problem.target if number is None else (problem.target == number).astype(np.float64)
    return Probes(
        heads,
        fold,
        dict(zip(target.keys, code.tolist(), strict=True)),
        unit="unit of the label" if number is None else f"log-odds of {problem.classes[number]}",
        contrast="change with the label" if number is None else f"{problem.classes[number]} less others",
        score={"metric": metric, "mean": interval.mean, "low": interval.low, "high": interval.high},
    )


def _class_number(classes: Sequence[str], chosen: str | None) -> int | None:
    if not classes:
        if chosen is not None:
            raise InputError(f"--target {chosen}: the label is a number, which has no classes; leave --target out.")
        return None
    if chosen is None and len(classes) == 2:
        return 1
    if chosen is None or chosen not in classes:
        raise InputError(f"--target {chosen or ''}: name the class to explain, one of {', '.join(classes)}.")
    return list(classes).index(chosen)
