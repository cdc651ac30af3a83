"""Any model of timm, by its name in timm. timm is optional and slow to import, so it is imported only when needed."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any

from torch import nn

from effbench.errors import MissingExtraError, OptionError, unknown_name
from effbench.models.image_fit import check_image_fits
from effbench.models.layers import check_dropout

TARGET = "effbench.models.timm_zoo.create"


def tag_of(options: Mapping[str, Any]) -> str:
    """Return the tag of trained weights in a name: a1_in1k of resnet18.a1_in1k; '' if there is none."""
    return str(options.get("name", "")).partition(".")[2]


def create(name: str, num_classes: int, in_channels: int, image_size: tuple[int, int], **options: Any) -> nn.Module:
    """Build a model of timm, freshly initialised: (B, in_channels, H, W) -> logits (B, num_classes).

    Nothing is downloaded. Models with a fixed input size (ViT, Swin) are built for image_size.

    Args:
        name: a name of timm.list_models().
        num_classes: number of logits.
        in_channels: channels of the images.
        image_size: (H, W) in px.
        **options: further keywords of timm.create_model, such as drop_rate; None keeps timm's default.

    Raises:
        MissingExtraError: timm is not installed.
        OptionError: the name is unknown, the model does not take an option, or it does not take the image.
    """
    try:
        import timm
    except ModuleNotFoundError as error:
        if error.name != "timm":  # a package that timm needs is missing: that is another fault
            raise
        raise MissingExtraError("model=timm", "timm") from error
    if not timm.is_model(name):
        known = timm.list_models()  # more than a thousand: show the nearest alone
        near = difflib.get_close_matches(name, known, n=5, cutoff=0.4)
        if not near:
            raise OptionError(
                f"model.name '{name}' resembles none of timm's {len(known)} models; timm.list_models() lists them."
            )
        raise OptionError(f"{unknown_name('model.name', name, near)} (The nearest of timm's {len(known)} models.)")
    # None in a config means: not given. timm would take it as a value
    given = {key: value for key, value in options.items() if value is not None}
    for key in given:
        if key.endswith(("drop_rate", "drop_path_rate")):  # timm accepts -1 (as 0) and 1 (which drops everything)
            check_dropout(given[key], f"model.{key}")
    # other models refuse img_size
    pretrained = timm.get_pretrained_cfg(name)
    if pretrained is not None and pretrained.fixed_input_size:
        given.setdefault("img_size", image_size)
    try:
        model: nn.Module = timm.create_model(name, num_classes=num_classes, in_chans=in_channels, **given)
    except (TypeError, ValueError, AssertionError, RuntimeError) as error:
        raise OptionError(f"model.name '{name}' refuses its options {given}: {error}") from error
    check_image_fits(model, f"model.name '{name}'", (in_channels, *image_size))
    return model
