"""The same command without compilation, for messages."""

from __future__ import annotations

import shlex
import sys


def uncompiled(*more: str) -> str:
    """What to type instead of what was typed; ``more`` is put at the end."""
    typed = [argument for argument in sys.argv[1:] if argument not in ("--compile", "--debug")]
    return f"run it uncompiled: `{shlex.join(['covarium', *typed, *more])}`"
