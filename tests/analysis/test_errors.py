"""Errors against numbers worked out by hand."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from covarium.analysis.check import crystal, structure
from covarium.analysis.errors import evaluate, predict_frames
from covarium.errors import CovariumError
from covarium.physics import LennardJones
from covarium.tasks import Potential

MEV, KCAL = 1e-3, 0.0433641153087705


@pytest.fixture(scope="module")
def potential() -> Potential:
    return Potential(LennardJones(0.01, 2.5), references={6: -10.0, 8: -20.0})


def labelled(potential: Potential, frame, *, energy=0.0, force=None, stress=None, keep=("energy", "forces"), **fields):
    """The frame with the potential's own answers as labels, each minus a known error."""
    (p,) = predict_frames(potential, [frame], stress=bool(frame.pbc.all()))
    labels = {"energy": np.array(p.energy - energy), "forces": p.forces - (0.0 if force is None else force)}
    if p.stress is not None:
        labels["stress"] = p.stress - (0.0 if stress is None else stress)
    return replace(frame, labels={k: labels[k] for k in keep}, **fields)


@pytest.fixture(scope="module")
def pair():
    return structure([6, 8], [[0, 0, 0], [0, 0, 2.9]])


@pytest.fixture(scope="module")
def triple():
    return structure([6, 8, 8], [[0, 0, 0], [0, 3.0, 0], [2.8, 0, 0]])


def test_errors_are_those_put_in(potential, pair, triple):
    force = np.array([[0.3, 0.0, 0.4], [0.0, 0.0, -0.1]])
    frames = [labelled(potential, pair, energy=0.2, force=force), labelled(potential, triple, energy=-0.6)]
    found = evaluate(potential, frames).to_json()
    assert found["energy"] == pytest.approx({"mae": 0.4, "rmse": np.sqrt((0.04 + 0.36) / 2)})
    assert found["energy_per_atom"] == pytest.approx({"mae": (0.1 + 0.2) / 2, "rmse": np.sqrt((0.01 + 0.04) / 2)})
    assert found["forces"]["mae"] == pytest.approx(0.8 / 15)
    assert found["forces"]["rmse"] == pytest.approx(np.sqrt((0.09 + 0.16 + 0.01) / 15))
    assert found["forces"]["norm"] == pytest.approx((0.5 + 0.1) / 5)
    assert found["forces"]["components"] == 15
    assert found["per_element"]["C"]["forces"]["mae"] == pytest.approx(0.7 / 6)
    assert found["per_element"]["O"]["atoms"] == 3
    assert found["frames"] == 2


def test_form_of_the_json(potential, pair):
    found = evaluate(potential, [labelled(potential, pair)]).to_json()
    keys = {"units", "energy", "energy_per_atom", "forces", "per_element", "per_config_type", "frames", "left_out"}
    assert set(found) == keys
    assert set(found["energy"]) == {"mae", "rmse"}
    assert {"mae", "rmse"} <= set(found["forces"])
    assert found["units"]["forces"] == "eV/Å"
    assert found["left_out"] == []  # a molecule has no stress to lack
    json.dumps(found, allow_nan=False)


def test_cosine_is_of_directions(potential, pair):
    (p,) = predict_frames(potential, [pair])
    turned = replace(pair, labels={"forces": 3.0 * p.forces * np.array([[1.0], [-1.0]])})
    assert evaluate(potential, [turned]).to_json()["forces"]["cosine"] == pytest.approx(0.0, abs=1e-12)
    still = replace(pair, labels={"forces": np.zeros((2, 3))})
    assert "cosine" not in evaluate(potential, [still]).to_json()["forces"]


def test_frozen_atoms_are_left_out_and_counted(potential, pair):
    force = np.array([[0.0, 0.0, 9.0], [0.0, 0.0, 0.3]])
    frame = labelled(potential, pair, force=force, fixed=np.array([True, False]))
    result = evaluate(potential, [frame])
    found = result.to_json()
    assert found["forces"]["mae"] == pytest.approx(0.1)
    assert list(found["per_element"]) == ["O"]
    assert {"what": "forces of frozen atoms", "count": 1, "why": "atoms held fixed in the reference"} in found[
        "left_out"
    ]
    assert result.worst()[0].error == pytest.approx(0.3)


def test_stress_of_frames_that_have_a_volume(potential, pair):
    error = np.zeros((3, 3))
    error[0, 0] = 0.009
    solid = labelled(potential, crystal((6, 8), 2.8), stress=error, keep=("energy", "forces", "stress"))
    unlabelled = labelled(potential, crystal((6, 8), 2.8))
    molecule = labelled(potential, pair)
    found = evaluate(potential, [molecule, solid, unlabelled, molecule]).to_json()
    assert found["stress"]["mae"] == pytest.approx(0.001)
    assert found["left_out"] == [{"what": "stress", "count": 1, "why": "frames without this label"}]


def test_config_types_and_missing_labels(potential, pair, triple):
    frames = [
        labelled(potential, pair, energy=0.2, config_type="dimer"),
        labelled(potential, triple, force=np.full((3, 3), 0.05), keep=("forces",), config_type="trimer"),
    ]
    result = evaluate(potential, frames)
    found = result.to_json()["per_config_type"]
    assert list(found) == ["dimer", "trimer"]
    assert found["dimer"]["energy_per_atom"]["mae"] == pytest.approx(0.1)
    assert "energy" not in found["trimer"]
    assert found["trimer"]["forces"]["mae"] == pytest.approx(0.05)
    assert {x["what"]: x["count"] for x in result.to_json()["left_out"]} == {"energy": 1}


def test_batches_change_nothing_and_progress_counts(potential, pair, triple):
    frames = [labelled(potential, f, energy=0.1) for f in (pair, triple, pair, crystal((6, 8), 2.8))]
    seen = []
    one_by_one = evaluate(potential, frames, max_cost=1, progress=lambda done, total: seen.append((done, total)))
    together = evaluate(potential, frames)
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]
    for a, b in zip(one_by_one.worst(4), together.worst(4), strict=True):
        assert a.error == pytest.approx(b.error, abs=1e-12)
        assert a.prediction.energy == pytest.approx(b.prediction.energy, abs=1e-12)
        assert a.prediction.forces == pytest.approx(b.prediction.forces, abs=1e-12)
    for a, b in zip(one_by_one.forces(), together.forces(), strict=True):
        assert a == pytest.approx(b, abs=1e-12)


def test_worst_frames_are_named(potential, pair):
    frames = [
        labelled(potential, pair, force=np.array([[0, 0, x], [0, 0, 0]]), source="a.xyz", index=k)
        for k, x in enumerate((0.1, 0.5, 0.2))
    ]
    worst = evaluate(potential, frames).worst(2)
    assert [(w.file, w.index) for w in worst] == [("a.xyz", 1), ("a.xyz", 2)]
    assert worst[0].error == pytest.approx(0.5)
    only_energy = [labelled(potential, pair, energy=e, keep=("energy",), index=k) for k, e in enumerate((0.1, -0.4))]
    found = evaluate(potential, only_energy).worst(1)[0]
    assert (found.index, found.unit) == (1, "eV/atom")
    assert found.error == pytest.approx(0.2)


def test_tables_say_mev_and_kcal(potential, pair):
    summary = evaluate(potential, [labelled(potential, pair, energy=0.2)]).tables()[0]
    row = {r[0]: r for r in summary.rows}["energy"]
    assert row[1:4] == ("200.0", "200.0", "meV")
    assert float(row[4]) == pytest.approx(0.2 / KCAL, rel=1e-3)
    assert all(len(r) == len(summary.header) for r in summary.rows)


def test_energies_for_plots_are_without_references(potential, pair):
    predicted, labels = evaluate(potential, [labelled(potential, pair, energy=0.2)]).energies_per_atom()
    assert predicted - labels == pytest.approx([0.1])
    assert abs(predicted[0]) < 0.1


def test_refusals_name_the_frame(potential, pair):
    with pytest.raises(CovariumError, match="no frames"):
        evaluate(potential, [])
    with pytest.raises(CovariumError, match="nothing to compare"):
        evaluate(potential, [pair])
    strange = structure([6, 7], pair.positions)
    strange = replace(strange, labels={"energy": np.array(0.0)}, source="x.xyz", index=7)
    with pytest.raises(CovariumError, match=r"x\.xyz, frame 7.*atomic number 7"):
        evaluate(potential, [strange])
    collapsed = replace(
        structure([6, 8], [[0, 0, 0], [0, 0, 1e-60]]), labels={"energy": np.array(0.0)}, source="y.xyz", index=3
    )
    with pytest.raises(CovariumError, match=r"y\.xyz, frame 3.*not finite"):
        evaluate(potential, [collapsed])


def test_dropout_never_acts_and_mode_is_restored(pair):
    class Noisy(LennardJones):
        def forward(self, graph, rng=None):
            output = super().forward(graph, rng)
            return output._replace(energy=output.energy + float(self.training))

    potential = Potential(Noisy(0.01, 2.5), references={6: 0.0, 8: 0.0}).train()
    (p,) = predict_frames(potential, [pair])
    assert potential.training
    exact = 4 * 0.01 * ((2.5 / 2.9) ** 12 - (2.5 / 2.9) ** 6)
    assert p.energy == pytest.approx(exact)
    assert torch.is_grad_enabled()
