"""One signal is a request, two are an order, however quickly they follow."""

import signal
import subprocess
import sys
import threading

import pytest

from covarium.training.interrupt import SIGNALS, Interrupt


def test_the_first_is_remembered_and_the_second_acts() -> None:
    before = [signal.getsignal(number) for number in SIGNALS]
    with Interrupt() as interrupt:
        assert interrupt.signal == 0
        signal.raise_signal(signal.SIGINT)
        assert interrupt.signal == signal.SIGINT
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGTERM)
        assert interrupt.signal == signal.SIGINT
    assert [signal.getsignal(number) for number in SIGNALS] == before


PENDING = """
import os, signal
from covarium.training.interrupt import SIGNALS, Interrupt

with Interrupt():
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    for number in SIGNALS:
        os.kill(os.getpid(), number)
    try:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    except KeyboardInterrupt:
        print("stopped")
print("left")
"""


def test_two_at_once() -> None:
    """Both pending before Python looks at either."""
    done = subprocess.run([sys.executable, "-c", PENDING], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, "stopped\nleft\n", "")


def test_another_thread_leaves_signals_alone() -> None:
    seen = []

    def work() -> None:
        before = [signal.getsignal(number) for number in SIGNALS]
        with Interrupt() as interrupt:
            seen.append((interrupt.signal, [signal.getsignal(number) for number in SIGNALS] == before))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [(0, True)]
