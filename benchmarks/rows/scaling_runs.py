"""Tables over many finished runs: seconds and peak memory of the whole command, 10 to 10,000 runs."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path

from benchmarks.alternate import Interval, interval
from benchmarks.arms_start import finished_runs, resources
from benchmarks.figures import Figure

TITLE = "Many runs in one table"
COUNTS = (10, 100, 1000, 10_000)
REPEATS = 5
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


def measure() -> list[Figure]:
    figures = []
    with tempfile.TemporaryDirectory() as place:
        for count in COUNTS:
            folder = Path(place) / str(count)
            finished_runs(folder / "runs", count)
            for name, words in READERS.items():
                resources(words, folder)  # fills the page cache
                found = [resources(words, folder) for _ in range(REPEATS)]
                peak = interval([peak_bytes for _, peak_bytes in found])
                figures.append(_figure(name, count, interval([seconds for seconds, _ in found]), peak))
    return figures


def _figure(name: str, count: int, seconds: Interval, peak: Interval) -> Figure:
    target = "<= 5" if count == COUNTS[-1] else ""
    return Figure(f"{name}, {count:,} runs, seconds", seconds, target, arms={"peak": f"{peak.median / 1e6:.0f} MB"})
