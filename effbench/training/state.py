"""How far a run has come: all plain numbers, so that a checkpoint can hold it."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

# Fields under other names in checkpoints of effbench 0.1
_NAMES_OF_0_1 = {"seen": "samples_seen", "pieces": "micro_batch_splits", "eval_pieces": "eval_splits"}


@dataclass
class TrainState:
    """epoch and batch: the next step's place. step: optimizer steps done. samples_seen: over all ranks."""

    epoch: int = 0
    batch: int = 0
    step: int = 0
    samples_seen: int = 0
    steps_per_epoch: int = 0  # of the epoch that was trained last; another session may have another batch size
    training_s: float = 0.0  # seconds of training in earlier sessions of a resumed run
    elapsed_s: float = 0.0  # wall seconds of those; the current session's are on the clocks
    skipped: int = 0  # steps left out because they were not finite
    skipped_in_a_row: int = 0
    micro_batch_splits: int = 1  # parts of a micro-batch, more than one where memory did not suffice
    eval_splits: int = 1  # parts of an evaluation batch, likewise
    metrics: dict[str, float] = field(default_factory=dict)  # the newest value of each
    learning_rates: dict[str, float] = field(default_factory=dict)  # by parameter group, of the last step taken
    logged: dict[str, float] = field(default_factory=dict)  # by callbacks, for the next row of metrics.csv
    stop_reason: str | None = None
    status: str = "completed"

    def stop(self, reason: str, status: str = "completed") -> None:
        """Ends the run after this step; the first reason stands."""
        if self.stop_reason is None:
            self.stop_reason, self.status = reason, status

    @property
    def epoch_of_last_step(self) -> int:
        """From 0. `epoch` counts on with the last step of one."""
        return self.epoch - (self.batch == 0 and self.step > 0)

    def leave_epoch(self) -> None:
        """On to the next one: what was begun cannot be ended with other samples."""
        if self.batch:
            self.epoch, self.batch = self.epoch + 1, 0

    def state_dict(self) -> dict[str, Any]:
        """Without why it stopped: a resumed run has not."""
        return {key: value for key, value in asdict(self).items() if key not in ("stop_reason", "status")}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for key, value in state.items():
            setattr(self, _NAMES_OF_0_1.get(key, key), value)


@dataclass
class Limits:
    """Where a run ends, whichever comes first: optimizer steps, seconds of wall time, epochs.

    Epochs are counted as such, not as steps: a resumed run may have another number of steps an epoch than before.
    """

    steps: int | None = None
    seconds: float | None = None
    epochs: int | None = None

    def steps_left(self, state: TrainState, steps_per_epoch: int) -> int:
        """Until the first of the limits on steps and epochs; 0 from there on."""
        left = []
        if self.steps is not None:
            left.append(self.steps - state.step)
        if self.epochs is not None:
            left.append((self.epochs - state.epoch) * steps_per_epoch - state.batch)
        return max(0, min(left))

    def total_steps(self, steps_per_epoch: int) -> int:
        """Of a run whose epochs all have this many steps."""
        return self.steps_left(TrainState(), steps_per_epoch)
