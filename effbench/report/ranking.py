"""Tables of runs: comparable runs are ranked together; seeds of one config become mean ± standard deviation."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from effbench.metrics import LOSS, Display
from effbench.report.collect import RunRecord, shortened
from effbench.report.spread import number_text, seconds, within_spread
from effbench.report.sweep import Job, ranked, result_row, speed_columns, test_columns
from effbench.stats import deviation, mean
from effbench.units import SPEED, human_bytes, human_count

MOST_KEYS, MOST_IN_FRONT = 8, 4  # columns of config keys, and how many of them come before the results
_COST = ("parameters", "macs", "training_s", "peak_rss_bytes", "peak_cuda_bytes")
_ALWAYS = ("overrides", "n")
_CONSTANT = ("parameters", "macs", "states")  # no column if all rows have the same value


_DIVISION = ("data.val_fraction", "data.split_seed", "trainer.limit_val_batches", "trainer.limit_test_batches")


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Attributes:
        name: key in JSON.
        head: title for people.
        text: how a value is written, unless it is a metric.
        numeric: True for numbers.
        metric: the metric that its values belong to.
        leaves: order of removal on a narrow terminal, the highest first; 0: never removed.
    """

    name: str
    head: str
    text: Callable[[Any], str] = str
    numeric: bool = True
    metric: str | None = None
    leaves: int = 0


@dataclass(frozen=True)
class Group:
    """Finished runs of one config, which differ only in their seed.

    Attributes:
        runs: the runs.
        unfinished: number of further seeds that did not finish.
    """

    runs: Sequence[RunRecord]
    unfinished: int = 0

    @property
    def seeds(self) -> int:
        return len({str(run.config.get("seed")) for run in self.runs})

    @property
    def label(self) -> str:
        return label(self.runs[0])


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
    """

    data: str
    metric: str | None
    keys: Sequence[str]
    groups: Sequence[Group]
    rows: Sequence[Mapping[str, Any]]
    columns: Sequence[Column]
    notes: Sequence[str]

    @property
    def displays(self) -> dict[str, Display]:
        """Metric name -> display of its runs."""
        return {name: display for group in self.groups for name, display in group.runs[0].displays.items()}

    @property
    def tests(self) -> list[str]:
        """Columns of test metrics."""
        return test_columns(self.rows)

    def cells(self, row: Mapping[str, Any]) -> list[str]:
        return [_written(column, row, self.displays) for column in self.columns]


def label(run: RunRecord) -> str:
    """Return 'model + optimizer', as far as they are known."""
    model = run.part("model")
    names = model.get("name"), model.get("optimizer")
    return " + ".join(name for name in names if name) or "unknown model"


def tables(records: Sequence[RunRecord]) -> list[Table]:
    """Return one table for each dataset, split of it, and metric that chose the best checkpoint.

    The largest table comes first. Runs that were validated on different samples are not comparable, so they are in
    different tables.
    """
    alike: dict[tuple[str, ...], list[RunRecord]] = defaultdict(list)
    finished = [run for run in records if run.finished]
    for run in finished:
        data, metric = run.part("data"), _metric(run.part("best"))
        alike[str(data.get("name")), str(data.get("sha256")), str(metric), *_division(run)].append(run)
    largest = sorted(alike.values(), key=lambda runs: (_metric(runs[0].part("best")) is None, -len(runs)))
    unfinished = _unfinished_seeds(records)
    several = len(set(map(_division, finished))) > 1
    return _told_apart([_table(runs, unfinished, several) for runs in largest])


def _told_apart(found: Sequence[Table]) -> list[Table]:
    """Add the digest to the headings of tables with different data of one name."""
    digests: dict[str, set[str]] = defaultdict(set)
    for table in found:
        digests[table.data].add(_digest(table))
    return [
        replace(table, data=f"{table.data} {_digest(table)[:8]}") if len(digests[table.data]) > 1 else table
        for table in found
    ]


def _digest(table: Table) -> str:
    return str(table.groups[0].runs[0].part("data").get("sha256"))


def _division(run: RunRecord) -> tuple[str, ...]:
    """Return the settings, besides the dataset, that decide which samples validate and test a run."""
    return tuple(f"{key}={run.config[key]}" for key in _DIVISION if run.config.get(key) is not None)


def _metric(best: Mapping[str, Any]) -> str | None:
    return best.get("metric") if best.get("value") is not None else None


def _unfinished_seeds(records: Sequence[RunRecord]) -> dict[frozenset[str], set[str]]:
    """Map each experiment to the seeds that started and have no result."""
    seeds: dict[frozenset[str], set[str]] = defaultdict(set)
    for run in records:
        if not run.finished and run.experiment is not None:
            seeds[run.experiment].add(str(run.config.get("seed")))
    return seeds


def _table(runs: Sequence[RunRecord], unfinished: Mapping[frozenset[str], set[str]], several: bool) -> Table:
    groups = _grouped(runs, unfinished)
    apart, following = differing_keys([group.runs[0] for group in groups])
    front, rest = apart[:MOST_IN_FRONT], [*apart[MOST_IN_FRONT:], *following]
    end, unshown = rest[: MOST_KEYS - len(front)], rest[MOST_KEYS - len(front) :]
    rows = ranked([_row(group, [*front, *end]) for group in groups])
    by_number = {group.runs[0].number: group for group in groups}
    ordered = [by_number[row["job"]] for row in rows]
    metric = rows[0]["metric"]
    data = str(runs[0].part("data").get("name") or "unknown data")
    if several and (division := _division(runs[0])):
        data += f" ({', '.join(division)})"
    columns = _columns(rows, front, end, metric)
    return Table(data, metric, front, ordered, rows, columns, _notes(ordered, rows, unshown))


def _grouped(runs: Sequence[RunRecord], unfinished: Mapping[frozenset[str], set[str]]) -> list[Group]:
    """Group runs by experiment. A run whose config cannot be read is a group with one run."""
    alike: dict[Any, list[RunRecord]] = defaultdict(list)
    for run in runs:
        alike[run.number if run.experiment is None else run.experiment].append(run)
    groups = []
    for experiment, members in alike.items():
        # a seed that finished in another run folder counts as finished
        begun = unfinished.get(experiment, set()) - {str(run.config.get("seed")) for run in members}
        groups.append(Group(members, len(begun)))
    return groups


def differing_keys(runs: Sequence[RunRecord]) -> tuple[list[str], list[str]]:
    """Return the config keys that differ between runs.

    The seed is left out, and so are options of a model or an optimizer that are equal in all runs with that name.

    Returns:
        (keys that distinguish runs of one model and optimizer; keys whose values follow from model and optimizer).
    """
    known = [run for run in runs if run.experiment is not None]
    keys = dict.fromkeys(key for run in known for key in run.config if key != "seed")
    apart: list[str] = []
    following: list[str] = []
    for key in keys:
        values = [run.config.get(key, _ABSENT) for run in known]
        if values.count(values[0]) == len(values):
            continue
        texts = list(map(shortened, values))
        if len(set(texts)) == 1 or _told_by_name(key, texts, known):
            continue
        (following if _follows(texts, list(map(label, known))) else apart).append(key)
    apart.sort(key=lambda key: any(key not in run.config for run in known))  # keys that all runs have come first
    return apart, following


def _told_by_name(key: str, texts: Sequence[str], runs: Sequence[RunRecord]) -> bool:
    """Return True for an option of the model or optimizer that is equal in all runs with that name."""
    part = {"model": "name", "optimizer": "optimizer"}.get(key.partition(".")[0])
    return part is not None and _follows(texts, [_name(run, part) for run in runs])


_ABSENT = object()


def _follows(texts: Sequence[str], names: Sequence[str]) -> bool:
    """Return True if each name has exactly one text."""
    return len(set(zip(names, texts, strict=True))) == len(set(names))


def _name(run: RunRecord, part: str) -> str:
    return str(run.part("model").get(part))


def _row(group: Group, keys: Sequence[str]) -> dict[str, Any]:
    """Return a row: means over the group's seeds, and standard deviations as NAME±."""
    by_seed: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for run in group.runs:
        by_seed[str(run.config.get("seed"))].append(_own_row(run))
    row = dict(by_seed[str(group.runs[0].config.get("seed"))][0])
    spread = ("value", *(name for name in row if name.startswith(("val/", "test/"))))  # what a seed changes
    for name in (*spread, *_COST, *speed_columns([row])):
        values = [value for rows in by_seed.values() if (value := _mean_of(rows, name)) is not None]
        row[name] = mean(values) if values else None
        # only over all seeds: a deviation over some of them would be misleading
        of_all = len(values) == group.seeds > 1
        row[f"{name}±"] = deviation(values) if name in spread and of_all else None
    states = Counter(run.status for run in group.runs)
    config = group.runs[0].config
    return row | {
        "n": len(group.runs),
        "seeds": group.seeds,
        "unfinished": group.unfinished,
        "states": ", ".join(f"{count} {state}" if len(states) > 1 else state for state, count in states.items()),
        **{f"config {key}": shortened(config[key], 60) if key in config else "" for key in keys},
    }


def _mean_of(rows: Sequence[Mapping[str, Any]], name: str) -> float | None:
    """Return the mean over runs of one seed, which are not independent samples."""
    values = [row[name] for row in rows if row.get(name) is not None]
    return mean(values) if values else None


def _own_row(run: RunRecord) -> dict[str, Any]:
    metrics = run.part("metrics")
    mappings = {name: run.part(name) for name in ("metrics", "timing", "model", "memory")}
    return {
        **result_row(Job(run.number, [label(run)], run.folder), {**(run.summary or {}), **mappings}),
        **{f"val/{name}": metrics.get(f"val/{name}") for name in run.displays},
        "macs": run.part("model").get("macs"),
        "peak_cuda_bytes": run.part("memory").get("peak_cuda_bytes"),
    }


def _of_config(key: str, leaves: int) -> Column:
    return Column(f"config {key}", key.replace(".", ".\n", 1), numeric=False, leaves=leaves)


def _columns(
    rows: Sequence[Mapping[str, Any]], front: Sequence[str], end: Sequence[str], metric: str | None
) -> list[Column]:
    """Return the columns with information: not those that are empty, nor costs that are equal in all rows."""
    tests = test_columns(rows)
    vals = [f"val/{name.partition('/')[2]}" for name in tests]
    columns = [
        Column("rank", "rank"),
        Column("overrides", "run", numeric=False),
        *(_of_config(key, leaves=1) for key in front),
        Column("n", "n", leaves=3),
        Column("value", f"best {metric}", metric=metric or ""),
        *(Column(name, name.replace("/", " "), metric=name, leaves=12 if _is_loss(name) else 2) for name in tests),
        *(
            Column(name, f"last {name.replace('/', ' ')}", metric=name, leaves=13 if _is_loss(name) else 11)
            for name in vals
            if name != metric
        ),
        Column("parameters", "params", human_count, leaves=5),
        Column("macs", "MACs", human_count, leaves=9),
        *(
            Column(name, f"{name.removesuffix(SPEED)}/s", lambda value: f"{value:.0f}", leaves=6)
            for name in speed_columns(rows)
        ),
        Column("training_s", "training", seconds, leaves=4),
        Column("peak_rss_bytes", "peak memory", human_bytes, leaves=8),
        Column("peak_cuda_bytes", "peak GPU", human_bytes, leaves=7),
        Column("states", "status", lambda states: states.replace("_", " "), numeric=False, leaves=10),
        *(_of_config(key, leaves=14) for key in end),
    ]
    return [column for column in columns if column.name in _ALWAYS or _tells(column, rows)]


def _tells(column: Column, rows: Sequence[Mapping[str, Any]]) -> bool:
    values = {row.get(column.name) for row in rows}
    if column.name in _CONSTANT and len(rows) > 1 and len(values) == 1:
        return False
    return bool(values - {None, ""})


def _is_loss(column: str) -> bool:
    return column.endswith(f"/{LOSS}")


def _written(column: Column, row: Mapping[str, Any], displays: Mapping[str, Display]) -> str:
    value = row.get(column.name)
    if column.name == "n":
        return _count(row)
    if value is None:
        return ""
    if column.metric is None:
        return column.text(value)
    return number_text(column.metric, value, row.get(f"{column.name}±"), displays)


def _count(row: Mapping[str, Any]) -> str:
    """Return the number of runs, of how many started, and of seeds if some ran twice."""
    text = f"{row['n']} of {row['n'] + row['unfinished']}" if row["unfinished"] else str(row["n"])
    return text if row["seeds"] == row["n"] else f"{text} (seeds: {row['seeds']})"


def _notes(groups: Sequence[Group], rows: Sequence[Mapping[str, Any]], unshown: Sequence[str]) -> list[str]:
    """Return what a reader must know about the table."""
    notes = []
    if rows[0]["rank"] is None:
        notes.append("Without ranks: no metric chose a best checkpoint.")
    elif len(rows) > 1:
        notes += _doubt(rows)
    if len({_machine(run) for group in groups for run in group.runs}) > 1:
        notes.append(
            "Measured on different machines or devices, or with and without compiled functions: times, speed and "
            "memory cannot be compared."
        )
    if unshown:
        listed = ", ".join(unshown[:20])
        notes.append(f"{len(unshown)} more config keys differ: {listed}{', …' if len(unshown) > 20 else ''}.")
    return notes


def _doubt(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return a warning if the first two rows cannot be distinguished."""
    if all(row["value±"] is None for row in rows[:2]):
        return ["One seed a config: a small difference may come from the seed."]
    doubt = within_spread(rows)
    return [doubt] if doubt else []


def _machine(run: RunRecord) -> tuple[str, ...]:
    environment = run.part("environment")
    facts = (environment.get(key) for key in ("cpu", "cores", "threads", "kernels", "gpus"))
    return tuple(map(str, ((run.summary or {}).get("device"), *facts)))
