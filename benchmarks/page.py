"""docs/performance.json keeps what was measured, row by row; docs/performance.md is written from it."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any

from benchmarks.alternate import ROOT
from benchmarks.figures import Figure
from benchmarks.scaling import Point, draw, tables
from effbench.report.environment import environment, git_state

DATA = ROOT / "docs" / "performance.json"
PAGE = ROOT / "docs" / "performance.md"
TEXT = Path(__file__).with_name("performance_head.md")


def record(row: str, title: str, found: Sequence[Figure | Point], seconds: float, commit: str) -> None:
    """Keeps the row's figures and points, in place of what was measured of it before."""
    kept = json.loads(DATA.read_text(encoding="utf-8")) if DATA.is_file() else {}
    kept[row] = {
        "title": title,
        "date": date.today().isoformat(),
        "minutes": round(seconds / 60, 1),
        "commit": commit,
        "machine": machine_here(),
        "figures": [figure.as_json() for figure in found if isinstance(figure, Figure)],
        "points": [point.as_json() for point in found if isinstance(point, Point)],
    }
    order = sorted(kept, key=lambda name: (not name.isdigit(), int(name) if name.isdigit() else 0, name))
    DATA.write_text(json.dumps({name: kept[name] for name in order}, indent=1) + "\n", encoding="utf-8")


def commit_here() -> str:
    """What was measured: the checkout's commit, with a + where code differs from it; empty outside of a checkout."""
    state = git_state(ROOT)
    if state is None:
        return ""
    command = ["git", "status", "--porcelain", "effbench", "benchmarks"]  # not the page itself
    changed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False).stdout
    return state["commit"][:7] + "+" * bool(changed)


def machine_here() -> dict[str, Any]:
    found = environment()
    names = ("cpu", "cpu_capability", "cores", "torch", "torchvision", "python")
    return {name: found[name] for name in names if name in found}


def write_page() -> None:
    kept = json.loads(DATA.read_text(encoding="utf-8"))
    machines = sorted({_machine_line(entry["machine"]) for entry in kept.values()})
    parts = [TEXT.read_text(encoding="utf-8").rstrip(), "Machines: " + "; ".join(machines) + "."]
    parts.append(_summary(kept))
    parts += [_section(row, entry) for row, entry in kept.items()]
    PAGE.write_text("\n\n".join(parts) + "\n", encoding="utf-8")


def _summary(kept: Mapping[str, Any]) -> str:
    """How the figures with a target stand, each kind with its rows."""
    rows: dict[str, dict[str, int]] = {}
    for row, entry in kept.items():
        for figure in entry["figures"]:
            if figure["target"]:
                of_kind = rows.setdefault(_verdict(figure).replace("*", ""), {})
                of_kind[row] = of_kind.get(row, 0) + 1
    lines = [
        f"- {kind}: {sum(counts.values())} (row {', '.join(f'{row}: {count}' for row, count in counts.items())})"
        for kind, counts in sorted(rows.items())
    ]
    return "\n".join(["Figures that have a target, and in which rows they are:", "", *lines])


def _machine_line(machine: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in machine.items() if name != "cpu_capability")


def _section(row: str, entry: Mapping[str, Any]) -> str:
    figures = entry["figures"]
    own = _have_arms_of_their_own(figures)
    parts = [f"## {row} · {entry['title']}", _measured(entry)]
    if figures:
        columns = ["figure", "median [95 %]", "n", "target", "", "control", *(["medians"] if own else [])]
        head = [_row(columns), _row(["---"] * len(columns))]
        parts.append("\n".join([*head, *(_row([*_cells(each), *([_arms(each)] if own else [])]) for each in figures)]))
    if entry.get("points"):
        draw(entry["title"], entry["points"], DATA.with_name(f"{row}.svg"))
        parts += [*tables(entry["points"]), f"![{entry['title']}]({row}.svg)"]
    if not own:
        parts += _medians(figures)
    return "\n\n".join([*parts, *dict.fromkeys(each["note"] for each in figures if each["note"])])


def _measured(entry: Mapping[str, Any]) -> str:
    commit = f" at {entry['commit']}" if entry.get("commit") else ""
    capability = entry["machine"].get("cpu_capability")  # machines of one name have other vector units
    cores, cpu = entry["machine"]["cores"], entry["machine"]["cpu"]
    where = f", {cores} core{'s' * (cores > 1)} of {cpu}" + (f" with {capability}" if capability else "")
    return f"Measured {entry['date']}{commit}, {entry['minutes']} minutes{where}."


def _have_arms_of_their_own(figures: Sequence[Mapping[str, Any]]) -> bool:
    """Whether most were measured by themselves: then a column says by what."""
    texts = [_arms(figure) for figure in figures if figure["arms"]]
    return len(set(texts)) > max(1, len(texts) // 2)


def _medians(figures: Sequence[Mapping[str, Any]]) -> list[str]:
    """A line for each measurement that several figures share, told by the first of them."""
    firsts = {_arms(figure): figure["what"] for figure in reversed(figures) if figure["arms"]}
    return [
        f"Medians{f' beside “{what}”' if len(firsts) > 1 else ''}: {arms}."
        for arms, what in reversed(firsts.items())
    ]  # fmt: skip


def _arms(figure: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {text}" for name, text in figure["arms"].items())


def _cells(figure: Mapping[str, Any]) -> list[str]:
    value, control = figure["value"], figure["control"]
    return [
        figure["what"],
        f"{value['median']:.4g} [{value['low']:.4g}, {value['high']:.4g}]"
        if value["n"] > 1
        else f"{value['median']:.4g}",
        str(value["n"]),
        figure["target"],
        _verdict(figure),
        f"{control['median']:.3f}" if control else "",
    ]


def _verdict(figure: Mapping[str, Any]) -> str:
    """Of a void figure also what its interval would say."""
    if figure["void"] and figure["target"]:
        return "void; by its interval reached" if figure["passed"] else "void; by its interval **not reached**"
    if figure["void"]:
        return "void"
    return {True: "reached", False: "**not reached**", None: ""}[figure["passed"]]


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"
