"""What a model that is not of effbench's own gives for images: logits that can be trained, or what is wrong."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from effbench.errors import ConfigError

ImageShape = tuple[int, int, int]  # (C, H, W)


def initialize_lazy(model: nn.Module, name: str, image_shape: ImageShape) -> None:
    """Gives layers such as nn.LazyLinear their shapes, by an image."""
    if any(map(is_lazy, [*model.parameters(), *model.buffers()])):
        with torch.no_grad():
            _outputs(model, name, image_shape)


def check_logits(
    model: nn.Module, name: str, image_shape: ImageShape, classes: int, dataset: str, takes_softmax: bool = True
) -> None:
    """Raises ConfigError unless the model makes float logits (N, K) of images, by parameters that can be trained.

    Two blank images are put through it on the CPU, in eval mode; torch's random numbers are as before.
    """
    for path, tensor in model.named_parameters():
        if tensor.is_meta or tensor.dtype != torch.float32:
            kind = "without values (device meta)" if tensor.is_meta else f"of {tensor.dtype}"
            raise ConfigError(
                f"{name}: its parameter {path} is {kind}; it must be float32 on the CPU. "
                "trainer.precision and device are for the rest."
            )
    outputs = _outputs(model, name, image_shape)
    if not isinstance(outputs, Tensor):
        raise ConfigError(
            f"{name} returns a {type(outputs).__name__} for images; it must return the logits alone, a tensor (N, K)."
        )
    if tuple(outputs.shape) != (2, classes):
        made = " x ".join(map(str, outputs.shape[1:])) if outputs.dim() and len(outputs) == 2 else "no batch of"
        raise ConfigError(
            f"{name} makes {made} outputs an image, but {dataset} has {classes} classes, labelled 0 to {classes - 1}. "
            "Let the model take the argument num_classes."
        )
    if takes_softmax and classes > 1 and bool((outputs >= 0).all()) and bool(((outputs.sum(1) - 1).abs() < 1e-5).all()):
        raise ConfigError(
            f"{name} returns probabilities (they add up to 1); it must return logits, of which the loss and predict "
            "take the softmax. Leave it out of forward."
        )
    if not outputs.requires_grad and any(parameter.requires_grad for parameter in model.parameters()):
        raise ConfigError(
            f"{name}: no trained parameter has a part in its logits (a detach(), no_grad() or argmax in forward, or "
            "all that has is frozen)."
        )


def _outputs(model: nn.Module, name: str, image_shape: ImageShape) -> Any:
    with _in_eval_mode(model), torch.random.fork_rng(devices=[]):
        try:
            return model(torch.zeros(2, *image_shape))
        except Exception as error:  # the code is the user's, and may raise anything
            frame = traceback.extract_tb(error.__traceback__)[-1]
            raise ConfigError(
                f"{name} cannot take images of (C, H, W) {image_shape}: {error!r:.300} "
                f"({Path(frame.filename).name}, line {frame.lineno})."
            ) from error


@contextmanager
def _in_eval_mode(model: nn.Module) -> Iterator[None]:
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training
