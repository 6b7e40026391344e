"""A trained model as a scikit-learn transformer: sessions in, vectors out."""

from __future__ import annotations

import hashlib
import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils._set_output import _get_output_config
from sklearn.utils.validation import check_is_fitted
from torch import nn

from slimbrain.data.clip import Sessions
from slimbrain.embed.features import Embeddings, FloatArray, chosen_pooling, embed_store, feature_names
from slimbrain.errors import InputError, TrainingOverlapWarning
from slimbrain.governance.provenance import Person, Provenance, people_in
from slimbrain.grid import Grid
from slimbrain.models.hub import from_pretrained
from slimbrain.saliency.choose import UNIFORM, open_windows
from slimbrain.store import Store
from slimbrain.store.terms import UNKNOWN

if TYPE_CHECKING:
    from nibabel.spatialimages import SpatialImage

_IMAGES = (".nii", ".nii.gz")
_IMAGE_RESOLUTION = "2mm"
"""Of the grid whose cells a model of any channels reads images by; `slimbrain prep`'s default."""

_LOADED = ("model_", "windows_")
"""What `fit` reads from files, and a copy reads again."""


class SlimBrainEncoder(TransformerMixin, BaseEstimator):
    """Sessions in, vectors out: the frozen model over the windows chosen, pooled.

    Nothing is learnt from the data, so a score by cross-validation does not depend on what `fit` saw; what the model itself was
    pretrained on is in `model_.provenance`, and sessions of those it was trained on are warned of (`TrainingOverlapWarning`).

    Parameters
    ----------
    checkpoint : str or Path
        Model folder or hub id.
    windows : str or Path, default UNIFORM
        Which windows of a session stage 2 sees: `uniform` for evenly spread ones, `still` for the one that moves least in each of k
        equal stretches, a window table of `slimbrain rank`, or the folder or hub id of a stage 1 model, which then scores them on the fly.
    pooling : str or None
        Stage 1: `both`, `connectome`, `tokens`, `axes`, `tangent` or `native` (`slimbrain.embed.series`); stage 2: `mean`, `moments` or
        `units` (`slimbrain.embed.pooling`), and with a connectome `connectome`, `axes` or `tangent`. The model's default if None.
    k : int or None
        Windows of a session to see; if None as many as in training or, where they are evenly spread, as the connectome was fitted to.
    store : Store or str or Path or None
        Where session keys are looked up; not needed for images.
    tr : float or None
        Seconds per frame of images, where neither a JSON sidecar nor the header says.

    Attributes
    ----------
    model_ : the model, with its `provenance`.
    windows_ : the table, the stage 1 model, `still`, or None.
    weights_ : hash of the weights; a copy that finds others refuses to go on.
    embedded_ : pooling and number of columns of the last vectors, by which they are named.

    Examples
    --------
    >>> encoder = SlimBrainEncoder("runs/voxel/model", pooling="mean").fit()
    >>> encoder.transform("store").shape
    (3, 64)
    >>> encoder.set_output(transform="pandas").transform("store").index.name
    'session'
    """

    def __init__(
        self,
        checkpoint: str | Path,
        windows: str | Path = UNIFORM,
        pooling: str | None = None,
        k: int | None = None,
        store: Store | str | Path | None = None,
        tr: float | None = None,
    ) -> None:
        self.checkpoint = checkpoint
        self.windows = windows
        self.pooling = pooling
        self.k = k
        self.store = store
        self.tr = tr

    def fit(self, X: object = None, y: object = None) -> SlimBrainEncoder:
        """Read the model; nothing is learnt from X.

        Parameters
        ----------
        X, y : object
            Not looked at; scikit-learn passes them.

        Returns
        -------
        SlimBrainEncoder
            This object.

        Raises
        ------
        InputError
            If a parameter makes no sense, or the checkpoint is no model.
        """
        if self.k is not None and self.k < 1:
            raise InputError(f"k={self.k}: is no number of windows; give 1 or more, or None for as many as in training.")
        self._load()
        chosen_pooling(self.model_, self.pooling)
        # Filled by `transform`, which may add no attribute: with the pooling `native`, names depend on the channels.
        self.embedded_: dict[str, Any] = {"pooling": self.pooling}
        self.weights_ = _weights(self.model_, self.windows_)
        return self

    def transform(self, X: Store | str | Path | Sequence[str | Path | SpatialImage]) -> FloatArray:
        """Embed sessions.

        Images are prepared on the model's own grid as `slimbrain prep` prepares them with its defaults, and give the numbers that they
        would give from a store.

        Parameters
        ----------
        X : Store or str or Path or Sequence[str or Path or SpatialImage]
            A store or its path, whose sessions come in the order of its manifest; or a sequence of session keys of `store`, of
            NIfTI paths or of nibabel images, in the order given.

        Returns
        -------
        (N, D) float32, one row per session; after `set_output(transform="pandas")` a table indexed by session, or like X if that is a
        table itself.

        Raises
        ------
        InputError, StoreError
            If X is none of these, or one of the sessions cannot be read.
        ContractError
            If the data do not fit the model.

        Warns
        -----
        TrainingOverlapWarning
            If the model was trained on some of these participants.
        """
        check_is_fitted(self)
        self._reload()
        sessions, keys = self._sessions(X)
        embedded = embed_store(sessions, self.model_, self.windows_, self.k, pooling=self.pooling)
        self.embedded_.update(pooling=embedded.pooling, numbers=embedded.values.shape[1])
        _warn_of_overlap(embedded, sessions, self.model_.provenance)
        rows = embedded.by_session()
        values = embedded.values if keys is None else np.stack([rows[key] for key in keys])
        return self._by_session(values, embedded.keys if keys is None else keys, X)

    def get_feature_names_out(self, input_features: object = None) -> npt.NDArray[np.object_]:
        """Names of the numbers of what was embedded last: what was pooled, or which unit, and the number of the feature.

        Parameters
        ----------
        input_features : object
            Not looked at; scikit-learn passes it.

        Returns
        -------
        ndarray of str
            (D,).

        Raises
        ------
        NotFittedError
            Before `fit`.
        """
        check_is_fitted(self)
        self._reload()
        return np.array(feature_names(self.model_, **self.embedded_), dtype=object)

    def _by_session(self, values: FloatArray, keys: Sequence[str], X: object) -> Any:
        """The vectors as they are, or with the sessions as index where pandas is asked for; scikit-learn then adds the columns' names."""
        if _get_output_config("transform", self)["dense"] != "pandas" or hasattr(X, "iloc"):
            return values
        import pandas

        return pandas.DataFrame(values, index=pandas.Index(keys, name="session"))

    def _sessions(self, X: object) -> tuple[Sessions, list[str] | None]:
        """Where X is read from, and the key of each of its rows if that is not the order of what is read."""
        if isinstance(X, Store):
            return X, None
        if isinstance(X, (str, os.PathLike)):
            if str(X).endswith(_IMAGES):
                raise InputError(f"{X}: is one image, and the output has one row per image; give a list of them.")
            return Store(Path(X)), None
        items = _items(X)
        if all(isinstance(item, (str, os.PathLike)) and not str(item).endswith(_IMAGES) for item in items):
            keys = [str(item) for item in items]
            return self._opened(keys[0]).only(keys), keys
        return _images(items, self.model_.provenance, self.tr), None

    def _opened(self, key: str) -> Store:
        if self.store is None:
            raise InputError(
                f"{key}: is no .nii or .nii.gz file, and no store= says where to look it up as a session; give one or the other."
            )
        return self.store if isinstance(self.store, Store) else Store(self.store)

    def _load(self) -> None:
        self.model_ = from_pretrained(self.checkpoint)
        self.windows_ = open_windows(self.windows)

    def _reload(self) -> None:
        if hasattr(self, "model_"):
            return
        self._load()
        if _weights(self.model_, self.windows_) != self.weights_:
            raise InputError(f"{self.checkpoint}: holds other weights than when this encoder was fitted; fit it again.")

    def __getstate__(self) -> dict[str, Any]:
        """Without the weights: a copy, in another process or from a file, reads the checkpoint again."""
        state = dict(super().__getstate__())
        return {name: value for name, value in state.items() if name not in _LOADED}

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.requires_fit = True
        tags.input_tags.two_d_array = False
        tags.input_tags.string = True
        tags.no_validation = True
        # Vectors are float32 whatever comes in.
        tags.transformer_tags.preserves_dtype = []
        return tags


def _warn_of_overlap(embedded: Embeddings, sessions: Sessions, provenance: Provenance | None) -> None:
    """One warning with the count of participants that the model was trained on, by name or by a recording."""
    if provenance is None or not embedded.signatures:
        return
    signatures = dict(zip(embedded.keys, embedded.signatures, strict=True))
    if isinstance(sessions, Store):
        people = people_in(sessions, signature_of=signatures.__getitem__)
    else:
        # An image does not say of which study it is, and `sub-01` is in many: its recording alone decides.
        people = [Person(f"image {key}", UNKNOWN, (heard,)) for key, heard in signatures.items()]
    if known := provenance.trained_on(people):
        what = "participants" if isinstance(sessions, Store) else "images"
        warnings.warn(
            f"The model was trained on {len(known)} of the {len(people)} {what} to be embedded, first {known[0]}: scores on them are "
            "optimistic. Leave them out, or say that you know with "
            'warnings.simplefilter("ignore", slimbrain.TrainingOverlapWarning).',
            TrainingOverlapWarning,
            stacklevel=4,
        )


def _items(X: Any) -> list[Any]:
    """The images or keys that X holds; a table with one column, as ColumnTransformer gives, counts as that column."""
    if getattr(X, "ndim", 1) == 2 and X.shape[1] == 1:
        X = np.asarray(X, dtype=object)[:, 0]
    try:
        items = list(X) if getattr(X, "ndim", 1) == 1 else []
    except TypeError:
        items = []
    if not items or not all(isinstance(item, (str, os.PathLike)) or hasattr(item, "dataobj") for item in items):
        raise InputError(f"X is a {type(X).__name__}: give a store, or a list of NIfTI paths, nibabel images or session keys, one per row.")
    return items


def _images(items: Sequence[Any], provenance: Provenance | None, tr: float | None) -> Sessions:
    # Only here, since whoever embeds a store needs none of what reads images.
    from slimbrain.prep.images import ImageSessions

    grid = None if provenance is None else Grid.mni152(_IMAGE_RESOLUTION) if provenance.any_channels else provenance.grid
    if provenance is None or grid is None:
        raise InputError("the model reads region-of-interest series, not images; embed a store of such series.")
    return ImageSessions(items, grid, tr, provenance.window.frames)


def _weights(*read: object) -> str:
    """A hash of the weights of the models among what was read."""
    digest = hashlib.sha256()
    for model in read:
        if isinstance(model, nn.Module):
            for name, tensor in sorted(model.state_dict().items()):
                digest.update(name.encode())
                digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
