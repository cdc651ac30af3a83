"""effbench predict: classifies image files with a finished run."""

from __future__ import annotations

import csv
import json
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from effbench.commands.arguments import split
from effbench.commands.folders import targets_from
from effbench.errors import ConfigError, DataError, unknown_name
from effbench.inert import csv_cell, for_terminal

HELP = """usage: effbench predict RUN FILE|FOLDER ... [top_k=3] [checkpoint=best|last]
                        [output=FILE.csv|FILE.json] [allow_targets=[MODULE,...]] [--json]

Class, probability and top-k of each image, as CSV on stdout (--json: as JSON). Images are brought to the size and the
channels that the run was trained with. Files that are no images are named on stderr, and the exit code is then 1.
In CSV, a name that a spreadsheet would run as a formula (= + - @ first) has an apostrophe before it."""
BATCH = 256


def main(words: Sequence[str]) -> int:
    arguments = split(words, ["json"])
    options: dict[str, str] = {"top_k": "3", "checkpoint": "best", "output": "", "allow_targets": "[]"}
    paths = []
    for word in arguments.overrides:
        key, equals, value = word.partition("=")
        if equals and key in options:
            options[key] = value
        elif equals and not Path(word).exists():
            raise ConfigError(unknown_name("option of predict", key, options))
        else:
            paths.append(word)
    if arguments.has("help") or len(paths) < 2:
        print(HELP, file=sys.stdout if arguments.has("help") else sys.stderr)
        return 0 if arguments.has("help") else 2
    if options["output"]:
        _check_output(Path(options["output"]))
    as_json = arguments.has("json") or options["output"].endswith(".json")
    rows, unreadable = predict_files(
        paths[0], paths[1:], _count(options["top_k"]), options["checkpoint"], targets_from(options["allow_targets"])
    )
    text = json.dumps(rows, indent=2, ensure_ascii=False) + "\n" if as_json else _as_csv(rows)
    if options["output"]:
        from effbench.records import write_text

        write_text(Path(options["output"]), text)
    else:
        print(for_terminal(text) if sys.stdout.isatty() else text, end="")
    for problem in unreadable:
        print(f"error: {for_terminal(problem)}", file=sys.stderr)
    return int(bool(unreadable))


def predict_files(
    folder: str, paths: Sequence[str], top_k: int, checkpoint: str = "best", allow_targets: Sequence[str] = ()
) -> tuple[list[dict[str, Any]], list[str]]:
    """([{file, class, probability, top_k: [{class, probability}]}] in file order, what could not be read)."""
    from effbench.commands.folders import load_run

    run = load_run(folder, allow_targets)
    import torch

    from effbench.data.images import find_images

    files = find_images([Path(path) for path in paths])
    rows: list[dict[str, Any]] = []
    unreadable: list[str] = []
    model_probabilities = run.predictor(checkpoint)
    for names, images in _batches(files, run.image_shape, unreadable):
        top = model_probabilities(torch.stack(images)).topk(min(top_k, len(run.classes)))
        for name, values, labels in zip(names, top.values.tolist(), top.indices.tolist(), strict=True):
            ranked = [
                {"class": run.classes[label], "probability": round(value, 6)}
                for label, value in zip(labels, values, strict=True)
            ]
            rows.append({"file": _printable(name), **ranked[0], "top_k": ranked})
    return rows, unreadable


def _batches(files: Sequence[Path], shape: tuple[int, int, int], unreadable: list[str]) -> Iterator[tuple[Any, Any]]:
    """(paths, uint8 images) BATCH at a time; what cannot be decoded is added to `unreadable`."""
    from effbench.data.images import decode

    channels, size, _ = shape
    for start in range(0, len(files), BATCH):
        names, images = [], []
        for path in files[start : start + BATCH]:
            try:
                images.append(decode(path, size, channels))
                names.append(path)
            except DataError as error:
                unreadable.append(str(error))
        if names:
            yield names, images


def _check_output(path: Path) -> None:
    """Before the work, not after it."""
    if path.is_dir() or not os.access(path.parent, os.W_OK):
        why = "it is a folder" if path.is_dir() else f"{path.parent} is no folder that can be written to"
        raise ConfigError(f"output={path}: {why}.")


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise ConfigError(f"top_k must be a whole number of at least 1; got {text!r}.")
    return int(text)


def _as_csv(rows: Sequence[dict[str, Any]]) -> str:
    """Columns file, class, probability, then class_2, probability_2, … A leading = + - @ is quoted for spreadsheets."""
    import io

    text = io.StringIO(newline="")
    writer = csv.writer(text)
    depth = len(rows[0]["top_k"]) if rows else 1
    extra = [name for rank in range(2, depth + 1) for name in (f"class_{rank}", f"probability_{rank}")]
    writer.writerow(["file", "class", "probability", *extra])
    for row in rows:
        ranked = [cell for entry in row["top_k"] for cell in (csv_cell(entry["class"]), entry["probability"])]
        writer.writerow([csv_cell(row["file"]), *ranked])
    return text.getvalue()


def _printable(path: Path) -> str:
    """The path as text that any stream can take: bytes that are no UTF-8 appear as \\udcXX."""
    return str(path).encode("utf-8", "backslashreplace").decode("utf-8")
