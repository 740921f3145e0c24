"""Products in the frame of the edge against the dense Clebsch–Gordan product, by our invariants and by e3nn."""

import math
from pathlib import Path as File

import numpy as np
import pytest
import torch
from e3nn import o3
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

from covarium.algebra.clebsch_gordan import wigner_3j
from covarium.algebra.irreps import Irreps
from covarium.algebra.rotations import edge_frames
from covarium.algebra.wigner import wigner_d
from covarium.layers.irreps.edge_product import DepthwiseProduct, FixedProduct, Path, RadialProduct, depthwise_product

EDGES = 6
CASES = {
    "se3_l1": ("5x0e+3x1e", "1x0e+1x1e", "5x0e+3x1e"),
    "se3_l2": ("5x0e+3x1e+2x2e", "1x0e+1x1e+1x2e", "4x0e+3x1e+2x2e"),
    "se3_l3": ("3x0e+2x1e+2x2e+1x3e", "1x0e+1x1e+1x2e+1x3e", "3x0e+2x1e+2x2e+1x3e"),
    "e3_l1": ("4x0e+2x0o+2x1e+3x1o", "1x0e+1x1o", "4x0e+2x0o+2x1e+3x1o"),
    "e3_l2": ("4x0e+2x0o+2x1e+3x1o+2x2e+1x2o", "1x0e+1x1o+1x2e", "4x0e+2x0o+2x1e+3x1o+2x2e+1x2o"),
    "no_scalars_wanted": ("3x0e+2x1e", "1x0e+1x1e+1x2e", "2x1e"),
}
every = pytest.mark.parametrize("name", CASES)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class Setting:
    """Edges with features, weights per edge and a linear map, dense and in the frame."""

    def __init__(self, name: str) -> None:
        irreps_in, harmonics, targets = (Irreps.parse(text) for text in CASES[name])
        self.product: DepthwiseProduct = depthwise_product(irreps_in, harmonics, targets)
        unit = torch.nn.functional.normalize(random(EDGES, 3), dim=1)
        self.d = wigner_d(edge_frames(unit), 3)
        self.y = [math.sqrt(2 * l + 1) * d[:, l] for l, d in enumerate(self.d)]
        self.unit, self.harmonics = unit, harmonics
        self.x = [random(EDGES, 2 * irrep.l + 1, mul, seed=k) for k, (mul, irrep) in enumerate(irreps_in)]
        self.w = random(EDGES, self.product.num_weights, seed=9)
        self.matrices = [random(mul, 3, seed=20 + k) for k, (mul, _) in enumerate(self.product.irreps_out)]

    def framed(self, scalars_only: bool = False) -> list[Tensor]:
        degrees = [irrep.l for _, irrep in self.product.irreps_in]
        rows = [slice(l, l + 1) if scalars_only else slice(None) for l in degrees]
        return [self.d[l][:, row] @ part for l, row, part in zip(degrees, rows, self.x, strict=True)]

    def direct(self, weights: Tensor) -> list[Tensor]:
        """The dense product in the global frame and the linear map: entries of irreps_out, [E, 2l+1, 3]."""
        blocks: list[list[Tensor]] = [[] for _ in self.product.irreps_out]
        for p in self.product.paths:
            w3j = torch.from_numpy(wigner_3j(p.l1, p.ly, p.l).copy()) * math.sqrt(2 * p.l + 1)
            # the published tables have the other sign where one degree is 1 and the others are equal and above 1
            if sorted((p.l1, p.ly, p.l)) in ([1, 2, 2], [1, 3, 3]):
                w3j = -w3j
            part = torch.einsum("eic,ej,ijk->ekc", self.x[p.source], self.y[p.ly], w3j)
            blocks[p.target].append(part * weights[:, None, p.weight : p.weight + p.mul])
        return [torch.cat(parts, dim=2) @ m for parts, m in zip(blocks, self.matrices, strict=True)]

    def turned(self, x: Tensor, target: int) -> Tensor:
        return self.d[self.product.irreps_out.entries[target][1].l] @ x


@every
def test_radial_product_is_the_dense_one(name: str) -> None:
    s = Setting(name)
    module = RadialProduct(s.product).double()
    assert sorted(module.columns.tolist()) == list(range(s.product.num_weights)), "in full every weight counts"
    nodes = module(s.w[:, module.columns], s.framed(), s.matrices)
    expected = s.direct(s.w)
    for target, (_, irrep) in enumerate(s.product.irreps_out):
        for m in range(-irrep.l, irrep.l + 1):
            dense = s.turned(expected[target], target)[:, irrep.l + m]
            found = nodes.get((target, m), torch.zeros_like(dense))
            assert (found - dense).abs().max() < 1e-12 * max(1.0, float(dense.abs().max())), (target, m)


@every
def test_fixed_product_is_the_dense_one(name: str) -> None:
    s = Setting(name)
    module = FixedProduct(s.product).double()
    x = {(k, m): part[:, part.shape[1] // 2 + m] for k, part in enumerate(s.framed())
         for m in range(-(part.shape[1] // 2), part.shape[1] // 2 + 1)}  # fmt: skip
    nodes = module(s.w[0], x, s.matrices)
    expected = s.direct(s.w[:1].expand(EDGES, -1))
    for target, (_, irrep) in enumerate(s.product.irreps_out):
        for m in range(-irrep.l, irrep.l + 1):
            dense = s.turned(expected[target], target)[:, irrep.l + m]
            found = nodes.get((target, m), torch.zeros_like(dense))
            assert (found - dense).abs().max() < 1e-12 * max(1.0, float(dense.abs().max())), (target, m)


@every
def test_order_zero_alone(name: str) -> None:
    s = Setting(name)
    full, short = RadialProduct(s.product).double(), RadialProduct(s.product, scalars_only=True).double()
    nodes = full(s.w[:, full.columns], s.framed(), s.matrices)
    again = short(s.w[:, short.columns], s.framed(scalars_only=True), s.matrices)
    assert again.keys() == {node for node in nodes if node[1] == 0}
    assert all((again[node] - nodes[node]).abs().max() < 1e-13 for node in again)
    assert len(short.columns) <= len(full.columns)
    fixed, scalars = FixedProduct(s.product).double(), FixedProduct(s.product, scalars_only=True).double()
    x = {(k, m): part[:, part.shape[1] // 2 + m] for k, part in enumerate(s.framed())
         for m in range(-(part.shape[1] // 2), part.shape[1] // 2 + 1)}  # fmt: skip
    at_zero = {node: part for node, part in x.items() if node[1] == 0}
    assert (fixed(s.w[0], x, s.matrices)[0, 0] - scalars(s.w[0], at_zero, s.matrices)[0, 0]).abs().max() < 1e-12


def test_signs_are_those_of_the_published_tables() -> None:
    tables = np.load(File(__file__).parents[1] / "parity" / "equiformer" / "e3nn_w3j_sh.npz")
    for name in (name for name in tables if name.startswith("w3j")):
        l1, ly, l = (int(part) for part in name.split("_")[1:])
        path = Path(0, l1, ly, 0, l, 1, 0, 0)
        scale = math.sqrt((2 * l + 1) * (2 * ly + 1))
        for m in range(-l, l + 1):
            if path.reaches(m):
                expected = scale * tables[name][l1 + path.into(m), ly, l + m]
                assert path.coefficient(m) == pytest.approx(expected, abs=1e-13), (name, m)


@pytest.mark.usefixtures("float64_default")
@pytest.mark.parametrize("name", ["se3_l1", "e3_l1", "se3_l2", "e3_l2"])
def test_paths_and_layout_are_those_of_e3nn(name: str) -> None:
    """The same flat weights give e3nn's product, up to the sign that its version 0.5 changed for (1, 2, 2)."""
    s = Setting(name)
    outputs = o3.Irreps(str(s.product.irreps_out))
    pieces: list[tuple[int, str]] = []
    order = sorted(range(len(s.product.paths)), key=lambda k: s.product.paths[k].target)
    for k in order:
        p = s.product.paths[k]
        pieces.append((p.mul, str(s.product.irreps_out.entries[p.target][1])))
    place = {k: n for n, k in enumerate(order)}
    instructions = [(p.source, p.ly, place[k], "uvu", True) for k, p in enumerate(s.product.paths)]
    oracle = o3.TensorProduct(
        o3.Irreps(str(s.product.irreps_in)), o3.Irreps(str(s.harmonics)), o3.Irreps(pieces), instructions,
        irrep_normalization="component", path_normalization="none", internal_weights=False, shared_weights=False,
    )  # fmt: skip
    signs = torch.cat(
        [torch.full((p.mul,), -1.0 if sorted((p.l1, p.ly, p.l)) == [1, 2, 2] else 1.0) for p in s.product.paths]
    )
    flat = torch.cat([part.transpose(1, 2).flatten(1) for part in s.x], dim=1)
    sh = o3.spherical_harmonics(o3.Irreps(str(s.harmonics)), s.unit, normalize=True, normalization="component")
    dense = oracle(flat, sh, s.w * signs)
    start = 0
    for target, (mul, irrep) in enumerate(s.product.irreps_out):
        width = mul * (2 * irrep.l + 1)
        part = dense[:, start : start + width].unflatten(1, (mul, -1)).transpose(1, 2)
        assert (part @ s.matrices[target] - s.direct(s.w)[target]).abs().max() < 1e-12
        start += width
    assert start == outputs.dim


@pytest.mark.parametrize("scalars_only", [False, True])
def test_derivatives_close_among_themselves(scalars_only: bool) -> None:
    s = Setting("se3_l2" if scalars_only else "e3_l1")
    module = RadialProduct(s.product, scalars_only=scalars_only).double()
    x = [part[:2].clone().requires_grad_() for part in s.framed(scalars_only)]
    w = s.w[:2, module.columns].clone().requires_grad_()

    def outputs(w: Tensor, *x: Tensor) -> Tensor:
        return torch.cat(list(module(w, x, s.matrices).values()), dim=1)

    assert gradcheck(outputs, (w, *x))
    assert gradgradcheck(outputs, (w, *x))


def test_third_derivatives_of_a_cubic() -> None:
    s = Setting("se3_l1")
    module = RadialProduct(s.product).double()
    w = s.w[:1, module.columns].clone().requires_grad_()
    x = [part[:1] for part in s.framed()]

    def cubic(w: Tensor) -> Tensor:
        return sum(part.pow(3).sum() for part in module(w, [w.sum() * part for part in x], s.matrices).values())

    (first,) = torch.autograd.grad(cubic(w), w, create_graph=True)
    # homogeneous of degree six
    assert float((first * w).sum().detach()) == pytest.approx(6 * float(cubic(w).detach()), rel=1e-10)
    (second,) = torch.autograd.grad((first * w).sum(), w, create_graph=True)
    (third,) = torch.autograd.grad((second * w).sum(), w)
    assert float((third * w).sum().detach()) == pytest.approx(6**3 * float(cubic(w).detach()), rel=1e-10)


def test_no_edges() -> None:
    s = Setting("se3_l2")
    module = RadialProduct(s.product).double()
    nodes = module(s.w[:0, module.columns], [part[:0] for part in s.framed()], s.matrices)
    assert all(part.shape == (0, 3) for part in nodes.values())


@pytest.fixture
def float64_default() -> object:
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)
