"""Whether this checkout trains as fast as another revision: python -m benchmarks.throughput_against REV [WORD …]

The same `effbench train`, validation and checkpoints included, a process each, taking turns every few seconds; and a
tiny MLP without either, where the loop's own microseconds show. A ratio under 1: this checkout is faster. The control
is this checkout against itself.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import tempfile
from pathlib import Path

from benchmarks.alternate import ROOT, Arm, control_of, each, ratio, rounds

PLACE = "benchmarks.arms_train:ours"
SLICES = {"mobilenet": (7, 6), "mlp": (100, 4)}  # steps a turn, turns a round: an epoch of 42, and 400


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("revision")
    parser.add_argument("words", nargs="*")
    parser.add_argument("--rounds", type=int, default=27)
    parser.add_argument("--kernels", choices=["on", "off"], default="on", help="off: without the compiled functions")
    arguments = parser.parse_intermixed_args()
    with tempfile.TemporaryDirectory() as scratch:
        other = Path(scratch) / "other"
        subprocess.run(["git", "clone", "--quiet", str(ROOT), str(other)], check=True)
        subprocess.run(["git", "checkout", "--quiet", arguments.revision], cwd=other, check=True)
        shutil.copytree(ROOT / "benchmarks", other / "benchmarks", dirs_exist_ok=True)
        for model, (turn, turns) in SLICES.items():
            words = [*arguments.words, *(["trainer.check_val_every_n_epoch=1000000"] if model == "mlp" else [])]
            options, switch = (
                {"model": model, "slice_steps": turn, "words": words},
                {"EFFBENCH_KERNELS": arguments.kernels},
            )
            arms = [Arm("now", PLACE, options, switch), Arm("before", PLACE, options, switch, other)]
            found = rounds(arms, arguments.rounds, 2, parts=turns)
            more = each(found, lambda values, steps=turn: (values["now"] - values["before"]) / steps * 1e6)
            print(f"{model}: now / before {ratio(found, 'now', 'before')}; control {control_of(found)}")
            print(f"{model}: now - before, us a step: {more}", flush=True)


if __name__ == "__main__":
    main()
