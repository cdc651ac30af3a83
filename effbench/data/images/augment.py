"""Augmentation of whole batches, with random parameters for each sample.

`draw` turns a generator into the parameters of one optimizer step: small tensors with one row a sample. `apply` turns
uint8 images and their rows of the parameters into floats in [0, 1]. The parameters are drawn for the whole step before
it is divided among ranks and micro-batches, so a sample's augmentation depends on neither.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from effbench.config.options import FRACTION, NON_NEGATIVE
from effbench.data.modality import AugmentParams


@dataclass(frozen=True)
class Augment:
    """Options of augmentation. At 0 an option has no effect. Fractions refer to the image's side.

    Attributes:
        crop_padding: pixels of black border before a crop of the original size.
        flip: probability of a horizontal flip.
        shift: largest shift as a fraction; shift, scale and rotate are one bilinear affine warp, black outside.
        scale: largest relative change of size.
        rotate: largest angle in degrees.
        brightness: largest change, in units of the full range.
        contrast: largest relative change.
        dropout_holes: number of black rectangles in a sample (coarse dropout).
        dropout_size: largest side of a rectangle; sides are uniform in (0, dropout_size].
        mixup_alpha: Beta parameter (arXiv:1710.09412).
        cutmix_alpha: Beta parameter (arXiv:1905.04899); with both, each step uses one of them with probability 1/2.
    """

    crop_padding: int = 0
    flip: float = 0.0
    shift: float = 0.0
    scale: float = 0.0
    rotate: float = 0.0
    brightness: float = 0.0
    contrast: float = 0.0
    dropout_holes: int = 0
    dropout_size: float = 0.25
    mixup_alpha: float = 0.0
    cutmix_alpha: float = 0.0

    def __post_init__(self) -> None:
        for key in ("flip", "shift", "scale", "brightness", "contrast", "dropout_size"):
            FRACTION.check(getattr(self, key), f"augment.{key}", remedy="0 turns it off.")
        for key in ("crop_padding", "rotate", "dropout_holes", "mixup_alpha", "cutmix_alpha"):
            NON_NEGATIVE.check(getattr(self, key), f"augment.{key}", "finite and not negative", "0 turns it off.")

    @cached_property
    def only_moves(self) -> bool:
        """True if images are only cropped and flipped, so that pixel values do not change."""
        return replace(self, crop_padding=0, flip=0.0, dropout_size=0.0) == Augment(dropout_size=0.0)

    @cached_property
    def draws(self) -> bool:
        """True if any parameter is drawn. The size of rectangles does not matter if there are none."""
        return self != Augment(dropout_size=self.dropout_size)

    def draw(self, count: int, height: int, width: int, generator: Generator) -> AugmentParams:
        """Draw the parameters of one step.

        Args:
            count: samples in the step, the rows of every tensor.
            height: of the images, in pixels.
            width: of the images, in pixels.
            generator: random number generator of the step.
        """

        def uniform(low: float, high: float, *shape: int) -> Tensor:
            return torch.rand(count, *shape, generator=generator).mul_(high - low).add_(low)

        # The order of the draws is part of a run's results: another order gives other images for a seed.
        params: AugmentParams = {}
        if self.crop_padding:
            params["offset"] = (uniform(0, 1, 2) * (2 * self.crop_padding + 1)).long()
        if self.flip:
            params["flip"] = uniform(0, 1) < self.flip  # of [0, 1): never at 0, always at 1
        if self.shift > 0 or self.scale > 0 or self.rotate > 0:  # all three in one warp, interpolated once
            params["shift"] = uniform(-self.shift, self.shift, 2)
            params["scale"] = uniform(1 - self.scale, 1 + self.scale)
            params["angle"] = uniform(-self.rotate, self.rotate).mul_(math.pi / 180)
        if self.brightness or self.contrast:
            params["brightness"] = uniform(-self.brightness, self.brightness)
            params["contrast"] = uniform(1 - self.contrast, 1 + self.contrast)
        if self.dropout_holes:
            # Sizes and centres are (count, holes, 2): rows, columns. Parts beyond the border are cut off.
            sides = uniform(0, self.dropout_size, self.dropout_holes, 2)
            params["hole_size"] = (sides * torch.tensor([height, width])).ceil().long()
            params["hole_centre"] = (uniform(0, 1, self.dropout_holes, 2) * torch.tensor([height, width])).long()
        if self.mixup_alpha > 0 or self.cutmix_alpha > 0:
            params |= self._draw_mix(count, height, width, generator)
        return params

    def _draw_mix(self, count: int, height: int, width: int, generator: Generator) -> AugmentParams:
        """Draw partner (sample to mix with), share (weight of the sample itself), and for cutmix the box."""
        both = self.mixup_alpha > 0 and self.cutmix_alpha > 0
        cut = bool(torch.rand((), generator=generator) < 0.5) if both else self.cutmix_alpha > 0
        alpha = self.cutmix_alpha if cut else self.mixup_alpha
        # Beta(alpha, alpha) as a ratio of gammas: torch.distributions.Beta does not accept a generator.
        gamma = torch._standard_gamma(torch.full((count, 2), float(alpha)), generator=generator)
        # a small alpha may underflow: without the limit 0 / 0 would give NaN
        share = gamma[:, 0] / gamma.sum(1).clamp_min(torch.finfo(torch.float32).tiny)
        params = {"partner": torch.randperm(count, generator=generator), "share": share}
        if cut:
            size = torch.tensor([height, width])
            side = ((1 - share).sqrt().unsqueeze(1) * size).round().long()
            # Uniform over the image, as in the paper's code: boxes at the border are smaller than their share.
            centre = (torch.rand(count, 2, generator=generator) * size).long()
            low = (centre - side // 2).clamp_min(0)
            high = torch.minimum(centre - side // 2 + side, size)
            # The box is clipped at the border; labels are weighted by the area that is actually pasted.
            params["share"] = 1 - (high - low).clamp_min(0).prod(1) / (height * width)
            params["box"] = torch.stack([low, high], 1)
        return params

    def apply(self, images_BCHW: Tensor, params: AugmentParams) -> Tensor:
        """Apply everything but mixing: uint8 (B, C, H, W) -> float32 (B, C, H, W) in [0, 1]. params: B rows."""
        if "offset" in params or "flip" in params:
            nowhere = torch.zeros(len(images_BCHW), 2, dtype=torch.int64, device=images_BCHW.device)
            images_BCHW = crop(images_BCHW, params.get("offset", nowhere), self.crop_padding, params.get("flip"))
        # crop and flip came first: they move bytes, a quarter of the memory of floats
        x_BCHW = images_BCHW.float().mul_(1 / 255)
        if "angle" in params:
            x_BCHW = warp(x_BCHW, params["shift"], params["scale"], params["angle"])
        # after the warp, whose black border then gets brighter and darker with the image
        if "contrast" in params:
            x_BCHW = relight(x_BCHW, params["brightness"], params["contrast"])
        if "hole_size" in params:
            x_BCHW = x_BCHW.mul_(holes(params["hole_centre"], params["hole_size"], *x_BCHW.shape[2:]))
        return x_BCHW


def crop(images_BCHW: Tensor, offset_B2: Tensor, padding: int, flip_B: Tensor | None = None) -> Tensor:
    """Pad with black, crop the original size at an offset, and flip.

    Every row of the result is a run of W bytes in the padded images, or in their mirror images beside them. One
    index_select copies whole runs; an index for each pixel would take ten times as long.

    Args:
        images_BCHW: uint8.
        offset_B2: (row, column) of the crop, in [0, 2 * padding].
        padding: pixels on each side.
        flip_B: bool, which images to mirror; None for none.
    """
    batch, channels, height, width = images_BCHW.shape
    # sides of the padded images; middle[1] holds the mirror images
    rows, columns = height + 2 * padding, width + 2 * padding
    padded = images_BCHW.new_zeros(1 if flip_B is None else 2, batch, channels, rows, columns)
    middle = padded[..., padding : padding + height, padding : padding + width]
    middle[0] = images_BCHW
    top_B, left_B = offset_B2.unbind(1)
    if flip_B is not None:
        middle[1] = images_BCHW.flip(3)
        left_B = torch.where(flip_B, padded[0].numel() + 2 * padding - left_B, left_B)
    plane, device = rows * columns, padded.device
    plane_BC1 = torch.arange(0, batch * channels * plane, plane, device=device).view(batch, channels, 1)
    row_H = torch.arange(0, height * columns, columns, device=device)
    start_BCH = (top_B * columns + left_B).view(batch, 1, 1) + plane_BC1 + row_H
    runs = padded.as_strided((max(0, padded.numel() - width + 1), width), (1, 1))
    return runs.index_select(0, start_BCH.flatten()).view(images_BCHW.shape)


def warp(x_BCHW: Tensor, shift_B2: Tensor, scale_B: Tensor, angle_B: Tensor) -> Tensor:
    """Rotate, scale and shift images in one bilinear warp; black outside.

    Args:
        x_BCHW: float images.
        shift_B2: (y, x) as fractions of the side.
        scale_B: enlargement.
        angle_B: radians, counter-clockwise.
    """
    height, width = x_BCHW.shape[2:]
    cosine, sine = angle_B.cos() / scale_B, angle_B.sin() / scale_B
    aspect = height / width  # coordinates run from -1 to 1 on both axes: without it a rotation would also shear
    # grid_sample maps output to input in coordinates [-1, 1]: the inverse map, hence the minus before the shift.
    to_x = torch.stack([cosine, -sine * aspect, torch.zeros_like(sine)], 1)
    to_y = torch.stack([sine / aspect, cosine, torch.zeros_like(sine)], 1)
    theta = torch.stack([to_x, to_y], 1)
    theta[:, :, 2] = -(theta[:, :, :2] @ (2 * shift_B2.flip(1)).unsqueeze(2)).squeeze(2)
    grid = F.affine_grid(theta, list(x_BCHW.shape), align_corners=False)
    # align_corners=False in both calls: -1 and 1 are the borders of the image, not the centres of its corner pixels
    return F.grid_sample(x_BCHW, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


def relight(x_BCHW: Tensor, brightness_B: Tensor, contrast_B: Tensor) -> Tensor:
    """Change contrast about each sample's mean, then brightness; clamp to [0, 1].

    Args:
        x_BCHW: floats in [0, 1].
        brightness_B: added.
        contrast_B: factor of the distance from the mean.
    """
    mean = x_BCHW.mean((1, 2, 3), keepdim=True)  # one for all channels: one for each would shift the colours
    brightness, contrast = brightness_B.view(-1, 1, 1, 1), contrast_B.view(-1, 1, 1, 1)
    return torch.addcmul(mean + brightness, x_BCHW - mean, contrast).clamp_(0, 1)


def holes(centre_BN2: Tensor, size_BN2: Tensor, height: int, width: int) -> Tensor:
    """Return a mask (B, 1, H, W) that is 0.0 inside of rectangles, which are clipped at the border.

    Args:
        centre_BN2: (row, column) of the centres.
        size_BN2: (rows, columns) of the rectangles.
        height: H.
        width: W.
    """
    low, high = centre_BN2 - size_BN2 // 2, centre_BN2 - size_BN2 // 2 + size_BN2
    device = centre_BN2.device
    rows, columns = torch.arange(height, device=device), torch.arange(width, device=device)
    in_rows = (rows >= low[..., :1]) & (rows < high[..., :1])
    in_columns = (columns >= low[..., 1:]) & (columns < high[..., 1:])
    count_BHW = in_rows.float().mT @ in_columns.float()  # holes over each pixel: small integers, so exact
    return count_BHW.unsqueeze(1).eq_(0)


def mix(x_BCHW: Tensor, partner_BCHW: Tensor, params: AugmentParams) -> Tensor:
    """Apply mixup, or cutmix if there are boxes. The shares for labels are params['share'] (B,).

    Args:
        x_BCHW: float images.
        partner_BCHW: the images to mix with.
        params: rows of the parameters.
    """
    if "box" not in params:
        return torch.lerp(partner_BCHW, x_BCHW, params["share"].view(-1, 1, 1, 1))
    low, high = params["box"][:, :1], params["box"][:, 1:]  # each (B, 1, 2): one rectangle an image
    keep = holes((low + (high - low) // 2), high - low, *x_BCHW.shape[2:])
    return torch.where(keep.bool(), x_BCHW, partner_BCHW)
