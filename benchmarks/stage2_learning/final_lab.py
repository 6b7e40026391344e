"""The product's own HieraJEPA with the new objective, on the painted cohort: train, resume, read beside the untrained twin.

Runs on commit 5ea4a25 of slimbrain with `product_change.patch`, then `merge_pooling.patch` (both beside this file) applied, until the
change itself lands: `git worktree add FOLDER 5ea4a25`, `git -C FOLDER apply PATCH` for each, then `PYTHONPATH=FOLDER/src`.

- `final_lab.py train default --steps 700` trains the mean-pooled model, `train merge --steps 250` the one that learns to merge children;
  again, with more `--steps`, it resumes. The learning rate's schedule ends at `--steps`.
- `final_lab.py read untrained`, `read default`: probes of the EMA encoder on validation people.
"""

from __future__ import annotations

import math
import time
from pathlib import Path

import numpy as np
import torch
from painted_cohort import TR_S, Cohort, Run, append_row, parser
from readouts import Cells, readouts, spread_windows
from torch import nn

from slimbrain.config import HieraConfig, JepaConfig
from slimbrain.masking import JepaMask, sample_jepa_mask
from slimbrain.models.jepa import HieraJEPA
from slimbrain.models.packing import Clip

torch.set_num_threads(1)
ENCODER = HieraConfig(embed=12, depths=(1, 1, 3, 1), heads=(1, 2, 4, 8), mlp_ratio=2, recompute=False)
SETTINGS = {
    "default": dict(context_fraction=0.5),
    "keep0": dict(context_fraction=0.5, visible_weight=0.0),
    "published": dict(targets="latents", predictor="joint", hide="places_and_times", remove_position=False),
    "present": dict(targets="latents", predictor="joint", hide="places_and_times", variance_weight=1.0, covariance_weight=0.04),
}


def build(name: str) -> HieraJEPA:
    """The untrained model of a name in `SETTINGS`, or of `merge`."""
    torch.manual_seed(0)
    old = name in ("published", "present")
    encoder = ENCODER.model_copy(update={"pooling": "max", "signal_std": None}) if old else ENCODER
    if name == "merge":
        encoder = ENCODER.model_copy(update={"pooling": "merge"})
    jepa = JepaConfig(predictor_width=96, predictor_depth=2, predictor_heads=4 if old else 8, **SETTINGS.get(name, SETTINGS["default"]))
    return HieraJEPA(encoder, jepa, 1)


def draw(cohort: Cohort, model: HieraJEPA, run: Run, random: np.random.Generator) -> tuple[Clip, JepaMask]:
    """A clip of five random windows, and a mask of what `hide` says."""
    frames = cohort.random_frames(run, 5, random)
    clip = Clip(torch.from_numpy(cohort.clip(run, frames))[..., None], torch.from_numpy(frames * TR_S), cohort.grid)
    cut = (1, 10) if model.jepa.hide == "places" else (5, 2)
    return clip, sample_jepa_mask(cohort.grid.units.mm, *cut, model.jepa.context_fraction, random)


@torch.no_grad()
def held_out(model: HieraJEPA, cohort: Cohort, count: int = 40) -> dict[str, float]:
    """Skill by kind of target on validation people: 1 - error / error of the best constant."""
    random, error, constant = np.random.default_rng(99), {}, {}
    for run in cohort.split["validation"][:: len(cohort.split["validation"]) // count][:count]:
        clip, mask = draw(cohort, model, run, random)
        out = model([clip], [mask])
        for kind, value in out.by_kind.items():
            error[kind] = error.get(kind, 0) + float(value)
            constant[kind] = constant.get(kind, 0) + float(out.by_constant[kind])
    return {f"skill_{kind}": round(1 - error[kind] / constant[kind], 4) for kind in error}


def train(cohort: Cohort, name: str, steps: int, batch: int = 2, lr: float = 2e-3) -> None:
    """Train to step `steps`, from the last checkpoint where there is one; a checkpoint every 50 steps."""
    model = build(name)
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(parameters, lr, betas=(0.9, 0.99), weight_decay=0.05)
    path, done, spent = checkpoint(cohort.out, name), 0, 0.0
    path.parent.mkdir(exist_ok=True)
    if path.exists():
        saved = torch.load(path, weights_only=True)
        model.load_state_dict(saved["model"])
        optimiser.load_state_dict(saved["optimiser"])
        done, spent = saved["done"], saved["seconds"]
    people, start, running = cohort.split["pretrain"], time.time(), {}
    for step in range(done, steps):
        random = np.random.default_rng((7, step))
        for group in optimiser.param_groups:
            group["lr"] = lr * min(1.0, (step + 1) / 30) * (0.01 + 0.99 * (1 + math.cos(math.pi * step / steps)) / 2)
        parts = [draw(cohort, model, people[int(n)], random) for n in random.integers(len(people), size=batch)]
        out = model([clip for clip, _ in parts], [mask for _, mask in parts])
        optimiser.zero_grad(set_to_none=True)
        out.loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        model.follow(0.99)
        for kind, value in out.skill.items():
            running[kind] = 0.96 * running.get(kind, value) + 0.04 * value
        if step % 25 == 24:
            print(f"{name} {step + 1}: {spent + time.time() - start:.0f} s loss {float(out.loss.detach()):.3f} {running}", flush=True)
        if step % 50 == 49 or step + 1 == steps:
            seconds = spent + time.time() - start
            torch.save({"model": model.state_dict(), "optimiser": optimiser.state_dict(), "done": step + 1, "seconds": seconds}, path)
    row = {"experiment": "final", "variant": name, "steps": steps, "seconds": round(spent + time.time() - start)}
    append_row(cohort.out / "final.jsonl", row | held_out(model, cohort))


def checkpoint(out: Path, name: str) -> Path:
    """Where a model's last state lies."""
    return out / "models" / f"final-{name}.pt"


def load(out: Path, name: str) -> tuple[HieraJEPA, int]:
    """A model and its steps; `untrained` is `default` as initialised, `merge-untrained` is `merge`, and so on."""
    if name.endswith("untrained"):
        return build(name.removesuffix("untrained").removesuffix("-") or "default"), 0
    model, saved = build(name), torch.load(checkpoint(out, name), weights_only=True)
    model.load_state_dict(saved["model"])
    return model, saved["done"]


@torch.no_grad()
def tokens_of(model: HieraJEPA, cohort: Cohort, run: Run) -> np.ndarray:
    """(20, U, D) tokens of the EMA encoder from 80 frames spread evenly over the run."""
    values = []
    for windows in spread_windows(run):
        frames = (windows[:, None] * 8 + np.arange(8)).ravel()
        clip = Clip(torch.from_numpy(cohort.clip(run, frames))[..., None], torch.from_numpy(frames * TR_S), cohort.grid)
        values.append(model.target([clip]).values.view(10, len(cohort.grid.units), -1))
    return torch.cat(values).numpy()


def read(cohort: Cohort, name: str, reference: int = 250) -> None:
    """Probes on validation people, with axes of `reference` pretraining people; keeps the tokens for `twin_contest.py`."""
    cells, (model, steps) = Cells(cohort), load(cohort.out, name)

    def pair(run: Run) -> tuple[np.ndarray, np.ndarray]:
        return tokens_of(model, cohort, run), np.concatenate([cells.windows(run, windows)[0] for windows in spread_windows(run)])

    pretrain = cohort.split["pretrain"]
    pre = [pair(run) for run in pretrain[:: len(pretrain) // reference][:reference]]
    val = [pair(run) for run in cohort.split["validation"]]
    folder = cohort.out / "tokens"
    folder.mkdir(exist_ok=True)
    tokens = {"pre": np.array([x for x, _ in pre], np.float16), "val": np.array([x for x, _ in val], np.float16)}
    np.savez(folder / f"final-{name}.npz", **tokens)
    row = {"experiment": "final", "variant": name, "people": "validation", "steps": steps, **readouts(pre, val, cells, f"final-{name}")}
    append_row(cohort.out / "final.jsonl", row)


def main() -> None:
    options = parser(__doc__)
    options.add_argument("action", choices=("train", "read"))
    options.add_argument("name", help="default, merge, keep0, published, present; for read also untrained and merge-untrained")
    options.add_argument("--steps", type=int, default=700)
    arguments = options.parse_args()
    cohort = Cohort(arguments.out)
    if arguments.action == "train":
        train(cohort, arguments.name, arguments.steps)
    else:
        read(cohort, arguments.name)


if __name__ == "__main__":
    main()
