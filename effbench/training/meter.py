"""Running sums on the device, read when a line is logged."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from effbench.training.clocks import Clocks
from effbench.training.distributed import Ranks

WARMUP_STEPS = 5


class Meter:
    """Training loss and accuracy, over the epoch and since the last log line.

    A sum is (loss, correct, samples, weight): with class weights a mean loss divides by the weight of its samples.
    """

    def __init__(self, ranks: Ranks):
        self._ranks = ranks
        self._sums: Tensor | None = None
        self._logged = torch.zeros(4, dtype=torch.float64)

    def add(self, stats: Tensor) -> None:
        """stats: float64 (4,) on the device; nothing is read."""
        self._sums = stats if self._sums is None else self._sums.to(stats.device) + stats

    @property
    def empty(self) -> bool:
        """Whether no step was added since the last epoch ended."""
        return self._sums is None

    def since_last_log(self) -> dict[str, float]:
        sums = self._read()
        window, self._logged = sums - self._logged, sums
        return _means(window)

    def of_epoch(self) -> dict[str, float]:
        """Means over the epoch so far; the next epoch begins at zero."""
        sums = self._read()
        self._sums, self._logged = None, torch.zeros_like(self._logged)
        return _means(sums)

    def _read(self) -> Tensor:
        if self._sums is None:
            return torch.zeros_like(self._logged)
        return self._ranks.sum(self._sums).cpu()

    def state_dict(self) -> dict[str, Any]:
        """The sums of all ranks, so every rank must call it."""
        return {"sums": None if self.empty else self._read().clone(), "logged": self._logged.clone()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Rank 0 goes on from the sums of all, the others from zero."""
        sums = state["sums"]
        if sums is not None:
            sums = _with_weight(sums)
            self._sums = sums if self._ranks.is_main else torch.zeros_like(sums)
        else:
            self._sums = None
        self._logged = _with_weight(state["logged"])


def _with_weight(sums: Tensor) -> Tensor:
    """Checkpoints of effbench 0.2 and older hold (loss, correct, samples)."""
    return torch.cat([sums, sums[2:]]) if len(sums) == 3 else sums


def _means(sums: Tensor) -> dict[str, float]:
    """No loss for samples of weight 0 alone."""
    loss, correct, samples, weight = sums.tolist()
    if samples == 0:
        return {}
    return {**({"train/loss": loss / weight} if weight else {}), "train/acc": correct / samples}


class Throughput:
    """Images a second of training time, the first WARMUP_STEPS steps of this sitting left out."""

    def __init__(self, clocks: Clocks):
        self._clocks = clocks
        self._steps = 0
        self._seen_at_start = 0
        self._seconds_at_start = 0.0

    def start_from(self, seen: int) -> None:
        self._seen_at_start = seen

    @property
    def fresh(self) -> bool:
        """Whether no step of this sitting is done."""
        return self._steps == 0

    def step_done(self, seen: int) -> None:
        self._steps += 1
        if self._steps == WARMUP_STEPS:
            self._seen_at_start, self._seconds_at_start = seen, self._clocks.training

    def values(self, seen: int) -> dict[str, float]:
        """{} until the warm-up is over."""
        seconds = self._clocks.training - self._seconds_at_start
        if self._steps <= WARMUP_STEPS or seconds <= 0:
            return {}
        return {"train/images_per_s": (seen - self._seen_at_start) / seconds}
