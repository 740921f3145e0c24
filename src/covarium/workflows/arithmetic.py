"""How a model computes on its device: what products are rounded to, and what works on edges. Chosen once, at the
start of a command."""

from __future__ import annotations

import torch
from torch import nn

from covarium.errors import CovariumError
from covarium.ops.rotation import Backend, unavailable
from covarium.systems import AtomModel

ROUNDED = ("tf32", "bf16")


def arrange(model: nn.Module, dtype: str | None, backend: Backend | None = None) -> None:
    """
    Args:
        model: on its device.
        dtype: a name in ``DTYPES``; None leaves the rounding as it is.
        backend: of rotations and messages; None for the kernels on a CUDA device where there are any.

    Raises:
        CovariumError: the kernels cannot be used and were asked for; or the model or device cannot round so.
    """
    if not isinstance(model, AtomModel):
        if dtype in ROUNDED or backend is not None:
            raise CovariumError(f"'{backend or dtype}' is for models of atoms; this one has float32 and float64")
        return
    device = next(model.parameters()).device
    reason = unavailable("triton", device) if "triton" in model.backends else "there are none for this model"
    if backend == "triton" and reason:
        raise CovariumError(f"backend 'triton' cannot be used: {reason}. Remedy: --set backend=torch")
    model.backend = backend or ("triton" if device.type == "cuda" and not reason else "torch")
    if dtype is None:
        return
    if dtype == "tf32" and device.type != "cuda":
        raise CovariumError(f"tf32 is a mode of CUDA devices; the device '{device.type}' has float32, float64 and bf16")
    torch.set_float32_matmul_precision("high" if dtype == "tf32" else "highest")
    model.rounding = "tf32" if dtype == "tf32" else "bf16" if dtype == "bf16" else "none"


def in_words(model: nn.Module) -> str:
    """What ``arrange`` chose; empty for plain torch in full precision."""
    if not isinstance(model, AtomModel):
        return ""
    kernels = "edges by Triton kernels" if model.backend == "triton" else ""
    rounded = f"products with weights rounded to {model.rounding}" if model.rounding != "none" else ""
    return ", ".join(filter(None, [kernels, rounded]))
