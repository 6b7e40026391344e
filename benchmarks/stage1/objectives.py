"""A small transformer on latent series, and what it may be pretrained by: contrast, masks, JEPA, alignment with the connectome.

Not a program: `leads.py` compares them, and tests/benchmarks/test_stage1_leads.py checks the losses.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from cohorts import Floats
from torch import Tensor, nn

N_MODES, PATCH, WIDTH, HEADS, DEPTH, N_OUT = 64, 4, 64, 4, 2, 128
BATCH, STEPS = 16, 200
FRAMES, PART_FRAMES, LENGTHS = 48, 32, (24, 40, 72, 104, 200)
"""Of an excerpt, of one that is compared with another part of the recording, and of an augmented one."""
RATE, ALIGNMENT_RATE = 2e-3, 2e-4
"""Of learning; at the higher one alignment in held-out people fell."""
MASKED, N_MASKS = 0.75, 4
"""Share of entries hidden in JEPA and Fisher vectors, and masks that these are averaged over."""


class Block(nn.Module):
    """Modes that go together over the excerpt are mixed; then neighbouring patches, then features.

    The attention is linear, and the same at all patches: its weights are the modes' second moments in learnt features, so that one layer
    can tell a hidden mode from others by this recording's own connectome. With a softmax, 60 steps had rebuilt nothing.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads, self.qkv, self.proj = heads, nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.norm, self.time = nn.LayerNorm(width), nn.Linear(3 * width, width)
        self.mlp = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, L, R, D)"""
        q, k, v = self.qkv(tokens).unflatten(-1, (3, self.heads, -1)).movedim(-3, 0)
        weights = torch.einsum("blrhd,blshd->bhrs", q, k) / (q.shape[1] * q.shape[4] ** 0.5)
        tokens = tokens + self.proj(torch.einsum("bhrs,blshd->blrhd", weights, v).flatten(-2))
        padded = nn.functional.pad(self.norm(tokens), (0, 0, 0, 0, 1, 1))
        tokens = tokens + self.time(torch.cat((padded[:, :-2], padded[:, 1:-1], padded[:, 2:]), -1))
        return tokens + self.mlp(tokens)


class SeriesNetwork(nn.Module):
    """A token for each mode and patch of frames, blocks, and the heads of all objectives."""

    def __init__(self, n_modes: int = N_MODES, width: int = WIDTH, patch: int = PATCH) -> None:
        super().__init__()
        self.patch, self.width = patch, width
        self.embed = nn.Linear(patch, width)
        self.mode = nn.Parameter(0.1 * torch.randn(n_modes, width))
        self.hidden_patch = nn.Parameter(torch.zeros(width))
        self.blocks = nn.Sequential(*[Block(width, HEADS) for _ in range(DEPTH)], nn.LayerNorm(width))
        self.rebuild = nn.Parameter(0.1 * width**-0.5 * torch.randn(n_modes, width, patch))
        self.predict = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))
        self.head = nn.Sequential(nn.BatchNorm1d(2 * n_modes * width, affine=False), nn.Linear(2 * n_modes * width, N_OUT))
        self.log_temperature = nn.Parameter(torch.tensor(-1.5))
        n_moments = n_modes * (n_modes - 1) // 2
        self.moments_head = nn.Sequential(nn.BatchNorm1d(n_moments, affine=False), nn.Linear(n_moments, N_OUT))

    def patches(self, series: Tensor) -> Tensor:
        """(B, T, R) to (B, L, R, P); frames that fill no patch are left out."""
        n_patches = series.shape[1] // self.patch
        return series[:, : n_patches * self.patch].unflatten(1, (n_patches, self.patch)).transpose(2, 3)

    def forward(self, patches: Tensor, hidden: Tensor | None = None) -> Tensor:
        """(B, L, R, P) patches, of which (B, L, R) are hidden, to (B, L, R, D) tokens."""
        tokens = self.embed(patches)
        if hidden is not None:
            tokens = torch.where(hidden[..., None], self.hidden_patch, tokens)
        return self.blocks(tokens + self.mode)

    def rebuilt(self, tokens: Tensor) -> Tensor:
        """(B, L, R, P) from tokens, with a linear map for each mode: the last layer."""
        return torch.einsum("blrd,rdp->blrp", tokens, self.rebuild)


def pooled(tokens: Tensor) -> Tensor:
    """(B, 2 R D): mean and standard deviation over the patches of each mode."""
    return torch.cat((tokens.mean(1), (tokens.var(1, unbiased=False) + 1e-6).sqrt()), 1).flatten(1)


def hide(patches: Tensor, share: float) -> Tensor:
    """(B, L, R) entries that the network does not see."""
    return torch.rand(patches.shape[:3]) < share


def masked_loss(model: SeriesNetwork, series: Tensor, share: float) -> Tensor:
    """Share of the hidden entries' sum of squares that is not rebuilt."""
    patches = model.patches(series)
    hidden = hide(patches, share)
    error = model.rebuilt(model(patches, hidden)) - patches
    return (error[hidden] ** 2).mean() / (patches[hidden] ** 2).mean()


def jepa_loss(model: SeriesNetwork, teacher: SeriesNetwork, series: Tensor, share: float) -> Tensor:
    """Smooth L1 between predicted and layer-normalised tokens of the EMA network, which sees all, at hidden entries."""
    patches = model.patches(series)
    hidden = hide(patches, share)
    with torch.no_grad():
        targets = nn.functional.layer_norm(teacher(patches)[hidden], (model.width,))
    return nn.functional.smooth_l1_loss(model.predict(model(patches, hidden)[hidden]), targets)


def second_order(tokens: Tensor) -> Tensor:
    """(B, L, R, D) to (B, R, R): second moments of tokens among modes."""
    centred = tokens - tokens.mean(1, keepdim=True)
    return torch.einsum("blrd,blsd->brs", centred, centred) / (tokens.shape[1] * tokens.shape[3])


def token_correlations(tokens: Tensor) -> Tensor:
    """(B, L, R, D) to (B, R (R - 1) / 2): correlations of tokens among modes. (Logarithms have no gradient where eigenvalues meet.)"""
    moments = second_order(tokens)
    scale = (moments.diagonal(dim1=1, dim2=2) + 1e-6).rsqrt()
    rows, columns = torch.tril_indices(moments.shape[1], moments.shape[1], -1)
    return (moments * scale[:, :, None] * scale[:, None])[:, rows, columns]


def contrast_loss(model: SeriesNetwork, first: Tensor, second: Tensor, of_moments: bool = False) -> Tensor:
    """InfoNCE, both ways: which excerpt of the others' is from the same person? By tokens pooled, or by their second moments."""

    def vectors(series: Tensor) -> Tensor:
        tokens = model(model.patches(series))
        return nn.functional.normalize(model.moments_head(token_correlations(tokens)) if of_moments else model.head(pooled(tokens)), dim=1)

    a, b = vectors(first), vectors(second)
    logits, same = a @ b.T / model.log_temperature.exp(), torch.arange(len(a))
    return (nn.functional.cross_entropy(logits, same) + nn.functional.cross_entropy(logits.T, same)) / 2


def alignment(first: Tensor, second: Tensor) -> Tensor:
    """Centred kernel alignment of two sets of vectors of the same people, (B, D) and (B, E): 1 where similarities agree.

    Of pairs of people only: each is similar to itself, which says nothing.
    """
    a, b = (((own - own.mean(0)) @ (own - own.mean(0)).T).fill_diagonal_(0) for own in (first, second))
    return (a * b).sum() / (a.norm() * b.norm())


def log_moments(series: Tensor) -> Tensor:
    """(B, T, R) to (B, R, R): logarithms of half the second moments and half the identity."""
    moments = series.transpose(1, 2) @ series / series.shape[1]
    values, vectors = torch.linalg.eigh(0.5 * moments + 0.5 * torch.eye(series.shape[2]))
    return (vectors * values.clamp_min(1e-3).log()[:, None]) @ vectors.transpose(1, 2)


def fisher(model: SeriesNetwork, series: Tensor, share: float, n_masks: int = N_MASKS) -> Tensor:
    """(B, R D P) gradients of each recording's mean squared error at the last layer, averaged over masks."""
    patches, total = model.patches(series), torch.zeros(())
    for _ in range(n_masks):
        hidden = hide(patches, share)
        tokens = model(patches, hidden)
        error = 2 * (model.rebuilt(tokens) - patches) * hidden[..., None]
        error = error / (hidden.sum((1, 2)) * model.patch)[:, None, None, None]
        total = total + torch.einsum("blrd,blrp->brdp", tokens, error)
    return (total / n_masks).flatten(1)


@dataclass
class Recordings:
    """Series that excerpts are drawn from, by person.

    Attributes
    ----------
    series : list of (T, R), or (T, C) channels where there are readers
    second : list of (T, R), of another day
    readers : list of (C, R) parcellations; with them excerpts vary in parcellation, TR and length
    """

    series: Sequence[Floats]
    second: Sequence[Floats] = ()
    readers: Sequence[Floats] = ()

    def draw(self, rng: np.random.Generator, two: bool) -> tuple[list[Floats], list[Floats]]:
        """BATCH excerpts, and the rest of each recording, or another day; `two`: it has at least as many frames."""
        frames = int(rng.choice(LENGTHS[: 4 if two else 5])) if self.readers else PART_FRAMES if two else FRAMES
        made: list[tuple[Floats, Floats]] = []
        while len(made) < BATCH:
            for at in rng.permutation(len(self.series)):
                own = self.series[at]
                if self.readers:
                    own = resampled(own @ self.readers[rng.integers(len(self.readers))], rng.choice((0.5, 1.0, 2.0)))
                if len(own) >= frames * (1 + two):
                    part, rest = cut(own, frames, rng)
                    made.append((part, self.second[at] if self.second else rest))
        return [part for part, _ in made[:BATCH]], [rest for _, rest in made[:BATCH]]


def stacked(series: Sequence[Floats]) -> Tensor:
    return torch.from_numpy(np.stack(series))


def cut(series: Floats, frames: int, rng: np.random.Generator) -> tuple[Floats, Floats]:
    """A random excerpt, and the rest."""
    start = int(rng.integers(0, len(series) - frames + 1))
    return series[start : start + frames], np.concatenate((series[:start], series[start + frames :]))


def resampled(series: Floats, factor: float) -> Floats:
    """(T, R) to about (factor T, R), linearly: TR divided by the factor."""
    times = np.arange(0, len(series) - 1, 1 / factor)
    low = times.astype(int)
    share = (times - low)[:, None].astype(np.float32)
    return (1 - share) * series[low] + share * series[low + 1]


def loss_of(name: str, model: SeriesNetwork, teacher: SeriesNetwork, data: Recordings, rng: np.random.Generator) -> Tensor:
    """On one batch. `name` begins with the objective; the number in it is the share of hidden entries."""
    parts, others = data.draw(rng, two=name.startswith(("contrast", "alignment")))
    series = stacked(parts)
    if name.startswith("contrast"):
        return contrast_loss(model, series, stacked([cut(other, series.shape[1], rng)[0] for other in others]), "second" in name)
    if name.startswith("alignment"):
        tangents = torch.cat([log_moments(stacked([other])) for other in others])
        return 1 - alignment(model.head(pooled(model(model.patches(series)))), tangents.flatten(1))
    if name.startswith("masked"):
        return masked_loss(model, series, float(name.split()[1].strip(",")))
    loss = jepa_loss(model, teacher, series, MASKED)
    return loss + masked_loss(model, series, MASKED) if "rebuilt" in name else loss


def train(name: str, seed: int, sources: Sequence[Recordings], held: Recordings, steps: int = STEPS) -> SeriesNetwork:
    """From the weights of the untrained twin; several sources take turns."""
    model = twin(seed)
    teacher, rng, began = copy.deepcopy(model), np.random.default_rng((7, seed)), time.time()

    @torch.no_grad()
    def held_out() -> float:
        with torch.random.fork_rng():
            torch.manual_seed(1)
            own = np.random.default_rng(1)
            return float(np.mean([loss_of(name, copy.deepcopy(model), teacher, held, own).item() for _ in range(4)]))

    before = held_out()
    rate = ALIGNMENT_RATE if name.startswith("alignment") else RATE
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps)
    for step in range(steps):
        loss = loss_of(name, model, teacher, sources[step % len(sources)], rng)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        with torch.no_grad():
            for own, online in zip(teacher.parameters(), model.parameters(), strict=True):
                own.lerp_(online, 0.02)
    print(f"  {name} | {seed}: held-out loss {before:.3f} to {held_out():.3f}, {time.time() - began:.0f} s", flush=True)
    return model


def twin(seed: int) -> SeriesNetwork:
    torch.manual_seed(seed)
    return SeriesNetwork()
