"""The benchmarks print what other programs read, and the network they compare with is the one they say it is."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import nibabel
import numpy as np
import pytest
import torch
from store_samples import make_store

from slimbrain.config import HieraConfig, load_preset
from slimbrain.data.clip import Clip
from slimbrain.grid import LATTICES, Grid
from slimbrain.models.hiera import Hiera

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
KEYS = ["case", "value", "unit", "against", "against_value", "ratio", "detail"]
STAGE2_CASES = {
    *("stage2/target_gflops", "stage2/context_gflops", "stage2/step_seconds"),
    *("stage2/saved_mib_recompute", "stage2/saved_mib_plain", "stage2/peak_rss_mib"),
}
PREP_CASES = {"prep/resample_seconds", "prep/resample_seconds_2mm", "prep/peak_rss_mib"}
STORE_CASES = {
    *("store/window_ms", "store/window_ms_npz", "store/window_ms_nii_gz", "store/window_ms_long"),
    *("store/bytes", "store/windows_per_second", "store/open_ms", "store/add_ms", "store/copies_ms"),
}


@pytest.fixture
def benchmark_module(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Import a module of benchmarks/, which is no package, as its programs do."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))

    def load(name: str) -> ModuleType:
        return __import__(name)

    return load


def run_quick(script: str, *options: str) -> dict[str, dict[str, Any]]:
    """Cases by name; every line of standard output must be one."""
    command = [sys.executable, str(BENCHMARKS / script), "--quick", *options]
    lines = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()
    cases = [json.loads(line) for line in lines]
    assert len({case["case"] for case in cases}) == len(cases)
    return {case["case"]: case for case in cases}


def assert_schema(case: dict[str, Any]) -> None:
    assert list(case) == KEYS
    assert all(isinstance(case[key], str) and case[key] for key in ("case", "unit", "against"))
    assert all(isinstance(case[key], (int, float)) and case[key] > 0 for key in ("value", "against_value", "ratio"))
    assert math.isclose(case["ratio"], case["value"] / case["against_value"], rel_tol=2e-3)
    assert case["detail"]["quick"] is True


def test_cli_benchmark_prints_its_case() -> None:
    cases = run_quick("cli.py")
    assert cases.keys() == {"cli/help_seconds"}
    assert_schema(cases["cli/help_seconds"])
    # Starting the interpreter is part of both.
    assert cases["cli/help_seconds"]["ratio"] > 1


@pytest.mark.slow
def test_scale_benchmark_prints_its_cases() -> None:
    cases = run_quick("scale.py")
    paces = {f"scale/clips_per_second_{name}" for name in ("1_a100", "8_h100", "64_h100")}
    assert cases.keys() == {*paces, "scale/list_ms", "scale/find_ms"}
    for name, case in cases.items():
        assert_schema(case)
        if name in paces:
            # Nothing is faster than the devices alone, and the file system's pace is not exceeded.
            assert case["ratio"] <= 1.001 and case["detail"]["servers_busy"] <= 1.05


def test_scale_counts_the_bytes_that_a_store_holds(benchmark_module: Any, grid8: Grid, tmp_path: Path) -> None:
    scale = benchmark_module("scale")
    store = make_store(tmp_path / "store", grid8, subjects=1, frames=60)
    (info,) = store.sessions
    assert scale.session_bytes(grid8, 60) == pytest.approx((store.root / info.path).stat().st_size, rel=0.01)


@pytest.mark.slow
def test_evaluate_benchmark_prints_its_cases() -> None:
    cases = run_quick("evaluate.py")
    assert cases.keys() == {"evaluate/seconds", "evaluate/peak_rss_mib"}
    for case in cases.values():
        assert_schema(case)
        areas = [*case["detail"]["auc"].values(), *case["detail"]["against_auc"].values()]
        assert len(areas) == 6 and min(areas) > 0.9


@pytest.mark.slow
def test_baselines_benchmark_finds_what_was_planted() -> None:
    """Sex in the coupling of one pair of channels, age in that of another."""
    cases = run_quick("baselines.py", "--axes-from", "0.3")
    tangent = "connectivity/tangent towards the population, whole run"
    assert cases[f"baselines/sex/{tangent}"]["value"] > 0.9 and cases[f"baselines/age/{tangent}"]["value"] > 0.3
    assert cases["baselines/sex/confounds/age, site"]["value"] < 0.8
    (axes,) = (case for name, case in cases.items() if name.startswith("baselines/sex/linear pretraining"))
    assert axes["value"] > 0.7 and axes["detail"]["people"] < 55


@pytest.mark.slow
def test_null_benchmark_counts_small_p_values() -> None:
    cases = run_quick("null_choice.py")
    assert {"null/classification_auc_p_small", "null/regression_r_p_small", "null/regression_interval_covers"} <= cases.keys()
    small = [case for name, case in cases.items() if name.endswith("_p_small")]
    assert all(0 <= case["value"] <= 0.5 and case["detail"]["quick"] for case in small)
    assert all(case["value"] > 0.5 for name, case in cases.items() if name.endswith("_covers")) and len(small) < len(cases)


def test_probe_benchmark_prints_its_case() -> None:
    cases = run_quick("probe.py")
    assert cases.keys() == {"probe/path_seconds_38_sessions"}
    assert_schema(cases["probe/path_seconds_38_sessions"])
    assert cases["probe/path_seconds_38_sessions"]["detail"]["largest_error_of_a_probability"] < 1e-5


@pytest.mark.slow
def test_stage2_benchmark_prints_its_cases() -> None:
    cases = run_quick("stage2.py", "--threads", "1", "--repeats", "1")
    assert cases.keys() == STAGE2_CASES
    for case in cases.values():
        assert_schema(case)
        assert case["against"] == "dense-reference"
    assert cases["stage2/context_gflops"]["value"] < 0.5 * cases["stage2/target_gflops"]["value"]
    assert cases["stage2/saved_mib_recompute"]["value"] < cases["stage2/saved_mib_plain"]["value"]


@pytest.mark.slow
def test_stage2_benchmark_compares_with_a_checkout_of_swift(tmp_path: Path) -> None:
    """A stand-in that holds one number per frame, and whose step costs next to nothing."""
    folder = tmp_path / "project" / "module" / "models"
    folder.mkdir(parents=True)
    (folder / "swin4d_transformer_ver7.py").write_text(
        "from torch import nn\n"
        "class SwinTransformer4D(nn.Module):\n"
        "    def __init__(self, img_size, **_):\n"
        "        super().__init__()\n"
        "        self.fc = nn.Linear(img_size[-1], 1)\n"
        "    def forward(self, volumes):\n"
        "        return self.fc(volumes.mean((1, 2, 3, 4)))\n",
        encoding="utf-8",
    )
    cases = run_quick("stage2.py", "--threads", "1", "--repeats", "1", "--swift", str(tmp_path))
    ways = ("recompute", "plain", "half_in_view")
    assert cases.keys() == {f"stage2/{way}_{what}" for way in ways for what in ("step_seconds", "saved_mib")}
    assert all(case["against"] == "SwiFT" and case["ratio"] > 1 for case in cases.values())
    saved = [cases[f"stage2/{way}_saved_mib"]["value"] for way in ways]
    assert saved[0] < saved[1] > saved[2]


@pytest.mark.slow
def test_saliency_benchmark_prints_its_cases() -> None:
    cases = run_quick("saliency.py", "--threads", "1")
    assert cases.keys() == {"saliency/exact_seconds", "saliency/fast_seconds", "saliency/spearman"}
    for case in cases.values():
        assert_schema(case)
    assert cases["saliency/fast_seconds"]["detail"]["exact_passes"] > 2 * cases["saliency/fast_seconds"]["detail"]["fast_passes"]
    curve = cases["saliency/spearman"]["detail"]["by_spacing"]
    assert 0.9 < curve["6, 3"]["score"] <= 1 and curve["2, 2"]["score"] < curve["6, 3"]["score"]


def test_stage1_speed_benchmark_prints_its_cases() -> None:
    cases = run_quick("stage1_speed.py")
    assert cases.keys() == {"stage1/session_seconds", "stage1/session_seconds_same_network"}
    for case in cases.values():
        assert_schema(case)
    assert cases["stage1/session_seconds"]["detail"]["network"] == load_preset("small").temporal.model_dump()


@pytest.mark.slow
def test_selection_benchmark_prints_a_line_for_each_selector() -> None:
    cases = run_quick("selection.py", "--threads", "1")
    names = (
        "events_known",
        "response_known",
        "ours",
        "ours_fast",
        "ours_by_score_alone",
        "ours_without_dvars",
        "informativeness",
        "published",
    )
    names += ("uniform", "highest_variance", "highest_dvars")
    assert list(cases) == [f"selection/recall_{name}_seed_3" for name in names]
    for case in cases.values():
        assert list(case) == KEYS and case["against"] == "random" and case["against_value"] == 0.2
        assert 0 <= case["value"] <= 1 and 0 <= case["detail"]["share_of_chosen_with_a_spike"] <= 1
        # Six events peak in six of the windows, of which five are taken.
        assert case["value"] <= cases["selection/recall_events_known_seed_3"]["value"] == pytest.approx(5 / 6, abs=1e-3)
    assert cases["selection/recall_response_known_seed_3"]["ratio"] > 3


@pytest.mark.slow
def test_mixtures_benchmark_prints_what_a_mixture_costs() -> None:
    cases = run_quick("mixtures.py", "--only", "plan", "cost")
    names = ("plan_seconds", "manifest_seconds", "sampler_seconds_every_5", "adaptive_seconds_every_5")
    assert list(cases) == [f"mixtures/{name}" for name in names]
    for case in cases.values():
        assert_schema(case)
    # Four clips for each five steps of four: less than a third, whatever the machine.
    assert cases["mixtures/adaptive_seconds_every_5"]["ratio"] < 1 and cases["mixtures/sampler_seconds_every_5"]["ratio"] < 0.05


@pytest.mark.slow
def test_maps_benchmark_prints_an_overlap_and_a_control_for_each_method() -> None:
    """Nothing is found in a cohort of six; the three methods that explain decisions are one to the benchmark, so that one runs here."""
    cases = run_quick("maps.py", "--methods", "gradient", "surprise", "channels")
    assert list(cases) == [f"maps/{name}" for name in ("gradient_as_is", "gradient_smoothed", "surprise_of_events", "channels_of_networks")]
    for case in cases.values():
        assert_schema(case)
        low, high = case["detail"]["interval"]
        assert 0 <= low <= high <= 1 and case["unit"] == "area under the ROC curve"
    gradient = cases["maps/gradient_smoothed"]["detail"]
    assert gradient["participants"] == 6 and len(gradient["shuffled"]) == 2 and gradient["control"]["probe"]["metric"] == "auc"
    assert cases["maps/surprise_of_events"]["detail"]["events"] > 0


@pytest.mark.slow
def test_prep_benchmark_prints_its_cases() -> None:
    cases = run_quick("prep.py")
    assert cases.keys() == PREP_CASES
    for case in cases.values():
        assert_schema(case)
    for name in ("prep/resample_seconds", "prep/resample_seconds_2mm"):
        assert cases[name]["against"] == "nilearn"
        assert cases[name]["detail"]["max_difference_of_overall_sd"] < 1e-4
        assert cases[name]["detail"]["frames_per_second"] > 0
        assert cases[name]["detail"]["gzip_share"] > 0
    peaks = {name: peak for name, peak in cases["prep/peak_rss_mib"]["detail"].items() if name.startswith("frames_")}
    assert len(peaks) == 2
    assert all(peak["absolute"] > peak["above_base"] > 0 for peak in peaks.values())


@pytest.mark.slow
def test_store_benchmark_prints_its_cases() -> None:
    cases = run_quick("store.py")
    assert cases.keys() == STORE_CASES
    for case in cases.values():
        assert_schema(case)
    # Files of a known size, whatever the machine.
    grid = Grid.mni152("4mm")
    voxels, moments, coarse = 2 * 300 * grid.voxel_mask.size, 8 * grid.voxel_mask.size, 4 * 300 * grid.n_cells
    # Beside these the file has a header of a kilobyte; the case is rounded to four digits.
    assert cases["store/bytes"]["value"] == pytest.approx(voxels + moments + coarse, rel=1e-3)
    assert cases["store/window_ms_npz"]["ratio"] < 0.2 and cases["store/window_ms_nii_gz"]["ratio"] < 0.2


def test_a_simulated_recording_of_any_length_is_a_whole_file(benchmark_module: Any, tmp_path: Path) -> None:
    """Several gzip members in a row must read as one image, here also by another library."""
    recordings = benchmark_module("recordings")
    space = recordings.Space((6, 7, 8), 20.0, (50.0, -60.0, -70.0))
    path = recordings.simulate(tmp_path, space, 2 * recordings.UNIQUE_FRAMES + 3, 0.72)
    image = nibabel.load(path)
    data = np.asarray(image.dataobj)
    assert data.shape == (6, 7, 8, 2 * recordings.UNIQUE_FRAMES + 3) and nibabel.aff2axcodes(image.affine) == ("L", "A", "S")
    np.testing.assert_array_equal(data[..., : recordings.UNIQUE_FRAMES], data[..., recordings.UNIQUE_FRAMES : 2 * recordings.UNIQUE_FRAMES])
    np.testing.assert_array_equal(data[..., :3], data[..., -3:])
    assert (data[..., 0] != data[..., 1]).any() and data[3, 3, 4].std() > 0 and not data[0, 0, 0].any()


def test_a_case_divides_and_keeps_four_digits(benchmark_module: Any) -> None:
    line = benchmark_module("case").Case("part/thing", 1.23456, "s", "other", 4.0, {"quick": True}).line()
    assert json.loads(line) == {
        **{"case": "part/thing", "value": 1.235, "unit": "s", "against": "other", "against_value": 4.0},
        **{"ratio": 0.3086, "detail": {"quick": True}},
    }


def test_dense_reference_equals_ours_where_all_is_brain(benchmark_module: Any) -> None:
    """Two regions side by side, all brain, seen whole: the published mask unit is our `region` of 8 frames."""
    dense_reference = benchmark_module("dense_reference")
    mask = np.zeros((96, 96, 96), dtype=bool)
    mask[:64, :32, :32] = True
    grid = Grid(LATTICES["2mm"], mask)
    shape: dict[str, Any] = {"embed": 8, "depths": (2, 2, 2, 1), "heads": (1, 2, 4, 8), "mlp_ratio": 2.0}
    torch.manual_seed(0)
    ours = Hiera(HieraConfig(**shape, unit="region", unit_frames=8, pooling="max"), grid.voxels_per_patch).double()
    for parameter in ours.parameters():  # the initial weights are so small that attention would be uniform
        parameter.data += 0.3 * torch.randn_like(parameter)
    dense = dense_reference.DenseHiera(dense_reference.DenseConfig(sides=(64, 32, 32), frames=16, **shape)).double()
    seconds = torch.arange(16) * 0.72
    copy_weights(ours, dense, grid, seconds)
    volumes = torch.randn(16, 96, 96, 96, dtype=torch.float64)
    clip = Clip(torch.tensor(grid.pack(volumes.numpy())), seconds, grid)
    with torch.no_grad():
        tokens, expected = ours([clip]), dense(volumes[:, :64, :32, :32])
    place = in_time_and_space(expected, dense.config.units)
    unit = torch.tensor(grid.units.index)[tokens.unit]
    found = place[tokens.step, unit[:, 0], unit[:, 1], unit[:, 2]]
    assert len(tokens.values) == place[..., 0].numel() == 4 * 4 * 2 * 2
    torch.testing.assert_close(tokens.values, found, rtol=0, atol=1e-8)


def copy_weights(ours: Hiera, dense: torch.nn.Module, grid: Grid, seconds: torch.Tensor) -> None:
    """Give `dense` the weights of `ours`; its position tables take what ours computes for each place and moment."""
    renamed = {name.replace("mlp.", ""): value for name, value in ours.state_dict().items()}
    mine = {name: value for name, value in renamed.items() if name in dense.state_dict()}
    with torch.no_grad():
        space = torch.zeros_like(dense.space)  # type: ignore[arg-type]
        space[tuple(torch.tensor(grid.patches.index).T)] = ours.space_embed(torch.tensor(grid.patches.mm))
        mine |= {"space": space, "time": ours.time_embed(seconds[:, None].double())}
    dense.load_state_dict(mine, strict=True)


def in_time_and_space(tokens: torch.Tensor, units: tuple[int, int, int, int]) -> torch.Tensor:
    """(N, 2^4, D) tokens of mask units -> (t, x, y, z, D)."""
    t, x, y, z = units
    cut = tokens.reshape(t, x, y, z, 2, 2, 2, 2, -1).permute(0, 4, 1, 5, 2, 6, 3, 7, 8)
    return cut.reshape(2 * t, 2 * x, 2 * y, 2 * z, -1)
