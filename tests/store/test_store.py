"""The store: what is written comes back, only what is asked for is read, and nothing half-written is ever seen."""

from __future__ import annotations

import csv
import hashlib
import json
import multiprocessing
import os
import re
import struct
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from store_samples import PEAK_KIB, SPACE, TR_S, entities, make_store, network_series, write_run

from slimbrain.disk.tensorfile import TensorFile
from slimbrain.disk.tsv import format_tsv, read_tsv
from slimbrain.errors import ContractError, InputError, SlimbrainError, StoreError
from slimbrain.grid import MASK_FILE, Grid
from slimbrain.store import Channels, Contract, SessionInfo, Store
from slimbrain.store import store as store_module
from slimbrain.store import write as placing
from slimbrain.store import write as write_module
from slimbrain.store.contract import same_tr
from slimbrain.store.manifest import manifest_text, read_manifest, session_key, session_path
from slimbrain.store.write import write_roi_session, write_session

KEY = f"sub-01_task-rest_run-1_space-{SPACE}"


def one_sentence(error: BaseException) -> str:
    """The message, after seeing that it is one line with one full stop at its end."""
    message = str(error)
    assert "\n" not in message and message.endswith(".") and not re.search(r"[a-z]\. [A-Z]", message), message
    return message


# --- what is written comes back


def test_a_session_comes_back_rounded_to_float16(grid8: Grid, tmp_path: Path) -> None:
    store = Store.create(tmp_path, grid8, TR_S)
    voxels = network_series(grid8, 30, 0)
    mean, std = np.random.default_rng(0).normal(1000, 100, (2, *grid8.voxel_mask.shape))
    info = write_session(store, entities("01"), voxels, mean, std, TR_S, {"Sources": ["x"]}, {"coverage": 0.987654, "note": "Ünïcode"})
    assert info.key == KEY and info.n_frames == 30 and info.tr == TR_S
    again = Store(tmp_path)
    assert again.sessions == [info] and again.session(KEY).qc == {"coverage": "0.9877", "note": "Ünïcode"}
    read = again.voxels(KEY)
    assert read.dtype == np.float16 and read.shape == voxels.shape
    np.testing.assert_array_equal(read, voxels.astype(np.float16))
    np.testing.assert_array_equal(again.voxels(KEY, 7, 19), voxels[7:19].astype(np.float16))
    for got, wanted in zip(again.moments(KEY), (mean, std), strict=True):
        np.testing.assert_array_equal(got, wanted.astype(np.float32))
    np.testing.assert_allclose(again.coarse(KEY), grid8.coarse(voxels), rtol=1e-6)
    content = (tmp_path / info.path).read_bytes()
    seal = {"DataBytes": len(content), "DataSha256": hashlib.sha256(content).hexdigest()}
    with open(tmp_path / "sessions.tsv", encoding="utf-8", newline="") as handle:
        (row,) = csv.DictReader(handle, delimiter="\t")
    known = {name: cell for name, cell in row.items() if cell != "n/a"}
    assert again.sidecar(KEY) == {"RepetitionTime": TR_S, "Sources": ["x"], **seal, "SessionRow": known}
    assert again.grid == grid8


def test_arrays_in_any_memory_order_come_back_right(grid8: Grid, tmp_path: Path) -> None:
    store = Store.create(tmp_path, grid8, TR_S)
    voxels = network_series(grid8, 12, 0).astype(np.float16)
    coarse = grid8.coarse(voxels)
    mean = np.random.default_rng(0).normal(size=grid8.voxel_mask.shape).astype(np.float32)
    write = [np.asfortranarray(array) for array in (voxels, mean, mean, coarse)]
    write_session(store, entities("01"), *write[:3], TR_S, coarse=write[3])
    np.testing.assert_array_equal(store.voxels(KEY), voxels)
    np.testing.assert_array_equal(store.moments(KEY)[0], mean)
    np.testing.assert_array_equal(store.coarse(KEY), coarse)


def test_files_lie_where_bids_wants_them(grid8: Grid, tmp_path: Path) -> None:
    store = Store.create(tmp_path, grid8, TR_S, ["../fmriprep"])
    shape = grid8.voxel_mask.shape
    names = {"sub": "07", "ses": "2", "task": "rest", "acq": "mb", "dir": "AP", "run": "03", "space": SPACE}
    info = write_session(store, names, np.ones((8, *shape)), np.ones(shape), np.ones(shape), TR_S)
    stem = f"sub-07/ses-2/func/sub-07_ses-2_task-rest_acq-mb_dir-AP_run-03_space-{SPACE}_desc-slimbrain_bold"
    files = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file() and path.name != ".lock"}
    assert files == {f"{stem}.safetensors", f"{stem}.json", "dataset_description.json", "sessions.tsv", MASK_FILE}
    assert (info.subject, info.session, info.task, info.run) == ("sub-07", "ses-2", "rest", "03")
    description = json.loads((tmp_path / "dataset_description.json").read_text())
    assert description["DatasetType"] == "derivative" and description["GeneratedBy"][0]["Name"] == "slimbrain"
    assert description["SourceDatasets"] == [{"URL": "../fmriprep"}]


def test_runs_that_differ_in_one_entity_do_not_meet() -> None:
    base = {"sub": "1", "task": "rest", "space": "s"}
    variants = [base, *({**base, name: "2"} for name in ("ses", "acq", "ce", "rec", "dir", "run", "echo"))]
    assert len({session_key(names) for names in variants}) == len({session_path(names) for names in variants}) == len(variants)


def test_the_contract_is_written_into_every_session(grid8: Grid, tmp_path: Path) -> None:
    store = make_store(tmp_path, grid8, 1)
    with safe_open(tmp_path / store.sessions[0].path, framework="numpy") as tensors:
        assert Contract.from_dict(json.loads(tensors.metadata()["slimbrain"])["contract"]) == store.contract
    assert store.contract == Contract("mni-8mm-24-p2", grid8.hash, "MNI152", TR_S)


def test_writing_again_replaces_the_session(grid8: Grid, tmp_path: Path) -> None:
    store = make_store(tmp_path, grid8, 2)
    write_run(store, frames=16, subject="01", seed=9)
    assert [(info.key, info.n_frames) for info in Store(tmp_path).sessions] == [(KEY, 16), (KEY.replace("01", "02"), 40)]
    np.testing.assert_array_equal(store.voxels(KEY), network_series(grid8, 16, 9).astype(np.float16))


# --- only the bytes asked for


def test_a_window_reads_only_its_own_bytes(grid8: Grid, tmp_path: Path) -> None:
    """In a file of 400 MB, mostly a hole, a window in the middle is right and costs almost no memory.

    The bytes of a file that is mapped or read count as the process' own memory, so its peak tells what was touched.
    """
    store = make_store(tmp_path, grid8, 1, frames=8)
    info = store.sessions[0]
    frame_bytes = 2 * grid8.voxel_mask.size
    frames, start = 400_000_000 // frame_bytes, 200_000_000 // frame_bytes
    planted = network_series(grid8, 8, 5).astype(np.float16)
    header = json.dumps({"voxels": {"dtype": "F16", "shape": [frames, *grid8.voxel_mask.shape], "data_offsets": [0, frames * frame_bytes]}})
    with open(tmp_path / info.path, "wb") as handle:
        handle.write(struct.pack("<Q", len(header)) + header.encode())
        handle.seek(8 + len(header) + start * frame_bytes)
        handle.write(planted.tobytes())
        handle.truncate(8 + len(header) + frames * frame_bytes)
    manifest = tmp_path / "sessions.tsv"
    manifest.write_text(manifest.read_text().replace(f"\t{info.n_frames}\t", f"\t{frames}\t"))
    code = (
        "import sys, numpy; from slimbrain.store.store import Store\n"
        "store = Store(sys.argv[1]); key = store.sessions[0].key\n"
        f"{PEAK_KIB}\n"
        "before = peak(); window = store.voxels(key, int(sys.argv[2]), int(sys.argv[2]) + 8); after = peak()\n"
        "numpy.save(sys.argv[3], window); print(after - before)"
    )
    arguments = [str(tmp_path), str(start), str(tmp_path / "window.npy")]
    grown_kib = int(subprocess.run([sys.executable, "-c", code, *arguments], check=True, capture_output=True, text=True).stdout)
    np.testing.assert_array_equal(np.load(tmp_path / "window.npy"), planted)
    assert grown_kib < 20_000


def test_a_mapped_array_is_written_without_filling_the_memory(grid8: Grid, tmp_path: Path) -> None:
    """300 MB on disk, mostly a hole, of which a stretch in the middle is planted."""
    Store.create(tmp_path / "store", grid8, TR_S)
    shape = (300_000_000 // (2 * grid8.voxel_mask.size), *grid8.voxel_mask.shape)
    planted, start = network_series(grid8, 8, 5).astype(np.float16), shape[0] // 2
    mapped = np.memmap(tmp_path / "voxels", np.float16, mode="w+", shape=shape)
    mapped[start : start + 8] = planted
    mapped.flush()
    code = (
        "import sys, numpy; from slimbrain.store import Store; from slimbrain.store.write import write_session\n"
        "store = Store(sys.argv[1]); shape = tuple(map(int, sys.argv[3:])); ones = numpy.ones(shape[1:])\n"
        "voxels = numpy.memmap(sys.argv[2], numpy.float16, mode='r', shape=shape); store.grid\n"
        f"{PEAK_KIB}\n"
        "before = peak()\n"
        "write_session(store, {'sub': '01', 'space': 'MNI152Lin'}, voxels, ones, ones, 0.72)\n"
        "print(peak() - before)"
    )
    arguments = [str(tmp_path / "store"), str(tmp_path / "voxels"), *map(str, shape)]
    grown_kib = int(subprocess.run([sys.executable, "-c", code, *arguments], check=True, capture_output=True, text=True).stdout)
    (info,) = (store := Store(tmp_path / "store")).sessions
    np.testing.assert_array_equal(store.voxels(info.key, start - 1, start + 9)[1:-1], planted)
    coarse = store.coarse(info.key)
    np.testing.assert_allclose(coarse[start : start + 8], grid8.coarse(planted), rtol=1e-6)
    assert len(coarse) == shape[0] and np.count_nonzero(coarse.any(axis=1)) == 8
    assert grown_kib < 150_000


def test_frames_outside_the_session_are_refused(grid8: Grid, tmp_path: Path) -> None:
    store = make_store(tmp_path, grid8, 1, frames=20)
    for start, stop in ((0, 21), (-1, 3), (5, 5), (7, 3), (20, None)):
        with pytest.raises(StoreError, match="it has 20") as refusal:
            store.voxels(KEY, start, stop)
        one_sentence(refusal.value)


def test_windows_are_joined_in_the_order_asked_for(grid8: Grid, tmp_path: Path) -> None:
    store = make_store(tmp_path, grid8, 1, frames=40)
    whole = store.voxels(KEY)
    for starts in ([0], [32, 0, 8], [5, 5, 6], [36]):
        expected = np.concatenate([whole[start : start + 4] for start in starts])
        np.testing.assert_array_equal(store.windows(KEY, starts, 4), expected)
    for starts, frames in (([0, 37], 4), ([-1], 4), ([], 4), ([3], 0)):
        with pytest.raises(StoreError, match="it has 40") as refusal:
            store.windows(KEY, starts, frames)
        one_sentence(refusal.value)


def test_opening_a_store_touches_no_session(grid8: Grid, tmp_path: Path) -> None:
    """Only the manifest is read, so 4,000 sessions open as fast as their table is parsed: here their folders are gone."""
    store = make_store(tmp_path, grid8, 3)
    expected = store.sessions
    for number in (1, 2, 3):
        (tmp_path / f"sub-{number:02d}").rename(tmp_path / f"gone-{number}")
    opened: list[str] = []
    code = (
        "import json, sys; opened = []\n"
        "sys.addaudithook(lambda event, args: opened.append(str(args[0])) if event in ('open', 'os.scandir', 'os.listdir') else None)\n"
        "from slimbrain.store.store import Store; del opened[:]\n"
        "sessions = Store(sys.argv[1]).sessions; print(json.dumps([len(sessions), [name for name in opened if sys.argv[1] in name]]))"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True, capture_output=True, text=True)
    count, opened = json.loads(done.stdout)
    assert count == len(expected) == 3
    assert {Path(name).name for name in opened} == {"dataset_description.json", "sessions.tsv"}


def test_a_changed_manifest_is_read_again(grid8: Grid, tmp_path: Path) -> None:
    make_store(tmp_path, grid8, 2)
    assert len(Store(tmp_path).sessions) == 2
    manifest = tmp_path / "sessions.tsv"
    manifest.write_text("".join(manifest.read_text().splitlines(keepends=True)[:-1]))
    assert len(Store(tmp_path).sessions) == 1
    with pytest.raises(TypeError):
        del Store(tmp_path).sessions[0]  # type: ignore[attr-defined]
    assert len(Store(tmp_path).sessions) == 1, "what one holds nobody changes"


def test_the_manifest_is_that_of_all_sessions_whatever_the_order_of_writing(grid8: Grid, tmp_path: Path) -> None:
    """Also when columns come and go."""
    written = [("03", {"note": "x"}), ("01", {}), ("02", {"coverage": 0.5}), ("03", {"tsnr": 5.0}), ("02", {"coverage": 0.25, "note": "y"})]
    for name, runs in (("once", [written[1], *written[3:]]), ("again", written), ("backwards", [*written[::-1], *written[3:]])):
        store = Store.create(tmp_path / name, grid8, TR_S)
        for subject, qc in runs:
            write_run(store, frames=4, subject=subject, **qc)
    texts = {name: (tmp_path / name / "sessions.tsv").read_text() for name in ("once", "again", "backwards")}
    assert texts["once"] == texts["again"] == texts["backwards"]
    assert [row["session"][:6] for row in read_tsv(tmp_path / "once" / "sessions.tsv")] == ["sub-01", "sub-02", "sub-03"]


# --- half-written


@pytest.mark.parametrize("stage", ["while writing", "disk full", "before renaming"])
def test_a_failed_write_leaves_no_session(stage: str, grid8: Grid, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = make_store(tmp_path, grid8, 1)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}

    def write_half(file: TensorFile, name: str, values: object, start: int = 0) -> None:
        write(file, name, values, start)
        raise OSError(5, "Input/output error")

    def write_on_a_full_disk(file: TensorFile, *_: object) -> None:
        with open("/dev/full", "wb", buffering=0) as full:
            full.write(b"0")

    write = TensorFile.write
    if stage == "while writing":
        monkeypatch.setattr(TensorFile, "write", write_half)
    elif stage == "disk full":
        monkeypatch.setattr(TensorFile, "write", write_on_a_full_disk)
    else:
        replace_file = os.replace

        def refuse_data(old: Path, new: Path) -> None:
            if str(new).endswith(".safetensors"):
                raise OSError(28, "No space left on device")
            replace_file(old, new)

        monkeypatch.setattr(os, "replace", refuse_data)
    with pytest.raises(StoreError, match="cannot be written") as refusal:
        write_run(store, subject="02")
    one_sentence(refusal.value)
    monkeypatch.undo()
    after = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file() and path.suffix != ".json"}
    assert after == {path: content for path, content in before.items() if path.suffix != ".json"}
    assert [info.key for info in store.sessions] == [info.key for info in Store(tmp_path).sessions] == [KEY]
    write_run(store, subject="02")
    assert len(Store(tmp_path).sessions) == 2


def test_a_write_killed_before_its_manifest_row_is_not_listed(grid8: Grid, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = make_store(tmp_path, grid8, 1)
    monkeypatch.setattr(placing, "_list", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        write_run(store, subject="02")
    assert [info.key for info in Store(tmp_path).sessions] == [KEY]


# --- several writers


def fill(root: Path, grid: Grid, subject: str, runs: int, start: Any) -> None:
    start.wait()
    store = Store.create(root, grid, TR_S)
    for run in range(1, runs + 1):
        write_run(store, frames=4, subject=subject, run=run)


def test_two_processes_that_start_and_write_together_lose_no_session(grid8: Grid, tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    start = context.Barrier(2)
    workers = [context.Process(target=fill, args=(tmp_path, grid8, subject, 10, start)) for subject in ("01", "02")]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert [worker.exitcode for worker in workers] == [0, 0]
    wanted = sorted(session_key(entities(subject, run)) for subject in ("01", "02") for run in range(1, 11))
    assert [info.key for info in Store(tmp_path).sessions] == wanted


def test_sessions_that_another_writer_added_are_kept(grid8: Grid, tmp_path: Path) -> None:
    """Both look at the sessions before either writes."""
    writers = [Store.create(tmp_path, grid8, TR_S) for _ in range(2)]
    assert [writer.sessions for writer in writers] == [[], []]
    for run in range(4):
        write_run(writers[run % 2], frames=4, run=run + 1)
    assert [info.run for info in Store(tmp_path).sessions] == ["1", "2", "3", "4"]


def test_a_store_made_meanwhile_by_another_job_is_not_emptied(grid8: Grid, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The other job wins the race between this one's look at the folder and its lock."""
    from contextlib import contextmanager

    locked = store_module.locked
    raced: list[bool] = []

    @contextmanager
    def lose_the_race(root: Path) -> Any:
        if not raced:
            raced.append(True)
            make_store(root, grid8, 1)
        with locked(root):
            yield

    monkeypatch.setattr(store_module, "locked", lose_the_race)
    assert [info.key for info in Store.create(tmp_path, grid8, TR_S).sessions] == [KEY]


# --- contract


def test_each_field_that_differs_is_refused_in_one_sentence() -> None:
    mine = Contract("mni-2mm-96-p4", "a" * 64, "MNI152", 0.72)
    mine.require(replace(mine), "the model M", "the store S")
    changes: list[tuple[dict[str, Any], str, str]] = [
        ({"lattice": "mni-8mm-24-p2"}, "mni-2mm-96-p4", "mni-8mm-24-p2"),
        ({"mask": "b" * 64}, "a" * 24, "b" * 24),
        ({"space": "T1w"}, "MNI152", "T1w"),
        ({"tr": 2.0}, "0.72 s", "2 s"),
    ]
    for change, ours, theirs in changes:
        with pytest.raises(ContractError) as refusal:
            mine.require(replace(mine, **change), "the model M", "the store S")
        message = one_sentence(refusal.value)
        assert re.search(f"the model M has .*{ours} but the store S has .*{theirs}", message) and ": " in message


@pytest.mark.parametrize(
    ("first", "second", "same"),
    [
        (2.0, 2.0, True),
        (2.0, 2.0004, True),
        (2.0, 2.002, False),
        (0.72, 0.8, True),
        (0.7, 0.8, True),
        (float(np.float32(0.8)), 0.72, True),
        (float(np.float32(0.7)), 0.8, True),
        (0.72, 0.81, False),
        (0.69, 0.72, False),
        (0.5, 1.0, False),
    ],
)
def test_sampling_rates_that_count_as_one(first: float, second: float, same: bool) -> None:
    assert same_tr(first, second) is same_tr(second, first) is same


def test_a_store_takes_only_what_fits_it(grid8: Grid, tmp_path: Path) -> None:
    store = make_store(tmp_path, grid8, 1)
    shape = grid8.voxel_mask.shape
    other = Grid(grid8.lattice, np.ones((24,) * 3, bool))
    for grid, tr in ((other, TR_S), (grid8, 2.0), (None, TR_S)):
        with pytest.raises(ContractError) as refusal:
            Store.create(tmp_path, grid, tr)
        assert str(tmp_path) in one_sentence(refusal.value)
    assert len(Store.create(tmp_path, grid8, 0.75).sessions) == 1
    with pytest.raises(ContractError, match="TR"):
        write_session(store, entities("02"), np.ones((8, *shape)), np.ones(shape), np.ones(shape), 2.0)
    with pytest.raises(ContractError, match="do not fit"):
        write_session(store, entities("02"), np.ones((8, 3, 8)), np.ones(shape), np.ones(shape), TR_S)
    assert len(Store(tmp_path).sessions) == 1


@pytest.mark.parametrize(
    "values", [{}, {"lattice": "x", "mask": "y", "space": "z"}, {"lattice": "x", "mask": "y", "space": "z", "tr": "fast"}, "x", None]
)
def test_a_damaged_contract_is_refused(values: Any) -> None:
    with pytest.raises(ContractError) as refusal:
        Contract.from_dict(values)
    one_sentence(refusal.value)


# --- the table of sessions

CELL = st.text(st.characters(exclude_categories=("Cs",)), max_size=8)
ROW = st.tuples(
    st.integers(1, 10**6), st.floats(0.1, 10), st.dictionaries(st.sampled_from(["fd_mean", "tsnr", "note", "Übung"]), st.floats() | CELL)
)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.dictionaries(st.from_regex(r"[a-zA-Z0-9éÅ]{1,8}", fullmatch=True), ROW, min_size=1, max_size=5))
def test_the_manifest_comes_back(rows: dict[str, tuple[int, float, dict[str, Any]]], tmp_path: Path) -> None:
    path = tmp_path / "sessions.tsv"
    sessions = []
    for name, (frames, tr, qc) in rows.items():
        text = {column: write_module._cell(value) for column, value in qc.items()}
        sessions.append(SessionInfo(f"sub-{name}", f"sub-{name}", "", "rest", "", "MNI", frames, tr, f"sub-{name}/x.safetensors", text))
    path.write_text(manifest_text(sessions), encoding="utf-8")
    columns = {column for info in sessions for column in info.qc}
    table = read_manifest(path)
    assert [info.key for info in table] == sorted(info.key for info in sessions)
    for info in sessions:
        got = table.find(info.key)
        assert got is not None and replace(got, qc={}) == replace(info, qc={})
        assert got.qc == {column: info.qc.get(column, "n/a") for column in columns}
    assert len(path.read_text(encoding="utf-8").splitlines()) >= len(sessions) + 1


def test_tables_of_other_programs_are_read(tmp_path: Path) -> None:
    path = tmp_path / "participants.tsv"
    path.write_bytes("\ufeffparticipant_id\tâge\tnote\r\nsub-01\t23\tn/a\r\nsub-02\t31\r\nsub-03\t5\tx\t\t\r\n".encode())
    assert read_tsv(path) == [
        {"participant_id": "sub-01", "âge": "23", "note": "n/a"},
        {"participant_id": "sub-02", "âge": "31", "note": "n/a"},
        {"participant_id": "sub-03", "âge": "5", "note": "x"},
    ]
    path.write_bytes("participant_id\tâge".encode("latin-1"))
    for bad in (path, tmp_path / "missing.tsv"):
        with pytest.raises(StoreError, match=str(bad)) as refusal:
            read_tsv(bad)
        one_sentence(refusal.value)


def test_missing_cells_are_written_as_bids_says() -> None:
    assert format_tsv(["a", "b"], [{"a": 1}, {"b": "x", "c": 2}]) == "a\tb\n1\tn/a\nn/a\tx\n"


def test_participants_are_read_beside_the_sessions(grid8: Grid, tmp_path: Path) -> None:
    make_store(tmp_path, grid8, 2)
    assert Store(tmp_path).participants == {}
    (tmp_path / "participants.tsv").write_text("participant_id\tsex\nsub-01\tF\nsub-02\tn/a\n")
    assert Store(tmp_path).participants["sub-02"] == {"participant_id": "sub-02", "sex": "n/a"}
    (tmp_path / "participants.tsv").write_text("id\tsex\nsub-01\tF\n")
    with pytest.raises(StoreError, match="participant_id"):
        _ = Store(tmp_path).participants


def test_select_shows_only_these_participants(grid8: Grid, tmp_path: Path) -> None:
    store = make_store(tmp_path, grid8, 3)
    part = store.select({"sub-01", "sub-03"})
    assert [info.subject for info in part.sessions] == ["sub-01", "sub-03"] and len(store.sessions) == 3
    with pytest.raises(StoreError, match="has no session"):
        part.session(KEY.replace("01", "02"))
    with pytest.raises(InputError, match="sub-09") as refusal:
        store.select(["sub-01", "sub-09"])
    one_sentence(refusal.value)


# --- series without voxels


def test_region_of_interest_sessions(tmp_path: Path) -> None:
    store = Store.create(tmp_path, None, 1.0)
    series = np.random.default_rng(0).normal(size=(50, 4)).astype(np.float32)
    channels = Channels(("V1", "Précuneus", "c", "d"), np.arange(12.0).reshape(4, 3))
    info = write_roi_session(store, {"sub": "01", "task": "rest"}, series, channels, 1.0)
    assert info.key == "sub-01_task-rest_space-roi"
    again = Store(tmp_path)
    np.testing.assert_array_equal(again.coarse(info.key), series)
    assert again.channels(info.key).names == channels.names
    np.testing.assert_array_equal(again.channels(info.key).mm, channels.mm)
    reads: list[Callable[[], object]] = [lambda: again.voxels(info.key), lambda: again.moments(info.key), lambda: again.grid]
    for read in reads:
        with pytest.raises(StoreError, match="region-of-interest") as refusal:
            read()
        one_sentence(refusal.value)
    with pytest.raises(InputError, match="4 channels"):
        write_roi_session(store, {"sub": "02"}, series[:, :3], channels, 1.0)
    # Vectors of channels that are nowhere would be NaN.
    with pytest.raises(InputError, match="places are not finite; give 0, 0, 0"):
        write_roi_session(store, {"sub": "02"}, series, replace(channels, mm=np.full((4, 3), np.nan)), 1.0)


def test_channels_of_a_voxel_session_are_its_cells(grid8: Grid, tmp_path: Path) -> None:
    store = make_store(tmp_path, grid8, 1)
    channels = store.channels(KEY)
    assert len(channels.names) == len(set(channels.names)) == grid8.n_cells == store.coarse(KEY).shape[1]
    np.testing.assert_array_equal(channels.mm, grid8.cells.mm)


def test_both_kinds_live_in_one_store(grid8: Grid, tmp_path: Path) -> None:
    store = make_store(tmp_path, grid8, 1)
    info = write_roi_session(store, entities("01"), np.ones((9, 2)), Channels(("a", "b"), np.zeros((2, 3))), TR_S)
    assert {session.space for session in Store(tmp_path).sessions} == {SPACE, "roi"}
    assert store.channels(info.key).names == ("a", "b") and store.voxels(KEY).shape[0] == 40


# --- damage


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("dataset_description.json", None),
        ("dataset_description.json", b"{"),
        ("dataset_description.json", b"[1]"),
        ("dataset_description.json", b'{"Name": "fMRIPrep"}'),
        ("dataset_description.json", b'{"Slimbrain": null}'),
        ("dataset_description.json", b"\xff\xfe"),
        ("sessions.tsv", None),
        ("sessions.tsv", b"a\tb\n1\t2\n"),
        ("sessions.tsv", f"session\tparticipant_id\tsession_id\ttask\trun\tspace\tn_frames\ttr\tpath\n{KEY}\tsub-01\n".encode()),
        (
            "sessions.tsv",
            f"session\tparticipant_id\tsession_id\ttask\trun\tspace\tn_frames\ttr\tpath\n{KEY}\tsub-01\tn/a\tr\t1\ts\t40\t0.72\n".encode(),
        ),
        (MASK_FILE, None),
        (MASK_FILE, b"no image"),
        (f"sub-01/func/{KEY}_desc-slimbrain_bold.safetensors", None),
        (f"sub-01/func/{KEY}_desc-slimbrain_bold.safetensors", b"no tensors"),
        (f"sub-01/func/{KEY}_desc-slimbrain_bold.json", None),
        (f"sub-01/func/{KEY}_desc-slimbrain_bold.json", b"{"),
    ],
)
def test_a_damaged_store_is_named_in_one_sentence(name: str, content: bytes | None, grid8: Grid, tmp_path: Path) -> None:
    make_store(tmp_path, grid8, 1)
    path = tmp_path / name
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(SlimbrainError) as refusal:
        read_everything(tmp_path)
    one_sentence(refusal.value)


def read_everything(root: Path) -> None:
    store = Store(root)
    for info in store.sessions:
        store.channels(info.key)
        store.sidecar(info.key)
        store.coarse(info.key)
        store.voxels(info.key)


def test_an_undamaged_store_reads_through(grid8: Grid, tmp_path: Path) -> None:
    make_store(tmp_path, grid8, 1)
    read_everything(tmp_path)


def test_a_data_file_cut_short_is_refused(grid8: Grid, tmp_path: Path) -> None:
    store = make_store(tmp_path, grid8, 1)
    path = tmp_path / store.sessions[0].path
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(StoreError, match="cannot read voxels") as refusal:
        store.voxels(KEY, 0, 8)
    assert str(path) in one_sentence(refusal.value)


def test_another_mask_under_the_stores_name_is_noticed(grid8: Grid, tmp_path: Path) -> None:
    make_store(tmp_path, grid8, 1)
    Grid(grid8.lattice, ~grid8.mask).save_mask(tmp_path / MASK_FILE)
    with pytest.raises(ContractError, match="not the mask"):
        _ = Store(tmp_path).grid


def test_an_unknown_session_is_refused(grid8: Grid, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="no session sub-77"):
        make_store(tmp_path, grid8, 1).coarse("sub-77")
