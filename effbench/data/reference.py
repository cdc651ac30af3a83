"""What a simple method reaches on a dataset's test split: stated beside a run's own result."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

KEY = "reference"  # in a dataset's facts, and so in `data` of summary.json


@dataclass(frozen=True)
class Reference:
    """A measured result of a simple method, for a dataset whose splits are always the same.

    Attributes:
        method: such as 'linear n-grams'.
        metric: name of the metric, such as 'acc'.
        value: of the metric, on the whole test split.
        command: what measured it.
        n: how many runs it is the mean of.
    """

    method: str
    metric: str
    value: float
    command: str
    n: int = 1

    def facts(self) -> dict[str, Any]:
        """Return the entry for the facts of a dataset (Splits.facts), which a run records."""
        return {KEY: asdict(self)}

    @classmethod
    def recorded(cls, data: Mapping[str, Any]) -> Reference | None:
        """Return the reference in facts of a dataset or in `data` of a summary; None if it has none that is whole."""
        entry = data.get(KEY)
        if not isinstance(entry, Mapping):
            return None
        found: list[Any] = [entry.get(name) for name in ("method", "metric", "value", "command", "n")]
        texts, numbers = (found[0], found[1], found[3]), (found[2], found[4])
        # by type, not by attempt: a summary may come from another version, or be damaged
        if not all(isinstance(text, str) and text for text in texts):
            return None
        if any(isinstance(number, bool) or not isinstance(number, int | float) for number in numbers):
            return None
        return cls(*found)

    @property
    def source(self) -> str:
        """The command and the number of runs, as texts state them."""
        return f"{self.command}, n = {self.n}"
