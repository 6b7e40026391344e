"""Vectors that say nothing are noticed."""

from __future__ import annotations

import numpy as np
import pytest

from slimbrain.embed.features import Embeddings
from slimbrain.store import Contract


@pytest.mark.parametrize(
    ("values", "alike"),
    [
        ([[1.0, 2.0], [1.0, 2.0]], True),
        ([[0.0, 0.0], [0.0, 0.0]], True),
        ([[1.0, 2.0], [1.0, 2.0000001]], True),
        ([[1.0, 2.0], [1.0, 2.001]], False),
        ([[1.0, 2.0]], False),
    ],
)
def test_sessions_with_one_vector_are_noticed(values: list[list[float]], alike: bool) -> None:
    keys = tuple(f"sub-{number}" for number in range(len(values)))
    found = Embeddings(keys, keys, np.array(values, np.float32), {}, Contract("roi", "", "roi", 1.0))
    assert found.all_alike() is alike
