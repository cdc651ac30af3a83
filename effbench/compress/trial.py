"""One compression among several that are compared: what it lost, and what it costs beside the run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from effbench.compress.options import CompressOptions
from effbench.compress.run import compress_loaded
from effbench.run.run import Run


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
        after, test, speed = self.record["after"], self.record["test"], self.record["speed"]
        fastest = _arm(speed, "after")
        return {
            "name": self.name,
            "options": self.record["options"],
            "drop": self.record["validation"]["drop"],
            "split": test["split"],
            "metrics": after["metrics"],
            "accuracy": after["accuracy"],
            "lost": test["lost"],
            "lost_of": test["lost_of"],
            "parameters": after["parameters"],
            "macs": after["macs"],
            "bytes": self.bytes,
            "backend": fastest["backend"] if fastest else None,
            "p50_s": fastest and fastest["batches"][_smallest(speed)]["latency_s"]["p50"],
            "over_before": speed["fastest_ratio"],
        }

    @property
    def bytes(self) -> int | None:
        """Size of the smallest file of the result."""
        return bytes_of(self.record["speed"], "after")


def bytes_of(speed: Mapping[str, Any], side: str) -> int | None:
    """Return the bytes of the smallest file of one side; None if none was written."""
    sizes = [arm["bytes"] for arm in speed["arms"] if arm["side"] == side and arm.get("bytes")]
    return min(sizes, default=None)


def _arm(speed: Mapping[str, Any], side: str) -> Mapping[str, Any] | None:
    """Return the fastest arm of a side."""
    found = (arm for arm in speed["arms"] if arm["side"] == side and arm["backend"] == speed["fastest"][side])
    return next(found, None)


def p50_of(speed: Mapping[str, Any], side: str) -> float | None:
    """Return the median latency, in seconds, of the fastest arm of a side; None if none was measured."""
    arm = _arm(speed, side)
    return float(arm["batches"][_smallest(speed)]["latency_s"]["p50"]["estimate"]) if arm else None


def _smallest(speed: Mapping[str, Any]) -> str:
    return str(min(speed["batch_sizes"]))


def tried(source: Run, options: CompressOptions, name: str, within: Path, final: Path) -> Trial:
    """Make one result in the folder `within`.

    Args:
        source: the run.
        options: what to do.
        name: of the result's folder.
        within: folder of all results.
        final: its name in the end.
    """
    folder = within / name
    folder.mkdir(parents=True)
    return Trial(name, folder, compress_loaded(source, options, folder, final / name))
