"""python -m benchmarks [ROW …]: measures the rows (all, without any), into docs/performance.json and .md."""

from __future__ import annotations

import argparse
import importlib
import pkgutil
import sys
import time
from types import ModuleType

import benchmarks.rows
from benchmarks.page import commit_here, record, write_page


def modules() -> dict[str, ModuleType]:
    """Row number, or name such as `scaling_steps` -> its module, in order."""
    names = sorted(module.name for module in pkgutil.iter_modules(benchmarks.rows.__path__))
    found = {name: importlib.import_module(f"benchmarks.rows.{name}") for name in names}
    return {str(int(name[1:3])) if name[0] == "r" and name[1:3].isdigit() else name: m for name, m in found.items()}


def main() -> None:
    known = modules()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("rows", nargs="*", metavar="ROW", help=f"one of {', '.join(known)}")
    arguments = parser.parse_args()
    unknown = [row for row in arguments.rows if row not in known]
    if unknown:
        parser.error(f"there is no row {', '.join(unknown)}; there are {', '.join(known)}")
    for row in arguments.rows or known:
        begun, commit = time.perf_counter(), commit_here()
        print(f"row {row}: {known[row].TITLE}", file=sys.stderr, flush=True)
        found = known[row].measure()
        record(row, known[row].TITLE, found, time.perf_counter() - begun, commit)
        for value in found:
            print(f"{row}: {value}", flush=True)
    write_page()


if __name__ == "__main__":
    main()
