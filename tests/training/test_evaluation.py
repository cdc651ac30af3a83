"""Loss and accuracy over a split against a naive loop over single samples."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from effbench import build
from effbench.config.compose import compose
from effbench.data.batches import EvalBatches, Shard
from effbench.data.images.augment import Augment
from effbench.tasks.losses import CrossEntropy
from effbench.training.distributed import DistributedContext
from effbench.training.evaluation import evaluate
from effbench.training.precision import Precision
from tests.training.tiny import (
    CLASSES,
    batch_transform,
    convolutional,
    data,
    dense,
    modality,
    task,
    trainer,
    unbalanced,
)

DATA = data(num_val=41)


def naive(net, split) -> tuple[float, float]:
    mean, std = batch_transform(DATA).mean[0], batch_transform(DATA).std[0]
    net = net.double().eval()
    loss, correct = 0.0, 0
    for image, label in zip(split.images, split.labels.tolist(), strict=True):
        scores = net((image.double()[None] / 255 - mean) / std)[0].tolist()
        loss += math.log(sum(map(math.exp, scores))) - scores[label]
        correct += max(range(CLASSES), key=scores.__getitem__) == label
    net.float()
    return loss / len(split), correct / len(split)


def measured(net, **options):
    batches = EvalBatches(DATA.val, modality=modality(DATA), **options)
    return pair(evaluate(net, batches, Precision(), DistributedContext(), task()))


def pair(values):
    return values["loss"], values["acc"]


@pytest.mark.parametrize("batch_size", [1, 7, 20, 41, 64])
def test_every_sample_counts_once_whatever_the_batch_size(batch_size):
    net = convolutional()
    assert measured(net, batch_size=batch_size) == pytest.approx(naive(net, DATA.val), rel=1e-5)


def test_evaluation_disables_dropout_and_uses_running_statistics():
    net = convolutional(dropout=0.9)
    net.train()
    assert measured(net, batch_size=5) == measured(net, batch_size=5)
    assert not net.training
    assert int(net.get_buffer("block1.1.num_batches_tracked")) == 0


def test_evaluation_can_be_limited_to_given_samples():
    net, rows = dense(), torch.tensor([0, 3, 4, 11, 30, 38])
    limited = measured(net, batch_size=4, sample=rows)
    assert limited == pytest.approx(naive(net, DATA.val.take(rows)), rel=1e-5)


@pytest.mark.slow
@pytest.mark.row(52)
@pytest.mark.parametrize("world", [1, 2, 3])
@pytest.mark.parametrize("limit", [2, 0.5])
def test_limited_eval_reads_same_stratified_sample_for_any_world(world, limit):
    config = compose(["data=synthetic", "data.eval_batch_size=8"])
    sorted_by_class = DATA.val.take(DATA.val.labels.argsort(stable=True))
    shares = []
    for rank in range(world):
        ranks = DistributedContext()
        ranks.rank, ranks.world_size = rank, world
        shares.append(build.eval_batches(config, sorted_by_class, modality(DATA), ranks, limit))
    read = torch.cat([batch.targets for share in shares for batch in share])
    count = 16 if limit == 2 else 20  # of 41
    per_class = torch.bincount(read, minlength=CLASSES)
    assert per_class.sum() == count
    assert per_class.max() - per_class.min() <= 1
    assert {share.extent for share in shares} == {f"a sample of {count} of 41 images, all 4 classes"}


@pytest.mark.parametrize("world", [2, 3, 50])
def test_the_shards_of_all_ranks_make_the_split(world):
    pieces = [
        list(EvalBatches(DATA.val, batch_size=4, modality=modality(DATA), shard=Shard(r, world))) for r in range(world)
    ]
    labels = torch.cat([batch.targets for piece in pieces for batch in piece])
    assert torch.equal(labels, DATA.val.labels)


class Sum(DistributedContext):
    """Stands in for a second process whose sums are given."""

    def __init__(self, other):
        self.other = other

    def sum(self, values):
        return values + torch.tensor(self.other, dtype=torch.float64)


def test_the_counts_of_all_ranks_are_added_before_dividing():
    net = dense()
    half = EvalBatches(DATA.val, batch_size=8, modality=modality(DATA), shard=Shard(0, 2))
    loss, accuracy = naive(net, DATA.val.take(torch.arange(20, 41)))
    both = evaluate(net, half, Precision(), Sum([loss * 21, 21, 21, accuracy * 21]), task())
    assert pair(both) == pytest.approx(naive(net, DATA.val), rel=1e-5)


def test_smoothing_and_class_weights_do_not_affect_validation():
    net = dense()
    weighted = CrossEntropy(0.3, torch.tensor([0.1, 2.0, 1.0, 1.0]))
    run = trainer(DATA, net, 3, validate=True, loss=weighted)
    run.fit()
    measured_by_run = (run.state.metrics["val/loss"], run.state.metrics["val/acc"])
    assert measured_by_run == pytest.approx(naive(net, DATA.val), rel=1e-5)


def test_train_loss_and_accuracy_are_the_means_over_the_epoch():
    """At lr 0 the weights stand still, so that the epoch's mean is the mean over the split."""
    net = dense()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.0)
    run = trainer(DATA, net, 6, optimizer=optimizer, validate=True, batch={"batch_size": 8, "accumulate": 2})
    run.fit()
    measured_by_run = (run.state.metrics["train/loss"], run.state.metrics["train/acc"])
    assert measured_by_run == pytest.approx(naive(net, DATA.train), rel=1e-5)


WEIGHTS = torch.tensor([2.0, 30.0, 10.0, 5.0])


@pytest.mark.parametrize("pieces", [1, 2])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_weighted_train_loss_equals_torch_mean_over_the_epoch(smoothing, pieces):
    """At lr 0, over micro-batches of 8, two a step, the last one smaller, each in one or two pieces."""
    net, whole = dense(), unbalanced(data())
    optimizer = torch.optim.SGD(net.parameters(), lr=0.0)
    batch = {"batch_size": 8, "accumulate": 2, "drop_last": False}
    run = trainer(whole, net, 6, optimizer=optimizer, batch=batch, loss=CrossEntropy(smoothing, WEIGHTS))
    run.state.micro_batch_splits = pieces
    run.fit()
    inputs = batch_transform(whole)(whole.train.images.float() / 255)
    expected = nn.CrossEntropyLoss(WEIGHTS, label_smoothing=smoothing)(net(inputs), whole.train.labels)
    assert run.state.metrics["train/loss"] == pytest.approx(float(expected.detach()), rel=1e-5)


@pytest.mark.parametrize("factor", [1, 10])
def test_train_loss_of_mixed_labels_divides_by_weighted_mass(factor):
    net = dense()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.0)
    batch = {"batch_size": 32, "augment": Augment(mixup_alpha=0.4)}
    objective = CrossEntropy(0.1, factor * WEIGHTS)
    run = trainer(DATA, net, 3, optimizer=optimizer, batch=batch, loss=objective)
    run.fit()
    batches = [made for step in run.train.epoch(0) for made in step.micro_batches]
    inputs, targets = (torch.cat(parts) for parts in zip(*((b.inputs, b.targets) for b in batches), strict=True))
    summed = nn.CrossEntropyLoss(WEIGHTS, reduction="sum", label_smoothing=0.1)(net(inputs), targets)
    assert run.state.metrics["train/loss"] == pytest.approx(
        float(summed.detach() / (targets @ WEIGHTS).sum()), rel=1e-5
    )
