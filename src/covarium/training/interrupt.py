"""SIGTERM and Ctrl-C as a request to finish the step, save and leave."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any, Self

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Interrupt:
    """While entered, the first such signal is remembered in ``signal`` (0 before); a second raises KeyboardInterrupt.

    The handlers stay in place until the end: two signals may be pending together, and Python has no one to give the
    second to if the first takes them away. Signals reach only the main thread, so that elsewhere this does nothing.
    """

    def __init__(self) -> None:
        self.signal = 0
        self._former: dict[int, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._former = {number: signal.signal(number, self._remember) for number in SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        while self._former:
            number, former = self._former.popitem()
            signal.signal(number, former)

    def _remember(self, number: int, frame: FrameType | None) -> None:
        if self.signal:
            raise KeyboardInterrupt
        self.signal = number
