"""Rows 1, 3, 4, 7, 13, 23 and 40 of the table of faults, done to effbench and to pytorch-lightning: docs/peer.json.

    python benchmarks/reliability_peer.py --peer-python PYTHON

PYTHON sees effbench's own packages and the extra `benchmarks`: pytorch-lightning, torchdata, jsonargparse[signatures].
Both train the same CNN on the same images for 60 steps with the same optimizer, schedule, clipping and augmentation, a
checkpoint every 3 steps, one thread. Lightning is used as peer_lightning.py says. Where resuming is the point it is
measured three times: with torch's DataLoader, with torchdata's StatefulDataLoader, and with that and code by hand for
torch's random state.
"""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any

import peer_cases as cases
from peer_sides import Effbench, Host, Lightning, Side

from effbench.report.environment import environment

RESULT = Path(__file__).parent.parent / "docs" / "peer.json"
RESUME_STEPS = (1, 2, 5, 8, 11, 15, 16, 17, 24, 31, 32, 33, 40, 47, 48, 49, 57)  # an epoch has 16
LOADERS = {"plain": "DataLoader", "stateful": "StatefulDataLoader", "rng": "StatefulDataLoader + random state by hand"}
PACKAGES = ("pytorch-lightning", "lightning-utilities", "torchmetrics", "torchdata", "jsonargparse")


class KillPlan:
    """How much of each case. ways: what is measured where resuming is the point, by its name."""

    def __init__(self, chosen: argparse.Namespace, work: Path):
        self._chosen, self._work = chosen, work

    def measure(self, side: Side) -> dict[str, Any]:
        """{row: counts} of one side."""
        ways = LOADERS if isinstance(side, Lightning) else {"": ""}
        found: dict[str, Any] = {"1": {}, "13": {}}
        work = self._work / side.name
        for loader, name in ways.items():
            side = type(side)(side.name, side.host, side.spare)
            side.loader = loader  # type: ignore[attr-defined]
            found["1"][name], found["13"][name] = self._resumes(side, work / (loader or "own"))
        side.loader = "plain"  # type: ignore[attr-defined]
        found["3"] = cases.flips(side, work, self._chosen.flips, self._chosen.seed)
        found["4"] = cases.cuts(side, work, self._chosen.cuts)
        found["7"] = cases.read_only(side, work / "read-only")
        found["23"] = cases.second_run(side, work / "second")
        cases.honest_config(side, work)
        found["40"] = {
            "configs": cases.hostile_configs(side, work),
            "checkpoints": cases.hostile_checkpoints(side, work / "pickles"),
        }
        return found

    def _resumes(self, side: Side, work: Path) -> tuple[dict[str, Any], dict[str, Any]]:
        undisturbed = cases.reference(side, work)
        control = {"control_equal": undisturbed.equal}
        kills = cases.kills(side, work, self._chosen.kills, self._chosen.seed, undisturbed)
        return kills | control, cases.mid_epoch(side, work, RESUME_STEPS, undisturbed) | control


# --- counts into texts


def each(texts: dict[str, str]) -> str:
    return "; ".join(f"{name}: {text}" if name else text for name, text in texts.items())


def control(found: dict[str, Any]) -> str:
    return "" if found["control_equal"] else " (uninterrupted runs differ too)"


def kills_text(found: dict[str, Any]) -> str:
    equal = f"{found['runs_equal']} of {found['runs_killed']} runs killed end equal to the bit"
    apart = f" (largest difference {found['largest']:.2g})" if found["largest"] else ""
    failed = f", {found['failed']} could not be resumed" if found["failed"] else ""
    corrupt = f"corrupt checkpoints: {found['corrupt']}"
    if found["corrupt"]:
        corrupt += f" of {found['checkpoints_read']} read ({found['newest_corrupt']} times the newest)"
    return f"{found['kills']} kills: {equal}{apart}, {corrupt}{failed}{control(found)}"


def mid_epoch_text(found: dict[str, Any]) -> str:
    apart = f" (largest difference {found['largest']:.2g})" if found["largest"] else ""
    failed = f", {found['failed']} fail" if found["failed"] else ""
    return f"{found['equal']} of {found['tried']} batches: equal to the bit{apart}{failed}{control(found)}"


def damage_text(found: dict[str, Any], what: str) -> str:
    """What is zero is left out, but for the two that matter: noticed and named, and gone on from another checkpoint."""
    parts = [f"{found['named']} of {found['tried']} {what} named, {found['finished_named']} fall back"]
    if found["finished_named"]:
        parts.append(f"{found['finished_equal']} of these end equal to the bit")
    if found["silent"]:
        harm = f"{found['silent'] - found['silent_equal']} of these with other final weights or optimizer state"
        parts.append(f"{found['silent']} load silently, {harm}")
    if found["stopped_named"]:
        parts.append(f"{found['stopped_named']} stop with the file named")
    if found["stopped_unnamed"]:
        kinds = ", ".join(f"{kind} {count}" for kind, count in found["errors"].items())
        where = (
            f"; {found['named_elsewhere']} after a line that says which file is read"
            if found["named_elsewhere"]
            else ""
        )
        parts.append(f"{found['stopped_unnamed']} stop with an error that does not name the file ({kinds}{where})")
    return "; ".join(parts)


def read_only_text(found: dict[str, Any]) -> str:
    return "; ".join(f"{what} read-only: {_read_only(one)}" for what, one in found.items())


def _read_only(found: dict[str, Any]) -> str:
    if found["code"] == 0:
        return f"not refused: trains {found['steps']} steps to the end, exit 0, {found['saved']} checkpoints saved"
    how = "a traceback" if found["traceback"] else "a message"
    end = f"exit {found['code']} with {how} ({found['error']})"
    return (
        f"refused before the first step, {end}" if found["steps"] == 0 else f"fails after {found['steps']} steps, {end}"
    )


def second_text(found: dict[str, Any]) -> str:
    texts = list(dict.fromkeys(_second(one) for one in found["commands"]))
    first = "the first goes on" if found["first_goes_on"] else "the first ends"
    return f"{'; '.join(texts)}; {first}; killed at last it leaves {found['corrupt']} corrupt checkpoints"


def _second(found: dict[str, Any]) -> str:
    if not found["refused"]:
        beside = f"in the same folder beside the first within {cases.BESIDE_S:.0f} s"
        end = f", then fails, exit {found['code']} ({found['error']})" if found["error"] else ""
        return f"not refused: trained {found['epochs']} epochs {beside}{end}"
    pid, host = ("named" if found[key] else "not named" for key in ("pid_named", "host_named"))
    return f"refused, exit {found['code']}, pid {pid}, host {host}"


def hostile_text(found: dict[str, Any]) -> str:
    configs, files = found["configs"], found["checkpoints"]
    ran = f" ({', '.join(configs['where'])})" if configs["where"] else ""
    imported = f", the module of {configs['imported']} more imported" if configs["imported"] else ""
    called = f"{configs['executed']} of {configs['tried']} hostile targets called{ran}{imported}"
    refused = f"{configs['refused']} refused, {configs['named']} of them by name"
    pickles = f"{files['executed']} of {files['tried']} pickles in checkpoints executed, {files['refused']} refused"
    return f"{called}, {refused}; {pickles}"


def texts(found: dict[str, Any]) -> dict[int, str]:
    return {
        1: each({name: kills_text(one) for name, one in found["1"].items()}),
        3: damage_text(found["3"], "flipped bits"),
        4: damage_text(found["4"], "cut files"),
        7: read_only_text(found["7"]),
        13: each({name: mid_epoch_text(one) for name, one in found["13"].items()}),
        23: second_text(found["23"]),
        40: hostile_text(found["40"]),
    }


# --- the whole


def versions(python: Path) -> dict[str, str]:
    code = f"import importlib.metadata as m, json; print(json.dumps({{n: m.version(n) for n in {PACKAGES!r}}}))"
    return dict(json.loads(subprocess.run([python, "-c", code], check=True, capture_output=True, text=True).stdout))


def where(chosen: argparse.Namespace, seconds: float) -> str:
    machine = environment()
    peers = ", ".join(f"{name} {version}" for name, version in versions(chosen.peer_python).items())
    return (
        f"python benchmarks/reliability_peer.py {shlex.join(chosen.words)}: n = {chosen.kills} kills, "
        f"{chosen.flips} flips, {chosen.cuts} cuts a file, {len(RESUME_STEPS)} batches; {seconds:.0f} s on "
        f"{date.today()}; {machine['cpu']}, 1 thread; Python {machine['python']}, torch {machine['torch']}, "
        f"effbench {machine['effbench']}, {peers}"
    )


def measured(chosen: argparse.Namespace, work: Path) -> dict[str, Any]:
    (work / "tmp").mkdir()
    (work / "tmp").chmod(0o1777)
    work.chmod(0o755)  # row 7's user must get to its folder
    cases.pickles_do_run(work)
    found = {}
    for name, kind, python in (("effbench", Effbench, Path(sys.executable)), ("peer", Lightning, chosen.peer_python)):
        hosts = [Host(python, kind.host_name, work / "tmp") for _ in range(2)]
        found[name] = KillPlan(chosen, work).measure(kind(name, *hosts))
        for host in hosts:
            host.close()
    return found


def options(words: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer-python", type=Path, default=Path(sys.executable), help="sees pytorch-lightning")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--flips", type=int, default=50)
    parser.add_argument("--cuts", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, default=RESULT)
    return parser.parse_args(words, argparse.Namespace(words=list(words)))


def main(words: Sequence[str]) -> int:
    chosen, begun = options(words), time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="effbench-peer-") as place:
        found = measured(chosen, Path(place))
    ours, theirs = texts(found["effbench"]), texts(found["peer"])
    rows = [{"row": row, "effbench": ours[row], "peer": theirs[row]} for row in ours]
    result = {"rows": rows, "where": where(chosen, time.perf_counter() - begun), "counts": found}
    chosen.json.write_text(json.dumps(result, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    print(json.dumps({"rows": rows, "where": result["where"]}, indent=2, ensure_ascii=False))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
