"""One file per published model; this table is all there is to adding one."""

from typing import Any

from covarium.models.equiformer import Config as EquiformerConfig
from covarium.models.equiformer import Equiformer
from covarium.models.equiformer_v2 import Config as EquiformerV2Config
from covarium.models.equiformer_v2 import EquiformerV2
from covarium.models.equiformer_v3 import Config as EquiformerV3Config
from covarium.models.equiformer_v3 import EquiformerV3
from covarium.models.gatr import Config as GATrConfig
from covarium.models.gatr import GATr
from covarium.models.spin_transformer import Config as SpinTransformerConfig
from covarium.models.spin_transformer import SpinTransformer
from covarium.models.torchmd_et import Config as TorchMDETConfig
from covarium.models.torchmd_et import TorchMDET
from covarium.models.transformer import Config as TransformerConfig
from covarium.models.transformer import Transformer

MODELS: dict[str, tuple[type[Any], type[Any]]] = {
    "equiformer": (Equiformer, EquiformerConfig),
    "equiformer_v2": (EquiformerV2, EquiformerV2Config),
    "equiformer_v3": (EquiformerV3, EquiformerV3Config),
    "gatr": (GATr, GATrConfig),
    "spin_transformer": (SpinTransformer, SpinTransformerConfig),
    "torchmd_et": (TorchMDET, TorchMDETConfig),
    "transformer": (Transformer, TransformerConfig),
}

__all__ = [
    "MODELS",
    "Equiformer",
    "EquiformerConfig",
    "EquiformerV2",
    "EquiformerV2Config",
    "EquiformerV3",
    "EquiformerV3Config",
    "GATr",
    "GATrConfig",
    "SpinTransformer",
    "SpinTransformerConfig",
    "TorchMDET",
    "TorchMDETConfig",
    "Transformer",
    "TransformerConfig",
]
