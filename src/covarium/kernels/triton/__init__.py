"""Kernels for CUDA devices, written in Triton."""

from __future__ import annotations

import importlib.util
import os

import torch
from packaging.version import Version

LEAST = "3.6"  # the one that is tested
INTERPRETER = "TRITON_INTERPRET"


def missing(device: torch.device) -> str:
    """Why these kernels cannot run on tensors of ``device``; empty if they can. Triton's interpreter, which the
    environment asks for by ``TRITON_INTERPRET=1``, runs them on the CPU, slowly."""
    if importlib.util.find_spec("triton") is None:
        return f"triton is not installed; CUDA builds of torch for Linux bring it, or `pip install 'triton>={LEAST}'`"
    if device.type != "cuda" and os.environ.get(INTERPRETER) != "1":
        return f"triton has no kernels for the device '{device.type}', only for cuda"
    import triton

    if Version(triton.__version__) < Version(LEAST):
        return f"triton {triton.__version__} is too old; {LEAST} or later is needed"
    return ""
