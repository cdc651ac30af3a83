"""pytorch-lightning: a LightningModule and the Trainer."""

import pytorch_lightning as pl
import torch
import torch.nn.functional as F

from benchmarks.frameworks import task


class Classifier(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.net = task.Net()

    def training_step(self, batch, batch_idx):
        images, labels = batch
        return F.cross_entropy(self.net(images), labels)

    def validation_step(self, batch, batch_idx):
        self.evaluate(batch, "val/acc")

    def test_step(self, batch, batch_idx):
        self.evaluate(batch, "test/acc")

    def evaluate(self, batch, name):
        images, labels = batch
        self.log(
            name,
            (self.net(images).argmax(1) == labels).float().mean(),
            batch_size=len(labels),
        )

    def configure_optimizers(self):
        return torch.optim.AdamW(
            self.parameters(), lr=task.LR, weight_decay=task.WEIGHT_DECAY, fused=True
        )


def train(seed, epochs):
    pl.seed_everything(seed, verbose=False)
    train_loader, val_loader, test_loader = task.loaders()
    classifier = Classifier()
    trainer = pl.Trainer(
        accelerator="cpu",
        devices=1,
        max_epochs=epochs,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(classifier, train_loader, val_loader)
    return trainer.test(classifier, test_loader, verbose=False)[0]["test/acc"]
