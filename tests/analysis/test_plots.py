"""Pictures: they hold what they should, the same input gives the same bytes, and bad input is refused."""

import io
from itertools import pairwise

import matplotlib as mpl
import numpy as np
import pytest
from PIL import Image

from covarium.analysis import plots
from covarium.errors import CovariumError

STEPS = np.arange(30.0)
FIGURES = {
    "parity": lambda evaluation, log, nve: plots.parity(evaluation(40)),
    "per element": lambda evaluation, log, nve: plots.parity_per_element(evaluation(40)),
    "one frame": lambda evaluation, log, nve: plots.parity(evaluation(1)),
    "force error": lambda evaluation, log, nve: plots.force_error_against_magnitude(evaluation(40)),
    "learning": lambda evaluation, log, nve: plots.learning_curves(log),
    "drift": lambda evaluation, log, nve: plots.energy_drift(*nve, 10),
    "relaxation": lambda evaluation, log, nve: plots.relaxation(np.exp(-STEPS), 3 * np.exp(-STEPS), 0.01),
}


@pytest.fixture
def draw(evaluation, log, nve):
    return lambda name: FIGURES[name](evaluation, log, nve)


@pytest.mark.parametrize("name", FIGURES)
def test_pictures_are_drawn_alike_each_time(name, draw):
    before = dict(mpl.rcParams)
    figure = draw(name)
    svg = plots.render(figure)
    assert svg == plots.render(draw(name))
    assert svg.startswith(b"<?xml")
    image = np.asarray(Image.open(io.BytesIO(plots.render(figure, "png", dpi=50))).convert("RGB"))
    assert image.std() > 5  # something is on it
    assert (image[0] == 255).all() and (image[:, 0] == 255).all()  # and nothing runs over the edge
    assert dict(mpl.rcParams) == before


@pytest.mark.parametrize("name", FIGURES)
def test_labels_do_not_overlap(name, draw):
    figure = draw(name)
    plots.render(figure)
    renderer = figure.canvas.get_renderer()
    for ax in figure.axes:
        for axis, (start, end) in ((ax.xaxis, ("x0", "x1")), (ax.yaxis, ("y0", "y1"))):
            low, high = axis.get_view_interval()
            ticks = [t for t in axis.get_major_ticks() + axis.get_minor_ticks() if low <= t.get_loc() <= high]
            labels = [t.label1 for t in ticks if t.label1.get_visible() and t.label1.get_text()]
            boxes = [label.get_window_extent(renderer) for label in labels]
            ends = sorted((getattr(box, start), getattr(box, end)) for box in boxes)
            assert all(one[1] < other[0] for one, other in pairwise(ends))


def test_axes_have_units(evaluation, nve):
    parity = plots.parity(evaluation(40))
    assert [ax.get_xlabel() for ax in parity.axes] == ["label (meV/atom)", "label (eV/Å)"]
    drift = plots.energy_drift(*nve, 10)
    assert drift.axes[1].get_xlabel() == "time (ps)"


def test_drift_line_has_the_slope_of_the_data(nve):
    time, _ = nve
    figure = plots.energy_drift(time, -5.0 + 2e-8 * time, 4)
    label = figure.axes[0].get_lines()[1].get_label()
    assert label == "drift +0.005 meV/atom/ps"  # 2e-8 eV/fs = 2e-2 meV/ps over 4 atoms


def test_large_clouds_are_thinned(evaluation, monkeypatch):
    monkeypatch.setattr(plots, "MAX_POINTS", 500)
    many = evaluation(60)
    figure = plots.parity(many)
    assert len(figure.axes[1].collections[0].get_offsets()) == 500
    of_all = many.to_json()["forces"]["mae"] * 1e3
    assert f"MAE {of_all:.3g} meV/Å" in figure.axes[1].texts[0].get_text()


def test_energies_only_and_nothing_at_all(evaluation):
    assert len(plots.parity(evaluation(5, labels=("energy",))).axes) == 1
    with pytest.raises(CovariumError, match="neither"):
        plots.parity(evaluation(5, labels=()))
    with pytest.raises(CovariumError, match="force labels"):
        plots.parity_per_element(evaluation(5, labels=("energy",)))


def test_columns_of_a_log(tmp_path):
    path = tmp_path / "log.csv"
    path.write_text("step,loss,valid_forces_mae\n10,1.5,\n20,1.25,0.5\n30,nan")
    columns = plots.read_columns(path)
    assert columns["step"].tolist() == [10, 20, 30]
    assert np.isnan(columns["loss"][2]) and np.isnan(columns["valid_forces_mae"][[0, 2]]).all()
    assert len(plots.learning_curves(columns).axes) == 2
    with pytest.raises(CovariumError, match="cannot read"):
        plots.read_columns(tmp_path / "other.csv")
    path.write_text("step,loss\n")
    with pytest.raises(CovariumError, match="no rows"):
        plots.read_columns(path)
    with pytest.raises(CovariumError, match="epoch"):
        plots.learning_curves({"epoch": np.arange(3.0)})


def test_failed_runs_are_refused(nve):
    time, energy = nve
    with pytest.raises(CovariumError, match="three or more"):
        plots.energy_drift(time[:2], energy[:2], 3)
    with pytest.raises(CovariumError, match="not finite"):
        plots.energy_drift(time, np.where(time > 400, np.nan, energy), 3)
