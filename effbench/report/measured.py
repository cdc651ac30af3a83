"""What runs cost in deployment, from bench/bench.json and compression.json: read as files of others.

Of each record the fastest backend that keeps the accuracy counts, with a batch of one sample.
"""

from __future__ import annotations

import math
import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from effbench.errors import ConfigError, first_line
from effbench.report.compression import NAME, read_compression, trained_since
from effbench.report.deployment import SINGLE_STREAM, is_of_other_data, is_of_other_weights, read_bench
from effbench.stats import Interval
from effbench.summary_schema import LARGEST
from effbench.units import counted

BENCH, COMPRESS = "bench", "compress"  # the verb that wrote a record
LIBRARIES = ("torch", "onnxruntime", "openvino")
_BATCH = "1"  # the batch size of a latency
_MOST_BYTES = 2**63


@dataclass(frozen=True)
class Machine:
    """What a latency depends on beside the model.

    Attributes:
        place: processor, its arithmetic, threads.
        versions: library -> version, of LIBRARIES; without those that the record does not hold.
    """

    place: tuple[tuple[str, str], ...]
    versions: Mapping[str, str]

    @classmethod
    def of(cls, environment: Mapping[str, Any], threads: int) -> Machine:
        """Return the machine of a record. threads: of each process that was measured."""
        # bfloat16 decides what OpenVINO and torch can do; processors of one name may differ in it
        keys = {"cpu": "cpu", "arithmetic": "cpu_capability", "bf16": "bf16"}
        place = ((name, str(environment.get(key))) for name, key in keys.items())
        versions = {name: str(environment[name]) for name in LIBRARIES if environment.get(name)}
        return cls((*place, ("threads", str(int(threads)))), versions)

    def takes(self, other: Machine) -> bool:
        """Return True unless the other one is a different machine, or has another version of a library."""
        known = all(self.versions.get(name, version) == version for name, version in other.versions.items())
        return self.place == other.place and known

    def __str__(self) -> str:
        facts = dict(self.place)
        bf16 = {"True": ", bfloat16", "False": ", no bfloat16"}.get(facts["bf16"], "")
        libraries = [f"{name} {self.versions[name]}" for name in LIBRARIES if name in self.versions]
        threads = counted(int(facts["threads"]), "thread")
        return ", ".join([f"{facts['cpu']} ({facts['arithmetic']}{bf16})", threads, *libraries])


@dataclass(frozen=True)
class Measured:
    """A run as it would be deployed: by its fastest backend, on one machine.

    Attributes:
        backend: name of the backend.
        p50: median seconds of a call with one sample.
        bytes: size of the backend's file.
        margin: ratios of latencies up to 1 + margin are no difference in this record.
        machine: where it was measured.
        verb: that measured it.
        metrics: metric -> value that the backend's answers have on validation data; {} if not measured.
        samples: number of these.
        split: that they are of: 'val', or 'train' of data without validation.
    """

    backend: str
    p50: Interval
    bytes: int
    margin: float
    machine: Machine
    verb: str
    metrics: Mapping[str, float]
    samples: int
    split: str = "val"


@dataclass(frozen=True)
class Loss:
    """What a compressed run lost of the accuracy of the run before, in points, on the same test samples.

    Attributes:
        before: folder of the run before, resolved.
        points: positive if accuracy was lost; paired by sample.
    """

    before: str
    points: Interval


def measured(folders: Sequence[Path]) -> tuple[dict[Path, list[Measured]], dict[Path, Loss], list[tuple[Path, str]]]:
    """Read the records of runs.

    A run that was only compressed is measured by the records of its results, which hold the run before, too.

    Returns:
        (folder -> its measurements, folder -> what it lost by compression, (folder, what is wrong with a record)).
    """
    found: dict[Path, list[Measured]] = defaultdict(list)
    lost: dict[Path, Loss] = {}
    problems: list[tuple[Path, str]] = []
    own = {os.path.realpath(folder): folder for folder in folders}
    befores: list[tuple[Path, Measured]] = []
    for folder in folders:
        for name, read in (("bench/bench.json", _of_bench), (NAME, _of_compression)):
            try:
                one = read(folder)
            except ConfigError as error:
                problems.append((folder, str(error)))
                continue
            # whatever a damaged or hostile record gives
            except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
                remedy = "Run effbench bench again" if name != NAME else "Compress the run again"
                why = f"{type(error).__name__}: {first_line(error)}"
                problems.append((folder, f"{folder / name} is damaged ({why:.200}). {remedy}."))
                continue
            found[folder] += one.after
            if one.lost is not None:
                lost[folder] = one.lost
            if one.before is not None and one.source in own:
                befores.append((own[one.source], one.before))
    # last: a run's own measurement comes before those beside its results
    for folder, before in befores:
        found[folder].append(before)
    return {folder: each for folder, each in found.items() if each}, lost, problems


@dataclass(frozen=True)
class _Record:
    """One file: the run itself; for a compression also the run before, its folder, and what was lost."""

    after: list[Measured]
    before: Measured | None = None
    source: str = ""
    lost: Loss | None = None


def _of_bench(folder: Path) -> _Record:
    record = read_bench(folder / "bench")
    if record is None or record["verdicts"][SINGLE_STREAM] is None:
        return _Record([])  # no record, none of its backends keeps the accuracy, or a batch of one was not measured
    best = record["verdicts"][SINGLE_STREAM]["best"]
    [arm] = [each for each in record["arms"] if each["backend"] == best]
    one = _measured(arm, record, record["options"]["threads"], BENCH)
    own = not is_of_other_weights(folder, record) and not is_of_other_data(folder, record)
    return _Record([one if own else _unjudged(one)])


def _unjudged(one: Measured) -> Measured:
    """Return a measurement of weights or data that are not the run's: latency and size stay, its answers are others."""
    return replace(one, metrics={}, samples=0)


def _of_compression(folder: Path) -> _Record:
    record = read_compression(folder)
    if record is None or not {"speed", "test"} <= record.keys():
        return _Record([])  # not a result; or a candidate of a search that was interrupted, which is not tested
    speed = record["speed"]
    sides = {side: _side(speed, side) for side in ("before", "after")}
    source = os.path.realpath(folder / record["source"]["run"])
    test = record["test"]
    points = _interval(test["lost"]) if test["lost"] and test["lost_of"] == "accuracy" else None
    before, after = sides["before"], sides["after"]
    # what is lost is of the weights of both
    if trained_since(folder, record) is not None:
        points, after = None, after and _unjudged(after)
    if is_of_other_weights(folder / record["source"]["run"], record["source"]):
        points, before = None, before and _unjudged(before)
    return _Record([after] if after else [], before, source, Loss(source, points) if points else None)


def _side(speed: Mapping[str, Any], side: str) -> Measured | None:
    arms = [each for each in speed["arms"] if each["side"] == side and each["backend"] == speed["fastest"][side]]
    if not arms or _BATCH not in arms[0]["batches"] or min(speed["batch_sizes"]) != int(_BATCH):
        return None
    return _measured(arms[0], speed, speed["threads"], COMPRESS)


def _measured(arm: Mapping[str, Any], record: Mapping[str, Any], threads: int, verb: str) -> Measured:
    p50, size, margin = (
        _interval(arm["batches"][_BATCH]["latency_s"]["p50"]),
        int(arm["bytes"]),
        float(record["margin"]),
    )
    p50 = replace(p50, low=max(0.0, p50.low))
    if not (p50.low <= p50.estimate <= p50.high and 0 < p50.estimate < math.inf and 0 <= margin < math.inf):
        raise ValueError(f"a p50 of {p50.estimate:g} s [{p50.low:g}, {p50.high:g}] with a margin of {margin:g}")
    if not 0 <= size < _MOST_BYTES:
        raise ValueError(f"a file of {size} bytes")
    metrics = {str(name): float(value) for name, value in (arm.get("metrics") or {}).items() if value is not None}
    return Measured(
        backend=str(arm["backend"]),
        p50=p50,
        bytes=size,
        margin=margin,
        machine=Machine.of(record["environment"], threads),
        verb=verb,
        metrics={name: value for name, value in metrics.items() if abs(value) < LARGEST},
        samples=int((arm.get("parity") or {}).get("samples") or 0),
        split="train" if record.get("split") == "train" else "val",
    )


def _interval(content: Mapping[str, Any]) -> Interval:
    low, high = content["low"], content["high"]
    # strict JSON has no infinity: an open end is null
    ends = (-math.inf if low is None else float(low), math.inf if high is None else float(high))
    if not abs(float(content["estimate"])) < LARGEST or not ends[0] <= ends[1]:
        raise ValueError(f"an interval of {content['estimate']!r:.40} [{ends[0]:g}, {ends[1]:g}]")
    return Interval(float(content["estimate"]), *ends, int(content["n"]))
