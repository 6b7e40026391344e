"""Stage 1's embeddings: channel series to vectors, by the network, by the connectome, or by both."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

import torch
from torch import Tensor

from slimbrain.data.clip import Sessions
from slimbrain.errors import InputError
from slimbrain.models.connectome import ConnectomeConfig, ConnectomeReadout, has_places, log_correlation, turn
from slimbrain.models.temporal import TemporalExtractor, standardise
from slimbrain.progress import track
from slimbrain.store import SessionInfo

BOTH, CONNECTOME, TOKENS, AXES, TANGENT, NATIVE = "both", "connectome", "tokens", "axes", "tangent", "native"
SERIES_POOLINGS = (BOTH, CONNECTOME, TOKENS, AXES, TANGENT, NATIVE)
"""How a stage 1 model makes a vector.

`axes`: Q scores on learnt axes, ordered by their variance in the pretraining participants, which says how much they matter: never
standardise them. `connectome`: these, and signed sums of the whole tangent vector, turned by a fixed rotation (`models.connectome.turn`) so
that all columns vary alike; inner products and distances stay, and standardising changes next to nothing. `tokens`: mean and standard
deviation over windows of the network's features, twice its width. `both`, the default where the model has a connectome: that, and the
leading axes of the tokens beside it. `tangent`: the whole tangent vector, a number for each pair of anchors; with many labels it tells
more, with few less. `native`, the default without places: the logarithm of the channels' own correlation, in which no model has a part
(`models.connectome.log_correlation`).
"""

_BLOCK = 32
"""Sessions computed at once: of one length and parcellation they share the network's overhead, and the axes are read once for all."""


@dataclass(frozen=True)
class _Series:
    """One session as it was read: channels (T, C), standardised, their places (C, 3) in MNI mm."""

    number: int
    values: Tensor
    mm: Tensor
    tr: float

    @property
    def shape(self) -> tuple[int, int, float, bytes]:
        """What sessions must share to be one batch."""
        return (*self.values.shape, self.tr, self.mm.numpy().tobytes())


def series_pooling(model: TemporalExtractor, pooling: str | None, store: Sessions | None = None) -> str:
    """The pooling asked for, or the model's default.

    Where the store's channels have no places, the default is `native`.

    Raises
    ------
    InputError
        If there is no such pooling, or the model or the store lacks what it needs.
    """
    if pooling is not None and pooling not in SERIES_POOLINGS:
        raise InputError(f"pooling {pooling!r}: is not known to a stage 1 model; choose one of {', '.join(SERIES_POOLINGS)}.")
    if pooling == NATIVE:
        return NATIVE
    if model.connectome is None:
        if pooling not in (None, TOKENS):
            raise InputError(
                f"pooling {pooling}: the model has no connectome; choose tokens or native, or add one with `slimbrain connectome`."
            )
        return TOKENS
    if pooling == TOKENS or store is None or not (lost := _without_places(store)):
        return pooling or BOTH
    if pooling is not None:
        raise InputError(
            f"pooling {pooling}: the channels of {lost} have no MNI places; prepare with --channels, or choose native or tokens."
        )
    return NATIVE


def _without_places(store: Sessions) -> str:
    """The first session whose channels have no places; empty if all have."""
    return next((info.key for info in store.sessions if not has_places(torch.tensor(store.channels(info.key).mm))), "")


def series_names(model: TemporalExtractor, pooling: str, numbers: int | None = None) -> list[str]:
    """A name for each number of a vector, in its order; of `native`, how many there are depends on the channels.

    Raises
    ------
    InputError
        If that is needed and not given.
    """
    if pooling == NATIVE:
        if numbers is None:
            raise InputError("pooling native: how many numbers there are depends on the channels; embed something first.")
        return [f"native_{number}" for number in range(numbers)]
    if pooling == TOKENS or model.connectome is None:
        return [f"{part}_{number}" for part in ("mean", "deviation") for number in range(model.config.width)]
    names = connectome_names(model.connectome.config, pooling)
    return [*names, *(f"token_{number}" for number in range(model.connectome.config.token_axes))] if pooling == BOTH else names


def connectome_names(config: ConnectomeConfig, pooling: str) -> list[str]:
    """A name for each number of `connectome_vectors`, in its order."""
    if pooling == TANGENT:
        return [f"tangent_{number}" for number in range(config.entries)]
    if pooling == AXES:
        return [f"axis_{number}" for number in range(config.axes)]
    return [f"connectome_{number}" for number in range(config.axes + config.sums)]


@torch.inference_mode()
def embed_series(
    store: Sessions, model: TemporalExtractor, pooling: str, label: str, look: Callable[[SessionInfo, Tensor], None] | None = None
) -> Tensor:
    """Vectors (N, F) of all sessions of a store, in its order.

    Parameters
    ----------
    pooling : str
        From `series_pooling`.
    look : callable or None
        Is given each session and its series (T, C) as stored, once.

    Raises
    ------
    InputError
        If sessions have different channels, and the pooling is `native`.
    """
    if pooling == NATIVE:
        _require_same_channels(store)
    rows: dict[int, Tensor] = {}
    for block in _blocks(store, label, look):
        made = _vectors(model, block, pooling)
        rows |= {series.number: row for series, row in zip(block, made, strict=True)}
    return torch.stack([rows[number] for number in range(len(rows))])


def series_vectors(model: TemporalExtractor, values: Sequence[Tensor], mm: Tensor, tr: float, pooling: str) -> Tensor:
    """Vectors (B, F) of series (T, C) with the same channels, for callers without a store.

    Parameters
    ----------
    mm : Tensor
        (C, 3) places of the channels in MNI mm.
    tr : float
        Seconds per frame.
    pooling : str
        From `series_pooling`.
    """
    return _vectors(model, [_Series(number, standardise(series), mm, tr) for number, series in enumerate(values)], pooling)


def _blocks(store: Sessions, label: str, look: Callable[[SessionInfo, Tensor], None] | None) -> Iterator[list[_Series]]:
    """Sessions of like length together, so that few batches are needed."""
    sessions = store.sessions
    block: list[_Series] = []
    for number in track(sorted(range(len(sessions)), key=lambda at: (sessions[at].n_frames, sessions[at].tr)), label):
        info = sessions[number]
        stored = torch.from_numpy(store.coarse(info.key))
        if look is not None:
            look(info, stored)
        block.append(_Series(number, standardise(stored), torch.tensor(store.channels(info.key).mm, dtype=torch.float32), info.tr))
        if len(block) == _BLOCK:
            yield block
            block = []
    if block:
        yield block


def _require_same_channels(store: Sessions) -> None:
    first, *others = store.sessions
    names = store.channels(first.key).names
    if other := next((info.key for info in others if store.channels(info.key).names != names), ""):
        raise InputError(f"pooling native: {first.key} and {other} have different channels; embed them apart, or choose tokens.")


def _vectors(model: TemporalExtractor, block: Sequence[_Series], pooling: str) -> Tensor:
    """(B, F) of a block."""
    if pooling == NATIVE:
        return torch.stack([log_correlation(series.values) for series in block])
    if pooling == TOKENS or model.connectome is None:
        return _features(model, block)
    made = connectome_vectors(model.connectome, [series.values for series in block], [series.mm for series in block], pooling)
    return torch.cat((made, model.connectome.token_scores(_features(model, block))), 1) if pooling == BOTH else made


def connectome_vectors(readout: ConnectomeReadout, series: Sequence[Tensor], places: Sequence[Tensor], pooling: str) -> Tensor:
    """What a readout makes of standardised series (T, C) of channels at places (C, 3): `axes`, `tangent`, or `connectome` for all else."""
    if pooling == TANGENT:
        return torch.stack([readout.tangent(own, mm) for own, mm in zip(series, places, strict=True)]) - readout.centre
    scores = readout(series, places)
    return scores[:, : readout.config.axes] if pooling == AXES else turn(scores)


def _features(model: TemporalExtractor, block: Sequence[_Series]) -> Tensor:
    """(B, 2 D) of the network; sessions that share all shapes are computed together."""
    made: dict[int, Tensor] = {}
    for _, group in groupby(sorted(block, key=lambda series: series.shape), key=lambda series: series.shape):
        members = list(group)
        vectors, _ = model.embed_standardised(torch.stack([series.values for series in members]), members[0].mm, members[0].tr)
        made |= {series.number: vector.float() for series, vector in zip(members, vectors, strict=True)}
    return torch.stack([made[series.number] for series in block])
