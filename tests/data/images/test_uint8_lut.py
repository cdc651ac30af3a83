"""The compiled pass from pixels to a batch gives torch's own operations to the bit, whatever is cropped or mirrored."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from effbench.data.batches import EvalBatches, TrainBatches
from effbench.data.images.augment import Augment, crop
from effbench.data.images.batch_transform import BatchTransform
from effbench.data.images.modality import Images
from effbench.data.images.uint8_lut import Crop, can_look_up, look_up
from effbench.data.splits import Split
from tests.compiler import needs_compiler

pytestmark = needs_compiler

LAYOUTS = st.sampled_from([torch.contiguous_format, torch.channels_last])
MOVES = [Augment(), Augment(flip=0.5), Augment(crop_padding=3), Augment(crop_padding=2, flip=0.3)]


def pixels(count: int, channels: int, height: int, width: int) -> Tensor:
    generator = torch.Generator().manual_seed(count + channels * height * width)
    return torch.randint(0, 256, (count, channels, height, width), generator=generator, dtype=torch.uint8)


@pytest.mark.proof
@pytest.mark.slow
@settings(deadline=None, max_examples=200)
@given(st.data(), st.integers(1, 3), st.integers(1, 9), st.integers(1, 20), st.integers(0, 25), LAYOUTS)
def test_any_crop_mirrored_or_not_is_torchs(data, channels, height, width, padding, layout):
    images = pixels(4, channels, height, width)
    chosen = torch.tensor(data.draw(st.lists(st.integers(0, 3), min_size=1, max_size=6)))
    offsets = st.tuples(*[st.integers(0, 2 * padding)] * 2)
    offset = torch.tensor([data.draw(offsets) for _ in chosen])
    flip = torch.tensor([data.draw(st.booleans()) for _ in chosen])
    transform = BatchTransform(tuple(0.1 + 0.2 * c for c in range(channels)), tuple(0.3 + c for c in range(channels)))
    out = look_up(images, chosen, transform.table, Crop(offset, padding, flip), layout)
    expected = transform(crop(images[chosen], offset, padding, flip).float().mul_(1 / 255))
    assert torch.equal(out, expected)
    assert out.is_contiguous(memory_format=layout)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("mean", [(0.2, 0.5, 0.7), (0.3,)], ids=["by channel", "one for all"])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("augment", MOVES, ids=str)
def test_compiled_batches_equal_those_without_a_compiler(augment, layout, mean, threads, monkeypatch):
    split = Split(pixels(60, 3, 10, 12), torch.arange(60) % 5)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        found = []
        for compiled in (True, False):
            monkeypatch.setattr(
                "effbench.data.images.batch_transform.can_look_up", can_look_up if compiled else lambda _: False
            )
            transform = BatchTransform(mean, tuple(0.5 + value for value in mean), memory_format=layout)
            images = Images((3, 10, 12), transform, augment)
            options = {"accumulate": 2, "drop_last": False}
            train = TrainBatches(split, batch_size=8, num_classes=5, modality=images, seed=1, **options)
            seen = [batch.inputs for step in train.epoch(1) for batch in step.micro_batches]
            found.append([*seen, *(batch.inputs for batch in EvalBatches(split, batch_size=7, modality=images))])
    finally:
        torch.set_num_threads(before)
    assert len(found[0]) == 17
    assert all(map(torch.equal, *found))
    assert all(x.is_contiguous(memory_format=layout) for x in found[0])


def test_another_default_dtype_changes_nothing():
    """A model of one's own may set it."""
    images, chosen = pixels(4, 3, 6, 6), torch.tensor([2, 0])
    expected = look_up(images, chosen, BatchTransform((0.2,), (0.5,)).table, Crop())
    torch.set_default_dtype(torch.float64)
    try:
        out = look_up(images, chosen, BatchTransform((0.2,), (0.5,)).table, Crop())
    finally:
        torch.set_default_dtype(torch.float32)
    assert out.dtype is torch.float32
    torch.testing.assert_close(out, expected)


def test_tensors_the_lookup_cannot_read_are_left_to_torch():
    images = pixels(3, 2, 4, 5)
    assert can_look_up(images)
    assert not can_look_up(images.float())
    assert not can_look_up(images.to("meta"))
    assert not can_look_up(images.transpose(2, 3))
    assert not can_look_up(images[:1].expand(3, -1, -1, -1))


@pytest.mark.parametrize(
    "option",
    ["shift", "scale", "rotate", "brightness", "contrast", "dropout_holes", "mixup_alpha", "cutmix_alpha"],
)
def test_options_that_change_pixel_values_are_not_only_moves(option):
    assert not Augment(flip=0.5, **{option: 1}).only_moves
    assert Augment(flip=0.5, crop_padding=4, dropout_size=0.1, **{option: 0}).only_moves
