"""Arms of the start-up rows: whole processes, timed from their start.

An arm spawns its command anew for each slice, once before the first to fill the page cache. The process that times
imports neither torch nor effbench.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.turns import Turns

BIN = Path(sys.executable).parent
EFFBENCH = (sys.executable, str(BIN / "effbench"))
BARE = Path(__file__).with_name("start_bare.py")
POLL_S = 0.001
PATIENCE_S = 300


def command(turns: Turns, words: Sequence[str], variables: Any = None, code: int = 0) -> None:
    """A slice: `effbench <words>` from its start to its end, or python's own where the first word is `-c`.

    code: what it must end with, so that a crash is not taken for speed.
    """
    line = [sys.executable, *words] if words[0] == "-c" else [*EFFBENCH, *words]
    environment = {**os.environ, **(variables or {})}
    _run(line, environment, code)
    turns.lap()
    while True:
        turns.lap(_run(line, environment, code))


def _run(line: Sequence[str], environment: dict[str, str], code: int) -> float:
    with tempfile.TemporaryDirectory() as folder:
        begun = time.perf_counter()
        done = subprocess.run(line, cwd=folder, env=environment, capture_output=True, check=False)
        seconds = time.perf_counter() - begun
    if done.returncode != code:
        raise RuntimeError(f"{' '.join(line)} ended with {done.returncode}:\n{done.stderr.decode()[-2000:]}")
    return seconds


def first_step(turns: Turns, words: Sequence[str]) -> None:
    """A slice: `effbench train` from its start until metrics.csv has the row of the first optimizer step."""
    extra = ["trainer.log_every_n_steps=1", "hydra.run.dir=run", *words]
    _until_written(turns, [*EFFBENCH, "train", *extra], Path("run/metrics.csv"), lines=2)


def bare_first_step(turns: Turns) -> None:
    """A slice: a script with no more than it takes, until it has written the loss of its first step to a file."""
    _until_written(turns, [sys.executable, str(BARE)], Path("loss"), lines=1)


def _until_written(turns: Turns, line: Sequence[str], file: Path, lines: int) -> None:
    _first_lines(line, file, lines)
    turns.lap()
    while True:
        turns.lap(_first_lines(line, file, lines))


def _first_lines(line: Sequence[str], file: Path, lines: int) -> float:
    """Seconds until `file` has that many lines; the process is then ended."""
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryFile() as errors:
        begun = time.perf_counter()
        process = subprocess.Popen(
            line, cwd=folder, stdout=subprocess.DEVNULL, stderr=errors, env=_undisturbed(), start_new_session=True
        )
        try:
            while _lines_in(Path(folder) / file) < lines:
                if process.poll() is not None or time.perf_counter() - begun > PATIENCE_S:
                    errors.seek(0)
                    raise RuntimeError(f"{' '.join(line)} came to no step:\n{errors.read().decode()[-2000:]}")
                time.sleep(POLL_S)
            return time.perf_counter() - begun
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _lines_in(path: Path) -> int:
    try:
        return path.read_bytes().count(b"\n")
    except FileNotFoundError:
        return 0


def _undisturbed() -> dict[str, str]:
    """Both sides choose their threads themselves."""
    return {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}


def sweep(words: Sequence[str], swept: str) -> list[tuple[float, int]]:
    """(seconds from a job's announcement to its first optimizer step, its peak of memory in bytes) of each job.

    A job is announced right before its process is forked; its first step is done when metrics.csv has its row. swept:
    what makes several jobs of it, `seed=0,1,2`.
    """
    once = ["trainer.max_steps=1", "trainer.limit_val_batches=1", "trainer.limit_test_batches=1"]
    line = [*EFFBENCH, "train", "-m", *once, "trainer.log_every_n_steps=1", "hydra.sweep.dir=sweep", swept, *words]
    with tempfile.TemporaryDirectory() as folder:
        process = subprocess.Popen(
            line, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=_undisturbed()
        )
        assert process.stderr is not None
        found: list[float] = []
        try:
            for text in process.stderr:
                if text.startswith("job "):
                    found.append(_first_step_of_job(Path(folder) / "sweep", len(found)))
            if process.wait() != 0:
                raise RuntimeError(f"{' '.join(line)} ended with {process.returncode}")
            summaries = [json.loads(path.read_text()) for path in sorted(Path(folder).glob("sweep/*/summary.json"))]
        finally:
            process.kill()
            process.wait()
    return [(seconds, run["memory"]["peak_rss_bytes"]) for seconds, run in zip(found, summaries, strict=True)]


def _first_step_of_job(sweep_folder: Path, number: int) -> float:
    begun = time.perf_counter()
    while time.perf_counter() - begun < PATIENCE_S:
        for path in sweep_folder.glob(f"{number:03d}_*/metrics.csv"):
            if _lines_in(path) >= 2:
                return time.perf_counter() - begun
        time.sleep(POLL_S)
    raise RuntimeError(f"job {number} of {sweep_folder} came to no step")


def finished_runs(folder: Path, count: int) -> None:
    """`count` folders as `train` leaves them, in the seed and the result apart: one is trained, for two steps."""
    folder.mkdir(parents=True)
    one = folder.parent / "trained"
    line = [*EFFBENCH, "train", "debug=smoke", "model=mlp", "trainer.log_every_n_steps=1", f"hydra.run.dir={one}"]
    subprocess.run(line, check=True, capture_output=True)
    summary, config = json.loads((one / "summary.json").read_text()), (one / "config.yaml").read_text()
    curve = _long_curve((one / "metrics.csv").read_text())
    for number in range(count):
        run = folder / f"{number:05d}"
        run.mkdir()
        summary["best"]["value"] = (number * 7919 % 10_007) / 10_007
        (run / "summary.json").write_text(json.dumps(summary, indent=2))
        lr = f"lr: {1e-3 + number // 5 * 1e-6:.6f}"  # five seeds a configuration
        (run / "config.yaml").write_text(
            re.sub(r"lr: .*", lr, config.replace("seed: 0", f"seed: {number % 5}", 1), count=1)
        )
        (run / "metrics.csv").write_text(curve)


def _long_curve(text: str, steps: int = 100) -> str:
    """metrics.csv as if 100 lines had been logged."""
    header, *rows = text.splitlines()
    place = header.split(",").index("step")
    first = next(row for row in rows if row.startswith("step")).split(",")
    logged = [",".join([*first[:place], str(step), *first[place + 1 :]]) for step in range(1, steps + 1)]
    return "\n".join([header, *logged, *(row for row in rows if row.startswith("epoch"))]) + "\n"


def resources(words: Sequence[str], folder: Path) -> tuple[float, int]:
    """(seconds, peak resident bytes) of `effbench <words>`, or of python's own `-c`, run in `folder`."""
    line = [sys.executable, *words] if words[0] == "-c" else [*EFFBENCH, *words]
    small = [sys.executable, "-S", "-c", _SPENT, *line]  # a process's peak begins with that of the one that started it
    done = subprocess.run(small, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(line)} ended with {done.returncode}:\n{done.stderr[-2000:]}")
    seconds, peak = json.loads(done.stdout)
    return seconds, peak * 1024


_SPENT = """
import json, os, resource, sys, time
begun = time.perf_counter()
silent = [(os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0)]
process = os.posix_spawn(sys.argv[1], sys.argv[1:], os.environ, file_actions=silent)
_, status = os.waitpid(process, 0)
seconds = time.perf_counter() - begun
print(json.dumps([seconds, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss]))
sys.exit(os.waitstatus_to_exitcode(status))
"""
