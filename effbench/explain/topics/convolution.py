"""A convolution: a Sobel kernel on a real image, its output by hand, and what convolutional layers cost."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from effbench.explain.content import Drawing, Explanation, Listing, Paragraph, Part, Request, Table
from effbench.explain.examples import shipped
from effbench.models.accounting import macs, parameters
from effbench.report.heat_maps import HeatMap, heat_map
from effbench.units import human_count

KERNEL = ((-1.0, 0.0, 1.0), (-2.0, 0.0, 2.0), (-1.0, 0.0, 1.0))  # Sobel's, for vertical edges
LAYERS = (
    (28, 1, 32, 3),
    (14, 32, 64, 3),
    (7, 64, 128, 3),
    (14, 32, 64, 5),
)  # (side, C_in, C_out, k); model=cnn's first
CLASS = "Ankle boot"
REFERENCES = (
    "Goodfellow, Bengio and Courville 2016, Deep Learning, sections 9.1 and 9.2",
    "Dumoulin and Visin, A guide to convolution arithmetic, arXiv:1603.07285, section 2.4: the output's side",
)


def output_side(side: int, k: int, padding: int = 0, stride: int = 1) -> int:
    """Return the side of a convolution's output, floor((n + 2p - k) / s) + 1.

    Args:
        side: n, of the input.
        k: side of the kernel.
        padding: p, pixels on each side.
        stride: s.
    """
    return (side + 2 * padding - k) // stride + 1


def layer_cost(side: int, c_in: int, c_out: int, k: int) -> tuple[int, int]:
    """Return (parameters, MACs) by formula of a convolution that keeps the side.

    Args:
        side: of the input and the output, in pixels.
        c_in: input channels.
        c_out: output channels.
        k: side of the kernel.
    """
    return c_out * (c_in * k * k + 1), side * side * c_out * c_in * k * k


def explain(request: Request) -> Explanation:
    """Explain a convolution."""
    del request  # nothing is drawn
    data = shipped("data=fashion_mnist")
    place = int((data.train.labels == data.classes.index(CLASS)).nonzero()[0])
    image = data.train.inputs[place, 0].double() / 255
    kernel = torch.tensor(KERNEL, dtype=torch.float64)
    output = F.conv2d(image[None, None], kernel[None, None], padding=1)[0, 0]
    row, column = divmod(int(output.abs().argmax()), output.shape[1])
    by_hand, text = _by_hand(image, kernel, row, column)
    rows, counted = _costs()
    flipped = F.conv2d(image[None, None], kernel.flip(0, 1)[None, None], padding=1)[0, 0]
    opposite = float((flipped + output).abs().max())
    dense = 28 * 28 * 32 * (28 * 28 + 1)
    own = layer_cost(*LAYERS[0])[0]
    values = {
        "row": row, "column": column, "by_hand": by_hand, "output": float(output[row, column]), "dense": dense,
        "first_parameters": own, "flipped_sum": opposite, **counted,
    }  # fmt: skip
    parts: list[Part] = [
        Paragraph(
            "A convolution slides a kernel over an image. At each place it multiplies the k x k pixels below the "
            f"kernel by the kernel's weights and adds the products. The image is the first {CLASS.lower()} of the "
            "embedded Fashion-MNIST train split, with pixels in [0, 1]. The kernel is Sobel's for vertical edges: it "
            "gives 0 where the image does not change from left to right."
        ),
        Drawing(
            _figures(image, kernel, output),
            "The input is drawn as on paper: 0 is blank. In kernel and output, blue is above 0 and orange below: "
            "pixels grow at the left edge of the boot, and fall at its right edge.",
            across=3,
        ),
        Paragraph(
            f"The largest output is at row {row}, column {column}, counted from 0; beyond its border the image is "
            "padded with zeros:"
        ),
        Listing(text),
        Paragraph(
            f"torch.nn.functional.conv2d gives {values['output']:.4f}. It does not turn the kernel around, so it is a "
            "cross-correlation; mathematics calls the version with the turned kernel convolution. For this kernel the "
            f"turned one gives the opposite sign: both outputs add up to {abs(opposite):.1f} at every place. In a "
            "trained layer the weights are learnt, so the order makes no difference."
        ),
        Paragraph(
            "With padding p and stride s the side of the output is floor((n + 2p - k) / s) + 1: here floor((28 + 2 - "
            f"3) / 1) + 1 = {output_side(28, 3, 1)}; without padding {output_side(28, 3)}, and with stride 2 and "
            f"padding 1 it is {output_side(28, 3, 1, 2)}. A layer has one kernel for each pair of an input and an "
            "output channel and one bias for each output channel: C_out (k^2 C_in + 1) parameters. Each of H W "
            "outputs of a channel takes k^2 C_in multiply-accumulates: H W C_out k^2 C_in MACs. FLOPs are twice that."
        ),
        Table(["layer", "parameters", "counted", "MACs", "counted"], rows),
        Paragraph(
            "Counted: from torch's modules and operators, by effbench.models.accounting. Weights are shared by all "
            f"places: the first layer has {own} parameters, and a fully connected layer with the same {28 * 28} inputs "
            f"and {28 * 28 * 32:,} outputs would have {human_count(dense)} of them."
        ),
    ]
    return Explanation("convolution", "A convolution on an image", parts, values, REFERENCES)


def _by_hand(image: Tensor, kernel: Tensor, row: int, column: int) -> tuple[float, str]:
    """Return the output at a place, and its computation as text."""
    padded = F.pad(image, (1, 1, 1, 1))
    below = padded[row : row + 3, column : column + 3]
    lines = []
    for weights, values in zip(kernel.tolist(), below.tolist(), strict=True):
        lines.append(" + ".join(f"{weight:2.0f} * {value:.4f}" for weight, value in zip(weights, values, strict=True)))
    total = sum(
        w * v for ws, vs in zip(kernel.tolist(), below.tolist(), strict=True) for w, v in zip(ws, vs, strict=True)
    )
    return total, "\n+ ".join(["  " + lines[0], *lines[1:]]) + f"\n= {total:.4f}"


def _costs() -> tuple[list[list[str]], dict[str, float]]:
    """Return the rows of the table, and the numbers by name."""
    rows, values = [], dict[str, float]()
    for side, c_in, c_out, k in LAYERS:
        layer = nn.Conv2d(c_in, c_out, k, padding=k // 2)
        by_formula = layer_cost(side, c_in, c_out, k)
        counted = parameters(layer).total, macs(layer, torch.empty(1, c_in, side, side)).macs
        name = f"{side} px, {c_in} -> {c_out}, k {k}"
        rows.append([name, *(f"{number:,}" for pair in zip(by_formula, counted, strict=True) for number in pair)])
        key = f"{side}_{c_in}_{c_out}_{k}"
        values |= {f"parameters_{key}": counted[0], f"macs_{key}": counted[1]}
    return rows, values


def _figures(image: Tensor, kernel: Tensor, output: Tensor) -> list[HeatMap]:
    return [
        heat_map("input, 28 x 28", f"an image of a {CLASS.lower()}", image.tolist(), ink=True),
        heat_map("kernel, 3 x 3", "-1 0 1, -2 0 2, -1 0 1", kernel.tolist(), written="{:.0f}".format),
        heat_map("output, 28 x 28", "the vertical edges of the image", output.tolist()),
    ]
