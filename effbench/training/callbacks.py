"""What watches a run: the progress bar and the metric loggers. They see numbers that are already on the host."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any

from tqdm import tqdm

from effbench.records import MetricsFile
from effbench.training.state import TrainState
from effbench.units import percent


class Callback:
    """Every hook is optional. `values` maps metric names to host numbers."""

    def fit_start(self, state: TrainState, total_steps: int, steps_per_epoch: int) -> None: ...

    def step_end(self, state: TrainState) -> None: ...

    def logged(self, state: TrainState, values: Mapping[str, float]) -> None:
        """Every `log_every_n_steps` steps; train/* are means over the steps since the last call."""

    def epoch_end(self, state: TrainState, values: Mapping[str, float]) -> None:
        """After an epoch and its validation; train/* are means over the epoch."""

    def saving(self, state: TrainState) -> None:
        """Before a checkpoint is written."""

    def fit_end(self, state: TrainState) -> None: ...

    def tested(self, state: TrainState, values: Mapping[str, float]) -> None:
        """After the test, which follows the fit of a run that was not cut short; test/* of the best weights."""

    def run_end(self, state: TrainState) -> None:
        """Last of all, whatever came of the run: what must outlive the fit is closed here."""


class Callbacks(Callback):
    """Several as one."""

    def __init__(self, members: Sequence[Callback]):
        self._members = list(members)

    def fit_start(self, state: TrainState, total_steps: int, steps_per_epoch: int) -> None:
        for member in self._members:
            member.fit_start(state, total_steps, steps_per_epoch)

    def step_end(self, state: TrainState) -> None:
        for member in self._members:
            member.step_end(state)

    def logged(self, state: TrainState, values: Mapping[str, float]) -> None:
        for member in self._members:
            member.logged(state, values)

    def epoch_end(self, state: TrainState, values: Mapping[str, float]) -> None:
        for member in self._members:
            member.epoch_end(state, values)

    def saving(self, state: TrainState) -> None:
        for member in self._members:
            member.saving(state)

    def fit_end(self, state: TrainState) -> None:
        for member in self._members:
            member.fit_end(state)

    def tested(self, state: TrainState, values: Mapping[str, float]) -> None:
        for member in self._members:
            member.tested(state, values)

    def run_end(self, state: TrainState) -> None:
        for member in self._members:
            member.run_end(state)


class Progress(Callback):
    """A bar with loss, accuracy and images/s on a terminal; elsewhere one line an epoch. All of it on stderr."""

    def __init__(self) -> None:
        self._bar: tqdm[Any] | None = None
        self._terminal = sys.stderr.isatty()

    def fit_start(self, state: TrainState, total_steps: int, steps_per_epoch: int) -> None:
        self._epochs = state.epoch - (-(state.batch + total_steps - state.step) // steps_per_epoch)
        if self._terminal:
            self._bar = tqdm(
                total=total_steps, initial=state.step, unit="step", dynamic_ncols=True, mininterval=0.2, leave=False
            )

    def step_end(self, state: TrainState) -> None:
        if self._bar is not None:
            self._bar.update()

    def logged(self, state: TrainState, values: Mapping[str, float]) -> None:
        if self._bar is not None and "train/loss" in values:
            self._bar.set_description_str(f"epoch {state.epoch_of_last_step + 1}/{self._epochs}", refresh=False)
            speed = f", {values['train/images_per_s']:.0f} img/s" if "train/images_per_s" in values else ""
            self._bar.set_postfix_str(
                f"loss {values['train/loss']:.3f}, acc {percent(values['train/acc'])}{speed}", refresh=False
            )

    def epoch_end(self, state: TrainState, values: Mapping[str, float]) -> None:
        line = f"epoch {state.epoch}/{self._epochs}  step {state.step}  " + "  ".join(
            f"{name} {percent(values[name]) if name.endswith('acc') else f'{values[name]:.4f}'}"
            for name in ("train/loss", "train/acc", "val/loss", "val/acc")
            if name in values
        )
        if "train/images_per_s" in values:
            line += f"  {values['train/images_per_s']:.0f} img/s"
        if self._bar is not None:
            self._bar.write(line, file=sys.stderr)
        else:
            print(line, file=sys.stderr, flush=True)

    def fit_end(self, state: TrainState) -> None:
        if self._bar is not None:
            self._bar.close()


class MetricsLog(Callback):
    """metrics.csv: a row a logged step, a row an epoch; the column `row` says which.

    Column `epoch`: of a step's row the epoch it belongs to, from 0; of an epoch's row the epochs done, from 1.
    Columns `lr/*`: the learning rates that the row's step was taken with.
    """

    def __init__(self, file: MetricsFile):
        self._file = file

    def logged(self, state: TrainState, values: Mapping[str, float]) -> None:
        self._file.row({"row": "step", "epoch": state.epoch_of_last_step, "step": state.step, **values})

    def epoch_end(self, state: TrainState, values: Mapping[str, float]) -> None:
        self._file.row({"row": "epoch", "epoch": state.epoch, "step": state.step, **values})

    def saving(self, state: TrainState) -> None:
        """A run that goes on from the checkpoint must find the rows before it."""
        self._file.sync()

    def fit_end(self, state: TrainState) -> None:
        self._file.close()
