"""`effbench verify RUN`: check that a run folder is complete and consistent. Each check reads the record again."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from effbench.config.compare import config_digest
from effbench.config.yaml_text import parse_yaml, read_record
from effbench.console import writes_unicode
from effbench.disk import followed, pointed
from effbench.errors import shown
from effbench.guarded import METRICS_BYTES, read_text
from effbench.metrics import display_of, metric_of, recorded_displays
from effbench.records import FINISHED, STATUSES, STUDY_FILE, read_any_summary, read_metrics, sha256_of
from effbench.report.compression import NAME as COMPRESSION
from effbench.report.compression import compressed_file, read_compression
from effbench.strict_json import json_text
from effbench.summary_schema import LARGEST, complaints, without_wrong_fields
from effbench.training.checkpoint_files import committed, read_checkpoint, read_manifest
from effbench.units import counted

MOST_ROWS = METRICS_BYTES // 20  # upper limit for the rows of a metrics.csv
_CELL = 1e-6  # metrics.csv holds eight significant digits


@dataclass(frozen=True)
class Check:
    """The result of a check.

    Attributes:
        name: what was checked.
        detail: what was found.
        problem: what is wrong, or None.
    """

    name: str
    detail: str
    problem: str | None = None


class _CheckFailedError(Exception):
    """A check failed."""


def verify_run(folder: Path) -> list[Check]:
    """Run every check of a run folder, in order. Raise ConfigError if it is not a run."""
    summary = read_any_summary(folder)
    summary.setdefault("status", None)  # the first check says that it is missing
    # values of a wrong type become None, so that the checks below meet none
    wrong = list(complaints(without_wrong_fields(summary)))
    # without the folder of a checkpoint that a kill left half written
    saved = committed(folder / "checkpoints")
    checks: list[tuple[str, Callable[[], str]]] = [
        ("summary", partial(_summary, summary, wrong)),
        ("config", partial(_config, folder)),
        *((f"checkpoint {path.name}", partial(_checkpoint, path)) for path in saved),
        ("links", partial(_links, folder, summary)),
        ("config of the last checkpoint", partial(_same_config, folder)),
        ("sessions", partial(_sessions, folder, summary)),
        ("metrics", partial(_metrics, folder, summary)),
        ("summary agrees with metrics", partial(_agreement, folder, summary)),
    ]
    if (folder / COMPRESSION).exists():
        checks.append(("compression", partial(_compression, folder)))
    results = []
    for name, look in checks:
        try:
            results.append(Check(name, look()))
        except _CheckFailedError as problem:
            results.append(Check(name, "", str(problem)))
        except Exception as error:  # noqa: BLE001 - a damaged record may raise anything; the check has failed
            results.append(Check(name, "", " ".join(str(error).split()) or repr(error)))
    return results


def _require(holds: bool, problem: str) -> None:
    if not holds:
        raise _CheckFailedError(problem)


def _summary(summary: Mapping[str, Any], wrong: Sequence[str]) -> str:
    _require(not wrong, "; ".join(wrong[:5]))
    status = summary["status"]
    _require(status in STATUSES, f"status {shown(status)} is not one of {', '.join(STATUSES)}")
    missing = [key for key in ("metrics", "model", "data", "timing", "environment", "argv") if key not in summary]
    # a run that failed before it started has only a status and an error
    _require(status == "failed" or not missing, f"summary.json lacks {', '.join(missing)}")
    return str(status)


def _config(folder: Path) -> str:
    from effbench.config.compose import parse
    from effbench.config.versions import upgraded

    content = read_record(folder / "config.yaml")
    parse(upgraded(content, "config.yaml"))
    return f"sha256 {config_digest(content)[:12]}"


def _checkpoint(path: Path) -> str:
    manifest = read_manifest(path)
    read_checkpoint(path)
    # a file that the manifest does not list would be loaded unchecked
    unlisted = sorted({file.name for file in path.iterdir()} - {"manifest.json", *manifest["sha256"]})
    _require(not unlisted, f"{path} holds {', '.join(unlisted)}, of which its manifest lists no sha256")
    return f"{counted(len(manifest['sha256']), 'file')}, digests right"


def _links(folder: Path, summary: Mapping[str, Any]) -> str:
    """`last` points to the newest checkpoint, `best` to the one that the summary names."""
    checkpoints = folder / "checkpoints"
    # a run that failed early has no checkpoints, which is not damage
    _require(checkpoints.is_dir() or not checkpoints.exists(), f"{checkpoints} is not a folder")
    found = {link: name for link in ("last", "best") if (name := pointed(checkpoints / link))}
    for name, target in found.items():
        _require((checkpoints / target).is_dir(), f"{name} points to {target}, which is not there")
    names = [path.name for path in committed(checkpoints)]
    _require("last" not in found or found["last"] == names[0], f"last points to {found.get('last')}, not to the newest")
    best = (summary.get("best") or {}).get("checkpoint")
    if not checkpoints.exists() and any((above / STUDY_FILE).is_file() for above in folder.resolve().parents[:3]):
        return "none: a study keeps checkpoints of the best run of each arm only"
    _require(
        best is None or found.get("best") == best,
        f"best points to {found.get('best', 'nothing')}, the summary names {best}",
    )
    return ", ".join(f"{name} -> {target}" for name, target in found.items()) or "none"


def _same_config(folder: Path) -> str:
    path = followed(folder / "checkpoints" / "last")
    if not path.exists():
        return "no last checkpoint"
    content = read_record(folder / "config.yaml")
    # the manifest holds the digest of the config that wrote the checkpoint: an edited config.yaml is found
    stated = read_manifest(path)["config"]
    _require(stated == config_digest(content), "config.yaml is not the config that the last checkpoint was written by")
    return "that of config.yaml"


def _sessions(folder: Path, summary: Mapping[str, Any]) -> str:
    """Each session continues where an earlier one stopped, and the last ends as the summary does."""
    sessions = summary.get("sessions")
    if not sessions:
        return "not recorded"
    _require(all(isinstance(session, dict) for session in sessions), "sessions is not a list of mappings")
    reached = 0
    for number, session in enumerate(sessions, start=1):
        begun = session["from_step"]
        # a session may start before the end of the last one: it fell back to an older checkpoint
        _require(begun <= reached, f"session {number} starts at step {begun}; those before it reached step {reached}")
        reached = max(reached, session["to_step"] or begun)
    last = sessions[-1]
    if summary["status"] in FINISHED:
        for key, stated in (("to_step", summary["steps"]), ("status", summary["status"]), ("argv", summary["argv"])):
            _require(
                last[key] == stated, f"the last session's {key} is {shown(last[key])}, the summary says {shown(stated)}"
            )

    # config.yaml and .hydra/overrides.yaml belong to the last session that saved a checkpoint
    digest = config_digest(read_record(folder / "config.yaml"))
    mine = [session for session in sessions if session["config"] in (digest, None)]
    _require(bool(mine), "config.yaml is the config of none of the sessions")
    path, overrides = folder / ".hydra" / "overrides.yaml", mine[-1]["overrides"]
    if overrides is not None and path.is_file():
        words = parse_yaml(read_text(path), str(path), recorded=True) or []
        absent = [word for word in overrides if word not in words]
        _require(not absent, f"{path} lacks {absent[:1]}, which the session of config.yaml was started with")
    return f"{counted(len(sessions), 'session')}, {counted(reached, 'step')}"


def _logged_steps(summary: Mapping[str, Any], every: int) -> list[int]:
    """Return the steps that must have a row; sessions may have logged at different intervals."""
    sessions = summary.get("sessions") or [{"from_step": 0}]
    ends = [*(session["from_step"] for session in sessions[1:]), summary["steps"]]
    found: set[int] = set()
    for session, end in zip(sessions, ends, strict=True):
        # a session that fell back to an older checkpoint logged later steps again
        found = {step for step in found if step <= session["from_step"]}
        # the interval may be changed at a resume
        spacing = session.get("log_every_n_steps", every)
        # before the set of steps is built: a damaged count could fill the memory
        _require(end <= spacing * MOST_ROWS, f"metrics.csv cannot hold the rows of {end} steps")
        found |= {step for step in range(spacing, end + 1, spacing) if step > session["from_step"]}
    return sorted(found)


def _metrics(folder: Path, summary: Mapping[str, Any]) -> str:
    """One row for each logged step and each epoch, in order; each cell is a number."""
    rows = read_metrics(folder)
    for number, row in enumerate(rows, start=2):  # line 1 is the header
        for name, cell in row.items():
            if name == "row" or not cell:
                continue
            try:
                float(cell)
            except ValueError:
                raise _CheckFailedError(f"line {number}: {name} is {cell!r}") from None
    steps = [int(row["step"]) for row in rows]
    _require(steps == sorted(steps), "the steps of metrics.csv are not in order")
    if summary["status"] not in FINISHED:
        return counted(len(rows), "row")

    every = read_record(folder / "config.yaml")["trainer"]["log_every_n_steps"]
    logged = [int(row["step"]) for row in rows if row["row"] == "step"]
    expected = _logged_steps(summary, every)
    absent = sorted(set(expected) - set(logged))
    _require(not absent, f"metrics.csv lacks the rows of {len(absent)} logged steps, the first of them {absent[:1]}")
    _require(logged == expected, "metrics.csv holds step rows twice, or of steps that are not logged")

    # a session that stopped within an epoch wrote a row with the epochs finished before, which is not counted
    ends = {session["from_step"] for session in summary.get("sessions", ())[1:]}
    epochs: list[int] = []
    for row in rows:
        if row["row"] == "epoch":
            finished, resumed_here = int(row["epoch"]), int(row["step"]) in ends
            if not (resumed_here and finished in (0, *epochs)):
                epochs.append(finished)
    whole = math.ceil(summary["epochs"])
    _require(len(epochs) == whole, f"metrics.csv holds the rows of {len(epochs)} epochs; the run had {whole}")
    _require(not steps or steps[-1] == summary["steps"], f"metrics.csv ends at step {steps[-1:]}")
    return f"rows of {counted(len(logged), 'step')} and {counted(len(epochs), 'epoch')}"


def _agreement(folder: Path, summary: Mapping[str, Any]) -> str:
    """The last values and the best value of the summary are those of metrics.csv."""
    if summary["status"] not in FINISHED:
        status = summary["status"]
        return f"not checked: the run {'has no status' if status is None else f'is {status}'}"
    rows = [row for row in read_metrics(folder) if row["row"] == "epoch"]
    compared = 0
    # test metrics and callbacks have no column in epoch rows
    for name, value in summary["metrics"].items():
        cells = [row[name] for row in rows if row.get(name)]
        if not cells:
            continue
        _require(
            _close(float(cells[-1]), value), f"{name} is {shown(value)} in summary.json, {cells[-1]} in metrics.csv"
        )
        compared += 1
    best = summary.get("best")
    if best:
        first = _first_step_of_these_data(summary)
        values = [float(row[best["metric"]]) for row in rows if row.get(best["metric"]) and int(row["step"]) > first]
        # as in training, a value that is not finite is never the best
        values = [value for value in values if math.isfinite(value)] or [math.nan]
        display = recorded_displays(summary).get(metric_of(best["metric"])) or display_of(best["metric"])
        # the best of all validations, recomputed
        extreme = min(values) if display.mode == "min" else max(values)
        _require(
            _close(extreme, best["value"]), f"best is {shown(best['value'])} in summary.json, {extreme} in metrics.csv"
        )
    return f"{counted(compared, 'metric')}{', and the best value' if best else ''}"


def _first_step_of_these_data(summary: Mapping[str, Any]) -> int:
    """Return the step after which no session went on with other data: best values count from there."""
    sessions = summary.get("sessions") or ()
    return max((each["from_step"] for each in sessions if "data.sha256" in (each.get("changed") or ())), default=-1)


def _compression(folder: Path) -> str:
    """The record can be read, and the file of a quantized run is the one that its own record describes."""
    record, file = read_compression(folder), compressed_file(folder)
    if record is None or file is None:
        return str(record and record["method"])
    _require(file.is_file(), f"{file} is missing")
    stated = json.loads(read_text(file.with_name(f"{file.name}.json")))["sha256"]
    _require(sha256_of(file) == stated, f"{file} is missing or damaged: its sha256 is not that of {file.name}.json")
    return f"{record['method']}, {file.name}, digest right"


def _close(a: float, b: float | None) -> bool:
    """Compare a cell of metrics.csv with a value of summary.json: null is one that is not finite or too large."""
    if not abs(a) < LARGEST:  # also for NaN
        return b is None
    return b is not None and math.isclose(a, b, rel_tol=_CELL, abs_tol=_CELL)


def failures(checks: list[Check]) -> Iterator[Check]:
    """Yield the checks that failed."""
    return (check for check in checks if check.problem is not None)


def as_json(checks: list[Check]) -> str:
    """Return the checks as a JSON text."""
    rows = [{"check": item.name, "ok": item.problem is None, "detail": item.problem or item.detail} for item in checks]
    return json_text(rows, ascii_only=not writes_unicode())
