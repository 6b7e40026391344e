"""What place and time alone predict of a token, so that predicting it earns nothing.

The predictor is given the places and times of its targets, and the encoder has both as input. An encoder whose tokens hold
place and time alone would be predicted perfectly, so that part is removed from the targets.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from slimbrain.grid import BOX_CORNER_MM, BOX_MM
from slimbrain.models.hiera import Tokens
from slimbrain.models.layers import fourier_features, wavelengths

_PLACES_PER_SIDE = 6
"""Boxes of 32 mm per side of the lattice: one per unit, on any of the lattices."""

_TIME_WAVES_S = (2.88, 512.0, 10)
"""Shortest and longest wavelength, and how many: from a step of 4 frames to beyond most sessions' slow drifts."""

_FORGETTING = 0.9
"""Weight of past tokens at each step: the encoder changes, so old tokens become less informative."""

_RIDGE = 1e-2
"""In counts of tokens: places without tokens get coefficients of 0, others are hardly shrunk."""


def _position_features(tokens: Tokens) -> Tensor:
    """(L, K) float64: one indicator per place, and waves of the seconds since the session began."""
    box = ((tokens.mm - torch.tensor(BOX_CORNER_MM, device=tokens.mm.device)) * (_PLACES_PER_SIDE / BOX_MM)).long()
    place = (box[:, 0] * _PLACES_PER_SIDE + box[:, 1]) * _PLACES_PER_SIDE + box[:, 2]
    waves = wavelengths(*_TIME_WAVES_S).to(tokens.seconds)
    return torch.cat(
        (functional.one_hot(place, _PLACES_PER_SIDE**3).double(), fourier_features(tokens.seconds[:, None].double(), waves)), dim=1
    )


def take_out_position(tokens: Tokens) -> Tensor:
    """(L, D) float64 values less what least squares on this batch's places and times predicts of them."""
    features, values = _position_features(tokens), tokens.values.double()
    return values - features @ _solve(features.T @ features, features.T @ values)


class PositionBaseline(nn.Module):
    """The same with a memory: least squares over past steps too, so that a batch of one clip keeps what is specific to it.

    Parameters
    ----------
    width : int
        D of the tokens.
    """

    gram: Tensor
    moment: Tensor
    new_gram: Tensor
    new_moment: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        count = _PLACES_PER_SIDE**3 + 2 * _TIME_WAVES_S[2]
        for name, columns in (("gram", count), ("moment", width)):
            self.register_buffer(name, torch.zeros(count, columns, dtype=torch.float64))
            self.register_buffer(f"new_{name}", torch.zeros(count, columns, dtype=torch.float64), persistent=False)

    @torch.no_grad()
    def forward(self, tokens: Tokens) -> Tensor:
        """(L, D) float64 what places and times of past steps and of these tokens do not predict of them."""
        features, values = _position_features(tokens), tokens.values.double()
        gram, moment = features.T @ features, features.T @ values
        self.new_gram += gram
        self.new_moment += moment
        return values - features @ _solve(_FORGETTING * self.gram + gram, _FORGETTING * self.moment + moment)

    @torch.no_grad()
    def absorb(self, all_reduce: Callable[[Tensor], Tensor]) -> None:
        """Add the statistics collected since the last call to the memory.

        Parameters
        ----------
        all_reduce : callable
            Sums a tensor over all processes, in place.
        """
        for memory, new in ((self.gram, self.new_gram), (self.moment, self.new_moment)):
            memory.mul_(_FORGETTING).add_(all_reduce(new))
            new.zero_()


def _solve(gram: Tensor, moment: Tensor) -> Tensor:
    return torch.linalg.solve(gram + _RIDGE * torch.eye(len(gram), dtype=gram.dtype, device=gram.device), moment)
