"""Build objects from a config. No other code turns a `_target_` into an object."""

from effbench.builders.datasets import (
    eval_batches,
    modality,
    other_split,
    preview,
    restored_modality,
    settings,
    splits,
    takes_time,
)
from effbench.builders.devices import device, device_type, memory_format
from effbench.builders.hooks import callbacks
from effbench.builders.loop import trainer
from effbench.builders.models import model
from effbench.builders.optimizers import check_shapes, optimizer, takes_vectors
from effbench.builders.options import check_options
from effbench.builders.schedulers import schedule
from effbench.builders.tasks import loss, metrics, task, task_of, with_monitors

__all__ = [
    "callbacks",
    "check_options",
    "check_shapes",
    "device",
    "device_type",
    "eval_batches",
    "loss",
    "memory_format",
    "metrics",
    "modality",
    "model",
    "optimizer",
    "other_split",
    "preview",
    "restored_modality",
    "schedule",
    "settings",
    "splits",
    "takes_time",
    "takes_vectors",
    "task",
    "task_of",
    "trainer",
    "with_monitors",
]
