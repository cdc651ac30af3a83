"""Build the model with fresh or loaded weights, and check it against the data."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from effbench.builders.factories import call
from effbench.cache_dir import expanded
from effbench.config.schema import Config
from effbench.data.modality import Modality
from effbench.data.splits import Splits
from effbench.errors import ConfigError, DataError, EffbenchError
from effbench.guarded import kind_of
from effbench.models.adapt import Loaded, freeze, head_names, load_pretrained, load_state
from effbench.models.probe import Probe, check_logits, initialize_lazy
from effbench.models.timm_zoo import TARGET as TIMM_TARGET
from effbench.models.timm_zoo import tag_of
from effbench.randomness import Purpose, derived_seed
from effbench.records import read_any_summary
from effbench.target_allowlist import is_own, resolve
from effbench.tasks.task import Task
from effbench.training.checkpoint_files import DamagedError, committed, read_manifest, weights_and_manifest

log = logging.getLogger(__name__)

_KEY = "model.pretrained"
_WEIGHTS_OPTIONS = ("weights", "weights_backbone", "checkpoint_path", "pretrained_cfg", "pretrained_cfg_overlay")


def model(config: Config, num_outputs: int, modality: Modality) -> nn.Module:
    """Build the model on the CPU.

    Its weights are drawn from the seed or loaded from model.pretrained; parameters are frozen as configured.

    Args:
        config: a checked config.
        num_outputs: size of the model's last dimension, such as the number of classes.
        modality: gives the constructor its facts, such as the image size.

    Raises:
        ConfigError: the target makes no nn.Module, or refuses its options.
        DataError: the weights in model.pretrained cannot be loaded.
    """
    # With these, torchvision and timm would download weights, whatever model.pretrained says.
    if config.model.target.startswith(("torchvision.", "timm.", TIMM_TARGET)):
        for key in _WEIGHTS_OPTIONS:
            if config.model.options.get(key) is not None:
                raise ConfigError(
                    f"model.{key} is not taken: effbench downloads no weights, and reads a file by model.pretrained "
                    f"alone. Leave {key} out and write model.pretrained=FILE, a .safetensors, .pt or .pth file."
                )

    facts = {**model_facts(num_outputs, modality), **_target_kind(config)}
    # The same weights on every rank, and in every resumed session before its own are loaded.
    torch.manual_seed(derived_seed(config.seed, Purpose.WEIGHTS))
    built = call("model", config.model.target, config, config.model.options, facts, f"{modality.unit}s")
    if not isinstance(built, nn.Module):
        raise ConfigError(f"model._target_ {config.model.target!r} must make an nn.Module; got {type(built).__name__}.")
    # Lazy layers get their shapes before weights are loaded and parameters are counted.
    initialize_lazy(built, f"model._target_ {config.model.target!r}", probe_of(modality))
    if config.model.pretrained is not None and config.resume is None:  # a resumed run has its own weights
        loaded = _load_pretrained(built, expanded(config.model.pretrained), modality)
        log.info(f"pretrained: {loaded}")
    # Before the optimizer is built: it gets the trained parameters only.
    if config.model.freeze:
        freeze(built, config.model.freeze)
    return built


def model_facts(num_outputs: int, modality: Modality) -> dict[str, Any]:
    """Return the arguments that the data give a model's constructor, as far as it has them."""
    return {"num_classes": num_outputs, **modality.facts}


def _target_kind(config: Config) -> dict[str, str]:
    """Return the kind of the task's targets, if the model's constructor has a parameter for it.

    Not for **options: a constructor of torchvision would take it for an option of its own.
    """
    factory = resolve("model", config.model.target, config.allow_targets)
    if "target_kind" not in inspect.signature(factory).parameters:
        return {}
    return {"target_kind": getattr(resolve("task", config.task.target, config.allow_targets), "kind", "class")}


def _load_pretrained(built: nn.Module, source: Path, modality: Modality) -> Loaded:
    """Load weights from a file, or from a run's folder: the best ones, else the last.

    A model that reads folders of another library has a method `weights_of`.

    Args:
        built: the model.
        source: the file or folder.
        modality: checks that such a folder, or the run, is for its samples.
    """
    if kind_of(source, _KEY) != "a folder":
        return _load_run(built, partial(load_pretrained, built, source), modality, source, _manifest_beside(source))
    checkpoints = source / "checkpoints"
    # `source` itself may be one checkpoint; without links the newest one counts.
    choices = [source, checkpoints / "best", checkpoints / "last", *committed(checkpoints)]
    chosen = next((path for path in choices if kind_of(path / "manifest.json", _KEY) == "a file"), None)
    if chosen is None and kind_of(source / "config.json", _KEY) == "a file" and hasattr(built, "weights_of"):
        modality.check_pretrained(source)
        return load_state(built, built.weights_of(source), str(source))  # type: ignore[operator]
    if chosen is None:
        raise DataError(
            f"model.pretrained: the folder '{source}' is no run with a checkpoint. Name a run's folder, one of its "
            "checkpoints/, or a .safetensors, .pt or .pth file."
        )
    try:
        # The message says which weights these are: the averaged ones are preferred.
        averaged = ", averaged weights" if (chosen / "ema.safetensors").exists() else ""
        weights, manifest = weights_and_manifest(chosen)
    except DamagedError as error:
        raise DataError(f"model.pretrained: {error} Name another of the run's checkpoints.") from error
    return _load_run(built, partial(load_state, built, weights, f"{chosen}{averaged}"), modality, chosen, manifest)


def _load_run(
    built: nn.Module,
    load: Callable[[], Loaded],
    modality: Modality,
    checkpoint: Path,
    manifest: Mapping[str, Any],
) -> Loaded:
    """Load the weights, and refuse those that take a sample's numbers for others.

    Args:
        built: the model.
        load: loads them.
        modality: checks that the run is for its samples.
        checkpoint: its folder, or a file of weights.
        manifest: of the checkpoint; {} for weights without one.
    """
    tables = {f"{name}.weight" for name, part in built.named_modules() if isinstance(part, nn.Embedding)}

    def check() -> None:
        fitted = manifest.get("fitted")
        modality.check_pretrained_run(
            checkpoint, fitted if isinstance(fitted, Mapping) else {}, _data_record(checkpoint)
        )

    try:
        loaded = load()
    except DataError:
        raise
    except ConfigError:
        heads = tuple(f"{head}." for head in head_names(built))
        # another number of rows has a reason that says more than the shapes
        if not all(table.startswith(heads) for table in tables):
            check()
        raise
    # of a tied embedding with other rows nothing is loaded that depends on the numbers
    if not tables or not tables <= set(loaded.fresh):
        check()
    return loaded


def _manifest_beside(file: Path) -> Mapping[str, Any]:
    """Return the manifest of the checkpoint that a file of weights is a part of; {} if it is of none."""
    try:
        manifest = read_manifest(file.parent)
    except EffbenchError:
        return {}
    return manifest if file.name in manifest["sha256"] else {}


def _data_record(checkpoint: Path) -> Mapping[str, Any]:
    """Return section `data` of the summary of the checkpoint's run; {} if there is none that can be read."""
    path = checkpoint.absolute()
    folder = path if path.is_dir() else path.parent
    if folder.parent.name != "checkpoints":
        return {}
    try:
        recorded = read_any_summary(folder.parent.parent).get("data")
    except ConfigError:
        return {}
    return recorded if isinstance(recorded, Mapping) else {}


def check_weights_names(config: Config) -> None:
    """Refuse a model name that denotes trained weights if the run would train fresh ones."""
    # timm's names may end in the tag of a set of trained weights: vit_small_patch16_224.augreg_in1k.
    tag = tag_of(config.model.options) if config.model.target == TIMM_TARGET else ""
    if tag and config.model.pretrained is None and config.resume is None:
        name = str(config.model.options["name"])
        raise ConfigError(
            f"model.name '{name}' names trained weights ('{tag}'), which effbench does not download. For fresh weights "
            f"write model.name={name.removesuffix(f'.{tag}')}; for these, fetch their file (model.safetensors of "
            f"huggingface.co/timm/{name}) and add model.pretrained=FILE.safetensors."
        )


def probe_of(modality: Modality) -> Probe:
    """Return a batch of two samples with arbitrary values."""
    return Probe(modality.example(2), modality.unit, str(modality))


def check_outputs(config: Config, net: nn.Module, data: Splits, modality: Modality, chosen: Task) -> None:
    """Check shape and values of a user's model's outputs. effbench's own models pass in tests/test_contracts.py.

    Args:
        config: a checked config.
        net: the model.
        data: the dataset.
        modality: makes the sample inputs.
        chosen: the task; outputs of classification must not be probabilities.

    Raises:
        ConfigError: the outputs do not fit the data or the task.
    """
    if is_own(config.model.target):
        return
    name, probe = f"model._target_ {config.model.target!r}", probe_of(modality)
    *places, classes = chosen.output_shape(data.shape, len(data.classes))
    takes_softmax = chosen.kind in ("class", "tokens")
    check_logits(net, name, probe, classes, data.name, takes_softmax, tuple(places))


def compiled_model(net: nn.Module, choice: bool | str) -> nn.Module:
    """Return the model compiled by torch.compile in the mode of trainer.compile; unchanged for false."""
    if choice is False:
        return net
    # mode=None is torch.compile's own default.
    compiled = torch.compile(net, mode=None if choice is True else str(choice))
    assert isinstance(compiled, nn.Module)
    return compiled
