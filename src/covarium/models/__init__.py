"""One file per published model; this table is all there is to adding one."""

from typing import Any

from covarium.models.equiformer_v2 import Config as EquiformerV2Config
from covarium.models.equiformer_v2 import EquiformerV2
from covarium.models.spin_transformer import Config as SpinTransformerConfig
from covarium.models.spin_transformer import SpinTransformer

MODELS: dict[str, tuple[type[Any], type[Any]]] = {
    "equiformer_v2": (EquiformerV2, EquiformerV2Config),
    "spin_transformer": (SpinTransformer, SpinTransformerConfig),
}

__all__ = ["MODELS", "EquiformerV2", "EquiformerV2Config", "SpinTransformer", "SpinTransformerConfig"]
