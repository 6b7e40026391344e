"""What preparation says of terms: taken from the file or from options, unknown aloud, never loosened, and nobody withdrawn comes back."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from slimbrain.errors import InputError
from slimbrain.governance.query import set_governance
from slimbrain.governance.withdraw import withdraw
from slimbrain.grid import Grid
from slimbrain.prep import PrepOptions, PrepSummary, prepare
from slimbrain.store import Store
from slimbrain.store.records import Governance
from slimbrain.store.verify import verify
from slimbrain.store.withdrawn import withdrawn

WriteRun = Callable[..., Path]
Prep = Callable[..., PrepSummary]
FILE = "cohort: study\nlicense: CC-BY-4.0\nconsent: [broad-research]\n"


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "store"


@pytest.fixture
def prep(write_run: WriteRun, bids_dir: Path, out: Path, mask8: Path) -> Prep:
    """Two runs of 10 frames, prepared with options."""
    for subject in ("sub-01", "sub-02"):
        write_run(subject, frames=10)
    (bids_dir / "participants.tsv").write_text("participant_id\tage\nsub-01\t31\nsub-02\t32\n")

    def run(**options: object) -> PrepSummary:
        return prepare(bids_dir, out, PrepOptions(mask=mask8, resolution="8mm", **options))

    return run


def said(out: Path) -> list[Governance]:
    store = Store(out)
    return [store.governance(info) for info in store.sessions]


def test_unknown_is_said_in_one_line(prep: Prep, out: Path, capsys: pytest.CaptureFixture[str], grid8: Grid) -> None:
    assert prep().exit_code == 0
    lines = [line for line in capsys.readouterr().err.splitlines() if "UNKNOWN" in line]
    assert len(lines) == 1 and lines[0].startswith(
        "UNKNOWN: nobody says the licence of 2 of 2 sessions and the consent of 2 of 2 sessions; put a governance.yaml"
    )
    assert said(out) == [Governance(), Governance()]
    # Said later, it is taken up without preparing anything again.
    summary = prep(license="MIT", consent=("broad-research",), cohort="study")
    assert (len(summary.skipped), len(summary.prepared)) == (2, 0) and "UNKNOWN" not in capsys.readouterr().err
    assert said(out) == 2 * [Governance(cohort="study", licence="MIT", consent=("broad-research",))]
    assert verify(out).problems == []


def test_the_file_of_the_source_is_taken_and_never_loosens(
    prep: Prep, out: Path, bids_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (bids_dir / "governance.yaml").write_text(FILE)
    prep()
    read = Governance(cohort="study", licence="CC-BY-4.0", consent=("broad-research",))
    assert said(out) == [read, read] and "UNKNOWN" not in capsys.readouterr().err
    store = Store(out)
    assert store.sidecar(store.sessions[0].key)["Cohort"] == "study"
    strict = tmp_path / "strict.yaml"
    strict.write_text("license: CC-BY-NC-4.0\nconsent: no-commercial\n")
    set_governance(store.root, strict, ["participant_id == 'sub-02'"])
    prep()
    assert [record.licence for record in said(out)] == ["CC-BY-4.0", "CC-BY-NC-4.0"]
    assert "1 sessions stay under stricter terms set before" in capsys.readouterr().err
    # Nor where the data are prepared anew.
    prep(force=True)
    assert [record.consent for record in said(out)] == [("broad-research",), ("no-commercial",)]
    (bids_dir / "governance.yaml").write_text(FILE + "not_for: [insurers]\n")
    prep(participant_label=("01",))
    assert [record.not_for for record in said(out)] == [("insurers",), ()]


def test_sessions_of_another_cohort_do_not_take_over_its_terms(prep: Prep, out: Path) -> None:
    prep(cohort="a", license="CC0-1.0", consent=("broad-research",))
    summary = prep(cohort="b", license="MIT")
    assert len(summary.failures) == 2 and "cohort b: these sessions are of cohort a" in summary.failures[0].reason
    assert [record.licence for record in said(out)] == 2 * ["CC0-1.0"]
    prep(cohort="b", force=True)
    assert said(out) == 2 * [Governance(cohort="b")]


def test_what_was_read_is_sealed(prep: Prep, out: Path, bids_dir: Path) -> None:
    prep()
    store = Store(out)
    sums = store.sidecar(store.sessions[0].key)["SourceSha256"]
    assert sums and sums == {name: hashlib.sha256((bids_dir / name).read_bytes()).hexdigest() for name in sums}
    assert any(name.endswith("_bold.nii.gz") for name in sums)


def test_wrong_words_stop_before_anything_is_made(prep: Prep, out: Path) -> None:
    with pytest.raises(InputError, match=r"--consent: consent: 'non-commercial' looks like no-commercial"):
        prep(consent=("non-commercial",))
    with pytest.raises(InputError, match=r"nowhere.yaml: cannot be read as YAML \(No such file or directory\)"):
        prep(governance=Path("nowhere.yaml"))
    assert not out.exists()


def test_who_was_withdrawn_is_not_prepared_again_unless_by_name(prep: Prep, out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prep(cohort="study")
    withdraw(out, "sub-02", "asked to")
    summary = prep(cohort="study", force=True)
    assert ([row.key[:6] for row in summary.prepared], len(summary.withdrawn), summary.exit_code) == (["sub-01"], 1, 1)
    assert "sub-02 was withdrawn on" in capsys.readouterr().err
    for path in out.rglob("*"):
        assert "sub-02" not in path.name and (not path.is_file() or b"sub-02" not in path.read_bytes())
    with pytest.raises(InputError, match="--readmit sub-01: was not withdrawn"):
        prep(cohort="study", readmit=("01",))
    with pytest.raises(InputError, match="--readmit sub-09: has no run here"):
        prep(cohort="study", readmit=("sub-09",))
    assert [row.key[:6] for row in prep(cohort="study", readmit=("02",)).prepared] == ["sub-02"]
    assert not withdrawn(out) and Store(out).participants["sub-02"]["age"] == "32"
    assert json.loads((out / "governance.json").read_text())


def test_where_the_cohort_is_not_told_the_label_counts(prep: Prep, out: Path) -> None:
    prep(cohort="study")
    withdraw(out, "sub-02")
    assert len(prep().withdrawn) == 1
    assert len(prep(cohort="another", force=True).withdrawn) == 0
