"""Number formats of the forward pass: float32, or autocast to half precision, with loss scaling if needed."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer


class Precision:
    """32-true: no autocast, no loss scaling. Base of the others."""

    name = "32-true"

    def autocast(self) -> AbstractContextManager[Any]:
        return nullcontext()

    def backward(self, loss: Tensor) -> None:
        loss.backward()

    def unscale(self, optimizer: Optimizer) -> None:
        """Convert the gradients to true units; clipping and penalties come after it."""

    def step(self, optimizer: Optimizer) -> bool:
        """Step the optimizer; return False if loss scaling skipped the step because gradients overflowed."""
        optimizer.step()
        return True

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        pass


class Autocast(Precision):
    """Half precision for the operations that torch lists as safe in it; weights and gradients stay float32."""

    dtype: torch.dtype

    def __init__(self, device: torch.device):
        self._device = device.type

    def autocast(self) -> AbstractContextManager[Any]:
        return torch.autocast(self._device, self.dtype)


class BFloat16(Autocast):
    """bf16-mixed: bfloat16 has float32's range, so nothing is scaled."""

    name, dtype = "bf16-mixed", torch.bfloat16


class Float16(Autocast):
    """16-mixed: float16 with dynamic loss scaling (arXiv:1710.03740, section 3.2).

    The smallest normal number of float16 is 6e-5: without a scale most gradients of a deep network would be 0.
    """

    name, dtype = "16-mixed", torch.float16

    def __init__(self, device: torch.device):
        super().__init__(device)
        self._scaler = torch.amp.GradScaler(self._device)

    def backward(self, loss: Tensor) -> None:
        self._scaler.scale(loss).backward()

    def unscale(self, optimizer: Optimizer) -> None:
        self._scaler.unscale_(optimizer)

    def step(self, optimizer: Optimizer) -> bool:
        before = self._scaler.get_scale()
        self._scaler.step(optimizer)
        self._scaler.update()
        # The scaler does not say whether it skipped the step, but it lowers the scale only then.
        return bool(self._scaler.get_scale() >= before)

    def state_dict(self) -> dict[str, Any]:
        return dict(self._scaler.state_dict())

    def load_state_dict(self, state: dict[str, Any]) -> None:
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
    if name == "16-mixed":
        return Float16(device), why
    return (BFloat16(device) if name == "bf16-mixed" else Precision()), why
