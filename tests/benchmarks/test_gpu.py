"""The program for a machine with a GPU, small and on the CPU: it must not rot until there is one."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
CASES = {
    *("gpu/step_ms_batch_1", "gpu/step_ms_batch_2", "gpu/step_ms_against_dense-reference"),
    *("gpu/plan_mib_recompute_1", "gpu/plan_mib_plain_1", "gpu/kernel_ms", "gpu/step_ms_blocks"),
    *("gpu/loader_clips_per_s_read", "gpu/loader_clips_per_s_on_device", "gpu/temporal_step_ms"),
    *("gpu/last_loss_float32", "gpu/last_loss_bfloat16", "gpu/launches_counted"),
}


def run_gpu(*options: str) -> tuple[int, list[dict[str, Any]]]:
    command = [sys.executable, str(BENCHMARKS / "gpu.py"), "--quick", "--device", "cpu", *options]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    return done.returncode, [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_every_section_runs_on_the_cpu(tmp_path: Path) -> None:
    code, lines = run_gpu("--only", "steps,memory,variants,loader,temporal,curves,launches", "--out", str(tmp_path / "gpu" / "lines.jsonl"))
    assert [line for line in lines if "failed" in line] == []
    cases = {line["case"]: line for line in lines}
    assert code == 0
    assert cases.keys() == CASES
    assert cases["gpu/last_loss_float32"]["detail"]["largest"] == 0, "the same seeds on the same device"
    assert all(0.9 < cases[name]["ratio"] < 1.1 for name in ("gpu/plan_mib_recompute_1", "gpu/plan_mib_plain_1"))
    assert [json.loads(line) for line in (tmp_path / "gpu" / "lines.jsonl").read_text().splitlines()] == lines


def test_what_fails_is_said_and_the_next_section_runs() -> None:
    command = (
        "import sys; sys.path.insert(0, sys.argv[1]); import gpu; sys.exit(print(gpu.run_section('launches', ['--device', 'cpu'], 0.01)))"
    )
    done = subprocess.run([sys.executable, "-c", command, str(BENCHMARKS)], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout.splitlines()[0]) == {"section": "launches", "failed": "stopped after 0 s"}
    code, lines = run_gpu("--only", "launches", "--swift", "/nowhere")
    assert (code, [line["case"] for line in lines]) == (0, ["gpu/launches_counted"])
