"""Progress of a run, in plain numbers, so that a checkpoint can hold it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

# Fields under other names in checkpoints of effbench 0.1
_NAMES_OF_0_1 = {"seen": "samples_seen", "pieces": "micro_batch_splits", "eval_pieces": "eval_splits"}


@dataclass
class TrainState:
    """Progress of a run.

    Attributes:
        epoch: epoch of the next step, from 0.
        batch: its number within the epoch, from 0.
        step: optimizer steps taken.
        samples_seen: train samples over all ranks.
    """

    epoch: int = 0
    batch: int = 0
    step: int = 0
    samples_seen: int = 0
    steps_per_epoch: int = 0  # of the epoch that was trained last; another session may have another batch size
    training_s: float = 0.0  # seconds of training in earlier sessions of a resumed run
    elapsed_s: float = 0.0  # wall seconds of those; the current session's are on the clocks
    skipped: int = 0  # steps skipped because their loss or gradient was not finite
    skipped_in_a_row: int = 0
    micro_batch_splits: int = 1  # parts of a micro-batch; more than one after out-of-memory errors
    eval_splits: int = 1  # parts of an evaluation batch, in the same way
    metrics: dict[str, float] = field(default_factory=dict)  # newest value of each metric
    learning_rates: dict[str, float] = field(default_factory=dict)  # by parameter group, of the last step taken
    logged: dict[str, float] = field(default_factory=dict)  # by callbacks, for the next row of metrics.csv
    stop_reason: str | None = None
    status: str = "completed"

    def stop(self, reason: str, status: str = "completed") -> None:
        """End the run after this step. Only the first reason is kept."""
        if self.stop_reason is None:
            self.stop_reason, self.status = reason, status

    def measured(self, split: str, values: Mapping[str, float]) -> None:
        """Keep the newest values of a split's metrics: one that is undefined this time has none.

        Args:
            split: 'train' or 'val'.
            values: column -> value.
        """
        for column in [name for name in self.metrics if name.startswith(f"{split}/") and name not in values]:
            del self.metrics[column]
        self.metrics |= values

    @property
    def epoch_of_last_step(self) -> int:
        """Epoch of the last step, from 0; `epoch` already counts the next one after the last step of an epoch."""
        return self.epoch - (self.batch == 0 and self.step > 0)

    def state_dict(self) -> dict[str, Any]:
        """Return the progress without the stop reason: a resumed run has not stopped."""
        return {key: value for key, value in asdict(self).items() if key not in ("stop_reason", "status")}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for key, value in state.items():
            setattr(self, _NAMES_OF_0_1.get(key, key), value)


@dataclass
class Limits:
    """The end of a run, whichever comes first: optimizer steps, seconds of wall time, epochs.

    Epochs are not converted to steps: a resumed run may have another number of steps an epoch.
    """

    steps: int | None = None
    seconds: float | None = None
    epochs: int | None = None

    def steps_left(self, state: TrainState, steps_per_epoch: int) -> int:
        """Return the optimizer steps until the first limit on steps or epochs, at least 0."""
        left = []
        if self.steps is not None:
            left.append(self.steps - state.step)
        if self.epochs is not None:
            # From here on all epochs have the present length, whatever earlier ones had.
            left.append((self.epochs - state.epoch) * steps_per_epoch - state.batch)
        return max(0, min(left))  # the config's check makes sure that one of the two is set

    def total_steps(self, steps_per_epoch: int) -> int:
        """Return the optimizer steps of a run with this many steps in every epoch."""
        return self.steps_left(TrainState(), steps_per_epoch)
