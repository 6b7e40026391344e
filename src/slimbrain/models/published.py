"""The encoder that SLIM-Brain's authors published: their weights, under Meta's Hiera names, in our network.

Names and shapes are those that a checkpoint following Meta's Hiera (arXiv 2306.00989) has for the published configuration
(arXiv 2512.21881). The file itself was not available to us: see docs/published_weights.md for what is assumed.
"""

from __future__ import annotations

import pickle
import re
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from slimbrain.config import HieraConfig, load_preset
from slimbrain.data.clip import Clip
from slimbrain.errors import ContractError, InputError
from slimbrain.governance.provenance import Provenance
from slimbrain.grid import LATTICES, Grid
from slimbrain.models.hiera import BoolArray, Hiera
from slimbrain.models.jepa import HieraJEPA
from slimbrain.store import Store

_SIDE, _PATCH, _FRAMES = 96, 4, 40
"""Voxels per side of the box and of a patch, and frames of a sample."""

_UNIT_VOXELS, _UNIT_FRAMES = 32, 8
_NO_TENSORS = (
    *(pickle.UnpicklingError, RuntimeError, ValueError, EOFError, LookupError, TypeError),
    *(AttributeError, AssertionError, ImportError, OverflowError, MemoryError),
)
"""What torch raises of a file that is no checkpoint of tensors, depending on where it breaks."""

_META_EPSILON = 1e-6
"""What Meta's Hiera adds to the variance in its norms; torch's own default is 1e-5."""

_NESTED = ("model", "state_dict", "model_state_dict", "target_encoder", "encoder")
"""Where a training script may put the weights within its checkpoint."""

_ANCHOR = "pos_embed_spatial"
"""A name that every encoder has once; its prefix is the prefix of all of that encoder's names."""

_LEFT_OUT = ("head.", "predictor.", "decoder", "mask_token", "optimizer")
"""Beginnings of names that are no part of the encoder."""

_OUTER = {"patch_embed": "patch_embed", "patch_embed.proj": "patch_embed", "norm": "norm"}
_INNER = {
    **{"norm1": "norm1", "attn.qkv": "qkv", "attn.proj": "proj"},
    **{"norm2": "norm2", "mlp.fc1": "mlp.fc1", "mlp.fc2": "mlp.fc2", "proj": "widen"},
}
_BLOCK_NAME = re.compile(r"blocks\.(\d+)\.(.+)\.(weight|bias)")


class PublishedEncoder(nn.Module):
    """The published encoder with the interface of its authors' script.

    Parameters
    ----------
    encoder : Hiera
        With learned positions, on mask units of 32 voxels and 8 frames.
    left_out : tuple of str
        Names in the checkpoint that belong to something else.
    """

    def __init__(self, encoder: Hiera, left_out: tuple[str, ...] = ()) -> None:
        super().__init__()
        self.encoder, self.left_out = encoder, left_out

    def forward_features(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Encode boxes as the weights were trained: nothing is deleted but the mask units that `mask` hides.

        Parameters
        ----------
        x : Tensor
            (B, 1, 40, 96, 96, 96) series, in order of t, x, y, z.
        mask : Tensor or None
            (B, 135) bool, the 5 x 3 x 3 x 3 mask units in order of t, x, y, z; True is kept. All if not given.

        Returns
        -------
        (B, 512) mean over tokens, then the last norm.

        Raises
        ------
        InputError
            If `x` or `mask` has another shape.
        """
        units = _FRAMES // _UNIT_FRAMES * (_SIDE // _UNIT_VOXELS) ** 3
        if x.shape[1:] != (1, _FRAMES, _SIDE, _SIDE, _SIDE):
            raise InputError(
                f"x is {tuple(x.shape)}: the published encoder takes (B, 1, {_FRAMES}, {_SIDE}, {_SIDE}, {_SIDE}); crop or pad it."
            )
        if mask is not None and mask.shape != (len(x), units):
            raise InputError(f"mask is {tuple(mask.shape)}: expected ({len(x)}, {units}), True for each mask unit that is kept.")
        return self.pooled(x[:, 0], mask)

    def pooled(self, volumes: Tensor, mask: Tensor | None = None) -> Tensor:
        """The same for a box of any whole number of mask units at the corner of the published one: (B, T, X, Y, Z) -> (B, D)."""
        grid = _box(tuple(volumes.shape[2:]))
        clips = [_clip(volume, grid) for volume in volumes]
        visible = None if mask is None else [_visible(row.cpu().numpy().astype(bool), grid) for row in mask]
        packing = self.encoder.pack(clips, visible)
        tokens = self.encoder.trunk(clips, packing).split(packing.lengths)
        return self.encoder.norm(torch.stack([part.mean(0) for part in tokens]))


def load_published(path: str | Path) -> PublishedEncoder:
    """Read the authors' checkpoint into the encoder of preset `paper`, with learned positions, in evaluation mode.

    Parameters
    ----------
    path : str or Path
        A .pth file; only tensors are read from it, no code.

    Returns
    -------
    PublishedEncoder
        Takes (B, 1, 40, 96, 96, 96) boxes, background included, and gives (B, 512); `slimbrain convert` makes a model for a store of it.

    Raises
    ------
    InputError
        If it is no such checkpoint, or a tensor is missing, unknown or of another shape.

    Examples
    --------
    >>> import torch
    >>> from slimbrain.models.published import load_published
    >>> encoder = load_published("slim_brain.pth")  # doctest: +SKIP
    >>> encoder(torch.zeros(1, 1, 40, 96, 96, 96)).shape  # doctest: +SKIP
    torch.Size([1, 512])
    """
    sides = _SIDE // _PATCH
    config = load_preset("paper").voxel.model_copy(update={"learned_positions": (sides, _FRAMES), "norm_eps": _META_EPSILON})
    return _read_published(_load(Path(path)), config, str(path)).eval()


def as_model(published: PublishedEncoder, store: Store) -> HieraJEPA:
    """The encoder as a model that reads a store: `slimbrain embed` and `evaluate` take it.

    Background is then deleted, which the weights were not trained for, and tokens are normed one by one and pooled as ours are. Only
    the encoder is the authors': the predictor is untrained.

    Raises
    ------
    ContractError
        If the store is not on the 2 mm lattice.
    """
    if store.contract.lattice != LATTICES["2mm"].id:
        raise ContractError(f"{store.root}: is on the lattice {store.contract.lattice}; the published weights need --resolution 2mm.")
    preset = load_preset("paper")
    model = HieraJEPA(published.encoder.config, preset.jepa, _PATCH**3)
    for encoder in (model.context, model.target):
        encoder.load_state_dict(published.encoder.state_dict())
    training = {"stage": "voxel", "preset": preset.name, "source": "SLIM-Brain's published checkpoint (arXiv 2512.21881)"}
    model.provenance = Provenance(store.contract, preset.window, store.grid, training)
    return model.eval()


def _read_published(found: Mapping[str, Tensor], config: HieraConfig, source: str) -> PublishedEncoder:
    """The same from a state dict, for an encoder of any size; `source` names it in errors."""
    encoder = Hiera(config, _PATCH**3)
    prefix = _prefix(found, source)
    wanted, renamed, unknown, left_out = encoder.state_dict(), {}, [], []
    for name, tensor in found.items():
        if not name.startswith(prefix) or name.removeprefix(prefix).startswith(_LEFT_OUT):
            left_out.append(name)
        elif (ours := _our_name(name.removeprefix(prefix))) in wanted:
            renamed[ours] = _our_shape(ours, tensor)
        else:
            unknown.append(name)
    missing = [name for name in wanted if name not in renamed]
    wrong = [f"{name} {tuple(renamed[name].shape)}" for name in renamed if renamed[name].shape != wanted[name].shape]
    for what, names in (("has no", missing), ("has unknown", unknown), ("has tensors of another shape:", wrong)):
        if names:
            listed = f"{', '.join(names[:3])}{f' and {len(names) - 3} more' if len(names) > 3 else ''}"
            raise InputError(f"{source}: {what} {listed}; it is not the published encoder, or its names have changed.")
    encoder.load_state_dict(renamed)
    return PublishedEncoder(encoder, tuple(left_out))


def _load(path: Path) -> dict[str, Tensor]:
    try:
        content: Any = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error}); name the .pth file that was published.") from error
    except _NO_TENSORS as error:
        # Torch's own message advises to load without `weights_only`, which would run whatever the file holds.
        raise InputError(
            f"{path}: holds something other than tensors, or is damaged, and was not loaded; "
            "fetch it again, or ask its authors for the state dict alone."
        ) from error
    for _ in _NESTED:
        inner = next((content[name] for name in _NESTED if isinstance(content, dict) and isinstance(content.get(name), dict)), None)
        content = content if inner is None else inner
    tensors = {name: value for name, value in content.items() if isinstance(value, Tensor)} if isinstance(content, dict) else {}
    if not tensors:
        raise InputError(f"{path}: holds no state dict, neither bare nor under {', '.join(_NESTED)}; save its state dict alone.")
    return tensors


def _prefix(found: Mapping[str, Tensor], source: str) -> str:
    prefixes = [name.removesuffix(_ANCHOR) for name in found if name.endswith(_ANCHOR)]
    if len(prefixes) != 1:
        which = f"several encoders ({', '.join(prefixes)})" if prefixes else f"no encoder (nothing is called {_ANCHOR})"
        raise InputError(f"{source}: holds {which}; save the state dict of one.")
    return prefixes[0]


def _our_name(name: str) -> str:
    if name == _ANCHOR:
        return "space_embed.weight"
    if name == "pos_embed_temporal":
        return "time_embed.weight"
    if match := _BLOCK_NAME.fullmatch(name):
        number, part, kind = match.groups()
        return f"blocks.{number}.{_INNER.get(part, part + '?')}.{kind}"
    part, _, kind = name.rpartition(".")
    return f"{_OUTER.get(part, part + '?')}.{kind}"


def _our_shape(name: str, tensor: Tensor) -> Tensor:
    """Convolutions over one patch are matrices, and position tables have no batch."""
    if name == "patch_embed.weight":
        return tensor.flatten(1)
    return tensor.squeeze(0) if name in ("space_embed.weight", "time_embed.weight") and tensor.ndim == 3 else tensor


@lru_cache(maxsize=2)
def _box(sides: tuple[int, int, int]) -> Grid:
    """A grid whose mask deletes nothing of a box of this many voxels."""
    inside = np.zeros((_SIDE,) * 3, dtype=bool)
    inside[tuple(slice(side) for side in sides)] = True
    return Grid(LATTICES["2mm"], inside)


def _clip(volume: Tensor, grid: Grid) -> Clip:
    """(T, X, Y, Z) as a clip; learned positions count frames, so that seconds do not matter."""
    frames = len(volume)
    patches = volume
    for axis in (1, 2, 3):
        patches = patches.unfold(axis, _PATCH, _PATCH)
    place = torch.tensor(grid.patches.index).T
    voxels = patches[:, *place].reshape(frames, grid.n_patches, _PATCH**3)
    return Clip(voxels, torch.arange(frames, dtype=torch.float64), grid)


def _visible(row: BoolArray, grid: Grid) -> BoolArray:
    """(N, U) visibility of our regions from one row of mask units in order of t, x, y, z."""
    x, y, z = grid.regions.index.max(0) + 1
    return row.reshape(-1, x, y, z)[:, *grid.regions.index.T]
