"""What the arms of a study cost in deployment: the best run of each, by the machinery of `effbench bench`.

Arms with one and the same network share a measurement: an optimizer changes the weights, and latency and file size do
not depend on their values. Of such arms the one with the best run is measured.
"""

from __future__ import annotations

import json
import logging
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from effbench.errors import EffbenchError, first_line
from effbench.log import LOGGER
from effbench.report.measured import Machine
from effbench.stats import Interval
from effbench.study.ledger import Ledger
from effbench.study.plan import RUNS, StudyPlan
from effbench.study.table import Deployed

log = logging.getLogger(__name__)

AGAIN = "The flag --costs measures it again."
SECONDS, SAMPLES = 0.5, 256  # longest timed part of a process; validation samples on which answers are compared
# Seconds of a backend's process from its start to its first turn, of an export with its comparison, and of a process's
# turns in a round. Three backends and three rounds give 35 s for one network and 66 s for two; an MLP and a CNN at 28
# px took 32 s and 56 s of processor time (one thread of an AMD EPYC with other work beside, n = 1).
_START_S = {"eager": 2.5, "onnxruntime": 0.7, "openvino_f32": 1.2}
_EXPORT_S, _TURNS_S = 8.0, 0.6


@dataclass(frozen=True)
class Candidate:
    """The run that an arm would deploy.

    Attributes:
        arm: name of the arm.
        words: overrides of the arm's best setting: its network, where no run is here.
        folder: of its best final run, with a checkpoint; None if there is none on this machine.
        value: validation metric of that run, larger is better; None without.
    """

    arm: str
    words: tuple[str, ...]
    folder: Path | None
    value: float | None


def backends() -> tuple[str, ...]:
    """Return the backends that a study measures: () where neither ONNX Runtime nor OpenVINO is installed."""
    if not all(find_spec(name) for name in ("onnx", "onnxscript")):
        return ()
    named = {"onnxruntime": "onnxruntime", "openvino_f32": "openvino"}
    # find_spec and not an import: that of OpenVINO sends an event to its makers
    found = [backend for backend, library in named.items() if find_spec(library)]
    return ("eager", *found) if found else ()


def measures_deployment(plan: StudyPlan) -> bool:
    """Return whether the plan's end measures deployment on this machine."""
    return bool(plan.keys.timing_rounds and plan.keys.deployment_rounds and backends())


def estimated_s(networks: int, rounds: int) -> float:
    """Return about the seconds that a measurement takes.

    Args:
        networks: different ones.
        rounds: of each arm.
    """
    each = sum(_START_S[name] for name in backends())
    arms = networks * len(backends()) + 1
    return networks * (_EXPORT_S + (rounds + 1) * each) + rounds * (_START_S["onnxruntime"] + arms * _TURNS_S)


# --- the runs that are kept -------------------------------------------------------------------------------------------


def kept_run(plan: StudyPlan, ledger: Ledger, arm: str) -> tuple[Path, float] | None:
    """Return the folder of an arm's best final run with a checkpoint here, and its value, which is larger if better.

    Args:
        plan: the plan.
        ledger: its tasks.
        arm: name of the arm.
    """
    sign = 1 if plan.mode == "max" else -1
    found = []
    for index, (task, outcome) in ledger.outcomes("confirm", arm).items():
        folder = plan.folder / RUNS / arm / task.folder_name
        # other workers may have trained it on another machine
        if outcome["value"] is not None and (folder / "checkpoints").is_dir():
            found.append((sign * outcome["value"], -index, folder))
    if not found:
        return None
    value, _, folder = max(found)
    return folder, value


def superfluous(plan: StudyPlan, ledger: Ledger, arm: str) -> list[Path]:
    """Return the checkpoints of an arm's final runs that have ended, but for those of its best one.

    Args:
        plan: the plan.
        ledger: its tasks.
        arm: name of the arm.
    """
    best = kept_run(plan, ledger, arm)
    ended = [plan.folder / RUNS / arm / task.folder_name for task, _ in ledger.outcomes("confirm", arm).values()]
    return [folder / "checkpoints" for folder in ended if best is None or folder != best[0]]


# --- the measurement, in a process of its own -------------------------------------------------------------------------


def deployed(
    candidates: Sequence[Candidate],
    scratch: Path,
    rounds: int,
    threads: int,
    allow_targets: Sequence[str],
    config_dir: str | None = None,
) -> dict[str, dict[str, Any]]:
    """Measure the candidates in turns; return arm -> its record.

    Args:
        candidates: one an arm.
        scratch: existing folder for temporary files.
        rounds: processes of each backend.
        threads: of each process.
        allow_targets: the user's modules that a run's config may name.
        config_dir: folder with the user's groups.

    Raises:
        EffbenchError: no backend works, or a model cannot be built.
    """
    from effbench.bench.options import BenchOptions
    from effbench.bench.several import bench_several

    LOGGER.setLevel(logging.CRITICAL)  # the process's own: the study's log has a line for the whole
    options = BenchOptions(
        backends=backends(), batch_sizes=(1,), threads=threads, rounds=rounds, seconds=SECONDS, samples=SAMPLES
    )
    shared: dict[str, list[Candidate]] = {}
    for each in candidates:
        shared.setdefault(_network(each, allow_targets, config_dir), []).append(each)
    # of arms with one network the best run; those without a run come last
    chosen = {key: max(same, key=_rank) for key, same in shared.items()}
    sources = {each.arm: _source(each, allow_targets, config_dir) for each in chosen.values()}
    with tempfile.TemporaryDirectory(prefix=".probe-", dir=scratch) as name:
        record = bench_several(sources, options, Path(name))
    found: dict[str, dict[str, Any]] = {}
    for key, same in shared.items():
        best = chosen[key]
        model = record["models"][best.arm]
        # a run that cannot be read any more was measured untrained
        run = best.folder.name if best.folder is not None and model["facts"]["kind"] == "run" else None
        common = {name: value for name, value in record.items() if name != "models"}
        own = {"measured": best.arm, "run": run, "unit": model["unit"], "arms": model["arms"]}
        found |= {one.arm: {**common, **own} for one in same}
    return found


def _rank(candidate: Candidate) -> tuple[bool, float]:
    return candidate.folder is not None, candidate.value if candidate.value is not None else 0.0


def _network(candidate: Candidate, allow_targets: Sequence[str], config_dir: str | None) -> str:
    """Return a text that is equal for arms with one and the same network."""
    content = _config(candidate, allow_targets, config_dir).to_dict()
    # what the data decide of a network, such as the number of classes, does not depend on split and batch size
    data = {key: value for key, value in content["data"].items() if key not in ("split_seed", "batch_size")}
    return json.dumps([content["model"], data, content["task"]], sort_keys=True, default=str)


def _config(candidate: Candidate, allow_targets: Sequence[str], config_dir: str | None) -> Any:
    from effbench.config.compose import compose
    from effbench.run.load import load_run

    if candidate.folder is None:
        return compose(candidate.words, config_dir)
    try:
        return load_run(candidate.folder, allow_targets).config
    except EffbenchError:  # a damaged run: its network is that of the arm's setting
        return compose(candidate.words, config_dir)


def _source(candidate: Candidate, allow_targets: Sequence[str], config_dir: str | None) -> Any:
    from effbench.bench.sources import run_source, untrained_source

    if candidate.folder is not None:
        try:
            return run_source(candidate.folder, "best", {}, allow_targets, SAMPLES)
        except EffbenchError as error:
            log.debug("%s is measured untrained: %s", candidate.arm, first_line(error))
    return untrained_source(_config(candidate, allow_targets, config_dir), SAMPLES)


# --- from the record to the table -------------------------------------------------------------------------------------


def cost_fields(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of an arm's Cost that its record in deployment gives."""
    size, wider = str(record["batch_sizes"][0]), 1 + record["margin"]
    found = []
    for row in record["arms"]:
        # 1e-9: a share of samples in points is rounded
        keeps = row.get("lost") is None or row["lost"]["estimate"] <= record["max_drop"] + 1e-9
        if row["status"] == "ok" and size in row["batches"] and keeps:
            p50 = row["batches"][size]["latency_s"]["p50"]
            interval = Interval(p50["estimate"], p50["low"] / wider, p50["high"] * wider, p50["n"])
            found.append(Deployed(row["backend"], interval, row["bytes"]))
    found.sort(key=lambda each: each.latency_p50_seconds.estimate)
    return {
        "latency_p50_seconds": found[0].latency_p50_seconds.estimate if found else None,
        "deployed": tuple(found),
        "deployed_run": record["run"] or "",
        "deployed_arm": record["measured"],
        # older records have no unit: that of training may count parts of a sample, such as tokens of a window
        "deployed_unit": record.get("unit") or "sample",
        "deployed_on": str(Machine.of(record["environment"], record["threads"])),
    }
