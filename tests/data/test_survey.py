"""Every corruption in a file made for it is found, with its place; sound files show nothing."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule
from ase.calculators.singlepoint import SinglePointCalculator
from ase.constraints import FixAtoms
from ase.units import GPa
from sound import crystals, labelled, molecules, relabel, write

from covarium.data.findings import KINDS, Finding, accepted
from covarium.data.force_verdicts import forces_judged
from covarium.data.survey import Survey
from covarium.data.verdicts import _pairs, leaks, references, unknown_elements, verdicts
from covarium.errors import CovariumError
from covarium.units import BOHR, HARTREE, KCAL_PER_MOL


def survey(*paths: Path, **options: object) -> Survey:
    found = Survey(**options)
    for path in paths:
        found.read(path)
    return found


def check(*paths: Path, **options: object) -> list[Finding]:
    found = survey(*paths, **options)
    return accepted(verdicts(found, references(found)), [])


def only(found: list[Finding], kind: str) -> Finding:
    assert [one.kind for one in found] == [kind], [f"{one.kind}: {one.text}" for one in found]
    assert found[0].level == KINDS[kind].level and found[0].remedy
    return found[0]


def test_sound_files_show_nothing(tmp_path: Path) -> None:
    assert check(write(tmp_path / "a.extxyz", molecules())) == []
    assert check(write(tmp_path / "b.traj", molecules())) == []
    assert [one.kind for one in check(write(tmp_path / "c.extxyz", crystals()))] == []


def test_references_are_not_moved_by_wrong_energies(tmp_path: Path) -> None:
    frames = molecules(60)
    right = references(survey(write(tmp_path / "a.extxyz", frames)))
    assert right.alike == [] and 0 < right.spread < 0.1
    for k in (5, 20, 33):
        relabel(frames[k], energy=1e4)
    found = references(survey(write(tmp_path / "a.extxyz", frames)))
    assert found.energies == pytest.approx(right.energies, abs=0.15)


Change = Callable[[Atoms], None]


def nan_energy(atoms: Atoms) -> None:
    relabel(atoms, energy=np.nan)


def infinite_force(atoms: Atoms) -> None:
    forces = atoms.calc.results["forces"].copy()
    forces[1, 2] = np.inf
    relabel(atoms, forces=forces)


def no_energy(atoms: Atoms) -> None:
    relabel(atoms, energy=None)


def no_forces(atoms: Atoms) -> None:
    relabel(atoms, forces=None)


def milli(atoms: Atoms) -> None:
    relabel(atoms, energy=1000 * atoms.calc.results["energy"])


def overlapping(atoms: Atoms) -> None:
    atoms.positions[1] = atoms.positions[0] + [0.05, 0, 0]
    labelled(atoms)


def bohr(atoms: Atoms) -> None:
    results = dict(atoms.calc.results)
    atoms.positions /= BOHR
    relabel(atoms, **results)


def zeroed_by_constraint(atoms: Atoms) -> None:
    forces = atoms.calc.results["forces"].copy()
    forces[[0, 2]] = 0.0
    relabel(atoms, forces=forces)


def all_zero(atoms: Atoms) -> None:
    relabel(atoms, forces=np.zeros((len(atoms), 3)))


def pushed(atoms: Atoms) -> None:
    relabel(atoms, forces=atoms.calc.results["forces"] + [0.0, 0.0, 0.01])


def twisted(atoms: Atoms) -> None:
    arms = atoms.positions - atoms.positions.mean(axis=0)
    spin = np.cross([0.0, 0.0, 0.02], arms)
    relabel(atoms, forces=atoms.calc.results["forces"] + spin - spin.mean(axis=0))


def high(atoms: Atoms) -> None:
    forces = atoms.calc.results["forces"].copy()
    forces[0] += [80.0, 0, 0]
    forces[1] -= [80.0, 0, 0]
    relabel(atoms, forces=forces)


def unconverged(atoms: Atoms) -> None:
    relabel(atoms, energy=atoms.calc.results["energy"] + 9.0)


@pytest.mark.parametrize(
    ("change", "kind", "note"),
    [
        (nan_energy, "invalid", "energy is nan"),
        (infinite_force, "invalid", "forces[1, 2] is inf"),
        (no_energy, "labels", ""),
        (no_forces, "labels", ""),
        (zeroed_by_constraint, "zero_forces", "2 of 5 atoms (0, 2)"),
        (all_zero, "zero_forces", "5 of 5 atoms"),
        (pushed, "net_force", "10 meV/Å per atom"),
        (twisted, "net_torque", "meV/Å on the lever arms"),
        (unconverged, "energy_outlier", "+1.82 eV per atom"),
    ],
)
def test_one_wrong_frame_is_named(tmp_path: Path, change: Change, kind: str, note: str) -> None:
    frames = molecules()
    assert frames[16].info["name"] == "CH4"
    change(frames[16])
    found = only(check(write(tmp_path / "a.extxyz", frames)), kind)
    (place,) = found.places
    assert (place.source, place.frame) == (str(tmp_path / "a.extxyz"), 16)
    assert note in place.note
    assert "1 " in found.text or kind == "invalid"


@pytest.mark.parametrize(
    ("change", "kind"),
    [(overlapping, "overlap"), (high, "high_force"), (milli, "unit_outlier"), (bohr, "unit_outlier")],
)
def test_one_wrong_frame_is_named_among_what_follows_from_it(tmp_path: Path, change: Change, kind: str) -> None:
    frames = molecules()
    change(frames[20])
    found = {one.kind: one for one in check(write(tmp_path / "a.extxyz", frames))}
    assert [place.frame for place in found[kind].places] == [20]


@pytest.mark.parametrize(("unit", "size"), [("Hartree", HARTREE), ("kcal/mol", KCAL_PER_MOL)])
def test_a_frame_in_another_unit_of_energy_is_told(tmp_path: Path, unit: str, size: float) -> None:
    frames = molecules()
    for atoms in frames:  # totals as a calculation with all electrons gives them
        relabel(atoms, energy=atoms.calc.results["energy"] - sum(200.0 * z for z in atoms.numbers))
    relabel(frames[9], energy=frames[9].calc.results["energy"] / size)
    found = {one.kind: one for one in check(write(tmp_path / "a.extxyz", frames))}
    (place,) = found["unit_outlier"].places
    assert place.frame == 9 and f"looks like {unit}" in place.note


def test_whole_files_in_other_units_are_told(tmp_path: Path) -> None:
    frames = molecules(60)
    for atoms in frames:
        relabel(atoms, energy=atoms.calc.results["energy"] / KCAL_PER_MOL)
    close = [atoms for atoms in frames if atoms.info["name"] == "H2O"]
    reference = close[0].copy()
    rng = np.random.default_rng(1)
    near = []
    for _ in range(20):
        atoms = reference.copy()
        atoms.positions += rng.normal(0, 0.02, (3, 3))
        labelled(atoms)
        relabel(atoms, energy=atoms.calc.results["energy"] / KCAL_PER_MOL)
        near.append(atoms)
    found = {one.kind: one for one in check(write(tmp_path / "a.extxyz", near))}
    assert "do not belong together" in found["units"].text and found["units"].level == "error"
    given = {one.kind: one for one in check(tmp_path / "a.extxyz", units={"length": "Å"})}
    assert given["units"].level == "warning"
    right = check(tmp_path / "a.extxyz", units={"energy": "kcal/mol", "forces": "eV/Å"})
    assert {one.kind for one in right} == {"references"}


def test_renamed_and_missing_labels_offer_the_keys_there_are(tmp_path: Path) -> None:
    frames = molecules()
    for atoms in frames:
        results = atoms.calc.results
        atoms.calc = None
        atoms.info["my_energy"] = results["energy"]
        atoms.new_array("my_forces", results["forces"])
    found = check(write(tmp_path / "a.extxyz", frames))
    texts = {one.text for one in found if one.kind == "labels"}
    assert any("no energy" in text and "'my_energy'" in text for text in texts)
    assert any("no forces" in text and "'my_forces'" in text for text in texts)
    assert check(tmp_path / "a.extxyz", keys={"energy": "my_energy", "forces": "my_forces"}) == []


def test_a_label_under_two_keys_in_turns_is_told(tmp_path: Path) -> None:
    frames = molecules()
    for atoms in frames[20:]:
        atoms.info["REF_energy"] = atoms.calc.results["energy"]
        relabel(atoms, energy=None)
    found = [one for one in check(write(tmp_path / "a.extxyz", frames)) if one.kind == "labels"]
    assert any("several keys" in one.text and "REF_energy" in one.text for one in found)


def test_energies_alone_are_a_warning(tmp_path: Path) -> None:
    frames = molecules()
    for atoms in frames:
        no_forces(atoms)
    found = only(check(write(tmp_path / "a.extxyz", frames)), "unlabelled")
    assert len(found.places) == 40 and "no forces" in found.text


def test_forces_zero_by_symmetry_or_marked_as_frozen_are_no_finding(tmp_path: Path) -> None:
    frames = molecules()
    crystal = crystals(6)
    for k, atoms in enumerate(crystal):
        atoms.set_scaled_positions(np.array([[0, 0, 0], [0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]]))
        relabel(atoms, forces=np.zeros((4, 3)), energy=-0.01 * k)
    for atoms in frames[3:]:
        atoms.set_constraint(FixAtoms([0]))
        forces = atoms.calc.results["forces"].copy()
        forces[0] = 0.0
        relabel(atoms, forces=forces)
    path = write(tmp_path / "a.traj", [*frames, *crystal])
    assert not {one.kind for one in check(path)} & {"zero_forces", "net_force", "net_torque"}


def rotated(atoms: Atoms, seed: int = 5) -> Atoms:
    """The same structure, turned, moved, reflected and with its atoms in another order."""
    rng = np.random.default_rng(seed)
    turn = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    order = rng.permutation(len(atoms))
    copy = atoms[order]
    copy.positions = (atoms.positions[order] @ turn) + rng.normal(size=3)
    copy.calc = SinglePoint(copy, atoms.calc.results["energy"], atoms.calc.results["forces"][order] @ turn)
    return copy


def SinglePoint(atoms: Atoms, energy: float, forces: np.ndarray) -> object:
    from ase.calculators.singlepoint import SinglePointCalculator

    return SinglePointCalculator(atoms, energy=energy, forces=forces)


def test_copies_are_found_turned_and_reordered_too(tmp_path: Path) -> None:
    frames = molecules()
    frames += [frames[10], rotated(frames[12])]
    found = only(check(write(tmp_path / "a.extxyz", frames)), "duplicates")
    assert [place.frame for place in found.places] == [43, 44]
    assert "frame 10" in found.places[0].note and "frame 12" in found.places[1].note
    assert "1 number by number, 1 turned" in found.text


def test_copies_with_another_energy_contradict(tmp_path: Path) -> None:
    frames = molecules()
    copy = rotated(frames[12])
    relabel(copy, energy=copy.calc.results["energy"] + 0.1)
    found = only(check(write(tmp_path / "a.extxyz", [*frames, copy])), "conflict")
    assert found.places[0].frame == 43 and "0.1 eV" in found.text


def test_copies_of_crystals_in_other_settings_are_found(tmp_path: Path) -> None:
    frames = crystals()
    frames.append(frames[3].copy())
    frames[-1].calc = frames[3].calc
    frames[-1].positions += [0.7, 0.0, 0.3]
    frames[-1].wrap()
    relabel(frames[-1])
    found = only(check(write(tmp_path / "a.extxyz", frames)), "duplicates")
    assert found.places[0].frame == 20


def test_frames_that_differ_a_little_are_no_copies(tmp_path: Path) -> None:
    frames = molecules()
    near = frames[7].copy()
    near.positions[0] += [0.002, 0, 0]
    assert check(write(tmp_path / "a.extxyz", [*frames, labelled(near)])) == []


def test_distant_pairs_at_other_distances_are_no_copies(tmp_path: Path) -> None:
    frames = molecules()
    for distance in (8.0, 8.5, 9.0):
        pair = frames[3].copy()
        other = frames[3].copy()
        other.positions += [0, 0, distance]
        both = pair + other
        both.calc = SinglePoint(
            both, 2 * frames[3].calc.results["energy"], np.concatenate([frames[3].calc.results["forces"]] * 2)
        )
        frames.append(both)
    found = only(check(write(tmp_path / "a.extxyz", frames)), "fragments")
    assert [place.frame for place in found.places] == [43, 44, 45]
    assert check(tmp_path / "a.extxyz", cutoff=9.0) == []


def test_leaks_between_files(tmp_path: Path) -> None:
    train = molecules(seed=0)
    test = molecules(seed=1)[3:]
    test[4], test[9] = train[8], rotated(train[22])
    training = survey(write(tmp_path / "train.extxyz", train))
    held = survey(write(tmp_path / "test.extxyz", test))
    (found,) = leaks(held, training)
    assert [place.frame for place in found.places] == [4, 9]
    assert "train.extxyz, frame 8" in found.places[0].note and "train.extxyz, frame 22" in found.places[1].note
    assert not list(leaks(survey(write(tmp_path / "other.extxyz", molecules(seed=2)[3:])), training))


class Counted:
    """What is compared of a survey: one composition, and fingerprints."""

    def __init__(self, prints: np.ndarray) -> None:
        self.compositions, self.columns, self.prints = [b""], self, prints

    def __getitem__(self, name: str) -> np.ndarray:
        return np.zeros(len(self.prints))

    def fingerprints(self) -> np.ndarray:
        return self.prints


def test_copies_in_very_large_sets() -> None:
    """However many others lie near in any one number; copies of copies neither hide others nor take long."""
    rng = np.random.default_rng(0)
    train = rng.normal(size=(60_000, 8)) * 0.006
    train[1000:21_000] = train[1000]
    train[50_000:50_300] = train[50_000] + rng.normal(size=(300, 8)) * 1e-12
    held = np.concatenate([train[:500] + rng.normal(size=(500, 8)) * 1e-6, train[1000:1003], rng.normal(size=(50, 8))])
    pairs = {(min(pair), max(pair)) for pair in _pairs([Counted(held), Counted(train)])}  # type: ignore[list-item]
    assert {one for one, other in pairs if one < len(held) <= other} == set(range(503))
    copies = {max(pair) for pair in _pairs([Counted(train)])}  # type: ignore[list-item]
    assert copies == {*range(1001, 21_000), *range(50_001, 50_300)}


def test_elements_that_training_lacks(tmp_path: Path) -> None:
    train = [atoms for atoms in molecules() if 8 not in atoms.numbers]
    held = survey(write(tmp_path / "a.extxyz", molecules()))
    training = survey(write(tmp_path / "b.extxyz", train))
    (found,) = unknown_elements(held, set(training.elements))
    assert len(found.places) == 21 and found.places[0].note == "O" and "training has H, C" in found.text


def test_rare_elements(tmp_path: Path) -> None:
    ammonia = labelled(Atoms("N", info={"name": "N", "config_type": "IsolatedAtom"}))
    found = only(check(write(tmp_path / "a.extxyz", [*molecules(), ammonia])), "rare")
    assert found.text.endswith("N in 1") and found.places[0].frame == 43


def test_references_that_cannot_be_told_apart(tmp_path: Path) -> None:
    water = [atoms for atoms in molecules() if atoms.info["name"] == "H2O"]
    found = only(check(write(tmp_path / "a.extxyz", water)), "references")
    assert "references of H, O open" in found.text


@pytest.mark.parametrize(("factor", "told"), [(-1.0, "its sign is wrong"), (1 / GPa, "another unit")])
def test_stress_of_the_wrong_sign_or_unit(tmp_path: Path, factor: float, told: str) -> None:
    frames = crystals()
    for atoms in frames:
        relabel(atoms, stress=factor * atoms.calc.results["stress"])
    found = only(check(write(tmp_path / "a.extxyz", frames)), "stress_sign")
    assert told in found.text
    if factor > 0:
        assert check(tmp_path / "a.extxyz", units={"stress": "GPa"}) == []


def test_single_frames_of_the_other_stress_are_named(tmp_path: Path) -> None:
    frames = crystals(40)
    strong = [k for k in range(0, 40, 4) if abs(np.mean(frames[k].calc.results["stress"][:3])) > 0.03]
    for k in strong:
        relabel(frames[k], stress=-frames[k].calc.results["stress"])
    found = only(check(write(tmp_path / "a.extxyz", frames)), "stress_sign")
    assert [place.frame for place in found.places] == strong and "sign is turned" in found.text


def hot(count: int, name: str = "CH3CH2OH") -> list[Atoms]:
    """Hot molecules of one composition with a spring between every two atoms, whose lengths differ within a type."""
    rest, rng = molecule(name), np.random.default_rng(0)
    pairs = [(i, j) for i in range(len(rest)) for j in range(i)]
    length, stiff = rest.get_all_distances(), {(i, j): 30.0 if rest.get_distance(i, j) < 1.7 else 1.0 for i, j in pairs}
    frames = []
    for _ in range(count):
        atoms = rest.copy()
        atoms.positions += rng.normal(0, 0.08, atoms.positions.shape)
        energy, forces = 0.0, np.zeros((len(atoms), 3))
        for i, j in pairs:
            arm = atoms.positions[i] - atoms.positions[j]
            r = np.linalg.norm(arm)
            pull = stiff[i, j] * (r - length[i, j]) * arm / r
            energy += stiff[i, j] * (r - length[i, j]) ** 2 / 2
            forces[i] -= pull
            forces[j] += pull
        atoms.calc = SinglePointCalculator(atoms, energy=energy - 4000.0, forces=forces)
        frames.append(atoms)
    return frames


HARTREE_PER_BOHR = HARTREE / BOHR


@pytest.mark.parametrize(
    ("factor", "told"),
    [(-1.0, "of the wrong sign"), (1 / HARTREE_PER_BOHR, "they look like Hartree/Bohr"),
     (1 / KCAL_PER_MOL, "they look like kcal/mol/Å")],
)  # fmt: skip
@pytest.mark.parametrize("count", [3, 15, 60])
def test_forces_of_another_unit_or_sign_are_told(factor: float, told: str, count: int, tmp_path: Path) -> None:
    """Of all frames against the energies, of some against the others; no two frames are near each other."""
    frames = hot(60)
    path = write(tmp_path / "sound.extxyz", frames)
    assert [one.kind for one in check(path)] == ["references"]
    changed = list(range(7, 7 + count)) if count < 60 else range(60)
    for k in changed:
        relabel(frames[k], forces=factor * frames[k].calc.results["forces"])
    found = {one.kind: one for one in check(write(tmp_path / "a.extxyz", frames))}
    if count == 60:
        assert found["units"].level == "error" and told in found["units"].text
        assert found["units"].places[0].source == str(tmp_path / "a.extxyz")
        return
    named = [place.frame for place in found["force_outlier"].places]
    assert named == list(changed) and found["force_outlier"].level == "error" and told in found["force_outlier"].text


def test_what_could_not_be_judged_is_said(tmp_path: Path) -> None:
    frames = hot(60)
    assert "and with energies" in forces_judged(survey(write(tmp_path / "a.extxyz", frames)))
    rng = np.random.default_rng(1)
    for atoms in frames:
        relabel(atoms, forces=rng.normal(size=(len(atoms), 3)))
    assert "could not be judged" in forces_judged(survey(write(tmp_path / "b.extxyz", frames)))


def test_a_component_that_is_zero_everywhere(tmp_path: Path) -> None:
    frames = molecules()
    for atoms in frames[3:]:
        relabel(atoms, forces=atoms.calc.results["forces"] * [1.0, 1.0, 0.0])
    found = {one.kind: one for one in check(write(tmp_path / "a.extxyz", frames))}
    assert len(found["zero_forces"].places) == 40 and "along z" in found["zero_forces"].places[0].note
    flat = molecule("H2O", info={"name": "H2O"})
    flat.positions[:, 0] = 0.0
    flat.positions[1, 1] += 0.05
    labelled(flat)
    assert not flat.calc.results["forces"][:, 0].any(), "a plane of symmetry"
    assert "zero_forces" not in {one.kind for one in check(write(tmp_path / "b.extxyz", [*molecules(), flat]))}


def test_elements_in_another_order_than_positions(tmp_path: Path) -> None:
    frames = molecules()
    assert frames[6].info["name"] == "C2H6"
    frames[6].numbers = frames[6].numbers[::-1].copy()
    found = {one.kind: one for one in check(write(tmp_path / "a.extxyz", frames))}
    assert [place.frame for place in found["valence"].places] == [6]


def test_levels_of_theory(tmp_path: Path) -> None:
    frames = molecules()
    for k, atoms in enumerate(frames):
        atoms.info["functional"] = "PBE" if k < 20 else "PBE0"
    one, other = write(tmp_path / "a.extxyz", frames[:20]), write(tmp_path / "b.extxyz", frames[20:])
    assert "functional PBE; functional PBE0" in only(check(one, other), "theory").text


def flip(text: str, line: int, old: str, new: str) -> str:
    lines = text.splitlines(keepends=True)
    assert old in lines[line], lines[line]
    lines[line] = lines[line].replace(old, new, 1)
    return "".join(lines)


def test_damaged_frames_are_left_out_and_the_others_read(tmp_path: Path) -> None:
    path = write(tmp_path / "a.extxyz", molecules())
    text = path.read_text()
    # frames 0 to 2 are atoms of three lines; frame 3 is water in lines 9 to 13
    path.write_text(flip(text, 11, ".", "x"))
    found = only(check(path), "unreadable")
    assert found.places[0].frame == 3 and len(survey(path).columns) == 42
    path.write_text(
        flip(flip(text, 11, "O", "Q") if "O" in text.splitlines()[11] else flip(text, 11, "H", "Q"), 12, "H", "H")
    )
    assert only(check(path), "unreadable").places[0].frame == 3


@pytest.mark.parametrize("cut", [0.3, 0.55, 0.8])
def test_truncated_files_tell_what_was_read(tmp_path: Path, cut: float) -> None:
    path = write(tmp_path / "a.extxyz", molecules())
    whole = path.read_bytes()
    path.write_bytes(whole[: int(cut * len(whole))])
    found = {one.kind: one for one in check(path)}
    frames = len(survey(path).columns)
    (place,) = found["unreadable"].places
    assert place.frame == frames and 5 < frames < 43


def test_a_wrong_count_of_atoms_ends_the_reading_with_an_account(tmp_path: Path) -> None:
    path = write(tmp_path / "a.extxyz", molecules())
    path.write_text(flip(path.read_text(), 9, "3", "2"))
    (place,) = only([one for one in check(path) if one.kind == "unreadable"], "unreadable").places
    assert place.frame == 4 and "lines follow" in place.note
    path.write_text(flip(path.read_text(), 9, "2", "999999999"))
    (place,) = only([one for one in check(path) if one.kind == "unreadable"], "unreadable").places
    assert place.frame == 3 and "999999999 atoms are announced" in place.note


def test_an_empty_line_drops_nothing_in_silence(tmp_path: Path) -> None:
    path = write(tmp_path / "a.extxyz", molecules())
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join([*lines[:9], "\n", *lines[9:]]))
    found = [one for one in check(path) if one.kind == "unreadable"][0]
    assert found.places[0].frame == 3 and "empty line" in found.places[0].note


def test_a_last_line_without_an_end(tmp_path: Path) -> None:
    path = write(tmp_path / "a.extxyz", molecules())
    path.write_text(path.read_text()[:-3])
    assert "cut" in {one.kind for one in check(path)}


@pytest.mark.parametrize("name", ["a.extxyz.gz", "a.traj", "a.db"])
def test_damage_of_other_formats(tmp_path: Path, name: str) -> None:
    frames = molecules()
    if name.endswith(".gz"):
        plain = write(tmp_path / "a.extxyz", frames)
        (tmp_path / name).write_bytes(gzip.compress(plain.read_bytes()))
    else:
        write(tmp_path / name, frames)
    path = tmp_path / name
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    try:
        found = {one.kind for one in check(path)}
    except CovariumError as error:
        assert str(path) in str(error)
    else:
        assert "unreadable" in found


def test_what_cannot_be_used_at_all_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty.extxyz").touch()
    (tmp_path / "noise.extxyz").write_bytes(bytes(range(256)) * 10)
    for name in ("empty.extxyz", "noise.extxyz", "absent.extxyz"):
        with pytest.raises(CovariumError, match=name):
            survey(tmp_path / name)


def test_accepted_errors_are_warnings(tmp_path: Path) -> None:
    frames = molecules()
    zeroed_by_constraint(frames[16])
    found = check(write(tmp_path / "a.extxyz", frames))
    assert [one.level for one in accepted(found, ["zero_forces"])] == ["warning"]
    with pytest.raises(CovariumError, match="'zero_force'; did you mean 'zero_forces'"):
        accepted(found, ["zero_force"])


def test_every_kind_is_in_the_manual() -> None:
    text = (Path(__file__).parents[2] / "docs" / "check-data.md").read_text(encoding="utf-8")
    assert [kind for kind in KINDS if f"`{kind}`" not in text] == []


def far_apart(distance: float) -> Atoms:
    atoms = Atoms("Ar2", [[0, 0, 0], [0, 0, distance]])
    atoms.calc = SinglePointCalculator(atoms, energy=-1.0, forces=np.zeros((2, 3)))
    return atoms


def test_structures_without_any_neighbour_are_an_error(tmp_path: Path) -> None:
    frames = [far_apart(12.0 + k) for k in range(4)]
    path = write(tmp_path / "a.extxyz", frames)
    found = {one.kind: one for one in check(path, units={"length": "Å"})}
    assert found["alone"].level == "error" and "within the cutoff of 6 Å" in found["alone"].text
    assert "alone" not in {one.kind for one in check(path, units={"length": "Å"}, cutoff=14.0)}
    assert "alone" not in {one.kind for one in check(write(tmp_path / "b.extxyz", [*frames, far_apart(4.0)]))}
