"""Evaluate a finished run on any of its splits, or on other data of the same classes."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from effbench.config.arguments import check_text, check_texts_by_key
from effbench.errors import ConfigError, unknown_name
from effbench.run.load import with_data
from effbench.run.run_or_file import load_run_or_file

if TYPE_CHECKING:
    from effbench.data.splits import Split, Splits
    from effbench.run.run import Run

log = logging.getLogger(__name__)

NEAR = 0.1  # part of the run's samples: another source of as many, to within this part, may be the run's own


def evaluate_run(
    folder: str | Path,
    split_name: str = "",
    checkpoint: str = "best",
    device_name: str = "auto",
    data_overrides: Mapping[str, str] | None = None,
    allow_targets: Sequence[str] = (),
    run_folder: str | Path = "",
    trust: bool = False,
) -> dict[str, Any]:
    """Evaluate a run's weights, or an exported file, on a split.

    Args:
        folder: the run folder, or a file of `effbench export`, which its runtime evaluates on the CPU.
        split_name: 'train', 'val', 'test'; '' is 'test', or what another source has in its place.
        checkpoint: 'best', 'last' or the name of a checkpoint.
        device_name: 'auto', 'cpu' or 'cuda'.
        data_overrides: data keys that replace the run's, as text: {'root': 'DIR'}.
        allow_targets: the user's modules that a _target_ may name.
        run_folder: for a file: the folder of its run, whose data are read; '' for the one that its record names.
        trust: run a file that is a program (effbench.export.formats.PROGRAMS).

    Returns:
        {'<split>/<metric>': value, ..., 'samples': count}; with 'per_class' and 'confusion' for a classification,
        'per_label' for several labels a sample (effbench/tasks/by_class.py).

    Raises:
        ConfigError: the folder holds no run, a split or a data key is unknown, or the data do not fit the model.
    """
    check_text("split_name", split_name)
    check_text("checkpoint", checkpoint)
    check_texts_by_key("data_overrides", data_overrides, "{'root': 'DIR'}")
    # Both configs are needed: by comparison one sees whether the data are the run's own.
    trained = load_run_or_file(folder, allow_targets, run_folder, trust)
    run = with_data(trained, dict(data_overrides or {}), _device_for(trained, device_name))
    # torch is imported only now: a mistyped folder or key is reported at once
    from effbench import build
    from effbench.cpu.accelerate import accelerate
    from effbench.training.distributed import DistributedContext
    from effbench.training.evaluation import evaluate
    from effbench.training.precision import choose_precision

    # It also sets threads and TF32, on which the last digits depend.
    device = build.device(run.config)
    modality = run.modality(device)  # first: reading other data also needs its record, which may be damaged
    which, split = _chosen_split(trained, run, split_name)
    model = run.model(checkpoint).to(device)
    if device.type == "cpu":
        accelerate(model)  # gives the same numbers as the test after training
    # That of the training, so that the metrics of its test come out again.
    precision, _ = choose_precision(run.precision, device)
    batches = build.eval_batches(run.config, split, modality, DistributedContext())
    counts = run.task.breakdown()
    values = evaluate(model, batches, precision, DistributedContext(), run.task, counts)
    found = {f"{which}/{name}": value for name, value in values.items()}
    return {**found, "samples": len(split), **counts.by_class(run.classes)}


def _device_for(trained: Run, name: str) -> str:
    """Return 'cpu' for an exported file, else the name as given. Raises ConfigError for a file on another device."""
    if trained.on_cpu and name not in ("auto", "cpu"):
        raise ConfigError(f"device must be cpu for an exported file, as the check of its export; got {name}.")
    return "cpu" if trained.on_cpu else name


def _chosen_split(trained: Run, run: Run, which: str) -> tuple[str, Split]:
    """Return (name, split) to evaluate: of the run's data, or of another source that the dataset can read."""
    from effbench import build

    if other := build.other_split(trained.config, run.config, run.data, which):
        name, split = other
        _warn_if_as_many_as_the_runs(run, len(split))
        labels = run.task.targets_of(f"the data's {name}", split.labels, len(run.classes))
        return name, replace(split, labels=labels)
    data = build.splits(run.config)
    check_same_data(run, data)
    data = run.task.checked(data)
    which = which or "test"
    if which not in data.named():
        raise ConfigError(unknown_name("split", which, data.named()))
    _warn_of_another_draw(trained, run, data, which)
    return which, data.named()[which]


def _warn_of_another_draw(trained: Run, run: Run, data: Splits, which: str) -> None:
    """Warn if a split was drawn otherwise than in training: it may hold samples that the run was trained on.

    Args:
        trained: the run as it was trained.
        run: the run with the options of this evaluation.
        data: the dataset.
        which: the split to evaluate.
    """
    if trained.config.data.target != run.config.data.target or which == "train":
        return
    if run.redrawn:
        why = f"{run.redrawn[0]} differs from the run's"
    elif which in data.drawn and data.sha256 != run.data["sha256"]:
        # the draw depends on the numbers of samples: one more file changes it
        why = f"{data.name} has changed since the training, and {which} was drawn from it anew"
    else:
        return
    log.warning(f"{why}: these may include {data.modality.unit}s that the run was trained on")


def _warn_if_as_many_as_the_runs(run: Run, count: int) -> None:
    """Warn if another source has about as many samples as all splits of the run: it may be the run's own data.

    A dataset that was moved is known by its sha256, but not if a file was added or removed since.

    Args:
        run: the run.
        count: samples of the other source.
    """
    counts = (run.data.get("counts") or {}).values()
    known, unit = sum(number for number in counts if isinstance(number, int)), run.data.get("unit") or "sample"
    if known and abs(count - known) <= NEAR * known:
        log.warning(
            f"the run's dataset has about as many {unit}s ({known}). If these are it, with some added or removed, they "
            f"include {unit}s that the run was trained on: name new {unit}s alone"
        )


def check_same_data(run: Run, data: Splits) -> None:
    """Require the run's classes and sample shape; other samples are allowed and reported."""
    if data.classes != run.classes:
        # class names in another order would count right answers as wrong
        other = sorted(set(data.classes) ^ set(run.classes))[:5]
        raise ConfigError(
            f"the data's {len(data.classes)} classes are not the run's {len(run.classes)}"
            f"{': ' + ', '.join(other) if other else ' in this order'}."
        )
    data.modality.check_same(run.data, data)
    # Allowed: to measure on other samples is what data.KEY=VALUE is for.
    if data.sha256 != run.data["sha256"]:
        log.info("note: this is not the dataset that the run was trained on (its sha256 differs)")
