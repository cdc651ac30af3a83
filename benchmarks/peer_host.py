"""Runs the trainings of reliability_peer.py, each in a process of its own.

    python benchmarks/peer_host.py effbench|lightning

A job is a line of JSON on stdin: {words, cwd, log, uid, die_after, count}. The process is forked from this one, which
has imported everything, so that it starts in a tenth of a second and not in five; it runs the real command line.
Answers: its process id, and when it has ended its exit code (minus the signal that ended it). It dies by the caller's
SIGKILL, or by its own at the end of step `die_after`, before that step is saved. count: it is to say each step.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TextIO

Main = Callable[[Sequence[str]], int]
AfterStep = Callable[[Callable[[int], None]], None]  # takes what is to be called with each step's number at its end


def effbench() -> tuple[Main, AfterStep]:
    from effbench import cli
    from effbench.training.callbacks import Progress

    def after_step(hook: Callable[[int], None]) -> None:
        whole = Progress.step_end

        def step_end(self: Any, context: Any) -> None:
            whole(self, context)
            hook(context.state.step)

        Progress.step_end = step_end  # type: ignore[method-assign]

    return cli.main, after_step


def lightning() -> tuple[Main, AfterStep]:
    sys.path.insert(0, str(Path(__file__).parent))
    import peer_lightning

    return peer_lightning.main, lambda hook: setattr(peer_lightning, "after_step", hook)


def hooked(job: dict[str, Any], after_step: AfterStep) -> None:
    """Only where it is asked for: a run is otherwise left as it is."""

    def hook(step: int) -> None:
        if step == job.get("die_after"):
            os.kill(os.getpid(), signal.SIGKILL)
        if job.get("count"):
            print(f"[step {step}]")

    if job.get("die_after") or job.get("count"):
        after_step(hook)


def run(job: dict[str, Any], main: Main, after_step: AfterStep) -> None:
    """In the forked process; never returns."""
    code = 70
    try:
        os.chdir(job["cwd"])
        output = os.open(job["log"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        for descriptor in (1, 2):
            os.dup2(output, descriptor)
        sys.path.insert(0, job["cwd"])  # where a user keeps own modules
        if job.get("uid"):
            os.setgroups([])
            os.setgid(job["uid"])
            os.setuid(job["uid"])
        hooked(job, after_step)
        code = main(job["words"])
        if job.get("modules"):
            Path(job["modules"]).write_text(json.dumps(list(sys.modules)))
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 1
    except BaseException:  # noqa: BLE001 - a forked process must not return into its parent's code
        traceback.print_exc()
        code = 1
    finally:
        with contextlib.suppress(BaseException):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code or 0)


def import_what(names: Sequence[str]) -> None:
    """What a first job imported late, so that the others need not."""
    for name in names:
        if name not in sys.modules:
            with contextlib.suppress(Exception):
                importlib.import_module(name)
    gc.collect()
    gc.freeze()  # the children's collections leave it alone


def serve(main: Main, after_step: AfterStep, answers: TextIO) -> None:
    for line in sys.stdin:
        job = json.loads(line)
        pid = os.fork()
        if pid == 0:
            run(job, main, after_step)
        print(pid, file=answers, flush=True)
        _, status = os.waitpid(pid, 0)
        if job.get("modules") and status == 0:
            import_what(json.loads(Path(job["modules"]).read_text()))
        print(os.waitstatus_to_exitcode(status), file=answers, flush=True)


if __name__ == "__main__":
    # A process that died must not have left its words in a buffer that its parent shares.
    with os.fdopen(os.dup(1), "w") as answers:
        os.dup2(2, 1)
        serve(*{"effbench": effbench, "lightning": lightning}[sys.argv[1]](), answers)
