"""One file per published model; this table is all there is to adding one."""

from typing import Any

from covarium.models.equiformer import Config as EquiformerConfig
from covarium.models.equiformer import Equiformer
from covarium.models.equiformer_v2 import Config as EquiformerV2Config
from covarium.models.equiformer_v2 import EquiformerV2
from covarium.systems import AtomModel

MODELS: dict[str, tuple[type[AtomModel], type[Any]]] = {
    "equiformer": (Equiformer, EquiformerConfig),
    "equiformer_v2": (EquiformerV2, EquiformerV2Config),
}

__all__ = ["MODELS", "Equiformer", "EquiformerConfig", "EquiformerV2", "EquiformerV2Config"]
