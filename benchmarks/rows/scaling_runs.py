"""Tables over many finished runs: seconds and peak memory of the whole command, 10 to 10,000 runs."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path

from benchmarks.arms_start import finished_runs, resources
from benchmarks.figures import Figure
from benchmarks.scaling import Point, resource_points

TITLE = "Many runs in one table"
COUNTS = (10, 100, 1000, 10_000)
REPEATS = 5
ACROSS = "finished runs"
SWEEP = """
import sys
from pathlib import Path
from effbench.report.sweep import Job, print_sweep, sweep_rows, write_sweep
folder = Path(sys.argv[1])
rows = sweep_rows([Job(number, [path.name], path) for number, path in enumerate(sorted(folder.iterdir()))])
write_sweep(folder.parent, rows)
print_sweep(rows)
"""
READERS: Mapping[str, tuple[str, ...]] = {
    "effbench report": ("report", "runs", "output=report.html"),
    "a sweep's table": ("-c", SWEEP, "runs"),
}


def measure() -> list[Figure | Point]:
    found: list[Figure | Point] = []
    with tempfile.TemporaryDirectory() as place:
        for count in COUNTS:
            folder = Path(place) / str(count)
            finished_runs(folder / "runs", count)
            for name, words in READERS.items():
                resources(words, folder)  # fills the page cache
                both = resource_points(ACROSS, name, count, [resources(words, folder) for _ in range(REPEATS)])
                found += both
                if count == COUNTS[-1]:
                    found.append(Figure(f"{name}, {count:,} runs, seconds", both[0].value, "<= 5"))
    return found
