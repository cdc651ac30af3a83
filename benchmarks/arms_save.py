"""Arms of the checkpoint row: ResNet-152 with Adan, 1.2 GB of weights and state."""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks.turns import Turns

THREADS = 2
WORDS = (
    "model=resnet152", "optimizer=adan", "data=synthetic", "data.num_train=64", "data.num_val=8", "data.num_test=8",
    "data.image_size=16", "data.channels=3", "data.batch_size=2", "device=cpu", f"device.threads={THREADS}",
    "trainer.max_epochs=1", "augment=none",
)  # fmt: skip


def _trainer(folder: str, background: bool) -> Any:
    """As `effbench train` makes it, after one step."""
    import effbench
    from effbench import build
    from effbench.training.checkpoint import Checkpoints
    from effbench.training.distributed import DistributedContext

    config = effbench.compose([*WORDS, f"checkpoint.background={str(background).lower()}"])
    device = build.device(config)
    data = build.splits(config)
    checkpoints = Checkpoints(Path(folder) / "checkpoints", "val/acc", "max", 1, True)
    modality = build.modality(config, data, device)
    trainer = build.trainer(config, data, modality, DistributedContext(), checkpoints)
    for parameter in trainer.model.parameters():
        parameter.grad = torch.randn_like(parameter) * 1e-3
    trainer.optimizer.step()
    return trainer


def ours(turns: Turns, background: bool = True) -> None:
    """A slice: the seconds for which training stands still; what is written behind it is waited for afterwards."""
    with tempfile.TemporaryDirectory() as folder:
        trainer = _trainer(folder, background)
        _save(trainer)
        trainer._saves.wait()
        turns.lap()
        while True:
            seconds = _save(trainer)
            trainer._saves.wait()
            turns.lap(seconds)


def _save(trainer: Any) -> float:
    trainer.state.step += 1
    begun = time.perf_counter()
    trainer.save(None)
    return time.perf_counter() - begun


def torch_save(turns: Turns, synced: bool = False) -> None:
    """A slice: the seconds of torch.save of the same state to a file."""
    with tempfile.TemporaryDirectory() as folder:
        trainer = _trainer(folder, False)
        path = Path(folder) / "state.pt"
        turns.lap()
        while True:
            begun = time.perf_counter()
            with path.open("wb") as stream:
                torch.save({"model": trainer.model.state_dict(), "optimizer": trainer.optimizer.state_dict()}, stream)
                if synced:
                    stream.flush()
                    os.fsync(stream.fileno())
            seconds = time.perf_counter() - begun
            os.sync()  # what the kernel has yet to write is not the next arm's to wait for
            turns.lap(seconds)


def steps_beside(turns: Turns, saves: bool, seconds: float = 8.0) -> None:
    """A slice: seconds a step while a checkpoint is written behind training (saves), or with none."""
    with tempfile.TemporaryDirectory() as folder:
        trainer = _trainer(folder, True)
        inputs, targets = torch.randn(8, 3, 32, 32), torch.randint(0, 10, (8,))
        trainer.model.train()

        def step() -> None:
            torch.nn.functional.cross_entropy(trainer.model(inputs), targets).backward()
            trainer.optimizer.step()
            trainer.optimizer.zero_grad()

        step()
        _save(trainer)
        trainer._saves.wait()
        turns.lap()
        while True:
            begun, count = time.perf_counter(), 0
            if saves:
                _save(trainer)
            while time.perf_counter() - begun < seconds:
                step()
                count += 1
            spent = time.perf_counter() - begun
            trainer._saves.wait()
            turns.lap(spent / count)
