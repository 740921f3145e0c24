"""The pages tell the truth: commands print what stands there, links lead somewhere, options exist."""

import importlib.util
import re
import shlex
import sys
from functools import cache
from pathlib import Path

import pytest
import typer

from covarium.cli import app

ROOT = Path(__file__).resolve().parents[2]
WRITTEN = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "benchmarks/README.md",
    *sorted(ROOT.glob("docs/**/*.md")),
]
# of torchrun, of scripts under benchmarks/
TOOLS = {"nproc-per-node", "tables", "quick", "train", "test", "minutes", "total"}


def _tool():
    spec = importlib.util.spec_from_file_location("print_outputs", ROOT / "docs/print_outputs.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["print_outputs"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


outputs = _tool()


@cache
def commands():
    """Every command of the program: its words → its options."""
    found = {}

    def walk(command, words):
        options = {name for p in command.params for name in (*p.opts, *p.secondary_opts) if name.startswith("--")}
        found[words] = options | {"--help", "--debug"}
        for name, below in getattr(command, "commands", {}).items():
            walk(below, (*words, name))

    walk(typer.main.get_command(app), ())
    return found


def test_pages_print_what_stands_there(tmp_path):
    pytest.importorskip("tblite")
    outputs.prepare(tmp_path)
    for name in outputs.PAGES:
        steps = list(outputs.steps((ROOT / name).read_text(encoding="utf-8")))
        assert steps, name
        for step in steps:
            printed = outputs.run(step, tmp_path)
            told = "\n".join([name, step.shown, "--- printed", *printed, "--- in the page", *step.printed])
            if step.start >= 0:
                assert outputs.same(printed, step.printed), f"{told}\n`make docs` writes what is printed now"


@pytest.mark.parametrize(
    ("printed", "page", "alike"),
    [
        (["drift +0.35 meV over 0.1 ps"], ["drift -1.2e-05 meV  over 0.1 ps "], True),
        (["estimate  9.49 s, 437 MiB"], ["estimate 2 min, 1.2 GiB"], True),
        (["60 frames of 9 atoms"], ["61 frames of 9 atoms"], False),
        (["split 45 training, 3 validation"], ["split 45 training, 4 validation"], False),
        (["periodic in 3 directions"], ["periodic in 2 directions"], False),
        (["model equiformer_v2, 137,361 parameters"], ["model equiformer_v2, 137,362 parameters"], False),
        (["(num_layers 1, lmax 2)"], ["(num_layers 1, lmax 3)"], False),
        (["H   120   316.7   0.91"], ["H   120   301.2   0.92"], True),
        (["H   120   316.7   0.91"], ["H   121   316.7   0.91"], False),
        (["force vector  1019  23.50"], ["force vector  998.3  23.02"], True),
        (["cutoff 5 Å  (chosen)"], ["cutoff 6 Å  (chosen)"], False),
        (["100 steps of 0.5 fs, nve, 100 K"], ["100 steps of 0.25 fs, nve, 100 K"], False),
        (["100 steps of 0.5 fs, nve, 100 K"], ["100 steps of 0.5 fs, nve, 300 K"], False),
        (["mean temperature 57 K"], ["mean temperature 59 K"], True),
        (["34 steps: converged"], ["35 steps: converged"], True),
        (["100 steps: finished"], ["99 steps: finished"], False),
        (["translation 5.3e-15 ≤ 1e-10 ok"], ["translation 1.1e-15 ≤ 1e-10 ok"], True),
        (["translation 5.3e-15 ≤ 1e-10 ok"], ["translation 5.3e-15 ≤ 1e-09 ok"], False),
        (["30 checks, 0 failed"], ["30 checks, 1 failed"], False),
        (["report: errors/report.html"], ["report: error/report.html"], False),
        (["torch 2.13.0+cpu"], ["torch 2.14.1"], True),
        (["loss 1 × energy mae + 1 × forces l2"], ["loss 1 × energy mae + 10 × forces l2"], False),
        (["cutoff  5.0"], ["cutoff  6.0"], False),
        (["cutoff  5.0"], ["cutoff  5.0"], True),
        (["  1 layer  12  0.0325  0.919  0.662  0.37  1.5"], ["  1 layer  12  0.0341  0.923  0.7  0.4  1.4"], True),
        (["  1 layer  12  0.0325  0.919  0.662  0.37  1.5"], ["  1 layer  13  0.0325  0.919  0.662  0.37  1.5"], False),
        (["gain over local updates  (6.0 ± 1.6) ×"], ["gain over local updates  (10.2 ± 3) ×"], True),
        (["a.frames: 0 MiB"], ["a.frames: 13 MiB"], True),
        (["energy from 'energy'"], ["energy from 'REF_energy'"], False),
        (["a", "b", "c"], ["a", "…", "c"], True),
        (["a", "b", "c", "d"], ["a", "…", "c", "…", "d"], True),
        (["a", "b", "d"], ["a", "…", "c", "…", "d"], False),
        (["a", "b"], ["a"], False),
        (["a"], ["a", "…", "a"], False),
        (["a ─────"], ["a ──"], True),
    ],
)
def test_what_counts_as_the_same(printed, page, alike):
    assert outputs.same(printed, page) is alike


def test_steps_of_a_page():
    page = (
        "<!-- not run: an hour -->\n```console\n$ long\n```\n\n"
        "<!-- exit 1 -->\n```console\n$ covarium a \\\n    --b\nout\n\nmore\n$ python c.py\n```\n\n"
        "```python\nprint(1)\n```\n\n```text\n1\n```\n"
    )
    first, second, third = outputs.steps(page)
    assert first.words[1:] == ["-m", "covarium", "a", "--b"]
    assert (first.printed, first.exit_code) == (["out", "", "more"], 0)
    assert (second.words[1:], second.printed, second.exit_code) == (["c.py"], [], 1)
    assert page[third.start : third.end] == "1\n"


@pytest.mark.parametrize("page", WRITTEN, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", _prose(page)):
        if not re.match(r"[a-z]+:", target):
            file, _, heading = target.partition("#")
            there = page.parent / file if file else page
            assert there.exists(), f"{page}: {target}"
            if heading:
                assert heading in _anchors(there), f"{page}: {target}"


def test_every_command_is_described():
    start = ROOT / "docs/commands.md"
    linked = [start.parent / target for target in re.findall(r"\]\(([^)#\s]+\.md)", start.read_text(encoding="utf-8"))]
    headings = [
        line
        for page in [start, *linked]
        for line in page.read_text(encoding="utf-8").splitlines()
        if line.startswith("#")
    ]
    for words in commands():
        if words and not _is_group(words):
            assert any(re.search(rf"`covarium {' '.join(words)}[ `]", line) for line in headings), words


@pytest.mark.parametrize("page", WRITTEN, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_option_exists(page):
    text = page.read_text(encoding="utf-8")
    known = {option for options in commands().values() for option in options}
    named = set(re.findall(r"`(--[a-z][a-z-]*)", text)) | set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", _code(text)))
    assert {name for name in named if name.removeprefix("--") not in TOOLS} <= known
    for line in re.findall(r"covarium [^\n`]*", _code(text)):
        _assert_call(line, page)


def _assert_call(line, page):
    """The options of one call belong to its command."""
    words = shlex.split(line.split("#")[0].split("→")[0].replace("'", " "))[1:]
    path = ()
    while len(words) > len(path) and (*path, words[len(path)]) in commands():
        path = (*path, words[len(path)])
    if path and not _is_group(path):
        for word in words:
            if word.startswith("--"):
                assert word.split("=")[0] in commands()[path], f"{page}: covarium {' '.join(path)} has no {word}"


def _is_group(words):
    return any(other[:-1] == words for other in commands())


def _code(text):
    """Blocks and spans of code that call this program, lines joined."""
    text = text.replace("\\\n", " ")
    blocks = re.findall(r"```(?:console|bash|text)\n(.*?)```", text, re.DOTALL)
    calls = [line for block in blocks for line in block.splitlines() if re.match(r"(\$ )?covarium ", line)]
    prose = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    return "\n".join([*calls, *(span for span in re.findall(r"`([^`\n]+)`", prose) if span.startswith("covarium "))])


def _prose(page):
    return re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)


def _anchors(page):
    """Of headings, as GitHub makes them."""
    titles = re.findall(r"^#+ (.+)$", _prose(page), re.M)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}
