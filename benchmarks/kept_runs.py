"""Whole runs of `effbench train` on small data, each made once and kept as a row of a JSON file in docs/."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.deploy import is_finished

DOCS = Path(__file__).parents[1] / "docs"


@dataclass(frozen=True)
class Wanted:
    """A run: data, setting and seed name it; words are its overrides beside those that all runs share."""

    data: str
    setting: str
    seed: int
    words: tuple[str, ...]


@dataclass(frozen=True)
class KeptRuns:
    """The runs below ROOT/runs and those that are kept.

    Attributes:
        root: folder of the data and of the runs.
        name: of docs/NAME.json and docs/NAME.md.
        key: what a row calls its data, such as folder.
        line: overrides that all runs share.
    """

    root: Path
    name: str
    key: str
    line: tuple[str, ...]

    def train_all(self, wanted: Iterable[Wanted]) -> None:
        """Make what is not there yet, two processes of one thread at a time. The first failure is raised at the end."""
        with ThreadPoolExecutor(2) as pool:
            for run in [pool.submit(self._train, each) for each in wanted]:
                run.result()

    def write(self, page: Callable[[dict[str, Any]], str]) -> None:
        """Write docs/NAME.json, and docs/NAME.md by `page`, from the runs that are there and the rows of the JSON."""
        results = self._collected()
        (DOCS / f"{self.name}.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
        (DOCS / f"{self.name}.md").write_text(page(results), encoding="utf-8")

    def _train(self, wanted: Wanted) -> None:
        run = self.root / "runs" / wanted.data / f"{wanted.setting}-{wanted.seed}"
        kept = self._kept().get((wanted.data, wanted.setting, wanted.seed))
        if is_finished(run) or (kept and set(self._command(wanted.words).split()) <= set(kept["command"].split())):
            return
        shutil.rmtree(run, ignore_errors=True)  # of a run that was killed: the same seed trains the same weights again
        words = (*self.line, *wanted.words, "device.threads=1", f"seed={wanted.seed}", f"hydra.run.dir={run}")
        subprocess.run([sys.executable, "-m", "effbench", "train", *words], check=True, stdout=subprocess.DEVNULL)

    def _kept(self) -> dict[tuple[str, str, int], dict[str, Any]]:
        path = DOCS / f"{self.name}.json"
        rows = json.loads(path.read_text(encoding="utf-8"))["rows"] if path.is_file() else []
        return {(row[self.key], row["setting"], row["seed"]): row for row in rows}

    def _collected(self) -> dict[str, Any]:
        """Return every finished run below ROOT/runs as a row, beside those of the JSON."""
        rows = []
        for path in sorted((self.root / "runs").glob("*/*/summary.json")):
            if not is_finished(path.parent):
                continue
            summary = json.loads(path.read_text(encoding="utf-8"))
            setting, _, seed = path.parent.name.rpartition("-")
            rows.append(
                {
                    self.key: path.parts[-3],
                    "setting": setting,
                    "seed": int(seed),
                    "test_acc": summary["metrics"]["test/acc"],
                    "best_val_acc": summary["best"]["value"],
                    "status": summary["status"],
                    "steps": summary["steps"],
                    "epochs": summary["epochs"],
                    "training_s": round(summary["timing"]["training_s"], 1),
                    "command": self._command(summary["argv"][1:]),
                }
            )
        if not rows:
            raise SystemExit(f"{self.root}/runs holds no finished run: nothing to add to docs/{self.name}.json.")
        machine = {name: summary["environment"].get(name) for name in ("cpu", "torch", "python")}
        every = self._kept() | {(row[self.key], row["setting"], row["seed"]): row for row in rows}
        return {"machine": machine, "threads": 1, "rows": [every[key] for key in sorted(every)]}

    def _command(self, words: Sequence[str]) -> str:
        named = [word.replace(str(self.root), "FOLDER") for word in words if not word.startswith("hydra.run.dir=")]
        return " ".join(["effbench", *named])
