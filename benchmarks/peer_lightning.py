"""The run of reliability_peer.py for pytorch-lightning, as its documentation recommends for fault tolerance.

    python benchmarks/peer_lightning.py fit --folder run [--loader plain|stateful|rng] [--every 3]
    python benchmarks/peer_lightning.py cli fit …            LightningCLI
    python benchmarks/peer_lightning.py load PATH            LightningModule.load_from_checkpoint

One command begins and resumes (`ckpt_path="last"`). loader: `plain` is torch's DataLoader; `stateful` torchdata's,
which Lightning asks for its place in the epoch; `rng` adds what a careful user would write by hand, torch's random
state in the checkpoint. Augmentation is in `on_after_batch_transfer`, as the documentation has it: in the dataset,
Lightning's prefetching would draw a batch ahead, and `rng` could not be exact.
"""

from __future__ import annotations

import argparse
import functools
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback, ModelCheckpoint
from pytorch_lightning.cli import LightningCLI, OptimizerCallable
from pytorch_lightning.loggers import CSVLogger
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset
from torchdata.stateful_dataloader import StatefulDataLoader

from effbench.data.images.synthetic import synthetic
from effbench.models.cnn import cnn

STEPS, WARMUP, PADDING = 60, 5, 2
LOADERS = ("plain", "stateful", "rng")
after_step: Callable[[int], None] | None = None  # set by peer_host; gets each step's number


class Images(pl.LightningDataModule):
    """effbench's synthetic images: 16 shuffled batches of 8 an epoch, and 4 for validation."""

    def __init__(self, loader: str = "plain", batch_size: int = 8):
        super().__init__()
        self._loader = DataLoader if loader == "plain" else StatefulDataLoader
        self._batch_size = batch_size
        splits = synthetic(num_train=128, num_val=32, num_test=32, channels=1, image_size=8, num_classes=4, noise=0.3)
        self._train, self._val = (
            TensorDataset(split.images.float() / 255 - 0.5, split.labels) for split in (splits.train, splits.val)
        )

    def train_dataloader(self) -> Any:
        return self._loader(self._train, batch_size=self._batch_size, shuffle=True, drop_last=True)

    def val_dataloader(self) -> Any:
        return DataLoader(self._val, batch_size=self._batch_size)


class TinyCnn(pl.LightningModule):
    """effbench's CNN: batch norm and dropout; AdamW, warm-up and half a cosine."""

    def __init__(self, keep_rng: bool = False, optimizer: OptimizerCallable | None = None):
        super().__init__()
        self.net = cnn(4, 1, (8, 8), channels=(4, 8), hidden=16, dropout=0.2)
        self._keep_rng, self._make_optimizer = keep_rng, optimizer
        self._rng: Tensor | None = None  # of a checkpoint that the next batch goes on from

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        images, labels = batch
        return (augmented(images), labels) if self.trainer.training else (images, labels)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss = nn.functional.cross_entropy(self.net(batch[0]), batch[1])
        self.log("train/loss", loss)
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val/loss", nn.functional.cross_entropy(self.net(batch[0]), batch[1]))

    def configure_optimizers(self) -> Any:
        make = self._make_optimizer or functools.partial(torch.optim.AdamW, lr=1e-2)
        optimizer = make(self.parameters())
        schedule = torch.optim.lr_scheduler.SequentialLR(
            optimizer,
            [
                torch.optim.lr_scheduler.LinearLR(optimizer, 0.01, 1.0, WARMUP),
                torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS - WARMUP),
            ],
            [WARMUP],
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        if self._keep_rng:
            checkpoint["rng"] = torch.get_rng_state()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self._rng = checkpoint.get("rng")

    def on_train_start(self) -> None:
        """Before the loaders make their iterators, which draw from it: right for a checkpoint between epochs."""
        if self._rng is not None:
            torch.set_rng_state(self._rng)

    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Again in mid-epoch, where the uninterrupted run's iterators were made long ago."""
        if self._rng is not None and self.trainer.training:
            if self.trainer.global_step % int(self.trainer.num_training_batches):
                torch.set_rng_state(self._rng)
            self._rng = None
        return batch


def augmented(images_BCHW: Tensor) -> Tensor:
    """Random crops out of a black border, and flips; of each image for itself."""
    count, _, height, width = images_BCHW.shape
    padded = nn.functional.pad(images_BCHW, (PADDING,) * 4, value=-0.5)
    tops, lefts = torch.randint(0, 2 * PADDING + 1, (2, count)).tolist()
    cut = torch.stack(
        [
            image[:, top : top + height, left : left + width]
            for image, top, left in zip(padded, tops, lefts, strict=True)
        ]
    )
    return torch.where(torch.rand(count, 1, 1, 1) < 0.5, cut.flip(3), cut)


class Told(Callback):
    """Says when an epoch is over; calls `after_step` before Lightning's own callbacks save that step."""

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        if after_step is not None:
            after_step(trainer.global_step)

    def on_train_epoch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        print(f"epoch {trainer.current_epoch + 1}  step {trainer.global_step}", flush=True)


def fit(folder: Path, loader: str, every: int, steps: int, checkpoint: str) -> None:
    """Begins, or goes on from, the run in `folder`; a checkpoint each `every` steps, the newest two and `last`."""
    pl.seed_everything(0, workers=True)
    saving = ModelCheckpoint(
        folder / "checkpoints", monitor="step", mode="max", save_top_k=2, save_last=True, every_n_train_steps=every
    )
    trainer = pl.Trainer(
        accelerator="cpu", devices=1, deterministic=True, default_root_dir=folder, max_epochs=-1, max_steps=steps,
        logger=CSVLogger(folder, name="logs"), callbacks=[Told(), saving], log_every_n_steps=1,
        gradient_clip_val=0.5, enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(TinyCnn(keep_rng=loader == "rng"), datamodule=Images(loader), ckpt_path=checkpoint)


def main(words: Sequence[str]) -> int:
    if words[0] == "cli":
        LightningCLI(
            pl.LightningModule, pl.LightningDataModule, subclass_mode_model=True, subclass_mode_data=True,
            args=list(words[1:]),
        )  # fmt: skip
        return 0
    if words[0] == "load":
        TinyCnn.load_from_checkpoint(words[1])
        return 0
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("verb", choices=["fit"])
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--loader", choices=LOADERS, default="plain")
    parser.add_argument("--every", type=int, default=3, help="steps between checkpoints")
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--checkpoint", default="last", help="what to resume from")
    chosen = parser.parse_args(words)
    fit(chosen.folder, chosen.loader, chosen.every, chosen.steps, chosen.checkpoint)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
