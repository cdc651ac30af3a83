"""effbench predict: answers of a finished run for files."""

from __future__ import annotations

import csv
import io
import logging
import os
import re
import shlex
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from effbench.cache_dir import expanded
from effbench.cli.flags import VERB_FLAGS, parse_flags, show_help, truth
from effbench.config.options import Rule
from effbench.config.words import PATH_KEYS
from effbench.console import writes_unicode
from effbench.errors import ConfigError, shown, unknown_name
from effbench.escaping import csv_cell, for_terminal
from effbench.export.formats import PROGRAMS
from effbench.run.load import targets_from
from effbench.run.predict import predict_files
from effbench.run.run_or_file import load_run_or_file
from effbench.strict_json import json_text

log = logging.getLogger(__name__)

HELP = f"""usage: effbench predict RUN|EXPORT FILE|FOLDER ... [top_k=3] [checkpoint=best|last]
                        [output=FILE.csv|FILE.json] [max_pixels=N] [allow_targets=[MODULE,...]] [--json]
                        [length=N] [temperature=T] [seed=N] [run=FOLDER] [trust=true]
       effbench predict RUN|EXPORT text="a sentence" ... [the same options]

Prints the answer for each sample as CSV on stdout (--json: as JSON): class, probability and the top_k classes, or for
other tasks the labels or values. The order is that of the arguments; files of a folder are sorted by name.

Images are brought to the size and channels of the run's training; files of more than max_pixels (default: the run's)
are refused. For a run on feature rows, FILE is a CSV file: one sample a line, optionally after a line of column names
or, for three features or more, of column numbers 0,1,2,... For a run with data=table_csv, FILE is a .csv, .tsv, .jsonl
or .parquet file with the run's columns, by name. For a run on texts, FILE is such a file with the run's text column, or
any other file, one text a line (data=text_folder: one text a file): echo "Guten Tag" | effbench predict RUN /dev/stdin.
text=TEXT or --text TEXT, once or several times, gives texts themselves. A run with task=next_token continues each text
by `length` tokens, drawn from the top_k most likely ones at a temperature; these are the run's by default, and the same
seed draws the same text. Other kinds of samples may have options of their own.

EXPORT is a file of `effbench export`. Its runtime answers, and EXPORT.json says how samples are read: the run is not
needed (run=FOLDER: as this run reads them). Files of format={", ".join(PROGRAMS)} are programs:
trust=true runs one.

For texts of a table, `row` counts its rows from 1, and `line` is the last line of the row in the file. Rows and files
that cannot be read are listed on stderr and are missing in the output, and the exit code is 1. An existing output file
is replaced, unless predict reads it or the folder that it is in. In CSV, an apostrophe is put before a name that a
spreadsheet would run as a formula (first character = + - @)."""
PREFIXES = {"probabilities": "probability", "values": "value"}  # of columns, by the key of their mapping


def main(words: Sequence[str]) -> int:
    arguments = parse_flags(words, VERB_FLAGS["predict"], {"text": "text"})
    options = {"top_k": "", "checkpoint": "best", "output": "", "run": "", "trust": "false", "allow_targets": "[]"}
    paths, texts, of_files = list[str](), list[str](), dict[str, str]()
    for word in arguments.overrides:
        key, equals, value = word.partition("=")
        if equals and key in options:
            options[key] = value
        elif equals and key == "text":
            texts.append(value)
        elif equals and key.startswith("data.") and not os.path.lexists(word):
            file = for_terminal(shlex.quote(value)) if key in PATH_KEYS and value else "FILE"
            raise ConfigError(
                f"predict takes files themselves: effbench predict RUN {file}. data.KEY=VALUE is for `effbench eval`."
            )
        # a file's name may contain '=' too, as the folders of a sweep's jobs do: an option's is one word
        elif equals and key.isidentifier() and not os.path.lexists(word):
            of_files[key] = value
        else:
            paths.append(word)
    if arguments.has("help") or not paths or len(paths) + len(texts) + len(of_files) < 2:
        return show_help(HELP, arguments.has("help"))
    for text in texts:
        _tell_of_file(paths[0], text)
    targets = targets_from(options["allow_targets"])
    trust = truth("trust", options["trust"])
    numbers = _numbers(of_files, options, paths[0], targets, trust) if of_files else {}
    if len(paths) < 2 and not texts:
        return show_help(HELP, False)
    _check_output(options["output"], paths)  # before the work, not after it
    # the suffix decides, as users expect of a file name
    as_json = arguments.has("json") or options["output"].endswith(".json")
    top_k = _count("top_k", options["top_k"]) if options["top_k"] else None
    rows, unreadable = predict_files(
        paths[0], paths[1:], top_k, options["checkpoint"], targets, numbers, options["run"], trust, texts
    )
    # a stdout in another encoding gets escapes, which JSON readers decode; files are UTF-8
    ascii_only = not (options["output"] or writes_unicode())
    text = json_text(rows, ascii_only) + "\n" if as_json else _as_csv(rows)
    if options["output"]:
        from effbench.records import write_output

        write_output(expanded(options["output"]), text)
    else:
        # names of files may hold control characters; a program that reads a pipe gets them unchanged
        print(for_terminal(text) if sys.stdout.isatty() else text, end="")
    # after the answers, so that they are the last lines on a terminal
    for problem in unreadable:
        log.error(problem)
    return int(bool(unreadable))


def _check_output(word: str, paths: Sequence[str]) -> None:
    """Raise ConfigError if output=`word` cannot be written, or would replace what is read; '' is no output.

    paths: the run or exported file, and the files and folders to predict.
    """
    if not word:
        return
    from effbench.records import output_problem

    output = expanded(word)
    if why := output_problem(output):
        raise ConfigError(f"output={output}: {why}.")
    real = os.path.realpath(output)
    if os.path.exists(real) and not os.path.isfile(real):  # noqa: PTH110, PTH113 - a terminal or a pipe replaces nothing
        return
    for place, path in enumerate(paths):
        read = os.path.realpath(expanded(path))
        if read == real:
            raise ConfigError(f"output={word} is a file that predict reads. Give another name.")
        # a run's folder may hold its predictions: `output_problem` refuses the files of its record
        if place and os.path.commonpath([read, real]) == read:
            raise ConfigError(f"output={word} lies in {path}, which predict reads. Give a place outside of it.")


def _tell_of_file(folder: str, text: str) -> None:
    """Log a line if the text is the name of a file."""
    if os.path.isfile(text):  # noqa: PTH113 - Path's raises where a text is too long for a name
        log.info(
            f"text={shown(text)}: the text is the name of a file; to classify its content write effbench predict "
            f"{for_terminal(shlex.join([folder, text]))}"
        )


def _numbers(
    given: Mapping[str, str], options: Mapping[str, str], folder: str, targets: Sequence[str], trust: bool
) -> dict[str, float]:
    """Return the options of the files' modality as numbers. The run knows the modality, and so which there are."""
    known = load_run_or_file(folder, targets, options["run"], trust, alone=True).modality().file_options
    for key in given:
        if key not in known:
            raise ConfigError(
                f"{unknown_name('option of predict', key, [*options, 'text', *known])} There is no file "
                f"{f'{key}={given[key]}'!r} either."
            )
    return {key: _number(key, text, known[key]) for key, text in given.items()}


def _number(key: str, text: str, rule: Rule[Any]) -> float:
    # isdecimal, because int() also reads ' 3', '+3' and '1_000'
    if text.isdecimal():
        return rule.check(int(text), key)  # type: ignore[no-any-return]
    fraction = re.fullmatch(r"\d*\.\d+", text)
    return rule.check(float(text) if fraction else text, key)  # type: ignore[no-any-return]


def _count(key: str, text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise ConfigError(f"{key} must be a whole number of at least 1; got {text!r}.")
    return int(text)


def _as_csv(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return CSV with one line a sample. A leading = + - @ gets an apostrophe, for spreadsheets."""
    if not rows:  # no file could be read: the errors say it, and a header alone would look like a result
        return ""
    lines = [_columns(row) for row in rows]
    # task and top_k are the same for all rows, and so are their columns
    header = list(lines[0])
    # the csv module writes the line ends itself; they must not be translated again
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(map(csv_cell, header))
    writer.writerows(map(csv_cell, line.values()) for line in lines)
    return text.getvalue()


def _columns(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a row's columns: file, class, probability, class_2, probability_2, …; for other tasks one column a value.

    A list, such as the labels of a sample, is one column: 'a; b'. Columns that name a sample, such as its row in a
    file, come first. A label or value with the name of another column gets a prefix: 'probability text'.
    """
    columns: dict[str, Any] = {}
    taken = {key for key, value in row.items() if not isinstance(value, Mapping)}
    for key, value in row.items():
        if key == "top_k":
            for rank, entry in enumerate(value[1:], start=2):
                columns |= {f"{name}_{rank}": entry[name] for name in ("class", "probability")}
        elif isinstance(value, Mapping):
            for name, number in value.items():
                column = name
                while column in taken:
                    column = f"{PREFIXES.get(key, key)} {column}"
                taken.add(column)
                columns[column] = number
        else:
            columns[key] = "; ".join(value) if isinstance(value, list) else value
    return columns
