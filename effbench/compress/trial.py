"""One compression among several that are compared: what it lost, and what it costs beside the run."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from effbench.compress.arms import file_arm
from effbench.compress.options import CompressOptions
from effbench.compress.run import compress_loaded
from effbench.errors import ConfigError, EffbenchError
from effbench.report.compression import read_compression
from effbench.run.run import Run

log = logging.getLogger(__name__)

# What ends one trial and not those beside it, which took minutes each: also what libraries raise.
FAULTS = (EffbenchError, OSError, MemoryError, RuntimeError)


@dataclass(frozen=True)
class Trial:
    """A compression that was made and measured.

    Attributes:
        name: of its folder.
        folder: of its result.
        record: content of its compression.json.
    """

    name: str
    folder: Path
    record: Mapping[str, Any]

    def facts(self) -> dict[str, Any]:
        """Return the numbers that are compared, for a record."""
        after, test = self.record["after"], self.record["test"]
        return {
            **self.costs(),
            "split": test["split"],
            "metrics": after["metrics"],
            "accuracy": after["accuracy"],
            "lost": test["lost"],
            "lost_of": test["lost_of"],
        }

    def costs(self) -> dict[str, Any]:
        """Return the numbers that are there without a test."""
        after, speed = self.record["after"], self.record["speed"]
        fastest = fastest_arm(speed, "after")
        return {
            "name": self.name,
            "options": self.record["options"],
            "drop": self.record["validation"]["drop"],
            "parameters": after["parameters"],
            "macs": after["macs"],
            "bytes": self.bytes,
            "file_backend": smallest["backend"] if (smallest := file_arm(speed, "after")) else None,
            "backend": fastest["backend"] if fastest else None,
            "p50_s": fastest and fastest["batches"][_smallest(speed)]["latency_s"]["p50"],
            "over_before": speed["fastest_ratio"],
        }

    @property
    def bytes(self) -> int | None:
        """Size of the smallest file of an export format; None if none was measured."""
        return bytes_of(self.record["speed"], "after")


def bytes_of(speed: Mapping[str, Any], side: str) -> int | None:
    """Return the bytes of the smallest file of one side in an export format; None if none was measured."""
    found = file_arm(speed, side)
    return None if found is None else int(found["bytes"])


def fastest_arm(speed: Mapping[str, Any], side: str) -> Mapping[str, Any] | None:
    """Return the fastest arm of a side."""
    found = (arm for arm in speed["arms"] if arm["side"] == side and arm["backend"] == speed["fastest"][side])
    return next(found, None)


def p50_of(speed: Mapping[str, Any], side: str) -> float | None:
    """Return the median latency, in seconds, of the fastest arm of a side; None if none was measured."""
    found = latency_of(speed, side)
    return float(found["estimate"]) if found else None


def latency_of(speed: Mapping[str, Any], side: str) -> Mapping[str, Any] | None:
    """Return the median latency with its interval, in seconds; see `p50_of`."""
    if (arm := fastest_arm(speed, side)) is None:
        return None
    found: Mapping[str, Any] = arm["batches"][_smallest(speed)]["latency_s"]["p50"]
    return found


def _smallest(speed: Mapping[str, Any]) -> str:
    return str(min(speed["batch_sizes"]))


def tried(source: Run, options: CompressOptions, name: str, within: Path, final: Path) -> Trial:
    """Make one result in the folder `within`, or return the one that the same command finished before it was killed.

    Args:
        source: the run.
        options: what to do.
        name: of the result's folder.
        within: folder of all results.
        final: its name in the end.

    Raises:
        FAULTS: it cannot be made; nothing is left of it.
    """
    folder = within / name
    if (record := _finished(folder)) is not None:
        log.info(f"{name} was finished before")
        return Trial(name, folder, record)
    shutil.rmtree(folder, ignore_errors=True)  # a killed command was at it
    folder.mkdir(parents=True)
    try:
        return Trial(name, folder, compress_loaded(source, options, folder, final / name))
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)  # half a result; the others go on, perhaps on a full disk
        raise


def _finished(folder: Path) -> dict[str, Any] | None:
    """Return the record of a result that is complete; None if there is none."""
    try:
        record = read_compression(folder)
    except (ConfigError, OSError):
        return None
    # what was measured is written last
    return record if record is not None and "speed" in record else None
