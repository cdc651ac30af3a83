"""Predict files, such as images, with a finished run."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from effbench.config.arguments import check_list, check_text
from effbench.config.options import COUNT
from effbench.errors import ConfigError, shown
from effbench.run.load import load_run


def predict_files(
    folder: str | Path,
    paths: str | Path | Sequence[str | Path],
    top_k: int = 3,
    checkpoint: str = "best",
    allow_targets: Sequence[str] = (),
    options: Mapping[str, int] | None = None,
) -> tuple[list[dict[str, Any]], list[str]]:
    """Predict files with a run.

    Args:
        folder: the run folder.
        paths: a file or a folder, or several.
        top_k: classes to list for each sample.
        checkpoint: 'best', 'last' or the name of a checkpoint.
        allow_targets: the user's modules that a _target_ may name.
        options: options of the modality's files, such as max_pixels; the others are the run's.

    Returns:
        ([{file, class, probability, top_k: [{class, probability}]}] in the given order, messages on unreadable files).
        For tasks other than classification the entries are those of the task's `described`.

    Raises:
        ConfigError: top_k or an option is no whole number of at least 1, or the option is not of this modality.
    """
    check_text("checkpoint", checkpoint)
    options = {} if options is None else options
    if not isinstance(options, Mapping):
        raise ConfigError(f"options must be a mapping, such as {{'max_pixels': 10**6}}; got {shown(options)}.")
    for key, value in {"top_k": top_k, **options}.items():
        COUNT.check(value, key)
    # one path: its characters are no paths
    paths = [paths] if isinstance(paths, str | os.PathLike) else paths
    check_list("paths", paths, (str, os.PathLike), "a path or a list of paths")
    run = load_run(folder, allow_targets)
    rows: list[dict[str, Any]] = []
    unreadable: list[str] = []
    modality, answers = run.modality(), run.predictor(checkpoint)
    if unknown := [key for key in options if key not in modality.file_options]:
        raise ConfigError(f"{unknown[0]} is no option of predict for {modality.unit}s. Leave it out.")
    # a batch at a time: a folder may hold more samples than the memory
    for names, samples in modality.read_files([os.fspath(path) for path in paths], options, unreadable):
        for name, values in zip(names, answers(samples).tolist(), strict=True):
            # NaN would be sorted to an arbitrary class
            if all(map(math.isfinite, values)):
                rows.append({**name, **run.task.described(values, run.classes, top_k)})
            else:
                where = " ".join(str(part) if key == "file" else f"{key} {part}" for key, part in name.items())
                unreadable.append(f"{where}: the model's answer is not finite; the values are too large.")
    return rows, unreadable
