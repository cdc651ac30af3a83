"""docs/frameworks.json: what was measured of each framework, written after each run."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import date
from pathlib import Path
from typing import Any

from benchmarks.frameworks.measure import FRAMEWORKS, Framework, Plan, overheads
from benchmarks.page import commit_here, machine_here


class Journal:
    """The file's content: framework -> lines, version, runs, steps.

    Args:
        path: of the file; what it holds of other frameworks stays.
        plan: how much is measured now.
    """

    def __init__(self, path: Path, plan: Plan):
        self._path, self._plan = path, plan
        self._kept: dict[str, Any] = read(path) if path.is_file() else {}

    def begin(self, framework: Framework) -> None:
        """Forget what was measured of a framework, and note what it is now."""
        self._kept[framework.name] = {
            "title": framework.title,
            "version": framework.version(),
            "problem": framework.problem,
            "lines": framework.lines,
            "date": date.today().isoformat(),
            "commit": commit_here(),
            "machine": machine_here(),
            "plan": asdict(self._plan),
            "runs": [],
            "bare_step_s": [],
            "overhead_s": [],
        }
        self._write()

    def add_run(self, name: str, found: Mapping[str, Any]) -> None:
        """Add a whole run of a framework."""
        self._kept[name]["runs"].append(found)
        self._write()

    def add_steps(self, names: Sequence[str], found: Sequence[Mapping[str, float]]) -> None:
        """Add the rounds of steps of these frameworks, the bare loop among them."""
        for name in names:
            self._kept[name]["bare_step_s"] = [values["bare"] for values in found]
            self._kept[name]["overhead_s"] = overheads(found, name)
        self._write()

    def _write(self) -> None:
        # in the order of the page's table, whatever was measured last
        kept = {each.name: self._kept[each.name] for each in FRAMEWORKS if each.name in self._kept}
        self._path.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")


def read(path: Path) -> dict[str, Any]:
    """Return the content of a journal."""
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content
