"""What is compared with the reference: parity, metrics, what is lost; answers that are none are refused."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch

from effbench.bench import answers as answering_module
from effbench.bench import run as running
from effbench.bench.answers import held_samples, judged
from effbench.bench.measure import Arm
from effbench.bench.options import BenchOptions
from effbench.bench.prepare import Prepared
from effbench.bench.run import answering, bench_source
from effbench.bench.sources import Source
from effbench.errors import EffbenchError
from effbench.metrics import Accuracy
from effbench.tasks.classification import Classification
from effbench.tasks.losses import CrossEntropy, MeanSquaredError
from effbench.tasks.next_token import NextToken
from effbench.tasks.regression import Regression

TARGETS = torch.tensor([0, 1, 2, 0])
LOGITS = 4 * torch.eye(3)[TARGETS]  # all right


def source(task: bool = True) -> Source:
    samples = torch.zeros(4, 2)
    if not task:
        return Source({}, samples, "row")
    own = Classification(CrossEntropy(), [Accuracy()], 3)
    return Source({}, samples, "row", targets=TARGETS, split="val", task=own)


def test_lost_points_are_counted_on_the_same_samples() -> None:
    got = LOGITS.clone()
    got[0], got[1] = torch.tensor([0.0, 0.0, 9.0]), torch.tensor([3.0, 0.0, 0.0])
    found = judged(source(), LOGITS, got)
    assert found["metrics"]["acc"] == 0.5
    assert found["lost"]["estimate"] == pytest.approx(50.0)  # points: two of four
    assert found["lost_of"] == "accuracy"
    assert (found["parity"]["max_difference"], found["parity"]["agreement"]) == (9.0, 0.5)
    back = judged(source(), got, LOGITS)
    assert back["lost"]["estimate"] == pytest.approx(-50.0)  # gained


def test_equal_answers_lose_nothing_with_an_interval() -> None:
    found = judged(source(), LOGITS, LOGITS)
    assert found["lost"]["estimate"] == 0
    assert found["lost"]["low"] < 0 < found["lost"]["high"]
    assert found["parity"]["relative"] == 0


def test_without_a_task_only_parity_is_reported() -> None:
    found = judged(source(task=False), LOGITS, LOGITS + 0.5)
    assert (found["metrics"], found["lost"]) == (None, None)
    assert found["parity"]["max_difference"] == 0.5
    assert found["parity"]["agreement"] is None


@pytest.mark.parametrize("got", [LOGITS[:, :2], LOGITS[:3], LOGITS * float("nan"), LOGITS / 0.0])
def test_outputs_that_cannot_be_answers_are_refused(got: torch.Tensor) -> None:
    with pytest.raises(EffbenchError, match="wrong answers"):
        judged(source(), LOGITS, got)


class Watched(NextToken):
    """Remembers how many logits each of its losses was computed of."""

    seen: ClassVar[list[int]] = []

    def plain_loss(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        self.seen.append(outputs.numel())
        return super().plain_loss(outputs, targets)


@pytest.mark.parametrize("values", [1, 2 * 4 * 5, 3 * 4 * 5, 10**6])
def test_outputs_of_texts_are_compared_in_parts(values: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """All at once, with the copies that each comparison makes, they may exceed the memory."""
    monkeypatch.setattr(answering_module, "PART_VALUES", values)
    Watched.seen.clear()
    random = torch.Generator().manual_seed(0)
    reference_NTK = torch.randn(7, 4, 5, generator=random)
    got_NTK = reference_NTK.clone()
    got_NTK[2, 1] = reference_NTK[2, 1].flip(0)
    got_NTK[5, 3] += 0.25  # the same answer
    targets_NT = torch.randint(1, 5, (7, 4), generator=random)
    targets_NT[3, 2:] = 0  # padding
    task = Watched(CrossEntropy(), [], 5)
    found = judged(Source({}, torch.zeros(7, 4), "window", targets=targets_NT, task=task), reference_NTK, got_NTK)
    assert max(Watched.seen) <= max(values, 4 * 5)
    loss = torch.nn.functional.cross_entropy(got_NTK.flatten(0, 1), targets_NT.flatten(), ignore_index=0)
    assert found["metrics"]["loss"] == pytest.approx(float(loss), rel=1e-6)
    same = (got_NTK.argmax(-1) == reference_NTK.argmax(-1)).all(1)
    assert (found["parity"]["samples"], found["parity"]["agreement"]) == (7, pytest.approx(float(same.float().mean())))
    assert found["parity"]["max_difference"] == pytest.approx(float((got_NTK - reference_NTK).abs().max()))
    assert found["parity"]["largest_logit"] == pytest.approx(float(reference_NTK.abs().max()))
    assert (found["lost_of"], found["lost"]["estimate"]) == ("answers", pytest.approx(100 / 7))


def test_a_nan_of_one_part_is_not_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answering_module, "PART_VALUES", 3)
    nan = LOGITS.clone()
    nan[1] = float("nan")
    with pytest.raises(EffbenchError, match="not finite"):
        judged(source(), LOGITS, nan)
    found = judged(source(), nan, nan)  # a model that gives none
    assert math.isnan(found["parity"]["max_difference"])
    assert math.isnan(found["parity"]["relative"])


@pytest.mark.parametrize(
    ("count", "shape", "held"), [(512, (10,), 512), (2000, (128, 256), 2000), (512, (128, 8000), 65), (8, (10**9,), 1)]
)
def test_large_outputs_are_of_fewer_samples_and_it_is_said(
    count: int, shape: tuple[int, ...], held: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    assert held_samples(count, shape, "window") == held
    assert ("answers are compared on at most" in caplog.text) is (held < count)
    assert held == 1 or 4 * held * math.prod(shape) < 270e6  # bytes


def given(outputs: dict[str, torch.Tensor], alone: dict[str, torch.Tensor] | None = None) -> Any:
    """In the place of the processes: backend -> its outputs, and those of single samples, which are the same."""
    single = {**outputs, **(alone or {})}
    return lambda arm, *_: (outputs[arm.name].clone().numpy(), single[arm.name][:2].clone().numpy())


def test_an_answer_that_is_wrong_alone_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Latency is measured at batch 1, for which torch.compile has another program."""
    file = tmp_path / "model.onnx"
    file.write_bytes(b"a file")
    outputs = dict.fromkeys(["eager", "compile", "onnxruntime"], LOGITS)
    monkeypatch.setattr(running, "prepare", lambda *_: Prepared(dict.fromkeys(outputs, file), {}))
    alone = {"compile": LOGITS.flip(1), "onnxruntime": LOGITS[:, :2]}
    monkeypatch.setattr(running, "answers_of", given(outputs, alone))
    rows, arms = answering(source(), BenchOptions(backends=tuple(outputs)), tmp_path)
    assert [arm.name for arm in arms] == ["eager", "compile"]
    assert rows["onnxruntime"]["reason"] == "wrong answers: outputs (2, 2) of single samples, the model's are (2, 3)"
    assert rows["eager"]["parity"]["agreement"] == 1.0
    # of the first two samples, whose classes are 0 and 1, the flip moves the first
    assert rows["compile"]["parity"]["agreement"] == 0.75
    assert rows["compile"]["lost"]["estimate"] == pytest.approx(25.0)


def test_a_lone_file_without_finite_outputs_is_no_reference(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without its run, a file is compared with the first backend that answers."""
    file = tmp_path / "model.onnx"
    file.write_bytes(b"a file")
    outputs = {"onnxruntime": LOGITS * float("nan"), "openvino_f32": LOGITS, "openvino_bf16": LOGITS + 0.5}
    monkeypatch.setattr(running, "prepare", lambda *_: Prepared(dict.fromkeys(outputs, file), {}))
    monkeypatch.setattr(running, "answers_of", given(outputs))
    options = BenchOptions(backends=tuple(outputs))
    rows, arms = answering(Source({}, torch.zeros(4, 2), "row", files={"onnx": file}), options, tmp_path)
    assert [arm.name for arm in arms] == ["openvino_f32", "openvino_bf16"]
    assert rows["onnxruntime"]["reason"] == "wrong answers: outputs that are not finite"
    assert {rows[arm.name]["compared_with"] for arm in arms} == {"openvino_f32"}
    assert rows["openvino_bf16"]["parity"]["max_difference"] == 0.5


@pytest.mark.parametrize(("backend", "advised"), [("eager", False), ("onnxruntime", True)])
def test_an_extra_is_advised_only_for_a_library_of_one(
    backend: str, advised: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A module that eager mode lacks is the user's own."""

    def lacking(arm: Arm, *_: Any) -> None:
        arm.failed = "No module named 'mylab'"

    monkeypatch.setattr(running, "prepare", lambda *_: Prepared({backend: tmp_path}, {}))
    monkeypatch.setattr(running, "answers_of", lacking)
    rows, arms = answering(source(), BenchOptions(backends=(backend,)), tmp_path)
    assert arms == []
    advice = " (pip install 'effbench[onnx]')" if advised else ""
    assert rows[backend]["reason"] == f"No module named 'mylab'{advice}"


def test_backends_that_all_crash_while_timed_are_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They gave answers before; a record without a number would replace an earlier result."""

    def answering(*_: Any) -> tuple[dict[str, dict[str, Any]], list[Arm]]:
        return {"eager": {"backend": "eager", "status": "ok", "reason": None}}, [Arm("eager", "eager", tmp_path)]

    def measure(arms: list[Arm], *_: Any) -> None:
        for arm in arms:
            arm.failed = "its process ended with signal SIGKILL"

    for name, value in {"answering": answering, "measure": measure, "batch_files": lambda *_: {}}.items():
        monkeypatch.setattr(running, name, value)
    with pytest.raises(EffbenchError, match="no backend works for this model: eager: its process ended with signal"):
        bench_source(source(), BenchOptions(backends=["eager"]))


HEIGHTS_N1 = torch.tensor([[150.0], [160.0], [170.0], [180.0]])  # their deviation is 11.2


@pytest.mark.parametrize("standardise", [False, "auto"])  # auto: of an exported file, whose outputs are in the unit
@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize(("moved", "same"), [(0.005, 1.0), (0.02, 0.75)])
def test_a_number_that_moves_by_its_deviation_is_lost(
    moved: float, same: float, known: bool, standardise: bool | str
) -> None:
    """Also where training did not standardise: then by the targets that are measured, or else by the outputs."""
    task = Regression(MeanSquaredError(), [], 1, standardise)
    own = Source({}, torch.zeros(4, 2), "row", targets=HEIGHTS_N1 if known else None, split="val", task=task)
    reference = HEIGHTS_N1 + 0.5
    got = reference.clone()
    got[2] += moved
    found = judged(own, reference, got)
    assert found["parity"]["agreement"] == same
    if known:
        assert (found["lost_of"], found["lost"]["estimate"]) == ("answers", pytest.approx(100 * (1 - same)))
    else:
        assert found["lost"] is None
