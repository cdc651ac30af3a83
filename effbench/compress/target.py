"""The target of `effbench compress target=…`: a latency or a size, and what may be lost for it. Imports no torch."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from effbench.bench.backends import has_bf16
from effbench.bench.options import BenchOptions
from effbench.compress.options import MEASURED, has_file, measuring
from effbench.config.options import NON_NEGATIVE, POSITIVE, WHOLE
from effbench.errors import ConfigError, shown

AUTO = "auto"
LENGTHS = (3, 12)  # epochs of fine-tuning that epochs=auto tries, in this order
_UNITS = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "kb": 1e3, "mb": 1e6, "gb": 1e9}
_LARGEST = 1e15  # of any unit
_FORM = re.compile(r"(\d+(?:\.\d+)?) *(us|ms|s|kb|mb|gb)|(latency|size)/(\d+(?:\.\d+)?)", re.IGNORECASE)


@dataclass(frozen=True)
class Target:
    """A latency or a size to reach.

    Attributes:
        text: as the user wrote it.
        latency: True for a latency, False for the size of a file.
        most: seconds or bytes; of a relative one, the part of what the run has.
        relative: `most` is a part of the run's own latency (fastest backend) or size (smallest file that one of
            `backends` reads).
    """

    text: str
    latency: bool
    most: float
    relative: bool

    @classmethod
    def parsed(cls, text: object) -> Target:
        """Return the target of a text, such as '2 ms', '1 MB' or 'latency/4'. Raises ConfigError."""
        found = _FORM.fullmatch(text.strip()) if isinstance(text, str) else None
        number = float(found[1] or found[4]) if found else 0.0
        # the run itself has 1 of its latency
        least = 1.0 if found and found[3] else 0.0
        if found is None or not least < number < _LARGEST:
            raise ConfigError(
                f"target must be a latency, a size, or a part of the run's: '2 ms', '1 MB', 'latency/4' or 'size/4', "
                f"with a number above 1 after the slash; got {shown(text)}."
            )
        if found[3]:
            return cls(str(text), found[3].lower() == "latency", 1 / number, relative=True)
        unit = found[2].lower()
        return cls(str(text), not unit.endswith("b"), number * _UNITS[unit], relative=False)


@dataclass(frozen=True)
class SearchOptions:
    """How a target is searched for.

    Attributes:
        target: what is to be reached.
        max_drop: points of validation accuracy that may be lost.
        minutes: no candidate is begun after that.
        epochs: of fine-tuning of each pruned candidate; AUTO: those of LENGTHS.
        checkpoint: of the run.
        bench: how each candidate is measured; None: as `searching` says.
    """

    target: Target
    max_drop: float = 0.5
    minutes: float = 10.0
    epochs: int | str = AUTO
    checkpoint: str = "best"
    bench: BenchOptions | None = None

    def __post_init__(self) -> None:
        NON_NEGATIVE.check(self.max_drop, "max_drop", "points of accuracy, a number >= 0, such as 0.5")
        POSITIVE.check(self.minutes, "minutes")
        if self.epochs != AUTO:
            WHOLE.check(self.epochs, "epochs", "auto or a whole number of epochs >= 0")
        if not self.target.latency and not any(map(has_file, self.measured.chosen)):
            raise ConfigError(
                f"target={self.target.text} is the size of an exported file, which none of "
                f"backends=[{','.join(self.measured.chosen)}] reads. Add onnxruntime, or leave backends out."
            )

    @property
    def lengths(self) -> tuple[int, ...]:
        """Epochs of fine-tuning to try, the shortest first."""
        return LENGTHS if self.epochs == AUTO else (int(self.epochs),)

    @property
    def measured(self) -> BenchOptions:
        """How each candidate is measured."""
        return self.bench or searching(self.target)


def searching(target: Target, **given: Any) -> BenchOptions:
    """Return how candidates are measured: shorter than a single result, for a latency also in bfloat16 if it is there.

    Args:
        target: what is searched for.
        **given: options of BenchOptions that the user has set.
    """
    # it is for files in float32 and in 8 bits, so that every candidate may be faster with it
    also = ("openvino_bf16",) if target.latency and has_bf16() else ()
    return measuring(**{"backends": (*MEASURED, *also), "rounds": 3, "seconds": 0.5, **given})
