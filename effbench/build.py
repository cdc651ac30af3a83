"""Config -> objects: the only place that turns a `_target_` into one."""

from __future__ import annotations

import inspect
import logging
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from effbench.automatic import AUTO, number, settled
from effbench.cache_dir import expanded
from effbench.config.schema import Config
from effbench.config.words import boolean_word
from effbench.cpu.accelerate import accelerate
from effbench.data.batches import BatchTransform, EvalBatches, Shard, TrainBatches
from effbench.data.images.augment import Augment
from effbench.data.splits import Split, Splits, channel_statistics, representative_sample
from effbench.errors import ConfigError, DataError, EffbenchError, unknown_name
from effbench.metrics import LOSS, Metric, shipped
from effbench.models.adapt import Loaded, freeze, load_pretrained, load_state
from effbench.models.probe import check_logits, initialize_lazy
from effbench.models.timm_zoo import TARGET as TIMM_TARGET
from effbench.models.timm_zoo import tag_of
from effbench.optimizers.groups import parameter_groups
from effbench.processors import usable
from effbench.randomness import Purpose, derived_seed
from effbench.target_allowlist import MODULES, resolve
from effbench.tasks.losses import Loss, OfTorch, class_weights
from effbench.tasks.task import Task
from effbench.training.batch_norm_statistics import (
    AveragedStatistics,
    KeepStatistics,
    RefreshStatistics,
    statistics_batches,
    trained_norms,
)
from effbench.training.callbacks import Callback, Callbacks, NamedCallback, complaint_about
from effbench.training.checkpoint import Checkpoints, DamagedError, committed, read_weights
from effbench.training.clipping import choose_clipping
from effbench.training.distributed import DistributedContext
from effbench.training.early_stopping import EarlyStopping, NoEarlyStopping
from effbench.training.ema import Ema, NoEma, OptimizerAverage, averages_itself
from effbench.training.failure_policies import (
    BufferSnapshot,
    NoBufferSnapshot,
    RaiseOnOutOfMemory,
    SkipNonFinite,
    SplitOnOutOfMemory,
)
from effbench.training.penalty import L1Penalty
from effbench.training.precision import Precision, choose_precision
from effbench.training.schedule import Schedule, TorchSchedule
from effbench.training.state import Limits
from effbench.training.trainer import Intervals, Trainer
from effbench.units import seconds_from, steps_from

log = logging.getLogger(__name__)

Built = TypeVar("Built")
_WEIGHTS_OPTIONS = ("weights", "weights_backbone", "checkpoint_path", "pretrained_cfg", "pretrained_cfg_overlay")
_SPLITS = """Such as:
  from effbench.data.splits import Split, Splits, digest
  train = Split(images, labels)  # uint8 (N, C, H, W), int64 (N,)
  return Splits("mine", train, val=None, test=None, classes=("cat", "dog"), sha256=digest(images, labels))"""


def device_type(config: Config) -> str:
    """'cpu' or 'cuda'. Raises ConfigError for device=cuda without a GPU."""
    name = config.device.name
    if name == "cuda" and not torch.cuda.is_available():
        raise ConfigError("device=cuda, but torch sees no GPU here. Use device=cpu or device=auto.")
    return "cuda" if name != "cpu" and torch.cuda.is_available() else "cpu"


def device(config: Config, ranks: DistributedContext | None = None) -> torch.device:
    """cpu, or the GPU of this process; sets threads, TF32 and determinism on the way."""
    ranks = ranks or DistributedContext()
    chosen = device_type(config)
    torch.set_num_threads(config.device.threads or usable(ranks.local_world).count)
    torch.set_float32_matmul_precision("high" if config.device.tf32 and chosen == "cuda" else "highest")
    torch.backends.cudnn.allow_tf32 = config.device.tf32
    if config.trainer.deterministic != torch.are_deterministic_algorithms_enabled():
        torch.use_deterministic_algorithms(config.trainer.deterministic)  # importing Inductor, a second or more
    log.debug(f"device {chosen}, {torch.get_num_threads()} threads, TF32 {config.device.tf32}")
    return torch.device(chosen, ranks.local_rank) if chosen == "cuda" else torch.device("cpu")


def check_options(config: Config) -> None:
    """Refuses what needs no data to be refused: options that a part does not have, an optimizer's bad values."""
    for group in MODULES:
        section = getattr(config, group)
        factory = resolve(group, section.target, config.allow_targets)
        _check_booleans(group, factory, section.options, config.allow_targets)
        if group not in ("optimizer", "task", "loss"):  # which are built below
            _check_names(group, factory, section.options)
    _check_weights(config)
    task_of(config, num_outputs=1)
    _schedule_parts(config, total_steps=1000, steps_per_epoch=100)  # which refuses spans that cannot be read
    if _trial_step(config, dims=1) and (problem := _trial_step(config, dims=2)):  # one may take matrices only
        raise problem


def _trial_step(config: Config, dims: int) -> ConfigError | None:
    """What is wrong with a step of the config's optimizer over one parameter of so many dimensions."""
    parameter = nn.Parameter(torch.zeros((1,) if dims == 1 else (2,) * dims))
    parameter.grad = torch.zeros_like(parameter)
    try:
        trial = _optimizer_over([parameter], config)
        if averages_itself(trial):
            _refuse_two_averages(config)
            trial.train()  # type: ignore[attr-defined]
        trial.step()
    except ConfigError as error:
        return error
    except EffbenchError:
        raise
    except Exception as error:  # noqa: BLE001 - a user's class may raise anything
        return ConfigError(f"optimizer ({config.optimizer.target}) cannot step with its options: {error!r}.")
    return None


def takes_vectors(config: Config) -> bool:
    """False for an optimizer of matrices only, such as torch.optim.Muon."""
    return _trial_step(config, dims=1) is None


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
        log.info(f"pretrained: {loaded}")
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


def task(config: Config, data: Splits, device: torch.device | None = None) -> Task:
    """The task with its loss and metrics. Raises ConfigError where these do not fit each other or the data."""
    return _task(config, loss(config, data).to(device or torch.device("cpu")), len(data.classes))


def _task(config: Config, minimised: Loss, num_outputs: int) -> Task:
    section = config.task
    kind = resolve("task", section.target, config.allow_targets)
    if not (inspect.isclass(kind) and issubclass(kind, Task)):
        raise ConfigError(f"task._target_ {section.target!r} is no subclass of effbench.tasks.task.Task.")
    facts = {"loss": minimised, "metrics": metrics(config), "num_outputs": num_outputs}
    built: Task = _construct("task", section.target, kind, {**section.options, **facts})
    return built


def task_of(config: Config, num_outputs: int) -> Task:
    """As `task`, for a trained run: without data, so without class weights."""
    return _task(config, loss(config), num_outputs)


def metrics(config: Config) -> list[Metric]:
    """The metrics that task.metrics names, by name or as classes of the user's own."""
    kind = getattr(resolve("task", config.task.target, config.allow_targets), "kind", "class")
    known, found = shipped(kind), list[Metric]()
    for name in config.task.metrics:
        metric: Any = resolve("task", name, config.allow_targets) if "." in name else known.get(name)
        if metric is None:
            raise ConfigError(unknown_name("metric in task.metrics", name, known))
        if not (inspect.isclass(metric) and issubclass(metric, Metric) and hasattr(metric, "name")):
            raise ConfigError(f"task.metrics: {name!r} must be a subclass of effbench.metrics.Metric with a name.")
        found.append(_construct("task", name, metric, {}))
    names = [metric.name for metric in found]
    if twice := {name for name in names if names.count(name) > 1 or name == LOSS}:
        raise ConfigError(f"task.metrics names {', '.join(sorted(twice))} twice; each metric has a name of its own.")
    return found


def loss(config: Config, data: Splits | None = None) -> Loss:
    """The loss; class weights as the train split has classes. Without data, without weights."""
    section, options = config.loss, config.loss.options
    kind = resolve("loss", section.target, config.allow_targets)
    if not inspect.isclass(kind) or not issubclass(kind, Loss | nn.Module):
        raise ConfigError(f"loss._target_ {section.target!r} must be a subclass of Loss (effbench.tasks.losses), or a "
                          "loss of torch.nn.")  # fmt: skip
    chosen = options.pop("class_weights", None)
    if chosen is not None and data is not None:
        if data.train.labels.dim() != 1 or data.train.labels.is_floating_point():
            raise ConfigError(f"loss.class_weights={chosen} is for class numbers; {data.name} has other targets.")
        options["class_weights"] = class_weights(chosen, data.train.labels, len(data.classes))
    built: Any = _construct("loss", section.target, kind, options | _unreduced(kind))
    return built if isinstance(built, Loss) else OfTorch(built)


def _unreduced(kind: type) -> dict[str, str]:
    """torch's losses give one number a sample, which is then summed."""
    return {} if issubclass(kind, Loss) else {"reduction": "none"}


def optimizer(config: Config, built: nn.Module) -> Optimizer:
    """The optimizer over the model's parameter groups."""
    section = config.optimizer
    groups = parameter_groups(built, section.lr, section.weight_decay, section.no_decay, section.group_lr)
    check_shapes(config, built)
    return _optimizer_over(groups, config)


def check_shapes(config: Config, built: nn.Module) -> None:
    """Refuses parameters to train that an optimizer of matrices only does not take."""
    if takes_vectors(config):
        return
    named = {name: parameter for name, parameter in built.named_parameters() if parameter.requires_grad}
    taken = {dims: _trial_step(config, dims) is None for dims in {parameter.ndim for parameter in named.values()} | {2}}
    refused = [f"{name} {tuple(p.shape)}" for name, p in named.items() if not taken[p.ndim]]
    if taken[2] and refused:
        raise ConfigError(
            f"optimizer._target_ {config.optimizer.target!r} takes parameters of "
            f"{' and '.join(str(dims) for dims in sorted(taken) if taken[dims])} dimensions only, and {len(refused)} "
            f"of the {len(named)} that the model trains have others: {', '.join(refused[:3])}"
            f"{', …' if len(refused) > 3 else ''}. Freeze those (model.freeze=[PATTERN]), use a model without them, or "
            "an optimizer of all shapes, such as optimizer=adamw."
        )


def _refuse_two_averages(config: Config) -> None:
    if config.ema.enabled:
        raise ConfigError(
            f"ema=on averages the weights, and so does {config.optimizer.target} (it has train() and eval()). "
            "Use ema=off with it."
        )


def _optimizer_over(params: Sequence[Any], config: Config) -> Optimizer:
    section = config.optimizer
    kind = resolve("optimizer", section.target, config.allow_targets)
    if not (inspect.isclass(kind) and issubclass(kind, Optimizer)):
        raise ConfigError(f"optimizer._target_ {section.target!r} is not a torch.optim.Optimizer.")
    _check_fits_the_loop(section.target, kind)
    _check_betas(section.target, kind, section.betas)
    return _construct("optimizer", section.target, kind, {**section.options, "params": params})


def _check_fits_the_loop(target: str, kind: type[Optimizer]) -> None:
    """The loop takes one gradient a step."""
    closure = inspect.signature(kind.step).parameters.get("closure")
    if hasattr(kind, "first_step") or (closure is not None and closure.default is closure.empty):
        raise ConfigError(
            f"optimizer._target_ {target!r} does not fit the loop: a step of it takes the gradient more than once, by "
            "a closure, and the loop takes it once. Use one of conf/optimizer, such as optimizer=adamw, or another "
            "class of torch.optim."
        )


def _check_betas(target: str, kind: type[Optimizer], betas: Sequence[float] | None) -> None:
    """torch takes the first two of any number of them without a word."""
    word = inspect.signature(kind).parameters.get("betas")
    usual = word.default if word else None
    if betas is not None and isinstance(usual, tuple) and len(betas) != len(usual):
        raise ConfigError(f"optimizer.betas must be {len(usual)} numbers for {target}; got {list(betas)}.")


def schedule(config: Config, over: Optimizer, total_steps: int, steps_per_epoch: int) -> Schedule:
    """The scheduler; options written as spans ('5%', '2 epochs', 'total') become steps."""
    kind, options = _schedule_parts(config, total_steps, steps_per_epoch)
    built = _construct("scheduler", config.scheduler.target, kind, {**options, "optimizer": over})
    return cast(Schedule, built) if hasattr(built, "observe") else TorchSchedule(built, options)


def _schedule_parts(
    config: Config, total_steps: int, steps_per_epoch: int
) -> tuple[Callable[..., LRScheduler], dict[str, Any]]:
    """The scheduler's class, and its options with spans as steps. Text is a span unless the class takes text there."""
    section = config.scheduler
    kind = resolve("scheduler", section.target, config.allow_targets)
    if kind is ReduceLROnPlateau:
        raise ConfigError("torch's ReduceLROnPlateau steps on metrics; effbench's own is scheduler=plateau.")
    if not (inspect.isclass(kind) and issubclass(kind, LRScheduler)):
        raise ConfigError(f"scheduler._target_ {section.target!r} is not a torch LRScheduler.")
    words = inspect.signature(kind).parameters
    texts = {key for key, word in words.items() if isinstance(word.default, str) or word.annotation in (str, "str")}
    options = {
        key: steps_from(value, f"scheduler.{key}", total_steps, steps_per_epoch)
        if isinstance(value, str) and key not in texts and value != AUTO
        else value
        for key, value in section.options.items()
    }
    return kind, options


def callbacks(config: Config, more: Sequence[Callback] = ()) -> list[Callback]:
    """The callbacks of the config, then `more`, which were made in Python; each with its name for messages.

    Raises ConfigError for what is no Callback, and for hooks that do not exist or take other arguments.
    """
    found = []
    for name, section in config.callbacks.named.items():
        key = f"callbacks.{name}"
        kind = resolve(key, section.target, config.allow_targets)
        if not (inspect.isclass(kind) and issubclass(kind, Callback)):
            raise ConfigError(
                f"{key}._target_ {section.target!r} must be a class derived from effbench.Callback, such as "
                "class Mine(effbench.Callback): def epoch_end(self, context, values): ..."
            )
        _check_booleans(key, kind, section.options, config.allow_targets)
        found.append((key, _construct(key, section.target, kind, section.options)))
    found += [(f"callback {type(callback).__name__}", callback) for callback in more]
    for key, callback in found:
        if not isinstance(callback, Callback):
            raise ConfigError(f"callbacks must be instances of effbench.Callback; got {callback!r}.")
        if complaint := complaint_about(callback):
            raise ConfigError(f"{key} ({type(callback).__module__}.{type(callback).__qualname__}): {complaint}.")
    return [NamedCallback(key, callback) for key, callback in found]


def batch_transform(config: Config, data: Splits, on: torch.device) -> BatchTransform:
    """Normalisation by the train split's own statistics, and the memory format the model likes."""
    mean, std = channel_statistics(data.train.images)
    return BatchTransform(tuple(mean), tuple(std), on, memory_format(config))


def memory_format(config: Config) -> torch.memory_format:
    """device.channels_last if it says, else the model's own wish."""
    wish = config.device.channels_last
    if wish is None:
        wish = config.model.memory_format == "channels_last"
    return torch.channels_last if wish else torch.contiguous_format


def eval_batches(
    config: Config, split: Split, transform: BatchTransform, ranks: DistributedContext, limit: float | None = None
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
        transform=transform,
        shard=Shard(ranks.rank, ranks.world),
        sample=sample,
        num_workers=config.data.num_workers,
        timeout_s=config.data.timeout_s,
    )


def trainer(
    config: Config, data: Splits, transform: BatchTransform, ranks: DistributedContext, checkpoints: Checkpoints | None
) -> Trainer:
    """The loop with all its parts; whatever cannot work together is refused here, before the first step."""
    config = settled(config, len(data.train), min(data.shape[1:]), ranks.world)
    chosen = task(config, data, transform.device)
    data = chosen.checked(data)
    _check_monitors(config, data, chosen)
    train = _train_batches(config, data, transform, ranks)
    limits = _limits(config)
    channels, height, width = data.shape
    net = model(config, len(data.classes), channels, (height, width))
    _check_outputs(config, net, data, chosen)
    if transform.device.type == "cpu":
        accelerate(net)
    net = net.to(transform.device, memory_format=memory_format(config))  # type: ignore[call-overload]
    over = optimizer(config, net)
    section, parameters = config.trainer, [p for p in net.parameters() if p.requires_grad]
    decayed = [p for group in over.param_groups if "no_decay" not in group.get("name", "") for p in group["params"]]
    precision, _ = choose_precision(section.precision, transform.device)
    planned = schedule(config, over, limits.total_steps(train.steps_per_epoch), train.steps_per_epoch)
    return Trainer(
        model=net,
        forward=ranks.wrap(_compiled(net, section.compile)),
        optimizer=over,
        schedule=planned,
        plateau_metric=_plateau_metric(config, chosen),
        compiled=section.compile is not False,
        train=train,
        val=_validation(config, data, transform, ranks),
        limits=limits,
        task=chosen,
        penalty=L1Penalty(decayed, config.loss.l1),
        clip=choose_clipping(parameters, section.gradient_clip_val, section.gradient_clip_algorithm),
        precision=precision,
        ema=_average(config, net, over),
        nonfinite_policy=SkipNonFinite(ranks, precision.name != "16-mixed") if section.on_nonfinite == "skip" else None,
        oom_policy=SplitOnOutOfMemory() if section.on_oom == "halve" else RaiseOnOutOfMemory(),
        buffer_snapshot=BufferSnapshot(net)
        if (section.on_nonfinite, section.on_oom) != ("stop", "raise")
        else NoBufferSnapshot(),
        early_stopping=_early_stopping(config, getattr(planned, "rise", 0)),
        statistics=_statistics(config, net, averages_itself(over), train, ranks, precision),
        checkpoints=checkpoints,
        save_in_background=config.checkpoint.background,
        ranks=ranks,
        intervals=Intervals(
            section.check_val_every_n_epoch, section.log_every_n_steps, config.checkpoint.every_n_steps
        ),
        callbacks=Callbacks([]),
    )


def _average(config: Config, net: nn.Module, over: Optimizer) -> NoEma:
    """What is evaluated in the place of the trained weights."""
    if averages_itself(over):
        _refuse_two_averages(config)
        return OptimizerAverage(net, over)
    return Ema(net, config.ema.decay) if config.ema.enabled else NoEma(net)


def _check_outputs(config: Config, net: nn.Module, data: Splits, chosen: Task) -> None:
    """effbench's own models are made for the data's classes; another may be made for a number of its own."""
    if config.model.target.startswith("effbench."):
        return
    name = f"model._target_ {config.model.target!r}"
    check_logits(net, name, data.shape, len(data.classes), data.name, takes_softmax=chosen.kind == "class")


def _train_batches(config: Config, data: Splits, transform: BatchTransform, ranks: DistributedContext) -> TrainBatches:
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
            transform=transform,
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
    config: Config,
    net: nn.Module,
    averages: bool,
    train: TrainBatches,
    ranks: DistributedContext,
    precision: Precision,
) -> KeepStatistics:
    """Every rank makes the same pass, so that they agree without exchanging anything.

    averages: whether the optimizer averages the weights.
    """
    norms = trained_norms(net)
    if not norms:
        return KeepStatistics()
    batches = partial(statistics_batches, train.split, train.transform, config.seed)
    kind = AveragedStatistics if averages or config.ema.enabled else RefreshStatistics
    return kind(norms, batches, train.batch_size // ranks.world, config.data.eval_batch_size, precision)


def _validation(
    config: Config, data: Splits, transform: BatchTransform, ranks: DistributedContext
) -> EvalBatches | None:
    if data.val is None:
        return None
    return eval_batches(config, data.val, transform, ranks, config.trainer.limit_val_batches)


def _early_stopping(config: Config, warmup: int) -> NoEarlyStopping:
    section = config.early_stopping
    if not section.enabled:
        return NoEarlyStopping()
    patience = number(section.patience)
    return EarlyStopping(section.monitor, section.mode, patience, section.min_delta, section.stopping_threshold, warmup)


def _check_monitors(config: Config, data: Splits, chosen: Task) -> None:
    """What is monitored must be measured, in its own direction; without a validation split there is no val/*."""
    for key in ("checkpoint", "early_stopping"):
        section = getattr(config, key)
        metric = section.monitor.partition("/")[2]
        if metric not in chosen.names:
            raise ConfigError(unknown_name(f"{key}.monitor", section.monitor, [f"val/{name}" for name in chosen.names]))
        if section.mode != chosen.displays[metric].mode:
            raise ConfigError(f"{key}.mode must be {chosen.displays[metric].mode} for {metric}; got {section.mode}.")
    if data.val is not None:
        return
    wanted = {"checkpoint.monitor": config.checkpoint.monitor} if config.checkpoint.save_top_k else {}
    if config.early_stopping.enabled:
        wanted["early_stopping.monitor"] = config.early_stopping.monitor
    if "mode" in config.scheduler.options:
        wanted["scheduler"] = _plateau_metric(config, chosen)
    for key, metric in wanted.items():
        if not metric.startswith("val/"):
            continue
        raise ConfigError(
            f"{key} is {metric!r}, but {data.name} has no validation split. Give it one (data.val_fraction), or set "
            "early_stopping=off checkpoint.save_top_k=0."
        )


def _plateau_metric(config: Config, chosen: Task) -> str:
    """What a schedule observes: the loss, or where its `mode` is max the task's first metric that is to rise."""
    if config.scheduler.options.get("mode") != "max":
        return f"val/{LOSS}"
    rising = [name for name, display in chosen.displays.items() if display.mode == "max"]
    if not rising:
        raise ConfigError(f"scheduler.mode=max, but task.metrics={list(chosen.names[1:])} has none that is to rise.")
    return f"val/{rising[0]}"


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
