"""What counts as the same answer: logits against the largest, top classes but for ties, batches of any size.

White-box: an export of a large model would take minutes.
"""

from __future__ import annotations

import math
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from effbench.errors import ThresholdError
from effbench.export import parity as module
from effbench.export.parity import TIE, Parity, require
from effbench.metrics import Accuracy
from effbench.run.export import _samples, samples_for
from effbench.run.export_options import TOLERANCE, Wanted
from effbench.tasks.classification import Classification
from effbench.tasks.losses import CrossEntropy

IMAGES = torch.rand(10, 1, 2, 2, generator=torch.Generator().manual_seed(0))

compare = partial(module.compare, same=Classification(CrossEntropy(), [Accuracy()], 4).same_answer)


def logits(images: Tensor) -> Tensor:
    """(N, 4): the pixels, ten times."""
    return 10 * images.flatten(1)


@pytest.mark.parametrize(
    ("macs", "samples"), [(None, 256), (10**6, 256), (100 * 10**6, 200), (1_814_073_344, 11), (61 * 10**9, 8)]
)
def test_large_models_are_compared_on_fewer_samples(macs: int | None, samples: int) -> None:
    assert samples_for(macs) == samples


def test_random_inputs_of_a_large_model_are_as_few() -> None:
    """--no-data: 256 inputs of ResNet-18 at 224 px would take as long as those of the data."""
    modality: Any = SimpleNamespace(random_portable=lambda count: torch.zeros(count, 3))
    run: Any = SimpleNamespace(summary={"model": {"macs": 1_800_000_000}}, modality=lambda: modality)
    wanted = Wanted("onnx", "best", "", TOLERANCE, None, False, "file")
    which, samples = _samples(run, wanted)
    assert (which, len(samples)) == (None, samples_for(1_800_000_000))
    assert 8 <= len(samples) < 256


def test_an_equal_answer_has_no_difference_and_every_class() -> None:
    parity = compare(logits, logits, IMAGES, 4)
    assert (parity.max_difference, parity.relative, parity.agreement) == (0, 0, 1)
    assert parity.largest_logit == float(10 * IMAGES.max())
    assert (parity.samples, parity.batch_sizes) == (10, (1, 2, 4))
    require(parity, 1e-9, "it")


def test_a_difference_in_one_logit_of_the_last_image_is_found() -> None:
    def off(images: Tensor) -> Tensor:
        found = logits(images)
        found[(images == IMAGES[-1]).flatten(1).all(1), 0] -= 0.5
        return found

    parity = compare(logits, off, IMAGES, 4)
    assert parity.max_difference == pytest.approx(0.5)
    assert parity.relative == pytest.approx(0.5 / (10 * float(IMAGES.max())), rel=1e-6)
    with pytest.raises(ThresholdError, match=r"does not give the model.*logits differ by 0\.5, .*tolerance=0\.01"):
        require(parity, 0.01, "format=onnx")


@pytest.mark.parametrize("bad", ["alone", "short"])
def test_a_nan_of_a_lone_or_a_short_sample_only_is_found(bad: str) -> None:
    """Python's max passes over a NaN that is not the first."""

    def tokens(samples: Tensor) -> Tensor:
        return torch.stack([samples.float().sum(1), samples.float().amax(1)], 1)

    def off(samples: Tensor) -> Tensor:
        found = tokens(samples)
        hit = len(samples) == 1 if bad == "alone" else samples.shape[1] == 2
        return found * math.nan if hit else found

    samples = torch.randint(1, 9, (10, 6), generator=torch.Generator().manual_seed(0))
    parity = compare(tokens, off, samples, 4, lengths=(2,))
    with pytest.raises(ThresholdError, match="does not give the model's answers"):
        require(parity, 1e-4, "format=onnx")


@pytest.mark.parametrize("size", [1, 4, 2])
def test_a_difference_at_one_batch_size_only_is_found(size: int) -> None:
    parity = compare(logits, lambda images: logits(images) + (len(images) == size), IMAGES, 4)
    assert parity.max_difference == pytest.approx(1, rel=1e-5)


def test_parity_compares_same_images_despite_in_place_changes() -> None:
    parity = compare(lambda images: logits(images.mul_(2)), lambda images: logits(2 * images), IMAGES, 4)
    assert parity.max_difference == 0


def test_parity_refuses_another_top_class_at_any_tolerance() -> None:
    def swapped(images: Tensor) -> Tensor:
        found = logits(images)
        return torch.where(images[:, :1, 0, 0] == IMAGES[3, 0, 0, 0], found.flip(1), found)

    parity = compare(logits, swapped, IMAGES, 4)
    assert parity.agreeing == 9
    with pytest.raises(ThresholdError, match="the answer is the same for 9 of 10 images"):
        require(parity, 1.0, "it")


@pytest.mark.parametrize(("gap", "agreeing"), [(0.5 * TIE, 1), (4 * TIE, 0)])
def test_top_classes_within_float32_rounding_count_as_equal(gap: float, agreeing: int) -> None:
    expected = torch.tensor([[1.0, 1.0 - gap, 0.0]])
    parity = compare(lambda _: expected, lambda _: expected[:, [1, 0, 2]], IMAGES[:1], 4)
    assert parity.agreeing == agreeing


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("whose", ["model", "file"])
def test_nonfinite_logits_never_count_as_equal(value: float, whose: str) -> None:
    broken = torch.full((10, 4), value)
    answers = {"model": (lambda x: broken[: len(x)], logits), "file": (logits, lambda x: broken[: len(x)])}
    parity = compare(*answers[whose], IMAGES, 10)
    with pytest.raises(ThresholdError):
        require(parity, 1.0, "it")


@pytest.mark.parametrize(("difference", "relative"), [(0.0, 0.0), (1e-9, math.inf)])
def test_logits_that_are_all_zero_have_no_scale(difference: float, relative: float) -> None:
    assert Parity(difference, 0.0, 1, 1, (1,)).relative == relative


def test_logits_of_another_shape_are_named() -> None:
    with pytest.raises(ThresholdError, match=r"gives \(1, 3\) for logits \(1, 4\)"):
        compare(logits, lambda images: logits(images)[:, :3], IMAGES, 4)


def test_fixed_batch_size_export_is_refused_with_runtime_error() -> None:
    def fixed(images: Tensor) -> Tensor:
        if len(images) != 4:
            raise IndexError(f"expected 4, got {len(images)}")
        return logits(images)

    with pytest.raises(ThresholdError, match=r"fails at a batch of 1: IndexError\('expected 4, got 1'\)"):
        compare(logits, fixed, IMAGES, 4)
