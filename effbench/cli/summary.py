"""effbench summary: the cost of a model x optimizer pairing, without training."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from effbench.cli.flags import VERB_FLAGS, parse_flags, show_help
from effbench.config.compose import compose
from effbench.errors import ConfigError
from effbench.jobs.plan import expand
from effbench.strict_json import print_json

if TYPE_CHECKING:
    from effbench.config.schema import Config
    from effbench.report.cost import Given, Setting

HELP = """usage: effbench summary [GROUP=NAME | KEY=VALUE ...] [input=CxHxW classes=K] [--json]

  effbench summary model=swin optimizer=lion           for this config's data, and in the papers' setting
  effbench summary model=cnn,ds_cnn optimizer=adamw,adan input=3x32x32 classes=10

Prints the cost of a config without training it: parameters; MACs (multiply-accumulates; FLOPs are twice that) of the
forward pass of one sample; bytes that autograd keeps for a step of data.batch_size samples (auto: as training on the
data would choose it, 64 where they are not read and in the papers' setting); bytes of optimizer state.
For depthwise separable convolutions also the ratio of their MACs to those of a standard convolution: counted, and by
the formula 1/C_out + 1/k^2. With input= and classes= the data are not read; otherwise data that state what a simple
method reaches on them, such as data=wordnet_gloss, have a line for it."""


def main(words: Sequence[str]) -> int:
    arguments = parse_flags(words, VERB_FLAGS["summary"])
    if arguments.has("help"):
        return show_help(HELP, asked=True)
    given, overrides = _own_options(arguments.overrides)
    config_dir = arguments.get("config_dir")
    # commas make combinations, as in a sweep
    combinations = expand(overrides, config_dir) or [[]]
    configs = [compose(combination, config_dir) for combination in combinations]
    # torch is imported only now: a mistyped key is reported at once
    from effbench.report.cost import cost, published, setting_for

    settings = [setting_for(config, given) for config in configs]
    rows: list[dict[str, Any]] = []
    for words_of_one, config, own in zip(combinations, configs, settings, strict=True):
        # MACs depend on the input's size, so the papers' numbers are comparable in their setting only
        papers = None if given else published(config, type(own.modality))
        each = [own] if papers is None else [own, papers]
        rows += [{"config": " ".join(words_of_one) or "(defaults)", **cost(config, setting)} for setting in each]
    if arguments.has("json"):
        print_json(rows)
        return 0

    _print_table(rows)
    if len(configs) == 1:
        _print_layers(configs[0], settings[0])
    _print_separable(rows)
    _print_references(settings)
    return 0


def _own_options(words: Sequence[str]) -> tuple[Given | None, list[str]]:
    """Return (shape and number of classes, given by input= and classes= or None, the other words)."""
    own = {}
    rest = []
    for word in words:
        key, equals, value = word.partition("=")
        if equals and key in ("input", "classes"):
            own[key] = value
        else:
            rest.append(word)
    if not own:
        return None, rest
    sides = own["input"].lower().split("x") if "input" in own else []
    if not all(side.isdecimal() and int(side) > 0 for side in sides):
        raise ConfigError(f"input must be sizes with x between them, such as 3x224x224; got {own['input']!r}.")
    classes = own.get("classes")
    if classes is not None and (not classes.isdecimal() or int(classes) < 1):
        raise ConfigError(f"classes must be a whole number of at least 1; got {classes!r}.")
    return (tuple(map(int, sides)) or None, None if classes is None else int(classes)), rest


def _print_table(rows: Sequence[Mapping[str, Any]]) -> None:
    """Print one column a config and setting, because the rows have different units."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from effbench.units import human_bytes, human_count

    table = Table(show_header=True, box=None, pad_edge=False, padding=(0, 3, 0, 0))
    table.add_column("")
    for row in rows:
        table.add_column(escape(f"{row['config']}\n{row['setting']}"), justify="right")
    lines = {
        "parameters": lambda row: human_count(row["parameters"]),
        "trained parameters": lambda row: human_count(row["trainable_parameters"]),
        f"MACs, one {rows[0]['unit']} forward": lambda row: human_count(row["macs"]),
        # a model that only adds rows of a table, such as ngrams, has no MACs
        "MACs, relative to the first": lambda row: f"{row['macs'] / rows[0]['macs']:.3f}" if rows[0]["macs"] else "",
        "FLOPs (2 x MACs)": lambda row: human_count(row["flops"]),
        "weights": lambda row: human_bytes(row["weight_bytes"]),
        "gradients": lambda row: human_bytes(row["gradient_bytes"]),
        "optimizer state": lambda row: human_bytes(row["optimizer_state_bytes"]),
        "averaged weights": lambda row: human_bytes(row["ema_bytes"]) if row["ema_bytes"] else "off",
        "activations kept": lambda row: f"{human_bytes(row['activation_bytes'])} at batch {row['batch_size']}",
        "a training step, total": lambda row: human_bytes(row["step_bytes"]),
    }
    for name, text in lines.items():
        table.add_row(name, *map(text, rows))
    # rich would cut columns to the width of the terminal
    Console(highlight=False, width=None if len(rows) < 3 else 40 * (len(rows) + 1)).print(table)


def _print_layers(config: Config, setting: Setting) -> None:
    """Print parameters and MACs by the model's top-level parts."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from effbench.models.accounting import layer_table
    from effbench.report.cost import shape_model
    from effbench.units import human_count

    table = Table("part", "type", "output", "parameters", "MACs", box=None, pad_edge=False, padding=(0, 3, 0, 0))
    for row in layer_table(shape_model(config, setting), setting.example):
        # [1:]: without the batch
        shape = "" if row.output_shape is None else "x".join(map(str, row.output_shape[1:]))
        table.add_row(escape(row.name), row.type, shape, human_count(row.params), human_count(row.macs))
    console = Console(highlight=False)
    console.print(f"\nby part, for {setting}:")
    console.print(table)


def _print_separable(rows: Sequence[Mapping[str, Any]]) -> None:
    """Print what each depthwise separable convolution saves, for each config in its first setting."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from effbench.units import human_count

    # reversed twice: the first setting of each config wins, in the order of the configs
    first = {row["config"]: row for row in reversed(rows) if row["separable_layers"]}
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = 1000  # a pipe has no width: do not cut lines
    for row in reversed(first.values()):
        heads = ("layer", "channels", "kernel", "MACs", "standard MACs", "ratio", "1/C_out + 1/k^2")
        table = Table(*heads, box=None, pad_edge=False, padding=(0, 3, 0, 0))
        for layer in row["separable_layers"]:
            channels = f"{layer['in_channels']} -> {layer['out_channels']}"
            counts = human_count(layer["macs"]), human_count(layer["standard_macs"])
            ratios = f"{layer['ratio']:.4f}", f"{layer['theory']:.4f}"
            table.add_row(escape(layer["name"]), channels, f"{layer['kernel_size']} px", *counts, *ratios)
        head = f"\ndepthwise separable over standard convolutions, {row['config']}, for {row['setting']}:"
        console.print(head, markup=False, soft_wrap=True)
        console.print(table)


def _print_references(settings: Sequence[Setting]) -> None:
    """Print what simple methods reach on the data, once each."""
    from effbench.console import for_width
    from effbench.report.result import reference_text

    for reference in dict.fromkeys(setting.reference for setting in settings):
        if reference is not None:
            line = f"on these data, {reference.method}: {reference_text(reference)} ({reference.source})"
            print(f"\n{for_width(line, sys.stdout)}")
