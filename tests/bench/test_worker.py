"""The process of an arm: what counts as loading, and which answers it gives. White-box: `_work` is all that it does."""

from __future__ import annotations

import io
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from effbench.bench import worker
from effbench.bench.answers import count_alone
from effbench.bench.backends import BACKENDS, Backend, Loaded
from effbench.errors import EffbenchError

COMPILING_S = 0.2


class Late:
    """Compiles at the first call with a batch size, into a folder; alone, a sample has another answer."""

    def __init__(self, kernels: Path):
        self.kernels, self.sizes = kernels, set[int]()

    def __call__(self, batch: Any) -> Any:
        if len(batch) not in self.sizes:
            self.sizes.add(len(batch))
            time.sleep(COMPILING_S)
            (self.kernels / "compiled").mkdir(parents=True, exist_ok=True)
        return 2 * batch + (len(batch) == 1)


def worked(folder: Path, monkeypatch: pytest.MonkeyPatch, late: bool = True, **changed: Any) -> list[dict[str, Any]]:
    """Replies of a process."""
    loaded = Loaded(lambda array: array, Late(folder / "kernels"), lambda array: array)
    backend = Backend("late", "module", "", lambda: None, lambda *_: loaded, compiles_late=late)
    monkeypatch.setitem(BACKENDS, "late", backend)
    monkeypatch.setattr("sys.stdin", io.StringIO("end\n"))
    monkeypatch.setenv(worker.KERNELS, str(folder / "kernels"))
    np.save(folder / "samples.npy", np.arange(12, dtype=np.float32).reshape(6, 2))
    replies = io.StringIO()
    job = {"backend": "late", "file": "f", "samples": str(folder / "samples.npy"), "threads": 1, "turn_s": 0.01,
           "turns": 1, "answers": "", **changed}  # fmt: skip
    worker._work(job, replies)
    return [json.loads(line) for line in replies.getvalue().splitlines()]


def test_what_the_first_call_compiles_counts_as_loading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    facts = worked(tmp_path, monkeypatch)[0]
    assert facts["load_s"] >= COMPILING_S > facts["first_s"]
    assert facts["cold"] is True
    assert worked(tmp_path, monkeypatch)[0]["cold"] is False  # the folder is there


def test_another_first_call_is_no_loading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    facts = worked(tmp_path, monkeypatch, late=False)[0]
    assert facts["load_s"] < COMPILING_S <= facts["first_s"]
    assert facts["cold"] is False


def test_some_samples_are_also_answered_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = {name: str(tmp_path / f"{name}.npy") for name in ("answers", "alone")}
    assert worked(tmp_path, monkeypatch, size=4, **files) == [{"notes": []}]
    answers, alone = (np.load(file) for file in files.values())
    assert np.array_equal(answers, 2 * np.arange(12.0).reshape(6, 2))
    assert np.array_equal(alone, answers[: worker.ALONE] + 1)


def test_the_further_of_two_answers_of_a_sample_counts() -> None:
    reference = torch.zeros(4, 2)
    got = torch.tensor([[1.0, 0.0], [3.0, 0.0], [0.0, 0.0], [5.0, 0.0]])
    alone = torch.tensor([[0.0, 2.0], [0.0, 2.0], [float("nan"), 0.0]])
    count_alone(reference, got, alone)
    assert got[[0, 1, 3]].tolist() == [[0.0, 2.0], [3.0, 0.0], [5.0, 0.0]]
    assert got[2].isnan().any()


def test_single_samples_with_outputs_of_another_shape_are_wrong() -> None:
    with pytest.raises(EffbenchError, match=r"wrong answers: outputs \(2, 1\) of single samples, .* are \(2, 3\)"):
        count_alone(torch.zeros(4, 3), torch.zeros(4, 3), torch.zeros(2, 1))
