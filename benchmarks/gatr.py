"""Speed and memory of GATr in its four spaces, beside ``lgatr`` and the measured figures of the published code.

    python benchmarks/gatr.py [--tokens 64 256 1024] [--variants iP E P C] [--lgatr PYTHON]

Network of the published size: 10 blocks, 16 multivector and 128 scalar channels, 8 heads, multi-query; one sample, one
thread, float32. Each case runs in a process of its own. ``--lgatr`` names the interpreter of an environment with
``lgatr`` and torch; its algebra, Cl(1,3), has 16 components as well, no join and no distance features. Seconds are
those of the processor, the best of the repeats; memory is the largest resident size, and what of it came after torch,
which by itself takes half of what the published code does at 64 tokens.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

LOADED = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024  # MiB, Python and torch alone
# (tokens) → forward, forward + backward in CPU seconds, peak MiB: official code v1.4.3, measured once on a busy machine
OFFICIAL = {64: (0.144, 0.437, 440), 256: (0.331, 0.994, 573), 1024: (1.28, 4.92, 1290)}
SIZE = {"hidden_mv_channels": 16, "hidden_s_channels": 128, "num_blocks": 10}


def ours(tokens: int, variant: str) -> Callable[[], list[torch.Tensor]]:
    from covarium.layers.multivector.attention import Items
    from covarium.models import GATr, GATrConfig

    config = GATrConfig.published(variant=variant, in_mv_channels=2, in_s_channels=1, out_s_channels=1)  # type: ignore[arg-type]
    model, items = GATr(config), Items((1, tokens))
    mv, s = torch.randn(tokens, 2, model.space.algebra.size), torch.randn(tokens, 1)
    return lambda: [x for x in model.network(mv, s, items) if x is not None]


def theirs(tokens: int) -> Callable[[], list[torch.Tensor]]:
    from lgatr import LGATr

    model = LGATr(
        in_mv_channels=2, out_mv_channels=1, in_s_channels=1, out_s_channels=1, **SIZE,
        attention={"num_heads": 8, "multi_query": True, "attn_ratio": 2}, mlp={"mlp_ratio": 2},
    )  # fmt: skip
    mv, s = torch.randn(1, tokens, 2, 16), torch.randn(1, tokens, 1)
    return lambda: list(model(mv, scalars=s))


def measure(run: Callable[[], list[torch.Tensor]], repeats: int) -> dict[str, float]:
    def forward() -> None:
        with torch.no_grad():
            run()

    def both() -> None:
        sum(x.sum() for x in run()).backward()  # type: ignore[union-attr]

    out = {}
    for name, function in (("forward", forward), ("both", both)):
        function()
        seconds = []
        for _ in range(repeats):
            start = time.process_time()
            function()
            seconds.append(time.process_time() - start)
        out[name] = min(seconds)
    return out


def worker(what: str, tokens: int, repeats: int) -> None:
    """One case; its numbers as JSON."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    found = measure(theirs(tokens) if what == "lgatr" else ours(tokens, what), repeats)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({**found, "peak": peak, "torch": LOADED}))


def case(interpreter: str, what: str, tokens: int, repeats: int) -> dict[str, float]:
    command = [interpreter, str(Path(__file__)), "--worker", what, "--tokens", str(tokens), "--repeats", str(repeats)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, nargs="+", default=[64, 256, 1024])
    parser.add_argument("--variants", nargs="+", default=["iP", "E", "P", "C"])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--lgatr", default=None, help="interpreter of an environment that has lgatr")
    parser.add_argument("--worker", default=None, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker is not None:
        worker(options.worker, options.tokens[0], options.repeats)
        return
    from record import write_record

    torch.set_num_threads(1)
    rows: list[dict[str, Any]] = []
    for tokens in options.tokens:
        cases = [(sys.executable, variant) for variant in options.variants]
        cases += [(options.lgatr, "lgatr")] if options.lgatr else []
        for interpreter, what in cases:
            found = case(interpreter, what, tokens, options.repeats)
            row = {"tokens": tokens, "network": what if what == "lgatr" else f"{what}-GATr"}
            row |= {"forward s": found["forward"], "forward+backward s": found["both"]}
            row |= {"peak MiB": round(found["peak"]), "above torch MiB": round(found["peak"] - found["torch"])}
            if what == "iP" and tokens in OFFICIAL:
                forward, both, peak = OFFICIAL[tokens]
                row |= {"official/ours forward": forward / found["forward"], "official/ours f+b": both / found["both"]}
                row["ours/official peak"] = found["peak"] / peak
                row["ours/official above torch"] = (found["peak"] - found["torch"]) / (peak - found["torch"])
            rows.append(row)
    write_record(
        "gatr-speed", rows, note="10 blocks, 16 mv, 128 s, 8 heads, multi-query, float32, one thread, CPU seconds"
    )


if __name__ == "__main__":
    main()
