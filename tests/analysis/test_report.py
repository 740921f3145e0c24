"""The report: escaped, self-contained, and drawn by a real browser without a complaint."""

import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from covarium.analysis import plots, report
from covarium.analysis.errors import Table
from covarium.analysis.report import Section, Structure
from covarium.errors import CovariumError

BROWSER = next((p for n in ("chromium", "chromium-browser", "google-chrome") if (p := shutil.which(n))), None)
EVIL = "</code></script><script>document.title='owned'</script>&\"'"


def sections(evaluation, log, nve) -> list[Section]:
    water = Structure(
        "water", np.array([8, 1, 1]), np.array([[0, 0, 0], [0.96, 0, 0], [-0.24, 0.93, 0]]), np.eye(3) * 5
    )
    return [
        Section("Summary", text=[EVIL], facts={"force MAE": "34.7 meV/Å", EVIL: EVIL}),
        Section("Training", figures=[(plots.learning_curves(log), EVIL)]),
        *report.error_sections(evaluation(30), of="test frames", worst=3),
        report.dynamics_section(*nve, 10, facts={"energy drift": "0.01 meV/atom/ps"}),
        report.relaxation_section(np.exp(-np.arange(20.0)), np.exp(-np.arange(20.0)), target=0.01),
        Section("Shown", structures=[water, Structure(EVIL, np.array([26]), np.zeros((1, 3)))]),
        Section("Configuration", code="model:\n  lmax: 2\n" + EVIL, folded=True),
        Section("Continue", commands=["covarium md run/best.safetensors start.xyz", EVIL]),
    ]


@pytest.fixture(scope="module")
def page(evaluation, log, nve) -> str:
    return report.html("Aspirin " + EVIL, sections(evaluation, log, nve), subtitle=EVIL)


class Reader(HTMLParser):
    """What stands on the page: open elements, attributes that load something, text."""

    def __init__(self) -> None:
        super().__init__()
        self.stack: list[str] = []
        self.loads: list[str] = []
        self.ids: list[str] = []
        self.scripts = 0
        self.text = ""

    def handle_starttag(self, tag, attrs):
        if tag not in ("meta", "link", "input", "br"):
            self.stack.append(tag)
        self.scripts += tag == "script"
        for name, value in attrs:
            if name == "id":
                self.ids.append(value)
            if name in ("src", "href", "xlink:href", "action"):
                self.loads.append(value)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in ("meta", "link", "input", "br"):
            self.stack.pop()

    def handle_endtag(self, tag):
        assert self.stack.pop() == tag

    def handle_data(self, data):
        if not self.stack or self.stack[-1] not in ("script", "style"):
            self.text += data


def test_well_formed_escaped_and_self_contained(page):
    reader = Reader()
    reader.feed(page)
    assert reader.stack == []
    assert reader.scripts == 3  # two viewers' data and the viewer; none of the text became one
    assert all(value.startswith(("#", "data:")) for value in reader.loads)
    assert len(reader.ids) == len(set(reader.ids))
    assert {v[1:] for v in reader.loads if v.startswith("#")} <= set(reader.ids)
    assert set(re.findall(r"url\(#([^)]+)\)", page)) <= set(reader.ids)
    assert reader.text.count(EVIL) >= 6
    for title in ("Summary", "Errors: test frames", "Worst frames: test frames", "Molecular dynamics", "Relaxation"):
        assert title in reader.text


def test_pictures_take_the_colour_of_the_text(page):
    assert plots.INK not in page
    assert "currentColor" in page


def test_bonds_and_limits_of_the_viewer():
    ethane_like = np.array([[0, 0, 0], [1.5, 0, 0], [4.5, 0, 0]])
    drawn = report._drawn(Structure("x", np.array([6, 6, 1]), ethane_like))
    assert drawn["bonds"] == [[0, 1]]
    with pytest.raises(CovariumError, match="2001 atoms"):
        report._drawn(Structure("x", np.ones(2001, dtype=int), np.zeros((2001, 3))))


def test_numbers_stand_to_the_right():
    text = report.html("x", [Section("t", tables=[Table("c", ("name", "value"), (("a", "1,234"), ("b", "—")))])])
    assert text.count('<td class="number">') == 2
    assert "<td>a</td>" in text


def test_written_at_once_or_not_at_all(tmp_path):
    path = tmp_path / "report.html"
    report.write(path, "first", [])
    report.write(path, "second", [])
    assert "<h1>second</h1>" in path.read_text(encoding="utf-8")
    assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(CovariumError, match="cannot write"):
        report.write(path / "report.html", "x", [])
    assert "<h1>second</h1>" in path.read_text(encoding="utf-8")


def browse(page: Path, profile: Path, *extra: str) -> tuple[str, list[str]]:
    """The document after its scripts have run, and what the browser's console has to say."""
    assert BROWSER is not None
    options = (
        "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
        "--disable-component-update --disable-sync --enable-logging=stderr --virtual-time-budget=4000 --dump-dom"
    ).split()
    run = subprocess.run(
        [BROWSER, *options, f"--user-data-dir={profile}", *extra, page.as_uri()],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    return run.stdout, [line for line in run.stderr.splitlines() if "CONSOLE" in line]


needs_browser = pytest.mark.skipif(BROWSER is None, reason="no chromium on this machine; apt-get install chromium")

# Run inside the page: counts what is painted, before and after the reader does something.
DRIVER = """<script>setTimeout(() => {
  const canvas = document.querySelector("canvas"), root = document.querySelector(".viewer");
  const ink = () => canvas.toDataURL();
  const empty = document.createElement("canvas");
  const blank = () => { [empty.width, empty.height] = [canvas.width, canvas.height]; return empty.toDataURL(); };
  const seen = [ink()];
  const act = (f) => { f(); seen.push(ink()); };
  const press = (key) => canvas.dispatchEvent(new KeyboardEvent("keydown", { key, cancelable: true }));
  act(() => press("ArrowLeft"));
  act(() => root.querySelector("[name=closer]").click());
  act(() => root.querySelector("[name=error]").click());
  act(() => root.querySelector("[name=arrows]").click());
  act(() => { const s = root.querySelector("select"); s.value = "1"; s.dispatchEvent(new Event("change")); });
  const wide = document.documentElement.scrollWidth - document.documentElement.clientWidth;
  const rows = [...document.querySelectorAll("svg")].map((s) => Math.round(s.getBoundingClientRect().height));
  const out = document.createElement("pre");
  out.id = "seen"; out.textContent = JSON.stringify({ seen, wide, rows, blank: blank() }); document.body.append(out);
}, 800);</script>"""


@needs_browser
@pytest.mark.parametrize("width", [1100, 500])
def test_a_browser_draws_it_without_complaint(page, tmp_path, width):
    path = tmp_path / "report.html"
    path.write_text(page + DRIVER, encoding="utf-8")
    document, console = browse(path, tmp_path / "profile", f"--window-size={width},900")
    assert console == []
    assert "<title>owned" not in document  # what the hostile text would have done
    found = json.loads(re.search(r'<pre id="seen">(.*?)</pre>', document, re.S).group(1))
    painted = found["seen"]
    assert found["blank"] not in painted  # atoms are there
    assert all(a != b for a, b in pairwise(painted))  # and each act shows
    assert found["wide"] <= 0  # the page itself never scrolls sideways
    assert min(found["rows"]) > 100


@needs_browser
def test_the_console_is_really_heard(tmp_path):
    path = tmp_path / "bad.html"
    text = report.html("x", [])
    path.write_text(text + "<script>undefinedName()</script><img src='https://example.org/x.png'>", encoding="utf-8")
    _, console = browse(path, tmp_path / "profile")
    assert any("undefinedName" in line for line in console)
    assert any("Content Security Policy" in line for line in console)  # nothing from outside is fetched
