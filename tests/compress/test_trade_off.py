"""The files of a sweep over ratios: a row a ratio, and a figure that starts at the run itself.

The compressions themselves are replaced by records of known numbers.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from xml.etree import ElementTree

import pytest

from effbench.compress import trade_off as trading
from effbench.compress.options import CompressOptions, StructuredOptions
from effbench.compress.table import print_trade_off
from effbench.compress.trial import Trial
from effbench.errors import ConfigError, DataError, EffbenchError, MissingExtraError
from effbench.metrics import Accuracy
from effbench.tasks.classification import Classification
from effbench.tasks.losses import CrossEntropy


def arm(side: str, backend: str, p50: float, size: int) -> dict[str, Any]:
    latency = {"p50": {"estimate": p50, "low": p50, "high": p50}}
    speed = {"1": {"latency_s": latency}}
    return {"side": side, "backend": backend, "status": "ok", "bytes": size, "batches": speed}


def record(ratio: float) -> dict[str, Any]:
    """A model that gets smaller and faster by the ratio, and loses ten points of it."""
    left = 1 - ratio
    return {
        "method": "structured", "options": {"ratio": ratio},
        "validation": {"drop": 10 * ratio, "of": "points of accuracy"},
        "before": {"metrics": {"loss": 0.5, "acc": 0.9}, "parameters": 1000, "macs": 10, "zeros": 0, "accuracy": None},
        "after": {"metrics": {"loss": 1, "acc": 0.9 - ratio / 10}, "parameters": 9, "macs": 9, "accuracy": None},
        "test": {
            "split": "test", "lost": {"estimate": 10 * ratio, "low": 0.0, "high": 20 * ratio}, "lost_of": "accuracy",
        },
        "speed": {
            "arms": [
                arm("before", "eager", 0.004, 5000), arm("before", "onnxruntime", 0.002, 4000),
                arm("after", "eager", 0.004 * left, 5000), arm("after", "onnxruntime", 0.002 * left, int(4000 * left)),
            ],
            "batch_sizes": [1], "threads": 1, "environment": {},
            "fastest": {"before": "onnxruntime", "after": "onnxruntime"},
            "fastest_ratio": {"estimate": left, "low": left, "high": left},
        },
    }  # fmt: skip


def sweep(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    error: BaseException = ConfigError("rounding keeps every channel"),  # noqa: B008
    made: Callable[[float], dict[str, Any]] = record,
    least: float = 0.1,
) -> dict[str, Any]:
    """A sweep over three ratios, of which those below `least` raise `error`."""

    def tried(_: Any, options: CompressOptions, name: str, within: Path, __: Path) -> Trial:
        assert isinstance(options.own, StructuredOptions)
        if options.own.ratio < least:
            raise error
        return Trial(name, within / name, made(options.own.ratio))

    monkeypatch.setattr(trading, "tried", tried)
    task = Classification(CrossEntropy(), [Accuracy()], num_outputs=2)
    source = SimpleNamespace(task=task, config=SimpleNamespace(model=SimpleNamespace(label="cnn")))
    options = [CompressOptions("structured", StructuredOptions(ratio=ratio)) for ratio in (0.01, 0.25, 0.5)]
    return trading.trade_off(source, options, tmp_path, tmp_path)  # type: ignore[arg-type]


@pytest.fixture
def swept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, dict[str, Any]]:
    return tmp_path, sweep(tmp_path, monkeypatch)


def test_a_row_holds_what_a_ratio_costs_and_loses(swept: tuple[Path, dict[str, Any]]) -> None:
    folder, _ = swept
    with (folder / "tradeoff.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert [float(row["ratio"]) for row in rows] == [0.25, 0.5]
    assert [float(row["bytes"]) for row in rows] == [3000, 2000]
    assert [float(row["p50_s"]) for row in rows] == [0.0015, 0.001]  # of the faster backend
    assert [float(row["over_before"]) for row in rows] == [0.75, 0.5]
    assert [float(row["lost_high"]) for row in rows] == [5, 10]
    assert [float(row["test_acc"]) for row in rows] == pytest.approx([0.875, 0.85])
    content = json.loads((folder / "tradeoff.json").read_text())
    assert (content["before"]["bytes"], content["before"]["p50_s"]) == (4000, 0.002)


def test_a_ratio_that_cannot_be_made_costs_no_other(
    swept: tuple[Path, dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    _, found = swept
    assert found["refused"] == {"0.01": "rounding keeps every channel"}
    print_trade_off({**found, "path": "x"})
    assert "ratio 0.01: rounding keeps every channel" in capsys.readouterr().out


@pytest.mark.row(26)
@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), MemoryError(), RuntimeError("no kernel")])
def test_a_ratio_that_a_library_fails_at_costs_no_other(
    error: BaseException, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = sweep(tmp_path, monkeypatch, error)
    assert found["refused"] == {"0.01": str(error) or "MemoryError"}
    assert [row["ratio"] for row in found["rows"]] == [0.25, 0.5]


@pytest.mark.row(26)
@pytest.mark.parametrize(
    ("error", "kind", "code", "warnings"),
    [
        (MissingExtraError("method=structured", "compress"), MissingExtraError, 4, 0),  # before the second ratio
        (DataError("data.root=/nowhere: no such folder."), DataError, 2, 3),
        (RuntimeError("no kernel"), EffbenchError, 1, 3),
    ],
)
def test_a_sweep_without_any_result_ends_with_its_error(
    error: Exception, kind: type[EffbenchError], code: int, warnings: int, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    with pytest.raises(kind) as told:
        sweep(tmp_path, monkeypatch, error, least=1.0)
    assert told.value.exit_code == code
    assert str(told.value).count(str(error)) == 1  # not once for each ratio
    assert len([each for each in caplog.records if each.levelname == "WARNING"]) == warnings
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("lost_of", "unit", "drop_of"),
    [
        ("accuracy", "points of accuracy", "points of accuracy"),
        ("answers", "percent of answers that differ", "percent of the loss"),
        (None, "", "percent of the loss"),
    ],
)
def test_the_table_tells_what_a_loss_is_of(
    lost_of: str | None, unit: str, drop_of: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def made(ratio: float) -> dict[str, Any]:
        found = record(ratio)
        found["test"]["lost_of"], found["validation"]["of"] = lost_of, drop_of
        return found

    sweep(tmp_path, monkeypatch, made=made)
    with (tmp_path / "tradeoff.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert {(row["lost_of"], row["drop_of"]) for row in rows} == {(unit, drop_of)}


@pytest.mark.parametrize("undefined", [0.25, 0.5])
def test_a_metric_that_is_undefined_for_a_ratio_is_left_out(
    undefined: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As a metric of the user's that is None for its answers."""

    def made(ratio: float) -> dict[str, Any]:
        found = record(ratio)
        if ratio == undefined:
            del found["after"]["metrics"]["acc"]
        return found

    found = sweep(tmp_path, monkeypatch, made=made)
    with (tmp_path / "tradeoff.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert [row["test_acc"] for row in rows] == (["", "0.85"] if undefined == 0.25 else ["0.875", ""])
    for each in trading.figures_of(found):
        assert each.panel.lines[0].points.count(",") == 2  # the run and one ratio
    print_trade_off({**found, "path": "x"})
    [line] = [line for line in capsys.readouterr().out.splitlines() if line.split()[:1] == [str(undefined)]]
    assert line.split()[1] == "-"


def test_the_figure_starts_at_the_run_itself(swept: tuple[Path, dict[str, Any]]) -> None:
    folder, found = swept
    latency, size = trading.figures_of(found)
    for each in (latency, size):
        assert len(each.panel.lines) == 1
        assert each.panel.lines[0].points.count(",") == 3  # the run and two ratios
    ElementTree.parse(folder / "tradeoff.svg")  # well-formed
