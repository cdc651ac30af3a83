"""Bench a source from its files to its verdict: prepare, compare answers, measure, judge."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from effbench.bench.analysis import at_size, estimates, ratio
from effbench.bench.answers import ANSWER_BATCH, count_alone, finite, judged, reference_answers
from effbench.bench.backends import BACKENDS, has_bf16
from effbench.bench.measure import TURNS, Arm, answers_of, measure
from effbench.bench.memory import check_batch, naming_lack_of_memory
from effbench.bench.options import BenchOptions
from effbench.bench.prepare import prepare
from effbench.bench.scratch import save_array, scratch
from effbench.bench.sources import Source
from effbench.bench.verdict import CONTROL_BOUND, Candidate, trust, verdict
from effbench.bench.worker import TIMED_CALLS, WARM_UP_CALLS
from effbench.errors import EffbenchError, first_line
from effbench.report.deployment import OFFLINE, SCHEMA, SINGLE_STREAM
from effbench.report.environment import environment, version_of
from effbench.units import counted

log = logging.getLogger(__name__)

AGAIN = " again"  # ends the name of the control's second arm


def bench_source(source: Source, options: BenchOptions) -> dict[str, Any]:
    """Measure a source with each backend and return the record.

    Args:
        source: what is measured.
        options: how.

    Raises:
        EffbenchError: no backend works.
    """
    if source.files and not options.backends:
        options = replace(options, backends=_readers(source))
    with scratch() as folder, thread_count(options.threads):
        rows, arms = answering(source, options, folder)
        working = [arm for arm in arms if not arm.failed]
        if not working:
            raise EffbenchError(_none_works(rows))
        # the first one that works, which is eager where there is one
        first = working[0]
        control = Arm(first.name + AGAIN, first.backend, first.file)
        measure([*working, control], batch_files(source, options, folder), options, folder)
    for arm in working:
        rows[arm.name] |= arm.outcome()
    measured = [arm for arm in working if not arm.failed]
    if not measured:  # an earlier result stays
        raise EffbenchError(_none_works(rows))
    return _record(source, options, rows, measured, first, control)


def _none_works(rows: Mapping[str, Mapping[str, Any]]) -> str:
    reasons = "; ".join(f"{name}: {row['reason']}" for name, row in rows.items())
    return f"no backend works for this model: {reasons}"


@contextmanager
def thread_count(count: int) -> Iterator[None]:
    """Let torch export and compute the reference with so many threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def answering(source: Source, options: BenchOptions, folder: Path) -> tuple[dict[str, dict[str, Any]], list[Arm]]:
    """Return (backend -> its row, the arms) after a comparison of all answers.

    Args:
        source: what is measured.
        options: backends and threads.
        folder: for the files, which the arms read.

    Raises:
        ConfigError: a batch exceeds the memory.
    """
    chosen = [BACKENDS[name] for name in options.chosen]
    # before files are written and compiled, which takes minutes; 1: the control
    sample_bytes = source.samples[0].numel() * source.samples.element_size()
    check_batch(options.sizes[-1], sample_bytes, len(chosen) + 1)
    log.info(f"writing the files of {counted(len(chosen), 'backend')}")
    prepared = prepare(source, chosen, folder, max(ANSWER_BATCH, *options.sizes))
    for name, reason in prepared.failed.items():
        # now, and not after minutes of measurement: a library may be missing
        _say_left_out(name, reason)
    samples = save_array(folder / "samples.npy", source.samples)
    reference, reference_name = reference_answers(source), "the model in torch"
    rows: dict[str, dict[str, Any]] = {}
    arms = []
    for backend in chosen:
        row: dict[str, Any] = {"backend": backend.name, "status": "ok", "reason": None, "about": backend.about}
        rows[backend.name] = row
        if backend.name in prepared.failed:
            row |= {"status": "failed", "reason": prepared.failed[backend.name]}
            continue
        path = prepared.files[backend.name]
        arm = Arm(backend.name, backend.name, path)
        log.info(f"comparing answers: {backend.name}")
        got = answers_of(arm, samples, ANSWER_BATCH, folder, options.threads)
        if got is not None:
            outputs, alone = map(torch.from_numpy, got)
            try:
                if reference is None:  # a file without its run
                    reference, reference_name = finite(outputs).clone(), backend.name
                count_alone(reference, outputs, alone)
                row |= {
                    "bytes": path.stat().st_size,
                    **judged(source, reference, outputs),
                    "compared_with": reference_name,
                }
                row["notes"] = list(arm.notes)
            except EffbenchError as error:
                arm.failed = first_line(error)
        if arm.failed:
            lacks = backend.extra and "No module named" in arm.failed
            missing = f" (pip install 'effbench[{backend.extra}]')" if lacks else ""
            row |= {"status": "failed", "reason": arm.failed + missing}
            _say_left_out(backend.name, row["reason"])
        else:
            arms.append(arm)
    return rows, arms


def _say_left_out(name: str, reason: str) -> None:
    log.warning(f"{name} is left out: {reason}")


def _readers(source: Source) -> tuple[str, ...]:
    """Return the backends that read a file's format, also one that is otherwise measured only if it is named."""
    return tuple(name for name, each in BACKENDS.items() if not {each.file, each.also}.isdisjoint(source.files))


def batch_files(source: Source, options: BenchOptions, folder: Path) -> dict[int, Path]:
    """Return batch size -> file with the first samples, which are repeated where there are too few.

    Args:
        source: of the samples.
        options: batch sizes.
        folder: for the files.
    """
    found = {}
    for size in options.sizes:
        repeats = -(-size // len(source.samples))
        with naming_lack_of_memory(f"the inputs of a batch of {size}", "Lower batch_sizes."):
            tiled = source.samples.repeat(repeats, *[1] * (source.samples.dim() - 1))
            found[size] = save_array(folder / f"batch-{size}.npy", tiled[:size])
    return found


def _record(
    source: Source,
    options: BenchOptions,
    rows: Mapping[str, dict[str, Any]],
    arms: Sequence[Arm],
    first: Arm,
    control: Arm,
) -> dict[str, Any]:
    """Return the whole record, for bench.json."""
    for arm in arms:
        rows[arm.name]["batches"] = _by_size(arm, first, options.sizes)
    every = [process for arm in (*arms, control) for process in arm.processes]
    trusted = trust(first.processes, control.processes, every, options.sizes)
    kept = [Candidate(arm.name, arm.processes) for arm in arms if _keeps(rows[arm.name], options.max_drop)]
    reference = Candidate(first.name, first.processes) if not first.failed else None
    # a control that failed at a large batch says nothing against batch 1
    alone = trust(first.processes, control.processes, every, [1]).margin
    verdicts = {
        SINGLE_STREAM: verdict(SINGLE_STREAM, kept, reference, 1, alone) if 1 in options.sizes else None,
        OFFLINE: verdict(OFFLINE, kept, reference, None, trusted.margin),
    }
    return {
        "schema_version": SCHEMA,
        **source.facts,
        "unit": source.unit,
        "sample_shape": list(source.samples.shape[1:]),
        "split": source.split,
        "no_accuracy": source.no_accuracy or None,
        "task": source.task and source.task.display_record(),
        "options": _options(options),
        "arms": list(rows.values()),
        "reference": first.name,
        "control": {
            "backend": first.name,
            "bound": CONTROL_BOUND,
            "ratio": {str(size): asdict(found) for size, found in trusted.control.items()},
        },
        "drift": trusted.drift,
        "margin": trusted.margin,
        "doubts": list(trusted.reasons),
        "verdicts": verdicts,
        "processes": {arm.name: [_short(process) for process in arm.processes] for arm in (*arms, control)},
        "environment": surroundings(options),
    }


def surroundings(options: BenchOptions) -> dict[str, Any]:
    """Return the machine, and the versions of the libraries that the backends run on."""
    libraries = sorted({library for name in options.chosen for library in BACKENDS[name].libraries})
    return {**environment(), "bf16": has_bf16(), **{name: version_of(name) for name in libraries}}


def _options(options: BenchOptions) -> dict[str, Any]:
    return {
        "backends": list(options.chosen), "batch_sizes": list(options.sizes), "threads": options.threads,
        "rounds": options.rounds, "seconds": options.seconds, "samples": options.samples, "max_drop": options.max_drop,
        "turns": TURNS, "warm_up_calls": WARM_UP_CALLS, "timed_calls": TIMED_CALLS,
    }  # fmt: skip


def _by_size(arm: Arm, first: Arm, sizes: Sequence[int]) -> dict[str, Any]:
    """Return batch size -> estimates, with the latency over that of the first arm."""
    found = {}
    for size in sizes:
        if own := at_size(arm.processes, size):
            over = ratio(own, at_size(first.processes, size)) if arm is not first else None
            found[str(size)] = {**estimates(own, size), "latency_over_reference": asdict(over) if over else None}
    return found


def _keeps(row: Mapping[str, Any], max_drop: float) -> bool:
    """Return True unless the backend loses more points than it may; without accuracy nobody is excluded."""
    # 1e-9: a share of samples in points is rounded
    return row["status"] == "ok" and (row["lost"] is None or row["lost"]["estimate"] <= max_drop + 1e-9)


def _short(process: Mapping[str, Any]) -> dict[str, Any]:
    """Return a process's record with the statistics of its turns in the place of each call's time."""
    from effbench.bench.analysis import STATISTICS

    turns = [
        {
            "calls": len(turn["calls_s"]),
            "mean_s": STATISTICS["mean"](turn["calls_s"]),
            "p50_s": STATISTICS["p50"](turn["calls_s"]),
            **{key: turn[key] for key in ("wall_s", "processor_s", "involuntary", "others")},
        }
        for turn in process["turns"]
    ]
    return {**process, "turns": turns}
