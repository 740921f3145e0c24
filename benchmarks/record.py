"""Where a benchmark leaves its numbers: ``records/<date>-<what>/``, with machine, versions and commit."""

from __future__ import annotations

import json
import platform
import subprocess
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

RECORDS = Path(__file__).parent / "records"


def machine() -> dict[str, Any]:
    """What the numbers depend on."""
    try:
        command = ["git", "rev-parse", "--short", "HEAD"]
        done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parent, check=False)
        commit = done.stdout.strip()
    except FileNotFoundError:  # a machine without git
        commit = ""
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "commit": commit or "unknown",
        "processor": processor(),
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def processor() -> str:
    """Its name, and which of the vector instructions it has that products of matrices depend on."""
    found: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    name = str(found.get("cpu_name") or platform.processor() or platform.machine())
    return " ".join([name, *(flag for flag in ("avx2", "avx512_f", "avx_vnni") if found.get(flag))])


def write_record(what: str, rows: Sequence[Mapping[str, Any]], *, note: str = "", to: Path = RECORDS) -> Path:
    """Write rows as JSON and print them as a table; ``note`` says what a reader must know."""
    facts = machine()
    folder = to / f"{facts['date']}-{what}"
    folder.mkdir(parents=True, exist_ok=True)
    # files by name only: where they lay on one machine helps nobody
    command = " ".join(Path(argument).name if "/" in argument else argument for argument in sys.argv)
    record = {"what": what, "note": note, "machine": facts, "command": command, "rows": list(rows)}
    path = folder / "record.json"
    path.write_text(json.dumps(record, indent=1, ensure_ascii=False, default=float) + "\n")
    print(f"{what}: {note}")
    names = list(dict.fromkeys(name for row in rows for name in row))
    cells = [names, *[[_text(row.get(name, "")) for name in names] for row in rows]]
    widths = [max(len(line[k]) for line in cells) for k in range(len(names))]
    for line in cells:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())
    print(f"written to {path}")
    return path


def _text(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
