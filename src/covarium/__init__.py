"""Covarium: equivariant transformers for atoms. Train them, judge them, simulate with them.

>>> import covarium
>>> potential = covarium.load("run/best.safetensors")
>>> potential.predict([atoms])[0].energy  # eV
>>> atoms.calc = potential.calculator()
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from covarium.workflows.loaded_property import load_model as load

__version__ = "0.1.0"
__all__ = ["__version__", "load"]


def __getattr__(name: str) -> object:
    # torch takes seconds to import: only who loads a model pays for it
    if name == "load":
        from covarium.workflows.loaded_property import load_model

        return load_model
    raise AttributeError(f"module 'covarium' has no attribute '{name}'")
