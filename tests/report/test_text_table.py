"""Tables on the console: what is broken, and what is left out, on a narrow terminal."""

from __future__ import annotations

import io
import itertools

import pytest
from rich.cells import cell_len
from rich.console import Console

from effbench.report.text_table import TextColumn, print_sentence, print_table, text_table

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


def test_a_stranger_s_texts_in_a_table_steer_no_terminal() -> None:
    """Rich strips only a few control characters: the others would set the terminal's title, or clear it."""
    hostile = "a\x1b]0;title\x07\x1b[2J\x9b\u202eb"
    column = TextColumn(f"{hostile}s/s,\nbatch 1", [hostile], is_number=False)
    out = Console(file=io.StringIO(), width=120, force_terminal=True, color_system=None)
    out.print(text_table([column], 120))
    assert isinstance(out.file, io.StringIO)
    text = out.file.getvalue()
    shown = "a\\x1b]0;title\\x07\\x1b[2J\\x9b\\u202eb"
    assert text.count(shown) == 2
    assert "batch 1" in text
    assert not any(letter in text.replace("\x1b[1m", "").replace("\x1b[0m", "") for letter in "\x1b\x07\x9b\u202e")


def printed(text: str, width: int, head: str = "", terminal: bool = True) -> list[str]:
    out = Console(file=io.StringIO(), width=width, force_terminal=terminal, color_system=None)
    print_sentence(out, text, head)
    assert isinstance(out.file, io.StringIO)
    return out.file.getvalue().splitlines()


SENTENCE = (
    "sgd and adamw on mlp: not [red]distinguishable[/] with 8 seeds (+0.1 pt [-0.6, 0.8]);\n学習率 widen lr upwards"
)


@pytest.mark.parametrize(("head", "indent"), [("", 2), ("WRONG  links  ", 14), ("x" * 40, 30)])
def test_a_sentence_is_wrapped_at_words_with_a_hanging_indent(head: str, indent: int) -> None:
    first, *rest = printed(SENTENCE, 60, head)
    assert first.startswith(head)
    assert rest
    assert max(map(cell_len, (first, *rest))) <= 60
    # as wide as it may be: the next line's first word would not fit
    for line, after in itertools.pairwise([first, *rest]):
        assert cell_len(line) + 1 + cell_len(after.split()[0]) > 60
    assert all(line[:indent].isspace() and not line[indent].isspace() for line in rest)
    words = " ".join([first[len(head) :], *rest]).split()
    assert words == SENTENCE.split()


def test_a_pipe_gets_a_sentence_as_one_line() -> None:
    assert printed(SENTENCE, 40, "ok  ", terminal=False) == [f"ok  {SENTENCE}".replace("\n", " ")]


def test_a_path_longer_than_a_line_is_not_cut() -> None:
    path = "/" + "long-folder/" * 6
    assert printed(f"made again in {path}", 40) == ["made again in", f"  {path}"]
    assert printed("\x1b[2J ", 40) == ["\\x1b[2J "]
