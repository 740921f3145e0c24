"""Files of the exact structure that official training scripts leave, with the weights of the parity cases."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file

PARITY = Path(__file__).parents[1] / "parity"
MEAN, STD = -0.7554450631141663, 2.887317180633545
FORCES = 0.511


def case(family: str, name: str) -> tuple[dict[str, Any], dict[str, torch.Tensor], Path]:
    folder = PARITY / family / name
    return json.loads((folder / "config.json").read_text()), load_file(folder / "weights.safetensors"), folder


def parameters(description: dict[str, Any], state: dict[str, torch.Tensor]) -> list[str]:
    """Names of the trained tensors of a case, in the order of its state dict."""
    if "params" in description:
        return [name for name, _ in description["params"]]
    return [name for name in state if name not in description.get("buffers", {})]


def ocp(
    description: dict[str, Any], state: dict[str, torch.Tensor], model: str, trained: list[str] | None = None
) -> dict[str, Any]:
    """As the ocp trainer saves: DDP's prefixes, averages without names, normalisers, optimiser, configuration. The
    weights of the last step are worthless, those of ``state`` are the averages."""
    trained = parameters(description, state) if trained is None else trained
    ordered = {**{k: state[k] for k in trained}, **state}
    last = {key: value + 1.0 if key in trained else value for key, value in ordered.items()}
    shadow = [state[key] for key in trained]
    metric = {"metric": np.float64(0.01), "total": 1.0, "numel": 1}
    return {
        "epoch": 2.99, "step": 12345, "best_val_metric": 0.2,
        "state_dict": {f"module.module.{key}": value for key, value in last.items()},
        "ema": {"decay": 0.999, "num_updates": 12345, "shadow_params": shadow, "collected_params": []},
        "normalizers": {
            "target": {"mean": torch.tensor(MEAN).double(), "std": torch.tensor(STD).double()},
            "grad_target": {"mean": torch.tensor(0.0), "std": torch.tensor(FORCES).double()},
        },
        "optimizer": {"state": {0: {"step": 9, "exp_avg": shadow[0]}}, "param_groups": [{"lr": 1e-4, "params": [0]}]},
        "scheduler": {"last_epoch": 3}, "amp": None, "val_metrics": {"forces_mae": metric},
        "config": {"model": model, "model_attributes": dict(description["constructor"]), "gpus": 8},
    }  # fmt: skip


def fairchem(archive: dict[str, Any]) -> dict[str, Any]:
    """The same as fairchem 1.x saves it: backbone and heads apart, normalisers by quantity."""
    heads = {"energy_block": "energy", "force_block": "forces"}
    state = {}
    for key, value in archive["state_dict"].items():
        name = key.removeprefix("module.module.")
        head = heads.get(name.partition(".")[0])
        state["module." + (f"output_heads.{head}.{name}" if head else f"backbone.{name}")] = value
    constructor = dict(archive["config"]["model_attributes"])
    forces = constructor.pop("regress_forces", True)
    modules = {"energy": {"module": "equiformer_v2_energy_head"}} | (
        {"forces": {"module": "equiformer_v2_force_head"}} if forces else {}
    )
    model = {"name": "hydra", "backbone": {"model": "equiformer_v2_backbone", **constructor}, "heads": modules}
    norms = archive["normalizers"]
    return {
        **archive,
        "state_dict": state,
        "normalizers": {"energy": {"mean": norms["target"]["mean"], "rmsd": norms["target"]["std"]},
                        "forces": {"mean": torch.tensor(0.0), "rmsd": torch.tensor(FORCES)}},
        "config": {"model": model, "dataset": {"train": {"src": "x.lmdb"}}},
    }  # fmt: skip


def lightning(description: dict[str, Any], state: dict[str, torch.Tensor], dataset: str = "MD17") -> dict[str, Any]:
    """As TorchMD-NET's Lightning module saves."""
    head = description["output_module"].removeprefix("Equivariant")
    hyper = {**description["args"], "output_model": head, "dataset": dataset, "dataset_arg": "uracil", "lr": 1e-3}
    return {
        "epoch": 359, "global_step": 10, "pytorch-lightning_version": "1.9.5", "hparams_name": "hparams",
        "state_dict": {f"model.{key}": value for key, value in state.items()}, "hyper_parameters": hyper,
        "optimizer_states": [], "lr_schedulers": [], "callbacks": {}, "loops": {},
    }  # fmt: skip
