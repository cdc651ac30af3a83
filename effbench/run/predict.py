"""Predict files, such as images, with a finished run; a next-token run continues texts."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from effbench.config.arguments import check_list, check_text
from effbench.config.options import COUNT
from effbench.errors import ConfigError, shown
from effbench.run.run_or_file import load_run_or_file
from effbench.special_tokens import PADDING

if TYPE_CHECKING:
    from torch import Tensor

    from effbench.data.modality import Modality
    from effbench.run.run import Run


TOP_K = 3  # classes that are listed


def predict_files(
    folder: str | Path,
    paths: str | Path | Sequence[str | Path],
    top_k: int | None = None,
    checkpoint: str = "best",
    allow_targets: Sequence[str] = (),
    options: Mapping[str, float] | None = None,
    run_folder: str | Path = "",
    trust: bool = False,
    texts: Sequence[str] = (),
) -> tuple[list[dict[str, Any]], list[str]]:
    """Predict files with a run or an exported file.

    Args:
        folder: the run folder, or a file of `effbench export`.
        paths: a file or a folder, or several.
        top_k: classes to list for each sample; None: 3. For a next-token run: most likely tokens to draw from; None:
            the run's task.top_k.
        checkpoint: 'best', 'last' or the name of a checkpoint.
        allow_targets: the user's modules that a _target_ may name.
        options: options of the modality's files, such as max_pixels; the others are the run's.
        run_folder: for a file: a run's folder, whose classes and preprocessing are used; '' for those of its record.
        trust: run a file that is a program (effbench.export.formats.PROGRAMS).
        texts: texts themselves in place of files, for a run on texts; `paths` is then [].

    Returns:
        ([{file, class, probability, top_k: [{class, probability}]}] in the given order, messages on unreadable files).
        For tasks other than classification the entries are those of the task's `described`; for a next-token run
        {file, line, continuation}. Texts themselves have `text` in place of `file` and `line`.

    Raises:
        ConfigError: top_k or an option is out of range, or an option or a text is not of this modality.
    """
    check_text("checkpoint", checkpoint)
    options = {} if options is None else options
    if not isinstance(options, Mapping):
        raise ConfigError(f"options must be a mapping, such as {{'max_pixels': 10**6}}; got {shown(options)}.")
    if top_k is not None:
        COUNT.check(top_k, "top_k")
    # one path: its characters are no paths
    paths = [paths] if isinstance(paths, str | os.PathLike) else paths
    check_list("paths", paths, (str, os.PathLike), "a path or a list of paths")
    check_list("texts", texts, str, "a list of texts")
    if paths and texts:
        raise ConfigError(f"predict takes files or texts; got {shown(os.fspath(paths[0]))} too. Leave one out.")
    run = load_run_or_file(folder, allow_targets, run_folder, trust, alone=True)
    modality = run.modality()
    _check_options(options, modality)
    rows, unreadable = list[dict[str, Any]](), list[str]()
    describe = _describer(run, checkpoint, top_k, options)
    # a batch at a time: a folder may hold more samples than the memory
    files = [os.fspath(path) for path in paths]
    for names, samples in modality.read_texts(texts) if texts else modality.read_files(files, options, unreadable):
        for name, found in zip(names, describe(samples), strict=True):
            if found is not None:
                rows.append({**name, **found})
            else:
                unreadable.append(f"{_place(name)}: the model's answer is not finite; values or weights are too large.")
    return rows, unreadable


def _place(name: Mapping[str, Any]) -> str:
    """Return what a message calls a sample, such as 'FILE line 3'."""
    # of a text file, row and line are one number
    parts = {key: part for key, part in name.items() if key != "row" or part != name.get("line")}
    return " ".join(str(part) if key == "file" else f"{key} {part!s:.100}" for key, part in parts.items())


def _check_options(options: Mapping[str, object], modality: Modality) -> None:
    for key, value in options.items():
        if key not in modality.file_options:
            raise ConfigError(f"{key} is no option of predict for {modality.unit}s. Leave it out.")
        modality.file_options[key].check(value, key)


def _describer(
    run: Run, checkpoint: str, top_k: int | None, options: Mapping[str, Any]
) -> Callable[[Tensor], Iterator[dict[str, Any] | None]]:
    """Return a function: samples -> the answer for each as a mapping, None if it is not finite."""
    from effbench.tasks.generation import NotFiniteError

    if run.task.sampling is not None:
        chosen = dict(options) if top_k is None else {**options, "top_k": top_k}
        follow = run.continuer(checkpoint, **chosen)

        def continued(samples: Tensor) -> Iterator[dict[str, Any] | None]:
            for row in samples:
                try:
                    yield {"continuation": follow(row[row != PADDING].tolist())}
                except NotFiniteError:
                    yield None

        return continued
    answers, task = run.predictor(checkpoint), run.task

    def described(samples: Tensor) -> Iterator[dict[str, Any] | None]:
        for values in answers(samples).tolist():
            # NaN would be sorted to an arbitrary class
            finite = all(map(math.isfinite, values))
            yield task.described(values, run.classes, top_k or TOP_K) if finite else None

    return described
