"""The potential task: sums and counts, losses, references, refusals, force rules, stress, description."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from ase.build import bulk
from ase.calculators.lj import LennardJones as AseLennardJones

from covarium.algebra.rotations import random_rotations
from covarium.analysis.check import crystal, structure
from covarium.data import Batch, Frame, collate
from covarium.errors import CovariumError
from covarium.models import EquiformerV2, EquiformerV2Config
from covarium.ops.norm import norm
from covarium.physics import LennardJones
from covarium.systems import AtomGraph, AtomOutput, GraphSpec, atom_graph
from covarium.tasks import EnergySemantics, Potential, Prediction, Term

TINY = EquiformerV2Config(
    num_layers=1, sphere_channels=4, attn_hidden_channels=4, num_heads=2, attn_alpha_channels=2, attn_value_channels=2,
    ffn_hidden_channels=4, edge_channels=4, num_distance_basis=8, lmax=1, mmax=1, cutoff=4.0, max_num_elements=10,
    avg_degree=4.0,
)  # fmt: skip
REFERENCES = {1: -13.6, 8: -2041.3}
ENERGY, FORCES, STRESS = Term("energy"), Term("forces"), Term("stress")


def network(**fields: object) -> EquiformerV2:
    torch.manual_seed(0)
    return EquiformerV2(replace(TINY, **fields)).double()


def potential(model: torch.nn.Module | None = None, **arguments: object) -> Potential:
    arguments = {"references": REFERENCES, "scale": 0.5} | arguments
    return Potential(model or network(), **arguments)


def labelled(seed: int, count: int = 4, fixed: int = 0) -> Frame:
    """A molecule of H and O with arbitrary labels."""
    rng = np.random.default_rng(seed)
    frame = structure([8, 1, 1, 8, 1, 1][:count], 1.1 * np.arange(count)[:, None] + rng.uniform(-0.4, 0.4, (count, 3)))
    labels = {"energy": np.array(sum(REFERENCES[z] for z in frame.numbers) + rng.normal())}
    labels["forces"] = rng.normal(size=(count, 3))
    return replace(frame, labels=labels, fixed=np.arange(count) < fixed)


def stressed(seed: int) -> Frame:
    rng = np.random.default_rng(seed)
    frame = crystal((1, 8), 1.6, seed)
    labels = {"energy": np.array(-4000.0), "forces": rng.normal(size=(4, 3)), "stress": rng.normal(size=(3, 3))}
    return replace(frame, labels=labels)


def batch(*frames: Frame, spec: GraphSpec = TINY.spec, dtype: torch.dtype = torch.float64) -> Batch:
    return collate(frames, spec, dtype)


def values(sums: dict[str, tuple[torch.Tensor, torch.Tensor]]) -> dict[str, float]:
    return {name: float(total.detach() / count) for name, (total, count) in sums.items()}


class Constant(torch.nn.Module):
    """Energy 1 per atom, no forces: losses can be worked out by hand."""

    group, outputs, reads, spec = "E(3)", frozenset({"energy"}), frozenset({"charge"}), TINY.spec

    def forward(self, graph: AtomGraph, rng: torch.Generator | None = None) -> AtomOutput:
        return AtomOutput(torch.ones_like(graph.positions[:, 0]) + 0.0 * graph.positions.sum())

    def no_weight_decay(self) -> set[str]:
        return set()


# --- sums and counts


@pytest.mark.parametrize("loss", ["mae", "mse", "huber", "l2"])
def test_two_half_batches_are_one_batch(loss: str) -> None:
    energy_loss = "mae" if loss == "l2" else loss
    task = potential(terms=(Term("energy", energy_loss), Term("forces", loss, weight=7.0)))
    frames = [labelled(0, 3), labelled(1, 5, fixed=2), labelled(2, 4), labelled(3, 6)]
    whole = task(batch(*frames))
    halves = [task(batch(*frames[:1])), task(batch(*frames[1:]))]
    for name in ("energy", "forces"):
        for part in (0, 1):
            added = halves[0][name][part] + halves[1][name][part]
            assert abs((added - whole[name][part]).item()) <= 1e-12 * max(1.0, abs(added.item()))
        assert whole[name][0].dtype == whole[name][1].dtype == torch.float64

    def gradient(parts: list[dict]) -> torch.Tensor:
        task.zero_grad()
        counts = {name: sum(float(p[name][1]) for p in parts) for name in parts[0]}
        for p in parts:
            sum(task.weights[n] * p[n][0] / counts[n] for n in p).backward()
        return torch.cat([p.grad.flatten() for p in task.parameters() if p.grad is not None])

    one, two = gradient([task(batch(*frames))]), gradient([task(batch(*frames[:1])), task(batch(*frames[1:]))])
    assert (one - two).abs().max() <= 1e-12 * one.abs().max()


def test_metrics_add_up_too() -> None:
    task = potential()
    frames = [labelled(0, 3), labelled(1, 5, fixed=2), labelled(2, 4)]
    whole, a, b = (task.metrics(batch(*f)) for f in (frames, frames[:1], frames[1:]))
    assert whole.keys() >= {"energy_mae_per_atom", "forces_mae", "forces_mse", "energy_mae"}
    for name, (total, count) in whole.items():
        assert total == pytest.approx(a[name][0] + b[name][0], rel=1e-12)
        assert count == a[name][1] + b[name][1]
    assert whole["forces_mae"][1] == 3 * (12 - 2), "frozen atoms do not count"
    assert whole["energy_mae"][1] == 3


def test_metrics_are_in_ev() -> None:
    frame = labelled(4, 3)
    task = potential(Constant(), scale=2.0)
    measured = {name: total / count for name, (total, count) in task.metrics(batch(frame)).items()}
    energy = 3 * 2.0 + sum(REFERENCES[z] for z in frame.numbers) - float(frame.labels["energy"])
    assert measured["energy_mae"] == pytest.approx(abs(energy), rel=1e-12)
    assert measured["energy_mse"] == pytest.approx(energy**2, rel=1e-12)
    assert measured["energy_mae_per_atom"] == pytest.approx(abs(energy) / 3, rel=1e-12)
    assert measured["forces_mae"] == pytest.approx(np.abs(frame.labels["forces"]).mean(), rel=1e-12)
    assert measured["forces_mse"] == pytest.approx((frame.labels["forces"] ** 2).mean(), rel=1e-12)


# --- losses


def test_losses_by_hand() -> None:
    frame = labelled(5, 4)
    scale = 2.0
    f = frame.labels["forces"] / scale
    e = 4 - (float(frame.labels["energy"]) - sum(REFERENCES[z] for z in frame.numbers)) / scale
    huber = np.where(np.abs(f) < 0.3, f**2 / 0.6, np.abs(f) - 0.15)
    expected = {
        "mae": (abs(e) / 4, np.abs(f).mean()),
        "mse": ((e / 4) ** 2, (f**2).mean()),
        "huber": (abs(e) / 4 - 0.15, huber.mean()),
        "l2": (abs(e) / 4, np.linalg.norm(f, axis=1).mean()),
    }
    assert abs(e) / 4 > 0.3
    for loss, (energy, forces) in expected.items():
        terms = (Term("energy", "mae" if loss == "l2" else loss, delta=0.3), Term("forces", loss, delta=0.3))
        found = values(potential(Constant(), scale=scale, terms=terms)(batch(frame)))
        assert found["energy"] == pytest.approx(energy, rel=1e-12), loss
        assert found["forces"] == pytest.approx(forces, rel=1e-12), loss


def test_per_atom_weighting() -> None:
    frames = labelled(0, 3), labelled(1, 6)
    one = potential(Constant(), terms=(Term("energy", per_atom=True),))(batch(*frames))
    other = [potential(Constant(), terms=(Term("energy", per_atom=False),))(batch(f)) for f in frames]
    total = sum(float(o["energy"][0]) / n for o, n in zip(other, (3, 6), strict=True))
    assert float(one["energy"][0]) == pytest.approx(total, rel=1e-12)
    assert float(one["energy"][1]) == 2


def test_frozen_atoms_are_left_out() -> None:
    frame = labelled(0, 5, fixed=2)
    wrong = replace(frame, labels=frame.labels | {"forces": frame.labels["forces"] + 1e3 * frame.fixed[:, None]})
    task = potential(terms=(FORCES,))
    one, other = task(batch(frame)), task(batch(wrong))
    assert torch.equal(one["forces"][0], other["forces"][0])
    assert float(one["forces"][1]) == 9
    free = task(batch(replace(frame, fixed=np.zeros(5, dtype=bool))))
    assert float(free["forces"][1]) == 15


def test_a_term_of_weight_zero_is_not_computed_and_needs_no_label() -> None:
    task = potential(terms=(ENERGY, Term("forces", weight=0.0)))
    frame = labelled(0)
    del frame.labels["forces"]
    assert task(batch(frame)).keys() == {"energy"}
    assert task.selection == {"energy_mae_per_atom": 1.0}


def test_the_norm_has_a_derivative_at_zero() -> None:
    x = torch.zeros(2, 3, dtype=torch.float64)
    x[1] = torch.tensor([3.0, 0.0, 4.0])
    x.requires_grad_()
    value = norm(x)
    value.sum().backward()
    assert value.tolist() == [0.0, 5.0]
    assert x.grad[0].tolist() == [0.0] * 3
    assert (x.grad[1] - torch.tensor([0.6, 0.0, 0.8])).abs().max() < 1e-7


# --- energies


def test_total_energy_is_scaled_model_plus_references_in_float64() -> None:
    frame = replace(labelled(0, 4), labels={})
    task = potential().float()
    assert next(task.parameters()).dtype == torch.float32
    assert task.reference_table.dtype == task.scale.dtype == torch.float64
    many = structure([8] * 60, np.random.default_rng(0).uniform(0, 300, (60, 3)))  # −1.2e5 eV
    prediction = task.predict(batch(frame, many, dtype=torch.float32).system)
    assert prediction.energy.dtype == prediction.atom_energy.dtype == torch.float64
    assert prediction.forces.dtype == torch.float32
    double = potential().predict(batch(frame, many).system)
    assert (prediction.energy - double.energy).abs().max() < 1e-4
    sums = torch.stack([prediction.atom_energy[:4].sum(), prediction.atom_energy[4:].sum()])
    assert (sums - prediction.energy).abs().max() < 1e-9
    there_and_back = potential().half().double()
    assert there_and_back.reference_energy(batch(many).system).item() == pytest.approx(60 * -2041.3, abs=1e-9)


def test_energies_and_forces_of_lennard_jones_equal_ase() -> None:
    atoms = bulk("Ar", "fcc", a=5.3, cubic=True) * (2, 1, 1)
    atoms.rattle(0.2, seed=0)
    atoms.cell[0, 1] += 0.7
    model = LennardJones(0.0104, 3.4, cutoff=8.0, onset=6.0)
    task = Potential(model, references={18: 0.0})
    atoms.calc = AseLennardJones(epsilon=0.0104, sigma=3.4, rc=8.0, ro=6.0, smooth=True)
    system = atom_graph(atoms.numbers, atoms.positions, model.spec, cell=atoms.cell.array, pbc=atoms.pbc)
    found = task.predict(system, stress=True)
    assert found.energy.item() == pytest.approx(atoms.get_potential_energy(), abs=1e-10)
    assert np.abs(found.forces.numpy() - atoms.get_forces()).max() < 1e-10
    assert np.abs(found.stress[0].numpy() - atoms.get_stress(voigt=False)).max() < 1e-12


def test_predict_keeps_no_graph_and_takes_gradients_under_no_grad() -> None:
    task, system = potential(), batch(labelled(0)).system
    one = task.predict(system)
    with torch.no_grad():
        other = task.predict(system)
    with torch.inference_mode():
        energy = task.predict(system, forces=False).energy
    assert torch.equal(one.forces, other.forces) and torch.equal(one.energy, energy)
    assert not any(t.requires_grad for t in (one.energy, one.forces, one.atom_energy))
    assert task.predict(system, forces=False).forces is None
    assert all(p.grad is None for p in task.parameters()) and not system.positions.requires_grad


# --- stress and force rules


def test_stress_is_the_strain_derivative_and_symmetric() -> None:
    task = potential()
    frame = stressed(1)
    spec = TINY.spec
    stress = task.predict(batch(frame).system, stress=True).stress[0]
    assert (stress - stress.T).abs().max() < 1e-15
    volume = abs(np.linalg.det(frame.cell))

    def energy(strain: np.ndarray) -> float:
        moved = replace(frame, positions=frame.positions @ (np.eye(3) + strain), cell=frame.cell @ (np.eye(3) + strain))
        return float(task.predict(collate([moved], spec, torch.float64).system, forces=False).energy)

    h = 1e-4
    for a in range(3):
        for b in range(a, 3):
            strain = np.zeros((3, 3))
            strain[a, b] += h / 2
            strain[b, a] += h / 2
            steps = energy(-2 * strain) - 8 * energy(-strain) + 8 * energy(strain) - energy(2 * strain)
            assert abs(steps / (12 * h) / volume - float(stress[a, b])) < 1e-7, (a, b)


def test_stress_is_symmetric_even_where_the_model_is_not_quite_invariant() -> None:
    coarse = network(attn_activation="s2", ffn_activation="s2", lmax=2, mmax=2)
    with torch.no_grad():
        for p in coarse.parameters():
            p += 0.3 * torch.randn(p.shape, generator=torch.Generator().manual_seed(1), dtype=p.dtype)
    system = batch(stressed(1)).system
    stress = potential(coarse).predict(system, stress=True).stress[0]
    assert (stress - stress.T).abs().max() < 1e-15


def test_stress_sign_and_volume_of_either_handedness() -> None:
    # two argon atoms per cell, stretched: tension is positive
    model = LennardJones(0.0104, 3.4, cutoff=9.0)
    task = Potential(model, references={18: 0.0})
    for a, sign in ((5.6, 1.0), (4.9, -1.0)):
        atoms = bulk("Ar", "fcc", a=a)
        for cell in (atoms.cell.array, atoms.cell.array[[1, 0, 2]]):
            system = atom_graph(atoms.numbers, atoms.positions, model.spec, cell=cell, pbc=atoms.pbc)
            stress = task.predict(system, stress=True).stress[0]
            assert (stress.diagonal() * sign > 0).all()


def test_stress_batches_and_trains() -> None:
    task = potential(terms=(ENERGY, FORCES, Term("stress", "mse", weight=3.0)))
    frames = stressed(0), stressed(1)
    together = task.predict(batch(*frames).system, stress=True).stress
    alone = torch.cat([task.predict(batch(f).system, stress=True).stress for f in frames])
    assert (together - alone).abs().max() < 1e-14
    sums = task(batch(*frames))
    assert float(sums["stress"][1]) == 18
    sums["stress"][0].backward()
    assert task.model.sphere_embedding.weight.grad.abs().max() > 0
    assert {"stress_mae", "stress_mse"} <= task.metrics(batch(*frames)).keys()


@pytest.mark.parametrize("pbc", [[False, False, False], [True, True, False]])
def test_stress_without_a_volume_is_refused(pbc: list[bool]) -> None:
    partly = replace(stressed(0), pbc=np.array(pbc))
    with pytest.raises(CovariumError, match=r"stress of structure 1 is undefined.*three directions has a volume"):
        potential().predict(batch(stressed(0), partly).system, stress=True)


def test_direct_and_gradient_forces() -> None:
    system = batch(labelled(0), labelled(1, 3)).system
    model = network(force_head=True)
    gradient, direct = potential(model), potential(model, forces="direct")
    a, b = gradient.predict(system), direct.predict(system)
    assert torch.equal(a.energy, b.energy)
    assert (a.forces - b.forces).abs().max() > 1e-4
    with torch.no_grad():
        assert (b.forces - 0.5 * model.eval()(system).forces).abs().max() < 1e-15
    step = 1e-4
    moved = replace(system, positions=system.positions.clone())
    moved.positions[2, 1] += step
    up = float(gradient.predict(moved).energy.sum())
    moved.positions[2, 1] -= 2 * step
    down = float(gradient.predict(moved).energy.sum())
    assert abs((down - up) / (2 * step) - float(a.forces[2, 1])) < 1e-6
    sums = direct(batch(labelled(0)))
    sums["forces"][0].backward()
    assert model.force_block.alpha_dot.grad.abs().max() > 0


def test_atoms_without_neighbours_have_no_force() -> None:
    system = batch(replace(labelled(0, 1), labels={})).system
    found = potential().predict(system)
    assert found.forces.tolist() == [[0.0, 0.0, 0.0]]
    assert potential(Constant()).predict(system).forces.tolist() == [[0.0, 0.0, 0.0]]


def test_transform_closes_the_circle() -> None:
    task, system = potential(), batch(stressed(0), stressed(1)).system
    g = random_rotations(1, torch.Generator().manual_seed(0))[0]
    rotated, transformed = (
        task.predict(system.transform(g), stress=True),
        task.predict(system, stress=True).transform(g),
    )
    for name in ("energy", "forces", "stress", "atom_energy"):
        assert (getattr(rotated, name) - getattr(transformed, name)).abs().max() < 1e-11, name
    bare = Prediction(energy=torch.ones(1), atom_energy=torch.ones(1)).transform(g)
    assert bare.forces is None and bare.stress is None


# --- refusals


def test_an_unseen_element_is_refused() -> None:
    for z in (6, 92):
        system = atom_graph(np.array([1, z]), np.array([[0.0, 0, 0], [1.0, 0, 0]]), TINY.spec)
        with pytest.raises(CovariumError, match=rf"atom 1 has atomic number {z}; this model knows \[1, 8\]"):
            potential().predict(system)


@pytest.mark.parametrize("name", ["charge", "spin"])
def test_charge_and_spin_that_the_model_ignores_are_refused(name: str) -> None:
    ok = batch(labelled(0)).system
    charged = AtomGraph.collate([ok, replace(ok, **{name: torch.tensor([-1.0], dtype=torch.float64)})])
    with pytest.raises(CovariumError, match=f"structure 1 of the batch has {name} -1.0, but this model does not"):
        potential().predict(charged)
    if name == "charge":
        assert potential(Constant()).predict(charged).energy.shape == (2,)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"forces": "direct"}, "direct forces need a model with a force head: equiformer_v2 with"),
        ({"forces": "autograd"}, "force rule 'autograd' is unknown; allowed: gradient, direct"),
        (
            {"forces": "direct", "model": network(force_head=True), "terms": (STRESS,)},
            "stress term needs task.forces=gradient",
        ),
        ({"terms": (Term("forces"), Term("forces", "mse"))}, "one loss term per quantity, got forces, forces"),
    ],
)
def test_impossible_tasks_are_refused(arguments: dict, message: str) -> None:
    with pytest.raises(CovariumError, match=message):
        potential(**arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("force",), "'force' is not one of energy, forces, stress, property; did you mean 'forces'"),
        (("forces", "rmse"), "'rmse' is not one of mae, mse, huber, l2"),
        (("energy", "l2"), "'energy' has mae, mse, huber"),
        (("energy", "mae", -1.0), "weight ≥ 0"),
    ],
)
def test_impossible_terms_are_refused(arguments: tuple, message: str) -> None:
    with pytest.raises(CovariumError, match=message):
        Term(*arguments)


def test_a_loss_without_its_label_is_refused() -> None:
    frame = labelled(0)
    del frame.labels["forces"]
    with pytest.raises(CovariumError, match=r"'forces' term, but the data have no forces label .they have: energy"):
        potential()(batch(frame))


# --- description


def test_description_round_trip() -> None:
    task = potential(
        network(force_head=True),
        forces="direct",
        scale=1 / 3,
        terms=(Term("energy", "huber", 2.0, per_atom=False, delta=0.01), Term("forces", "l2", 5.0)),
        semantics=EnergySemantics("adsorption", "RPBE", "slab + gas"),
    )
    description = json.loads(json.dumps(task.describe()))
    again = Potential.from_description(task.model, description)
    assert again.describe() == task.describe()
    system = batch(labelled(0)).system
    assert torch.equal(again.predict(system).energy, task.predict(system).energy)
    assert torch.equal(again.predict(system).forces, task.predict(system).forces)
    assert again.semantics == task.semantics and again.terms == task.terms and again.elements == (1, 8)
    assert not [n for n in task.state_dict() if not n.startswith("model.")], "weights only; the rest is described"
    assert task.no_weight_decay() == {f"model.{n}" for n in task.model.no_weight_decay()}
    assert task.no_weight_decay() <= dict(task.named_parameters()).keys()


def test_a_foreign_description_is_refused() -> None:
    description = potential().describe()
    for wrong in (description | {"colour": 1}, {k: v for k, v in description.items() if k != "scale"}):
        with pytest.raises(CovariumError, match=r"expected .*'scale'"):
            Potential.from_description(network(), wrong)
