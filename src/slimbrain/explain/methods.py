"""The methods of explanation on a store: each turns a session into one map per window."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from slimbrain.data.clip import read_clip
from slimbrain.embed.features import embed_store
from slimbrain.embed.pooling import MOMENTS
from slimbrain.embed.series import TOKENS
from slimbrain.errors import InputError, SlimbrainError
from slimbrain.evaluate.finetune import require_encoder
from slimbrain.evaluate.tasks import Target, get_task, read_target
from slimbrain.evaluate.tuned import Tuned
from slimbrain.explain.channels import decision_shares, reconstruction_shares
from slimbrain.explain.gradients import Attribution, gradient_input, integrated_gradients
from slimbrain.explain.heads import Deciders, fit_probes
from slimbrain.explain.occlusion import occlude_units
from slimbrain.explain.surprise import TIMES_HIDDEN, by_window, paint_units, token_surprise
from slimbrain.explain.tuned import tuned_deciders
from slimbrain.governance.provenance import people_in
from slimbrain.models.hub import require_model
from slimbrain.models.jepa import HieraJEPA
from slimbrain.models.temporal import TemporalExtractor
from slimbrain.progress import track
from slimbrain.saliency.choose import Ranker, window_choice
from slimbrain.store import ROI, SessionInfo, Store
from slimbrain.store.description import DATA_SHA256

Model = HieraJEPA | TemporalExtractor

TITLES = {
    "gradient": "Gradient x input",
    "integrated": "Integrated gradients",
    "occlusion": "Occlusion by unit",
    "surprise": "JEPA surprise",
    "channels": "Stage 1 channel importance",
}
"""The methods there are."""

_DECIDING = ("gradient", "integrated", "occlusion")
"""Methods that explain a decision, and so need a task, or a model with a head of its own."""


@dataclass(frozen=True)
class _Explanation:
    """A method's result for one session.

    Attributes
    ----------
    values : array
        (W, P, V) by window, or (W, C) where the session has parcels and no voxels; W is 1 where a method has no map per window.
    facts : mapping of str to object
        Further entries of the session's record.
    """

    values: NDArray[Any]
    facts: Mapping[str, Any] = field(default_factory=dict)


class _Explainer(Protocol):
    """A method that is ready to run."""

    @property
    def unit(self) -> str:
        """Unit of the values."""
        ...

    @property
    def windows(self) -> Mapping[str, Sequence[int]]:
        """Windows of every session that can be explained, by key; empty where all are used."""
        ...

    def explain(self, info: SessionInfo) -> _Explanation: ...


@dataclass(frozen=True)
class MapRequest:
    """What to explain, and how.

    Attributes
    ----------
    method : str
        One of `TITLES`.
    task, target : str or None
        As `slimbrain evaluate --task`, and the class whose log-odds are explained; see `fit_probes`.
    windows, k : Ranker, int or None
        Which windows stage 2 uses, as for `embed_store`.
    steps : int or None
        Of integrated gradients; as many as needed if None.
    seed : int
        Of the folds, and of the masks of surprise.
    phenotypes : tuple of Path
        Tables of a benchmark's labels, as `slimbrain evaluate --phenotypes`.

    Examples
    --------
    >>> MapRequest("channels", task="column:group").seed
    0
    """

    method: str
    task: str | None = None
    target: str | None = None
    windows: Ranker = None
    k: int | None = None
    steps: int | None = None
    seed: int = 0
    phenotypes: tuple[Path, ...] = ()


@dataclass(frozen=True)
class Opened:
    """A method on a store.

    Attributes
    ----------
    sessions, refused : list of SessionInfo, dict of str to str
        Those it can explain, and those it cannot, with the reason.
    trained_on : set of str
        Participants the model was pretrained or fine-tuned on.
    window_frames : int
        Frames of a window.
    deciders, task : Deciders or None, str
        Whose decision is explained, and on what; None and empty where there is none.
    """

    explainer: _Explainer
    sessions: list[SessionInfo]
    refused: dict[str, str]
    trained_on: frozenset[str]
    window_frames: int
    deciders: Deciders | None = None
    task: str = ""


def open_method(
    store: Store, model: Model, source: str | Path, request: MapRequest, device: torch.device, tuned: Tuned | None = None
) -> Opened:
    """Choose windows, fit probes where their decision is explained, and prepare the method.

    Parameters
    ----------
    tuned : Tuned or None
        The model with its head, where it was fine-tuned; the head decides unless the request names a task.

    Raises
    ------
    InputError
        If there is no such method, it is not for this model, or it lacks a task.
    """
    _check(request, model, source, tuned)
    target = read_target(get_task(request.task, phenotypes=request.phenotypes, source=store), store) if request.task else None
    sessions = [store.session(key) for key in target.keys] if target else store.sessions
    assert model.provenance is not None
    model.provenance.require(store.contract, f"the model {source}", f"the store {store.root}")
    if isinstance(model, TemporalExtractor):
        return _open_channels(store, model.to(device), sessions, target, request)
    windows, refused = _windows(store, sessions, model, request)
    kept = [info for info in sessions if info.key in windows]
    known, frames = _trained_on(store, model, kept), model.provenance.window.frames
    if request.method == "surprise":
        return Opened(_Surprise(store, windows, model.to(device), request.seed), kept, refused, known, frames)
    here = store.only(list(windows))
    if target:
        deciders, task = _probes(here, model, windows, target, request), str(request.task)
    else:
        assert tuned is not None
        deciders, task = _head(here, tuned, windows, known, request), tuned.head.task
    encoder = deepcopy(require_encoder(model, source)).requires_grad_(False).to(device)
    decide: dict[str, Callable[[Any, Any, Any], Attribution | NDArray[Any]]] = {
        "gradient": gradient_input,
        "integrated": lambda encoder, head, clip: integrated_gradients(encoder, head, clip, request.steps),
        "occlusion": occlude_units,
    }
    explainer = _Decision(store, windows, frames, encoder, deciders, decide[request.method])
    return Opened(explainer, kept, refused, known, frames, deciders, task)


def _open_channels(
    store: Store, model: TemporalExtractor, sessions: Sequence[SessionInfo], target: Target | None, request: MapRequest
) -> Opened:
    enough = {info.key: info.n_windows(model.window_frames) >= 2 for info in sessions}
    kept = [info for info in sessions if enough[info.key]]
    refused = {info.key: f"{info.n_frames} frames do not hold two windows" for info in sessions if not enough[info.key]}
    probes = _probes(store.only([info.key for info in kept]), model, None, target, request) if target else None
    explainer = _Channels(store, model, probes)
    return Opened(explainer, kept, refused, _trained_on(store, model, kept), model.window_frames, probes, request.task or "")


def _check(request: MapRequest, model: Model, source: str | Path, tuned: Tuned | None) -> None:
    if request.method not in TITLES:
        raise InputError(f"--method {request.method}: there is no such method; choose from {', '.join(TITLES)}.")
    if request.method in _DECIDING and not request.task and not tuned:
        raise InputError(
            f"--method {request.method}: explains a decision; name it with --task, for example column:sex, or give a fine-tuned model."
        )
    if request.method == "surprise" and request.task:
        raise InputError("--method surprise: explains what the model failed to predict, and no decision; leave --task out.")
    if request.method == "surprise" and tuned:
        raise InputError(
            f"{source}: is fine-tuned, and its predictor was never trained beside the tuned encoder; "
            "give --method surprise the model that was fine-tuned."
        )
    require_model(model, TemporalExtractor if request.method == "channels" else HieraJEPA, source)


def _trained_on(store: Store, model: Model, sessions: Sequence[SessionInfo]) -> frozenset[str]:
    """Participants of these sessions the model was pretrained or fine-tuned on."""
    assert model.provenance is not None
    return frozenset(model.provenance.trained_on(people_in(store, sessions)))


def _windows(
    store: Store, sessions: Sequence[SessionInfo], model: HieraJEPA, request: MapRequest
) -> tuple[dict[str, tuple[int, ...]], dict[str, str]]:
    """The windows of each session that stage 2 uses, and why some sessions have none."""
    assert model.provenance is not None
    trained = model.provenance.window
    cut = trained.model_copy(update={"k": request.k or trained.k})
    choose = window_choice(request.windows, store, model.config.unit_frames, cut)
    windows, refused = {}, {}
    for info in track(sessions, "choose windows") if request.windows else sessions:
        try:
            windows[info.key] = tuple(choose(info))
        except SlimbrainError as error:
            refused[info.key] = str(error)
    return windows, refused


def _probes(store: Store, model: Model, windows: Mapping[str, Sequence[int]] | None, target: Target, request: MapRequest) -> Deciders:
    # A decision on channels is explained through the network.
    pooling = TOKENS if isinstance(model, TemporalExtractor) else MOMENTS
    vectors = embed_store(store, model, windows, label="embed", pooling=pooling).by_session()
    kept = [key for key in target.keys if key in vectors]
    if len(kept) < len(target.keys):
        target = read_target(get_task(request.task or "", phenotypes=request.phenotypes), store, [store.session(key) for key in kept])
    rows = [
        [key, data_hash(store, key), str(label), list((windows or {}).get(key, ()))]
        for key, label in zip(target.keys, target.labels, strict=True)
    ]
    learnt_from = hashlib.sha256(json.dumps(rows).encode()).hexdigest()
    probes = fit_probes(vectors, target, request.target, request.seed)
    return replace(probes, known={**probes.known, "pooling": pooling}, learnt_from=learnt_from)


def _head(store: Store, tuned: Tuned, windows: Mapping[str, Sequence[int]], trained_on: frozenset[str], request: MapRequest) -> Deciders:
    """The model's own head, with its score where the store has labels for its task."""
    try:
        target = read_target(get_task(tuned.head.task, phenotypes=request.phenotypes), store)
    except InputError as error:
        print(f"no label to compare with, so the contrast is over the decision itself: {error}", file=sys.stderr)
        target = None
    vectors = embed_store(store, tuned.model, windows, label="embed").by_session()
    return tuned_deciders(tuned, vectors, {info.key: info.subject for info in store.sessions}, target, trained_on, request.target)


def data_hash(store: Store, key: str) -> str:
    """SHA-256 of a session's data file; empty where the store does not record it."""
    return str(store.sidecar(key).get(DATA_SHA256, ""))


@dataclass(frozen=True)
class _Decision:
    """Gradients and occlusion of each session's head."""

    store: Store
    windows: Mapping[str, Sequence[int]]
    frames: int
    encoder: Any
    deciders: Deciders
    decide: Callable[[Any, Any, Any], Attribution | NDArray[Any]]

    @property
    def unit(self) -> str:
        return self.deciders.unit

    def explain(self, info: SessionInfo) -> _Explanation:
        windows = self.windows[info.key]
        clip = read_clip(self.store, info, windows, self.frames)
        found = self.decide(self.encoder, self.deciders.heads[info.key], clip)
        facts = dict(self.deciders.facts[info.key])
        if not isinstance(found, Attribution):
            return _Explanation(paint_units(found[None], clip.grid, self.encoder.config.unit), facts)
        values = found.values.reshape(len(windows), self.frames, *found.values.shape[1:]).sum(axis=1)
        numbers = {"decision": found.decision, "at_baseline": found.at_baseline, "steps": found.steps, "gap": found.gap}
        return _Explanation(values, {**facts, **numbers})


@dataclass(frozen=True)
class _Surprise:
    """Prediction errors of stage 2."""

    store: Store
    windows: Mapping[str, Sequence[int]]
    model: HieraJEPA
    seed: int

    @property
    def unit(self) -> str:
        return "squared SD of a cell" if self.model.jepa.targets == "signals" else "smooth-L1 to the layer-normalised target"

    def explain(self, info: SessionInfo) -> _Explanation:
        assert self.model.provenance is not None
        windows = self.windows[info.key]
        clip = read_clip(self.store, info, windows, self.model.provenance.window.frames)
        found = token_surprise(self.model, clip, len(windows), self.seed)
        errors = by_window(found.errors, len(windows), self.model.encoder.token_frames)
        facts = {"mean": float(errors.mean()), "guessing": found.guessing, "times_hidden": TIMES_HIDDEN}
        return _Explanation(paint_units(errors, clip.grid), facts)


@dataclass(frozen=True)
class _Channels:
    """The contribution of channels to stage 1."""

    store: Store
    model: TemporalExtractor
    probes: Deciders | None
    windows: Mapping[str, Sequence[int]] = field(default_factory=dict)

    @property
    def unit(self) -> str:
        return self.probes.unit if self.probes else "reconstructed energy, squared SD of a channel"

    def explain(self, info: SessionInfo) -> _Explanation:
        device = self.model.anchors.device
        series = torch.from_numpy(self.store.coarse(info.key)).to(device)
        mm = torch.tensor(np.asarray(self.store.channels(info.key).mm), dtype=torch.float32, device=device)
        if self.probes:
            values = decision_shares(self.model, self.probes.heads[info.key], series, mm, info.tr)
            facts = dict(self.probes.facts[info.key])
        else:
            values, facts = reconstruction_shares(self.model, series, mm, info.tr), {}
        if info.space == ROI:
            return _Explanation(values, facts)
        # A cell's share is spread evenly over its voxels, so that shares still add up.
        grid = self.store.grid
        spread = (values / grid.cell_voxels)[:, grid.patch_cell, None]
        return _Explanation(np.where(grid.voxel_mask, spread, 0.0), facts)
