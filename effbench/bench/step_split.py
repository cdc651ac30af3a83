"""A callback that splits the real Trainer's steps, with clocks around its parts."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from effbench.disturbance import Reading, others_share, reading
from effbench.training.callbacks import Callback, Context
from effbench.training.clipping import Clipping
from effbench.training.timers import Clock
from effbench.training.trainer import Trainer


class _TimedClipping(Clipping):
    """Clips, and counts the time."""

    def __init__(self, inner: Clipping, clock: Clock):
        self._inner, self._clock = inner, clock

    def __call__(self) -> None:
        with self._clock:
            self._inner()


class StepSplit(Callback):
    """Records the seconds of each part of each training step after a warm-up.

    Args:
        warm_up: steps that are not recorded.

    Attributes:
        steps: part -> seconds, one entry a step.
        others: processor seconds a second that other processes took meanwhile; None if not known.
        batch_size: samples of a step.
        unit: the word for a sample.
    """

    def __init__(self, warm_up: int) -> None:
        self.steps: list[dict[str, float]] = []
        self.others: float | None = None
        self.batch_size, self.unit = 0, ""
        self._warm_up, self._backward, self._clip = warm_up, Clock(), Clock()
        self._begin: Reading | None = None
        self._before: dict[str, float] = {}
        self._samples = 0

    def fit_start(self, context: Context) -> None:
        """Put clocks around the backward pass and the clipping, for which the Trainer has none."""
        trainer = context.trainer
        trainer.clip = _TimedClipping(trainer.clip, self._clip)
        # on the object, because a precision may be of any class
        trainer.precision.backward = _timed(trainer.precision.backward, self._backward)  # type: ignore[method-assign]
        self.unit = trainer.train.modality.unit

    def step_end(self, context: Context) -> None:
        now = self._now(context.trainer)
        seen = context.state.samples_seen
        if context.state.step > self._warm_up:
            gone = {name: now[name] - self._before[name] for name in now}
            self.steps.append(_parts(gone))
            self.batch_size = max(self.batch_size, seen - self._samples)
            if self._begin is not None and (end := reading()) is not None:
                self.others = others_share(self._begin, end)
        elif context.state.step == self._warm_up:
            self._begin = reading()
        # after the work of this method
        self._before, self._samples = self._now(context.trainer), seen

    def _now(self, trainer: Trainer) -> dict[str, float]:
        clocks = trainer.clocks
        return {
            "wall": time.perf_counter(),
            "data": clocks.data.seconds,
            "forward_backward": clocks.forward_backward.seconds + clocks.compile.seconds,
            "backward": self._backward.seconds,
            "whole_optimizer": clocks.optimizer.seconds,
            "clip": self._clip.seconds,
            # no part of a step: at the end of an epoch
            "between": clocks.statistics.seconds + clocks.evaluation.seconds + clocks.checkpoint.seconds,
        }


def _parts(gone: dict[str, float]) -> dict[str, float]:
    """Return the seconds of each part, which add up to the step. gone: of each clock."""
    known = gone["data"] + gone["forward_backward"] + gone["whole_optimizer"] + gone["between"]
    return {
        "data": gone["data"],
        "forward": gone["forward_backward"] - gone["backward"],
        "backward": gone["backward"],
        "clip": gone["clip"],
        "optimizer": gone["whole_optimizer"] - gone["clip"],
        "other": gone["wall"] - known,
    }


def _timed(call: Callable[..., Any], clock: Clock) -> Callable[..., Any]:
    def timed(*args: Any) -> Any:
        with clock:
            return call(*args)

    return timed
