"""Both models on the same test samples, in parts that fit the memory: the numbers are those of all samples at once."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from effbench.bench import answers as answering
from effbench.compress import compare as comparing
from effbench.compress.compare import paired_test
from effbench.data.splits import Split
from effbench.metrics import Accuracy
from effbench.stats import paired_share_interval, share_interval
from effbench.tasks.classification import Classification
from effbench.tasks.losses import CrossEntropy
from effbench.tasks.next_token import NextToken
from effbench.tasks.task import Task

SAMPLES, TOKENS, CLASSES = 9, 4, 5


def run_of(task: Task, shape: tuple[int, ...], seed: int, seen: list[int]) -> Any:
    """A run whose model is a table; `seen` gets the number of outputs of each of its calls."""
    torch.manual_seed(seed)
    table = nn.Embedding(20, CLASSES)

    def model(inputs: Tensor) -> Tensor:
        outputs = table(inputs) if shape else table(inputs[:, 0])
        seen.append(outputs.numel())
        return outputs

    modality = SimpleNamespace(
        targets=lambda labels, rows, _: labels[rows], portable=lambda inputs: inputs, normalise=lambda inputs: inputs
    )
    return SimpleNamespace(
        task=task, shape=shape, classes=("c",) * CLASSES, modality=lambda: modality, model=lambda _: model,
        table=table, config=SimpleNamespace(data=SimpleNamespace(eval_batch_size=3)),
    )  # fmt: skip


def compared(
    task: Task, shape: tuple[int, ...], inputs: Tensor, labels: Tensor, monkeypatch: pytest.MonkeyPatch
) -> tuple[dict[str, Any], Any, Any, list[int]]:
    seen: list[int] = []
    before, after = (run_of(task, shape, seed, seen) for seed in (1, 2))
    monkeypatch.setattr(comparing, "tested_split", lambda *_: ("test", Split(inputs, labels), True))
    return paired_test(before, "best", after, "test", 10_000), before, after, seen


@pytest.mark.parametrize("values", [1, 2 * TOKENS * CLASSES, 10**6])
def test_texts_are_compared_in_parts(values: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answering, "PART_VALUES", values)
    tokens = torch.randint(1, 20, (SAMPLES, TOKENS))
    targets = torch.randint(1, CLASSES, (SAMPLES, TOKENS))
    targets[4, 1:] = 0  # padding
    found, before, after, seen = compared(
        NextToken(CrossEntropy(), [], CLASSES), (TOKENS,), tokens, targets, monkeypatch
    )
    assert max(seen) <= max(min(values, 3 * TOKENS * CLASSES), TOKENS * CLASSES)
    assert sum(seen) == 2 * SAMPLES * TOKENS * CLASSES  # no sample is computed twice
    for side, run in (("before", before), ("after", after)):
        logits = run.table(tokens).detach().flatten(0, 1)
        loss = cross_entropy(logits, targets.flatten(), ignore_index=0)
        assert found[side]["loss"] == pytest.approx(float(loss), rel=1e-6)
        assert found[f"{side}_accuracy"] is None
    moved = (after.table(tokens) - before.table(tokens)).detach().abs().max()
    assert found["parity"]["max_difference"] == pytest.approx(float(moved))
    assert (found["samples"], found["parity"]["samples"], found["lost_of"]) == (SAMPLES, SAMPLES, "answers")


@pytest.mark.parametrize("values", [1, 10**6])
def test_lost_accuracy_adds_up_over_parts(values: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answering, "PART_VALUES", values)
    inputs, labels = torch.randint(0, 20, (SAMPLES, 1)), torch.randint(0, CLASSES, (SAMPLES,))
    task = Classification(CrossEntropy(), [Accuracy()], CLASSES)
    found, before, after, _ = compared(task, (), inputs, labels, monkeypatch)
    right = [run.table(inputs[:, 0]).argmax(1) == labels for run in (before, after)]
    for side, each in zip(("before", "after"), right, strict=True):
        assert found[side]["acc"] == pytest.approx(float(each.float().mean()))
        assert found[f"{side}_accuracy"] == pytest.approx(vars(share_interval(int(each.sum()), SAMPLES)))
    lost, gained = int((right[0] & ~right[1]).sum()), int((right[1] & ~right[0]).sum())
    assert found["lost"] == pytest.approx(vars(paired_share_interval(lost, gained, SAMPLES).times(100)))
