"""Speed and memory over sizes: the systems, the processes, what is concluded, the command."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, fcc111, molecule

from covarium.errors import CovariumError
from covarium.workflows import scaling
from covarium.workflows.scaling import Measured, Subject

TINY = {"embedding_dimension": 16, "num_layers": 1, "num_heads": 2, "cutoff": 3.0}


@pytest.mark.parametrize("text", ["", "ten", "10..", "100..10", "0..5", "1..2..3"])
def test_a_range_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(CovariumError, match="range of sizes"):
        scaling.sizes(text)


def test_sizes_are_in_proportion() -> None:
    assert scaling.sizes("100..10000") == [100, 215, 464, 1000, 2154, 4642, 10000]
    assert scaling.sizes("300") == [300]
    assert scaling.sizes("100..110") == [100, 110]


def test_water_is_water() -> None:
    box = scaling.water(400)
    assert len(box) == 375
    grams = box.get_masses().sum() / 6.02214076e23
    assert grams / (box.get_volume() * 1e-24) == pytest.approx(0.997, abs=0.003)
    distances = box.get_all_distances(mic=True)[::3]
    np.testing.assert_allclose(np.sort(distances)[:, 1:3], 0.9572, atol=1e-12)
    oxygen = box.positions[0]
    cosine = np.dot(box.positions[1] - oxygen, box.positions[2] - oxygen) / 0.9572**2
    assert np.degrees(np.arccos(cosine)) == pytest.approx(104.52)
    others = box.get_all_distances(mic=True)
    np.fill_diagonal(others, np.inf)
    assert others.min() > 0.95


def test_structures_are_repeated_in_their_periodic_directions() -> None:
    crystal = scaling.repeated(bulk("Cu", cubic=True), 500)
    assert len(crystal) == 4 * 5 * 5 * 5
    slab = scaling.repeated(fcc111("Pt", (1, 1, 4), vacuum=8.0), 150)
    assert slab.pbc.tolist() == [True, True, False]
    assert slab.cell.lengths()[2] == pytest.approx(fcc111("Pt", (1, 1, 4), vacuum=8.0).cell.lengths()[2])
    assert 100 <= len(slab) <= 150
    packed = scaling.repeated(molecule("C6H6"), 100)
    assert len(packed) == 12 * 3 * 2 and packed.pbc.all()
    between = packed.get_all_distances(mic=True)[:12, 12:]
    assert between.min() >= 3.0
    assert len(scaling.repeated(molecule("C6H6"), 5)) == 12


def test_each_size_once() -> None:
    made = scaling.structures(None, [1, 8], [20, 24, 30, 81])
    assert [len(a) for a in made] == [24, 81]
    with pytest.raises(CovariumError, match="Cu and not water"):
        scaling.structures(None, [29], [100])


def test_what_does_not_fit_is_left_out() -> None:
    subject = Subject("torchmd_et", TINY, "cpu", None, 1)
    systems = [scaling.water(n) for n in (24, 81, 3000, 9000)]
    found = list(scaling.scaling(subject, systems, free=4 * 2**20))
    rows = [row for row in found if isinstance(row, Measured)]
    assert [row.atoms for row in rows] == [24, 81]
    assert all(row.seconds > 0 and row.edges > 0 for row in rows)
    assert [text for text in found if isinstance(text, str)] == [
        "3000 atoms: do not fit in 0.0 GiB",
        "8232 atoms: do not fit in 0.0 GiB",
    ]


def test_conclusions_of_known_laws() -> None:
    rows = [Measured(n, 10 * n, 1e-4 * n**1.5, 1000 * n + 5000) for n in (100, 200, 400, 800)]
    found = scaling.conclude(rows, [], free=10**7)
    assert found.exponents is not None
    assert found.exponents[0] == pytest.approx(1.5)
    assert 0.97 < found.exponents[1] < 1
    assert found.largest == (10**7 - 5000) // 1000
    assert scaling.conclude(rows[:1], [], 10**7).largest is None


def test_memory_is_that_of_the_step() -> None:
    before = scaling._now(False)
    block = np.ones(16 * 2**20)
    assert 120 * 2**20 < scaling._peak(False) - before < 160 * 2**20
    del block


def bench(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "covarium", "bench", *arguments], capture_output=True, text=True)


def test_command(tmp_path: Path) -> None:
    file = tmp_path / "h2.extxyz"
    Atoms("H2", positions=[[0, 0, 0], [0, 0, 0.75]]).write(file)
    sets = [part for key, value in TINY.items() for part in ("--set", f"model.{key}={value}")]
    done = bench("torchmd_et", str(file), "--atoms", "8..64", "--out", str(tmp_path / "b"), *sets)
    assert done.returncode == 0, done.stderr
    assert "ns / day" in done.stdout
    saved = json.loads((tmp_path / "b" / "bench.json").read_text())
    counts = [row["atoms"] for row in saved["rows"]]
    assert counts[0] == 8 and counts == sorted(set(counts)) and 32 <= counts[-1] <= 64
    assert "<svg" in (tmp_path / "b" / "report.html").read_text()


@pytest.mark.parametrize(
    "arguments",
    [
        ["nothing"],
        ["gatr"],
        ["torchmd_et", "--set", "training.lr=1"],
        ["torchmd_et", "--atoms", "many"],
        ["torchmd_et", "--atoms", "90..100", "--memory", "1MB"],
    ],  # fmt: skip
)
def test_bad_input(arguments: list[str], tmp_path: Path) -> None:
    refused = bench(*arguments, "--out", str(tmp_path / "b"))
    assert refused.returncode == 2
    assert refused.stderr.startswith("error: ") and refused.stderr.count("\n") == 1
    assert not (tmp_path / "b").exists()
