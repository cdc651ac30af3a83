"""What is compared with the reference: parity, metrics, what is lost; answers that are none are refused."""

from __future__ import annotations

import pytest
import torch

from effbench.bench.answers import judged
from effbench.bench.sources import Source
from effbench.errors import EffbenchError
from effbench.metrics import Accuracy
from effbench.tasks.classification import Classification
from effbench.tasks.losses import CrossEntropy

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
    assert found["parity"]["agreement"] == 1.0


@pytest.mark.parametrize("got", [LOGITS[:, :2], LOGITS[:3], LOGITS * float("nan"), LOGITS / 0.0])
def test_outputs_that_cannot_be_answers_are_refused(got: torch.Tensor) -> None:
    with pytest.raises(EffbenchError, match="wrong answers"):
        judged(source(), LOGITS, got)
