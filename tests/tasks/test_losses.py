"""The loss against torch.nn.CrossEntropyLoss and against its definition in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from effbench.errors import ConfigError
from effbench.tasks.losses import CrossEntropy, Focal, OfTorch, class_weights

B, K = 13, 5
WEIGHTS = torch.tensor([0.2, 1.0, 3.0, 0.0, 0.7])


def logits() -> Tensor:
    return torch.randn(B, K, generator=torch.Generator().manual_seed(0)).mul_(3).requires_grad_()


def hard() -> Tensor:
    return torch.randint(0, K, (B,), generator=torch.Generator().manual_seed(1))


def soft() -> Tensor:
    return torch.rand(B, K, generator=torch.Generator().manual_seed(2)).softmax(1)


def mass_of(targets: Tensor) -> Tensor:
    return targets.sum(0) if targets.dim() == 2 else torch.bincount(targets, minlength=K).float()


def value_and_gradient(loss: Tensor, over: Tensor) -> tuple[Tensor, Tensor]:
    return loss.detach(), torch.autograd.grad(loss, over)[0]


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.9])
@pytest.mark.parametrize("weights", [None, WEIGHTS], ids=["unweighted", "weighted"])
def test_sum_over_divisor_is_torchs_mean_for_class_labels(weights, smoothing):
    objective, x = CrossEntropy(smoothing, weights), logits()
    ours = objective.summed(x, hard()) / objective.divisor(B, mass_of(hard()))
    torchs = nn.CrossEntropyLoss(weights, label_smoothing=smoothing)(x, hard())
    torch.testing.assert_close(value_and_gradient(ours, x), value_and_gradient(torchs, x))


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_sum_over_divisor_is_torchs_mean_for_mixed_labels(smoothing):
    objective, x = CrossEntropy(smoothing), logits()
    ours = objective.summed(x, soft()) / objective.divisor(B, None)
    torchs = nn.CrossEntropyLoss(label_smoothing=smoothing)(x, soft())
    torch.testing.assert_close(value_and_gradient(ours, x), value_and_gradient(torchs, x))


def test_weighted_loss_of_mixed_labels_divides_by_weighted_mass():
    """torch divides by the number of samples here, so that mixing would change the size of the loss."""
    objective, x = CrossEntropy(0.0, WEIGHTS), logits()
    ours = float(objective.summed(x, soft()).detach()) / objective.divisor(B, mass_of(soft()))
    z, q, w = (t.detach().double().numpy() for t in (x, soft(), WEIGHTS))
    log_p = z - np.log(np.exp(z).sum(1, keepdims=True))
    assert ours == pytest.approx(-(w * q * log_p).sum() / (w * q).sum())


def test_mixed_labels_that_are_one_hot_weigh_as_the_labels():
    objective, x = CrossEntropy(0.1, WEIGHTS), logits()
    one_hot = torch.eye(K)[hard()]
    torch.testing.assert_close(objective.summed(x, one_hot), objective.summed(x, hard()))
    assert objective.divisor(B, mass_of(one_hot)) == objective.divisor(B, mass_of(hard()))


def test_step_with_only_zero_weight_classes_has_zero_gradient():
    objective, x = CrossEntropy(0.0, WEIGHTS), logits()
    targets = torch.full((B,), 3)
    loss = objective.summed(x, targets) / objective.divisor(B, mass_of(targets))
    assert torch.autograd.grad(loss, x)[0].abs().max() == 0


def test_a_loss_of_torch_that_adds_samples_up_is_refused():
    """With a mean instead of one value a sample, the sum over a step would depend on its micro-batches."""
    with pytest.raises(ConfigError, match=r"CrossEntropyLoss\) must give one value a sample.* size_average"):
        OfTorch(nn.CrossEntropyLoss()).summed(logits(), hard())
    assert OfTorch(nn.CrossEntropyLoss(reduction="none")).summed(logits(), hard()).shape == ()


def test_only_class_weights_need_the_class_mass():
    assert CrossEntropy(0.1, WEIGHTS).needs_class_mass
    assert not CrossEntropy(0.1).needs_class_mass


def test_balanced_weights_give_every_class_the_same_total():
    labels = torch.tensor([0] * 6 + [1] * 3 + [3])
    weights = class_weights("balanced", labels, 4)
    assert weights.dtype == torch.float32
    torch.testing.assert_close(weights, torch.tensor([10 / 24, 10 / 12, 0.0, 10 / 4]))


def test_given_weights_are_taken_as_they_are():
    assert class_weights([1, 2.5], torch.tensor([0, 1]), 2).tolist() == [1.0, 2.5]
    assert class_weights(None, torch.tensor([0, 1]), 2) is None


def test_a_wrong_number_of_weights_is_named():
    with pytest.raises(ConfigError, match=r"loss\.class_weights must hold .* each of the 4 classes; got 2\."):
        class_weights([1.0, 2.0], torch.tensor([0]), 4)


@pytest.mark.parametrize(("weights", "labels"), [([0.0, 0.0], [0, 1]), ([0.0, 3.0], [0, 0]), ([1e39, 1.0], [0, 1])])
def test_weights_by_which_nothing_is_learnt_are_refused(weights, labels):
    with pytest.raises(ConfigError, match=r"loss\.class_weights must be finite, and above 0 for some class"):
        class_weights(weights, torch.tensor(labels), 2)


@pytest.mark.parametrize("gamma", [0.1, 0.5, 0.9, 1.0, 2.0])
@pytest.mark.parametrize("lead", [0.0, 5.0, 20.0, 200.0])
def test_focal_gradients_are_finite_for_sure_samples(gamma: float, lead: float) -> None:
    """With gamma below 1 the slope of (1 - p)^gamma is infinite at p = 1, where float32 puts a lead of 20."""
    logits = torch.tensor([[lead, 0.0, 0.0]], requires_grad=True)
    Focal(gamma).summed(logits, torch.tensor([0])).backward()
    exact = torch.tensor([[lead, 0.0, 0.0]], dtype=torch.float64, requires_grad=True)
    log_p = exact.log_softmax(1)[0, 0]
    rest = exact.softmax(1)[0, 1:].sum()  # 1 - p without the difference
    (-(rest**gamma) * log_p).backward()
    assert logits.grad is not None
    assert exact.grad is not None
    assert torch.allclose(logits.grad.double(), exact.grad.nan_to_num(0.0), rtol=1e-3, atol=1e-6)
