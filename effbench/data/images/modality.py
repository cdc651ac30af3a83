"""Images: uint8 (N, C, H, W), normalised by channel, augmented in whole batches."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Generator, Tensor, nn

from effbench.config.options import COUNT
from effbench.data.images.augment import Augment, mix
from effbench.data.images.batch_transform import BatchTransform
from effbench.data.images.pixels import channel_statistics
from effbench.data.images.uint8_lut import Crop, look_up
from effbench.data.images.white_levels import Depth, Levels, levels_for
from effbench.data.modality import AugmentParams, Modality, Normalise, Settings, rows_of
from effbench.data.split_checks import as_tensor
from effbench.errors import ConfigError, DataError
from effbench.units import counted

if TYPE_CHECKING:
    from effbench.data.splits import Splits

log = logging.getLogger(__name__)

CROP_PADDING, CROP_SHARE = 2, 12  # lower limit in pixels; divisor of an image's shorter side
FILES = 256  # decoded files in memory


class Images(Modality):
    """uint8 images.

    Args:
        shape: (C, H, W) of one image.
        transform: normalisation, memory format and device.
        augment: augmentation in training.
        white_level: white levels (integers, floats) of images of more than 8 bits; None if there were none.
        max_pixels: limit of a file's size; None for the default.
    """

    unit = "image"
    layout = "(C, H, W)"
    augmentation = Augment
    size_key = "data.image_size"
    published = ((3, 224, 224), 1000)  # ImageNet-1k
    file_options = {"max_pixels": COUNT}

    def __init__(
        self,
        shape: Sequence[int],
        transform: BatchTransform,
        augment: Augment | None = None,
        white_level: Sequence[float] | None = None,
        max_pixels: Any = None,
    ):
        super().__init__(shape, transform.device)
        # Augment() changes nothing, as evaluation and prediction need
        self.transform, self.augment = transform, augment or Augment()
        self._max_pixels = max_pixels
        self._levels: Levels | None = None
        if white_level:
            integers, floats = white_level
            self._levels = Levels(float(integers), float(floats))

    # --- dataset and fit

    @classmethod
    def checked(cls, name: str, inputs: Any, count: int) -> Tensor:
        """Return uint8 (N, C, H, W) from a tensor, an array, or a list of arrays of equal shape."""
        found = as_tensor(f"{name} images", inputs)
        fits = found.dim() == 4 and len(found) == count and 0 not in found.shape[1:]
        if found.dtype != torch.uint8 or not fits:
            remedy = ""
            if found.dim() == 3:
                remedy = " Without a channel: give images.unsqueeze(1)."
            elif fits:  # floats in [0, 1], as torchvision's ToTensor gives, or wider integers
                unit = found.is_floating_point() and float(found.max()) <= 1
                values = "(images * 255).round()" if unit else "images.clamp(0, 255)"
                remedy = f" Give {values}.to(torch.uint8); the run normalises by itself."
            raise DataError(
                f"{name} must be uint8 (N, C, H, W) with N labels; got {found.dtype} {tuple(found.shape)} with {count} "
                f"labels.{remedy}"
            )
        # 3 or 4 columns with more than 4 channels and rows are no image
        if found.shape[3] in (3, 4) and min(found.shape[1:3]) > 4:
            raise DataError(
                f"{name} must be uint8 (N, C, H, W); got {tuple(found.shape)}, which seem to be (N, H, W, C). Give "
                "images.permute(0, 3, 1, 2)."
            )
        return found

    @classmethod
    def automatic_augment(cls, shape: Sequence[int]) -> Mapping[str, int]:
        """Return crop_padding as a fraction of the shorter side."""
        return {"crop_padding": max(CROP_PADDING, min(shape[1:]) // CROP_SHARE)}

    @classmethod
    def fit(cls, data: Splits, settings: Settings) -> Self:
        """Compute mean and standard deviation of each channel of the train split."""
        # train alone: statistics of val or test would leak into training
        mean, std = channel_statistics(data.train.inputs)
        return cls._with(data.shape, mean, std, settings)

    @classmethod
    def blank(cls, shape: Sequence[int], settings: Settings | None = None) -> Self:
        return cls._with(shape, [0.0] * shape[0], [1.0] * shape[0], settings or Settings())

    def record(self) -> dict[str, Any]:
        return {"mean": list(self.transform.mean), "std": list(self.transform.std)}

    @classmethod
    def restored(cls, data: Mapping[str, Any], settings: Settings) -> Self:
        if absent := [f"data.{key}" for key in ("mean", "std") if data.get(key) is None]:
            raise ValueError(f"it lacks {', '.join(absent)}")
        shape = data["shape"]
        if len(shape) != 3 or not len(data["mean"]) == len(data["std"]) == shape[0]:
            raise ValueError("it needs data.mean and data.std of each channel")
        return cls._with(shape, data["mean"], data["std"], settings, data.get("white_level"))

    @classmethod
    def _with(
        cls,
        shape: Sequence[int],
        mean: Sequence[float],
        std: Sequence[float],
        settings: Settings,
        white_level: Sequence[float] | None = None,
    ) -> Self:
        transform = BatchTransform(tuple(mean), tuple(std), settings.device, settings.memory_format)
        return cls(shape, transform, settings.augment, white_level, settings.data.get("max_pixels"))

    # --- model

    @property
    def facts(self) -> dict[str, Any]:
        channels, height, width = self.shape
        return {"in_channels": channels, "image_size": (height, width)}

    # --- batches of training and evaluation

    @property
    def draws(self) -> bool:
        return self.augment.draws

    def draw(self, count: int, generator: Generator) -> AugmentParams:
        _, height, width = self.shape
        return self.augment.draw(count, height, width, generator)

    def batch(self, inputs: Tensor, indices: Tensor, params: AugmentParams, rows: slice) -> Tensor:
        """Return float32 (B, C, H, W)."""
        chosen, own = indices[rows], rows_of(params, rows)
        if "partner" in params:
            # Partners come from the whole step, and may be in another micro-batch or on another rank: they are read
            # from the split and augmented again, with their own rows of the parameters.
            images, partner_rows = self._augmented(inputs, chosen, own), own["partner"]
            if len(partner_rows) == len(indices):
                partners = images[partner_rows]
            else:
                partners = self._augmented(inputs, indices[partner_rows], rows_of(params, partner_rows))
            return self.transform(mix(images, partners, self._sent(own)))
        # Pixel values stay the same: select, crop, flip and normalise in one pass over bytes (uint8_lut.py).
        if self.augment.only_moves and self.transform.looks_up(inputs):
            crop = Crop(own.get("offset"), self.augment.crop_padding, own.get("flip"))
            return look_up(inputs, chosen, self.transform.table, crop, self.transform.memory_format)
        shape = (len(chosen), *inputs.shape[1:])
        return self.transform.in_parts(shape, lambda part: self._augmented(inputs, chosen[part], rows_of(own, part)))

    def plain(self, inputs: Tensor, rows: slice | Tensor) -> Tensor:
        """Return float32 (B, C, H, W)."""
        if self.transform.looks_up(inputs):
            chosen = torch.arange(rows.start, rows.stop) if isinstance(rows, slice) else rows
            return look_up(inputs, chosen, self.transform.table, Crop(), self.transform.memory_format)
        sent = self.transfer.to_device(inputs[rows])  # as uint8: a quarter of the bytes of float32
        return self.transform.in_parts(sent.shape, lambda part: self.portable(sent[part]))

    def _augmented(self, images: Tensor, indices: Tensor, params: AugmentParams) -> Tensor:
        """Return floats in [0, 1] of these images, augmented by their rows of the parameters."""
        chosen = self.transfer.to_device(images.index_select(0, indices))
        return self.augment.apply(chosen, self._sent(params))

    def _sent(self, params: AugmentParams) -> AugmentParams:
        return {key: self.transfer.to_device(value) for key, value in params.items()}

    # --- prediction and export

    def given(self, inputs: Any) -> Iterator[Tensor]:
        from effbench.data.images.given import images_of

        channels, height, width = self.shape
        yield from map(self.required, images_of(inputs, (channels, height, width), self._limit(), self._levels))

    def required(self, samples: Tensor) -> Tensor:
        if samples.dtype != torch.uint8 or tuple(samples.shape[1:]) != self.shape:
            expected = ", ".join(map(str, self.shape))
            raise ConfigError(f"predict takes uint8 (N, {expected}); got {samples.dtype} {tuple(samples.shape)}.")
        return samples

    def read_files(
        self, paths: Sequence[str], options: Mapping[str, Any], problems: list[str]
    ) -> Iterator[tuple[list[dict[str, Any]], Tensor]]:
        """Yield files brought to the run's size and channels, with {'file': path} for each."""
        from effbench.data.images.decoding import decode, depths
        from effbench.data.images.image_files import find_images

        files, limit, levels = find_images(paths), options.get("max_pixels") or self._limit(), self._levels
        found_deep = [deep for deep in depths(files, limit) if deep is not None]
        if levels and (above := sum(map(levels.exceeded_by, found_deep))):
            log.info(
                f"note: {above} images have values above {levels.integers:g} (floats: {levels.floats:g}), the white "
                "level of training: these values become white"
            )
        elif found_deep and not levels:
            log.warning(_unknown_white(found_deep))
        channels, size, _ = self.shape
        read = partial(decode, size=size, channels=channels, max_pixels=limit, levels=levels)
        for start in range(0, len(files), FILES):
            found: list[tuple[dict[str, Any], Tensor]] = []
            for path in files[start : start + FILES]:
                # for any stream: a byte that is not UTF-8 appears as \udcXX
                name = str(path).encode("utf-8", "backslashreplace").decode("utf-8")
                try:
                    found.append(({"file": name}, read(path)))
                except DataError as error:
                    problems.append(str(error))
            if found:
                yield [name for name, _ in found], torch.stack([image for _, image in found])

    def _limit(self) -> int:
        """Return max_pixels of the run, checked only here: training does not need it."""
        from effbench.data.images.opening import MAX_PIXELS

        value = self._max_pixels
        if value is not None and not COUNT.holds(value):
            raise ConfigError(
                f"the run's config.yaml is damaged: data.max_pixels must be a whole number above 0; got {value!r:.80}."
            )
        return value or MAX_PIXELS

    def portable(self, samples: Tensor) -> Tensor:
        """Convert uint8 to float32 in [0, 1]."""
        return samples.float().mul_(1 / 255)

    def normalise(self, portable: Tensor) -> Tensor:
        return self.transform(portable)

    def normaliser(self) -> nn.Module:
        return Normalise(self.transform.mean, self.transform.std, inner_dims=2)

    def export_facts(self) -> dict[str, Any]:
        from effbench.data.images.decoding import preprocessing

        channels, height, width = self.shape
        # Files are brought to a square of gray or RGB. Images of another shape come as arrays: there is nothing to say.
        of_files = channels in (1, 3) and height == width
        return {
            "input": {"name": "images", "shape": ["N", *self.shape], "dtype": "float32", "range": [0.0, 1.0]},
            "preprocessing": preprocessing(height, channels, self._levels) if of_files else None,
            "normalisation_inside": self.record(),
        }


def _unknown_white(found: Sequence[Depth]) -> str:
    """Return a warning about images of more than 8 bits for a run that was trained on 8 bits.

    found: ranges of their values.
    """
    white, usual = levels_for(found), Levels()
    darker = max(getattr(usual, deep.kind) / max(getattr(white, deep.kind), 1e-9) for deep in found)
    dark = f", and the largest of them would have {darker:.0f} times too little light" if darker > 2 else ""
    return (
        f"{counted(len(found), 'image')} of more than 8 bits: the run was trained on 8 bits and has no white level, so "
        f"{usual.integers:g} (floats: {usual.floats:g}) becomes white{dark}. Save them as 8 bits, as the run's were"
    )


def square_images(channels: int, size: int) -> Callable[[Mapping[str, Any], Settings], Images]:
    """Return a preview for `previewed`: square images by options `channels` and `image_size`, with these defaults."""

    def preview(options: Mapping[str, Any], settings: Settings) -> Images:
        # An invalid value counts as the default here: the dataset's function refuses it with a message.
        depth, side = (
            options[key] if COUNT.holds(options.get(key)) else usual
            for key, usual in (("channels", channels), ("image_size", size))
        )
        return Images.blank((depth, side, side), settings)

    return preview
