"""effbench eval: measures a finished run again, on any of its splits."""

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

The plain loss (of a classification: mean cross-entropy in nats) and the metrics of RUN's weights. data.* replaces
values of the run's own data config.
data.root=DIR names the run's folder of images where it has moved, or another one: that is measured whole, or its test
folder (split=NAME: another) where it has splits; its class folders must bear names of the run's classes.
A run of your own model or dataset needs the allow_targets that it was trained with: its folder cannot grant them."""


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
    """The metrics first, the loss, the number of samples."""
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
    """{'<split>/<metric>', ..., 'samples'} of a run's weights on one of its splits; which: '' is test."""
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
        accelerate(model)  # the very numbers of the test after training
    precision, _ = choose_precision(run.config.trainer.precision, device)
    batches = build.eval_batches(run.config, measured, run.transform(device), DistributedContext())
    values = evaluate(model, batches, precision, DistributedContext(), run.task)
    return {**{f"{which}/{name}": value for name, value in values.items()}, "samples": len(measured)}


def _measured(trained: Run, run: Run, which: str) -> tuple[str, Split]:
    """(its name, the split to measure): of the run's own data, or of another folder of images."""
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
    """Of a folder of images that does not hold the run's own, by their sha256; None where it does."""
    from effbench.data.images.image_folder import image_folder, one_split, with_defaults

    before, now = trained.config.data, run.config.data
    target = f"{image_folder.__module__}.{image_folder.__name__}"
    if not before.target == now.target == target:
        return None
    options = with_defaults(now.options)
    root = options["root"]
    if not isinstance(root, str) or _same_place(before.options.get("root"), root) or _holds_the_runs(run):
        return None  # of which the dataset itself tells what is wrong
    size = run.image_shape[-1]
    if options["image_size"] != size:
        raise ConfigError(f"data.image_size={options['image_size']}, the run's model takes {size}.")
    if which not in ("", "train", "val", "test"):
        raise ConfigError(unknown_name("split", which, ["test", "train", "val"]))
    name, split, _ = one_split(which or None, run.classes, **options)
    log.info(f"note: {root} is not the run's dataset: {len(split)} images of it measured")
    return name, split


def _same_place(before: Any, now: str) -> bool:
    return isinstance(before, str) and os.path.realpath(expanded(before)) == os.path.realpath(expanded(now))


def _holds_the_runs(run: Run) -> bool:
    """Whether the folder holds the very images that the run was trained on: only moved, its splits are the run's."""
    from effbench import build
    from effbench.data.images.image_folder import split_sizes

    options = run.config.data.options
    counts = split_sizes(options)
    if options.get("on_corrupt") != "skip" and counts != run.data["counts"]:
        return False
    return counts is not None and bool(build.splits(run.config).sha256 == run.data["sha256"])


def check_same_data(run: Run, data: Splits) -> None:
    """The classes and the shape must be the run's; other images are said, since they are a choice."""
    if data.classes != run.classes:
        other = sorted(set(data.classes) ^ set(run.classes))[:5]
        raise ConfigError(
            f"the data's {len(data.classes)} classes are not the run's {len(run.classes)}"
            f"{': ' + ', '.join(other) if other else ' in this order'}."
        )
    if data.shape != run.image_shape:
        raise ConfigError(f"the data's images are {data.shape}, the run's model takes {run.image_shape}.")
    if data.sha256 != run.data["sha256"]:
        log.info("note: this is not the dataset that the run was trained on (its sha256 differs)")


def _tell_other_splits(trained: Run, now: Run) -> None:
    before, after = trained.config.data.options, now.config.data.options
    keys = [key for key in ("split_seed", "val_fraction", "test_fraction") if before.get(key) != after.get(key)]
    if keys and trained.config.data.target == now.config.data.target:
        log.info(f"note: other data.{keys[0]}: images that the run was trained on may be among these")
