"""How far a run has come: all plain numbers, so that a checkpoint can hold it."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass
class TrainState:
    """epoch and batch: the next step's place. step: optimizer steps done. seen: samples, over all ranks."""

    epoch: int = 0
    batch: int = 0
    step: int = 0
    seen: int = 0
    training_s: float = 0.0  # seconds of training in earlier sittings of a resumed run
    elapsed_s: float = 0.0  # wall seconds of those, all told; this sitting's own are on the clocks
    skipped: int = 0  # steps left out because they were not finite
    skipped_in_a_row: int = 0
    pieces: int = 1  # into which a micro-batch is cut, where memory did not suffice; likewise eval_pieces
    eval_pieces: int = 1
    metrics: dict[str, float] = field(default_factory=dict)  # the newest value of each
    stop_reason: str | None = None
    status: str = "completed"

    def stop(self, reason: str, status: str = "completed") -> None:
        """Ends the run after this step; the first reason stands."""
        if self.stop_reason is None:
            self.stop_reason, self.status = reason, status

    def leave_epoch(self) -> None:
        """On to the next one: what was begun cannot be ended with other images."""
        if self.batch:
            self.epoch, self.batch = self.epoch + 1, 0

    def state_dict(self) -> dict[str, Any]:
        """Without why it stopped: a resumed run has not."""
        return {key: value for key, value in asdict(self).items() if key not in ("stop_reason", "status")}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for key, value in state.items():
            setattr(self, key, value)


@dataclass
class Limits:
    """Where a run ends: optimizer steps (from epochs and max_steps), and seconds of wall time."""

    steps: int
    seconds: float | None = None
