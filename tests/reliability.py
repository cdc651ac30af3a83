"""Writes docs/reliability.md: `python -m tests.reliability` runs every test that is marked with a row of faults.

make torture        kills runs for minutes, keeps the result in docs/torture.json
make reliability    the table of faults, with that result and the comparison's beside it
"""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from tests.faults import FAULTS

ROOT = Path(__file__).parents[1]


@dataclass
class Tried:
    """Tests of one row by outcome."""

    outcomes: dict[str, str] = field(default_factory=dict)  # test -> passed | failed | skipped

    def count(self, outcome: str) -> int:
        return list(self.outcomes.values()).count(outcome)


class Collector:
    """A pytest plugin that keeps the outcome of each marked test by its rows."""

    def __init__(self) -> None:
        self.rows: dict[int, Tried] = defaultdict(Tried)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when != "call" and report.outcome == "passed":
            return
        for number in dict(report.user_properties).get("rows", ()):
            self.rows[number].outcomes[report.nodeid] = report.outcome


def main() -> int:
    collector = Collector()
    pytest.main(["-q", "-m", "row", "-p", "no:cacheprovider", *sys.argv[1:]], plugins=[collector])
    torture, peer = (_read(ROOT / "docs" / name) for name in ("torture.json", "peer.json"))
    text = page(collector.rows, torture, peer)
    (ROOT / "docs" / "reliability.md").write_text(text, encoding="utf-8")
    return int(any(tried.count("failed") for tried in collector.rows.values()))


def _read(path: Path) -> dict[str, Any]:
    return dict(json.loads(path.read_text())) if path.is_file() else {}


def page(rows: Mapping[int, Tried], torture: Mapping[str, Any], peer: Mapping[str, Any]) -> str:
    """docs/reliability.md as text."""
    done = [number for number, *_ in FAULTS if number in rows]
    tried, passed = len(done), sum(not rows[number].count("failed") for number in done)
    parts = [
        "# Reliability: what was tried, and what came of it",
        "Made by `make reliability` from the tests that try each row; `make torture` kills real processes. "
        f"{date.today():%Y-%m-%d}.",
        f"**Rows tried {tried} of {len(FAULTS)}, passed {passed}.**",
        "## Figures",
        _figures(torture),
        "## The same faults and pytorch-lightning",
        _comparison(peer),
        "## Rows",
        _table(rows),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _table(rows: Mapping[int, Tried]) -> str:
    lines = ["| # | fault | expected | tests | result |", "| --- | --- | --- | --- | --- |"]
    for number, fault, expected in FAULTS:
        tried = rows.get(number)
        if tried is None:
            lines.append(f"| {number} | {fault} | {expected} | 0 | not tried: no test yet |")
            continue
        failed = tried.count("failed")
        result = f"**{failed} failed**" if failed else "passed"
        lines.append(f"| {number} | {fault} | {expected} | {len(tried.outcomes)} | {result} |")
    return "\n".join(lines)


def _figures(torture: Mapping[str, Any]) -> str:
    if not torture:
        return "`make torture` has not been run."
    lines = ["| figure | reached |", "| --- | --- |"]
    lines += [f"| {name} | {value} |" for name, value in torture.get("figures", {}).items()]
    where = f"{torture.get('command', 'make torture')}, {torture.get('date', '')}, {torture.get('machine', '')}"
    return "\n".join([*lines, "", where])


def _comparison(peer: Mapping[str, Any]) -> str:
    if not peer:
        return "Not measured yet."
    lines = ["| row | fault | effbench | pytorch-lightning |", "| --- | --- | --- | --- |"]
    names = {number: fault for number, fault, _ in FAULTS}
    lines += [f"| {row['row']} | {names[row['row']]} | {row['effbench']} | {row['peer']} |" for row in peer["rows"]]
    return "\n".join([*lines, "", peer["where"]])


if __name__ == "__main__":
    sys.exit(main())
