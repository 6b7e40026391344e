"""A claim is one process' alone, and goes with it."""

from __future__ import annotations

import itertools
import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from slimbrain.disk.locks import CLAIMS_FOLDER, claim, locked
from slimbrain.errors import StoreError

HOLD = (
    "import sys, time; from pathlib import Path; from slimbrain.disk.locks import claim\n"
    "with claim(Path(sys.argv[1]), sys.argv[2]) as mine:\n    print(mine, flush=True); time.sleep(600)"
)


def test_another_name_is_free_and_the_same_is_not(tmp_path: Path) -> None:
    with claim(tmp_path, "sub-01") as first, claim(tmp_path, "sub-02") as other, claim(tmp_path, "sub-01") as again:
        assert (first, other, again) == (True, True, False)
    with claim(tmp_path, "sub-01") as free:
        assert free
    assert list((tmp_path / CLAIMS_FOLDER).iterdir()) == []


def test_the_claim_of_a_killed_process_is_free_at_once(tmp_path: Path) -> None:
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path), "sub-01"], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None and holder.stdout.readline() == "True\n"
    with claim(tmp_path, "sub-01") as mine:
        assert not mine
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    holder.stdout.close()
    assert (tmp_path / CLAIMS_FOLDER / "sub-01.lock").exists()
    with claim(tmp_path, "sub-01") as mine:
        assert mine
    assert list((tmp_path / CLAIMS_FOLDER).iterdir()) == []


def test_many_who_wait_hold_it_one_at_a_time(tmp_path: Path) -> None:
    """Each takes, and so removes and makes anew, the file a hundred times; a lock on a removed file would let two in."""
    inside, most, turns = 0, 0, 0

    def take() -> None:
        nonlocal inside, most, turns
        for _ in range(100):
            with claim(tmp_path, "x", wait=True) as mine:
                assert mine
                inside += 1
                most, turns = max(most, inside), turns + 1
                inside -= 1

    threads = [threading.Thread(target=take) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (most, turns) == (1, 400)


def test_a_place_without_locks_is_named_in_one_sentence(tmp_path: Path) -> None:
    (tmp_path / CLAIMS_FOLDER).write_text("a file where the folder should be")
    with pytest.raises(StoreError, match=r"cannot be locked .*\.$"), claim(tmp_path, "sub-01"):
        pass


def test_a_file_that_is_renamed_and_not_deleted_lets_nobody_else_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """NFS renames a deleted file that is still open, so its count of links does not tell those who wait that it is gone."""
    number = itertools.count()

    def rename(self: Path, missing_ok: bool = False) -> None:
        self.rename(self.with_name(f".nfs{next(number):04d}"))

    monkeypatch.setattr(Path, "unlink", rename)
    inside, most, turns = 0, 0, 0

    def take() -> None:
        nonlocal inside, most, turns
        for _ in range(50):
            with claim(tmp_path, "x", wait=True):
                inside += 1
                most, turns = max(most, inside), turns + 1
                time.sleep(0.0002)
                inside -= 1

    threads = [threading.Thread(target=take) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (most, turns) == (1, 200)


@pytest.mark.parametrize("content", ["", "99999 other-host", "{own} this-host", "\0" * 4096])
def test_what_a_dead_process_of_any_host_left_keeps_nobody_out(content: str, tmp_path: Path) -> None:
    """Only the lock counts, which the system gives back with the process; not that there is a file, nor what stands in it."""
    content = content.format(own=os.getpid())
    (tmp_path / CLAIMS_FOLDER).mkdir()
    (left := tmp_path / CLAIMS_FOLDER / "sub-01.lock").write_text(content)
    os.utime(left, (0, 4e9))
    (tmp_path / ".lock").write_text(content)
    with claim(tmp_path, "sub-01") as mine, locked(tmp_path):
        assert mine
    assert list((tmp_path / CLAIMS_FOLDER).iterdir()) == []


@pytest.mark.parametrize("namespaces", [["--uts"], ["--uts", "--pid", "--fork", "--kill-child"]])
def test_a_living_process_under_another_host_name_keeps_others_out_and_a_killed_one_does_not(namespaces: list[str], tmp_path: Path) -> None:
    """In a process namespace of its own it may also have this process' number."""
    script = f"hostname elsewhere && exec {shlex.quote(sys.executable)} -c {shlex.quote(HOLD)} {shlex.quote(str(tmp_path))} sub-01"
    command = ["unshare", *namespaces, "sh", "-c", script]
    holder = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert holder.stdout is not None
    if holder.stdout.readline() != "True\n":
        holder.wait()
        pytest.skip("this system does not let a test have a host name of its own (unshare --uts)")
    with claim(tmp_path, "sub-01") as mine:
        assert not mine
    holder.kill()
    holder.wait()
    holder.stdout.close()
    with claim(tmp_path, "sub-01", wait=True) as mine:
        assert mine
