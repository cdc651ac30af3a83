"""A neuron: its gradient by hand is autograd's and the closed form's; it is as good as scikit-learn's regression."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from effbench.data.modality import Settings
from effbench.data.rows.breast_cancer import breast_cancer
from effbench.errors import ConfigError
from effbench.models.mlp import linear
from effbench.models.neuron import Neuron, logistic_gradient


def sample(classes: int = 2) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x_BF = torch.randn(50, 6, generator=generator, dtype=torch.float64)
    return x_BF, torch.randint(0, classes, (50,), generator=generator)


def started(model: Neuron) -> Neuron:
    """The model in float64, with weights away from zero."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.double().parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    return model


@pytest.mark.parametrize("gradient", ["autograd", "manual"])
def test_gradient_is_the_closed_form_of_logistic_regression(gradient: str) -> None:
    model, (x_BF, y_B) = started(Neuron(2, 6, gradient)), sample()
    weight_F, bias = model.linear.weight.detach()[0], model.linear.bias.detach()[0]
    F.cross_entropy(model(x_BF), y_B).backward()
    expected = logistic_gradient(x_BF, y_B.double(), weight_F, bias)
    torch.testing.assert_close(model.linear.weight.grad[0], expected[0], rtol=0, atol=1e-12)
    torch.testing.assert_close(model.linear.bias.grad[0], expected[1], rtol=0, atol=1e-12)


def test_closed_form_is_the_slope_of_the_loss() -> None:
    x_BF, y_B = sample()
    weight_F, bias = torch.linspace(-1, 1, 6, dtype=torch.float64), torch.tensor(0.3, dtype=torch.float64)

    def loss(weight_F: Tensor, bias: Tensor) -> float:
        return float(F.binary_cross_entropy_with_logits(x_BF @ weight_F + bias, y_B.double()))

    got_F, got = logistic_gradient(x_BF, y_B.double(), weight_F, bias)
    h = 1e-6
    for place in range(6):
        step_F = h * torch.eye(6, dtype=torch.float64)[place]
        slope = (loss(weight_F + step_F, bias) - loss(weight_F - step_F, bias)) / (2 * h)
        assert float(got_F[place]) == pytest.approx(slope, abs=1e-8)
    assert float(got) == pytest.approx((loss(weight_F, bias + h) - loss(weight_F, bias - h)) / (2 * h), abs=1e-8)


@pytest.mark.parametrize(("outputs", "kind"), [(2, "class"), (5, "class"), (1, "values"), (2, "labels")])
def test_manual_gradient_equals_autograd_also_of_inputs(outputs: int, kind: str) -> None:
    x_BF, _ = sample()
    found = {}
    for gradient in ("autograd", "manual"):
        model, given_BF = started(Neuron(outputs, 6, gradient, kind)), x_BF.clone().requires_grad_()
        model(given_BF).sin().sum().backward()
        found[gradient] = [given_BF.grad, *(parameter.grad for parameter in model.parameters())]
    for auto, manual in zip(found["autograd"], found["manual"], strict=True):
        torch.testing.assert_close(manual, auto, rtol=0, atol=1e-12)


def test_a_manual_neuron_calls_no_gradient_of_torch() -> None:
    logits = Neuron(2, 6, "manual").double()(sample()[0])
    names = {type(logits.grad_fn).__name__, type(logits.grad_fn.next_functions[0][0]).__name__}
    assert "ByHandBackward" in names


def test_the_first_class_has_logit_0_and_values_the_sum() -> None:
    x_BF, _ = sample()
    model = started(Neuron(2, 6))
    z_B = x_BF @ model.linear.weight[0] + model.linear.bias[0]
    torch.testing.assert_close(model(x_BF), torch.stack([torch.zeros_like(z_B), z_B], 1))
    assert started(Neuron(2, 6, target_kind="values"))(x_BF)[:, 0].abs().min() > 0


def test_unknown_gradient_is_named() -> None:
    with pytest.raises(ConfigError, match="model.gradient 'hand' is not one of: autograd, manual"):
        Neuron(2, 6, "hand")


@pytest.mark.parametrize("make", [Neuron, linear])
def test_breast_cancer_accuracy_is_that_of_scikit_learn(make) -> None:
    from sklearn.linear_model import LogisticRegression

    data = breast_cancer()
    modality = data.modality.fit(data, Settings())
    rows = {which: modality.normalise(split.inputs) for which, split in data.named().items()}
    theirs = LogisticRegression(max_iter=1000).fit(rows["train"].numpy(), data.train.labels.numpy())
    expected = theirs.score(rows["test"].numpy(), data.test.labels.numpy())
    torch.manual_seed(0)
    model = make(num_classes=2, in_features=30)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.03)
    for _ in range(80):
        optimizer.zero_grad()
        F.cross_entropy(model(rows["train"]), data.train.labels).backward()
        optimizer.step()
    got = float((model(rows["test"]).argmax(1) == data.test.labels).float().mean())
    assert expected > 0.93
    assert got == pytest.approx(expected, abs=0.02)  # two of 113 rows
