"""effbench eval: evaluate a finished run on any of its splits."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from effbench.cache_dir import expanded
from effbench.cli.flags import VERB_FLAGS, parse_flags, partition_words, show_help
from effbench.errors import ConfigError, unknown_name
from effbench.metrics import LOSS, display_of, recorded_displays
from effbench.run.load import targets_from

if TYPE_CHECKING:
    from effbench.data.splits import Split, Splits
    from effbench.run.run import Run

log = logging.getLogger(__name__)

HELP = """usage: effbench eval RUN [split=test|val|train] [checkpoint=best|last] [device=auto|cpu|cuda]
                     [data.KEY=VALUE ...] [allow_targets=[MODULE,...]] [--json]

Evaluates RUN's weights: the plain loss (for classification: mean cross-entropy in nats) and the metrics. data.*
replaces values of the run's data config.
data.root=DIR is the new place of the run's images, or another folder of images. Another folder is evaluated as a whole;
if it has splits, its test folder (split=NAME: another one). Its class folders must have names of the run's classes.
A run with your own model or dataset needs the allow_targets of its training: a run folder cannot grant them."""


def main(words: Sequence[str]) -> int:
    arguments = parse_flags(words, VERB_FLAGS["eval"])
    options = {"split": "", "checkpoint": "best", "device": "auto", "allow_targets": "[]"}
    folders, data_overrides = partition_words(arguments.overrides, options)
    if arguments.has("help") or not folders:
        return show_help(HELP, arguments.has("help"))
    for word in folders[1:]:
        raise ConfigError(unknown_name("option of eval", word.partition("=")[0], [*options, "data.KEY"]))
    result = evaluate_run(
        folders[0],
        options["split"],
        options["checkpoint"],
        options["device"],
        data_overrides,
        targets_from(options["allow_targets"]),
    )
    if arguments.has("json"):
        print(json.dumps(result, indent=2))
    else:
        _print(result, folders[0])
    return 0


def _print(result: Mapping[str, float], folder: str) -> None:
    """Print the metrics, then the loss and the number of samples."""
    from effbench.records import read_summary

    displays = recorded_displays(read_summary(expanded(folder)))
    columns = sorted((name for name in result if "/" in name), key=lambda name: name.endswith(f"/{LOSS}"))
    lines = {}
    for column in columns:
        which, _, name = column.partition("/")
        display = displays.get(name) or display_of(name)
        lines[f"{which} {LOSS if name == LOSS else display.title}"] = display.text(result[column])
    width = max(map(len, [*lines, "samples"]))
    for head, text in {**lines, "samples": str(result["samples"])}.items():
        print(f"{head:<{width}}  {text}")


def evaluate_run(
    folder: str,
    which: str,
    checkpoint: str,
    device_name: str,
    data_overrides: dict[str, str],
    allow_targets: Sequence[str] = (),
) -> dict[str, float]:
    """Evaluate a run's weights on a split.

    Args:
        folder: the run folder.
        which: 'train', 'val', 'test'; '' is 'test'.
        checkpoint: 'best', 'last' or the name of a checkpoint.
        device_name: 'auto', 'cpu' or 'cuda'.
        data_overrides: data keys that replace the run's.
        allow_targets: the user's modules that a _target_ may name.

    Returns:
        {'<split>/<metric>': value, ..., 'samples': count}.
    """
    from effbench.run.load import load_run, with_data

    trained = load_run(folder, allow_targets)
    run = with_data(trained, data_overrides, device_name)
    from effbench import build
    from effbench.cpu.accelerate import accelerate
    from effbench.training.distributed import DistributedContext
    from effbench.training.evaluation import evaluate
    from effbench.training.precision import choose_precision

    device = build.device(run.config)
    which, measured = _measured(trained, run, which)
    model = run.model(checkpoint).to(device)
    if device.type == "cpu":
        accelerate(model)  # gives the same numbers as the test after training
    precision, _ = choose_precision(run.config.trainer.precision, device)
    batches = build.eval_batches(run.config, measured, run.modality(device), DistributedContext())
    values = evaluate(model, batches, precision, DistributedContext(), run.task)
    return {**{f"{which}/{name}": value for name, value in values.items()}, "samples": len(measured)}


def _measured(trained: Run, run: Run, which: str) -> tuple[str, Split]:
    """Return (name, split) to evaluate: of the run's data, or of another folder of images."""
    from effbench import build

    if other := _other_folder(trained, run, which):
        return other
    data = build.splits(run.config)
    check_same_data(run, data)
    data = run.task.checked(data)
    _tell_other_splits(trained, run)
    which = which or "test"
    if which not in data.named():
        raise ConfigError(unknown_name("split", which, data.named()))
    return which, data.named()[which]


def _other_folder(trained: Run, run: Run, which: str) -> tuple[str, Split] | None:
    """Return the split of a folder of images that are not the run's (by sha256); None if they are."""
    from effbench.data.images.image_folder import image_folder, one_split, with_defaults

    before, now = trained.config.data, run.config.data
    target = f"{image_folder.__module__}.{image_folder.__name__}"
    if not before.target == now.target == target:
        return None
    options = with_defaults(now.options)
    root = options["root"]
    if not isinstance(root, str) or _same_place(before.options.get("root"), root) or _holds_the_runs(run):
        return None  # the dataset reports what is wrong with it
    size = run.shape[-1]
    if options["image_size"] != size:
        raise ConfigError(f"data.image_size={options['image_size']}, the run's model takes {size}.")
    if which not in ("", "train", "val", "test"):
        raise ConfigError(unknown_name("split", which, ["test", "train", "val"]))
    name, split, _ = one_split(which or None, run.classes, **options)
    log.info(f"note: {root} is not the run's dataset: {len(split)} of its images are evaluated")
    return name, split


def _same_place(before: Any, now: str) -> bool:
    return isinstance(before, str) and os.path.realpath(expanded(before)) == os.path.realpath(expanded(now))


def _holds_the_runs(run: Run) -> bool:
    """Return True if the folder holds the images that the run was trained on: it was only moved."""
    from effbench import build
    from effbench.data.images.image_folder import split_sizes

    options = run.config.data.options
    counts = split_sizes(options)
    if options.get("on_corrupt") != "skip" and counts != run.data["counts"]:
        return False
    return counts is not None and bool(build.splits(run.config).sha256 == run.data["sha256"])


def check_same_data(run: Run, data: Splits) -> None:
    """Require the run's classes and sample shape; other samples are allowed and reported."""
    if data.classes != run.classes:
        other = sorted(set(data.classes) ^ set(run.classes))[:5]
        raise ConfigError(
            f"the data's {len(data.classes)} classes are not the run's {len(run.classes)}"
            f"{': ' + ', '.join(other) if other else ' in this order'}."
        )
    if data.shape != run.shape:
        raise ConfigError(f"the data's {data.modality.unit}s are {data.shape}, the run's model takes {run.shape}.")
    if data.sha256 != run.data["sha256"]:
        log.info("note: this is not the dataset that the run was trained on (its sha256 differs)")


def _tell_other_splits(trained: Run, now: Run) -> None:
    before, after, unit = trained.config.data.options, now.config.data.options, trained.modality().unit
    keys = [key for key in ("split_seed", "val_fraction", "test_fraction") if before.get(key) != after.get(key)]
    if keys and trained.config.data.target == now.config.data.target:
        log.info(f"note: data.{keys[0]} differs from the run's: these may include {unit}s that the run was trained on")
