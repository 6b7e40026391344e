"""Brainmarks itself, from the Python Package Index: its own two commands, on a dataset in its own layout."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import subprocess
import sys
import zlib
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from suite_samples import Array, noise, sample, save_models

from slimbrain.grid import Grid

ROOT = Path(__file__).resolve().parents[2]
MASK_NAME = "tpl-MNI152NLin6Asym_res-02_desc-brain_mask.nii.gz"
SPLITS = {"train": 12, "validation": 6, "test": 12}
LENGTHS = (14, 14, 11)
TR_S = 1.5
"""Frames, and their seconds; recordings of a study are not all of one length."""

PERIOD_S = 12.0
"""Of the fluctuation in patients."""

MOST_WRONG = 2
"""Of 12 test recordings: coins are this good once in 52 times."""

pytestmark = [
    pytest.mark.slow,
    # A quarter of a minute each, but for a machine with much else to do.
    pytest.mark.timeout(1200),
    pytest.mark.skipif(
        find_spec("brainmarks.main_logistic") is None, reason="brainmarks is not installed; `make brainmarks` installs it and runs this"
    ),
]


@pytest.fixture(scope="module")
def published_mask() -> Path:
    """Brainmarks' mask, from the real recordings or from NiMARE, which ships it."""
    places = [ROOT.parent / "shared" / "data" / "templates" / MASK_NAME]
    if (nimare := find_spec("nimare")) and nimare.origin:
        places.append(Path(nimare.origin).parent / "resources" / "templates" / MASK_NAME)
    if not (found := next((path for path in places if path.is_file()), None)):
        pytest.skip(f"no {MASK_NAME}: neither shared/data stands beside the checkout nor is nimare installed")
    return found


@pytest.fixture(scope="module")
def environment(published_mask: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What the commands inherit: a dataset, a checkpoint by variables, the mask where TemplateFlow keeps it, and no network needed."""
    root = tmp_path_factory.mktemp("suite")
    image = nibabel.as_closest_canonical(nibabel.load(published_mask))
    write_dataset(root / "data", np.asarray(image.dataobj) > 0)
    stage2, stage1 = save_models(root / "models", Grid.from_nifti(published_mask, "8mm"))
    template = root / "templateflow" / "tpl-MNI152NLin6Asym"
    template.mkdir(parents=True)
    shutil.copy(published_mask, template / MASK_NAME)
    # What the suite's libraries write by themselves stays out of the user's home.
    homes = {name: root / name.lower() for name in ("HF_HOME", "XDG_CONFIG_HOME", "XDG_CACHE_HOME", "OUT")}
    for home in homes.values():
        home.mkdir()
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, (str(ROOT / "src"), os.environ.get("PYTHONPATH")))),
        "SLIMBRAIN_CHECKPOINT": str(stage2),
        "SLIMBRAIN_TEMPORAL": str(stage1),
        "TEMPLATEFLOW_HOME": str(root / "templateflow"),
        "ABIDE_ROOT": str(root / "data"),
        **{name: str(home) for name, home in homes.items()},
        "HF_HUB_OFFLINE": "1",
    }


def write_dataset(root: Path, brain: Array) -> None:
    """ABIDE as Brainmarks lays it out: an Arrow folder a split, made by the library that it uses, and diagnoses by participant.

    In patients the brain fluctuates as one, and slowly. Each recording has a phase of its own, so that nothing but that is shared by those
    that teach and those that test.
    """
    import datasets

    size = int(brain.sum())
    listed = datasets.Features(
        {name: datasets.Value("string") for name in ("sub", "site", "path")}
        | {"n_frames": datasets.Value("int32"), "tr": datasets.Value("float32")}
        | {"bold": datasets.Array2D((None, size), "float16")}
        | {name: datasets.Array2D((1, size), "float32") for name in ("mean", "std")}
    )
    diagnoses: dict[str, str] = {}
    for split, count in SPLITS.items():
        rows = [recording(f"{split}{number}", number, brain) for number in range(count)]
        diagnoses |= {row["sub"]: "Autism" if number % 2 else "Control" for number, row in enumerate(rows)}
        whole = datasets.Dataset.from_list(rows, features=listed)
        whole.save_to_disk(root / "abide.mni.arrow" / split)
    (root / "targets").mkdir()
    (root / "targets" / "abide_target_map_dx.json").write_text(json.dumps(diagnoses), encoding="utf-8")


def recording(subject: str, number: int, brain: Array) -> dict[str, Any]:
    frames, seed = LENGTHS[number % len(LENGTHS)], zlib.crc32(subject.encode())
    volumes = noise(frames, seed=seed)
    if number % 2:
        phase = np.random.default_rng(seed).uniform()
        course = np.sin(2 * np.pi * (TR_S * np.arange(frames) / PERIOD_S + phase)).astype(np.float32)
        volumes += 140 * course[:, None, None, None]
    arrays = {name: value.numpy() for name, value in sample(volumes, brain).items() if name in ("bold", "mean", "std")}
    return {"sub": subject, "site": "A", "path": f"{subject}_bold.nii.gz", "n_frames": frames, "tr": TR_S, **arrays}


def call(environment: dict[str, str], *words: str) -> str:
    done = subprocess.run([sys.executable, "-m", *words], env=environment, cwd=environment["OUT"], capture_output=True, text=True)
    print(done.stdout, done.stderr)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "plugin slimbrain failed" not in done.stdout + done.stderr
    return done.stdout


def test_the_suites_own_test_of_models_passes(environment: dict[str, str]) -> None:
    output = call(environment, "brainmarks.models.test_models", "slimbrain")
    # The command ends well whatever pytest found.
    counts = dict((word, int(count)) for count, word in re.findall(r"(\d+) (passed|failed|error)", output))
    assert counts == {"passed": 2}


@pytest.mark.parametrize("representation", ["patch", "cls"])
def test_a_logistic_probe_finds_what_was_planted(environment: dict[str, str], representation: str) -> None:
    settings = {"device": "cpu", "num_workers": 1, "batch_size": 3, "n_trials": 0, "cv_folds": 3, "output_root": environment["OUT"]}
    overrides = [f"{name}={value}" for name, value in settings.items()]
    output = call(environment, "brainmarks.main_logistic", "slimbrain", representation, "abide_dx", "--overrides", *overrides)
    width = {"patch": 64, "cls": 3 * 64}[representation]
    assert all(f"{split} features: ({count}, {width})" in output for split, count in SPLITS.items())
    (table,) = Path(environment["OUT"]).rglob(f"abide_dx__slimbrain__{representation}__logistic/eval_table.csv")
    rows = {row["split"]: row for row in csv.DictReader(table.open(encoding="utf-8"))}
    assert round((1 - float(rows["test"]["acc"])) * SPLITS["test"]) <= MOST_WRONG
