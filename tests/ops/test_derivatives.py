"""SiLU and the length of a vector: derivatives of every order that training on forces needs."""

import torch
from torch.autograd import gradcheck, gradgradcheck
from torch.nn.functional import silu as torch_silu

from covarium.ops.activation import silu
from covarium.ops.norm import norm


def test_silu_and_its_derivatives() -> None:
    x = torch.linspace(-30, 30, 61, dtype=torch.float64).requires_grad_()
    assert torch.equal(silu(x), torch_silu(x))
    assert gradcheck(silu, x) and gradgradcheck(silu, x)
    one, other = (torch.autograd.functional.hessian(lambda y, f=f: f(y).sum(), x) for f in (silu, torch_silu))
    assert (one - other).abs().max() < 1e-15


def test_silu_a_third_time() -> None:
    x = torch.linspace(-3, 3, 13, dtype=torch.float64).requires_grad_()

    def curvature(f: object) -> torch.Tensor:
        (slope,) = torch.autograd.grad(f(x).sum(), x, create_graph=True)
        (second,) = torch.autograd.grad(slope.sum(), x, create_graph=True)
        return torch.autograd.grad(second.sum(), x)[0]

    assert (curvature(silu) - curvature(torch_silu)).abs().max() < 1e-14


def test_length_at_zero() -> None:
    x = torch.tensor([[0.0, 0.0, 0.0], [3.0, 0.0, 4.0]], dtype=torch.float64, requires_grad=True)
    assert norm(x).tolist() == [0.0, 5.0]
    (slope,) = torch.autograd.grad(norm(x).sum(), x, create_graph=True)
    assert slope[0].tolist() == [0.0, 0.0, 0.0]
    assert (slope[1] - torch.tensor([0.6, 0.0, 0.8], dtype=torch.float64)).abs().max() < 1e-15
    assert torch.isfinite(torch.autograd.functional.hessian(lambda y: norm(y).sum(), x)).all()


def test_smooth_length() -> None:
    x = torch.tensor([[0.0, 0.0, 0.0], [1e-3, 0.0, 2e-3]], dtype=torch.float64, requires_grad=True)
    assert gradcheck(lambda y: norm(y, epsilon=0.1), x) and gradgradcheck(lambda y: norm(y, epsilon=0.1), x)
    curvature = torch.autograd.functional.hessian(lambda y: norm(y, epsilon=0.1).sum(), x)
    assert abs(float(curvature[0, 0, 0, 0]) - 10.0) < 1e-12, "1/ε"
