"""Export a run's model for another runtime, after a check that the file gives the same answers."""

from __future__ import annotations

import logging
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from effbench.cache_dir import expanded
from effbench.config.arguments import check_texts_by_key
from effbench.config.options import BOOL
from effbench.errors import ConfigError, EffbenchError, ThresholdError
from effbench.export.formats import FORMATS, require_libraries
from effbench.export.interface import OUTPUT, RECORD_SCHEMA, unfit_reason
from effbench.metrics import as_recorded
from effbench.records import check_replaceable
from effbench.run.compared import compared_samples
from effbench.run.export_options import TOLERANCE, Wanted
from effbench.run.load import load_run, with_data
from effbench.run.lock import holding
from effbench.training.manifest import weights_digest

if TYPE_CHECKING:
    from torch import Tensor, nn

    from effbench.export.interface import Forward
    from effbench.export.parity import Parity
    from effbench.run.run import Run

Side = Callable[[dict[str, Any]], "str | bytes | None"]  # record of a file -> content of a side file; None: none
log = logging.getLogger(__name__)

SAMPLES, LEAST_SAMPLES = 256, 8  # of the comparison
# Over all samples of the comparison: a second or two of one core. A wrong file differs on any sample, so that more of
# them for a large model would only take longer than the export itself (256 of ResNet-18 at 224 px: five times).
COMPARED_MACS = 20 * 10**9


def export_run(
    folder: str | Path,
    format_name: str = "onnx",
    checkpoint: str = "best",
    output: str | Path = "",
    tolerance: float = TOLERANCE,
    data_overrides: Mapping[str, str] | None = None,
    allow_targets: Sequence[str] = (),
    opset: int | None = None,
    no_data: bool = False,
    layout: str = "file",
    max_batch: int | None = None,
) -> dict[str, Any]:
    """Export a run's model and check it.

    Args:
        folder: the run folder.
        format_name: a key of effbench.export.formats.FORMATS.
        checkpoint: 'best', 'last' or the name of a checkpoint.
        output: folder of the file; '' is RUN/export.
        tolerance: largest difference of a logit, as a fraction of the largest logit.
        data_overrides: data keys that replace the run's, as text: {'root': 'DIR'}.
        allow_targets: the user's modules that a _target_ may name.
        opset: ONNX operator set, 18 to 25, for format 'onnx'; None is 20.
        no_data: compare on random inputs, a weaker check, so that the run's data need not be there.
        layout: 'file', or 'huggingface' for a folder as the Hugging Face Hub takes it.
        max_batch: most samples of a call, 1 to 4096, for format 'executorch'; None is 32.

    Returns:
        The content of the .json record, and `path` of the file.

    Raises:
        ThresholdError: the exported file does not give the model's answers.
    """
    BOOL.check(no_data, "no_data")
    check_texts_by_key("data_overrides", data_overrides, "{'root': 'DIR'}")
    data_keys = tuple(data_overrides or ())
    wanted = Wanted(format_name, checkpoint, output, tolerance, opset, not no_data, layout, max_batch, data_keys)
    if no_data and data_overrides:
        raise ConfigError(f"--no-data reads no data, so data.{next(iter(data_overrides))} has no use. Leave one out.")
    # torch is imported only now: a mistyped folder or key is reported at once
    return export_loaded(with_data(load_run(folder, allow_targets), dict(data_overrides or {}), "cpu"), wanted)


def export_loaded(run: Run, wanted: Wanted) -> dict[str, Any]:
    """Export a loaded run; see `export_run`."""
    from effbench import build
    from effbench.export.files import ELSEWHERE, record_path

    # Before the model is read and traced: a missing extra, and what cannot work, are named at once.
    check_fits(run, wanted.format_name)
    require_libraries(wanted.format_name)
    if run.on_cpu:  # its model is a file already
        from effbench.run.export_file import export_file

        return export_file(run, wanted)
    # For what it sets besides the device: threads and determinism.
    build.device(run.config)
    saved = run.checkpoint(wanted.checkpoint).resolve()  # once: a run in training moves `best` and `last`
    target = _target(run, wanted, FORMATS[wanted.format_name].suffix)
    # Before the model is read, so that a folder that cannot be written is refused at once. File and record are replaced
    # one after the other; with two exports at once they could be of different ones.
    with holding(target.parent, ELSEWHERE):
        model, manifest = run.model_and_manifest(saved.name)
        sides = _sides(run, model, target, wanted.layout)
        check_replaceable([target, record_path(target), *sides], ELSEWHERE)
        origin = {
            "checkpoint": {"name": wanted.checkpoint, "step": manifest["step"]},
            "weights_sha256": weights_digest(manifest),
        }
        facts = _freest(_writer(run, model, target, wanted, origin, sides), run, target.name)
    return {**facts, "path": str(target)}


def check_fits(run: Run, format_name: str, asked: str = "", other: str = "format=onnx") -> None:
    """Raise ConfigError if files of a format cannot give the answers of the run's model.

    Args:
        run: the run.
        format_name: a key of FORMATS.
        asked: the option that asked for it, for the message; '' is format=NAME.
        other: an option that works.
    """
    from effbench.target_allowlist import resolve

    section = run.config.model
    if reason := unfit_reason(format_name, resolve("model", section.target, run.config.allow_targets)):
        asked = asked or f"format={format_name}"
        raise ConfigError(f"{asked} cannot hold model={section.label}: {reason}. Take {other}.")


def _writer(
    run: Run, model: nn.Module, target: Path, wanted: Wanted, origin: Mapping[str, Any], sides: Mapping[Path, Side]
) -> Callable[[str | None], dict[str, Any]]:
    """Return a function that writes the file for a free dimension, or for none, compares it, and returns its record."""
    from effbench.export.files import publish_file

    which, samples = _samples(run, wanted)
    unit = run.modality().unit
    if not wanted.compare_data:
        log.info(
            f"note: compared on {len(samples)} random inputs only (--no-data): that the file computes what the model "
            f"does is shown for noise, not for {unit}s of the run's data"
        )

    def written(free_length: str | None) -> dict[str, Any]:
        with _timed(f"exporting {target.name}"):
            content = _content(run, model, wanted, free_length)

        def check(path: Path) -> dict[str, Any]:
            parity = {"inputs": "samples" if which else "random", "split": which, "tolerance": wanted.tolerance}
            parity |= _parity(run, model, wanted, path, samples, free_length)
            return {**_facts(run, wanted, free_length), **origin, "parity": parity}

        with _timed(f"comparing on {len(samples)} {which or 'random'} {unit}s"):
            return publish_file(target, content, check, sides)

    return written


def _sides(run: Run, model: nn.Module, target: Path, layout: str) -> dict[Path, Side]:
    """Return path -> maker of each file that belongs to the export."""
    from effbench.export.card import model_card
    from effbench.export.card_words import with_words
    from effbench.export.huggingface import config_json, safetensors
    from effbench.export.script import predict_script
    from effbench.report.before_after import card_lines

    lines = card_lines(run.folder)
    hub = layout == "huggingface"

    def named(name: str) -> Path:
        # in a folder of its own a side file has its plain name
        return target.with_name(name if hub else f"{target.name}.{name}")

    program, card = named("predict.py"), named("README.md")
    sides: dict[Path, Side] = {
        program: lambda facts: predict_script(facts, program.name),
        card: lambda facts: with_words(model_card(facts, run.summary, hub, lines), card),
    }
    if hub:
        sides |= {named("config.json"): config_json, named("model.safetensors"): lambda _: safetensors(model)}
    return sides


def _freest(written: Callable[[str | None], dict[str, Any]], run: Run, name: str) -> dict[str, Any]:
    """Return the record of a file for samples of any length; if that fails, for samples of one length.

    Args:
        written: (name of the free dimension or None) -> the record of the file.
        run: the run.
        name: of the file, for the log.
    """
    modality = run.modality()
    length = modality.shape[0]
    if modality.free_length is None or length == 1:
        return written(None)
    try:
        return written(modality.free_length)
    except EffbenchError as error:
        # others, such as a full disk, say nothing about lengths
        if type(error) not in (EffbenchError, ThresholdError):
            raise
        log.debug(str(error))
    facts = written(None)
    log.info(
        f"note: {name} takes {modality.unit}s of exactly {length} tokens, padding included: this model cannot be "
        f"exported to format={facts['format']} with a free length"
    )
    return facts


def _target(run: Run, wanted: Wanted, suffix: str) -> Path:
    """Return the path of the file, such as mobilenet_v3_small-best.onnx."""
    folder = expanded(wanted.output) if wanted.output else run.folder / "export"
    name = f"{_file_name(run.config.model.label)}-{_file_name(wanted.checkpoint)}"
    if wanted.layout == "huggingface":  # a folder of its own: a README.md of the user's is never replaced
        folder /= f"{name}-huggingface"
    target = folder / f"{name}{suffix}"
    # in a run folder, which may be untrusted, a link is replaced instead
    is_link = os.path.islink(target)  # noqa: PTH114 - Path's raises where a folder above may not be entered
    return target.resolve() if wanted.output and is_link else target


def _file_name(text: str) -> str:
    # A label is a user's option, such as timm's name, and may hold a slash.
    return re.sub(r"[^\w.-]", "_", text)


def _content(run: Run, model: nn.Module, wanted: Wanted, free_length: str | None) -> bytes:
    from effbench.export.formats import export_bytes
    from effbench.export.portable import portable

    modality = run.modality()
    whole = portable(model, modality.normaliser(), run.task.rescaler())
    name = modality.export_facts()["input"]["name"]
    example = modality.portable_example()
    return export_bytes(wanted.format_name, whole, example, name, free_length, wanted.opset, wanted.max_batch)


def samples_for(macs: int | None) -> int:
    """Return how many samples are compared. macs: of the model for one sample; None if they are not known."""
    return max(LEAST_SAMPLES, min(SAMPLES, COMPARED_MACS // macs)) if macs else SAMPLES


def _samples(run: Run, wanted: Wanted) -> tuple[str | None, Tensor]:
    """Return (split, samples as the file takes them): a sample of validation, or else of train; (None, random ones)."""
    count = samples_for(run.summary["model"]["macs"])
    if not wanted.compare_data:
        return None, run.modality().random_portable(count)
    which, samples, _ = compared_samples(run, count)
    return which, samples


def _parity(
    run: Run, model: nn.Module, wanted: Wanted, path: Path, samples: Tensor, free_length: str | None
) -> dict[str, Any]:
    """Compare the file at `path` with the model.

    Args:
        run: the run.
        model: its model.
        wanted: format and tolerance.
        path: the file.
        samples: as the file takes them.
        free_length: name of the free dimension; with it several lengths are compared.

    Raises:
        ThresholdError: the answers differ.
    """
    from effbench.export.formats import load_exported
    from effbench.export.parity import require

    exported = load_exported(wanted.format_name, path)
    parity = compared(run, model, exported, samples, free_length)
    require(parity, wanted.tolerance, f"format={wanted.format_name}", run.modality().unit)
    return {**parity.facts(), "runtime_options": dict(FORMATS[wanted.format_name].runtime_options)}


def compared(run: Run, model: nn.Module, exported: Forward, samples: Tensor, free_length: str | None) -> Parity:
    """Compare a file, as its runtime executes it, with the model of the run.

    Args:
        run: the run.
        model: its model.
        exported: the file.
        samples: as the file takes them.
        free_length: name of the free dimension; with it several lengths are compared.
    """
    from effbench.export.parity import compare, lengths_of

    modality, rescaler = run.modality(), run.task.rescaler()
    # the batch size of evaluation fits the memory
    size = run.config.data.eval_batch_size
    lengths = lengths_of(samples.shape[1]) if free_length else ()
    return compare(
        lambda batch: rescaler(model(modality.normalise(batch))), exported, samples, size, run.task.same_answer, lengths
    )


def _facts(run: Run, wanted: Wanted, free_length: str | None) -> dict[str, Any]:
    """Return what a user of the file must know.

    Args:
        run: the run.
        wanted: format and operator set.
        free_length: name of the free dimension of a sample.
    """
    from effbench.report.environment import version_of
    from effbench.run.compressed import channels_of

    format_name = wanted.format_name
    modality = run.modality()
    about = modality.export_facts()
    if modality.free_length:
        most = modality.shape[0]
        about["input"]["shape"][1] = free_length or most
        about["input"]["lengths"] = {"least": 1 if free_length else most, "most": most}
    if wanted.most_samples:
        about["input"]["batch"] = {"least": 1, "most": wanted.most_samples}
    costs = {key: run.summary["model"][key] for key in ("parameters", "macs")}
    return {
        "schema_version": RECORD_SCHEMA,
        "format": format_name,
        "opset": wanted.opset or FORMATS[format_name].opset,
        "input": about["input"],
        "preprocessing": about["preprocessing"],
        "output": {
            "name": OUTPUT,
            "shape": ["N", *_output_sides(run, free_length)],
            "dtype": "float32",
        },
        "task": {"name": run.task.label, "targets": run.task.kind if _is_shipped(run.task) else None},
        "probabilities": run.task.answer,
        "normalisation_inside": about["normalisation_inside"],
        "rescaling_inside": run.task.record() or None,  # of outputs into the unit of the targets
        "classes": list(run.classes),
        "model": {"name": _file_name(run.config.model.label), **costs},
        "channels": channels_of(run.folder),  # of a pruned model, which its config alone does not give
        "run": str(run.folder),
        "data": _data_of(run),
        "metrics": as_recorded(run.task.displays),
        "config": _config_of(run),
        "versions": {name: version_of(name) for name in ("effbench", *FORMATS[format_name].libraries)},
    }


def _output_sides(run: Run, free_length: str | None) -> list[int | str]:
    """Return the shape of a sample's output; a side that grows with the length of the sample has its name."""
    whole = run.task.output_shape(run.shape, len(run.classes))
    if free_length is None:
        return list(whole)
    shorter = run.task.output_shape((run.shape[0] - 1, *run.shape[1:]), len(run.classes))
    return [side if side == other else free_length for side, other in zip(whole, shorter, strict=True)]


def _data_of(run: Run) -> dict[str, Any]:
    """Return what the summary says of the data, without the folder of its file, which older runs recorded."""
    file = run.data.get("file")
    return {**run.data, **({"file": Path(file).name} if isinstance(file, str) else {})}


def _config_of(run: Run) -> dict[str, Any]:
    """Return the run's config as its config.yaml has it, without paths of this machine."""
    from effbench.config.versions import stamped
    from effbench.config.words import PATHS

    content = stamped({**run.config.to_dict(), "resume": None, "allow_targets": [], "callbacks": {}})
    for section, keys in PATHS.items():
        if isinstance(part := content.get(section), dict):
            content[section] = {key: None if key in keys else value for key, value in part.items()}
    tokenizer = content["data"].get("tokenizer")
    if isinstance(tokenizer, str) and ("/" in tokenizer or tokenizer.endswith(".json")):
        content["data"]["tokenizer"] = "tokenizer.json"  # its content is in `data`
    return content


def _is_shipped(task: object) -> bool:
    # a user's task may give its outputs another meaning
    return type(task).__module__.startswith("effbench.")


@contextmanager
def _timed(what: str) -> Iterator[None]:
    """Log the duration of the block."""
    begun = time.perf_counter()
    yield
    log.info(f"{what}: {time.perf_counter() - begun:.1f} s")
