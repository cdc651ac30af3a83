"""The deployment rows: what they keep, which arm they name, and what the files by hand compute."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import arms_deploy, deploy
from benchmarks.deploy import Measured, compressed, trained
from effbench.bench.measure import Arm
from effbench.bench.verdict import Trust


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[tuple[str, ...]]:
    """The commands that were given, by a stand-in that makes their folders; one with max_drop=0 ends with code 3."""
    given: list[tuple[str, ...]] = []

    def effbench(*words: str, may_fail: bool = False) -> int:
        del may_fail
        given.append(words)
        if "max_drop=0" in words:
            return 3
        folder = Path(words[-1].partition("=")[2])
        folder.mkdir(parents=True)
        (folder / "summary.json").write_text(json.dumps({"status": "completed"}))
        return 0

    monkeypatch.setattr(deploy, "effbench_command", effbench)
    monkeypatch.setattr(deploy, "WORK", tmp_path)
    return given


def test_runs_are_trained_once_for_each_seed_and_words(commands: list[tuple[str, ...]]) -> None:
    run = trained("cnn", ("model=cnn",))
    assert trained("cnn", ("model=cnn",)) == run
    assert len({run, trained("cnn", ("model=cnn",), 1), trained("cnn", ("model=mlp",))}) == 3
    assert len(commands) == 3
    (run / "summary.json").write_text(json.dumps({"status": "interrupted"}))
    assert trained("cnn", ("model=cnn",)) == run
    assert len(commands) == 4


def test_results_are_made_once_and_a_refusal_is_kept(commands: list[tuple[str, ...]]) -> None:
    run = trained("cnn", ("model=cnn",))
    found = compressed(run, ("method=quantize",))
    assert found is not None
    assert found.is_dir()
    assert compressed(run, ("method=quantize",)) == found
    assert compressed(run, ("method=quantize", "max_drop=0")) is None
    assert compressed(run, ("method=quantize", "max_drop=0")) is None
    assert len(commands) == 3


def arm(name: str, seconds: float) -> Arm:
    turn = {"calls_s": [seconds] * 3}
    processes: list[dict[str, Any]] = [{"batch_size": 1, "round": number, "turns": [turn] * 5} for number in range(3)]
    return Arm(name, name.split()[-1], Path(), processes=processes)


@pytest.fixture
def measured() -> Measured:
    seconds = {"a eager": 4.0, "a onnxruntime": 2.0, "a b onnxruntime": 1.0, "int8 onnxruntime": 0.5}
    rows = {name: {"lost": {"estimate": 0.6 if name.startswith("int8") else 0.5}} for name in seconds}
    return Measured({name: arm(name, each) for name, each in seconds.items()}, rows, Trust({}, 1.0, 0.0, ()))


def test_the_fastest_that_keeps_the_accuracy_is_named(measured: Measured) -> None:
    assert measured.best() == "a b onnxruntime"
    assert measured.over("a b onnxruntime", "a eager").estimate == pytest.approx(0.25)
    assert measured.p50("int8 onnxruntime") == pytest.approx(0.5)


def test_a_label_is_not_taken_for_the_beginning_of_another(measured: Measured) -> None:
    assert measured.fastest("a") == "a onnxruntime"
    assert measured.fastest("a b") == "a b onnxruntime"


@pytest.mark.proof
@pytest.mark.filterwarnings("ignore::FutureWarning")  # torch.jit is deprecated, and still what makes TorchScript
def test_files_by_hand_give_one_answer(tmp_path: Path) -> None:
    """The calls are what the arms time, and a fast one that computes something else would win."""
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    words = [
        "model=cnn",
        "model.channels=[8,8]",
        "model.hidden=16",
        "data=synthetic",
        "data.image_size=16",
        "device=cpu",
    ]
    arms_deploy.write_by_hand(words, tmp_path)
    sample = np.load(tmp_path / "sample.npy")
    expected = arms_deploy.CALLS["eager"](tmp_path, sample)().numpy()
    assert expected.shape == (1, 10)
    for name in ("channels_last", "torchscript", "torch_export"):
        np.testing.assert_allclose(arms_deploy.CALLS[name](tmp_path, sample)().numpy(), expected, atol=1e-5)
    np.testing.assert_allclose(arms_deploy.CALLS["bf16"](tmp_path, sample)().numpy(), expected, atol=0.05)
    [answer] = arms_deploy.CALLS["onnxruntime"](tmp_path, sample)()
    np.testing.assert_allclose(answer, expected, atol=1e-5)
