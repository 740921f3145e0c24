"""What a GPU adds: are the answers those of the CPU, how fast are steps beside the published implementations, and how
far does training come.

    python benchmarks/gpu.py tests
    python benchmarks/gpu.py speed [--rows equiformer equiformer_v2 equiformer_v3_omat]
    python benchmarks/gpu.py training --train rmd17_aspirin_train_01.extxyz.xz --test rmd17_aspirin_test_01.extxyz.xz

Records go to ``--out`` (default: ``benchmarks/records``), in a folder ``<date>-gpu-<stage>``. ``--device cpu --quick``
goes through everything once with little to do. Peers must be importable by this Python (``fairchem-core==1.10.0`` with
``--no-deps``, ``e3nn==0.4.4``); one that is not is left out, and the record says why. ``training`` ends after
``--minutes`` and goes on with what is in ``--work`` when it is called again, until ``--total`` minutes are trained.
"""

from __future__ import annotations

import argparse
import csv
import importlib
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.profiler import ProfilerActivity, profile

sys.path.insert(0, str(Path(__file__).parent))
from peers.ours import build, prepare
from peers.rows import ROWS
from peers.subject import Subject, held, most, seconds
from record import RECORDS, write_record

from covarium.tasks import Compiled
from covarium.workflows.arithmetic import arrange

ROOT = Path(__file__).parents[1]
# (backend, dtype, compiled and replayed) of ours; the first one is what it is without kernels and rounding
VARIANTS = (("torch", "float32", False), ("triton", "float32", False), ("triton", "tf32", False),
            ("triton", "bf16", False))  # fmt: skip
COMPILED = (("triton", "float32", True),)
SMALL_STEPS = ("equiformer",)  # rows that launches decide; compiled after everything else, since it takes minutes
COUNTED = ("triton, tf32", "triton, float32, compiled")  # sides whose launches are counted
TESTS = ("tests/gpu", "tests/ops/test_rotation.py", "tests/ops/test_messages.py", "tests/models/test_backends.py",
         "tests/models/test_rounding.py")  # fmt: skip
# ms of a training step, ratio of inference to the published implementation
TARGETS = {"equiformer": (18.0, None), "equiformer_v2": (None, 5.0), "equiformer_v3_omat": (None, 5.0)}
ROUNDS, WARM = 20, 3
RECIPE = "equiformer-md17-l2"
TINY = ("model.num_layers=1", "model.irreps_node=16x0e+8x1e", "model.irreps_feature=32x0e", "model.irreps_sh=1x0e+1x1e",
        "model.irreps_head=8x0e+4x1e", "model.irreps_mlp=16x0e+8x1e", "data.limit=60")  # fmt: skip
TINY_MODEL = {
    "num_layers": 1, "irreps_node": "4x0e+2x1e", "irreps_head": "2x0e+2x1e", "irreps_mlp": "4x0e+2x1e",
    "irreps_feature": "8x0e", "irreps_sh": "1x0e+1x1e", "num_heads": 2, "num_basis": 4, "radial_channels": (4,),
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stages", nargs="+", choices=("tests", "speed", "training"))
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--quick", action="store_true", help="one round; a small model in training")
    parser.add_argument("--out", type=Path, default=RECORDS)
    parser.add_argument("--work", type=Path, default=Path("runs/gpu"))
    parser.add_argument("--rows", nargs="+", choices=list(TARGETS), default=list(TARGETS))
    data = Path(os.environ.get("COVARIUM_DATA", "data")) / "rmd17"
    parser.add_argument("--train", type=Path, default=data / "rmd17_aspirin_train_01.extxyz.xz")
    parser.add_argument("--test", type=Path, default=data / "rmd17_aspirin_test_01.extxyz.xz")
    parser.add_argument("--dtype", choices=("float32", "tf32", "bf16"), default="tf32", help="of training")
    parser.add_argument("--compile", action="store_true", help="training compiled and replayed, in float32")
    parser.add_argument("--minutes", type=float, default=8.0, help="of training in this call")
    parser.add_argument("--total", type=float, help="minutes of training in all calls; default: those of this one")
    options = parser.parse_args()
    if options.device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("gpu.py: torch sees no CUDA device; --device cpu --quick goes through the same steps")
    if options.device == "cpu" or options.compile:
        options.dtype = "float32"
    for stage in options.stages:
        {"tests": tests, "speed": speed, "training": training}[stage](options)


def what(options: argparse.Namespace, stage: str) -> str:
    return f"gpu-{stage}" if options.device == "cuda" else f"gpu-{stage}-on-cpu"


# -- tests


def tests(options: argparse.Namespace) -> None:
    """All that compares the GPU with the CPU and the kernels with plain torch; without a GPU those that are skipped."""
    files = [file for file in TESTS if options.device == "cuda" or file.startswith("tests/gpu")]
    command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu or not gpu", "-p", "no:cacheprovider", "-rs", *files]
    start = time.monotonic()
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    verdict = next((line for line in reversed(done.stdout.splitlines()) if line.strip()), "nothing was printed")
    rows = [{"tests": " ".join(files), "verdict": verdict, "seconds": time.monotonic() - start}]
    path = write_record(what(options, "tests"), rows, note="GPU against CPU, kernels against torch", to=options.out)
    (path.parent / "pytest.txt").write_text(done.stdout)
    if done.returncode:
        raise SystemExit(f"tests failed:\n{done.stdout[-8000:]}")


# -- speed


def speed(options: argparse.Namespace) -> None:
    """Every row in this process: our variants and the peer in turn."""
    options.work.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = []
    passes = [(name, VARIANTS) for name in options.rows]
    passes += [(name, COMPILED) for name in options.rows if name in SMALL_STEPS]
    for name, variants in passes:
        ours, peer, reason = subjects(name, options, small=options.quick and variants is COMPILED)
        sides = sides_of(ours, peer, variants, options)
        rows += measured(name, sides, reason, options)
        # after every row: what is done is kept if the rest takes too long
        path = write_record(
            what(options, "speed"), rows, to=options.out,
            note="ms between two events around a pass, median and range of rounds in turn; ratio: published / ours",
        )  # fmt: skip
        for side in COUNTED if options.device == "cuda" else ():
            if side in sides:
                (path.parent / f"kernels-{name}-{side.replace(', ', '-')}.txt").write_text(kernels(*sides[side]))


def sides_of(
    ours: Subject, peer: Subject | None, variants: Sequence[tuple[str, str, bool]], options: argparse.Namespace
) -> dict[str, tuple[Subject, Callable[[], None]]]:
    """What is measured in turn, and what prepares each."""
    sides = {}
    for backend, dtype, compiled in variants if options.device == "cuda" else [("torch", "float32", variants[0][2])]:
        name = f"{backend}, {dtype}{', compiled' if compiled else ''}"
        sides[name] = (ours, chosen(ours, dtype, backend, Compiled(tell=print) if compiled else None))
    if peer is not None:
        sides["published"] = (peer, chosen(None, "float32", None))
    return sides


def measured(
    name: str, sides: Mapping[str, tuple[Subject, Callable[[], None]]], reason: str, options: argparse.Namespace
) -> list[dict[str, Any]]:
    """Rows of one workload."""
    found: dict[tuple[str, str], list[float]] = {}
    memory: dict[tuple[str, str], int] = {}
    for training, kind in ((False, "energy and forces"), (True, "training step")):
        for side, (subject, prepared) in sides.items():
            prepared()
            subject.model.train(training)
            run = subject.step if training else subject.infer
            before = held(options.device)
            for _ in range(1 if options.quick else WARM):
                run()
            memory[side, kind] = most(options.device) - before
        for _ in range(1 if options.quick else ROUNDS):
            for side, (subject, prepared) in sides.items():
                prepared()
                run = subject.step if training else subject.infer
                found.setdefault((side, kind), []).append(seconds(run, options.device))
    return table(name, found, memory, reason)


def subjects(name: str, options: argparse.Namespace, *, small: bool) -> tuple[Subject, Subject | None, str]:
    """Ours, the peer's or None, and why it is not there; ``small``: of a size that is compiled soon, without peer."""
    row = ROWS[name]
    inputs, weights = options.work / f"{name}.npz", options.work / f"{name}.safetensors"
    prepare(row, None, inputs)
    ours = build(name, dict(np.load(inputs)), weights, options.device, TINY_MODEL if small else {})
    if small:
        return ours, None, "a tiny model"
    try:
        module = importlib.import_module(f"peers.{row.peer}")
        given = inputs
        if row.stands_in:
            given = options.work / f"{name}-peer.npz"
            prepare(ROWS["equiformer_v2"], None, given)
        return ours, module.build(name, dict(np.load(given)), weights, options.device), ""
    except (ImportError, AttributeError, RuntimeError) as error:
        return ours, None, f"{row.peer} is left out: {type(error).__name__}: {str(error).splitlines()[0]}"


def chosen(
    subject: Subject | None, dtype: str, backend: Any, compiled: Compiled | None = None  # noqa: ANN401 - Backend
) -> Callable[[], None]:  # fmt: skip
    """Sets what a side computes with, the peer in full float32."""

    def prepared() -> None:
        if subject is None:
            torch.set_float32_matmul_precision("highest")
        else:
            arrange(subject.model, dtype, backend)
            if subject.compile is not None:
                subject.compile(compiled)

    return prepared


def table(
    name: str, found: Mapping[tuple[str, str], list[float]], memory: Mapping[tuple[str, str], int], reason: str
) -> list[dict[str, Any]]:
    """A line for every pass of every side."""
    row, lines = ROWS[name], []
    for (side, kind), times in found.items():
        ms = [1e3 * t for t in times]
        factor = row.factor[kind == "training step"]
        theirs = found.get(("published", kind))
        ratio = (
            factor * statistics.median(theirs) / statistics.median(times) if theirs and side != "published" else None
        )
        step, inference = TARGETS[name]
        target = step if kind == "training step" else inference
        lines.append({
            "workload": row.title, "pass": kind, "side": side, "ms": statistics.median(ms), "least": min(ms),
            "most": max(ms), "ratio": ratio or "", "target": target or "", "memory_MB": memory[side, kind] / 1e6,
            "remark": reason or (f"published: stood in for, × {factor:g}" if row.stands_in else ""),
        })  # fmt: skip
    return lines


def kernels(ours: Subject, prepared: Callable[[], None]) -> str:
    """What a training step consists of: number of launches, and the kernels that take longest."""
    prepared()
    ours.model.train()
    for _ in range(WARM):
        ours.step()
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as recorded:
        ours.step()
        torch.cuda.synchronize()
    averages = recorded.key_averages()
    launches = sum(e.count for e in averages if "LaunchKernel" in e.key or "GraphLaunch" in e.key)
    return f"{launches} launches in a training step\n" + averages.table(sort_by="device_time_total", row_limit=40)


# -- training


def training(options: argparse.Namespace) -> None:
    """``covarium train`` on rMD17 aspirin, stopped after the minutes of this call, measured when it is finished."""
    for path in (options.train, options.test):
        if not path.is_file():
            print(f"gpu: no data at {path}; give --train and --test, or COVARIUM_DATA with rmd17/ in it: not run")
            return
    run = options.work / "training"
    total = options.total or options.minutes
    command = [sys.executable, "-m", "covarium", "train"]
    if run.exists():
        command += ["--resume", str(run)]
    else:
        command += [str(options.train), "--recipe", RECIPE, "--out", str(run)]
        command += ["--dtype", options.dtype, *(["--compile"] if options.compile else [])]
        command += [part for text in (TINY if options.quick else ()) for part in ("--set", text)]
    options.work.mkdir(parents=True, exist_ok=True)
    with (options.work / "training.log").open("ab") as log:
        process = subprocess.Popen(
            [*command, "--time", f"{60 * total:g}s", "--device", options.device], stdout=log, stderr=subprocess.STDOUT
        )
        try:
            code = process.wait(timeout=60 * options.minutes + 60)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGINT)  # the state is saved
            code = process.wait()
    rows = [curve(run, options)]
    if code == 0:
        rows[0] |= errors(run, options)
    path = write_record(
        what(options, "training"), rows, to=options.out,
        note=f"rMD17 aspirin, {RECIPE}, {total:g} min in all{'' if code == 0 else ', not finished'}",
    )  # fmt: skip
    for file in (run / "log.csv", options.work / "training.log"):
        if file.is_file():
            shutil.copy(file, path.parent / file.name)
    if code and not (run / "log.csv").is_file():
        raise SystemExit(f"training failed:\n{(options.work / 'training.log').read_text()[-4000:]}")


def curve(run: Path, options: argparse.Namespace) -> dict[str, Any]:
    """How far it came: the last line of the log."""
    if not (run / "log.csv").is_file():
        return {"device": options.device, "steps": 0}
    with (run / "log.csv").open(newline="", encoding="utf-8") as file:
        lines = list(csv.DictReader(file))
    last = lines[-1]
    steps, spent = int(last["step"]), float(last["time"])
    return {
        "device": options.device, "dtype": options.dtype, "compiled": options.compile, "steps": steps,
        "epochs": float(last["epoch"]), "minutes": spent / 60,
        "ms_per_step_with_validation": 1e3 * spent / max(steps, 1),
    }  # fmt: skip


def errors(run: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Of the best model on the test frames, meV and meV/Å."""
    path = options.work / "errors.json"
    command = [sys.executable, "-m", "covarium", "evaluate", str(run), str(options.test), "--json", str(path)]
    subprocess.run([*command, "--device", options.device], check=True, capture_output=True)
    found = json.loads(path.read_text())
    return {f"{name} MAE (meV{unit})": 1000 * found[name]["mae"] for name, unit in (("energy", ""), ("forces", "/Å"))}


if __name__ == "__main__":
    main()
