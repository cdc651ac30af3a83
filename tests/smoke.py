"""`make smoke`: every recipe and every YAML of every group, trained for two steps by the command line itself."""

from __future__ import annotations

import csv
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
# What a group member needs beside its own name, and CI has not: data that is not embedded, a GPU.
NEEDS_FILES = {"data": {"cifar10", "image_folder"}}
NEEDS_CUDA = {"device": {"cuda"}}


def members(group: str) -> list[str]:
    left_out = set().union(*(needs.get(group, set()) for needs in (NEEDS_FILES, NEEDS_CUDA)))
    names = {path.stem for path in (ROOT / "conf" / group).glob("[!_]*.yaml")}
    return sorted(names - left_out)


def sweep(words: list[str], folder: Path) -> list[dict[str, str]]:
    """Runs `effbench train -m` and returns the rows of its sweep.csv."""
    command = [sys.executable, "-m", "effbench", "train", "-m", "debug=smoke", *words, f"hydra.sweep.dir='{folder}'"]
    subprocess.run(command, check=False, stdout=subprocess.DEVNULL)
    with (folder / "sweep.csv").open(newline="") as stream:
        return list(csv.DictReader(stream))


def main() -> int:
    groups = sorted(path.name for path in (ROOT / "conf").iterdir() if path.is_dir() and path.name != "debug")
    recipes = sorted(path.stem for path in (ROOT / "recipes").glob("*.yaml"))
    sweeps = {"recipe": recipes, **{group: members(group) for group in groups}}
    failed = []
    with tempfile.TemporaryDirectory() as scratch:
        for group, names in sweeps.items():
            small = [] if group in ("recipe", "model") else ["model=cnn"]
            rows = sweep([f"{group}={','.join(names)}", *small], Path(scratch) / group)
            if len(rows) != len(names):
                failed.append({"overrides": group, "error": f"{len(names) - len(rows)} jobs are missing"})
            bad = [row for row in rows if row["status"] != "completed"]
            failed += bad
            print(f"{group}: {len(rows) - len(bad)} of {len(names)} completed", flush=True)
    for row in failed:
        print(f"FAILED {row['overrides']}: {row['error']}")
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
