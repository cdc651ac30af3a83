"""Arms of the loop rows: effbench's own command, the loop one would write by hand, and other trainers.

All train the same model on the embedded Fashion-MNIST with the same batch size, optimizer and clipping. A slice is a
number of optimizer steps; what falls between them (validation, checkpoints, log lines) is in it.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.turns import Turns

THREADS = 2
BATCH = 128
WORDS = {
    "mlp": ("model=mlp", "model.hidden=[256,128]", "augment=none"),
    "mobilenet": ("recipe=mobilenet_adamw",),
}
NO_VALIDATION = ("trainer.check_val_every_n_epoch=1000000",)


class Laps:
    """Ready after `warm_up` steps, then a lap every `slice_steps`. memory: tells the peak, not the time."""

    def __init__(self, turns: Turns, slice_steps: int, warm_up: int, memory: bool = False):
        self.turns, self.slice_steps, self._left, self._memory = turns, slice_steps, warm_up, memory

    def step(self) -> None:
        self._left -= 1
        if self._left == 0:
            self.turns.lap(_peak() if self._memory else None)
            self._left = self.slice_steps


def _peak() -> float:
    from effbench.report.environment import peak_memory

    return float(peak_memory()["peak_rss_bytes"])


def config(model: str, extra: tuple[str, ...] = ()) -> Any:
    import effbench

    common = ("trainer.max_epochs=100000", "device=cpu", f"device.threads={THREADS}", f"data.batch_size={BATCH}")
    return effbench.compose([*WORDS[model], *common, *extra])


def settled_config(chosen: Any, data: Any) -> Any:
    """`chosen` with the numbers that a run of this data would take for its `auto`s."""
    from effbench.automatic import settled

    return settled(chosen, len(data.train), data.modality, data.shape)


def network(chosen: Any, data: Any, plain: bool = False) -> nn.Module:
    """The config's model for this data, with effbench's layers unless `plain`: the arms differ in their loops."""
    from effbench import build
    from effbench.cpu.accelerate import accelerate

    net = build.model(chosen, len(data.classes), data.modality.blank(data.shape))
    if not plain:
        accelerate(net)
    return net


def ours(
    turns: Turns, model: str, slice_steps: int, warm_up: int = 20, resident: bool = False, memory: bool = False,
    words: Any = (),
) -> None:  # fmt: skip
    """`effbench train`. resident: batches are made once and handed out again: what does making them cost?"""
    import effbench

    laps = Laps(turns, slice_steps, warm_up, memory)

    class Lap(effbench.Callback):
        def step_end(self, context: Any) -> None:
            laps.step()

    if resident:
        _hand_out_again()
    with tempfile.TemporaryDirectory() as folder:
        effbench.train(config(model, tuple(words)), f"{folder}/run", callbacks=[Lap()])


def _hand_out_again() -> None:
    from effbench.data.batches import TrainBatches

    made: dict[int, Any] = {}
    make = TrainBatches.make

    def handed_out(self: Any, epoch: int, step: int, part: int = 0) -> Any:
        if step % 8 not in made:
            made[step % 8] = make(self, epoch, step, part)
        return made[step % 8]

    TrainBatches.make = handed_out  # type: ignore[method-assign]


def hand_written(
    turns: Turns, model: str, slice_steps: int, warm_up: int = 20, words: Any = (), validate: bool = False,
    memory: bool = False, compiled: str = "",
) -> None:  # fmt: skip
    """Twenty lines that train: resident images, the same crops and flips by batch, nothing logged or kept.

    compiled: torch.compile's mode, for torch's own layers; empty for an eager model of effbench's layers.
    """
    from effbench import build
    from effbench.data.images.augment import crop

    torch.set_num_threads(THREADS)
    laps = Laps(turns, slice_steps, warm_up, memory)
    chosen = config(model, tuple(words))
    data = build.splits(chosen)
    net = network(chosen, data, plain=bool(compiled))
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-3, weight_decay=1e-2, fused=True)
    images, labels = data.train.images, data.train.labels
    mean, std = float((images / 255).mean()), float((images / 255).std())
    step, total, padding = 0, 100_000, settled_config(chosen, data).augment.crop_padding
    layout = torch.channels_last if model == "mobilenet" else torch.contiguous_format
    net = net.to(memory_format=layout).train()
    run = torch.compile(net, mode=compiled) if compiled else net
    for _ in range(total):
        order = torch.randperm(len(images))
        for start in range(0, len(images) - BATCH + 1, BATCH):
            rows = order[start : start + BATCH]
            batch = images[rows]
            if padding:
                batch = crop(batch, torch.randint(0, 2 * padding + 1, (BATCH, 2)), padding)
                flip = torch.rand(BATCH, 1, 1, 1) < 0.5
                batch = torch.where(flip, batch.flip(3), batch)
            x = batch.float().mul_(1 / 255).sub_(mean).div_(std).contiguous(memory_format=layout)
            loss = F.cross_entropy(run(x), labels[rows])
            loss.backward()
            nn.utils.clip_grad_norm_(net.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            step += 1
            for group in optimizer.param_groups:
                group["lr"] = 5e-4 * (1 + math.cos(math.pi * step / total))
            laps.step()
        if validate:
            _validate(net, data.val, mean, std, layout)


def _validate(net: nn.Module, split: Any, mean: float, std: float, layout: torch.memory_format) -> float:
    net.eval()
    correct = 0
    with torch.no_grad():
        for images, labels in zip(split.images.split(256), split.labels.split(256), strict=True):
            x = images.float().mul_(1 / 255).sub_(mean).div_(std).contiguous(memory_format=layout)
            correct += int((net(x).argmax(1) == labels).sum())
    net.train()
    return correct / len(split)


def _for_others(model: str, words: Any) -> tuple[nn.Module, Any]:
    """The same network, and torch's DataLoader over images that are normalised already."""
    from torch.utils.data import DataLoader, TensorDataset

    from effbench import build

    chosen = config(model, tuple(words))
    data = build.splits(chosen)
    images = data.train.images / 255
    images = (images - images.mean()) / images.std()
    loader = DataLoader(TensorDataset(images, data.train.labels), batch_size=BATCH, shuffle=True, drop_last=True)
    return network(chosen, data), loader


def lightning(turns: Turns, model: str, slice_steps: int, warm_up: int = 20, words: Any = ()) -> None:
    """pytorch-lightning's Trainer with the same parts, its usual logging and progress bar, no checkpoints."""
    import pytorch_lightning as pl

    torch.set_num_threads(THREADS)
    laps = Laps(turns, slice_steps, warm_up)
    net, loader = _for_others(model, words)

    class Module(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = net

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            loss = F.cross_entropy(self.net(batch[0]), batch[1])
            self.log("train/loss", loss)
            return loss

        def configure_optimizers(self) -> Any:
            optimizer = torch.optim.AdamW(self.parameters(), lr=1e-3, weight_decay=1e-2, fused=True)
            schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=1e-3, total_steps=100_000)
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    class Steps(pl.Callback):
        def on_train_batch_end(self, *_: object) -> None:
            laps.step()

    with tempfile.TemporaryDirectory() as folder:
        trainer = pl.Trainer(
            accelerator="cpu", max_epochs=-1, max_steps=90_000, gradient_clip_val=1.0, default_root_dir=folder,
            callbacks=[Steps()], enable_checkpointing=False, enable_model_summary=False,
        )  # fmt: skip
        trainer.fit(Module(), loader)


def accelerate(turns: Turns, model: str, slice_steps: int, warm_up: int = 20, words: Any = ()) -> None:
    """Hugging Face Accelerate around the loop by hand."""
    from accelerate import Accelerator

    torch.set_num_threads(THREADS)
    laps = Laps(turns, slice_steps, warm_up)
    net, loader = _for_others(model, words)
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-3, weight_decay=1e-2, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=1e-3, total_steps=100_000)
    accelerator = Accelerator(cpu=True)
    net, optimizer, loader, schedule = accelerator.prepare(net, optimizer, loader, schedule)
    for batch in _endless(loader):
        optimizer.zero_grad()
        loss = F.cross_entropy(net(batch[0]), batch[1])
        accelerator.backward(loss)
        accelerator.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        laps.step()


def _endless(loader: Any) -> Iterator[Any]:
    while True:
        yield from loader
