"""effbench eval: evaluate a finished run on any of its splits, or on other data of the same classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from effbench.cache_dir import expanded
from effbench.cli.flags import VERB_FLAGS, parse_flags, partition_words, show_help, truth
from effbench.errors import ConfigError, unknown_name
from effbench.export.formats import PROGRAMS
from effbench.metrics import LOSS, Display, display_of, recorded_displays
from effbench.report.class_table import print_by_class
from effbench.run.evaluate import evaluate_run
from effbench.run.load import targets_from
from effbench.strict_json import print_json

HELP = f"""usage: effbench eval RUN|FILE [split=test|val|train] [checkpoint=best|last] [device=auto|cpu|cuda]
                     [data.KEY=VALUE ...] [run=FOLDER] [trust=true] [allow_targets=[MODULE,...]] [--json]

Prints the loss and the metrics of RUN's weights on one split, or those of FILE, which `effbench export` wrote. The loss
is without label smoothing and class weights (for classification: mean cross-entropy in nats). Of a classification also
precision, recall and F1 of each class (of many, those with the lowest recall) and the most frequent confusions. --json
has all: per_class (of several labels a sample per_label; null where a value is 0/0, as with scikit-learn's
zero_division=nan; macro_f1 of labels counts an f1 of 0/0 as 0), and confusion, rows of true classes by predicted class
(null, and no confusions, for more than 200 classes).

data.KEY=VALUE replaces a value of the run's data config. For a run on a folder of images or texts, data.root=DIR names
the new place of this folder, or another folder. Of another folder the test split is evaluated (split=NAME: another
one), or all of it if it has no splits. Its class folders must have names of the run's classes. For a run on texts or a
table in a file, data.file=FILE names the new place of its file, or another file: all of it is evaluated, with the run's
tokenizer or columns.

FILE is evaluated by the runtime of its format, on the CPU, on the data of its run: the folder that FILE.json names, or
run=FOLDER. FILE must have the sha256 in FILE.json. Files of format={", ".join(PROGRAMS)} are programs,
which run only with trust=true.

A run with modules of your own (model, dataset, loss, metric, ...) needs the allow_targets of its training, because a
run folder cannot grant them. The modules are found in the current folder or in PYTHONPATH."""


def main(words: Sequence[str]) -> int:
    arguments = parse_flags(words, VERB_FLAGS["eval"])
    # split='' is test, or what another source has in its place.
    options = {"split": "", "checkpoint": "best", "device": "auto", "run": "", "trust": "false"}
    options["allow_targets"] = "[]"
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
        options["run"],
        truth("trust", options["trust"]),
    )
    if arguments.has("json"):
        print_json(result)
    else:
        _print(result, folders[0])
        print_by_class(result)
    return 0


def _print(result: Mapping[str, Any], folder: str) -> None:
    """Print the metrics, then the loss and the number of samples."""
    displays = _displays(expanded(folder))
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


def _displays(place: Path) -> dict[str, Display]:
    """Return metric name -> display as the run recorded it, or the record of an exported file."""
    if not place.is_file():
        from effbench.records import read_summary

        return recorded_displays(read_summary(place))
    from effbench.export.opening import read_record

    return recorded_displays({"task": {"metrics": read_record(place).get("metrics")}})
