"""Tables on the console: what is broken, and what is left out, on a narrow terminal."""

from __future__ import annotations

import pytest

from effbench.report.text_table import TextColumn, print_table

CLASS = "mypackage.models.ResidualNetwork"
COLUMNS = (
    TextColumn("run", [f"{CLASS} + AdamW", "mlp + sgd"], is_number=False),
    TextColumn("test acc", ["84.80 %", "80.10 %"]),
    *(TextColumn(f"cost {number}", ["1,234,567", "1"], drop_order=1 + number) for number in range(4)),
)


@pytest.mark.parametrize("width", [70, 80, 120])
def test_names_of_classes_and_numbers_stay_whole(
    width: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    print_table(COLUMNS)
    shown = capsys.readouterr().out
    assert max(map(len, shown.splitlines())) <= width
    for text in (CLASS, "84.80 %", "80.10 %"):
        assert text in shown


def test_a_word_longer_than_a_line_is_broken_rather_than_lost(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    print_table([TextColumn("run", ["x" * 100], is_number=False), TextColumn("acc", ["84.80 %"])])
    shown = capsys.readouterr().out
    assert shown.count("x") == 100
    assert "84.80 %" in shown
