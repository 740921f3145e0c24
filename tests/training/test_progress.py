"""What the terminal shows of a run."""

import io

from rich.console import Console

from covarium.training import Event, RichProgress
from covarium.training.progress import duration


def test_shows_time_left_losses_best_and_notes():
    text = io.StringIO()
    console = Console(file=text, force_terminal=True, width=160)
    event = Event(step=30, epoch=3, fraction=0.25, elapsed=60.0, lr=1e-3, losses={"forces": 0.125}, best=0.5)
    with RichProgress(console) as progress:
        progress(event)
        progress(Event(step=31, epoch=3, fraction=0.25, elapsed=60.0, lr=1e-3, note="frame [7] is bad"))
        progress(event)
    shown = text.getvalue()
    for words in ("epoch 3", "25%", "03:00 left", "forces 0.125", "best 0.5", "frame [7] is bad"):
        assert words in shown


def test_durations():
    assert [duration(s) for s in (0.4, 61, 3723, float("inf"))] == ["00:00", "01:01", "1:02:03", "?"]
