"""The page of a study in Chromium: nothing refused, nothing cut off, sortable, readable on every kind of screen."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from effbench.study.page import PAGE
from effbench.study.table import FROM_STEPS
from tests.study.chromium import CHROMIUM, Page, chromium
from tests.study.planted import confirmation, cost, trial
from tests.study.test_page import ARMS, small_study, written

pytestmark = [
    pytest.mark.process, pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="no chromium"),
]  # fmt: skip

PHONE, DESK, PAPER = 375, 1340, 965  # a letter's width less its margins; A4 is wider
INSIDE = """(() => {
  const all = (selector, within = document) => [...within.querySelectorAll(selector)];
  const lines = (each) => new Set([...each.getClientRects()].map((box) => box.top)).size;
  const outside = (text, svg) => {
    const box = text.getBoundingClientRect(), frame = svg.getBoundingClientRect();
    return box.left < frame.left - 1 || box.right > frame.right + 1 || box.bottom > frame.bottom + 1;
  };
  return {
    width: document.documentElement.scrollWidth,
    broken: all("span.whole").filter((each) => lines(each) > 1).length,
    whole: all("span.whole").length,
    cut: all("figure svg").filter((svg) => all("text", svg).some((text) => outside(text, svg))).length,
    drawn: all("figure svg").length,
  };
})()"""
# of one element each: what is read, what is drawn, and what lies behind it
COLOURS = """(() => {
  const of = (selector, property) => getComputedStyle(document.querySelector(selector))[property];
  return {
    page: of("body", "backgroundColor"),
    text: ["body", ".facts", "td a", "th button", "svg text", "h3", ".remedy"].map((each) => of(each, "color")),
    lines: [...document.querySelectorAll("figure polyline")].map((each) => getComputedStyle(each).stroke),
  };
})()"""
SORTED = """((heading, column) => {
  const sections = [...document.querySelectorAll("section")];
  const section = sections.find((each) => each.querySelector("h2").textContent == heading);
  const heads = [...section.querySelectorAll("th")];
  const place = heads.findIndex((each) => each.textContent.replace("\\n", " ") == column);
  const cells = () => [...section.querySelectorAll("tbody tr")].map((row) => row.cells[place].textContent);
  heads[place].querySelector("button").click();
  const up = cells();
  heads[place].querySelector("button").click();
  return [up, cells()];
})"""


def full_study() -> Any:
    """Every kind of section: disturbed costs, a target in steps and seconds, curves, a run that diverged."""
    states = (900, 1_200_000_000, 850_000)
    costs = tuple(
        cost(arm, 0.01 + at / 100, 1000 * (at + 1), optimizer_state_bytes=states[at], contaminated=at == 2)
        for at, arm in enumerate(ARMS)
    )
    took = (45.0, 4.5 * 60, 7200.0, 9.0, 99.0, 130.0, 80.0)
    runs = [
        confirmation(
            arm, seed, 0.8 - 0.05 * place + seed / 1000, seconds=took[seed - 1], steps_to_target=30.0 + seed + place,
            seconds_to_target=3.0 + seed, digest=f"{seed}{'ab'[seed % 2]}12", run=f"runs/{arm}/confirm-{seed:03d}",
        )
        for place, arm in enumerate(ARMS)
        for seed in range(1, 8)
    ]  # fmt: skip
    trials = [trial(arm, n, None if n == 3 else 0.7 + n / 100, reason="loss is nan" * (n == 3), settings={"lr": 0.1})
              for arm in ARMS for n in range(4)]  # fmt: skip
    return small_study(
        costs=costs, confirmations=tuple(runs), trials=tuple(trials), target=0.7, target_source="given",
        clock=FROM_STEPS,
    )  # fmt: skip


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Page, Path]]:
    """A browser and the page of a study."""
    folder = tmp_path_factory.mktemp("page")
    table = full_study()
    curves = {arm.name: [[(10, 0.5), (20, 0.7 + at / 50)]] * 2 for at, arm in enumerate(table.arms)}
    written(folder, table, curves)
    with chromium(folder / "profile") as page:
        yield page, folder / PAGE


@pytest.mark.parametrize(("width", "media"), [(PHONE, {}), (DESK, {}), (PAPER, {"type": "print"})])
def test_the_page_is_whole_at_every_width(width: int, media: dict[str, str], browser: tuple[Page, Path]) -> None:
    page, path = browser
    page.open(path, width, **media)
    found = page.eval(INSIDE)
    assert found["width"] <= width
    assert (found["broken"], found["cut"]) == (0, 0)
    assert found["whole"] > 10
    assert found["drawn"] == 3 + 4  # learning curves, target, best against budget, and the fronts of four costs
    assert page.complaints == []


@pytest.mark.parametrize(
    ("heading", "column", "ascending"),
    [
        ("Cost", "optimizer state", ["900 B", "850 kB", "1.2 GB"]),
        ("Final runs", "time", ["9.0 s", "45.0 s", "80.0 s", "99.0 s", "2.2 min", "4.5 min", "2.0 h"]),
        ("Final runs", "config", ["1b12", "2a12", "3b12", "4a12", "5b12", "6a12", "7b12"]),
        ("Every setting tried", "val", ["70.00 %", "71.00 %", "72.00 %", "-"]),
    ],
)
def test_columns_sort_by_what_their_numbers_mean(
    heading: str, column: str, ascending: list[str], browser: tuple[Page, Path]
) -> None:
    page, path = browser
    page.open(path, DESK)
    up, down = page.eval(f"{SORTED}({heading!r}, {column!r})")
    known = [text for text in ascending if text != "-"]
    assert list(dict.fromkeys(up)) == ascending
    assert list(dict.fromkeys(down)) == [*known[::-1], *(text for text in ascending if text == "-")]


def contrast(first: str, second: str) -> float:
    """The contrast ratio of two colours (WCAG 2.2, relative luminance)."""
    lights = []
    for colour in (first, second):
        parts = [int(part) / 255 for part in re.findall(r"\d+", colour)[:3]]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        lights.append(0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2])
    return (max(lights) + 0.05) / (min(lights) + 0.05)


@pytest.mark.parametrize(
    ("media", "is_dark"),
    [
        ({"prefers_color_scheme": "light"}, False),
        ({"prefers_color_scheme": "dark"}, True),
        ({"prefers_color_scheme": "dark", "type": "print"}, False),  # paper is white, whatever the screen is
    ],
)
def test_text_and_lines_stand_out_on_every_ground(
    media: dict[str, str], is_dark: bool, browser: tuple[Page, Path]
) -> None:
    page, path = browser
    page.open(path, DESK, **media)
    found = page.eval(COLOURS)
    assert (contrast(found["page"], "rgb(255, 255, 255)") > 10) == is_dark
    assert min(contrast(text, found["page"]) for text in found["text"]) >= 4.5  # WCAG 1.4.3
    assert found["lines"]
    assert min(contrast(line, found["page"]) for line in found["lines"]) >= 3  # WCAG 1.4.11


@pytest.mark.proof
def test_paper_gets_the_whole_page(browser: tuple[Page, Path], tmp_path: Path) -> None:
    page, path = browser
    page.open(path, PAPER)
    page.pdf(tmp_path / "page.pdf")
    content = (tmp_path / "page.pdf").read_bytes()
    pages = len(re.findall(rb"/Type\s*/Page\b", content))
    assert 2 <= pages <= 12
    wide = [[float(number) for number in box.split()] for box in re.findall(rb"/MediaBox\s*\[([\d. ]+)\]", content)]
    assert all(box[2] > box[3] for box in wide)  # landscape: tables of twelve columns
