"""The text of `effbench eval` on classes: it fits 80 columns, and of many classes the worst are shown."""

from __future__ import annotations

from typing import Any

import pytest

from effbench.report.class_table import print_by_class


def result(names: list[str], confusion: list[list[int]] | None, recalls: list[float | None]) -> dict[str, Any]:
    rows = [
        {"class": name, "precision": 0.5, "recall": recall, "f1": None, "samples": 200, "predictions": 7}
        for name, recall in zip(names, recalls, strict=True)
    ]
    return {"test/acc": 0.5, "samples": 200 * len(names), "per_class": rows, "confusion": confusion}


@pytest.fixture(autouse=True)
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")


def test_few_classes_come_in_their_order(capsys: pytest.CaptureFixture[str]) -> None:
    print_by_class(result(["cat", "a dog"], [[150, 50], [60, 140]], [0.75, 0.7]))
    assert capsys.readouterr().out.splitlines() == [
        "",
        "class  precision   recall  F1  samples",
        "cat      50.00 %  75.00 %   -      200",
        "a dog    50.00 %  70.00 %   -      200",
        "",
        "true -> predicted  samples  of the true class",
        "a dog -> cat            60            30.00 %",
        "cat -> a dog            50            25.00 %",
        "",
        "--json has the confusion matrix.",
    ]


def test_of_many_classes_the_worst_are_shown(capsys: pytest.CaptureFixture[str]) -> None:
    names = [
        f"{letter} with a name of many words that no table of 80 columns has room for" for letter in "abcdefghijkl"
    ]
    confusion = [[100 if row == column else 1 + row for column in range(12)] for row in range(12)]
    print_by_class(result(names, confusion, [None, *(1 - number / 20 for number in range(1, 12))]))
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[1] == "10 of 12 classes, the lowest recall first:"
    assert [line[0] for line in lines if "50.00 %" in line] == list("lkjihgfedc")
    head = next(place for place, line in enumerate(lines) if line.startswith("true -> predicted"))
    rows = lines[head + 1 : lines.index("", head)]
    assert sum(row.endswith(" %") for row in rows) == 10  # the first line of each: long names are wrapped
    assert lines[-1] == "--json has all classes and the confusion matrix."


def test_what_is_not_there_is_not_printed(capsys: pytest.CaptureFixture[str]) -> None:
    print_by_class({"test/rmse": 0.5, "samples": 3})
    assert capsys.readouterr().out == ""
    labels = result(["a"], None, [1.0])["per_class"]
    print_by_class({"per_label": [{**row, "label": row["class"]} for row in labels]})
    assert capsys.readouterr().out.splitlines() == [
        "",
        "label  precision    recall  F1  samples",
        "a        50.00 %  100.00 %   -      200",
    ]


def test_names_of_classes_cannot_control_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    print_by_class(result(["\x1b[2Ja\n", "[red]b"], [[1, 1], [1, 1]], [0.5, 0.5]))
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert r"\x1b[2Ja\n -> [red]b" in out
