"""Runs killed at random moments and resumed until they finish: python -m tests.torture.crash_loop --kills 300

Half of the kills aim at a random moment of an attempt, half at a random moment inside a save. After each, every
committed checkpoint is read back and compared with the uninterrupted run's at the same step; a finished run is
compared as a whole. Every other run is resumed by name, the rest by resume=auto.
"""

from __future__ import annotations

import random
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from effbench.records import read_summary
from tests.torture import runs
from tests.torture.runs import Page

CONFIG = tuple(word.replace("background=false", "background=true") for word in runs.CONFIG)
RESTS_S = (0.0, 0.005)  # on a busy machine the kill comes milliseconds late: some attempts wait for it in the save
CONTROLS = 2  # uninterrupted runs before the first kill
ATTEMPTS_A_RUN = 200  # a run that needs more makes no progress
SHOWN = 20  # faults told in full


@dataclass
class Tally:
    """What came of it. faults: one line each, of whatever should not have been."""

    kills: int = 0
    kills_inside_a_save: int = 0
    attempts: int = 0
    runs: int = 0
    runs_by_resume_auto: int = 0
    killed_before_a_checkpoint: int = 0
    checkpoints_verified: int = 0
    most_steps_lost: int = 0
    corrupt: int = 0
    mismatched: int = 0
    errors: int = 0
    finished_with_a_leftover: int = 0
    attempt_s: float = 0.0
    save_s: float = 0.0
    faults: list[str] = field(default_factory=list)

    def blame(self, kind: str, faults: Sequence[str]) -> None:
        setattr(self, kind, getattr(self, kind) + len(faults))
        self.faults += [f"{kind}: {fault}" for fault in faults[: SHOWN - len(self.faults)]]

    @property
    def clean(self) -> bool:
        return not (self.corrupt or self.mismatched or self.errors)


class ByName:
    """Resumed with resume=run; begun anew while there is nothing to resume."""

    automatic = False

    def __init__(self, work: Path):
        self._run = work / "run"

    def words(self) -> list[str]:
        if runs.committed(self._run):
            return ["resume=run"]
        shutil.rmtree(self._run, ignore_errors=True)
        return [*CONFIG, "hydra.run.dir=run"]

    def folders(self) -> list[Path]:
        return [self._run]


class Automatic:
    """Always the same command, with resume=auto: it finds its run, or begins one in a new folder."""

    automatic = True

    def __init__(self, work: Path):
        self._outputs = work / "outputs"

    def words(self) -> list[str]:
        return [*CONFIG, "resume=auto"]

    def folders(self) -> list[Path]:
        """Newest last: older ones were killed before they had a checkpoint."""
        return sorted(self._outputs.glob("*/*"))


class CrashLoop:
    def __init__(self, folder: Path, kills: int, seed: int):
        self._folder, self._wanted, self._random = folder, kills, random.Random(seed)
        self._page = Page()
        self._states = folder / "uninterrupted"
        self.tally = Tally()

    def run(self) -> Tally:
        self._control()
        while self.tally.kills < self._wanted:
            self._run_to_its_end()
        return self.tally

    def _control(self) -> None:
        """Uninterrupted runs must agree, or no comparison means anything; they also set the time scale."""
        self._states.mkdir(parents=True)
        seconds = []
        for number in range(CONTROLS):
            work = self._folder / f"control-{number}"
            begun = time.perf_counter()
            hooks = [runs.counted(self._page), *([runs.keeping_all(self._states)] if number == 0 else [])]
            code, told = runs.finish([*CONFIG, "hydra.run.dir=run"], work, *hooks)
            seconds.append(time.perf_counter() - begun)
            if code:
                raise RuntimeError(f"the uninterrupted run fails with {code}:\n{told}")
            if number == 0:
                self.reference = runs.outcome(work / "run")
            self.tally.blame(
                "mismatched", [f"control {text}" for text in runs.mismatches(work / "run", self.reference)]
            )
        saves, _, self._events_a_save = self._page.read()
        self.tally.attempt_s = min(seconds)
        self.tally.save_s = _seconds_saving(work / "run") / saves

    def _run_to_its_end(self) -> None:
        """One run, killed and resumed; no more kills than are wanted in all, then it is left alone."""
        tally, number = self.tally, self.tally.runs
        work = self._folder / f"run-{number}"
        way = (ByName if number % 2 == 0 else Automatic)(work)
        for _ in range(ATTEMPTS_A_RUN):
            tally.attempts += 1
            code, told = self._attempt(way, work)
            if code == 0:
                break
            if code == -9:
                tally.kills += 1
                tally.kills_inside_a_save += self._page.inside
                self._inspect(way)
            else:
                tally.blame("errors", [f"{work}: exit code {code}: {told[-2000:]}"])
                break
        else:
            tally.blame("errors", [f"{work}: not finished after {ATTEMPTS_A_RUN} attempts"])
        tally.runs += 1
        print(f"run {tally.runs}: {tally.kills}/{self._wanted} kills, {len(tally.faults)} faults", file=sys.stderr)
        tally.runs_by_resume_auto += way.automatic
        if code == 0:
            tally.blame("mismatched", runs.mismatches(way.folders()[-1], self.reference))
            tally.finished_with_a_leftover += bool(runs.surplus(way.folders()[-1], self.reference))
            shutil.rmtree(work)

    def _attempt(self, way: ByName | Automatic, work: Path) -> tuple[int, str]:
        if self.tally.kills >= self._wanted:
            return runs.finish(way.words(), work, runs.counted(self._page))
        if self.tally.kills_inside_a_save <= 0.55 * self.tally.kills:  # some of those that aim come too late
            return self._kill_in_a_save(way, work)
        return self._kill_any_time(way, work)

    def _kill_any_time(self, way: ByName | Automatic, work: Path) -> tuple[int, str]:
        child = runs.start(way.words(), work, runs.counted(self._page))
        child.ring(self._random.uniform(0, self.tally.attempt_s))
        return child.kill(), child.told()

    def _kill_in_a_save(self, way: ByName | Automatic, work: Path) -> tuple[int, str]:
        """The attempt tells when it comes to a moment drawn from all saves that are left, and dies a little later."""
        left = (runs.STEPS - self._newest(way)) // 3 + 1
        at = self._random.randint(1, max(1, left)), self._random.randrange(self._events_a_save)
        child = runs.start(way.words(), work, runs.counted(self._page, at, self._random.choice(RESTS_S)))
        heard = child.ring(runs.NO_ANSWER_S)
        if heard == "rang":
            _wait(self._random.uniform(0, self.tally.save_s / self._events_a_save))
        return child.kill(), child.told()

    def _newest(self, way: ByName | Automatic) -> int:
        """The step that the next attempt begins from."""
        folders = way.folders()
        if not folders:
            return 0
        return max((int(path.name.removeprefix("step-")) for path in runs.committed(folders[-1])), default=0)

    def _inspect(self, way: ByName | Automatic) -> None:
        """All that is committed must be whole, and equal to what the uninterrupted run had at that step."""
        for folder in way.folders():
            faults = runs.broken(folder)
            self.tally.blame("corrupt", faults)
            for path in runs.committed(folder):
                self.tally.checkpoints_verified += 1
                if not faults:
                    expected = runs.content(self._states / path.name)
                    self.tally.blame("mismatched", list(runs.differences(runs.content(path), expected, str(path))))
        newest, folders = self._newest(way), way.folders()
        self.tally.killed_before_a_checkpoint += newest == 0
        logged = runs.steps_logged(folders[-1]) if folders else 0
        self.tally.most_steps_lost = max(self.tally.most_steps_lost, logged - newest)


def _seconds_saving(run: Path) -> float:
    return float(read_summary(run)["timing"]["seconds"]["checkpoint"])


def _wait(seconds: float) -> None:
    """Busy: a sleep is too coarse for a tenth of a millisecond."""
    until = time.perf_counter() + seconds
    while time.perf_counter() < until:
        pass


def crash_loop(folder: Path, kills: int, seed: int = 0) -> dict[str, Any]:
    """The tally as JSON."""
    begun = time.perf_counter()
    tally = CrashLoop(folder, kills, seed).run()
    seconds = time.perf_counter() - begun
    return {
        **asdict(tally),
        "seed": seed,
        "failure_rate_below_95": runs.rate_bound(tally.kills) if tally.clean else None,
        "seconds": round(seconds, 1),
        "kills_a_second": round(tally.kills / seconds, 2),
    }


def main(argv: Sequence[str] | None = None) -> int:
    parser = runs.options("tests.torture.crash_loop", __doc__)
    parser.add_argument("--kills", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args(argv)
    with runs.workplace(chosen.folder) as folder:
        result = crash_loop(folder, chosen.kills, chosen.seed)
    runs.report(result, chosen.json)
    return 1 if result["faults"] else 0


if __name__ == "__main__":
    sys.exit(main())
