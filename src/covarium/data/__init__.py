"""Files to systems with labels: reading, checking, splitting, batching, statistics."""

from covarium.data.batch import Batch, FrameDataset, collate
from covarium.data.charges import charge_and_spin
from covarium.data.columns import StoredFrames
from covarium.data.edge_index import data_set
from covarium.data.frame import Frame
from covarium.data.property_statistics import PropertyStatistics, property_statistics, sum_or_mean
from covarium.data.reading import Reading, Structure, read, read_structures, stream_structures
from covarium.data.sampler import BalancedSampler
from covarium.data.split import Split, split
from covarium.data.statistics import References, Statistics, element_references, remaining_energy, statistics

__all__ = [
    "BalancedSampler",
    "Batch",
    "Frame",
    "FrameDataset",
    "PropertyStatistics",
    "Reading",
    "References",
    "Split",
    "StoredFrames",
    "Statistics",
    "Structure",
    "charge_and_spin",
    "collate",
    "data_set",
    "element_references",
    "property_statistics",
    "read",
    "read_structures",
    "remaining_energy",
    "split",
    "statistics",
    "stream_structures",
    "sum_or_mean",
]
