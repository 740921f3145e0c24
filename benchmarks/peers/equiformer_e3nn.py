"""Equiformer (Liao 2023, arXiv 2206.11990) in its published structure on e3nn, for MD17: there is no package of it.

Tensor products, linear maps and gates are e3nn's own, put together as the authors' code puts them: one path at a time,
a product with an edge's harmonics in the frame of the laboratory, forces with ``create_graph``. ``check`` compares it
with numbers of that code. Without TorchScript, whose executor does not settle on recent torch (the plain graph is
faster); neighbours are given; scatter and softmax are plain torch.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

torch.serialization.add_safe_globals([slice])  # e3nn 0.4.4 reads its constants with torch.load

import e3nn  # noqa: E402
from e3nn import o3  # noqa: E402
from e3nn.math import normalize2mom  # noqa: E402

from peers.rows import ROWS  # noqa: E402
from peers.subject import Inputs, Subject, detached, on, weighted  # noqa: E402

e3nn.set_optimization_defaults(jit_script_fx=False)
PUBLISHED = dict(
    irreps_node_embedding="128x0e+64x1e+32x2e", num_layers=6, irreps_sh="1x0e+1x1e+1x2e", max_radius=5.0,
    number_of_basis=32, fc_neurons=[64, 64], irreps_feature="512x0e", irreps_head="32x0e+16x1e+8x2e", num_heads=4,
    irreps_mlp_mid="384x0e+192x1e+96x2e",
)  # fmt: skip
Labels = o3.Irreps | str
Paths = list[tuple[int, int, int, str, bool]]
TYPES, AVG_DEGREE, AVG_NUM_NODES = 64, 15.57930850982666, 18.03065905448718
SCALAR = o3.Irrep("0e")


def add_up(values: Tensor, index: Tensor, size: int) -> Tensor:
    return values.new_zeros(size, *values.shape[1:]).index_add(0, index, values)


class Product(nn.Module):
    """A tensor product without path normalisation, with biases on scalars."""

    def __init__(
        self, left: Labels, right: Labels, out: Labels, paths: Paths, bias: bool, own_weights: bool = True
    ) -> None:
        super().__init__()
        self.irreps_out = o3.Irreps(out)
        self.tp = o3.TensorProduct(
            left, right, out, paths, irrep_normalization="component", path_normalization="none",
            internal_weights=own_weights, shared_weights=own_weights,
        )  # fmt: skip
        simple = self.irreps_out.simplify()
        slots = [(s, mul) for s, (mul, ir) in zip(simple.slices(), simple, strict=True) if ir == SCALAR] if bias else []
        self.slots = [(s.start, mul) for s, mul in slots]
        self.bias = nn.ParameterList([nn.Parameter(torch.zeros(mul)) for _, mul in slots])

    def forward(self, x: Tensor, y: Tensor, weight: Tensor | None = None) -> Tensor:
        out = self.tp(x, y, weight)
        for (start, mul), bias in zip(self.slots, self.bias, strict=True):
            out.narrow(-1, start, mul).add_(bias)
        return out


class Full(Product):
    """All paths; the second factor is one scalar."""

    def __init__(self, left: Labels, out: Labels, bias: bool = True) -> None:
        left, out = o3.Irreps(left), o3.Irreps(out)
        paths = [(i, 0, k, "uvw", True) for i, (_, a) in enumerate(left) for k, (_, b) in enumerate(out) if a == b]
        super().__init__(left, "1x0e", out, paths, bias)


class LinearRS(Full):
    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        return super().forward(x, torch.ones_like(x[:, :1]))


class Depthwise(Product):
    def __init__(self, left: Labels, right: Labels, out: Labels, own_weights: bool) -> None:
        left, right, wanted = o3.Irreps(left), o3.Irreps(right), o3.Irreps(out)
        made, paths = [], []
        for i, (mul, a) in enumerate(left):
            for j, (_, b) in enumerate(right):
                for c in a * b:
                    if c in wanted or c == SCALAR:
                        paths.append((i, j, len(made)))
                        made.append((mul, c))
        order = sorted(range(len(made)), key=lambda k: (made[k][1].l, -made[k][1].p, k))
        place = {k: new for new, k in enumerate(order)}
        instructions = [(i, j, place[k], "uvu", True) for i, j, k in paths]
        super().__init__(left, right, o3.Irreps([made[k] for k in order]), instructions, False, own_weights)


class Gate(nn.Module):
    def __init__(self, out: Labels) -> None:
        super().__init__()
        out = o3.Irreps(out)
        self.scalars = sum(mul for mul, ir in out if ir == SCALAR)
        gated = o3.Irreps([(mul, ir) for mul, ir in out if ir != SCALAR])
        self.gates = sum(mul for mul, _ in gated)
        gates = o3.Irreps([(mul, SCALAR) for mul, _ in gated]).simplify()
        self.irreps_in = (o3.Irreps([(self.scalars, SCALAR)]) + gates + gated).simplify()
        self.mul = o3.ElementwiseTensorProduct(gated, gates)
        self.silu, self.sigmoid = normalize2mom(torch.nn.functional.silu), normalize2mom(torch.sigmoid)

    def forward(self, x: Tensor) -> Tensor:
        scalars, gates = x.narrow(-1, 0, self.scalars), x.narrow(-1, self.scalars, self.gates)
        gated = x.narrow(-1, self.scalars + self.gates, x.shape[-1] - self.scalars - self.gates)
        return torch.cat([self.silu(scalars), self.mul(gated, self.sigmoid(gates))], dim=-1)


class RadialProfile(nn.Module):
    def __init__(self, widths: list[int]) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for a, b in zip(widths[:-2], widths[1:-1], strict=True):
            layers += [nn.Linear(a, b), nn.LayerNorm(b), nn.SiLU()]
        self.net = nn.Sequential(*layers, nn.Linear(widths[-2], widths[-1], bias=False))
        self.offset = nn.Parameter(torch.zeros(widths[-1]))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x) + self.offset


class Separable(nn.Module):
    """Depthwise product, linear map, and with radial weights a gate."""

    def __init__(self, left: Labels, sh: Labels, out: Labels, widths: list[int] | None) -> None:
        super().__init__()
        self.dtp = Depthwise(left, sh, out, own_weights=widths is None)
        gate = Gate(out)
        if widths is not None:
            self.dtp_rad = RadialProfile([*widths, self.dtp.tp.weight_numel])
            self.gate = gate
        self.lin = LinearRS(self.dtp.irreps_out.simplify(), out if widths is None else gate.irreps_in)


class LayerNorm(nn.Module):
    def __init__(self, irreps: Labels) -> None:
        super().__init__()
        self.irreps = o3.Irreps(irreps)
        self.affine_weight = nn.Parameter(torch.ones(self.irreps.num_irreps))
        self.affine_bias = nn.Parameter(torch.zeros(sum(mul for mul, ir in self.irreps if ir == SCALAR)))

    def forward(self, x: Tensor) -> Tensor:
        fields, start, channel, scalar = [], 0, 0, 0
        for mul, ir in self.irreps:
            field = x.narrow(1, start, mul * ir.dim).reshape(-1, mul, ir.dim)
            if ir == SCALAR:
                field = field - field.mean(dim=1, keepdim=True)
            norm = (field.pow(2).mean(-1).mean(dim=1, keepdim=True) + 1e-5).pow(-0.5)
            norm = norm * self.affine_weight[None, channel : channel + mul]
            field = field * norm.reshape(-1, mul, 1)
            if ir == SCALAR:
                field = field + self.affine_bias[scalar : scalar + mul].reshape(mul, 1)
                scalar += mul
            fields.append(field.reshape(-1, mul * ir.dim))
            start, channel = start + mul * ir.dim, channel + mul
        return torch.cat(fields, dim=-1)


class Heads(nn.Module):
    """Channels of each irrep in consecutive parts, one for a head; and back."""

    def __init__(self, head: Labels, count: int) -> None:
        super().__init__()
        self.head, self.count = o3.Irreps(head), count

    def split(self, x: Tensor) -> Tensor:
        widths = [self.count * mul * ir.dim for mul, ir in self.head]
        return torch.cat([part.reshape(len(x), self.count, -1) for part in x.split(widths, dim=-1)], dim=2)

    def join(self, x: Tensor) -> Tensor:
        widths = [mul * ir.dim for mul, ir in self.head]
        return torch.cat([part.reshape(len(x), -1) for part in x.split(widths, dim=-1)], dim=1)


class Attention(nn.Module):
    def __init__(self, c: dict[str, Any], widths: list[int]) -> None:
        super().__init__()
        node, sh = c["irreps_node_embedding"], c["irreps_sh"]
        count, head = c["num_heads"], o3.Irreps(c["irreps_head"])
        heads = o3.Irreps([(mul * count, ir) for mul, ir in head])
        alpha = head.count(SCALAR)
        self.merge_src, self.merge_dst = LinearRS(node, node), LinearRS(node, node, bias=False)
        self.sep_act = Separable(node, sh, node, widths)
        self.sep_alpha = LinearRS(self.sep_act.dtp.irreps_out, f"{alpha * count}x0e")
        self.sep_value = Separable(node, sh, heads, None)
        self.values, self.logits = Heads(head, count), Heads(f"{alpha}x0e", count)
        self.alpha_act = normalize2mom(lambda x: 0.6 * x + 0.4 * x * (2 * torch.sigmoid(x) - 1))
        self.alpha_dot = nn.Parameter(torch.randn(1, count, alpha) / math.sqrt(alpha))
        self.proj = LinearRS(heads, node)

    def forward(self, x: Tensor, src: Tensor, dst: Tensor, sh: Tensor, basis: Tensor) -> Tensor:
        message = self.merge_src(x)[src] + self.merge_dst(x)[dst]
        message = self.sep_act.dtp(message, sh, self.sep_act.dtp_rad(basis))
        alpha = self.alpha_act(self.logits.split(self.sep_alpha(message)))
        value = self.sep_act.gate(self.sep_act.lin(message))
        value = self.values.split(self.sep_value.lin(self.sep_value.dtp(value, sh)))
        alpha = torch.einsum("bik,aik->bi", alpha, self.alpha_dot)
        largest = alpha.new_full((len(x), alpha.shape[1]), -math.inf)
        largest = largest.scatter_reduce(0, dst[:, None].expand_as(alpha), alpha.detach(), "amax")
        alpha = (alpha - largest[dst]).exp()
        alpha = alpha / (add_up(alpha, dst, len(x)) + 1e-16)[dst]
        return self.proj(self.values.join(add_up(value * alpha.unsqueeze(-1), dst, len(x))))


class FeedForward(nn.Module):
    def __init__(self, node: Labels, mid: Labels, out: Labels) -> None:
        super().__init__()
        gate = Gate(mid)
        self.fctp_1, self.fctp_2 = Full(node, gate.irreps_in), Full(mid, out)
        self.fctp_1.gate = gate

    def forward(self, x: Tensor, one: Tensor) -> Tensor:
        return self.fctp_2(self.fctp_1.gate(self.fctp_1(x, one)), one)


class Block(nn.Module):
    def __init__(self, c: dict[str, Any], widths: list[int], out: Labels) -> None:
        super().__init__()
        node = c["irreps_node_embedding"]
        self.norm_1, self.norm_2 = LayerNorm(node), LayerNorm(node)
        self.ga, self.ffn = Attention(c, widths), FeedForward(node, c["irreps_mlp_mid"], out)
        self.ffn_shortcut = Full(node, out) if o3.Irreps(node) != o3.Irreps(out) else None

    def forward(self, x: Tensor, one: Tensor, *edges: Tensor) -> Tensor:
        x = x + self.ga(self.norm_1(x), *edges)
        added = self.ffn(self.norm_2(x), one)
        return (x if self.ffn_shortcut is None else self.ffn_shortcut(x, one)) + added


class EdgeDegree(nn.Module):
    def __init__(self, node: Labels, sh: Labels, widths: list[int]) -> None:
        super().__init__()
        self.exp, self.dw = LinearRS("1x0e", node), Depthwise(node, sh, node, own_weights=False)
        self.rad = RadialProfile([*widths, self.dw.tp.weight_numel])
        self.proj = LinearRS(self.dw.irreps_out.simplify(), node)

    def forward(self, x: Tensor, src: Tensor, dst: Tensor, sh: Tensor, basis: Tensor) -> Tensor:
        message = self.proj(self.dw(self.exp(torch.ones_like(x[:, :1]))[src], sh, self.rad(basis)))
        return add_up(message, dst, len(x)) / math.sqrt(AVG_DEGREE)


class ExpNormal(nn.Module):
    def __init__(self, cutoff: float, count: int) -> None:
        super().__init__()
        self.cutoff, self.alpha = cutoff, 5.0 / cutoff
        low = math.exp(-cutoff)
        self.register_buffer("means", torch.linspace(low, 1, count))
        self.register_buffer("betas", torch.full((count,), (2 / count * (1 - low)) ** -2))

    def forward(self, d: Tensor) -> Tensor:
        d = d.unsqueeze(-1)
        envelope = 0.5 * (torch.cos(d * math.pi / self.cutoff) + 1.0) * (d < self.cutoff).to(d)
        return envelope * torch.exp(-self.betas * (torch.exp(-self.alpha * d) - self.means) ** 2)


class Equiformer(nn.Module):
    def __init__(self, c: dict[str, Any]) -> None:
        super().__init__()
        self.create_graph = True
        node, widths = c["irreps_node_embedding"], [c["number_of_basis"], *c["fc_neurons"]]
        self.irreps_sh = o3.Irreps(c["irreps_sh"])
        self.atom_embed = nn.ModuleDict({"atom_type_lin": LinearRS(f"{TYPES}x0e", node)})
        self.rbf = ExpNormal(c["max_radius"], c["number_of_basis"])
        self.edge_deg_embed = EdgeDegree(node, self.irreps_sh, widths)
        outs = [*[node] * (c["num_layers"] - 1), c["irreps_feature"]]
        self.blocks = nn.ModuleList([Block(c, widths, out) for out in outs])
        self.norm = LayerNorm(c["irreps_feature"])
        self.silu = normalize2mom(torch.nn.functional.silu)
        self.head = nn.ModuleDict({"0": LinearRS(c["irreps_feature"], c["irreps_feature"])})
        self.head["2"] = LinearRS(c["irreps_feature"], "1x0e")

    def forward(self, z: Tensor, pos: Tensor, batch: Tensor, edges: Tensor, graphs: int) -> tuple[Tensor, Tensor]:
        pos = pos.detach().requires_grad_()
        src, dst = edges
        vec = pos.index_select(0, src) - pos.index_select(0, dst)
        sh = o3.spherical_harmonics(self.irreps_sh, vec, normalize=True, normalization="component")
        x = self.atom_embed["atom_type_lin"](nn.functional.one_hot(z, TYPES).to(pos))
        edge = (src, dst, sh, self.rbf(vec.norm(dim=1)))
        x = x + self.edge_deg_embed(x, *edge)
        one = torch.ones_like(x[:, :1])
        for block in self.blocks:
            x = block(x, one, *edge)
        energy = self.head["2"](self.silu(self.head["0"](self.norm(x))))
        energy = add_up(energy, batch, graphs) / math.sqrt(AVG_NUM_NODES)
        return energy, -torch.autograd.grad(energy.sum(), pos, create_graph=self.create_graph)[0]


def load(model: Equiformer, state: dict[str, Tensor]) -> None:
    """The authors' names, which are ours too."""
    with torch.no_grad():
        for name, p in model.named_parameters():
            if p.numel():
                p.copy_(state[name].reshape(p.shape))


def check(folder: Path) -> float:
    """The largest error of energies and forces of a stored case, relative to the largest of them."""
    description = json.loads((folder / "config.json").read_text())
    taken = {k: v for k, v in description["constructor"].items() if k in PUBLISHED}
    torch.set_default_dtype(torch.float64)
    model = Equiformer(taken).double()
    load(model, load_file(folder / "weights.safetensors"))
    inputs = {k: torch.from_numpy(v) for k, v in np.load(folder / "inputs.npz").items()}
    graphs = int(inputs["batch"].max()) + 1
    found = model(inputs["z"], inputs["pos"], inputs["batch"], inputs["edge_index"], graphs)
    stored = np.load(folder / "outputs.npz")
    torch.set_default_dtype(torch.float32)
    return max(
        float(np.abs(value.detach().numpy() - stored[name]).max() / np.abs(stored[name]).max())
        for name, value in zip(("energy", "forces"), found, strict=True)
    )


def build(row: str, inputs: Inputs, weights: Path, device: str) -> Subject:
    """At the published size with our weights."""
    model = Equiformer(PUBLISHED)
    load(model, load_file(weights))
    model.to(device)
    arguments = [on(device, inputs[name]) for name in ("numbers", "positions", "batch", "edge_index")]

    def answer() -> dict[str, Tensor]:
        energy, forces = model(*arguments, len(inputs["cell"]))
        return {"energy": energy.squeeze(-1), "forces": forces}

    def loss() -> Tensor:
        return weighted(ROWS[row].terms, inputs, answer())

    optimiser = torch.optim.AdamW(model.parameters(), lr=5e-4, weight_decay=1e-6)

    def lean() -> dict[str, Tensor]:
        """Without the graph of the gradient, which the authors' code keeps in inference too, and without that of the
        weights."""
        model.create_graph = False
        model.requires_grad_(False)
        found = detached(answer())
        model.create_graph = True
        model.requires_grad_(True)
        return found

    return Subject(model, optimiser, lambda: detached(answer()), loss, variants={"lean": lean}, check=check)
