"""Objectives, predictors and masks on a cheap front end: a step costs a tenth of Hiera's.

One linear layer over a unit's cells (16 mm, two frames) stands for the first two levels of the encoder; tokens, masks, predictors,
targets, probes and people are those of `stage2_lab.py`. What wins here is then tried with the real encoder.

`python benchmarks/stage2_learning/surrogate_lab.py --experiment q-latents --out stage2-run`; `painted.py` comes first. Rows that stand in
`surrogate.jsonl` are not run again. Run so far: the three quick tables (`q-`), and two variants of `targets`. `align` needs
`baselines.py` first.
"""

from __future__ import annotations

import json
import math
import time
from copy import deepcopy
from dataclasses import asdict, dataclass, replace

import numpy as np
import torch
from painted_cohort import Cohort, Run, append_row, parser
from predictors import DenseAttention, Predictor, coding_rate, sigreg, vicreg
from readouts import Cells, place_decoders, readouts, spread_windows
from torch import Tensor, nn

from slimbrain.data.masking import _compact_places
from slimbrain.models.layers import FourierPosition

torch.set_num_threads(1)


@dataclass(frozen=True)
class Variant:
    name: str
    encoder: str = "joint"
    """Global blocks of the encoder: joint (all tokens of the clip), places (within a step), none."""
    blocks: int = 3
    predictor: str = "factorised"
    learnt: bool = False
    depth: int = 2
    targets: str = "cell2"
    warm: int = 0
    normalise: str = "place"
    """Latent targets: by place and dimension over batches (place), or layer norm of each token with its place left in (token)."""
    regulariser: str = "none"
    weight: float = 1.0
    visible: float = 0.5
    """Share of places that the context sees."""
    time_visible: float = 1.0
    compact: bool = True
    clip: str = "random"
    windows: int = 5
    steps: int = 400
    batch: int = 4
    lr: float = 2e-3
    seed: int = 0
    keep: float = 0.0
    ema: float = 0.99
    signal_scale: float = 1.0
    encoder_time: bool = False
    align: float = 0.0
    """Weight of clip-to-run alignment: whole-run tangent axes from a second-order pooling of the clip's tokens."""


class Block(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.attention, self.norm2 = nn.LayerNorm(width), DenseAttention(width, heads), nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm1(x)
        x = x + self.attention(h, h, h)
        return x + self.mlp(self.norm2(x))


class Encoder(nn.Module):
    def __init__(self, variant: Variant, mm: Tensor, width: int = 96) -> None:
        super().__init__()
        self.variant, self.width = variant, width
        self.patch = nn.Linear(16, width)
        nn.init.normal_(self.patch.weight, std=0.25 * variant.signal_scale)
        self.place, self.time = FourierPosition(3, width, 16.0, 384.0, 12), FourierPosition(1, width, 1.44, 2048.0, 16)
        self.register_buffer("mm", mm, persistent=False)
        self.blocks = nn.ModuleList(Block(width, 8) for _ in range(variant.blocks if variant.encoder != "none" else 0))
        self.norm = nn.LayerNorm(width)

    def forward(self, signal: Tensor, places: Tensor, seconds: Tensor) -> Tensor:
        """(B, S, K, 16) cells of K places, their (B, K) places, (B, S) seconds -> (B, S, K, D)."""
        x = self.patch(signal) + self.place(self.mm)[places][:, None]
        if self.variant.encoder_time:
            x = x + self.time(seconds[..., None].float())[:, :, None]
        b, s, k, d = x.shape
        for block in self.blocks:
            x = block(x.view(b, s * k, d)).view(b, s, k, d) if self.variant.encoder == "joint" else block(x)
        return self.norm(x)


class Lab(nn.Module):
    def __init__(self, variant: Variant, cells: Cells, targets_of_runs: int = 0) -> None:
        super().__init__()
        torch.manual_seed(variant.seed)
        grid = cells.cohort.grid
        self.variant, self.exists = variant, cells.exists
        mm = torch.tensor(grid.units.mm, dtype=torch.float32)
        self.encoder = Encoder(variant, mm)
        self.target = deepcopy(self.encoder).requires_grad_(False)
        d, units = self.encoder.width, len(mm)
        self.predictor = Predictor(variant.predictor, d, units, mm, depth=variant.depth, learnt=variant.learnt)
        width = {"unit": 1, "cell2": 16, "latent": d, "input": d}
        self.heads = nn.ModuleDict({kind: nn.Linear(96, width[kind]) for kind in variant.targets.split("+")})
        self.own = nn.Linear(d, 16)
        self.register_buffer("mean", torch.zeros(units, d))
        self.register_buffer("square", torch.ones(units, d))
        self.register_buffer("count", torch.zeros(()))
        if variant.align:
            self.channels = nn.Linear(units * d, 48, bias=False)
            nn.init.normal_(self.channels.weight, std=(units * d) ** -0.5)
            self.readout = nn.Linear(48 * 49 // 2, targets_of_runs)


def second_order(lab: Lab, tokens: Tensor) -> Tensor:
    """(B, C (C + 1) / 2) covariances over steps of learnt channels."""
    z = lab.channels((tokens - tokens.mean(1, keepdim=True)).flatten(2))
    z = z / (z.std((0, 1)) + 1e-3)
    matrix = z.transpose(1, 2) @ z / z.shape[1]
    rows, columns = torch.triu_indices(48, 48)
    return matrix[:, rows, columns]


def losses(lab: Lab, signal: Tensor, seconds: Tensor, seen: Tensor, step: int, run_axes: Tensor | None = None):
    """signal (B, S, U, 16), seen (B, S, U) bool; a place is seen at all seen times or never."""
    variant = lab.variant
    places = torch.stack([torch.nonzero(row.any(0))[:, 0] for row in seen])
    times = torch.stack([torch.nonzero(row.any(1))[:, 0] for row in seen])
    b, s, u, _ = signal.shape
    clip = torch.arange(b)[:, None, None]
    tokens = lab.encoder(signal[clip, times[:, :, None], places[:, None]], places, torch.gather(seconds, 1, times))
    dense = tokens.new_zeros(b, s, u, tokens.shape[-1])
    dense[clip, times[:, :, None], places[:, None]] = tokens
    predicted = lab.predictor(dense, seen, seconds.float())
    everything = torch.arange(u).expand(b, u)
    total, sums = torch.zeros(()), {}
    for name, head in lab.heads.items():
        exists = torch.ones(u, 1, dtype=torch.bool)
        if name == "cell2":
            wanted, exists = signal, lab.exists
        elif name == "unit":
            wanted = (signal * lab.exists).sum(-1, keepdim=True) / lab.exists.sum(-1, keepdim=True) / 0.8
        elif name == "latent":
            with torch.no_grad():
                full = lab.target(signal, everything, seconds)
                if variant.normalise == "token":
                    wanted = full  # the encoder's last norm is a layer norm
                else:
                    if lab.training:
                        rate = max(0.01, 1 / (1 + float(lab.count)))
                        lab.mean.lerp_(full.mean((0, 1)), rate)
                        lab.square.lerp_((full - lab.mean).square().mean((0, 1)), rate)
                        lab.count += 1
                    wanted = (full - lab.mean) / (lab.square.mean(0).sqrt() + 1e-4)
                exists = torch.ones(u, wanted.shape[-1], dtype=torch.bool)
        error = (head(predicted) - wanted).square()
        constant = wanted if variant.normalise != "token" or name != "latent" else wanted - wanted.mean((0, 1))
        null = constant.square()
        for kind, chosen in (
            ("cross_location", seen.any(2)[:, :, None] & ~seen.any(1)[:, None]),
            ("cross_time", ~seen.any(2)[:, :, None] & seen.any(1)[:, None]),
            ("double_cross", ~seen.any(2)[:, :, None] & ~seen.any(1)[:, None]),
        ):
            pick = chosen[..., None] & exists
            if pick.any():
                sums[f"{name}/{kind}"] = np.array([float(error.detach()[pick].sum()), float(null[pick].sum())])
        if name == "latent" and step < variant.warm:
            continue
        total = total + error[(~seen)[..., None] & exists].mean()
    if variant.keep:
        total = total + variant.keep * (lab.own(tokens) - signal[clip, times[:, :, None], places[:, None]]).square().mean()
    if variant.regulariser != "none":
        content = (tokens - tokens.mean(1, keepdim=True)).flatten(0, 2)
        term = {"vicreg": vicreg, "simdino": coding_rate, "lejepa": sigreg}[variant.regulariser]
        total = total + variant.weight * term(content)
    if variant.align and run_axes is not None:
        full = lab.encoder(signal, everything, seconds)
        error = (lab.readout(second_order(lab, full)) - run_axes).square()
        sums["run/axes"] = np.array([float(error.detach().sum()), float(run_axes.square().sum())])
        total = total + variant.align * error.mean()
    return total, sums


def draw(cells: Cells, variant: Variant, run: Run, random: np.random.Generator):
    slots = run.frames // 8
    if variant.clip == "random":
        chosen = np.sort(random.permutation(slots)[: variant.windows])
    elif variant.clip == "stretch":
        chosen = int(random.integers(slots - variant.windows + 1)) + np.arange(variant.windows)
    else:
        chosen = np.floor((np.arange(variant.windows) + random.random() * 0.99) * slots / variant.windows).astype(int)
    signal, seconds = cells.windows(run, chosen)
    mm = cells.cohort.grid.units.mm
    hidden = round(len(mm) * (1 - variant.visible))
    places = ~(
        _compact_places(mm, hidden, random) if variant.compact else np.isin(np.arange(len(mm)), random.permutation(len(mm))[:hidden])
    )
    times = np.zeros(variant.windows, bool)
    times[random.permutation(variant.windows)[: round(variant.windows * variant.time_visible)]] = True
    return signal, seconds, np.outer(np.repeat(times, 2), places)


def batch_of(cells, variant, runs, random):
    parts = [draw(cells, variant, run, random) for run in runs]
    return tuple(torch.from_numpy(np.stack(x)) for x in zip(*parts, strict=True))


@torch.no_grad()
def held_out(lab: Lab, cells: Cells, axes=None) -> dict[str, float]:
    lab.eval()
    random, total = np.random.default_rng(99), {}
    people = cells.cohort.split["validation"]
    for place in range(0, len(people) - 3, 12):
        signal, seconds, seen = batch_of(cells, lab.variant, people[place : place + 4], random)
        known = None if axes is None else torch.from_numpy(axes["val"][place : place + 4])
        for name, value in losses(lab, signal, seconds, seen, 10**9, known)[1].items():
            total[name] = total.get(name, 0) + value
    lab.train()
    return {f"skill_{name}": round(1 - float(v[0] / v[1]), 4) for name, v in total.items()}


def train(variant: Variant, cells: Cells, log) -> Lab:
    axes = None
    if variant.align:
        saved = np.load(cells.cohort.out / "axes_whole_cells.npz")
        scale = saved["Zp"][:, :50].std(0)
        axes = {"pre": (saved["Zp"][:, :50] / scale).astype(np.float32), "val": (saved["Zv"][:, :50] / scale).astype(np.float32)}
    lab = Lab(variant, cells, 50)
    lab.axes = axes
    random, people = np.random.default_rng((7, variant.seed)), cells.cohort.split["pretrain"]
    parameters = [p for p in lab.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(parameters, variant.lr, betas=(0.9, 0.99), weight_decay=0.05)
    start, running = time.time(), {}
    for step in range(variant.steps):
        for group in optimiser.param_groups:
            group["lr"] = variant.lr * min(1.0, (step + 1) / 30) * (0.01 + 0.99 * (1 + math.cos(math.pi * step / variant.steps)) / 2)
        numbers = random.integers(len(people), size=variant.batch)
        signal, seconds, seen = batch_of(cells, variant, [people[int(n)] for n in numbers], random)
        known = None if axes is None else torch.from_numpy(axes["pre"][numbers])
        loss, sums = losses(lab, signal, seconds, seen, step, known)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        if "latent" in lab.heads:
            with torch.no_grad():
                for slow, fast in zip(lab.target.parameters(), lab.encoder.parameters(), strict=True):
                    slow.lerp_(fast, 1 - variant.ema)
        for name, value in sums.items():
            running[name] = 0.95 * running.get(name, 0) + value
        if step % 100 == 99:
            log(
                f"  {variant.name} {step + 1}: {time.time() - start:.0f} s "
                + " ".join(f"{k} {1 - v[0] / v[1]:.3f}" for k, v in running.items())
            )
    return lab


@torch.no_grad()
def tokens_of(lab: Lab, cells: Cells, run: Run) -> tuple[np.ndarray, np.ndarray]:
    """(20, U, D) tokens and (20, U, 16) cells of 80 frames, evenly spread, in two clips."""
    values, signals = [], []
    for windows in spread_windows(run):
        signal, seconds = cells.windows(run, windows)
        x = torch.from_numpy(signal)[None]
        values.append(lab.encoder(x, torch.arange(x.shape[2])[None], torch.from_numpy(seconds)[None])[0])
        signals.append(signal)
    return torch.cat(values).numpy(), np.concatenate(signals)


def run(variant: Variant, cells: Cells, experiment: str, log, reference: int = 150) -> dict[str, object]:
    start = time.time()
    lab = train(variant, cells, log)
    seconds = time.time() - start
    tag = f"s-{experiment}-{variant.name}-{variant.seed}".replace(" ", "_").replace(",", "").replace("/", "_")
    torch.save(lab.state_dict(), cells.cohort.out / "models" / f"{tag}.pt")
    lab.eval()
    row: dict[str, object] = {
        "experiment": experiment,
        "variant": variant.name,
        "seed": variant.seed,
        "steps": variant.steps,
        "seconds": round(seconds),
    }
    if variant.steps:
        row |= held_out(lab, cells, lab.axes)
    people = cells.cohort.split["pretrain"]
    pre = [tokens_of(lab, cells, r) for r in people[:: len(people) // reference][:reference]]
    val = [tokens_of(lab, cells, r) for r in cells.cohort.split["validation"]]
    row |= readouts(pre, val, cells, tag)
    row["total_seconds"] = round(time.time() - start)
    row["config"] = asdict(variant)
    return row


@torch.no_grad()
def quick(lab: Lab, cells: Cells, count: int = 40) -> dict[str, float]:
    """Without probes: what tokens keep of their own cells, how far they differ, along how many directions."""
    lab.eval()
    people = cells.cohort.split["pretrain"][::12][:count]
    parts = [tokens_of(lab, cells, person) for person in people]
    tokens, signals = [p[0] for p in parts], [p[1] for p in parts]
    _, r2 = place_decoders(tokens, signals, cells.exists.numpy()[:, ::2])
    content = np.concatenate(tokens)
    content = (content - content.mean(0)).reshape(-1, content.shape[-1])
    values = np.linalg.eigvalsh(content.T @ content).clip(0)
    share = values / values.sum()
    return {
        "decoded_r2": r2,
        "content_std": round(float(content.std(0).mean()), 3),
        "rank": round(float(np.exp(-(share * np.log(share + 1e-12)).sum())), 1),
    }


def run_quick(variant: Variant, cells: Cells, experiment: str, log) -> dict[str, object]:
    start = time.process_time()
    lab = train(variant, cells, log)
    spent = time.process_time() - start
    row = {"experiment": experiment, "variant": variant.name, "seed": variant.seed, "steps": variant.steps, "seconds": round(spent)}
    return row | (held_out(lab, cells, lab.axes) if variant.steps else {}) | quick(lab, cells) | {"config": asdict(variant)}


def table(name: str) -> list[Variant]:
    v = Variant("cell2 signals")
    if name == "targets":
        return [
            replace(v, name="untrained", steps=0),
            v,
            replace(v, name="cell2 signals, keep 1", keep=1.0),
            replace(v, name="unit signals", targets="unit"),
            replace(v, name="latent, no position", targets="latent"),
            replace(v, name="cell2+latent, warm 150", targets="cell2+latent", warm=150),
            replace(v, name="latent as published (token norm)", targets="latent", normalise="token", encoder_time=True),
        ]
    if name == "encoder":
        return [
            replace(v, name="untrained, places", encoder="places", steps=0),
            replace(v, name="cell2, encoder within steps", encoder="places"),
            replace(v, name="cell2, encoder without global blocks", encoder="none"),
            replace(v, name="cell2, encoder time embedding", encoder_time=True),
        ]
    if name == "masks":
        return [
            replace(v, name="visible 0.3", visible=0.3),
            replace(v, name="visible 0.7", visible=0.7),
            replace(v, name="scattered places 0.5", compact=False),
            replace(v, name="three kinds (times 0.6, places 0.5), stretch", time_visible=0.6, clip="stretch"),
            replace(v, name="stretch windows", clip="stretch"),
            replace(v, name="spread windows", clip="spread"),
        ]
    if name == "regularisers":
        w = replace(v, targets="cell2+latent", warm=150)
        latent = replace(v, targets="latent")
        return [
            replace(latent, name="latent, vicreg", regulariser="vicreg"),
            replace(latent, name="latent, simdino", regulariser="simdino"),
            replace(latent, name="latent, lejepa", regulariser="lejepa", weight=2.0),
            replace(w, name="cell2+latent, vicreg 0.2", regulariser="vicreg", weight=0.2),
        ]
    if name == "align":
        return [replace(v, name="cell2, align 0.3", align=0.3), replace(v, name="align only", align=1.0, targets="unit")]
    if name == "predictor":
        return [
            replace(v, name="joint", predictor="joint"),
            replace(v, name="query (cross-attention)", predictor="query", batch=2),
            replace(v, name="places", predictor="places"),
            replace(v, name="factorised, learnt places", learnt=True),
            replace(v, name="factorised, signal scale 0.1", signal_scale=0.1),
        ]
    q = replace(v, steps=200, batch=2)
    published = replace(
        q, targets="latent", normalise="token", encoder_time=True, predictor="joint", visible=0.5, time_visible=0.6, signal_scale=0.1
    )
    if name == "q-latents":
        latent = replace(q, targets="latent")
        return [
            replace(q, name="untrained", steps=0),
            replace(q, name="signals (cell2)"),
            replace(published, name="published: token norm, joint"),
            replace(latent, name="latent by place, factorised"),
            replace(latent, name="latent by place, vicreg", regulariser="vicreg"),
            replace(latent, name="latent by place, lejepa", regulariser="lejepa", weight=2.0),
            replace(latent, name="latent by place, simdino", regulariser="simdino"),
            replace(latent, name="latent by place + signals, warm 70", targets="cell2+latent", warm=70),
        ]
    if name == "q-predictor":
        return [
            replace(q, name="joint", predictor="joint"),
            replace(q, name="query (cross-attention)", predictor="query"),
            replace(q, name="places", predictor="places"),
            replace(q, name="factorised, learnt places", learnt=True),
            replace(q, name="factorised, signal scale 0.1", signal_scale=0.1),
        ]
    if name == "q-masks":
        return [
            replace(q, name="visible 0.3", visible=0.3),
            replace(q, name="visible 0.7", visible=0.7),
            replace(q, name="scattered places", compact=False),
            replace(q, name="three kinds, stretch", time_visible=0.6, clip="stretch"),
            replace(q, name="encoder without global blocks", encoder="none"),
            replace(q, name="encoder within steps", encoder="places"),
        ]
    raise SystemExit(f"no experiment {name}")


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--experiment", required=True, help="names of tables, separated by commas")
    options.add_argument("--only", help="one variant of them")
    arguments = options.parse_args()
    table_of_rows = arguments.out / "surrogate.jsonl"
    done = set()
    if table_of_rows.exists():
        done = {(row["experiment"], row["variant"], row["seed"]) for row in map(json.loads, table_of_rows.read_text().splitlines())}
    (arguments.out / "models").mkdir(exist_ok=True)
    cells = Cells(Cohort(arguments.out))
    for experiment in arguments.experiment.split(","):
        for variant in table(experiment):
            if (experiment, variant.name, variant.seed) in done or (arguments.only and arguments.only != variant.name):
                continue
            append_row(table_of_rows, (run_quick if experiment.startswith("q-") else run)(variant, cells, experiment, print))


if __name__ == "__main__":
    main()
