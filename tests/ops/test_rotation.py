"""Rotation into the frames of edges and sums out of them: in torch against the formula, to third derivatives, and the
kernels against torch, to second ones.

Without a CUDA device the kernels run in Triton's interpreter; without triton they are not run.
"""

import importlib.util
import os

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from covarium.algebra.layout import m_primary
from covarium.algebra.rotations import random_rotations
from covarium.algebra.wigner import wigner_d
from covarium.errors import CovariumError
from covarium.ops import rotation
from covarium.ops.rotation import End, Layout, rotate_in, rotate_out

if not torch.cuda.is_available():
    # read when the kernels are first imported
    os.environ["TRITON_INTERPRET"] = "1"

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
needs_triton = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")
FULL = Layout((0, 1, 2), m_primary(2, 1))
CASES = {
    "beside": (FULL, True),
    "added": (FULL, False),
    "one degree": (Layout((1,), ((1, -1), (1, 0), (1, 1))), False),
    "m = 0 alone": (Layout((2,), ((2, 0),)), False),
}


# how edges are worked on: FEW, ENOUGH, APART
NEVER = 2**62
WAYS = {
    "one edge at a time": (1, NEVER, NEVER),
    "some edges at a time": (100, NEVER, NEVER),
    "all edges at once": (rotation.FEW, NEVER, NEVER),
    "atom by atom, pairs at once": (100, 0, NEVER),
    "atom by atom": (100, 0, 0),
}


@pytest.fixture(params=WAYS)
def way(request, monkeypatch):
    for name, value in zip(("FEW", "ENOUGH", "APART"), WAYS[request.param], strict=True):
        monkeypatch.setattr(rotation, name, value)
    return request.param


def wigner(layout: Layout, edges: int, rng: torch.Generator) -> torch.Tensor:
    matrices = wigner_d(random_rotations(edges, rng), max(layout.degrees))
    return torch.cat([matrices[l].flatten(1) for l in layout.degrees], dim=1)


def given(layout: Layout, *, edges: int = 3, atoms: int = 3, channels: int = 3, dtype: torch.dtype = torch.float64):
    rng = torch.Generator().manual_seed(0)
    source = torch.randint(atoms, (edges,), generator=rng)
    # the last atom has no edges
    target = torch.randint(atoms - 1, (edges,), generator=rng).sort()[0]
    ends = [End(source.to(DEVICE), atoms, ascending=False), End(target.to(DEVICE), atoms, ascending=True)]
    columns = sum(2 * l + 1 for l in layout.degrees)
    xs = [torch.randn(atoms, columns, channels, generator=rng, dtype=torch.float64) for _ in ends]
    return [t.to(DEVICE, dtype) for t in (wigner(layout, edges, rng), *xs)], ends


def formula(xs, d, ends, layout, beside):
    gathered = [x.index_select(0, end.index) for x, end in zip(xs, ends, strict=True)]
    return layout.dense(d) @ (torch.cat(gathered, dim=2) if beside else sum(gathered))


def sums_of_formula(y, d, end, layout):
    products = layout.dense(d).transpose(1, 2) @ y
    return torch.zeros(end.atoms, *products.shape[1:], dtype=y.dtype, device=y.device).index_add(0, end.index, products)


def derivatives(layout, beside, backend, tensors, ends, order=2):
    """Of a non-linear function of all: its value, and derivatives up to ``order``."""
    leaves = d, a, b = [t.clone().requires_grad_() for t in tensors]
    if backend == "formula":
        y = formula([a, b], d, ends, layout, beside)
        out = sums_of_formula(y * torch.sigmoid(y), d, ends[1], layout)
    else:
        y = rotate_in([a, b], d, ends, layout, beside=beside, backend=backend)
        out = rotate_out(y * torch.sigmoid(y), d, ends[1], layout, backend=backend)
    weights = torch.linspace(-1, 1, out.numel(), dtype=out.dtype, device=out.device).view_as(out)
    found = [torch.autograd.grad(out, leaves, weights, create_graph=True)]
    for _ in range(1, order):
        found.append(torch.autograd.grad(sum(g.pow(3).sum() for g in found[-1]), leaves, create_graph=True))
    return [out, *(g for gradients in found for g in gradients)]


@pytest.mark.parametrize("name", CASES)
def test_derivatives_of_any_order_are_those_of_the_formula(name, way):
    layout, beside = CASES[name]
    tensors, ends = given(layout, edges=7)
    expected, found = (derivatives(layout, beside, backend, tensors, ends, 3) for backend in ("formula", "torch"))
    assert len(found) == 10
    for e, f in zip(expected, found, strict=True):
        assert float((e - f).detach().abs().max()) <= 1e-13 * float(e.detach().abs().max()) > 0


@pytest.mark.parametrize("counts", [[0, 2, 2, 0, 0, 3, 1, 0], [2, 2, 2], [0, 0]])
@pytest.mark.parametrize("beside", [True, False])
def test_each_map_is_a_sum_over_edges(counts, beside, way):
    """Whatever numbers of edges the atoms have; rows of y need not lie one after another."""
    rng = torch.Generator().manual_seed(1)
    edges, atoms = sum(counts), len(counts)
    source = torch.randint(atoms, (edges,), generator=rng)
    target = torch.arange(atoms).repeat_interleave(torch.tensor(counts))
    both = [End(source.to(DEVICE), atoms, ascending=False), End(target.to(DEVICE), atoms, ascending=True)]
    d = torch.randn(edges, 4, 5, generator=rng, dtype=torch.float64).to(DEVICE)
    for ends in (both, both[::-1], both[:1], both[1:], both[1:] * 2):
        wide = beside and len(ends) == 2
        xs = [torch.randn(atoms, 5, 3, generator=rng, dtype=torch.float64).to(DEVICE) for _ in ends]
        y = torch.randn(2 * (6 if wide else 3), edges, 4, generator=rng, dtype=torch.float64).to(DEVICE).movedim(0, 2)
        y = y[:, :, ::2]
        found = rotation._In.apply(tuple(ends), beside, d, *xs)
        matrices = rotation._Matrices.apply(tuple(ends), beside, d.dtype, y, *xs)
        sums = rotation._Out.apply(tuple(ends), beside, d, y)
        expected = [torch.zeros_like(x) for x in xs]
        for e in range(edges):
            read = [x[end.index[e]] for x, end in zip(xs, ends, strict=True)]
            joined = torch.cat(read, dim=1) if wide else sum(read)
            assert torch.allclose(found[e], d[e] @ joined, rtol=0, atol=1e-13)
            assert torch.allclose(matrices[e], y[e] @ joined.T, rtol=0, atol=1e-13)
            for k, end in enumerate(ends):
                expected[k][end.index[e]] += d[e].T @ (y[e, :, 3 * k : 3 * k + 3] if wide else y[e])
        assert found.shape == y.shape
        assert matrices.shape == d.shape
        for x, e in zip(sums, expected, strict=True):
            assert torch.allclose(x, e, rtol=0, atol=1e-13)


def test_runs_are_of_atoms_with_equally_many_edges():
    def runs(index, atoms):
        return End(torch.tensor(index, dtype=torch.int64), atoms, ascending=True).runs

    assert runs([1, 1, 2, 2, 4], 6) == rotation.Runs([1, 2, 1, 1, 1], [0, 4, 0, 1, 0])
    assert runs([], 2) == rotation.Runs([2], [0])
    with pytest.raises(CovariumError, match="sorted by target atom; edge 1 goes to atom 3, the next one to atom 2"):
        runs([0, 3, 2], 4)


class Called(TorchDispatchMode):
    """Names of operations."""

    def __init__(self):
        super().__init__()
        self.names = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.add(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


@pytest.mark.skipif(torch.cuda.is_available(), reason="on the CPU alone")
def test_atom_by_atom_where_there_is_enough_to_do_in_a_call():
    def called(counts, dtype):
        target = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
        y, d = torch.ones(len(target), 9, 64, dtype=dtype), torch.ones(len(target), 9, 9)
        with Called() as found:
            rotation._Out.apply((End(target, len(counts), ascending=True),), False, d, y)
        return "index_add_" not in found.names

    enough = rotation.ENOUGH // (9 * 9 * 64) + 1
    assert called([enough], torch.float32)
    assert called([2] * enough, torch.float32)
    assert not called([enough], torch.bfloat16)
    assert not called([enough // 2, 1] * 5, torch.float32)


@pytest.mark.parametrize("name", CASES)
def test_finite_differences(name, way):
    layout, beside = CASES[name]
    (d, *xs), ends = given(layout, edges=2, atoms=2, channels=1)

    def function(d, a, b):
        y = rotate_in([a, b], d, ends, layout, beside=beside)
        return sum(rotate_out(y.square(), d, end, layout) for end in ends)

    inputs = [t.requires_grad_() for t in (d, *xs)]
    assert torch.autograd.gradcheck(function, inputs)
    assert torch.autograd.gradgradcheck(function, inputs)


class Products(TorchDispatchMode):
    """Counts matrix products of a batch."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func.overloadpacket == torch.ops.aten.bmm
        return func(*args, **(kwargs or {}))


def test_a_pass_computes_only_what_it_is_asked_for():
    layout, _ = CASES["beside"]
    tensors, ends = given(layout)
    d, a, b = (t.requires_grad_() for t in tensors)

    def cost(leaves, d, a, b):
        y = rotate_in([a, b], d, ends, layout, beside=True)
        out = rotate_out(y, d, ends[1], layout)
        with Products() as products:
            torch.autograd.grad(out.sum(), leaves)
        return products.count

    # of rotate_out: y, D; of rotate_in: both xs, D
    assert cost([d, a, b], d, a, b) == 5
    assert cost([a, b], d, a, b) == cost([a, b], d.detach(), a, b) == 3
    assert cost([d], d, a, b) == cost([d], d, a.detach(), b.detach()) == 3


def test_nothing_is_kept_for_derivatives_that_cannot_be_asked_for():
    layout, _ = CASES["beside"]
    (d, a, b), ends = given(layout)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        y = rotate_in([a.requires_grad_(), b], d, ends, layout, beside=True)
        rotate_out(y, d, ends[1], layout)
    assert [t.shape for t in kept] == [layout.dense(d).shape] * 2


@pytest.mark.parametrize("beside", [True, False])
def test_torch_rounds_lower_precision_of_features_once(beside, way):
    """D is of a wider type, which products and sums then have, also in derivatives."""
    (d, a, b), ends = given(FULL, edges=20)
    low = [x.bfloat16() for x in (a, b)]
    inputs = [[d, *(x.double() for x in low)], [d, *low]]
    results = []
    for leaves in inputs:
        d, *xs = (t.clone().requires_grad_() for t in leaves)
        y = rotate_in(xs, d, ends, FULL, beside=beside)
        results.append([y, *torch.autograd.grad(y, [d, *xs], torch.ones_like(y))])
        out = rotate_out(leaves[1][ends[0].index][:, : len(FULL.frame)], d, ends[1], FULL)
        results[-1] += [out, *torch.autograd.grad(out, [d], torch.ones_like(out))]
    for exact, found, of in zip(*results, [low[0], d, *low, low[0], d], strict=True):
        assert found.dtype == of.dtype
        bound = 2**-8 if found.dtype == torch.bfloat16 else 1e-14
        assert float((found.double() - exact).detach().abs().max()) <= bound * float(exact.detach().abs().max()) > 0


def test_degree_zero_is_read_as_it_is_and_edges_may_be_none():
    scalars = Layout((0,), ((0, 0),))
    (d, a, b), ends = given(scalars)
    expected = [x.index_select(0, end.index) for x, end in zip((a, b), ends, strict=True)]
    assert torch.equal(rotate_in([a, b], d, ends, scalars, beside=True), torch.cat(expected, dim=2))
    assert torch.equal(rotate_in([a, b], d, ends, scalars), expected[0] + expected[1])
    (d, a, _), _ = given(FULL)
    none = End(torch.zeros(0, dtype=torch.int64, device=DEVICE), len(a), ascending=True)
    y = rotate_in([a], d[:0], [none], FULL)
    assert y.shape == (0, len(FULL.frame), 3)
    assert not rotate_out(y, d[:0], none, FULL).any()


@needs_triton
@pytest.mark.parametrize("name", CASES)
def test_kernels_are_the_reference_to_second_derivatives(name):
    layout, beside = CASES[name]
    tensors, ends = given(layout)
    expected, found = (derivatives(layout, beside, backend, tensors, ends) for backend in ("torch", "triton"))
    for e, f in zip(expected, found, strict=True):
        assert float((e - f).detach().abs().max()) <= 1e-14 * float(e.detach().abs().max()) > 0


@needs_triton
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.bfloat16, 2**-7)])
def test_lower_precision_of_features_loses_only_its_own_rounding(dtype, tolerance):
    """D stays float32 and sums are kept in float32: the result is that of exact arithmetic, rounded once (by
    Triton's interpreter: cut off)."""
    layout, _ = CASES["beside"]
    (d, a, b), ends = given(layout)
    a, b = (x.to(dtype).double() for x in (a, b))
    exact = rotate_in([a, b], d, ends, layout, beside=True)
    low = rotate_in([a.to(dtype), b.to(dtype)], d.float(), ends, layout, beside=True, backend="triton")
    assert low.dtype == dtype
    assert float((low.double() - exact).abs().max()) <= tolerance * float(exact.abs().max())
    y = low[..., :3].double()
    out = rotate_out(low[..., :3], d.float(), ends[0], layout, backend="triton")
    assert out.dtype == dtype
    exact = rotate_out(y, d, ends[0], layout)
    assert float((out.double() - exact).abs().max()) <= tolerance * float(exact.abs().max())


@needs_triton
def test_more_channels_than_one_program_takes_and_no_edges():
    from covarium.kernels.triton.rotation import CHANNELS

    layout = CASES["one degree"][0]
    tensors, ends = given(layout, edges=1, atoms=2, channels=CHANNELS + 2)
    expected, found = (derivatives(layout, False, backend, tensors, ends) for backend in ("torch", "triton"))
    for e, f in zip(expected, found, strict=True):
        assert float((e - f).detach().abs().max()) <= 1e-14 * float(e.detach().abs().max())
    (d, a, _), _ = given(layout, edges=1)
    none = End(torch.zeros(0, dtype=torch.int64, device=DEVICE), len(a), ascending=True)
    y = rotate_in([a], d[:0], [none], layout, backend="triton")
    assert y.shape == (0, 3, 3)
    assert not rotate_out(y, d[:0], none, layout, backend="triton").any()


@needs_triton
def test_a_traced_derivative_can_be_differentiated_again():
    """What compiling a training step on forces does: the derivative is recorded, the record is differentiated."""
    from functorch.compile import aot_function, nop
    from torch.fx.experimental.proxy_tensor import make_fx

    layout, _ = CASES["added"]
    (d, a, _), ends = given(layout)
    inputs = (d, a, torch.ones_like(a[0, 0]).requires_grad_(), ends[0].index, ends[1].index)

    def gradient(backend):
        def function(d, a, weight, j, i):
            e = [End(j, len(a), ascending=False), End(i, len(a), ascending=True)]
            a = a.detach().requires_grad_()
            y = rotate_in([a * weight, a], d, e, layout, beside=True, backend=backend)
            out = rotate_out(y * y, d, e[1], layout, backend=backend)
            return torch.autograd.grad(out.square().sum(), a, create_graph=True)[0]

        return function

    recorded = make_fx(gradient("triton"))(*inputs)
    assert sum("covarium.rotate_in" in str(node.target) for node in recorded.graph.nodes) == 2
    compiled = aot_function(lambda *tensors: recorded(*tensors), fw_compiler=nop, bw_compiler=nop)
    found, expected = compiled(*inputs), gradient("torch")(*inputs)
    pairs = [(found, expected), (torch.autograd.grad(g.pow(3).sum(), inputs[2])[0] for g in (found, expected))]
    for f, e in pairs:
        assert float((f - e).detach().abs().max()) <= 1e-14 * float(e.detach().abs().max())


def test_dense_and_flat_matrices_are_the_same_rotation():
    layout, _ = CASES["beside"]
    (d, a, b), ends = given(layout)
    y = rotate_in([a, b], d, ends, layout, beside=True)
    assert torch.equal(y, rotate_in([a, b], layout.dense(d), ends, layout, beside=True))
    out = rotate_out(y, d, ends[0], layout)
    assert torch.allclose(out, rotate_out(y, layout.dense(d), ends[0], layout), rtol=0, atol=1e-14)
    few = layout.rows(3)
    assert torch.equal(rotate_in([a], d, ends[:1], few), rotate_in([a], d, ends[:1], layout)[:, :3])


@pytest.mark.skipif(torch.cuda.is_available(), reason="says what is refused where there is no CUDA device")
def test_refused_with_the_reason(monkeypatch):
    layout, _ = CASES["one degree"]
    (d, a, b), ends = given(layout)
    monkeypatch.delenv("TRITON_INTERPRET")
    with pytest.raises(CovariumError, match="triton is not installed|for the device 'cpu'"):
        rotate_in([a, b], d, ends, layout, backend="triton")
