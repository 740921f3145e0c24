"""Kernels for CUDA devices, written in Triton."""

from __future__ import annotations

import importlib.util
import os

import torch

INTERPRETER = "TRITON_INTERPRET"


def missing(device: torch.device) -> str:
    """Why these kernels cannot run on tensors of ``device``; empty if they can. Triton's interpreter, which the
    environment asks for by ``TRITON_INTERPRET=1``, runs them on the CPU, slowly."""
    if importlib.util.find_spec("triton") is None:
        return "triton is not installed; `pip install triton`, which CUDA builds of torch bring with them"
    if device.type != "cuda" and os.environ.get(INTERPRETER) != "1":
        return f"triton has no kernels for the device '{device.type}', only for cuda"
    return ""
