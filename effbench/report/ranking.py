"""Tables of runs: comparable runs are ranked together; seeds of one config become mean ± standard deviation."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from effbench.metrics import LOSS, Display
from effbench.report.collect import RunRecord, shortened
from effbench.report.spread import number_text, seconds, within_spread
from effbench.report.sweep import BETTER, Job, mode_of, ranked, result_row, speed_columns, test_columns
from effbench.stats import deviation, mean
from effbench.units import SPEED, counted, human_bytes, human_count

MOST_KEYS, MOST_IN_FRONT = 8, 4  # columns of config keys, and how many of them come before the results
_COST = ("parameters", "macs", "training_s", "peak_rss_bytes", "peak_cuda_bytes")
_ALWAYS = ("overrides", "n")
_CONSTANT = ("parameters", "macs", "states")  # no column if all rows have the same value
_DIVISION = ("data.val_fraction", "data.split_seed", "trainer.limit_val_batches", "trainer.limit_test_batches")
_ABSENT = object()  # the value of a key that a run does not have


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Attributes:
        name: key in JSON.
        head: title for people.
        text: how a value is written, unless it is a metric.
        numeric: True for numbers.
        metric: the metric that its values belong to.
        drop_order: order of removal on a narrow terminal, the highest first; 0: never removed.
    """

    name: str
    head: str
    text: Callable[[Any], str] = str
    numeric: bool = True
    metric: str | None = None
    drop_order: int = 0


@dataclass(frozen=True)
class Group:
    """Finished runs of one config, which differ only in their seed.

    Attributes:
        runs: the runs.
        unfinished: number of further seeds that did not finish.
    """

    runs: Sequence[RunRecord]
    unfinished: int = 0


@dataclass(frozen=True)
class Table:
    """Groups, best first, with one row of values each.

    Attributes:
        data: the dataset.
        metric: the metric that chose the best checkpoints; None if none did.
        keys: config keys that distinguish groups with one name.
        groups: the groups.
        rows: column name -> value of each group.
        columns: the columns.
        notes: what a reader must know about the table.
        displays: metric name -> display of the runs.
    """

    data: str
    metric: str | None
    keys: Sequence[str]
    groups: Sequence[Group]
    rows: Sequence[Mapping[str, Any]]
    columns: Sequence[Column]
    notes: Sequence[str]
    displays: Mapping[str, Display]

    def cells(self, row: Mapping[str, Any]) -> list[str]:
        """Return the texts of a row, one a column."""
        return [_text(column, row, self.displays) for column in self.columns]


def _text(column: Column, row: Mapping[str, Any], displays: Mapping[str, Display]) -> str:
    value = row.get(column.name)
    if column.name == "n":  # the number of runs, of how many started, and of seeds if some ran twice
        text = f"{row['n']} of {row['n'] + row['unfinished']}" if row["unfinished"] else str(row["n"])
        return text if row["seeds"] == row["n"] else f"{text} with {counted(row['seeds'], 'seed')}"
    if value is None:
        return ""
    if column.metric is None:
        return column.text(value)
    return number_text(column.metric, value, row.get(f"{column.name}±"), displays)


def label(run: RunRecord) -> str:
    """Return 'model + optimizer', as far as they are known."""
    model = run.part("model")
    names = model.get("name"), model.get("optimizer")
    return " + ".join(name for name in names if name) or "unknown model"


def tables(records: Sequence[RunRecord]) -> list[Table]:
    """Return one table for each dataset, split of it, and metric that chose the best checkpoint, with its mode.

    The largest table comes first. Runs that were validated on different samples are not comparable, so they are in
    different tables.
    """
    alike: dict[tuple[str | None, ...], list[RunRecord]] = defaultdict(list)
    unfinished: dict[frozenset[str], set[str]] = defaultdict(set)  # experiment -> seeds without a result
    for run in records:
        # a run that did not finish was not tested: it is listed, not ranked
        if run.finished:
            data, best = run.part("data"), run.part("best")
            metric = best.get("metric") if best.get("value") is not None else None
            mode = mode_of(metric, run.displays)  # a metric of the user may have a shipped one's name and another mode
            alike[metric, mode, str(data.get("name")), str(data.get("sha256")), *division(run)].append(run)
        elif run.experiment is not None:
            unfinished[run.experiment].add(str(run.config.get("seed")))

    largest = sorted(alike.items(), key=lambda entry: (entry[0][0] is None, -len(entry[1])))
    several = len({key[4:] for key in alike}) > 1  # the headings then name the division into splits
    found = [_table(runs, unfinished, several) for _, runs in largest]

    # metrics of one name: the headings say which values are better
    modes = {key[:2] for key in alike}
    names = [metric for metric, _ in modes]
    found = [
        replace(table, data=f"{table.data} ({table.metric}: {BETTER[str(mode)]})") if names.count(metric) > 1 else table
        for table, ((metric, mode, *_), _) in zip(found, largest, strict=True)
    ]

    # different data of one name: the headings show the digest
    digests: dict[str, set[str]] = defaultdict(set)
    own = [str(table.groups[0].runs[0].part("data").get("sha256")) for table in found]
    for table, digest in zip(found, own, strict=True):
        digests[table.data].add(digest)
    return [
        replace(table, data=f"{table.data} {digest[:8]}") if len(digests[table.data]) > 1 else table
        for table, digest in zip(found, own, strict=True)
    ]


def division(run: RunRecord) -> tuple[str, ...]:
    """Return the settings, besides the dataset, that decide which samples validate and test a run."""
    return tuple(f"{key}={run.config[key]}" for key in _DIVISION if run.config.get(key) is not None)


def _table(runs: Sequence[RunRecord], unfinished: Mapping[frozenset[str], set[str]], several: bool) -> Table:
    groups = _grouped(runs, unfinished)
    distinguishing, following = differing_keys([group.runs[0] for group in groups])
    # keys that tell runs of one name apart stand next to the name; the others at the end
    front, rest = distinguishing[:MOST_IN_FRONT], [*distinguishing[MOST_IN_FRONT:], *following]
    end, hidden = rest[: MOST_KEYS - len(front)], rest[MOST_KEYS - len(front) :]
    rows = ranked([_row(group, [*front, *end]) for group in groups])
    # `ranked` sorts rows; the groups follow by the number of their first run
    by_number = {group.runs[0].number: group for group in groups}
    ordered = [by_number[row["job"]] for row in rows]
    metric = rows[0]["metric"]
    data = str(runs[0].part("data").get("name") or "unknown data")
    if several and (cut := division(runs[0])):
        data += f" ({', '.join(cut)})"
    columns, notes = _columns(rows, front, end, metric), _notes(ordered, rows, hidden)
    displays = {name: display for group in ordered for name, display in group.runs[0].displays.items()}
    return Table(data, metric, front, ordered, rows, columns, notes, displays)


def _grouped(runs: Sequence[RunRecord], unfinished: Mapping[frozenset[str], set[str]]) -> list[Group]:
    """Group runs by experiment. A run whose config cannot be read is a group with one run."""
    alike: dict[Any, list[RunRecord]] = defaultdict(list)
    for run in runs:
        alike[run.number if run.experiment is None else run.experiment].append(run)
    groups = []
    for experiment, members in alike.items():
        # a seed that finished in another run folder counts as finished
        started = unfinished.get(experiment, set()) - {str(run.config.get("seed")) for run in members}
        groups.append(Group(members, len(started)))
    return groups


def differing_keys(runs: Sequence[RunRecord]) -> tuple[list[str], list[str]]:
    """Return the config keys that differ between runs.

    The seed is left out, and so are options of a model or an optimizer that are equal in all runs with that name.

    Returns:
        (keys that distinguish runs of one model and optimizer; keys whose values follow from model and optimizer).
    """
    known = [run for run in runs if run.experiment is not None]
    keys = dict.fromkeys(key for run in known for key in run.config if key != "seed")
    labels = list(map(label, known))
    distinguishing: list[str] = []
    following: list[str] = []
    for key in keys:
        values = [run.config.get(key, _ABSENT) for run in known]
        if values.count(values[0]) == len(values):  # the usual case, and quicker than comparing texts
            continue
        texts = list(map(shortened, values))
        if len(set(texts)) == 1:
            continue
        part = {"model": "name", "optimizer": "optimizer"}.get(key.partition(".")[0])
        if part is not None and _follows(texts, [str(run.part("model").get(part)) for run in known]):
            continue
        (following if _follows(texts, labels) else distinguishing).append(key)
    distinguishing.sort(
        key=lambda key: any(key not in run.config for run in known)
    )  # keys that all runs have come first
    return distinguishing, following


def _follows(texts: Sequence[str], names: Sequence[str]) -> bool:
    """Return True if each name has exactly one text."""
    return len(set(zip(names, texts, strict=True))) == len(set(names))


def _row(group: Group, keys: Sequence[str]) -> dict[str, Any]:
    """Return a row: means over the group's seeds, and standard deviations as NAME±."""
    by_seed: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for run in group.runs:
        mappings = {name: run.part(name) for name in ("metrics", "timing", "model", "memory")}
        # as in the table of a sweep; a damaged section of the summary counts as empty
        row = result_row(Job(run.number, [label(run)], run.folder), {**(run.summary or {}), **mappings})
        row |= {f"val/{name}": run.part("metrics").get(f"val/{name}") for name in run.displays}
        row |= {"macs": run.part("model").get("macs"), "peak_cuda_bytes": run.part("memory").get("peak_cuda_bytes")}
        by_seed[str(run.config.get("seed"))].append(row)

    row = dict(by_seed[str(group.runs[0].config.get("seed"))][0])
    spread = ("value", *(name for name in row if name.startswith(("val/", "test/"))))  # what a seed changes
    for name in (*spread, *_COST, *speed_columns([row])):
        # runs of one seed are not independent samples: their mean counts once
        own = [[each[name] for each in rows if each.get(name) is not None] for rows in by_seed.values()]
        values = [mean(found) for found in own if found]
        row[name] = mean(values) if values else None
        # only over all seeds: a deviation over some of them would be misleading
        of_all = len(values) == len(by_seed) > 1
        row[f"{name}±"] = deviation(values) if name in spread and of_all else None
    states = Counter(run.status for run in group.runs)
    config = group.runs[0].config
    return row | {
        "n": len(group.runs),
        "seeds": len(by_seed),
        "unfinished": group.unfinished,
        "states": ", ".join(f"{count} {state}" if len(states) > 1 else state for state, count in states.items()),
        **{f"config {key}": shortened(config[key], 60) if key in config else "" for key in keys},
    }


def _columns(
    rows: Sequence[Mapping[str, Any]], front: Sequence[str], end: Sequence[str], metric: str | None
) -> list[Column]:
    """Return the columns with information: not those that are empty, nor costs that are equal in all rows."""
    tests = test_columns(rows)
    vals = [f"val/{name.partition('/')[2]}" for name in tests]
    losses = {f"val/{LOSS}", f"test/{LOSS}"}
    columns = [
        Column("rank", "rank"),
        Column("overrides", "run", numeric=False),
        *(Column(f"config {key}", key.replace(".", ".\n", 1), numeric=False, drop_order=1) for key in front),
        Column("n", "n", drop_order=3),
        Column("value", f"best {metric}", metric=metric or ""),
        *(Column(name, name.replace("/", " "), metric=name, drop_order=12 if name in losses else 2) for name in tests),
        *(
            Column(name, f"last {name.replace('/', ' ')}", metric=name, drop_order=13 if name in losses else 11)
            for name in vals
            if name != metric
        ),
        Column("parameters", "params", human_count, drop_order=5),
        Column("macs", "MACs", human_count, drop_order=9),
        *(
            Column(name, f"{name.removesuffix(SPEED)}/s", lambda value: f"{value:.0f}", drop_order=6)
            for name in speed_columns(rows)
        ),
        Column("training_s", "training", seconds, drop_order=4),
        Column("peak_rss_bytes", "peak memory", human_bytes, drop_order=8),
        Column("peak_cuda_bytes", "peak GPU", human_bytes, drop_order=7),
        Column("states", "status", lambda states: states.replace("_", " "), numeric=False, drop_order=10),
        *(Column(f"config {key}", key.replace(".", ".\n", 1), numeric=False, drop_order=14) for key in end),
    ]
    kept = []
    for column in columns:
        values = {row.get(column.name) for row in rows}
        constant = column.name in _CONSTANT and len(rows) > 1 and len(values) == 1
        if column.name in _ALWAYS or (values - {None, ""} and not constant):
            kept.append(column)
    return kept


def _notes(groups: Sequence[Group], rows: Sequence[Mapping[str, Any]], hidden: Sequence[str]) -> list[str]:
    """Return what a reader must know about the table."""
    notes = []
    if rows[0]["rank"] is None:
        notes.append("Without ranks: no metric chose a best checkpoint.")
    elif len(rows) > 1 and all(row["value±"] is None for row in rows[:2]):
        notes.append("One seed a config: a small difference may come from the seed.")
    elif doubt := within_spread(rows):
        notes.append(doubt)

    machines = set()
    for run in (run for group in groups for run in group.runs):
        facts = (run.part("environment").get(key) for key in ("cpu", "cores", "threads", "kernels", "gpus"))
        machines.add(tuple(map(str, ((run.summary or {}).get("device"), *facts))))
    if len(machines) > 1:
        notes.append(
            "Measured on different machines or devices, or with and without compiled functions: times, speed and "
            "memory cannot be compared."
        )
    if hidden:
        listed = ", ".join(hidden[:20])
        notes.append(f"{len(hidden)} more config keys differ: {listed}{', …' if len(hidden) > 20 else ''}.")
    return notes
