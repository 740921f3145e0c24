"""Reading foreign ``.pt`` files without running what they hold: torch's restricted unpickler rebuilds tensors and plain
containers, and refuses every other name."""

from __future__ import annotations

import argparse
import collections
import pickle
import re
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from covarium.errors import CovariumError

# inert values that training scripts leave beside the weights
SCALAR, ARRAY = np.float64(0).__reduce__()[0], np.zeros(0).__reduce__()[0]
SAFE: list[Any] = [
    np.dtype, np.ndarray, SCALAR, ARRAY, argparse.Namespace, collections.defaultdict,
    *{type(np.dtype(kind)) for kind in ("f2", "f4", "f8", "i4", "i8", "b1")},
    # as numpy 1 called them
    (SCALAR, "numpy.core.multiarray.scalar"), (ARRAY, "numpy.core.multiarray._reconstruct"),
]  # fmt: skip


def read_archive(path: Path) -> dict[str, Any]:
    """The dictionary in a file that ``torch.save`` wrote, tensors on the CPU.

    Raises:
        CovariumError: the file is missing, is no such archive, is damaged, holds anything beside tensors and plain
            values, or no dictionary.
    """
    if not path.is_file():
        raise CovariumError(f"there is no file {path}")
    try:
        with torch.serialization.safe_globals(SAFE):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        found = re.search(r"(?:GLOBAL|global|class) ([\w.]+)", str(error))
        what = f"'{found.group(1)}'" if found else str(error).splitlines()[0]
        raise CovariumError(
            f"{path} holds {what}, which is neither a tensor nor a plain value; building it could run code, so the "
            "file is not opened. Save its state dict alone with the software that wrote it, and convert that"
        ) from error
    except (OSError, RuntimeError, EOFError, ValueError, KeyError, TypeError, zipfile.BadZipFile) as error:
        raise CovariumError(f"{path} is no file of torch.save, or is damaged ({error})".split("\n")[0]) from error
    if not isinstance(content, dict):
        raise CovariumError(f"{path} holds a {type(content).__name__}; a checkpoint is a dictionary with weights in it")
    return content
