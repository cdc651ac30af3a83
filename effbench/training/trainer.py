"""The training loop."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from effbench.data.batches import EvalBatches, StepBatches, TrainBatches
from effbench.errors import EffbenchError, first_line
from effbench.metrics import LOSS
from effbench.models.adapt import set_train_mode
from effbench.randomness import Purpose, seed_of_step
from effbench.schedulers import Schedule
from effbench.tasks.task import Task
from effbench.training.batch_norm_statistics import KeepStatistics, NormStatistics
from effbench.training.callbacks import Callbacks, Context
from effbench.training.checkpoint import Checkpoints
from effbench.training.checkpoint_writer import Saves, choose_saves
from effbench.training.clipping import Clipping, NoClipping
from effbench.training.distributed import DistributedContext
from effbench.training.early_stopping import NoEarlyStopping, StoppingRule
from effbench.training.ema import NoEma, WeightAverage
from effbench.training.evaluation import evaluate
from effbench.training.failure_policies import (
    BufferSnapshot,
    NonFinitePolicy,
    OutOfMemoryPolicy,
    RaiseOnOutOfMemory,
    StopAtNonFinite,
    first_not_finite,
    is_out_of_memory,
    naming_optimizer_memory,
    optimizer_not_finite,
)
from effbench.training.meter import Meter, Throughput
from effbench.training.penalty import L1Penalty, logits_of
from effbench.training.precision import Precision
from effbench.training.schedule import TorchSchedule
from effbench.training.snapshots import snapshot_of
from effbench.training.state import Limits, TrainState
from effbench.training.timers import Clocks

TIME_OVER = "trainer.max_time is over"  # the reason to stop
Result = TypeVar("Result")


@dataclass
class Intervals:
    """Intervals of recurring actions.

    Attributes:
        validate_epochs: epochs between validations.
        log_steps: optimizer steps between rows of metrics.csv.
        save_steps: optimizer steps between extra checkpoints; None for none.
    """

    validate_epochs: int = 1
    log_steps: int = 10
    save_steps: int | None = None


@dataclass
class Trainer:
    """Trains `model` on `train`. Every part has a no-op implementation, so the loop needs no branches for absent ones.

    Attributes:
        model: the module that learns.
        forward: the same module as called in training (compiled, data-parallel).
        plateau_metric: metric that a plateau schedule observes.
    """

    model: nn.Module
    forward: nn.Module
    optimizer: Optimizer
    schedule: Schedule | TorchSchedule
    train: TrainBatches
    val: EvalBatches | None
    limits: Limits
    task: Task
    penalty: L1Penalty = field(default_factory=lambda: L1Penalty([], 0.0))
    clip: Clipping = field(default_factory=NoClipping)
    precision: Precision = field(default_factory=Precision)
    ema: WeightAverage | None = None
    nonfinite_policy: NonFinitePolicy | None = None  # default: stop; losses are checked if that is free
    oom_policy: OutOfMemoryPolicy = field(default_factory=RaiseOnOutOfMemory)
    buffer_snapshot: BufferSnapshot = field(default_factory=BufferSnapshot)
    statistics: NormStatistics = field(default_factory=KeepStatistics)
    early_stopping: StoppingRule = field(default_factory=NoEarlyStopping)
    checkpoints: Checkpoints | None = None
    save_in_background: bool = False
    callbacks: Callbacks = field(default_factory=lambda: Callbacks([]))
    ranks: DistributedContext = field(default_factory=DistributedContext)
    intervals: Intervals = field(default_factory=Intervals)
    clocks: Clocks = field(default_factory=Clocks)
    state: TrainState = field(default_factory=TrainState)
    plateau_metric: str = "val/loss"
    compiled: bool = False  # the first step's time counts as compiling
    interrupted_by: str | None = None  # name of the signal, set by its handler
    stop_requested: str | None = None  # the reason, set by a callback through its context
    rows_are_over: bool = False  # no more rows of metrics.csv in this session

    def __post_init__(self) -> None:
        self.context = Context(self, Path())
        self.averaged: WeightAverage = self.ema or NoEma(self.model)  # what is evaluated and saved
        self.meter = Meter(self.ranks, self.task.tallies)
        self.prediction_check = self.task.prediction_check()  # statistics of the newest evaluation's predictions
        modality = self.train.modality
        self.throughput = Throughput(self.clocks, modality.speed_unit(), modality.per_sample)
        self._device = next(self.model.parameters()).device
        free = self._device.type == "cpu" and self.ranks.world_size == 1  # reading the loss needs no synchronisation
        self._nonfinite: NonFinitePolicy = self.nonfinite_policy or StopAtNonFinite(check_each_step=free)
        self._parameters = list(self.model.parameters())
        self._saves: Saves = choose_saves(self.checkpoints, self.save_in_background)
        self._begun = time.perf_counter()  # max_time counts from here, after the data are read

    def fit(self) -> TrainState:
        """Train until a limit, early stopping, an interruption or a non-finite loss; the state holds the reason."""
        state = self.state
        state.steps_per_epoch = self.train.steps_per_epoch
        if self.checkpoints is not None:
            self.checkpoints.relink()
        self.callbacks.call("fit_start", self.context)
        try:
            self._end_epoch_if_over(state)  # an interruption may have come before its end
            self.early_stopping.stop_if_due(state)  # or between the epoch's end and the test
            for micro_batches in self.steps(state):
                stats = self.accumulate(micro_batches)
                self.update(stats)
                self.log_if_due(state)
                self.callbacks.call("step_end", self.context)
                self.evaluate_and_save_if_due(state)
                if state.stop_reason:
                    break
            with self.clocks.checkpoint:
                self._saves.wait()
        except BaseException as error:
            self._saves.drain()  # first: what was reached is worth keeping, whatever the error is
            state.stop("an error", "failed")
            if is_out_of_memory(error):
                message = f"out of memory at data.batch_size={self.train.batch_size}: lower it or the model."
                raise EffbenchError(f"{message} ({first_line(error)})") from error
            raise
        finally:
            state.training_s += self.clocks.training
            self.rows_are_over = True
            self.callbacks.call("fit_end", self.context)
        return state

    @property
    def steps_left(self) -> int:
        """Optimizer steps until the limit on steps or epochs."""
        return self.limits.steps_left(self.state, self.train.steps_per_epoch)

    def steps(self, state: TrainState) -> Iterator[StepBatches]:
        """Yield the remaining optimizer steps in order, and seed the random streams of each."""
        set_train_mode(self.forward)
        while self.steps_left and state.stop_reason is None:
            # A resumed epoch starts at its batch: the epoch's order depends on seed and epoch alone.
            for step in self.train.epoch(state.epoch, start=state.batch):
                self._seed_forward(step)
                yield step
                if not self.steps_left:
                    break

    def accumulate(self, step: StepBatches) -> Tensor:
        """Run forward and backward over the micro-batches, so that gradients are those of the step's mean loss.

        After an out-of-memory error the policy may split the micro-batches and repeat the step.

        Returns:
            The task's sums on the device, in the layout of Tallies.
        """
        self.buffer_snapshot.begin()
        while True:
            try:
                return self._forward_and_backward(step)
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                size, splits = self.train.batch_size, self.state.micro_batch_splits
                self.state.micro_batch_splits = self.oom_policy.next_split_count(
                    "training", "data.batch_size", size, splits, error
                )
            self._rollback_step()  # outside the except block the failed attempt's tensors are freed
            self._seed_forward(step)
            step = self.train.repeated(step)

    def _forward_and_backward(self, step: StepBatches) -> Tensor:
        stats: Tensor | None = None
        mass = step.class_mass() if self.task.loss.needs_class_mass else None
        # The divisor of the whole step, known before its first micro-batch: micro-batches may differ in size.
        targets = step.samples * self.train.modality.per_sample
        divisor = self.task.loss.divisor(targets, mass) / self.ranks.world_size  # ranks average their gradients
        last = step.num_micro_batches - 1
        clock = self.clocks.compile if self.compiled and self.throughput.fresh else self.clocks.forward_backward
        for index, batch in enumerate(self.clocks.waiting(step.micro_batches)):
            for piece in batch.pieces(self.state.micro_batch_splits):
                with clock, self.ranks.gradients_at(index == last, self.forward):
                    with self.precision.autocast():
                        outputs = logits_of(self.forward(piece.inputs))
                        # one row a target: for most tasks the batch as it is
                        logits_RK, targets_R = self.task.rows(outputs, piece.targets, full=True)
                        loss, logged = self.task.training_loss(logits_RK, targets_R)
                    # Outside of autocast, as torch advises: each gradient is computed in its forward pass's format.
                    self.precision.backward(loss / divisor)
                    seen = self.task.tallies.of(logged, logits_RK, targets_R, self.task.loss.weight(targets_R))
                    stats = seen if stats is None else stats + seen
        assert stats is not None  # every step has a micro-batch
        return stats

    def update(self, stats: Tensor) -> None:
        """Take the optimizer step and count it. If it is not finite, skip it or end the run, as configured."""
        state = self.state
        state.learning_rates = self.learning_rates()  # those of this step: the schedule then moves on
        what = self._nonfinite.found(stats[0], self._parameters)
        if what is None:
            self.meter.add(stats)
            self._optimizer_step()
        elif self._nonfinite.skip(state, what):
            self.meter.add(torch.zeros_like(stats))  # no effect on means, but the epoch now counts as begun
            self._rollback_step()
        else:
            self._diverged(f"the training {what} at step {state.step + 1}")
            return

        # A skipped step counts too: data order and random numbers depend on the step's number.
        state.samples_seen += self.train.samples_in(state.batch)
        state.step, state.batch = state.step + 1, state.batch + 1
        self.throughput.step_done(state.samples_seen)
        if state.batch == self.train.steps_per_epoch:
            state.epoch, state.batch = state.epoch + 1, 0

    def _optimizer_step(self) -> None:
        """Apply the gradients. Schedule and average advance only if the step was taken (the loss scale may skip it)."""
        with self.clocks.optimizer, naming_optimizer_memory(self.optimizer):
            # In this order: callbacks, the penalty and the clipping limit are in true units of the gradient, and
            # clipping is last so that the limit holds for all that is applied.
            self.precision.unscale(self.optimizer)
            self.callbacks.call("before_step", self.context)
            self.penalty.add_gradients()
            self.clip()
            if self.precision.step(self.optimizer):
                self.schedule.step()
                self.averaged.update()
            self.optimizer.zero_grad(set_to_none=True)
        self.state.skipped_in_a_row = 0

    def _rollback_step(self) -> None:
        """Undo the effects of the current step's forward and backward passes."""
        self.buffer_snapshot.undo()
        self.optimizer.zero_grad(set_to_none=True)

    def log_if_due(self, state: TrainState) -> None:
        """Every `log_steps` steps, read the loss from the device and log a row; reading it more often would be slow."""
        if state.step % self.intervals.log_steps or state.stop_reason:
            return
        with self.clocks.forward_backward:  # reading the loss waits for the device
            values = self.meter.window_means()
        if not math.isfinite(values.get("train/loss", 0.0)):  # no loss if all steps were skipped
            self._diverged(f"the training loss is {values['train/loss']} by step {state.step}")
        self._log_row("logged", values)

    def _log_row(self, hook: str, values: Mapping[str, float]) -> None:
        """Call a hook with a row of metrics.csv: values, throughput, learning rates and what callbacks log."""
        state = self.state
        state.logged |= {**values, **self.throughput.values(state.samples_seen), **state.learning_rates}
        row = state.logged  # hooks may log into it; later hooks see that
        self.callbacks.call(hook, self.context, row)
        state.logged = {}  # a value that is logged from now on belongs to the next row

    def evaluate_and_save_if_due(self, state: TrainState) -> None:
        """Validate and save at the end of an epoch or of the run; save extra checkpoints every `save_steps`."""
        self._saves.check()  # a failed save must end the run now, not after hours at its end
        self._check_time_and_signals(state)
        interrupted = state.status == "interrupted"  # the resumed run ends the epoch
        validates = not interrupted and self._end_epoch_if_over(state)
        extra = self.intervals.save_steps is not None and state.step % self.intervals.save_steps == 0
        if interrupted or (extra and not validates):
            self.save(None)

    def _end_epoch_if_over(self, state: TrainState) -> bool:
        """End the epoch after its last step or the run's, unless that was done.

        Returns:
            True if this end is due for a validation and a checkpoint.
        """
        run_is_over = not self.steps_left or state.stop_reason is not None
        # An empty meter: no step was taken since the last epoch ended.
        if self.meter.empty or not (state.batch == 0 or run_is_over):
            return False
        due = run_is_over or state.epoch % self.intervals.validate_epochs == 0
        if state.status == "diverged":
            return due

        with self.clocks.forward_backward:
            values = self.meter.epoch_means()
        if not math.isfinite(values.get("train/loss", 0.0)):
            self._diverged(f"the training loss is {values['train/loss']} in the epoch that ends at step {state.step}")
        state.measured("train", values)
        if due and self.val is not None:
            values |= self.validate(state)
        elif due and state.status != "diverged":
            self.early_stopping.check(state)  # of train/*: else `validate` does it
        self._log_row("epoch_end", values)
        if due:
            self._check_stop_requests(state)  # else after the next step, so that the run ends with a validation
            self.save(values)
        return due

    def validate(self, state: TrainState) -> dict[str, float]:
        """Validate the averaged weights; pass the result to schedule and early stopping.

        Returns:
            'val/<metric>' -> value.
        """
        assert self.val is not None
        with self.clocks.statistics:
            self._refresh(self.statistics.refresh)
        with self.clocks.evaluation:
            # Batch norms of the ranks have seen different samples; all must evaluate the same model.
            self.ranks.broadcast_buffers(self.averaged.model)
            values = {f"val/{name}": value for name, value in self.evaluate(self.val, self.ranks).items()}
        set_train_mode(self.forward)
        state.measured("val", values)
        if not math.isfinite(values["val/loss"]):
            self._diverged(f"the validation loss is {values['val/loss']} after step {state.step}")
        else:
            # A metric may be undefined for this validation: then there is nothing to observe.
            if (watched := state.metrics.get(self.plateau_metric)) is not None:
                self.schedule.observe(watched)
            self.early_stopping.check(state)
        return values

    def evaluate(self, batches: EvalBatches, ranks: DistributedContext) -> dict[str, float]:
        """Evaluate the averaged weights; after out-of-memory errors batches are split.

        Args:
            batches: samples to evaluate.
            ranks: processes that share them.

        Returns:
            Metric name -> value.
        """

        def attempt(splits: int) -> dict[str, float]:
            check = self.prediction_check = self.task.prediction_check()  # a new one: a failed attempt has added to it
            return evaluate(self.averaged.model, batches.in_pieces(splits), self.precision, ranks, self.task, check)

        return self._with_eval_splits(batches.batch_size, attempt)

    def _refresh(self, refresh: Callable[[nn.Module, int, int], None]) -> None:
        """Bring the averaged weights and their batch norm statistics up to date."""
        self.averaged.synchronize()
        attempt = partial(refresh, self.averaged.model, self.state.step)
        self._with_eval_splits(self.statistics.eval_batch_size, attempt)

    def _with_eval_splits(self, batch_size: int, attempt: Callable[[int], Result]) -> Result:
        """Call `attempt` with the number of splits of an evaluation batch; with more after an out-of-memory error."""
        while True:
            try:
                return attempt(self.state.eval_splits)
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                key, splits = "data.eval_batch_size", self.state.eval_splits
                self.state.eval_splits = self.oom_policy.next_split_count("evaluation", key, batch_size, splits, error)

    def evaluated_weights(self) -> dict[str, Tensor]:
        """Return the averaged weights with their batch norm statistics; without an average, the model's weights."""
        with self.clocks.statistics:
            self._refresh(self.statistics.refresh_to_save)
        return dict(self.averaged.model.state_dict())

    def save(self, values: Mapping[str, float] | None) -> None:
        """Save a checkpoint on rank 0 if all weights are finite. The other ranks wait until it is copied or written.

        Args:
            values: of the epoch and its validation at this step; None within an epoch.
        """
        with self.clocks.statistics:
            self._refresh(self.statistics.refresh_to_save)
        with self.clocks.checkpoint:
            # The optimizer's state too: a resumed run would spread NaN from it.
            nonfinite_name = (
                first_not_finite(self.model)
                or first_not_finite(self.averaged.model)
                or optimizer_not_finite(self.optimizer)
            )
            if self.ranks.any(nonfinite_name is not None):  # any rank's: all must take the same way
                self._diverged(f"the {nonfinite_name} is not finite after step {self.state.step}")
            elif self.state.status != "diverged":
                self.callbacks.call("saving", self.context)
                snapshot = snapshot_of(self)  # on every rank: the meter sums over ranks
                if self.checkpoints is not None and self.ranks.is_main:
                    measured = values or {}
                    value, loss = measured.get(self.checkpoints.monitor), measured.get(f"val/{LOSS}")
                    interrupted = self.state.status == "interrupted"
                    self._saves.save(snapshot, self.state.step, value, interrupted, loss)
                self.ranks.barrier()  # the next step changes the weights that rank 0 still copies

    def finish_saves(self) -> None:
        """Wait until saved checkpoints are on disk; `fit` does so at its end. Raises the error of a failed save."""
        self._saves.wait()

    def learning_rates(self) -> dict[str, float]:
        """Return lr/<group> of every parameter group for the next step."""
        groups = self.optimizer.param_groups
        return {f"lr/{group.get('name', index)}": float(group["lr"]) for index, group in enumerate(groups)}

    def _seed_forward(self, step: StepBatches) -> None:
        """Seed dropout and the like by the step's number, so that a resumed run draws the same; ranks differ."""
        seed = seed_of_step(self.train.seed, Purpose.FORWARD, step.epoch, step.index, self.ranks.rank)
        # Not torch.manual_seed, which would seed every kind of device in each step.
        torch.default_generator.manual_seed(seed)
        if self._device.type == "cuda":
            torch.cuda.manual_seed(seed)

    def _check_time_and_signals(self, state: TrainState) -> None:
        """Stop for max_time or a signal. Several processes agree on it, only at logged steps to limit communication."""
        # state.batch: at the end of an epoch they meet anyway.
        if self.ranks.world_size > 1 and state.batch and state.step % self.intervals.log_steps:
            return
        if self.ranks.any(self.interrupted_by is not None):
            state.stop(self.interrupted_by or "a signal to another process", "interrupted")
        self._check_stop_requests(state)
        seconds = self.limits.seconds
        if seconds is not None and self.ranks.any(time.perf_counter() - self._begun >= seconds):
            state.stop(TIME_OVER)

    def _check_stop_requests(self, state: TrainState) -> None:
        if self.ranks.any(self.stop_requested is not None):
            state.stop(self.stop_requested or "a callback of another process stopped the run")

    def _diverged(self, reason: str) -> None:
        self.state.stop(f"{reason}: lower optimizer.lr, lengthen scheduler.warmup, or clip harder", "diverged")
