"""Clifford algebras of any signature against an independent library, their own laws, and the stored tables."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from covarium.algebra.clifford import Clifford
from covarium.errors import CovariumError

STORED = Path(__file__).parents[1] / "parity" / "gatr_operations"
SIGNATURES = [(3, 0, 0), (3, 0, 1), (4, 1, 0), (1, 3, 0), (2, 1, 2), (0, 2, 0), (5, 1, 0), (0, 0, 3)]
signatures = pytest.mark.parametrize("signature", SIGNATURES, ids=str)


def random(algebra: Clifford, *shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, algebra.size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@signatures
def test_products_equal_those_of_kingdon(signature: tuple[int, int, int]) -> None:
    kingdon = pytest.importorskip("kingdon")
    ours = Clifford(*signature)
    theirs = kingdon.Algebra(signature=list(ours.squares), start_index=1)
    x, y = random(ours, 2).numpy()
    keys = [sum(1 << a for a in blade) for blade in ours.blades]

    def element(values: np.ndarray) -> object:
        return theirs.multivector(dict(zip(keys, values.tolist(), strict=True)))

    def numbers(element: object) -> np.ndarray:
        found = dict(element.items())
        # kingdon may write a blade with its generators in another order
        return np.array([float(found.get(key, 0.0)) for key in keys])

    a, b = element(x), element(y)
    u, v = torch.from_numpy(x), torch.from_numpy(y)
    pairs = [
        (a * b, ours.multiply(u, v)),
        (a ^ b, ours.wedge(u, v)),
        (~a, ours.reverse(u)),
        (a.involute(), ours.involute(u)),
        (a.hodge(), ours.dual(u)),
        # kingdon undoes the dual, the published code takes it once more: (−1)^{k(n−k)} of grade k
        (a & b, ours.join(u, v) * torch.from_numpy((-1.0) ** (ours.grades * (ours.n - ours.grades)))),
    ]
    for theirs_value, own in pairs:
        np.testing.assert_allclose(numbers(theirs_value), own.numpy(), atol=1e-12)


@pytest.mark.parametrize(("name", "signature"), [("ega_3_0_0", (3,)), ("pga_3_0_1", (3, 0, 1)), ("cga_4_1_0", (4, 1))])
def test_stored_tables(name: str, signature: tuple[int, ...]) -> None:
    algebra = Clifford(*signature)
    stored = np.load(STORED / "algebras" / f"{name}_tables.npz")
    tables = {
        "geometric_product": algebra.product.dense(algebra.size),
        "outer_product": algebra.wedge_terms.dense(algebra.size),
        "reversal": algebra.reversal,
        "grade_involution": algebra.involution,
        "clifford_conjugation": algebra.reversal * algebra.involution,
        "inner_product_diag": algebra.metric,
        "grade": algebra.grades,
    }
    for key, table in tables.items():
        np.testing.assert_array_equal(table, stored[key], err_msg=key)
    examples = {k: torch.from_numpy(v) for k, v in np.load(STORED / "algebras" / f"{name}_examples.npz").items()}
    a, b = examples["a"], examples["b"]
    by_grade = torch.stack([algebra.inner(algebra.grade(a, k), a) for k in range(algebra.n + 1)], dim=-1)
    ours = {
        "gp": algebra.multiply(a, b),
        "outer": algebra.wedge(a, b),
        "inner": algebra.inner(a, b),
        "reverse_a": algebra.reverse(a),
        "inner_per_grade_aa": by_grade,
        "abs_grade_norm_sq": by_grade.abs().sum(-1),
        "rotated_a": algebra.act(examples["rotor"], a),
    }
    for key, value in ours.items():
        torch.testing.assert_close(value, examples[key], rtol=0, atol=1e-12, msg=key)


def test_stored_primitives() -> None:
    """Join, dual and invariants of the published code."""
    algebra = Clifford(3, 0, 1)
    tables, inputs, outputs = (
        np.load(STORED / "primitives" / f"{name}.npz") for name in ("tables", "inputs", "outputs")
    )
    np.testing.assert_array_equal(algebra.join_terms.dense(16), tables["join_kernel"])
    assert len(algebra.product.out) == 192 and len(algebra.join_terms.out) == 81
    x, y, reference = (torch.from_numpy(inputs[name]) for name in ("x", "y", "reference"))
    ours = {
        "geometric_product": algebra.multiply(x, y),
        "outer_product": algebra.wedge(x, y),
        "dual": algebra.dual(x),
        "equivariant_join": reference[..., 14:15] * algebra.join(x, y),
        "explicit_join": reference[..., 14:15] * algebra.dual(algebra.wedge(algebra.dual(x), algebra.dual(y))),
        "inner_product": algebra.inner(x, y).unsqueeze(-1),
        "norm": algebra.inner(x, x).clamp(min=0).sqrt().unsqueeze(-1),
        "reverse": algebra.reverse(x),
        "grade_involute": algebra.involute(x),
        "grade_project": torch.stack([algebra.grade(x, k) for k in range(5)], dim=-2),
        "sandwich_even_versor": algebra.multiply(
            algebra.multiply(torch.from_numpy(inputs["versor"]).expand_as(x), x),
            algebra.reverse(torch.from_numpy(inputs["versor"])).expand_as(x),
        ),
    }
    for name, value in ours.items():
        np.testing.assert_allclose(value.numpy(), outputs[name], atol=1e-13, err_msg=name)


@signatures
def test_laws(signature: tuple[int, int, int]) -> None:
    algebra = Clifford(*signature)
    x, y, z = random(algebra, 3, 4)
    m = algebra.multiply
    torch.testing.assert_close(m(m(x, y), z), m(x, m(y, z)))
    torch.testing.assert_close(algebra.reverse(m(x, y)), m(algebra.reverse(y), algebra.reverse(x)))
    torch.testing.assert_close(algebra.involute(m(x, y)), m(algebra.involute(x), algebra.involute(y)))
    torch.testing.assert_close(algebra.inner(x, y), m(algebra.reverse(x), y)[..., 0])
    torch.testing.assert_close(sum(algebra.grade(x, k) for k in range(algebra.n + 1)), x)
    # a blade and its dual make the pseudoscalar
    eye = torch.eye(algebra.size, dtype=torch.float64)
    assert torch.equal(algebra.wedge(eye, algebra.dual(eye))[..., -1], torch.ones(algebra.size, dtype=torch.float64))
    one = torch.zeros(algebra.size, dtype=torch.float64)
    one[-1] = 1
    torch.testing.assert_close(algebra.join(x, one.expand_as(x)).abs(), x.abs())


@signatures
@given(seed=st.integers(0, 10_000))
@settings(max_examples=10, deadline=None)
def test_versors_keep_products_and_inner_products(signature: tuple[int, int, int], seed: int) -> None:
    algebra = Clifford(*signature)
    x, y = random(algebra, 2, 3, seed=seed)
    vectors = algebra.grade(random(algebra, 2, seed=seed + 1), 1)
    norms = algebra.inner(vectors, vectors)
    if (norms.abs() < 0.1).any():
        return
    for u in (vectors[0], algebra.multiply(vectors[0], vectors[1])):
        turned, other = algebra.act(u.expand_as(x), x), algebra.act(u.expand_as(y), y)
        torch.testing.assert_close(
            algebra.act(u.expand_as(x), algebra.multiply(x, y)), algebra.multiply(turned, other), rtol=1e-7, atol=1e-7
        )
        torch.testing.assert_close(algebra.inner(turned, other), algebra.inner(x, y), rtol=1e-7, atol=1e-7)


@signatures
def test_exponential(signature: tuple[int, int, int]) -> None:
    algebra = Clifford(*signature)
    b = 0.5 * algebra.grade(random(algebra, 3), 2)
    series, power = torch.zeros_like(b), torch.zeros_like(b)
    power[..., 0] = 1
    for k in range(1, 40):
        series = series + power
        power = algebra.multiply(power, b) / k
    torch.testing.assert_close(algebra.exp(b), series)
    torch.testing.assert_close(algebra.multiply(algebra.exp(b), algebra.exp(-b))[..., 0], torch.ones(3).double())


def test_seven_generators_and_derivatives() -> None:
    algebra = Clifford(4, 2, 1)
    assert algebra.size == 128 and len(algebra.product.out) == 128 * 128 - 64 * 64
    small = Clifford(2, 0, 1)
    x, y = (random(small, 2, seed=s).requires_grad_() for s in (0, 1))
    assert torch.autograd.gradgradcheck(small.multiply, (x, y))
    assert torch.autograd.gradgradcheck(small.join, (x, y))
    assert Clifford(3, 0, 1).names[:6] == ("1", "e0", "e1", "e2", "e3", "e01") and Clifford(4, 1).names[5] == "e5"


@pytest.mark.parametrize("signature", [(0, 0, 0), (-1, 2, 0), (5, 2, 1)])
def test_impossible_signatures(signature: tuple[int, int, int]) -> None:
    with pytest.raises(CovariumError, match="1 to 7 generators"):
        Clifford(*signature)
