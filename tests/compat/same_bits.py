"""The runs of bits.json with two trees on this machine, whose digests must be equal.

    git worktree add ../before ec3c903
    python -m tests.compat.same_bits ../before

test_same_bits.py holds the numbers of one machine only; this compares on any. Exit 1 if a digest differs.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tests.compat.test_same_bits import RECORD, digests

MAIN = "import sys; from effbench.cli import main; sys.exit(main(sys.argv[1:]))"


def trained(tree: Path, words: Sequence[str], folder: Path) -> dict[str, str]:
    """Train with the effbench of a tree, and return the digests of the run."""
    environment = {**os.environ, "PYTHONPATH": str(tree)}
    command = [sys.executable, "-c", MAIN, "train", *words, f"hydra.run.dir={folder}"]
    subprocess.run(command, cwd=tree, env=environment, check=True, capture_output=True)
    return digests(folder)


def compare(before: Path) -> int:
    """Print a line a run; return how many runs differ."""
    here, differing = Path(__file__).parents[2], 0
    for name, recorded in RECORD["runs"].items():
        with tempfile.TemporaryDirectory() as scratch:
            then, now = (
                trained(tree.resolve(), recorded["words"], Path(scratch) / side)
                for side, tree in {"before": before, "now": here}.items()
            )
        differs = [key for key in then if then[key] != now.get(key)]
        differing += bool(differs)
        said = f"differs in {', '.join(differs)}" if differs else f"{len(then)} digests equal"
        print(f"{name}: {said}", flush=True)
    return differing


if __name__ == "__main__":
    sys.exit(1 if compare(Path(sys.argv[1])) else 0)
