"""effbench bench: how fast a model answers with each backend, and which one to take."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from effbench.cli.flags import (
    VERB_FLAGS,
    Arguments,
    given_value,
    parse_flags,
    partition_words,
    refuse_config_dir,
    show_help,
    truth,
)
from effbench.errors import ConfigError, unknown_name
from effbench.export.formats import PROGRAMS
from effbench.strict_json import print_json

HELP = f"""usage: effbench bench RUN|FILE [backends=[NAME,...]] [batch_sizes=[1,8,32]] [threads=1] [rounds=5]
                      [seconds=2] [samples=512] [max_drop=0.5] [checkpoint=best|last] [output=FOLDER]
                      [data.KEY=VALUE ...] [trust=true] [allow_targets=[MODULE,...]] [--json]
       effbench bench model=NAME [data=NAME] [GROUP=NAME | KEY=VALUE ...] [--config-dir DIR] [the options above]

Measures the inference of a trained run, of a file that `effbench export` wrote, or of a model with untrained weights
(then no accuracy is reported). Backends: eager, channels_last, bf16, torchscript, torch_export, onnxruntime,
openvino_f32, openvino_bf16; only if named, because they take minutes: executorch, aot_inductor, compile. The runtimes
need the extras effbench[onnx], [openvino] and [executorch]: install the first two before, pip install
'effbench[onnx,openvino]'. One that does not work here is named before anything is timed, and a line with its reason. A
FILE of format={", ".join(PROGRAMS)} is a program: trust=true runs it. All is measured on the
CPU, in every mode, whatever device= says.

Each backend and batch size runs in processes of their own, one a round, with `threads` threads; the processes of a
round take turns of a fraction of a second. After 10 calls to warm up, a process is timed for at least 100 calls, or for
`seconds`. Reported: latency at batch 1 (mean, p50, p90, p95, p99) and throughput by batch size, with 95 % intervals
over rounds; time to load, peak memory, file size; on `samples` validation samples, accuracy and how far outputs move.
The fastest is named for latency (single stream) and throughput (offline) among those that lose at most `max_drop`
points of accuracy, if it can be distinguished: the first backend is measured twice as a control.

The usual backends take minutes: a process for each of them and one control, batch size and round. After the first round
the time that is left is said. A first look: backends=[eager,onnxruntime] batch_sizes=[1] rounds=3.

Writes bench.json, bench.csv and bench.svg (latency by batch size) to RUN/bench, to bench/FILE/ beside FILE, or to
output=FOLDER; of an untrained model only with output=FOLDER.

  effbench bench mode=train RUN|GROUP=NAME ... [steps=45] [rounds=5] [threads=1] [output=FOLDER] [--json]

Splits the training steps of a run's config, or of any other, into waiting for data, forward, backward, clipping and
optimizer, by clocks around the parts of the real Trainer; the learning rate is constant meanwhile, and nothing is
logged. Writes train.json and train.png (RUN/bench or output=FOLDER).

  effbench bench mode=layers [channels=[16,32,64,128,256]] [sizes=[14,28,56]] [batch=1] [rounds=5] [threads=1]
  effbench bench mode=attention [tokens=[256,512,1024,2048,4096]] [rounds=5] [threads=1]

Compare depthwise separable with standard convolutions, or local with dense attention: parameters, MACs, time, and the
formula beside the measurement. Files (JSON, SVG) are written with output=FOLDER."""

_OWN = ("backends", "batch_sizes", "threads", "rounds", "seconds", "samples", "max_drop")  # of BenchOptions
_TRAINED = {**dict.fromkeys(_OWN, ""), "checkpoint": "best", "output": "", "trust": "false", "allow_targets": "[]"}


def main(words: Sequence[str]) -> int:
    arguments = parse_flags(words, VERB_FLAGS["bench"])
    if arguments.has("help") or not arguments.overrides:
        return show_help(HELP, arguments.has("help"))
    modes = [word.removeprefix("mode=") for word in arguments.overrides if word.startswith("mode=")]
    rest = [word for word in arguments.overrides if not word.startswith("mode=")]
    mode = modes[-1] if modes else "inference"
    if mode not in _MODES:
        raise ConfigError(unknown_name("mode", mode, _MODES))
    return _MODES[mode](rest, arguments)


def _inference(words: Sequence[str], arguments: Arguments) -> int:
    if _names_model(words):
        record = _untrained(words, arguments.get("config_dir"))
    else:
        refuse_config_dir(arguments, "a run or a file")
        record = _trained(words)
    return _shown(record, arguments, "table")


def _names_model(words: Sequence[str]) -> bool:
    """Return True if the words name a model to be built, False if a run or a file."""
    from effbench.bench.modes import run_in

    # a folder's name may begin with model=, too: where it is all that is named
    named = [word for word in words if word.partition("=")[0] not in _TRAINED and not word.startswith("data.")]
    return run_in(named) is None and any(word.startswith(("model=", "recipe=")) for word in named)


def _shown(record: Mapping[str, Any], arguments: Arguments, module: str) -> int:
    """Print a record and return the exit code.

    Args:
        record: the result.
        arguments: for --json.
        module: of effbench.bench, whose print_record prints it for people; imported only now.
    """
    if arguments.has("json"):
        print_json(record)
        return 0
    importlib.import_module(f"effbench.bench.{module}").print_record(record)
    if "path" in record:
        from effbench.escaping import for_terminal

        print(f"  {for_terminal(record['path'])}")
    return 0


def _train(words: Sequence[str], arguments: Arguments) -> int:
    from effbench.bench.modes import bench_train, run_in
    from effbench.run.load import targets_from

    options = {"steps": "45", "rounds": "5", "threads": "1", "output": "", "allow_targets": "[]"}
    rest = _taken(words, options)
    numbers = {key: _number(options[key], key) for key in ("steps", "rounds", "threads")}
    targets = targets_from(options["allow_targets"])
    if run_in(rest) is not None:
        refuse_config_dir(arguments, "a run")
    record = bench_train(
        rest, output=options["output"], targets=targets, config_dir=arguments.get("config_dir"), **numbers
    )
    return _shown(record, arguments, "training_table")


def _layers(words: Sequence[str], arguments: Arguments) -> int:
    from effbench.bench.modes import bench_layers

    lists = {"channels": "[16,32,64,128,256]", "sizes": "[14,28,56]"}
    return _pairs("layers", bench_layers, words, arguments, {**lists, "batch": "1"})


def _attention(words: Sequence[str], arguments: Arguments) -> int:
    from effbench.bench.modes import bench_attention

    return _pairs("attention", bench_attention, words, arguments, {"tokens": "[256,512,1024,2048,4096]"})


def _pairs(
    mode: str, bench: Callable[..., dict[str, Any]], words: Sequence[str], arguments: Arguments, own: dict[str, str]
) -> int:
    """Measure pairs of layers and print them.

    Args:
        mode: for messages.
        bench: measures.
        words: all but the mode.
        arguments: for the flags.
        own: options of the mode; lists are written in brackets.
    """
    refuse_config_dir(arguments, f"mode={mode}")
    options = {**own, "rounds": "5", "threads": "1", "output": ""}
    for word in _taken(words, options):
        raise ConfigError(unknown_name(f"option of mode={mode}", word.partition("=")[0], options))
    values = {key: _number(text, key) for key, text in options.items() if key != "output"}
    # one value without brackets
    values |= {key: [values[key]] for key in own if own[key][:1] == "[" and not isinstance(values[key], list)}
    record = bench(output=options["output"], **values)
    return _shown(record, arguments, "pairs_table")


_MODES: dict[str, Callable[[Sequence[str], Arguments], int]] = {
    "inference": _inference,
    "train": _train,
    "layers": _layers,
    "attention": _attention,
}


def _taken(words: Sequence[str], options: dict[str, str]) -> list[str]:
    """Return the words that set none of the options; the others change `options`."""
    rest = []
    for word in words:
        key, equals, value = word.partition("=")
        if equals and key in options:
            options[key] = given_value(key, value)
        else:
            rest.append(word)
    return rest


def _number(text: str, key: str) -> Any:
    from effbench.config.yaml_text import parse_yaml

    return parse_yaml(text, f"{key}={text[:100]}")


def _trained(words: Sequence[str]) -> dict[str, Any]:
    from effbench.bench.bench import bench
    from effbench.run.load import targets_from

    options = dict(_TRAINED)
    places, data = partition_words(words, options)
    if not places:
        raise ConfigError("what is to be measured? Give a run folder, an exported file or model=NAME.")
    # a second folder is most likely a mistyped option
    for word in places[1:]:
        raise ConfigError(unknown_name("option of bench", word.partition("=")[0], [*options, "data.KEY"]))
    chosen = options["checkpoint"], options["output"], data, targets_from(options["allow_targets"])
    return bench(places[0], _parsed(options), *chosen, trust=truth("trust", options["trust"]))


def _untrained(words: Sequence[str], config_dir: str | None) -> dict[str, Any]:
    from effbench.bench.bench import bench_untrained

    options = {**dict.fromkeys(_OWN, ""), "output": ""}
    rest = _taken(words, options)
    if any(word.startswith("checkpoint=") for word in rest):
        raise ConfigError("checkpoint is of a run; model=NAME has untrained weights. Leave it out.")
    return bench_untrained(rest, _parsed(options), options["output"], config_dir)


def _parsed(options: Mapping[str, str]) -> Any:
    """Return the checked options; the values of those that the user has set are read as YAML."""
    from effbench.bench.options import bench_options

    values = {key: _number(options[key], key) for key in _OWN if options[key]}
    # one value without brackets
    values |= {key: [values[key]] for key in ("backends", "batch_sizes") if not isinstance(values.get(key, []), list)}
    return bench_options(values)
