"""How well the frozen encoder tells a column of participants.tsv, while it is still being trained."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from slimbrain.data.clip import read_clip
from slimbrain.data.draws import ClipDraws
from slimbrain.disk.tsv import MISSING
from slimbrain.embed.pooling import pool_tokens
from slimbrain.errors import InputError
from slimbrain.models.hiera import Hiera
from slimbrain.store.select import Columns

_FloatArray = npt.NDArray[np.float64]

_FEWEST, _FEWEST_OF_A_CLASS = 20, 5
"""Participants under which a probe says nothing."""

_FOLDS, _REPEATS = 5, 4
_PENALTIES = np.logspace(-2, 5, 15)


class OnlineProbe:
    """A ridge probe of held-out participants: of a number, R2 (the mean has 0); of classes, AUC (chance is 0.5).

    Participants are tested in folds of their own, so nobody that the model is trained on has a part in it.

    Parameters
    ----------
    draws : ClipDraws
        Whose held-out participants are probed.
    column : str
        Of participants.tsv or sessions.tsv; participants without a value are left out.

    Raises
    ------
    InputError
        If there is no such column, or too few held-out participants have a value.
    """

    def __init__(self, draws: ClipDraws, column: str) -> None:
        self.store, self.window, self.name = draws.store, draws.window, f"probe_{column}"
        try:
            cells = Columns(self.store, draws.held_out)[column]
        except KeyError as error:
            raise InputError(f"train_voxel.probe: no table of {self.store.root} has a column {column}; name one of theirs.") from error
        told = [(info, cell) for info, cell in zip(draws.held_out, cells, strict=True) if cell not in (None, "", MISSING)]
        self.people: dict[str, list[int]] = {}
        for place, (info, _) in enumerate(told):
            self.people.setdefault(info.subject, []).append(place)
        self.sessions = [info for info, _ in told]
        self.targets = _targets([str(told[places[0]][1]) for places in self.people.values()])
        few = len(self.people) < _FEWEST or (self.targets.is_class and self.targets.fewest < _FEWEST_OF_A_CLASS)
        if few:
            raise InputError(
                f"train_voxel.probe: {len(self.people)} held-out participants have a value of {column}, a probe needs {_FEWEST}, and "
                f"{_FEWEST_OF_A_CLASS} of each class; raise sampling.held_out."
            )

    @torch.inference_mode()
    def measure(self, encoder: Hiera) -> dict[str, float]:
        """The score, under `probe_COLUMN`, of windows spread evenly over each session."""
        vectors = []
        for info in self.sessions:
            n_windows, k = info.n_windows(self.window.frames), self.window.k
            chosen = ((np.arange(k) + 0.5) * n_windows / k).astype(np.int64)
            vectors.append(pool_tokens(encoder([read_clip(self.store, info, chosen, self.window.frames)]))[0].double().cpu().numpy())
        features = np.stack([np.mean([vectors[place] for place in places], axis=0) for places in self.people.values()])
        return {self.name: self.targets.score(_out_of_fold(features, self.targets.values))}


class _Targets:
    """A column as (N, Q) numbers: one, or one per class."""

    def __init__(self, values: _FloatArray, is_class: bool) -> None:
        self.values, self.is_class = values, is_class

    @property
    def fewest(self) -> int:
        """Participants of the smallest class; 0 if there is one class alone."""
        return int(self.values.sum(0).min()) if self.values.shape[1] > 1 else 0

    def score(self, predicted: _FloatArray) -> float:
        """R2, or the mean over classes of the AUC of each against the rest."""
        from sklearn.metrics import r2_score, roc_auc_score

        if not self.is_class:
            return float(r2_score(self.values, predicted))
        return float(np.mean([roc_auc_score(own, of_own) for own, of_own in zip(self.values.T, predicted.T, strict=True)]))


def _targets(cells: list[str]) -> _Targets:
    """Numbers where all cells are, and more than two different ones; else classes."""
    classes = sorted(set(cells))
    try:
        numbers = np.array([float(cell) for cell in cells])
        if len(classes) > 2 and np.isfinite(numbers).all():
            return _Targets(numbers[:, None], False)
    except ValueError:
        pass
    return _Targets((np.array(cells)[:, None] == np.array(classes)).astype(np.float64), True)


def _out_of_fold(features: _FloatArray, wanted: _FloatArray) -> _FloatArray:
    """(N, Q) predictions of people who were in none of the folds that the probe was fitted on; means over repeats."""
    from sklearn.linear_model import RidgeCV
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    predicted = np.zeros_like(wanted)
    for repeat in range(_REPEATS):
        order = np.random.default_rng(repeat).permutation(len(wanted))
        for fold in range(_FOLDS):
            test, train = order[fold::_FOLDS], np.delete(order, np.s_[fold::_FOLDS])
            probe = make_pipeline(StandardScaler(), RidgeCV(_PENALTIES)).fit(features[train], wanted[train])
            predicted[test] += probe.predict(features[test]).reshape(len(test), -1) / _REPEATS
    return predicted
