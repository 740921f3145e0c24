"""The denoise task: what is displaced, what the loss is, and that the potential in it stays a potential."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from covarium.analysis.check import crystal, structure
from covarium.data import Batch, Frame, collate
from covarium.errors import CovariumError
from covarium.models import EquiformerV3, EquiformerV3Config
from covarium.systems import Denoising
from covarium.tasks import TASKS, Denoise, DenoisingSettings, Potential, Term
from covarium.tasks.potential import norm

TINY = EquiformerV3Config(
    num_layers=1, num_channels=4, attn_hidden_channels=3, num_heads=2, attn_alpha_channels=2, attn_value_channels=2,
    ffn_hidden_channels=4, edge_channels=4, num_radial_basis=8, cutoff=4.0, max_num_elements=10, avg_degree=4.0,
    denoising=True,
)  # fmt: skip
REFERENCES = {1: -13.6, 8: -2041.3}
TERMS = (Term("energy"), Term("forces", "l2"))
ALL = DenoisingSettings(probability=1.0, max_ratio=1.0)


def task(settings: DenoisingSettings = ALL, terms: tuple[Term, ...] = TERMS, **fields: object) -> Denoise:
    torch.manual_seed(0)
    model = EquiformerV3(replace(TINY, **fields)).double()
    rule = "direct" if "force_head" in fields else "gradient"
    return Denoise(model, denoising=settings, references=REFERENCES, scale=0.5, terms=terms, forces=rule)


def molecule(seed: int, count: int = 6, fixed: int = 0) -> Frame:
    rng = np.random.default_rng(seed)
    frame = structure([8, 1, 1, 8, 1, 1][:count], 1.1 * np.arange(count)[:, None] + rng.uniform(-0.4, 0.4, (count, 3)))
    labels = {"energy": np.array(-4000.0 + rng.normal()), "forces": rng.normal(size=(count, 3))}
    return replace(frame, labels=labels, fixed=np.arange(count) < fixed)


def batch(*frames: Frame) -> Batch:
    return collate(frames or [molecule(k) for k in range(8)], TINY.spec, torch.float64)


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_what_is_displaced() -> None:
    b = batch(*[molecule(k, fixed=2) for k in range(200)])
    moved = task(DenoisingSettings(std=0.1, probability=0.5, corrupt_ratio=0.5, max_ratio=0.75)).displace(b, rng())
    shift = moved.system.positions - b.system.positions
    assert torch.equal(shift.abs().sum(1) > 0, moved.atoms)
    assert (shift - 0.1 * moved.noise).abs().max() < 1e-15
    assert not moved.atoms[~b.free].any(), "frozen atoms stay"
    assert not moved.atoms[~moved.structures[b.system.batch]].any()
    # 0.5 × P(at most 4 of 6 drawn) = 0.5 × 57/64; half of the free atoms or somewhat less
    assert moved.structures.double().mean() == pytest.approx(0.445, abs=0.1)
    assert moved.atoms[b.free & moved.structures[b.system.batch]].double().mean() == pytest.approx(0.43, abs=0.08)
    assert moved.noise[moved.atoms].std() == pytest.approx(1.0, abs=0.1)


def test_structures_with_large_forces_stay() -> None:
    b = batch()
    largest = torch.stack([f.norm(dim=1).max() for f in b.labels["forces"].split(6)])
    limit = float(largest.median())
    moved = task(replace(ALL, max_force=limit)).displace(b, rng())
    assert torch.equal(moved.structures, largest <= limit)


def test_neighbours_are_those_of_the_displaced_structure() -> None:
    frames = [molecule(0), replace(crystal((1, 8), 1.6, 3), labels=molecule(1, 4).labels), molecule(2)]
    b = batch(*frames)
    moved = task(replace(ALL, std=0.5, corrupt_ratio=1.0)).displace(b, rng())
    again = [
        replace(frame, positions=positions.numpy())
        for frame, positions in zip(frames, moved.system.positions.split([6, 4, 6]), strict=True)
    ]
    fresh = batch(*again).system
    assert torch.equal(moved.system.edge_index, fresh.edge_index) and torch.equal(moved.system.shifts, fresh.shifts)
    assert not torch.equal(fresh.edge_index, b.system.edge_index)


@pytest.mark.parametrize("head", [{}, {"force_head": "gate"}], ids=["gradient", "direct"])
def test_loss_by_hand(head: dict[str, str]) -> None:
    t, b = task(DenoisingSettings(), **head), batch()
    sums = t(b, rng())
    moved = t.displace(b, rng())
    assert 0 < moved.atoms.sum() < 48
    r = moved.system.positions.clone().requires_grad_()
    told = Denoising(b.labels["forces"], moved.atoms)
    output = t.model(replace(moved.system, positions=r), denoising=told)
    totals = output.energy.reshape(8, 6).sum(1)
    forces = output.forces if head else -torch.autograd.grad(totals.sum(), r)[0]
    energy = totals - (b.labels["energy"] - t.reference_energy(b.system)) / 0.5
    assert sums["energy"][0].item() == pytest.approx((energy.abs() / 6).sum().item(), rel=1e-12)
    stayed = norm(forces - b.labels["forces"] / 0.5)[~moved.atoms].sum()
    assert sums["forces"][0].item() == pytest.approx(stayed.item(), rel=1e-12)
    noise = norm(output.noise - moved.noise)[moved.atoms].sum()
    assert sums["noise"][0].item() == pytest.approx(noise.item(), rel=1e-12)
    assert [float(sums[name][1]) for name in ("energy", "forces", "noise")] == [8, 48, 48]
    assert t.weights == {"energy": 1.0, "forces": 1.0, "noise": 0.5}


def test_every_weight_learns_and_nothing_displaced_is_a_plain_potential() -> None:
    t, b = task(), batch()
    sum(total for total, _ in t(b, rng()).values()).backward()
    matrices = {n: p for n, p in t.named_parameters() if p.ndim > 1}
    idle = {n for n, p in matrices.items() if p.grad is None or p.grad.abs().max() == 0}
    assert idle == {f"model.dens_block.so2_linear_{k}.so2_m_conv.1.fc.weight" for k in (1, 2)}, "a vector has no m = 2"
    quiet = replace(ALL, max_force=1e-9)
    plain = Potential(t.model, references=REFERENCES, scale=0.5, terms=TERMS)(b)
    sums = task(quiet)(b, rng())
    for name, (total, count) in plain.items():
        assert float(sums[name][0]) == pytest.approx(float(total), rel=1e-12) and float(sums[name][1]) == float(count)
    assert float(sums["noise"][0]) == 0


def test_the_stress_of_displaced_structures_counts_as_exact() -> None:
    frames = [replace(crystal((1, 8), 1.6, k), labels={**molecule(k, 4).labels, "stress": np.eye(3)}) for k in range(6)]
    t = task(DenoisingSettings(max_ratio=1.0), (*TERMS, Term("stress")), force_head="gate", stress_head=True)
    b = collate(frames, TINY.spec, torch.float64)
    total, count = t(b, rng())["stress"]
    moved = t.displace(b, rng())
    assert 0 < moved.structures.sum() < 6 and float(count) == 54
    told = Denoising(b.labels["forces"], moved.atoms)
    stress = t.model(moved.system, denoising=told).stress
    expected = (stress - b.labels["stress"] / 0.5).abs()[~moved.structures].sum()
    assert float(total.detach()) == pytest.approx(float(expected.detach()), rel=1e-12)


def test_the_generator_decides_and_metrics_are_of_clean_structures() -> None:
    t, b = task(), batch()
    one, same, other = (t(b, rng(seed))["noise"][0] for seed in (0, 0, 1))
    assert torch.equal(one, same) and not torch.equal(one, other)
    plain = Potential(t.model, references=REFERENCES, scale=0.5, terms=TERMS)
    assert t.metrics(b) == plain.metrics(b) and t.selection == plain.selection
    assert torch.equal(t.predict(b.system).forces, plain.predict(b.system).forces)


def test_description_round_trip() -> None:
    t = task(replace(ALL, max_force=2.5))
    description = json.loads(json.dumps(t.describe()))
    again = TASKS[description["kind"]].from_description(t.model, description)
    assert isinstance(again, Denoise) and again.describe() == t.describe() and again.denoising == t.denoising


def test_what_cannot_denoise_is_refused() -> None:
    with pytest.raises(CovariumError, match="model.denoising=true"):
        task(denoising=False)
    b = batch()
    with pytest.raises(CovariumError, match="reads the forces"):
        task(terms=(Term("energy"),))(Batch(b.system, {"energy": b.labels["energy"]}, b.free, b.sources))
    for fields in ({"probability": 0.0}, {"std": 0.0}, {"corrupt_ratio": 1.5}, {"weight": -1.0}, {"max_force": 0.0}):
        with pytest.raises(CovariumError, match=f"task.denoising.{next(iter(fields))}"):
            DenoisingSettings(**fields)
