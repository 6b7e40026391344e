"""Sessions to vectors: the frozen encoder over the windows chosen, pooled."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from sklearn.base import BaseEstimator, TransformerMixin

from slimbrain.atomic import write_atomic
from slimbrain.config import WindowConfig
from slimbrain.data import read_clip
from slimbrain.errors import InputError
from slimbrain.evaluate.pooling import pool_tokens
from slimbrain.models.hub import from_pretrained
from slimbrain.models.jepa import HieraJEPA
from slimbrain.models.temporal import TemporalExtractor
from slimbrain.progress import track
from slimbrain.saliency import read_window_table, select_uniform
from slimbrain.store import Contract, SessionInfo, Store

FloatArray = npt.NDArray[Any]
IntArray = npt.NDArray[np.int64]
Model = HieraJEPA | TemporalExtractor


@dataclass(frozen=True)
class Embeddings:
    """One vector a session.

    Attributes
    ----------
    keys, subjects : N session keys and their participants.
    values : (N, D) float32.
    seen : frames of each session that the model saw.
    contract : of the store they are from.
    """

    keys: tuple[str, ...]
    subjects: tuple[str, ...]
    values: FloatArray
    seen: Mapping[str, IntArray] = field(repr=False)
    contract: Contract

    def by_session(self) -> dict[str, FloatArray]:
        return dict(zip(self.keys, self.values, strict=True))

    def save(self, path: str | Path, model: str) -> Path:
        """Write as npz: `session`, `subject`, `embedding`, `contract` (JSON), `model`."""
        path = Path(path)
        if path.suffix != ".npz":
            raise InputError(f"{path}: embeddings are written as npz; give a name that ends in .npz.")
        arrays: dict[str, Any] = {
            "session": np.array(self.keys),
            "subject": np.array(self.subjects),
            "embedding": self.values,
            "contract": json.dumps(self.contract.to_dict()),
            "model": model,
        }
        return write_atomic(path, lambda temporary: np.savez(temporary, **arrays))


def embed_store(store: Store, model: Model, windows: str | Path | None = None, k: int | None = None, label: str = "embed") -> Embeddings:
    """Embed every session of a store.

    Parameters
    ----------
    model : from `from_pretrained`, which says how sessions are cut.
    windows : window table; stage 2 sees the k best of each session, or k spread evenly where it is None.
    k : windows to see; as many as in training if None. More of them make the vector less noisy.

    Raises
    ------
    ContractError
        If the store does not fit the model.
    InputError
        If a session is shorter than one window, or is not in the window table.
    """
    if model.provenance is None:
        raise InputError("the model does not say what it was trained on; read it with slimbrain.from_pretrained.")
    model.provenance.contract.require(store.contract, "the model", f"the store {store.root}")
    trained = model.provenance.window
    cut = trained.model_copy(update={"k": k or trained.k})
    ranked = ranked_windows(windows, store, cut) if windows else None
    values, seen = [], {}
    for info in track(store.sessions, label):
        if isinstance(model, TemporalExtractor):
            values.append(_embed_series(store, info, model))
            seen[info.key] = np.arange(info.n_frames)
        else:
            chosen = choose_windows(info, cut, model.config.unit_frames, ranked)
            values.append(_embed_clip(store, info, model, chosen, cut.frames))
            seen[info.key] = np.concatenate([np.arange(number * cut.frames, (number + 1) * cut.frames) for number in chosen])
    sessions = store.sessions
    return Embeddings(
        tuple(info.key for info in sessions), tuple(info.subject for info in sessions), np.stack(values), seen, store.contract
    )


def choose_windows(info: SessionInfo, window: WindowConfig, unit_frames: int, ranked: Mapping[str, Sequence[int]] | None) -> list[int]:
    """The k windows of a session that stage 2 sees, in order of time; all it has, or all the table leaves it, where these are fewer."""
    if ranked is not None and not ranked.get(info.key):
        what = (
            "leaves it no window; rank with a larger --per-session" if info.key in ranked else "does not have it; run `slimbrain rank` here"
        )
        raise InputError(f"{info.key}: the window table {what}.")
    count = min(window.k, info.n_windows(window.frames), len(ranked[info.key]) if ranked else window.k)
    while count and (count * window.frames) % unit_frames:
        count -= 1
    if not count:
        raise InputError(f"{info.path}: {info.n_frames} frames do not hold one window of {window.frames} frames; leave this session out.")
    if ranked is None:
        return [int(number) for number in select_uniform(info.n_windows(window.frames), count)]
    return sorted(int(number) for number in ranked[info.key][:count])


def ranked_windows(path: str | Path, store: Store, window: WindowConfig) -> dict[str, list[int]]:
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
def _embed_series(store: Store, info: SessionInfo, model: TemporalExtractor) -> FloatArray:
    mm = torch.tensor(store.channels(info.key).mm, dtype=torch.float32)
    session, _ = model.embed(torch.from_numpy(store.coarse(info.key))[None], mm, info.tr)
    return session[0].float().cpu().numpy()


@torch.inference_mode()
def _embed_clip(store: Store, info: SessionInfo, model: HieraJEPA, windows: Sequence[int], frames: int) -> FloatArray:
    tokens = model.encoder([read_clip(store, info, windows, frames)])
    return pool_tokens(tokens)[0].float().cpu().numpy()


class SlimBrainEncoder(TransformerMixin, BaseEstimator):
    """A trained model as a scikit-learn transformer: sessions of a store in, vectors out.

    Parameters
    ----------
    checkpoint : model folder or hub id.
    windows : window table from `slimbrain rank`; windows spread evenly if None.
    """

    def __init__(self, checkpoint: str | Path, windows: str | Path | None = None) -> None:
        self.checkpoint = checkpoint
        self.windows = windows

    def fit(self, X: object = None, y: object = None) -> SlimBrainEncoder:
        """Load the model; nothing is learnt from X."""
        self.model_ = from_pretrained(self.checkpoint)
        return self

    def transform(self, X: Store | str | Path) -> FloatArray:
        """(N, D) one row a session of the store, in manifest order."""
        store = X if isinstance(X, Store) else Store(X)
        return embed_store(store, self.model_, self.windows).values
