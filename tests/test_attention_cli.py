"""``covarium attention`` as a user types it, and its report in a browser."""

import json
import re

import ase.io
import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule
from command import call
from test_report import BROWSER, browse, needs_browser

from covarium import checkpoint
from covarium.models import MODELS
from covarium.tasks import Potential

NAMES = ("CH3CH2OH", "H2O", "C6H6", "CH3OH", "NH3")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Models and structures."""
    place = tmp_path_factory.mktemp("attention")
    sizes = {
        "torchmd_et": {"num_layers": 2, "embedding_dimension": 16, "num_heads": 2},
        "equiformer": {"irreps_node": "8x0e+4x1e", "num_layers": 1},
        "equiformer_v2": {"num_layers": 2, "lmax": 2, "sphere_channels": 8, "num_heads": 2},
    }
    for name, size in sizes.items():
        torch.manual_seed(0)
        model, config = MODELS[name]
        references = dict.fromkeys((1, 6, 7, 8), 0.0)
        task = Potential(model(config(**size)), references=references, forces="gradient", scale=1.0)
        checkpoint.save(place / f"{name}.safetensors", task, {})
    frames = [molecule(name) for name in NAMES for _ in range(3)]
    for k, atoms in enumerate(frames):
        atoms.rattle(0.05, seed=k)
    ase.io.write(place / "molecules.extxyz", frames, format="extxyz")
    ase.io.write(place / "diamond.extxyz", bulk("C", cubic=True), format="extxyz")
    overlapping = [molecule("H2O"), Atoms("OH2", [[0, 0, 0], [0, 0, 0], [0, 0, 1]])]
    ase.io.write(place / "overlapping.extxyz", overlapping, format="extxyz")
    ase.io.write(place / "helium.extxyz", Atoms("He2", [[0, 0, 0], [0, 0, 2]]), format="extxyz")
    return place


@pytest.fixture(scope="module")
def made(folder):
    out = folder / "out"
    model = folder / "torchmd_et.safetensors"
    options = ("--index", "0", "--index", "7", "--out", out)
    assert call("attention", model, folder / "molecules.extxyz", *options) == 0
    return out


def test_everything_is_written_and_fits_together(made):
    assert sorted(p.name for p in made.iterdir()) == ["attention.json", "attention.npz", "heatmaps", "report.html"]
    pictures = sorted(p.name for p in (made / "heatmaps").iterdir())
    assert pictures == ["element_pairs.png", "layers_and_heads.png", "rollout_0.png", "rollout_1.png"]
    assert all((made / "heatmaps" / name).read_bytes().startswith(b"\x89PNG") for name in pictures)
    tables = json.loads((made / "attention.json").read_text())
    assert (tables["structures"], len(tables["layers"])) == (15, 2)
    data = np.load(made / "attention.npz")
    assert data["index"].tolist() == [0, 7]
    starts, edges, pairs = (data[f"{name}_start"] for name in ("atom", "edge", "rollout"))
    assert np.diff(starts).tolist() == [9, 12]
    assert data["weights"].shape == (2, edges[-1], 2)
    assert data["loop_weights"].shape == (2, 21, 2)
    assert "envelope" not in data
    for k in range(2):
        own = slice(edges[k], edges[k + 1])
        index, n = data["edge_index"][:, own], starts[k + 1] - starts[k]
        assert index.max() == n - 1 and np.bincount(index[1]).tolist() == np.bincount(index[0]).tolist()
        positions = data["positions"][starts[k] : starts[k + 1]]
        distance = np.linalg.norm(positions[index[0]] - positions[index[1]], axis=1)
        np.testing.assert_allclose(distance, data["distance"][own], rtol=0, atol=1e-5)
        dense = np.zeros((n, n))
        dense[tuple(data["rollout_index"][:, pairs[k] : pairs[k + 1]])] = data["rollout"][pairs[k] : pairs[k + 1]]
        np.testing.assert_allclose(dense.sum(1), 1, rtol=0, atol=1e-12)
        given = dense.sum(0) - np.diag(dense)
        np.testing.assert_allclose(data["received"][starts[k] : starts[k + 1]], given / given.mean(), rtol=1e-10)


def test_tables_are_over_all_and_the_rest_is_counted(folder, tmp_path, capsys):
    arguments = (folder / "equiformer_v2.safetensors", folder / "molecules.extxyz", "--keep", "0", "--out", tmp_path)
    assert call("attention", *arguments) == 0
    told = capsys.readouterr().out
    assert "15 structures are in the tables only" in told
    assert re.search(r"H → C\s+\d", told) and "attention and bonds: correlation" in told
    assert not (tmp_path / "attention.npz").exists()
    assert (tmp_path / "report.html").exists()


def test_nothing_of_an_earlier_call_stays(folder, tmp_path):
    first, second = folder / "torchmd_et.safetensors", folder / "equiformer_v2.safetensors"
    assert call("attention", first, folder / "molecules.extxyz", "--keep", "2", "--out", tmp_path) == 0
    (tmp_path / "heatmaps" / "mine.png").touch()
    before = {path for path in tmp_path.rglob("*") if path.is_file()}
    assert call("attention", second, folder / "molecules.extxyz", "--keep", "0", "--out", tmp_path) == 0
    gone = {path.name for path in before if not path.exists()}
    assert gone == {"attention.npz", "rollout_0.png", "rollout_1.png"}, "a user's own files are not touched"


def test_a_crystal(folder, tmp_path):
    assert call("attention", folder / "equiformer_v2.safetensors", folder / "diamond.extxyz", "--out", tmp_path) == 0
    data = np.load(tmp_path / "attention.npz")
    assert data["envelope"].shape == data["distance"].shape
    np.testing.assert_allclose(data["received"], 1, rtol=0, atol=1e-5)  # all atoms are alike
    assert '"offsets":[[' in (tmp_path / "report.html").read_text()
    (pair,) = json.loads((tmp_path / "attention.json").read_text())["pairs"]
    assert pair["pairs"] == 56 and pair["bond_probability"] == pytest.approx(4 / 7)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("{}/none.safetensors", "{}/molecules.extxyz"), "does not exist"),
        (("{}/torchmd_et.safetensors", "{}/none.extxyz"), "none.extxyz"),
        (("{}/torchmd_et.safetensors", "{}/molecules.extxyz", "--index", "15"), "--index 15: there are 15 structures"),
        (("{}/torchmd_et.safetensors", "{}/helium.extxyz"), "helium.extxyz, frame 0: atom 0 has atomic number 2"),
        (("{}/equiformer.safetensors", "{}/overlapping.extxyz"), "frame 1: the attention weights are not finite"),
        (("{}/torchmd_et.safetensors", "{}/molecules.extxyz", "--out", "{}/run"), "holds a run"),
        (("{}/torchmd_et.safetensors", "{}/molecules.extxyz", "--set", "model.lmax=3"), "only settings of data do"),
    ],
)
def test_mistakes_are_told(folder, capsys, arguments, message):
    (folder / "run").mkdir(exist_ok=True)
    (folder / "run" / "best.safetensors").touch()
    assert call("attention", *(a.format(folder) for a in arguments)) == 2
    told = capsys.readouterr().err
    assert told.startswith("error: ") and message in told and "should not happen" not in told


def test_other_models_are_refused(folder, tmp_path, capsys):
    assert call("make", "nbody", tmp_path / "nbody.npz", "--samples", "8") == 0
    tiny = "--set training.steps=2 --set model.name=gatr --threads 1".split()
    assert call("train", tmp_path / "nbody.npz", *tiny, "--out", tmp_path / "run") == 0
    capsys.readouterr()
    assert call("attention", tmp_path / "run", tmp_path / "nbody.npz", "--out", tmp_path / "out") == 2
    assert "GATr has no attention over the edges of atoms; models that do:" in capsys.readouterr().err


# What a reader does; each act has to change what is painted, until the pointer leaves again.
DRIVER = """<script>setTimeout(() => {
  const root = document.querySelector(".viewer"), canvas = root.querySelector("canvas");
  const box = canvas.getBoundingClientRect();
  const seen = [canvas.toDataURL()], out = root.querySelector("output");
  const act = (f) => { f(); seen.push(canvas.toDataURL()); };
  const layer = root.querySelector("[name=layer]");
  const choose = (k) => { layer.selectedIndex = k; layer.dispatchEvent(new Event("change")); };
  const point = (x, y) =>
    canvas.dispatchEvent(new PointerEvent("pointermove", { clientX: box.left + x, clientY: box.top + y }));
  act(() => choose(1));
  act(() => choose(layer.options.length - 1));
  act(() => choose(0));
  let told = "";
  act(() => {
    for (let y = 0; y < box.height && !told; y += 6)
      for (let x = 0; x < box.width && !told; x += 6) { point(x, y); told = out.textContent; }
  });
  act(() => point(1, 1));
  act(() => root.querySelector("[name=received]").click());
  const names = [...layer.options].map((o) => o.text);
  const shown = (n) => !root.querySelector(`[name=${n}]`).parentElement.hidden;
  const found = document.createElement("pre");
  found.id = "seen"; found.textContent = JSON.stringify({
    seen, told, names, shown: ["error", "arrows", "received", "layer"].filter(shown) }); document.body.append(found);
}, 800);</script>"""


@needs_browser
def test_a_browser_draws_edges_and_atoms(made, tmp_path):
    assert BROWSER is not None
    page = tmp_path / "page.html"
    page.write_text((made / "report.html").read_text(encoding="utf-8") + DRIVER, encoding="utf-8")
    document, console = browse(page, tmp_path / "profile", "--window-size=1100,900")
    assert console == []
    found = json.loads(re.search(r'<pre id="seen">(.*?)</pre>', document, re.S).group(1))
    first, layer, none, again, pointed, left, plain = found["seen"]
    assert len({first, layer, none, pointed, plain}) == 5
    assert again == first and left == first
    assert re.fullmatch(r"atom \d+: [CHO], attention received [\d.]+ even shares", found["told"])
    assert found["names"] == [
        "mean of the layers",
        "representation_model.attention_layers.0",
        "representation_model.attention_layers.1",
        "none",
    ]
    assert found["shown"] == ["received", "layer"]
