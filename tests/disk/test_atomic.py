"""A file appears whole or not at all."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import NoReturn

import numpy as np
import pytest
from safetensors.numpy import save_file

from slimbrain.disk.atomic import write_atomic, write_json, write_text


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_makes_folders_and_returns_the_path(tmp_path: Path) -> None:
    path = write_text(tmp_path / "a" / "b" / "dérivé.txt", "zażółć\n")
    assert path.read_text(encoding="utf-8") == "zażółć\n"
    assert names(path.parent) == ["dérivé.txt"]


def test_writers_see_the_suffixes_of_the_name(tmp_path: Path) -> None:
    seen: list[str] = []

    def write(temporary: Path) -> None:
        seen.append(temporary.name)
        temporary.write_bytes(b"1")

    write_atomic(tmp_path / "x.nii.gz", write)
    assert seen[0] != "x.nii.gz" and seen[0].endswith("x.nii.gz")


def test_an_error_leaves_the_old_content_and_no_other_file(tmp_path: Path) -> None:
    path = write_text(tmp_path / "x.txt", "old")

    def write_half(temporary: Path) -> NoReturn:
        temporary.write_text("ne")
        assert path.read_text() == "old"
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        write_atomic(path, write_half)
    assert path.read_text() == "old" and names(tmp_path) == ["x.txt"]


def test_a_failed_rename_leaves_no_temporary_file(tmp_path: Path) -> None:
    (tmp_path / "x.txt" / "full").mkdir(parents=True)
    with pytest.raises(OSError):
        write_text(tmp_path / "x.txt", "new")
    assert names(tmp_path) == ["x.txt"]


def test_content_is_on_disk_before_the_name_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A rename may reach the disk before what was written; a power cut would then leave an empty file under the final name."""
    events: list[str] = []

    def watch(name: str) -> None:
        original = getattr(os, name)

        def call(*arguments: object) -> None:
            events.append(name)
            original(*arguments)

        monkeypatch.setattr(os, name, call)

    watch("fsync")
    watch("replace")
    write_text(tmp_path / "x.txt", "new")
    assert events == ["fsync", "replace"]


@pytest.mark.parametrize("umask", [0o022, 0o002, 0o077])
def test_files_get_the_permissions_the_user_grants(tmp_path: Path, umask: int) -> None:
    """safetensors makes files that only their owner can read; a lab shares its stores."""
    before = os.umask(umask)
    try:
        write_atomic(tmp_path / "x.safetensors", lambda temporary: save_file({"x": np.zeros(3)}, temporary))
        write_text(tmp_path / "x.txt", "x")
    finally:
        os.umask(before)
    assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {0o666 & ~umask}


def test_a_killed_process_leaves_the_old_content(tmp_path: Path) -> None:
    path = write_text(tmp_path / "x.txt", "old")
    code = (
        "import os, signal, sys; from pathlib import Path; from slimbrain.disk.atomic import write_atomic\n"
        "def write(temporary):\n    temporary.write_text('ne')\n    os.kill(os.getpid(), signal.SIGKILL)\n"
        "write_atomic(Path(sys.argv[1]), write)"
    )
    assert subprocess.run([sys.executable, "-c", code, str(path)], check=False).returncode == -signal.SIGKILL
    assert path.read_text() == "old"
    assert write_text(path, "new").read_text() == "new"


def test_json_is_kept_in_order_and_in_unicode(tmp_path: Path) -> None:
    value = {"zeta": [1, 2.5, None], "alpha": "Łódź"}
    text = write_json(tmp_path / "x.json", value).read_text(encoding="utf-8")
    assert json.loads(text) == value
    assert "Łódź" in text and text.endswith("}\n") and text.index("zeta") < text.index("alpha")
