"""Training of any task: the loop, the optimiser, and what makes a run resumable."""

from covarium.training.estimate import Estimate, estimate
from covarium.training.loop import Result, resume_command, train
from covarium.training.progress import RichProgress
from covarium.training.protocols import Batch, Data, Event, Progress, SaveBest, Task
from covarium.training.ranks import Ranks, announced, launched
from covarium.training.settings import Settings

__all__ = [
    "Batch",
    "Data",
    "Estimate",
    "Event",
    "Progress",
    "Ranks",
    "Result",
    "RichProgress",
    "SaveBest",
    "Settings",
    "Task",
    "announced",
    "estimate",
    "launched",
    "resume_command",
    "train",
]
