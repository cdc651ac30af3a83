"""docs/frameworks.md and .svg, written from the journal."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.figures import three_digits
from benchmarks.frameworks import task
from benchmarks.frameworks.journal import read
from benchmarks.frameworks.lines import RULE
from benchmarks.frameworks.measure import BARE, OURS, SLICE_STEPS
from effbench.report.charts import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, Panel, Tick, scale, span, ticks
from effbench.report.figures import Figure, Label, Mark
from effbench.report.fronts import names_beside
from effbench.report.sheets import sheet
from effbench.stats import Interval, deviation, mean, median, median_interval

FIGURE_HEIGHT = 290  # names beside points need more room than curves
TITLE = "Lines of user code and overhead of a step"
COLUMNS = (
    "framework", "lines", "process, s", "training, s", "peak memory, MB", "overhead of a step, ms", "test accuracy, %",
)  # fmt: skip
HEAD = f"""# The loop beside other frameworks'

Written by `python -m benchmarks.frameworks`, with `pip install -e '.[frameworks]'`; the results are in frameworks.json.

The task is the same for all (benchmarks/frameworks/task.py): 5,400 / 600 / 2,000 images of the embedded Fashion-MNIST
without augmentation, a CNN of 52,138 parameters, batches of {task.BATCH}, AdamW at {task.LR:g}, validation after each
epoch, one thread. What each user writes is in benchmarks/frameworks/peers/, as the framework's documentation has it.
Progress bars, loggers, checkpoints, clipping and early stopping are off in all; effbench still writes metrics.csv,
summary.json and curves.png, and effbench, skorch and Keras also compute the mean loss or accuracy of training. All but
Keras use torch's fused AdamW. All that take a DataLoader get one that reads a batch by one indexing, without joining
samples."""
NOTES = f"""{RULE}

A process is one run from start to exit, imports included; training is the call that trains and tests, in
which effbench imports most of its own. Both, peak resident memory of the process and accuracy are over the seeds;
accuracies differ by seed (± standard deviation), and show that all learn the same.

The overhead: seconds from one forward pass of training to the next, within an epoch, less those of the loop by hand in
the same round; the processes take turns of {SLICE_STEPS} steps. The loop by hand against itself is the control.
effbench keeps freed memory for the next step (glibc's mallopt) and, on AMD processors with
AVX-512, computes linear layers by its own kernels. The others do neither, so its overhead may be below zero."""


def write_page(path: Path) -> None:
    """Write the page and its figure beside the journal at `path`."""
    kept = read(path)
    whole = {name: entry for name, entry in kept.items() if entry["runs"] and entry["overhead_s"]}
    figure = path.with_suffix(".svg")
    figure.write_text(draw(whole), encoding="utf-8")
    path.with_suffix(".md").write_text(page(kept, whole, figure.name), encoding="utf-8")


def page(kept: Mapping[str, Any], whole: Mapping[str, Any], figure: str) -> str:
    """Return the page.

    Args:
        kept: every framework of the journal.
        whole: those that were measured.
        figure: name of the figure's file.
    """
    lines = [f"| {' | '.join(COLUMNS)} |", f"|{' --- |' * len(COLUMNS)}"]
    lines += [f"| {' | '.join(_cells(name, entry))} |" for name, entry in whole.items()]
    left_out = [
        f"{entry['title']}: {entry['problem'] or 'not measured'}" for n, entry in kept.items() if n not in whole
    ]
    parts = [HEAD, "\n".join(lines), *beside_ours(whole), f"![{TITLE}]({figure})", NOTES, _measured(whole)]
    if left_out:
        parts.append(f"Left out: {'; '.join(left_out)}.")
    return "\n\n".join(parts) + "\n"


def overhead(entry: Mapping[str, Any]) -> Interval:
    """Return the median milliseconds that a step takes beyond the bare loop's."""
    return median_interval([1e3 * value for value in entry["overhead_s"]])


def beside_ours(whole: Mapping[str, Any]) -> list[str]:
    """Return a sentence on whose steps are longer or shorter than effbench's, paired by rounds; [] without any."""
    ours = whole.get(OURS)
    if ours is None:
        return []
    groups: dict[str, list[str]] = {"longer": [], "not told apart": [], "shorter": []}
    for name, entry in whole.items():
        if name == OURS or entry["bare_step_s"] != ours["bare_step_s"]:
            continue  # measured at another time
        own = [0.0] * len(ours["overhead_s"]) if name == BARE else entry["overhead_s"]
        beyond = median_interval([1e3 * (a - b) for a, b in zip(own, ours["overhead_s"], strict=True)])
        kind = "longer" if beyond.low > 0 else "shorter" if beyond.high < 0 else "not told apart"
        groups[kind].append(f"{entry['title']} {beyond.estimate:+.2f} ms [{beyond.low:+.2f}, {beyond.high:+.2f}]")
    told = "; ".join(f"{kind}: {', '.join(names)}" for kind, names in groups.items() if names)
    return [f"Steps beside effbench's, in the same rounds. {told[0].upper()}{told[1:]}."] if told else []


def _cells(name: str, entry: Mapping[str, Any]) -> list[str]:
    runs = entry["runs"]
    accuracies = [100 * run["accuracy"] for run in runs]
    spread = f" ± {deviation(accuracies):.1f}" if len(runs) > 1 else ""
    found = overhead(entry)
    beyond = f"{found.estimate:.2f} [{found.low:.2f}, {found.high:.2f}]"
    return [
        f"{entry['title']} {entry['version']}".strip(),
        str(entry["lines"]),
        _seconds([run["seconds"] for run in runs]),
        _seconds([run["train_s"] for run in runs]),
        f"{median([run['peak_bytes'] for run in runs]) / 1e6:.0f}",
        f"0, a step {1e3 * median(entry['bare_step_s']):.2f}; control {beyond}" if name == BARE else beyond,
        f"{mean(accuracies):.1f}{spread} (n = {len(runs)})",
    ]


def _seconds(values: list[float]) -> str:
    return f"{three_digits(median(values))} [{three_digits(min(values))}, {three_digits(max(values))}]"


def _measured(whole: Mapping[str, Any]) -> str:
    """Return when, at which commit, how much and on what machine it was measured, once each."""
    texts: dict[str, list[str]] = {}
    for entry in whole.values():
        plan, machine = entry["plan"], entry["machine"]
        what = (
            f"{entry['date']} at {entry['commit']}: {plan['seeds']} seeds of {plan['epochs']} epochs, "
            f"{len(entry['overhead_s'])} rounds of steps; "
            + ", ".join(f"{key} {value}" for key, value in machine.items())
        )
        texts.setdefault(what, []).append(entry["title"])
    lines = []
    for what, titles in texts.items():
        of = f" ({', '.join(titles)})" if len(texts) > 1 else ""
        lines.append(f"Measured {what}{of}.")
    return (
        "\n".join(lines) + " Seconds: the median over seeds with least and most; the overhead: the median over rounds "
        "with its bootstrap 95 % interval."
    )


def draw(whole: Mapping[str, Any]) -> str:
    """Return the quadrant figure as an SVG file."""
    figure = quadrants(whole)
    return sheet([figure], figure.text)


def quadrants(whole: Mapping[str, Any]) -> Figure:
    """Return the figure: lines of user code across, milliseconds of overhead up, divided at the medians."""
    bottom = FIGURE_HEIGHT - (HEIGHT - BOTTOM)
    found = {name: Interval(0.0, 0.0, 0.0, 1) if name == BARE else overhead(entry) for name, entry in whole.items()}
    lines = {name: float(entry["lines"]) for name, entry in whole.items()}
    x_low, x_high = span(list(lines.values()), margin=0.25)
    y_low, y_high = span([end for each in found.values() for end in (each.low, each.high)], margin=0.25)
    to_x, to_y = scale(x_low, x_high, LEFT, RIGHT), scale(y_low, y_high, bottom, TOP)
    marks = []
    for index, (name, each) in enumerate(found.items()):
        x, y = round(to_x(lines[name]), 1), round(to_y(each.estimate), 1)
        bars = [f"{x},{to_y(each.low):.1f} {x},{to_y(each.high):.1f}"] * (each.high > each.low)
        marks.append(Mark(whole[name]["title"], index, x, y, bars, "on the front"))
    panel = Panel(
        f"{TITLE}, ms", "lines of user code", [],
        [Tick(round(to_x(x), 1), f"{x:.4g}") for x in ticks(x_low, x_high)],
        [Tick(round(to_y(y), 1), f"{y:.3g}") for y in ticks(y_low, y_high)],
    )  # fmt: skip

    others = [name for name in whole if name != BARE] or list(whole)
    middle_x = to_x(median([lines[name] for name in others]))
    middle_y = to_y(median([found[name].estimate for name in others]))
    guides = [f"{middle_x:.1f},{TOP} {middle_x:.1f},{bottom}", f"{LEFT},{middle_y:.1f} {RIGHT},{middle_y:.1f}"]
    corners = [
        Label(x, y, f"{amount} lines, {length} steps", anchor)
        for x, amount, anchor in ((LEFT + 4, "fewer", "start"), (RIGHT - 4, "more", "end"))
        for y, length in ((TOP + 9, "longer"), (bottom - 5, "shorter"))
    ]
    facts = [f"{whole[name]['title']}: {lines[name]:.0f} lines, {each.estimate:.2f} ms" for name, each in found.items()]
    labels = [*corners, *names_beside(marks, bottom, corners)]
    return Figure(
        panel, text=f"{TITLE}. {'; '.join(facts)}", labels=labels, marks=marks, guides=guides, height=FIGURE_HEIGHT,
        bottom=bottom, named=True,
    )  # fmt: skip
