"""A command as a user types it, run in this process."""

from __future__ import annotations

import pytest

from covarium.cli import main


def call(*arguments: object) -> int:
    """The exit code of ``covarium ARGUMENTS``."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["covarium", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            main()
    return int(end.value.code or 0)
