"""Whether this checkout trains as fast as another revision: python -m benchmarks.throughput_against REV [--pairs 9]

The same `effbench train` command, alternating, each in a process of its own; images/s as summary.json has it. The
first arm is run against itself too, as a control: away from 1 by more than 2 %, the machine is too noisy to tell.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path

from benchmarks.alternate import alternate, ratio

ROOT = Path(__file__).parents[1]
WORDS = (
    "recipe=mobilenet_adamw", "trainer.max_epochs=2", "trainer.limit_test_batches=1", "checkpoint.every_n_steps=20",
)  # fmt: skip


def images_per_s(source: Path, words: tuple[str, ...]) -> float:
    """Of one run of `source`'s effbench."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "effbench", "train", *words, f"hydra.run.dir={folder}/run"]
        environment = {**os.environ, "PYTHONPATH": str(source)}
        subprocess.run(command, cwd=folder, env=environment, check=True, capture_output=True)
        return float(json.loads(Path(folder, "run", "summary.json").read_text())["timing"]["images_per_s"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("revision")
    parser.add_argument("--pairs", type=int, default=9)
    parser.add_argument("words", nargs="*", default=list(WORDS))
    arguments = parser.parse_intermixed_args()
    with tempfile.TemporaryDirectory() as scratch:
        other = Path(scratch) / "other"
        subprocess.run(["git", "clone", "--quiet", str(ROOT), str(other)], check=True)
        subprocess.run(["git", "checkout", "--quiet", arguments.revision], cwd=other, check=True)
        arm = partial(images_per_s, words=tuple(arguments.words))
        control = ratio(alternate(partial(arm, other), partial(arm, other), arguments.pairs))
        now = ratio(alternate(partial(arm, ROOT), partial(arm, other), arguments.pairs))
    print(f"control, {arguments.revision} / {arguments.revision}: {control}")
    print(f"this checkout / {arguments.revision}: {now}")


if __name__ == "__main__":
    main()
