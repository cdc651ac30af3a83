"""effbench as a process of its own, for tests where the process is the point."""

from __future__ import annotations

import gc
import multiprocessing
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import cache
from multiprocessing.context import ForkServerContext
from pathlib import Path

from effbench import cli
from tests.patience import patience

TINY = ("model=mlp", "model.hidden=[16]", "debug=smoke", "device.threads=1")  # two steps, no second
TIMEOUT_S = 120  # far more than any takes on an idle machine


def effbench(*words: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """`effbench WORDS` to its end, in a process forked from one that has imported everything (0.5 s instead of 4)."""
    return _forked(_command, words, cwd, environment)


def script(code: str, *words: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """`python -c CODE WORDS` to its end, in a process forked as that of `effbench`."""
    return _forked(_script, (code, *words), cwd, environment)


def _forked(
    main: Callable[[tuple[str, ...]], None], words: tuple[str, ...], cwd: Path, environment: dict[str, str]
) -> subprocess.CompletedProcess[str]:
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder) / name for name in ("stdout", "stderr")]
        process = forkserver().Process(target=_child, args=(main, words, cwd, {**os.environ, **environment}, files))
        process.start()
        process.join(patience(TIMEOUT_S))
        if process.exitcode is None:
            process.kill()
            process.join()
        out, err = (path.read_text(encoding="utf-8") if path.exists() else "" for path in files)
        return subprocess.CompletedProcess([*words], process.exitcode or 0, out, err)


@cache
def forkserver() -> ForkServerContext:
    """Starts processes from one that has imported everything, and computed nothing: torch may not be forked later."""
    from effbench.jobs.processes import IMPORTS

    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([*IMPORTS, "effbench.cli.train", __name__])
    return context


def _child(
    main: Callable[[tuple[str, ...]], None],
    words: tuple[str, ...],
    cwd: Path,
    environment: dict[str, str],
    files: list[Path],
) -> None:
    gc.freeze()  # a pass would look at, and so copy, all that is inherited
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environment)
    tempfile.tempdir = None  # the parent has looked TMPDIR up
    sys.path.insert(0, str(cwd))  # as `python -m` does
    for stream, path in zip((sys.stdout, sys.stderr), files, strict=True):
        with path.open("wb") as file:
            os.dup2(file.fileno(), stream.fileno())
    main(words)


def _command(words: tuple[str, ...]) -> None:
    sys.argv = ["effbench", *words]
    sys.exit(cli.main(words))


def _script(words: tuple[str, ...]) -> None:
    sys.argv = ["-c", *words[1:]]
    exec(compile(words[0], "<script>", "exec"), {"__name__": "__main__"})


def python(
    *words: str, cwd: Path, timeout_s: float = TIMEOUT_S, **environment: str
) -> subprocess.CompletedProcess[str]:
    """`python WORDS` to its end."""
    command = [sys.executable, *words]
    env = {**os.environ, **environment}
    return subprocess.run(
        command, cwd=cwd, env=env, capture_output=True, text=True, check=False, timeout=patience(timeout_s)
    )
