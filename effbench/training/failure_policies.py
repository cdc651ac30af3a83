"""Policies for non-finite losses and gradients, and for out-of-memory errors."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

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


class BufferSnapshot:
    """Restores the model's buffers if a step is taken back: its forward passes have changed batch norm's statistics.

    Args:
        buffers: those of the model; none for policies that never take a step back.
    """

    def __init__(self, buffers: Iterable[Tensor] = ()):
        self._buffers = list(buffers)
        self._kept: list[Tensor] = []

    def begin(self) -> None:
        """Called before a step's first forward pass."""
        self._kept = [buffer.clone() for buffer in self._buffers]

    def undo(self) -> None:
        """Restore what the forward passes since `begin` changed."""
        # In place: the modules hold these very tensors, and so does a compiled model.
        for buffer, kept in zip(self._buffers, self._kept, strict=True):
            buffer.copy_(kept)


@dataclass
class StopAtNonFinite:
    """on_nonfinite=stop: the run ends.

    Attributes:
        check_each_step: read the loss at each step; otherwise the logged steps show it.
    """

    check_each_step: bool = True

    def found(self, loss: Tensor, parameters: Sequence[Tensor]) -> str | None:
        """Return what is not finite after a step's backward passes, such as 'loss is nan'; None if all is finite."""
        return f"loss is {float(loss)}" if self.check_each_step and not math.isfinite(loss) else None

    def skip(self, state: TrainState, what: str) -> bool:
        """Count and log a step that is skipped; return False if the run must end instead."""
        return False


@dataclass
class SkipNonFinite:
    """on_nonfinite=skip: the step is skipped; SKIPS_IN_A_ROW skipped steps in a row end the run.

    Attributes:
        ranks: the processes, which skip a step together.
        gradients: check gradients too; loss scaling does so itself.
    """

    ranks: DistributedContext
    gradients: bool

    def found(self, loss: Tensor, parameters: Sequence[Tensor]) -> str | None:
        # Each rank has a loss of its own, but after the backward pass all have the same, averaged gradients.
        if self.ranks.any(not math.isfinite(loss)):
            return f"loss is {float(loss)}"
        # the loss first: it is one number, and the gradients are as many as the weights
        return "gradient is not finite" if self.gradients and not gradients_finite(parameters) else None

    def skip(self, state: TrainState, what: str) -> bool:
        state.skipped, state.skipped_in_a_row = state.skipped + 1, state.skipped_in_a_row + 1
        if self.ranks.is_main:
            log.warning(f"step {state.step + 1} is left out: its {what}")
        return state.skipped_in_a_row < SKIPS_IN_A_ROW


NonFinitePolicy = StopAtNonFinite | SkipNonFinite  # trainer.on_nonfinite


@dataclass
class RaiseOnOutOfMemory:
    """on_oom=raise: the message names what to reduce.

    Attributes:
        size_key: the config key that makes a sample smaller, or None.
    """

    size_key: str | None = None

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
        lower = ", ".join([key, self.size_key] if self.size_key else [key])
        raise EffbenchError(
            f"out of memory in {what} at {key}={batch_size}: lower {lower} or the model, or let trainer.on_oom=halve "
            f"cut the batches. ({first_line(error)})"
        ) from error


@dataclass
class SplitOnOutOfMemory:
    """on_oom=halve: twice as many micro-batches, whose gradients add up to the same step.

    Attributes:
        size_key: the config key that makes a sample smaller, or None.
    """

    size_key: str | None = None

    def next_split_count(self, what: str, key: str, batch_size: int, splits: int, error: BaseException) -> int:
        if 4 * splits > batch_size:  # batch norm needs two samples a micro-batch
            lower = f"{self.size_key} or the model" if self.size_key else "the model"
            raise EffbenchError(
                f"out of memory in {what} at {key}={batch_size}, cut into {splits} pieces already: lower {lower}. "
                f"({first_line(error)})"
            ) from error
        log.warning(
            f"out of memory in {what} at {key}={batch_size}: each batch is cut into {2 * splits} pieces from "
            "now on; the effective batch stays"
        )
        return 2 * splits


OutOfMemoryPolicy = RaiseOnOutOfMemory | SplitOnOutOfMemory  # trainer.on_oom


@contextmanager
def naming_optimizer_memory(optimizer: Optimizer) -> Iterator[None]:
    """Explain an out-of-memory error of an optimizer's step: a smaller batch would not reduce its state."""
    try:
        yield
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        # most often in the first step, which allocates the state
        count = sum(parameter.numel() for group in optimizer.param_groups for parameter in group["params"])
        raise EffbenchError(
            f"out of memory in the step of the optimizer, {type(optimizer).__name__} over {human_count(count)} "
            "parameters: its state grows with the model, not with data.batch_size. Choose one with less (bytes a "
            "parameter in fp32: adan 16, adamw 8, lion 4, sgd 4, with optimizer.momentum=0 optimizer.nesterov=false "
            "none) or a smaller model. "
            f"({first_line(error)})"
        ) from error


def is_out_of_memory(error: BaseException) -> bool:
    """Return True for an out-of-memory error, also as the cause of a BatchError.

    On a CPU torch raises a plain RuntimeError.
    """
    # A worker of the data pipeline wraps what it raises.
    if isinstance(error, BatchError) and error.__cause__ is not None:
        error = error.__cause__
    # the text of torch's CPU allocator, DefaultCPUAllocator
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
    )


def gradients_finite(parameters: Sequence[Tensor]) -> bool:
    """Return True if all gradients are finite; the device is read once."""
    # torch's norm of an empty tensor raises an error for the order infinity.
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None and parameter.numel() > 0]
    if not gradients:
        return True
    # The largest magnitude of each: NaN and infinity survive in it, and it cannot overflow as a sum can.
    return bool(torch.stack(torch._foreach_norm(gradients, float("inf"))).isfinite().all())


def first_not_finite(model: nn.Module) -> str | None:
    """Return 'weight NAME' of the first parameter with NaN or infinity, or buffer with NaN; None if all is well.

    An infinity in a buffer may be intended, as in a mask.
    """
    parameters = dict(model.named_parameters())
    buffers = {name: buffer for name, buffer in model.named_buffers() if buffer.is_floating_point()}
    if _sums_finite([*parameters.values(), *buffers.values()]):
        return None
    # Rare: look at each tensor alone, for its name, and to tell an infinity in a buffer from NaN.
    named = {name: parameter.isfinite() for name, parameter in parameters.items()}
    named |= {name: ~buffer.isnan() for name, buffer in buffers.items()}
    return next((f"weight {name}" for name, good in named.items() if not good.all()), None)


def optimizer_not_finite(optimizer: Optimizer) -> str | None:
    """Return the part of an optimizer's state that holds NaN or infinity, or None.

    Lion's sign turns such a value into 0, so no weight shows it.
    """
    tensors = [
        (name, part)
        for state in optimizer.state.values()
        for name, value in state.items()
        if isinstance(value, Tensor) and value.dim() > 0  # a scalar is a step count
        for part in plain_parts(value)
        if part.is_floating_point() or part.is_complex()
    ]
    if _sums_finite([value for _, value in tensors]):
        return None
    return next((f"{name} of the optimizer" for name, value in tensors if not value.isfinite().all()), None)


def plain_parts(tensor: Tensor) -> list[Tensor]:
    """Return the tensor; of a subclass, which may support few operations, the plain tensors that it consists of.

    Return none of a subclass without `__tensor_flatten__` (torch's protocol): its content cannot be read.
    """
    if type(tensor) in PLAIN_TYPES:
        return [tensor]
    if not hasattr(tensor, "__tensor_flatten__"):
        return []
    names, _ = tensor.__tensor_flatten__()
    return [part for name in names for part in plain_parts(getattr(tensor, name))]


def _sums_finite(tensors: Sequence[Tensor]) -> bool:
    """Return False if a tensor may hold NaN or an infinity, which would show in its sum; the device is read once."""
    plain = [part for tensor in tensors for part in plain_parts(tensor.detach())]
    parts = [torch.view_as_real(tensor) if tensor.is_complex() else tensor for tensor in plain]
    # At least float32: a sum in float16 overflows at 65,504 although every element is finite.
    sums = [part.sum(dtype=torch.promote_types(part.dtype, torch.float32)) for part in parts]
    return not sums or bool(torch.stack([each.to(sums[0].device, torch.float64) for each in sums]).isfinite().all())
