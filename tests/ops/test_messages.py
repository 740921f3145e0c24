"""Logits and messages of the Equivariant Transformer: by cachefuls of edges and by kernels, against single operations,
to third derivatives.

Without a CUDA device the kernels run in Triton's interpreter; without triton they are not run.
"""

import importlib.util
import os

import pytest
import torch
from hypothesis import HealthCheck, settings
from hypothesis import given as drawn
from hypothesis import strategies as st
from torch.autograd import gradcheck, gradgradcheck

from covarium.errors import CovariumError
from covarium.kernels import edge_form
from covarium.ops.gather import gather
from covarium.ops.messages import edge_logits, edge_messages, logits, messages
from covarium.ops.rotation import End

if not torch.cuda.is_available():
    # read when the kernels are first imported
    os.environ["TRITON_INTERPRET"] = "1"

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
needs_triton = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")
both = pytest.mark.parametrize("backend", ["torch", pytest.param("triton", marks=needs_triton)])
# what is left out of the tensors
CASES = {
    "all": set(),
    "first layer": {"vectors", "weight"},
    "no cutoff of vectors": {"weight"},
    "no filters": {"filters", "dk"},
    "no filters, first layer": {"filters", "vectors", "weight"},
}


def given(without=(), *, edges=4, atoms=3, heads=3, width=3, dtype=torch.float64):
    """Tensors by name, ends and number of heads; the last atom has no edges if there is another."""
    rng = torch.Generator().manual_seed(edges + atoms)
    f = heads * width
    source = torch.randint(atoms, (edges,), generator=rng)
    target = torch.randint(max(atoms - 1, 1), (edges,), generator=rng).sort()[0]
    ends = End(source.to(DEVICE), atoms, ascending=False), End(target.to(DEVICE), atoms, ascending=True)
    shapes = {
        "q": (atoms, f), "k": (atoms, f), "dk": (edges, f),
        "filters": (edges, 2 * f if "vectors" in without else 3 * f), "directions": (edges, 3), "weight": (edges, 1),
        "values": (atoms, 2 * f), "vectors": (atoms, 3 * f),
    }  # fmt: skip
    tensors = {name: torch.randn(shape, generator=rng, dtype=torch.float64) for name, shape in shapes.items()}
    return {name: t.to(DEVICE, dtype) for name, t in tensors.items() if name not in without}, ends, heads


@pytest.fixture(autouse=True)
def one_at_a_time(monkeypatch):
    """Of edges on the processor; in its cache they would be one part and, being few, single operations."""
    monkeypatch.setattr(edge_form, "NUMBERS", 1)


def through(tensors, ends, heads, backend):
    """Logits, a function of them, messages."""
    t = {name: tensors.get(name) for name in ("dk", "filters", "weight", "vectors")}
    if backend == "single operations":
        j, i = (end.index for end in ends)
        l = logits(gather(tensors["q"], i), gather(tensors["k"], j), t["dk"], heads)
        return messages(
            torch.nn.functional.silu(l), t["filters"], tensors["directions"], t["weight"], tensors["values"],
            t["vectors"], ends,
        )  # fmt: skip
    l = edge_logits(tensors["q"], tensors["k"], t["dk"], ends, heads, backend=backend)
    return edge_messages(
        torch.nn.functional.silu(l), t["filters"], tensors["directions"], t["weight"], tensors["values"], t["vectors"],
        ends, backend=backend,
    )  # fmt: skip


def derivatives(tensors, ends, heads, backend, order=2):
    """Of a non-linear function of all tensors: its value, first, second, … derivatives."""
    leaves = {name: t.clone().requires_grad_() for name, t in tensors.items()}
    found = [through(leaves, ends, heads, backend)]
    last = found
    for _ in range(order):
        loss = sum(
            (t.sin() * torch.linspace(-1, 1, t.numel(), dtype=t.dtype, device=DEVICE).view_as(t)).sum() for t in last
        )
        last = list(torch.autograd.grad(loss, list(leaves.values()), create_graph=True))
        found += last
    return [t.detach() for t in found]


def agree(backend, tensors, ends, heads, order=2):
    reference = derivatives(tensors, ends, heads, "single operations", order)
    for expected, found in zip(reference, derivatives(tensors, ends, heads, backend, order), strict=True):
        assert found.shape == expected.shape and found.dtype == expected.dtype
        scale = float(expected.abs().max()) if expected.numel() else 0.0
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-13 * scale)


@both
@pytest.mark.parametrize("name", CASES)
def test_second_derivatives_are_the_reference(name, backend):
    agree(backend, *given(CASES[name]))


@both
def test_third_derivatives_of_a_single_edge(backend):
    agree(backend, *given(edges=1, atoms=2, heads=1, width=2), order=3)


@pytest.mark.parametrize("name", CASES)
def test_third_derivatives_in_uneven_parts(name, monkeypatch):
    monkeypatch.setattr(edge_form, "NUMBERS", 20)
    agree("torch", *given(CASES[name], edges=9, atoms=4), order=3)


@both
@settings(max_examples=6, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@drawn(
    edges=st.integers(0, 4), atoms=st.integers(1, 4), heads=st.integers(1, 3), width=st.integers(1, 5),
    without=st.sampled_from(list(CASES.values())),
)  # fmt: skip
def test_any_size(backend, edges, atoms, heads, width, without):
    agree(backend, *given(without, edges=edges, atoms=atoms, heads=heads, width=width), order=1)


@needs_triton
@pytest.mark.parametrize(("heads", "width"), [(2, 70), (1, 130)])
def test_more_channels_than_one_program_takes(heads, width):
    from covarium.kernels.triton.messages import CHANNELS

    assert heads * width > CHANNELS
    agree("triton", *given(edges=1, atoms=2, heads=heads, width=width), order=1)


@both
@pytest.mark.parametrize(("edges", "atoms"), [(0, 2), (0, 1), (0, 0)])
def test_no_edges_to_second_derivatives(edges, atoms, backend):
    tensors, ends, heads = given(edges=0, atoms=2)
    if atoms < 2:
        tensors = {name: t[:atoms] for name, t in tensors.items()}
        ends = tuple(End(end.index, atoms, end.ascending) for end in ends)
    agree(backend, tensors, ends, heads)
    assert not through(tensors, ends, heads, backend).any()


@both
def test_finite_differences(backend):
    tensors, ends, heads = given(edges=2, atoms=2, heads=1, width=2)
    flat = torch.cat([t.flatten() for t in tensors.values()]).requires_grad_()

    def function(flat):
        parts = flat.split([t.numel() for t in tensors.values()])
        found = {name: part.view_as(t) for part, (name, t) in zip(parts, tensors.items(), strict=True)}
        return through(found, ends, heads, backend)

    assert gradcheck(function, flat, fast_mode=True, check_undefined_grad=False)
    assert gradgradcheck(function, flat, fast_mode=True, check_undefined_grad=False)


@needs_triton
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.bfloat16, 2**-7)])
def test_lower_precision_loses_only_its_own_rounding(dtype, tolerance):
    """Sums are kept in float32 and come so: the result is that of exact arithmetic on the rounded numbers."""
    tensors, ends, heads = given()
    low = {name: t.to(dtype) for name, t in tensors.items()}
    exact = {name: t.double() for name, t in low.items()}
    found = edge_logits(low["q"], low["k"], low["dk"], ends, heads, backend="triton")
    expected = edge_logits(exact["q"], exact["k"], exact["dk"], ends, heads)
    assert found.dtype == torch.float32
    assert float((found - expected).abs().max()) <= 1e-6 * float(expected.abs().max())
    pair = [
        torch.autograd.grad(through(t, ends, heads, backend).square().sum(), t["filters"].requires_grad_())[0]
        for t, backend in ((low | {"filters": low["filters"].requires_grad_()}, "triton"),
                           (exact | {"filters": exact["filters"].requires_grad_()}, "torch"))
    ]  # fmt: skip
    assert pair[0].dtype == dtype
    assert float((pair[0] - pair[1]).abs().max()) <= tolerance * float(pair[1].abs().max())


@needs_triton
def test_a_traced_derivative_can_be_differentiated_again():
    """What compiling a training step on forces does: the derivative is recorded, a node for each operation, and the
    record is differentiated."""
    from functorch.compile import aot_function, nop
    from torch.fx.experimental.proxy_tensor import make_fx

    tensors, ends, heads = given(edges=2, atoms=2, heads=1, width=2)
    names, weight = list(tensors), torch.ones(2, device=DEVICE, dtype=torch.float64).requires_grad_()
    inputs = (*tensors.values(), weight, *(end.index for end in ends))

    def gradient(backend):
        def function(*given):
            *values, weight, j, i = given
            t = dict(zip(names, values, strict=True))
            both = End(j, 2, ascending=False), End(i, 2, ascending=True)
            t["dk"] = t["dk"].detach().requires_grad_()
            t["filters"] = t["dk"].repeat(1, 3) * weight.repeat(3)
            out = through(t, both, heads, backend)
            return torch.autograd.grad(out.square().sum(), t["dk"], create_graph=True)[0]

        return function

    recorded = make_fx(gradient("triton"))(*inputs)
    # logits, messages, and what each has for a derivative
    assert sum("covarium.edge_form" in str(node.target) for node in recorded.graph.nodes) == 4
    compiled = aot_function(lambda *given: recorded(*given), fw_compiler=nop, bw_compiler=nop)
    found, expected = compiled(*inputs), gradient("torch")(*inputs)
    pairs = [(found, expected), (torch.autograd.grad(g.pow(3).sum(), weight)[0] for g in (found, expected))]
    for f, e in pairs:
        assert float((f - e).detach().abs().max()) <= 1e-13 * float(e.detach().abs().max())


@pytest.mark.skipif(torch.cuda.is_available(), reason="says what is refused where there is no CUDA device")
def test_refused_with_the_reason(monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET")
    with pytest.raises(CovariumError, match="triton is not installed|for the device 'cpu'"):
        through(*given(), "triton")
