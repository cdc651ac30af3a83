"""Learning-rate schedules: lr = base lr x factor(t), where t counts the optimizer steps taken.

Every schedule starts with `warmup` steps: the factor rises linearly from `warmup_start` x the shape's first value to
that value. After it the shape runs with its own time s = t - warmup. Cosine and OneCycle take total_steps - warmup
steps, and keep their final value from t = total_steps on; Step and Exponential have no end, and go on falling.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from effbench.config.options import (
    COUNT,
    FRACTION,
    FRACTION_ABOVE_0,
    FRACTION_BELOW_1,
    FRACTION_BETWEEN,
    FROM_1,
    WHOLE,
    Rule,
)
from effbench.errors import OptionError, shown


class Schedule(LRScheduler):
    """Base of the schedules: a torch LRScheduler whose state is its progress only, in plain numbers.

    A subclass sets its own options, then calls this constructor, which sets the first learning rate. Call step() after
    every optimizer step and observe(metric) after every validation. `last_epoch` is torch's name for t.

    A checkpoint restores the progress only; the options come from the constructor. A run resumed with a longer
    total_steps therefore follows the longer schedule.

    A group's base lr is its `initial_lr`, or its lr when the schedule first sees it; a group added later is scheduled
    from the next step on. The schedule sets lr and does not multiply it: torch's SequentialLR works with it,
    ChainedScheduler does not (the last schedule wins).

    Args:
        optimizer: its groups get their lr from this schedule.
        warmup: optimizer steps of the warm-up, >= 0.
        warmup_start: factor at t = 0, as a fraction of the shape's first value, in [0, 1].

    Raises:
        OptionError: a value is out of range; the message names scheduler.<option>.
    """

    progress: tuple[str, ...] = ("last_epoch",)  # attributes that state_dict holds
    watches_metric: ClassVar[bool] = False  # whether observe() changes the learning rate

    def __init__(self, optimizer: Optimizer, warmup: int = 0, warmup_start: float = 0.01) -> None:
        # Not super().__init__(): it wraps optimizer.step and warns if the schedule steps first, which is correct here
        # when fp16 loss scaling skips an optimizer step.
        self.optimizer = optimizer
        self.warmup = _steps(WHOLE, warmup, "warmup")
        self.warmup_start = FRACTION.check(warmup_start, "scheduler.warmup_start")
        self.base_lrs: list[float | Tensor] = []  # one a group, filled by _apply
        self.last_epoch = 0
        self._step_count = 1  # like _last_lr, read by torch's SequentialLR and other tools
        self._apply()

    @property
    def rise(self) -> int:
        """Number of optimizer steps until the learning rate no longer rises."""
        return self.warmup

    def shape(self, s: int) -> float:
        """Return the factor s >= 0 steps after the warm-up."""
        raise NotImplementedError

    def factor(self, t: int) -> float:
        """Return lr / base lr after t optimizer steps."""
        # the first test also covers warmup = 0, which the line below would divide by
        if t >= self.warmup:
            return self.shape(t - self.warmup)
        # towards shape(0), not 1: OneCycle starts at 1 / div_factor, and the curve must have no jump
        return self.shape(0) * (self.warmup_start + (1 - self.warmup_start) * t / self.warmup)

    def step(self, epoch: int | None = None) -> None:
        """Count one optimizer step, or set the count to `epoch` (torch's name for it)."""
        self.last_epoch = self.last_epoch + 1 if epoch is None else int(epoch)
        self._step_count += 1
        self._apply()

    def move_to(self, step: int) -> None:
        """Set the schedule to its state after `step` optimizer steps."""
        self.step(step)

    def observe(self, metric: float) -> None:
        """Take the monitored value of a validation. Only Plateau uses it."""

    def get_lr(self) -> list[float | Tensor]:
        # from the base lr, not from the last lr: a resumed run gets the same floats
        factor = self.factor(self.last_epoch)
        return [base_lr * factor for base_lr in self.base_lrs]

    def get_last_lr(self) -> list[float | Tensor]:
        """Return the learning rates that were set last, one a group."""
        return list(self._last_lr)

    def state_dict(self) -> dict[str, Any]:
        # plain numbers only, so that a checkpoint is read with weights_only=True
        return {name: getattr(self, name) for name in self.progress}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        # all names are checked before one is set: after an error the schedule is as it was
        if missing := [name for name in self.progress if name not in state_dict]:
            raise OptionError(
                f"scheduler must be the one the state was written by; {type(self).__name__} needs {missing}, "
                f"got {sorted(state_dict)}. Set the scheduler of the checkpoint's run."
            )
        for name in self.progress:
            setattr(self, name, state_dict[name])
        self._apply()

    def _apply(self) -> None:
        groups = self.optimizer.param_groups
        if len(groups) < len(self.base_lrs):
            raise OptionError(
                f"the optimizer must keep the {len(self.base_lrs)} parameter groups that the schedule knows; it has "
                f"{len(groups)}. Make a new schedule, and take it to where the old one was by step(t)."
            )
        for group in groups[len(self.base_lrs) :]:  # added since the last step
            self.base_lrs.append(float(group.setdefault("initial_lr", float(group["lr"]))))
        self._last_lr = self.get_lr()
        for group, lr in zip(groups, self._last_lr, strict=True):
            if isinstance(group["lr"], Tensor):
                # in place: a compiled optimizer holds this tensor
                group["lr"].fill_(lr)
            else:
                group["lr"] = lr


class Constant(Schedule):
    """Factor 1 after the warm-up."""

    def shape(self, s: int) -> float:
        return 1.0


class Step(Schedule):
    """Multiply by gamma after every `step_size` steps.

    Args:
        optimizer: its groups get their lr from this schedule.
        step_size: optimizer steps between two drops, >= 1.
        gamma: factor of a drop, in (0, 1].
        warmup: optimizer steps of the warm-up.
        warmup_start: fraction of the first value at t = 0, in [0, 1].
    """

    def __init__(
        self,
        optimizer: Optimizer,
        step_size: int,
        gamma: float = 0.1,
        warmup: int = 0,
        warmup_start: float = 0.01,
    ) -> None:
        self.step_size = _steps(COUNT, step_size, "step_size")
        self.gamma = FRACTION_ABOVE_0.check(gamma, "scheduler.gamma")
        super().__init__(optimizer, warmup, warmup_start)

    def shape(self, s: int) -> float:
        # a power of s, not a product carried along: no rounding errors add up, and a resumed run gets the same floats
        return float(self.gamma ** (s // self.step_size))


class Exponential(Schedule):
    """Decay by gamma an epoch, in equal ratios at every step.

    Args:
        optimizer: its groups get their lr from this schedule.
        steps_per_epoch: optimizer steps of an epoch, >= 1.
        gamma: factor of an epoch, in (0, 1].
        warmup: optimizer steps of the warm-up.
        warmup_start: fraction of the first value at t = 0, in [0, 1].
    """

    def __init__(
        self,
        optimizer: Optimizer,
        steps_per_epoch: int,
        gamma: float = 0.95,
        warmup: int = 0,
        warmup_start: float = 0.01,
    ) -> None:
        self.steps_per_epoch = _steps(COUNT, steps_per_epoch, "steps_per_epoch")
        self.gamma = FRACTION_ABOVE_0.check(gamma, "scheduler.gamma")
        super().__init__(optimizer, warmup, warmup_start)

    def shape(self, s: int) -> float:
        return float(self.gamma ** (s / self.steps_per_epoch))


class Cosine(Schedule):
    """Half a cosine from 1 to min_factor (arXiv:1608.03983, without restarts).

    Args:
        optimizer: its groups get their lr from this schedule.
        total_steps: optimizer steps of warm-up and cosine together.
        min_factor: factor at the end, in [0, 1].
        warmup: optimizer steps of the warm-up, fewer than total_steps.
        warmup_start: fraction of the first value at t = 0, in [0, 1].
    """

    def __init__(
        self,
        optimizer: Optimizer,
        total_steps: int,
        min_factor: float = 0.0,
        warmup: int = 0,
        warmup_start: float = 0.01,
    ) -> None:
        self.length = _length(total_steps, warmup)
        self.min_factor = FRACTION.check(min_factor, "scheduler.min_factor")
        super().__init__(optimizer, warmup, warmup_start)

    def shape(self, s: int) -> float:
        # min: a run that goes on beyond total_steps keeps the final value, where the cosine would rise again
        return _cosine(1.0, self.min_factor, min(s / self.length, 1.0))


class Plateau(Schedule):
    """Multiply by `factor` when more than `patience` validations in a row bring no improvement.

    It decides like torch's ReduceLROnPlateau with a relative threshold and eps=0. Validations during the warm-up are
    not counted, because the learning rate still rises then.

    Args:
        optimizer: its groups get their lr from this schedule.
        factor: factor of a reduction, in (0, 1).
        patience: validations without improvement that are tolerated, >= 0.
        threshold: smallest relative improvement that counts, in [0, 1).
        min_factor: lower limit of the factor, relative to the base lr, in [0, 1].
        mode: 'min' for a loss, 'max' for an accuracy.
        cooldown: validations after a reduction that are not counted, >= 0.
        warmup: optimizer steps of the warm-up.
        warmup_start: fraction of the first value at t = 0, in [0, 1].
    """

    watches_metric = True
    progress = ("last_epoch", "reduction", "best", "bad_checks", "cooldown_left")

    def __init__(
        self,
        optimizer: Optimizer,
        factor: float = 0.1,
        patience: int = 10,
        threshold: float = 1e-4,
        min_factor: float = 0.0,
        mode: str = "min",
        cooldown: int = 0,
        warmup: int = 0,
        warmup_start: float = 0.01,
    ) -> None:
        if mode not in ("min", "max"):
            raise OptionError(f"scheduler.mode must be 'min' (a loss) or 'max' (an accuracy); got {shown(mode)}.")
        self.reduce_by = FRACTION_BETWEEN.check(factor, "scheduler.factor")
        self.patience = _steps(WHOLE, patience, "patience", "validations")
        self.cooldown = _steps(WHOLE, cooldown, "cooldown", "validations")
        self.threshold = FRACTION_BELOW_1.check(threshold, "scheduler.threshold")
        self.min_factor = FRACTION.check(min_factor, "scheduler.min_factor")
        self.mode = mode
        # progress, in addition to last_epoch
        self.reduction = 1.0
        self.best = math.inf if mode == "min" else -math.inf
        self.bad_checks = 0
        self.cooldown_left = 0
        super().__init__(optimizer, warmup, warmup_start)

    def shape(self, s: int) -> float:
        return self.reduction

    def observe(self, metric: float) -> None:
        """Take the monitored value of a validation and reduce the learning rate if it is due. NaN is no improvement."""
        # still rising: a plateau now says nothing about the learning rate that is aimed at
        if self.last_epoch < self.warmup:
            return
        metric = float(metric)
        # relative to the best value, as torch's threshold_mode='rel'; comparisons with NaN are false
        if self.mode == "min":
            improves = metric < self.best * (1 - self.threshold)
        else:
            improves = metric > self.best * (1 + self.threshold)
        if improves:
            self.best, self.bad_checks = metric, 0
        else:
            self.bad_checks += 1
        # as in torch, a cooldown also counts validations that improve
        if self.cooldown_left > 0:
            self.cooldown_left, self.bad_checks = self.cooldown_left - 1, 0
        if self.bad_checks > self.patience:
            self.reduction = max(self.reduction * self.reduce_by, self.min_factor)
            self.cooldown_left, self.bad_checks = self.cooldown, 0
            self._apply()


class OneCycle(Schedule):
    """Rise to the optimizer's lr and fall to almost zero, both along a cosine (arXiv:1708.07120).

    It equals torch's OneCycleLR with max_lr = the optimizer's lr and cycle_momentum=False: it starts at 1/div_factor,
    is at 1 after pct_start of the run, and ends at 1/(div_factor final_div_factor) at the last step.

    Args:
        optimizer: its groups get their lr from this schedule.
        total_steps: optimizer steps of warm-up and cycle together.
        pct_start: fraction of the cycle that rises, in [0, 1].
        div_factor: initial lr = lr / div_factor, >= 1.
        final_div_factor: final lr = initial lr / final_div_factor, >= 1.
        warmup: optimizer steps of a linear warm-up before the cycle.
        warmup_start: fraction of the first value at t = 0, in [0, 1].
    """

    def __init__(
        self,
        optimizer: Optimizer,
        total_steps: int,
        pct_start: float = 0.3,
        div_factor: float = 25.0,
        final_div_factor: float = 1e4,
        warmup: int = 0,
        warmup_start: float = 0.01,
    ) -> None:
        self.length = _length(total_steps, warmup)
        pct_start = FRACTION.check(pct_start, "scheduler.pct_start")
        div_factor = FROM_1.check(div_factor, "scheduler.div_factor")
        final_div_factor = FROM_1.check(final_div_factor, "scheduler.final_div_factor")
        # - 1 here and in shape(): as torch, which counts from step 0 to length - 1
        self.top_at = pct_start * self.length - 1
        self.first = 1 / div_factor
        self.last = self.first / final_div_factor
        super().__init__(optimizer, warmup, warmup_start)

    @property
    def rise(self) -> int:
        return self.warmup + max(0, math.ceil(self.top_at))

    def shape(self, s: int) -> float:
        end = self.length - 1
        s = min(s, end)
        # top_at is not positive if the cycle has no rising part
        if s <= self.top_at and self.top_at > 0:
            return _cosine(self.first, 1.0, s / self.top_at)
        # avoids 0 / 0 in a cycle of one step
        if s == end:
            return self.last
        return _cosine(1.0, self.last, (s - self.top_at) / (end - self.top_at))


def learning_rates(make_schedule: Callable[[Optimizer], Schedule], steps: int) -> list[float]:
    """Return the factors of the first `steps` optimizer steps, without training.

    Example:
        learning_rates(partial(Cosine, total_steps=100), 100)[0] is 1.0.
    """
    # any optimizer does, but torch refuses one without parameters
    schedule = make_schedule(torch.optim.SGD([torch.zeros(1)], lr=1.0))
    return [schedule.factor(t) for t in range(steps)]


def _cosine(start: float, end: float, done: float) -> float:
    """Return the value of half a cosine from start (done = 0) to end (done = 1)."""
    return end + (start - end) / 2 * (1 + math.cos(math.pi * done))


def _length(total_steps: int, warmup: int) -> int:
    """Return the steps left for the shape after the warm-up."""
    # warmup is checked here as well, because shapes need their length before Schedule's constructor has run
    if _steps(WHOLE, warmup, "warmup") >= _steps(COUNT, total_steps, "total_steps"):
        raise OptionError(
            f"scheduler.warmup must be shorter than total_steps ({total_steps}); got {warmup}. "
            "Write it as a share of the run, such as '5%', or train longer."
        )
    return total_steps - warmup


def _steps(rule: Rule[int], value: int, key: str, unit: str = "steps") -> int:
    least = 1 if rule is COUNT else 0
    # a share of the run, as other schedulers take it
    share = isinstance(value, float) and 0 < value < 1 and key in ("warmup", "step_size", "total_steps")
    remedy = f"For {100 * value:g} % of the run write '{100 * value:g}%'." if share else ""
    return rule.check(value, f"scheduler.{key}", f"a whole number of {unit} >= {least}", remedy)
