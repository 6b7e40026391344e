"""Weights under Meta's Hiera names: the same function as a plain network with those names, and nothing taken on trust."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from store_samples import make_store
from torch import Tensor, nn
from torch.nn import functional

from slimbrain.cli import run_command
from slimbrain.config import HieraConfig, load_preset
from slimbrain.data.clip import read_clip
from slimbrain.errors import ContractError, InputError
from slimbrain.grid import LATTICES, Grid
from slimbrain.models.hub import from_pretrained
from slimbrain.models.jepa import HieraJEPA
from slimbrain.models.published import PublishedEncoder, _read_published, as_model, load_published

State = dict[str, Tensor]

# --- an independent network: dense arrays in t, x, y, z and Meta's names


class Block(nn.Module):
    def __init__(self, width: int, out: int, heads: int, ratio: float) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width, 1e-6), nn.LayerNorm(out, 1e-6)
        self.attn = nn.ModuleDict({"qkv": nn.Linear(width, 3 * out), "proj": nn.Linear(out, out)})
        hidden = int(out * ratio)
        self.mlp = nn.ModuleDict({"fc1": nn.Linear(out, hidden), "fc2": nn.Linear(hidden, out)})
        if width != out:
            self.proj = nn.Linear(width, out)
        self.heads = heads

    def forward(self, x: Tensor, pool: bool) -> Tensor:
        """(S, t, x, y, z, D): attention among the tokens of each of S sets."""
        normed = self.norm1(x)
        rest = self.proj(normed) if hasattr(self, "proj") else x
        qkv = self.attn["qkv"](normed)
        q, k, v = qkv.reshape(*qkv.shape[:-1], 3, self.heads, -1).unbind(-3)
        if pool:
            rest, q = halve(rest), halve(q.flatten(-2)).unflatten(-1, (self.heads, -1))
        shape = q.shape[:-2]
        q, k, v = (part.flatten(1, 4) for part in (q, k, v))
        weights = torch.softmax(torch.einsum("sqhd,skhd->shqk", q, k) / q.shape[-1] ** 0.5, -1)
        x = rest + self.attn["proj"](torch.einsum("shqk,skhd->sqhd", weights, v).reshape(*shape, -1))
        return x + self.mlp["fc2"](functional.gelu(self.mlp["fc1"](self.norm2(x))))


def halve(x: Tensor) -> Tensor:
    for axis in (1, 2, 3, 4):
        x = x.unflatten(axis, (-1, 2)).amax(axis + 1)
    return x


class Plain(nn.Module):
    def __init__(self, config: HieraConfig) -> None:
        super().__init__()
        assert config.learned_positions is not None
        self.side, frames = config.learned_positions
        self.patch_embed = nn.ModuleDict({"proj": nn.Conv3d(1, config.embed, 4, 4)})
        self.pos_embed_spatial = nn.Parameter(torch.randn(1, self.side**3, config.embed))
        self.pos_embed_temporal = nn.Parameter(torch.randn(1, frames, config.embed))
        widths, blocks = [config.embed * 2**level for level in range(4)], []
        for level, depth in enumerate(config.depths):
            for number in range(depth):
                width = widths[level - 1] if number == 0 and level else widths[level]
                blocks.append(Block(width, widths[level], config.heads[level], config.mlp_ratio))
        self.blocks, self.norm = nn.ModuleList(blocks), nn.LayerNorm(widths[-1], 1e-6)
        self.pooling = (config.depths[0], config.depths[0] + config.depths[1])

    def forward(self, volumes: Tensor, mask: Tensor) -> Tensor:
        """(T, X, Y, Z), (N,) mask units in order of t, x, y, z -> (D,)."""
        x = self.patch_embed["proj"](volumes[:, None]).movedim(1, -1)
        t, i, j, k, _ = x.shape
        space = self.pos_embed_spatial[0].view(self.side, self.side, self.side, -1)[:i, :j, :k]
        x = x + space + self.pos_embed_temporal[0, :t, None, None, None]
        units = [
            x[a : a + 8, b : b + 8, c : c + 8, d : d + 8]
            for a in range(0, t, 8)
            for b in range(0, i, 8)
            for c in range(0, j, 8)
            for d in range(0, k, 8)
        ]
        x = torch.stack([unit for unit, kept in zip(units, mask, strict=True) if kept])
        for number, block in enumerate(self.blocks):
            if number == self.pooling[1] + 1:
                x = x.flatten(0, 4)[None, None, None, None]
            x = block(x, number in self.pooling)
        return self.norm(x.flatten(0, 4).mean(0))


SMALL = HieraConfig(
    **{"embed": 8, "depths": (2, 2, 2, 1), "heads": (1, 2, 4, 8), "mlp_ratio": 2, "unit": "region", "unit_frames": 8, "norm_eps": 1e-6},
    learned_positions=(24, 40),
    pooling="max",
)


@pytest.fixture(scope="module")
def plain() -> Plain:
    torch.manual_seed(0)
    made = Plain(SMALL).double()
    for parameter in made.parameters():  # initial weights are so small that attention would be uniform
        parameter.data += 0.2 * torch.randn_like(parameter)
    return made.float().double()  # what a checkpoint can hold


@pytest.mark.parametrize("hidden", [pytest.param([], marks=pytest.mark.slow), [1, 2]])
def test_equals_a_plain_network_with_these_names(hidden: list[int], plain: Plain) -> None:
    """Two time units of 1 x 2 x 1 mask units."""
    encoder = _read_published(plain.state_dict(), SMALL, "test").double()
    volumes = torch.randn(2, 16, 32, 64, 32, dtype=torch.float64)
    mask = torch.ones(2, 4, dtype=torch.bool)
    mask[1, hidden] = False
    with torch.no_grad():
        found = encoder.pooled(volumes, mask if hidden else None)
        expected = torch.stack([plain(*pair) for pair in zip(volumes, mask, strict=True)])
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-9)


# --- the published size


def published_state() -> State:
    """Every name and shape of the published configuration, written out from the facts."""
    state = {
        "patch_embed.proj.weight": torch.zeros(64, 1, 4, 4, 4),
        "patch_embed.proj.bias": torch.zeros(64),
        "pos_embed_spatial": torch.zeros(1, 13824, 64),
        "pos_embed_temporal": torch.zeros(1, 40, 64),
        "norm.weight": torch.ones(512),
        "norm.bias": torch.zeros(512),
    }
    outs = [64] * 2 + [128] * 3 + [256] * 16 + [512] * 3
    for number, (width, out) in enumerate(zip([64, *outs], outs, strict=False)):
        shapes = {
            **{"norm1.weight": (width,), "norm1.bias": (width,), "norm2.weight": (out,), "norm2.bias": (out,)},
            **{"attn.qkv.weight": (3 * out, width), "attn.qkv.bias": (3 * out,), "attn.proj.weight": (out, out), "attn.proj.bias": (out,)},
            **{"mlp.fc1.weight": (4 * out, out), "mlp.fc1.bias": (4 * out,), "mlp.fc2.weight": (out, 4 * out), "mlp.fc2.bias": (out,)},
            **({"proj.weight": (out, width), "proj.bias": (out,)} if out != width else {}),
        }
        state |= {f"blocks.{number}.{name}": torch.zeros(shape) for name, shape in shapes.items()}
    generator = torch.Generator().manual_seed(0)
    return {name: value + 0.02 * torch.randn(value.shape, generator=generator) for name, value in state.items()}


@pytest.fixture(scope="module")
def state() -> State:
    return published_state()


def test_the_published_size_is_read_from_a_file(state: State, tmp_path: Path) -> None:
    heads = {"head.weight": torch.zeros(2, 512), "predictor.query": torch.zeros(3)}
    wrapped = {f"module.{name}": value for name, value in state.items()} | {f"module.{name}": value for name, value in heads.items()}
    torch.save({"model": wrapped, "epoch": 39}, tmp_path / "weights.pth")
    model = load_published(tmp_path / "weights.pth")
    assert isinstance(model, PublishedEncoder) and not model.training
    # DESIGN section 1 says 22.4 M, of which position tables are 0.9 M.
    assert sum(parameter.numel() for parameter in model.parameters()) == sum(value.numel() for value in state.values())
    assert 22.3e6 < sum(parameter.numel() for parameter in model.parameters()) < 23.5e6
    assert set(model.left_out) == {"module.head.weight", "module.predictor.query"}
    mask = torch.zeros(1, 135, dtype=torch.bool)
    mask[0, [0, 13, 134]] = True
    volumes = torch.randn(1, 1, 40, 96, 96, 96)
    with torch.no_grad():
        vector = model.forward_features(volumes, mask)
        volumes[0, 0, 8:16] += 1  # the second row of units, all hidden
        torch.testing.assert_close(model.forward_features(volumes, mask), vector, rtol=0, atol=0)
        volumes[0, 0, :8, 32:64, 32:64, 32:64] += 1  # unit 13: t 0, x 1, y 1, z 1
        assert not torch.equal(model.forward_features(volumes, mask), vector)
    assert vector.shape == (1, 512) and bool(vector.isfinite().all())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.pop("blocks.5.attn.qkv.bias"), "has no blocks.5.qkv.bias; it is not the published encoder"),
        (lambda state: state.update({"blocks.5.ls1.weight": torch.zeros(1)}), "has unknown blocks.5.ls1.weight"),
        (lambda state: state.update({"blocks.24.norm1.weight": torch.zeros(512)}), "has unknown blocks.24.norm1.weight"),
        (lambda state: state.update({"norm.weight": torch.zeros(768)}), r"another shape: norm.weight \(768,\)"),
        (lambda state: state.pop("pos_embed_spatial"), "holds no encoder"),
        (lambda state: state.update({f"ema.{name}": value for name, value in state.items()}), r"several encoders \(, ema.\)"),
    ],
)
def test_what_does_not_fit_is_named(change: Callable[[State], object], message: str, state: State) -> None:
    config = load_preset("paper").voxel.model_copy(update={"learned_positions": (24, 40), "norm_eps": 1e-6})
    changed = dict(state)
    change(changed)
    with pytest.raises(InputError, match=message) as refusal:
        _read_published(changed, config, "weights.pth")
    assert str(refusal.value).startswith("weights.pth: ") and "\n" not in str(refusal.value)


class Harmful:
    def __reduce__(self) -> tuple[Callable[..., object], tuple[str]]:
        return print, ("code was run",)


@pytest.mark.parametrize("content", ["no file", "text", "code", "no tensors"])
def test_a_file_that_is_no_checkpoint_is_refused(content: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "weights.pth"
    if content == "text":
        path.write_text("not weights")
    elif content != "no file":
        torch.save({"model": Harmful()} if content == "code" else {"epoch": 3}, path)
    said = {"no file": "No such file or directory", "no tensors": "save its state dict alone"}.get(
        content, "was not loaded; fetch it again"
    )
    with pytest.raises(InputError, match=said) as refusal:
        load_published(path)
    # Torch advises to load what it refused in a way that would run it.
    assert "weights_only" not in str(refusal.value)
    assert str(path) in str(refusal.value) and "\n" not in str(refusal.value)
    assert "code was run" not in capsys.readouterr().out


def test_other_shapes_of_input_are_refused(state: State) -> None:
    config = load_preset("paper").voxel.model_copy(update={"learned_positions": (24, 40), "norm_eps": 1e-6})
    model = _read_published(state, config, "test")
    with pytest.raises(InputError, match=r"takes \(B, 1, 40, 96, 96, 96\)"):
        model.forward_features(torch.zeros(1, 40, 96, 96, 96))
    with pytest.raises(InputError, match=r"expected \(1, 135\)"):
        model.forward_features(torch.zeros(1).expand(1, 1, 40, 96, 96, 96), torch.ones(1, 27, dtype=torch.bool))


def test_the_command_makes_a_model_that_reads_a_store(state: State, tmp_path: Path) -> None:
    mask = np.zeros((96, 96, 96), dtype=bool)
    mask[30:50, 40:60, 40:60] = True
    store = make_store(tmp_path / "store", Grid(LATTICES["2mm"], mask), subjects=1)
    torch.save(state, tmp_path / "weights.pth")
    words = ["convert", tmp_path / "weights.pth", "--store", store.root, "--out", tmp_path / "model"]
    assert run_command([str(word) for word in words]) == 0
    model = from_pretrained(tmp_path / "model", store.contract)
    assert isinstance(model, HieraJEPA)
    clip = read_clip(store, store.sessions[0], range(8), 5)
    published = _read_published(state, model.config, "test").encoder.eval()
    with torch.no_grad():
        assert torch.equal(model.encoder([clip]).values, published([clip]).values)
    assert "SLIM-Brain's published checkpoint" in (tmp_path / "model" / "README.md").read_text()
    other = make_store(tmp_path / "coarse", Grid(LATTICES["8mm"], np.ones((24, 24, 24))), subjects=1)
    with pytest.raises(ContractError, match="need --resolution 2mm"):
        as_model(PublishedEncoder(published), other)
