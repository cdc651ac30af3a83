"""Searches over candidates of known cost: the compressions themselves are replaced by records of known numbers."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from effbench.compress import itself, winner
from effbench.compress import search as searching
from effbench.compress import trial as trials
from effbench.compress.options import CompressOptions
from effbench.compress.search import search
from effbench.compress.target import SearchOptions, Target
from effbench.errors import ConfigError, DataError, EffbenchError, ThresholdError

# (part of the latency of its source, points lost) of each compression
COSTS = {
    "onnxruntime": (0.5, 0.1),
    "openvino": (0.6, 0.0),
    "bf16": (0.7, 0.0),
    0.25: (0.8, 0.2),
    0.5: (0.5, 0.4),
    0.75: (0.3, 2.0),
    0.875: (0.2, 3.0),
}
LONGER: dict[Any, tuple[float, float]] = {}  # the same after 12 epochs of fine-tuning, where it differs
REFUSED: dict[str, float] = {}
FAILING: dict[Any, BaseException] = {}  # option -> what its compression raises
ARM: dict[str, Any] = {}  # what is said of every backend, beside its name
# margin of the measurement, fastest backend, exported bytes or what the export raises, side -> status of its backends
ABOUT: dict[str, Any] = {}
SAMPLES = 2000  # of validation
SPREAD = {"low": 0.9, "high": 1.1}  # ends of every interval, as parts of the estimate


LEAST_DROPS: dict[Any, dict[str, float]] = {}  # option -> {"low": lower end of what it loses}


def around(value: float) -> dict[str, Any]:
    return {"estimate": value, **{end: part * value for end, part in SPREAD.items()}, "n": 3}


def speed(part: float) -> dict[str, Any]:
    """What is measured of a compression that leaves this part of the latency and of the file."""
    arm = {"backend": "onnxruntime", "bytes": 100, "batches": {"1": {"latency_s": {"p50": around(1.0)}}}, **ARM}
    eager = {**arm, "backend": "eager", "bytes": 1}  # of a pickled module, which no user gets
    before, after = (
        [
            {**each, "side": side, "bytes": each["bytes"] * left, "status": ABOUT.get(side, "ok")}
            for each in (arm, eager, {**eager, "backend": "aot_inductor"})
        ]
        for side, left in (("before", 1), ("after", part))
    )
    return {
        "arms": [*before, *after], "batch_sizes": [1], "margin": ABOUT.get("margin", 0.0),
        "fastest": {"before": "onnxruntime", "after": ABOUT.get("fastest", "onnxruntime")},
        "fastest_ratio": around(part), "doubts": ["the clock changed"],
    }  # fmt: skip


def gone(*_: Any) -> None:
    """In the place of what reads data."""
    raise DataError("data.root=/nowhere: no such folder.")


class Source:
    """A run that nothing is read from."""

    task = SimpleNamespace(kind="class")
    redrawn = ()

    def __init__(self, folder: Path):
        self.folder = folder
        self.config = type("Config", (), {"allow_targets": []})


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, Any]]:
    """The compressions that were asked for: (folder of the source, option)."""
    calls: list[tuple[str, Any]] = []

    def compress_loaded(source: Source, options: CompressOptions, folder: Path, final: Path) -> dict[str, Any]:
        key = getattr(options.own, "backend", None) or getattr(options.own, "ratio", None)
        key = "bf16" if getattr(options.own, "scheme", "") == "bf16" else key
        calls.append((source.folder.name, key))
        if key == "broken":
            raise EffbenchError("it is broken")
        part, lost = (LONGER if getattr(options.own, "epochs", 0) == 12 else COSTS).get(key, COSTS[key])
        if key == REFUSED.get("ratio"):
            raise ConfigError("rounding keeps every channel")
        if getattr(options.own, "max_drop", 10) + 1e-9 < lost:
            raise ThresholdError("it loses too much")
        if key in FAILING:
            (folder / "half").touch()
            raise FAILING[key]
        record = {
            "method": options.method, "options": {}, "details": {}, "source": {"run": "?"},
            "validation": {"drop": lost, **LEAST_DROPS.get(key, {}), "of": "points of accuracy", "samples": SAMPLES},
            "after": {"metrics": {}, "accuracy": None, "parameters": 1, "macs": 1},
            "test": {"split": "test", "lost": None, "lost_of": None},
            "speed": speed(part),
        }  # fmt: skip
        if options.method == "quantize":
            record["file"] = "small.onnx"
            (folder / "export").mkdir()
            (folder / "export" / "small.onnx.json").write_text(json.dumps({"run": str(source.folder), "bytes": 7}))
        (folder / "compression.json").write_text(json.dumps({"schema_version": 1, **record}))
        (folder / "weights").write_text(str(final))
        return record

    tested = {"split": "test", "samples": 1, "lost": None, "lost_of": None, "before": {}, "after": {}}
    monkeypatch.setattr(trials, "compress_loaded", compress_loaded)

    def export_loaded(run: Source, wanted: Any) -> dict[str, Any]:
        calls.append(("export", wanted.format_name))
        if isinstance(error := ABOUT.get("export"), BaseException):
            raise error
        (run.folder / "export").mkdir()
        (run.folder / "export" / "exported").write_text("graph")
        (run.folder / "export" / "exported.json").write_text(json.dumps({"run": str(run.folder)}))
        return {"path": str(run.folder / "export" / "exported"), "bytes": error or 100}

    for module in (searching, winner):
        monkeypatch.setattr(module, "loaded_result", lambda folder, _: Source(folder))
    monkeypatch.setattr(winner, "export_loaded", export_loaded)
    monkeypatch.setattr(winner, "write_beside", lambda run: (run.folder / "export" / "card").write_text("card"))
    monkeypatch.setattr(searching, "judged_split", lambda _: ("val", range(SAMPLES)))
    monkeypatch.setattr(searching, "tested", lambda *_: tested)
    monkeypatch.setattr(searching, "plan_of", lambda *parts: repr(parts[1:]))
    return calls


def searched(tmp_path: Path, target: str, **options: Any) -> dict[str, Any]:
    (tmp_path / "run").mkdir(exist_ok=True)
    chosen = SearchOptions(Target.parsed(target), **{"epochs": 3, **options})
    return search(Source(tmp_path / "run"), chosen, tmp_path / "result")  # type: ignore[arg-type]


def benched(p50: float, high: float, margin: float = 0.0, size: int = 5_000_000) -> dict[str, Any]:
    """What bench_source finds of the run: eager, whose pickled module no user gets, and a faster backend."""
    slow, fast, least = (
        {"p50": {"estimate": part * p50, "low": 0.9 * part * p50, "high": part * high}} for part in (10, 1, 0.1)
    )
    ok = {"status": "ok", "lost": {"estimate": 0.0}, "lost_of": "accuracy", "metrics": {"loss": 2.0}}
    return {
        "margin": margin,
        "arms": [
            {"backend": "eager", **ok, "bytes": 1, "batches": {"1": {"latency_s": slow}}},
            {"backend": "onnxruntime", **ok, "bytes": size, "batches": {"1": {"latency_s": fast}}},
            {"backend": "bf16", **ok, "lost": {"estimate": 3.0}, "bytes": 1, "batches": {"1": {"latency_s": least}}},
            {"backend": "openvino_f32", "status": "failed", "reason": "it is not there"},
        ],
    }  # fmt: skip


@pytest.fixture
def beside(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What is found of the run itself, under 'found'."""
    about: dict[str, Any] = {}
    monkeypatch.setattr(itself, "source_of", lambda *_: None)
    monkeypatch.setattr(itself, "bench_source", lambda *_: about["found"])
    # for a size nothing is timed
    monkeypatch.setattr(itself, "answering", lambda *_: ({arm["backend"]: arm for arm in about["found"]["arms"]}, []))
    return about
