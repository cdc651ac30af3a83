"""All of the proof: python -m tests.torture --kills 300 --output docs/reliability-torture.json"""

from __future__ import annotations

import os
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tests.torture import crash_loop, damage, mutants, runs, system_calls

Part = Callable[[Path], dict[str, Any]]


def in_full(kills: int, flips: int, seed: int) -> dict[str, Part]:
    return {
        "crash_loop": lambda folder: crash_loop.crash_loop(folder, kills, seed),
        "system_calls": system_calls.system_calls,
        "damage": lambda folder: damage.damage(folder, flips, seed),
        "mutants": mutants.mutants,
    }


def in_short(kills: int, flips: int, seed: int) -> dict[str, Part]:
    """What the tests run: the same checks, on fewer moments."""
    return {
        "crash_loop": lambda folder: crash_loop.crash_loop(folder, min(kills, 20), seed),
        "system_calls": lambda folder: system_calls.system_calls(folder, 19, 190, 60),
        "damage": lambda folder: damage.damage(folder, flips, seed, ("with a flipped bit",)),
        "mutants": lambda folder: mutants.mutants(folder, brief=True),
    }


def torture(parts: dict[str, Part], folder: Path) -> dict[str, Any]:
    """One result a part; of a part that breaks down, the traceback."""
    results: dict[str, Any] = {}
    for name, part in parts.items():
        place = folder / name
        place.mkdir()
        begun, worked = time.perf_counter(), _processor_s()
        try:
            results[name] = part(place)
        except Exception:  # noqa: BLE001 - hours of the other parts must not be lost
            results[name] = {"error": traceback.format_exc()}
        seconds = f"{time.perf_counter() - begun:.0f} s, {_processor_s() - worked:.0f} s of them at work"
        print(f"{name}: {seconds}", file=sys.stderr)
    return results


def _processor_s() -> float:
    """Of this process and of those it has waited for."""
    return sum(os.times()[:4])


def shares(results: dict[str, Any]) -> dict[str, tuple[int, int]]:
    """(reached, of) of each figure that must reach all."""
    calls, harm, table = results["system_calls"], results["damage"], results["mutants"]
    return {
        "system calls of a save at which a kill is survived": (calls["survived"], calls["kills"]),
        "bit flips detected": (harm["flips"]["noticed"], harm["flips"]["tried"]),
        "cut or missing files detected": (harm["cuts"]["noticed"], harm["cuts"]["tried"]),
        "runs that go on from the checkpoint before a damaged one": (
            harm["resumes"]["noticed"],
            harm["resumes"]["tried"],
        ),
        "mutants of the resume code caught": (table["caught"], table["mutants"]),
    }


def figures(results: dict[str, Any]) -> dict[str, Any]:
    """The report in a few lines."""
    loop, calls = results["crash_loop"], results["system_calls"]
    bound = loop["failure_rate_below_95"]
    return {
        "SIGKILLs at random moments": f"{loop['kills']}, {loop['kills_inside_a_save']} of them inside a save",
        "runs that were killed and resumed to their end": loop["runs"],
        "checkpoints read back after a kill": loop["checkpoints_verified"],
        "corrupt checkpoints": loop["corrupt"],
        "runs that ended otherwise than the uninterrupted one": loop["mismatched"] + loop["errors"],
        "failures a kill, 95 % upper bound": "not bounded: there were failures" if bound is None else f"{bound:.2g}",
        "most steps lost to a kill (a save comes every 3)": loop["most_steps_lost"],
        "write, fsync(file), rename, fsync(folder) out of order": len(calls["order_faults"]),
        **{name: f"{reached} of {of}" for name, (reached, of) in shares(results).items()},
    }


def is_clean(results: dict[str, Any]) -> bool:
    if any("error" in result for result in results.values()):
        return False
    blamed = [row for row in results["mutants"]["unchanged"] if row["caught"]]
    faults = [*results["crash_loop"]["faults"], *results["system_calls"]["order_faults"], *blamed]
    return all(reached == of for reached, of in shares(results).values()) and not faults


def main(argv: Sequence[str] | None = None) -> int:
    parser = runs.options("tests.torture", __doc__)
    parser.add_argument("--kills", type=int, default=300)
    parser.add_argument("--flips", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--short", action="store_true", help="as the tests do: 20 kills, some of the system calls")
    parser.add_argument("--output", type=Path, dest="json", help="the same as --json")
    chosen = parser.parse_args(argv)
    begun = time.perf_counter()
    parts = (in_short if chosen.short else in_full)(chosen.kills, chosen.flips, chosen.seed)
    with runs.workplace(chosen.folder) as folder:
        results = torture(parts, folder)
    clean = is_clean(results)
    shown = {} if any("error" in result for result in results.values()) else {"figures": figures(results)}
    seconds = round(time.perf_counter() - begun, 1)
    command = " ".join(["python -m tests.torture", *(sys.argv[1:] if argv is None else argv)])
    runs.report({"command": command, "clean": clean, **shown, "seconds": seconds, **results}, chosen.json)
    return 0 if clean else 1


if __name__ == "__main__":
    sys.exit(main())
