"""The property task: readouts worked out by hand, losses, refusals, group action, description, targets."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from covarium.algebra.rotations import random_rotations
from covarium.analysis.check import structure
from covarium.data import Batch, Frame, collate
from covarium.errors import CovariumError
from covarium.models import MODELS, TorchMDET, TorchMDETConfig
from covarium.systems import AtomGraph, AtomModel
from covarium.tasks import Potential, Property, PropertySemantics, Term
from covarium.tasks.targets import QM9, target

TINY = TorchMDETConfig(
    num_layers=1, embedding_dimension=8, num_heads=2, num_rbf=6, cutoff=4.0, max_num_elements=10
)  # fmt: skip
REFERENCES = {1: -1.5, 8: 2.5}
NONE = {1: 0.0, 8: 0.0}
WATER = structure([8, 1, 1], np.array([[0.0, 0.1, 0.0], [0.8, 0.6, 0.1], [-0.7, 0.5, 0.9]]))
ATOM = structure([8], np.zeros((1, 3)))


def network(**fields: object) -> TorchMDET:
    torch.manual_seed(0)
    return TorchMDET(replace(TINY, **fields)).double()


def task(output: str = "equivariant_scalar", **arguments: object) -> Property:
    usual = {"semantics": PropertySemantics("p", "D"), "readout": "sum", "references": NONE, "scale": 2.0}
    return Property(network(output=output), **(usual | arguments))


def labelled(frame: Frame, value: object) -> Frame:
    return replace(frame, labels={"property": np.asarray(value, dtype=np.float64)})


def batch(*frames: Frame, dtype: torch.dtype = torch.float64) -> Batch:
    return collate(frames, TINY.spec, dtype)


def graph(*frames: Frame) -> AtomGraph:
    return batch(*frames).system


@pytest.mark.parametrize(("readout", "divisors"), [("sum", (1, 1)), ("mean", (3, 1)), ("mean_with_zero", (4, 2))])
def test_scalars_of_atoms(readout: str, divisors: tuple[int, int]) -> None:
    made = task(readout=readout, references=REFERENCES, offset=7.0).eval()
    system = graph(WATER, ATOM)
    with torch.no_grad():
        atoms = 2 * made.model(system).energy + torch.tensor([2.5, -1.5, -1.5, 2.5])
    expected = [float(atoms[:3].sum()) / divisors[0] + 7, float(atoms[3]) / divisors[1] + 7]
    assert made.predict(system).value.tolist() == pytest.approx(expected, abs=1e-13)


def test_heads_of_structures() -> None:
    system = graph(WATER, ATOM)
    vector = task("equivariant_dipole", readout="value").predict(system).value
    length = task("equivariant_dipole", readout="length").predict(system).value
    assert vector.shape == (2, 3) and (vector.norm(dim=1) - length).abs().max() < 1e-14
    extent = task("spatial_extent", readout="value", offset=3.0).predict(system).value
    assert extent.shape == (2,) and extent[1] == 3.0, "an atom alone lies in its own centre"


def test_predictions_turn_with_the_system() -> None:
    g = -random_rotations(1, torch.Generator().manual_seed(0))[0]
    for made in (task("vector", readout="value"), task("dipole", readout="length"), task()):
        system = graph(WATER)
        expected = made.predict(system).transform(g).value
        assert (made.predict(system.transform(g)).value - expected).abs().max() < 1e-12


# errors of 1 and −2 over a spread of 4
@pytest.mark.parametrize(
    ("loss", "expected"),
    [("mae", (0.25 + 0.5) / 2), ("mse", (0.0625 + 0.25) / 2), ("huber", (0.25 - 0.05 + 0.5 - 0.05) / 2)],
)
def test_losses_and_metrics(loss: str, expected: float) -> None:
    made = task(spread=4.0, term=Term("property", loss, delta=0.1)).eval()
    truth = made.predict(graph(WATER, ATOM)).value
    labels = [truth[0] + 1.0, truth[1] - 2.0]
    data = batch(*[labelled(f, float(v)) for f, v in zip((WATER, ATOM), labels, strict=True)])
    total, count = made(data)["property"]
    assert float(total.detach() / count) == pytest.approx(expected, abs=1e-12)
    assert total.requires_grad and count == 2
    metrics = made.metrics(data)
    assert metrics["property_mae"] == pytest.approx((3.0, 2.0)) and metrics["property_mse"] == pytest.approx((5.0, 2.0))
    assert made.selection.keys() <= metrics.keys() and made.weights == {"property": 1.0}


def test_every_model_of_atomic_energies_learns_a_property() -> None:
    for model_class, config_class in (entry for entry in MODELS.values() if issubclass(entry[0], AtomModel)):
        model = model_class(config_class()).double()
        made = Property(model, semantics=PropertySemantics("p"), readout="mean", references=NONE)
        data = collate([labelled(WATER, 1.0)], model.spec, torch.float64)
        total, _ = made(data)["property"]
        total.backward()
        assert any(p.grad is not None and p.grad.abs().max() > 0 for p in made.parameters())


def test_values_are_float64_and_constants_exact_in_any_dtype() -> None:
    made = task(references={1: 1e4 / 3, 8: -1e5 / 7}, scale=1 / 3).float()
    assert made.scale.dtype == torch.float64 and float(made.scale) == 1 / 3
    value = made.predict(batch(WATER, dtype=torch.float32).system).value
    again = made.double().predict(graph(WATER)).value
    assert value.dtype == torch.float64 and abs(float(value - again)) < 1e-5


@pytest.mark.parametrize(
    ("output", "arguments", "message"),
    [
        ("equivariant_scalar", {"readout": "summ"}, "readout 'summ' is unknown; did you mean 'sum'"),
        ("equivariant_scalar", {"readout": "value"}, "readout 'value' does not fit a model that gives energy"),
        ("dipole", {"readout": "sum"}, "readout 'sum' does not fit a model that gives dipole"),
        ("spatial_extent", {"readout": "length"}, "needs a vector, but the model gives spatial_extent"),
        ("dipole", {"readout": "value", "references": REFERENCES}, "has no atoms to add references to"),
        ("dipole", {"readout": "length", "offset": 1.0}, "an offset of 1.0 has no direction"),
        ("equivariant_scalar", {"term": Term("property", "l2")}, "loss 'l2' is a norm over the components"),
    ],
)
def test_what_does_not_fit_is_refused(output: str, arguments: dict[str, object], message: str) -> None:
    with pytest.raises(CovariumError, match=message):
        task(output, **arguments)


def test_labels_of_another_kind_are_refused() -> None:
    with pytest.raises(CovariumError, match="'p' is a vector in the data, but this model gives a scalar"):
        task()(batch(labelled(WATER, [1.0, 2.0, 3.0])))
    with pytest.raises(CovariumError, match=r"the data have no label for 'p'.*data.keys.property=KEY"):
        task()(batch(WATER))


def test_unknown_elements_and_charges_are_refused() -> None:
    carbon = structure([6], np.zeros((1, 3)))
    with pytest.raises(CovariumError, match=r"atom 0 has atomic number 6; this model knows \[1, 8\]"):
        task().predict(graph(carbon))
    with pytest.raises(CovariumError, match="has charge 1.0, but this model does not read charge"):
        task().predict(graph(replace(WATER, charge=1.0)))


def test_a_potential_needs_energies() -> None:
    with pytest.raises(CovariumError, match="a potential needs a model of atomic energies; this one gives dipole"):
        Potential(network(output="dipole"), references=NONE)
    with pytest.raises(CovariumError, match="not of a property"):
        Potential(network(), references=NONE, terms=(Term("property"),))


def test_description_and_back() -> None:
    made = task("dipole", readout="length", spread=0.5, term=Term("property", "mse"))
    described = json.loads(json.dumps(made.describe()))
    again = Property.from_description(made.model, described)
    assert again.describe() == made.describe() and again.semantics == PropertySemantics("p", "D")
    with pytest.raises(CovariumError, match="description of a property has keys"):
        Property.from_description(made.model, described | {"more": 1})


def test_targets_of_qm9() -> None:
    assert len(QM9) == 12
    assert target("HOMO") is QM9["homo"] and target("energy_U0") is QM9["u0"] and target("G") is QM9["g298"]
    assert target("h") is None and target("my_score") is None
    assert {name for name, rule in QM9.items() if rule.output} == {"mu", "r2"}
