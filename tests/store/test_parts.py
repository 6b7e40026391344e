"""Sessions that several processes list each for itself: seen by who wrote them, by all once they are collected, never lost."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from store_samples import TR_S, entities, make_store, network_series

from slimbrain.disk.atomic import TEMPORARY_PREFIX, write_text
from slimbrain.disk.locks import claim
from slimbrain.grid import Grid
from slimbrain.store import Store
from slimbrain.store.manifest import MANIFEST_FILE, PARTS_FOLDER, read_parts
from slimbrain.store.merge import merge
from slimbrain.store.parts import collect_parts, part_claim
from slimbrain.store.verify import sweep, verify
from slimbrain.store.write import remove_session, write_session


def add(root: Path, part: str, subject: str, seed: int = 0, **qc: object) -> None:
    store = Store(root, part)
    shape = store.grid.voxel_mask.shape
    voxels = network_series(store.grid, 12, seed)
    write_session(store, entities(subject), voxels, np.full(shape, 100.0), np.ones(shape), TR_S, qc=qc)


def subjects(store: Store) -> list[str]:
    return [info.subject for info in store.sessions]


@pytest.fixture
def root(grid8: Grid, tmp_path: Path) -> Path:
    return make_store(tmp_path / "store", grid8, subjects=1, frames=12).root


def test_a_part_is_seen_by_its_writer_alone_until_it_is_collected(root: Path) -> None:
    add(root, "a", "03")
    add(root, "b", "02")
    assert subjects(Store(root, "a")) == ["sub-01", "sub-03"]
    assert subjects(Store(root)) == ["sub-01"]
    assert collect_parts(root) == 2
    assert subjects(Store(root)) == ["sub-01", "sub-02", "sub-03"]
    assert list((root / PARTS_FOLDER).iterdir()) == [] and collect_parts(root) == 0


def test_the_manifest_is_that_of_one_writer_byte_for_byte(root: Path, grid8: Grid, tmp_path: Path) -> None:
    """Also where sessions have different columns."""
    other = make_store(tmp_path / "other", grid8, subjects=1, frames=12).root
    for subject, part, qc in (("04", "b", {"fd": 0.1}), ("02", "a", {"tsnr": 40.0, "a": 1}), ("03", "b", {})):
        add(root, part, subject, **qc)
        add(other, "", subject, **qc)
    collect_parts(root)
    assert (root / MANIFEST_FILE).read_bytes() == (other / MANIFEST_FILE).read_bytes()


def test_what_is_added_after_collecting_waits_for_the_next(root: Path) -> None:
    writer = Store(root, "a")
    add(root, "a", "02")
    collect_parts(root)
    add(root, "a", "03")
    assert collect_parts(root) == 1 and subjects(Store(root)) == ["sub-01", "sub-02", "sub-03"]
    assert subjects(writer) == ["sub-01", "sub-02", "sub-03"]


def test_collecting_that_was_killed_before_it_removed_a_part_is_done_again(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    add(root, "a", "02")
    unlink = Path.unlink

    def die_at_a_part(self: Path, missing_ok: bool = False) -> None:
        if self.parent.name == PARTS_FOLDER:
            raise KeyboardInterrupt
        unlink(self, missing_ok)

    monkeypatch.setattr(Path, "unlink", die_at_a_part)
    with pytest.raises(KeyboardInterrupt):
        collect_parts(root)
    monkeypatch.undo()
    before = (root / MANIFEST_FILE).read_bytes()
    assert collect_parts(root) == 1 and (root / MANIFEST_FILE).read_bytes() == before
    assert list((root / PARTS_FOLDER).iterdir()) == []


def test_a_session_prepared_again_replaces_its_row(root: Path) -> None:
    add(root, "a", "01", seed=9, tsnr=55.0)
    assert Store(root, "a").session("sub-01_task-rest_run-1_space-MNI152NLin6Asym").qc == {"tsnr": "55"}
    collect_parts(root)
    (info,) = Store(root).sessions
    assert info.qc == {"tsnr": "55"} and Store(root).is_whole(info.key)


@pytest.mark.parametrize("subject", ["01", "02"])
def test_a_session_taken_out_is_in_no_list(root: Path, subject: str) -> None:
    add(root, "a", "02")
    remove_session(Store(root, "a"), entities(subject))
    collect_parts(root)
    assert f"sub-{subject}" not in subjects(Store(root)) and len(Store(root).sessions) == 1
    assert not list(root.glob(f"sub-{subject}/**/*.safetensors"))


def test_what_a_killed_process_began_to_write_is_no_part(root: Path) -> None:
    add(root, "a", "02")
    rest = root / PARTS_FOLDER / f"{TEMPORARY_PREFIX}99999-a.tsv"
    rest.write_bytes((root / PARTS_FOLDER / "a.tsv").read_bytes()[:-40])
    assert read_parts(root).keys() == {"sub-02_task-rest_run-1_space-MNI152NLin6Asym"}
    assert collect_parts(root) == 1 and subjects(Store(root)) == ["sub-01", "sub-02"]
    sweep(root)
    assert list((root / PARTS_FOLDER).iterdir()) == []


def test_what_is_being_written_is_not_swept_away(root: Path) -> None:
    add(root, "a", "02")
    (busy := root / PARTS_FOLDER / f"{TEMPORARY_PREFIX}99999-a.tsv").write_text("half")
    with claim(root, part_claim("a")):
        sweep(root)
        assert busy.exists()


def test_what_nobody_collected_is_named_as_such(root: Path) -> None:
    add(root, "a", "02")
    assert {problem.session for problem in verify(root).problems} == {"sub-02_task-rest_run-1_space-MNI152NLin6Asym"}
    assert all("run `slimbrain store collect`" in problem.reason for problem in verify(root).problems)
    (root / PARTS_FOLDER / "b.tsv").write_text("nonsense\n1\n")
    assert any("is damaged" in problem.reason for problem in verify(root).problems)


def test_a_copy_says_what_it_lacks(root: Path, tmp_path: Path) -> None:
    add(root, "a", "02")
    told = merge(tmp_path / "out", [Store(root)])
    assert len(told.copied) == 1 and told.exit_code == 1 and "1 sessions that shards prepared are not listed yet" in told.failures[0]
    collect_parts(root)
    told = merge(tmp_path / "out", [Store(root)])
    assert len(told.copied) == len(told.present) == 1 and told.exit_code == 0


def test_a_damaged_part_is_named(root: Path) -> None:
    write_text(root / PARTS_FOLDER / "a.tsv", "nonsense\n1\n")
    with pytest.raises(Exception, match="is damaged"):
        collect_parts(root)
