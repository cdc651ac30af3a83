"""Mixed precision: which real gradients float16 loses without loss scaling, with scaling, and in bfloat16."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from effbench.explain.content import Drawing, Explanation, Listing, Paragraph, Part, Request, Table
from effbench.explain.examples import pixels, shipped, trained
from effbench.models.mlp import mlp
from effbench.report.figures import Figure, Guide, Series, figure
from effbench.training.precision import Precision

FORMATS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
HIDDEN, TRAIN = (64, 64, 64, 64), 300
EARLY, LATE, LR = 3, 200, 3e-3  # epochs, epochs, learning rate
SCALE = 2.0**16  # GradScaler's first
_LOW, _HIGH = -44, 8  # powers of two in the histogram
REFERENCES = (
    "Micikevicius et al., Mixed Precision Training, arXiv:1710.03740, sections 3.1 to 3.3",
    "Kalamkar et al., A Study of BFLOAT16 for Deep Learning Training, arXiv:1905.12322",
)


def lost(reference: Tensor, found: Tensor) -> float:
    """Return the share of the gradients that are not 0 in the reference and are 0 in the other format."""
    real = reference != 0
    return float(((found == 0) & real).sum() / real.sum())


def relative_error(reference: Tensor, found: Tensor) -> float:
    """Return |found - reference| / |reference|, of the whole gradient."""
    return float((found.double() - reference).norm() / reference.norm())


@dataclass(frozen=True)
class Stage:
    """A moment of a training.

    Attributes:
        loss: mean over the images, in nats.
        sizes: log2 of the absolute gradients in float64, without those that are 0.
        lost: backward pass -> share of the gradients lost.
        errors: backward pass -> error of the whole gradient.
        largest_scale: largest power of two with which no gradient overflows in float16.
    """

    loss: float
    sizes: Tensor
    lost: Mapping[str, float]
    errors: Mapping[str, float]
    largest_scale: float

    @property
    def below_normal(self) -> float:
        """Share of the gradients below 2^-14, the smallest normal number of float16."""
        return float((self.sizes < -14).double().mean())


def explain(request: Request) -> Explanation:
    """Explain loss scaling."""
    data = shipped("data=fashion_mnist")
    x, y = pixels(data.train)[:TRAIN], data.train.labels[:TRAIN]
    torch.manual_seed(request.seed)
    model = mlp(10, in_features=x.shape[1], hidden=HIDDEN, dropout=0.0).double()
    early = _stage(trained(model, x, y, EARLY, LR, request.seed), x, y)
    late = _stage(trained(model, x, y, LATE - EARLY, LR, request.seed), x, y)
    values = {"early_loss": early.loss, "late_loss": late.loss, "largest_scale": late.largest_scale}
    values |= {"early_below_normal": early.below_normal, "late_below_normal": late.below_normal}
    values |= {f"early lost {name}": share for name, share in early.lost.items()}
    values |= {f"late lost {name}": share for name, share in late.lost.items()}
    values |= {f"late error {name}": error for name, error in late.errors.items()}
    rows = [
        [name, *(f"{100 * each[name]:.2f} %" for each in (early.lost, early.errors, late.lost, late.errors))]
        for name in late.lost
    ]
    parts: list[Part] = [
        Paragraph(
            "Mixed precision computes the forward and the backward pass in 16 bits, and keeps weights and optimizer "
            "state in float32. float16 has 5 bits of exponent and 10 of fraction, bfloat16 8 and 7: float16 is finer, "
            "bfloat16 has the range of float32. What is smaller than half of the smallest number becomes 0: it "
            "underflows. Below the smallest normal number, fewer bits of the fraction are left."
        ),
        _table_of_formats(),
        Listing(_small_numbers()),
        Paragraph(
            f"Real gradients: an MLP with {len(HIDDEN)} hidden layers of {HIDDEN[0]} units on {TRAIN} images of "
            f"Fashion-MNIST. After {EARLY} epochs the mean loss is {early.loss:.2f} nats, and "
            f"{100 * early.below_normal:.0f} % of the gradients are below 2^-14, the smallest normal number of "
            f"float16. After {LATE} epochs the images are learnt, the loss is {late.loss:.5f}, and "
            f"{100 * late.below_normal:.0f} % are: gradients shrink with the loss."
        ),
        Drawing(
            [
                _histogram("early", early.sizes),
                _histogram("late", late.sizes),
                _histogram("late, loss x 65536", late.sizes + math.log2(SCALE)),
            ],
            "Shares of the gradients by size, in powers of two. Left of 2^-24 float16 has nothing but 0; between "
            "2^-24 and 2^-14 it has fewer bits. Right: the same gradients with the loss times 2^16.",
            across=3,
        ),
        Paragraph("The same gradients in effbench's precisions, trainer.precision=16-mixed and bf16-mixed:"),
        Table(["backward pass in", "early: lost", "error", "late: lost", "error"], rows),
        Paragraph(
            "Lost: not 0 in float64, and 0 here. The error is that of the whole gradient, |g - g64| / |g64|. Small "
            "gradients hardly count in it, but Adam and Lion divide by their size, and a weight whose gradient is "
            "always 0 never moves. Scaling the loss by 2^16 moves all gradients up; before the optimizer's step they "
            "are divided by it again, in float32, which loses nothing. bfloat16 needs no scale, and pays with its 7 "
            "bits of fraction."
        ),
        Paragraph(
            f"A scale that is too large makes gradients infinite: here 2^{math.log2(late.largest_scale):.0f} is the "
            f"largest power of two that does not, and 2^{math.log2(early.largest_scale):.0f} early in training. The "
            "scaler finds it as it goes: it skips a step with infinite gradients and halves the scale, and doubles it "
            "after 2,000 steps without any."
        ),
    ]
    return Explanation("mixed_precision", "Mixed precision and loss scaling", parts, values, REFERENCES)


def _stage(model: nn.Module, x: Tensor, y: Tensor) -> Stage:
    """Return the gradients of a float64 model in all precisions; the model is not changed."""
    reference = _gradient(model, x, y, lambda loss: loss.backward())
    model = copy.deepcopy(model).float()
    found = {
        "float16": _in(Precision("16-mixed"), model, x, y, scaled=False),
        "float16, loss x 65536": _in(Precision("16-mixed"), model, x, y, scaled=True),
        "bfloat16": _in(Precision("bf16-mixed"), model, x, y, scaled=False),
    }
    return Stage(
        float(F.cross_entropy(model(x.float()), y).detach()),
        reference[reference != 0].abs().log2(),
        {name: lost(reference, own) for name, own in found.items()},
        {name: relative_error(reference, own) for name, own in found.items()},
        _largest_scale(model, x, y),
    )


def _gradient(model: nn.Module, x: Tensor, y: Tensor, backward: Callable[[Tensor], object]) -> Tensor:
    """Return the gradients of all weights, in one row."""
    model.zero_grad()
    backward(F.cross_entropy(model(x), y))
    return torch.cat([parameter.grad.flatten() for parameter in model.parameters() if parameter.grad is not None])


def _in(precision: Precision, model: nn.Module, x: Tensor, y: Tensor, scaled: bool) -> Tensor:
    """Return the gradients of a backward pass in a precision, in true units."""

    def backward(loss: Tensor) -> None:
        if scaled:
            precision.backward(loss)
        else:
            loss.backward()

    with precision.autocast():
        gradient = _gradient(model, x.float(), y, backward)
    return gradient.double() / SCALE if scaled else gradient.double()


def _largest_scale(model: nn.Module, x: Tensor, y: Tensor) -> float:
    """Return the largest power of two with which no gradient overflows in float16."""
    precision, scale = Precision("16-mixed"), 1.0
    while scale < 2.0**40:
        with precision.autocast():
            gradient = _gradient(model, x.float(), y, lambda loss: (loss * (2 * scale)).backward())  # noqa: B023
        if not gradient.isfinite().all():
            break
        scale *= 2
    return scale


def _table_of_formats() -> Table:
    rows = []
    for name, dtype in FORMATS.items():
        facts = torch.finfo(dtype)
        smallest = facts.smallest_normal * facts.eps  # subnormal: no leading 1, so eps times smaller
        rows.append([name, *(f"{number:.2g}" for number in (facts.max, facts.smallest_normal, smallest, facts.eps))])
    return Table(["format", "largest", "smallest normal", "smallest", "step above 1"], rows)


def _small_numbers() -> str:
    lines = []
    for power in (-20, -24, -26):
        number = torch.tensor(1.5 * 2.0**power, dtype=torch.float64)
        plain = float(number.half())
        scaled = float((number * SCALE).half().double() / SCALE)
        lines.append(f"1.5 * 2^{power} = {float(number):.3e}   float16: {plain:.3e}   x 2^16 and back: {scaled:.3e}")
    return "\n".join(lines)


def _histogram(title: str, sizes: Tensor) -> Figure:
    """Return the shares of the gradients by power of two, as a staircase."""
    counts = torch.histc(sizes.clamp(_LOW, _HIGH), bins=(_HIGH - _LOW) // 2, min=_LOW, max=_HIGH)
    shares = (counts / len(sizes)).tolist()
    stairs: list[tuple[float, float]] = []
    for place, share in enumerate(shares):
        left = float(_LOW + 2 * place)
        stairs += [(left, share), (left + 2, share)]
    series = Series("", 0, stairs, [(x, 0.0, y) for x, y in stairs], dotted=False)
    top = min(1.0, 1.15 * max(shares))
    guides = [Guide([(-24.0, top), (-24.0, 0.0)], "2^-24"), Guide([(-14.0, top), (-14.0, 0.0)], "2^-14")]
    found = figure(
        title, "size", [series], lambda share: f"{100 * share:.0f}%", None, (0.0, top), (float(_LOW), float(_HIGH)),
        lambda power: f"2^{power:.0f}", guides,
    )  # fmt: skip
    assert found is not None
    return found
