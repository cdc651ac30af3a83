"""What is measured: the model of a run, an exported file, or a model with weights that were never trained."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from effbench import build
from effbench.bench.answers import held_samples
from effbench.bench.file_task import task_of_record
from effbench.config.schema import Config
from effbench.errors import ConfigError, EffbenchError, first_line
from effbench.export.opening import Opened, output_sides
from effbench.export.portable import Portable, portable
from effbench.models import accounting
from effbench.report.compression import compressed_file, read_compression
from effbench.report.cost import read_setting
from effbench.run.compared import compared_data, samples_of
from effbench.run.exported import exported_with_run, run_folder
from effbench.run.load import load_run, with_data
from effbench.run.validate import own_setting
from effbench.training.checkpoint_files import read_manifest
from effbench.training.manifest import stated_digest, weights_digest

if TYPE_CHECKING:
    from effbench.run.run import Run
    from effbench.tasks.task import Task

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Source:
    """What is measured.

    Attributes:
        facts: kind ('run', 'file' or 'model') and what else the record says of it.
        samples: as an exported file takes them.
        unit: the word for a sample.
        model: the portable model; None for a file whose run is not there.
        files: kind of file -> the file, for an exported file.
        targets: of the samples; None: accuracy is not reported.
        split: that the samples are of; None for random ones.
        task: of the model; None if it is not known.
        no_accuracy: why accuracy is not reported; '' where it is.
        free_length: name of a sample's first dimension if `effbench export` leaves it free; None if it is fixed.
    """

    facts: Mapping[str, Any]
    samples: Tensor
    unit: str
    model: Portable | None = None
    files: Mapping[str, Path] = field(default_factory=dict)
    targets: Tensor | None = None
    split: str | None = None
    task: Task | None = None
    no_accuracy: str = ""
    free_length: str | None = None


def run_source(
    folder: str | Path, checkpoint: str, data: Mapping[str, str], allow_targets: Sequence[str], count: int
) -> Source:
    """Return the model of a run with samples of its validation split.

    Args:
        folder: the run folder.
        checkpoint: 'best', 'last' or the name of a checkpoint.
        data: data keys that replace the run's, as text.
        allow_targets: the user's modules that a _target_ may name.
        count: at most so many samples.
    """
    return source_of(with_data(load_run(folder, allow_targets), dict(data), "cpu"), checkpoint, count)


def source_of(run: Run, checkpoint: str, count: int) -> Source:
    """Return the model of a loaded run with samples of its validation split.

    Args:
        run: the run, with checkpoints.
        checkpoint: 'best', 'last' or the name of a checkpoint.
        count: at most so many samples.
    """
    saved = run.checkpoint(checkpoint).resolve()  # once: a run in training moves `best` and `last`
    data, which, samples, targets = _compared(run, count)
    costs = {key: run.summary["model"][key] for key in ("parameters", "macs")}
    manifest = read_manifest(saved)
    facts = {
        "kind": "run",
        "run": str(run.folder),
        "checkpoint": {"name": checkpoint, "step": manifest["step"]},
        "weights_sha256": weights_digest(manifest),
        "model": {"name": run.config.model.label, **costs},
        "data": data,
    }
    modality = run.modality()
    return Source(
        facts, samples, modality.unit, _model_of(run, saved.name), {}, targets, which, run.task,
        free_length=modality.free_length if modality.shape[0] > 1 else None,
    )  # fmt: skip


def _compared(run: Run, count: int) -> tuple[dict[str, str], str, Tensor, Tensor]:
    """Return (name and sha256 of the data, which may not be the run's own; then as `compared_samples`).

    Args:
        run: the run.
        count: at most so many samples.
    """
    data = compared_data(run)
    which, samples, targets = samples_of(run, data, _held(run, count))
    # `effbench report` tells other data's answers from the run's by them
    return {"name": data.name, "sha256": data.sha256}, which, samples, targets


def _held(run: Run, count: int) -> int:
    shape = run.task.output_shape(run.shape, len(run.classes))
    return held_samples(count, shape, run.modality().unit)


def _model_of(run: Run, checkpoint: str) -> Portable:
    return portable(run.model(checkpoint), run.modality().normaliser(), run.task.rescaler())


def untrained_source(config: Config, count: int) -> Source:
    """Return a model as it is built, with weights that were never trained, and random samples."""
    setting = own_setting(config)
    if setting.modality.provisional:  # the model of a run has the size of the fitted vocabulary
        setting = read_setting(config)
    modality = setting.modality
    # latency does not depend on the values of weights, so nothing is downloaded
    section = config.model.model_copy(update={"pretrained": None, "freeze": []})
    torch.manual_seed(config.seed)
    plain = build.model(config.model_copy(update={"model": section}), setting.num_classes, modality)
    model = portable(plain.eval(), modality.normaliser())
    costs = {
        "parameters": accounting.parameters(plain).total,
        "macs": accounting.macs(plain, setting.example).macs,
    }
    facts = {"kind": "model", "setting": str(setting), "model": {"name": config.model.label, **costs}}
    task = build.task_of(config, setting.num_classes)
    held = held_samples(count, task.output_shape(modality.shape, setting.num_classes), modality.unit)
    samples = _like(modality.portable_example(), held)
    free = modality.free_length if modality.shape[0] > 1 else None
    untrained = "the weights are untrained"
    return Source(facts, samples, modality.unit, model, task=task, no_accuracy=untrained, free_length=free)


def _like(example: Tensor, count: int) -> Tensor:
    """Return `count` random samples of the shape and type of the example."""
    generator = torch.Generator().manual_seed(0)
    shape = (count, *example.shape[1:])
    if example.is_floating_point():
        return torch.rand(shape, generator=generator)
    # token numbers: those of the example
    least, most = (int(value) for value in example.aminmax())
    return torch.randint(least, most + 1, shape, generator=generator, dtype=example.dtype)


# what a run's folder that is gone, damaged, or a stranger's raises
_UNREADABLE = (EffbenchError, OSError, KeyError, TypeError)


def file_source(file: Opened, data: Mapping[str, str], allow_targets: Sequence[str], count: int) -> Source:
    """Return an exported file, with its run's model and samples where the run is there, else with random samples.

    Args:
        file: the file with its record, read and checked.
        data: data keys that replace the run's, as text.
        allow_targets: the user's modules that a _target_ may name.
        count: at most so many samples.
    """
    try:
        folder = _run_of(file)
        if compressed_file(folder) is not None:  # the file lies in it, and the run before is not where its record says
            return quantized_source(folder, file, data, allow_targets, count)
        return _beside_run(folder, file, data, allow_targets, count)
    except _UNREADABLE as error:
        if data:  # asked for: the reason matters
            raise
        log.info(f"note: accuracy is not reported, because the file's run cannot be read: {error}")
    unit = str(file.record["input"]["name"]).removesuffix("s")
    samples = _of_record(file, held_samples(count, output_sides(file.record), unit))
    facts, files = _of_file(file)
    task, why = task_of_record(file.record), "the file's run cannot be read"
    return Source(facts, samples, unit, files=files, task=task, no_accuracy=why)


def _beside_run(
    folder: Path, file: Opened, data: Mapping[str, str], allow_targets: Sequence[str], count: int
) -> Source:
    """Return an exported file with the model and the samples of a run; without the model if it has other weights.

    Args:
        folder: of the run.
        file: the file with its record.
        data: data keys that replace the run's, as text.
        allow_targets: the user's modules that a _target_ may name.
        count: at most so many samples.
    """
    exported_with_run(file, str(folder), allow_targets).check_sides()
    own = run_source(folder, file.record["checkpoint"]["name"], data, allow_targets, count)
    facts, files = _of_file(file)
    facts["data"] = own.facts["data"]
    if other := _other_weights(file.record, own.facts):
        log.info(f"note: {other}: export again for a comparison with the run's model")
        return Source(facts, own.samples, own.unit, None, files, own.targets, own.split, own.task)
    return Source(facts, own.samples, own.unit, own.model, files, own.targets, own.split, own.task)


def _of_file(file: Opened) -> tuple[dict[str, Any], dict[str, Path]]:
    """Return (what a record says of a file, its format -> the file)."""
    # the record may be a stranger's, without the model's name
    model = {"name": file.path.name, **file.record["model"]}
    kind = str(file.record["format"])
    return {"kind": "file", "file": str(file.path), "format": kind, "model": model}, {kind: file.path}


def _run_of(file: Opened) -> Path:
    """Return the folder of the run that a file was exported from. Raises ConfigError if it is not there."""
    folder = run_folder(file)
    if folder is None:
        raise ConfigError(f"{file.record['run']} is not a run: there is no such folder, or it holds no summary.json.")
    return folder


def _other_weights(record: Mapping[str, Any], trained: Mapping[str, Any]) -> str | None:
    """Return in words that an exported file has other weights than a run's checkpoint; None if it has the same.

    Args:
        record: of the file.
        trained: facts of the run's checkpoint.
    """
    step, exported = trained["checkpoint"]["step"], record["checkpoint"].get("step")
    digest = record.get("weights_sha256")
    # a record of an older effbench has only the step
    if (step == exported) if digest is None else (trained["weights_sha256"] == digest):
        return None
    if step != exported:
        return f"the file is of step {exported} and the run's checkpoint of step {step}"
    return f"the file has other weights than the run's checkpoint, though both are of step {step}"


def quantized_source(
    folder: Path, file: Opened, data: Mapping[str, str], allow_targets: Sequence[str], count: int
) -> Source:
    """Return the file of a quantized run, with samples of the run's data, and the model before where its run is there.

    Args:
        folder: of the quantized run.
        file: its file.
        data: data keys that replace the run's, as text.
        allow_targets: the user's modules that a _target_ may name.
        count: at most so many samples.
    """
    before = _run_before(folder)
    why = "the run before is not there, or has other weights now"
    if before is not None:
        try:
            return _beside_run(before, file, data, allow_targets, count)
        except _UNREADABLE as error:
            if data:  # asked for: the reason matters
                raise
            why = f"the run before cannot be read ({first_line(error)})"
    log.info(f"note: {why}: answers are compared with those of the first backend")
    run = with_data(load_run(folder, allow_targets), dict(data), "cpu")
    compared, which, samples, targets = _compared(run, count)
    facts, files = _of_file(file)
    facts["data"] = compared
    return Source(facts, samples, run.modality().unit, None, files, targets, which, run.task)


def _run_before(folder: Path) -> Path | None:
    """Return the run that a quantized one was made of; None if it is not there with the same weights."""
    source = (read_compression(folder) or {}).get("source")
    if source is None:
        return None
    before, checkpoint, digest = folder / source["run"], source.get("checkpoint"), source.get("weights_sha256")
    name = checkpoint.get("name") if isinstance(checkpoint, Mapping) else None
    return before if digest is not None and stated_digest(before, name) == digest else None


def _of_record(file: Opened, count: int) -> Tensor:
    """Return random samples of the shape that the record states."""
    given = file.record["input"]
    most = given.get("lengths", {}).get("most")
    sides = [side if isinstance(side, int) else most for side in given["shape"][1:]]
    floating = str(given["dtype"]).startswith("float")
    # 2: token numbers 0 and 1 are in every vocabulary
    return _like(torch.rand(1, *sides) if floating else torch.arange(2).repeat(1, *sides)[:, : sides[0]], count)
