"""method=unstructured: the smallest weights of all layers together are set to zero, and stay zero in fine-tuning."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from effbench.compress.backend_checks import check_backends
from effbench.compress.finetune import FineTuning
from effbench.compress.options import CompressOptions, UnstructuredOptions, own_options
from effbench.compress.record import Result
from effbench.errors import ConfigError
from effbench.run.compressed import channels_of
from effbench.run.run import Run
from effbench.training.zeros import KeepZeros

log = logging.getLogger(__name__)

NO_SPEED = (
    "Zeros bring no speed and no smaller file: every runtime here multiplies them like other numbers. "
    "method=structured removes channels, and with them time."
)


def unstructured(source: Run, options: CompressOptions, folder: Path) -> Result:
    """Set weights of a run's model to zero and fine-tune it; write checkpoints and metrics into the folder.

    Args:
        source: the run.
        options: what to do.
        folder: of the result, into which it writes.

    Raises:
        ConfigError: the model has no matrices.
    """
    own = own_options(options, UnstructuredOptions)
    check_backends(source, options)
    model = source.model(options.checkpoint)
    weights = prunable(model)
    if not weights:
        raise ConfigError(f"method=unstructured finds no matrices in model={source.config.model.label}.")
    tuning = FineTuning(source, options.checkpoint, folder, own, tests=not options.bounded)
    for step in range(1, own.steps + 1):
        set_smallest_to_zero(list(weights.values()), own.ratio * step / own.steps)
        log.info(f"step {step} of {own.steps}: {own.ratio * step / own.steps:.1%} of the weights are zero")
        tuning.run(model, step, [KeepZeros(list(weights))])
    details = {"notes": [NO_SPEED], **tuning.details}
    return Result(channels=channels_of(source.folder), zeros=list(weights), details=details, summary=tuning.summary)


def prunable(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return name -> weight of linear layers, convolutions and the like.

    Biases, gains of norms and embeddings stay: they are few, or read by row.
    """
    tables = [module for module in model.modules() if isinstance(module, nn.Embedding | nn.EmbeddingBag)]
    # by identity: an output layer may share the embedding's
    read_by_row = {id(weight) for table in tables for weight in table.parameters(recurse=False)}
    return {
        name: weight
        for name, weight in model.named_parameters()
        if weight.dim() > 1 and "weight" in name.rpartition(".")[2] and id(weight) not in read_by_row
    }


@torch.no_grad()
def set_smallest_to_zero(weights: Sequence[Tensor], ratio: float) -> None:
    """Set the part `ratio` of the weights that are smallest in size to zero, over all layers together."""
    sizes = torch.cat([weight.abs().flatten() for weight in weights])
    # As torch.nn.utils.prune.global_unstructured with L1Unstructured chooses them. Its functions move a parameter to
    # the end of its module's, and a resumed optimizer finds its state by the order.
    smallest = sizes.topk(round(ratio * len(sizes)), largest=False).indices
    kept = torch.ones_like(sizes, dtype=torch.bool)
    kept[smallest] = False
    for weight, mask in zip(weights, kept.split([weight.numel() for weight in weights]), strict=True):
        weight.mul_(mask.view_as(weight))
