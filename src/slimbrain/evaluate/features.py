"""Sessions to vectors: the frozen encoder over the windows chosen, pooled."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt
import torch

from slimbrain.atomic import write_atomic
from slimbrain.config import WindowConfig
from slimbrain.contract import Contract
from slimbrain.data import Sessions, read_clip
from slimbrain.errors import InputError
from slimbrain.evaluate.pooling import pool_tokens, pooled_names
from slimbrain.manifest import SessionInfo
from slimbrain.models.fingerprint import signature
from slimbrain.models.hub import from_pretrained, require_model
from slimbrain.models.jepa import HieraJEPA
from slimbrain.models.temporal import TemporalExtractor
from slimbrain.progress import track
from slimbrain.saliency import rank_session, read_window_table, select_uniform, trained_saliency
from slimbrain.store import Store

FloatArray = npt.NDArray[Any]
IntArray = npt.NDArray[np.int64]
Model = HieraJEPA | TemporalExtractor
Ranker = str | Path | TemporalExtractor | None
Windows = Ranker | Mapping[str, Sequence[int]]
UNIFORM = "uniform"


@dataclass(frozen=True)
class Embeddings:
    """One vector a session.

    Attributes
    ----------
    keys, subjects : N session keys and their participants.
    values : (N, D) float32.
    seen : frames of each session that the model saw.
    contract : of the store they are from.
    signatures : of each session, by which a model remembers recordings; empty where it remembers nobody.
    weights_sha256, pooling : of the model that made them, and how it pooled.
    """

    keys: tuple[str, ...]
    subjects: tuple[str, ...]
    values: FloatArray
    seen: Mapping[str, IntArray] = field(repr=False)
    contract: Contract
    signatures: tuple[str, ...] = field(default=(), repr=False)
    weights_sha256: str = ""
    pooling: str = ""

    def by_session(self) -> dict[str, FloatArray]:
        return dict(zip(self.keys, self.values, strict=True))

    def save(self, path: str | Path, model: str) -> Path:
        """Write as npz: `session`, `subject`, `embedding`, `contract` (JSON), `model`, `weights_sha256`, `pooling`, `seen` (JSON).

        `seen` has the frames that the model saw of each session, as [first, one after the last] of every stretch.
        """
        path = require_npz(path)
        arrays: dict[str, Any] = {
            "session": np.array(self.keys),
            "subject": np.array(self.subjects),
            "embedding": self.values,
            "contract": json.dumps(self.contract.to_dict()),
            "model": model,
            "weights_sha256": self.weights_sha256,
            "pooling": self.pooling,
            "seen": json.dumps({key: _stretches(frames) for key, frames in self.seen.items()}),
        }
        return write_atomic(path, lambda temporary: np.savez(temporary, **arrays))


def require_npz(path: str | Path) -> Path:
    """A name for embeddings, refused before the work and not after it.

    Raises
    ------
    InputError
        If it does not end in .npz.
    """
    path = Path(path)
    if path.suffix != ".npz":
        raise InputError(f"{path}: embeddings are written as npz; give a name that ends in .npz.")
    return path


def read_embeddings(path: str | Path) -> Embeddings:
    """Read what `Embeddings.save` wrote.

    Raises
    ------
    InputError
        If it is nothing of the kind, or was written before embeddings named their weights.
    """
    try:
        with np.load(path, allow_pickle=False) as arrays:
            stretches: dict[str, list[tuple[int, int]]] = json.loads(str(arrays["seen"]))
            return Embeddings(
                tuple(arrays["session"].tolist()),
                tuple(arrays["subject"].tolist()),
                arrays["embedding"],
                {key: np.concatenate([np.arange(*stretch) for stretch in parts]) for key, parts in stretches.items()},
                Contract.from_dict(json.loads(str(arrays["contract"]))),
                weights_sha256=str(arrays["weights_sha256"]),
                pooling=str(arrays["pooling"]),
            )
    except (OSError, ValueError, KeyError, TypeError, BadZipFile) as error:
        raise InputError(f"{path}: does not hold what `slimbrain embed` writes now ({error}); embed again.") from error


def _stretches(frames: IntArray) -> list[tuple[int, int]]:
    """Runs of frames that follow each other, as (first, one after the last)."""
    parts = np.split(frames, np.flatnonzero(np.diff(frames) != 1) + 1)
    return [(int(part[0]), int(part[-1]) + 1) for part in parts]


def embed_store(
    store: Sessions,
    model: Model,
    windows: Windows = None,
    k: int | None = None,
    label: str = "embed",
    pooling: str = "moments",
) -> Embeddings:
    """Embed every session of a store, or of images that stand in for one.

    Parameters
    ----------
    model : from `from_pretrained`, which says how sessions are cut.
    windows : which windows stage 2 sees: a window table, whose k best it takes; a stage 1 model or its folder, by whose scores it
        takes them as `slimbrain rank` would; the windows of each session, chosen before; or `uniform`, the same as None, for k spread
        evenly.
    k : windows to see; as many as in training if None. More of them make the vector less noisy.
    pooling : how stage 2's tokens become a vector; see `pool_tokens`. Stage 1 has one way.

    Raises
    ------
    ContractError
        If the store does not fit the model.
    InputError
        If a session is shorter than one window, or is not in the window table.
    """
    if model.provenance is None:
        raise InputError("the model does not say what it was trained on; read it with slimbrain.from_pretrained.")
    theirs = f"the store {store.root}" if isinstance(store, Store) else "the data"
    model.provenance.contract.require(store.contract, "the model", theirs)
    trained = model.provenance.window
    cut = trained.model_copy(update={"k": k or trained.k})
    choose = window_choice(windows, store, model.config.unit_frames, cut) if isinstance(model, HieraJEPA) else None
    values, seen, signatures = [], {}, []
    for info in track(store.sessions, label):
        if isinstance(model, TemporalExtractor):
            values.append(_embed_series(store, info, model))
            seen[info.key] = np.arange(info.n_frames)
        else:
            assert choose is not None
            chosen = choose(info)
            values.append(_embed_clip(store, info, model, chosen, cut.frames, pooling))
            seen[info.key] = np.concatenate([np.arange(number * cut.frames, (number + 1) * cut.frames) for number in chosen])
        if model.provenance.remembers:
            # Here, since an image is prepared once and the last one kept.
            signatures.append(signature(store.coarse(info.key)))
    sessions = store.sessions
    return Embeddings(
        tuple(info.key for info in sessions),
        tuple(info.subject for info in sessions),
        np.stack(values),
        seen,
        store.contract,
        tuple(signatures),
        model.provenance.weights_sha256,
        pooling,
    )


def open_windows(windows: Ranker) -> Path | TemporalExtractor | None:
    """What windows are chosen by: a table, a stage 1 model, or nothing for evenly spread ones.

    Raises
    ------
    InputError
        If it is a model of stage 2, or nothing of the kind.
    """
    if windows is None or windows == UNIFORM or isinstance(windows, TemporalExtractor):
        return None if isinstance(windows, str) else windows
    path = Path(windows)
    if path.is_file() or path.suffix == ".tsv":
        return path
    return require_model(from_pretrained(windows), TemporalExtractor, windows)


def feature_names(model: Model, pooling: str = "moments") -> list[str]:
    """A name for each number of an embedding, in its order."""
    if isinstance(model, TemporalExtractor):
        return [f"{part}_{number}" for part in ("mean", "deviation") for number in range(model.config.width)]
    if model.provenance is None or model.provenance.grid is None:
        raise InputError("the model does not say which brain it reads; read it with slimbrain.from_pretrained.")
    return pooled_names(pooling, model.encoder.width, model.provenance.grid.units.mm.tolist())


def window_choice(windows: Windows, store: Sessions, unit_frames: int, cut: WindowConfig) -> Callable[[SessionInfo], list[int]]:
    """Which windows of a session of the store stage 2 sees; as of `choose_windows`.

    Parameters
    ----------
    windows : as of `embed_store`.
    unit_frames : of stage 2's mask unit.
    cut : frames a window and how many windows.
    """
    if isinstance(windows, Mapping):
        return lambda info: list(windows[info.key])
    order = window_order(windows, store, cut)
    return lambda info: choose_windows(info, cut, unit_frames, order(info) if order else None)


def window_order(windows: Ranker, store: Sessions, cut: WindowConfig) -> Callable[[SessionInfo], list[int]] | None:
    """The order in which windows of a session are to be taken, best first; None where they are to be spread evenly.

    Raises
    ------
    InputError
        If a window table or stage 1 model has windows of another length; later, if the table leaves a session no window.
    """
    opened = open_windows(windows)
    if opened is None:
        return None
    if isinstance(opened, TemporalExtractor):
        return _scored_order(opened, store, cut)
    ranked = ranked_windows(opened, store, cut)

    def look_up(info: SessionInfo) -> list[int]:
        if order := ranked.get(info.key):
            return order
        left = "leaves it no window; rank with a larger --per-session"
        what = left if info.key in ranked else "does not have it; run `slimbrain rank` here"
        raise InputError(f"{info.key}: the window table {what}.")

    return look_up


def _scored_order(scorer: TemporalExtractor, store: Sessions, cut: WindowConfig) -> Callable[[SessionInfo], list[int]]:
    saliency = trained_saliency(scorer)
    if scorer.provenance:
        scorer.provenance.contract.require(store.contract, "the stage 1 model", "the data")
    if scorer.window_frames != cut.frames:
        raise InputError(
            f"the stage 1 model scores windows of {scorer.window_frames} frames, but stage 2 sees windows of {cut.frames}; "
            "give one of the same preset."
        )
    # Budgets over several runs are for training: a vector must not depend on what else is embedded.
    return lambda info: [row.window for row in sorted(rank_session(store, info, scorer, saliency), key=lambda row: row.rank)]


def choose_windows(info: SessionInfo, window: WindowConfig, unit_frames: int, order: Sequence[int] | None) -> list[int]:
    """The k first windows of an order, or k evenly spread ones, in order of time; fewer where there are not as many."""
    count = min(window.k, info.n_windows(window.frames), len(order) if order is not None else window.k)
    while count and (count * window.frames) % unit_frames:
        count -= 1
    if not count:
        raise InputError(f"{info.path}: {info.n_frames} frames do not hold one window of {window.frames} frames; leave this session out.")
    if order is None:
        return [int(number) for number in select_uniform(info.n_windows(window.frames), count)]
    return sorted(int(number) for number in order[:count])


def ranked_windows(path: str | Path, store: Sessions, window: WindowConfig) -> dict[str, list[int]]:
    """Windows of each session in a window table that are chosen, best first.

    Raises
    ------
    InputError
        If the table was made with windows of another length.
    """
    tables = read_window_table(path)
    for info in store.sessions:
        for row in tables.get(info.key, [])[:1]:
            if abs(row.duration_s - window.frames * info.tr) > info.tr / 2:
                raise InputError(
                    f"{path}: has windows of {row.duration_s:g} s, but {window.frames} frames of {info.key} last "
                    f"{window.frames * info.tr:g} s; rank again with a stage 1 model of the same preset."
                )
    return {session: [row.window for row in sorted(rows, key=lambda row: row.rank) if row.chosen] for session, rows in tables.items()}


def untrained(model: Model, seed: int = 0) -> Model:
    """The same network with fresh weights, as a baseline."""
    torch.manual_seed(seed)
    if isinstance(model, TemporalExtractor):
        fresh: Model = TemporalExtractor(model.config)
    else:
        fresh = HieraJEPA(model.config, model.jepa, model.voxels_per_patch)
    fresh.provenance = model.provenance
    return fresh.eval()


@torch.inference_mode()
def _embed_series(store: Sessions, info: SessionInfo, model: TemporalExtractor) -> FloatArray:
    mm = torch.tensor(store.channels(info.key).mm, dtype=torch.float32)
    session, _ = model.embed(torch.from_numpy(store.coarse(info.key))[None], mm, info.tr)
    return session[0].float().cpu().numpy()


@torch.inference_mode()
def _embed_clip(store: Sessions, info: SessionInfo, model: HieraJEPA, windows: Sequence[int], frames: int, pooling: str) -> FloatArray:
    tokens = model.encoder([read_clip(store, info, windows, frames)])
    return pool_tokens(tokens, pooling)[0].float().cpu().numpy()
