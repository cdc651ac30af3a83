"""What other processes on the machine cost: the default model beside 0, 1 and 2 busy neighbours."""

from __future__ import annotations

import signal
import subprocess
import sys
import time

from benchmarks.alternate import CONTROL_SUFFIX, Arm, Round, Runner
from benchmarks.arms_train import BATCH, NO_VALIDATION
from benchmarks.figures import Figure, figure, over

TITLE = "Training beside busy neighbours, MobileNetV3-small, 28 px, batch 128, 2 threads on 2 cores"
PLACE = "benchmarks.arms_train:"
STEPS = 2  # a turn; a collapsed one takes seconds
SETTLE_S, WINDOW_S, BUSY_ROUNDS = 3.0, 2.5, 6  # the watcher changes its mind after 0.4 s, and back after 1 s
IDLE_ROUNDS, TURNS = 16, 16  # alone no arm changes how it waits: short turns, so that the machine's drift cancels
NEIGHBOURS = (1, 2)
SPINNING = {"GOMP_SPINCOUNT": "300000"}  # libgomp's own default; said, it turns the watcher off
NOTE = (
    "A neighbour is a Python loop. Spinning: ours with libgomp's waiting as it is. The loop by hand waits as libgomp "
    f"does. Each value: images in {WINDOW_S:g} s, after {SETTLE_S:g} s in the same company; alone in {TURNS} turns "
    f"of {STEPS} steps, alternating."
)


def measure() -> list[Figure]:
    options = {"model": "mobilenet", "slice_steps": STEPS, "warm_up": 10}
    ours = {**options, "words": list(NO_VALIDATION)}
    arms = [
        Arm("ours", PLACE + "ours", ours),
        Arm("spinning", PLACE + "ours", ours, SPINNING),
        Arm("by hand", PLACE + "hand_written", options),
        Arm("ours" + CONTROL_SUFFIX, PLACE + "ours", ours),
    ]
    runners: list[Runner] = []
    neighbours: list[subprocess.Popen[bytes]] = []
    found: dict[int, list[Round]] = {count: [] for count in (0, *NEIGHBOURS)}
    try:
        runners += map(Runner, arms)
        for _ in range(max(NEIGHBOURS)):
            neighbours.append(subprocess.Popen([sys.executable, "-c", "while True: pass"]))
            neighbours[-1].send_signal(signal.SIGSTOP)
        for runner in runners:
            _settle(runner)
        for _ in range(IDLE_ROUNDS):
            found[0].append(_by_turns(runners))
            print("   0:", found[0][-1], file=sys.stderr, flush=True)
        for number in range(BUSY_ROUNDS):
            for count in NEIGHBOURS:
                in_turn = runners if number % 2 == 0 else runners[::-1]
                found[count].append(_round(in_turn, neighbours[:count]))
                print(f"   {count}:", found[count][-1], file=sys.stderr, flush=True)
    finally:
        for runner in runners:
            runner.__exit__()
        for neighbour in neighbours:
            neighbour.kill()
            neighbour.wait()
    return [_figure(count, rounds, other) for count, rounds in found.items() for other in ("spinning", "by hand")]


def _by_turns(runners: list[Runner]) -> Round:
    """Images/s of each arm, alone on the machine."""
    seconds = {runner.arm.name: 0.0 for runner in runners}
    for number in range(TURNS):
        for runner in runners if number % 2 == 0 else runners[::-1]:
            seconds[runner.arm.name] += runner.turn()
    return {name: TURNS * STEPS * BATCH / spent for name, spent in seconds.items()}


def _round(runners: list[Runner], neighbours: list[subprocess.Popen[bytes]]) -> Round:
    """Images/s of each arm beside these neighbours."""
    for neighbour in neighbours:
        neighbour.send_signal(signal.SIGCONT)
    try:
        return {runner.arm.name: _settled_images_per_s(runner) for runner in runners}
    finally:
        for neighbour in neighbours:
            neighbour.send_signal(signal.SIGSTOP)


def _settle(runner: Runner) -> None:
    until = time.perf_counter() + SETTLE_S
    while time.perf_counter() < until:
        runner.turn()


def _settled_images_per_s(runner: Runner) -> float:
    _settle(runner)
    seconds, turns = 0.0, 0
    while seconds < WINDOW_S:
        seconds += runner.turn()
        turns += 1
    return turns * STEPS * BATCH / seconds


def _figure(count: int, found: list[Round], other: str) -> Figure:
    target = ">= 0.98" if (count, other) == (0, "spinning") else ">= 1.3" if count else ""
    what = f"ours / {other}, images/s, {count} neighbours"
    return figure(what, found, over("ours", other), target, "{:.0f} images/s".format, NOTE)
