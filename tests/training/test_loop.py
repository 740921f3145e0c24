"""The run as a whole: it learns, keeps its best, stops when it should, and says why."""

import csv
import re
import time

import pytest
import torch
from toy_task import ToyData, toy_task

from covarium.errors import CovariumError
from covarium.training import Ranks, Settings, estimate, train


class Best:
    """Keeps what would be saved."""

    def __init__(self) -> None:
        self.weights, self.card, self.count = {}, {}, 0

    def __call__(self, task, card):
        self.weights = {name: value.clone() for name, value in task.state_dict().items()}
        self.card, self.count = card, self.count + 1


def test_learns_and_keeps_the_best_averaged_weights(tmp_path):
    task, best, events = toy_task(), Best(), []
    settings = Settings(epochs=60, lr=3e-2, batch_size=8, ema_decay=0.9, log_every=7)
    result = train(task, ToyData(64), ToyData(16, seed=1), settings, tmp_path, save_best=best, progress=events.append)
    first, last = result.history[0], result.history[-1]
    assert last["forces_mae"] < 0.2 * first["forces_mae"] and last["energy_mae"] < 0.05 * first["energy_mae"]
    assert result.best_metric == min(row["score"] for row in result.history) == best.card["score"]
    assert (result.epochs, result.steps, result.reason) == (60, 480, "finished 60 epochs")
    assert best.card["step"] == result.best_step and best.card["settings"]["lr"] == 3e-2
    # what was saved is what was measured
    task.load_state_dict(best.weights)
    task.eval()
    again = task.metrics(ToyData(16, seed=1).batch(range(16)))
    assert again["forces_mae"][0] / again["forces_mae"][1] == pytest.approx(best.card["forces_mae"], rel=1e-12)
    assert [e.step for e in events] == list(range(1, 481))
    assert all(a.fraction <= b.fraction for a, b in zip(events, events[1:], strict=False))
    assert events[-1].fraction == 1 and events[-1].remaining == 0 and events[-1].losses["loss"] > 0

    rows = list(csv.DictReader((tmp_path / "log.csv").open()))
    evaluated = {int(row["step"]) for row in rows if row["valid_score"]}
    assert evaluated == {int(row["step"]) for row in result.history}
    assert {int(row["step"]) for row in rows} == {0, *range(7, 481, 7)} | evaluated
    assert {"loss", "loss_energy", "loss_forces", "lr", "time", "epoch", "valid_forces_mae"} <= rows[0].keys()


def test_evaluations_cost_at_most_a_tenth(tmp_path):
    data, valid = ToyData(64), ToyData(200, seed=1)
    result = train(toy_task(), data, valid, Settings(epochs=100), tmp_path, save_best=Best())
    # an evaluation pass costs at most half a training pass
    assert 0.5 * sum(valid.costs()) * len(result.history) <= 0.1 * 100 * sum(data.costs())
    # and one more would cost more than a tenth
    assert 0.5 * sum(valid.costs()) * (len(result.history) + 1) > 0.1 * 100 * sum(data.costs())


def test_evaluations_of_a_short_run_cost_at_most_a_tenth(tmp_path):
    """Those at its beginning and its end take only some of the batches, the same ones."""
    data, valid, told = ToyData(64), ToyData(200, seed=1), []
    result = train(toy_task(), data, valid, Settings(epochs=20), tmp_path, save_best=Best(), progress=told.append)
    assert [row["step"] for row in result.history] == [0, result.steps]
    (note,) = {event.note for event in told if event.note}
    stride = int(re.search(r"every (\d+). batch is evaluated", note)[1])
    assert 0.5 * sum(valid.costs()) * 2 / stride <= 0.1 * 20 * sum(data.costs())


def test_stops_early(tmp_path):
    data = ToyData(16)
    data.energy = [-energy for energy in data.energy]  # learning this makes the validation worse
    settings = Settings(steps=500, lr=1e-2, eval_every=3, patience=4, ema_decay=0)
    result = train(toy_task(), data, ToyData(8, seed=1), settings, tmp_path, save_best=Best())
    assert result.steps == result.best_step + 4 * 3 < 500
    assert result.reason == f"stopped early: not better for 4 evaluations, best at step {result.best_step}"


def test_time_budget_holds_everything(tmp_path):
    start = time.monotonic()
    result = train(toy_task(), ToyData(64), ToyData(64, seed=1), Settings(time_s=3.0), tmp_path, save_best=Best())
    assert 2.0 < time.monotonic() - start < 4.0
    assert result.reason.startswith("used its 3 s") and result.history[-1]["step"] == result.steps


def test_schedule_and_evaluations_fit_the_budget(tmp_path, monkeypatch):
    now, step, evaluation = [0.0], 4.0, 25.0  # seconds on a clock that only work moves
    monkeypatch.setattr(time, "monotonic", lambda: now[0])

    class Slow(type(toy_task())):
        def forward(self, batch, rng):
            now[0] += step
            return super().forward(batch, rng)

        def metrics(self, batch):
            now[0] += evaluation
            return super().metrics(batch)

    torch.manual_seed(3)
    events = []
    settings = Settings(time_s=2000.0, lr=1e-3, warmup=0.05, min_lr=0.01)
    valid = ToyData(8, seed=1)
    result = train(Slow().double(), ToyData(64), valid, settings, tmp_path, save_best=Best(), progress=events.append)
    assert 2000 - 2 * step <= now[0] <= 2000 + step
    assert result.history[-1]["step"] == result.steps == len(events)
    assert 5 < len(result.history) and evaluation * len(result.history) < 0.1 * 2000 + 2 * evaluation
    assert result.validation == evaluation * 1.0, "8 systems are one batch"
    assert events[-1].lr == pytest.approx(1e-5, rel=0.01)
    assert max(e.lr for e in events) == pytest.approx(1e-3, rel=0.03)
    fractions = [e.fraction for e in events]
    assert fractions == sorted(fractions) and fractions[-1] == 1


def test_a_bad_frame_is_named_and_its_step_skipped(tmp_path):
    data, events = ToyData(12), []
    data.forces[7] = torch.full_like(data.forces[7], float("nan"))
    task, settings = toy_task(), Settings(epochs=2, batch_size=4)
    result = train(task, data, ToyData(4, seed=1), settings, tmp_path, save_best=Best(), progress=events.append)
    notes = [event.note for event in events if event.note]
    assert len(notes) == 2 and all(note.endswith("Caused by: clusters.xyz, index 7") for note in notes)
    assert result.steps == 6 and all(torch.isfinite(p).all() for p in task.parameters())


def test_a_skipped_step_leaves_the_weights_and_too_many_end_the_run(tmp_path):
    data, task = ToyData(12), toy_task()
    data.energy[3] = torch.tensor(float("inf"), dtype=torch.float64)
    before = {name: p.detach().clone() for name, p in task.named_parameters()}
    settings = Settings(epochs=50, batch_size=12, max_skips=5)
    with pytest.raises(CovariumError, match=r"5 steps in a row .* clusters\.xyz, index 3"):
        train(task, data, ToyData(4, seed=1), settings, tmp_path, save_best=Best())
    assert all(torch.equal(p, before[name]) for name, p in task.named_parameters())


def test_a_bad_validation_label_is_named(tmp_path):
    valid, events = ToyData(6, seed=1), []
    valid.energy[5] = torch.tensor(float("nan"), dtype=torch.float64)
    with pytest.raises(CovariumError, match="no evaluation gave a finite score"):
        train(toy_task(), ToyData(8), valid, Settings(steps=2), tmp_path, save_best=Best(), progress=events.append)
    assert "first for: clusters.xyz, index 5" in events[0].note


def test_refusals(tmp_path):
    settings = Settings(steps=1)
    with pytest.raises(CovariumError, match="no validation systems"):
        train(toy_task(), ToyData(4), ToyData(0), settings, tmp_path, save_best=Best())
    task = toy_task()
    task.selection = {"force_mae": 1.0}
    with pytest.raises(CovariumError, match="chosen by 'force_mae'.*did you mean 'forces_mae'"):
        train(task, ToyData(4), ToyData(4), settings, tmp_path, save_best=Best())
    train(toy_task(), ToyData(4), ToyData(4), settings, tmp_path, save_best=Best())
    with pytest.raises(
        CovariumError, match=f"already holds a run; continue it with `covarium train --resume {tmp_path}`"
    ):
        train(toy_task(), ToyData(4), ToyData(4), settings, tmp_path, save_best=Best())


def test_the_verdict_tells_when_nothing_was_learnt(tmp_path):
    data = ToyData(16)
    data.energy = [energy - 100.0 for energy in data.energy]
    settings = Settings(steps=30, lr=1e-1, warmup=0, ema_decay=0, eval_every=5)
    longer = Settings(steps=200, lr=1e-2)
    learnt = train(toy_task(), ToyData(16), ToyData(8, seed=1), longer, tmp_path / "a", save_best=Best())
    assert learnt.verdict == f"best model: step {learnt.best_step} of 200" and learnt.best_step > 0
    worse = train(toy_task(), data, ToyData(8, seed=1), settings, tmp_path / "b", save_best=Best())
    assert worse.best_step == 0
    assert "did not improve on its first evaluation" in worse.verdict and "step 0" in worse.verdict


def test_estimate_runs_the_share_of_its_rank():
    asked = []

    class Watched(ToyData):
        def batch(self, indices):
            asked.append(len(indices))
            return super().batch(indices)

    found = estimate(toy_task(), Watched(64), Settings(epochs=1, batch_size=8), Ranks(rank=3, world=4))
    assert asked == [2, 2] and found.steps_per_epoch == 8
    # fewer systems than ranks: the last has none
    asked.clear()
    estimate(toy_task(), Watched(4), Settings(epochs=1, batch_size=8), Ranks(rank=7, world=8))
    assert len(asked) == 0


def test_estimate_refuses_a_loss_that_is_not_finite():
    data, task = ToyData(16), toy_task()
    data.energy[4] = torch.tensor(float("nan"), dtype=torch.float64)
    with pytest.raises(CovariumError, match=r"not finite \(energy nan, .*Caused by: clusters\.xyz, index 4\. Check"):
        estimate(task, data, Settings(epochs=1, batch_size=16))


def test_estimate_changes_nothing():
    task = toy_task(dropout=0.2)
    task.eval()
    before = {name: value.clone() for name, value in task.state_dict().items()}
    random = torch.get_rng_state()
    found = estimate(task, ToyData(64), Settings(epochs=10, batch_size=8, accumulate=3))
    assert all(torch.equal(value, before[name]) for name, value in task.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random) and not task.training
    assert all(p.grad is None for p in task.parameters())
    assert found.steps_per_epoch == 3 and found.epochs == pytest.approx(10) and found.peak_bytes > 1e7
    assert found.seconds == pytest.approx(10 * 3 * found.seconds_per_step / 0.9)
    assert estimate(task, ToyData(64), Settings(epochs=10**9, time_s=5.0)).seconds == 5.0
