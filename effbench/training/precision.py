"""Number formats of the forward pass: float32, or autocast to half precision, with loss scaling if needed."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

# 16-mixed scales the loss (arXiv:1710.03740, section 3.2): the smallest normal number of float16 is 6e-5, and without
# a scale most gradients of a deep network would be 0. bfloat16 has float32's range, so nothing is scaled.
DTYPES = {"32-true": torch.float32, "bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}


class Precision:
    """A number format. Weights and gradients are float32 in all of them.

    Args:
        name: a key of DTYPES.
        device: where the forward pass runs.
    """

    def __init__(self, name: str = "32-true", device: torch.device | None = None):
        self.name = name
        self._device = "cpu" if device is None else device.type
        # Without float16 the scaler is off, and each of its methods does nothing or calls the optimizer's own.
        self._scaler = torch.amp.GradScaler(self._device, enabled=DTYPES[name] is torch.float16)

    def autocast(self) -> AbstractContextManager[Any]:
        """Return the context of a forward pass: torch chooses the operations that half precision is safe for."""
        # Not autocast with enabled=False: it would end an autocast region around it.
        return nullcontext() if self.name == "32-true" else torch.autocast(self._device, DTYPES[self.name])

    def backward(self, loss: Tensor) -> None:
        """Compute the gradients of the loss, in units of the loss scale."""
        self._scaler.scale(loss).backward()

    def unscale(self, optimizer: Optimizer) -> None:
        """Convert the gradients to true units; clipping and penalties come after it."""
        self._scaler.unscale_(optimizer)

    def step(self, optimizer: Optimizer) -> bool:
        """Step the optimizer; return False if loss scaling skipped the step because gradients overflowed."""
        before = self._scaler.get_scale()
        self._scaler.step(optimizer)
        self._scaler.update()
        # The scaler does not say whether it skipped the step, but it lowers the scale only then.
        return bool(self._scaler.get_scale() >= before)

    def state_dict(self) -> dict[str, Any]:
        """Return the scale and its counters; {} without loss scaling."""
        return dict(self._scaler.state_dict())

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load a state of `state_dict`."""
        self._scaler.load_state_dict(state)


def choose_precision(name: str, device: torch.device) -> tuple[Precision, str]:
    """Return (precision, why) for `32-true | 16-mixed | bf16-mixed | auto`."""
    why = "as configured"
    if name == "auto" and device.type == "cpu":
        # bfloat16 slows down some models even with hardware for it (conf/trainer/default.yaml), and all without
        name, why = "32-true", "auto: float32 on CPU"
    elif name == "auto" and torch.cuda.is_bf16_supported(including_emulation=False):
        name, why = "bf16-mixed", "auto: this GPU computes in bfloat16"
    elif name == "auto":
        name, why = "16-mixed", "auto: this GPU has no bfloat16, so float16 with loss scaling"
    return Precision(name, device), why
