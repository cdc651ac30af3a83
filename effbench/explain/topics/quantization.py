"""int8 of a trained layer: scale, zero point, rounding error and size, for the tensor and for each channel."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from effbench.explain.content import Drawing, Explanation, Listing, Paragraph, Part, Request, Table
from effbench.explain.examples import accuracy, pixels, shipped, trained
from effbench.models.mlp import mlp
from effbench.report.figures import Figure, Series, figure
from effbench.units import human_bytes

HIDDEN, TRAIN, EPOCHS = 96, 2000, 8
BITS = (2, 3, 4, 5, 6, 8)
_PER_BIT = 20 * math.log10(2)  # decibels: each bit halves the step
REFERENCES = (
    "Jacob et al., arXiv:1712.05877, sections 2.1 and 2.2: scale, zero point, products of whole numbers",
    "Krishnamoorthi, Quantizing deep convolutional networks, arXiv:1806.08342, section 2: per tensor, per channel",
)


@dataclass(frozen=True)
class Quantized:
    """Whole numbers that stand for a tensor: value = scale * (number - zero_point).

    Attributes:
        numbers: int32, of the tensor's shape.
        scale: (), or one of each row.
        zero_point: the number that stands for 0.
    """

    numbers: Tensor
    scale: Tensor
    zero_point: int

    @property
    def values(self) -> Tensor:
        """The tensor that the numbers stand for."""
        return self.scale * (self.numbers - self.zero_point)


def symmetric(weights: Tensor, bits: int = 8, per_row: bool = False) -> Quantized:
    """Quantize weights symmetrically: 0 stands for 0, scale = max |w| / (2^(bits-1) - 1).

    Args:
        weights: (rows, columns); a row holds the weights of one output.
        bits: of a number.
        per_row: a scale for each row, instead of one.
    """
    most = 2 ** (bits - 1) - 1
    largest = weights.abs().amax(1, keepdim=True) if per_row else weights.abs().max()
    scale = largest / most
    return Quantized((weights / scale).round().clamp(-most, most).int(), scale, 0)


def affine(values: Tensor, bits: int = 8) -> Quantized:
    """Quantize activations to 0 .. 2^bits - 1: scale = (max - min) / (2^bits - 1), zero_point = round(-min / scale).

    The range always includes 0, so that 0 has a number of its own: padding stays exact.
    """
    low, high = min(float(values.min()), 0.0), max(float(values.max()), 0.0)
    most = 2**bits - 1
    scale = torch.tensor((high - low) / most, dtype=values.dtype)
    zero_point = round(-low / float(scale))
    return Quantized((values / scale).round().add(zero_point).clamp(0, most).int(), scale, zero_point)


def noise_ratio(weights: Tensor, own: Quantized) -> float:
    """Return the power of the weights over that of the rounding errors, in decibels."""
    return float(10 * torch.log10(weights.square().sum() / (own.values - weights).square().sum()))


def explain(request: Request) -> Explanation:
    """Explain quantization."""
    data = shipped("data=fashion_mnist")
    assert data.test is not None
    x, y = pixels(data.train)[:TRAIN], data.train.labels[:TRAIN]
    x_test, y_test = pixels(data.test), data.test.labels
    torch.manual_seed(request.seed)
    fresh = mlp(10, in_features=x.shape[1], hidden=(HIDDEN,), dropout=0.0).double()
    model = trained(fresh, x, y, EPOCHS, seed=request.seed)
    layer = next(each for each in model.modules() if isinstance(each, nn.Linear))
    weights = layer.weight.detach()
    whole, rows_own = symmetric(weights), symmetric(weights, per_row=True)
    listing, by_integers, exact = _by_integers(layer, rows_own, x_test[0])
    errors = [(own.values - weights).square().mean().sqrt() for own in (whole, rows_own)]
    accuracies = {
        (bits, per_row): accuracy(_in_bits(model, bits, per_row), x_test, y_test)
        for bits in BITS
        for per_row in (False, True)
    }
    plain, size = accuracy(model, x_test, y_test), weights.numel()
    values = {
        "scale": float(whole.scale), "rms_tensor": float(errors[0]), "rms_channel": float(errors[1]),
        "predicted_rms": float(whole.scale) / math.sqrt(12), "snr_tensor": noise_ratio(weights, whole),
        "snr_channel": noise_ratio(weights, rows_own), "accuracy": plain, "by_integers": by_integers, "exact": exact,
        "bytes": 4 * size, "bytes_tensor": size + 4, "bytes_channel": size + 4 * HIDDEN,
        **{f"accuracy_{bits}_{'channel' if per_row else 'tensor'}": own for (bits, per_row), own in accuracies.items()},
    }  # fmt: skip
    parts: list[Part] = [
        Paragraph(
            "Quantization stores a tensor as small whole numbers: value = scale * (number - zero point). Weights are "
            "symmetric around 0, so their zero point is 0 and scale = max |w| / 127. The layer is the first of an MLP "
            f"with {HIDDEN} hidden units, trained for {EPOCHS} epochs on {TRAIN:,} images of Fashion-MNIST: {HIDDEN} x "
            f"{weights.shape[1]} weights, the largest of which is {float(weights.abs().max()):.4f}; one scale for the "
            f"tensor is {float(whole.scale):.6f}. Per channel, each row has its own, from "
            f"{float(rows_own.scale.min()):.6f} to {float(rows_own.scale.max()):.6f}."
        ),
        Table(["weights in", "rms error", "signal to noise", "bytes", "test accuracy"], _rows(values)),
        Paragraph(
            "Rounding errors are spread evenly over one step, so their root mean square should be scale / sqrt(12) = "
            f"{values['predicted_rms']:.6f} per tensor. The size is a quarter; scales add 4 bytes each."
        ),
        Drawing(
            [_noise_figure(weights), _accuracy_figure(accuracies)],
            f"Left: signal to noise by bits; each bit halves the step and so adds {_PER_BIT:.2f} dB. Right: test "
            "accuracy with all weights of the model in so many bits. Scales per channel gain most where bits are "
            "few.",
            across=2,
        ),
        Paragraph(
            "A layer's inputs need not be symmetric: after ReLU none is negative. Their numbers go from 0 to 255, with "
            "scale = (max - min) / 255 and zero point = round(-min / scale). A layer multiplies whole numbers, adds "
            "them up in 32 bits, and scales once at the end. For one image, whose pixels were brought to -1 .. 1:"
        ),
        Listing(listing),
        Paragraph(
            f"The same output in float64 is {exact:.4f}. Whether int8 is faster depends on the processor: without "
            "instructions for it (VNNI, AMX) it mostly saves memory."
        ),
    ]
    return Explanation("quantization", "Quantization to int8", parts, values, REFERENCES)


def _rows(values: Mapping[str, float]) -> list[list[str]]:
    rows = [["float32", "0", "-", human_bytes(int(values["bytes"])), f"{100 * values['accuracy']:.2f} %"]]
    for kind in ("tensor", "channel"):
        noise, size = f"{values[f'snr_{kind}']:.1f} dB", human_bytes(int(values[f"bytes_{kind}"]))
        right = f"{100 * values[f'accuracy_8_{kind}']:.2f} %"
        rows.append([f"int8, per {kind}", f"{values[f'rms_{kind}']:.6f}", noise, size, right])
    return rows


def _by_integers(layer: nn.Linear, weights: Quantized, sample: Tensor) -> tuple[str, float, float]:
    """Return (the computation of one output, the output by whole numbers, the output in float64)."""
    outputs = layer(sample).detach()
    row = int(outputs.abs().argmax())  # the largest output: its digits say most
    inputs = affine(sample)
    total = int((weights.numbers[row].long() * (inputs.numbers.long() - inputs.zero_point)).sum())
    row_scale, bias = float(weights.scale[row]), float(layer.bias.detach()[row])
    found = row_scale * float(inputs.scale) * total + bias
    text = (
        f"inputs from {float(sample.min()):.4f} to {float(sample.max()):.4f}\n"
        f"scale_x = {float(inputs.scale):.6f}   zero point = {inputs.zero_point}   scale_w (output {row}) = "
        f"{row_scale:.6f}\n\n"
        f"sum of q_w * (q_x - zero point) = {total:,}   (int32)\n"
        f"scale_w * scale_x * sum + bias  = {row_scale:.6f} * {float(inputs.scale):.6f} * {total:,} + {bias:.4f}\n"
        f"                                = {found:.4f}"
    )
    return text, found, float(outputs[row])


def _in_bits(model: nn.Module, bits: int, per_row: bool) -> nn.Module:
    """Return a copy of the model with all its weights rounded to numbers of so many bits."""
    own = copy.deepcopy(model)
    for layer in own.modules():
        if isinstance(layer, nn.Linear):
            layer.weight.data = symmetric(layer.weight.data, bits, per_row).values
    return own


def _noise_figure(weights: Tensor) -> Figure:
    series = [
        Series(name, index, [(float(bits), noise_ratio(weights, symmetric(weights, bits, per_row))) for bits in BITS])
        for index, (name, per_row) in enumerate({"per tensor": False, "per channel": True}.items())
    ]
    found = figure("signal to noise, dB", "bits", series, "{:.3g}".format, "{:.1f}".format, x_limits=(2.0, 8.0))
    assert found is not None
    return found


def _accuracy_figure(accuracies: dict[tuple[int, bool], float]) -> Figure:
    series = [
        Series(name, index, [(float(bits), accuracies[bits, per_row]) for bits in BITS])
        for index, (name, per_row) in enumerate({"per tensor": False, "per channel": True}.items())
    ]
    found = figure(
        "test accuracy", "bits", series, lambda share: f"{100 * share:.0f}%", lambda share: f"{100 * share:.1f} %",
        (0.0, 1.0), (2.0, 8.0),
    )  # fmt: skip
    assert found is not None
    return found
