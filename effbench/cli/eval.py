"""effbench eval: evaluate a finished run on any of its splits, or on other data of the same classes."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

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

Prints the loss and the metrics of RUN's weights on one split. The loss is without label smoothing and class weights
(for classification: mean cross-entropy in nats).

data.KEY=VALUE replaces a value of the run's data config. For a run on a folder of images, data.root=DIR names the new
place of this folder, or another folder. Of another folder the test split is evaluated (split=NAME: another one), or all
its images if it has no splits. Its class folders must have names of the run's classes.

A run with modules of your own (model, dataset, loss, metric, ...) needs the allow_targets of its training, because a
run folder cannot grant them. The modules are found in the current folder or in PYTHONPATH."""


def main(words: Sequence[str]) -> int:
    arguments = parse_flags(words, VERB_FLAGS["eval"])
    # split='' is test, or what another source has in its place.
    options = {"split": "", "checkpoint": "best", "device": "auto", "allow_targets": "[]"}
    folders, data_overrides = partition_words(arguments.overrides, options)
    if arguments.has("help") or not folders:
        return show_help(HELP, arguments.has("help"))
    # a second folder is most likely a mistyped option
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
    # the loss last, as in all tables
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

    # Both configs are needed: by comparison one sees whether the data are the run's own.
    trained = load_run(folder, allow_targets)
    run = with_data(trained, data_overrides, device_name)
    # torch is imported only now: a mistyped folder or key is reported at once
    from effbench import build
    from effbench.cpu.accelerate import accelerate
    from effbench.training.distributed import DistributedContext
    from effbench.training.evaluation import evaluate
    from effbench.training.precision import choose_precision

    # It also sets threads and TF32, on which the last digits depend.
    device = build.device(run.config)
    which, split = _chosen_split(trained, run, which)
    model = run.model(checkpoint).to(device)
    if device.type == "cpu":
        accelerate(model)  # gives the same numbers as the test after training
    # That of the training, so that the metrics of its test come out again.
    precision, _ = choose_precision(run.config.trainer.precision, device)
    batches = build.eval_batches(run.config, split, run.modality(device), DistributedContext())
    values = evaluate(model, batches, precision, DistributedContext(), run.task)
    return {**{f"{which}/{name}": value for name, value in values.items()}, "samples": len(split)}


def _chosen_split(trained: Run, run: Run, which: str) -> tuple[str, Split]:
    """Return (name, split) to evaluate: of the run's data, or of another source that the dataset can read."""
    from effbench import build

    if other := build.other_split(trained.config, run.config, run.data, which):
        return other
    data = build.splits(run.config)
    check_same_data(run, data)
    data = run.task.checked(data)

    # with other draws of the splits, the test split may hold samples that the run was trained on
    before, now = trained.config.data, run.config.data
    draws = ("split_seed", "val_fraction", "test_fraction")
    changed = [key for key in draws if before.options.get(key) != now.options.get(key)]
    if changed and before.target == now.target:
        log.info(
            f"note: data.{changed[0]} differs from the run's: these may include {data.modality.unit}s that the run was "
            "trained on"
        )

    which = which or "test"
    if which not in data.named():
        raise ConfigError(unknown_name("split", which, data.named()))
    return which, data.named()[which]


def check_same_data(run: Run, data: Splits) -> None:
    """Require the run's classes and sample shape; other samples are allowed and reported."""
    if data.classes != run.classes:
        # class names in another order would count right answers as wrong
        other = sorted(set(data.classes) ^ set(run.classes))[:5]
        raise ConfigError(
            f"the data's {len(data.classes)} classes are not the run's {len(run.classes)}"
            f"{': ' + ', '.join(other) if other else ' in this order'}."
        )
    # A convolution would accept another size and answer worse, without a word.
    if data.shape != run.shape:
        raise ConfigError(f"the data's {data.modality.unit}s are {data.shape}, the run's model takes {run.shape}.")
    # Allowed: to measure on other samples is what data.KEY=VALUE is for.
    if data.sha256 != run.data["sha256"]:
        log.info("note: this is not the dataset that the run was trained on (its sha256 differs)")
