"""Tables in the pages are those of the records."""

import json
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def benchmarks(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    before = set(sys.modules)
    import cells
    import linearity
    import models
    import published
    import speed

    yield cells, models, published, speed, linearity
    for name in set(sys.modules) - before:
        if str(ROOT / "benchmarks") in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]  # names as plain as these are not left behind


def _cell(name, model, **errors):
    measured = {part: {"forces": f, "energy": 2 * f, "energy_per_atom": f / 10} for part, f in errors.items()}
    return {
        "cell": [name, model, "10min"], "budget_cpu_s": 600.0, "parameters": 1000, "steps": 20, "cpu_s_per_step": 0.5,
        "peak_mb": 400.0, "errors": measured,
    }  # fmt: skip


def test_pages_hold_the_records(benchmarks):
    cells, models, published, speed, linearity = benchmarks
    told = {
        "speed": speed.table(cells.recorded("speed")),
        "beside": speed.beside_table(cells.recorded("speed")),
        "models": models.table(cells.recorded("models")),
        "ablation": published.ablation_table(cells.recorded("ablation")),
        "qm9": published.qm9_table(cells.recorded("qm9")),
    }
    of_speed = {"linearity": linearity.table(cells.recorded("linearity"))}
    found = set()
    for page in {*models.PAGES, *speed.PAGES}:
        for name, text in re.findall(r"<!-- table: (\w+) -->\n\n(.*?)\n<!-- end -->", page.read_text("utf-8"), re.S):
            assert text == (told | of_speed)[name], f"{page}: {name}; `--tables` of the benchmark writes it"
            found.add((page.name, name))
    elsewhere = {("choosing.md", "models"), ("speed.md", "speed"), ("speed.md", "beside"), ("speed.md", "linearity")}
    assert found == {*elsewhere, *(("README.md", name) for name in told)}


def test_best_is_bold_and_what_is_missing_is_named(benchmarks):
    _, models, *_ = benchmarks
    text = models.table([_cell("aspirin", "mace", test=3.0), _cell("aspirin", "torchmd_et", test=2.0)])
    lines = text.splitlines()
    assert lines[0] == "10 CPU minutes of one thread each:"
    assert lines[4] == "| rMD17 aspirin | TorchMD-NET ET | 1,000 | 20 | 0.5 | 400 | **2.0** | 4.0 | 0.20 |"
    assert lines[5] == "| rMD17 aspirin | MACE 32x0e+32x1o | 1,000 | 20 | 0.5 | 400 | 3.0 | 6.0 | 0.30 |"
    assert "rMD17 aspirin (EquiformerV2, EquiformerV3, Equiformer)" in lines[-1]
    assert "3BPA (all models)" in lines[-1]


def test_each_test_file_has_its_rows(benchmarks):
    _, models, *_ = benchmarks
    text = models.table([_cell("3bpa", "mace", **{"300 K": 3.0, "600 K": 5.0})])
    assert re.findall(r"3BPA, (\d+) K", text) == ["300", "600"]


def test_done_cells_are_not_run_again(benchmarks, monkeypatch, tmp_path):
    cells, *_ = benchmarks
    monkeypatch.setattr(cells, "RECORDS", tmp_path)
    cells.record("x", ("a", "b"), {"value": 1.5})
    assert cells.recorded("x")[0]["value"] == 1.5
    writes = "import sys, pathlib; pathlib.Path(sys.argv[1], '_'.join(sys.argv[3:])).write_text('')"
    cells.drive("x", [("a", "b"), ("a", "c")], ["-c", writes, str(tmp_path)], 2, tmp_path / "work")
    assert (tmp_path / "a_c").exists() and not (tmp_path / "a_b").exists()


def test_the_budget_is_cpu_time(benchmarks, monkeypatch, tmp_path):
    """Waiting uses none of it: the clock on the wall runs far beyond."""
    import time

    import ase.io
    import numpy as np
    from ase.build import molecule
    from ase.calculators.emt import EMT

    from covarium.training import loop
    from covarium.workflows.configuring import configure

    cells, *_ = benchmarks
    frames = []
    for k in range(12):
        frames.append(molecule("CH4"))
        frames[-1].rattle(0.05, rng=np.random.default_rng(k))
        frames[-1].calc = EMT()
        frames[-1].get_forces()
    ase.io.write(tmp_path / "data.extxyz", frames)
    given = {
        "data": {"train": [str(tmp_path / "data.extxyz")], "split_by": "frame"}, "threads": 1,
        "model": {"name": "torchmd_et", "num_layers": 1, "embedding_dimension": 8, "num_heads": 2},
        "training": {"time_s": 2.0, "batch_size": 4},
    }  # fmt: skip
    monkeypatch.setattr(loop, "time", loop.time)  # put back afterwards
    watched = cells.Watch.__call__
    monkeypatch.setattr(cells.Watch, "__call__", lambda self, event: (watched(self, event), time.sleep(0.05)))
    start = time.monotonic()
    outcome, row = cells.budgeted(configure(given=given), tmp_path / "run")
    assert row["steps"] == outcome.result.steps > 20 and row["peak_mb"] > 50
    assert row["training_cpu_s"] <= 2.0 + 10 * max(row["cpu_s_per_step"], 0.02)
    assert time.monotonic() - start >= 0.05 * row["steps"] + row["training_cpu_s"]


@pytest.mark.parametrize("point", ["exchange", "level"])
def test_the_page_of_slmc_holds_its_records(point):
    page = (ROOT / "docs" / "slmc.md").read_text(encoding="utf-8")
    summary = (ROOT / "benchmarks" / "README.md").read_text(encoding="utf-8")
    (record,) = (ROOT / "benchmarks" / "records").glob(f"*-slmc-depth-{point}/record.json")
    rows = json.loads(record.read_text())["rows"]
    for row in rows:
        measured = f"{row['acceptance']:.3f} ± {row['acceptance_error']:.3f}"
        name = row["layers"] or "0, linear"
        line = (
            f"| {name} | {row['parameters']} | {row['train_mse']:.2f} | {row['test_mse']:.2f} | {measured} | "
            f"{row['independent']:.3f} | {row['exp_minus_root_mse']:.3f} |"
        )
        assert line in page
        assert row["layers"] not in (0, 1, 2, 6) or f"{measured} ({row['independent']:.2f})" in summary
