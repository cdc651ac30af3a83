"""Explanations on a terminal, in a pipe and as a page; figures as text."""

from __future__ import annotations

import pytest

from effbench.explain.content import Drawing, Explanation, Listing, Paragraph, Table
from effbench.explain.page import write_page
from effbench.explain.terminal import print_explanation
from effbench.report.figures import Guide, Series, figure
from effbench.report.heat_maps import heat_map
from effbench.report.text_figures import legend, text_figures
from tests.explain.examples import explanation


def example() -> Explanation:
    series = [Series("up", 0, [(0.0, 0.0), (10.0, 1.0)]), Series("down", 1, [(0.0, 1.0), (10.0, 0.0)])]
    half = Guide([(5.0, 1.0), (5.0, 0.0)], "half")
    line = figure("a title", "step", series, "{:.2g}".format, guides=[half])
    assert line is not None
    parts = [
        Paragraph("word " * 60),
        Listing("a = 1\n  b = 2 [bold]"),
        Table(["name", "n"], [["one [red]", "1"], ["two", "22"]]),
        Drawing([line, line], "what to see", across=2),
        Paragraph("took 3 ms", of_machine=True),
    ]
    return Explanation("neuron", "A title <b>", parts, {"n": 1.0}, ["Somebody 2020, <i>"])


@pytest.mark.parametrize("columns", [None, 60])
def test_a_pipe_gets_plain_lines_of_its_width(columns, monkeypatch, capsys):
    monkeypatch.delenv("COLUMNS", raising=False)
    if columns:
        monkeypatch.setenv("COLUMNS", str(columns))
    print_explanation(example())
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert max(map(len, out.splitlines())) <= (columns or 80)
    assert "  a = 1\n    b = 2 [bold]\n" in out
    assert "one [red]" in out
    assert "took 3 ms" in out
    assert "* up" in out


@pytest.mark.spread(2)
@pytest.mark.slow
@pytest.mark.parametrize("topic", ["neuron", "convolution", "depthwise", "schedulers"])
def test_tables_of_topics_fit_80_columns(topic, monkeypatch, capsys):
    monkeypatch.delenv("COLUMNS", raising=False)
    found = explanation(topic)
    print_explanation(found)
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    for table in (part for part in found.parts if isinstance(part, Table)):
        for row in table.rows:
            # words may be wrapped, numbers never
            assert any(all(cell in line for cell in row[table.texts :]) for line in lines), row


def test_the_page_shows_every_part_as_text(tmp_path):
    write_page([example()], tmp_path / "x.html")
    page = (tmp_path / "x.html").read_text()
    assert "<script" not in page
    assert "A title &lt;b&gt;" in page
    assert "&lt;i&gt;" in page
    assert page.count("<figure>") == 2
    assert 'class="guide"' in page
    assert "://" not in page
    write_page([example(), example()], tmp_path / "two.html")
    assert (tmp_path / "two.html").read_text().count("<h2>") == 2


def test_a_line_in_text_is_where_its_points_are():
    drawn = figure("t", "x", [Series("", 0, [(0.0, 0.0), (10.0, 1.0)])], "{:.2g}".format, limits=(0.0, 1.0))
    assert drawn is not None
    title, *lines = (line.plain for line in text_figures([drawn], 60))
    plot = [line.split("|", 1)[1] for line in lines if "|" in line]
    places = [line.index("*") for line in plot if "*" in line]
    assert title == "t"
    assert places == sorted(places, reverse=True)
    assert plot[0].rstrip().endswith("*")
    assert plot[-1].startswith("*")
    assert lines[0].startswith("  1")
    assert legend([drawn]) is None


def test_an_image_in_text_tells_signs_apart():
    values = [[0.0, 1.0, -1.0, 0.5] * 6] * 2
    drawn = heat_map("image", "facts", values)
    _, line = (line.plain for line in text_figures([drawn], 80))
    assert line == "|" + " @9+" * 6 + "|" or line == "|" + " @9=" * 6 + "|"
    assert "below 0" in str(legend([drawn]))


def test_cells_of_a_heat_map_are_as_dark_as_their_values():
    drawn = heat_map("map", "facts", [[1.0, 0.5, 0.0], [-1.0, -1.0, 0.0]], ["a", "b"], ["x", "y", "z"], "{:.1f}".format)
    shades = {(style, opacity) for style, opacity, _ in drawn.cells}
    assert shades == {("c0", 0.65), ("c0", 0.325), ("c1", 0.65)}
    [below] = [path for style, _, path in drawn.cells if style == "c1"]
    assert below.count("M") == 1  # neighbours of one shade are one rectangle
    assert [label.text for label in drawn.numbers] == ["1.0", "0.5", "0.0", "-1.0", "-1.0", "0.0"]
    assert [label.text for label in drawn.labels] == ["a", "b", "x", "y", "z"]
    assert all(0 <= label.x <= 360 for label in drawn.labels)
