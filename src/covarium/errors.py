"""The one kind of exception that is a message to the user."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class CovariumError(Exception):
    """Something the user can mend. The message names the value, what is allowed, and the remedy.

    The command line prints it without a traceback and exits with code 2.
    """


def nearest(name: str, choices: Iterable[str]) -> str:
    """A hint for a misspelt name: ``"; did you mean 'lmax'?"``, or an empty string when nothing is close."""
    close = difflib.get_close_matches(name, list(choices), n=1, cutoff=0.5)
    return f"; did you mean '{close[0]}'?" if close else ""
