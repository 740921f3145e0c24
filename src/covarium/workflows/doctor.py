"""Is this machine ready: versions, devices, threads, optional packages, and a self-test of a few seconds."""

from __future__ import annotations

import os
import platform
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
import torch
from packaging.requirements import Requirement

from covarium import __version__, checkpoint
from covarium.analysis import consistency, equivariance, smoothness
from covarium.analysis.check import Check, Probe, axes_star, cluster, crystal, typical_spacing
from covarium.data import collate
from covarium.models import EquiformerV2, EquiformerV2Config
from covarium.tasks import Potential, Term
from covarium.training import Ranks
from covarium.training.gradients import gradient

TINY = EquiformerV2Config(
    num_layers=1, sphere_channels=8, attn_hidden_channels=8, num_heads=2, attn_alpha_channels=4, attn_value_channels=4,
    ffn_hidden_channels=8, edge_channels=8, num_distance_basis=16,
)  # fmt: skip
ELEMENTS = (1, 6, 8)
# What each extra of the package is for. Those for developers are not asked about.
EXTRAS: Mapping[str, str] = MappingProxyType({"demo": "covarium demo", "log": "TensorBoard logs of training"})
VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "CUDA_VISIBLE_DEVICES")
SIZE = 768  # of the matrices that are multiplied to see what threads bring
LEAST_GAIN = 1.2  # times one thread
LONGEST = 5.0  # seconds of a training step of a tiny model


class Line(NamedTuple):
    """What, its value, a remark; as ``console.findings`` prints it."""

    what: str
    value: str
    remark: str = ""


class Package(NamedTuple):
    """A distribution that the package asks for: installed version (empty if not), whether it is one that will do."""

    name: str
    wanted: str
    version: str
    extra: str
    fits: bool


def packages() -> list[Package]:
    """What the installed package declares, in its order; extras for developers left out."""
    try:
        declared = metadata.requires("covarium") or []
    except metadata.PackageNotFoundError:
        return []
    found = []
    for requirement in map(Requirement, declared):
        extra = next((e for e in EXTRAS if requirement.marker and requirement.marker.evaluate({"extra": e})), "")
        if requirement.marker and not extra and not requirement.marker.evaluate({"extra": ""}):
            continue
        try:
            version = metadata.version(requirement.name)
        except metadata.PackageNotFoundError:
            version = ""
        fits = bool(version) and requirement.specifier.contains(version, prereleases=True)
        found.append(Package(requirement.name, str(requirement.specifier), version, extra, fits))
    return found


def versions(declared: Sequence[Package]) -> list[Line]:
    """Of the package, Python, and everything it needs."""
    lines = [
        Line("covarium", __version__, str(Path(__file__).parents[1])),
        Line("Python", platform.python_version(), sys.executable),
        Line("system", platform.platform()),
    ]
    if not declared:
        lines.append(Line("packages", "unknown", "covarium is on the path but not installed: pip install covarium"))
    needed = [package for package in declared if not package.extra]
    return lines + [Line(p.name, p.version or "missing", _mend(p)) for p in needed]


def optional(declared: Sequence[Package]) -> list[Line]:
    """Packages that only some commands need, what for, and how to get them."""
    return [
        Line(p.name, p.version or "not installed", f"{EXTRAS[p.extra]}" + (f"; {_mend(p)}" if not p.fits else ""))
        for p in declared
        if p.extra
    ]


def _mend(package: Package) -> str:
    if package.fits:
        return ""
    target = f"covarium[{package.extra}]" if package.extra else f"{package.name}{package.wanted}"
    found = f"{package.wanted} is needed: " if package.version else ""
    return f"{found}pip install '{target}'"


def devices() -> list[Line]:
    """CPU, memory, and every CUDA device; why there is none."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    lines = [Line("CPU", _processor(), f"{memory:.0f} GiB of memory")]
    for k in range(torch.cuda.device_count()):
        about = torch.cuda.get_device_properties(k)
        lines.append(Line(f"cuda:{k}", about.name, f"{about.total_memory / 2**30:.0f} GiB"))
    if torch.version.cuda is None:
        lines.append(Line("CUDA", "none", f"torch {torch.__version__} is built without it; see pytorch.org for builds"))
    elif not torch.cuda.is_available():
        reason = f"torch is built for CUDA {torch.version.cuda} and finds no device; look at nvidia-smi and the driver"
        lines.append(Line("CUDA", "none", reason))
    return lines


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    text = cpuinfo.read_text(encoding="utf-8", errors="replace") if cpuinfo.is_file() else ""
    names = [line.partition(":")[2].strip() for line in text.splitlines() if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def threads() -> list[Line]:
    """How many cores this process may use, how many threads torch takes, and what more than one really bring."""
    count = torch.get_num_threads()
    lines = [
        Line("cores", f"{usable_cores():g}", f"of {os.cpu_count()}; what affinity and control groups leave"),
        Line("torch threads", str(count), "set with --threads or OMP_NUM_THREADS"),
    ]
    lines += [Line(name, os.environ[name]) for name in VARIABLES if name in os.environ]
    if count > 1:
        gain = _product_seconds(1) / _product_seconds(count)
        doubt = f"{count} threads do not help here; try --threads 1" if gain < LEAST_GAIN else "measured"
        lines.append(Line("gain", f"{gain:.2f} × one thread", doubt))
    if count > usable_cores():
        lines.append(
            Line("", "more threads than cores", f"they wait for each other; use --threads {usable_cores():.0f}")
        )
    return lines


def usable_cores() -> float:
    """Cores this process may run on; a control group's quota can be a fraction."""
    cores = float(len(os.sched_getaffinity(0))) if hasattr(os, "sched_getaffinity") else float(os.cpu_count() or 1)
    quota = Path("/sys/fs/cgroup/cpu.max")
    if quota.is_file():
        most, period = quota.read_text(encoding="utf-8").split()
        if most != "max":
            cores = min(cores, int(most) / int(period))
    return cores


def _product_seconds(count: int) -> float:
    """Of the quickest of some matrix products on ``count`` threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        a = torch.ones(SIZE, SIZE)
        return min(_seconds(a) for _ in range(6))
    finally:
        torch.set_num_threads(before)


def _seconds(a: torch.Tensor) -> float:
    start = time.perf_counter()
    a @ a
    return time.perf_counter() - start


def self_test() -> Iterator[Check]:
    """A tiny model: its symmetry, its forces, its file, its speed, and CUDA beside the CPU where there is one."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        potential = Potential(
            EquiformerV2(TINY), references=dict.fromkeys(ELEMENTS, -100.0), scale=1.0,
            terms=(Term("energy"), Term("forces")),
        )  # fmt: skip
    probe = Probe(potential)
    spacing = typical_spacing(ELEMENTS, probe.spec.cutoff)
    star, blob, periodic = axes_star(ELEMENTS, spacing), cluster(ELEMENTS, spacing), crystal(ELEMENTS, spacing)
    yield from equivariance.equivariance(probe, blob, samples=5)
    yield equivariance.lattice_wraps(probe, periodic)
    yield smoothness.finite_difference_forces(probe, star)
    yield smoothness.finite_difference_stress(probe, periodic)
    yield consistency.batch_equals_single(probe, [star, blob, periodic])
    yield consistency.single_precision(probe, blob)
    yield round_trip(potential)
    yield step_time(potential)
    if torch.cuda.is_available():
        far = Probe(potential.to("cuda"))(blob).forces
        near = probe(blob).forces
        assert far is not None and near is not None
        yield Check(
            "CUDA against CPU (eV/Å)", float((far.cpu() - near).abs().max()), 1e-9, torch.cuda.get_device_name()
        )


def round_trip(potential: Potential) -> Check:
    """Largest difference of any weight after saving and loading; must be exactly zero."""
    own = potential.state_dict()
    with tempfile.TemporaryDirectory(prefix="covarium-") as folder:
        path = Path(folder) / "model.safetensors"
        checkpoint.save(path, potential, {})
        size = path.stat().st_size
        loaded = checkpoint.load(path).task.state_dict()
    # elements without a reference are NaN on both sides
    pairs = [(value.double().nan_to_num(1e9), loaded[name].double().nan_to_num(1e9)) for name, value in own.items()]
    worst = max(float((one - other).abs().max()) for one, other in pairs)
    return Check("checkpoint, saved and loaded", worst, 0.0, f"{size / 2**10:.0f} KiB")


def step_time(potential: Potential) -> Check:
    """Seconds of the gradient of one training step of four molecules, forces included."""
    blob = cluster(ELEMENTS, typical_spacing(ELEMENTS, TINY.cutoff), count=12)
    labels = {"energy": np.array(-1200.0), "forces": np.ones((12, 3))}
    batch = collate([replace(blob, labels=labels)] * 4, potential.model.spec, torch.float32)
    times = []
    for _ in range(5):
        start = time.perf_counter()
        found = gradient(potential, [batch], torch.Generator().manual_seed(0), Ranks())
        times.append(time.perf_counter() - start)
    value = min(times) if found.finite else float("nan")
    return Check("training step (s)", value, LONGEST, "4 × 12 atoms, float32, the quickest of 5")
