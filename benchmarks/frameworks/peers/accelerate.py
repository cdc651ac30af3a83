"""Accelerate around a loop by hand."""

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from accelerate.utils import set_seed

from benchmarks.frameworks import task


def train(seed, epochs):
    set_seed(seed)
    accelerator = Accelerator(cpu=True)
    train_loader, val_loader, test_loader = task.loaders()
    net = task.Net()
    optimizer = torch.optim.AdamW(
        net.parameters(), lr=task.LR, weight_decay=task.WEIGHT_DECAY, fused=True
    )
    net, optimizer, train_loader, val_loader, test_loader = accelerator.prepare(
        net, optimizer, train_loader, val_loader, test_loader
    )
    for _ in range(epochs):
        net.train()
        for images, labels in train_loader:
            optimizer.zero_grad()
            loss = F.cross_entropy(net(images), labels)
            accelerator.backward(loss)
            optimizer.step()
        accuracy(accelerator, net, val_loader)
    return accuracy(accelerator, net, test_loader)


def accuracy(accelerator, net, loader):
    net.eval()
    correct = total = 0
    for images, labels in loader:
        with torch.no_grad():
            logits = net(images)
        predictions, references = accelerator.gather_for_metrics(
            (logits.argmax(1), labels)
        )
        correct += (predictions == references).sum().item()
        total += len(references)
    return correct / total
