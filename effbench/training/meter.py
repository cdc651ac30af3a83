"""Sums of training on the device, read when a line is logged."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from effbench.metrics import ACCURACY
from effbench.tasks.tallies import Tallies
from effbench.training.distributed import DistributedContext
from effbench.training.timers import Clocks
from effbench.units import throughput_key

WARMUP_STEPS = 5  # of a session: memory is allocated, kernels are chosen, a model may be compiled


class Meter:
    """The task's sums in training, over the epoch and since the last logged line."""

    def __init__(self, ranks: DistributedContext, tallies: Tallies):
        self._ranks, self._tallies = ranks, tallies
        # float64: float32 counts samples exactly only up to 2^24. Never changed in place, because it is shared.
        self._zeros = torch.zeros(len(tallies), dtype=torch.float64)
        self._sums: Tensor | None = None  # of this rank, over the epoch; on the model's device
        self._logged = self._zeros  # of all ranks, up to the last logged line; on the CPU

    def add(self, sums: Tensor) -> None:
        """Add the sums of a step, as `Tallies.of` returns them. Nothing is read from the device."""
        # to(): sums that were loaded from a checkpoint are on the CPU
        self._sums = sums if self._sums is None else self._sums.to(sums.device) + sums

    @property
    def empty(self) -> bool:
        """True if no step was added since the last epoch ended."""
        return self._sums is None

    def window_means(self) -> dict[str, float]:
        """Return 'train/<metric>' over the steps since the last call, or since the epoch began."""
        sums = self._read()
        window, self._logged = sums - self._logged, sums
        return self._tallies.values(window, "train/")

    def epoch_means(self) -> dict[str, float]:
        """Return 'train/<metric>' over the epoch, and reset the sums for the next one."""
        sums = self._read()
        self._sums, self._logged = None, self._zeros
        return self._tallies.values(sums, "train/")

    def _read(self) -> Tensor:
        return self._zeros if self._sums is None else self._ranks.sum(self._sums).cpu()

    def state_dict(self) -> dict[str, Any]:
        """Return the sums of all ranks by name. Every rank must call it."""
        sums = None if self.empty else self._tallies.named(self._read())
        return {"sums": sums, "logged": self._tallies.named(self._logged)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load the sums: rank 0 gets those of all ranks, the others zero, so that their sum stays the same."""
        before = {key: _by_name(value) for key, value in state.items()}
        self._sums = None
        if before["sums"] is not None:
            self._sums = self._tallies.from_named(before["sums"]) if self._ranks.is_main else self._zeros
        self._logged = self._tallies.from_named(before["logged"])


def _by_name(sums: Any) -> Any:
    """Convert the tensor of a 0.1 checkpoint: loss, correct predictions, samples and, in later ones, weight."""
    if not isinstance(sums, Tensor):
        return sums
    loss, correct, samples, *weight = sums
    return {"loss": loss, "weight": weight[0] if weight else samples, "samples": samples,
            f"metric/{ACCURACY}": correct.reshape(1)}  # fmt: skip


class Throughput:
    """Samples a second of training time, without the first WARMUP_STEPS steps of the session.

    Args:
        clocks: timers of the run.
        unit: the word for what is counted; it names the column: train/images_per_s.
        per_sample: how many a sample has.

    Attributes:
        fresh: True before the first step of the session.
        seen_at_start: samples of all sessions before the first step that counts.
    """

    def __init__(self, clocks: Clocks, unit: str, per_sample: int = 1):
        self._clocks, self._per_sample = clocks, per_sample
        self.column = f"train/{throughput_key(unit)}"
        self.fresh = True
        self.seen_at_start = 0
        self._steps = 0
        self._seconds_at_start = 0.0

    def step_done(self, samples_seen: int) -> None:
        self.fresh = False
        self._steps += 1
        if self._steps == WARMUP_STEPS:
            self.seen_at_start, self._seconds_at_start = samples_seen, self._clocks.training

    def values(self, samples_seen: int) -> dict[str, float]:
        """Return the column and its value; {} during the warm-up."""
        # training alone: validations and checkpoints would make the speed depend on their number
        seconds = self._clocks.training - self._seconds_at_start
        if self._steps <= WARMUP_STEPS or seconds <= 0:
            return {}
        return {self.column: (samples_seen - self.seen_at_start) * self._per_sample / seconds}
