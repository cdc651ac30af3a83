"""Build the model of a run that `effbench compress` may have changed: fewer channels, or weights that stay zero."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn

from effbench import build
from effbench.config.schema import Config
from effbench.data.modality import Modality
from effbench.errors import ConfigError, first_line
from effbench.models.channels import ChannelPlan, apply_plan
from effbench.report.compression import NAME, read_compression
from effbench.training.zeros import KeepZeros

if TYPE_CHECKING:
    from effbench.run.run import Run


def shaped_model(config: Config, folder: Path, num_outputs: int, modality: Modality) -> nn.Module:
    """Build the config's model, with the channels that compression.json in the run's folder says.

    Args:
        config: a checked config.
        folder: of the run.
        num_outputs: size of the model's last dimension.
        modality: gives the constructor its facts.

    Raises:
        ConfigError: the record does not fit the model.
    """
    model = build.model(config, num_outputs, modality)
    if plan := channels_of(folder):
        apply_plan(model, plan, f"{folder / NAME}")
        _check_runs(model, modality, folder / NAME)
    return model


def _check_runs(model: nn.Module, modality: Modality, path: Path) -> None:
    """Raise ConfigError if the layers of a plan do not fit each other."""
    training = model.training
    try:
        with torch.no_grad():
            model.eval()(modality.example(2))
    except RuntimeError as error:
        raise ConfigError(f"{path} does not fit the model of the config: {first_line(error)}") from error
    finally:
        model.train(training)


def unpruned_model(run: Run) -> nn.Module:
    """Return the model that a run's config gives, with fresh weights."""
    section = run.config.model.model_copy(update={"pretrained": None, "freeze": []})
    return build.model(run.config.model_copy(update={"model": section}), len(run.classes), run.modality())


def kept_zeros(folder: Path) -> list[KeepZeros]:
    """Return the callback that keeps zero weights of a resumed run at zero, if its record asks for it."""
    return [KeepZeros(names)] if (names := zeros_of(folder)) else []


def channels_of(folder: Path) -> ChannelPlan | None:
    """Return the channel plan of a run; None if it has the channels that its config says."""
    return (read_compression(folder) or {}).get("channels")


def zeros_of(folder: Path) -> list[str]:
    """Return the names of the weights whose zeros stay zero in training."""
    return list((read_compression(folder) or {}).get("zeros") or [])
