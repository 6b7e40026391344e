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
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
DATA = ROOT.parent / "shared" / "data" / "roi"
WEIGHTS = ROOT / "src" / "slimbrain" / "weights"
RECIPE = ROOT / "benchmarks" / "weights.yaml"
CONTESTS = ROOT / "results" / "stage1" / "shipped.csv"
LICENCE = "CC-BY-NC-4.0"
MOST_BYTES = 8_000_000
_LEGEND = (
    "Mean with 95 % interval over people; age: R2 of its logarithm, chance 0; sex and diagnosis: AUC, chance 0.5; higher is better. Bold: "
    "the paired difference from the connectome has an interval that excludes zero. The same recipe, fitted without the people who are "
    "tested; labels are of tested people unless it says pretraining people. docs/pretrained.md."
)

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


def write_model(source: Path, folder: Path, card: str, most_bytes: int = MOST_BYTES) -> None:
    """The model folder as it ships: half precision but for the readout, a licence, and what was measured in its card."""
    import torch

    from slimbrain.models.card import LICENCE as LICENCE_FIELD
    from slimbrain.models.card import Measured
    from slimbrain.models.hub import from_pretrained, save_pretrained, write_card

    model = from_pretrained(source)
    assert model.provenance is not None
    provenance = replace(model.provenance, training={**model.provenance.training, LICENCE_FIELD: LICENCE})
    state = {
        name: tensor.half() if tensor.dtype == torch.float32 and not name.startswith("connectome.") else tensor
        for name, tensor in model.state_dict().items()
    }
    shutil.rmtree(folder, ignore_errors=True)
    save_pretrained(model, folder, provenance, state)
    write_card(folder, from_pretrained(folder), [Measured(card, "traits", "ABIDE", {})] if card else [])
    size = sum(path.stat().st_size for path in folder.iterdir())
    print(f"{folder}: {size / 1e6:.2f} MB", file=sys.stderr)
    if size > most_bytes:
        raise SystemExit(f"{folder}: has {size} bytes, more than {most_bytes}; choose a smaller network.")


def contests() -> str:
    """The contests of the card, from results/stage1/shipped.csv."""
    if not CONTESTS.is_file():
        return ""
    with CONTESTS.open(encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["in_card"] == "yes"]
    methods = list(dict.fromkeys(row["method"] for row in rows))
    contests = list(dict.fromkeys((row["contest"], row["trait"], row["metric"]) for row in rows))
    found = {(row["contest"], row["trait"], row["method"]): _cell(row) for row in rows}
    lines = ["## Contests", "", f"| contest | score | {' | '.join(methods)} |", f"|---|---|{'---|' * len(methods)}"]
    for contest, trait, metric in contests:
        cells = [found.get((contest, trait, method), "") for method in methods]
        lines.append(f"| {trait}: {contest} | {metric} | {' | '.join(cells)} |")
    lines += ["", _LEGEND, "", *_LIMITS]
    return "\n".join(lines)


_LIMITS = (
    "## Limits",
    "",
    "- With 250 labels and more `native`, in which no weights have a part, tells age better.",
    "- The network's features alone predict no trait; in `both` they are 4 columns of 4,100. It is for ranking windows.",
    "- People are found again over days less often than by the tangent.",
    "- Rest alone was pretrained on, of people of 6 to 64 years, most of them male; states of task were not tested.",
    "- People of the contests took part in choosing the recipe, and rpn122 did, too: figures are somewhat optimistic.",
)


def _cell(row: Mapping[str, str]) -> str:
    """A score with its interval; bold where the interval of the difference from the connectome excludes zero, in either direction."""
    text = f"{float(row['mean']):.3f} [{float(row['low']):.3f}, {float(row['high']):.3f}]"
    return f"**{text}**" if float(row["difference_low"]) > 0 or float(row["difference_high"]) < 0 else text


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
    run("connectome", store, "--model", network, "--participants", people, "--out", options.out / "model")
    write_model(options.out / "model", WEIGHTS / "slimbrain-temporal", contests())


if __name__ == "__main__":
    main()
