"""Files filled piece by piece are the files that the safetensors library writes at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from slimbrain.disk.tensorfile import TensorFile, TensorSpec, read_rows

NAMES = st.sampled_from(["voxels", "mean", "std", "coarse", "übung", 'a"b', "z"])
SHAPES = st.lists(st.integers(1, 5), min_size=1, max_size=3).map(tuple)


def write(path: Path, tensors: dict[str, Any], metadata: dict[str, str], step: int) -> None:
    specs = {name: TensorSpec(str(tensor.dtype), tensor.shape) for name, tensor in tensors.items()}
    with TensorFile(path, specs, metadata) as file:
        for name, tensor in tensors.items():
            for start in range(0, len(tensor), step):
                file.write(name, tensor[start : start + step], start)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    wanted=st.dictionaries(NAMES, st.tuples(SHAPES, st.sampled_from(["float16", "float32"])), min_size=1, max_size=5),
    note=st.text(st.characters(exclude_categories=("Cs",)), max_size=9),
    step=st.integers(1, 4),
)
def test_bytes_are_those_of_the_library(tmp_path: Path, wanted: dict[str, Any], note: str, step: int) -> None:
    generator = np.random.default_rng(0)
    tensors = {name: generator.standard_normal(shape).astype(dtype) for name, (shape, dtype) in wanted.items()}
    write(tmp_path / "ours", tensors, {"slimbrain": note}, step)
    save_file(tensors, tmp_path / "library", metadata={"slimbrain": note})
    assert (tmp_path / "ours").read_bytes() == (tmp_path / "library").read_bytes()


def test_rows_in_any_order_type_and_layout_land_in_their_place(tmp_path: Path) -> None:
    values = np.random.default_rng(1).standard_normal((9, 4, 3))
    with TensorFile(tmp_path / "x", {"a": TensorSpec("float16", (9, 4, 3)), "b": TensorSpec("float32", (2,))}, {}) as file:
        for start in (6, 0, 3):
            file.write("a", np.asfortranarray(values[start : start + 3]), start)
    read = load_file(tmp_path / "x")
    np.testing.assert_array_equal(read["a"], values.astype(np.float16))
    np.testing.assert_array_equal(read["b"], [0, 0])


@pytest.mark.parametrize(("shape", "start"), [((3, 4), 0), ((2, 5), 0), ((2, 4), 1), ((1, 4), -1), ((2, 2, 2), 0)])
def test_rows_that_do_not_fit_are_refused(tmp_path: Path, shape: tuple[int, ...], start: int) -> None:
    with TensorFile(tmp_path / "x", {"a": TensorSpec("float32", (2, 4))}, {}) as file, pytest.raises(ValueError, match="do not fit a"):
        file.write("a", np.ones(shape), start)


def test_a_full_disk_is_an_os_error() -> None:
    with pytest.raises(OSError, match="No space left"), TensorFile(Path("/dev/full"), {"a": TensorSpec("float32", (2, 4))}, {}):
        pass


# --- reading


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(shape=SHAPES, dtype=st.sampled_from(["float16", "float32"]), data=st.data())
def test_rows_are_those_the_library_wrote(tmp_path: Path, shape: tuple[int, ...], dtype: str, data: st.DataObject) -> None:
    generator = np.random.default_rng(0)
    tensors = {"x": generator.standard_normal(shape).astype(dtype), "y": generator.standard_normal((3, 2)).astype(np.float32)}
    save_file(tensors, tmp_path / "file", metadata={"note": "ü"})
    stretch = st.tuples(st.integers(0, shape[0]), st.integers(0, shape[0])).map(lambda pair: slice(min(pair), max(pair)))
    parts = data.draw(st.lists(stretch, min_size=1, max_size=4))
    read = read_rows(tmp_path / "file", "x", parts)
    np.testing.assert_array_equal(read, np.concatenate([tensors["x"][part] for part in parts]))
    assert read.dtype == dtype and read.flags["C_CONTIGUOUS"]
    np.testing.assert_array_equal(read_rows(tmp_path / "file", "y"), tensors["y"])


def test_rows_or_tensors_that_are_not_there_are_refused(tmp_path: Path) -> None:
    save_file({"x": np.ones((4, 2), np.float32)}, tmp_path / "file")
    for part in (slice(0, 5), slice(-1, 2), slice(3, 1)):
        with pytest.raises(ValueError, match="4 rows"):
            read_rows(tmp_path / "file", "x", [part])
    with pytest.raises(ValueError, match="no such tensor"):
        read_rows(tmp_path / "file", "y")
    save_file({"x": np.ones((4, 2), np.int64)}, tmp_path / "file")
    with pytest.raises(ValueError, match="I64"):
        read_rows(tmp_path / "file", "x")


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(changes=st.dictionaries(st.integers(0, 199), st.integers(0, 255), max_size=6), length=st.integers(0, 400))
def test_a_damaged_file_is_refused_whenever_the_library_refuses_it(tmp_path: Path, changes: dict[int, int], length: int) -> None:
    """A ValueError, or the right answer; never another exception, never a large allocation."""
    path = tmp_path / "file"
    save_file({"x": np.arange(24, dtype=np.float32).reshape(6, 4), "z": np.zeros((2, 2), np.float16)}, path)
    content = bytearray(path.read_bytes())
    for place, value in changes.items():
        content[place] = value
    path.write_bytes(content[:length] if length < 200 else content)
    try:
        expected = load_file(path)["x"]
    except (SafetensorError, KeyError, OSError, TypeError):
        expected = None
    try:
        read = read_rows(path, "x")
    except ValueError:
        return
    assert expected is not None
    np.testing.assert_array_equal(read, expected)


@pytest.mark.parametrize(
    "header",
    [
        b"[" * 100_000,
        b"{}",
        b"[]",
        b'{"x": 3}',
        b'{"x": {"dtype": "F32", "shape": [1e9, 4], "data_offsets": [0, 96]}}',
        b'{"x": {"dtype": "F32", "shape": [1000000000000, 4], "data_offsets": [0, 16000000000000]}}',
        b'{"x": {"dtype": "F32", "shape": [], "data_offsets": [0, 4]}}',
        b'{"x": {"dtype": ["F32"], "shape": [1], "data_offsets": [0, 4]}}',
        b'{"x": {"dtype": "F32", "shape": [true], "data_offsets": [0, 4]}}',
        b'{"x": {"dtype": "F32", "shape": [2], "data_offsets": [4, 12]}}',
        b'{"x": {"dtype": "F32", "shape": [12], "data_offsets": [0, 48]}, "z": {"dtype": "F32", "shape": [14], "data_offsets": [40, 96]}}',
    ],
)
def test_headers_that_make_no_sense_are_refused(tmp_path: Path, header: bytes) -> None:
    (tmp_path / "file").write_bytes(len(header).to_bytes(8, "little") + header + bytes(96))
    with pytest.raises(ValueError, match="header"):
        read_rows(tmp_path / "file", "x")
