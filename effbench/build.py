"""Config -> objects: the only place that turns a `_target_` into one."""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from effbench.allow import MODULES, resolve
from effbench.automatic import number, settled
from effbench.config.schema import Config
from effbench.config.words import boolean_word
from effbench.data.augment import Augment
from effbench.data.batches import EvalBatches, Finish, Shard, TrainBatches
from effbench.data.splits import Split, Splits, channel_statistics, representative_sample
from effbench.errors import ConfigError, DataError, EffbenchError, unknown_name
from effbench.models.adapt import Loaded, freeze, load_pretrained, load_state
from effbench.models.probe import check_logits, initialize_lazy
from effbench.models.quick import accelerate
from effbench.models.timm_zoo import TARGET as TIMM_TARGET
from effbench.models.timm_zoo import tag_of
from effbench.optimizers.groups import parameter_groups
from effbench.places import expanded
from effbench.processors import usable
from effbench.randomness import Purpose, derived_seed
from effbench.training.batch_norm_statistics import (
    AveragedStatistics,
    KeepStatistics,
    RefreshStatistics,
    statistics_batches,
    trained_norms,
)
from effbench.training.callbacks import Callbacks
from effbench.training.checkpoint import Checkpoints, DamagedError, committed, read_weights
from effbench.training.clipping import choose_clipping
from effbench.training.distributed import Ranks
from effbench.training.early_stopping import EarlyStopping, NoEarlyStopping
from effbench.training.ema import Ema, NoEma
from effbench.training.faults import HalveOutOfMemory, KeepBuffers, KeepNothing, RaiseOutOfMemory, SkipNonFinite
from effbench.training.objective import L1Penalty, Objective, class_weights
from effbench.training.precision import Precision, choose_precision
from effbench.training.schedule import Schedule, TorchSchedule
from effbench.training.state import Limits
from effbench.training.trainer import Cadence, Trainer
from effbench.units import seconds_from, steps_from

Built = TypeVar("Built")
_WEIGHTS_OPTIONS = ("weights", "weights_backbone", "checkpoint_path", "pretrained_cfg", "pretrained_cfg_overlay")
_SPLITS = """Such as:
  from effbench.data.splits import Split, Splits, digest
  train = Split(images, labels)  # uint8 (N, C, H, W), int64 (N,)
  return Splits("mine", train, val=None, test=None, classes=("cat", "dog"), sha256=digest(images, labels))"""


def device(config: Config, ranks: Ranks | None = None) -> torch.device:
    """cpu, or the GPU of this process; sets threads, TF32 and determinism on the way."""
    name = config.device.name
    if name == "cuda" and not torch.cuda.is_available():
        raise ConfigError("device=cuda, but torch sees no GPU here. Use device=cpu or device=auto.")
    ranks = ranks or Ranks()
    chosen = "cuda" if name != "cpu" and torch.cuda.is_available() else "cpu"
    torch.set_num_threads(config.device.threads or usable(ranks.local_world).count)
    torch.set_float32_matmul_precision("high" if config.device.tf32 and chosen == "cuda" else "highest")
    torch.backends.cudnn.allow_tf32 = config.device.tf32
    if config.trainer.deterministic != torch.are_deterministic_algorithms_enabled():
        torch.use_deterministic_algorithms(config.trainer.deterministic)  # importing Inductor, a second or more
    return torch.device(chosen, ranks.local_rank) if chosen == "cuda" else torch.device("cpu")


def check_options(config: Config) -> None:
    """Refuses what needs no data to be refused: options that a part does not have, an optimizer's bad values."""
    for group in MODULES:
        section = getattr(config, group)
        factory = resolve(group, section.target, config.allow_targets)
        _check_booleans(group, factory, section.options, config.allow_targets)
        if group != "optimizer":  # which names its parameters otherwise, and is built below
            _check_names(group, factory, section.options)
    _check_weights(config)
    parameter = nn.Parameter(torch.zeros(1))
    parameter.grad = torch.zeros(1)
    trial = _optimizer_over([parameter], config)
    try:
        trial.step()
    except EffbenchError:
        raise
    except Exception as error:
        raise ConfigError(f"optimizer ({config.optimizer.target}) cannot step with its options: {error!r}.") from error


def _check_weights(config: Config) -> None:
    """A name that stands for trained weights must not train fresh ones; a resumed run has its own."""
    tag = tag_of(config.model.options) if config.model.target == TIMM_TARGET else ""
    if tag and config.model.pretrained is None and config.resume is None:
        name = str(config.model.options["name"])
        raise ConfigError(
            f"model.name '{name}' names trained weights ('{tag}'), which effbench does not download. For fresh weights "
            f"write model.name={name.removesuffix(f'.{tag}')}; for these, fetch their file (model.safetensors of "
            f"huggingface.co/timm/{name}) and add model.pretrained=FILE.safetensors."
        )


def takes_time(config: Config) -> bool:
    """Whether the data's function says of itself that it may read for minutes: `takes_time = True` on it."""
    return bool(getattr(resolve("data", config.data.target, config.allow_targets), "takes_time", False))


def splits(config: Config) -> Splits:
    """The dataset, read or decoded."""
    options = {key: _in_full(value) for key, value in config.data.options.items()}
    built = _call("data", config.data.target, config, options)
    if not isinstance(built, Splits):
        raise ConfigError(
            f"data._target_ {config.data.target!r} must return Splits; got {type(built).__name__}. {_SPLITS}"
        )
    return built


def _in_full(value: Any) -> Any:
    """A path below the home folder, written ~/…, for datasets that would take ~ for a name; the rest as it is."""
    return str(expanded(value)) if isinstance(value, str) and (value == "~" or value.startswith("~/")) else value


def model(config: Config, num_classes: int, channels: int, image_size: tuple[int, int]) -> nn.Module:
    """The model on the CPU, its weights drawn from the seed or loaded from model.pretrained, frozen as asked."""
    _refuse_weights_options(config)
    facts = {"num_classes": num_classes, "in_channels": channels, "image_size": image_size}
    torch.manual_seed(derived_seed(config.seed, Purpose.WEIGHTS))
    built = _call("model", config.model.target, config, config.model.options, facts)
    if not isinstance(built, nn.Module):
        raise ConfigError(f"model._target_ {config.model.target!r} must make an nn.Module; got {type(built).__name__}.")
    initialize_lazy(built, f"model._target_ {config.model.target!r}", (channels, *image_size))
    if config.model.pretrained is not None and config.resume is None:  # else the checkpoint has them
        loaded = _load_pretrained(built, expanded(config.model.pretrained))
        print(f"pretrained: {loaded}", file=sys.stderr)
    if config.model.freeze:
        freeze(built, config.model.freeze)
    return built


def _refuse_weights_options(config: Config) -> None:
    """torchvision and timm would fetch the weights that such an option names, whatever model.pretrained says."""
    if not config.model.target.startswith(("torchvision.", "timm.", TIMM_TARGET)):
        return
    for key in _WEIGHTS_OPTIONS:
        if config.model.options.get(key) is not None:
            raise ConfigError(
                f"model.{key} is not taken: effbench downloads no weights, and reads a file by model.pretrained alone. "
                f"Leave {key} out and write model.pretrained=FILE, a .safetensors, .pt or .pth file."
            )


def _load_pretrained(built: nn.Module, source: Path) -> Loaded:
    """Of a file, or of a run's folder: its best weights, or the last."""
    if not source.is_dir():
        return load_pretrained(built, source)
    checkpoints = source / "checkpoints"
    choices = [source, checkpoints / "best", checkpoints / "last", *committed(checkpoints)]
    chosen = next((path for path in choices if (path / "manifest.json").is_file()), None)
    if chosen is None:
        raise DataError(
            f"model.pretrained: the folder '{source}' is no run with a checkpoint. Name a run's folder, one of its "
            "checkpoints/, or a .safetensors, .pt or .pth file."
        )
    try:
        averaged = ", averaged weights" if (chosen / "ema.safetensors").exists() else ""
        return load_state(built, read_weights(chosen), f"{chosen}{averaged}")
    except DamagedError as error:
        raise DataError(f"model.pretrained: {error} Name another of the run's checkpoints.") from error


def optimizer(config: Config, built: nn.Module) -> Optimizer:
    """The optimizer over the model's parameter groups."""
    section = config.optimizer
    groups = parameter_groups(built, section.lr, section.weight_decay, section.no_decay, section.group_lr)
    return _optimizer_over(groups, config)


def _optimizer_over(params: Sequence[Any], config: Config) -> Optimizer:
    section = config.optimizer
    kind = resolve("optimizer", section.target, config.allow_targets)
    if not (inspect.isclass(kind) and issubclass(kind, Optimizer)):
        raise ConfigError(f"optimizer._target_ {section.target!r} is not a torch.optim.Optimizer.")
    _check_fits_the_loop(section.target, kind)
    _check_betas(section.target, kind, section.betas)
    return _construct("optimizer", section.target, kind, {**section.options, "params": params})


def _check_fits_the_loop(target: str, kind: type[Optimizer]) -> None:
    """The loop takes one gradient a step, of parameters of every shape, and tells an optimizer of no validation."""
    closure = inspect.signature(kind.step).parameters.get("closure")
    reason = None
    if kind is getattr(torch.optim, "Muon", None):
        reason = "it updates matrices alone, and models have biases, norms and convolutions too"
    elif callable(getattr(kind, "train", None)) and callable(getattr(kind, "eval", None)):
        reason = "its train() and eval() swap the weights around each validation, which the loop does not call"
    elif hasattr(kind, "first_step") or (closure is not None and closure.default is closure.empty):
        reason = "a step of it takes the gradient more than once, by a closure, and the loop takes it once"
    if reason:
        raise ConfigError(
            f"optimizer._target_ {target!r} does not fit the loop: {reason}. Use one of conf/optimizer, such as "
            "optimizer=adamw, or another class of torch.optim."
        )


def _check_betas(target: str, kind: type[Optimizer], betas: Sequence[float] | None) -> None:
    """torch takes the first two of any number of them without a word."""
    word = inspect.signature(kind).parameters.get("betas")
    usual = word.default if word else None
    if betas is not None and isinstance(usual, tuple) and len(betas) != len(usual):
        raise ConfigError(f"optimizer.betas must be {len(usual)} numbers for {target}; got {list(betas)}.")


def schedule(config: Config, over: Optimizer, total_steps: int, steps_per_epoch: int) -> Schedule:
    """The scheduler; options written as spans ('5%', '2 epochs', 'total') become steps."""
    section = config.scheduler
    kind = resolve("scheduler", section.target, config.allow_targets)
    if kind is ReduceLROnPlateau:
        raise ConfigError("torch's ReduceLROnPlateau steps on metrics; effbench's own is scheduler=plateau.")
    if not (inspect.isclass(kind) and issubclass(kind, LRScheduler)):
        raise ConfigError(f"scheduler._target_ {section.target!r} is not a torch LRScheduler.")
    words = inspect.signature(kind).parameters
    options = {
        key: steps_from(value, f"scheduler.{key}", total_steps, steps_per_epoch)
        if isinstance(value, str) and not isinstance(words[key].default if key in words else None, str)
        else value
        for key, value in section.options.items()
    }
    built: LRScheduler = _construct("scheduler", section.target, kind, {**options, "optimizer": over})
    return cast(Schedule, built) if hasattr(built, "observe") else TorchSchedule(built, options)


def finish(config: Config, data: Splits, on: torch.device) -> Finish:
    """Normalisation by the train split's own statistics, and the memory format the model likes."""
    mean, std = channel_statistics(data.train.images)
    return Finish(tuple(mean), tuple(std), on, memory_format(config))


def memory_format(config: Config) -> torch.memory_format:
    """device.channels_last if it says, else the model's own wish."""
    wish = config.device.channels_last
    if wish is None:
        wish = config.model.memory_format == "channels_last"
    return torch.channels_last if wish else torch.contiguous_format


def eval_batches(
    config: Config, split: Split, finishing: Finish, ranks: Ranks, limit: float | None = None
) -> EvalBatches:
    """One pass over `split`, or over a sample of all its classes: `limit` batches, or that fraction of the images.

    The sample depends on the split and its own size alone, not on the number of processes.
    """
    batch_size = config.data.eval_batch_size
    count = limit * batch_size if isinstance(limit, int) else _limit(limit, len(split))
    sample = None if count is None or count >= len(split) else representative_sample(split.labels, count)
    return EvalBatches(
        split,
        batch_size=batch_size,
        finish=finishing,
        shard=Shard(ranks.rank, ranks.world),
        sample=sample,
        num_workers=config.data.num_workers,
        timeout_s=config.data.timeout_s,
    )


def trainer(config: Config, data: Splits, finishing: Finish, ranks: Ranks, checkpoints: Checkpoints | None) -> Trainer:
    """The loop with all its parts; whatever cannot work together is refused here, before the first step."""
    config = settled(config, len(data.train), min(data.shape[1:]), ranks.world)
    _check_monitors(config, data)
    train = _train_batches(config, data, finishing, ranks)
    limits = _limits(config)
    channels, height, width = data.shape
    net = model(config, len(data.classes), channels, (height, width))
    _check_outputs(config, net, data)
    if finishing.device.type == "cpu":
        accelerate(net)
    net = net.to(finishing.device, memory_format=memory_format(config))  # type: ignore[call-overload]
    over = optimizer(config, net)
    section, parameters = config.trainer, [p for p in net.parameters() if p.requires_grad]
    decayed = [p for group in over.param_groups if "no_decay" not in group.get("name", "") for p in group["params"]]
    precision, _ = choose_precision(section.precision, finishing.device)
    planned = schedule(config, over, limits.total_steps(train.steps_per_epoch), train.steps_per_epoch)
    weights = class_weights(config.loss.class_weights, data.train.labels, len(data.classes))
    return Trainer(
        model=net,
        forward=ranks.wrap(_compiled(net, section.compile)),
        optimizer=over,
        schedule=planned,
        plateau_metric=_plateau_metric(config),
        compiled=section.compile is not False,
        train=train,
        val=_validation(config, data, finishing, ranks),
        limits=limits,
        objective=Objective(config.loss.label_smoothing, None if weights is None else weights.to(finishing.device)),
        penalty=L1Penalty(decayed, config.loss.l1),
        clip=choose_clipping(parameters, section.gradient_clip_val, section.gradient_clip_algorithm),
        precision=precision,
        ema=Ema(net, config.ema.decay) if config.ema.enabled else NoEma(net),
        nonfinite=SkipNonFinite(ranks, precision.name != "16-mixed") if section.on_nonfinite == "skip" else None,
        memory=HalveOutOfMemory() if section.on_oom == "halve" else RaiseOutOfMemory(),
        undo=KeepBuffers(net) if (section.on_nonfinite, section.on_oom) != ("stop", "raise") else KeepNothing(),
        stopping=_early_stopping(config, getattr(planned, "rise", 0)),
        statistics=_statistics(config, net, train, ranks, precision),
        checkpoints=checkpoints,
        save_in_background=config.checkpoint.background,
        ranks=ranks,
        cadence=Cadence(section.check_val_every_n_epoch, section.log_every_n_steps, config.checkpoint.every_n_steps),
        callbacks=Callbacks([]),
    )


def _check_outputs(config: Config, net: nn.Module, data: Splits) -> None:
    """effbench's own models are made for the data's classes; another may be made for a number of its own."""
    if config.model.target.startswith("effbench."):
        return
    check_logits(net, f"model._target_ {config.model.target!r}", data.shape, len(data.classes), data.name)


def _train_batches(config: Config, data: Splits, finishing: Finish, ranks: Ranks) -> TrainBatches:
    section = config.data
    if ranks.world > 1 and config.trainer.on_oom == "halve":
        raise ConfigError("trainer.on_oom=halve works in one process; under torchrun use trainer.on_oom=raise.")
    batch_size = number(section.batch_size)
    if batch_size < ranks.world:
        raise ConfigError(f"data.batch_size must be at least the {ranks.world} processes; got {batch_size}.")

    def batches(limit_steps: int | None) -> TrainBatches:
        return TrainBatches(
            data.train,
            batch_size=batch_size,
            num_classes=len(data.classes),
            finish=finishing,
            augment=Augment(**config.augment.model_dump()),
            accumulate=config.trainer.accumulate_grad_batches,
            seed=config.seed,
            drop_last=section.drop_last,
            num_workers=section.num_workers,
            timeout_s=section.timeout_s,
            shard=Shard(ranks.rank, ranks.world),
            limit_steps=limit_steps,
        )

    whole = batches(None)
    limit = _limit(config.trainer.limit_train_batches, whole.steps_per_epoch)
    return whole if limit is None else batches(limit)


def _limits(config: Config) -> Limits:
    section = config.trainer
    seconds = None if section.max_time is None else seconds_from(section.max_time, "trainer.max_time")
    epochs = None if section.max_epochs is None else number(section.max_epochs)
    return Limits(section.max_steps, seconds, epochs)


def _statistics(
    config: Config, net: nn.Module, train: TrainBatches, ranks: Ranks, precision: Precision
) -> KeepStatistics:
    """Every rank makes the same pass, so that they agree without exchanging anything."""
    norms = trained_norms(net)
    if not norms:
        return KeepStatistics()
    batches = partial(statistics_batches, train.split, train.finish, config.seed)
    kind = AveragedStatistics if config.ema.enabled else RefreshStatistics
    return kind(norms, batches, train.batch_size // ranks.world, config.data.eval_batch_size, precision)


def _validation(config: Config, data: Splits, finishing: Finish, ranks: Ranks) -> EvalBatches | None:
    if data.val is None:
        return None
    return eval_batches(config, data.val, finishing, ranks, config.trainer.limit_val_batches)


def _early_stopping(config: Config, warmup: int) -> NoEarlyStopping:
    section = config.early_stopping
    if not section.enabled:
        return NoEarlyStopping()
    patience = number(section.patience)
    return EarlyStopping(section.monitor, section.mode, patience, section.min_delta, section.stopping_threshold, warmup)


def _check_monitors(config: Config, data: Splits) -> None:
    """What is monitored must be measured: without a validation split there is no val/*."""
    if data.val is not None:
        return
    wanted = {"checkpoint.monitor": config.checkpoint.monitor} if config.checkpoint.save_top_k else {}
    if config.early_stopping.enabled:
        wanted["early_stopping.monitor"] = config.early_stopping.monitor
    if "mode" in config.scheduler.options:
        wanted["scheduler"] = _plateau_metric(config)
    for key, metric in wanted.items():
        if not metric.startswith("val/"):
            continue
        raise ConfigError(
            f"{key} is {metric!r}, but {data.name} has no validation split. Give it one (data.val_fraction), or set "
            "early_stopping=off checkpoint.save_top_k=0."
        )


def _plateau_metric(config: Config) -> str:
    """What a schedule observes: the loss, or where its `mode` is max the accuracy."""
    return "val/acc" if config.scheduler.options.get("mode") == "max" else "val/loss"


def _limit(limit: float | None, available: int) -> int | None:
    """A count as it is, a fraction of what is available rounded (at least 1), None for all."""
    if limit is None or isinstance(limit, int):
        return limit
    return max(1, round(limit * available))


def _compiled(net: nn.Module, choice: bool | str) -> nn.Module:
    if choice is False:
        return net
    compiled = torch.compile(net, mode=None if choice is True else str(choice))
    assert isinstance(compiled, nn.Module)
    return compiled


def _call(
    group: str, target: str, config: Config, options: Mapping[str, Any], facts: Mapping[str, Any] | None = None
) -> Any:
    """Resolves and calls a factory with the YAML's options, and those `facts` that it takes."""
    factory = resolve(group, target, config.allow_targets)
    words = inspect.signature(factory).parameters
    open_ended = any(word.kind is word.VAR_KEYWORD for word in words.values())
    taken = {key: value for key, value in (facts or {}).items() if key in words or open_ended}
    return _construct(group, target, factory, {**options, **taken})


def _construct(group: str, target: str, factory: Callable[..., Built], options: Mapping[str, Any]) -> Built:
    """factory(**options), its complaints about options told as ours."""
    _check_names(group, factory, options)
    try:
        return factory(**options)
    except EffbenchError:
        raise
    except (TypeError, ValueError, AssertionError, LookupError, AttributeError, RuntimeError) as error:
        given = ", ".join(f"{key}={value!r}" for key, value in options.items() if key not in ("params", "optimizer"))
        raise ConfigError(f"{group} ({target}) refuses its options: {error!r}. Given: {given}.") from error


def _check_booleans(
    group: str, factory: Callable[..., Any], options: Mapping[str, Any], allow_targets: Sequence[str]
) -> None:
    """`no` and `off` are text, which a function takes for true: refused unless its parameter is plainly text."""
    words = inspect.signature(factory).parameters
    for key, value in options.items():
        meant = boolean_word(value)
        word = words.get(key)
        is_text = word and (isinstance(word.default, str) or re.search(r"\bstr\b|Literal", str(word.annotation)))
        if meant is not None and not is_text:
            mine = factory.__module__.partition(".")[0] in {name.partition(".")[0] for name in allow_targets}
            raise ConfigError(
                f"{group}.{key} is the text {value!r}, which counts as true. Write {group}.{key}={meant}."
                + (f" If text is meant, say so in your function: {key}: str." if mine else "")
            )


def _check_names(group: str, factory: Callable[..., Any], options: Mapping[str, Any]) -> None:
    words = inspect.signature(factory).parameters
    if any(word.kind is word.VAR_KEYWORD for word in words.values()):
        return
    for key in options:
        if key not in words:
            raise ConfigError(unknown_name(f"{group} option", key, [word for word in words if word != "params"]))
