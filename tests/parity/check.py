"""Compare a model with the stored numbers of its published implementation.

    python tests/parity/check.py --family equiformer_v2 FOLDER...

Error of a tensor: max|a − b| / max(max|ref|, floor), floor = 1e-6 × the largest output of the case for outputs and
1e-4 × the largest gradient for gradients. A gradient that does not exist counts as zero.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from comparison import Comparison, largest
from family_equiformer import equiformer
from family_equiformer_v2 import equiformer_v2
from family_equiformer_v3 import equiformer_v3
from family_gatr import gatr
from family_torchmd_et import torchmd_et

from covarium.errors import CovariumError

FAMILIES: dict[str, tuple[Callable[[Path], Comparison], float]] = {
    "equiformer": (equiformer, 1e-9),
    "equiformer_v2": (equiformer_v2, 1e-9),
    "equiformer_v3": (equiformer_v3, 1e-9),
    "gatr": (gatr, 1e-10),
    "torchmd_et": (torchmd_et, 1e-9),
}


NETWORK = {"constructor", "args", "model"}


def check(family: str, folder: Path, tolerance: float | None = None) -> tuple[bool, str, list[str]]:
    """Whether a case passes, its line, and the worst tensors."""
    compare, default = FAMILIES[family]
    allowed = default if tolerance is None else tolerance
    result = compare(folder)
    worst = []
    for kind, table in (("output", result.outputs), ("gradient", result.gradients)):
        top = sorted(table.items(), key=lambda item: (not math.isnan(item[1]), -item[1]))[:3]
        worst += [f"  {kind:8s} {error:9.2e}  {name}" for name, error in top]
    worst += [f"  {'extra':8s} {value:9.2e}  {name} (allowed {limit:.1e})" for name, value, limit in result.extra]
    outputs, gradients = largest(result.outputs.values()), largest(result.gradients.values())
    passed = largest([outputs, gradients]) <= allowed and all(value <= limit for _, value, limit in result.extra)
    stored = f"gradients {gradients:.2e}" if result.gradients else "no gradients stored"
    compared = len(result.outputs) + len(result.gradients)
    verdict = "PASS" if passed else "FAIL"
    line = f"{folder.name:32s} {compared:5d} tensors  outputs {outputs:.2e}  {stored}  {verdict}"
    return passed, line, worst


def is_case(folder: Path) -> bool:
    """Whether the folder's description names a network; other fixtures lie beside the cases."""
    path = folder / "config.json"
    return path.is_file() and bool(NETWORK & json.loads(path.read_text()).keys())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--family", required=True, choices=sorted(FAMILIES))
    parser.add_argument("--tol", type=float, default=None, help="largest error allowed (default: of the family)")
    parser.add_argument("folders", nargs="+", type=Path)
    options = parser.parse_args()
    torch.set_default_dtype(torch.float64)
    lines, failed = [], False
    cases = [folder for folder in options.folders if is_case(folder)]
    for folder in options.folders:
        if folder not in cases:
            sys.stderr.write(f"{folder} describes no network in a config.json: no case, left out\n")
    if not cases:
        return 2
    for folder in cases:
        try:
            passed, line, worst = check(options.family, folder, options.tol)
        except CovariumError as error:
            passed, line, worst = False, f"{folder.name:32s} {error}  FAIL", []
        sys.stdout.write("\n".join([folder.name, *worst]) + "\n")
        lines.append(line)
        failed |= not passed
    sys.stdout.write("\n" + "\n".join(lines) + "\n")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
