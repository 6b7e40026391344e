"""Stage 1, the temporal extractor: a whole session, compressed to (channels x time), learnt by masked reconstruction.

Channels may be 685 cells, 122 parcels or 25 networks, at any TR: they carry their places in mm and are gathered into
groups anchored at fixed places of MNI space; frames carry their time in seconds.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from slimbrain.config import TemporalConfig
from slimbrain.errors import InputError
from slimbrain.models.connectome import ConnectomeConfig, ConnectomeReadout
from slimbrain.models.display import DisplayedModel
from slimbrain.models.layers import INIT_STD, Attention, FourierPosition, Mlp, fourier_features, init_transformer, wavelengths

BRAIN_CENTRE_MM = (0.0, -17.0, 4.0)
BRAIN_RADII_MM = (68.0, 87.0, 70.0)
"""An ellipsoid about the MNI152 brain; the anchors are spread through it."""
_SPATIAL_FILTERS = 8
"""Numbers that a group keeps of the channels around it, per frame: their mean and seven learnt contrasts."""
_TIME_WAVES_S = (4.0, 4096.0, 11)
_PLACE_WAVES_MM = (32.0, 256.0, 4)
_ROTARY_WAVES_S = (12.0, 2048.0)
_LOOK_S = (-6.0, 6.0, 0.0, -12.0, 12.0)
_LOOK_SHARPNESS = 2.0
"""Initially, head h attends LOOK_S[h] seconds away. BOLD is autocorrelated over seconds, so the most informative windows
are adjacent; learning that from a random start took longer than a short run."""
_STD_FLOOR = 1e-3
"""A channel that varies less than this (voxels are z-scored: typical is 0.3 to 1) has no signal, and is no target."""


@dataclass(frozen=True)
class TemporalOutput:
    """tokens (B, N, G, D) of N windows and G channel groups; reconstruction (B, N, w, C) in standardised units."""

    tokens: Tensor
    reconstruction: Tensor


def _spread_anchors(count: int) -> NDArray[np.float32]:
    """Places, in MNI mm, about which channels are grouped: (count, 3), even through a brain-shaped ellipsoid.

    Lloyd's algorithm on an 8 mm lattice, started from a golden spiral: deterministic, and no data enters.
    """
    axis = np.arange(-88.0, 89.0, 8.0)
    points = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), axis=-1).reshape(-1, 3)
    points = points[((points / BRAIN_RADII_MM) ** 2).sum(1) <= 1]
    i = np.arange(count) + 0.5
    height, turn = 1 - 2 * i / count, i * np.pi * (1 + 5**0.5)
    ring = np.sqrt(1 - height**2)
    # Radii step by the golden section too: neighbours on the spiral then lie at different depths.
    depth = ((i * (5**0.5 - 1) / 2) % 1) ** (1 / 3)
    anchors = np.stack((ring * np.cos(turn), ring * np.sin(turn), height), axis=1) * depth[:, None] * BRAIN_RADII_MM
    for _ in range(30):
        nearest = ((points[:, None] - anchors[None]) ** 2).sum(-1).argmin(1)
        taken = np.bincount(nearest, minlength=count)
        sums = np.stack([np.bincount(nearest, points[:, k], minlength=count) for k in range(3)], axis=1)
        anchors = np.where(taken[:, None] > 0, sums / np.maximum(taken, 1)[:, None], anchors)
    return (anchors + BRAIN_CENTRE_MM).astype(np.float32)


def standardise(series: Tensor) -> Tensor:
    """Give each channel mean 0 and std 1 over the session's frames: (..., T, C) -> (..., T, C).

    A cell is a mean of z-scored voxels, so its own std is below 1 and differs from place to place; without this, L1
    would measure how homogeneous a cell is. A channel without signal (std under STD_FLOOR) becomes 0.
    """
    centred = series - series.mean(-2, keepdim=True)
    std = centred.std(-2, keepdim=True, correction=0)
    return torch.where(std > _STD_FLOOR, centred / std.clamp_min(_STD_FLOOR), 0.0)


def cut_windows(series: Tensor, frames: int) -> Tensor:
    """Cut (B, T, C) into windows (B, N, w, C) of `frames` frames from frame 0, dropping the tail.

    Raises
    ------
    InputError
        If there are fewer frames than one window.
    """
    n = series.shape[-2] // frames
    if n == 0:
        length = series.shape[-2]
        raise InputError(f"a series of {length} frames is shorter than one window of {frames}; set window.frames lower or leave it out.")
    return series[..., : n * frames, :].unflatten(-2, (n, frames))


class _SpatialFilters(nn.Module):
    """Learnt functions of the offset from an anchor to a channel; they tie channels at any place to the anchored groups.

    Weight (k, g, c) = softmax of -distance^2 / (2 reach_g^2) times f_k(channel - anchor), f_0 = 1: a continuous
    convolution. The softmax runs over channels when reading (so a group is a mean over however many channels there
    are), over groups when writing back.
    """

    waves: Tensor

    def __init__(self, anchors: Tensor, hidden: int = 64) -> None:
        super().__init__()
        self.register_buffer("waves", wavelengths(*_PLACE_WAVES_MM), persistent=False)
        self.contrast = Mlp(2 * 3 * _PLACE_WAVES_MM[2], hidden, _SPATIAL_FILTERS - 1)
        # Variance-keeping start (half of a sine's square, 0.42 of a GELU's): contrasts begin as large as the mean, 1.
        nn.init.normal_(self.contrast.fc1.weight, std=(3 * _PLACE_WAVES_MM[2]) ** -0.5)
        nn.init.normal_(self.contrast.fc2.weight, std=(0.42 * hidden) ** -0.5)
        self.log_reach = nn.Parameter(torch.full((len(anchors),), float(np.log(_spacing(anchors) / 2))))

    def forward(self, coordinates: Tensor, anchors: Tensor, over: str) -> tuple[Tensor, Tensor]:
        """Filters (K, G, C) and the plain weights (G, C); `over` is "channels" or "groups"."""
        way = coordinates[None] - anchors[:, None]
        closeness = -way.square().sum(-1) / (2 * self.log_reach.exp().square())[:, None]
        weights = closeness.softmax(1 if over == "channels" else 0)
        contrasts = self.contrast(fourier_features(way, self.waves)).movedim(-1, 0)
        return torch.cat((weights[None], weights * contrasts)), weights


def _spacing(anchors: Tensor) -> float:
    """Mean distance from an anchor to its nearest neighbour, in mm; the brain's width if there is only one."""
    if len(anchors) < 2:
        return 2 * BRAIN_RADII_MM[0]
    distance = torch.cdist(anchors, anchors)
    distance.fill_diagonal_(torch.inf)
    return float(distance.min(1).values.mean())


class _FactorisedBlock(nn.Module):
    """Attention over windows within a group, then over groups within a window, then a perceptron; pre-norm.

    (B, N, G, D) -> (B, N, G, D). Two short sequences instead of one of N x G keep the work low.
    """

    def __init__(self, width: int, heads: int, mlp_ratio: float) -> None:
        super().__init__()
        self.norm_time, self.norm_space, self.norm_mlp = nn.LayerNorm(width), nn.LayerNorm(width), nn.LayerNorm(width)
        self.time = Attention(width, heads)
        self.space = Attention(width, heads)
        self.mlp = Mlp(width, int(width * mlp_ratio))

    def look_away(self, waves: Tensor) -> None:
        """Start each head of the attention over windows at a fixed distance in time, from LOOK_S; see there."""
        with torch.no_grad():
            query, key, _ = self.time.qkv.bias.unflatten(0, (3, self.time.heads, -1))
            for head in range(self.time.heads):
                away = 2 * math.pi * _LOOK_S[head % len(_LOOK_S)] / waves
                key[head] = _LOOK_SHARPNESS * torch.cat((torch.ones_like(away), torch.zeros_like(away)))
                query[head] = _LOOK_SHARPNESS * torch.cat((away.cos(), away.sin()))

    def forward(self, x: Tensor, angles: Tensor) -> Tensor:
        """`angles` (B or 1, 1, 1, N, D / heads / 2): rotary angles of the windows' times."""
        x = x + self.time(self.norm_time(x).transpose(1, 2), angles=angles).transpose(1, 2)
        x = x + self.space(self.norm_space(x))
        return x + self.mlp(self.norm_mlp(x))


class TemporalExtractor(DisplayedModel, nn.Module):
    """2D transformer over (channel groups x windows), trained by masked reconstruction (SimMIM style).

    Parameters
    ----------
    config : TemporalConfig
        Width D, depth, heads, groups G, window length w. The default has 3.6 million parameters.
    connectome : ConnectomeConfig or None
        Of the connectome readout beside the network, which a checkpoint then fills; none if None.

    Notes
    -----
    Shuffling channels together with their coordinates shuffles the reconstruction alike and changes no token. A
    hidden sample is left out before anything is pooled, so nothing of it reaches the output. Time and memory are
    linear in frames but for the attention over windows, whose time is quadratic and whose memory is linear.

    Raises
    ------
    InputError
        If D is not a multiple of twice the heads, as the rotary angles need.

    Examples
    --------
    >>> import torch
    >>> from slimbrain.config import TemporalConfig
    >>> model = TemporalExtractor(TemporalConfig(width=16, depth=1, heads=2, groups=4, window_frames=8))
    >>> session, tokens = model.embed(torch.randn(1, 40, 10), torch.randn(10, 3) * 40, tr=0.72)
    >>> tuple(session.shape)
    (1, 32)
    """

    anchors: Tensor
    rotary_waves: Tensor
    connectome: ConnectomeReadout | None

    def __init__(self, config: TemporalConfig, connectome: ConnectomeConfig | None = None) -> None:
        super().__init__()
        if config.width % (2 * config.heads):
            raise InputError(f"temporal.width {config.width} is not a multiple of 2 * temporal.heads ({2 * config.heads}); change either.")
        self.config = config
        width = config.width
        self.register_buffer("anchors", torch.from_numpy(_spread_anchors(config.groups)))
        self.read = nn.Linear(_SPATIAL_FILTERS * config.window_frames, width, bias=False)
        self.place = FourierPosition(3, width, *_PLACE_WAVES_MM)
        self.time = FourierPosition(1, width, *_TIME_WAVES_S)
        self.pace = Mlp(1, 32, 2 * width)
        self.mask_token = nn.Parameter(torch.zeros(width))
        blocks = [_FactorisedBlock(width, config.heads, config.mlp_ratio) for _ in range(config.depth)]
        self.blocks = nn.ModuleList(blocks)
        self.norm = nn.LayerNorm(width)
        self.write = nn.Linear(width, _SPATIAL_FILTERS * config.window_frames)
        self.apply(init_transformer)
        nn.init.normal_(self.mask_token, std=INIT_STD)
        nn.init.normal_(self.read.weight, std=(_SPATIAL_FILTERS * config.window_frames) ** -0.5)
        # After `apply`: the filters choose their own start.
        self.register_buffer("rotary_waves", wavelengths(*_ROTARY_WAVES_S, width // config.heads // 2), persistent=False)
        for block in blocks:
            block.look_away(self.rotary_waves)
        nn.init.zeros_(self.write.weight)
        self.gather, self.scatter = _SpatialFilters(self.anchors), _SpatialFilters(self.anchors)
        self.connectome = None if connectome is None else ConnectomeReadout(connectome, 2 * width)

    @property
    def window_frames(self) -> int:
        """Frames per window."""
        return self.config.window_frames

    def forward(
        self,
        series: Tensor,
        coordinates: Tensor,
        tr: float | Tensor,
        visible: Tensor | None = None,
        channel_visible: Tensor | None = None,
    ) -> TemporalOutput:
        """Reconstruct a session from its visible part.

        Parameters
        ----------
        series : Tensor
            (B, T, C) standardised channels (`standardise`); not standardised here, because the mean and std of a session would tell of
            its hidden frames. B = 1 is broadcast over the masks and read only once.
        coordinates : Tensor
            (C, 3) places of the channels in MNI mm.
        tr : float or Tensor
            Seconds per frame, one for all or (B,).
        visible : Tensor or None
            (B, N) True where a window is visible; all are if None.
        channel_visible : Tensor or None
            (B, N, C) True where a channel is visible in a window; all are if None.

        Returns
        -------
        TemporalOutput
            Tokens (B, N, G, D), and the reconstruction (B, N, w, C) of all channels.

        Raises
        ------
        InputError
            If there are fewer frames than one window, or not one coordinate per channel.
        """
        if coordinates.shape != (series.shape[-1], 3):
            shape, channels = tuple(coordinates.shape), series.shape[-1]
            raise InputError(f"coordinates have shape {shape} for {channels} channels; give one MNI place (mm) a channel.")
        windows = cut_windows(series, self.window_frames)
        coordinates = coordinates.to(self.anchors)
        tokens = self._tokens(windows, coordinates, channel_visible)
        # Seconds stay in the parameters' precision: under bfloat16 autocast an hour would be rounded to 16 s.
        pace = torch.as_tensor(tr, dtype=self.anchors.dtype, device=self.anchors.device).reshape(-1, 1, 1, 1)
        scale, shift = self.pace(pace.log()).chunk(2, -1)
        tokens = tokens * (1 + scale)
        if visible is not None:
            tokens = torch.where(visible[:, :, None, None], tokens, self.mask_token * (1 + scale))
        # A window's time is that of its middle; its duration enters by the pace.
        middle = (torch.arange(windows.shape[1], device=pace.device)[:, None, None] + 0.5) * self.window_frames * pace
        tokens = tokens + shift + self.time(middle) + self.place(self.anchors)
        angles = 2 * math.pi * middle.transpose(1, 2)[:, None] / self.rotary_waves
        for block in self.blocks:
            tokens = block(tokens, angles)
        tokens = self.norm(tokens)
        return TemporalOutput(tokens, self._rebuild(tokens, coordinates))

    def embed(self, series: Tensor, coordinates: Tensor, tr: float | Tensor) -> tuple[Tensor, Tensor]:
        """Vectors of sessions and of their windows, everything visible.

        A window's embedding is the mean of its group tokens; a session's, the mean of its windows beside their
        standard deviation, since how much a brain moves between states is a trait as well as where it dwells.

        Parameters
        ----------
        series : Tensor
            (B, T, C) channels as stored; they are standardised here.
        coordinates : Tensor
            (C, 3) places of the channels in MNI mm.
        tr : float or Tensor
            Seconds per frame, one for all or (B,).

        Returns
        -------
        tuple of Tensor
            Sessions (B, 2 D) and windows (B, N, D), N the whole windows in T.

        Raises
        ------
        InputError
            If there are fewer frames than one window, or not one coordinate per channel.
        """
        return self.embed_standardised(standardise(series), coordinates, tr)

    def embed_standardised(self, series: Tensor, coordinates: Tensor, tr: float | Tensor) -> tuple[Tensor, Tensor]:
        """`embed` of a series that is standardised already, and which a gradient can be taken by.

        Parameters
        ----------
        series : Tensor
            (B, T, C) channels, standardised (`standardise`); a channel of zeros counts as missing.
        coordinates : Tensor
            (C, 3) places of the channels in MNI mm.
        tr : float or Tensor
            Seconds per frame, one for all or (B,).

        Returns
        -------
        tuple of Tensor
            Sessions (B, 2 D) and windows (B, N, D), N the whole windows in T.

        Raises
        ------
        InputError
            If there are fewer frames than one window, or not one coordinate per channel.
        """
        n = series.shape[1] // self.window_frames
        live = series.ne(0).any(1)[:, None].expand(-1, n, -1)
        windows = self(series, coordinates, tr, channel_visible=live).tokens.mean(2)
        return torch.cat((windows.mean(1), windows.std(1, correction=0)), -1), windows

    def nearest_group(self, coordinates: Tensor) -> Tensor:
        """The group whose anchor lies nearest to each channel.

        Parameters
        ----------
        coordinates : Tensor
            (C, 3) places of the channels in MNI mm.

        Returns
        -------
        Tensor
            (C,) int64.

        Raises
        ------
        RuntimeError
            If they are not of three dimensions.
        """
        return torch.cdist(coordinates.to(self.anchors), self.anchors).argmin(1)

    def _tokens(self, windows: Tensor, coordinates: Tensor, channel_visible: Tensor | None) -> Tensor:
        """Windows (B, N, w, C) to group contents (B, N, G, D); a hidden channel counts as the mask token."""
        filters, weights = self.gather(coordinates, self.anchors, "channels")
        if channel_visible is not None:
            windows = torch.where(channel_visible[:, :, None], windows, 0.0)
        pooled = windows.to(filters.dtype) @ filters.flatten(0, 1).T
        tokens = self.read(pooled.unflatten(-1, filters.shape[:2]).permute(0, 1, 4, 3, 2).flatten(-2))
        if channel_visible is not None:
            hidden = (~channel_visible).to(weights.dtype) @ weights.T
            tokens = tokens + hidden[..., None] * self.mask_token
        return tokens

    def _rebuild(self, tokens: Tensor, coordinates: Tensor) -> Tensor:
        """Group tokens (B, N, G, D) back to channel windows (B, N, w, C), by the channels' places."""
        filters, _ = self.scatter(coordinates, self.anchors, "groups")
        written = self.write(tokens).unflatten(-1, (_SPATIAL_FILTERS, self.window_frames))
        return written.permute(0, 1, 4, 3, 2).flatten(-2) @ filters.flatten(0, 1)


_HIDING = {"ratio": 0.3, "leave_one_out": 0.25, "only_one": 0.25, "nothing": 0.05, "tokens": 0.15}
"""How often each way of hiding is trained. The window scores (DESIGN section 7) ask for leave-one-out, only-one and
nothing visible, which a plain random ratio almost never shows."""
_APART = 3
"""Least distance of windows that leave-one-out hides together, so that each keeps both neighbours, from which it is rebuilt; a pass that
hides one window alone learns from that window alone."""


def temporal_loss(
    model: TemporalExtractor, series: Tensor, coordinates: Tensor, tr: float | Tensor, generator: torch.Generator, masks: int = 1
) -> tuple[Tensor, dict[str, float]]:
    """L1 between hidden samples and their reconstruction, with the ways of hiding mixed as in HIDING.

    Parameters
    ----------
    series : Tensor
        (B, T, C) channels as stored; they are standardised here.
    coordinates : Tensor
        (C, 3) in MNI mm.
    tr : float or Tensor
        Seconds per frame, one for all or (B,).
    generator : torch.Generator
        On the CPU; decides what is hidden, so that a seed gives the same masks on any device.
    masks : int, default 1
        Ways of hiding that each session is computed with; of a short session several cost little more than one.

    Returns
    -------
    The mean over sessions of the mean error over hidden samples of channels with a signal, and its parts: `l1`,
    `hidden` (share of samples hidden) and `std` (mean per-dimension std of the tokens, 0 if they have collapsed).
    """
    series = standardise(series).repeat_interleave(masks, 0)
    target = cut_windows(series, model.window_frames)
    groups = model.nearest_group(coordinates).cpu()
    hidden = torch.stack([hide(target.shape[1], groups, model.config.groups, generator) for _ in series]).to(series.device)
    live = series.ne(0).any(1)[:, None]
    output = model(series, coordinates, tr, channel_visible=~hidden & live)
    error = (output.reconstruction - target).abs().mean(2)
    counted = (hidden & live).to(error.dtype)
    loss = ((error * counted).sum((1, 2)) / counted.sum((1, 2)).clamp_min(1)).mean()
    spread = output.tokens.detach().flatten(0, 2).std(0, correction=0).mean()
    return loss, {"l1": float(loss.detach()), "hidden": float(hidden.float().mean()), "std": float(spread)}


def hide(n_windows: int, groups: Tensor, n_groups: int, generator: torch.Generator) -> Tensor:
    """Draw which samples of one session are hidden: (N, C) bool, at least one.

    Parameters
    ----------
    groups : Tensor
        (C,) group of each channel. Hiding a token hides the channels nearest to its anchor before pooling: replacing the pooled token
        alone would leave them to be read in the tokens around it.
    """
    way = list(_HIDING)[int(torch.multinomial(torch.tensor(list(_HIDING.values())), 1, generator=generator))]
    one = int(torch.randint(n_windows, (), generator=generator))
    if way == "tokens":
        tokens = torch.rand((n_windows, n_groups), generator=generator) < 0.5
        tokens[one, groups[0]] = True
        return tokens[:, groups]
    hidden = torch.zeros(n_windows, dtype=torch.bool)
    if way == "ratio":
        hidden = torch.rand(n_windows, generator=generator) < torch.rand((), generator=generator)
    elif way in ("only_one", "nothing"):
        hidden[:] = True
    if way == "leave_one_out" and n_windows > _APART:
        apart = int(torch.randint(_APART, n_windows, (), generator=generator))
        hidden[one % apart :: apart] = True
    else:
        hidden[one] = way != "only_one" or n_windows == 1
    return hidden[:, None].expand(-1, len(groups))
