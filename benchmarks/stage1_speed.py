"""How long stage 1 trains on one session, against how it was computed before: the network of the preset, and the former one.

python benchmarks/stage1_speed.py [--quick] [--threads 1]

One optimiser step on four sessions of 200 parcels and 550 frames, which a recording of six and a half minutes has at 0.72 s. CPU seconds of
this process, the fastest of several steps, ways in turn, so that other work on the machine counts little. "Before" computes the sessions of
a step in one pass and writes rotary angles out in torch operations; the first case has the same network on both sides, and a test checks
that loss and gradients are equal. The second compares the preset `small` with what it was.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from case import Case
from torch import Tensor

from slimbrain.config import TemporalConfig, load_preset
from slimbrain.models import layers
from slimbrain.models.temporal import TemporalExtractor, temporal_loss

FORMER_SMALL = TemporalConfig(width=128, depth=4, heads=4, groups=32, mlp_ratio=4.0, window_frames=8)
TR = 0.72
SESSIONS = 4


def former_rotate(x: Tensor, angles: Tensor) -> Tensor:
    """Rotary angles as before, queries and keys in one tensor or apart."""
    a, b = x.chunk(2, -1)
    cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
    return torch.cat((a * cos - b * sin, a * sin + b * cos), -1)


@contextmanager
def as_before() -> Iterator[None]:
    ours = layers._rotate
    layers._rotate = former_rotate
    try:
        yield
    finally:
        layers._rotate = ours


def step_of(config: TemporalConfig, series: Tensor, places: Tensor, together: int) -> Callable[[], float]:
    """One optimiser step on all sessions, `together` in one pass; its loss."""
    torch.manual_seed(0)
    model = TemporalExtractor(config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)

    def step() -> float:
        generator = torch.Generator().manual_seed(0)
        parts = [temporal_loss(model, some, places, TR, generator)[0] * len(some) / len(series) for some in series.split(together)]
        loss = torch.stack(parts).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return float(loss.detach())

    return step


def cpu_seconds(ways: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """The least CPU time of each way, all in turn, after one round that is not counted."""
    best = dict.fromkeys(ways, float("inf"))
    for round_ in range(rounds + 1):
        for name, action in ways.items():
            started = time.process_time()
            action()
            if round_:
                best[name] = min(best[name], time.process_time() - started)
    return best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="80 frames of 40 parcels, one round")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    frames, channels, rounds = (80, 40, 1) if options.quick else (550, 200, 5)
    generator = torch.Generator().manual_seed(0)
    series = torch.randn(SESSIONS, frames, channels, generator=generator)
    series = series + 0.1 * torch.randn(SESSIONS, frames, channels, generator=generator).cumsum(1)
    places = 120 * (torch.rand(channels, 3, generator=generator) - 0.5)
    small = load_preset("small").temporal
    before = step_of(FORMER_SMALL, series, places, SESSIONS)

    def former() -> None:
        with as_before():
            before()

    ways: dict[str, Callable[[], object]] = {"former": former, "same": step_of(FORMER_SMALL, series, places, 1)}
    ways["small"] = step_of(small, series, places, 1)
    seconds = {name: value / SESSIONS for name, value in cpu_seconds(ways, rounds).items()}
    detail = {"quick": options.quick, "frames": frames, "channels": channels, "threads": options.threads, "sessions_per_step": SESSIONS}
    same = {**detail, "network": FORMER_SMALL.model_dump()}
    Case("stage1/session_seconds_same_network", seconds["same"], "CPU s", "before", seconds["former"], same).print()
    Case(
        "stage1/session_seconds", seconds["small"], "CPU s", "before", seconds["former"], {**detail, "network": small.model_dump()}
    ).print()


if __name__ == "__main__":
    main()
