"""Check on the user's config that a killed and resumed run equals an uninterrupted one bit for bit."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from effbench import build
from effbench.config.compose import compose
from effbench.config.schema import Config
from effbench.disk import followed
from effbench.errors import ConfigError, EffbenchError
from effbench.records import read_metrics
from effbench.report.verify import Check
from effbench.run.session import train
from effbench.training.callbacks import Callback, Context
from effbench.training.checkpoint_files import read_checkpoint
from effbench.units import SPEED

log = logging.getLogger(__name__)

STEPS, AT = 8, 5  # steps of the run, and the step after which it is killed: within the second epoch
LONG = 1_000_000  # steps of a run that is long enough for any schedule
TIMES = ("training_s", "elapsed_s")  # entries of the state that no two runs share
# Integer type of the same size, by bytes of an element: floats are compared by their bits, so that NaN equals itself
# and -0 differs from 0.
_INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def verify_resume(words: Sequence[str], config_dir: str | None = None) -> list[Check]:
    """Train without interruption, and again with a kill and a resume; compare the results.

    Args:
        words: overrides, and steps=N (length of the run) and at=K (the step after which it is killed).
        config_dir: folder with the user's config groups.

    Returns:
        One check for each thing that is compared.

    Raises:
        ConfigError: an override, steps or at is refused.
        EffbenchError: a session fails.
    """
    steps, at, overrides = _own_options(words)
    config = _short(compose(overrides, config_dir), steps)
    _check_schedule(config, steps)
    with tempfile.TemporaryDirectory(prefix="effbench-verify-") as scratch:
        whole, broken = Path(scratch) / "whole", Path(scratch) / "broken"
        _session("uninterrupted", lambda: train(config, whole), expected=0)
        _session(f"killed after step {at}", lambda: _killed(config, broken, at), expected=-signal.SIGKILL)
        resumed = config.model_copy(update={"resume": str(broken)})
        _session("resumed", lambda: train(resumed, broken), expected=0)
        return list(_compared(whole, broken))


def _own_options(words: Sequence[str]) -> tuple[int, int, list[str]]:
    own = {"steps": STEPS, "at": AT}
    rest = []
    for word in words:
        key, equals, value = word.partition("=")
        if key not in own or not equals:
            rest.append(word)
        elif not value.isascii() or not value.isdigit() or int(value) < 1:
            raise ConfigError(f"{key} must be a number of steps, at least 1; got {value!r}.")
        else:
            own[key] = int(value)
    if own["at"] >= own["steps"]:
        raise ConfigError(f"at must be below steps={own['steps']}: the kill comes after that step; got {own['at']}.")
    return own["steps"], own["at"], rest


def _short(config: Config, steps: int) -> Config:
    """Return the config for a few steps, in epochs of half as many, so that a validation precedes the kill."""
    trainer = {
        "max_steps": steps, "max_epochs": None, "max_time": None, "log_every_n_steps": 1,
        "limit_train_batches": max(1, steps // 2), "limit_val_batches": 2, "limit_test_batches": 1,
        "min_steps": None,  # of the real run: here it would contradict max_steps
    }  # fmt: skip
    # Its state is compared, but it ends no run before the kill.
    stopping = {"patience": steps + 1, "stopping_threshold": None}
    checkpoint = {"every_n_steps": 1, "save_last": True, "background": False}  # saved before the kill
    # No tracking service: it would record three runs that are none.
    return config.model_copy(
        update={
            "resume": None,
            "trainer": config.trainer.model_copy(update=trainer),
            "checkpoint": config.checkpoint.model_copy(update=checkpoint),
            "early_stopping": config.early_stopping.model_copy(update=stopping),
            "logger": config.logger.model_copy(update={"name": "csv"}),
        }
    )


def _check_schedule(config: Config, steps: int) -> None:
    """Refuse spans of the schedule that a run of so few steps cannot have, such as scheduler.warmup=500."""
    problem = _schedule_problem(config, steps)
    # what a long run is refused too, the first session tells
    if problem is not None and _schedule_problem(config, LONG) is None:
        raise ConfigError(
            f"verify resume trains {steps} steps, too few for this schedule: {problem.rstrip('.')}. Give more with "
            "steps=N, or write spans as shares of the run."
        )


def _schedule_problem(config: Config, steps: int) -> str | None:
    over = torch.optim.SGD([torch.zeros(1)], lr=1.0)
    try:
        build.schedule(config, over, steps, max(1, steps // 2))
    except ConfigError as error:
        return str(error)
    return None


def _session(what: str, work: Callable[[], Any], expected: int) -> None:
    """Run `work` in a forked process, so that the kill is real and the random state is not shared."""
    log.info(f"-- {what}")
    process = multiprocessing.get_context("fork").Process(target=_quietly, args=(work,))
    process.start()
    process.join()
    if process.exitcode != expected:
        raise EffbenchError(f"the session '{what}' ended with exit code {process.exitcode}; expected {expected}.")


def _quietly(work: Callable[[], Any]) -> None:
    try:
        with redirect_stdout(sys.stderr):
            work()
    except EffbenchError as error:
        log.error(error)
        sys.exit(error.exit_code)


def _killed(config: Config, folder: Path, at: int) -> None:
    """Kill the process at the end of step `at`, before its checkpoint: the resumed session must repeat the step."""

    class Kill(Callback):
        def step_end(self, context: Context) -> None:
            if context.state.step == at:
                os.kill(os.getpid(), signal.SIGKILL)

    train(config, folder, callbacks=[Kill()])


def _compared(whole: Path, broken: Path) -> Iterator[Check]:
    """Compare the last checkpoints and metrics.csv. They hold everything that the rest of a run depends on."""
    a, b = (read_checkpoint(followed(folder / "checkpoints" / "last")) for folder in (whole, broken))
    yield _check("weights", a.weights, b.weights)
    yield _check("averaged weights", a.ema, b.ema)
    for name in sorted({*a.state, *b.state}):
        parts: list[Any] = [side.state.get(name) for side in (a, b)]
        parts = [
            {key: item for key, item in part.items() if key not in TIMES} if isinstance(part, Mapping) else part
            for part in parts
        ]
        yield _check(name, *parts)
    # Samples a second are a measurement, too: no two runs share them.
    rows = [
        [{column: cell for column, cell in row.items() if not column.endswith(SPEED)} for row in read_metrics(folder)]
        for folder in (whole, broken)
    ]
    yield _check("metrics.csv", *rows)


def _check(name: str, a: Any, b: Any) -> Check:
    different = list(differences(a, b))
    if different:
        return Check(name, "", f"differs in {len(different)} places, such as {different[0]}")
    return Check(name, f"equal to the bit ({_count(a)} values)")


def differences(a: Any, b: Any, place: str = "") -> Iterator[str]:
    """Yield the places at which two nested structures of tensors and plain values differ, bit for bit.

    Args:
        a: mapping, list, tensor or plain value.
        b: likewise.
        place: path of `a` and `b` within the outermost structures.
    """
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        for key in dict.fromkeys([*a, *b]):
            yield from differences(a.get(key), b.get(key), f"{place}.{key}".lstrip("."))
    elif isinstance(a, list | tuple) and isinstance(b, list | tuple) and len(a) == len(b):
        for index, (left, right) in enumerate(zip(a, b, strict=True)):
            yield from differences(left, right, f"{place}[{index}]")
    elif isinstance(a, Tensor) and isinstance(b, Tensor):
        if a.dtype != b.dtype or a.shape != b.shape:
            yield place
        else:
            bits = [t.detach().cpu().contiguous().flatten().view(dtype=_INTEGERS[t.element_size()]) for t in (a, b)]
            if not torch.equal(*bits):
                yield place
    elif type(a) is not type(b) or (a != b and not (a != a and b != b)):
        yield place


def _count(value: Any) -> int:
    if isinstance(value, Tensor):
        return value.numel()
    if isinstance(value, Mapping):
        return sum(map(_count, value.values()))
    return sum(map(_count, value)) if isinstance(value, list | tuple) else 1
