"""Every operation of the batched augmentation against the same done to one image at a time by others' code."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as tv

from effbench.data.images.augment import Augment, crop, holes, mix, relight, warp
from effbench.errors import ConfigError

EVERY = Augment(
    crop_padding=2,
    flip=0.5,
    shift=0.1,
    scale=0.2,
    rotate=20,
    brightness=0.2,
    contrast=0.3,
    dropout_holes=2,
    dropout_size=0.4,
)
SHAPES = [(3, 12, 12), (1, 8, 14), (2, 15, 9)]
DRAWS = 20_000


def images(count: int, shape=(3, 12, 12)) -> Tensor:
    return torch.randint(0, 256, (count, *shape), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


def floats(count: int, shape=(3, 12, 12)) -> Tensor:
    return images(count, shape).float() / 255


def uniform(low: float, high: float, *shape: int, seed: int = 1) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) * (high - low) + low


def drawn(augment: Augment, count: int = DRAWS, height: int = 20, width: int = 30) -> dict[str, Tensor]:
    return augment.draw(count, height, width, torch.Generator().manual_seed(0))


# --- at zero


@pytest.mark.parametrize("shape", SHAPES)
def test_without_options_an_image_is_only_scaled_to_0_1(shape):
    augment = Augment()
    plan = drawn(augment, 5, *shape[1:])
    assert plan == {}
    out = augment.apply(images(5, shape), plan)
    assert out.dtype == torch.float32
    np.testing.assert_allclose(out, images(5, shape).numpy() / 255, rtol=1e-6)


@pytest.mark.parametrize("shape", SHAPES)
def test_every_operation_at_zero_strength_is_the_identity(shape):
    x = floats(4, shape)
    nothing, one = torch.zeros(4), torch.ones(4)
    torch.testing.assert_close(warp(x, torch.zeros(4, 2), one, nothing), x, atol=1e-5, rtol=0)
    torch.testing.assert_close(relight(x, nothing, one), x)
    torch.testing.assert_close(x * holes(torch.full((4, 2, 2), 3), torch.zeros(4, 2, 2).long(), *shape[1:]), x)
    assert torch.equal(crop(images(4, shape), torch.full((4, 2), 3), 3), images(4, shape))
    unflipped = Augment(flip=0.5).apply(images(4, shape), {"flip": torch.zeros(4, dtype=torch.bool)})
    torch.testing.assert_close(unflipped, x)


def test_an_all_black_image_stays_black_but_for_brightness():
    black = torch.zeros(50, 3, 12, 12, dtype=torch.uint8)
    plan = drawn(EVERY, 50, 12, 12)
    plan["brightness"].zero_()
    assert EVERY.apply(black, plan).abs().max() == 0


# --- against references, one image at a time


@pytest.mark.parametrize("shape", SHAPES)
def test_crop_is_numpys_pad_and_slice(shape):
    source, padding = images(40, shape), 3
    offsets = torch.randint(0, 2 * padding + 1, (40, 2), generator=torch.Generator().manual_seed(2))
    out = crop(source, offsets, padding)
    for image, (top, left), result in zip(source.numpy(), offsets.tolist(), out.numpy(), strict=True):
        padded = np.pad(image, ((0, 0), (padding, padding), (padding, padding)))
        assert (result == padded[:, top : top + shape[1], left : left + shape[2]]).all()


@pytest.mark.slow
@settings(deadline=None, max_examples=60)
@given(st.integers(0, 6), st.integers(1, 3), st.integers(1, 12), st.integers(1, 12), st.integers(0, 4), st.data())
def test_crop_and_flip_are_torchvisions_to_the_bit(count, channels, height, width, padding, data):
    source = images(count, (channels, height, width))
    offsets = [[data.draw(st.integers(0, 2 * padding)) for _ in range(2)] for _ in range(count)]
    flips = [data.draw(st.booleans()) for _ in range(count)]
    out = crop(source, torch.tensor(offsets, dtype=torch.int64).view(-1, 2), padding, torch.tensor(flips).bool())
    assert out.shape == source.shape
    for image, (top, left), flip, result in zip(source, offsets, flips, out, strict=True):
        expected = tv.crop(tv.pad(image, [padding] * 4), top, left, height, width)
        assert torch.equal(result, tv.horizontal_flip(expected) if flip else expected)


@pytest.mark.parametrize("shape", SHAPES)
def test_flip_is_torchvisions_for_those_chosen(shape):
    source, chosen = images(10, shape), torch.arange(10) % 3 == 0
    out = Augment(flip=0.5).apply(source, {"flip": chosen})
    expected = torch.stack([tv.horizontal_flip(i) if c else i for i, c in zip(source, chosen, strict=True)])
    np.testing.assert_allclose(out, expected.numpy() / 255, rtol=1e-6)


@pytest.mark.parametrize("shape", SHAPES)
def test_warp_is_torchvisions_affine(shape):
    count = 30
    x = floats(count, shape)
    shift, scale = uniform(-0.3, 0.3, count, 2), uniform(0.6, 1.5, count, seed=2)
    degrees = uniform(-180, 180, count, seed=3)
    out = warp(x, shift, scale, degrees * math.pi / 180)
    for i in range(count):
        expected = tv.affine(
            x[i],
            angle=-float(degrees[i]),  # torchvision turns clockwise
            translate=[float(shift[i, 1]) * shape[2], float(shift[i, 0]) * shape[1]],
            scale=float(scale[i]),
            shear=[0.0, 0.0],
            interpolation=InterpolationMode.BILINEAR,
            fill=0.0,
        )
        # torchvision smooths its mask of the border too, so that pixels cut by it differ.
        inside = warp(
            torch.ones(1, 1, *shape[1:]), shift[i : i + 1], scale[i : i + 1], degrees[i : i + 1] * math.pi / 180
        )
        whole = (inside[0] > 0.999).expand_as(x[i])
        torch.testing.assert_close(out[i][whole], expected[whole], atol=2e-4, rtol=0)
        assert out[i][(inside[0] == 0).expand_as(x[i])].abs().sum() == 0


def test_positive_shift_moves_down_and_right_by_side_fractions():
    x = torch.zeros(1, 1, 8, 10)
    x[0, 0, 2, 3] = 1
    out = warp(x, torch.tensor([[0.25, 0.2]]), torch.ones(1), torch.zeros(1))
    expected = torch.zeros(1, 1, 8, 10)
    expected[0, 0, 4, 5] = 1
    torch.testing.assert_close(out, expected, atol=1e-5, rtol=0)


def test_a_quarter_turn_is_numpys_rot90_counter_clockwise():
    x = floats(2, (3, 12, 12))
    out = warp(x, torch.zeros(2, 2), torch.ones(2), torch.full((2,), math.pi / 2))
    np.testing.assert_allclose(out, np.rot90(x.numpy(), axes=(2, 3)), atol=1e-4)


def test_scale_2_shows_the_middle_half_enlarged():
    """A ramp stays a ramp of half the slope."""
    ramp = torch.arange(16.0).view(1, 1, 1, 16).expand(1, 1, 16, 16) / 16
    out = warp(ramp, torch.zeros(1, 2), torch.full((1,), 2.0), torch.zeros(1))
    steps = out[0, 0, 8].diff()
    torch.testing.assert_close(steps, torch.full((15,), 1 / 32), atol=1e-5, rtol=0)


@pytest.mark.parametrize("shape", SHAPES)
def test_relight_stretches_about_the_mean_adds_and_clamps(shape):
    x = floats(30, shape)
    brightness, contrast = uniform(-0.5, 0.5, 30), uniform(0.0, 2.0, 30, seed=2)
    out = relight(x, brightness, contrast)
    for i in range(30):
        image = x[i].double().numpy()
        expected = np.clip(image.mean() + (image - image.mean()) * contrast[i].item() + brightness[i].item(), 0, 1)
        np.testing.assert_allclose(out[i], expected, atol=1e-6)


def test_contrast_is_torchvisions_where_an_image_is_gray():
    """In colour it is not: torchvision stretches about the mean of the luma, and multiplies by its brightness."""
    x, contrast = floats(30, (1, 9, 14)), uniform(0.0, 2.0, 30)
    out = relight(x, torch.zeros(30), contrast)
    expected = torch.stack([tv.adjust_contrast(image, float(c)) for image, c in zip(x, contrast, strict=True)])
    torch.testing.assert_close(out, expected, atol=1e-6, rtol=0)


def test_a_hole_is_torchvisions_erased_rectangle():
    x = floats(20, (3, 12, 14))
    plan = drawn(Augment(dropout_holes=1, dropout_size=0.5), 20, 12, 14)
    out = x * holes(plan["hole_centre"], plan["hole_size"], 12, 14)
    for image, centre, size, result in zip(x, plan["hole_centre"][:, 0], plan["hole_size"][:, 0], out, strict=True):
        low = centre - size // 2
        (top, left), (bottom, right) = low.clamp_min(0).tolist(), (low + size).tolist()
        erased = tv.erase(image, top, left, max(0, bottom - top), max(0, right - left), torch.zeros(3, 1, 1))
        assert torch.equal(result, erased)


@settings(deadline=None, max_examples=60)
@given(
    st.integers(1, 9),
    st.integers(1, 9),
    st.lists(
        st.tuples(st.integers(0, 8), st.integers(0, 8), st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=3
    ),
)
def test_holes_black_out_rectangles_clipped_at_the_border(height, width, rectangles):
    centre = torch.tensor([[rectangle[:2] for rectangle in rectangles]])
    size = torch.tensor([[rectangle[2:] for rectangle in rectangles]])
    expected = np.ones((height, width))
    for row, column, rows, columns in rectangles:
        top, left = row - rows // 2, column - columns // 2
        expected[max(top, 0) : max(top + rows, 0), max(left, 0) : max(left + columns, 0)] = 0
    np.testing.assert_array_equal(holes(centre, size, height, width)[0, 0], expected)


def test_mixup_and_cutmix_equal_the_formulas_of_their_papers():
    x, partner = floats(6), floats(12)[6:]
    share = uniform(0, 1, 6)
    mixed = mix(x, partner, {"share": share})
    expected = [share[i] * x[i] + (1 - share[i]) * partner[i] for i in range(6)]
    torch.testing.assert_close(mixed, torch.stack(expected))
    boxes = torch.tensor([[[i, 2], [i + 5, 9 + i % 4]] for i in range(6)])
    cut = mix(x, partner, {"share": share, "box": boxes})
    for i, ((top, left), (bottom, right)) in enumerate(boxes.tolist()):
        pasted = x[i].clone()
        pasted[:, top:bottom, left:right] = partner[i][:, top:bottom, left:right]
        assert torch.equal(cut[i], pasted)


def test_the_order_is_crop_flip_warp_light_holes():
    """Holes come last, so that they are black whatever the light."""
    augment = Augment(crop_padding=2, flip=1.0, rotate=30, brightness=0.3, contrast=0.3, dropout_holes=1)
    plan = drawn(augment, 8, 12, 12)
    source = images(8)
    x = crop(source, plan["offset"], 2).flip(3).float() / 255
    x = relight(warp(x, plan["shift"], plan["scale"], plan["angle"]), plan["brightness"], plan["contrast"])
    expected = x * holes(plan["hole_centre"], plan["hole_size"], 12, 12)
    torch.testing.assert_close(augment.apply(source, plan), expected)


# --- what is drawn: each sample its own, in the range that the option states


@pytest.mark.parametrize("probability", [0.0, 0.1, 0.5, 0.9, 1.0])
def test_an_image_is_flipped_with_the_stated_probability(probability):
    plan = drawn(Augment(flip=probability))
    share = plan["flip"].float().mean().item() if plan else 0.0
    assert share == pytest.approx(probability, abs=4 * math.sqrt(probability * (1 - probability) / DRAWS) + 1e-12)


# chi_square: what 1 in 100 exceeds, by the 8, 24 and 80 degrees of freedom
@pytest.mark.parametrize(("padding", "chi_square"), [(1, 20.09), (2, 42.98), (4, 112.33)])
def test_every_crop_offset_is_as_likely_as_any_other(padding, chi_square):
    offset, side = drawn(Augment(crop_padding=padding))["offset"], 2 * padding + 1
    assert_even(torch.bincount(offset[:, 0] * side + offset[:, 1], minlength=side**2), side**2, chi_square)


def assert_even(counts: Tensor, outcomes: int, chi_square: float) -> None:
    expected = float(counts.sum()) / outcomes
    assert len(counts) == outcomes
    assert ((counts - expected) ** 2 / expected).sum().item() < chi_square


def test_crops_and_flips_are_uniformly_distributed():
    """One white pixel off the middle: where it lands tells the offset, and its neighbour the flip."""
    source = torch.zeros(DRAWS, 1, 9, 9, dtype=torch.uint8)
    source[:, :, 4, 4], source[:, :, 4, 5] = 255, 100
    augment = Augment(crop_padding=2, flip=0.5)
    out = augment.apply(source, drawn(augment, height=9, width=9)).flatten(1)
    white, grey = (out == 1).int().argmax(1), (out * 255).round().eq(100).int().argmax(1)
    assert ((white - grey).abs() == 1).all()
    row, column, mirrored = white // 9, white % 9, grey < white
    counts = torch.bincount(((row - 2) * 5 + column - 2) * 2 + mirrored, minlength=50)
    assert_even(counts, 50, 85.35)  # what 1 in 1000 exceeds by 49 degrees of freedom


def is_uniform(values: Tensor, low: float, high: float) -> bool:
    """Kolmogorov-Smirnov at 1 in 100, and both ends come near."""
    n = values.numel()
    ordered = ((values.flatten().double() - low) / (high - low)).sort().values
    steps = torch.arange(n + 1, dtype=torch.float64) / n
    distance = torch.maximum((steps[1:] - ordered).max(), (ordered - steps[:-1]).max()).item()
    return distance < 1.63 / math.sqrt(n) and 0 <= ordered[0] < 1e-3 and 1 - 1e-3 < ordered[-1] <= 1


def test_warp_and_light_are_uniform_in_their_ranges():
    plan = drawn(Augment(shift=0.1, scale=0.2, rotate=30, brightness=0.3, contrast=0.4))
    assert is_uniform(plan["shift"], -0.1, 0.1)
    assert is_uniform(plan["scale"], 0.8, 1.2)
    assert is_uniform(plan["angle"] * 180 / math.pi, -30, 30)
    assert is_uniform(plan["brightness"], -0.3, 0.3)
    assert is_uniform(plan["contrast"], 0.6, 1.4)


def test_one_option_leaves_the_related_options_at_zero():
    assert drawn(Augment(rotate=10))["shift"].abs().max() == 0
    assert (drawn(Augment(rotate=10))["scale"] == 1).all()
    assert drawn(Augment(shift=0.1))["angle"].abs().max() == 0
    assert (drawn(Augment(brightness=0.1))["contrast"] == 1).all()
    assert drawn(Augment(contrast=0.1))["brightness"].abs().max() == 0


def test_dropout_holes_respect_max_size_and_are_centred_anywhere():
    plan = drawn(Augment(dropout_holes=3, dropout_size=0.5))
    rows, columns = plan["hole_size"].unbind(2)
    assert (int(rows.min()), int(rows.max()), int(columns.min()), int(columns.max())) == (1, 10, 1, 15)
    assert torch.bincount(rows.flatten())[1:].float().std() < 0.05 * 3 * DRAWS / 10
    centre = plan["hole_centre"]
    assert centre.shape == (DRAWS, 3, 2)
    assert (centre.amin((0, 1)).tolist(), centre.amax((0, 1)).tolist()) == ([0, 0], [19, 29])


@pytest.mark.parametrize("alpha", [0.1, 0.4, 1.0, 5.0])
@pytest.mark.parametrize("kind", ["mixup_alpha", "cutmix_alpha"])
def test_shares_are_beta_distributed(kind, alpha):
    plan = drawn(Augment(**{kind: alpha}), height=400, width=300)
    share, variance = plan["share"].double(), 1 / (4 * (2 * alpha + 1))
    assert 0 <= share.min() <= share.max() <= 1
    if kind == "mixup_alpha":
        assert share.mean().item() == pytest.approx(0.5, abs=4 * math.sqrt(variance / DRAWS))
        assert share.var().item() == pytest.approx(variance, rel=0.05)
    else:
        # Clipping at the border makes pasted areas smaller than drawn, never larger.
        assert 0.5 < share.mean().item() < 0.85


def test_cutmix_box_area_equals_the_replaced_label_share():
    plan = drawn(Augment(cutmix_alpha=1.0))
    low, high = plan["box"].unbind(1)
    assert (low >= 0).all()
    assert (high <= torch.tensor([20, 30])).all()
    assert (high >= low).all()
    torch.testing.assert_close(plan["share"], 1 - (high - low).prod(1) / 600)
    whole = ((low == 0) & (high == torch.tensor([20, 30]))).all(1)
    assert (plan["share"][whole] == 0).all()


def test_unclipped_cutmix_box_has_drawn_area_and_image_aspect():
    """Boxes away from the border: sides are sqrt(1 - share) of the image's."""
    plan = drawn(Augment(cutmix_alpha=1.0), height=200, width=300)
    low, high = plan["box"].unbind(1)
    inner = ((low > 0) & (high < torch.tensor([200, 300]))).all(1)
    sides = (high - low)[inner].double()
    assert inner.sum() > 1000
    assert (sides[:, 1] - 1.5 * sides[:, 0]).abs().max() <= 1.5


def test_partners_are_a_permutation_of_the_step():
    for augment in (Augment(mixup_alpha=1.0), Augment(cutmix_alpha=1.0)):
        partner = drawn(augment, 500)["partner"]
        assert sorted(partner.tolist()) == list(range(500))
        assert (partner == torch.arange(500)).sum() < 10


def test_with_mixup_and_cutmix_each_step_draws_one_at_random():
    both = Augment(mixup_alpha=0.4, cutmix_alpha=1.0)
    generator = torch.Generator().manual_seed(0)
    cut = sum("box" in both.draw(2, 8, 8, generator) for _ in range(1000))
    assert 437 < cut < 563  # four deviations
    assert "box" not in drawn(Augment(mixup_alpha=0.4), 4)
    assert "box" in drawn(Augment(cutmix_alpha=0.4), 4)


# --- one sample does not depend on another


def test_a_row_of_the_plan_affects_its_image_only():
    source, plan = images(16), drawn(EVERY, 16, 12, 12)
    whole = EVERY.apply(source, plan)
    for rows in ([5], [3, 4, 5], [15, 0]):
        picked = EVERY.apply(source[rows], {key: value[rows] for key, value in plan.items()})
        assert torch.equal(picked, whole[rows])


def test_the_result_is_in_0_1_and_the_source_unchanged():
    source, before = images(64), images(64)
    out = EVERY.apply(source, drawn(EVERY, 64, 12, 12))
    assert 0 <= out.min() <= out.max() <= 1 + 1e-6
    assert torch.equal(source, before)


def test_the_plan_depends_on_the_generator_only():
    state = torch.get_rng_state()
    every = Augment(**{**vars(EVERY), "mixup_alpha": 0.4})
    first, second = drawn(every, 8), drawn(every, 8)
    assert all(torch.equal(first[key], second[key]) for key in first | second)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(len(value) == 8 for value in first.values())


# --- what is refused


@pytest.mark.parametrize("key", ["flip", "shift", "scale", "brightness", "contrast", "dropout_size"])
@pytest.mark.parametrize("value", [-0.1, 1.1, math.nan])
def test_a_fraction_out_of_range_is_named(key, value):
    with pytest.raises(ConfigError, match=rf"augment\.{key} must be in \[0, 1\]; got {value}\. 0 turns it off"):
        Augment(**{key: value})


@pytest.mark.parametrize("key", ["crop_padding", "rotate", "dropout_holes", "mixup_alpha", "cutmix_alpha"])
@pytest.mark.parametrize("value", [-1, math.nan, math.inf])
def test_an_amount_that_is_negative_or_not_finite_is_named(key, value):
    with pytest.raises(ConfigError, match=rf"augment\.{key} must be finite and not negative; got {value}"):
        Augment(**{key: value})


@pytest.mark.parametrize("option", [field.name for field in dataclasses.fields(Augment)])
def test_a_single_option_draws_a_plan_except_dropout_size(option):
    augment = Augment(**{option: 1 if option in ("crop_padding", "dropout_holes") else 0.5})
    plan = augment.draw(4, 8, 8, torch.Generator().manual_seed(0))
    assert augment.draws == bool(plan) == (option != "dropout_size")
