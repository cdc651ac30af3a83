"""The state of a training as a snapshot for a checkpoint, and back."""

from __future__ import annotations

import inspect
from collections import OrderedDict
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from effbench.errors import ConfigError
from effbench.training.checkpoint_files import Snapshot

if TYPE_CHECKING:
    from effbench.training.trainer import Trainer

_SHOWN = 10  # keys listed in one message


def snapshot_of(trainer: Trainer) -> Snapshot:
    """Return all state that the rest of the run depends on. Every rank must call it: the meter sums over ranks."""
    progress = trainer.state.state_dict()
    # The clocks are of this session; the state counts those of earlier ones.
    progress["training_s"] = trainer.state.training_s + trainer.clocks.training
    progress["elapsed_s"] = trainer.state.elapsed_s + trainer.clocks.seconds()["total"]
    state = {
        "optimizer": trainer.optimizer.state_dict(),
        "schedule": trainer.schedule.state_dict(),
        "precision": trainer.precision.state_dict(),
        "stopping": trainer.early_stopping.state_dict(),
        "meter": trainer.meter.state_dict(),
        "train": progress,
    }
    if callbacks := trainer.callbacks.state_dict():
        state["callbacks"] = callbacks
    return Snapshot(weights=dict(trainer.model.state_dict()), ema=trainer.averaged.state_dict(), state=state)


def restore(trainer: Trainer, snapshot: Snapshot) -> None:
    """Load a snapshot into a trainer that was built from the same config.

    Raises:
        ConfigError: the weights do not fit the model, or a callback refuses its state.
    """
    load_weights(trainer.model, snapshot.weights)
    trainer.averaged.load_state_dict(snapshot.ema)
    load_optimizer(trainer.optimizer, snapshot.state["optimizer"])
    trainer.schedule.load_state_dict(snapshot.state["schedule"])  # after the optimizer: it sets the learning rates
    trainer.precision.load_state_dict(snapshot.state["precision"])
    trainer.early_stopping.load_state_dict(snapshot.state["stopping"])
    trainer.meter.load_state_dict(snapshot.state["meter"])
    trainer.state.load_state_dict(snapshot.state["train"])
    trainer.callbacks.load_state_dict(snapshot.state.get("callbacks", {}))
    state = trainer.state
    if not state.steps_per_epoch:
        # The first checkpoints of 0.1 lack it. All its epochs had the same length, and a begun one keeps this one's.
        begun = state.batch or not state.epoch
        state.steps_per_epoch = trainer.train.steps_per_epoch if begun else state.step // state.epoch
    trainer.throughput.seen_at_start = state.samples_seen
    if trainer.checkpoints is not None:
        trainer.checkpoints.restore(snapshot.state["ranking"], state.step, snapshot.state.get("ranking_losses"))


def keep_place_in_epochs(trainer: Trainer, same_data: bool) -> int | None:
    """Move the schedule, after `restore`, to the same place in epochs if the steps in an epoch have changed.

    The schedule then continues as if all epochs had the new length, and ends with the run. An epoch that was begun
    with other data is abandoned for the next one.

    Args:
        trainer: the restored trainer.
        same_data: True if the dataset is unchanged.

    Returns:
        The schedule's new step; None if nothing changed.
    """
    state, now = trainer.state, trainer.train.steps_per_epoch
    leaves = state.batch > 0 and (not same_data or state.batch >= now)
    if leaves:
        state.epoch, state.batch = state.epoch + 1, 0
    elif state.steps_per_epoch == now:
        return None
    # Counted back from the end of the run, so that the schedule reaches its last step with the last step of training.
    position = trainer.limits.total_steps(now) - trainer.steps_left
    trainer.schedule.move_to(position)
    return position


def load_optimizer(optimizer: Optimizer, state: dict[str, Any]) -> None:
    """Load an optimizer's state, but keep this config's settings and each tensor's memory layout.

    Settings are what the constructor takes. Other entries of a parameter group, such as a step count, are state. The
    layout matters because a fused step walks over raw memory: with other strides, state and parameter would not match.
    """
    # Base classes too: a subclass may take **options and pass them on.
    constructors = [vars(base)["__init__"] for base in type(optimizer).__mro__ if "__init__" in vars(base)]
    taken = {
        name for each in constructors if inspect.isfunction(each) for name in inspect.signature(each).parameters
    } - {"params", "lr"}  # the schedule restores the learning rate
    settings = [{key: value for key, value in group.items() if key in taken} for group in optimizer.param_groups]
    optimizer.load_state_dict(state)
    for group, own in zip(optimizer.param_groups, settings, strict=True):
        group.update(own)
        for parameter in group["params"]:
            for key, value in optimizer.state.get(parameter, {}).items():
                if type(value) is Tensor and value.shape == parameter.shape:  # strides of a subclass do not matter
                    layout = torch.empty_like(parameter, dtype=value.dtype)
                    optimizer.state[parameter][key] = layout.copy_(value).detach()


def load_weights(model: nn.Module, weights: dict[str, Tensor]) -> None:
    """Load weights, with the layout versions that safetensors does not hold (MNASNet needs them).

    Raises:
        ConfigError: a key is missing, superfluous or of another shape; the message lists them.
    """
    own = model.state_dict()
    shapes = {
        key: [str(tuple(tensors[key].shape)) if key in tensors else "none" for tensors in (weights, own)]
        for key in dict.fromkeys([*own, *weights])
    }
    # Our own check: torch names missing keys and wrong shapes in one text without a limit.
    problems = [f"{key}: checkpoint {theirs}, model {ours}" for key, (theirs, ours) in shapes.items() if theirs != ours]
    if problems:
        more = [f"and {len(problems) - _SHOWN} more"] if len(problems) > _SHOWN else []
        raise ConfigError("\n  ".join(["the weights do not fit the model:", *problems[:_SHOWN], *more]))
    versioned = OrderedDict(weights)
    versioned._metadata = model.state_dict()._metadata  # type: ignore[attr-defined]
    model.load_state_dict(versioned)
