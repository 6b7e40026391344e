"""Temporary files give back what was put, whichever way round, and say where there is no room."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from slimbrain.errors import StoreError
from slimbrain.prep.scratch import FrameFile


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(frames=st.integers(1, 9), columns=st.integers(1, 9), by=st.integers(1, 4), dtype=st.sampled_from(["float16", "float32"]))
def test_what_is_put_by_frames_or_columns_comes_back(tmp_path: Path, frames: int, columns: int, by: int, dtype: str) -> None:
    wanted = np.random.default_rng(0).standard_normal((frames, columns)).astype(dtype)
    with FrameFile(tmp_path, (frames, columns), dtype) as by_frames, FrameFile(tmp_path, (frames, columns), dtype) as by_columns:
        for start in range(0, frames, by):
            by_frames.put_frames(start, np.asfortranarray(wanted[start : start + by]))
        for start in reversed(range(0, columns, by)):
            by_columns.put_columns(start, wanted[:, start : start + by])
        for file in (by_frames, by_columns):
            read = [file.columns(start, min(start + by, columns)) for start in range(0, columns, by)]
            np.testing.assert_array_equal(np.concatenate(read, axis=1), wanted)
        mapped = by_columns.mapped((frames, columns))
    np.testing.assert_array_equal(mapped, wanted)
    assert mapped.dtype == dtype
    assert not list(tmp_path.iterdir()), "the file must have no name"


def test_a_system_that_takes_writes_in_parts_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda descriptor, data, offset: write(descriptor, data[:7], offset))
    wanted = np.arange(30, dtype=np.float32).reshape(5, 6)
    with FrameFile(tmp_path, wanted.shape, np.float32) as file:
        file.put_frames(0, wanted)
        np.testing.assert_array_equal(file.columns(0, 6), wanted)


def test_no_room_is_an_error_of_ours_that_names_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(descriptor: int, data: object, offset: int) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "pwrite", refuse)
    with FrameFile(tmp_path, (2, 2), np.float32) as file, pytest.raises(StoreError, match="No space left on device") as refusal:
        file.put_columns(0, np.ones((2, 1)))
    assert str(tmp_path) in str(refusal.value)
    with pytest.raises(StoreError, match="nowhere"), FrameFile(tmp_path / "nowhere", (2, 2), np.float32):
        pass
