"""Arms of the rows that train to an accuracy: seconds from the start of the process, imports and data included.

After every epoch both look at the test split, within their time, and end at the first epoch that reaches the target.
"""

from __future__ import annotations

import tempfile
import time
from typing import Any

BEGUN = time.perf_counter()  # before torch and everything else is imported

import torch  # noqa: E402
import torch.nn.functional as F  # noqa: E402
from torch import Tensor, nn  # noqa: E402

from benchmarks.arms_train import settled_config  # noqa: E402
from benchmarks.turns import Turns  # noqa: E402

THREADS = 2
ATTEMPTS = 3


def _ready(turns: Turns) -> None:
    """Tells the seconds since the start of the process; what comes after is counted by the coordinator."""
    turns.report(time.perf_counter() - BEGUN)


def _accuracy(net: nn.Module, split: Any, mean: float, std: float) -> float:
    net.eval()
    correct = 0
    with torch.no_grad():
        for images, labels in zip(split.images.split(500), split.labels.split(500), strict=True):
            correct += int((net((images / 255 - mean) / std).argmax(1) == labels).sum())
    net.train()
    return correct / len(split)


def ours(turns: Turns, words: list[str], target: float) -> None:
    """`effbench train` with these words."""
    import effbench
    from effbench import build
    from effbench.models.adapt import set_train_mode
    from effbench.training.callbacks import Callbacks
    from effbench.training.trainer import Trainer

    loaded: dict[str, Any] = {}
    splits, call, fit = build.splits, Callbacks.call, Trainer.fit

    def keep(config: Any) -> Any:
        loaded["data"] = splits(config)
        return loaded["data"]

    def begin(self: Trainer) -> Any:
        loaded["trainer"] = self
        return fit(self)

    def look(self: Any, hook: str, *args: Any) -> None:
        call(self, hook, *args)
        if hook != "epoch_end":
            return
        trainer = loaded["trainer"]
        accuracy = trainer.evaluate(loaded["batches"](), trainer.ranks)["acc"]
        set_train_mode(trainer.forward)  # evaluation leaves it in eval mode
        if accuracy >= target:
            turns.lap()

    build.splits, Callbacks.call, Trainer.fit = keep, look, begin  # type: ignore[assignment, method-assign]
    own = [*words, "device=cpu", f"device.threads={THREADS}"]
    config = effbench.compose(own)

    def batches() -> Any:
        modality = loaded["trainer"].train.modality
        return build.eval_batches(config, loaded["data"].test, modality, loaded["trainer"].ranks, None)

    loaded["batches"] = batches
    _ready(turns)
    with tempfile.TemporaryDirectory() as folder:
        for attempt in range(ATTEMPTS):  # whoever ends below the target tries again, and has waited for both
            reseeded = effbench.compose([*own, f"seed={config.seed + 1000 * attempt}"])
            effbench.train(reseeded, f"{folder}/{attempt}")
    raise SystemExit(f"the target of {target} was not reached in {ATTEMPTS} runs")


def usual(turns: Turns, words: list[str], target: float, workers: int = 0, slice_steps: int | None = None) -> None:
    """The script that most would write: pytorch-lightning, torchvision's transforms for each image, a DataLoader.

    words: effbench's own, for the same model, data, batch, learning rate and schedule. slice_steps: laps by steps.
    A run that ends below the target counts with its whole time.
    """
    import pytorch_lightning as pl
    from torch.utils.data import DataLoader, Dataset
    from torchvision.transforms import v2

    import effbench
    from effbench import build
    from effbench.models.torchvision_zoo import create

    torch.set_num_threads(THREADS)
    config = effbench.compose([*words, "device=cpu"])
    pl.seed_everything(config.seed, verbose=False)
    data = build.splits(config)
    config = settled_config(config, data)
    mean, std = float((data.train.images / 255).mean()), float((data.train.images / 255).std())
    channels, height, width = data.shape
    net = create("mobilenet_v3_small", 10, channels, (height, width), bn_momentum=0.1)
    finished = [v2.ToDtype(torch.float32, scale=True), v2.Normalize([mean], [std])]
    varied = [v2.RandomCrop(height, padding=config.augment.crop_padding), v2.RandomHorizontalFlip(config.augment.flip)]

    class Images(Dataset[tuple[Tensor, int]]):
        def __init__(self, split: Any, transform: Any):
            self.split, self.transform = split, transform

        def __len__(self) -> int:
            return len(self.split)

        def __getitem__(self, index: int) -> tuple[Tensor, int]:
            return self.transform(self.split.images[index]), int(self.split.labels[index])

    batch = config.data.batch_size
    usual = {"batch_size": batch, "num_workers": workers, "persistent_workers": workers > 0}
    train = DataLoader(Images(data.train, v2.Compose([*varied, *finished])), shuffle=True, drop_last=True, **usual)
    val = DataLoader(Images(data.val, v2.Compose(finished)), **usual)

    class Module(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net, self.steps = net, 0

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            loss = F.cross_entropy(self.net(batch[0]), batch[1])
            self.log("train/loss", loss, prog_bar=True)
            return loss

        def validation_step(self, batch: Any, batch_idx: int) -> None:
            logits = self.net(batch[0])
            self.log("val/acc", (logits.argmax(1) == batch[1]).float().mean(), prog_bar=True)

        def configure_optimizers(self) -> Any:
            lr, decay = config.optimizer.lr, 0.01
            optimizer = torch.optim.AdamW(self.parameters(), lr=lr, weight_decay=decay)
            total = config.trainer.max_epochs * len(train)
            schedule = build.schedule(config, optimizer, total, len(train))
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

        def on_train_batch_end(self, *_: object) -> None:
            self.steps += 1
            if slice_steps and self.steps % slice_steps == 0:
                turns.lap()

        def on_validation_epoch_end(self) -> None:
            if not self.trainer.sanity_checking and not slice_steps and _accuracy(net, data.test, mean, std) >= target:
                turns.lap()

    if not slice_steps:
        _ready(turns)
    with tempfile.TemporaryDirectory() as folder:
        trainer = pl.Trainer(
            accelerator="cpu", max_epochs=config.trainer.max_epochs, gradient_clip_val=config.trainer.gradient_clip_val,
            default_root_dir=folder,
        )  # fmt: skip
        trainer.fit(Module(), train, val)
    turns.lap()  # not reached: counts with the whole of its time, which favours it
    raise SystemExit("a run has one lap")
