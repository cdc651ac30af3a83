"""The model as other programs run it: plain images as input, normalisation included, eval mode."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy

import torch
from torch import Tensor, nn


class Portable(nn.Module):
    """(N, C, H, W) float32 images in [0, 1] -> (N, K) float32 logits.

    Args:
        model: takes normalised images.
        mean: of each channel, in [0, 1].
        std: of each channel, in [0, 1].
    """

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
    """Return a copy of the model on the CPU, with normalisation and without gradients.

    It is contiguous, because channels-last weights make torch.export fix the batch size.

    Args:
        model: takes normalised images.
        mean: of each channel, in [0, 1].
        std: of each channel, in [0, 1].
    """
    own = Portable(deepcopy(model), mean, std).cpu().eval().requires_grad_(False)
    return own.to(memory_format=torch.contiguous_format)
