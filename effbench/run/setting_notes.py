"""Notes at the start of a run on settings that do not fit each other, and what to write instead."""

from __future__ import annotations

from collections.abc import Mapping

from effbench.config.monitors import MONITORS
from effbench.config.schema import Config
from effbench.config.static_compose import member
from effbench.metrics import LOSS, Accuracy, LabelAccuracy, Top5Accuracy

# Metrics that count every sample or label alike, whatever the weights of the loss.
_ALIKE = (LOSS, *(metric.name for metric in (Accuracy, Top5Accuracy, LabelAccuracy)))
_SGD, _SGD_BATCH, _LEAST_BATCH = "torch.optim.SGD", 128, 64  # samples of the batch that sgd.yaml's lr is for


def setting_notes(config: Config, chosen: Mapping[str, object], kind: str) -> list[str]:
    """Return the notes.

    Args:
        config: a settled config.
        chosen: dotted key -> value that `auto` became.
        kind: of the task's targets.
    """
    return [note for note in (_weights(config, kind), _sgd(config, chosen)) if note is not None]


def _weights(config: Config, kind: str) -> str | None:
    """Return a note if the loss weighs classes, and what chooses the weights and the end of the run does not."""
    options = config.loss.options
    if kind == "class" and options.get("class_weights") is not None:
        key, wanted, metrics = "class_weights", "balanced_acc", "[balanced_acc,acc]"
    elif kind == "labels" and options.get("pos_weight", 1) != 1:
        key, wanted, metrics = "pos_weight", "macro_f1", "[macro_f1,label_acc]"
    else:
        return None
    used = {"checkpoint": config.checkpoint.save_top_k > 0, "early_stopping": config.early_stopping.enabled}
    monitors = {name: getattr(config, name).monitor for name in MONITORS if used[name]}
    alike = {name: monitor for name, monitor in monitors.items() if monitor.removeprefix("val/") in _ALIKE}
    if not alike:
        return None
    first = next(iter(config.task.metrics), "loss")
    # with the default monitor, checkpoints are ranked by the first metric
    follows = config.checkpoint.monitor == f"val/{first}" and first != wanted
    words = [f"task.metrics={metrics}"] if follows or wanted not in config.task.metrics else []
    words += [f"{name}.monitor=val/{wanted}" for name in alike if name != "checkpoint" or not follows]
    named = " and ".join(f"{name}.monitor={monitor}" for name, monitor in alike.items())
    return (
        f"loss.{key} weighs what training minimises, but {named} {'counts' if len(alike) == 1 else 'count'} all alike: "
        f"write {' '.join(words)}"
    )


def _sgd(config: Config, chosen: Mapping[str, object]) -> str | None:
    """Return a note if SGD has its default learning rate and automatic batches that are far smaller than it is for."""
    section, batch_size = config.optimizer, chosen.get("data.batch_size")
    if section.target != _SGD or not isinstance(batch_size, int) or section.lr != member("optimizer", "sgd")["lr"]:
        return None
    samples = batch_size * config.trainer.accumulate_grad_batches
    if samples >= _LEAST_BATCH:
        return None
    return (
        f"optimizer.lr={section.lr:g} is for batches of {_SGD_BATCH}, and data.batch_size=auto gives {samples}: in "
        f"proportion, optimizer.lr={section.lr * samples / _SGD_BATCH:.2g}"
    )
