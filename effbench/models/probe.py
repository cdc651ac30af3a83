"""Checks of a model that effbench did not build: it must return trainable logits for samples."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from effbench.errors import ConfigError
from effbench.units import article


@dataclass(frozen=True)
class Probe:
    """The input of a check.

    Attributes:
        inputs: two samples; their values do not matter.
        unit: the word for one sample.
        about: the samples in messages, such as 'images of (C, H, W) (1, 28, 28)'.
    """

    inputs: Tensor
    unit: str
    about: str


def initialize_lazy(model: nn.Module, name: str, probe: Probe) -> None:
    """Give layers such as nn.LazyLinear their shapes by a forward pass.

    Args:
        model: the model.
        name: the model in messages.
        probe: the input.
    """
    # on the CPU and before the optimizer, which needs all parameters
    if any(map(is_lazy, [*model.parameters(), *model.buffers()])):
        with torch.no_grad():
            _outputs(model, name, probe)


def check_logits(
    model: nn.Module,
    name: str,
    probe: Probe,
    classes: int,
    dataset: str,
    takes_softmax: bool = True,
    places: tuple[int, ...] = (),
) -> None:
    """Check that the model returns float logits (N, K), or (N, T, K), and that they depend on trained parameters.

    The probe is passed through it on the CPU in eval mode. Torch's random state is not changed.

    Args:
        model: the model.
        name: the model in messages.
        probe: the input.
        classes: K.
        dataset: the dataset in messages.
        takes_softmax: the task takes the softmax of the outputs, so probabilities are refused.
        places: () for one row of logits a sample; (T,) for one at each place of it.

    Raises:
        ConfigError: the model does not fit.
    """
    # first, because a model of another dtype would fail in the forward pass with a message about the input
    for path, tensor in model.named_parameters():
        if tensor.is_meta or tensor.dtype != torch.float32:
            kind = "without values (device meta)" if tensor.is_meta else f"of {tensor.dtype}"
            raise ConfigError(
                f"{name}: its parameter {path} is {kind}; it must be float32 on the CPU. "
                "Set other types and devices with trainer.precision and device."
            )
    outputs = _outputs(model, name, probe)
    if not isinstance(outputs, Tensor):
        raise ConfigError(
            f"{name} returns a {type(outputs).__name__} for {probe.unit}s; it must return the logits alone, a tensor "
            "(N, K)."
        )
    _check_shape(outputs, name, probe, classes, dataset, places)
    # for both samples: logits that add up to 1 by chance do so once at most
    are_probabilities = bool((outputs >= 0).all()) and bool(((outputs.sum(-1) - 1).abs() < 1e-5).all())
    if takes_softmax and classes > 1 and are_probabilities:
        raise ConfigError(
            f"{name} returns probabilities (they add up to 1); it must return logits: the loss and predict apply the "
            "softmax. Remove it from forward."
        )
    # a model that is frozen on purpose is refused later, with a message of its own
    if not outputs.requires_grad and any(parameter.requires_grad for parameter in model.parameters()):
        raise ConfigError(
            f"{name}: its logits depend on no trained parameter (a detach(), no_grad() or argmax in forward, or all of "
            "these parameters are frozen)."
        )


def _check_shape(outputs: Tensor, name: str, probe: Probe, classes: int, dataset: str, places: tuple[int, ...]) -> None:
    # two samples: with one, a missing batch dimension could not be told from a batch of one
    if tuple(outputs.shape) == (2, *places, classes):
        return
    made = " x ".join(map(str, outputs.shape[1:])) if outputs.dim() and len(outputs) == 2 else "no batch of"
    if places:
        wanted = " x ".join(map(str, (*places, classes)))
        raise ConfigError(
            f"{name} makes {made} outputs {article(probe.unit)} {probe.unit}; {dataset} needs {wanted}: a logit "
            "for each token number at each place. Let the model take the argument num_classes."
        )
    raise ConfigError(
        f"{name} makes {made} outputs {article(probe.unit)} {probe.unit}, but {dataset} has {classes} classes, "
        f"labelled 0 to {classes - 1}. "
        "Let the model take the argument num_classes."
    )


def _outputs(model: nn.Module, name: str, probe: Probe) -> Any:
    # dropout in a user's model may ignore eval mode: torch's random numbers are restored, or the run would change
    with in_eval_mode(model), torch.random.fork_rng(devices=[]):
        try:
            return model(probe.inputs)
        except Exception as error:  # the user's code may raise anything
            frame = traceback.extract_tb(error.__traceback__)[-1]  # where in the user's file it was raised
            raise ConfigError(
                f"{name} cannot take {probe.about}: {error!r:.300} ({Path(frame.filename).name}, line {frame.lineno})."
            ) from error


@contextmanager
def in_eval_mode(model: nn.Module) -> Iterator[None]:
    """Set eval mode, in which no statistics are updated; then restore the mode of each module."""
    # by module, not by model.train(): parts of it may be in eval mode on purpose
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training
