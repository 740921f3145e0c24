"""Training on frames in files is training on them in memory: to the bit, resumed or not, with any workers."""

import os
import signal
from pathlib import Path

import pytest
import torch
from potential_runs import frames
from test_resume import assert_same

from covarium.data import FrameDataset, StoredFrames, data_set, store_writing
from covarium.data.store import Rest, Store
from covarium.models.equiformer_v2 import Config, EquiformerV2
from covarium.tasks import Potential, Term
from covarium.training import Settings, train

CONFIG = Config(
    num_layers=1, lmax=1, mmax=1, sphere_channels=4, attn_hidden_channels=4, num_heads=1, attn_alpha_channels=2,
    attn_value_channels=2, ffn_hidden_channels=4, edge_channels=4, num_distance_basis=4, avg_degree=3.0,
)  # fmt: skip
SETTINGS = Settings(epochs=3, batch_size=5, accumulate=2, lr=5e-3, eval_every=3, log_every=2)


def run(data, folder, *, stop_at=(), resume=False):
    torch.manual_seed(5)
    task = Potential(
        EquiformerV2(CONFIG), references={1: 0.0, 6: 0.0, 8: 0.0}, forces="gradient", scale=1.0,
        terms=(Term("energy"), Term("forces", loss="l2")),
    )  # fmt: skip

    def progress(event):
        if event.step in stop_at and not event.note:
            os.kill(os.getpid(), signal.SIGTERM)

    valid = FrameDataset(frames(5, 1), task.model.spec, torch.float32)
    return train(
        task, data(task.model.spec), valid, SETTINGS, folder,
        save_best=lambda task, card: None, progress=progress, resume=resume,
    )  # fmt: skip


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stored") / "a.frames"
    before, store_writing.BLOCK = store_writing.BLOCK, 7
    writer = store_writing.Writer(folder)
    for frame in frames(33, 0):
        writer.append(frame, Rest({}, {}))
    writer.finish(theory="", group=None, notes=[], left_out=[])
    writer.close()
    store_writing.BLOCK = before
    return folder


@pytest.fixture(scope="module")
def in_memory(tmp_path_factory):
    folder = tmp_path_factory.mktemp("memory")
    run(lambda spec: FrameDataset(frames(33, 0), spec, torch.float32), folder)
    return folder


def streamed(path: Path, workers: int):
    return lambda spec: data_set(StoredFrames([Store(path)], ("energy", "forces")), spec, torch.float32, workers)[0]


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_streaming_equals_memory_to_the_bit(stored, in_memory, tmp_path, workers):
    result = run(streamed(stored, workers), tmp_path)
    assert result.epochs == 3
    assert_same(in_memory, tmp_path)


def test_resumed_with_other_numbers_of_workers(stored, in_memory, tmp_path):
    for stop, workers in ((2, 2), (5, 1), (8, 0)):
        result = run(streamed(stored, workers), tmp_path, stop_at=(stop,), resume=stop > 2)
        assert result.interrupted and result.steps == stop + 1
    run(streamed(stored, 3), tmp_path, resume=True)
    assert_same(in_memory, tmp_path)


def test_in_memory_and_streamed_runs_continue_each_other(stored, in_memory, tmp_path):
    run(lambda spec: FrameDataset(frames(33, 0), spec, torch.float32), tmp_path, stop_at=(4,))
    run(streamed(stored, 2), tmp_path, resume=True)
    assert_same(in_memory, tmp_path)
