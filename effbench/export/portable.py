"""A trained model as others run it: plain images in, the run's normalisation inside, contiguous, in eval mode."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy

import torch
from torch import Tensor, nn


class Portable(nn.Module):
    """images: float32 (N, C, H, W) in [0, 1] -> logits, float32 (N, K)."""

    def __init__(self, model: nn.Module, mean: Sequence[float], std: Sequence[float]):
        super().__init__()
        self.model = model
        for name, values in (("mean", mean), ("std", std)):
            self.register_buffer(name, torch.tensor(values, dtype=torch.float32).view(-1, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        mean, std = self.get_buffer("mean"), self.get_buffer("std")
        logits: Tensor = self.model((images - mean) / std)
        return logits


def portable(model: nn.Module, mean: Sequence[float], std: Sequence[float]) -> Portable:
    """A copy of `model` on the CPU that asks for no gradients. mean, std: of the channels, in [0, 1].

    Contiguous, since channels-last weights make torch.export guard on the batch size.
    """
    own = Portable(deepcopy(model), mean, std).cpu().eval().requires_grad_(False)
    return own.to(memory_format=torch.contiguous_format)
