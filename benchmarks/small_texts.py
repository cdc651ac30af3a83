"""Tables of 500 to 27,000 texts, on which the model that texts get by default is measured beside others.

    python -m benchmarks.small_texts FOLDER            # writes the tables, trains what is not trained yet, writes
    python -m benchmarks.small_texts FOLDER --collect  # docs/small_texts.json and .md from what is there

The texts are those of the datasets that ship, whose train and test splits share no concept: names of things in 20
languages, glosses of WordNet in 19 kinds, passages of the Bible in 6 kinds of books. Each is a file of a user's own.
"""

from __future__ import annotations

import csv
import random
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.kept_runs import KeptRuns, Wanted
from effbench.data.text.kjv import read_kjv_kinds
from effbench.data.text.language_id import read_language_id
from effbench.data.text.tables import LabelledSplit, LabelledTexts
from effbench.data.text.wordnet_gloss import read_wordnet_gloss
from effbench.stats import deviation, mean

TEST = 2000  # texts of a test file, at most
SOURCES: dict[str, Callable[[], LabelledTexts]] = {
    "languages": read_language_id,
    "glosses": read_wordnet_gloss,
    "passages": lambda: read_kjv_kinds(8),
}


@dataclass(frozen=True)
class TablePlan:
    """count: texts of the user's file, of which a tenth is for validation; None: all that there are."""

    source: str
    count: int | None

    @property
    def name(self) -> str:
        """Of its file."""
        return f"{self.source}_{self.count or 'all'}"


PLANS = (
    *(TablePlan(source, 500) for source in SOURCES),
    *(TablePlan(source, 3000) for source in ("languages", "glosses")),
    *(TablePlan(source, None) for source in SOURCES),
)
SETTINGS: dict[str, tuple[str, ...]] = {"default": (), "text_cnn": ("model=text_cnn",), "linear": ("model.hidden=0",)}


def write_table(path: Path, split: LabelledSplit, classes: Sequence[str], count: int | None) -> None:
    """Write a CSV with the columns text and label: `count` texts drawn without replacement, or all."""
    rows = list(zip(split.texts, split.labels, strict=True))
    random.Random(0).shuffle(rows)
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(["text", "label"])
        writer.writerows([text, classes[label]] for text, label in rows[:count])


def write_tables(root: Path) -> None:
    """Write ROOT/NAME.csv of each plan and ROOT/SOURCE_test.csv of each source."""
    root.mkdir(parents=True, exist_ok=True)
    for source, read in SOURCES.items():
        found = read()
        write_table(root / f"{source}_test.csv", found.test, found.classes, TEST)
        for plan in PLANS:
            if plan.source == source:
                write_table(root / f"{plan.name}.csv", found.train, found.classes, plan.count)


def runs_of(root: Path) -> KeptRuns:
    return KeptRuns(root, "small_texts", "file", ("data=text_csv",))


def train_all(root: Path) -> None:
    write_tables(root)
    runs_of(root).train_all(
        Wanted(plan.name, setting, seed, (*_files(root, plan), *words))
        for seed in (0, 1, 2)
        for plan in PLANS
        if not seed or plan.count == 500  # elsewhere one seed
        for setting, words in SETTINGS.items()
    )


def _files(root: Path, plan: TablePlan) -> tuple[str, ...]:
    return f"data.file={root / plan.name}.csv", f"data.test_file={root / plan.source}_test.csv"


def page(results: dict[str, Any]) -> str:
    """docs/small_texts.md from the JSON."""
    lines = [
        "# The default on texts of your own",
        "",
        "Written by `python -m benchmarks.small_texts FOLDER` from small_texts.json: `effbench train data=text_csv",
        "data.file=FILE` on tables of short texts, with the model that texts get by default (`ngrams`, an MLP on",
        "hashed n-grams of bytes), with `model=text_cnn` and with the linear classifier (`model.hidden=0`). Accuracy",
        f"on other texts (at most {TEST:,}) with the weights best on validation: mean of the seeds ± standard",
        "deviation (n). Seconds of training with one thread while other work ran: their order of size counts.",
        "",
        "| file | " + " | ".join(f"{name} | s" for name in SETTINGS) + " |",
        "| --- | " + " | ".join("---" for _ in range(2 * len(SETTINGS))) + " |",
    ]
    rows = results["rows"]
    for plan in PLANS:
        cells = []
        for setting in SETTINGS:
            own = [row for row in rows if (row["file"], row["setting"]) == (plan.name, setting)]
            cells += [_accuracy(own), f"{mean([row['training_s'] for row in own]):.0f}" if own else ""]
        if any(cells):
            lines.append(f"| {plan.name} | {' | '.join(cells)} |")
    machine = results["machine"]
    lines += ["", f"Machine: {machine['cpu']}, torch {machine['torch']}, Python {machine['python']}."]
    lines += ["", "A test accuracy of 2,000 texts at 50 % has a standard error of 1.1 points.", "", "## Every run", ""]
    lines += [f"- {row['test_acc']:.1%} ({row['status']}, {row['steps']} steps): `{row['command']}`" for row in rows]
    return "\n".join([*lines, ""])


def _accuracy(rows: Sequence[dict[str, Any]]) -> str:
    if not rows:
        return ""
    values = [row["test_acc"] for row in rows]
    spread = f" ± {deviation(values):.1%}" if len(values) > 1 else ""
    return f"{mean(values):.1%}{spread} ({len(values)})"


def main(words: Sequence[str]) -> None:
    root = Path(words[0]).absolute()
    if "--collect" not in words:
        train_all(root)
    runs_of(root).write(page)


if __name__ == "__main__":
    main(sys.argv[1:])
