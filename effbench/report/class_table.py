"""Precision, recall and F1 of each class of an evaluation, and what is confused with what, as text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from effbench.escaping import one_line
from effbench.report.text_table import TextColumn, print_table
from effbench.units import percent

LINES = 10  # of each table: what is best to look at first
_NUMBERS = {"precision": "precision", "recall": "recall", "f1": "F1"}  # key -> head


def print_by_class(result: Mapping[str, Any]) -> None:
    """Print the classes, those with the lowest recall if there are many, and the most frequent confusions.

    result: of `evaluate_run`; without counts by class nothing is printed.
    """
    word = "label" if "per_label" in result else "class"
    rows: Sequence[Mapping[str, Any]] = result.get(f"per_{word}", ())
    if not rows:
        return
    print()
    _print_rows(rows, word)
    if pairs := confusions(result)[:LINES]:
        print()
        _print_pairs(pairs)
    rest = ["all classes" if word == "class" else "all labels"] if len(rows) > LINES else []
    rest += ["the confusion matrix"] if result.get("confusion") else []
    if rest:
        print(f"\n--json has {' and '.join(rest)}.")


def _print_rows(rows: Sequence[Mapping[str, Any]], word: str) -> None:
    """Print one line a class or label (word), in their order; of many only those with the lowest recall."""
    if len(rows) > LINES:
        plural = "classes" if word == "class" else "labels"
        print(f"{LINES} of {len(rows)} {plural}, the lowest recall first:")
        rows = sorted(rows, key=_by_recall)[:LINES]
    numbers = [TextColumn(head, [_percent(row[key]) for row in rows]) for key, head in _NUMBERS.items()]
    names = TextColumn(word, [one_line(row[word]) for row in rows], is_number=False)
    print_table([names, *numbers, TextColumn("samples", [str(row["samples"]) for row in rows])])


def _print_pairs(pairs: Sequence[tuple[str, str, int, float]]) -> None:
    names = [f"{one_line(true)} -> {one_line(predicted)}" for true, predicted, *_ in pairs]
    counts, shares = [str(count) for *_, count, _ in pairs], [percent(share) for *_, share in pairs]
    texts = TextColumn("true -> predicted", names, is_number=False)
    print_table([texts, TextColumn("samples", counts), TextColumn("of the true class", shares)])


def confusions(result: Mapping[str, Any]) -> list[tuple[str, str, int, float]]:
    """Return (true class, predicted class, samples, part of the true class) of wrong answers, the most frequent first.

    result: of `evaluate_run`.
    """
    names = [row["class"] for row in result.get("per_class", ())]
    found = [
        (names[true], names[other], count, count / sum(counts))
        for true, counts in enumerate(result.get("confusion") or ())
        for other, count in enumerate(counts)
        if count and other != true
    ]
    return sorted(found, key=lambda pair: (-pair[2], -pair[3]))  # stable: of equal ones, the first class comes first


def _by_recall(row: Mapping[str, Any]) -> tuple[float, int]:
    """Order by recall, then the class with more samples; classes without samples last."""
    return (2.0 if row["recall"] is None else row["recall"]), -row["samples"]


def _percent(share: float | None) -> str:
    return "-" if share is None else percent(share)
