"""Arms measured in turns (A B C, C B A), each in a fresh process, and their ratio with its interval.

There and back belong to one round: who has two turns in a row, at the turning, finds its caches warm.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

from effbench.stats import Interval, median_interval

ROOT = Path(__file__).parents[1]
THREADS = 2
CONTROL_SUFFIX = " again"  # the control's name: the first arm's and this
CONTROL_WITHIN = 0.02
PATIENCE_S = 180.0
SLICE_S = 0.5

Round = dict[str, float]  # arm -> its value in one round


@dataclass(frozen=True)
class Arm:
    """What to run: `module:function` with these options. source: the checkout to import from."""

    name: str
    place: str
    options: Mapping[str, Any] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    source: Path = ROOT


class Runner:
    """A live arm: stopped but for its turns."""

    def __init__(self, arm: Arm):
        self.arm = arm
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 - lives as long as the process
        self._scratch = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)  # a killed arm cleans up nothing
        environment = {
            **os.environ, "OMP_NUM_THREADS": str(THREADS), "TMPDIR": self._scratch.name,
            "PYTHONPATH": str(arm.source), **arm.environment,
        }  # fmt: skip
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.turns", arm.place, json.dumps(dict(arm.options))],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors, text=True, cwd=arm.source,
            env=environment, start_new_session=True,
        )  # fmt: skip
        self.startup_s = self._heard()  # where it tells
        self._send(signal.SIGSTOP)

    def start(self) -> None:
        """Lets it go on from where it waits, once it is continued."""
        assert self._process.stdin is not None
        self._process.stdin.write("go\n")
        self._process.stdin.flush()

    def slice(self, seconds: float) -> tuple[float, bool]:
        """(how long it ran, so many seconds or until it told something; whether it did)"""
        assert self._process.stdout is not None
        begun = time.perf_counter()
        self._send(signal.SIGCONT)
        told, _, _ = select.select([self._process.stdout], [], [], seconds)
        ran = time.perf_counter() - begun
        self._send(signal.SIGSTOP)
        if told:
            self._heard()
        return ran, bool(told)

    def turn(self) -> float:
        self.start()
        self._send(signal.SIGCONT)
        value = self._heard()
        self._send(signal.SIGSTOP)
        return float(value)

    def _heard(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self._errors.seek(0)
            raise RuntimeError(f"{self.arm.name} ({self.arm.place}) ended:\n{self._errors.read()[-3000:]}")
        return json.loads(line)

    def _send(self, what: signal.Signals) -> None:
        os.killpg(self._process.pid, what)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._send(signal.SIGKILL)
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._errors):
            if stream is not None:
                stream.close()
        self._scratch.cleanup()


def rounds(
    arms: Sequence[Arm], count: int = 9, processes: int = 3, parts: int = 2, control: bool = True
) -> list[Round]:
    """`count` values of each arm, shared out over `processes` fresh processes; a value is the mean of `parts` turns.

    The order turns with every turn, so that a drift of the machine cancels. With `control` the first arm runs twice,
    and further processes follow until what it says is certain to 2 % or PATIENCE_S have passed: a rule that looks at
    how far the control's values scatter and not at what they or the figures are.
    """
    if control:
        arms = _with_control(arms)
    begun = time.monotonic()
    found: list[Round] = []
    number = 0
    while number < processes or not (is_certain(found) or time.monotonic() - begun > PATIENCE_S):
        share = count * (number + 1) // processes - count * number // processes
        found += _some_rounds(arms if number % 2 == 0 else arms[::-1], share, parts)
        number += 1
    return found


def race(arms: Sequence[Arm], turned: bool = False) -> Round:
    """Seconds from the start of each arm's process to the one thing it has to tell, and of the first arm's again.

    They take turns of SLICE_S until all have told: what slows the machine down for a while slows all of those that
    are still at work. An arm tells how long it took to get ready, as the others were not waited for then.
    turned: whether they start from the last to the first. Who starts later finds the machine's caches warm.
    """
    values: Round = {}
    with contextlib.ExitStack() as stack:
        left = [stack.enter_context(Runner(arm)) for arm in _with_control(arms)[:: -1 if turned else 1]]
        for runner in left:
            values[runner.arm.name] = float(runner.startup_s)
            runner.start()
        while left:
            for runner in list(left):
                ran, told = runner.slice(SLICE_S)
                values[runner.arm.name] += ran
                if told:
                    left.remove(runner)
            left.reverse()
    print("  ", ", ".join(f"{name} {value:.4g}" for name, value in values.items()), file=sys.stderr, flush=True)
    return values


def _with_control(arms: Sequence[Arm]) -> list[Arm]:
    return [*arms, replace(arms[0], name=arms[0].name + CONTROL_SUFFIX)]


def is_certain(found: Sequence[Round]) -> bool:
    """Whether the control's interval has no more than 2 % to each side, or there is no control."""
    control = control_of(found)
    return control is None or control.high - control.low <= 2 * CONTROL_WITHIN


def _some_rounds(arms: Sequence[Arm], count: int, parts: int) -> list[Round]:
    runners: list[Runner] = []
    found = []
    try:
        runners += map(Runner, arms)
        for number in range(count):
            values = dict.fromkeys((arm.name for arm in arms), 0.0)
            for part in range(parts):
                for runner in runners if (number * parts + part) % 2 == 0 else runners[::-1]:
                    values[runner.arm.name] += runner.turn() / parts
            found.append(values)
            print("  ", ", ".join(f"{name} {value:.4g}" for name, value in values.items()), file=sys.stderr, flush=True)
    finally:
        for runner in runners:
            runner.__exit__()
    return found


def ratio(found: Sequence[Round], above: str, below: str) -> Interval:
    """above / below, round by round."""
    return median_interval([values[above] / values[below] for values in found])


def each(found: Sequence[Round], of: Callable[[Round], float]) -> Interval:
    """Any figure of a round."""
    return median_interval([of(values) for values in found])


def control_of(found: Sequence[Round]) -> Interval | None:
    """The first arm against itself; None where it did not run twice."""
    twice = next((name for name in found[0] if name.endswith(CONTROL_SUFFIX)), None)
    return ratio(found, twice, twice.removesuffix(CONTROL_SUFFIX)) if twice else None
