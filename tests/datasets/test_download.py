"""Downloads from a server that breaks off, is busy, lies or lacks the file: whole files, resumed, and known again by their sums."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from file_server import Bucket, serving

from slimbrain.datasets import download
from slimbrain.datasets.download import Downloads, NotOnServerError
from slimbrain.disk.tsv import read_tsv
from slimbrain.errors import InputError

CONTENT = np.random.default_rng(0).bytes(300_001)


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "_WAIT_S", 0.0)


@pytest.fixture
def bucket() -> Iterator[Bucket]:
    with serving(Bucket({"/x.bin": CONTENT})) as started:
        yield started


def obtain(bucket: Bucket, folder: Path) -> bytes:
    return Downloads(folder).obtain(f"{bucket.url}/x.bin", "data/x.bin").read_bytes()


def test_a_file_comes_once_and_is_known_again(bucket: Bucket, tmp_path: Path) -> None:
    assert obtain(bucket, tmp_path) == CONTENT == obtain(bucket, tmp_path)
    assert len(bucket.requests) == 1
    (row,) = read_tsv(tmp_path / "downloads.tsv")
    assert row["sha256"] == row["source_sha256"] == hashlib.sha256(CONTENT).hexdigest()
    assert row["source_etag"].strip('"') == hashlib.md5(CONTENT).hexdigest() and row["source_bytes"] == "300001"
    assert list((tmp_path / ".downloads").iterdir()) == []


def test_a_connection_that_breaks_off_is_resumed_from_there(bucket: Bucket, tmp_path: Path) -> None:
    bucket.broken["/x.bin"] = 2
    assert obtain(bucket, tmp_path) == CONTENT
    assert [asked for _, asked in bucket.requests] == ["", "bytes=150000-", "bytes=225000-"]


def test_a_later_call_resumes_what_an_earlier_one_left(bucket: Bucket, tmp_path: Path) -> None:
    bucket.broken["/x.bin"] = 4
    with pytest.raises(InputError, match=r"could not be downloaded \(.* of 300001 bytes came\).*run the same again, which resumes"):
        obtain(bucket, tmp_path)
    assert not (tmp_path / "data" / "x.bin").exists()
    bucket.requests.clear()
    assert obtain(bucket, tmp_path) == CONTENT
    assert bucket.requests[0][1].startswith("bytes=28") and len(bucket.requests) == 1


def test_a_file_that_changed_meanwhile_starts_anew(bucket: Bucket, tmp_path: Path) -> None:
    bucket.broken["/x.bin"] = 4
    with pytest.raises(InputError):
        obtain(bucket, tmp_path)
    bucket.files["/x.bin"] = b"another version"
    assert obtain(bucket, tmp_path) == b"another version"


def test_what_came_whole_before_a_kill_is_fetched_again(bucket: Bucket, tmp_path: Path) -> None:
    """The server has nothing beyond the end, and says so."""
    part = tmp_path / ".downloads" / "x.bin.part"
    part.parent.mkdir()
    part.write_bytes(CONTENT)
    part.with_name("x.bin.part.etag").write_text(f'"{hashlib.md5(CONTENT).hexdigest()}"')
    assert obtain(bucket, tmp_path) == CONTENT


def test_a_byte_changed_on_the_way_is_noticed(bucket: Bucket, tmp_path: Path) -> None:
    bucket.damaged["/x.bin"] = 1
    assert obtain(bucket, tmp_path) == CONTENT
    assert len(bucket.requests) == 2
    bucket.damaged["/x.bin"] = 4
    with pytest.raises(InputError, match="its MD5 is not the one that the server gives"):
        obtain(bucket, tmp_path / "other")


def test_a_file_damaged_on_the_disk_is_fetched_again(bucket: Bucket, tmp_path: Path) -> None:
    obtain(bucket, tmp_path)
    (tmp_path / "data" / "x.bin").write_bytes(CONTENT[:-1] + b"!")
    assert obtain(bucket, tmp_path) == CONTENT


def test_a_busy_server_is_asked_again_and_a_missing_file_is_not(bucket: Bucket, tmp_path: Path) -> None:
    bucket.busy["/x.bin"] = 2
    assert obtain(bucket, tmp_path) == CONTENT
    bucket.requests.clear()
    with pytest.raises(NotOnServerError, match="is not on the server"):
        Downloads(tmp_path).obtain(f"{bucket.url}/none", "none")
    assert len(bucket.requests) == 1


def test_only_servers_are_asked(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("x")
    with pytest.raises(InputError, match="no http or https address"):
        Downloads(tmp_path).obtain((tmp_path / "secret").as_uri(), "copy")
    with pytest.raises(InputError, match="could not be downloaded"):
        Downloads(tmp_path).obtain("http://127.0.0.1:9/x", "copy")
