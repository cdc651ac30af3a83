"""Which backend is the fastest of a compressed run: none that surely gives worse answers than others.

The measurements themselves are replaced by known times and losses.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from effbench.bench.measure import Arm
from effbench.bench.options import BenchOptions
from effbench.bench.sources import Source
from effbench.compress import speed as speeding
from effbench.compress.drop import PERCENT, POINTS
from effbench.compress.options import measuring
from effbench.compress.speed import speeds
from effbench.export import opening
from effbench.report.before_after import sentences
from effbench.tasks.losses import MeanSquaredError
from effbench.tasks.regression import Regression
from tests.bench.test_analysis import processes

SECONDS = {"eager": 0.010, "onnxruntime": 0.004, "openvino_f32": 0.001}


def measured(
    lost: dict[str, tuple[float, float]],
    of: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    seen: list[Path] | None = None,
    drop: float | None = None,
    source: Source | None = None,
    backends: Sequence[str] = tuple(SECONDS),
    model: Callable[[str], Any] | None = None,
) -> dict[str, Any]:
    """Both sides by three backends. lost: by backend after, (estimate, lower end) in points; before, none is lost.

    For answers, the loss rises from 2 by 1 % a point.

    Args:
        lost: see above.
        of: what is lost: accuracy or answers.
        tmp_path: folder of the result.
        monkeypatch: of the test.
        seen: gets the folders of the files.
        drop: what the result loses, for a search with max_drop=0.5; None: no search.
        source: what both sides are; None: nothing that has a model.
        backends: that are measured.
        model: of the result.
    """
    sides: list[dict[str, tuple[float, float]]] = [{}, lost]

    def answering(_: Source, options: BenchOptions, folder: Path) -> tuple[dict[str, dict[str, Any]], list[Arm]]:
        own = sides[folder.name == "after"]
        (seen if seen is not None else []).append(folder)
        rows = {
            name: {
                "backend": name, "status": "ok", "reason": None, "bytes": 5, "lost_of": of,
                "metrics": {"loss": 2 + own.get(name, (0.0, 0.0))[0] / 50},
                "lost": {"estimate": own.get(name, (0.0, -0.5))[0], "low": own.get(name, (0.0, -0.5))[1], "high": 99.0},
            }
            for name in options.chosen
        }  # fmt: skip
        return rows, [Arm(name, name, folder / name) for name in options.chosen]

    def measure(arms: list[Arm], *_: Any) -> None:
        for number, arm in enumerate(arms):
            arm.processes += processes(SECONDS[arm.backend], seed=number)

    known = source or Source({}, torch.zeros(1, 1), "row")
    for name, value in {
        "answering": answering, "measure": measure, "source_of": lambda *_: known, "batch_files": lambda *_: {},
    }.items():  # fmt: skip
        monkeypatch.setattr(speeding, name, value)
    result: Any = SimpleNamespace(folder=tmp_path, model=model)
    points = {"drop": drop or 0.0, "of": POINTS if of == "accuracy" else PERCENT}
    validation = {**points, "loss_before": 2.0, "loss_after": 2.0 * (1 + (drop or 0.0) / 100)}
    run: Any = SimpleNamespace()
    return speeds(run, "best", result, measuring(backends=backends), validation, drop is not None)


@pytest.mark.parametrize(
    ("lost", "of", "fastest"),
    [
        ({}, "accuracy", "openvino_f32"),
        ({"openvino_f32": (5.0, 3.0)}, "accuracy", "onnxruntime"),
        ({"openvino_f32": (5.0, 0.4)}, "accuracy", "openvino_f32"),  # within the interval of max_drop=0.5
        (dict.fromkeys(SECONDS, (5.0, 3.0)), "accuracy", "openvino_f32"),  # all alike: it is the file's loss
        ({"openvino_f32": (5.0, 3.0)}, "answers", "openvino_f32"),  # other answers are no loss of accuracy
    ],
)
def test_a_backend_with_worse_answers_is_not_the_fastest(
    lost: dict[str, tuple[float, float]], of: str, fastest: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = measured(lost, of, tmp_path, monkeypatch)
    assert found["fastest"] == {"before": "openvino_f32", "after": fastest}
    assert found["left_out"] == ([] if fastest == "openvino_f32" else ["after openvino_f32"])
    assert found["fastest_ratio"]["estimate"] == pytest.approx(SECONDS[fastest] / SECONDS["openvino_f32"], rel=0.02)
    assert len(found["pairs"]) == 3  # each backend beside itself, all the same


@pytest.mark.parametrize(
    ("lost", "of", "drop", "fastest"),
    [
        ({"openvino_f32": (0.4, -1.0)}, "accuracy", 0.0, "openvino_f32"),
        ({"openvino_f32": (0.6, -1.0)}, "accuracy", 0.0, "onnxruntime"),  # the estimate, as for all candidates
        ({"openvino_f32": (0.2, -1.0)}, "accuracy", 0.4, "onnxruntime"),  # both together
        ({"openvino_f32": (0.4, -1.0)}, "answers", 0.0, "openvino_f32"),
        ({"openvino_f32": (0.6, -1.0)}, "answers", 0.0, "onnxruntime"),  # the loss rises by 0.6 %
        (dict.fromkeys(SECONDS, (5.0, 3.0)), "answers", 0.0, "openvino_f32"),  # all alike: it is the result's loss
        ({"openvino_f32": (0.1, -1.0)}, "accuracy", 2.0, "onnxruntime"),  # nothing more may be lost
    ],
)
def test_a_search_names_no_backend_that_loses_too_much(
    lost: dict[str, tuple[float, float]], of: str, drop: float, fastest: str, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    found = measured(lost, of, tmp_path, monkeypatch, drop=drop)
    assert found["fastest"] == {"before": "openvino_f32", "after": fastest}
    assert found["left_out"] == ([] if fastest == "openvino_f32" else ["after openvino_f32"])
    [arm] = [arm for arm in found["arms"] if (arm["side"], arm["backend"]) == ("after", "openvino_f32")]
    wanted = 0.0 if len(lost) > 1 else lost["openvino_f32"][0]
    assert arm["more"] == pytest.approx(wanted)
    record = {"test": {"lost": None, "lost_of": None}, "details": {}, "speed": found, "method": "structured"}
    said = sentences({**record, "validation": {"of": POINTS if of == "accuracy" else PERCENT}})
    assert any(f"with which {wanted:.2f} p" in each for each in said) is bool(found["left_out"])


@pytest.mark.parametrize(("quantized", "more"), [(False, 50), (True, 20)])
def test_the_judge_is_asked_where_its_backend_is_not_measured(
    quantized: bool, more: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The only backend has a loss of 6, the run's model one of 4, and the quantized file one of 5."""

    def model(number: float) -> Any:
        return lambda rows: torch.full((len(rows), 1), number**0.5)

    if quantized:
        monkeypatch.setattr(speeding, "compressed_file", lambda _: tmp_path / "small.onnx")
        monkeypatch.setattr(opening, "read_record", lambda _: {"format": "onnx"})
    task = Regression(MeanSquaredError(), [], 1)
    source = Source({}, torch.zeros(4, 1), "row", model(4.0), targets=torch.zeros(4, 1), task=task)
    found = measured(
        {"openvino_f32": (200.0, 0.0)}, "answers", tmp_path, monkeypatch, drop=0.0,
        source=source, backends=["openvino_f32"], model=lambda _: model(5.0),
    )  # fmt: skip
    [arm] = [arm for arm in found["arms"] if arm["side"] == "after"]
    assert arm["more"] == pytest.approx(more)


@pytest.mark.row(5)
@pytest.mark.parametrize("full", [True, False])
def test_files_of_the_measurement_are_where_there_is_room(
    full: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk beside the result must not cost hours of fine-tuning."""
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    (tmp_path / "result").mkdir()
    free = {temporary: 10, tmp_path / "result": 0 if full else 10}
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=free[Path(path)]))
    seen: list[Path] = []
    measured({}, "accuracy", tmp_path / "result", monkeypatch, seen)
    assert {folder.parents[1] for folder in seen} == {temporary if full else tmp_path / "result"}
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["result", "temporary"]  # nothing is left
