"""Does a network that predicts the connectome of the rest of a recording from an excerpt add to the linear prediction?

    .venv/bin/python benchmarks/stage1/run.py --experiment denoise2 --seeds 0 1 2

Axes are fitted on 300 of the pretraining people and networks on the others. Rows `denoise` of results/stage1/rows.csv are from a first run
that used the same people for both, and are kept as a warning.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from checkpoint import ConnectomeReadout
from cohorts import Floats, Ints, abide, standardise
from connectome import Axes
from contests import EXPERIMENTS, LENGTHS, Embedding, Results, compete, excerpts, rotation
from more import log_band_power
from torch import Tensor, nn

N_AXES = 256
READER_WIDTH, READER_NUGGET = 8.0, 0.2
WEIGHT = 0.5
EXCERPTS_PER_PERSON = 32
N_MODES = 128
BANK_LENGTHS = (14, 20, 30, 40, 60, 80, 110)
LENGTH_KNOTS = np.log(np.array([14.0, 30.0, 80.0, 200.0]))


@dataclass(frozen=True)
class Bank:
    """Excerpts of pretraining people and the rest of their recordings.

    Attributes
    ----------
    person : (E,) row of ABIDE
    frames : (E,) excerpt length
    excerpt, rest : (E, R) axis scores
    rest_frames : (E,)
    power : (E, 7 C) log band power of the excerpt
    """

    person: Ints
    frames: Ints
    excerpt: Floats
    rest: Floats
    rest_frames: Ints
    power: Floats


N_FOR_AXES = 300
"""Pretraining people that axes are fitted on; networks learn on the others. On the same people, axes hold their very noise, and an
excerpt predicts the rest of its recording far better than it does in other people (0.85 of the variance)."""


def shares(pre: Ints, seed: int) -> tuple[Ints, Ints]:
    order = np.random.default_rng((3, seed)).permutation(pre)
    return np.sort(order[:N_FOR_AXES]), np.sort(order[N_FOR_AXES:])


class Connectome:
    """Axis scores of runs, fitted on the first share of the pretraining people of one rotation."""

    def __init__(self, pre: Ints, seed: int, n_axes: int = N_AXES) -> None:
        runs, places = [abide().runs[at] for at in shares(pre, seed)[0]], abide().coordinates
        self.readout = ConnectomeReadout.fit_population(runs, places, N_MODES, width=READER_WIDTH, nugget=READER_NUGGET, weight=WEIGHT)
        self.readout.fit_axes(self.readout.vectors(runs, places), n_axes, 0.0)

    def __call__(self, runs: Sequence[Floats]) -> Floats:
        return np.concatenate(
            [self.readout.scores(self.readout.vectors(runs[at : at + 128], abide().coordinates)) for at in range(0, len(runs), 128)]
        )


def bank(results: Results, seed: int) -> Bank:
    """Computed once, kept on disk."""
    kept = results.kept(f"bank_{seed}.npz")
    if kept.exists():
        with np.load(kept) as archive:
            return Bank(**{name: archive[name] for name in Bank.__dataclass_fields__})
    pre, _ = rotation(seed)
    cohort, rng = abide(), np.random.default_rng((5, seed))
    person, frames, rest_frames, cuts, rests, power = [], [], [], [], [], []
    for at in shares(pre, seed)[1]:
        run = cohort.runs[at]
        for _ in range(EXCERPTS_PER_PERSON):
            length = int(min(rng.choice(BANK_LENGTHS), 0.6 * len(run)))
            start = int(rng.integers(0, len(run) - length + 1))
            cut = standardise(run[start : start + length])
            person.append(at)
            frames.append(length)
            rest_frames.append(len(run) - length)
            cuts.append(cut)
            rests.append(standardise(np.concatenate((run[:start], run[start + length :]))))
            power.append(log_band_power(cut, float(cohort.tr[at])))
    connectome = Connectome(pre, seed)
    made = Bank(
        np.array(person), np.array(frames), connectome(cuts), connectome(rests), np.array(rest_frames), np.array(power, dtype=np.float32)
    )
    np.savez(kept, **{name: getattr(made, name) for name in Bank.__dataclass_fields__})
    return made


def length_basis(frames: Ints) -> Floats:
    """(N, 4) hat functions of the logarithm of the length: a matrix for each knot, blended."""
    place = np.clip(np.log(frames), LENGTH_KNOTS[0], LENGTH_KNOTS[-1])
    return np.stack([np.interp(place, LENGTH_KNOTS, np.eye(4)[knot]) for knot in range(4)], axis=1)


def wiener(cut: Floats, frames: Ints, rest: Floats, scale: Floats, penalty: float) -> list[Floats]:
    """A ridge regression at each length knot, from all scores of the excerpt to what the diagonal Wiener filter leaves of the rest."""
    basis, maps = length_basis(frames), []
    scaled = cut / scale
    for knot in range(basis.shape[1]):
        weighted = scaled * basis[:, knot : knot + 1]
        gram = weighted.T @ scaled
        gram[np.diag_indices_from(gram)] += penalty * np.trace(gram) / len(gram)
        maps.append(np.linalg.solve(gram, weighted.T @ (rest - cut)))
    return maps


def apply_wiener(maps: Sequence[Floats], cut: Floats, frames: Ints, scale: Floats) -> Floats:
    basis = length_basis(frames)
    return (cut + sum(basis[:, knot : knot + 1] * (cut / scale @ own) for knot, own in enumerate(maps))).astype(np.float32)


def diagonal_wiener(cut: Floats, frames: Ints, rest: Floats) -> Callable[[Floats, Ints], Floats]:
    """One factor for each axis and length: covariance of excerpt and rest over the variance of the excerpt."""
    basis = length_basis(frames)
    factors = np.stack([(basis[:, k : k + 1] * cut * rest).sum(0) / (basis[:, k : k + 1] * cut**2).sum(0) for k in range(4)])
    return lambda z, t: (z * (length_basis(t) @ np.clip(factors, 0.0, 1.0))).astype(np.float32)


class Denoiser(nn.Module):
    """What the diagonal Wiener filter makes of an excerpt, and its power spectrum, to the rest: a residual network."""

    def __init__(self, n_axes: int, n_power: int, width: int, scale: Tensor) -> None:
        super().__init__()
        self.register_buffer("scale", scale)
        self.hidden = nn.Sequential(
            nn.Linear(n_axes + n_power + 2, width),
            nn.GELU(),
            nn.Dropout(0.3),
            nn.LayerNorm(width),
            nn.Linear(width, width),
            nn.GELU(),
            nn.Dropout(0.3),
        )
        self.out = nn.Linear(width, n_axes)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def features(self, z: Tensor, power: Tensor, length: Tensor) -> Tensor:
        return self.hidden(torch.cat((z / self.scale, power, length), 1))

    def forward(self, z: Tensor, power: Tensor, length: Tensor) -> Tensor:
        """(N, R) predicted scores of the rest."""
        return z + self.out(self.features(z, power, length)) * self.scale


def length_inputs(frames: Ints) -> Floats:
    log = np.log(np.clip(frames, 10, 200) / 50)
    return np.stack((log, log**2), 1).astype(np.float32)


def train_denoiser(data: Bank, power: Floats, held: Ints, seed: int, loss: str, epochs: int = 40, width: int = 512) -> Denoiser:
    """Best epoch by the loss on held-out pretraining people."""
    torch.manual_seed(seed)
    spread = np.sqrt((data.rest**2).mean(0))
    model = Denoiser(
        data.rest.shape[1], power.shape[1], width, torch.from_numpy(np.sqrt(spread**2 + np.median(spread) ** 2).astype(np.float32))
    )
    out = np.isin(data.person, held)
    inputs = [torch.from_numpy(np.asarray(part, dtype=np.float32)) for part in (data.excerpt, power, length_inputs(data.frames), data.rest)]
    train = np.flatnonzero(~out)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-3, total_steps=epochs * (len(train) // 256 + 1))
    weight = 1 / model.scale**2 if loss == "whitened" else torch.full_like(model.scale, float(1 / (spread**2).mean()))
    rng, best, kept = np.random.default_rng(seed), np.inf, {}
    for _ in range(epochs):
        model.train()
        order = rng.permutation(train)
        for at in range(0, len(order), 256):
            z, p, t, target = (part[order[at : at + 256]] for part in inputs)
            predicted = model(z, p, t)
            value = (weight * (predicted - target) ** 2).mean()
            if loss == "contrast":
                scaled = [nn.functional.normalize(side / model.scale, dim=1) for side in (predicted, target)]
                logits = scaled[0] @ scaled[1].T / 0.1
                same = torch.from_numpy(data.person[order[at : at + 256]])
                logits = logits.masked_fill((same[:, None] == same[None]) & ~torch.eye(len(same), dtype=torch.bool), -1e9)
                value = 0.2 * value + nn.functional.cross_entropy(logits, torch.arange(len(z)))
            optimizer.zero_grad()
            value.backward()
            optimizer.step()
            schedule.step()
        model.eval()
        with torch.no_grad():
            z, p, t, target = (part[torch.from_numpy(out)] for part in inputs)
            error = float((weight * (model(z, p, t) - target) ** 2).mean())
        if error < best:
            best, kept = error, {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model.load_state_dict(kept)
    return model


def skill(predicted: Floats, target: Floats) -> float:
    return float(1 - ((predicted - target) ** 2).sum() / (target**2).sum())


def denoise_experiment(results: Results, seeds: Sequence[int]) -> None:
    """Closed-form linear prediction of the rest against networks, and the raw axis scores."""
    torch.set_num_threads(1)
    cohort = abide()
    for seed in seeds:
        pre, val = rotation(seed)
        data = bank(results, seed)
        held = np.random.default_rng(seed).permutation(shares(pre, seed)[1])[:50]
        out = np.isin(data.person, held)
        runs = {key: excerpts(seed, key) for key in LENGTHS}
        kept = results.kept(f"raw_axes_{seed}.npz")
        if not kept.exists():
            connectome = Connectome(pre, seed)
            np.savez(kept, **{str(key): connectome(own) for key, own in runs.items()})
        with np.load(kept) as archive:
            raw = {key: archive[str(key)] for key in LENGTHS}
        frames = {key: np.array([len(run) for run in own]) for key, own in runs.items()}
        powers = {
            key: np.stack([log_band_power(run, float(tr)) for run, tr in zip(own, cohort.tr, strict=True)]) for key, own in runs.items()
        }
        power_axes = Axes.fit(powers[0][pre], 64)
        squeeze = lambda p: (power_axes(p) / np.sqrt(power_axes.variances)).astype(np.float32)  # noqa: E731
        # The logarithm pulls short excerpts the same way in all people: an offset at each length knot.
        every = length_basis(np.concatenate((data.frames, frames[0][shares(pre, seed)[1]])))
        offsets = np.linalg.lstsq(every, np.concatenate((data.excerpt, raw[0][shares(pre, seed)[1]])), rcond=None)[0].astype(np.float32)
        data = replace(
            data,
            excerpt=data.excerpt - (length_basis(data.frames) @ offsets).astype(np.float32),
            rest=data.rest - (length_basis(data.rest_frames) @ offsets).astype(np.float32),
        )
        raw = {key: own - (length_basis(frames[key]) @ offsets).astype(np.float32) for key, own in raw.items()}
        report = {"raw": skill(data.excerpt[out], data.rest[out])}

        compete(results, "denoise2", "raw axes", seed, pre, val, lambda: Embedding(raw))
        diagonal = diagonal_wiener(data.excerpt, data.frames, data.rest)
        report["diagonal"] = skill(diagonal(data.excerpt[out], data.frames[out]), data.rest[out])
        compete(
            results,
            "denoise2",
            "diagonal Wiener",
            seed,
            pre,
            val,
            lambda: Embedding({key: diagonal(own, frames[key]) for key, own in raw.items()}),
        )
        # From here on, an excerpt is what the diagonal filter makes of it.
        data = replace(data, excerpt=diagonal(data.excerpt, data.frames))
        raw = {key: diagonal(own, frames[key]) for key, own in raw.items()}
        spread = np.sqrt((data.rest**2).mean(0))
        scale = np.sqrt(spread**2 + np.median(spread) ** 2)
        penalties = (0.1, 1.0, 10.0)
        for penalty in penalties:
            part = wiener(data.excerpt[~out], data.frames[~out], data.rest[~out], scale, penalty)
            predicted = apply_wiener(part, data.excerpt[out], data.frames[out], scale)
            report[f"ridge {penalty}"] = skill(predicted, data.rest[out])
            report[f"ridge {penalty} whitened"] = skill(predicted / scale, data.rest[out] / scale)
        report["diagonal whitened"] = skill(data.excerpt[out] / scale, data.rest[out] / scale)
        best = max(penalties, key=lambda penalty: report[f"ridge {penalty} whitened"])
        maps = wiener(data.excerpt, data.frames, data.rest, scale, best)
        compete(
            results,
            "denoise2",
            "full Wiener, residual",
            seed,
            pre,
            val,
            lambda: Embedding({key: apply_wiener(maps, own, frames[key], scale) for key, own in raw.items()}),
        )

        def through(model: Denoiser, what: str) -> Embedding:
            made = {}
            model.eval()
            for key in LENGTHS:
                inputs = [
                    torch.from_numpy(np.asarray(part, dtype=np.float32))
                    for part in (raw[key], squeeze(powers[key]), length_inputs(frames[key]))
                ]
                with torch.no_grad():
                    hidden, predicted = model.features(*inputs).numpy(), model(*inputs).numpy()
                if what == "predicted":
                    made[key] = predicted
                elif what == "hidden":
                    made[key] = hidden
                else:
                    made[key] = np.hstack(
                        (predicted / np.sqrt((raw[0][shares(pre, seed)[1]] ** 2).sum(1).mean()), hidden / np.sqrt(hidden.var(0).sum()))
                    )
            return Embedding(made)

        for loss in ("whitened", "contrast"):
            for with_power in (True, False):
                p = squeeze(data.power) * np.float32(with_power)
                if not with_power and loss != "whitened":
                    continue
                model = train_denoiser(data, p, held, seed, loss)
                with torch.no_grad():
                    inputs = [
                        torch.from_numpy(np.asarray(part, dtype=np.float32)[out]) for part in (data.excerpt, p, length_inputs(data.frames))
                    ]
                    predicted = model(*inputs).numpy()
                    report[f"network {loss} power {with_power}"] = skill(predicted, data.rest[out])
                    report[f"network {loss} power {with_power} whitened"] = skill(predicted / scale, data.rest[out] / scale)
                if not with_power:
                    continue
                print(seed, {name: round(value, 4) for name, value in report.items()}, flush=True)
                for what in ("predicted", "both"):
                    compete(results, "denoise2", f"residual network {loss}, {what}", seed, pre, val, lambda: through(model, what))
        twin = Denoiser(N_AXES, 64, 512, model.scale)
        for what in ("hidden", "both"):
            compete(results, "denoise2", f"untrained twin, {what}", seed, pre, val, lambda: through(twin, what))
        print(seed, {name: round(value, 4) for name, value in report.items()}, flush=True)


EXPERIMENTS["denoise2"] = denoise_experiment
