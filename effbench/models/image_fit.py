"""Whether a model of images can take those of a given size."""

from __future__ import annotations

import torch
from torch import nn

from effbench.errors import ConfigError
from effbench.models.probe import in_eval_mode


def check_image_fits(model: nn.Module, name: str, image_shape: tuple[int, int, int]) -> None:
    """Check that the model takes images of this shape, by one image in eval mode.

    The model itself is run: on the meta device torch's reference kernels in Python take longer (75 ms against 4 ms,
    MobileNetV3-small at 28 px, 2 threads).

    Args:
        model: the model.
        name: the model in messages.
        image_shape: (C, H, W).

    Raises:
        ConfigError: the model cannot take them.
    """
    # a model that is built for its shapes alone has its parameters on the meta device
    of = next((p for p in model.parameters() if p.is_floating_point()), torch.empty(0))
    with torch.no_grad(), in_eval_mode(model):
        try:
            model(torch.zeros(1, *image_shape, device=of.device, dtype=of.dtype))
        # torch's shape errors are RuntimeErrors; torchvision and timm check sizes by the other two
        except (RuntimeError, ValueError, AssertionError) as error:
            reason = str(error).partition("\n")[0]
            raise ConfigError(
                f"{name} cannot take data.image_size {image_shape[1]} x {image_shape[2]}: {reason}. "
                "Choose a larger data.image_size or another model."
            ) from error
