"""fastai: a Learner on torch's loaders, module and optimizer."""

from functools import partial

import torch
from fastai.vision.all import DataLoaders, Learner, OptimWrapper, accuracy, set_seed

from benchmarks.frameworks import task


def train(seed, epochs):
    set_seed(seed)
    train_loader, val_loader, test_loader = task.loaders()
    learn = Learner(
        DataLoaders(train_loader, val_loader),
        task.Net(),
        loss_func=torch.nn.CrossEntropyLoss(),
        opt_func=partial(OptimWrapper, opt=torch.optim.AdamW, fused=True),
        metrics=accuracy,
    )
    with learn.no_bar(), learn.no_logging():
        learn.fit(epochs, lr=task.LR, wd=task.WEIGHT_DECAY)
        return learn.validate(dl=test_loader)[1]
