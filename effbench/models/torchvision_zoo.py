"""Every classifier of torchvision, adapted to a number of classes, channels and an image size.

With stem 'imagenet' and 3 channels it is torchvision's network, with interchangeable weights.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from math import sqrt
from typing import Any

import torchvision
from torch import Tensor, nn
from torchvision.ops import StochasticDepth

from effbench.config.options import POSITIVE
from effbench.errors import OptionError, unknown_name
from effbench.models.image_fit import check_image_fits
from effbench.models.layers import check_dropout

STEMS = ("auto", "imagenet", "small", "tiny")
SMALL_BELOW_PX = 64  # stem 'auto' is small for images with a side below this

# Their position or window tables depend on the patch size: the first convolution cannot be changed alone.
_FIXED_STEM = {"VisionTransformer", "MaxVit"}

# Keywords of the constructors that this module sets itself.
_TAKEN = {"num_classes", "aux_logits", "init_weights", "transform_input", "stochastic_depth_prob"}

# How each family initialises its first convolution; other families use nn.Conv2d's default.
_fan_out = partial(nn.init.kaiming_normal_, mode="fan_out", nonlinearity="relu")
_FIRST_CONV_INIT: dict[str, Callable[[Tensor], Any]] = {
    **dict.fromkeys(["ResNet", "MobileNetV2", "MobileNetV3", "EfficientNet", "MNASNet", "RegNet", "VGG"], _fan_out),
    "DenseNet": nn.init.kaiming_normal_,
    "SqueezeNet": nn.init.kaiming_uniform_,
    "MaxVit": partial(nn.init.normal_, std=0.02),
    "ConvNeXt": partial(nn.init.trunc_normal_, std=0.02),
    "GoogLeNet": partial(nn.init.trunc_normal_, std=0.01),
    "Inception3": partial(nn.init.trunc_normal_, std=0.1),
    "VisionTransformer": lambda weight: nn.init.trunc_normal_(weight, std=sqrt(1 / weight[0].numel())),
}


def create(
    arch: str,
    num_classes: int,
    in_channels: int,
    image_size: tuple[int, int],
    stem: str = "auto",
    bn_momentum: float | None = None,
    stochastic_depth_prob: float | None = None,
    **options: Any,
) -> nn.Module:
    """Build a classifier of torchvision: (B, in_channels, H, W) -> logits (B, num_classes).

    Stems: 'imagenet' is torchvision's. 'small' keeps the resolution that small images need: ResNets get a 3 x 3
    convolution at stride 1 and no max pool; patch stems (Swin, ConvNeXt) 2 x 2 patches; others a first convolution at
    stride 1. 'auto' is 'small' below 64 px if the architecture supports it, else 'imagenet'. ViT and MaxViT do not:
    'small' is an error there. 'tiny' is for MobileNets at 32 px and below: 'small', and the next convolution of stride
    2 gets stride 1 too.

    GoogLeNet and Inception are built without auxiliary heads.

    Args:
        arch: lower-case name of a builder of torchvision.models.
        num_classes: number of logits.
        in_channels: channels of the images.
        image_size: (H, W) in px.
        stem: 'auto', 'imagenet', 'small' or 'tiny'.
        bn_momentum: of all batch norms, the weight of the new batch (torch's convention); None for torchvision's.
        stochastic_depth_prob: probability for the last block, rising linearly from 0 at the first (arXiv:1603.09382);
            None for torchvision's.
        **options: numeric keywords of the constructor, such as dropout or width_mult; None keeps its default.

    Raises:
        OptionError: an unknown arch, stem or option, a value out of range, or an image that the network does not take.
    """
    known = torchvision.models.list_models(module=torchvision.models)
    if arch not in known:
        raise OptionError(unknown_name("model.arch", arch, known))
    builder = torchvision.models.get_model_builder(arch)
    family: type[nn.Module] = inspect.signature(builder).return_annotation
    small = _wants_small_stem(stem, arch, image_size, family)  # before building, which may take a second
    model = _build(builder, family, arch, num_classes, image_size, options)
    if small:
        _make_stem_small(model, arch, stem)
    # after the stem: the new first convolution is changed once more, and initialised with its true fan-in
    adapt_input_channels(model, in_channels)
    if bn_momentum is not None:
        _set_bn_momentum(model, arch, bn_momentum)
    if stochastic_depth_prob is not None:
        _set_stochastic_depth(model, arch, stochastic_depth_prob)
    check_image_fits(model, f"model.arch '{arch}'", (in_channels, *image_size))
    return model


def adapt_input_channels(model: nn.Module, in_channels: int) -> None:
    """Replace the first convolution, if it takes another number of channels; initialise it as its family does."""
    if _first_conv(model)[1].in_channels != in_channels:
        _replace_first_conv(model, in_channels=in_channels)


def square_side(image_size: tuple[int, int], what: str) -> int:
    """Return the side in px. Raise OptionError, naming `what`, if the image is not square."""
    # position tables are made for a square grid of patches
    if image_size[0] != image_size[1]:
        raise OptionError(
            f"data.image_size must be square for {what}; got {image_size[0]} x {image_size[1]}. "
            f"Write {min(image_size)}."
        )
    return image_size[0]


def _build(
    builder: Callable[..., Any],
    family: type[nn.Module],
    arch: str,
    num_classes: int,
    image_size: tuple[int, int],
    options: dict[str, Any],
) -> nn.Module:
    _check_options(options, arch, family)
    # None in a config means: not given. torchvision would take it as a value
    given = {key: value for key, value in options.items() if value is not None}
    if family.__name__ in ("GoogLeNet", "Inception3"):
        # without init_weights torchvision gives a FutureWarning
        given |= {"aux_logits": False, "init_weights": True}
    elif family.__name__ == "VisionTransformer":
        given["image_size"] = square_side(image_size, f"model.arch '{arch}'")
    elif family.__name__ == "MaxVit":
        given["input_size"] = image_size
    try:
        model: nn.Module = builder(num_classes=num_classes, **given)
    except (TypeError, ValueError, AssertionError) as error:
        size = f"{image_size[0]} x {image_size[1]}"
        raise OptionError(
            f"model.arch '{arch}' refuses its options {given} for data.image_size {size}: {error}"
        ) from error
    return model


def _check_options(options: dict[str, Any], arch: str, family: type[nn.Module]) -> None:
    """Refuse unknown options, because several constructors ignore them: MobileNetV3(dropot=0.5) raises nothing.

    Values out of range are refused too: torchvision makes a MobileNet with 8 channels a layer of a width of -1.
    """
    known = {
        name
        for name, parameter in inspect.signature(family).parameters.items()
        # numbers only: YAML cannot hold objects such as norm_layer
        if name == "dropout" or isinstance(parameter.default, int | float)
    } - _TAKEN
    if family.__name__ == "MobileNetV3":
        known |= {"width_mult"}  # an argument of the builder, not of the class
    for option in options:
        if option not in known:
            ours = ["stem", "bn_momentum", "stochastic_depth_prob"]
            raise OptionError(unknown_name(f"option of model.arch '{arch}',", option, [*known, *ours]))
    for option, value in options.items():
        if value is None or isinstance(value, bool):
            continue
        if "drop" in option:
            check_dropout(value, f"model.{option}")
        else:
            remedy = "Usual is null, torchvision's own."
            POSITIVE.check(value, f"model.{option}", "a finite number above 0", remedy)


def _wants_small_stem(stem: str, arch: str, image_size: tuple[int, int], family: type[nn.Module]) -> bool:
    if stem not in STEMS:
        raise OptionError(unknown_name("model.stem", stem, STEMS))
    if family.__name__ not in _FIXED_STEM:
        return stem in ("small", "tiny") or (stem == "auto" and min(image_size) < SMALL_BELOW_PX)
    if stem in ("small", "tiny"):
        raise OptionError(
            f"model.stem '{stem}' is not possible for '{arch}', whose tables are tied to its patches. "
            "Use model=vit_tiny with model.patch_size, or model.stem=imagenet."
        )
    return False


def _make_stem_small(model: nn.Module, arch: str, stem: str) -> None:
    """Keep the resolution in the first convolution; with stem 'tiny' also in the next one of stride 2."""
    conv = _first_conv(model)[1]
    if type(model).__name__ == "ResNet":
        # 3 x 3 at stride 1 without max pool, as the paper's networks for CIFAR (arXiv:1512.03385, section 4.2)
        _replace_first_conv(model, kernel_size=(3, 3), stride=(1, 1), padding=(1, 1))
        model.maxpool = nn.Identity()
    # a patch stem, as in Swin and ConvNeXt
    elif conv.kernel_size == conv.stride:
        _replace_first_conv(model, kernel_size=(2, 2), stride=(2, 2))
    else:
        conv.stride = (1, 1)
    if stem == "tiny":
        if not type(model).__name__.startswith("MobileNet"):
            raise OptionError(f"model.stem 'tiny' is for MobileNets; got model.arch '{arch}'. Write small.")
        convs = (module for module in model.modules() if isinstance(module, nn.Conv2d))
        next(each for each in convs if each.stride != (1, 1)).stride = (1, 1)


def _first_conv(model: nn.Module) -> tuple[str, nn.Conv2d]:
    """Return (name, module) of the convolution that reads the image: the first one registered."""
    return next((name, module) for name, module in model.named_modules() if isinstance(module, nn.Conv2d))


def _replace_first_conv(model: nn.Module, **changes: Any) -> None:
    """Replace the first convolution by a new one with the same settings, except for the changes, on its device."""
    name, old = _first_conv(model)
    kept = ("in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "groups", "padding_mode")
    settings = {key: getattr(old, key) for key in kept} | changes
    conv = nn.Conv2d(**settings, bias=old.bias is not None, device=old.weight.device, dtype=old.weight.dtype)
    init = _FIRST_CONV_INIT.get(type(model).__name__)
    # None: nn.Conv2d's own initialisation, which has run already
    if init is not None:
        init(conv.weight)
        if conv.bias is not None:
            nn.init.zeros_(conv.bias)
    model.set_submodule(name, conv)


def _set_bn_momentum(model: nn.Module, arch: str, momentum: float) -> None:
    if not 0 < momentum <= 1:
        raise OptionError(f"model.bn_momentum must be in (0, 1], the weight of the new batch; got {momentum}.")
    norms = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    if not norms:
        raise OptionError(f"model.bn_momentum has nothing to set: '{arch}' has no batch norm. Write null.")
    for norm in norms:
        norm.momentum = momentum


def _set_stochastic_depth(model: nn.Module, arch: str, prob: float) -> None:
    check_dropout(prob, "model.stochastic_depth_prob")
    drops = [module for module in model.modules() if isinstance(module, StochasticDepth)]
    if not drops:
        raise OptionError(f"model.stochastic_depth_prob has nothing to set: '{arch}' has none. Write null.")
    # linear in depth (arXiv:1603.09382, section 3): the first layers extract what all others use
    for index, drop in enumerate(drops):
        drop.p = prob * index / max(len(drops) - 1, 1)
