"""Makes the weights that come with slimbrain: prepares ABIDE and HCP, trains the network, fits the connectome, writes the model folder.

    make weights
    python benchmarks/weights.py --out weights-run --store prepared/    # a store that is there already

Restarts where it stopped. Data: `../shared/data/roi` beside the checkout. What the weights are worth is measured by `stage1/run.py
--experiment shipped`, which fits the same recipe without the people it is tested on; its rows go into the card.
"""

from __future__ import annotations

import argparse
import csv
import shutil
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
DATA = ROOT.parent / "shared" / "data" / "roi"
WEIGHTS = ROOT / "src" / "slimbrain" / "weights"
RECIPE = ROOT / "benchmarks" / "weights.yaml"
CONTESTS = ROOT / "results" / "weights.csv"
LICENCE = "CC-BY-NC-4.0"
MOST_BYTES = 8_000_000

ABIDE_TERMS = ("--cohort", "ABIDE", "--source-id", "ABIDE I, Preprocessed Connectomes Project", "--license", "LicenseRef-ABIDE-research")
HCP_TERMS = ("--cohort", "HCP", "--source-id", "HCP Young Adult, S1200", "--license", "HCP-Open-Access-DUT")


def run(*words: str | Path) -> None:
    """One command of slimbrain, printed as it could be typed."""
    from slimbrain.cli import run_command

    arguments = [str(word) for word in words]
    print("slimbrain", *arguments, file=sys.stderr, flush=True)
    if code := run_command(arguments):
        raise SystemExit(code)


def prepare(store: Path) -> None:
    """Both cohorts into one store; sessions that are there already stay."""
    for site in sorted((DATA / "abide-cc200").iterdir()):
        run("prep", site, store, "participant", *ABIDE_TERMS, "--consent", "no-commercial")
    run("prep", DATA / "hcp-dk68", store, "participant", *HCP_TERMS, "--consent", "unknown")


def write_participants(store: Path, path: Path) -> None:
    """All participants but those of whom a recording stands under another name, too: which of the two is right, nobody knows."""
    from slimbrain.governance.duplicates import find_duplicates
    from slimbrain.store import Store

    opened = Store(store)
    pairs = [pair for pair in find_duplicates(opened) if not pair.one_participant]
    dropped = {info.subject for pair in pairs for info in (pair.first, pair.second)}
    print(f"left out, as copies: {', '.join(sorted(dropped)) or 'nobody'}", file=sys.stderr)
    people = sorted(opened.sessions.subjects - dropped)
    path.write_text("\n".join(["participant_id", *people]) + "\n", encoding="utf-8")


def write_model(source: Path, folder: Path) -> None:
    """The model folder as it ships: half precision but for the readout, a licence, and the contests in its card."""
    import torch

    from slimbrain.models.card import LICENCE as LICENCE_FIELD
    from slimbrain.models.hub import from_pretrained, require_model, save_pretrained, write_card
    from slimbrain.models.temporal import TemporalExtractor

    model = require_model(from_pretrained(source), TemporalExtractor, source)
    assert model.provenance is not None
    provenance = replace(model.provenance, training={**model.provenance.training, LICENCE_FIELD: LICENCE})
    state = {
        name: tensor.half() if tensor.dtype == torch.float32 and not name.startswith("connectome.") else tensor
        for name, tensor in model.state_dict().items()
    }
    shutil.rmtree(folder, ignore_errors=True)
    save_pretrained(model, folder, provenance, state)
    shipped = require_model(from_pretrained(folder), TemporalExtractor, folder)
    write_card(folder, shipped, measured())
    size = sum(path.stat().st_size for path in folder.iterdir())
    print(f"{folder}: {size / 1e6:.2f} MB", file=sys.stderr)
    if size > MOST_BYTES:
        raise SystemExit(f"{folder}: has {size} bytes, more than {MOST_BYTES}; choose a smaller network.")


def measured() -> list[object]:
    """The contests of the card, from results/weights.csv."""
    from slimbrain.models.card import Measured

    if not CONTESTS.is_file():
        return []
    with CONTESTS.open(encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["in_card"] == "yes"]
    methods = list(Counter(row["method"] for row in rows))
    contests = list(dict.fromkeys((row["contest"], row["metric"]) for row in rows))
    found = {
        (row["contest"], row["method"]): f"{float(row['mean']):.3f} [{float(row['low']):.3f}, {float(row['high']):.3f}]" for row in rows
    }
    lines = ["## Contests", "", f"| contest | score | {' | '.join(methods)} |", f"|---|---|{'---|' * len(methods)}"]
    lines += [f"| {name} | {metric} | {' | '.join(found.get((name, method), '') for method in methods)} |" for name, metric in contests]
    lines += [
        "",
        "Mean with 95 % interval over people; higher is better. The same recipe without the people tested, four folds; docs/pretrained.md.",
    ]
    return [Measured("\n".join(lines), "traits", "ABIDE", {})]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "weights-run", help="working folder, continued where it exists")
    parser.add_argument("--store", type=Path, help="a store of both cohorts; prepared into --out if not given")
    parser.add_argument("--network", type=Path, help="a trained network; trained into --out if not given")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    store, people = options.store or options.out / "store", options.out / "participants.tsv"
    if options.store is None:
        prepare(store)
    write_participants(store, people)
    network = options.network or options.out / "network" / "model"
    if options.network is None:
        run("pretrain", "temporal", store, "--preset", RECIPE, "--participants", people, "--out", network.parent, "--resume", "auto")
    run("connectome", store, "--temporal", network, "--participants", people, "--out", options.out / "model")
    write_model(options.out / "model", WEIGHTS / "slimbrain-temporal")


if __name__ == "__main__":
    main()
