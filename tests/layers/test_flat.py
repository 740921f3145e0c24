"""Linear maps, gate and norms on direct sums of irreps; the published constants of activations."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from covarium.algebra.irreps import Irreps
from covarium.algebra.rotations import random_rotations
from covarium.algebra.wigner import wigner_d
from covarium.layers.irreps import flat_linear
from covarium.layers.irreps.flat_linear import ElementTable, FlatLinear, FlatWeight, Gate
from covarium.layers.irreps.flat_norm import EPS, FlatNorm
from covarium.ops.attention import smooth_leaky_relu
from covarium.training import Settings
from covarium.training.optimiser import adamw

IRREPS = Irreps.parse("6x0e+2x0o+4x1e+3x1o+2x2e")
ATOMS = 7
BATCH = torch.tensor([0, 0, 0, 2, 2, 3, 3])


def features(irreps: Irreps = IRREPS, seed: int = 0) -> list[Tensor]:
    g = torch.Generator().manual_seed(seed)
    return [torch.randn(ATOMS, 2 * irrep.l + 1, mul, generator=g, dtype=torch.float64) for mul, irrep in irreps]


def rotated(x: list[Tensor], irreps: Irreps, rotation: Tensor) -> list[Tensor]:
    blocks = wigner_d(rotation.unsqueeze(0), 2)
    return [blocks[irrep.l] @ part for part, (_, irrep) in zip(x, irreps, strict=True)]


def equal(one: list[Tensor], other: list[Tensor], level: float = 1e-13) -> bool:
    return all((a - b).abs().max() < level for a, b in zip(one, other, strict=True))


def test_linear_is_equivariant_and_reads_its_vector_block_by_block() -> None:
    out = Irreps.parse("5x0e+3x1e+2x2o")
    layer = FlatLinear(IRREPS, out).double()
    torch.nn.init.normal_(layer.bias[0])
    x, (r,) = features(), random_rotations(1, torch.Generator().manual_seed(1))
    y = layer(x)
    assert equal(layer(rotated(x, IRREPS, r)), rotated(y, out, r))
    weight = layer.tp["weight"]
    assert torch.allclose(y[0], x[0] @ weight[:30].view(6, 5) + layer.bias[0])
    assert torch.allclose(y[1], x[2] @ weight[30:].view(4, 3))
    assert y[2].shape == (ATOMS, 5, 2) and y[2].abs().max() == 0, "2o has no input"
    assert {n: tuple(p.shape) for n, p in layer.named_parameters()} == {"tp.weight": (42,), "bias.0": (5,)}
    assert equal(layer(x[:1]), y[:1]), "scalars alone give scalars alone"


def test_attributes_multiply() -> None:
    layer = FlatLinear(IRREPS, IRREPS, attributes=3).double()
    x, a = features(), torch.randn(ATOMS, 3, dtype=torch.float64)
    weight = layer.tp["weight"][: 6 * 3 * 6].view(6, 3, 6)
    assert torch.allclose(layer(x, a)[0], torch.einsum("nmu,nv,uvw->nmw", x[0], a, weight))


def test_initial_scale_and_decay() -> None:
    torch.manual_seed(0)
    layer = FlatLinear(Irreps.parse("64x0e+32x1e"), Irreps.parse("64x0e+64x1e"), attributes=2)
    first, second = layer.tp["weight"].split([64 * 2 * 64, 32 * 2 * 64])
    assert first.std().item() == pytest.approx(1 / math.sqrt(128), rel=0.05)
    assert second.std().item() == pytest.approx(1 / math.sqrt(64), rel=0.05)
    assert ElementTable(50, 40).atom_type_lin.tp["weight"].std().item() == pytest.approx(1.0, rel=0.1)
    names = dict(layer.double().named_parameters())
    assert isinstance(names["tp.weight"], FlatWeight), "a change of dtype keeps it"
    groups = adamw(names, set(), Settings(steps=1, weight_decay=0.1)).param_groups
    assert [g["weight_decay"] for g in groups] == [0.1, 0.0]
    assert groups[0]["params"][0] is names["tp.weight"] and groups[1]["params"][0] is names["bias.0"]


def test_gate() -> None:
    gate = Gate(IRREPS)
    assert str(gate.irreps_in) == "17x0e+2x0o+4x1e+3x1o+2x2e"
    x, (r,) = features(gate.irreps_in), random_rotations(1, torch.Generator().manual_seed(2))
    y = gate(x)
    assert equal(gate(rotated(x, gate.irreps_in, r)), rotated(y, IRREPS, r))
    assert torch.allclose(y[0], flat_linear.SILU * torch.nn.functional.silu(x[0][..., :6]))
    gates = flat_linear.SIGMOID * torch.sigmoid(x[0][..., 8:12])
    assert torch.allclose(y[2], x[2] * gates), "0o comes before 1e in the gates"
    assert equal(gate(x[:1]), y[:1])


FUNCTIONS = {
    "silu": (torch.nn.functional.silu, flat_linear.SILU),
    "sigmoid": (torch.sigmoid, flat_linear.SIGMOID),
    "smooth_leaky_relu_0.2": (smooth_leaky_relu, flat_linear.SMOOTH_LEAKY_RELU),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_constants_of_the_activations(name: str) -> None:
    function, constant = FUNCTIONS[name]
    file = Path(__file__).parents[1] / "parity" / "equiformer" / "activation_constants.json"
    assert constant == json.loads(file.read_text())["values"][name]
    z = torch.randn(10**6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert constant == pytest.approx(float(function(z).square().mean() ** -0.5), rel=1e-12), "as it was found"
    points, weights = np.polynomial.hermite_e.hermegauss(100)
    integral = weights @ function(torch.from_numpy(points)).square().numpy() / math.sqrt(2 * math.pi)
    assert constant == pytest.approx(integral**-0.5, rel=3e-3), "of a sample, not of the integral"


@pytest.mark.parametrize("kind", ["anchored", "layer", "instance", "graph"])
def test_norms(kind: str) -> None:
    norm = FlatNorm(kind, IRREPS).double()
    with torch.no_grad():
        for parameter in norm.parameters():
            parameter += 0.3 * torch.randn(parameter.shape, dtype=torch.float64)
    x, (r,) = features(), random_rotations(1, torch.Generator().manual_seed(3))
    y = norm(x, BATCH, 5)
    assert equal(norm(rotated(x, IRREPS, r), BATCH, 5), rotated(y, IRREPS, r))
    assert equal(norm(x[:1], BATCH, 5), y[:1])
    weights = norm.affine_weight.split([mul for mul, _ in IRREPS])
    scalars = x[0]
    if kind in ("anchored", "layer"):
        centred = scalars - scalars.mean(2, keepdim=True)
        variance = centred.square().mean(2, keepdim=True)
        anchor = variance if kind == "anchored" else 0
        expected = [x[2] / (x[2].square().mean((1, 2), keepdim=True) + anchor + EPS).sqrt() * weights[2]]
        expected += [x[1] / (x[1].square().mean((1, 2), keepdim=True) + anchor + EPS).sqrt() * weights[1]]
    else:
        per_graph = [(BATCH == b) for b in BATCH.tolist()]
        mean = torch.stack([scalars[same].mean(0) for same in per_graph])
        centred = scalars - (mean * norm.mean_shift if kind == "graph" else mean)
        variance = torch.stack([centred[same].square().mean((0, 1)) for same in per_graph]).unsqueeze(1)
        square = [torch.stack([x[k][same].square().mean((0, 1)) for same in per_graph]).unsqueeze(1) for k in (2, 1)]
        expected = [x[k] / (s + EPS).sqrt() * weights[k] for k, s in zip((2, 1), square, strict=True)]
    assert equal([y[2], y[1]], expected)
    assert equal([y[0]], [centred / (variance + EPS).sqrt() * weights[0] + norm.affine_bias])


def test_only_the_anchored_norm_does_not_amplify_what_vanishes() -> None:
    x = features()
    tiny = [x[0], *[1e-9 * part for part in x[1:]]]
    gains = {}
    for kind in ("anchored", "layer", "graph"):
        y = FlatNorm(kind, IRREPS).double()(tiny, BATCH, 4)
        gains[kind] = max(float((a.abs().max() / b.abs().max()).detach()) for a, b in zip(y[1:], tiny[1:], strict=True))
    assert gains["layer"] > 300 and gains["graph"] > 300 and gains["anchored"] < 3
