"""One side of a comparison in a process of its own: commands come as lines of JSON, and answers go back the same way.

    python worker.py SIDE ROW INPUTS WEIGHTS DEVICE

``time``, ``memory`` and ``count`` do one ``pass``, ``infer`` or ``train``: ours with ``tile`` edges at a time of which
``keep`` are kept and ``remember`` products, or ``compiled``; a peer's in one of its ``variant``s.
"""

from __future__ import annotations

import importlib
import json
import math
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

sys.path.pop(0)  # this folder, whose modules are called like packages
sys.path.insert(0, str(Path(__file__).parent.parent))
from peers.subject import Subject, held, most, multiply_rate, seconds

ONEDNN = torch.ops.mkldnn._linear_pointwise  # which torch's counter does not know


def products_of_rows(x: Sequence[int], weight: Sequence[int], *_: object, **__: object) -> int:
    """FLOP of a linear map, from shapes."""
    return 2 * math.prod(x) * weight[0]


def main() -> None:
    side, row, inputs, weights, device = sys.argv[1:]
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what libraries print must not get between the answers
    torch.set_num_threads(1)
    torch.manual_seed(0)
    arrays = dict(np.load(inputs))
    subject = importlib.import_module(f"peers.{side}").build(row, arrays, Path(weights), device)
    base = held(device)
    for line in sys.stdin:
        command = json.loads(line)
        answers.write(json.dumps(answer(subject, command, device, base)) + "\n")
        answers.flush()


def answer(subject: Subject, command: dict[str, Any], device: str, base: int) -> Any:  # noqa: ANN401 - JSON
    """Do one thing."""
    training = command.get("pass") == "train"
    subject.model.train(training)
    if subject.arrange is not None:
        subject.arrange(command)
    run = subject.step if training else subject.variants.get(command.get("variant", ""), subject.infer)
    match command["do"]:
        case "time":
            return seconds(run, device)
        case "memory":
            moments = subject.make_moments() if training else 0
            if command.get("compiled"):  # what the compiler takes is not what a pass takes
                run()
                subject.optimiser.zero_grad(set_to_none=True)
                base = held(device) - moments
            run()
            return most(device) - base
        case "count":
            with FlopCounterMode(display=False, custom_mapping={ONEDNN: products_of_rows}) as counter:
                run()
            return counter.get_total_flops()
        case "rate":
            return multiply_rate(device)
        case "outputs":
            np.savez(command["to"], **{k: v.detach().double().cpu().numpy() for k, v in run().items()})
            return None
        case "check":
            return subject.check(Path(command["case"]))
        case "facts":
            products = getattr(subject.model, "products", 0)  # ours can remember; MACE has modules of that name
            return {
                "parameters": sum(p.numel() for p in subject.model.parameters()),
                "torch": torch.__version__,
                "products": products if isinstance(products, int) else 0,
            }
        case other:
            raise SystemExit(f"'{other}' is no command")


if __name__ == "__main__":
    main()
