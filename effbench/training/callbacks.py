"""Callbacks: hooks that the loop calls. The progress bar, metrics.csv and the loggers are callbacks, too."""

from __future__ import annotations

import inspect
import logging
import sys
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

if TYPE_CHECKING:
    from effbench.data.splits import Splits
    from effbench.training.trainer import Trainer


log = logging.getLogger(__name__)


@dataclass(frozen=True, repr=False, eq=False)
class Context:
    """What a hook can read and act on. It is the same object in all hooks of a session.

    trainer: the training loop with all its parts. folder: the run folder, which exists.
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
        """The model in training; trainer.averaged.model is the one that is evaluated (ema=on)."""
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
        """The state_dict that is validated and tested: the average's where there is one, else the model's."""
        return self.trainer.evaluated_weights()

    def stop(self, reason: str) -> None:
        """End the run after this step, with a validation, a checkpoint and the test, as at its last step.

        One rank's request stops all ranks, at the next step that is logged or ends an epoch.
        """
        self.trainer.stop_requested = self.trainer.stop_requested or reason


class Callback:
    """Base class of callbacks. Each hook is optional; `values` maps metric names to floats.

    Hooks run on every rank, with the same values. A callback that writes files does so `if context.is_main`; one that
    changes the model must do the same on every rank. An error in a hook ends the run with status 'failed'.
    """

    def fit_start(self, context: Context) -> None:
        """Before the first step of a session; a resumed run has its checkpoint's weights and state then."""

    def before_step(self, context: Context) -> None:
        """Before an optimizer step: the parameters' .grad are unscaled and not clipped yet."""

    def step_end(self, context: Context) -> None:
        """After each optimizer step. Reading a value from the GPU here makes every step wait for it."""

    def logged(self, context: Context, values: Mapping[str, float]) -> None:
        """Every `trainer.log_every_n_steps` steps; train/* are means over the steps since the last call."""

    def epoch_end(self, context: Context, values: Mapping[str, float]) -> None:
        """After an epoch and its validation; train/* are means over the epoch."""

    def saving(self, context: Context) -> None:
        """Before a checkpoint is written."""

    def fit_end(self, context: Context) -> None:
        """After the last step, or after an error (context.state.status == 'failed')."""

    def tested(self, context: Context, values: Mapping[str, float]) -> None:
        """After the test, which follows the fit of a run that was not cut short; test/* of the best weights."""

    def run_end(self, context: Context) -> None:
        """The last hook, also after an error: close what must outlive the fit."""

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs: tensors and plain values. Saved in each checkpoint, by rank 0."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Called before fit_start where the checkpoint holds a state of this callback."""


HOOKS = {
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
_ENDS = ("fit_end", "run_end")


class Forwarding(Callback):
    """Sends every hook through `call`."""

    def call(self, hook: str, *args: Any) -> None:
        raise NotImplementedError

    def fit_start(self, context: Context) -> None:
        self.call("fit_start", context)

    def before_step(self, context: Context) -> None:
        self.call("before_step", context)

    def step_end(self, context: Context) -> None:
        self.call("step_end", context)

    def logged(self, context: Context, values: Mapping[str, float]) -> None:
        self.call("logged", context, values)

    def epoch_end(self, context: Context, values: Mapping[str, float]) -> None:
        self.call("epoch_end", context, values)

    def saving(self, context: Context) -> None:
        self.call("saving", context)

    def fit_end(self, context: Context) -> None:
        self.call("fit_end", context)

    def tested(self, context: Context, values: Mapping[str, float]) -> None:
        self.call("tested", context, values)

    def run_end(self, context: Context) -> None:
        self.call("run_end", context)


class Callbacks(Forwarding):
    """Several as one, in order. fit_end and run_end reach all of them, even where one raises."""

    def __init__(self, members: Sequence[Callback]):
        self._members = list(members)

    def before(self, others: Sequence[Callback]) -> Callbacks:
        """These after `others`."""
        return Callbacks([*others, *self._members])

    def call(self, hook: str, *args: Any) -> None:
        errors = []
        for member in self._members:
            try:
                getattr(member, hook)(*args)
            except Exception as error:
                if hook not in _ENDS:
                    raise
                errors.append(error)
        if errors:
            raise errors[0]

    def state_dict(self) -> dict[str, Any]:
        """By name, of those that have one."""
        states = {member.name: member.state_dict() for member in self._members if isinstance(member, NamedCallback)}
        return {name: state for name, state in states.items() if state}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for member in self._members:
            if isinstance(member, NamedCallback) and member.name in state:
                member.load_state_dict(state[member.name])


class NamedCallback(Forwarding):
    """A user's callback. An error in one of its hooks becomes an EffbenchError that names it; no hook is called then.

    name: its key in the config, such as callbacks.mine.
    """

    def __init__(self, name: str, callback: Callback):
        self.name, self._callback = name, callback
        self._failed = False

    def call(self, hook: str, *args: Any) -> None:
        if self._failed:
            return
        try:
            getattr(self._callback, hook)(*args)
        except (Exception, SystemExit) as error:
            self._failed = True
            context: Context = args[0]
            message = f"{self.name} ({_path(self._callback)}) raised {error!r} in {hook}{_place(error)}"
            if context.state.status == "failed":  # another error ends the run
                log.warning("%s", message)
                return
            raise EffbenchError(f"{message}, after step {context.state.step}. The run ends here.") from error

    def state_dict(self) -> dict[str, Any]:
        state = self._callback.state_dict()
        if not isinstance(state, dict) or not _is_plain(state):
            raise EffbenchError(
                f"{self.name} ({_path(self._callback)}): state_dict must return a dict of tensors, numbers, texts, "
                f"lists and dicts, which a checkpoint can hold; got {str(state)[:200]}."
            )
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        try:
            self._callback.load_state_dict(state)
        except Exception as error:
            raise ConfigError(
                f"{self.name} ({_path(self._callback)}) cannot load its state from the checkpoint: "
                f"{error!r}{_place(error)}."
            ) from error


def complaint_about(callback: Callback) -> str | None:
    """Why hooks of a user's callback would not be called, or not with the right arguments; None if all is well."""
    kind = type(callback)
    if foreign := [name for name in dir(kind) if name.startswith("on_") and callable(getattr(kind, name))]:
        return f"{foreign[0]} is no hook and would not be called; the hooks are {', '.join(HOOKS)}"
    own = [hook for hook in HOOKS if getattr(kind, hook) is not getattr(Callback, hook)]
    if not own:
        return f"it defines no hook; the hooks are {', '.join(HOOKS)}"
    for hook in own:
        try:
            inspect.signature(getattr(callback, hook)).bind(*HOOKS[hook].split(", "))
        except TypeError as error:
            return f"{hook} must take ({HOOKS[hook]}): {error}"
    return None


def _path(callback: Callback) -> str:
    return f"{type(callback).__module__}.{type(callback).__qualname__}"


def _place(error: BaseException) -> str:
    """' (hooks.py, line 12)': where it was raised."""
    frames = traceback.extract_tb(error.__traceback__)
    return f" ({Path(frames[-1].filename).name}, line {frames[-1].lineno})" if len(frames) > 1 else ""


def _is_plain(value: Any) -> bool:
    """Whether torch.load(weights_only=True) reads it back. Not isinstance: numpy's floats are floats, but pickled."""
    if type(value) is dict:
        return all(_is_plain(part) for pair in value.items() for part in pair)
    if type(value) in (list, tuple):
        return all(map(_is_plain, value))
    return value is None or type(value) in (bool, int, float, str) or isinstance(value, Tensor)


class Progress(Callback):
    """A bar with the metrics and images/s on a terminal; elsewhere one line an epoch. All of it on stderr.

    displays: how each metric reads, in the order in which they are shown.
    """

    def __init__(self, displays: Mapping[str, Display]) -> None:
        self._displays = displays
        self._bar: tqdm[Any] | None = None
        self._terminal = sys.stderr.isatty() and log.isEnabledFor(logging.INFO)

    def fit_start(self, context: Context) -> None:
        state, total_steps = context.state, context.total_steps
        self._epochs = state.epoch - (-(state.batch + total_steps - state.step) // context.steps_per_epoch)
        if self._terminal:
            self._bar = tqdm(
                total=total_steps, initial=state.step, unit="step", dynamic_ncols=True, mininterval=0.2, leave=False
            )
            print_above_bar(partial(tqdm.write, file=sys.stderr))

    def step_end(self, context: Context) -> None:
        if self._bar is not None:
            self._bar.update()

    def logged(self, context: Context, values: Mapping[str, float]) -> None:
        if self._bar is not None and "train/loss" in values:
            self._bar.set_description_str(f"epoch {context.state.epoch_of_last_step + 1}/{self._epochs}", refresh=False)
            speed = f", {values['train/images_per_s']:.0f} img/s" if "train/images_per_s" in values else ""
            shown = ", ".join(f"{name} {self._displays[name].text(values[f'train/{name}'])}" for name in self._displays
                              if f"train/{name}" in values)  # fmt: skip
            self._bar.set_postfix_str(f"{shown}{speed}", refresh=False)

    def epoch_end(self, context: Context, values: Mapping[str, float]) -> None:
        state = context.state
        line = f"epoch {state.epoch}/{self._epochs}  step {state.step}  " + "  ".join(
            f"{split}/{name} {display.text(values[f'{split}/{name}'])}"
            for split in ("train", "val")
            for name, display in self._displays.items()
            if f"{split}/{name}" in values
        )
        if "train/images_per_s" in values:
            line += f"  {values['train/images_per_s']:.0f} img/s"
        log.info(line)

    def fit_end(self, context: Context) -> None:
        if self._bar is not None:
            print_above_bar(None)
            self._bar.close()
            self._bar = None

    def run_end(self, context: Context) -> None:
        self.fit_end(context)


class MetricsLog(Callback):
    """metrics.csv: a row a logged step, a row an epoch; the column `row` says which.

    Column `epoch`: of a step's row the epoch it belongs to, from 0; of an epoch's row the epochs done, from 1.
    Columns `lr/*`: the learning rates that the row's step was taken with.
    """

    def __init__(self, file: MetricsFile):
        self._file = file

    def logged(self, context: Context, values: Mapping[str, float]) -> None:
        state = context.state
        self._file.row({"row": "step", "epoch": state.epoch_of_last_step, "step": state.step, **values})

    def epoch_end(self, context: Context, values: Mapping[str, float]) -> None:
        state = context.state
        self._file.row({"row": "epoch", "epoch": state.epoch, "step": state.step, **values})

    def saving(self, context: Context) -> None:
        """A run that goes on from the checkpoint must find the rows before it."""
        self._file.sync()

    def fit_end(self, context: Context) -> None:
        self._file.close()
