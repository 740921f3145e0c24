"""Our side: a potential as training and dynamics use it, its tile set from outside."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from ase import Atoms
from safetensors.torch import save_file

from peers.rows import Row, row_of
from peers.subject import Inputs, Subject


def prepare(row: Row, data: Path | None, to: Path) -> None:
    """Write what both sides compute on."""
    from covarium.data.batch import collate

    batch = collate([_frame(atoms) for atoms in row.structures(data)], row.config().spec, torch.float32)
    system = batch.system
    names = ("positions", "numbers", "cell", "pbc", "batch", "edge_index", "shifts", "charge", "spin", "tags")
    np.savez(to, **{n: getattr(system, n).numpy() for n in names}, **{n: v.numpy() for n, v in batch.labels.items()})


def _frame(atoms: Atoms) -> Any:  # noqa: ANN401 - Frame
    from covarium.data.frame import Frame

    labels = {"energy": np.asarray(atoms.get_potential_energy()), "forces": atoms.get_forces()}
    if atoms.calc.results.get("stress") is not None:
        labels["stress"] = atoms.get_stress(voigt=False)
    return Frame(
        atoms.numbers.astype(np.int64), atoms.positions, np.asarray(atoms.cell), atoms.pbc, labels,
        np.zeros(len(atoms), dtype=bool),
    )  # fmt: skip


def build(
    row: str, inputs: Inputs, weights: Path, device: str, changes: Mapping[str, Any] = MappingProxyType({})
) -> Subject:
    """The model of the row with random weights, which are left in ``weights`` for the other side.

    ``changes`` are of its configuration.
    """
    from covarium.data.batch import Batch
    from covarium.models import MODELS
    from covarium.systems import AtomGraph
    from covarium.tasks import Compiled
    from covarium.tasks.potential import Potential, Term
    from covarium.training.optimiser import adamw
    from covarium.training.settings import Settings
    from covarium.workflows import arithmetic

    r = row_of(row)
    model = MODELS[r.model][0](replace(r.config(), **changes))
    save_file({name: p.detach().clone() for name, p in model.named_parameters()}, weights)
    terms = [Term(q, loss, weight, per_atom=False) for q, (loss, weight) in r.terms.items()]
    references = dict.fromkeys(np.unique(inputs["numbers"]).tolist(), 0.0)
    task = Potential(model, forces=r.forces, references=references, terms=terms).to(device)  # type: ignore[arg-type]
    arithmetic.arrange(model, "float32")  # kernels where the device has them, as a command does
    graph = AtomGraph(**{
        name: torch.from_numpy(inputs[name]).to(device)
        for name in ("positions", "numbers", "cell", "pbc", "batch", "edge_index", "shifts", "charge", "spin", "tags")
    })  # fmt: skip
    labels = {name: torch.from_numpy(inputs[name]).to(device) for name in r.terms}
    batch = Batch(graph, labels, torch.ones(graph.num_atoms, dtype=torch.bool, device=device), [])
    stress = "stress" in r.terms
    optimiser = adamw(dict(task.named_parameters()), task.no_weight_decay(), Settings(steps=1))
    rng = torch.Generator(device=device).manual_seed(0)
    compiled = Compiled()

    def arrange(command: Mapping[str, Any]) -> None:
        model.keep, model.remember = command.get("keep", 0), command.get("remember", 0)
        model.tile = command.get("tile")
        task.compiled = compiled if command.get("compiled") else None
        task.train(command.get("pass") == "train")

    def infer() -> dict[str, torch.Tensor]:
        model.requires_grad_(False)
        found = task.predict(graph, forces=True, stress=stress)
        model.requires_grad_(True)
        return {k: v for k in ("energy", "forces", "stress") if (v := getattr(found, k)) is not None}

    def loss() -> torch.Tensor:
        found = task(batch, rng)
        return torch.stack([task.weights[q] * total / count for q, (total, count) in found.items()]).sum()

    return Subject(model, optimiser, infer, loss, arrange, compile=partial(setattr, task, "compiled"))
