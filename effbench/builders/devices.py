"""The device of a run, its global settings, and its memory format."""

from __future__ import annotations

import logging

import torch

from effbench.config.schema import Config
from effbench.errors import ConfigError
from effbench.processors import usable
from effbench.training.distributed import DistributedContext

log = logging.getLogger(__name__)


def device_type(config: Config) -> str:
    """Return 'cpu' or 'cuda'. Raises ConfigError for device=cuda without a GPU."""
    name = config.device.name
    if name == "cuda" and not torch.cuda.is_available():
        raise ConfigError("device=cuda, but torch sees no GPU here. Use device=cpu or device=auto.")
    return "cuda" if name != "cpu" and torch.cuda.is_available() else "cpu"


def device(config: Config, ranks: DistributedContext | None = None) -> torch.device:
    """Return the CPU or this process's GPU; also set the number of threads, TF32 and determinism."""
    ranks = ranks or DistributedContext()
    chosen = device_type(config)
    # Processes on one machine share its cores: torch's own default would give each of them all cores.
    torch.set_num_threads(config.device.threads or usable(ranks.local_world_size).count)
    torch.set_float32_matmul_precision("high" if config.device.tf32 and chosen == "cuda" else "highest")
    torch.backends.cudnn.allow_tf32 = config.device.tf32
    # Only if it changes: the call imports Inductor, which takes a second.
    if config.trainer.deterministic != torch.are_deterministic_algorithms_enabled():
        torch.use_deterministic_algorithms(config.trainer.deterministic)
    log.debug(f"device {chosen}, {torch.get_num_threads()} threads, TF32 {config.device.tf32}")
    return torch.device(chosen, ranks.local_rank) if chosen == "cuda" else torch.device("cpu")


def memory_format(config: Config) -> torch.memory_format:
    """Return the format of device.channels_last, or if that is null the one of the model's config."""
    wish = config.device.channels_last
    if wish is None:
        # Convolutions run faster on channels_last, layers of matrices do not: each model's file says which it wants.
        wish = config.model.memory_format == "channels_last"
    return torch.channels_last if wish else torch.contiguous_format
