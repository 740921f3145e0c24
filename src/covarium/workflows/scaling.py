"""How fast a model is and how much memory it takes, from small systems to large ones."""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase import Atoms
from ase.data import chemical_symbols
from scipy.spatial.transform import Rotation

from covarium import __version__
from covarium.analysis import plots, report
from covarium.analysis.errors import Table
from covarium.analysis.report import Section
from covarium.config import build, merge, parse_assignment
from covarium.errors import CovariumError
from covarium.models import MODELS
from covarium.tasks import Potential
from covarium.training.estimate import most_memory
from covarium.workflows.arithmetic import arrange
from covarium.workflows.device import DTYPES, choose_device, use_threads
from covarium.workflows.inference import model_of
from covarium.workflows.loaded import load, read_structure
from covarium.workflows.memory import TooLittleError, in_bytes, of_structures

DENSITY = 0.0334  # molecules of water per Å³, 0.997 g/cm³
BOND, ANGLE = 0.9572, np.deg2rad(104.52)  # Å and radians, of a free water molecule
PADDING = 3.0  # Å between copies of a structure without a cell
PER_DECADE = 3  # sizes measured in each factor of ten
STEP = 0.01  # Å that atoms move between two steps, as in dynamics at room temperature
LEAST_STEPS, LONGEST = 3, 2.0  # steps of one size, and seconds after which there are enough of them
SPARE = 0.9  # of the free memory may be used
LINEAR = 200  # atoms from which on time and memory should grow in proportion


@dataclass(frozen=True)
class Subject:
    """What is measured: a trained model's file, or the name of an architecture with random weights.

    Attributes:
        model: path or name.
        settings: of a named architecture, beside its defaults.
        device, dtype, threads: where and how; None for the usual choice.
        memory: e.g. ``8GB``; each size is computed in tiles that keep the process within it.
    """

    model: str
    settings: Mapping[str, Any]
    device: str | None = None
    dtype: str | None = None
    threads: int | None = None
    memory: str | None = None

    def potential(self) -> Potential:
        """
        Raises:
            CovariumError: no such model, setting or device.
        """
        use_threads(self.threads)
        if Path(self.model).exists() or self.model not in MODELS:
            if self.settings:
                raise CovariumError(
                    f"--set model.… belongs to architectures with random weights; '{self.model}' is trained"
                )
            return load(self.model, device=self.device, dtype=self.dtype).potential
        model_class, config_class = model_of(self.model, "atoms")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = model_class(build(config_class, dict(self.settings), "model"))
        potential = Potential(model, references=dict.fromkeys(range(1, 90), 0.0))
        potential = potential.to(choose_device(self.device), DTYPES[self.dtype or "float32"])
        arrange(model, self.dtype)
        return potential.requires_grad_(False).eval()


@dataclass(frozen=True)
class Measured:
    """One size: seconds of a step (median), bytes above those of the model alone."""

    atoms: int
    edges: int
    seconds: float
    bytes: int


@dataclass(frozen=True)
class Scaling:
    """Sizes that were measured, those that were not and why, and what follows.

    Attributes:
        rows: measured, smallest first.
        left_out: sentences.
        free: bytes that could be used.
        exponents: of time and memory over the number of atoms, of sizes from ``LINEAR`` atoms on; None from one.
            With tiles that of memory means nothing and is None.
        largest: number of atoms that fit by the line through the two largest sizes; None from one, and with tiles.
    """

    rows: list[Measured]
    left_out: list[str]
    free: int
    exponents: tuple[float, float | None] | None
    largest: int | None


def sizes(text: str) -> list[int]:
    """``100..10000`` as some sizes in between, three in a factor of ten; ``300`` alone is one.

    Raises:
        CovariumError: not of this form.
    """
    ends = text.split("..")
    try:
        low, high = int(ends[0]), int(ends[-1])
        if len(ends) > 2:
            raise ValueError
    except ValueError:
        raise CovariumError(f"'{text}' is no range of sizes; write e.g. 100..10000, or 500") from None
    if not 1 <= low <= high:
        raise CovariumError(f"'{text}' is no range of sizes: the first must be at least 1 and not above the last")
    count = round(PER_DECADE * np.log10(high / low)) + 1 if high > low else 1
    return [round(n) for n in np.geomspace(low, high, max(count, 1 + (high > low)))]


def structures(base: Atoms | None, elements: Sequence[int], wanted: Sequence[int]) -> list[Atoms]:
    """Systems of about the wanted sizes, each size once.

    Args:
        base: repeated along its periodic directions; a molecule is given a cell; None for water.
        elements: that the model knows.
        wanted: numbers of atoms.

    Raises:
        CovariumError: water is wanted and the model does not know it.
    """
    if base is None and not {1, 8} <= set(elements):
        known = " ".join(chemical_symbols[z] for z in elements)
        raise CovariumError(f"the model knows {known} and not water; name a structure file after it to repeat that")
    made = {len(a): a for a in (water(n) if base is None else repeated(base, n) for n in wanted)}
    return [made[n] for n in sorted(made)]


def water(count: int) -> Atoms:
    """A cubic box of about ``count`` atoms of liquid density: molecules on a lattice, turned at random (one seed)."""
    side = max(round((count / 3) ** (1 / 3)), 1)
    turned = Rotation.random(side**3, random_state=np.random.RandomState(0))
    half = ANGLE / 2
    arms = BOND * np.array([[0, 0, 0], [np.sin(half), 0, np.cos(half)], [-np.sin(half), 0, np.cos(half)]])
    length = side * DENSITY ** (-1 / 3)
    sites = np.stack(np.meshgrid(*[np.arange(side)] * 3, indexing="ij"), -1).reshape(-1, 1, 3) * (length / side)
    molecules = np.stack([turned.apply(arm) for arm in arms], axis=1)
    return Atoms("OH2" * side**3, positions=(sites + molecules).reshape(-1, 3), cell=[length] * 3, pbc=True)


def repeated(base: Atoms, count: int) -> Atoms:
    """The structure repeated to at most ``count`` atoms, shortest direction first; itself where it has more."""
    one = Atoms(base.numbers, positions=base.positions, cell=base.cell, pbc=base.pbc, tags=base.get_tags())
    if not one.pbc.any():
        one.cell = np.ptp(one.positions, axis=0) + PADDING
        one.pbc = True
    times = np.ones(3, dtype=int)
    lengths = np.where(one.pbc, one.cell.lengths(), np.inf)
    while True:
        more = times + np.eye(3, dtype=int)[np.argmin(lengths * times)]
        if len(one) * more.prod() > count:
            return one.repeat(tuple(times))
        times = more


def model_settings(assignments: Sequence[str]) -> Mapping[str, Any]:
    """From texts like ``model.num_layers=3``; only the ``model`` section means something here.

    Raises:
        CovariumError: settings of another section.
    """
    given = merge(*[parse_assignment(text) for text in assignments])
    if others := given.keys() - {"model"}:
        raise CovariumError(
            f"--set {min(others)}.… means nothing here; only settings of model do, e.g. model.num_layers=3"
        )
    return given.get("model", {})


def prepare(subject: Subject, file: Path | None, wanted: Sequence[int]) -> tuple[list[Atoms], dict[str, str]]:
    """The systems, and what is measured where.

    Raises:
        CovariumError: model or file cannot be read or do not fit together; settings for a trained model.
    """
    potential = subject.potential()
    base = None if file is None else read_structure(file)[0]
    parameter = next(potential.parameters())
    machine = {
        "model": subject.model,
        "parameters": f"{sum(p.numel() for p in potential.model.parameters()):,}",
        "system": "water" if file is None else str(file),
        "device": torch.cuda.get_device_name(parameter.device) if parameter.is_cuda else "CPU",
        "threads": str(torch.get_num_threads()),
        "precision": str(parameter.dtype).removeprefix("torch."),
        "torch": torch.__version__,
    }
    return structures(base, potential.elements, wanted), machine


def measure(subject: Subject, atoms: Atoms) -> Measured:
    """Energy and forces step by step as dynamics asks for them, neighbour list included, in this process."""
    from covarium.simulation import Calculator

    potential = subject.potential()
    if subject.memory is not None:
        of_structures(potential, [atoms], subject.memory)
    calculator = Calculator(potential)
    rng = np.random.default_rng(0)
    cuda = calculator.potential.scale.is_cuda
    before = _now(cuda)
    times: list[float] = []
    began = time.perf_counter()
    while len(times) < LEAST_STEPS + 1 or time.perf_counter() - began < LONGEST:
        atoms.positions += rng.normal(0, STEP, atoms.positions.shape)
        start = time.perf_counter()
        calculator.get_property("forces", atoms)  # comes as numpy, so a GPU has finished
        times.append(time.perf_counter() - start)
    assert calculator.pairs is not None
    # the first step warms up
    return Measured(len(atoms), calculator.pairs.edge_index.shape[1], float(np.median(times[1:])), _peak(cuda) - before)


def scaling(subject: Subject, systems: Sequence[Atoms], free: int) -> Iterator[Measured | str]:
    """Each system in a process of its own, so that one's memory is not another's; a sentence for each left out.

    Raises:
        CovariumError: what ``measure`` raises.
    """
    done: list[Measured] = []
    for k, atoms in enumerate(systems):
        # with tiles the law changes where they begin; what is too much is then said by their choice
        needed = None if subject.memory else _line([r.atoms for r in done], [r.bytes for r in done], len(atoms))
        if needed is not None and needed > free:
            for other in systems[k:]:
                yield f"{len(other)} atoms: do not fit in {free / 2**30:.1f} GiB"
            return
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(1, mp_context=context) as pool:
            try:
                found = pool.submit(measure, subject, atoms).result()
            except TooLittleError as error:
                yield f"{len(atoms)} atoms and more: {error}"
                return
            except BrokenProcessPool:
                yield f"{len(atoms)} atoms and more: the process was ended from outside, most likely for its memory"
                return
        done.append(found)
        yield found


def conclude(rows: list[Measured], left_out: list[str], free: int, *, tiled: bool = False) -> Scaling:
    """Exponents and the largest size that fits; with tiles no line tells it."""
    large = [row for row in rows if row.atoms >= LINEAR]
    exponents: tuple[float, float | None] | None = None
    if len(large) > 1:
        atoms, seconds, taken = np.log([[row.atoms, row.seconds, max(row.bytes, 1)] for row in large]).T
        power = None if tiled else float(np.polyfit(atoms, taken, 1)[0])
        exponents = (float(np.polyfit(atoms, seconds, 1)[0]), power)
    largest = None
    if not tiled and len(rows) > 1 and rows[-1].bytes > rows[-2].bytes:
        slope = (rows[-1].bytes - rows[-2].bytes) / (rows[-1].atoms - rows[-2].atoms)
        largest = int(rows[-1].atoms + (free - rows[-1].bytes) / slope)
    return Scaling(rows, left_out, free, exponents, largest)


def free_memory(subject: Subject) -> int:
    """Bytes that may be used: those that were asked for, or else most of what is free on the device now."""
    if subject.memory is not None:
        return in_bytes(subject.memory)
    place = choose_device(subject.device)
    if place.type == "cuda":
        return int(SPARE * torch.cuda.mem_get_info(place)[0])
    meminfo = Path("/proc/meminfo")
    if meminfo.is_file():
        lines = dict(line.split(":") for line in meminfo.read_text(encoding="utf-8").splitlines())
        return int(SPARE * 1024 * int(lines["MemAvailable"].split()[0]))
    return int(SPARE * os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))


def table(rows: Sequence[Measured], timestep: float) -> Table:
    """For the terminal and the report; ``timestep`` in fs."""
    header = ("atoms", "edges", "ms / step", "µs / atom", "ns / day", "memory, MiB")
    return Table(
        "", header,
        tuple(
            (str(r.atoms), str(r.edges), f"{_plain(1e3 * r.seconds)}", f"{_plain(1e6 * r.seconds / r.atoms)}",
             f"{1e-6 * timestep * 86400 / r.seconds:.3g}", f"{r.bytes / 2**20:.0f}")
            for r in rows
        ),
    )  # fmt: skip


def write(path: Path, subject: Subject, found: Scaling, timestep: float, machine: Mapping[str, str]) -> None:
    """The report.

    Raises:
        CovariumError: the file cannot be written.
    """
    facts = dict(machine)
    figures = []
    if len(found.rows) > 1:
        columns = [
            np.array(column, dtype=float) for column in zip(*(asdict(r).values() for r in found.rows), strict=True)
        ]
        figures = [(plots.scaling(columns[0], columns[2], columns[3]), "Dashed: in proportion to the number of atoms.")]
    section = Section(
        "Energy and forces", text=conclusions(found), facts=facts, tables=[table(found.rows, timestep)], figures=figures
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    report.write(path, f"Speed and memory: {Path(subject.model).name}", [section], subtitle=f"covarium {__version__}")


def conclusions(found: Scaling) -> list[str]:
    """What follows from the numbers, sentence by sentence."""
    said = list(found.left_out)
    if found.exponents is not None:
        time_power, memory_power = found.exponents
        memory = "" if memory_power is None else f" and memory as N^{memory_power:.2f}"
        said.append(f"From {LINEAR} atoms on, time grows as N^{time_power:.2f}{memory}.")
    if found.largest is not None:
        said.append(
            f"About {found.largest} atoms fit in {found.free / 2**30:.1f} GiB: the line through the two largest sizes."
        )
    return said


def _plain(value: float) -> str:
    """Four digits, without an exponent."""
    return f"{value:.0f}" if value >= 1000 else f"{value:.4g}"


def _line(atoms: Sequence[int], needed: Sequence[int], count: int) -> float | None:
    """Bytes of ``count`` atoms by the line through the two largest; None from fewer."""
    if len(atoms) < 2:
        return None
    slope = (needed[-1] - needed[-2]) / (atoms[-1] - atoms[-2])
    return needed[-1] + slope * (count - atoms[-1])


def _now(cuda: bool) -> int:
    """Bytes in use; the peak begins again here."""
    if cuda:
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated()
    status = Path("/proc/self/clear_refs")
    if status.exists():
        status.write_text("5", encoding="ascii")
    return _peak(cuda)


def _peak(cuda: bool) -> int:
    """Most bytes in use since ``_now``; since the start of the process where the system cannot say."""
    if cuda:
        return torch.cuda.max_memory_allocated()
    return most_memory()
