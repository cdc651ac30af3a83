"""`effbench bench` as a function: what to measure, checked before torch is imported, then the record and its files."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from effbench.bench.options import BenchOptions, note_device
from effbench.cache_dir import expanded, is_file, is_folder
from effbench.config.arguments import check_list, check_path, check_text, check_texts_by_key
from effbench.config.compose import compose
from effbench.errors import ConfigError
from effbench.records import read_summary
from effbench.report.compression import compressed_file

if TYPE_CHECKING:
    from effbench.bench.sources import Source

FOLDER = "bench"  # in the run's folder; beside an exported file, with a folder for each file


def bench(
    target: str | Path,
    options: BenchOptions | None = None,
    checkpoint: str = "best",
    output: str | Path = "",
    data_overrides: Mapping[str, str] | None = None,
    allow_targets: Sequence[str] = (),
    trust: bool = False,
) -> dict[str, Any]:
    """Measure the inference of a run, or of an exported file, with each backend.

    Args:
        target: a run folder, or an exported file that has its .json record beside it.
        options: how to measure; None: the defaults.
        checkpoint: of a run: 'best', 'last' or the name of a checkpoint.
        output: folder of bench.json, bench.csv and bench.svg; '' is bench/ in the run, or bench/FILE beside the file.
        data_overrides: data keys that replace the run's, as text: {'root': 'DIR'}.
        allow_targets: the user's modules that a _target_ may name.
        trust: run a file that is a program (effbench.export.formats.PROGRAMS).

    Returns:
        The content of bench.json, with `path` of that file.

    Raises:
        ConfigError: the target or an option is wrong, or the file is not the record's.
        EffbenchError: no backend works.
    """
    check_path("target", target)
    check_text("checkpoint", checkpoint)
    check_path("output", output)
    check_texts_by_key("data_overrides", data_overrides, "{'root': 'DIR'}")
    check_list("allow_targets", allow_targets, str, "a list of modules, ['mylab.models']")
    chosen, data = options or BenchOptions(), dict(data_overrides or {})
    path = expanded(target)
    # files of one folder, such as the formats of a run, have a result each
    own = path / FOLDER if is_folder(path) else path.parent / FOLDER / path.name
    folder = expanded(output) if output else own
    if is_file(path):
        if checkpoint != "best":
            raise ConfigError("checkpoint is of a run: an exported file has its own. Leave it out.")
        return _measured(lambda: _of_file(path, trust, data, allow_targets, chosen.samples), chosen, folder)
    if trust:
        raise ConfigError("trust is for an exported file that is a program; a run needs none. Leave it out.")
    read_summary(path)  # names a folder that holds no run
    if (quantized := compressed_file(path)) is not None:
        if checkpoint != "best":
            raise ConfigError(f"{path} is quantized and holds one checkpoint. Leave checkpoint={checkpoint} out.")
        return _measured(lambda: _quantized(path, quantized, data, allow_targets, chosen.samples), chosen, folder)
    return _measured(lambda: _of_run(path, checkpoint, data, allow_targets, chosen.samples), chosen, folder)


# Each imports torch, so that it is called after all checks.


def _of_file(path: Path, trust: bool, data: Mapping[str, str], allow_targets: Sequence[str], count: int) -> Source:
    """Return an exported file as a source; see `file_source`."""
    from effbench.export.opening import open_export

    file = open_export(path, trust)
    from effbench.bench.sources import file_source

    return file_source(file, data, allow_targets, count)


def _of_run(path: Path, checkpoint: str, data: Mapping[str, str], allow_targets: Sequence[str], count: int) -> Source:
    """Return a run as a source; see `run_source`."""
    from effbench.bench.sources import run_source
    from effbench.run.load import load_run

    note_device(load_run(path, allow_targets).config)
    return run_source(path, checkpoint, data, allow_targets, count)


def _quantized(path: Path, file: Path, data: Mapping[str, str], allow_targets: Sequence[str], count: int) -> Source:
    """Return the file of a quantized run as a source; see `quantized_source`."""
    from effbench.bench.sources import quantized_source
    from effbench.export.opening import open_export

    return quantized_source(path, open_export(file), data, allow_targets, count)


def bench_untrained(
    overrides: Sequence[str],
    options: BenchOptions | None = None,
    output: str | Path = "",
    config_dir: str | None = None,
) -> dict[str, Any]:
    """Measure a model as it is built, with untrained weights.

    Args:
        overrides: of a config, such as model=swin.
        options: how to measure; None: the defaults.
        output: folder of the files; '' writes none.
        config_dir: folder with the user's groups.

    Returns:
        The content of bench.json, with `path` of that file if it was written.
    """
    check_path("output", output)
    config, chosen = compose(overrides, config_dir), options or BenchOptions()
    note_device(config)

    def untrained() -> Source:
        from effbench.bench.sources import untrained_source

        return untrained_source(config, chosen.samples)

    return _measured(untrained, chosen, expanded(output) if output else None)


def _measured(make: Callable[[], Source], options: BenchOptions, folder: Path | None) -> dict[str, Any]:
    """Measure a source and return the record.

    Args:
        make: returns the source.
        options: how to measure.
        folder: of the files; None: none are written.
    """
    from effbench.bench.record import NAMES, taken, write_record

    with taken(folder, NAMES):
        source = make()
        from effbench.bench.run import bench_source

        record = bench_source(source, options)
        if folder is None:
            return record
        write_record(folder, record)
    return {**record, "path": str(folder / "bench.json")}
