"""The model as other programs run it: plain samples as input, outputs in the unit of the targets, eval mode."""

from __future__ import annotations

from copy import deepcopy

import torch
from torch import Tensor, nn


class Portable(nn.Module):
    """(N, ...) float32 samples, as `Modality.portable` returns them -> (N, K) float32 logits.

    Args:
        model: takes normalised samples.
        normaliser: normalises them.
        rescaler: brings the model's outputs into the unit of the targets; None: they have it.
    """

    def __init__(self, model: nn.Module, normaliser: nn.Module, rescaler: nn.Module | None = None):
        super().__init__()
        self.normaliser, self.model = normaliser, model
        self.rescaler = nn.Identity() if rescaler is None else rescaler

    def forward(self, inputs: Tensor) -> Tensor:
        logits: Tensor = self.rescaler(self.model(self.normaliser(inputs)))
        return logits


def portable(model: nn.Module, normaliser: nn.Module, rescaler: nn.Module | None = None) -> Portable:
    """Return a copy of the model on the CPU, with normalisation and without gradients.

    It is contiguous, because channels-last weights make torch.export fix the batch size.

    Args:
        model: takes normalised samples.
        normaliser: normalises them.
        rescaler: brings the model's outputs into the unit of the targets; None: they have it.
    """
    # a copy: the caller goes on with its model, on its device
    own = Portable(deepcopy(model), normaliser, rescaler).cpu().eval().requires_grad_(False)
    return own.to(memory_format=torch.contiguous_format)
