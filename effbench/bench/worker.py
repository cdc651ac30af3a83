"""One arm in a process of its own: python -m effbench.bench.worker, with a job as a line of JSON on stdin.

It loads the file of its backend and then answers a line of stdin with a line of JSON. Between two lines it waits, so
that arms of one round take turns. At the end of stdin it ends.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

    from effbench.bench.backends import Loaded

# A process is timed for at least so many calls, unless its time is over first; a turn lasts at least so long.
WARM_UP_CALLS, TIMED_CALLS, LEAST_TURN_S = 10, 100, 0.1

# Samples whose answers are also computed one at a time: for a batch of one, on which latency is measured, a runtime may
# have another program.
ALONE = 4
KERNELS = "TORCHINDUCTOR_CACHE_DIR"  # the folder where torch's compiler keeps what it has compiled


def main() -> None:
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a runtime prints must not end up among the replies
    job = json.loads(sys.stdin.readline())
    # the parent's, so that classes of the user's modules can be unpickled
    sys.path[:] = job["path"]
    try:
        _work(job, replies)
    except Exception as error:  # noqa: BLE001 - each runtime raises other classes; the parent makes a row of it
        _reply(replies, {"error": _reason(error)})
    replies.flush()
    sys.stderr.flush()
    os._exit(0)  # threads of a runtime must not keep the process


def _reply(replies: IO[str], content: Any) -> None:
    replies.write(json.dumps(content) + "\n")
    replies.flush()


def _reason(error: BaseException) -> str:
    from effbench.errors import first_line

    own = type(error).__name__ in ("UnavailableError", "ModuleNotFoundError")
    return first_line(error) if own else f"{type(error).__name__}: {first_line(error)}"[:300]


def _work(job: dict[str, Any], replies: IO[str]) -> None:
    import numpy as np

    from effbench.bench.backends import BACKENDS

    backend = BACKENDS[job["backend"]]
    samples = np.load(job["samples"])
    compiled = _compiled()
    begun = time.perf_counter()
    runtime = backend.runtime()
    imported = time.perf_counter()
    loaded = backend.load(runtime, Path(job["file"]), job["threads"])
    if job["answers"]:
        np.save(job["answers"], _answers(loaded, samples, job["size"]))
        np.save(job["alone"], _answers(loaded, samples[:ALONE], 1))
        _reply(replies, {"notes": list(loaded.notes)})
        return
    batch = loaded.native(samples)
    if backend.compiles_late:
        loaded.run(batch)
    ready = time.perf_counter()
    facts = {"import_s": imported - begun, "load_s": ready - imported, "notes": list(loaded.notes)}
    facts["cold"] = not compiled and _compiled()
    first = _timed(loaded.run, batch)
    warm_until = time.perf_counter() + job["turn_s"] * job["turns"]
    for _ in range(WARM_UP_CALLS - 1):
        if time.perf_counter() > warm_until:
            break
        loaded.run(batch)
    _reply(replies, {**facts, "first_s": first})
    while sys.stdin.readline().strip() == "go":
        _reply(replies, _turn(loaded.run, batch, job["turn_s"], -(-TIMED_CALLS // job["turns"])))
    from effbench.report.environment import peak_rss

    _reply(replies, {"peak_bytes": peak_rss()})


def _compiled() -> bool:
    """Return True if torch's compiler has left something for this arm: it finds that in a later round."""
    return any(Path(os.environ[KERNELS]).glob("*"))


def _answers(loaded: Loaded, samples: np.ndarray[Any, Any], size: int) -> np.ndarray[Any, Any]:
    """Return the outputs for samples, `size` in a call, float32 (N, ...)."""
    import numpy as np

    chunks = [samples[start : start + size] for start in range(0, len(samples), size)]
    return np.concatenate([loaded.array(loaded.run(loaded.native(chunk))) for chunk in chunks])


def _timed(run: Callable[[Any], Any], batch: Any) -> float:
    begun = time.perf_counter()
    run(batch)
    return time.perf_counter() - begun


def _turn(run: Callable[[Any], Any], batch: Any, longest_s: float, calls: int) -> dict[str, Any]:
    """Run until there are so many calls and LEAST_TURN_S are over, or until `longest_s` are over."""
    from effbench.disturbance import others_share, reading

    run(batch)  # not counted: other arms have used the caches since the last turn
    times: list[float] = []
    before, switches, processor = reading(), _switches(), time.process_time()
    begun = time.perf_counter()
    while True:
        times.append(_timed(run, batch))
        passed = time.perf_counter() - begun
        if passed >= longest_s or (len(times) >= calls and passed >= LEAST_TURN_S):
            break
    processor_s, after = time.process_time() - processor, reading()
    return {
        "calls_s": times,
        "wall_s": passed,
        "processor_s": processor_s,
        "involuntary": _switches() - switches,
        "others": others_share(before, after) if before and after else None,
    }


def _switches() -> int:
    """Return the involuntary context switches of this process: how often it was made to wait for another one."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw


if __name__ == "__main__":
    main()
