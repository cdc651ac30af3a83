"""effbench compress: make a finished run smaller or faster, and measure what that cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

from effbench.cli.flags import VERB_FLAGS, parse_flags, partition_words, show_help
from effbench.compress.compress import compress
from effbench.compress.options import METHOD_OPTIONS, CompressOptions, measuring, method_options
from effbench.errors import ConfigError, unknown_name
from effbench.run.load import targets_from
from effbench.strict_json import print_json

HELP = """usage: effbench compress RUN method=quantize [scheme=auto|static|dynamic] [backend=onnxruntime|openvino]
                         [calibration=128] [max_drop=0.5]
       effbench compress RUN method=structured [ratio=0.5] [round_to=8] [steps=1] [epochs=3] [lr=LR] [distill=true]
       effbench compress RUN method=unstructured [ratio=0.5] [steps=1] [epochs=3] [lr=LR] [distill=true]
       all: [checkpoint=best|last] [output=FOLDER] [data.KEY=VALUE ...] [backends=[NAME,...]] [threads=1] [rounds=5]
            [seconds=1] [allow_targets=[MODULE,...]] [--json]

Makes a smaller or faster run of RUN in RUN-METHOD beside it, or in output=FOLDER, which must not exist. The result is a
run folder: eval, predict, bench, export and report take it. Before it appears, both are measured: metrics on the same
test samples, with the interval of what is lost; parameters, MACs and file size; latency at batch 1 with each of
`backends`, in turns (threads, rounds and seconds as in `effbench bench`). RUN is never changed.

quantize: weights and activations in 8 bits, in an ONNX file (extra effbench[onnx]) or an OpenVINO file
(effbench[compress]). scheme=static takes the activations' ranges from `calibration` training samples, dynamic from each
input; auto takes dynamic for texts and for models with attention. If more than `max_drop` points of validation accuracy
are lost (without accuracy: percent of the loss), the layers that move outputs most stay in float32, as few as hold it;
exit code 3 if none does.

structured: removes whole channels and what depends on them, then fine-tunes (extra effbench[compress]). unstructured:
sets single weights to zero and fine-tunes; it makes no runtime faster."""

_BENCH = ("backends", "threads", "rounds", "seconds")
_TEXTS = ("scheme", "backend")  # the others are read as YAML


def main(words: Sequence[str]) -> int:
    arguments = parse_flags(words, VERB_FLAGS["compress"])
    common = {"method": "", "checkpoint": "best", "output": "", "allow_targets": "[]"}
    own = dict.fromkeys(each.name for kind in METHOD_OPTIONS.values() for each in fields(kind))
    options = {**common, **dict.fromkeys((*_BENCH, *own), "")}
    folders, data = partition_words(arguments.overrides, options)
    if arguments.has("help") or not folders:
        return show_help(HELP, arguments.has("help"))
    # a second folder is most likely a mistyped option
    for word in folders[1:]:
        raise ConfigError(unknown_name("option of compress", word.partition("=")[0], [*options, "data.KEY"]))
    if not options["method"]:
        raise ConfigError(f"what is to be done? Say method=NAME, one of: {', '.join(METHOD_OPTIONS)}.")
    record = compress(
        folders[0], _parsed(options, own), options["output"], data, targets_from(options["allow_targets"])
    )
    if arguments.has("json"):
        print_json(record)
        return 0
    from effbench.compress.table import print_record

    print_record(record)
    return 0


def _parsed(options: Mapping[str, str], own: Mapping[str, Any]) -> CompressOptions:
    """Return the checked options. Only those that the user has set are passed on."""
    given = {key: options[key] if key in _TEXTS else _value(options[key], key) for key in own if options[key]}
    measured = {key: _value(options[key], key) for key in _BENCH if options[key]}
    if not isinstance(backends := measured.get("backends", []), list):
        measured["backends"] = [backends]  # one value without brackets
    method = options["method"]
    return CompressOptions(method, method_options(method, given), options["checkpoint"], measuring(**measured))


def _value(text: str, key: str) -> Any:
    from effbench.config.yaml_text import parse_yaml

    return parse_yaml(text, f"{key}={text[:100]}")
