"""Three runs, by as many processes as started this; the first writes what came out. Used by test_ranks.py."""

import json
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from toy_task import ToyData, toy_task

from covarium.errors import CovariumError
from covarium.training import Settings, launched, train

RUNS = {
    "plain": Settings(epochs=3, batch_size=5, lr=1e-2, eval_every=4, seed=1),
    "accumulated": Settings(epochs=3, batch_size=5, lr=1e-2, accumulate=3, seed=1),
    "early": Settings(epochs=60, batch_size=8, lr=2e-2, eval_every=1, patience=2, ema_decay=0, warmup=0, seed=2),
    "bad": Settings(epochs=2, batch_size=6, lr=1e-2, seed=3, eval_every=100),
    "hopeless": Settings(epochs=2, batch_size=21, max_skips=2),
}


def main(out: Path) -> None:
    with launched(torch.device("cpu")) as ranks:
        for name, settings in RUNS.items():
            data, task, notes = ToyData(21), toy_task(), []
            if name in ("bad", "hopeless"):
                data.energy[9] = torch.tensor(float("nan"), dtype=torch.float64)
            try:
                result = train(
                    task, data, ToyData(7, seed=1), settings, out / name,
                    save_best=lambda task, card: None, progress=lambda e, n=notes: n.append(e.note), ranks=ranks,
                )  # fmt: skip
                facts = {"steps": result.steps, "reason": result.reason, "best": result.best_metric}
                facts["scores"] = [row["score"] for row in result.history]
            except CovariumError as error:
                facts = {"error": str(error)}
            if ranks.first:
                facts["notes"] = [note for note in notes if note]
                save_file(task.state_dict(), out / f"{name}.safetensors", {"facts": json.dumps(facts)})


if __name__ == "__main__":
    main(Path(sys.argv[1]))
    # a communication thread that outlives its group aborts the process at its exit, now and then
    threads = [(task / "comm").read_text() for task in Path("/proc/self/task").glob("*")]
    assert not [name for name in threads if "gloo" in name], threads
