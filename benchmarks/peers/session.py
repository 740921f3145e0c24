"""Processes that are asked in turn, so that all sides meet the same disturbances."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

WORKER = Path(__file__).parent / "worker.py"


class Side:
    """A worker."""

    def __init__(self, python: str, side: str, row: str, inputs: Path, weights: Path, device: str) -> None:
        command = [python, str(WORKER), side, row, str(inputs), str(weights), device]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
        self.name = f"{side} {row}"
        self.log = (inputs.parent / f"{side}-{row}.log").open("wb")
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.log, text=True, env=environment
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let it end."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()
        self.log.close()

    def ask(self, do: str, **command: Any) -> Any:  # noqa: ANN401 - JSON
        """Do one thing and wait for the answer."""
        assert self.process.stdin is not None and self.process.stdout is not None
        with suppress(BrokenPipeError):  # it has ended, which is said below
            self.process.stdin.write(json.dumps({"do": do, **command}) + "\n")
            self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"{self.name} ended while it was asked for '{do}'; see {self.log.name}")
        return json.loads(line)


Passes = Mapping[str, tuple[Side, Mapping[str, Any]]]


def in_turn(passes: Passes, least: int = 2, most: int = 15, enough: float = 100.0) -> dict[str, list[float]]:
    """Seconds of each pass, round after round, after one of each that warms up and compiles."""
    for side, command in passes.values():
        side.ask("time", **command)
    found: dict[str, list[float]] = {name: [] for name in passes}
    rounds, spent = 0, 0.0
    while rounds < least or (rounds < most and spent < enough):
        for name, (side, command) in passes.items():
            found[name].append(side.ask("time", **command))
            spent += found[name][-1]
            print(f"{name}: {found[name][-1]:.3g} s", flush=True)
        rounds += 1
    return found
