"""The page, the Markdown and the console of a study: what stands where."""

from __future__ import annotations

import dataclasses
import itertools
import re

import numpy as np
import pytest

from effbench.study.analysis import analyse
from effbench.study.page import print_result, write_page
from effbench.study.table import Arm
from tests.study.planted import confirmation, cost, study, trial

ARMS = ("mlp/sgd", "mlp/adamw", "mlp/lion")


def small_study(**changes):
    """Three arms, of which the first is best; every step time was disturbed."""
    chances = {arm: [0.8 - 0.05 * place + seed / 1000 for seed in range(7)] for place, arm in enumerate(ARMS)}
    trials = [trial(arm, n, 0.7 + n / 100 - 0.1 * place) for place, arm in enumerate(ARMS) for n in range(4)]
    costs = tuple(cost(arm, 0.01 + place / 100, contaminated=True) for place, arm in enumerate(ARMS))
    return study(chances, **({"trials": tuple(trials), "planned_trials": 4, "costs": costs} | changes))


def written(folder, table, curves=None):
    result = analyse(table)
    page = write_page(folder, table, result, curves or {}).read_text()
    return page, (folder / "study.md").read_text(), result


def test_objections_stand_directly_under_the_verdict(tmp_path):
    page, markdown, _ = written(tmp_path, small_study())
    for text, heading in ((page, "<h2>Ranking"), (markdown, "## Ranking")):
        assert text.count("Other work or clock drift was seen") == 1
        assert text.index("the cost of mlp/sgd, mlp/adamw and mlp/lion") < text.index(heading)
    fair, markdown, _ = written(tmp_path, small_study(costs=()))
    assert "Objections" not in fair + markdown


def test_costs_of_default_settings_are_named(tmp_path):
    costs = (cost(ARMS[0], 0.01, defaults=True), cost(ARMS[1], 0.02), cost(ARMS[2], 0.03, defaults=True))
    _, markdown, _ = written(tmp_path, small_study(costs=costs))
    assert "| 10.00 * |" in markdown
    assert "| 20.00 |" in markdown
    assert "'*': it is that of the default settings." in markdown
    assert "failed or none was known: mlp/sgd and mlp/lion.\n" in markdown
    _, markdown, _ = written(tmp_path, small_study())
    assert "default settings" not in markdown


def test_a_study_over_rows_has_the_unit_and_digits_of_its_metric(tmp_path, capsys):
    """A regression: masses in kilograms with one digit, and costs of rows. No percent, and no image."""
    masses = {arm: [80.0 + 50 * place + seed for seed in range(7)] for place, arm in enumerate(ARMS)}
    trials = tuple(trial(arm, n, 1000 * place + 5.25 * n) for place, arm in enumerate(ARMS) for n in range(4))
    costs = tuple(cost(arm, 0.01 + place / 100, unit="row") for place, arm in enumerate(ARMS))
    table = small_study(
        confirmations=study(masses).confirmations, trials=trials, costs=costs, metric="mae", mode="min",
        as_percent=False, unit="kg", digits=1, target=95.25, target_source="given",
    )  # fmt: skip
    page, markdown, result = written(tmp_path, table, {arm: [[(10, 99.125), (20, 90.0625)]] for arm in ARMS})
    print_result(table, result, tmp_path / "study.html")
    for text in (page, markdown, capsys.readouterr().out):
        assert "test mae (kg)" in text
        assert "83.0 [81.0, 85.0]" in text  # 83 +- 2.447 sqrt(14 / 3 / 7)
    assert result.verdicts[0].startswith("sgd beats adamw on mlp: -50.0 kg [-50.0, -50.0], p = ")
    assert 'on mlp: <span class="whole">-50.0 kg [-50.0, -50.0]</span>, ' in page
    assert "Target: validation 95.2 kg (given)" in markdown
    assert "| mlp/sgd | 1 | 80.0 | 80.0 |" in markdown
    assert "| mlp/sgd - mlp/adamw | -50.0 kg [-50.0, -50.0] |" in markdown
    assert "| rows/s |" in markdown
    assert "lion: 90.1 at 20" in page  # what a screen reader says of a curve
    assert not re.search(r"\bimages?\b| pt\b|[0-9] %", page.partition("<body>")[2] + markdown)


def test_the_console_prints_verdicts_then_objections(tmp_path, capsys):
    table = small_study()
    result = analyse(table)
    print_result(table, result, tmp_path / "study.html")
    shown = capsys.readouterr().out
    assert shown.index(result.verdicts[0]) < shown.index("objection, contaminated measurement: ")


def test_hostile_names_are_text(tmp_path):
    table = small_study()
    evil = "<script>alert(1)</script>"
    arms = (dataclasses.replace(table.arms[0], title=evil), *table.arms[1:])
    page, markdown, _ = written(tmp_path, dataclasses.replace(table, arms=arms, name=evil))
    assert evil not in page + markdown


@pytest.mark.parametrize("evil", ["<script>alert(1)</script>", "![x](http://example.org/a.png)", "a|b"])
def test_hostile_names_of_a_sent_table_are_text(evil, tmp_path):
    """Names of models, optimizers and metrics reach leads and heads of columns."""
    arms = tuple(
        Arm(f"{number}", model, optimizer)
        for number, (model, optimizer) in enumerate(itertools.product(("cnn", evil), ("sgd", f"{evil}2")))
    )
    table = study(
        {arm.name: [0.7 + seed / 1000 for seed in range(8)] for arm in arms}, arms=arms, metric=evil,
        trials=(trial("0", 0, None, reason=evil, run=evil),), planned_trials=1,
    )  # fmt: skip
    page, markdown, result = written(tmp_path, table)
    assert result.interaction is not None
    assert evil not in markdown
    assert evil not in page or "<" not in evil
    assert "Diverged or failed" in page


def test_what_diverged_is_named_with_its_reason(tmp_path):
    runs = [confirmation(arm, seed, 0.8, run=f"{arm}/confirm-{seed}") for arm in "ab" for seed in (1, 2, 3)]
    runs[1] = confirmation("a", 2, None, reason="loss is nan at step 7", run="a/confirm-2", steps=7)
    trials = (trial("a", 0, 0.7, settings={"lr": 0.1}, seed=9), trial("b", 0, None, reason="exit code 7", seed=9))
    page, _, _ = written(tmp_path, study({"a": [], "b": []}, confirmations=tuple(runs), trials=trials))
    (section,) = re.findall(r"<h2>Diverged or failed</h2>.*?</section>", page, re.DOTALL)
    cells = re.findall(r"<td[^>]*>(.*?)</td>", section)
    assert cells == [
        "b", "tuning run 0", "9", "100", "diverged", "exit code 7", "",
        "a", "final run", "2", "7", "diverged", "loss is nan at step 7", "a/confirm-2",
    ]  # fmt: skip
    assert "reason" in (tmp_path / "runs.csv").read_text().splitlines()[0]
    # the ranking leads to the first final run of each arm
    assert sorted(re.findall(r'<a href="#(final-\d)">(\w)</a>', page)) == [("final-0", "a"), ("final-1", "b")]
    assert re.findall(r'<tr id="(final-\d)"><td[^>]*>(\w)</td>', page) == [("final-0", "a"), ("final-1", "b")]


def test_what_is_equal_in_all_runs_is_said_once(tmp_path):
    runs = [confirmation("a", seed, 0.8, machine="m" * seed) for seed in (1, 2)]
    trials = (trial("a", 0, settings={"lr": 0.1}, seed=9), trial("a", 1, settings={"lr": 0.2}, seed=9))
    _, markdown, _ = written(tmp_path, study({"a": []}, confirmations=tuple(runs), trials=trials))
    assert "All: steps 100, status completed, commit c0ffee.\n" in markdown
    assert "| arm | seed | val | test | steps to target | time | run | config | machine |\n" in markdown
    assert "All: status completed, seed 9, steps 100, commit c0ffee, machine one.\n" in markdown
    assert "| a | 1 | 70.00 % | lr=0.2 | 10.0 s |  |  |\n" in markdown


def test_the_interaction_s_contrasts_have_intervals(tmp_path):
    level = {"cnn/sgd": 0.7, "cnn/lion": 0.7, "swin/sgd": 0.7, "swin/lion": 0.78}
    table = study({arm: [at + seed / 1000 for seed in range(8)] for arm, at in level.items()})
    page, markdown, _ = written(tmp_path, table)
    assert "| sgd - lion | cnn - swin | +8.00 pt [+8.00, +8.00] |" in markdown
    assert "Where the difference depends on the model" in page


@pytest.mark.parametrize(("spread", "told"), [(0.001, "yes"), (0.05, "no")])
def test_a_small_sure_lead_is_not_meaningful(spread, told, tmp_path):
    """Both lead surely over 40 seeds; with deviation 0.05 the lead of 0.02 is 0.4 deviations: P is 0.66."""
    chance = np.random.default_rng(0).standard_normal(40)
    noise = (chance - chance.mean()) / chance.std(ddof=1) * spread
    table = study({"a": (0.82 + noise).tolist(), "b": [0.8] * 40})
    _, markdown, result = written(tmp_path, table)
    assert result.comparisons[0].winner == "a"
    assert re.search(rf"\| a \| {told} \|", markdown)


@pytest.mark.parametrize("arms", [0, 1])
def test_a_study_without_runs_has_a_page(arms, tmp_path):
    page, _, _ = written(tmp_path, study({arm: [] for arm in ARMS[:arms]} | {"b": []}))
    assert "<h2>Verdict</h2>" in page


def test_names_and_intervals_stay_on_one_line(tmp_path):
    arms = ("mlp-sgd", "mlp-sgd-nesterov", "<b>x-y</b>")
    table = study({arm: [0.8 - 0.1 * at + seed / 1000 for seed in range(7)] for at, arm in enumerate(arms)})
    page, _, _ = written(tmp_path, table)
    for text in ("mlp-sgd", "mlp-sgd-nesterov", "&lt;b&gt;x-y&lt;/b&gt;", "p = 0.016"):
        assert f'<span class="whole">{text}</span>' in page
    assert "<b>x-y</b>" not in page
    assert re.search(r'<span class="whole">\+10\.0+ pt \[[0-9., ]+\]</span>', page)


def test_columns_that_no_row_fills_are_left_out(tmp_path):
    page, markdown, _ = written(tmp_path, small_study())
    assert "with test samples" not in page + markdown


@pytest.mark.parametrize(("mode", "shade"), [("max", "up4"), ("min", "down4")])
def test_the_interaction_is_a_heat_map_with_numbers(mode, shade, tmp_path):
    level = {"cnn/sgd": 0.7, "cnn/lion": 0.7, "swin/sgd": 0.7, "swin/lion": 0.78}
    table = study({arm: [at + seed / 1000 for seed in range(8)] for arm, at in level.items()}, mode=mode)
    page, _, _ = written(tmp_path, table)
    cells = re.findall(r'<td class="n heat (\w+)"><span class="whole">([-+][\d.]+) pt', page)
    assert cells[-1] == (shade, "+2.00")  # 8 points in one of 2 x 2 cells: a quarter stays after double centring
    assert len(cells) == 4


def test_an_arm_with_misses_ranks_after_those_without(tmp_path):
    """One of eight runs ended, luckily: the mean of what ended is no measure of the arm."""
    values = {"lucky": [0.9, *[None] * 7], "steady": [0.7] * 8, "shaky": [0.8] * 7 + [None], "gone": [None] * 8}
    _, markdown, result = written(tmp_path, study(values))
    assert [(each.arm, each.rank, each.missed) for each in result.qualities] == [
        ("steady", 1, 0), ("shaky", 2, 1), ("lucky", 3, 7), ("gone", None, 8),
    ]  # fmt: skip
    assert "| 1 | steady |" in markdown
    assert "| 3 x | lucky |" in markdown
    assert "'x': runs diverged or failed;" in markdown
