"""What makes stage 2 learn? Predictor, input scale, targets and masks, with the product's own Hiera (`tiny`) as encoder.

`python benchmarks/stage2_learning/stage2_lab.py --experiment predictor --out stage2-run`: 7 variants of 200 steps, 20 minutes on one core;
`painted.py` comes first. A row holds the skill (1 - error / error of the best constant) on held-out people for each kind of target. Rows
that stand in `predictor.jsonl` are not run again. `targets`, `masks` and `regularisers` have not been run to the end.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from copy import deepcopy
from dataclasses import asdict, dataclass, replace

import numpy as np
import torch
from painted_cohort import TR_S, Cohort, Run, append_row, parser
from predictors import Predictor, coding_rate, sigreg, vicreg
from torch import Tensor, nn

from slimbrain.config import HieraConfig
from slimbrain.data.clip import Clip
from slimbrain.data.masking import JepaMask, sample_jepa_mask
from slimbrain.models import hiera
from slimbrain.models.hiera import Hiera
from slimbrain.models.memory_efficient import pool_children

torch.set_num_threads(1)
FRAMES, STEP, WINDOWS = 40, 4, 5
KINDS = ("cross_time", "cross_location", "double_cross")


@dataclass(frozen=True)
class Variant:
    name: str
    predictor: str = "factorised"
    learnt: bool = True
    depth: int = 2
    pooling: str = "max"
    signal_std: float = 0.0
    """Standard deviation of a token's signal at the start; 0 leaves the present initialisation."""
    targets: str = "unit"
    """unit, cell, patch: mean signals; latent: EMA tokens without place means; "+" joins."""
    warm: int = 0
    """Steps of signals alone before latent targets join."""
    regulariser: str = "none"
    mask: str = "product"
    fraction: float = 0.3
    clip: str = "stretch"
    steps: int = 300
    batch: int = 2
    lr: float = 2e-3
    seed: int = 0
    encoder_time: bool = True
    """Seconds since the session began as part of the encoder's input."""
    keep: float = 0.0
    """Weight of the visible units' own signals, decoded from their tokens (nothing to predict, everything to keep)."""
    embed: int = 12
    depths: tuple[int, int, int, int] = (1, 1, 3, 1)


def mean_children(x: Tensor, children: Tensor) -> Tensor:
    """Mean over the children that exist; the table of an element at the rim repeats its first child, which counts once."""
    first = torch.cat((children[:, :1].expand(-1, 8), children[:, 8:9].expand(-1, 8)), 1)
    real = children != first
    real[:, 0] = real[:, 8] = True
    parent = torch.arange(len(children))[:, None].expand_as(children)[real]
    total = x.new_zeros(len(children), x.shape[1]).index_add(0, parent, x[children[real]])
    return total / real.sum(1, keepdim=True)


class Lab(nn.Module):
    """Encoder, predictor and targets of one variant."""

    def __init__(self, variant: Variant, cohort: Cohort) -> None:
        super().__init__()
        torch.manual_seed(variant.seed)
        self.variant, self.grid = variant, cohort.grid
        shape = {"embed": variant.embed, "depths": variant.depths, "heads": (1, 2, 4, 8), "mlp_ratio": 2, "recompute": False}
        config = HieraConfig(**shape, pooling="max", signal_std=None)  # as it was; this program sets both by itself
        self.encoder = Hiera(config, 1)
        # One lab at a time: the encoder's blocks look this name up when they run.
        hiera.pool_children = mean_children if variant.pooling == "mean" else pool_children
        if variant.signal_std:
            with torch.no_grad():
                self.encoder.patch_embed.weight.normal_(std=variant.signal_std)
                self.encoder.space_embed.project.weight.mul_(0.25)
                self.encoder.time_embed.project.weight.mul_(0.1)
        if not variant.encoder_time:
            with torch.no_grad():
                for parameter in self.encoder.time_embed.parameters():
                    parameter.zero_().requires_grad_(False)
        self.target_encoder = deepcopy(self.encoder).requires_grad_(False)
        units = len(self.grid.units)
        mm = torch.tensor(self.grid.units.mm, dtype=torch.float32)
        d = self.encoder.width
        self.predictor = Predictor(variant.predictor, d, units, mm, depth=variant.depth, learnt=variant.learnt)
        self.tables = signal_tables(cohort)
        widths = {"unit": 1, "cell": 8, "patch": 64, "unit2": 2, "cell2": 16, "patch2": 128, "latent": d}
        self.heads = nn.ModuleDict({kind: nn.Linear(96, widths[kind]) for kind in variant.targets.split("+")})
        self.own = nn.ModuleDict({kind: nn.Linear(d, widths[kind]) for kind in variant.targets.split("+") if kind != "latent"})
        self.register_buffer("place_mean", torch.zeros(units, d))
        self.register_buffer("place_square", torch.ones(units, d))
        self.register_buffer("seen", torch.zeros(()))

    def clip(self, voxels: np.ndarray, frames: np.ndarray) -> Clip:
        return Clip(torch.from_numpy(voxels)[..., None], torch.from_numpy(frames * TR_S), self.grid)

    def dense(self, encoder: Hiera, clips: list[Clip], visible: list[np.ndarray] | None) -> Tensor:
        """(B, S, U, D) tokens, zero where nothing is visible."""
        tokens = encoder(clips, visible)
        steps, units = len(clips[0].seconds) // STEP, len(self.grid.units)
        out = tokens.values.new_zeros(len(clips) * steps * units, tokens.values.shape[1])
        place = (tokens.clip * steps + tokens.step) * units + tokens.unit
        return out.index_copy(0, place, tokens.values).view(len(clips), steps, units, -1)

    def signals(self, clips: list[Clip]) -> dict[str, tuple[Tensor, Tensor]]:
        """For each kind of signal, (B, S, U, N) values of each step and (U, N) which exist."""
        out = {}
        frames = torch.stack([clip.voxels[..., 0] for clip in clips])
        halves = frames.view(len(clips), -1, 2, STEP // 2, frames.shape[-1]).mean(3)
        steps = halves.mean(2)
        for kind in self.variant.targets.split("+"):
            if kind == "latent":
                continue
            matrix, exists, std = self.tables[kind.removesuffix("2")]
            if kind.endswith("2"):  # two halves of a step
                both = (halves @ matrix).view(*halves.shape[:3], len(self.grid.units), -1) / std
                out[kind] = (both.permute(0, 1, 3, 4, 2).flatten(3), exists.repeat_interleave(2, 1))
                continue
            out[kind] = ((steps @ matrix).view(*steps.shape[:2], len(self.grid.units), -1) / std, exists)
        return out


Tables = dict[str, tuple[Tensor, Tensor, Tensor]]


def signal_tables(cohort: Cohort) -> Tables:
    """For unit, cell and patch means: (P, U * N) averaging matrix, (U, N) which exist, (U, N) standard deviation in pretraining people."""
    grid, tables = cohort.grid, {}
    units = len(grid.units)
    for kind, width, of_patch in (("unit", 1, grid.patch_unit), ("cell", 8, grid.patch_cell), ("patch", 64, np.arange(grid.n_patches))):
        count = int(of_patch.max()) + 1
        unit_of = np.zeros(count, int)
        unit_of[of_patch] = grid.patch_unit
        slot = np.arange(count) - np.searchsorted(unit_of, unit_of)
        matrix = np.zeros((grid.n_patches, units * width), np.float32)
        matrix[np.arange(grid.n_patches), unit_of[of_patch] * width + slot[of_patch]] = 1 / np.bincount(of_patch)[of_patch]
        exists = torch.from_numpy(matrix.sum(0) > 0).view(units, width)
        tables[kind] = (torch.from_numpy(matrix), exists, torch.ones(units, width))
    path = cohort.out / "signal_std.pt"
    if not path.exists():
        torch.save(signal_std(cohort, tables), path)
    saved = torch.load(path, weights_only=True)
    return {kind: (matrix, exists, saved[kind]) for kind, (matrix, exists, _) in tables.items()}


def signal_std(cohort: Cohort, tables: Tables) -> dict[str, Tensor]:
    """(U, N) standard deviation of each signal over every fifth pretraining person; 1 where there is none."""
    total, steps = {kind: torch.zeros(()) for kind in tables}, 0
    for run in cohort.split["pretrain"][::5]:
        frames = torch.from_numpy(cohort.clip(run, np.arange(run.frames // STEP * STEP)))
        means = frames.view(-1, STEP, cohort.grid.n_patches).mean(1)
        total = {kind: total[kind] + (means @ matrix).square().sum(0) for kind, (matrix, _, _) in tables.items()}
        steps += len(means)
    return {
        kind: torch.where(exists, (total[kind] / steps).sqrt().view(exists.shape), torch.ones(exists.shape))
        for kind, (_, exists, _) in tables.items()
    }


def draw_mask(variant: Variant, mm: np.ndarray, random: np.random.Generator) -> JepaMask:
    if variant.mask == "product":
        return sample_jepa_mask(mm, WINDOWS, 2, variant.fraction, random)
    if variant.mask == "location":
        full = sample_jepa_mask(mm, 1, 1, variant.fraction, random)
        return JepaMask(np.ones(2 * WINDOWS, bool), full.places)
    places = random.random(len(mm)) < variant.fraction  # scattered
    return JepaMask(np.ones(2 * WINDOWS, bool), places)


def draw_frames(cohort: Cohort, variant: Variant, run: Run, random: np.random.Generator) -> np.ndarray:
    if variant.clip == "stretch":
        return cohort.stretch(run, FRAMES, random)
    if variant.clip == "random":
        return cohort.random_frames(run, WINDOWS, random)
    return cohort.spread_frames(run, WINDOWS, float(random.random()) * 0.99)


def losses(lab: Lab, clips: list[Clip], masks: list[JepaMask], step: int) -> tuple[Tensor, dict[str, np.ndarray]]:
    """Loss, and per target and kind (error, error of the best constant) sums."""
    variant = lab.variant
    visible = torch.from_numpy(np.stack([mask.context for mask in masks]))
    tokens = lab.dense(lab.encoder, clips, [mask.context for mask in masks])
    seconds = torch.stack([clip.seconds.float().view(-1, STEP).mean(1) for clip in clips])
    predicted = lab.predictor(tokens, visible, seconds)
    wanted = lab.signals(clips)
    if "latent" in lab.heads:
        with torch.no_grad():
            full = lab.dense(lab.target_encoder, clips, None)
            if lab.training:
                weight = max(0.01, 1 / (1 + float(lab.seen)))
                lab.place_mean.lerp_(full.mean((0, 1)), weight)
                lab.place_square.lerp_((full - lab.place_mean).square().mean((0, 1)), weight)
                lab.seen += 1
            latent = (full - lab.place_mean) / (lab.place_square.mean(0).sqrt() + 1e-4)
            wanted["latent"] = (latent, torch.ones(latent.shape[2:], dtype=torch.bool))
    sums: dict[str, np.ndarray] = {}
    total = torch.zeros(())
    for name, head in lab.heads.items():
        values, exists = wanted[name]
        error = (head(predicted) - values).square()
        null = values.square()
        for kind in KINDS:
            chosen = torch.from_numpy(np.stack([mask.targets(kind) for mask in masks]))
            if not chosen.any():
                continue
            pick = chosen[..., None] & exists
            sums[f"{name}/{kind}"] = np.array([float(error.detach()[pick].sum()), float(null[pick].sum())])
        hidden = ~visible[..., None] & exists
        if name == "latent" and step < variant.warm:
            continue
        total = total + error[hidden].mean()
    if variant.keep:
        for name, head in lab.own.items():
            values, exists = wanted[name]
            shown = visible[..., None] & exists
            total = total + variant.keep * (head(tokens) - values).square()[shown].mean()
    if variant.regulariser != "none":
        # Content: what the place's mean over this clip does not tell.
        seen = visible[..., None].float()
        content = (tokens - (tokens * seen).sum(1, keepdim=True) / seen.sum(1, keepdim=True).clamp_min(1))[visible]
        term = {"vicreg": vicreg, "simdino": coding_rate, "lejepa": sigreg}[variant.regulariser]
        total = total + {"vicreg": 1.0, "simdino": 1.0, "lejepa": 1.0}[variant.regulariser] * term(content)
    return total, sums


def skills(sums: dict[str, np.ndarray]) -> dict[str, float]:
    """Skill of each kind from its sums of squared errors: of the prediction, and of the best constant."""
    return {f"skill_{name}": 1 - float(value[0] / value[1]) for name, value in sums.items()}


@torch.no_grad()
def held_out_skill(lab: Lab, cohort: Cohort, count: int = 24) -> dict[str, float]:
    lab.eval()
    random = np.random.default_rng(99)
    total: dict[str, np.ndarray] = {}
    for run in cohort.split["validation"][:: len(cohort.split["validation"]) // count][:count]:
        frames = draw_frames(cohort, lab.variant, run, random)
        mask = draw_mask(lab.variant, cohort.grid.units.mm, random)
        _, sums = losses(lab, [lab.clip(cohort.clip(run, frames), frames)], [mask], 10**9)
        for name, value in sums.items():
            total[name] = total.get(name, 0) + value
    lab.train()
    return {name: round(value, 4) for name, value in skills(total).items()}


def train(variant: Variant, cohort: Cohort, log: Callable[[str], None]) -> Lab:
    """A trained lab; its running skill is logged every 50 steps."""
    lab = Lab(variant, cohort)
    random = np.random.default_rng((7, variant.seed))
    people = cohort.split["pretrain"]
    parameters = [p for p in lab.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(parameters, variant.lr, betas=(0.9, 0.99), weight_decay=0.05)
    start = time.time()
    running: dict[str, np.ndarray] = {}
    for step in range(variant.steps):
        warmup = min(1.0, (step + 1) / 30)
        rate = variant.lr * warmup * (0.01 + 0.99 * (1 + math.cos(math.pi * step / variant.steps)) / 2)
        for group in optimiser.param_groups:
            group["lr"] = rate
        chosen = [people[int(n)] for n in random.integers(len(people), size=variant.batch)]
        frames = [draw_frames(cohort, variant, run, random) for run in chosen]
        clips = [lab.clip(cohort.clip(run, f), f) for run, f in zip(chosen, frames, strict=True)]
        masks = [draw_mask(variant, cohort.grid.units.mm, random) for _ in chosen]
        loss, sums = losses(lab, clips, masks, step)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        if "latent" in lab.heads:
            with torch.no_grad():
                for slow, fast in zip(lab.target_encoder.parameters(), lab.encoder.parameters(), strict=True):
                    slow.lerp_(fast, 0.01)
        for name, value in sums.items():
            running[name] = 0.95 * running.get(name, 0) + value
        if step % 50 == 49:
            shown = " ".join(f"{k[6:]} {v:.3f}" for k, v in skills(running).items())
            log(f"  {variant.name} step {step + 1} {time.time() - start:.0f} s loss {float(loss.detach()):.3f} {shown}")
    return lab


# --- experiments

BASE = Variant("base")


def variants_of(name: str) -> list[Variant]:
    """Rows of an experiment's table."""
    v = BASE
    if name == "predictor":
        v = replace(v, steps=200)
        fast = replace(v, signal_std=0.5)
        return [
            replace(fast, name="factorised, signal 0.5, mean pooling", pooling="mean"),
            replace(v, name="factorised"),
            replace(fast, name="factorised, signal 0.5"),
            replace(v, name="joint", predictor="joint", learnt=False),
            replace(v, name="places", predictor="places", depth=1),
            replace(v, name="joint, signal 0.5", predictor="joint", signal_std=0.5, learnt=False),
            replace(fast, name="factorised, signal 0.5, mean pooling, Fourier places", pooling="mean", learnt=False),
            replace(fast, name="query, signal 0.5, mean pooling", predictor="query", pooling="mean"),
            replace(fast, name="joint learnt, signal 0.5, mean pooling", predictor="joint", pooling="mean"),
        ]
    good = replace(v, signal_std=0.5, pooling="mean", steps=500)
    if name == "targets":
        near = replace(good, mask="location", fraction=0.5, clip="random", steps=300, encoder_time=False)
        return [
            replace(near, name="untrained, mean pooling, no time", steps=0),
            replace(near, name="cell2, keep 1, no time", targets="cell2", keep=1.0),
            replace(near, name="cell2, no time", targets="cell2"),
            replace(near, name="unit", targets="unit"),
            replace(near, name="untrained, max pooling", pooling="max", steps=0),
            replace(near, name="cell2, keep 1, max pooling", targets="cell2", keep=1.0, pooling="max"),
            replace(near, name="patch2, keep 1", targets="patch2", keep=1.0),
            replace(near, name="latent", targets="latent"),
            replace(near, name="cell2+latent, keep 1", targets="cell2+latent", warm=100, keep=1.0),
        ]
    if name == "masks":
        return [
            replace(good, name="location 0.5", targets="cell", mask="location", fraction=0.5),
            replace(good, name="random windows", targets="cell", clip="random"),
            replace(good, name="scattered 0.3", targets="cell", mask="scattered", fraction=0.3),
            replace(good, name="location 0.3", targets="cell", mask="location", fraction=0.3),
        ]
    if name == "regularisers":
        late = replace(good, targets="cell+latent", warm=150, steps=400)
        return [replace(late, name=f"latent {r}", regulariser=r) for r in ("vicreg", "simdino", "lejepa")]
    raise SystemExit(f"no experiment {name}")


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--experiment", required=True, help="name of a table; run so far: predictor")
    options.add_argument("--only", help="one variant of it")
    arguments = options.parse_args()
    table = arguments.out / f"{arguments.experiment}.jsonl"
    done = {(row["variant"], row["seed"]) for row in map(json.loads, table.read_text().splitlines())} if table.exists() else set()
    cohort = Cohort(arguments.out)
    for variant in variants_of(arguments.experiment):
        if (variant.name, variant.seed) in done or (arguments.only and arguments.only != variant.name):
            continue
        start = time.time()
        lab = train(variant, cohort, print)
        row = {"experiment": arguments.experiment, "variant": variant.name, "seed": variant.seed, "steps": variant.steps}
        row |= {"seconds": round(time.time() - start), **(held_out_skill(lab, cohort) if variant.steps else {}), "config": asdict(variant)}
        append_row(table, row)


if __name__ == "__main__":
    main()
