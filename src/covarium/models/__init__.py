"""One file per published model; this table is all there is to adding one."""

from covarium.models.equiformer_v2 import Config as EquiformerV2Config
from covarium.models.equiformer_v2 import EquiformerV2
from covarium.models.gatr import Config as GATrConfig
from covarium.models.gatr import GATr
from covarium.models.transformer import Config as TransformerConfig
from covarium.models.transformer import Transformer

MODELS = {
    "equiformer_v2": (EquiformerV2, EquiformerV2Config),
    "gatr": (GATr, GATrConfig),
    "transformer": (Transformer, TransformerConfig),
}

__all__ = ["MODELS", "EquiformerV2", "EquiformerV2Config", "GATr", "GATrConfig", "Transformer", "TransformerConfig"]
