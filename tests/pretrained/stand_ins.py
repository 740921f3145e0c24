"""Files of the exact structure that official training scripts leave, with the weights of the parity cases."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file

PARITY = Path(__file__).parents[1] / "parity"
MEAN, STD = -0.7554450631141663, 2.887317180633545
IS2RE = (-1.525913953781128, 2.279365062713623)
FORCES = 0.511
# everything that the training script of TorchMD-NET 3.x leaves in hyper_parameters beside the arguments of the model
NAMESPACE: dict[str, Any] = {
    "load_model": None, "conf": None, "num_epochs": 3000, "batch_size": 8, "inference_batch_size": 64, "lr": 1e-3,
    "lr_patience": 30, "lr_metric": "val", "lr_min": 1e-7, "lr_factor": 0.8, "lr_warmup_steps": 1000,
    "early_stopping_patience": 300, "early_stopping_monitor": "val_total_mse_loss", "reset_trainer": False,
    "weight_decay": 0.0, "ema_alpha_y": 0.05, "ema_alpha_neg_dy": 1.0, "ngpus": -1, "num_nodes": 1, "log_dir": "logs/",
    "splits": None, "train_size": 950, "val_size": 50, "test_size": None, "test_interval": 10, "save_interval": 10,
    "seed": 1, "num_workers": 6, "redirect": False, "gradient_clipping": 0.0, "remove_ref_energy": False,
    "checkpoint_monitor": "val_total_mse_loss", "load_weights": None, "dataset_root": "~/data", "coord_files": None,
    "embed_files": None, "energy_files": None, "force_files": None, "dataset_preload_limit": 1024, "y_weight": 0.2,
    "neg_dy_weight": 0.8, "train_loss": "mse_loss", "train_loss_arg": {}, "output_mlp_num_layers": 0, "charge": True,
    "spin": False, "aggr": "mean", "equivariance_invariance_group": "SO(3)", "check_errors": True, "standardize": True,
    "wandb_use": False, "wandb_name": "training", "wandb_project": "training_", "wandb_resume_from_id": None,
    "tensorboard_use": False,
}  # fmt: skip
# of release 0.2.x alone
OLDER = {"ema_alpha_dy": 1.0, "energy_weight": 0.2, "force_weight": 0.8, "distributed_backend": "ddp", "job_id": "x"}
LABELS: dict[str, Any] = {"MD17": {"molecules": "uracil"}, "QM9": {"label": "dipole_moment"}}


def case(family: str, name: str) -> tuple[dict[str, Any], dict[str, torch.Tensor], Path]:
    folder = PARITY / family / name
    return json.loads((folder / "config.json").read_text()), load_file(folder / "weights.safetensors"), folder


def parameters(description: dict[str, Any], state: dict[str, torch.Tensor]) -> list[str]:
    """Names of the trained tensors of a case, in the order of its state dict."""
    if "params" in description:
        return [name for name, _ in description["params"]]
    return [name for name in state if name not in description.get("buffers", {})]


def repeated_buffers(lmax: int, num_layers: int) -> dict[str, torch.Tensor]:
    """Constants of EquiformerV2 by official name, as they stand under every module that refers to them."""
    index = ("l_harmonic", "m_complex", "m_harmonic", "m_size", "res_size", "to_m")
    grid = (*(f"mapping.{name}" for name in index), "to_grid_mat", "from_grid_mat")
    blocks = [f"blocks.{i}.{part}." for i in range(num_layers) for part in ("ga", "ffn")]
    names = ["distance_expansion.offset", "norm.balance_degree_weight", "force_block.proj.expand_index"]
    for module in ("", "edge_degree_embedding.", "force_block.", *blocks):
        names += [f"{module}SO3_rotation.0.mapping.{name}" for name in index]
        names += [f"{module}mappingReduced.{name}" for name in index]
        names += [f"{module}SO3_grid.{l}.{m}.{name}" for l in range(lmax + 1) for m in range(lmax + 1) for name in grid]
    return dict.fromkeys(names, torch.zeros(1))


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
    hyper = {**NAMESPACE, **description["args"], "output_model": head, "dataset": dataset}
    hyper["dataset_arg"] = LABELS.get(dataset)
    hyper["prior_args"] = [{"max_z": 100, "trainable": False, "enable": True}] if hyper["prior_model"] else []
    return {
        "epoch": 359, "global_step": 10, "pytorch-lightning_version": "1.9.5", "hparams_name": "hparams",
        "state_dict": {f"model.{key}": value for key, value in state.items()}, "hyper_parameters": hyper,
        "optimizer_states": [], "lr_schedulers": [], "callbacks": {}, "loops": {},
    }  # fmt: skip
