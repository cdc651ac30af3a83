"""Means from running sums, over the ranks and across a restart.

White-box: looks at the sums of the ranks.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch

from effbench.errors import ConfigError
from effbench.metrics import Accuracy
from effbench.tasks.tallies import Tallies
from effbench.training.distributed import DistributedContext
from effbench.training.meter import Meter
from tests.training.tiny import same

TALLIES = Tallies([Accuracy()], 10)


def step(loss: float, correct: float, samples: float, weight: float | None = None) -> torch.Tensor:
    return torch.tensor([loss, samples if weight is None else weight, samples, correct], dtype=torch.float64)


def new(ranks: DistributedContext | None = None) -> Meter:
    return Meter(ranks or DistributedContext(), TALLIES)


class Pair(DistributedContext):
    """Two ranks in one process: what is summed is this rank's values and the other meter's."""

    world_size = 2

    def __init__(self, rank: int):
        self.rank, self.other = rank, torch.zeros(4, dtype=torch.float64)

    def sum(self, values):
        return values + self.other


def test_means_are_by_sample_not_by_step():
    meter = new()
    meter.add(step(8.0, 3, 4))
    meter.add(step(1.0, 1, 1))
    assert meter.window_means() == {"train/loss": 9 / 5, "train/acc": 4 / 5}
    meter.add(step(3.0, 0, 1))
    assert meter.window_means() == {"train/loss": 3.0, "train/acc": 0.0}
    assert meter.epoch_means() == {"train/loss": 2.0, "train/acc": 4 / 6}


def test_a_mean_loss_divides_by_the_weight_of_its_samples():
    meter = new()
    meter.add(step(8.0, 3, 4, 0.5))
    meter.add(step(1.0, 1, 1, 2.5))
    assert meter.window_means() == {"train/loss": 3.0, "train/acc": 4 / 5}
    meter.add(step(0.0, 1, 2, 0.0))
    assert meter.window_means() == {"train/acc": 1 / 2}, "samples of weight 0 have no mean loss"
    assert meter.epoch_means() == {"train/loss": 3.0, "train/acc": 5 / 7}


@pytest.mark.parametrize("weight", [lambda _: [], lambda sums: [sums[2]]], ids=["without weight", "with weight"])
def test_the_sums_of_an_older_checkpoint_are_read(weight):
    meter = new()
    older = {"sums": [8.0, 3, 4], "logged": [2.0, 1, 2]}
    meter.load_state_dict(
        {name: torch.tensor([*sums, *weight(sums)], dtype=torch.float64) for name, sums in older.items()}
    )
    assert meter.window_means() == {"train/loss": 3.0, "train/acc": 1.0}
    assert meter.epoch_means() == {"train/loss": 2.0, "train/acc": 3 / 4}


def test_an_epoch_begins_at_zero_and_knows_that_it_is_empty():
    meter = new()
    assert meter.empty
    assert meter.epoch_means() == {}
    meter.add(step(8.0, 3, 4))
    assert not meter.empty
    meter.epoch_means()
    assert meter.empty
    meter.add(step(1.0, 1, 1))
    assert meter.window_means() == {"train/loss": 1.0, "train/acc": 1.0}


@pytest.mark.parametrize("cut", [1, 2, 3])
def test_a_restart_in_mid_epoch_changes_no_mean(cut):
    meter, straight, logged = new(), new(), []
    for number in range(1, 5):
        for each in (meter, straight):
            each.add(step(number / 3, number % 2, 4))
        if number == 2:
            logged.append(meter.window_means() == straight.window_means())
        if number == cut:
            state, meter = meter.state_dict(), new()
            meter.load_state_dict(state)
    assert logged == [True]
    assert meter.window_means() == straight.window_means()
    assert meter.epoch_means() == straight.epoch_means()


def test_two_ranks_save_the_sums_of_both_and_share_them_out_once():
    ranks = [Pair(0), Pair(1)]
    ranks[0].other, ranks[1].other = step(2.0, 1, 4), step(6.0, 3, 4)
    meters = [new(rank) for rank in ranks]
    meters[0].add(step(6.0, 3, 4))
    meters[1].add(step(2.0, 1, 4))
    states = [meter.state_dict() for meter in meters]
    assert same(states[0], states[1])
    restored = [new(Pair(0)), new(Pair(1))]
    for meter in restored:
        meter.load_state_dict(states[0])  # the file is rank 0's
    assert sum(float(meter._sums[0]) for meter in restored) == 8.0
    restored[0]._ranks.other = restored[1]._sums
    assert restored[0].epoch_means() == {"train/loss": 1.0, "train/acc": 0.5}
    assert not meters[0].empty, "saving changes nothing"


@pytest.mark.parametrize(
    ("sums", "value", "message"),
    [
        (torch.zeros(3), 0.0, r"Odd.sums must return its size, a \(2,\) tensor; got \(3,\)"),
        (torch.zeros(()), 0.0, r"got \(\)"),
        (0.5, 0.0, "got float"),
        (torch.zeros(2), True, "Odd.value must return a number or None; got bool"),
        (torch.zeros(2), "high", "Odd.value must return a number or None; got str"),
        (torch.zeros(2), torch.tensor(0.5), "got Tensor"),
    ],
)
def test_a_metric_with_other_numbers_is_named(sums: Any, value: object, message: str) -> None:
    class Odd(Accuracy):
        def size(self, num_outputs: int) -> int:
            return 2

        def sums(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
            return sums

        def value(self, sums: Sequence[float], samples: float) -> Any:
            return value

    # first: its numbers would be read as those of the metric after it
    tallies = Tallies([Odd(), Accuracy()], 10)
    with pytest.raises(ConfigError, match=message):
        tallies.values(tallies.of(torch.tensor(1.0), torch.zeros(4, 10), torch.zeros(4, dtype=torch.int64)))
