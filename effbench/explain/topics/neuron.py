"""One neuron: a gradient step by hand beside autograd's and torch.optim.SGD's, on real measurements."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from effbench.explain.content import Drawing, Explanation, Listing, Paragraph, Part, Request, Table
from effbench.explain.examples import agreement, shipped
from effbench.report.figures import Figure, Guide, Series, figure

FEATURES = ("mean radius", "mean texture")
WEIGHTS, BIAS = (0.2, -0.1), 0.1  # before the step
LR, STEPS = 1.0, 100
_STEP = 1e-5  # of the difference quotient: its error is of the order of its square
REFERENCES = (
    "Bishop 2006, Pattern Recognition and Machine Learning, section 4.3.2: logistic regression, dL/dz = p - y",
    "Rumelhart, Hinton and Williams 1986, Learning representations by back-propagating errors, Nature 323",
)


@dataclass(frozen=True)
class Neuron:
    """A neuron with the logistic function.

    Attributes:
        weights: one an input.
        bias: added to their sum.
    """

    weights: tuple[float, ...]
    bias: float

    def output(self, inputs: Sequence[float]) -> float:
        """Return p = 1 / (1 + exp(-z)), z = w . x + b."""
        z = self.bias + sum(w * x for w, x in zip(self.weights, inputs, strict=True))
        return 1 / (1 + math.exp(-z))

    def loss(self, inputs: Sequence[float], target: int) -> float:
        """Return the cross-entropy of a sample in nats. target: 0 or 1."""
        p = self.output(inputs)
        return -math.log(p if target else 1 - p)

    def gradient(self, inputs: Sequence[float], target: int) -> tuple[tuple[float, ...], float]:
        """Return (dL/dw, dL/db): the error p - y, times the input of each weight."""
        error = self.output(inputs) - target
        return tuple(error * x for x in inputs), error

    def stepped(self, inputs: Sequence[float], target: int, lr: float) -> Neuron:
        """Return the neuron after a gradient step.

        Args:
            inputs: of one sample.
            target: 0 or 1.
            lr: learning rate.
        """
        weights, bias = self.gradient(inputs, target)
        return Neuron(tuple(w - lr * g for w, g in zip(self.weights, weights, strict=True)), self.bias - lr * bias)


def explain(request: Request) -> Explanation:
    """Explain a gradient step."""
    del request  # nothing is drawn
    x_train, y_train, x_test, y_test = _measurements()
    sample, target = tuple(x_train[0].tolist()), int(y_train[0])
    before = Neuron(WEIGHTS, BIAS)
    after = before.stepped(sample, target, LR)
    gradient, slope = before.gradient(sample, target)
    autograd, stepped = _of_torch(before, sample, target)
    quotient = _quotient(before, sample, target)
    losses, trained = _descent(x_train, y_train)
    p = before.output(sample)

    by_hand = [*gradient, slope, *after.weights, after.bias]
    of_torch = [*autograd, *stepped]
    names = ["dL/dw1", "dL/dw2", "dL/db", "w1 after the step", "w2 after the step", "b after the step"]
    rows = [[name, f"{a:.6f}", f"{b:.6f}"] for name, a, b in zip(names, by_hand, of_torch, strict=True)]
    answers = x_test @ torch.tensor(trained.weights, dtype=torch.float64) + trained.bias > 0
    correct = float((answers == (y_test > 0)).double().mean())
    values = {
        "p": p, "loss": before.loss(sample, target), "loss_after": after.loss(sample, target), "error": p - target,
        "quotient": quotient, "dw1": gradient[0], "dw2": gradient[1], "db": slope,
        "first_loss": losses[0], "last_loss": losses[-1], "test_accuracy": correct,
    }  # fmt: skip
    parts: list[Part] = [
        Paragraph(
            "A neuron multiplies each input by a weight, adds the products and a bias, z = w1 x1 + w2 x2 + b, and "
            "turns z into a probability by the logistic function, p = 1 / (1 + exp(-z)). Here the inputs are two "
            f"measurements of a breast mass (data=breast_cancer): {FEATURES[0]} and {FEATURES[1]}, each minus its mean "
            f"and divided by its standard deviation over {len(x_train)} masses. p is the probability that the mass is "
            "malignant (y = 1), and the loss is the cross-entropy: L = -ln p where y = 1, L = -ln(1 - p) where y = 0."
        ),
        Listing(_by_hand(before, sample, target)),
        Paragraph(
            "The chain rule gives dL/dz = p - y: the derivative of the logistic function, p (1 - p), cancels against "
            "that of the logarithm. Each weight then gets the error p - y times its own input. A step goes against "
            f"the gradient: w becomes w - lr dL/dw, with the learning rate lr = {LR:g}. Beside it are the gradient of "
            "autograd and the weights after one step of torch.optim.SGD:"
        ),
        Table(["", "by hand", "torch"], rows),
        Paragraph(
            f"Both agree {agreement(by_hand, of_torch)}. The difference quotient (L(w1 + h) - L(w1 - h)) / 2h with h = "
            f"{_STEP:g} gives {quotient:.6f} for dL/dw1, without any calculus. The step lowers the loss of this mass "
            f"from {values['loss']:.4f} to {values['loss_after']:.4f} nats."
        ),
        Drawing(
            [_loss_figure(before, after, sample, target), _descent_figure(losses)],
            "Left: the loss of this mass as a function of w1 alone, with the tangent at w1; its slope is dL/dw1. "
            f"Right: {STEPS} such steps with the mean gradient of all masses.",
            across=2,
        ),
        Paragraph(
            f"After {STEPS} steps over all {len(x_train)} masses the mean loss is {losses[-1]:.4f} nats, from "
            f"{losses[0]:.4f}; w1 = {trained.weights[0]:.3f}, w2 = {trained.weights[1]:.3f}, b = {trained.bias:.3f}. "
            f"On the {len(x_test)} masses of the test split, two measurements give {100 * correct:.1f} % accuracy. "
            "effbench train data=breast_cancer model=neuron trains such a neuron on all 30."
        ),
    ]
    return Explanation("neuron", "A gradient step of one neuron", parts, values, REFERENCES)


def _measurements() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the two measurements and the target of the train and the test split, float64; malignant is 1."""
    data = shipped("data=breast_cancer", "data.val_fraction=0")
    assert data.test is not None
    columns = [data.facts["features"].index(name) for name in FEATURES]
    train, test = (split.inputs.double()[:, columns] for split in (data.train, data.test))
    mean, std = train.mean(0), train.std(0)
    targets = [(split.labels == data.classes.index("malignant")).double() for split in (data.train, data.test)]
    return (train - mean) / std, targets[0], (test - mean) / std, targets[1]


def _by_hand(neuron: Neuron, inputs: Sequence[float], target: int) -> str:
    (w1, w2), (x1, x2), p = neuron.weights, inputs, neuron.output(inputs)
    z, loss, error = math.log(p / (1 - p)), neuron.loss(inputs, target), p - target
    return (
        f"x1 = {x1:.4f}   x2 = {x2:.4f}   y = {target}\n"
        f"w1 = {w1:g}   w2 = {w2:g}   b = {neuron.bias:g}\n\n"
        f"z = {w1:g} * {x1:.4f} + {w2:g} * {x2:.4f} + {neuron.bias:g} = {z:.4f}\n"
        f"p = 1 / (1 + exp({-z:.4f})) = {p:.4f}\n"
        f"L = {loss:.4f}\n\n"
        f"dL/dz  = p - y          = {error:.4f}\n"
        f"dL/dw1 = (p - y) * x1   = {error * x1:.4f}\n"
        f"dL/dw2 = (p - y) * x2   = {error * x2:.4f}\n"
        f"dL/db  = p - y          = {error:.4f}"
    )


def _of_torch(neuron: Neuron, inputs: Sequence[float], target: int) -> tuple[list[float], list[float]]:
    """Return (gradient by autograd, weights after one step of torch.optim.SGD), both as w1, w2, b."""
    w = torch.tensor([*neuron.weights, neuron.bias], dtype=torch.float64, requires_grad=True)
    x = torch.tensor([*inputs, 1.0], dtype=torch.float64)
    optimizer = torch.optim.SGD([w], lr=LR)
    F.binary_cross_entropy_with_logits(w @ x, torch.tensor(float(target), dtype=torch.float64)).backward()
    assert w.grad is not None
    gradient = w.grad.tolist()
    optimizer.step()
    return gradient, w.tolist()


def _quotient(neuron: Neuron, inputs: Sequence[float], target: int) -> float:
    w1, *others = neuron.weights
    high, low = (Neuron((w1 + h, *others), neuron.bias).loss(inputs, target) for h in (_STEP, -_STEP))
    return (high - low) / (2 * _STEP)


def _descent(x: Tensor, y: Tensor) -> tuple[list[float], Neuron]:
    """Return (mean loss before each step and after the last, the neuron) of gradient descent over all samples."""
    w = torch.tensor([*WEIGHTS, BIAS], dtype=torch.float64)
    inputs = torch.cat([x, torch.ones(len(x), 1, dtype=torch.float64)], 1)
    losses = []
    for step in range(STEPS + 1):
        z = inputs @ w
        losses.append(float(F.binary_cross_entropy_with_logits(z, y)))
        if step < STEPS:
            w = w - LR * (inputs * (z.sigmoid() - y)[:, None]).mean(0)
    w1, w2, bias = w.tolist()
    return losses, Neuron((w1, w2), bias)


def _loss_figure(before: Neuron, after: Neuron, inputs: Sequence[float], target: int) -> Figure:
    w1, w2 = before.weights
    reach = 1.6 * abs(after.weights[0] - w1)
    places = [w1 + reach * part / 20 for part in range(-20, 21)]
    curve = [(w, Neuron((w, w2), before.bias).loss(inputs, target)) for w in places]
    loss, slope = before.loss(inputs, target), before.gradient(inputs, target)[0][0]
    tangent = [(w, loss + slope * (w - w1)) for w in (w1 - reach / 2, w1 + 0.7 * reach)]
    moved = Neuron((after.weights[0], w2), before.bias).loss(inputs, target)
    found = figure(
        "loss against w1", "w1",
        [
            Series("loss", 0, curve, dotted=False),
            Series("before", 4, [(w1, loss)], beside=True),
            Series("after the step", 2, [(after.weights[0], moved)], beside=True),
        ],
        "{:.2g}".format, "{:.4f}".format, x_limits=(places[0], places[-1]), guides=[Guide(tangent)],
    )  # fmt: skip
    assert found is not None
    return found


def _descent_figure(losses: Sequence[float]) -> Figure:
    curve = [(float(step), loss) for step, loss in enumerate(losses)]
    found = figure("mean loss", "step", [Series("", 0, curve)], "{:.2g}".format, "{:.4f}".format)
    assert found is not None
    return found
