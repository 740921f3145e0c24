"""Run the commands that stand in the pages, and write what they print into the pages (``make docs``).

In a page that takes part (``PAGES``)
- a block ``console`` holds lines ``$ command`` with what each prints on stdout; a line ``…`` stands for lines left out;
- a block ``python`` is executed; a block ``text`` right after it is what it prints;
- ``<!-- not run: reason -->`` before a block keeps it as it stands, ``<!-- exit 1 -->`` is the exit code of its last
  command.

All pages are run in one folder, in order, so that later ones use the files of earlier ones.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# in this order: dynamics starts from what relaxation left
COMMANDS = (
    "train",
    "evaluate",
    "predict",
    "relax",
    "md",
    "info",
    "check-model",
    "data-convert",
    "convert",
    "make",
    "slmc",
)
OTHERS = ("attention", "data-sets", "gatr")
PAGES = (
    "docs/tutorial.md",
    *(f"docs/commands/{name}.md" for name in COMMANDS),
    *(f"docs/{name}.md" for name in OTHERS),
)
FENCED = re.compile(
    r"(?:<!-- (?P<mark>not run: .+?|exit \d+) -->\n)?```(?P<kind>console|python)\n(?P<body>.*?)```\n"
    r"(?:\n```text\n(?P<printed>.*?)```\n)?",
    re.DOTALL,
)
LEFT_OUT = "…"
NUMBER = r"(?<![\w.,])[-+]?\d[\d,]*"
# what differs from machine to machine; everything else, counts and settings too, has to be as it stands in the page
MEASURED = (
    r"\b\d+\.\d+\.\d+(?:\+\w+)?",  # versions
    NUMBER + r"(?:\.\d+)?(?:e[-+]?\d+)? ?(?:s|ms|min|h|KiB|MiB|GiB)\b",  # durations and sizes
    r"(?<=per step, )\d+(?= epochs)",  # that fit into a time
    r"(?<=mean temperature )\d+",
    r"^\d+(?= steps: (?:converged|not converged))",
    r"\d[\d.]*%? ± [\d.]+%?",
    r"[\d.]+(?= standard errors)",
)
# levels, displacements and simulated times are settings
POINT = r"(?<!≤ )(?<!±)(?<!h = )" + NUMBER + r"(?:\.\d+)?(?:e[-+]?\d+)?(?! (?:fs|ps)\b)(?![\d.])"
DIGITS = 3  # that a measured number without a sign has, if it has a point; settings such as 0.5 have fewer
# without a point, beside numbers with one: counts have commas, measured ones have none
LARGE = r"(?<![\w.,])\d{4,}(?![\w.,])"


@dataclass(frozen=True)
class Step:
    """One command or piece of Python, and what the page says it prints.

    Attributes:
        words: program and arguments.
        shown: as it stands in the page.
        printed: lines in the page.
        exit_code: that it has to end with.
        start, end: where ``printed`` stands in the page.
    """

    words: list[str]
    shown: str
    printed: list[str]
    exit_code: int
    start: int
    end: int


def steps(page: str) -> Iterator[Step]:
    """What a page asks to be run, in order."""
    for block in FENCED.finditer(page):
        mark = block["mark"] or ""
        if mark.startswith("not run"):
            continue
        code = int(mark.split()[1]) if mark else 0
        if block["kind"] == "python":
            printed = block["printed"]
            start, end = block.span("printed") if printed is not None else (-1, -1)
            yield Step([sys.executable, "-c", block["body"]], block["body"], lines(printed or ""), code, start, end)
            continue
        commands = list(re.finditer(r"^\$ (?P<line>(?:.*\\\n)*.*)\n(?P<out>(?:(?!\$ ).*\n)*)", block["body"], re.M))
        for command in commands:
            last = command is commands[-1]
            start, end = (block.start("body") + at for at in command.span("out"))
            yield Step(_words(command["line"]), command["line"], lines(command["out"]), code if last else 0, start, end)


def lines(text: str) -> list[str]:
    """Without spaces at the ends, and without empty lines around."""
    return "\n".join(line.rstrip() for line in text.splitlines()).strip("\n").splitlines()


def run(step: Step, folder: Path) -> list[str]:
    """What a step prints in ``folder``.

    Raises:
        RuntimeError: it ends with another exit code than the page says.
    """
    env = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "120", "NO_COLOR": "1", "PYTHONIOENCODING": "utf-8"}
    done = subprocess.run(step.words, cwd=folder, env=env, capture_output=True, text=True, encoding="utf-8")
    if done.returncode != step.exit_code:
        raise RuntimeError(f"{step.shown}\nexit code {done.returncode}\n{done.stdout}\n{done.stderr}")
    return lines(done.stdout.replace(f"{folder}/", "…/"))


def prepare(folder: Path) -> None:
    """What a reader has in the folder before the first command."""
    shutil.copytree(ROOT / "examples", folder / "examples")


def same(printed: list[str], page: list[str]) -> bool:
    """Whether a page tells what was printed, but for measured numbers, widths of columns and lines left out."""
    there, parts = [normal(line) for line in printed], [[]]
    for line in page:
        if line.strip() == LEFT_OUT:
            parts.append([])
        else:
            parts[-1].append(normal(line))
    if len(parts) == 1:
        return there == parts[0]
    first, *middle, last = parts
    if len(there) < len(first) + len(last) or there[: len(first)] != first or there[len(there) - len(last) :] != last:
        return False
    at, end = len(first), len(there) - len(last)
    for part in middle:
        at = next((i + len(part) for i in range(at, end - len(part) + 1) if there[i : i + len(part)] == part), -1)
        if at < 0:
            return False
    return True


def normal(line: str) -> str:
    """Counts, names and settings stay; measured numbers, durations and sizes are signs; spaces and rules are short."""

    def sign(number: re.Match[str]) -> str:
        mantissa, _, exponent = number[0].partition("e")
        digits = re.sub(r"\D", "", mantissa).lstrip("0")
        few = 1 if "#" in line or mantissa[0] in "+-" else DIGITS
        measured = exponent or ("." in mantissa and len(digits) >= few)
        return "#" if measured else number[0]

    for pattern in MEASURED:
        line = re.sub(pattern, "#", line)
    for _ in range(2):  # beside a measured number others with a point are measured too
        line = re.sub(POINT, sign, line)
    if "#" in line:
        line = re.sub(LARGE, "#", line)
    return re.sub(r"─+", "─", re.sub(r"\s+", " ", line)).strip()


def shortened(printed: list[str], page: list[str]) -> list[str]:
    """What was printed, with as many lines before and after a ``…`` as the page has."""
    marks = [i for i, line in enumerate(page) if line.strip() == LEFT_OUT]
    if not marks:
        return printed
    before, after = marks[0], len(page) - marks[-1] - 1
    return [*printed[:before], LEFT_OUT, *printed[len(printed) - after :]]


def _words(line: str) -> list[str]:
    program, *rest = shlex.split(line.replace("\\\n", " "))
    programs = {"covarium": [sys.executable, "-m", "covarium"], "python": [sys.executable]}
    return [*programs.get(program, [program]), *rest]


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name).resolve()
        prepare(folder)
        for path in (ROOT / page for page in PAGES):
            page, new, at = path.read_text(encoding="utf-8"), [], 0
            for step in steps(page):
                sys.stderr.write(f"$ {step.shown.strip()}\n")
                printed = run(step, folder)
                if step.start >= 0:
                    shown = shortened(printed, step.printed)
                    new += [page[at : step.start], "".join(f"{line}\n" for line in shown)]
                    at = step.end
            path.write_text("".join([*new, page[at:]]), encoding="utf-8")


if __name__ == "__main__":
    main()
