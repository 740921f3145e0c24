"""Samples of tokens from every kind of file, their batches, and what is refused."""

from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from covarium.data.split import division
from covarium.data.tokens import TokenDataset, read_tokens, surface_distance, token_file
from covarium.errors import CovariumError
from covarium.physics.gravity import NBody
from covarium.physics.tubes import Tube
from covarium.workflows.making import write_nbody, write_tubes

PACKED = {"positions": np.zeros((20, 3)), "target_positions": np.zeros((20, 3))}
NBODY = {"m": np.ones((4, 5)), "x_initial": np.zeros((4, 5, 3)), "v_initial": np.zeros((4, 5, 3))}
NBODY["x_final"] = NBODY["x_initial"]
WALL = Tube(curvature=0.1).wall(8, 6)
ARTERY = {"pos": WALL.positions, "face": WALL.faces, "wss": WALL.shear, "inlet_idcs": WALL.inlet}


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def test_own_files_packed_and_not(tmp_path: Path, rng: np.random.Generator) -> None:
    positions, vectors, target = rng.normal(size=(4, 5, 3)), rng.normal(size=(4, 5, 2, 3)), rng.normal(size=(4, 5, 1))
    np.savez(tmp_path / "a.npz", positions=positions, vectors=vectors, target_scalars=target)
    samples = read_tokens([tmp_path / "a.npz"])
    assert len(samples) == 4 and samples[2].scalars.shape == (5, 0) and samples[1].index == 1
    np.testing.assert_array_equal(samples[3].vectors, vectors[3])
    np.savez(
        tmp_path / "b.npz", positions=positions.reshape(-1, 3), vectors=vectors.reshape(-1, 2, 3),
        target_scalars=target.reshape(-1, 1), counts=[12, 1, 7],
    )  # fmt: skip
    packed = read_tokens([tmp_path / "b.npz"])
    assert [len(s.positions) for s in packed] == [12, 1, 7]
    np.testing.assert_array_equal(packed[2].targets["scalars"], target.reshape(-1, 1)[13:])
    assert len(read_tokens([tmp_path / "a.npz", tmp_path / "b.npz"], limit=2)) == 4
    assert token_file(tmp_path / "a.npz") and token_file(tmp_path / "b.npz")


def test_nbody_and_tubes(tmp_path: Path) -> None:
    write_nbody(tmp_path / "n.npz", NBody(planets=3), 6, 0)
    with np.load(tmp_path / "n.npz") as archive:
        assert set(archive.files) == {"m", "x_initial", "v_initial", "x_final"}
        samples = read_tokens([tmp_path / "n.npz"])
        np.testing.assert_array_equal(samples[5].targets["positions"], archive["x_final"][5])
        np.testing.assert_array_equal(samples[5].vectors[:, 0], archive["v_initial"][5])
        np.testing.assert_array_equal(samples[5].scalars[:, 0], archive["m"][5])
    write_tubes(tmp_path / "t.npz", 2, 6, 5, 0)
    (first, _) = read_tokens([tmp_path / "t.npz"])
    assert first.vectors.shape == (30, 1, 3) and first.scalars.shape == (30, 2)
    assert (first.scalars[:5, 0] == 0).all() and first.targets["vectors"].shape == (30, 1, 3)


def test_published_artery_format(tmp_path: Path) -> None:
    wall = Tube(curvature=0.1).wall(8, 6)
    with h5py.File(tmp_path / "arteries.hdf5", "w") as file:
        for k, inlet in enumerate(("inlet_idcs", "inlet_idx")):
            group = file.create_group(f"sample_{k:04d}")
            group["pos"], group["face"] = wall.positions.astype(np.float32), wall.faces
            group["wss"], group[inlet] = wall.shear.astype(np.float32), wall.inlet
    assert token_file(tmp_path / "arteries.hdf5")
    samples = read_tokens([tmp_path / "arteries.hdf5"])
    assert len(samples) == 2
    np.testing.assert_allclose(samples[1].targets["vectors"][:, 0], wall.shear, rtol=1e-6, atol=1e-7)
    assert (samples[0].scalars[wall.inlet] == 0).all()
    assert ((samples[0].vectors[6:-6, 0] * wall.normals[6:-6]).sum(1) > 0.99).all()
    with h5py.File(tmp_path / "bad.hdf5", "w") as file:
        file.create_group("sample_0")["pos"] = wall.positions
    with pytest.raises(CovariumError, match="'sample_0' has pos; expected pos, face, wss and inlet_idcs"):
        read_tokens([tmp_path / "bad.hdf5"])


def test_links_to_other_files_are_not_followed(tmp_path: Path) -> None:
    wall = Tube(curvature=0.1).wall(8, 6)
    with h5py.File(tmp_path / "other.hdf5", "w") as file:
        group = file.create_group("sample")
        group["pos"], group["face"], group["wss"], group["inlet_idcs"] = (
            wall.positions,
            wall.faces,
            wall.shear,
            wall.inlet,
        )
    with h5py.File(tmp_path / "whole.hdf5", "w") as file:
        file["sample"] = h5py.ExternalLink(str(tmp_path / "other.hdf5"), "/sample")
    with h5py.File(tmp_path / "part.hdf5", "w") as file:
        group = file.create_group("sample")
        group["face"], group["wss"], group["inlet_idcs"] = wall.faces, wall.shear, wall.inlet
        group["pos"] = h5py.ExternalLink(str(tmp_path / "other.hdf5"), "/sample/pos")
    for name in ("whole", "part"):
        with pytest.raises(CovariumError, match=f"{name}.hdf5: .* is a link to another file"):
            read_tokens([tmp_path / f"{name}.hdf5"])


def test_distance_along_the_surface() -> None:
    # a strip of two triangles: the far corner is reached along edges
    positions = np.array([[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [1, 1, 0]])
    faces = np.array([[0, 1, 2], [1, 3, 2]])
    np.testing.assert_allclose(surface_distance(positions, faces, np.array([0])), [0, 1, 1, 2])
    np.testing.assert_allclose(surface_distance(positions, faces, np.array([0, 3])), [0, 1, 1, 0])
    with pytest.raises(CovariumError, match="vertex 4 of the surface is not connected"):
        surface_distance(np.concatenate([positions, [[5.0, 5, 5]]]), faces, np.array([0]))


def test_batches(tmp_path: Path) -> None:
    write_nbody(tmp_path / "n.npz", NBody(), 5, 0)
    data = TokenDataset(read_tokens([tmp_path / "n.npz"]))
    batch = data.batch([3, 1])
    assert batch.system.counts.tolist() == [6, 6] and batch.sources[0] == (str(tmp_path / "n.npz"), 3)
    assert data.costs() == [6] * 5 and batch.system.cost() == 12
    low = batch.to("cpu", torch.float32)
    assert torch.equal(low.system.scalars, batch.system.scalars)
    assert low.system.vectors.dtype == torch.float32
    assert low.system.positions.dtype == low.targets["positions"].dtype == torch.float64
    assert torch.equal(low.system.positions, batch.system.positions)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"positions": np.zeros((4, 5))}, "expected .samples, tokens, 3."),
        ({"vectors": np.zeros((4, 5, 3))}, "'vectors' has shape .4, 5, 3., expected .4, 5, 'n', 3."),
        ({"target_positions": np.zeros((4, 6, 3))}, "'target_positions' has shape"),
        ({"scalars": np.full((4, 5, 1), np.nan)}, "sample 0: scalars of token 0 is not finite"),
        ({"counts": np.array([5, 5])}, "beside 'counts'"),
        ({"target_positions": None}, "tokens need 'positions' and a target"),
        ({"target_positions": None, "target_postions": np.zeros((4, 5, 3))}, "did you mean 'target_positions'"),
        ({"vector": np.zeros((4, 5, 1, 3))}, "'vector' is no key of tokens; did you mean 'vectors'"),
        ({"scalars": np.full((4, 5, 1), 1j)}, "'scalars' holds complex128, expected real numbers"),
        ({"scalars": np.full((4, 5, 1), "a")}, "'scalars' holds <U1, expected real numbers"),
        ({"positions": np.zeros((4, 0, 3)), "target_positions": np.zeros((4, 0, 3))}, "at least one token"),
        (PACKED | {"counts": np.full(4, 5.0)}, "positive whole numbers .samples. that add up to 20.* it is float64"),
        (PACKED | {"counts": np.full((4, 1), 5)}, r"it is int64 \[4, 1\]"),
        (PACKED | {"counts": np.array([5, 5, 5, 4])}, "with the sum 19"),
        (PACKED | {"counts": np.array([5, 10, 5, 0])}, "positive whole numbers"),
    ],
)
def test_bad_files(tmp_path: Path, change: dict[str, np.ndarray | None], message: str) -> None:
    arrays = {"positions": np.zeros((4, 5, 3)), "target_positions": np.zeros((4, 5, 3))} | change
    np.savez(tmp_path / "x.npz", **{k: v for k, v in arrays.items() if v is not None})
    with pytest.raises(CovariumError, match=message):
        read_tokens([tmp_path / "x.npz"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"m": np.ones((3, 5))}, r"'m' has shape \[3, 5\]; expected m \[samples, bodies\]"),
        ({"v_initial": np.zeros((5, 3))}, r"'v_initial' has shape \[5, 3\]"),
        ({"x_initial": np.zeros((4, 3))}, "'m' has shape"),
        ({"x_final": None}, "or the n-body keys m, x_initial, v_initial, x_final"),
    ],
)
def test_bad_nbody_files(tmp_path: Path, change: dict[str, np.ndarray | None], message: str) -> None:
    arrays = NBODY | change
    np.savez(tmp_path / "n.npz", **{k: v for k, v in arrays.items() if v is not None})
    assert token_file(tmp_path / "n.npz"), "told about tokens, not about atoms"
    with pytest.raises(CovariumError, match=message):
        read_tokens([tmp_path / "n.npz"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"face": None}, "'s' has inlet_idcs, pos, wss; expected pos, face, wss and inlet_idcs"),
        ({"wss": None}, "'s' has face, inlet_idcs, pos; expected"),
        ({"face": WALL.faces.T}, r"'s' has pos \[48, 3\], face \[3, 84\], wss"),
        ({"face": WALL.faces + 1}, "'face' holds 1 to 48; expected indices of vertices, 0 to 47"),
        ({"face": WALL.faces - 1}, "'face' holds -1 to 46"),
        ({"face": WALL.faces.astype(float)}, "'face' holds float64, expected whole numbers"),
        ({"inlet_idcs": np.array([], dtype=int)}, "'inlet_idcs' holds nothing"),
        ({"inlet_idcs": np.array([99])}, "'inlet_idcs' holds 99 to 99"),
        ({"wss": WALL.shear[:, 0]}, r"wss \[48\]; expected pos and wss"),
        ({"pos": "here"}, "'pos' holds object, expected real numbers"),
        ({"face": WALL.faces[:1]}, "'s': vertex 7 of the surface is not connected with the inlet"),
        ({"wss": np.full((48, 3), np.inf)}, "sample 0: target vectors of token 0 is not finite"),
    ],
)
def test_bad_arteries(tmp_path: Path, change: dict[str, object], message: str) -> None:
    with h5py.File(tmp_path / "a.hdf5", "w") as file:
        group = file.create_group("s")
        for name, value in (ARTERY | change).items():
            if value is not None:
                group[name] = value
    assert token_file(tmp_path / "a.hdf5"), "told about surfaces, not about atoms"
    with pytest.raises(CovariumError, match=message):
        read_tokens([tmp_path / "a.hdf5"])


def test_extra_arrays_and_no_channels(tmp_path: Path) -> None:
    """What is no key of tokens is the user's own; zero vectors are as good as none."""
    zero = {
        "positions": np.zeros((4, 5, 3)),
        "target_positions": np.zeros((4, 5, 3)),
        "vectors": np.zeros((4, 5, 0, 3)),
    }
    np.savez(tmp_path / "x.npz", **zero, id=np.arange(4))
    assert read_tokens([tmp_path / "x.npz"])[0].vectors.shape == (5, 0, 3)


def test_other_files_are_not_tokens(tmp_path: Path) -> None:
    np.savez(tmp_path / "atoms.npz", R=np.zeros((2, 3, 3)), z=np.ones(3), E=np.zeros(2))
    (tmp_path / "broken.npz").write_bytes(b"not a zip")
    assert not token_file(tmp_path / "atoms.npz") and not token_file(tmp_path / "broken.npz")
    with h5py.File(tmp_path / "atoms.h5", "w") as file:
        file["water/positions"] = np.zeros((2, 3, 3))
    assert not token_file(tmp_path / "atoms.h5")
    assert not token_file(tmp_path / "x.extxyz") and not token_file(tmp_path / "absent.npz")
    with pytest.raises(CovariumError, match="not a readable npz"):
        read_tokens([tmp_path / "broken.npz"])
    with pytest.raises(CovariumError, match="did you mean 'broken.npz'"):
        read_tokens([tmp_path / "brokn.npz"])


def test_division() -> None:
    train, valid, test = division(20, valid=0.2, test=3, seed=1)
    assert (len(train), len(valid), len(test)) == (13, 4, 3) and sorted([*train, *valid, *test]) == list(range(20))
    assert division(20, valid=0.2, test=3, seed=1) == (train, valid, test) != division(20, valid=0.2, test=3, seed=2)
    assert division(5, valid=0)[1] == []
    with pytest.raises(CovariumError, match="at least 1 must remain"):
        division(3, valid=2, test=1)
