"""Search method, ratio and backend that reach a target; the first candidate that holds ends the search.

Those that change least come first. They are chosen by validation samples; the test split is read for the result alone.
"""

from __future__ import annotations

import json
import logging
import math
import os
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from effbench.bench.options import BenchOptions
from effbench.compress.compare import MOST, paired_test
from effbench.compress.drop import both, left
from effbench.compress.itself import reached_already
from effbench.compress.making import PLAN, empty, making
from effbench.compress.mixed import within
from effbench.compress.options import RUNTIMES, CompressOptions, QuantizeOptions, StructuredOptions, readers
from effbench.compress.record import plan_of, write_compression
from effbench.compress.run import loaded_result
from effbench.compress.target import SearchOptions, Target
from effbench.compress.trial import FAULTS, Trial, bytes_of, latency_of, tried
from effbench.errors import ThresholdError, first_line
from effbench.export.files import record_path
from effbench.records import write_text
from effbench.report.before_after import value_text
from effbench.report.compression import FILES, NAME, PRUNED
from effbench.run.run import Run
from effbench.stats import Interval

log = logging.getLogger(__name__)

RATIOS = (0.25, 0.5, 0.75, 0.875)  # of structured pruning, tried in this order until too much is lost


@dataclass(frozen=True)
class Candidate:
    """A trial with what it costs beside the run itself, also if it was made in two steps.

    Attributes:
        trial: the last step.
        pruned: the step before it; None for one step.
        interval: seconds, bytes, or for a relative target the part of what the run has.
        drop: what is lost on validation samples.
    """

    trial: Trial
    pruned: Trial | None
    interval: Interval
    drop: float

    @property
    def value(self) -> float:
        """The estimate."""
        return self.interval.estimate


@dataclass
class _Search:
    source: Run
    options: SearchOptions
    folder: Path
    final: Path
    begun: float = field(default_factory=time.monotonic)
    candidates: list[Candidate] = field(default_factory=list)
    rows: list[dict[str, Any]] = field(default_factory=list)

    def run(self) -> None:
        """Try candidates until one holds, or the time is over."""
        for backend in self._runtimes:
            # one candidate at least, however short the time
            if self.rows and self._over():
                return
            own = QuantizeOptions(backend=backend, max_drop=self.options.max_drop)
            self._try(CompressOptions("quantize", own, self.options.checkpoint, self._bench), f"int8-{backend}")
        for ratio in RATIOS:
            if self.rows and self._over():
                return
            pruning = StructuredOptions(ratio=ratio, epochs=self.options.epochs)
            options = CompressOptions("structured", pruning, self.options.checkpoint, self._bench)
            pruned = self._try(options, f"structured-{ratio:g}")
            if pruned is None:
                continue  # rounding may keep every channel at a small ratio
            if not within(_least_drop(pruned), self.options.max_drop):
                return  # a larger ratio would lose more
            # 8 bits lose more, too; but the next ratio may hold where this one misses the bound by chance
            if within(pruned.drop, self.options.max_drop) and not self._over():
                self._quantized(pruned)

    def best(self) -> Candidate | None:
        """Return the candidate with the least value among those that hold the bound."""
        held = [each for each in self.candidates if within(each.drop, self.options.max_drop)]
        return min(held, key=lambda each: each.value, default=None)

    def holds(self, value: float) -> bool:
        return value <= self.options.target.most

    @property
    def _runtimes(self) -> list[str]:
        """The runtimes whose files a backend that is measured can read."""
        return [name for name in RUNTIMES if readers(name, self._bench)]

    @property
    def _bench(self) -> BenchOptions:
        return self.options.measured

    def _over(self) -> bool:
        best = self.best()
        late = time.monotonic() - self.begun > 60 * self.options.minutes
        return late or (best is not None and self.holds(best.value))

    def _quantized(self, pruned: Candidate) -> None:
        """Try to quantize a pruned candidate too, with the backend that was better for the whole model."""
        most = left(pruned.trial.record["validation"], self.options.max_drop)
        if not self._runtimes:
            return
        own = QuantizeOptions(backend=self._better_backend(), max_drop=most)
        source = loaded_result(pruned.trial.folder, self.source)
        name = f"{pruned.trial.name}-int8-{own.backend}"
        self._try(CompressOptions("quantize", own, "best", self._bench), name, source, pruned)

    def _better_backend(self) -> str:
        values = {each.trial.name: each.value for each in self.candidates if each.pruned is None}
        return min(self._runtimes, key=lambda name: values.get(f"int8-{name}", float("inf")))

    def _try(
        self, options: CompressOptions, name: str, source: Run | None = None, pruned: Candidate | None = None
    ) -> Candidate | None:
        """Make one candidate; None, and a row with the reason, if it fails.

        Args:
            options: of the compression.
            name: of its folder.
            source: what is compressed; None: the run.
            pruned: the candidate that `source` is.
        """
        log.info(f"candidate {name}")
        try:
            trial = tried(source or self.source, options, name, self.folder, self.final)
        except FAULTS as error:
            log.info(f"{name}: {first_line(error)}")
            log.debug("traceback:", exc_info=True)
            self.rows.append({"name": name, "failed": first_line(error)})
            return None
        interval = _value(self.options.target, trial)
        drop = float(trial.record["validation"]["drop"])
        if pruned is not None:
            if interval is not None and self.options.target.relative:
                interval = _product(pruned.interval, interval)
            drop = both(pruned.trial.record["validation"], trial.record["validation"])
        value = None if interval is None else interval.estimate
        self.rows.append({**trial.facts(), "failed": None, "value": value, "drop": drop})
        if interval is None:
            return None
        found = Candidate(trial, pruned.trial if pruned else None, interval, drop)
        self.candidates.append(found)
        value_said = value_text(self.options.target.text, found.value)
        log.info(f"{name}: {value_said}, {drop:+.2f} lost on validation samples")
        return found


def _least_drop(pruned: Candidate) -> float:
    """Return the lower end of what a pruned candidate loses; where it has no interval, the estimate."""
    low = pruned.trial.record["validation"].get("low")
    return pruned.drop if low is None else float(low)


def _value(target: Target, trial: Trial) -> Interval | None:
    """Return what the target bounds, with its interval; None if it was not measured."""
    speed = trial.record["speed"]
    if not target.latency:
        own, before = bytes_of(speed, "after"), bytes_of(speed, "before")
        if own is None or before is None:
            return None
        size = own / (before if target.relative else 1)
        return Interval(size, size, size, 1)
    found = speed["fastest_ratio"] if target.relative else latency_of(speed, "after")
    if not found:
        return None
    # in JSON an end without a limit is null
    low, high = (0.0 if found["low"] is None else found["low"], math.inf if found["high"] is None else found["high"])
    return Interval(found["estimate"], low, high, found["n"])


def _product(first: Interval, second: Interval) -> Interval:
    """Return the ratio of two steps together; its interval is wider than it need be."""
    ends = first.low * second.low, first.high * second.high
    return Interval(first.estimate * second.estimate, *ends, min(first.n, second.n))


def search(source: Run, options: SearchOptions, target: Path) -> dict[str, Any]:
    """Search, and publish the best candidate as a run with the record of the search in its compression.json.

    If the run itself reaches the target, nothing is published.

    Args:
        source: the run.
        options: what is searched for.
        target: folder of the result.

    Raises:
        ThresholdError: no candidate holds the bound of what may be lost.
    """
    # a command that was killed goes on with the candidates it had, also if it gets more minutes
    with making(target, plan_of(source, options.checkpoint, replace(options, minutes=1.0))) as hidden:
        if (own := reached_already(source, options)) is not None:
            empty(hidden)
            return {"source": {"run": str(source.folder)}, "search": own, "path": None}
        found = _Search(source, options, hidden, target)
        found.run()
        best = found.best()
        if best is None:
            reasons = "; ".join(_reason(row) for row in found.rows)
            raise ThresholdError(
                f"target={options.target.text}: no candidate loses at most {options.max_drop:g} (max_drop). Nothing "
                f"was written. Tried: {reasons}."
            )
        # of the run itself: the record of two steps compares with the pruned run
        test = paired_test(source, options.checkpoint, loaded_result(best.trial.folder, source), "test", MOST)
        facts = {
            "target": options.target.text,
            "max_drop": options.max_drop,
            "minutes": options.minutes,
            "met": found.holds(best.value),
            "value": best.value,
            "value_low": best.interval.low,
            "value_high": best.interval.high,
            "most": options.target.most,
            "drop": best.drop,
            "seconds": round(time.monotonic() - found.begun, 1),
            "candidates": found.rows,
            "test": {key: test[key] for key in ("split", "samples", "lost", "lost_of", "before", "after")},
        }
        record = _kept(best, source, hidden, target, facts)
    return {**record, "path": str(target)}


def _reason(row: Mapping[str, Any]) -> str:
    return f"{row['name']} ({row['failed'] or '{:+.2f} lost'.format(row['drop'])})"


def _kept(best: Candidate, source: Run, hidden: Path, final: Path, facts: Mapping[str, Any]) -> dict[str, Any]:
    """Leave the best candidate alone in `hidden`, and return its record.

    Args:
        best: the candidate.
        source: the run.
        hidden: holds a folder a candidate.
        final: the name of `hidden` in the end.
        facts: of the search.
    """
    (hidden / PLAN).unlink()  # from here on the folder is of no use to another command
    places = {best.trial.folder: hidden}
    if best.pruned is not None:
        places[best.pruned.folder] = hidden / PRUNED
    for path in hidden.iterdir():
        if path.is_dir() and path not in places:
            shutil.rmtree(path)
    run = source.folder.resolve()
    if best.pruned is not None:
        best.pruned.folder.rename(hidden / PRUNED)
        _rewrite(hidden / PRUNED, os.path.relpath(run, (final / PRUNED).resolve()), {})
    for path in best.trial.folder.iterdir():
        path.rename(hidden / path.name)
    best.trial.folder.rmdir()
    before = PRUNED if best.pruned else os.path.relpath(run, final.resolve())
    record = _rewrite(hidden, before, {"search": dict(facts)})
    if best.pruned is not None and record.get("file"):
        _name_run(record_path(hidden / FILES / record["file"]), final / PRUNED)
    return record


def _rewrite(folder: Path, run: str, added: Mapping[str, Any]) -> dict[str, Any]:
    """Write compression.json again, with another path to the run before."""
    record = json.loads((folder / NAME).read_text(encoding="utf-8"))
    record = {**record, "source": {**record["source"], "run": run}, **added}
    write_compression(folder, record)
    return record


def _name_run(path: Path, run: Path) -> None:
    """Write the record of a quantized file again, with the place where its run is now."""
    record = json.loads(path.read_text(encoding="utf-8"))
    write_text(path, json.dumps({**record, "run": str(run)}, indent=2, ensure_ascii=False) + "\n")
