"""Measures the loops and writes docs/frameworks.json, .md and .svg: about 12 minutes on an idle machine, one thread.

python -m benchmarks.frameworks                      # all
python -m benchmarks.frameworks --only keras         # that one and the bare loop, into the same file
python -m benchmarks.frameworks --page               # the page from the JSON file, nothing measured
python -m benchmarks.frameworks --quick --json /tmp/frameworks.json   # whether all work: a seed, an epoch, a round
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from benchmarks.alternate import ROOT
from benchmarks.frameworks.journal import Journal
from benchmarks.frameworks.measure import BARE, FRAMEWORKS, Plan, all_runs, all_steps
from benchmarks.frameworks.page import write_page

QUICK = Plan(seeds=1, epochs=1, rounds=1, processes=1, parts=1)


def main() -> None:
    names = [framework.name for framework in FRAMEWORKS]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=names, action="append", help="may be given several times")
    parser.add_argument("--json", type=Path, default=ROOT / "docs" / "frameworks.json", help="where results are kept")
    parser.add_argument("--quick", action="store_true", help="too little for figures: only whether all loops work")
    parser.add_argument("--page", action="store_true", help="write the page from the JSON file only")
    arguments = parser.parse_args()
    if not arguments.page:
        measure(arguments.only or names, QUICK if arguments.quick else Plan(), arguments.json)
    write_page(arguments.json)


def measure(names: list[str], plan: Plan, path: Path) -> None:
    """Measure the frameworks named that are installed, each beside the bare loop, into the journal at `path`."""
    from benchmarks.frameworks.task import prepare

    wanted = [each for each in FRAMEWORKS if each.name in (*names, BARE)]
    journal = Journal(path, plan)
    for each in wanted:
        if each.problem:
            print(f"   {each.name}: left out, {each.problem}", file=sys.stderr)
        journal.begin(each)
    chosen = [each for each in wanted if not each.problem]
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "data.npz"
        prepare(data)
        all_runs(chosen, plan, data, journal.add_run)
        journal.add_steps([each.name for each in chosen], all_steps(chosen, plan, data))


if __name__ == "__main__":
    main()
