"""When a checkpoint is written: at once, or in the background from a copy."""

from __future__ import annotations

import logging
import os
import sys
import threading
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from effbench.cpu.tensors import PLAIN_TYPES
from effbench.training.checkpoint import Checkpoints
from effbench.training.checkpoint_files import Snapshot
from effbench.training.failure_policies import is_out_of_memory

log = logging.getLogger(__name__)

NICE = 10  # added to the nice value in the writer thread: it gets a tenth of the share of the training threads
LARGEST_NICE = 19


class Saves:
    """Writes checkpoints, at once or later."""

    def save(self, snapshot: Snapshot, step: int, value: float | None, keep: bool, loss: float | None = None) -> None:
        """Save a checkpoint now or later, see `Checkpoints.save`.

        Args:
            snapshot: what to save.
            step: optimizer steps taken.
            value: the monitored metric; None without a validation.
            keep: keep it as `last` in any case.
            loss: val/loss of the validation.
        """

    def check(self) -> None:
        """Raise the error of an earlier save."""

    def wait(self) -> None:
        """Wait until everything is on disk; raise the error of an earlier save."""

    def drain(self) -> None:
        """Like `wait`, but logs the error; for use while another exception propagates."""


class NoSaves(Saves):
    """Saves nothing: no checkpoint is kept, or another rank writes them."""


@dataclass(eq=False)
class DirectSaves(Saves):
    """Training waits until the checkpoint is on disk, so nothing is left to check or to wait for."""

    checkpoints: Checkpoints

    def save(self, snapshot: Snapshot, step: int, value: float | None, keep: bool, loss: float | None = None) -> None:
        self.checkpoints.save(snapshot, step, value, keep, loss)


class BackgroundSaves(Saves):
    """Training waits only for a copy in memory, which a thread writes. A new save waits for the one before.

    The memory of the copy is reused: on many machines touching new memory costs more than copying.
    """

    def __init__(self, checkpoints: Checkpoints):
        self._checkpoints = checkpoints
        self._copies: dict[tuple[Any, ...], Tensor] = {}  # place of a tensor in the snapshot -> its copy
        self._writer: threading.Thread | None = None
        self._error: BaseException | None = None

    def save(self, snapshot: Snapshot, step: int, value: float | None, keep: bool, loss: float | None = None) -> None:
        self.wait()  # the writer still reads the copy whose memory this save reuses
        # before the copy, which costs memory and time
        if not self._checkpoints.is_due(step, value, keep, loss):
            return
        try:
            copy = Snapshot(
                self._copied(snapshot.weights, "weights", plain=True),
                self._copied(snapshot.ema, "ema", plain=True),
                self._copied(snapshot.state, "state"),
            )
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            self._copies.clear()  # writing needs memory too
            log.warning("no memory for a copy of the checkpoint: training waits until it is written")
            self._checkpoints.save(snapshot, step, value, keep, loss)
            return

        # A daemon, so that an error elsewhere ends the process; `wait` and `drain` join it on every ordinary way out.
        writer = threading.Thread(
            target=self._write, args=(copy, step, value, keep, loss), name=f"checkpoint of step {step}", daemon=True
        )
        try:
            writer.start()
        except RuntimeError as error:  # a limit of threads, or no memory for the stack of one
            log.warning(f"no thread to write the checkpoint ({error}): training waits until it is written")
            self._checkpoints.save(copy, step, value, keep, loss)
        else:
            self._writer = writer  # only now: a thread that never started cannot be joined

    def check(self) -> None:
        if self._error is not None:
            error, self._error = self._error, None
            raise error

    def wait(self) -> None:
        self._join()
        self.check()

    def drain(self) -> None:
        self._join()
        if self._error is not None:
            log.warning(f"the last checkpoint was not saved: {self._error}")
            self._error = None

    def _join(self) -> None:
        if self._writer is not None:
            self._writer.join()
            self._writer = None

    def _write(self, copy: Snapshot, step: int, value: float | None, keep: bool, loss: float | None = None) -> None:
        if sys.platform == "linux":  # only Linux has a nice value for each thread
            thread = threading.get_native_id()
            # Added: a lower value than that of `nice -n 15 effbench train` would be refused, or be a higher priority.
            with suppress(OSError):  # a sandbox may refuse it: the thread is then as important as the others
                own = os.getpriority(os.PRIO_PROCESS, thread)
                os.setpriority(os.PRIO_PROCESS, thread, min(LARGEST_NICE, own + NICE))
        try:
            self._checkpoints.save(copy, step, value, keep, loss)
        except BaseException as error:  # noqa: BLE001 - `check` raises it in the training thread
            self._error = error

    def _copied(self, value: Any, *place: Any, plain: bool = False) -> Any:
        """Return a copy that shares no memory.

        Args:
            value: a part of a snapshot.
            place: keys that lead to it; the same place reuses the same memory.
            plain: copy tensors in row-major order, as safetensors needs. Else the memory format stays, because a fused
                optimizer's state must be laid out like its parameter.
        """
        if isinstance(value, Tensor):
            return self._copied_tensor(value.detach(), place, plain)
        if isinstance(value, dict):
            return {key: self._copied(item, *place, key, plain=plain) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return type(value)(self._copied(item, *place, index, plain=plain) for index, item in enumerate(value))
        return value

    def _copied_tensor(self, tensor: Tensor, place: tuple[Any, ...], plain: bool) -> Tensor:
        if type(tensor) in PLAIN_TYPES:
            layout = torch.contiguous_format if plain else torch.preserve_format
            kept = self._copies.get(place)
            if kept is None or kept.shape != tensor.shape or kept.dtype != tensor.dtype:
                kept = self._copies[place] = torch.empty_like(tensor, device="cpu", memory_format=layout)
            return kept.copy_(tensor)

        # A subclass may not support the operations of a copy: copy the tensors that it consists of (torch's protocol).
        if not hasattr(tensor, "__tensor_flatten__"):
            return tensor.clone()
        names, context = tensor.__tensor_flatten__()
        parts = {name: self._copied(getattr(tensor, name), *place, name, plain=plain) for name in names}
        kind: Any = type(tensor)
        made: Tensor = kind.__tensor_unflatten__(parts, context, tensor.shape, tensor.stride())
        return made


def choose_saves(checkpoints: Checkpoints | None, background: bool) -> Saves:
    """Return the way to save; no `checkpoints` on ranks other than 0."""
    if checkpoints is None:
        return NoSaves()
    return BackgroundSaves(checkpoints) if background else DirectSaves(checkpoints)
