"""``covarium doctor``: is this machine ready?"""

from __future__ import annotations

from typer import Exit

from covarium.cli.options import Threads


def doctor(threads: Threads = None) -> None:
    """Versions, devices, threads, optional packages, and a self-test of about ten seconds.

    Exit code 1 if the self-test fails.
    """
    from covarium.cli.console import findings, verdict
    from covarium.workflows import doctor as stages
    from covarium.workflows.device import use_threads

    use_threads(threads)
    declared = stages.packages()
    findings("Versions", stages.versions(declared))
    findings("Optional packages", stages.optional(declared))
    findings("Devices", stages.devices())
    findings("Threads", stages.threads())
    if verdict("Self-test", stages.self_test()):
        raise Exit(1)
