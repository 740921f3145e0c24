"""Runs commands in forked children, so that the imports are paid once, and kills them when told to.

Reads lines of JSON, ``{"arguments", "log", "kill_after"}`` (seconds of the child's CPU time, or null), and answers each
with the exit status as ``os.wait`` gives it and the CPU seconds used. Seconds of CPU, so that the moments do not depend
on what else the machine does; the kernel's timer for them ends a process by a signal that nothing catches here, as
SIGKILL.
"""

import json
import os
import signal
import sys

import covarium.workflows.training_run
from covarium.cli import main


def run(arguments: list[str], log: str) -> None:
    handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    sys.argv = ["covarium", *arguments]
    code = 0
    try:
        main()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 0
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


for line in sys.stdin:
    wanted = json.loads(line)
    child = os.fork()
    if child == 0:
        if wanted["kill_after"] is not None:
            signal.setitimer(signal.ITIMER_PROF, wanted["kill_after"])
        run(wanted["arguments"], wanted["log"])
    _, status, used = os.wait4(child, 0)
    sys.stdout.write(f"{status} {used.ru_utime + used.ru_stime}\n")
    sys.stdout.flush()

assert covarium.workflows.training_run is not None
