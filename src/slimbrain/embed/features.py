"""Sessions to vectors: the frozen encoder over the windows chosen, pooled."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from slimbrain.config import WindowConfig
from slimbrain.data.clip import Sessions, read_clip, read_clips
from slimbrain.disk.atomic import write_atomic
from slimbrain.embed.pooling import pool_tokens, pooled_names, require_pooling
from slimbrain.embed.series import (
    AXES,
    CONNECTOME,
    NATIVE,
    TANGENT,
    connectome_names,
    connectome_vectors,
    embed_series,
    series_names,
    series_pooling,
)
from slimbrain.errors import InputError
from slimbrain.governance.fingerprint import signature
from slimbrain.models.jepa import HieraJEPA
from slimbrain.models.temporal import TemporalExtractor
from slimbrain.progress import track
from slimbrain.saliency.choose import UNIFORM, Windows, window_choice
from slimbrain.store import Contract, SessionInfo, Store

FloatArray = npt.NDArray[Any]
_IntArray = npt.NDArray[np.int64]
Model = HieraJEPA | TemporalExtractor
_Look = Callable[[SessionInfo, Tensor], None]


DECODED_POOLINGS = (CONNECTOME, AXES, TANGENT)
"""Poolings of stage 2 beside `POOLINGS`, where the model has a connectome: it reads the cells or parcels that tokens decode to."""

_ROUNDING = 1e-6
"""Difference, relative to the largest number, up to which vectors are the same."""


@dataclass(frozen=True)
class Embeddings:
    """One vector per session.

    Attributes
    ----------
    keys, subjects : tuple[str, ...]
        N session keys and their participants.
    values : ndarray of float
        (N, D) float32.
    frames_used : Mapping[str, ndarray of int64]
        Frames of each session that the model used.
    contract : Contract
        Of the store they are from.
    signatures : tuple[str, ...]
        Of each session, by which a model remembers recordings; empty where it remembers nobody.
    weights_sha256, pooling : str
        Of the model that made them, and how it pooled.
    commands : tuple[str, ...]
        Command lines that made the table of participants, if there was one, and these; empty where they were made from Python.
    """

    keys: tuple[str, ...]
    subjects: tuple[str, ...]
    values: FloatArray
    frames_used: Mapping[str, _IntArray] = field(repr=False)
    contract: Contract
    signatures: tuple[str, ...] = field(default=(), repr=False)
    weights_sha256: str = ""
    pooling: str = ""
    commands: tuple[str, ...] = ()

    def by_session(self) -> dict[str, FloatArray]:
        return dict(zip(self.keys, self.values, strict=True))

    def all_alike(self) -> bool:
        """Whether there are several sessions, and their vectors differ by no more than rounding."""
        spread, size = np.ptp(self.values, axis=0), np.abs(self.values)
        return len(self.keys) > 1 and float(spread.max()) <= _ROUNDING * float(size.max())

    def save(self, path: str | Path, model: str) -> Path:
        """Write as npz: `session`, `subject`, `embedding`, `contract` (JSON), `model`, `weights_sha256`, `pooling`,
        `commands` (JSON), `frames_used` (JSON).

        `frames_used` has the frames of each session that the model used, as [first, one after the last] of every stretch.
        """
        path = Path(path)
        arrays: dict[str, Any] = {
            "session": np.array(self.keys),
            "subject": np.array(self.subjects),
            "embedding": self.values,
            "contract": json.dumps(self.contract.to_dict()),
            "model": model,
            "weights_sha256": self.weights_sha256,
            "pooling": self.pooling,
            "commands": json.dumps(self.commands),
            "frames_used": json.dumps({key: stretches_of(frames) for key, frames in self.frames_used.items()}),
        }
        return write_atomic(path, lambda temporary: np.savez(temporary, **arrays))


def read_embeddings(path: str | Path) -> Embeddings:
    """Read what `slimbrain embed` wrote: an npz file, or a folder with a BIDS derivative.

    Raises
    ------
    InputError
        If it is nothing of the kind, or does not name its weights.
    """
    if Path(path).is_dir():
        # That module writes and reads the class above.
        from slimbrain.embed.derivative import read_derivative

        return read_derivative(Path(path))
    try:
        with np.load(path, allow_pickle=False) as arrays:
            stretches: dict[str, list[tuple[int, int]]] = json.loads(str(arrays["frames_used"]))
            return Embeddings(
                tuple(arrays["session"].tolist()),
                tuple(arrays["subject"].tolist()),
                arrays["embedding"],
                {key: frames_of(parts) for key, parts in stretches.items()},
                Contract.from_dict(json.loads(str(arrays["contract"]))),
                weights_sha256=str(arrays["weights_sha256"]),
                pooling=str(arrays["pooling"]),
                commands=tuple(json.loads(str(arrays.get("commands", "[]")))),
            )
    except FileNotFoundError as error:
        raise InputError(f"{path}: there is no such file; make it with `slimbrain embed`.") from error
    except (OSError, ValueError, KeyError, TypeError, BadZipFile) as error:
        raise InputError(f"{path}: does not hold what `slimbrain embed` writes now ({error}); embed again.") from error


def frames_of(stretches: Sequence[Sequence[int]]) -> _IntArray:
    """The frames of stretches given as (first, one after the last)."""
    return np.concatenate([np.arange(*stretch) for stretch in stretches])


def stretches_of(frames: _IntArray) -> list[tuple[int, int]]:
    """Runs of frames that follow each other, as (first, one after the last)."""
    parts = np.split(frames, np.flatnonzero(np.diff(frames) != 1) + 1)
    return [(int(part[0]), int(part[-1]) + 1) for part in parts]


def embed_store(
    store: Sessions,
    model: Model,
    windows: Windows = None,
    k: int | None = None,
    label: str = "embed",
    pooling: str | None = None,
) -> Embeddings:
    """Embed every session of a store, or of images that stand in for one.

    Parameters
    ----------
    store : Store or what stands in for one
        N sessions.
    model : Model
        From `from_pretrained`, which says how sessions are cut.
    windows : Windows or None
        Which windows stage 2 sees: a window table, whose k best it takes; a stage 1 model or its folder, by whose scores it
        takes them as `slimbrain rank` would; the windows of each session, chosen before; or `uniform`, the same as None, for k spread
        evenly.
    k : int or None
        Windows to see; if None as many as in training or, where they are evenly spread, as the connectome was fitted to. More of them make
        the vector less noisy.
        `connectome`, `axes` and `tangent` read them in clips of as many as in training, other poolings in one.
    label : str
        What the progress bar is called.
    pooling : str or None
        How a vector is made: for stage 1 one of `SERIES_POOLINGS`, for stage 2 one of `POOLINGS` or `DECODED_POOLINGS`; the model's
        default if None: of stage 1 `both` (`tokens` without a connectome, `native` without places), of stage 2 `connectome` (`moments`
        without one).

    Returns
    -------
    Embeddings
        (N, D) `values` in the order of `store.sessions`, with keys and participants.

    Raises
    ------
    ContractError
        If the store does not fit the model.
    InputError
        If a session is shorter than one window, or is not in the window table.

    Examples
    --------
    >>> import slimbrain
    >>> from slimbrain.embed.features import embed_store
    >>> made = embed_store(slimbrain.Store("store"), slimbrain.from_pretrained("runs/voxel/model"), k=2)
    >>> made.subjects, made.values.shape
    (('sub-01', 'sub-02', 'sub-03'), (3, 192))
    """
    if model.provenance is None:
        raise InputError("the model does not say what it was trained on; read it with slimbrain.from_pretrained.")
    theirs = f"the store {store.root}" if isinstance(store, Store) else "the data"
    model.provenance.require(store.contract, "the model", theirs)
    sessions, signatures = store.sessions, dict[str, str]()

    def remember(info: SessionInfo, series: Tensor) -> None:
        signatures[info.key] = signature(series.numpy())

    look = remember if model.provenance.remembers else None
    chosen = chosen_pooling(model, pooling, store)
    if isinstance(model, TemporalExtractor):
        if pooling is None and chosen == NATIVE:
            print(
                "channels have no MNI places, so the vectors are the logarithms of the channels' own correlations (--pooling native), "
                "to be compared among the same channels alone; prepare with --channels to have the model's",
                file=sys.stderr,
            )
        values = embed_series(store, model, chosen, label, look).cpu().numpy()
        used = {info.key: np.arange(info.n_frames) for info in sessions}
    else:
        values, used = _embed_clips(store, model, windows, k, label, chosen, look)
    return Embeddings(
        tuple(info.key for info in sessions),
        tuple(info.subject for info in sessions),
        values,
        used,
        store.contract,
        tuple(signatures[info.key] for info in sessions) if look else (),
        model.provenance.weights_sha256,
        chosen,
    )


def chosen_pooling(model: Model, pooling: str | None, store: Sessions | None = None) -> str:
    """The pooling asked for, or the default of `embed_store`.

    Raises
    ------
    InputError
        If there is no such pooling, or the model or the store lacks what it needs.
    """
    return series_pooling(model, pooling, store) if isinstance(model, TemporalExtractor) else clip_pooling(model, pooling)


def clip_pooling(model: HieraJEPA, pooling: str | None) -> str:
    """The pooling asked for of a stage 2 model, or its default.

    Raises
    ------
    InputError
        If there is no such pooling, or the model lacks what it needs.
    """
    if model.connectome is not None:
        pooling = pooling or CONNECTOME
    elif pooling in DECODED_POOLINGS:
        raise InputError(f"pooling {pooling}: the model has no connectome; choose another, or add one with `slimbrain connectome`.")
    return pooling if pooling in DECODED_POOLINGS else require_pooling(pooling)


def windows_read(model: HieraJEPA, windows: Windows, k: int | None, pooling: str) -> WindowConfig:
    """How sessions are cut; how many windows are read by default: as in training or, evenly spread, as the readout was fitted to."""
    assert model.provenance is not None
    trained, fitted = model.provenance.window, 0
    if model.connectome is not None and pooling in DECODED_POOLINGS and windows in (None, UNIFORM):
        fitted = model.connectome.config.k
    return trained.model_copy(update={"k": k or fitted or trained.k})


def feature_names(model: Model, pooling: str | None = None, numbers: int | None = None) -> list[str]:
    """A name for each number of an embedding, in its order; of stage 1's pooling `native` it has to be said how many there are."""
    if isinstance(model, TemporalExtractor):
        return series_names(model, series_pooling(model, pooling), numbers)
    if model.provenance is None or model.provenance.grid is None:
        raise InputError("the model does not say which brain it reads; read it with slimbrain.from_pretrained.")
    chosen = clip_pooling(model, pooling)
    if chosen in DECODED_POOLINGS and model.connectome is not None:
        return connectome_names(model.connectome.config, chosen)
    return pooled_names(chosen, model.encoder.width, model.provenance.grid.units.mm.tolist())


def untrained(model: Model, seed: int = 0) -> Model:
    """The same network with fresh weights, as a baseline."""
    torch.manual_seed(seed)
    if isinstance(model, TemporalExtractor):
        fresh: Model = TemporalExtractor(model.config)
    else:
        fresh = HieraJEPA(model.config, model.jepa, model.voxels_per_patch)
    fresh.provenance = model.provenance
    return fresh.eval()


def _embed_clips(
    store: Sessions, model: HieraJEPA, windows: Windows, k: int | None, label: str, pooling: str, look: _Look | None
) -> tuple[FloatArray, dict[str, _IntArray]]:
    """(N, D) vectors of stage 2, and the frames of each session that it used."""
    cut = windows_read(model, windows, k, pooling)
    choose = window_choice(windows, store, model.config.unit_frames, cut)
    values, used = [], {}
    for info in track(store.sessions, label, shorter="fewer windows (--k) or participants (--participants)"):
        chosen = choose(info)
        values.append(_embed_windows(store, info, model, chosen, pooling))
        used[info.key] = np.concatenate([np.arange(number * cut.frames, (number + 1) * cut.frames) for number in chosen])
        if look is not None:
            # Here, since an image is prepared once and the last one kept.
            look(info, torch.from_numpy(store.coarse(info.key)))
    return np.stack(values), used


@torch.inference_mode()
def _embed_windows(store: Sessions, info: SessionInfo, model: HieraJEPA, windows: Sequence[int], pooling: str) -> FloatArray:
    assert model.provenance is not None
    cut = model.provenance.window
    if pooling in DECODED_POOLINGS:
        assert model.connectome is not None
        series, places = model.connectome_series(read_clips(store, info, windows, cut, model.config.unit_frames))
        made = connectome_vectors(model.connectome, [series], [places], pooling)
    else:
        made = pool_tokens(model.encoder([read_clip(store, info, windows, cut.frames)]), pooling)
    return made[0].float().cpu().numpy()
