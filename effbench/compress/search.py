"""Search method, ratio and backend that reach a target; the first candidate that holds ends the search.

Those that change least come first. They are chosen by validation samples; the test split is read for the result alone.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from effbench.bench.options import BenchOptions
from effbench.compress.arms import file_arm
from effbench.compress.drop import both, check_validation, judged_split, left, note_few_samples, with_more
from effbench.compress.itself import reached_already
from effbench.compress.making import empty, making
from effbench.compress.mixed import within
from effbench.compress.options import RUNTIMES, CompressOptions, QuantizeOptions, StructuredOptions, readers
from effbench.compress.record import plan_of
from effbench.compress.run import loaded_result
from effbench.compress.target import SearchOptions, Target
from effbench.compress.trial import FAULTS, bytes_of, fastest_arm, latency_of, tried
from effbench.compress.winner import Candidate, keep, tested, written_file
from effbench.errors import EffbenchError, OutOfTimeError, ThresholdError, first_line
from effbench.records import read_summary
from effbench.report.before_after import value_text
from effbench.report.compression import judged_on
from effbench.run.run import Run
from effbench.stats import Interval

log = logging.getLogger(__name__)

RATIOS = (0.25, 0.5, 0.75, 0.875)  # of structured pruning, tried in this order until too much is lost


@dataclass
class _Search:
    source: Run
    options: SearchOptions
    folder: Path
    final: Path
    samples: int  # of validation, that candidates are judged on
    begun: float = field(default_factory=lambda: time.monotonic())
    candidates: list[Candidate] = field(default_factory=list)
    rows: list[dict[str, Any]] = field(default_factory=list)
    faults: list[BaseException] = field(default_factory=list)
    held: set[float] = field(default_factory=set)  # ratios that lose no more than they may
    faulty: set[float] = field(default_factory=set)  # ratios that could not be made, for whatever reason
    # ratio -> seconds of its last candidate, seconds an epoch of its fine-tuning, epochs
    took: dict[float, tuple[float, float, int]] = field(default_factory=dict)
    late: bool = False  # the time ended before all was tried

    def run(self) -> None:
        """Try candidates until one holds, or the time is over."""
        for backend in self._runtimes:
            # one candidate at least, however short the time
            if self.rows and self._over():
                return
            own = QuantizeOptions(backend=backend, max_drop=self.options.max_drop)
            self._try(self._bounded(own, self.options.checkpoint), f"int8-{backend}")
        if not self.options.target.latency and not self._is_halved() and not self._over():
            # half the size where 8 bits lose too much; no runtime is faster with it
            for backend in self._runtimes[:1]:
                own = QuantizeOptions(scheme="bf16", backend=backend, max_drop=self.options.max_drop)
                self._try(self._bounded(own, self.options.checkpoint), f"bf16-{backend}")
        for epochs in self.options.lengths:
            self._prune(epochs)

    def _prune(self, epochs: int) -> None:
        """Remove more and more channels, each with this fine-tuning, until too much is lost or the time is over."""
        for ratio in RATIOS:
            if ratio in self.faulty or ratio <= max(self.held, default=0.0):
                continue
            if self.rows and (self._over() or self._is_too_long(ratio, epochs)):
                return
            pruning = StructuredOptions(ratio=ratio, epochs=epochs)
            name = f"structured-{ratio:g}" + (f"-{epochs}-epochs" if epochs != self.options.lengths[0] else "")
            begun = time.monotonic()
            pruned = self._try(self._bounded(pruning, self.options.checkpoint), name)
            if pruned is None:
                self.faulty.add(ratio)
                continue  # rounding may keep every channel at a small ratio
            if epochs:
                self._note_seconds(ratio, time.monotonic() - begun, pruned, epochs)
            if not within(_least_drop(pruned), self.options.max_drop):
                return  # a larger ratio would lose more
            # 8 bits lose more, too; but the next ratio may hold where this one misses the bound by chance
            if within(pruned.drop, self.options.max_drop):
                self.held.add(ratio)
                if self._runtimes and not self._over():
                    self._quantized(pruned)

    def best(self) -> Candidate | None:
        """Return the candidate with the least value among those that hold the bound."""
        held = [each for each in self.candidates if within(each.drop, self.options.max_drop)]
        return min(held, key=lambda each: each.value, default=None)

    def nothing(self) -> ThresholdError:
        """Return the error for a search without a result."""
        options, judged = self.options, judged_on("val", self.samples)
        said = f"target={options.target.text}: no candidate loses at most {options.max_drop:g} (max_drop) on {judged}"
        if not self.late:
            return ThresholdError(f"{said}. Nothing was written. Tried: {self.reasons}.")
        return OutOfTimeError(
            f"{said}, and the time was over (minutes={options.minutes:g}) before all were tried. Nothing was written. "
            f"Write minutes={2 * options.minutes:g}. Tried: {self.reasons}."
        )

    def raise_fault(self) -> None:
        """Raise the first candidate's error if none could be made, for other reasons than a loss."""
        too_much = any(isinstance(each, ThresholdError) for each in self.faults)
        if self.faults and len(self.faults) == len(self.rows) and not too_much:
            first = self.faults[0]
            if isinstance(first, EffbenchError):
                raise first
            raise EffbenchError(f"no candidate could be made. Tried: {self.reasons}.") from first

    @property
    def reasons(self) -> str:
        """Why each candidate is not the result."""
        return "; ".join(_reason(row) for row in self.rows)

    @property
    def ended(self) -> str:
        """Why no more candidates were tried: one was 'met', the 'time' was over, or these were 'all'."""
        return "met" if self._is_met() else "time" if self.late else "all"

    def holds(self, value: float) -> bool:
        return value <= self.options.target.most

    @property
    def _runtimes(self) -> list[str]:
        """The runtimes whose files a backend that is measured can read."""
        return [name for name in RUNTIMES if readers(name, self._bench)]

    @property
    def _bench(self) -> BenchOptions:
        return self.options.measured

    def _bounded(self, own: QuantizeOptions | StructuredOptions, checkpoint: str) -> CompressOptions:
        """Return the options of one candidate; what it may lose bounds also the backends that it is measured with."""
        method, most = "structured", self.options.max_drop
        if isinstance(own, QuantizeOptions):
            method, most = "quantize", own.max_drop
        bench = replace(self._bench, max_drop=most)
        return CompressOptions(method, own, checkpoint, bench, bounded=True, deadline=self._deadline)

    @property
    def _deadline(self) -> float:
        return self.begun + 60 * self.options.minutes

    def _over(self) -> bool:
        """Return whether no further candidate is begun."""
        return self._is_met() or self._is_late("the time is over, no further candidate is begun")

    def _is_met(self) -> bool:
        best = self.best()
        return best is not None and self.holds(best.value)

    def _is_late(self, what: str, seconds: float = 0.0) -> bool:
        """Return whether the time would be over in so many seconds. The first time, say what follows."""
        late = time.monotonic() + seconds > self._deadline
        if late and not self.late:
            log.info(f"minutes={self.options.minutes:g}: {what}")
        self.late = self.late or late
        return late

    def _note_seconds(self, ratio: float, whole: float, pruned: Candidate, epochs: int) -> None:
        """Keep how long a candidate took.

        Args:
            ratio: of its channels.
            whole: seconds; nearly none for one that was finished before a kill.
            pruned: the candidate.
            epochs: of its fine-tuning.
        """
        try:
            training = float(read_summary(pruned.trial.folder)["timing"]["training_s"])
        except (EffbenchError, KeyError, TypeError, ValueError):
            training = whole
        self.took[ratio] = max(whole, training), training / epochs, epochs

    def _is_too_long(self, ratio: float, epochs: int) -> bool:
        """Return whether a longer fine-tuning would end after the time, by what the one of the nearest ratio took."""
        if epochs == self.options.lengths[0] or not self.took:
            return False
        whole, epoch, before = self.took[min(self.took, key=lambda tried: abs(tried - ratio))]
        what = f"fine-tuning for {epochs} epochs would take longer than the time that is left, and is not begun"
        return self._is_late(what, whole + epoch * (epochs - before))

    def _is_halved(self) -> bool:
        """Return whether a candidate that holds the bound has at most half of the run's size."""
        best = self.best()
        before = bytes_of(best.trial.record["speed"], "before") if best else None
        return best is not None and before is not None and 2 * best.arm["bytes"] <= before

    def _quantized(self, pruned: Candidate) -> None:
        """Try to quantize a pruned candidate too, with the backend that was better for the whole model."""
        most = left(pruned.trial.record["validation"], self.options.max_drop)
        own = QuantizeOptions(backend=self._better_backend(), max_drop=most)
        source = loaded_result(pruned.trial.folder, self.source)
        name = f"{pruned.trial.name}-int8-{own.backend}"
        self._try(self._bounded(own, "best"), name, source, pruned)

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
            self.faults.append(error)
            self.late = self.late or isinstance(error, OutOfTimeError)
            return None
        target, lost = self.options.target, trial.record["validation"]
        most = left(lost, options.bench.max_drop)
        speed = trial.record["speed"]
        arm = fastest_arm(speed, "after") if target.latency else file_arm(speed, "after", most)
        interval = None if arm is None else _value(target, speed, arm)
        if arm is not None:
            lost = with_more(lost, arm.get("more") or 0.0)
        drop = float(lost["drop"])
        if pruned is not None:
            if interval is not None and target.relative:
                interval = _product(pruned.interval, interval)
            drop = both(pruned.trial.record["validation"], lost)
        value = None if interval is None else interval.estimate
        self.rows.append({**trial.costs(), "failed": None, "value": value, "drop": drop})
        if arm is None or interval is None:
            return None
        found = Candidate(trial, pruned.trial if pruned else None, interval, drop, arm)
        self.candidates.append(found)
        value_said = value_text(self.options.target.text, found.value)
        log.info(f"{name}: {value_said}, {drop:+.2f} lost on validation samples")
        return found


def _least_drop(pruned: Candidate) -> float:
    """Return the lower end of what a pruned candidate loses; where it has no interval, the estimate."""
    low = pruned.trial.record["validation"].get("low")
    return pruned.drop if low is None else float(low)


def _value(target: Target, speed: Mapping[str, Any], arm: Mapping[str, Any]) -> Interval | None:
    """Return what the target bounds, with its interval; None if it was not measured.

    Args:
        target: what is searched for.
        speed: of the candidate.
        arm: the backend that stands for it.
    """
    if not target.latency:
        before = bytes_of(speed, "before")
        if target.relative and before is None:
            return None
        size = arm["bytes"] / (before if target.relative else 1)
        return Interval(size, size, size, 1)
    found = speed["fastest_ratio"] if target.relative else latency_of(speed, "after")
    if not found:
        return None
    # in JSON an end without a limit is null
    low, high = (0.0 if found["low"] is None else found["low"], math.inf if found["high"] is None else found["high"])
    # as the run itself is judged: the control alone, or the clock, differs by the margin
    margin = 1 + speed["margin"]
    return Interval(found["estimate"], low / margin, high * margin, found["n"])


def _product(first: Interval, second: Interval) -> Interval:
    """Return the ratio of two steps together; its interval is wider than it need be."""
    ends = first.low * second.low, first.high * second.high
    return Interval(first.estimate * second.estimate, *ends, min(first.n, second.n))


def search(source: Run, options: SearchOptions, target: Path, words: Sequence[str] = ()) -> dict[str, Any]:
    """Search, and publish the best candidate as a run with the record of the search in its compression.json.

    If the run itself reaches the target, nothing is published.

    Args:
        source: the run.
        options: what is searched for.
        target: folder of the result.
        words: data keys and modules of the command, for one that writes the file again.

    Raises:
        ThresholdError: no candidate holds the bound of what may be lost.
        OutOfTimeError: nor did one before the time was over.
        EffbenchError: no candidate could be made; that of the first one.
        ConfigError: the run has no validation samples.
    """
    split, samples = judged_split(source)  # data that cannot be read say nothing about candidates
    check_validation(split, f"target={options.target.text}", "Compress with method=NAME")
    note_few_samples(source, split, len(samples), options.max_drop)
    # a command that was killed goes on with the candidates it had, also if it gets more minutes
    with making(target, plan_of(source, options.checkpoint, replace(options, minutes=1.0))) as hidden:
        if (own := reached_already(source, options)) is not None:
            empty(hidden)
            return {"source": {"run": str(source.folder)}, "search": own, "path": None}
        found = _Search(source, options, hidden, target, len(samples))
        found.run()
        best = found.best()
        if best is None:
            found.raise_fault()
            raise found.nothing()
        test = tested(best, source, options.checkpoint)
        file = written_file(best, source, target, options.target.latency, words)
        best = _of_file(best, file["bytes"], options.target)
        # a size is one of a file that is there
        met = found.holds(best.value) and (options.target.latency or file["file"] is not None)
        facts = {
            "target": options.target.text,
            "max_drop": options.max_drop,
            "minutes": options.minutes,
            "met": met,
            "value": best.value,
            "value_low": best.interval.low,
            "value_high": best.interval.high,
            "most": options.target.most,
            "drop": best.drop,
            "samples": found.samples,
            "ended": found.ended if met or found.ended != "met" else "file",
            **file,
            "seconds": round(time.monotonic() - found.begun, 1),
            "candidates": found.rows,
            "test": {key: test[key] for key in ("split", "samples", "lost", "lost_of", "before", "after")},
        }
        record = keep(best, source, hidden, target, facts)
    return {**record, "path": str(target)}


def _of_file(best: Candidate, size: int | None, target: Target) -> Candidate:
    """Return the candidate with the size of the file that was written: the one that was measured may differ a little.

    Args:
        best: the candidate.
        size: bytes; None: no file was written.
        target: what is searched for.
    """
    if target.latency or size is None:
        return best
    changed = size / best.arm["bytes"]
    return replace(best, interval=best.interval.times(changed))


def _reason(row: Mapping[str, Any]) -> str:
    return f"{row['name']} ({row['failed'] or '{:+.2f} lost'.format(row['drop'])})"
