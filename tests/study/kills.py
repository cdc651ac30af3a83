"""A study that is killed at random and started again by the same command: `python -m tests.study.kills --kills 30`.

It ends with exactly its budget, the same settings, the same results and the same verdicts as one that was left alone.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from effbench.study.table import Confirmation, StudyTable, Trial, table_from_json
from tests.commandline import effbench
from tests.torture.runs import report

WORDS = [
    "study", "study=smoke", "study.models=[mlp]", "study.optimizers=[sgd,adamw]", "study.trials=3", "study.seeds=6",
    "study.epochs=2", "study.timing_rounds=0", "study.workers=2", "study.folder=out", "model.hidden=[16]",
    "trainer.limit_train_batches=6", "trainer.log_every_n_steps=2",
]  # fmt: skip
FOLDER = "out"
STARTING = 0.2  # share of the kills that come before the worker has begun a run
LONGEST_START_S = 10.0  # from the start of the process to its kill: imports, first steps of each arm, study.json
LONGEST_S = 3.0  # from the worker's start of work to its kill: about the length of one run


def table_in(folder: Path) -> StudyTable:
    return table_from_json((folder / "table.json").read_text())


def same(table: StudyTable) -> list[Any]:
    """What must not depend on interruptions: settings, seeds and results."""
    trials = [(each.arm, each.number, each.settings, each.value, each.status) for each in table.trials]
    runs = [
        (each.arm, each.seed, each.settings, each.validation, each.test, each.correct) for each in table.confirmations
    ]
    return [trials, runs, table.target]


def verdicts(folder: Path) -> list[str]:
    """The sentences, without those about seconds, which are measured anew by every run."""
    result = json.loads((folder / "result.json").read_text())["value"]
    return [sentence for sentence in result["verdicts"] if "seconds" not in sentence]


def kill_once(words: Sequence[str], place: Path, chance: random.Random) -> str:
    """Start the study in `place`, kill it at random, and say what was killed: 'ended' if it was too late for that."""
    at_start = chance.random() < STARTING
    with_runs = chance.random() < 0.5
    wait_s = chance.uniform(0.0, LONGEST_START_S if at_start else LONGEST_S)
    told = place / "stderr"
    with (
        told.open("wb") as stderr,
        subprocess.Popen(
            [sys.executable, "-m", "effbench", *words], cwd=place, stdout=subprocess.DEVNULL, stderr=stderr
        ) as process,
    ):
        while not at_start and process.poll() is None and b"-> out" not in told.read_bytes():
            time.sleep(0.05)
        with suppress(subprocess.TimeoutExpired):
            process.wait(wait_s)
            return "ended"
        runs = _children(process.pid)
        process.kill()
        # alone: its runs get SIGTERM from the system and save; with its runs: what a power cut leaves
        for run in runs if with_runs else ():
            with suppress(ProcessLookupError):
                os.kill(run, signal.SIGKILL)
    if at_start:
        return "starting"
    return "worker with its runs" if with_runs else "worker alone"


def _children(process: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{process}/task/{process}/children").read_text().split()]


def killed(words: Sequence[str], place: Path, kills: int, chance: random.Random) -> Counter[str]:
    """Kill the study so often, or until it has ended; then let it end. Return how often what was killed."""
    counted: Counter[str] = Counter()
    for _ in range(kills):
        what = kill_once(words, place, chance)
        counted[what] += 1
        print(f"{sum(counted.values())} of {kills}: {what}", file=sys.stderr, flush=True)
        if what == "ended":  # the last one runs nothing then
            break
    result = effbench(*words, cwd=place)
    assert result.returncode == 0, result.stderr
    return counted


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, help="a file for the result as JSON, which goes to stdout as well")
    options = parser.parse_args()
    begun = time.perf_counter()
    # so many runs that the study does not end before the last kill
    words = [*WORDS, f"study.trials={4 + options.kills // 4}", f"study.seeds={6 + options.kills // 4}"]
    with tempfile.TemporaryDirectory() as name:
        place, alone = Path(name) / "killed", Path(name) / "alone"
        place.mkdir()
        alone.mkdir()
        counted = killed(words, place, options.kills, random.Random(options.seed))
        ended = effbench(*words, cwd=alone)
        assert ended.returncode == 0, ended.stderr
        tables = [table_in(each / FOLDER) for each in (place, alone)]
        left = sorted(each.name for each in (place / FOLDER).iterdir())
        left += sorted(each.name for each in (place / FOLDER).rglob("*.failed-*"))
        runs: list[Trial | Confirmation] = [*tables[0].trials, *tables[0].confirmations]
        result = {
            "command": " ".join(["python -m tests.study.kills", *sys.argv[1:]]),
            "kills": dict(counted),
            "trials": [len(table.trials) for table in tables],
            "final runs": [len(table.confirmations) for table in tables],
            "same settings and results": same(tables[0]) == same(tables[1]),
            "same verdicts": verdicts(place / FOLDER) == verdicts(alone / FOLDER),
            "statuses": dict(Counter(run.status for run in runs)),
            "left in the folder": left,
        }
        result["clean"] = (
            "ended" not in counted  # all kills were done
            and result["same settings and results"]
            and result["same verdicts"]
            and left == sorted(each.name for each in (alone / FOLDER).iterdir())
        )
    report({**result, "seconds": round(time.perf_counter() - begun, 1)}, options.output)
    return 0 if result["clean"] else 1


if __name__ == "__main__":
    sys.exit(main())
