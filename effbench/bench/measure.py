"""Measures the arms: in each round and for each batch size a process an arm, which take turns."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zlib import crc32

from effbench.bench.options import BenchOptions
from effbench.bench.processes import ArmError, ArmProcess
from effbench.disturbance import calibration_s
from effbench.units import counted, human_span

if TYPE_CHECKING:
    import numpy as np

log = logging.getLogger(__name__)

# Turns of a process. The speed of a shared machine drifts by tens of percent within seconds: arms that are measured one
# after the other differ by 40 % without a reason, arms that take turns of a fraction of a second by 7 %.
TURNS = 5


@dataclass
class Arm:
    """A backend that is measured.

    Attributes:
        name: of the arm: its backend's, with ' again' for the control.
        backend: of BACKENDS.
        file: that it reads.
        failed: why nothing of it is measured; '' while something is.
        failures: batch size -> why it is not measured with it any further.
        notes: of its runtime.
        processes: what was measured, one entry a process.
        batches: batch size -> a .npy file with the batch, where the arms do not share theirs.
    """

    name: str
    backend: str
    file: Path
    failed: str = ""
    failures: dict[int, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    processes: list[dict[str, Any]] = field(default_factory=list)
    batches: Mapping[int, Path] = field(default_factory=dict)

    def outcome(self) -> dict[str, Any]:
        """Return status and reason for the arm's row; the reason of one that works names the batch sizes without it."""
        if self.failed:
            return {"status": "failed", "reason": self.failed}
        reasons = "; ".join(f"failed at batch {size}: {why}" for size, why in self.failures.items())
        return {"status": "ok", "reason": reasons or None}


def answers_of(
    arm: Arm, samples: Path, size: int, folder: Path, threads: int
) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]] | None:
    """Return the outputs of an arm for samples, float32 (N, ...), and for the first ones each in a call of its own.

    None and a reason in `arm` where it fails.

    Args:
        arm: the arm.
        samples: a .npy file.
        size: samples of a call.
        folder: for temporary files.
        threads: of the runtime.
    """
    import numpy as np

    files = {name: folder / f"{name}-{arm.name}.npy" for name in ("answers", "alone")}
    job = _job(arm, samples, threads, 1.0) | {"size": size} | {name: str(file) for name, file in files.items()}
    try:
        process = ArmProcess(job, folder, threads)
        try:
            arm.notes = tuple(process.ask()["notes"])
        finally:
            process.close()
    except ArmError as error:
        arm.failed = str(error)
        return None
    outputs, alone = (np.load(file) for file in files.values())
    for file in files.values():
        file.unlink()  # of a next-token model hundreds of MB, for each backend
    return outputs, alone


def measure(arms: list[Arm], batches: Mapping[int, Path], options: BenchOptions, folder: Path) -> None:
    """Measure all arms that have not failed, in place. One that fails at a batch size keeps what is of the others.

    Args:
        arms: the arms.
        batches: batch size -> a .npy file with the batch, for arms without one of their own.
        options: of the measurement.
        folder: for temporary files.
    """
    begun, blocks = time.monotonic(), 0
    for number in range(options.rounds):
        for size in batches:
            living = [arm for arm in arms if not arm.failed and size not in arm.failures]
            log.info(f"round {number + 1} of {options.rounds}, batch {size}: {counted(len(living), 'arm')}")
            # every second round backwards: an arm does not always follow the same one
            _block(living if number % 2 == 0 else living[::-1], size, batches[size], number, options, folder)
            blocks += 1
        if number == 0:
            left = (time.monotonic() - begun) / blocks * len(batches) * (options.rounds - 1)
            log.info(f"about {human_span(left)} left")
    for arm in arms:
        if not arm.failed and arm.failures.keys() >= batches.keys():
            arm.failed = "; ".join(dict.fromkeys(arm.failures.values()))


def _block(arms: list[Arm], size: int, batch: Path, number: int, options: BenchOptions, folder: Path) -> None:
    """Measure each arm once with a batch size, in turns.

    Args:
        arms: in the order of the turns.
        size: samples of a batch.
        batch: a .npy file.
        number: of the round.
        options: of the measurement.
        folder: for temporary files.
    """
    with ExitStack() as stack:
        running: list[tuple[Arm, ArmProcess, dict[str, Any]]] = []
        for arm in arms:
            # one loads after the other, so that the times to load are of a machine without the others' work
            job = _job(arm, arm.batches.get(size, batch), options.threads, options.seconds / TURNS, f"batch-{size}")
            if (started := _tried(arm, size, partial(_started, job, folder, options.threads, stack))) is not None:
                process, facts = started
                running.append((arm, process, {"round": number, "batch_size": size, **facts, "turns": []}))
        before = calibration_s()
        for turn in range(TURNS):
            for arm, process, record in running if turn % 2 == 0 else running[::-1]:
                if size not in arm.failures and (got := _tried(arm, size, partial(process.ask, "go"))) is not None:
                    record["turns"].append(got)
        drift = calibration_s() / before
        for arm, process, record in running:
            if size not in arm.failures and (last := _tried(arm, size, partial(process.ask, "end"))) is not None:
                arm.processes.append({**record, **last, "drift": drift})


def _tried(arm: Arm, size: int, step: Callable[[], Any]) -> Any:
    """Return what the step returns; None and a reason in `arm` if the arm fails in it.

    Args:
        arm: the arm.
        size: samples of a batch; what earlier rounds have measured with it is dropped after a failure.
        step: of its process.
    """
    try:
        return step()
    except ArmError as error:
        arm.failures[size] = str(error)
        arm.processes = [process for process in arm.processes if process["batch_size"] != size]
        return None


def _started(job: Mapping[str, Any], folder: Path, threads: int, stack: ExitStack) -> tuple[ArmProcess, dict[str, Any]]:
    """Return a process that is ready for its turns, and what it took to load.

    Args:
        job: of the process.
        folder: for its log.
        threads: of its runtime.
        stack: ends the process.
    """
    process = ArmProcess(job, folder, threads)
    stack.callback(process.close)
    return process, process.ask()


def _job(arm: Arm, samples: Path, threads: int, turn_s: float, kernels: str = "answers") -> dict[str, Any]:
    """Return what effbench.bench.worker reads.

    Args:
        arm: the arm.
        samples: a .npy file.
        threads: of the runtime.
        turn_s: longest seconds of a turn.
        kernels: what is compiled; processes of other purposes do not find it, so that the first round is without.
    """
    # the control has the same file, and finds what the first arm has compiled
    own = f"{kernels}-{arm.backend}-{crc32(bytes(arm.file)):08x}"
    return {
        "backend": arm.backend,
        "file": str(arm.file),
        "samples": str(samples),
        "threads": threads,
        "turn_s": turn_s,
        "turns": TURNS,
        "answers": "",
        "kernels": own,
    }
