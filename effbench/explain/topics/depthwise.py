"""Depthwise separable against standard convolutions: parameters and MACs by formula and counted, and measured time."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from effbench.explain.content import Drawing, Explanation, Paragraph, Part, Request, Table
from effbench.models.accounting import macs, parameters
from effbench.models.layers import DepthwiseSeparableConv2d
from effbench.report.figures import Figure, Guide, Series, figure
from effbench.stats import median
from effbench.units import human_count

SHAPES = (
    (28, 32, 32, 3),
    (28, 32, 64, 3),
    (14, 64, 128, 3),
    (7, 128, 256, 3),
    (14, 64, 128, 5),
)  # side, C_in, C_out, k
TIMED = ((28, 32, 64, 3), (14, 64, 128, 3), (14, 64, 128, 5))
BATCH, ROUNDS = 32, 7  # images of a timed pass; rounds, of which the median counts
_FLOAT = 4  # bytes
REFERENCES = (
    "Howard et al., MobileNets, arXiv:1704.04861, section 3.1: the ratio",
    "Williams, Waterman and Patterson 2009, Roofline, Communications of the ACM 52(4): MACs a byte and time",
)


def ratio(c_out: int, k: int) -> float:
    """Return the MACs of a depthwise separable convolution over those of a standard one: 1/C_out + 1/k^2."""
    return 1 / c_out + 1 / k**2


def layers(c_in: int, c_out: int, k: int) -> tuple[nn.Module, nn.Module]:
    """Return (standard, depthwise separable) convolutions without bias that keep the side.

    Args:
        c_in: input channels.
        c_out: output channels.
        k: side of the kernel.
    """
    standard = nn.Conv2d(c_in, c_out, k, padding=k // 2, bias=False)
    return standard, DepthwiseSeparableConv2d(c_in, c_out, k, bias=False)


def intensity(side: int, c_in: int, c_out: int, k: int, groups: int = 1) -> float:
    """Return MACs a byte of a convolution for one image, if input, weights and output are moved once, in float32.

    Args:
        side: of input and output.
        c_in: input channels.
        c_out: output channels.
        k: side of the kernel.
        groups: of channels; c_in for a depthwise convolution.
    """
    weights = c_out * c_in // groups * k * k
    return side * side * weights / (_FLOAT * (side * side * (c_in + c_out) + weights))


def explain(request: Request) -> Explanation:
    """Explain depthwise separable convolutions. The seed draws the weights, which change no number but times."""
    rows, values = _costs()
    side, c_in, c_out, k = SHAPES[1]
    standard, depthwise = intensity(side, c_in, c_out, k), intensity(side, c_in, c_in, k, c_in)
    values |= {"intensity_standard": standard, "intensity_depthwise": depthwise}
    parts: list[Part] = [
        Paragraph(
            "A standard convolution mixes space and channels at once: k^2 C_in C_out weights, and as many MACs for "
            "each of the H W places. A depthwise separable one does it in two layers: one k x k kernel for each input "
            "channel, then a 1 x 1 convolution over channels: C_in (k^2 + C_out) weights and MACs a place. The ratio "
            "of both is 1/C_out + 1/k^2, for parameters as for MACs."
        ),
        Table(
            ["layer", "parameters", "separable\nparameters", "MACs", "separable\nMACs", "ratio", "1/C_out\n+ 1/k^2"],
            rows,
        ),
        Paragraph(
            "The ratio is counted: from torch's own operators, for nn.Conv2d and for "
            "effbench.models.layers.DepthwiseSeparableConv2d, both without bias. With k = 3 the saving is at most "
            f"ninefold, and only for many output channels: {1 / ratio(16, 3):.1f}fold at 16, "
            f"{1 / ratio(64, 3):.1f}fold at 64, {1 / ratio(1024, 3):.1f}fold at 1024."
        ),
        Drawing(
            [_ratio_figure()],
            "MACs of the separable convolution over those of the standard one. Points: counted; thin lines: the "
            "limit 1/k^2.",
        ),
        Paragraph(
            "Fewer MACs are not as much less time. The depthwise layer moves as many bytes as before for far fewer "
            f"MACs: {depthwise:.2f} MACs a byte at {side} px and {c_in} channels, and the standard layer "
            f"{standard:.1f}. Its time is that of the memory, not of the arithmetic units."
        ),
    ]
    if request.measured:
        parts += _measured(values)
    return Explanation("depthwise", "Depthwise separable convolutions", parts, values, REFERENCES)


def _costs() -> tuple[list[list[str]], dict[str, float]]:
    """Return the rows of the table, and the numbers by name."""
    rows, values = [], dict[str, float]()
    for side, c_in, c_out, k in SHAPES:
        counted = [
            (parameters(layer).total, macs(layer, torch.empty(1, c_in, side, side)).macs)
            for layer in layers(c_in, c_out, k)
        ]
        (weights, work), (own_weights, own_work) = counted
        name = f"{side} px, {c_in} -> {c_out}, k {k}"
        numbers = [f"{weights:,}", f"{own_weights:,}", human_count(work), human_count(own_work)]
        rows.append([name, *numbers, f"{own_work / work:.4f}", f"{ratio(c_out, k):.4f}"])
        key = f"{side}_{c_in}_{c_out}_{k}"
        values |= {f"macs_{key}": work, f"separable_macs_{key}": own_work, f"parameters_{key}": weights}
        values |= {f"separable_parameters_{key}": own_weights}
    return rows, values


def _ratio_figure() -> Figure:
    places = [2**power for power in range(2, 11)]
    series, guides = [], []
    for index, k in enumerate((3, 5, 7)):
        points = []
        for c_out in places:
            work = [macs(layer, torch.empty(1, 8, 8, 8)).macs for layer in layers(8, c_out, k)]
            points.append((math.log2(c_out), work[1] / work[0]))
        series.append(Series(f"k = {k}", index, points))
        guides.append(Guide([(2.0, 1 / k**2), (10.0, 1 / k**2)]))
    found = figure(
        "ratio of MACs", "output channels", series, "{:.2g}".format, "{:.4f}".format, (0.0, 0.4), (2.0, 10.0),
        lambda power: f"{2**power:.0f}", guides,
    )  # fmt: skip
    assert found is not None
    return found


def _measured(values: dict[str, float]) -> list[Part]:
    """Return the part about times on this machine, and put its numbers into `values`."""
    rows = []
    for side, c_in, c_out, k in TIMED:
        images = torch.randn(BATCH, c_in, side, side).to(memory_format=torch.channels_last).requires_grad_()
        pair = [layer.to(memory_format=torch.channels_last) for layer in layers(c_in, c_out, k)]
        forward = _times([partial(layer, images) for layer in pair])
        whole = _times([partial(_pass, layer, images) for layer in pair])
        own = ratio(c_out, k)
        rows.append(
            [f"{side} px, {c_in} -> {c_out}, k {k}", f"{1e3 * forward[0]:.2f} ms", f"{1e3 * forward[1]:.2f} ms",
             f"{forward[1] / forward[0]:.2f}", f"{whole[1] / whole[0]:.2f}", f"{own:.2f}"]
        )  # fmt: skip
        values[f"time_ratio_{side}_{c_in}_{c_out}_{k}"] = forward[1] / forward[0]
    heads = ["layer", "forward", "separable\nforward", "time\nratio", "with\nbackward", "MACs\nratio"]
    text = (
        f"Measured here and now, on one thread, {BATCH} images in channels_last, medians of {ROUNDS} rounds. Other "
        "programs on the machine disturb it:"
    )
    return [Paragraph(text, of_machine=True), Table(heads, rows, of_machine=True)]


def _pass(layer: nn.Module, images: Tensor) -> None:
    layer(images).sum().backward()


def _times(passes: list[Callable[[], object]]) -> list[float]:
    """Return the median seconds of each; the passes take turns, so that a busy moment of the machine meets all."""
    spent: list[list[float]] = [[] for _ in passes]
    for _ in range(ROUNDS + 1):
        for own, each in zip(spent, passes, strict=True):
            begun = time.perf_counter()
            each()
            own.append(time.perf_counter() - begun)
    return [median(own[1:]) for own in spent]  # the first round chooses kernels and allocates
