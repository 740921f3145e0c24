"""Environments of the peers, each with covarium in it: made where they are missing, used again where they are there."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).parents[2]
TORCH = "torch==2.13.0"  # first and always, so that no requirement brings another build
INSTALLED: Mapping[str, Sequence[Sequence[str]]] = {
    # its own requirements ask for an older torch and for binary operations that are not built for this one
    "fairchem_v2": (["--no-deps", "fairchem-core==1.10.0"], ["e3nn", "torch_geometric"]),
    "torchmd": (["torchmd-net==3.1.0"],),
    "equiformer_e3nn": (["e3nn==0.4.4"],),  # the one published with; later ones change signs of Wigner 3j symbols
    "mace": (["mace-torch"],),
    "nequip": (["nequip"],),
}


def interpreter(side: str, work: Path, given: Mapping[str, str]) -> str:
    """Of the environment of a side: the one given, or else one under ``work``."""
    if side == "ours":
        return sys.executable
    if side in given:
        return given[side]
    folder = work / "environments" / side
    python = folder / "bin" / "python"
    ready = folder / "ready"
    if not ready.exists():
        print(f"making {folder}", flush=True)
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        for packages in ([TORCH], ["-c", str(ROOT / "constraints.txt"), "-e", str(ROOT)], *INSTALLED[side]):
            subprocess.run([str(python), "-m", "pip", "install", "-q", *packages, *_kept(packages)], check=True)
        ready.touch()
    return str(python)


def _kept(packages: Sequence[str]) -> list[str]:
    return [] if "--no-deps" in packages or TORCH in packages else [TORCH]
