"""C-PAC's names in ABIDE: sites, strategies, other pipelines."""

from __future__ import annotations

from pathlib import Path

import pytest
from layout_samples import Prep, write_image

from slimbrain.errors import InputError
from slimbrain.prep.layouts import choose_layout
from slimbrain.prep.layouts.base import RecordingQuery
from slimbrain.prep.layouts.cpac import CPAC
from slimbrain.store import Store

NAME = "Pitt_0050003_func_preproc.nii.gz"


def touch(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()


def test_a_release_becomes_a_store(tmp_path: Path, out: Path, prep: Prep) -> None:
    folder = tmp_path / "Outputs" / "cpac" / "filt_global" / "func_preproc"
    write_image(folder / NAME, tr=1.5)
    write_image(folder / "UM_1_0050272_func_preproc.nii.gz", tr=2.0)
    assert prep(tmp_path).exit_code == 0
    store = Store(out)
    assert [info.key for info in store.sessions] == [f"sub-{sub}_task-rest_space-MNI152NLin6Asym" for sub in ("0050003", "0050272")]
    sidecar = store.sidecar(store.sessions[0].key)
    assert (sidecar["SourceRepetitionTime"], sidecar["SourceRepetitionTimeFrom"]) == (1.5, "header")
    assert (sidecar["Layout"], sidecar["Strategy"], sidecar["Site"]) == ("cpac", "filt_global", "Pitt")
    assert "C-PAC" in sidecar["SpaceFrom"]
    assert {name: row["site"] for name, row in store.participants.items()} == {"sub-0050003": "Pitt", "sub-0050272": "UM_1"}


@pytest.mark.parametrize("depth", range(6))
def test_any_folder_of_the_release_may_be_named(tmp_path: Path, depth: int) -> None:
    parts = ("release", "Outputs", "cpac", "nofilt_noglobal", "func_preproc")
    touch(tmp_path.joinpath(*parts) / NAME)
    source = tmp_path.joinpath(*parts[:depth])
    assert choose_layout(source) is CPAC
    assert [run.image.name for run in CPAC.find(source, RecordingQuery()).runs] == [NAME]


def test_without_a_tr_in_the_header_it_is_asked_for(tmp_path: Path, prep: Prep) -> None:
    write_image(tmp_path / NAME, tr=0.0)
    assert "give it in seconds with --tr" in prep(tmp_path).failures[0].reason
    assert len(prep(tmp_path, tr=1.5).prepared) == 1


def test_strategies_are_not_chosen_between(tmp_path: Path) -> None:
    for strategy in ("filt_global", "nofilt_noglobal"):
        touch(tmp_path / "cpac" / strategy / "func_preproc" / NAME)
    with pytest.raises(InputError, match=r"several strategies \(cpac/filt_global/func_preproc, cpac/nofilt_noglobal/func_preproc\)"):
        CPAC.find(tmp_path, RecordingQuery())


@pytest.mark.parametrize("source", [".", "dparsf"])
def test_other_pipelines_are_refused_by_name(tmp_path: Path, source: str) -> None:
    touch(tmp_path / "dparsf" / "filt_global" / "func_preproc" / NAME)
    found = CPAC.find(tmp_path / source, RecordingQuery())
    assert not found.runs
    assert "pipeline dparsf" in found.failures[0].reason


def test_a_participants_table_of_the_source_is_kept_as_it_is(tmp_path: Path, out: Path, prep: Prep) -> None:
    write_image(tmp_path / NAME)
    (tmp_path / "participants.tsv").write_text("participant_id\tage\n0050003\t12\n")
    prep(tmp_path)
    assert Store(out).participants == {"sub-0050003": {"participant_id": "sub-0050003", "age": "12"}}
