"""Files filled piece by piece are the files that the safetensors library writes at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from slimbrain.tensorfile import TensorFile, TensorSpec

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
