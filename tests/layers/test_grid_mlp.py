"""The feed-forward on the sphere against its definition at the points, and how products and SiLU fare on a grid."""

import pytest
import torch
from test_irreps import ATOMS, CHANNELS, LMAX, ROTATIONS, features, generator, perturbed, rotated
from torch import Tensor
from torch.nn.functional import silu

from covarium.algebra.layout import l_primary
from covarium.algebra.sphere import Grid, s2_grid
from covarium.layers.irreps.activation import POINTS, SCALARS, GridActivation, kernel_widths, product, swiglu
from covarium.layers.irreps.grid_mlp import GridMLP, LinearPair
from covarium.layers.irreps.linear import SO3Linear

HIDDEN = 6
EXACT = s2_grid(LMAX, LMAX, "gauss_legendre")
PUBLISHED = s2_grid(LMAX, LMAX, "equal_angle", 10, 10)
PRODUCTS = ["sep_s2_square", "sep-merge_gates2_swiglu"]


def network(kernel: str, grid: Grid = EXACT) -> tuple[GridMLP, SO3Linear, SO3Linear, LinearPair | None]:
    scalar = perturbed(LinearPair(CHANNELS, HIDDEN, kernel)) if kernel in SCALARS else None
    return (
        perturbed(GridMLP(CHANNELS, HIDDEN, kernel, grid, LMAX)),
        perturbed(SO3Linear(CHANNELS, HIDDEN, LMAX)),
        perturbed(SO3Linear(HIDDEN, CHANNELS, LMAX)),
        scalar,
    )


def at_the_points(kernel: str, mlp: GridMLP, w1: SO3Linear, w2: SO3Linear, s: LinearPair | None, x: Tensor) -> Tensor:
    """As the published code has it: every linear map at every point of the published grid."""
    points = mlp.grid_linear_1(torch.from_numpy(PUBLISHED.to_grid) @ w1(x))
    first, *second = points.chunk(1 if POINTS[kernel] is silu else 2, dim=2)
    if kernel == "sep-merge_gates2_swiglu":
        points = first * torch.sigmoid(mlp.gating_linear(x[:, :1])) * second[0]
    elif POINTS[kernel] is silu:
        points = silu(mlp.grid_linear_mid(silu(first)))
    else:
        points = POINTS[kernel](points)
    y = torch.from_numpy(PUBLISHED.from_grid.T) @ mlp.grid_linear_2(points)
    if s is not None:
        y = torch.cat([s(x[:, :1]) + ("-merge" in kernel) * y[:, :1], y[:, 1:]], dim=1)
    return w2(y)


@pytest.mark.parametrize("kernel", sorted(POINTS))
@pytest.mark.parametrize("atoms", [1, ATOMS])
def test_equals_its_definition_at_the_points(kernel: str, atoms: int) -> None:
    """With products the half-sized grid gives the same numbers as the published one; merged (7 atoms) and not (1)."""
    parts = network(kernel, EXACT if kernel in PRODUCTS else PUBLISHED)
    mlp, w1, w2, s = parts
    x = features()[:atoms].requires_grad_()
    assert mlp._merging_pays(atoms, w1) == (atoms > 1)
    ours = mlp.network(x, w1, w2, s(x[:, 0]) if s is not None else None)
    theirs = at_the_points(kernel, *parts, x)
    assert (ours - theirs).abs().max() < 1e-13 * theirs.abs().max()
    weights = [p for part in parts if part is not None for p in part.parameters()]
    coefficients = torch.randn(ours.shape, generator=generator(4), dtype=torch.float64)
    for a, b in zip(
        torch.autograd.grad((ours * coefficients).sum(), [x, *weights]),
        torch.autograd.grad((theirs * coefficients).sum(), [x, *weights]),
        strict=True,
    ):
        assert (a - b).abs().max() < 1e-12 * b.abs().max().clamp(min=1e-3)


@pytest.mark.parametrize("kernel", PRODUCTS)
def test_products_are_exactly_equivariant(kernel: str) -> None:
    mlp, w1, w2, s = network(kernel)
    x = features()
    for r in ROTATIONS:
        turned, straight = (mlp.network(f, w1, w2, s(f[:, 0])) for f in (rotated(x, r), x))
        assert (turned - rotated(straight, r)).abs().max() < 1e-12 * straight.abs().max()


@pytest.mark.parametrize("missing", [(1, 0), (0, 1)], ids=["latitude", "longitude"])
def test_the_exact_grid_has_no_point_too_many(missing: tuple[int, int]) -> None:
    latitudes, longitudes = (3 * LMAX + 2) // 2, 3 * LMAX + 1
    assert EXACT.to_grid.shape[0] == latitudes * longitudes == 50
    coarse = s2_grid(LMAX, LMAX, "gauss_legendre", latitudes - missing[0], longitudes - missing[1])
    x = features(channels=2)
    values = [
        GridActivation("sep_s2_square", grid, l_primary(LMAX)).double()([x], x[:, 0])[0] for grid in (EXACT, coarse)
    ]
    assert (values[0] - values[1]).abs().max() > 0.01 * values[0].abs().max()


def test_kernels_by_hand() -> None:
    x = torch.randn(3, 8, generator=generator(), dtype=torch.float64)
    assert torch.equal(product(x), x[:, :4] * x[:, 4:]) and torch.equal(swiglu(x), silu(x[:, :4]) * x[:, 4:])
    assert kernel_widths("s2", 5) == (5, 0) and kernel_widths("sep_s2", 5) == (5, 5)
    assert kernel_widths("s2_swiglu", 5) == (10, 0) and kernel_widths("sep-merge_s2_swiglu", 5) == (10, 10)
    assert kernel_widths("sep-merge_gates2_swiglu", 5) == (10, 15)


@pytest.mark.parametrize("kernel", sorted(SCALARS))
def test_scalars_join_at_degree_zero(kernel: str) -> None:
    width, scalar_width = kernel_widths(kernel, 4)
    act = GridActivation(kernel, EXACT, l_primary(LMAX)).double()
    x = features(channels=width)
    scalars = torch.randn(ATOMS, scalar_width, generator=generator(1), dtype=torch.float64)
    alone = act.from_grid @ POINTS[kernel](act.to_grid @ x)
    own, gates = scalars, None
    if kernel == "sep-merge_gates2_swiglu":
        own, gates = scalars[:, :8], scalars[:, 8:]
        alone = alone * torch.sigmoid(gates)[:, None]
    (y,) = act([x], scalars)
    assert (y[:, 1:] - alone[:, 1:]).abs().max() < 1e-15
    expected = SCALARS[kernel](own) + ("-merge" in kernel) * alone[:, 0]
    assert (y[:, 0] - expected).abs().max() < 1e-15
