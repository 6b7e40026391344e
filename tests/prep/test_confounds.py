"""Tables of confounds that do not fit their run: each is a warning without --denoise, a refusal with it, and never a fault of ours."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from slimbrain.prep import PrepOptions, prepare
from slimbrain.store import Store

WriteRun = Callable[..., Path]
Table = list[list[str]]
FRAMES = 60


def sound() -> Table:
    """Header and rows as fMRIPrep writes them."""
    rng = np.random.default_rng(0)
    names = ["cosine00"]
    for base in (*(f"{kind}_{axis}" for kind in ("trans", "rot") for axis in "xyz"), "white_matter", "csf"):
        names += [base, f"{base}_derivative1", f"{base}_power2", f"{base}_derivative1_power2"]
    rows = [[f"{value:.6f}" for value in row] for row in rng.standard_normal((FRAMES, len(names)))]
    rows[0] = ["n/a" if "derivative" in name else value for name, value in zip(names, rows[0], strict=True)]
    table = [[*names, "framewise_displacement", "std_dvars"], *([*row, "0.1", "1.0"] for row in rows)]
    table[1][-2:] = ["n/a", "n/a"]
    return table


def cells(change: Callable[[Table], Table]) -> Callable[[Path], object]:
    return lambda path: path.write_text("\n".join("\t".join(row) for row in change(sound())) + "\n")


def column(name: str, value: str) -> Callable[[Path], object]:
    def change(table: Table) -> Table:
        place = table[0].index(name)
        return [table[0], *([*row[:place], value, *row[place + 1 :]] for row in table[1:])]

    return cells(change)


ATTACKS: dict[str, tuple[Callable[[Path], object], str, str]] = {
    "sound": (cells(lambda table: table), "", ""),
    "too few rows": (cells(lambda table: table[:-5]), "has 55 rows for 60 frames", "55 rows for 60 frames"),
    "too many rows": (cells(lambda table: [*table, table[-1]]), "has 61 rows for 60 frames", "61 rows for 60 frames"),
    "no rows": (cells(lambda table: table[:1]), "has 0 rows for 60 frames", "rows for 60 frames|does not serve"),
    "empty file": (lambda path: path.write_bytes(b""), "has 0 rows for 60 frames", "does not serve|rows for 60 frames"),
    "columns missing": (cells(lambda table: [row[:5] for row in table]), "holds no motion", "does not serve"),
    "all n/a": (
        cells(lambda table: [table[0], *(["n/a"] * len(row) for row in table[1:])]),
        "holds no motion",
        "lacks numbers|leave nothing",
    ),
    "motion n/a": (column("framewise_displacement", "n/a"), "holds no motion", ""),
    "tissue n/a": (column("white_matter", "n/a"), "", "lacks numbers|does not serve"),
    "short rows": (cells(lambda table: [table[0], *(row[:3] for row in table[1:])]), "holds no motion", "lacks numbers|does not serve"),
    "infinite motion": (
        column("framewise_displacement", "inf"),
        "!something else than finite numbers",
        "something else than finite numbers",
    ),
    "text": (column("framewise_displacement", "much"), "!something else than finite numbers", "something else than finite numbers"),
    "constant": (column("csf", "1.0"), "", ""),
    "no text": (lambda path: path.write_bytes(b"\xff\xfe\x00\x01" * 100), "!cannot be read", "does not serve|cannot be read"),
    "commas": (lambda path: path.write_text("\n".join(",".join(row) for row in sound())), "holds no motion", "does not serve"),
}
"""How the table is written; what is said of it without --denoise (after !: a refusal); the refusal with --denoise simple."""


@pytest.mark.parametrize("attack", ATTACKS)
def test_a_table_that_does_not_fit_is_told_in_a_sentence(
    attack: str, write_run: WriteRun, bids_dir: Path, mask8: Path, tmp_path: Path
) -> None:
    write, warned, refused = ATTACKS[attack]
    write_run(frames=FRAMES).parent.joinpath("sub-01_task-rest_desc-confounds_timeseries.json").write_text(json.dumps({}))
    path = bids_dir / "sub-01" / "func" / "sub-01_task-rest_desc-confounds_timeseries.tsv"
    write(path)
    for denoise, said in (("none", warned), ("simple", f"!{refused}" if refused else warned)):
        summary = prepare(bids_dir, tmp_path / denoise, PrepOptions(mask=mask8, resolution="8mm", denoise=denoise))
        if said.startswith("!"):
            (failure,) = summary.failures
            assert any(words in failure.reason for words in said[1:].split("|")), failure.reason
            assert str(path) in failure.reason and failure.reason.endswith(".") and "\n" not in failure.reason
            assert "fault of slimbrain" not in failure.reason
            continue
        (run,) = summary.prepared
        qc = Store(tmp_path / denoise).sessions[0].qc
        assert ("fd_mean" in qc and qc["fd_mean"] == "0.1") == (not said or (denoise == "none" and not warned))
        assert any(said in warning for warning in run.warnings) if said else run.warnings == ()
        # A sidecar is JSON, which has no infinite numbers.
        json.loads(next((tmp_path / denoise).rglob("*_bold.json")).read_text(), parse_constant=lambda name: pytest.fail(name))
