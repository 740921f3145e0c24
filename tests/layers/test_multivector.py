"""Layers on multivectors against the stored numbers of the published code, independent ones for other spaces, and the
reference products."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import gelu, layer_norm

from covarium.algebra.clifford import Clifford
from covarium.algebra.spaces import CONFORMAL, EUCLIDEAN, LORENTZ, PROJECTIVE, Space, stored_terms
from covarium.errors import CovariumError
from covarium.layers.multivector import components, stored, unstored
from covarium.layers.multivector.attention import Features, Items, RotaryEncoding, SelfAttention, attend, tokens_first
from covarium.layers.multivector.bilinear import GeometricBilinear, GeoMLP, gate
from covarium.layers.multivector.linear import EquiLinear
from covarium.layers.multivector.norm import EquiNorm
from covarium.ops.multivector import LinearWeights, block_linear, quadratic, transposed

STORED = Path(__file__).parents[1] / "parity" / "gatr_operations"
SPACES = {"ega_3_0_0": EUCLIDEAN, "pga_3_0_1": PROJECTIVE, "cga_4_1_0": CONFORMAL}
OTHERS = {
    "E2": Space("E(2)", Clifford(2, 0, 1), (1, 2), (1.0, 0.0, 0.0)),
    "E4": Space("E(4)", Clifford(4, 0, 1), (1, 2, 3, 4), (1.0, 0.0, 0.0, 0.0, 0.0)),
    "C2": Space("E(2)", Clifford(3, 1), (0, 1), (0.0, 0.0, 1.0, 1.0)),
    "O1": Space("O(1)", Clifford(1), (0,)),
}
every_space = pytest.mark.parametrize(
    "space", [*SPACES.values(), LORENTZ, *OTHERS.values()], ids=["E", "P", "C", "Lorentz", *OTHERS]
)


@pytest.fixture(autouse=True)
def float64() -> object:
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


def arrays(case: str, name: str) -> dict[str, Tensor]:
    return {k: torch.from_numpy(v) for k, v in np.load(STORED / case / f"{name}.npz").items()}


def weights(prefix: str) -> dict[str, Tensor]:
    every = load_file(STORED / "layers" / "weights.safetensors")
    return {k.removeprefix(prefix + "."): v for k, v in every.items() if k.startswith(prefix + ".")}


def close(ours: Tensor | None, theirs: Tensor, tolerance: float = 1e-12) -> None:
    assert ours is not None
    torch.testing.assert_close(
        ours.reshape(theirs.shape), theirs, rtol=0, atol=tolerance * float(theirs.detach().abs().max())
    )


# -- the published code


@pytest.mark.parametrize(
    ("name", "sizes"),
    [("linear_full", (4, 3, 6, 2)), ("linear_mv_only", (4, 3, 0, 0)), ("linear_no_s_in", (4, 3, 0, 2))],
)
def test_linear(name: str, sizes: tuple[int, int, int, int]) -> None:
    layer = EquiLinear(PROJECTIVE, *sizes)
    layer.load_state_dict(weights(name))
    inputs, outputs = arrays("layers", "inputs"), arrays("layers", "outputs")
    x = stored(inputs["multivectors"].flatten(0, 1), PROJECTIVE)
    y, s = layer(x, inputs["scalars"].flatten(0, 1) if sizes[2] else None)
    close(unstored(y, PROJECTIVE), outputs[f"{name}.mv"])
    if sizes[3]:
        close(s, outputs[f"{name}.s"])


def test_the_dense_form_of_a_linear_map() -> None:
    """The map as one matrix on [multivectors, scalars] equals the published dense one."""
    layer = EquiLinear(PROJECTIVE, 4, 3, 6, 2)
    layer.load_state_dict(weights("linear_for_dense"))
    outputs = arrays("layers", "outputs")
    rows = torch.eye(4 * 16 + 6)
    mv, s = layer(stored(rows[:, :64].unflatten(1, (4, 16)), PROJECTIVE), rows[:, 64:])
    assert s is not None
    bias = torch.cat([x.flatten(1) for x in (unstored(layer(torch.zeros(8, 8, 1), torch.zeros(1, 6))[0], PROJECTIVE),
                                             layer(torch.zeros(8, 8, 1), torch.zeros(1, 6))[1])], dim=1)[0]  # fmt: skip
    matrix = torch.cat([unstored(mv, PROJECTIVE).flatten(1), s], dim=1) - bias
    close(matrix.T, outputs["dense_weight"])
    close(bias, outputs["dense_bias"])


def test_bilinear_and_mlp() -> None:
    inputs, outputs = arrays("layers", "inputs"), arrays("layers", "outputs")
    x = stored(inputs["multivectors"].flatten(0, 1), PROJECTIVE)
    s = inputs["scalars"].flatten(0, 1)
    reference = inputs["reference"][:, 0, 0, 14].repeat_interleave(5)
    layer = GeometricBilinear(PROJECTIVE, 4, 6, 6, 8, join=True)
    layer.load_state_dict(weights("bilinear"))
    y, t = layer(x, s, reference)
    close(unstored(y, PROJECTIVE), outputs["bilinear.mv"])
    close(t, outputs["bilinear.s"])
    for activation in ("gelu", "relu", "sigmoid"):
        mlp = GeoMLP(PROJECTIVE, 4, 6, activation, join=True)
        mlp.load_state_dict(weights(f"geo_mlp_{activation}"))
        y, t = mlp(x, s, reference)
        close(unstored(y, PROJECTIVE), outputs[f"geo_mlp_{activation}.mv"])
        close(t, outputs[f"geo_mlp_{activation}.s"])


@pytest.mark.parametrize("kind", ["mq", "mha"])
def test_self_attention(kind: str) -> None:
    inputs, outputs = arrays("layers", "inputs"), arrays("layers", "outputs")
    layer = SelfAttention(PROJECTIVE, (4, 6), 2, multi_query=kind == "mq", distances=True)
    layer.load_state_dict(weights(f"self_attention_{kind}"))
    x, s = stored(inputs["multivectors"].flatten(0, 1), PROJECTIVE), inputs["scalars"].flatten(0, 1)
    y, t = layer(x, s, Items((2, 5)))
    close(unstored(y, PROJECTIVE), outputs[f"self_attention_{kind}.mv"])
    close(t, outputs[f"self_attention_{kind}.s"])


def test_cross_attention_of_the_same_parts() -> None:
    """Queries of other tokens than keys: no layer of its own, the parts of self-attention do it."""
    inputs, outputs = arrays("layers", "inputs"), arrays("layers", "outputs")
    state, heads = weights("cross_attention"), 2
    sizes = {"q_linear": (2, 8, 4, 12), "k_linear": (4, 4, 6, 6), "v_linear": (4, 4, 6, 6), "out_linear": (8, 5, 12, 7)}
    layers = {name: EquiLinear(PROJECTIVE, *size) for name, size in sizes.items()}
    for name, layer in layers.items():
        layer.load_state_dict({k.removeprefix(f"{name}."): v for k, v in state.items() if k.startswith(f"{name}.")})
    items = [(inputs["cross_q_mv"], inputs["cross_q_s"]), (inputs["multivectors"], inputs["scalars"])]
    (qx, qs), (kx, ks) = [(stored(x.flatten(0, 1), PROJECTIVE), s.flatten(0, 1)) for x, s in items]
    q, k, v = layers["q_linear"](qx, qs), layers["k_linear"](kx, ks), layers["v_linear"](kx, ks)
    features = Features(PROJECTIVE, distances=True)
    # queries come as (channel, head)
    mv = q[0].unflatten(1, (2, 4, heads)).transpose(2, 3)
    queries = torch.cat([features.queries(mv, state["attention.log_weights"].exp().squeeze(1)),
                         q[1].unflatten(1, (6, heads)).transpose(1, 2)], dim=2)  # fmt: skip
    keys = torch.cat([features.keys(k[0].unflatten(1, (2, 1, 4))), k[1].unsqueeze(1)], dim=2)
    values = torch.cat([tokens_first(v[0].unflatten(1, (2, 1, 4)).flatten(0, 1)), v[1].unsqueeze(1)], dim=2)
    logits = torch.einsum("bqhd,bkd->bhqk", queries.unflatten(0, (2, 3)), keys[:, 0].unflatten(0, (2, 5)))
    mixed = torch.softmax(logits / (12 * 4 + 6) ** 0.5, dim=-1) @ values[:, 0].unflatten(0, (2, 1, 5))
    mixed = mixed.transpose(1, 2).flatten(0, 1)
    heads_mv = mixed[..., :64].unflatten(2, (8, 2, 4)).permute(2, 3, 1, 4, 0).flatten(2, 3).flatten(1, 2)
    y, s = layers["out_linear"](heads_mv, mixed[..., 64:].flatten(1))
    close(unstored(y, PROJECTIVE), outputs["cross_attention.mv"])
    close(s, outputs["cross_attention.s"])


def test_norm() -> None:
    inputs, outputs = arrays("layers", "inputs"), arrays("layers", "outputs")
    x, s = stored(inputs["multivectors"].flatten(0, 1), PROJECTIVE), inputs["scalars"].flatten(0, 1)
    y, t = EquiNorm(PROJECTIVE)(x, s)
    close(unstored(y, PROJECTIVE), outputs["norm.mv"])
    close(t, outputs["norm.s"])
    inputs, outputs = arrays("primitives", "inputs"), arrays("primitives", "outputs")
    for factor, name in ((1.0, "equi_layer_norm"), (0.01, "equi_layer_norm_small")):
        y, _ = EquiNorm(PROJECTIVE)(stored(factor * inputs["x"], PROJECTIVE), None)
        close(unstored(y, PROJECTIVE), outputs[name])
    close(layer_norm(inputs["scalars"], (6,)), outputs["layer_norm_scalars"])


def test_gates() -> None:
    """With gates of their own, which is the same as a multivector whose component 1 is the gate."""
    inputs, outputs = arrays("primitives", "inputs"), arrays("primitives", "outputs")
    x, g = inputs["x"], inputs["gates"]
    for activation in ("gelu", "relu", "sigmoid"):
        with_gate = torch.cat([g, x[..., 1:]], dim=-1)
        factor = gate(stored(with_gate, PROJECTIVE), PROJECTIVE, activation).T.unsqueeze(2)
        close((factor * x)[..., 1:], outputs[f"gated_{activation}"][..., 1:])
    close((gelu(g, approximate="tanh") / g) * x, outputs["gated_gelu_divide"])


def test_attention_features() -> None:
    inputs, outputs = arrays("primitives", "inputs"), arrays("primitives", "outputs")
    features = Features(PROJECTIVE, distances=True)
    batch = (2, 3)

    def heads(x: Tensor) -> Tensor:
        """[B, H, N, c, 16] → [R, m, H, c, B·N]."""
        b, h, n, c, _ = x.shape
        y = stored(x.permute(0, 2, 1, 3, 4).reshape(b * n, h * c, 16), PROJECTIVE)
        return components(y, PROJECTIVE).unflatten(2, (h, c))

    q, k = features.queries(heads(inputs["attn_q_mv"]), None), features.keys(heads(inputs["attn_k_mv"]))
    for ours, name, items in ((q, "dist_features_q", 6), (k, "dist_features_k", 4)):
        own = ours.unflatten(2, (12, 2))[:, :, 7:].unflatten(0, (2, items)).permute(0, 2, 1, 4, 3)
        theirs = outputs[name]
        # the published order is (Σ, w², w·x) with the components of its own trivectors; products must agree
        close(own.square().sum(-1), theirs.square().sum(-1))
    theirs = torch.einsum("bhqcf,bhkcf->bhqk", outputs["dist_features_q"], outputs["dist_features_k"])
    own = torch.einsum("bqhd,bkhd->bhqk", *[
        x.unflatten(2, (12, 2))[:, :, 7:].flatten(2).unflatten(0, (2, n)) for x, n in ((q, 6), (k, 4))
    ])  # fmt: skip
    close(own, theirs)
    mv = tokens_first(heads(inputs["attn_v_mv"]).flatten(0, 1)).unflatten(2, (16, 3)).unflatten(0, (2, 4))
    place = torch.from_numpy(PROJECTIVE.order.ravel().argsort())
    for name, w, mask in (
        ("geometric_attention_now", None, None),
        ("geometric_attention", inputs["attn_weights"].squeeze(1), None),
        ("geometric_attention_mask", inputs["attn_weights"].squeeze(1), inputs["attn_mask"]),
    ):
        # the stored weights enter as their logarithm's exponential or as they are
        full = features.queries(heads(inputs["attn_q_mv"]), w)
        logits = torch.einsum("bqhd,bkhd->bhqk", full.unflatten(0, (2, 6)), k.unflatten(0, (2, 4)))
        logits = logits + torch.einsum("bhqs,bhks->bhqk", inputs["attn_q_s"], inputs["attn_k_s"])
        logits = logits / (12 * 2 + 5) ** 0.5
        if mask is not None:
            logits = logits.masked_fill(~mask, -torch.inf)
        alpha = torch.softmax(logits, dim=-1)
        close(alpha @ inputs["attn_v_s"], outputs[f"{name}_s"])
        out = torch.einsum("bhqk,bkhKc->bhqcK", alpha, mv)[..., place]
        close(out, outputs[f"{name}_mv"])
    assert batch == inputs["attn_q_s"].shape[:2]


def test_rotary() -> None:
    inputs, outputs = arrays("primitives", "inputs"), arrays("primitives", "outputs")
    layer = RotaryEncoding(6, 4096)
    np.testing.assert_allclose(layer.inv_freq.numpy(), inputs["rope_inv_freq_float32_rounded"].numpy(), rtol=2.4e-7)
    layer.inv_freq = inputs["rope_inv_freq_float32_rounded"]
    ours = layer(inputs["rope_x"].reshape(14, 1, 6), Items((2, 7)))
    close(ours, outputs["rope"])


# -- other spaces


@pytest.mark.parametrize("name", SPACES)
def test_blocks_of_every_space(name: str) -> None:
    """Linear maps, norm, attention and product against independent numpy definitions."""
    space, blocks = SPACES[name], arrays("algebras", f"{name}_blocks")
    x, y = blocks["x"], blocks["y"]
    layer = EquiLinear(space, 3, 2)
    maps = torch.from_numpy(space.linear_maps)
    # the stored coefficients belong to their own maps; ours span the same space
    flat, own = blocks["maps"].flatten(1), maps.flatten(1)
    change = torch.linalg.lstsq(own.T, flat.T).solution.T
    close(change @ own, flat)
    with torch.no_grad():
        layer.weight.copy_(blocks["coeffs"] @ change)
    close(unstored(layer(stored(x, space))[0], space), blocks["linear"])
    assert float(blocks["eps"]) == 0.01
    close(unstored(EquiNorm(space)(stored(x, space), None)[0], space), blocks["layer_norm"])
    close(space.algebra.multiply(x, y), blocks["gp"])
    features = Features(space, distances=False)
    q, k = (components(stored(z, space), space).unsqueeze(2) for z in (x, y))
    v = tokens_first(components(stored(blocks["v"], space), space).unsqueeze(2).flatten(0, 1))
    scale = 1 / (3 * float(blocks["n_features"])) ** 0.5
    assert features.count == int(blocks["n_features"])
    out = attend(features.queries(q, None), features.keys(k), v, Items((1, 5)), scale=scale)
    place = torch.from_numpy(space.order.ravel().argsort())
    close(out[:, 0].unflatten(1, (space.algebra.size, 2))[:, place].transpose(1, 2), blocks["attention"])


@every_space
def test_layers_commute_with_the_group(space: Space) -> None:
    """Random versors of the group: rotations, translations, mirrors."""
    algebra = space.algebra
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(6, 4, algebra.size, generator=generator)
    torch.manual_seed(1)
    layer = GeoMLP(space, 4, 6, "gelu", join=False)
    attention = SelfAttention(space, (4, 6), 2, multi_query=True, distances=space == PROJECTIVE)
    with torch.no_grad():
        for parameter in [*layer.parameters(), *attention.parameters()]:
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    s = torch.randn(6, 6, generator=generator)
    vector = torch.zeros(3, algebra.size)
    places = [algebra.index[(a,)] for a in space.rotated]
    vector[:, places] = torch.randn(3, len(places), generator=generator)
    if space.ideal:
        n = torch.zeros(algebra.size)
        n[1 : 1 + algebra.n] = torch.tensor(space.ideal)
        shift = algebra.multiply(vector[2], n) * 0.5
        versors = [vector[0], algebra.multiply(vector[0], vector[1]), algebra.exp(shift)]
    else:
        versors = [vector[0], algebra.multiply(vector[0], vector[1])]

    def network(z: Tensor) -> tuple[Tensor, Tensor]:
        h, t = EquiNorm(space)(stored(z, space), s)
        h, t = attention(h, t, Items((2, 3)))
        h, t = layer(h, t, torch.ones(6))
        return unstored(h, space), t

    y, t = network(x)
    for u in versors:
        turned, same = network(algebra.act(u.expand_as(x), x))
        close(turned, algebra.act(u.expand_as(y), y), 1e-9)
        close(same, t, 1e-9)


@every_space
def test_fused_product_equals_the_reference(space: Space) -> None:
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(2, 5, 3, space.algebra.size, generator=generator)
    table = stored_terms(space, space.algebra.product)
    size = space.algebra.size
    terms = [(k, 2 * i, 2 * j + 1, s) for k, i, j, s in zip(*[c.tolist() for c in table], strict=True)]
    rows = torch.stack([stored(z, space).reshape(size, -1) for z in (x, y)], dim=1).flatten(0, 1)
    z = quadratic(rows, terms, transposed(terms), size).view(space.rows, -1, 5)
    close(unstored(z, space), space.algebra.multiply(x, y))


def test_everything_but_attention_can_be_derived_twice() -> None:
    space = PROJECTIVE
    generator = torch.Generator().manual_seed(0)
    terms = [(0, 0, 1, 1.0), (1, 1, 1, -1.0), (1, 0, 2, 1.0)]
    x = torch.randn(3, 2, generator=generator, requires_grad=True)
    assert torch.autograd.gradgradcheck(lambda z: quadratic(z, terms, transposed(terms), 2), x)
    mv = torch.randn(8, 4, 2, generator=generator, requires_grad=True)
    s = torch.randn(2, 3, generator=generator, requires_grad=True)
    shapes = ((4, 6, 4), (3, 3), (3,), (2, 2), (2, 3), (2,))
    w = [torch.randn(shape, generator=generator, requires_grad=True) for shape in shapes]

    gates = torch.randn(2, 2, generator=generator, requires_grad=True)

    def linear(mv: Tensor, s: Tensor, gate: Tensor | None, *w: Tensor) -> tuple[Tensor, Tensor | None]:
        return block_linear(mv, s, space.blocks, LinearWeights(*w), gate)

    for inputs in ((mv, s, gates, *w), (mv, s, None, *w)):
        assert torch.autograd.gradcheck(linear, inputs) and torch.autograd.gradgradcheck(linear, inputs)
    norm = EquiNorm(space)
    for scale in (1.0, 0.01):  # beside and within the clamp
        assert torch.autograd.gradcheck(lambda z, k=scale: norm(k * z, None)[0], (mv,))
        assert torch.autograd.gradgradcheck(lambda z, k=scale: norm(k * z, None)[0], (mv,))
    q, k = torch.randn(2, 3, 2, 4, generator=generator, requires_grad=True).unbind(0)
    with sdpa_kernel(SDPBackend.MATH):
        assert torch.autograd.gradgradcheck(lambda a, b: attend(a, b, b, Items((1, 3)), scale=0.5), (q, k))


def test_ragged_samples_and_masks() -> None:
    """Padding changes nothing, and heads that share keys equal heads with copies of them."""
    generator = torch.Generator().manual_seed(0)
    counts = torch.tensor([3, 1, 4])
    q, v = torch.randn(2, 8, 2, 6, generator=generator)
    k = torch.randn(8, 1, 6, generator=generator)
    batch = torch.repeat_interleave(torch.arange(3), counts)
    ends = counts.cumsum(0).tolist()
    real = torch.arange(4) < counts.unsqueeze(1)
    ragged = Items((3, 4), real.flatten().nonzero().squeeze(1), real[:, None, None, :])
    shared = attend(q, k, v[:, :1], ragged, scale=0.7)
    copied = attend(q, k.expand(-1, 2, -1), v[:, :1].expand(-1, 2, -1), ragged, scale=0.7)
    close(shared, copied)
    parts = [slice(start, end) for start, end in zip([0, *ends[:-1]], ends, strict=True)]
    alone = [attend(q[p], k[p], v[p, :1], Items((1, p.stop - p.start)), scale=0.7) for p in parts]
    close(shared, torch.cat(alone))
    mask = batch[:, None] == batch[None, :]
    close(attend(q, k, v[:, :1], Items((1, 8), mask=mask[None, None]), scale=0.7), shared)
    with pytest.raises(CovariumError, match="projective"):
        Features(CONFORMAL, distances=True)
