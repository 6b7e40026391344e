"""Does a network on latent series with second-order pooling add to the covariance itself?

    .venv/bin/python benchmarks/stage1/run.py --experiment series --seeds 0 1 2

From an excerpt it is trained to tell whose recording it is from, and to regress that person's axis scores.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np
import torch
from checkpoint import ConnectomeReadout
from cohorts import Floats, Ints, abide
from connectome import Axes
from contests import EXPERIMENTS, Embedding, Results, compete, excerpts, rotation
from readout import DESIGN
from torch import Tensor, nn

N_MODES, N_FILTERS, STEPS, BATCH = 64, 4, 1200, 24
KEYS = (0, 40)


class SeriesNetwork(nn.Module):
    """Latent series (T, R) to a shrunk covariance (R, R) of tokens: depthwise temporal filters, a pointwise residual MLP, pooling."""

    def __init__(self, n_modes: int = N_MODES, n_filters: int = N_FILTERS, n_out: int = 128) -> None:
        super().__init__()
        self.filters = nn.Conv1d(n_modes, n_modes * n_filters, 5, padding=2, groups=n_modes)
        self.mix = nn.Sequential(nn.GELU(), nn.Conv1d(n_modes * n_filters, 2 * n_modes, 1), nn.GELU(), nn.Conv1d(2 * n_modes, n_modes, 1))
        self.amount = nn.Parameter(torch.tensor(0.3))
        self.head = nn.Linear(n_modes * (n_modes + 1) // 2, n_out)
        self.log_temperature = nn.Parameter(torch.tensor(-1.5))

    def pooled(self, series: Tensor) -> Tensor:
        """(B, R, T) to (B, R (R + 1) / 2) logarithms of half the tokens' second moments and half the identity, doubled."""
        tokens = series + self.amount * self.mix(self.filters(series))
        tokens = tokens - tokens.mean(2, keepdim=True)
        covariance = tokens @ tokens.transpose(1, 2) / tokens.shape[2]
        rows, columns = torch.tril_indices(tokens.shape[1], tokens.shape[1])
        if self.training:  # the matrix logarithm has no finite gradient where short excerpts leave eigenvalues equal
            flat = (covariance - torch.eye(tokens.shape[1]))[:, rows, columns]
            return flat.sign() * torch.log1p(flat.abs()) * torch.where(rows == columns, 1.0, 2**0.5)
        values, vectors = torch.linalg.eigh(0.5 * covariance + 0.5 * torch.eye(tokens.shape[1]))
        logs = (vectors * 2 * torch.log(values.clamp_min(1e-3))[:, None]) @ vectors.transpose(1, 2)
        return logs[:, rows, columns] * torch.where(rows == columns, 1.0, 2**0.5)


def pair(series: Floats, rng: np.random.Generator, frames: int) -> tuple[Floats, Floats]:
    """Two excerpts (frames, R) that do not overlap."""
    gap = int(rng.integers(0, len(series) - 2 * frames + 1))
    first = int(rng.integers(0, len(series) - 2 * frames - gap + 1))
    parts = series[first : first + frames], series[first + frames + gap : first + 2 * frames + gap]
    return parts if rng.random() < 0.5 else parts[::-1]


def train(latent: Sequence[Floats], people: Ints, seed: int, targets: Floats) -> SeriesNetwork:
    """`targets` (N, 128) are the people's axis scores, of variance 1, which the head also regresses."""
    torch.manual_seed(seed)
    model, rng = SeriesNetwork(), np.random.default_rng((7, seed))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-3, total_steps=STEPS)
    people = np.array([at for at in people if len(latent[at]) >= 110])
    began = time.time()
    for step in range(STEPS):
        frames = int(rng.choice((20, 30, 40, 55)))
        chosen = rng.choice(people, BATCH, replace=False)
        both = [pair(latent[at], rng, frames) for at in chosen]
        series = torch.from_numpy(np.stack([part for side in range(2) for part in (own[side] for own in both)]).transpose(0, 2, 1).copy())
        keep = torch.rand(2 * BATCH, N_MODES, 1) > 0.1  # channel dropout
        out = model.head(model.pooled(series * keep))
        a, b = nn.functional.normalize(out[:BATCH], dim=1), nn.functional.normalize(out[BATCH:], dim=1)
        logits = a @ b.T / model.log_temperature.exp()
        loss = (nn.functional.cross_entropy(logits, torch.arange(BATCH)) + nn.functional.cross_entropy(logits.T, torch.arange(BATCH))) / 2
        wanted = torch.from_numpy(targets[chosen])
        loss = loss + 0.5 * ((out - torch.cat((wanted, wanted))) ** 2).mean()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 200 == 199:
            print(
                f"  step {step + 1}: loss {loss.item():.3f}, filters' amount {model.amount.item():.3f}, {time.time() - began:.0f} s",
                flush=True,
            )
    return model


@torch.no_grad()
def pool(model: SeriesNetwork, latent: Sequence[Floats]) -> Floats:
    model.eval()
    return np.concatenate([model.pooled(torch.from_numpy(own.T[None].copy())).numpy() for own in latent])


def series_experiment(results: Results, seeds: Sequence[int]) -> None:
    torch.set_num_threads(1)
    for seed in seeds:
        pre, val = rotation(seed)
        readout = ConnectomeReadout.fit_population([abide().runs[at] for at in pre], abide().coordinates, N_MODES, **DESIGN)
        latent = {}
        for key in KEYS:
            latent[key] = []
            for run in excerpts(seed, key):
                present = run.std(0) > 0
                gain, expected = readout.gain(abide().coordinates[present])
                own = run[:, present] @ gain.T / np.sqrt(np.diag(expected))
                latent[key].append(own.astype(np.float32))
        plain = SeriesNetwork()
        nn.init.zeros_(plain.amount)
        base = {key: pool(plain, own) for key, own in latent.items()}
        axes = Axes.fit(base[0][pre], 128)
        targets = (axes(base[0]) / np.sqrt(axes.variances)).astype(np.float32)
        torch.manual_seed(seed)
        twin = SeriesNetwork()

        def enter(name: str, vectors: dict[int, Floats]) -> None:
            own = Axes.fit(vectors[0][pre], 500)
            spread = ((own.variances / own.variances[0]) ** 0.125).astype(np.float32)
            compete(results, "series", name, seed, pre, val, lambda: Embedding({key: own(part) * spread for key, part in vectors.items()}))

        enter("no network, 64 modes", base)
        pooled_twin = {key: pool(twin, own) for key, own in latent.items()}
        enter("untrained twin", pooled_twin)
        model = train(latent[0], pre, seed, targets)
        pooled = {key: pool(model, own) for key, own in latent.items()}
        enter("trained network", pooled)
        enter("no network and trained network", {key: np.hstack((base[key], pooled[key])) for key in KEYS})
        with torch.no_grad():
            model.train()  # the head was learnt on the entries' logarithms
            enter(
                "trained network, head",
                {
                    key: np.concatenate([model.head(model.pooled(torch.from_numpy(run.T[None].copy()))).numpy() for run in latent[key]])
                    for key in KEYS
                },
            )


EXPERIMENTS["series"] = series_experiment
