"""The connectome readout: how a recording of any parcellation differs from the population, on axes learnt without labels.

A checkpoint of stage 1 carries it beside the network. Everything is closed form; docs/pretrained.md has the formulas, and
tests/models/test_connectome.py rebuilds an embedding from the file of weights in numpy.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
from pydantic import Field
from torch import Tensor, nn

from slimbrain.config import ALL_WINDOWS, Config, Share
from slimbrain.errors import InputError

_T = TypeVar("_T")

_EIGENVALUE_FLOOR = 1e-3
"""Of the shrunk second moments; those of a whole run are above 0.5."""

_PARCELLATIONS = 64
"""Gains that are kept: one for each parcellation and set of channels with a signal."""

_FILLED_AXES, _FILL_RIDGE = 64, 0.1
"""Leading axes on which a recording with missing channels is fitted, and the ridge penalty of that (docs/stage1.md)."""

_GAPS = 4
"""Fits of missing channels that are kept, 10 MB each at 200 anchors: the same are often missing in a whole cohort."""

_LEVELS = 7
"""Axes are stored as whole numbers from -7 to 7, which 4 bits hold."""


class ConnectomeConfig(Config):
    """Sizes and constants of a connectome readout; docs/stage1.md says how they were chosen."""

    anchors: int = Field(ge=2, le=1024, description="places, in MNI space, at which the population is known")
    axes: int = Field(ge=2, le=4096, description="principal axes of the pretraining participants' tangent vectors; even")
    sums: int = Field(
        0, ge=0, le=65536, description="signed sums of the whole tangent vector beside the axes; together a power of two, or 0"
    )
    token_axes: int = Field(0, ge=0, le=4096, description="principal axes of the network's features beside them; 0 or a power of two")
    width_mm: float = Field(6.5, gt=0, le=100, description="of the Gaussian by which a channel is an average of anchors")
    nugget: Share = Field(0.1, description="least share of a channel's variance that is its own")
    reference: float = Field(
        0.5,
        ge=0,
        le=1,
        description="power of the population's correlation that a recording is compared with: 1 the population, 0 no correlation",
    )
    shrinkage: Share = Field(0.1, description="weight of this reference in a recording's second moments")
    patches: int = Field(0, ge=0, le=1 << 18, description="of stage 2's brain, where it reads parcels of them; 0: it reads cells")
    k: int = Field(0, ge=0, le=ALL_WINDOWS, description="most windows of a session that stage 2 was read by; 0: as many as in training")

    @property
    def entries(self) -> int:
        """D, entries of a tangent vector."""
        return self.anchors * (self.anchors + 1) // 2


class ConnectomeReadout(nn.Module):
    """A recording of any channels with MNI places to Q scores on learnt axes.

    Anchors have a population correlation M (K, K), and modes P that whiten it (P' M P = 1). A channel is a Gaussian average B of the
    anchors near it, and noise of its own. Given the second moments S of the channels there are, the modes have, in expectation,
    1 + G (S - E) G' with E = B M B' + noise and G = P' M B' E^-1: one EM step from the population, which stays where nothing is observed,
    so that a new parcellation needs no fit. The tangent vector, of which the scores are projections, is taken at R, a power of M between no
    correlation and the population: log(R^-1/2 S R^-1/2), with S shrunk towards R (towards the population: PoSCE, Rahim et al. 2019). Where
    channels of a parcellation are missing, the leading axes are fitted to what the others tell, and tell what these leave out.

    Parameters
    ----------
    config : ConnectomeConfig
        K anchors, Q axes, S sums, J axes of the network's features.
    token_features : int
        W, how many features the network has.

    Notes
    -----
    Buffers, which `fill` and a checkpoint set and no training changes: `anchors` (K, 3) in MNI mm; `mean` (K, K), M; `modes` (K, K), P, in
    descending order of variance; `centre` (D,), the mean tangent vector; `packed_axes` (D, Q / 2) uint8, two axes in a byte, the even one
    in the low half, each stored plus 8; `entry_scales` (D,) and `axis_scales` (Q,) that undo the rounding, of which the latter set each
    axis' share; `signs` (D,), of one size, or (0,) without sums; `token_mean` (W,) and `token_axes` (W, J).

    Raises
    ------
    InputError
        If the number of axes and sums is not a power of two, as `turn` needs, or that of axes is odd.
    """

    anchors: Tensor
    mean: Tensor
    modes: Tensor
    centre: Tensor
    packed_axes: Tensor
    entry_scales: Tensor
    axis_scales: Tensor
    signs: Tensor
    token_mean: Tensor
    token_axes: Tensor

    def __init__(self, config: ConnectomeConfig, token_features: int) -> None:
        super().__init__()
        for name, count in (("axes + sums", config.axes + config.sums), ("token_axes", config.token_axes)):
            if count & (count - 1):
                raise InputError(f"connectome.{name} {count} is not a power of two; choose {1 << (count.bit_length() - 1)}.")
        if config.axes % 2:
            raise InputError(f"connectome.axes {config.axes} is odd, and two share a byte; choose {config.axes - 1}.")
        self.config = config
        k = config.anchors
        shapes = {"anchors": (k, 3), "mean": (k, k), "modes": (k, k), "centre": (config.entries,)}
        shapes |= {"entry_scales": (config.entries,), "axis_scales": (config.axes,), "signs": (config.entries if config.sums else 0,)}
        shapes |= {"token_mean": (token_features,), "token_axes": (token_features, config.token_axes)}
        for name, shape in shapes.items():
            self.register_buffer(name, torch.zeros(shape))
        self.register_buffer("packed_axes", torch.zeros((config.entries, config.axes // 2), dtype=torch.uint8))
        self._gains: dict[bytes, tuple[Tensor, Tensor]] = {}
        self._gaps: dict[bytes, tuple[Tensor, Tensor, Tensor]] = {}
        self._axes: Tensor | None = None

    def forward(self, series: Sequence[Tensor], places: Sequence[Tensor]) -> Tensor:
        """Scores of N recordings: (N, Q) on the axes, ordered, and the sums (N, S).

        Parameters
        ----------
        series : sequence of Tensor
            (T, C) each, channels standardised (`models.temporal.standardise`); one that is 0 throughout counts as missing.
        places : sequence of Tensor
            (C, 3) MNI mm of their channels.

        Raises
        ------
        InputError
            If channels lie at one place, as those of unknown place do, or none has a signal.
        """
        return self.scores(torch.stack([self.tangent(one, mm) for one, mm in zip(series, places, strict=True)]) - self.centre)

    def scores(self, vectors: Tensor) -> Tensor:
        """Of centred tangent vectors (N, D): (N, Q) on the axes, ordered, and the sums (N, S)."""
        return torch.cat(((vectors @ self.unpacked_axes()) * self.axis_scales, self.signed_sums(vectors)), 1)

    def signed_sums(self, vectors: Tensor) -> Tensor:
        """Sums (N, S) of centred tangent vectors (N, D): every S-th entry, with its sign, over the square of the vector's length.

        Axes of hundreds of participants hold a tenth of what sets new people apart. The sums hold all of it, roughly: their inner products
        are those of the vectors, up to chance (feature hashing: Weinberger et al. 2009). The longer a vector, the more of it is noise, and
        the less it counts.
        """
        if not self.config.sums:
            return vectors[:, :0]
        weighted = vectors * self.signs / vectors.square().sum(1, keepdim=True).clamp_min(torch.finfo(vectors.dtype).tiny)
        padded = nn.functional.pad(weighted, (0, -weighted.shape[1] % self.config.sums))
        return padded.unflatten(1, (-1, self.config.sums)).sum(1)

    def tangent(self, series: Tensor, places: Tensor) -> Tensor:
        """Tangent vector (D,) of a recording (T, C), entries off the diagonal times the root of 2; arguments as of `forward`."""
        vector, present = self.as_read(series, places), series.ne(0).any(0)
        if present.all():
            return vector
        fit, rest, lost = self.gap(places, present)
        vector = vector + lost
        return vector + rest @ (fit @ (vector - self.centre))

    def as_read(self, series: Tensor, places: Tensor) -> Tensor:
        """Tangent vector (D,) as the channels that are there tell it: what others would have told is as in the population."""
        present = series.ne(0).any(0)
        gain, expected = self._gain(places, present)
        latent = series[:, present].to(gain.dtype) @ gain.T
        return self._logarithm(latent.T @ latent / len(series) - expected)

    def token_scores(self, features: Tensor) -> Tensor:
        """The network's features (N, W) on their own axes, turned: (N, J), each column with a variance of about 1."""
        return turn((features.to(self.token_mean) - self.token_mean) @ self.token_axes)

    def unpacked_axes(self) -> Tensor:
        """(D, Q) axes, less the scale of each; unpacked once."""
        if self._axes is None or self._axes.device != self.packed_axes.device:
            self._axes = unpack_axes(self.packed_axes).to(self.centre.dtype) * self.entry_scales[:, None]
        return self._axes

    @torch.no_grad()
    def fill(self, **values: Tensor) -> ConnectomeReadout:
        """Set buffers by name, which also forgets what was computed from the old ones.

        Raises
        ------
        RuntimeError
            If a shape differs.
        """
        self.load_state_dict({**self.state_dict(), **values})
        return self

    def _load_from_state_dict(self, *args: object, **options: object) -> None:
        super()._load_from_state_dict(*args, **options)
        self._gains.clear()
        self._gaps.clear()
        self._axes = None

    @property
    def _scale(self) -> Tensor:
        """(K,) from modes, whose variance is 1 in the population, to modes compared with R: a power of their variance at the anchors."""
        return self.modes.square().sum(0) ** ((self.config.reference - 1) / 2)

    def _logarithm(self, deviation: Tensor) -> Tensor:
        """Tangent vector (D,) of modes whose second moments differ from the population's by (K, K)."""
        scale = self._scale
        one = torch.eye(len(scale), dtype=scale.dtype, device=scale.device)
        return _shrunk_logarithm((deviation + one) * scale[:, None] * scale - one, self.config.shrinkage)

    def gap(self, places: Tensor, present: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What to add to a vector for channels (C, 3) of which not all are present (C,), kept for the last sets of these.

        (Q, D) from a centred vector to its scores on leading axes, (D, Q) what it lacks for each of these, and (D,) what all lack: modes
        read without the missing channels are, in expectation, a linear map of modes read with them. It turns leading axes A into B, on
        which a vector is explained by ridge regression: it lacks A - B times its scores. The mean vector, less that of a recording like the
        population, which fewer channels read as well, is lessened as axes are.
        """
        return _kept(self._gaps, _GAPS, self._fit_gap, places, present)

    def _fit_gap(self, places: Tensor, present: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        gain, expected = self._read(places)
        fewer, _ = self._read(places[present])
        across = fewer @ expected[present] @ gain.T @ torch.linalg.pinv(gain @ expected @ gain.T, hermitian=True)
        scale = self._scale
        across = (scale[:, None] * across / scale).to(self.mean)

        def read(vectors: Tensor) -> Tensor:
            return flatten_symmetric(across @ unflatten_symmetric(vectors) @ across.T)

        axes = nn.functional.normalize(self.unpacked_axes()[:, :_FILLED_AXES].T)
        seen, mean = read(axes), self.centre - self._logarithm(torch.zeros_like(self.mean))
        penalty = _FILL_RIDGE * torch.eye(len(seen)).to(seen)
        return torch.linalg.solve(seen @ seen.T + penalty, seen), (axes - seen).T, mean - read(mean)

    def _gain(self, places: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
        """(K, C) G of the channels that are present, and (K, K) G E G'."""
        return _kept(self._gains, _PARCELLATIONS, self._solve, places, present)

    def _solve(self, places: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
        places = _known_places(places)
        if not present.any():
            raise InputError("no channel of the series changes over time; leave the session out.")
        gain, expected = self._read(places[present])
        return gain.to(self.mean), (gain @ expected @ gain.T).to(self.mean)

    def _read(self, places: Tensor) -> tuple[Tensor, Tensor]:
        """(K, C) P' M B' E^-1 and (C, C) E, in double precision."""
        cross, expected = channel_model(places, self.anchors, self.mean, self.config.width_mm, self.config.nugget)
        return torch.linalg.solve(expected, cross.T @ self.modes.double()).T, expected


def log_correlation(series: Tensor, shrinkage: float = 0.5) -> Tensor:
    """(C (C + 1) / 2,) logarithm of the correlation of standardised channels (T, C), shrunk towards none, flattened as a tangent vector.

    What `ConnectomeReadout.tangent` is with the channels as anchors and no correlation as reference. It needs no fit and no places, and
    compares recordings of the same channels alone. A channel that is 0 throughout counts as missing.
    """
    missing = (~series.ne(0).any(0)).to(series.dtype)
    deviation = series.T @ series / len(series) + torch.diag(missing) - torch.eye(series.shape[1], dtype=series.dtype, device=series.device)
    return _shrunk_logarithm(deviation, shrinkage)


def _shrunk_logarithm(deviation: Tensor, shrinkage: float) -> Tensor:
    """Logarithm of 1 + deviation (K, K), shrunk by the weight of the 1, and flattened; in size as without the shrinkage."""
    keep = 1 - shrinkage
    values, vectors = torch.linalg.eigh(keep * deviation + torch.eye(len(deviation), dtype=deviation.dtype, device=deviation.device))
    return flatten_symmetric((vectors * (values.clamp_min(_EIGENVALUE_FLOOR).log() / keep)) @ vectors.T)


def _kept(kept: dict[bytes, _T], most: int, make: Callable[[Tensor, Tensor], _T], places: Tensor, present: Tensor) -> _T:
    """What `make` gives for these channels, of which so many sets are kept."""
    key = places.cpu().numpy().tobytes() + present.cpu().numpy().tobytes()
    if key not in kept:
        if len(kept) >= most:
            kept.clear()
        kept[key] = make(places, present)
    return kept[key]


def _known_places(places: Tensor) -> Tensor:
    if not has_places(places):
        raise InputError(
            "the channels have no MNI places, by which a connectome is read; prepare with --channels, or choose the pooling tokens."
        )
    return places


def has_places(places: Tensor) -> bool:
    """Whether channels (C, 3) have places of their own: prep writes 0, 0, 0 for all where they are not known."""
    return bool(torch.isfinite(places).all()) and (len(places) < 2 or bool((places != places[0]).any()))


def channel_model(places: Tensor, anchors: Tensor, mean: Tensor, width_mm: float, nugget: float) -> tuple[Tensor, Tensor]:
    """(K, C) expected products of anchors and channels, and (C, C) expected second moments of the channels, in double precision.

    Parameters
    ----------
    places, anchors : Tensor
        (C, 3) and (K, 3) in MNI mm.
    mean : Tensor
        (K, K) population correlation of the anchors.
    """
    squared = (places.double()[:, None] - anchors.double()).square().sum(-1)
    # Less the smallest distance of a channel, so that one far from all anchors takes the nearest instead of dividing by nothing.
    blend = ((squared.amin(1, keepdim=True) - squared) / (2 * width_mm**2)).exp()
    blend = blend / blend.sum(1, keepdim=True)
    # The average of anchors varies less than any of them; a channel of the size of an anchor does not.
    power = ((blend @ mean.double()) * blend).sum(1)
    blend = blend * ((1 - nugget) / power).clamp_max(1).sqrt()[:, None]
    cross = mean.double() @ blend.T
    signal = blend @ cross
    return cross, signal + torch.diag((1 - signal.diagonal()).clamp_min(nugget))


def flatten_symmetric(matrices: Tensor) -> Tensor:
    """(..., K, K) to (..., K (K + 1) / 2): the lower triangle row by row, off the diagonal times the root of 2, which keeps distances."""
    rows, columns = torch.tril_indices(*matrices.shape[-2:], device=matrices.device)
    return matrices[..., rows, columns] * torch.where(rows == columns, 1.0, 2**0.5).to(matrices)


def unflatten_symmetric(vectors: Tensor) -> Tensor:
    """(..., K (K + 1) / 2) to (..., K, K): the inverse of `flatten_symmetric`."""
    size = math.isqrt(2 * vectors.shape[-1])
    rows, columns = torch.tril_indices(size, size, device=vectors.device)
    entries = vectors / torch.where(rows == columns, 1.0, 2**0.5).to(vectors)
    matrices = vectors.new_zeros((*vectors.shape[:-1], size, size))
    matrices[..., rows, columns] = matrices[..., columns, rows] = entries
    return matrices


def turn(scores: Tensor) -> Tensor:
    """Scores (N, Q) turned by Sylvester's rotation of entries +-1 / sqrt(Q), Q a power of two: all columns then vary alike.

    How much axes vary says how much they matter, and standardising their columns would lose that: age from 60 labels falls from an R2 of
    0.54 to 0.15. Of the turned columns it changes next to nothing, and inner products and distances are the same.
    """
    turned, half = scores, 1
    while half < scores.shape[1]:
        first, second = turned.unflatten(1, (-1, 2, half)).unbind(2)
        turned = torch.stack((first + second, first - second), 2).flatten(1)
        half *= 2
    return turned / scores.shape[1] ** 0.5


def pack_axes(axes: Tensor) -> tuple[Tensor, Tensor]:
    """Axes (D, Q) rounded to 4 bits: (D, Q / 2) uint8, and the step (Q,) of each axis.

    An axis' step is set by its largest entry or, if less, by four standard deviations of its entries: few are larger, and are clipped.
    """
    step = torch.minimum(axes.abs().amax(0), 4 * axes.std(0, correction=0)).clamp_min(torch.finfo(axes.dtype).tiny) / _LEVELS
    whole = (axes / step).round().clamp(-_LEVELS, _LEVELS).to(torch.int16) + 8
    return (whole[:, ::2] + 16 * whole[:, 1::2]).to(torch.uint8), step


def unpack_axes(packed: Tensor) -> Tensor:
    """(D, Q) whole numbers from -7 to 7 of `pack_axes`, as int8."""
    return torch.stack((packed & 15, packed >> 4), -1).flatten(1).to(torch.int8) - 8
