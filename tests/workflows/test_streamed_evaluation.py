"""Evaluation and prediction of a set take the memory of a batch, however many frames it has, and say the same."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from pathlib import Path

import ase.io
import numpy as np
import pytest
import torch

from covarium.analysis import totals
from covarium.analysis.errors import batched_frames, evaluate, predict_frames
from covarium.analysis.property_errors import evaluate_property
from covarium.config import DataSection
from covarium.data import Frame, read
from covarium.data.store import Rest
from covarium.data.store_writing import Writer
from covarium.errors import CovariumError
from covarium.physics import LennardJones
from covarium.tasks import Potential, Property, PropertySemantics
from covarium.workflows import evaluation, loaded_property
from covarium.workflows.loaded import LoadedTask

FEW, MANY = 200, 1200
BATCH = 600  # of cost, so that batches are small beside the sets


@pytest.fixture(scope="module")
def potential() -> Potential:
    return Potential(LennardJones(0.01, 2.5), references={1: -10.0, 8: -20.0}).to(torch.float64)


@pytest.fixture(scope="module")
def scalar() -> Property:
    references = {1: -10.0, 8: -20.0}
    model = LennardJones(0.01, 2.5)
    return Property(model, semantics=PropertySemantics("e", "eV"), readout="sum", references=references)


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """Sets of water-like frames with energies, forces, a property and two config types."""
    folder = tmp_path_factory.mktemp("sets")
    for count in (FEW, MANY):
        rng = np.random.default_rng(0)
        writer = Writer(folder / f"{count}.frames")
        for k in range(count):
            positions = np.array([[0, 0, 0], [0, 0, 2.6], [0, 2.7, 0]]) + rng.normal(0, 0.05, (3, 3))
            labels = {"energy": np.array(-40 + rng.normal()), "forces": rng.normal(size=(3, 3))}
            one = Frame(np.array([8, 1, 1]), positions, np.zeros((3, 3)), np.zeros(3, bool), labels,
                        np.array([k % 7 == 0, False, False]))  # fmt: skip
            writer.append(one, Rest({"config_type": "ab"[k % 2], "dose": float(rng.normal())}, {}))
        writer.finish(theory="", group=None, notes=[], left_out=[])
        writer.close()
    return {count: folder / f"{count}.frames" for count in (FEW, MANY)}


def peak(work: Callable[[], object]) -> int:
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def predicted(what: object, predict: Callable[..., object], source: Path, out: Path) -> int:
    return evaluation.predict_file(predict, LoadedTask(what, {}, Path()), [source], out, DataSection())


@pytest.mark.parametrize("kind", ["evaluate", "evaluate a property", "predict", "predict a property"])
def test_memory_does_not_grow(
    kind: str, sets: dict[int, Path], potential: Potential, scalar: Property, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(totals, "KEPT", 200)
    monkeypatch.setattr("covarium.analysis.errors.batched_frames", small_batches)
    monkeypatch.setattr("covarium.analysis.property_errors.batched_frames", small_batches)

    def work(count: int) -> object:
        source, out = sets[count], tmp_path / f"{count}.xyz"
        if kind == "evaluate":
            return evaluate(potential, read([source]).frames)
        if kind == "evaluate a property":
            return evaluate_property(scalar, read([source], keys={"property": "dose"}, need=["property"]).frames)
        if kind == "predict":
            return predicted(potential, evaluation.predict_energies, source, out)
        return predicted(scalar, loaded_property.predict_values, source, out)

    work(FEW)  # what is made once
    for file in tmp_path.iterdir():
        file.unlink()
    few, many = peak(lambda: work(FEW)), peak(lambda: work(MANY))
    # a frame with its prediction takes 2 kB and more: 2 MB would be held
    assert many - few < 0.4e6, (few, many)


def small_batches(task, frames, stress, max_cost):
    return batched_frames(task, frames, stress, BATCH)


def test_numbers_are_those_of_all_at_once(sets: dict[int, Path], potential: Potential) -> None:
    frames = list(read([sets[FEW]]).frames)
    found = evaluate(potential, read([sets[FEW]]).frames).to_json()
    answers = list(predict_frames(potential, frames))
    energy = np.array([p.energy - p.frame.labels["energy"] for p in answers])
    force = np.concatenate([(p.forces - p.frame.labels["forces"])[~p.frame.fixed] for p in answers])
    numbers = np.concatenate([p.frame.numbers[~p.frame.fixed] for p in answers])
    assert found["energy"]["mae"] == pytest.approx(np.abs(energy).mean(), rel=1e-13)
    assert found["energy_per_atom"]["rmse"] == pytest.approx(np.sqrt(np.square(energy / 3).mean()), rel=1e-13)
    assert found["forces"]["mae"] == pytest.approx(np.abs(force).mean(), rel=1e-13)
    for z, symbol in ((1, "H"), (8, "O")):
        own = force[numbers == z]
        assert found["per_element"][symbol]["atoms"] == len(own)
        assert found["per_element"][symbol]["forces"]["rmse"] == pytest.approx(
            np.sqrt(np.square(own).mean()), rel=1e-13
        )
    assert found["per_config_type"]["b"]["energy"]["mae"] == pytest.approx(np.abs(energy[1::2]).mean(), rel=1e-13)
    assert {x["what"]: x["count"] for x in found["left_out"]} == {"forces of frozen atoms": -(-FEW // 7)}


def test_predictions_are_written_as_they_come_and_not_at_all_if_one_fails(
    sets: dict[int, Path], potential: Potential, tmp_path: Path
) -> None:
    out = tmp_path / "new" / "p.xyz"
    assert predicted(potential, evaluation.predict_energies, sets[FEW], out) == FEW
    written = ase.io.read(out, ":")
    answers = list(predict_frames(potential, read([sets[FEW]]).frames))
    assert [atoms.get_potential_energy() for atoms in written] == pytest.approx([p.energy for p in answers], abs=1e-7)
    strange = ase.io.read(out, ":")
    strange[-1].numbers[0] = 9
    ase.io.write(tmp_path / "strange.xyz", strange)
    with pytest.raises(CovariumError, match=rf"strange\.xyz, frame {FEW - 1}.*atomic number 9"):
        predicted(potential, evaluation.predict_energies, tmp_path / "strange.xyz", tmp_path / "q.xyz")
    assert {path.name for path in tmp_path.iterdir()} == {"new", "strange.xyz"}


def test_units_of_length_that_change_are_refused(potential: Potential, tmp_path: Path) -> None:
    atoms = [ase.Atoms("OH", [[0, 0, 0], [0, 0, 2.6]]) for _ in range(3)]
    atoms[2].info["length_unit"] = "nm"
    ase.io.write(tmp_path / "a.xyz", atoms)
    with pytest.raises(CovariumError, match=r"a\.xyz, frame 2 states another unit of length than .*frame 0"):
        predicted(potential, evaluation.predict_energies, tmp_path / "a.xyz", tmp_path / "q.xyz")
    assert [path.name for path in tmp_path.iterdir()] == ["a.xyz"]
