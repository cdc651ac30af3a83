"""method=structured: whole channels are removed, with everything that depends on them.

torch-pruning finds what depends on a channel (arXiv:2301.12900). Each layer loses the same part of its channels: those
whose weights, with all that depends on them, have the smallest norm. Measured before this was written: once the model
is fine-tuned, magnitude, Taylor, batch norm and random choice differ by less than a point.

Transformers keep the width of their tokens and their heads, which torch's attention ties to each other: they lose
hidden units of their feed-forward blocks.
"""

from __future__ import annotations

import copy
import logging
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor, nn

from effbench.compress.backend_checks import check_backends
from effbench.compress.finetune import FineTuning
from effbench.compress.options import CompressOptions, StructuredOptions, own_options
from effbench.compress.record import Result
from effbench.errors import ConfigError, EffbenchError, MissingExtraError, first_line
from effbench.models import accounting
from effbench.models.adapt import head_names
from effbench.models.channels import ChannelPlan, apply_plan, plan_of
from effbench.run.compressed import kept_zeros, unpruned_model, zeros_of
from effbench.run.run import Run
from effbench.training.penalty import logits_of
from effbench.units import human_count

log = logging.getLogger(__name__)


class NothingToRemoveError(ConfigError):
    """Every channel stays."""


_LAYERS = (nn.Conv1d, nn.Conv2d, nn.Linear)
_REMEDY = "Use method=quantize, or method=unstructured."


def structured(source: Run, options: CompressOptions, folder: Path) -> Result:
    """Remove channels of a run's model and fine-tune it; write checkpoints and metrics into the folder.

    Args:
        source: the run.
        options: what to do.
        folder: of the result, into which it writes.

    Raises:
        ConfigError: the model cannot be pruned.
        MissingExtraError: torch-pruning is not installed.
    """
    own = own_options(options, StructuredOptions)
    pruning = _library()
    check_backends(source, options)
    dense, model = unpruned_model(source), source.model(options.checkpoint)
    example = _example(source)
    widths = _widths(model)
    tuning = FineTuning(source, options.checkpoint, folder, own, tests=not options.bounded)
    before, plan = accounting.parameters(model).total, {}
    if own.steps > 1:  # what removes nothing in all is refused before the first step is trained
        remove_channels(pruning, copy.deepcopy(model), example, widths, own.ratio, own.round_to, _name(source))
    for step in range(1, own.steps + 1):
        ratio = own.ratio * step / own.steps
        try:
            remove_channels(pruning, model, example, widths, ratio, own.round_to, _name(source))
        except NothingToRemoveError:
            if own.steps == 1:
                raise
            log.info(f"step {step} of {own.steps} removes no further channel: round_to={own.round_to}")
        count = accounting.parameters(model).total
        log.info(f"step {step} of {own.steps}: {human_count(count)} of {human_count(before)} parameters are left")
        plan = plan_of(dense, model)
        _check_plan(copy.deepcopy(dense).eval(), model, plan, example, _name(source))
        tuning.run(model, step, kept_zeros(source.folder))
    layers = {name: [widths[name], width] for name, width in _widths(model).items() if width != widths[name]}
    details = {"layers": layers, **tuning.details}
    return Result(channels=plan, zeros=zeros_of(source.folder), details=details, summary=tuning.summary)


def _name(source: Run) -> str:
    return f"model={source.config.model.label}"


def _library() -> ModuleType:
    try:
        import torch_pruning
    except ImportError as error:
        raise MissingExtraError("method=structured", "compress") from error
    library: ModuleType = torch_pruning
    return library


def _example(source: Run) -> Tensor:
    """Return a batch of two samples as the model takes them, in the order of a channels-last batch or not."""
    return source.modality().example(2)


def _widths(model: nn.Module) -> dict[str, int]:
    """Return name -> output channels of each layer that may lose some."""
    return {name: int(module.weight.shape[0]) for name, module in model.named_modules() if isinstance(module, _LAYERS)}


@dataclass(frozen=True)
class _Part:
    """A part of a model that is pruned by itself.

    Attributes:
        prefix: of its layers' names.
        module: the part.
        example: its input.
        kept: layers whose outputs stay.
    """

    prefix: str
    module: nn.Module
    example: Tensor
    kept: list[nn.Module]


def remove_channels(
    pruning: ModuleType,
    model: nn.Module,
    example: Tensor,
    widths: Mapping[str, int],
    ratio: float,
    round_to: int,
    name: str,
) -> None:
    """Remove channels in place, until each layer has lost `ratio` of them.

    Args:
        pruning: torch_pruning.
        model: in eval mode, with torch's plain layers.
        example: a batch that it takes.
        widths: name of a layer -> channels of which `ratio` is taken.
        ratio: part to remove, in (0, 1).
        round_to: kept channels are a multiple of this.
        name: of the model, for messages.

    Raises:
        NothingToRemoveError: every channel stays.
        ConfigError: the model does not run afterwards.
    """
    if any(isinstance(module, nn.RNNBase) for module in model.modules()):
        raise ConfigError(f"method=structured does not prune recurrent layers, which {name} has. {_REMEDY}")
    if widths and all(kept_channels(width, ratio, round_to) == width for width in widths.values()):
        raise NothingToRemoveError(_all_stay(name, max(widths.values()), ratio, round_to))
    model.requires_grad_(True)  # torch-pruning follows gradients, which the step before may have frozen
    before = accounting.parameters(model).total
    try:
        shape = _shape_of(model, example)
        for part in _parts(model, example):
            _prune(pruning, part, widths, ratio, round_to)
        after = _shape_of(model, example)
    except EffbenchError:
        raise
    except Exception as error:
        raise ConfigError(
            f"method=structured cannot follow the channels of {name} ({type(error).__name__}: {first_line(error)}). "
            f"{_REMEDY}"
        ) from error
    if after != shape or accounting.parameters(model).total >= before:
        raise NothingToRemoveError(
            f"method=structured finds no channels to remove in {name}: outputs stay, and so do layers of at most "
            f"round_to={round_to} channels and, beside attention, all but plain feed-forward blocks. {_REMEDY}"
        )


def _all_stay(name: str, widest: int, ratio: float, round_to: int) -> str:
    """Return the message that rounding leaves every channel, with a remedy that works for the widest layer."""
    fine = (each for each in range(max(1, widest // 8), 0, -1) if kept_channels(widest, ratio, each) < widest)
    less = next(fine, None)
    remedy = f"Write round_to={less} or less" if less and less < round_to else "Write a larger ratio"
    return (
        f"ratio={ratio:g} with round_to={round_to} keeps all channels of {name}, whose widest layer has {widest}: what "
        f"is kept is rounded to a multiple of round_to. {remedy}."
    )


@torch.no_grad()
def _shape_of(model: nn.Module, example: Tensor) -> torch.Size:
    return logits_of(model(example)).shape


def _prune(pruning: ModuleType, part: _Part, widths: Mapping[str, int], ratio: float, round_to: int) -> None:
    layers = {name: module for name, module in part.module.named_modules() if isinstance(module, _LAYERS)}
    ratios = {}
    for name, module in layers.items():
        now = int(module.weight.shape[0])
        keep = min(now, kept_channels(widths[f"{part.prefix}{name}"], ratio, round_to))
        # torch-pruning rounds down: half a channel more keeps it from losing one to rounding
        ratios[module] = 0.0 if keep == now else 1 - (keep + 0.5) / now
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of its own use of torch
        pruner = pruning.pruner.BasePruner(
            part.module, part.example, pruning.importance.GroupMagnitudeImportance(p=2), pruning_ratio=0.0,
            pruning_ratio_dict=ratios, ignored_layers=part.kept,
            # its default arguments are shared by all pruners, and filled
            in_channel_groups={}, out_channel_groups={}, num_heads={},
        )  # fmt: skip
        pruner.step()


def kept_channels(width: int, ratio: float, round_to: int) -> int:
    """Return how many of a layer's channels stay: the nearest multiple of `round_to`, at least one of it.

    A layer that is not wider than that keeps all. Of two equally near multiples, the larger.

    Args:
        width: its channels.
        ratio: part to remove, in (0, 1).
        round_to: kept channels are a multiple of this.
    """
    if width <= round_to:
        return width
    return min(width, max(round_to, int(width * (1 - ratio) / round_to + 0.5) * round_to))


def _parts(model: nn.Module, example: Tensor) -> Iterator[_Part]:
    """Yield the model; of a transformer, each of its feed-forward blocks."""
    if not any("Attention" in type(module).__name__ for module in model.modules()):
        heads = head_names(model)
        yield _Part("", model, example, [model.get_submodule(name) for name in heads if name])
        return
    for name, block in model.named_modules():
        layers = [layer for layer in block.children() if isinstance(layer, nn.Linear)]
        if len(layers) == 2 and layers[0].out_features == layers[1].in_features and _is_plain(block):
            yield _Part(f"{name}.", block, torch.randn(2, 3, layers[0].in_features), [layers[1]])


def _is_plain(block: nn.Module) -> bool:
    """Return whether a block has no parts but linear layers, activations and dropout."""
    return all(isinstance(each, nn.Linear) or not list(each.parameters()) for each in block.children())


@torch.inference_mode()
def _check_plan(rebuilt: nn.Module, model: nn.Module, plan: ChannelPlan, example: Tensor, name: str) -> None:
    """Require that the config's model, `rebuilt`, with the plan and the weights computes what the pruned one does."""
    try:
        apply_plan(rebuilt, plan, "the channel plan")
        rebuilt.load_state_dict(model.state_dict())
        expected, found = logits_of(model.eval()(example)), logits_of(rebuilt(example))
        # the memory layouts may differ, and with them the last digits
        same = torch.allclose(found, expected, rtol=1e-3, atol=1e-4 * max(1.0, float(expected.abs().max())))
    except (ConfigError, RuntimeError, TypeError, ValueError) as error:
        raise ConfigError(
            f"the shapes of the pruned {name} cannot be recorded: {first_line(error)} {_REMEDY}"
        ) from error
    if not same:
        raise ConfigError(f"the pruned {name} cannot be built again from its record. {_REMEDY}")
