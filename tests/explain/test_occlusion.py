"""Occlusion against what it is a shortcut for: encoding the clip anew without the unit."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from explain_samples import clip, encoder, head, slab

from slimbrain.errors import InputError
from slimbrain.explain import occlude_units, occlusion
from slimbrain.grid import LATTICES, Grid


@pytest.mark.parametrize(("unit", "pooling", "at_once"), [("unit", "moments", 1), ("unit", "mean", 10_000), ("region", "moments", 4096)])
def test_deleting_a_unit_equals_encoding_the_clip_without_it(
    unit: str, pooling: str, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(occlusion, "_TOKENS_AT_ONCE", at_once)
    network, sample = encoder(unit=unit), clip(slab())
    decide = head(network.width, pooling=pooling)
    found = occlude_units(network, decide, sample)
    units = len(sample.grid.regions if unit == "region" else sample.grid.units)
    assert found.shape == (units,) and units > 1
    whole = decide(network([sample]))
    for number in range(units):
        visible = network.everything(sample)
        visible[:, number] = False
        assert found[number] == pytest.approx(float(whole - decide(network([sample], [visible]))), abs=1e-10)
    assert np.abs(found).min() > 1e-6, "a unit that nothing depends on would be found by any code"


def test_a_brain_of_one_unit_cannot_be_occluded() -> None:
    mask = np.zeros((24, 24, 24), bool)
    mask[8:12, 8:12, 8:12] = True
    grid = Grid(LATTICES["8mm"], mask)
    with pytest.raises(InputError, match="single unit"):
        occlude_units(encoder(), lambda tokens: torch.zeros(len(tokens.lengths)), clip(grid))
