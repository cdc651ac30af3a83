"""effbench export: write a run's model for another runtime, after a check that it gives the same answers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from effbench.cli.flags import VERB_FLAGS, parse_flags, partition_words, show_help
from effbench.errors import ConfigError, unknown_name
from effbench.escaping import for_terminal
from effbench.export.formats import FORMATS
from effbench.run.export import export_run
from effbench.run.load import targets_from
from effbench.strict_json import print_json

HELP = f"""usage: effbench export RUN [format={"|".join(FORMATS)}]
                       [checkpoint=best|last] [output=FOLDER] [layout=file|huggingface] [opset=20] [max_batch=32]
                       [tolerance=1e-4] [data.KEY=VALUE ...] [--no-data] [allow_targets=[MODULE,...]] [--json]

Writes RUN's model to a file for another runtime. The file maps samples (images: float32 (N, C, H, W) in [0, 1]) to
logits (N, K), for any N, and includes the normalisation. Texts are token numbers, int64 (N, T): T is free where the
exporter can leave it free, else data.max_length. A .json file with the same name describes input, output,
preprocessing (for texts the whole tokenizer), origin and parity. Both are in RUN/export, or in output=FOLDER, with a
model card (.README.md) and, for an ONNX file of an image model, a program (.predict.py) that needs only onnxruntime,
numpy and Pillow. layout=huggingface makes a folder for the Hub: README.md, config.json, model.safetensors, the file.

Before the file is published, the format's own runtime runs it on up to 256 validation samples (of a large model fewer,
at least 8), in batches and on one sample. No file is written, and the exit code is 3, if a logit differs from the
model's by more than `tolerance` of the largest logit or an answer (the top class) differs. --no-data compares on random
inputs instead: a weaker check, for where the run's data are not.

format=onnx (opset=18 to 25) needs the extra effbench[onnx]. format=openvino needs effbench[openvino]: a zip archive
with OpenVINO's model.xml and model.bin, checked in float32; OpenVINO itself computes in bfloat16 on processors that can
unless told INFERENCE_PRECISION_HINT=f32. format=executorch needs effbench[executorch]: a .pte file for phones and other
small devices, computed by XNNPACK. Its memory is planned for at most max_batch samples (1 to 4096): `eval`, `predict`
and `bench` compute more in parts."""


def main(words: Sequence[str]) -> int:
    arguments = parse_flags(words, VERB_FLAGS["export"])
    options = {
        "format": "onnx", "checkpoint": "best", "output": "", "opset": "", "tolerance": "1e-4", "allow_targets": "[]",
        "layout": "file", "max_batch": "",
    }  # fmt: skip
    folders, data_overrides = partition_words(arguments.overrides, options)
    if arguments.has("help") or not folders:
        return show_help(HELP, arguments.has("help"))
    # a second folder is most likely a mistyped option
    for word in folders[1:]:
        raise ConfigError(unknown_name("option of export", word.partition("=")[0], [*options, "data.KEY"]))
    result = export_run(
        folders[0],
        options["format"],
        options["checkpoint"],
        options["output"],
        _tolerance(options["tolerance"]),
        data_overrides,
        targets_from(options["allow_targets"]),
        _number(options["opset"]),
        arguments.has("no_data"),
        options["layout"],
        _number(options["max_batch"]),
    )
    print_json(result) if arguments.has("json") else _print_table(result)
    return 0


def _tolerance(text: str) -> float:
    try:
        tolerance = float(text)
    except ValueError:
        # NaN fails the comparison below, which has the message.
        tolerance = math.nan
    if not 0 < tolerance <= 1:
        raise ConfigError(f"tolerance must be a fraction of the largest logit, in (0, 1], such as 1e-4; got {text!r}.")
    return tolerance


def _number(text: str) -> Any:
    """Return the number; None for ''. Another text is returned as it is: export_run refuses it with the range."""
    return int(text) if text.isdecimal() else text or None


def _print_table(result: Mapping[str, Any]) -> None:
    from effbench.units import human_bytes, percent

    parity, unit = result["parity"], result["input"]["name"]
    opset = f" (opset {result['opset']})" if result["opset"] else ""
    which = parity["split"] or "random"
    lines = {
        "format": f"{result['format']}{opset}",
        "file": result["path"],
        "size": human_bytes(result["bytes"]),
        **_batch(result["input"]),
        **_lengths(result["input"]),
        "parity": f"{parity['relative']:.2g} of the largest logit ({parity['largest_logit']:.3g})",
        "same answers": f"{percent(parity['agreement'])} of {parity['samples']} {which} {unit}",
    }
    for name, text in lines.items():
        # The path is the user's and may hold control characters.
        print(f"{name:<16} {for_terminal(text)}")


def _batch(given: Mapping[str, Any]) -> dict[str, str]:
    """Return the line about the samples of a call, for files that take a limited number."""
    if "batch" not in given:
        return {}
    most = given["batch"]["most"]
    return {"batch": f"{f'1 to {most}' if most > 1 else 'exactly 1'} (max_batch); effbench computes more in parts"}


def _lengths(given: Mapping[str, Any]) -> dict[str, str]:
    """Return the line about the length of a sample, for files whose samples have one."""
    if "lengths" not in given:
        return {}
    least, most = given["lengths"]["least"], given["lengths"]["most"]
    return {"tokens": f"{least} to {most}" if least < most else f"exactly {most}, padding included"}
