"""Runs commands in forked children, so that the imports are paid once, and kills them when told to.

Reads lines of JSON, ``{"arguments", "log", "kill_after"}`` (seconds, or null), and answers each with the exit status as
``os.wait`` gives it: 9 if the child was killed.
"""

import json
import os
import signal
import sys
import time

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
        run(wanted["arguments"], wanted["log"])
    if wanted["kill_after"] is not None:
        time.sleep(wanted["kill_after"])
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    sys.stdout.write(f"{status}\n")
    sys.stdout.flush()

assert covarium.workflows.training_run is not None
