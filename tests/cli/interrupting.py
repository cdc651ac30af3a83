"""A run to interrupt in every way, and what must be the same afterwards."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from effbench.records import read_metrics
from effbench.summary_schema import speed_unit_of
from effbench.training.callbacks import Progress
from effbench.units import seen_key

# Batch norm, dropout, augmentation, EMA, warm-up, clipping and momentum: whatever could be lost in between.
FOUR_EPOCHS_OF_FIVE_STEPS = [
    "model=cnn", "model.channels=[4,8]", "model.hidden=16", "optimizer=adamw", "optimizer.lr=3e-3", "ema=on",
    "augment=strong", "scheduler=cosine", "scheduler.warmup=3", "data=synthetic", "data.num_train=40",
    "data.num_val=16", "data.num_test=16", "data.image_size=8", "data.batch_size=8",
    "trainer.max_epochs=4", "trainer.log_every_n_steps=1",
    "early_stopping.patience=50", "device.threads=1",
]  # fmt: skip


class SendsSignal:
    """Sends this process a signal after the given step, as a user or a scheduler would."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch):
        self._monkeypatch = monkeypatch

    def __call__(self, number: int, step: int) -> None:
        def step_end(_: Any, context: Any) -> None:
            if context.state.step == step:
                os.kill(os.getpid(), number)

        self._monkeypatch.setattr(Progress, "step_end", step_end)

    def never(self) -> None:
        self._monkeypatch.setattr(Progress, "step_end", lambda *_: None)


def summary(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "summary.json").read_text()))


def weights(folder: Path) -> dict[str, torch.Tensor]:
    last = folder / "checkpoints" / "last"
    return {**load_file(last / "model.safetensors"), **load_file(last / "ema.safetensors")}


def rows(folder: Path) -> list[dict[str, str]]:
    return [{key: value for key, value in row.items() if "per_s" not in key} for row in read_metrics(folder)]


def ends_like(mine: Path, reference: Path) -> None:
    """To the bit: weights, averages, metrics, best, and every row of metrics.csv."""
    assert summary(mine)["status"] == "completed"
    assert weights(mine).keys() == weights(reference).keys()
    assert all(torch.equal(tensor, weights(reference)[name]) for name, tensor in weights(mine).items())
    assert rows(mine) == rows(reference)
    for key in ("metrics", "best", seen_key(speed_unit_of(summary(reference)))):
        assert summary(mine)[key] == summary(reference)[key]
