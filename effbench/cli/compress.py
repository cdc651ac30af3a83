"""effbench compress: make a finished run smaller or faster, and measure what that cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

from effbench.cli.flags import VERB_FLAGS, parse_flags, partition_words, show_help
from effbench.compress.compress import compress, compress_sweep, compress_to_target, loading_words
from effbench.compress.options import BENCH_OPTIONS, METHOD_OPTIONS, CompressOptions, compress_options
from effbench.compress.target import SearchOptions, Target, searching
from effbench.errors import ConfigError, unknown_name
from effbench.run.load import targets_from
from effbench.strict_json import print_json

HELP = """usage: effbench compress RUN method=quantize [scheme=auto|static|dynamic|bf16] [backend=onnxruntime|openvino]
                         [calibration=128|auto] [max_drop=0.5] [weight_bits=auto|7|8]
       effbench compress RUN method=structured [ratio=0.5] [round_to=8] [steps=1] [epochs=3] [lr=LR] [distill=true]
       effbench compress RUN method=unstructured [ratio=0.5] [steps=1] [epochs=3] [lr=LR] [distill=true]
       effbench compress RUN method=structured|unstructured sweep=0.1,0.3,0.5,0.7 [options of the method]
       effbench compress RUN target='2 ms'|'1 MB'|latency/4|size/4 [max_drop=0.5] [minutes=10] [epochs=auto]
       all: [checkpoint=best|last] [output=FOLDER] [data.KEY=VALUE ...] [backends=[NAME,...]] [threads=1] [rounds=5]
            [seconds=1] [allow_targets=[MODULE,...]] [--json]

Makes a smaller or faster run of RUN in RUN-METHOD beside it, or in output=FOLDER, which must not exist. The result is a
run folder: eval, predict, bench, export and report take it. Before it appears, both are measured: metrics on the same
test samples, with the interval of what is lost; parameters, MACs and file size; latency at batch 1 with each of
`backends`, in turns (threads, rounds and seconds as in `effbench bench`). RUN is never changed.

quantize: weights and activations in 8 bits, in an ONNX file (extra effbench[onnx]) or an OpenVINO file
(effbench[compress]). scheme=static takes the activations' ranges from `calibration` training samples (auto: the fewest
of 8, 32, 128, 512 that hold the bound), dynamic from each input, for ONNX Runtime only; scheme=auto takes dynamic for
texts and for models with attention if backend=onnxruntime, else static; scheme=bf16 only stores weights in 16 bits.
weight_bits=7 makes an ONNX file for processors without VNNI or the like; auto does so where this one has none. If
more than `max_drop` points of validation accuracy are lost (without accuracy: percent of the loss), the layers that
move outputs most stay in float32, as few as hold it (OpenVINO: as NNCF's accuracy control chooses); exit code 3 if none
does.

structured: removes `ratio` of each layer's channels with all that depends on them, of a transformer the hidden units of
its feed-forward blocks (extra effbench[compress]); the number kept is a multiple of `round_to`. unstructured: sets the
smallest weights to zero, which makes no runtime faster. Both then train for `epochs` as RUN was trained, from its
learning rate (lr=LR for another) with a cosine; steps=N does it in N parts. distill=true: half of the loss is against
RUN's answers.

sweep: a run a ratio in RUN-METHOD-sweep, with tradeoff.json, .csv and .svg: accuracy against latency and size. A ratio
that fails is named, the others are kept, and the exit code is 1.

target: tries 8 bits for both runtimes, for a size also 16, then structured pruning by more and more, with and without 8
bits, until the latency (fastest backend) or the size (smallest of the files that `backends` read) is reached at a loss
of at most `max_drop` points of validation accuracy with the backend that is named; after `minutes` no candidate is
begun. epochs=auto fine-tunes for 3 epochs, then, while there is time, for 12 what lost too much with 3. latency/4 and
size/4 are a quarter of what RUN has. Each candidate is measured with rounds=3 seconds=0.5. Writes the best in
RUN-target, its file in export/; if it does not reach the target, it is the nearest, and the exit code is 3.
If RUN itself reaches '2 ms' or '1 MB', it is named with its backend, and nothing is written.

After Ctrl-C or a kill, the same command goes on with the ratios or candidates that were finished."""

_TEXTS = ("scheme", "backend")  # the others are read as YAML
_SEARCH = ("max_drop", "minutes", "epochs")  # options beside target=


def main(words: Sequence[str]) -> int:
    arguments = parse_flags(words, VERB_FLAGS["compress"])
    common = {"method": "", "checkpoint": "best", "output": "", "allow_targets": "[]", "sweep": "", "target": ""}
    own = [each.name for kind in METHOD_OPTIONS.values() for each in fields(kind)]
    options = {**common, **dict.fromkeys((*BENCH_OPTIONS, "minutes", *own), "")}
    folders, data = partition_words(arguments.overrides, options)
    if arguments.has("help") or not folders:
        return show_help(HELP, arguments.has("help"))
    # a second folder is most likely a mistyped option
    for word in folders[1:]:
        raise ConfigError(unknown_name("option of compress", word.partition("=")[0], [*options, "data.KEY"]))
    given = {key: text for key, text in options.items() if key in (*own, "minutes") and text}
    rest = options["output"], data, targets_from(options["allow_targets"])
    if options["target"]:
        return _to_target(folders[0], options, given, rest, arguments.has("json"))
    if not options["method"]:
        raise ConfigError(
            f"what is to be done? Say method=NAME, one of: {', '.join(METHOD_OPTIONS)}; or target='2 ms'."
        )
    if options["sweep"]:
        return _sweep(folders[0], options, given, rest, arguments.has("json"))
    record = compress(folders[0], _parsed(options, given), *rest)
    if arguments.has("json"):
        print_json(record)
        return 0
    from effbench.compress.table import print_record

    print_record(record)
    return 0


def _sweep(folder: str, options: Mapping[str, str], given: dict[str, str], rest: Any, as_json: bool) -> int:
    """Compress with several ratios.

    Args:
        folder: of the run.
        options: all words.
        given: options of the method that the user has set.
        rest: output, data keys and modules.
        as_json: print the record.

    Returns:
        1 if a ratio failed; the others are kept.
    """
    if options["method"] == "quantize":
        raise ConfigError(
            "sweep is over ratios, which method=quantize has not. Write method=structured or unstructured."
        )
    if "ratio" in given:
        raise ConfigError(
            f"sweep={options['sweep']} sets the ratios; ratio={given['ratio']} has no use. Leave one out."
        )
    ratios = [text.strip() for text in options["sweep"].strip("[]").split(",")]
    if not all(ratios):
        raise ConfigError(f"sweep must be a list of ratios, such as 0.1,0.3,0.5; got {options['sweep']}.")
    # numbers and not texts: 0.5 and 0.50 are one
    named = {str(_value(ratio, "sweep")): ratio for ratio in ratios}
    try:
        chosen = [_parsed(options, {**given, "ratio": ratio}) for ratio in named.values()]
    except ConfigError as error:
        raise ConfigError(f"sweep={options['sweep']}: {error}") from error
    record = compress_sweep(folder, chosen, *rest)
    if as_json:
        print_json(record)
    else:
        from effbench.compress.table import print_trade_off

        print_trade_off(record)
    return 1 if record["refused"] else 0


def _to_target(folder: str, options: Mapping[str, str], given: dict[str, str], rest: Any, as_json: bool) -> int:
    """Search for a target; the arguments are those of `_sweep`. Return 3 if it is not reached."""
    if options["method"] or options["sweep"]:
        raise ConfigError("target= chooses the method itself. Leave method and sweep out.")
    for key in given:
        if key not in _SEARCH:
            raise ConfigError(unknown_name("option of target", key, _SEARCH))
    values = {key: _value(text, key) for key, text in given.items()}
    target = Target.parsed(options["target"])
    bench = searching(target, **_measured(options))
    chosen = SearchOptions(target, checkpoint=options["checkpoint"], bench=bench, **values)
    record = compress_to_target(folder, chosen, *rest)
    if as_json:
        print_json(record)
    else:
        from effbench.compress.table import print_search

        _, data, targets = rest
        checkpoint = [f"checkpoint={chosen.checkpoint}"] if chosen.checkpoint != "best" else []
        print_search(record, [*checkpoint, *loading_words(data, targets)])
    return 0 if record["search"]["met"] else 3


def _parsed(options: Mapping[str, str], given: Mapping[str, str]) -> CompressOptions:
    """Return the checked options. Only those that the user has set are passed on."""
    values = {key: text if key in _TEXTS else _value(text, key) for key, text in given.items()}
    return compress_options(options["method"], options["checkpoint"], {**values, **_measured(options)})


def _measured(options: Mapping[str, str]) -> dict[str, Any]:
    measured = {key: _value(options[key], key) for key in BENCH_OPTIONS if options[key]}
    if not isinstance(backends := measured.get("backends", []), list):
        measured["backends"] = [backends]  # one value without brackets
    return measured


def _value(text: str, key: str) -> Any:
    from effbench.config.yaml_text import parse_yaml

    return parse_yaml(text, f"{key}={text[:100]}")
