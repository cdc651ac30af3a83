"""Bench several models beside each other: their arms take turns, so that their latencies can be compared."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from effbench.bench.analysis import at_size, estimates
from effbench.bench.measure import Arm, measure
from effbench.bench.options import BenchOptions
from effbench.bench.run import AGAIN, answering, batch_files, surroundings, thread_count
from effbench.bench.sources import Source
from effbench.bench.verdict import trust
from effbench.errors import EffbenchError

MOST_AT_ONCE = 12  # processes that wait for their turns; torch takes several hundred MB in each
_KEPT = ("status", "reason", "bytes", "parity", "metrics", "lost", "notes")


def bench_several(sources: Mapping[str, Source], options: BenchOptions, folder: Path) -> dict[str, Any]:
    """Measure several models and return the record: arms by model, and what the measurement can tell apart.

    Args:
        sources: name -> the model.
        options: how.
        folder: an empty folder for the files.

    Raises:
        EffbenchError: no backend works for any of them.
    """
    rows, groups = dict[str, list[dict[str, Any]]](), list[list[Arm]]()
    with thread_count(options.threads):
        for number, (name, source) in enumerate(sources.items()):
            own = folder / str(number)
            own.mkdir()
            found, arms = answering(source, options, own)
            rows[name] = list(found.values())
            files = batch_files(source, options, own)
            for arm in arms:
                arm.name, arm.batches = f"{number} {arm.backend}", files
            groups.append(arms)
        every = [arm for arms in groups for arm in arms]
        if not every:
            raise EffbenchError(f"no backend works: {'; '.join(_reasons(rows))}")
        # a fast one: of eager mode, differences would be small beside the time of its layers' calls
        first = next((arm for arm in every if arm.backend == "onnxruntime"), every[0])
        # one for each part, as its arms are not measured in turns with those of the others
        controls = []
        for number, together in enumerate(_divided(groups)):
            name = f"{first.name}{AGAIN}{f' {number}' if number else ''}"
            controls.append(Arm(name, first.backend, first.file, batches=first.batches))
            measure([*together, controls[-1]], first.batches, options, folder)
    measured = {arm.name: arm for arm in every}
    for number, own_rows in enumerate(rows.values()):
        for row in own_rows:
            _add_estimates(row, measured.get(f"{number} {row['backend']}"), options.sizes)
    processes = [process for arm in (*every, *controls) for process in arm.processes]
    controlled = [trust(first.processes, each.processes, processes, options.sizes) for each in controls]
    trusted = max(controlled, key=lambda each: each.margin)
    models = {
        name: {"facts": dict(sources[name].facts), "unit": sources[name].unit, "arms": own}
        for name, own in rows.items()
    }
    return {
        "threads": options.threads, "rounds": options.rounds, "seconds": options.seconds,
        "batch_sizes": list(options.sizes), "samples": options.samples, "max_drop": options.max_drop,
        "models": models,
        "control": {"backend": first.backend, **{str(size): asdict(each) for size, each in trusted.control.items()}},
        "drift": trusted.drift, "margin": trusted.margin, "doubts": list(trusted.reasons),
        "environment": surroundings(options),
    }  # fmt: skip


def _divided(groups: Sequence[list[Arm]]) -> Iterator[list[Arm]]:
    """Yield the arms in parts of at most MOST_AT_ONCE; those of one model stay together."""
    # one place is the control's
    together: list[Arm] = []
    for arms in groups:
        if together and len(together) + len(arms) >= MOST_AT_ONCE:
            yield together
            together = []
        together = [*together, *arms]
    if together:
        yield together


def _add_estimates(row: dict[str, Any], arm: Arm | None, sizes: Sequence[int]) -> None:
    """Complete the row of a backend in place, by what was measured of its arm."""
    for key in row.keys() - {"backend", *_KEPT}:
        del row[key]
    if arm is not None:
        row |= arm.outcome()
    if arm is not None and not arm.failed:
        row["batches"] = {str(size): estimates(own, size) for size in sizes if (own := at_size(arm.processes, size))}


def _reasons(rows: Mapping[str, Sequence[Mapping[str, Any]]]) -> Iterator[str]:
    for row in itertools.chain.from_iterable(rows.values()):
        yield f"{row['backend']}: {row['reason']}"
