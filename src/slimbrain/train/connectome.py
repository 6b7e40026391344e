"""Fits the connectome readout of a model to a store: population, axes and their scales, from participants without labels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from slimbrain.config import ALL_WINDOWS
from slimbrain.data.clip import Clip, read_clips
from slimbrain.embed.features import Model
from slimbrain.embed.series import TOKENS, embed_series
from slimbrain.errors import InputError
from slimbrain.governance.ledger import LEDGER, LedgerEntry, entries_from, entries_of
from slimbrain.governance.provenance import REMEMBERED, people_in, remember_also
from slimbrain.models.connectome import ConnectomeConfig, ConnectomeReadout, has_places, pack_axes, unpack_axes
from slimbrain.models.jepa import HieraJEPA
from slimbrain.models.parcels import Parcels, channels_of, learn_parcels
from slimbrain.models.signals import signal_series, token_signals
from slimbrain.models.temporal import TemporalExtractor, standardise
from slimbrain.progress import track
from slimbrain.saliency.choose import UNIFORM, window_choice
from slimbrain.store import SessionInfo, Store

Floats = NDArray[Any]

MOST_AXES = 688
"""What 8 MB hold at 200 anchors. 512 lose some of what all labels of pretraining people tell (docs/stage1.md)."""

_NUMBERS_PER_AXIS = 8
"""Axes and signed sums together: 4,096, the largest power of two below. With half as many sums, other cohorts lose (docs/stage1.md)."""

_SUMS_WEIGHT = 0.35
"""Of a tangent vector of median length, in units of the last axis; more of it costs age from few labels (docs/stage1.md)."""

_TOKEN_AXES = 4
"""Of the network's features beside the connectome's. Each weighs as much as one column of these, and they carry no trait that these lack:
with 8 `both` is what `connectome` is, with 32 age from 60 labels falls by 0.03 and sex by 0.03 (docs/stage1.md); 4 was not contested."""
MOST_ANCHORS = 256
"""A parcellation of more channels is read at as many anchors spread among them: entries of a tangent grow with the square."""

CELL_READOUT = {"nugget": 0.4, "reference": 1.0, "shrinkage": 0.5}
"""Of decoded cells, by the names of `ConnectomeConfig`. Cells of 40 frames are noisier than channels of a whole run: of 143 painted people,
on axes of 287 others, age is told with an R2 of 0.24, 0.31, 0.32 with nuggets of 0.1, 0.4, 0.8, and sex with an AUC of 0.57, 0.59, 0.49.
Reference and shrinkage are those of the contests in docs/stage2.md; what serves stage 1 was not tried."""

PARCELS = 200
"""Learnt from patches, as many as ABIDE's own."""
PARCEL_READOUT = {"nugget": 0.4, "reference": 0.5, "shrinkage": 0.1}
"""Of decoded parcels; reference and shrinkage are stage 1's (docs/stage2.md, "Finer than cells")."""

PARCEL_PARTICIPANTS, _PARCEL_WINDOWS = 120, 30
"""From whom parcels are learnt, and most windows of each: 2 MB at 2 mm."""

_MOST_PARTICIPANTS = 4000
"""Whose tangent vectors are held at once: 320 MB at 200 anchors. Of more, a random sample is taken."""

_FEWEST_PARTICIPANTS = 4

_RIDGE = 1e-3
"""Weight of the identity in the population's correlation."""

_AXIS_POWER = 0.25
"""Scores on an axis are multiplied by its variance to half this power. More of it serves age, less of it sex (docs/stage1.md)."""

_LEADING = 64
"""Axes by which entries of the tangent are scaled before they are rounded (docs/stage1.md)."""

_LEAST_ENTRY = 0.1
"""Of their scales, in units of their root mean square: below are entries that hardly vary, of which rounding errors would be scaled up."""

_SAME_PLACE_MM = 0.05


@dataclass(frozen=True)
class Recordings:
    """Sessions whose channels lie at the same places.

    Attributes
    ----------
    mm : Tensor
        (C, 3) MNI mm.
    subjects : tuple of str
        Whose the sessions are.
    read : callable
        Series (T, C) of a session by its number, each channel standardised.
    """

    mm: Tensor
    subjects: tuple[str, ...]
    read: Callable[[int], Tensor]

    @property
    def n_participants(self) -> int:
        return len(set(self.subjects))


def fit_connectome(
    store: Store, model: Model, axes: int = MOST_AXES, seed: int = 0, anchors: int = MOST_ANCHORS, k: int = ALL_WINDOWS
) -> Model:
    """The same network with a connectome readout, in place of any it has, fitted to all sessions of a store, without labels.

    Of a stage 1 model it reads the channels as they are stored; of a stage 2 model what its tokens decode to, in windows spread evenly over
    each session: cells or, where they decode to patches, parcels learnt from the voxels of the same windows.

    Parameters
    ----------
    axes : int
        Most axes. There are fewer where participants are fewer; of a stage 2 model, a power of two.
    seed : int
        Of the participants that are taken, where there are more than memory holds, and of the anchors.
    anchors : int
        Most anchors: of more channels, as many centres among them; and most parcels.
    k : int
        Most windows of each session that a stage 2 model is read by, now and, if it is not told otherwise, by `slimbrain embed`.

    Returns
    -------
    The model in evaluation mode, whose provenance also remembers these participants.

    Raises
    ------
    InputError
        If channels have no places, tokens do not decode, or there are too few participants.
    """
    if model.provenance is None:
        raise InputError("the model does not say what it was trained on; read it with slimbrain.from_pretrained.")
    store = _sample(store, seed)
    if isinstance(model, TemporalExtractor):
        features = embed_series(store, model, TOKENS, "features of the network").double().numpy()
        by_participant = _by_participant([info.subject for info in store.sessions], features)
        fitted = fit_readout(_parcellations(store), by_participant, axes, seed, anchors)
        made: Model = TemporalExtractor(model.config, fitted.config)
    else:
        parcels = (
            learn_parcels(store.grid, _voxels(store, model, min(k, _PARCEL_WINDOWS), seed), min(anchors, PARCELS))
            if model.jepa.visible == "patches"
            else None
        )
        settings = CELL_READOUT if parcels is None else {**PARCEL_READOUT, "patches": store.grid.n_patches}
        settings = {**settings, "k": k}
        decoded = _decoded(store, model, k, parcels)
        # Sums beside the axes were not tried on what is decoded.
        fitted = fit_readout([decoded], np.zeros((decoded.n_participants, 0)), axes, seed, anchors, settings, numbers_per_axis=1)
        made = HieraJEPA(model.config, model.jepa, model.voxels_per_patch, fitted.config)
        made.parcels = parcels
    network = {name: value for name, value in model.state_dict().items() if not name.startswith(("connectome.", "parcels."))}
    made.load_state_dict({**made.state_dict(), **network})
    assert made.connectome is not None
    made.connectome.fill(**fitted.state_dict())
    any_channels = isinstance(model, TemporalExtractor)
    made.provenance = replace(model.provenance, training=_training(store, model.provenance.training), any_channels=any_channels)
    return made.eval()


def fit_readout(
    parcellations: Sequence[Recordings],
    features: Floats,
    axes: int = MOST_AXES,
    seed: int = 0,
    anchors: int = MOST_ANCHORS,
    settings: Mapping[str, float] | None = None,
    numbers_per_axis: int = _NUMBERS_PER_AXIS,
) -> ConnectomeReadout:
    """A readout from sessions of one or several parcellations.

    The first parcellation gives the anchors and the population; sessions of others have a part in the axes, centred on the mean of their
    own parcellation. A participant counts once, by the mean over sessions.

    Parameters
    ----------
    parcellations : sequence of Recordings
        The one with most participants first.
    features : ndarray
        (N, W) of the network, a row per participant; W may be 0.
    settings : mapping
        Constants of `ConnectomeConfig` that are not its defaults.
    numbers_per_axis : int
        Axes and sums are at most so many for each axis; 1: no sums.

    Raises
    ------
    InputError
        If there are too few participants.
    """
    main = parcellations[0]
    readout = _unfinished(*_population(main, seed, anchors), settings or {})
    vectors, centre = _participants(readout, parcellations)
    if len(vectors) < _FEWEST_PARTICIPANTS:
        raise InputError(f"{len(vectors)} participants are too few to learn axes from; give at least {_FEWEST_PARTICIPANTS}.")
    most = min(axes, len(vectors) - 1, readout.config.entries)
    together = _power_of_two(numbers_per_axis * most)
    directions = _principal_axes(vectors, min(together, most // 2 * 2))
    # Entries of the axes differ: rounded to one step for all, the largest would be clipped, which costs age from few labels.
    entries = np.sqrt(np.square(directions[:, :_LEADING]).mean(1, keepdims=True))
    entries = np.maximum(entries, _LEAST_ENTRY * np.sqrt(np.square(entries).mean()))
    packed, step = pack_axes(torch.from_numpy(directions / entries))
    rounded = unpack_axes(packed).numpy() * entries
    scales = step.double().numpy() * _scales(((vectors @ rounded) * step.numpy()).var(0))
    sums = together - directions.shape[1]
    signs = _signs(vectors, seed) * np.linalg.norm(rounded[:, -1]) * scales[-1] if sums else np.zeros(0)
    token_mean, token_axes = _token_axes(features)
    config = readout.config.model_copy(update={"axes": directions.shape[1], "sums": sums, "token_axes": token_axes.shape[1]})
    values = {"centre": centre, "entry_scales": entries[:, 0], "axis_scales": scales, "signs": signs}
    values |= {"token_mean": token_mean, "token_axes": token_axes}
    kept = {name: getattr(readout, name) for name in ("anchors", "mean", "modes")}
    made = ConnectomeReadout(config, features.shape[1])
    return made.fill(packed_axes=packed, **kept, **{name: torch.from_numpy(value).float() for name, value in values.items()})


def _sample(store: Store, seed: int) -> Store:
    people = sorted(store.sessions.subjects)
    if len(people) <= _MOST_PARTICIPANTS:
        return store
    return store.select(np.random.default_rng(seed).permutation(people)[:_MOST_PARTICIPANTS].tolist())


def _parcellations(store: Store) -> list[Recordings]:
    """Sessions by the places of their channels; the parcellation with most participants first."""
    found: dict[bytes, tuple[Tensor, list[SessionInfo]]] = {}
    for info in store.sessions:
        mm = torch.tensor(store.channels(info.key).mm, dtype=torch.float32)
        if not has_places(mm):
            raise InputError(f"{info.key}: its channels have no MNI places, by which a connectome is read; prepare it with --channels.")
        found.setdefault((mm / _SAME_PLACE_MM).round().numpy().tobytes(), (mm, []))[1].append(info)

    def reader(sessions: Sequence[SessionInfo]) -> Callable[[int], Tensor]:
        return lambda number: standardise(torch.from_numpy(store.coarse(sessions[number].key)))

    groups = [Recordings(mm, tuple(info.subject for info in sessions), reader(sessions)) for mm, sessions in found.values()]
    return sorted(groups, key=lambda group: -group.n_participants)


def _voxels(store: Store, model: HieraJEPA, k: int, seed: int) -> Iterator[Tensor]:
    """Patches of some participants' sessions (2 S, P), of the windows that are decoded; nothing of a network."""
    people = np.random.default_rng(seed).permutation(sorted(store.sessions.subjects))[:PARCEL_PARTICIPANTS]
    some = store.select(people.tolist())
    for clips in track(_clips(some, model, k), "parcels", total=len(some.sessions)):
        signals = [token_signals([clip], model.context.token_frames, "patches")[0] for clip in clips]
        yield signal_series(torch.cat(signals), store.grid, "patches")


def _decoded(store: Store, model: HieraJEPA, k: int, parcels: Parcels | None) -> Recordings:
    """What a stage 2 model's tokens decode to, decoded once for all that read it."""
    sessions = track(_clips(store, model, k), "decode", total=len(store.sessions))
    read = [channels_of(torch.cat([model.decode(clip) for clip in clips]), store.grid, parcels) for clips in sessions]
    return Recordings(read[0][1], tuple(info.subject for info in store.sessions), lambda number: read[number][0])


def _clips(store: Store, model: HieraJEPA, k: int) -> Iterator[list[Clip]]:
    """Of each session k windows spread evenly, in clips of as many as in training."""
    assert model.provenance is not None
    cut, unit_frames = model.provenance.window, model.config.unit_frames
    choose = window_choice(UNIFORM, store, unit_frames, cut.model_copy(update={"k": k}))
    return (read_clips(store, info, choose(info), cut, unit_frames) for info in store.sessions)


def _population(main: Recordings, seed: int, most: int) -> tuple[Floats, Tensor]:
    """(K, K) mean correlation of anchors over sessions, each pair over those that have both, and the anchors (K, 3).

    Anchors are the channels themselves or, of many, centres of clusters, read as Gaussian averages.
    """
    filters, anchors = torch.eye(len(main.mm), dtype=torch.float64), main.mm
    if len(main.mm) > most:
        from sklearn.cluster import KMeans

        centres = KMeans(most, n_init=1, random_state=seed).fit(main.mm.double().numpy()).cluster_centers_
        anchors = torch.from_numpy(centres).float()
        width = ConnectomeConfig(anchors=2, axes=2).width_mm
        filters = (-torch.cdist(anchors.double(), main.mm.double()).square() / (2 * width**2)).exp()
    total, count = np.zeros((2, len(anchors), len(anchors)))
    for number in track(range(len(main.subjects)), "population"):
        latent = standardise(main.read(number).double() @ filters.T).numpy()
        present = (latent != 0).any(0).astype(float)
        total += latent.T @ latent / len(latent)
        count += np.outer(present, present)
    mean = total / np.maximum(count, 1)
    np.fill_diagonal(mean, 1.0)
    values, vectors = np.linalg.eigh((1 - _RIDGE) * mean + _RIDGE * np.eye(len(mean)))
    # Pairs that were averaged over different sessions may leave an eigenvalue below 0.
    return (vectors * np.maximum(values, _RIDGE / 2)) @ vectors.T, anchors


def _unfinished(population: Floats, anchors: Tensor, settings: Mapping[str, float]) -> ConnectomeReadout:
    """Population and modes; axes are yet to come."""
    values, vectors = np.linalg.eigh(population)
    modes = (vectors / np.sqrt(values))[:, ::-1].copy()
    readout = ConnectomeReadout(ConnectomeConfig.model_validate({"anchors": len(anchors), "axes": 2, **settings}), 0)
    return readout.fill(anchors=anchors, mean=torch.from_numpy(population).float(), modes=torch.from_numpy(modes).float())


def _participants(readout: ConnectomeReadout, parcellations: Sequence[Recordings]) -> tuple[Floats, Floats]:
    """(N, D) float32 tangent vectors of participants, centred on their parcellation's mean, and (D,) the mean of the first."""
    rows, means = [], []
    for group in parcellations:
        made, sessions = dict[str, Floats](), Counter(group.subjects)
        for number, subject in enumerate(track(group.subjects, f"connectomes of {len(group.mm)} channels")):
            made[subject] = made.get(subject, 0) + readout.as_read(group.read(number), group.mm).numpy() / sessions[subject]
        vectors = np.stack(list(made.values()))
        means.append(vectors.mean(0))
        if len(vectors) > 1:
            rows.append(vectors - means[-1])
    return (np.concatenate(rows) if rows else np.zeros((0, len(means[0])))), means[0]


def _by_participant(subjects: Sequence[str], rows: Floats) -> Floats:
    """(N, W) mean over each participant's sessions."""
    names, place = np.unique(subjects, return_inverse=True)
    belongs = np.arange(len(names))[:, None] == place
    return (belongs / belongs.sum(1, keepdims=True)) @ rows


def _principal_axes(vectors: Floats, n_axes: int) -> Floats:
    """(D, Q) principal axes of centred vectors (N, D), of descending variance."""
    values, left = np.linalg.eigh((vectors @ vectors.T).astype(np.float64) / len(vectors))
    values, left = values[::-1][:n_axes], left[:, ::-1][:, :n_axes]
    directions = vectors.T @ (left / np.sqrt(values * len(vectors))).astype(vectors.dtype)
    return np.ascontiguousarray(directions, dtype=np.float32)


def _scales(variances: Floats) -> Floats:
    """(Q,) factors of scores of these variances (Q,), after which variances have the mean 1."""
    scales = variances ** (_AXIS_POWER / 2)
    return scales / np.sqrt((scales**2 * variances).mean())


def _signs(vectors: Floats, seed: int) -> Floats:
    """(D,) random signs, of a size by which a vector as long as the median of these (N, D) has the weight of the sums."""
    signs = 2 * np.random.default_rng(seed).integers(0, 2, vectors.shape[1]) - 1
    return signs * (_SUMS_WEIGHT * np.median(np.square(vectors).sum(1)))


def _token_axes(features: Floats) -> tuple[Floats, Floats]:
    """(W,) mean and (W, J) principal axes of the network's features, scaled so that scores have a mean variance of 1."""
    mean = features.mean(0)
    if not features.shape[1]:
        return mean, np.zeros((0, 0))
    count = _power_of_two(min(_TOKEN_AXES, *features.shape, len(features) - 1))
    values, axes = np.linalg.eigh(np.cov((features - mean).T, bias=True))
    values, axes = values[::-1][:count], axes[:, ::-1][:, :count]
    return mean, axes / np.sqrt(max(values.mean(), np.finfo(float).tiny))


def _power_of_two(count: int) -> int:
    """The largest one that is no more than `count`."""
    return 1 << (count.bit_length() - 1)


def _training(store: Store, before: Mapping[str, Any]) -> dict[str, Any]:
    """What the checkpoint says of its training, with the participants and data of the fit."""
    people = people_in(store)
    entries: dict[str, LedgerEntry] = {entry.governance.name: entry for entry in entries_from(before)} if before.get(LEDGER) else {}
    for entry in entries_of(store, store.sessions):
        known = entries.get(entry.governance.name)
        if known is None or (known.sessions or 0) < (entry.sessions or 0):
            entries[entry.governance.name] = replace(entry, times_seen=known.times_seen if known else None)
    counts = {"sessions": len(store.sessions), "subjects": len(people)}
    ledger = [entries[name].to_dict() for name in sorted(entries, key=lambda name: (entries[name].governance.cohort, name))]
    return {**before, "connectome": counts, REMEMBERED: remember_also(before, people), LEDGER: ledger}
