"""On a GPU: every model with either backend is the model on the CPU, to the gradient of a loss on forces; and the
kernels at sizes no interpreter reaches."""

import numpy as np
import pytest
import torch

from covarium.algebra.layout import m_primary
from covarium.models import equiformer, equiformer_v2, equiformer_v3, torchmd_et
from covarium.ops.messages import edge_messages
from covarium.ops.rotation import End, Layout, rotate_in, rotate_out
from covarium.systems import AtomGraph, atom_graph
from covarium.tasks import Potential
from covarium.workflows.arithmetic import arrange

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine"),
]

MODELS = {
    "v2": lambda: equiformer_v2.EquiformerV2(equiformer_v2.Config(num_layers=2)),
    "v2, published": lambda: equiformer_v2.EquiformerV2(
        equiformer_v2.Config.published(num_layers=2, sphere_channels=16, cutoff=5.0, alpha_drop=0.0, drop_path_rate=0.0)
    ),
    "v3": lambda: equiformer_v3.EquiformerV3(equiformer_v3.Config(num_layers=2)),
    "equiformer": lambda: equiformer.Equiformer(equiformer.Config(num_layers=2)),
    "equiformer, published": lambda: equiformer.Equiformer(
        equiformer.Config.published(num_layers=2, alpha_drop=0.0, drop_path_rate=0.0)
    ),
    "equiformer, E(3)": lambda: equiformer.Equiformer(
        equiformer.Config(num_layers=2, irreps_node="32x0e+16x1o+8x2e", irreps_sh="1x0e+1x1o+1x2e",
                          irreps_head="8x0e+4x1o+2x2e", irreps_mlp="64x0e+32x1o+16x2e")
    ),
    "et": lambda: torchmd_et.TorchMDET(torchmd_et.Config(num_layers=2)),
}  # fmt: skip


def potential(name: str) -> Potential:
    torch.manual_seed(0)
    return Potential(MODELS[name](), references={1: -13.0, 6: -1030.0, 8: -2040.0})


def system(task: Potential) -> AtomGraph:
    rng = np.random.default_rng(1)
    sizes = (1, 7, 12)
    return AtomGraph.collate(
        [
            atom_graph(rng.choice([1, 6, 8], n), 1.4 * n ** (1 / 3) * rng.normal(size=(n, 3)), task.model.spec)
            for n in sizes
        ]
    )


def answers(task: Potential, graph: AtomGraph) -> dict[str, torch.Tensor]:
    raw = task.evaluate(graph, forces=True, stress=False, create_graph=True)
    parameters = dict(task.named_parameters())
    gradients = torch.autograd.grad(
        raw.forces.square().sum() + raw.energy.sum(),
        list(parameters.values()),
        allow_unused=True,
        materialize_grads=True,
    )
    found = {"energy": raw.energy, "forces": raw.forces, "gradient": torch.cat([g.flatten() for g in gradients])}
    return {name: value.detach().cpu().double() for name, value in found.items()}


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("backend", ["torch", "triton"])
def test_every_model_is_the_same_on_cpu_and_gpu(name, backend):
    task = potential(name).double()
    if backend not in task.model.backends:
        pytest.skip("there are no kernels for this model")
    graph = system(task)
    expected = answers(task, graph)
    task.to("cuda")
    arrange(task.model, "float64", backend)
    found = answers(task, graph.to("cuda"))
    for key, value in expected.items():
        assert float((found[key] - value).abs().max()) <= 1e-9 * float(value.abs().max()), key


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-4), ("tf32", 0.01), ("bf16", 0.05)])
def test_lower_precision_is_as_far_off_as_its_rounding(name, dtype, tolerance):
    task = potential(name).double()
    graph = system(task)
    expected = answers(task, graph)
    before = torch.get_float32_matmul_precision()
    try:
        task.to("cuda", torch.float32)
        arrange(task.model, dtype)
        found = answers(task, graph.to("cuda", torch.float32))
    finally:
        torch.set_float32_matmul_precision(before)
    for key, value in expected.items():
        assert float((found[key] - value).norm()) <= tolerance * float(value.norm()), key


def test_more_numbers_than_32_bits_count():
    """E · R · C > 2³¹: what lies at the end is right."""
    layout, channels, atoms, edges = Layout((0, 1, 2), m_primary(2, 2)), 128, 64, 2_000_000
    rng = torch.Generator("cuda").manual_seed(0)
    x = torch.randn(atoms, 9, channels, device="cuda", generator=rng)
    wigner = torch.randn(edges, 35, device="cuda", generator=rng)
    index = torch.randint(atoms, (edges,), device="cuda", generator=rng).sort().values
    end = End(index, atoms, ascending=True)
    y = rotate_in([x], wigner, [end], layout, backend="triton")
    assert y.numel() > 2**31
    last = End(index[-5:], atoms, ascending=True)
    expected = rotate_in([x.double()], wigner[-5:].double(), [last], layout)
    assert float((y[-5:] - expected).abs().max()) < 1e-5 * float(expected.abs().max())
    out = rotate_out(y, wigner, end, layout, backend="triton")
    rows = index == atoms - 1
    of_last = End(torch.zeros(int(rows.sum()), dtype=torch.int64, device="cuda"), 1, ascending=True)
    expected = rotate_out(y[rows].double(), wigner[rows].double(), of_last, layout)
    assert float((out[-1:] - expected).abs().max()) < 1e-4 * float(expected.abs().max())


def test_messages_of_more_numbers_than_32_bits_count():
    """E · 3F > 2³¹: what lies at the end is right, in sums and in the gradient of the filters; twice the same."""
    heads, f, atoms, edges = 8, 128, 64, 6_000_000
    rng = torch.Generator("cuda").manual_seed(0)
    source, target = (torch.randint(atoms, (edges,), device="cuda", generator=rng) for _ in range(2))
    target = target.sort().values
    shapes = ((edges, heads), (edges, 3 * f), (edges, 3), (edges, 1), (atoms, 2 * f), (atoms, 3 * f))
    tensors = [torch.randn(shape, device="cuda", generator=rng) for shape in shapes]
    filters = tensors[1].requires_grad_()
    assert filters.numel() > 2**31

    def ends(rows):
        return End(source[rows], atoms, ascending=False), End(target[rows], atoms, ascending=True)

    def part(rows):
        return [t.detach()[rows].double() for t in tensors[:4]] + [t.double() for t in tensors[4:]]

    everything = ends(slice(None))
    out = edge_messages(*tensors, everything, backend="triton")
    assert torch.equal(out.detach(), edge_messages(*tensors, everything, backend="triton"))
    rows = target == atoms - 1
    expected = edge_messages(*part(rows), ends(rows))[-1]
    assert float((out.detach()[-1] - expected).abs().max()) < 1e-4 * float(expected.abs().max())
    (gradient,) = torch.autograd.grad(out, filters, out.detach())
    last = part(slice(-5, None))
    last[1].requires_grad_()
    below = edge_messages(*last, ends(slice(-5, None)))
    (expected,) = torch.autograd.grad(below, last[1], out.detach().double())
    assert float((gradient[-5:] - expected).abs().max()) < 1e-5 * float(expected.abs().max())


def test_the_same_numbers_at_every_run():
    task = potential("v2").to("cuda", torch.float32)
    arrange(task.model, "float32", "triton")
    graph = system(task).to("cuda", torch.float32)
    layout = Layout((0, 1, 2), m_primary(2, 1))
    edges = task.model.edges(graph, None)
    x = torch.randn(graph.num_atoms, 9, 64, device="cuda", requires_grad=True)
    first, second = (
        torch.autograd.grad(rotate_in([x, x], edges.into, edges.ends, layout, backend="triton").square().sum(), x)[0]
        for _ in range(2)
    )
    assert torch.equal(first, second)
