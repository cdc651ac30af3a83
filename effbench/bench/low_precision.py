"""A portable model whose weights and activations are bfloat16."""

from __future__ import annotations

from copy import deepcopy

import torch
from torch import Tensor, nn

from effbench.export.portable import Portable


class InBfloat16(nn.Module):
    """(N, ...) samples -> (N, K) float32 logits; the scaling of inputs and outputs stays in float32.

    Args:
        whole: a portable model in float32, which is copied.
    """

    def __init__(self, whole: Portable):
        super().__init__()
        own = deepcopy(whole)
        self.normaliser, self.model, self.rescaler = own.normaliser, own.model.to(torch.bfloat16), own.rescaler

    def forward(self, inputs: Tensor) -> Tensor:
        given = self.normaliser(inputs)
        # token numbers stay integers
        logits: Tensor = self.rescaler(self.model(given.bfloat16() if given.is_floating_point() else given).float())
        return logits
