"""Policies for non-finite losses and gradients, and for out-of-memory errors."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from effbench.cpu.tensors import PLAIN_TYPES
from effbench.data.prefetch import BatchError
from effbench.errors import EffbenchError, first_line
from effbench.training.distributed import DistributedContext
from effbench.training.state import TrainState
from effbench.units import human_count

log = logging.getLogger(__name__)

SKIPS_IN_A_ROW = 20  # after so many the run has failed, not a single batch


class StepRollback(Protocol):
    """Restores the model's buffers if a step is skipped: its forward passes have changed batch norm's statistics."""

    def begin(self) -> None:
        """Called before a step's first forward pass."""

    def undo(self) -> None:
        """Restore what the forward passes since `begin` changed."""


class NoBufferSnapshot:
    """For policies that never skip a step."""

    def begin(self) -> None:
        pass

    def undo(self) -> None:
        pass


class BufferSnapshot:
    """Copies all buffers at every step."""

    def __init__(self, model: nn.Module):
        self._buffers = list(model.buffers())
        self._kept: list[Tensor] = []

    def begin(self) -> None:
        self._kept = [buffer.clone() for buffer in self._buffers]

    def undo(self) -> None:
        for buffer, kept in zip(self._buffers, self._kept, strict=True):
            buffer.copy_(kept)


class NonFinitePolicy(Protocol):
    """trainer.on_nonfinite: what happens after a loss or gradient that is NaN or infinite."""

    def found(self, loss: Tensor, parameters: Sequence[Tensor]) -> str | None:
        """Return what is not finite after a step's backward passes, such as 'loss is nan'; None if all is finite."""

    def skip(self, state: TrainState, what: str) -> None:
        """Count and log a step that is skipped; a policy that skips none does nothing."""

    def goes_on(self, state: TrainState) -> bool:
        """Return True if the run continues after a skipped step."""


class StopAtNonFinite:
    """on_nonfinite=stop: the run ends.

    Args:
        looks: read the loss at each step; otherwise the logged steps show it.
    """

    def __init__(self, looks: bool = True):
        self._looks = looks

    def found(self, loss: Tensor, parameters: Sequence[Tensor]) -> str | None:
        return _not_finite(loss) if self._looks else None

    def skip(self, state: TrainState, what: str) -> None:
        pass

    def goes_on(self, state: TrainState) -> bool:
        return False


class SkipNonFinite:
    """on_nonfinite=skip: the step is skipped; SKIPS_IN_A_ROW skipped steps in a row end the run.

    Args:
        ranks: the processes, which skip a step together.
        gradients: check gradients too; loss scaling does so itself.
    """

    def __init__(self, ranks: DistributedContext, gradients: bool):
        self._ranks, self._gradients = ranks, gradients

    def found(self, loss: Tensor, parameters: Sequence[Tensor]) -> str | None:
        if self._ranks.any(_not_finite(loss) is not None):
            return f"loss is {float(loss)}"
        return "gradient is not finite" if self._gradients and not gradients_finite(parameters) else None

    def skip(self, state: TrainState, what: str) -> None:
        state.skipped, state.skipped_in_a_row = state.skipped + 1, state.skipped_in_a_row + 1
        if self._ranks.is_main:
            log.warning(f"step {state.step + 1} is left out: its {what}")

    def goes_on(self, state: TrainState) -> bool:
        return state.skipped_in_a_row < SKIPS_IN_A_ROW


def _not_finite(loss: Tensor) -> str | None:
    return None if math.isfinite(loss) else f"loss is {float(loss)}"


class OutOfMemoryPolicy(Protocol):
    """trainer.on_oom: what happens if a batch does not fit into memory."""

    def next_split_count(self, what: str, key: str, batch_size: int, splits: int, error: BaseException) -> int:
        """Return how many micro-batches to split a batch into from now on.

        Args:
            what: 'training' or 'evaluation'.
            key: the config key of the batch size.
            batch_size: its value.
            splits: the present number of micro-batches.
            error: the out-of-memory error.

        Raises:
            EffbenchError: the policy or the batch size allows no further split.
        """


class RaiseOnOutOfMemory:
    """on_oom=raise: the message names what to reduce.

    Args:
        size_key: the config key that makes a sample smaller, or None.
    """

    def __init__(self, size_key: str | None = None):
        self._smaller = [] if size_key is None else [size_key]

    def next_split_count(self, what: str, key: str, batch_size: int, splits: int, error: BaseException) -> int:
        raise EffbenchError(
            f"out of memory in {what} at {key}={batch_size}: lower {', '.join([key, *self._smaller])} or the "
            f"model, or let trainer.on_oom=halve cut the batches. ({first_line(error)})"
        ) from error


class SplitOnOutOfMemory:
    """on_oom=halve: twice as many micro-batches, whose gradients add up to the same step.

    Args:
        size_key: the config key that makes a sample smaller, or None.
    """

    def __init__(self, size_key: str | None = None):
        self._smaller = [] if size_key is None else [size_key]

    def next_split_count(self, what: str, key: str, batch_size: int, splits: int, error: BaseException) -> int:
        if 4 * splits > batch_size:  # batch norm needs two samples a micro-batch
            raise EffbenchError(
                f"out of memory in {what} at {key}={batch_size}, cut into {splits} pieces already: lower "
                f"{' or '.join([*self._smaller, 'the model'])}. ({first_line(error)})"
            ) from error
        log.warning(
            f"out of memory in {what} at {key}={batch_size}: each batch is cut into {2 * splits} pieces from "
            "now on; the effective batch stays"
        )
        return 2 * splits


@contextmanager
def naming_optimizer_memory(optimizer: Optimizer) -> Iterator[None]:
    """Explain an out-of-memory error of an optimizer's step: a smaller batch would not reduce its state."""
    try:
        yield
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        count = sum(parameter.numel() for group in optimizer.param_groups for parameter in group["params"])
        raise EffbenchError(
            f"out of memory in the step of the optimizer, {type(optimizer).__name__} over {human_count(count)} "
            "parameters: its state grows with the model, not with data.batch_size. Choose one with less (bytes a "
            "parameter in fp32: adan 16, adamw 8, lion 4, sgd 4, with optimizer.momentum=0 none) or a smaller model. "
            f"({first_line(error)})"
        ) from error


def name_out_of_memory(error: BaseException, key: str, batch_size: int) -> None:
    """Raise an EffbenchError that names what to reduce, if the error is an out-of-memory error.

    Args:
        error: any error.
        key: the config key of the batch size.
        batch_size: its value.

    Raises:
        EffbenchError: it is an out-of-memory error.
    """
    if is_out_of_memory(error):
        message = f"out of memory at {key}={batch_size}: lower it or the model. ({first_line(error)})"
        raise EffbenchError(message) from error


def is_out_of_memory(error: BaseException) -> bool:
    """Return True for an out-of-memory error, also as the cause of a BatchError.

    On a CPU torch raises a plain RuntimeError.
    """
    if isinstance(error, BatchError) and error.__cause__ is not None:
        error = error.__cause__
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
    )


def gradients_finite(parameters: Sequence[Tensor]) -> bool:
    """Return True if all gradients are finite; the device is read once."""
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None and parameter.numel() > 0]
    if not gradients:
        return True
    return bool(torch.stack(torch._foreach_norm(gradients, float("inf"))).isfinite().all())


def first_not_finite(model: nn.Module) -> str | None:
    """Return 'weight NAME' of the first parameter with NaN or infinity, or buffer with NaN; None if all is well.

    An infinity in a buffer may be intended, as in a mask.
    """
    parameters, buffers = dict(model.named_parameters()), dict(model.named_buffers())
    if _sums_finite([*parameters.values(), *(buffer for buffer in buffers.values() if buffer.is_floating_point())]):
        return None
    named = {name: parameter.isfinite() for name, parameter in parameters.items()}
    named |= {name: ~buffer.isnan() for name, buffer in buffers.items() if buffer.is_floating_point()}
    return next((f"weight {name}" for name, good in named.items() if not good.all()), None)


def optimizer_not_finite(optimizer: Optimizer) -> str | None:
    """Return the part of an optimizer's state that holds NaN or infinity, or None.

    Lion's sign turns such a value into 0, so no weight shows it.
    """
    tensors = [
        (name, part)
        for state in optimizer.state.values()
        for name, value in state.items()
        if isinstance(value, Tensor) and value.dim() > 0
        for part in plain_parts(value)
        if part.is_floating_point() or part.is_complex()
    ]
    if _sums_finite([value for _, value in tensors]):
        return None
    return next((f"{name} of the optimizer" for name, value in tensors if not value.isfinite().all()), None)


def plain_parts(tensor: Tensor) -> list[Tensor]:
    """The tensor itself, or of a subclass, which may know few operations, those that it is made of.

    None of a subclass that does not say (`__tensor_flatten__`, torch's protocol): it cannot be looked into.
    """
    if type(tensor) in PLAIN_TYPES:
        return [tensor]
    if not hasattr(tensor, "__tensor_flatten__"):
        return []
    names, _ = tensor.__tensor_flatten__()
    return [part for name in names for part in plain_parts(getattr(tensor, name))]


def _sums_finite(tensors: Sequence[Tensor]) -> bool:
    """Whether none can hold NaN or an infinity: either would show in its sum. One look for all."""
    plain = [part for tensor in tensors for part in plain_parts(tensor.detach())]
    parts = [torch.view_as_real(tensor) if tensor.is_complex() else tensor for tensor in plain]
    sums = [part.sum(dtype=torch.promote_types(part.dtype, torch.float32)) for part in parts]
    return not sums or bool(torch.stack([each.to(sums[0].device, torch.float64) for each in sums]).isfinite().all())
