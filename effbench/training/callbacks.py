"""Callbacks: hooks that the training loop calls. Progress bar, metrics.csv and loggers are callbacks too."""

from __future__ import annotations

import logging
import math
import sys
import time
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn
from torch.optim import Optimizer
from tqdm import tqdm

from effbench.errors import ConfigError, EffbenchError
from effbench.log import print_above_bar
from effbench.metrics import Display
from effbench.records import MetricsFile
from effbench.training.state import TrainState
from effbench.units import human_span, speed_text, throughput_key

if TYPE_CHECKING:
    from effbench.data.splits import Splits
    from effbench.training.trainer import Trainer


log = logging.getLogger(__name__)


@dataclass(frozen=True, repr=False, eq=False)  # no repr: it would print the whole model in an error
class Context:
    """What a hook can read and change. All hooks of a session get the same object.

    Attributes:
        trainer: the training loop with all its parts.
        folder: the run folder; it exists.
        splits: the data; None for a Trainer that was made without a run.
    """

    trainer: Trainer
    folder: Path
    splits: Splits | None = None

    @property
    def state(self) -> TrainState:
        """Progress of the run: epoch, step, metrics, status."""
        return self.trainer.state

    @property
    def model(self) -> nn.Module:
        """The model in training. With ema=on, trainer.averaged.model is the one that is evaluated."""
        return self.trainer.model

    @property
    def optimizer(self) -> Optimizer:
        return self.trainer.optimizer

    @property
    def is_main(self) -> bool:
        """True on rank 0, which writes the run's files."""
        return self.trainer.ranks.is_main

    @property
    def total_steps(self) -> int:
        """Optimizer steps of the whole run, by trainer.max_epochs and trainer.max_steps."""
        return self.state.step + self.trainer.steps_left

    @property
    def steps_per_epoch(self) -> int:
        return self.trainer.train.steps_per_epoch

    def evaluated_weights(self) -> dict[str, Tensor]:
        """Return the state_dict that is validated and tested: the averaged one with ema=on, else the model's."""
        return self.trainer.evaluated_weights()

    def log(self, name: str, value: float | Tensor) -> None:
        """Write a number into a column of metrics.csv, the console and the loggers.

        In `logged` and `epoch_end` it belongs to the row that these hooks are called for, in other hooks to the next
        row. Of several values before a row the last is written. A checkpoint keeps values that wait for their row.

        Args:
            name: one of the `columns` of a callback of this run.
            value: a number; a tensor is read from its device, and the step waits for that.

        Raises:
            ValueError: the name is not declared, the value is not a number, or no row follows any more.
        """
        # The header of metrics.csv is written before the first row: a later name has no column.
        declared = self.trainer.callbacks.columns
        if name not in declared:
            raise ValueError(f"column {name!r} is not declared: give the callback class columns = ({name!r},)")
        if self.trainer.rows_are_over:
            raise ValueError(f"column {name!r} is logged after the last row of metrics.csv; log it by epoch_end")
        try:
            # float() would read a text as a number.
            number = None if isinstance(value, str | bytes) else float(value)
        except (TypeError, ValueError, RuntimeError, OverflowError):
            number = None
        if number is None:
            raise ValueError(f"column {name!r} takes one number; got {value!r:.100}")
        self.state.logged[name] = number

    def stop(self, reason: str) -> None:
        """End the run after this step, with a validation, a checkpoint and the test, as after its last step.

        A request of one rank stops all ranks at the next step that is logged or ends an epoch.
        """
        # Not state.stop: this rank alone would leave the loop, and the others would wait for it for ever.
        self.trainer.stop_requested = self.trainer.stop_requested or reason


class Callback:
    """Base class of callbacks. Each hook is optional; `values` maps metric names to floats.

    Hooks run on every rank, with the same values. A callback that writes files must check `context.is_main`; one that
    changes the model must do the same on every rank. An error in a hook ends the run with status 'failed'.

    columns: names of the numbers that its hooks log by `context.log(name, value)`, as columns of metrics.csv. They
        cannot be monitored by early stopping or checkpoints; a metric (effbench.metrics.Metric) can.
    """

    columns: Sequence[str] = ()

    def fit_start(self, context: Context) -> None:
        """Called before the first step of a session. A resumed run then has the weights and state of its checkpoint."""

    def before_step(self, context: Context) -> None:
        """Called before an optimizer step. The .grad of the parameters are unscaled and not clipped yet."""

    def step_end(self, context: Context) -> None:
        """Called after each optimizer step. Reading a value from the GPU here makes every step wait for it."""

    def logged(self, context: Context, values: Mapping[str, float]) -> None:
        """Called every `trainer.log_every_n_steps` steps; train/* are means over the steps since the last call."""

    def epoch_end(self, context: Context, values: Mapping[str, float]) -> None:
        """Called after an epoch and its validation; train/* are means over the epoch."""

    def saving(self, context: Context) -> None:
        """Called before a checkpoint is written."""

    def fit_end(self, context: Context) -> None:
        """Called after the last step, or after an error (context.state.status == 'failed')."""

    def tested(self, context: Context, values: Mapping[str, float]) -> None:
        """Called after the test of the best weights, which follows the fit of a run that was not interrupted."""

    def run_end(self, context: Context) -> None:
        """Called last, also after an error. Close here what must stay open after the fit."""

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run needs, as tensors and plain values. Rank 0 saves it in each checkpoint."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Called before fit_start if the checkpoint holds a state of this callback."""


HOOKS = {  # name -> parameters, in the order of a run
    "fit_start": "context",
    "before_step": "context",
    "step_end": "context",
    "logged": "context, values",
    "epoch_end": "context, values",
    "saving": "context",
    "fit_end": "context",
    "tested": "context, values",
    "run_end": "context",
}
REACH_ALL = ("logged", "epoch_end", "fit_end", "run_end")  # rows are written and files closed after an error, too


class HookReceiver:
    """Gets every hook by its name, through `call`. It is no Callback: a hook called past `call` would do nothing."""

    columns: Sequence[str] = ()

    def call(self, hook: str, *args: Any) -> None:
        raise NotImplementedError


class Callbacks(HookReceiver):
    """Several callbacks as one, in order. The hooks of REACH_ALL reach all of them, even if one raises."""

    def __init__(self, members: Sequence[Callback | HookReceiver]):
        self.members = list(members)
        # In order: metrics.csv has its columns in the order of the callbacks.
        self.columns = [name for member in members for name in member.columns]

    def call(self, hook: str, *args: Any) -> None:
        """Call a hook of all members.

        Args:
            hook: a key of HOOKS.
            args: the context and, for some hooks, the values.
        """
        errors = []
        for member in self.members:
            try:
                if isinstance(member, HookReceiver):
                    member.call(hook, *args)
                else:
                    getattr(member, hook)(*args)
            # not BaseException: KeyboardInterrupt must not wait for the hooks of others
            except Exception as error:
                if hook not in REACH_ALL:
                    raise
                errors.append(error)
        if errors:  # the first is the cause; others may follow from it
            raise errors[0]

    def state_dict(self) -> dict[str, Any]:
        """Return name -> state of the members that have one."""
        states = {member.name: member.state_dict() for member in self.members if isinstance(member, NamedCallback)}
        return {name: state for name, state in states.items() if state}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for member in self.members:
            # A callback that this session added has no state in the checkpoint.
            if isinstance(member, NamedCallback) and member.name in state:
                member.load_state_dict(state[member.name])


class NamedCallback(HookReceiver):
    """A callback of the user. An error in a hook becomes an EffbenchError with its name; later hooks are not called.

    Args:
        name: its key in the config, such as callbacks.mine.
        callback: the user's object.

    Raises:
        ConfigError: `columns` is a property that raises an error.
    """

    def __init__(self, name: str, callback: Callback):
        self.name, self._callback = name, callback
        # The class too: several callbacks may be of one class, and a key may say little.
        self.label = f"{name} ({type(callback).__module__}.{type(callback).__qualname__})"
        self._failed = False  # then no later hook is called: its state may be inconsistent
        try:
            self.columns = callback.columns  # read once: a property may return something else the next time
        except (Exception, SystemExit) as error:
            raise ConfigError(f"{self.label}: columns raised {error!r}{place_of(error)}.") from error

    def call(self, hook: str, *args: Any) -> None:
        if self._failed:
            return
        try:
            getattr(self._callback, hook)(*args)
        # SystemExit too: sys.exit() in a hook would end the run with another exit code
        except (Exception, SystemExit) as error:
            self._failed = True
            context: Context = args[0]
            message = f"{self.label} raised {error!r} in {hook}{place_of(error)}"
            if context.state.status == "failed":  # another error ends the run
                log.warning("%s", message)
                return
            raise EffbenchError(f"{message}, after step {context.state.step}. The run ends here.") from error

    def state_dict(self) -> dict[str, Any]:
        state = self._callback.state_dict()
        # Now, not at the resume, when nothing can be mended any more.
        if not isinstance(state, dict) or not _is_plain(state):
            raise EffbenchError(
                f"{self.label}: state_dict must return a dict of tensors, numbers, texts, lists and dicts, which a "
                f"checkpoint can hold; got {str(state)[:200]}."
            )
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        try:
            self._callback.load_state_dict(state)
        except Exception as error:
            raise ConfigError(
                f"{self.label} cannot load its state from the checkpoint: {error!r}{place_of(error)}."
            ) from error


def place_of(error: BaseException) -> str:
    """Return ' (hooks.py, line 12)': where the error was raised, or where this module was called."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename != __file__]
    return f" ({Path(frames[-1].filename).name}, line {frames[-1].lineno})" if frames else ""


def _is_plain(value: Any) -> bool:
    """Return True if torch.load(weights_only=True) can read the value.

    type(), not isinstance: a numpy float is a float, but is pickled as a numpy object.
    """
    if type(value) is dict:
        return all(_is_plain(part) for pair in value.items() for part in pair)
    if type(value) in (list, tuple):
        return all(map(_is_plain, value))
    return value is None or type(value) in (bool, int, float, str) or isinstance(value, Tensor)


FIRST_ESTIMATE_S, LATER_ESTIMATE_S = 60.0, 600.0  # without a line, to one that says how much time is left


class Progress(Callback):
    """On a terminal a progress bar with metrics and speed; elsewhere one line an epoch, and in long epochs some more.

    It writes to stderr.

    Args:
        displays: how each metric is written, in the order of display.
        columns: of the user's callbacks.
        unit: the word for a sample.
    """

    def __init__(self, displays: Mapping[str, Display], columns: Sequence[str] = (), unit: str = "image") -> None:
        self._displays, self._own, self._unit = displays, columns, unit
        self._column = f"train/{throughput_key(unit)}"
        self._bar: tqdm[Any] | None = None
        self._next_estimate = math.inf  # set by fit_start
        # A bar rewrites its line, which a log file or a pipe cannot; -q asks for silence.
        self._terminal = sys.stderr.isatty() and log.isEnabledFor(logging.INFO)

    def fit_start(self, context: Context) -> None:
        state, total_steps = context.state, context.total_steps
        # The epochs done, and those that the steps left take, counted from the start of the present epoch, rounded up.
        self._epochs = state.epoch - (-(state.batch + total_steps - state.step) // context.steps_per_epoch)
        self._first_step, self._started = state.step, time.monotonic()
        self._next_estimate = self._started + FIRST_ESTIMATE_S
        if self._terminal:
            # leave=False: the finished bar makes room for the summary
            self._bar = tqdm(
                total=total_steps, initial=state.step, unit="step", dynamic_ncols=True, mininterval=0.2, leave=False
            )
            print_above_bar(partial(tqdm.write, file=sys.stderr))  # else a log line would break the bar

    def step_end(self, context: Context) -> None:
        if self._bar is not None:
            self._bar.update()
        elif (now := time.monotonic()) >= self._next_estimate:
            self._next_estimate = now + LATER_ESTIMATE_S
            step, total = context.state.step, context.total_steps
            left = (now - self._started) / max(1, step - self._first_step) * (total - step)
            log.info(f"step {step:,} of {total:,}; at this speed {human_span(left)} more, if it is not stopped early")

    def logged(self, context: Context, values: Mapping[str, float]) -> None:
        if self._bar is None or "train/loss" not in values:  # no loss: every step since the last line was skipped
            return
        # refresh=False: the bar is drawn at most five times a second, with its next update.
        self._bar.set_description_str(f"epoch {context.state.epoch_of_last_step + 1}/{self._epochs}", refresh=False)
        shown = [
            f"{name} {display.text(values[f'train/{name}'])}"
            for name, display in self._displays.items()
            if f"train/{name}" in values
        ]
        self._bar.set_postfix_str(", ".join([*shown, *self._columns_and_speed(values)]), refresh=False)

    def epoch_end(self, context: Context, values: Mapping[str, float]) -> None:
        shown = [
            f"{split}/{name} {display.text(values[f'{split}/{name}'])}"
            for split in ("train", "val")
            for name, display in self._displays.items()
            if f"{split}/{name}" in values
        ]
        place = [f"epoch {context.state.epoch}/{self._epochs}", f"step {context.state.step}"]
        log.info("  ".join([*place, *shown, *self._columns_and_speed(values)]))
        self._next_estimate = max(self._next_estimate, time.monotonic() + LATER_ESTIMATE_S)

    def _columns_and_speed(self, values: Mapping[str, float]) -> list[str]:
        shown = [f"{name} {values[name]:.4g}" for name in self._own if name in values]
        speed = [speed_text(values[self._column], self._unit)] if self._column in values else []
        return [*shown, *speed]

    def fit_end(self, context: Context) -> None:
        if self._bar is not None:
            print_above_bar(None)
            self._bar.close()
            self._bar = None

    run_end = fit_end  # an error before fit_end was called must not leave the bar open


@dataclass(eq=False)
class MetricsLog(Callback):
    """Writes metrics.csv: one row a logged step and one row an epoch. The column `row` names the kind.

    Column `epoch`: in a step row the epoch of the step, from 0; in an epoch row the number of finished epochs. Columns
    `lr/*`: the learning rates that the row's step was taken with.
    """

    file: MetricsFile

    def logged(self, context: Context, values: Mapping[str, float]) -> None:
        state = context.state
        self.file.row({"row": "step", "epoch": state.epoch_of_last_step, "step": state.step, **values})

    def epoch_end(self, context: Context, values: Mapping[str, float]) -> None:
        state = context.state
        self.file.row({"row": "epoch", "epoch": state.epoch, "step": state.step, **values})

    def saving(self, context: Context) -> None:
        """Make the rows durable: a run that resumes from this checkpoint needs the rows before it."""
        self.file.sync()

    def fit_end(self, context: Context) -> None:
        self.file.close()
