"""Attention as models compute it, its rollout, and its tables."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from family_equiformer import equiformer_graph
from family_equiformer_v2 import _v2_graph
from family_equiformer_v3 import _graph as v3_graph
from family_torchmd_et import _graph as et_graph
from safetensors.torch import load_file

from covarium.analysis.attention import attention_of_frames, attention_rollout, even_rollout, observe, rollout
from covarium.analysis.attention_tables import Totals, bonds, received
from covarium.analysis.check import structure
from covarium.errors import CovariumError
from covarium.models import (
    MODELS,
    Equiformer,
    EquiformerV2,
    EquiformerV3,
    TorchMDET,
)
from covarium.ops.gather import scatter_sum
from covarium.pretrained import equiformer, equiformer_v2, equiformer_v3, torchmd_et
from covarium.systems import AtomGraph, atom_graph
from covarium.tasks import Potential

PARITY = Path(__file__).parents[1] / "parity"
SMALL = {
    "equiformer": {"num_layers": 2, "irreps_node": "8x0e+4x1e", "irreps_sh": "1x0e+1x1e", "irreps_head": "4x0e+2x1e",
                   "irreps_mlp": "8x0e+4x1e", "irreps_feature": "8x0e", "num_heads": 2},
    "equiformer_v2": {"num_layers": 2, "lmax": 2, "sphere_channels": 8, "num_heads": 2},
    "equiformer_v3": {"num_layers": 2, "lmax": 2, "num_channels": 8, "num_heads": 2},
    "torchmd_et": {"num_layers": 2, "embedding_dimension": 16, "num_heads": 2},
}  # fmt: skip
CASES = {
    **{name: (name, {}) for name in SMALL},
    "equiformer-linear": ("equiformer", {"attention": "linear_mlp"}),
    "equiformer-dot": ("equiformer", {"attention": "linear_dot_product", "energy_head": "attention"}),
    "equiformer_v2-published": ("equiformer_v2", {"envelope": "none", "force_head": True}),
    "equiformer_v3-forces": ("equiformer_v3", {"force_head": "gate"}),
    "torchmd_et-tanh": ("torchmd_et", {"attn_activation": "tanh", "cutoff_lower": 0.5}),
}


def model_of(case):
    name, changes = CASES[case]
    torch.manual_seed(0)
    model, config = MODELS[name]
    return model(config(**SMALL[name] | changes)).double()


def molecule(model, seed=0):
    positions = np.random.default_rng(seed).normal(size=(7, 3)) * 1.6
    return atom_graph(np.array([8, 1, 1, 6, 6, 7, 1]), positions, model.spec)


def crystal(model):
    cell = np.array([[3.1, 0, 0], [0.4, 3.3, 0], [0, -0.2, 3.6]])
    positions = np.array([[0, 0, 0], [1.6, 1.5, 1.9]])
    return atom_graph(np.array([6, 8]), positions, model.spec, cell=cell, pbc=np.ones(3, dtype=bool))


def stacked(attention):
    return torch.stack([layer.weights for layer in attention.layers])


# what models compute -------------------------------------------------------------------------------------------------


def compare(found, reference):
    assert len(found.layers) == len(reference)
    for layer, theirs in zip(found.layers, reference, strict=True):
        np.testing.assert_allclose(layer.weights.numpy(), theirs.reshape(layer.weights.shape), rtol=0, atol=1e-10)


def description(family, case):
    return json.loads((PARITY / family / case / "config.json").read_text())


def tensors(family, case):
    return {k: torch.from_numpy(v) for k, v in np.load(PARITY / family / case / "inputs.npz").items()}


@pytest.mark.parametrize(
    "case", ["qm9_l2_dotproduct_gaussian", "qm9_l2_nonlinear_bessel", "oc20_l1_nonlinear", "md17_e3_nonlinear_exp"]
)
def test_equiformer_gives_the_weights_of_the_published_code(case):
    told = description("equiformer", case)
    model = Equiformer(equiformer.config_from_official(told["class_"], told["constructor"])).double()
    folder = PARITY / "equiformer" / case
    weights = load_file(folder / "weights.safetensors")
    model.load_state_dict(equiformer.parameters_from_official(weights, model.state_dict()))
    found = observe(model, equiformer_graph(tensors("equiformer", case)))
    reference = np.load(folder / "outputs.npz")
    compare(found, [reference[f"attn_alpha_{k}"] for k in range(len(found.layers))])
    assert f"attn_alpha_{len(found.layers)}" not in reference


def test_equiformer_v2_gives_the_weights_of_the_published_code():
    case = "b1_gate_mshare_energy"
    config = equiformer_v2.config_from_official(description("equiformer_v2", case)["constructor"])
    model = EquiformerV2(config).double()
    folder = PARITY / "equiformer_v2" / case
    weights = load_file(folder / "weights.safetensors")
    model.load_state_dict(equiformer_v2.parameters_from_official(weights, model.state_dict()))
    found = observe(model, _v2_graph(dict(np.load(folder / "inputs.npz"))))
    compare(found, [np.load(folder / "outputs.npz")[f"block{k}_alpha"] for k in range(2)])


def test_equiformer_v3_gives_the_weights_of_the_published_code():
    told = description("equiformer_v3", "grad_l3m2")
    config = equiformer_v3.config_from_official(told["constructor"], told["model_class"])
    model = EquiformerV3(config).double()
    folder = PARITY / "equiformer_v3" / "grad_l3m2"
    weights = load_file(folder / "weights.safetensors")
    model.load_state_dict(equiformer_v3.parameters_from_official(weights, model.state_dict(), config))
    inputs = {k: torch.from_numpy(v) for k, v in np.load(folder / "slab" / "inputs.npz").items()}
    found = observe(model, v3_graph(inputs))
    reference = np.load(folder / "slab" / "outputs.npz")
    names = sorted(name for name in reference if name.endswith("attn_softmax"))
    compare(found, [reference[name] for name in names])
    np.testing.assert_allclose(found.envelope.numpy(), reference["hook.edge_envelope"].ravel(), rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    "case", ["atomref_meanstd", "dipole_equivariant", "expnorm_both_vectorcutoff", "gauss_keys", "lower_cutoff"]
)
def test_torchmd_et_gives_the_weights_of_the_published_code_with_its_loops(case):
    told = description("torchmd_et", case)
    model = TorchMDET(torchmd_et.config_from_official(told["args"], told["output_module"])).double()
    folder = PARITY / "torchmd_et" / case
    weights = load_file(folder / "weights.safetensors")
    model.load_state_dict(torchmd_et.parameters_from_official(weights, model.state_dict()))
    graph, in_their_order = et_graph(tensors("torchmd_et", case))
    found = observe(model, graph)
    for k, layer in enumerate(found.layers):
        ours = in_their_order(layer.weights, layer.loops).numpy()
        theirs = np.load(folder / "outputs.npz")[f"attn_act_cutoff_{k}"]
        np.testing.assert_allclose(ours, theirs.reshape(ours.shape), rtol=0, atol=1e-10)


@pytest.mark.parametrize("case", CASES)
def test_rows_of_a_softmax_sum_to_one_and_nothing_stays_behind(case):
    model = model_of(case).train()
    graph = molecule(model)
    before = model.eval()(graph).energy
    model.train()
    found = observe(model, graph)
    assert model.training
    assert all(not module._forward_hooks for module in model.modules())
    torch.testing.assert_close(model.eval()(graph).energy, before, rtol=0, atol=0)
    assert [layer.repeated for layer in found.layers][:2] == [True, True]
    for layer in found.layers:
        assert layer.weights.shape == (graph.edge_index.shape[1], 2)
        assert (layer.loops is not None) == case.startswith("torchmd")
        if layer.loops is None:
            sums = scatter_sum(layer.weights, graph.edge_index[1], graph.num_atoms)
            torch.testing.assert_close(sums, torch.ones_like(sums), rtol=0, atol=1e-12)
            applied = scatter_sum(found.applied(layer), graph.edge_index[1], graph.num_atoms)
            assert bool((applied <= sums + 1e-12).all())
    smooth = "published" not in case and not case.startswith("torchmd")
    assert (found.envelope is not None) == smooth


def test_heads_beside_the_blocks_are_no_part_of_the_rollout():
    for case, head in (("equiformer-dot", "head"), ("equiformer_v2-published", "force_block")):
        model = model_of(case)
        graph = molecule(model)
        found = observe(model, graph)
        assert [(layer.name.split(".")[0], layer.repeated) for layer in found.layers] == [
            ("blocks", True), ("blocks", True), (head, False),
        ]  # fmt: skip
        shorter = replace(found, layers=found.layers[:2])
        whole, cut = attention_rollout(found, graph).toarray(), attention_rollout(shorter, graph).toarray()
        assert (whole == cut).all()


@pytest.mark.parametrize("case", CASES)
def test_weights_and_rollout_go_with_the_atoms(case):
    model = model_of(case)
    for graph in (molecule(model), crystal(model)):
        order = torch.randperm(graph.num_atoms, generator=torch.Generator().manual_seed(1))
        place = torch.argsort(order)  # where each atom went
        edges = place[graph.edge_index]
        sort = torch.argsort(edges[1], stable=True)
        moved = replace(
            graph, positions=graph.positions[order], numbers=graph.numbers[order], edge_index=edges[:, sort],
            shifts=graph.shifts[sort],
        )  # fmt: skip
        first, second = observe(model, graph), observe(model, moved)
        torch.testing.assert_close(stacked(second), stacked(first)[:, sort], rtol=0, atol=1e-10)
        one, other = attention_rollout(first, graph).toarray(), attention_rollout(second, moved).toarray()
        np.testing.assert_allclose(other, one[order][:, order], rtol=0, atol=1e-10)


@pytest.mark.parametrize("case", CASES)
def test_weights_do_not_know_which_way_is_up(case):
    model = model_of(case)
    g = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(2)))[0]
    g = g * torch.linalg.det(g)
    for graph in (molecule(model), crystal(model)):
        one, other = observe(model, graph), observe(model, graph.transform(g))
        torch.testing.assert_close(stacked(other), stacked(one), rtol=0, atol=1e-10)


@pytest.mark.parametrize("case", CASES)
def test_tiles_give_the_same_weights(case):
    """Whether the model works on tiles of edges or on all at once."""
    model = model_of(case)
    graph = AtomGraph.collate([molecule(model), crystal(model), molecule(model, 3)])
    whole = observe(model, graph)
    model.tile = 9
    assert len(graph.tiles(9)) > 5
    tiled = observe(model, graph)
    assert [layer.name for layer in tiled.layers] == [layer.name for layer in whole.layers]
    torch.testing.assert_close(stacked(tiled), stacked(whole), rtol=0, atol=1e-12)
    if whole.envelope is not None:
        torch.testing.assert_close(tiled.envelope, whole.envelope, rtol=0, atol=0)


def test_an_atom_alone_keeps_to_itself():
    for case in CASES:
        model = model_of(case)
        graph = atom_graph(np.array([8]), np.zeros((1, 3)), model.spec)
        found = observe(model, graph)
        np.testing.assert_allclose(attention_rollout(found, graph).toarray(), [[1.0]], rtol=0, atol=1e-15)


def test_models_without_attention_over_edges_are_refused():
    model, config = MODELS["gatr"]
    with pytest.raises(
        CovariumError, match="GATr has no attention over the edges of atoms; models that do: equiformer"
    ):
        observe(model(config()), None)


# rollout -------------------------------------------------------------------------------------------------------------


def test_rollout_of_two_atoms():
    edges = np.array([[1, 0], [0, 1]])
    one = rollout([np.ones((2, 3))], [None], edges, 2)
    np.testing.assert_allclose(one.toarray(), [[0.5, 0.5], [0.5, 0.5]], rtol=0, atol=1e-15)
    # |−1| beside a loop of 3: W = [[3/4, 1/4], [1/4, 3/4]], A = [[7/8, 1/8], [1/8, 7/8]], and A A
    two = rollout([-np.ones((2, 1))] * 2, [np.full((2, 1), 3.0)] * 2, edges, 2)
    np.testing.assert_allclose(two.toarray(), np.array([[50, 14], [14, 50]]) / 64, rtol=0, atol=1e-15)


def test_rollout_goes_from_the_last_layer_to_the_first():
    """0 attends to 1 in the last layer, 1 to 2 in the first: 0 reaches 2, and 2 nobody."""
    edges = np.array([[1, 2], [0, 1]])
    first, last = np.array([[0.0], [1.0]]), np.array([[1.0], [0.0]])
    found = rollout([first, last], [None, None], edges, 3).toarray()
    np.testing.assert_allclose(found, [[0.5, 0.25, 0.25], [0, 0.5, 0.5], [0, 0, 1]], rtol=0, atol=1e-15)


def test_heads_are_averaged_and_images_of_an_atom_added():
    edges = np.array([[1, 1, 2], [0, 0, 0]])
    weights = np.array([[1.0, 3.0], [2.0, 2.0], [0.0, 8.0]])  # means 2, 2 and 4
    found = rollout([weights], [None], edges, 3).toarray()
    np.testing.assert_allclose(found[0], [0.5, 0.25, 0.25], rtol=0, atol=1e-15)


@pytest.mark.parametrize("case", ["equiformer_v2", "torchmd_et"])
def test_rollout_is_that_of_dense_matrices(case):
    model = model_of(case)
    graph = AtomGraph.collate([molecule(model), crystal(model)])
    found = observe(model, graph)
    j, i = graph.edge_index
    dense = torch.eye(graph.num_atoms, dtype=torch.float64)
    for layer in found.layers:
        w = torch.zeros_like(dense)
        w.index_put_((i, j), found.applied(layer).abs().mean(1), accumulate=True)
        if layer.loops is not None:
            w = w + torch.diag(layer.loops.abs().mean(1))
        dense = (w / w.sum(1, keepdim=True) + torch.eye(graph.num_atoms)) / 2 @ dense
    got = attention_rollout(found, graph).toarray()
    np.testing.assert_allclose(got, dense.numpy(), rtol=0, atol=1e-14)
    np.testing.assert_allclose(got.sum(1), 1, rtol=0, atol=1e-13)
    assert (got[:7, 7:] == 0).all()  # nothing crosses from one structure to another


# tables --------------------------------------------------------------------------------------------------------------

WATER = structure([8, 1, 1], [[0, 0, 0], [0.96, 0, 0], [-0.24, 0.93, 0]])


def task(case="torchmd_et"):
    references = dict.fromkeys((1, 6, 7, 8), 0.0)
    return Potential(model_of(case), references=references, forces="gradient", scale=1.0)


def test_bonds():
    assert bonds(WATER).T.tolist() == [[0, 1], [0, 2], [1, 0], [2, 0]]
    # a chain through the wall of the cell
    hydrogen = structure([1, 1], [[0.1, 5, 5], [9.4, 5, 5]], np.eye(3) * 10)
    assert bonds(hydrogen).T.tolist() == [[0, 1], [1, 0]]
    assert bonds(structure([6], [[0, 0, 0]], np.eye(3) * 1.5)).size == 0  # its own images are no pairs


def test_tables_of_water():
    (one,) = attention_of_frames(task(), [WATER])
    totals = Totals(one.layers, 2)
    for _ in range(2):
        totals.add(one)
    rows = {(r["target"], r["source"]): r for r in totals.pair_rows()}
    assert {key: (r["pairs"], r["bond_probability"]) for key, r in rows.items()} == {
        ("H", "H"): (4, 0.0), ("H", "O"): (4, 1.0), ("O", "H"): (4, 1.0),
    }  # fmt: skip
    dense = one.rollout.toarray()
    assert rows["O", "H"]["rollout"] == pytest.approx(dense[0, 1:].mean(), abs=1e-14)
    assert rows["H", "O"]["rollout"] == pytest.approx(dense[1:, 0].mean(), abs=1e-14)
    off = dense - np.diag(np.diag(dense))
    assert rows["H", "O"]["shares"] == pytest.approx(dense[1:, 0].mean() / (off.sum() / 6), abs=1e-13)
    # of equal weights in a molecule whose atoms all see each other every share is even
    assert [r["even_weights"] for r in rows.values()] == pytest.approx([1, 1, 1])
    elements = {r["element"]: r for r in totals.element_rows()}
    assert (elements["H"]["atoms"], elements["O"]["atoms"]) == (4, 2)
    own = received(one.rollout)
    assert own.mean() == pytest.approx(1)
    assert elements["O"]["received"] == pytest.approx(own[0])
    assert elements["H"]["received"] == pytest.approx(own[1:].mean())
    assert elements["H"]["spread"] == pytest.approx(own[1:].std(), abs=1e-7)
    assert json.loads(json.dumps(totals.to_json()))["structures"] == 2
    assert [len(table.rows) for table in totals.tables()] == [2, 3, 2]


def test_layers_know_reach_and_signs():
    """An atom with two neighbours at 1 and 2 Å: weights 3 and −1, and none for the others."""
    (one,) = attention_of_frames(task(), [structure([8, 1, 1], [[0, 0, 0], [1, 0, 0], [0, 2, 0]])])
    chosen = one.edge_index[1] == 0
    edges = one.edge_index[:, chosen]
    weights = np.array([3.0, -1.0])[None, :, None] * np.ones((2, 2, 2))
    one = replace(one, edge_index=edges, distance=one.distance[chosen], weights=weights, shifts=one.shifts[chosen])
    totals = Totals(one.layers, 2)
    totals.add(one)
    found = totals.to_json()
    entropy = -(0.75 * np.log(0.75) + 0.25 * np.log(0.25))
    assert np.array(found["effective_neighbours"]) == pytest.approx(np.full((2, 2), np.exp(entropy)))
    assert np.array(found["distance"]) == pytest.approx(np.full((2, 2), 0.75 * 1 + 0.25 * 2))
    assert np.array(found["negative"]) == pytest.approx(np.full((2, 2), 0.5))


def test_atoms_beyond_the_cutoff_are_in_no_average():
    far = structure([8, 1], [[0, 0, 0], [30, 0, 0]])
    (one,) = attention_of_frames(task("equiformer_v2"), [far])
    totals = Totals(one.layers, 2)
    totals.add(one)
    assert (totals.structures, totals.alone, totals.pair_rows()) == (1, 1, [])
    assert np.isnan(received(one.rollout)).all()
    assert totals.correlation() is None


@pytest.mark.parametrize("case", CASES)
def test_company_in_a_batch_changes_nothing(case):
    rng = np.random.default_rng(5)
    frames = [structure(rng.choice([1, 6, 8], n), rng.normal(size=(n, 3)) * 1.5) for n in (4, 1, 6, 2)]
    seen = []
    together = list(attention_of_frames(task(case), frames, progress=lambda *done: seen.append(done)))
    alone = list(attention_of_frames(task(case), frames, max_cost=1))
    assert seen[-1] == (4, 4)
    for one, other in zip(together, alone, strict=True):
        assert one.frame is other.frame
        assert (one.edge_index == other.edge_index).all() and (one.distance == other.distance).all()
        np.testing.assert_allclose(one.weights, other.weights, rtol=0, atol=1e-12)
        np.testing.assert_allclose(one.rollout.toarray(), other.rollout.toarray(), rtol=0, atol=1e-12)
        if one.loops is not None:
            np.testing.assert_allclose(one.loops, other.loops, rtol=0, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("pbc", [(True, True, True), (True, False, True)])
def test_edges_belong_to_the_positions_of_the_file(dtype, pbc):
    """Atoms of a trajectory that was never wrapped, which a graph in float32 brings back."""
    cell = np.array([[4.1, 0, 0], [0.4, 4.3, 0], [0, -0.2, 4.6]])
    positions = (
        np.array([[0, 0, 0], [1.6, 1.5, 1.9], [2.4, 0.3, 0.7]]) + np.array([[0, 0, 0], [3, 0, -7], [9, 0, 2]]) @ cell
    )
    frame = replace(structure([6, 8, 1], positions, cell), pbc=np.array(pbc))
    (one,) = attention_of_frames(task().to(dtype), [frame])
    j, i = one.edge_index
    vectors = positions[j] - positions[i] + one.shifts @ cell
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), one.distance, rtol=0, atol=1e-5)
    assert one.distance.max() < 5 and len(one.distance) > 20


def test_very_large_structures_are_refused_by_name():
    many = structure([1] * 4001, np.arange(4001 * 3, dtype=float).reshape(-1, 3))
    with pytest.raises(CovariumError, match=r"frame 0 has 4001 atoms.* up to 4000"):
        next(attention_of_frames(task(), [many]))


def test_equal_weights_are_no_matter_of_the_model():
    graphs = []
    for case in ("equiformer", "equiformer_v3"):
        model = model_of(case)
        graph = molecule(model)
        graphs.append(even_rollout(observe(model, graph), graph).toarray())
    np.testing.assert_allclose(graphs[0], graphs[1], rtol=0, atol=1e-15)
