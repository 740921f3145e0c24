"""How long a user waits for ``covarium --help`` (below 0.5 s), and that neither it nor ``import covarium`` loads torch.

python benchmarks/startup.py
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from record import write_record

COMMANDS = {
    "covarium --help": [sys.executable, "-m", "covarium", "--help"],
    "import covarium": [sys.executable, "-c", "import covarium"],
    "python itself": [sys.executable, "-c", "pass"],
}


def seconds(command: list[str], repeats: int = 5) -> float:
    """The shortest of a few runs."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True)
        times.append(time.perf_counter() - start)
    return min(times)


def main() -> None:
    check = subprocess.run(
        [sys.executable, "-c", "import covarium, covarium.cli, sys; print('torch' in sys.modules)"],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    rows = [{"command": name, "seconds": seconds(command)} for name, command in COMMANDS.items()]
    write_record("startup", rows, note=f"torch imported by covarium and its command line: {check.stdout.strip()}")


if __name__ == "__main__":
    main()
