"""Load an exported file in place of a run: with the folder of its run, or with its record alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from effbench.cache_dir import expanded, is_file
from effbench.config.compose import parse
from effbench.config.versions import upgraded
from effbench.errors import ConfigError
from effbench.export.files import record_path
from effbench.export.opening import Opened
from effbench.run.exported_run import ExportedRun
from effbench.run.load import load_run
from effbench.training.manifest import stated_digest


def run_folder(opened: Opened) -> Path | None:
    """Return the folder of the run that a file was exported from; None if no run is there.

    It is the folder that the record names, or the one above export/: the file is still there after RUN was moved or
    copied. If both hold a run, it is the one with the file's weights, since a relative path leads to another run from
    another folder; if neither has them, or the record does not say which they are, the first.
    """
    record = opened.record
    places = [expanded(record["run"]), opened.path.resolve().parent.parent]
    there = [place for place in places if is_file(place / "summary.json")]
    digest = record.get("weights_sha256")
    same = (place for place in there if digest and stated_digest(place, record["checkpoint"].get("name")) == digest)
    return next(same, there[0] if there else None)


def exported_with_run(opened: Opened, run: str, allow_targets: Sequence[str]) -> ExportedRun:
    """Return the file with the config and the data of its run, as `eval` needs them.

    Args:
        opened: the file.
        run: folder of the run; '' for the one that the record names.
        allow_targets: the user's modules that a _target_ may name.

    Raises:
        ConfigError: the folder holds no run, or one of other classes or samples.
    """
    folder = expanded(run) if run else run_folder(opened)
    if folder is None:
        raise ConfigError(
            f"{opened.path} was exported from the run {opened.record['run']}, which is not there. eval reads the data "
            "that the run's config names: say where its folder is now with run=FOLDER."
        )
    found = load_run(folder, allow_targets)
    own, theirs = opened.record.get("data"), found.data
    for key in ("classes", "shape"):
        if isinstance(own, Mapping) and own.get(key) != theirs[key]:
            raise ConfigError(f"{opened.path} was exported from another run than {folder}: data.{key} differs.")
    return ExportedRun(found.folder, found.config, opened)


def exported_alone(opened: Opened, allow_targets: Sequence[str]) -> ExportedRun:
    """Return the file with what its record says of its run, as `predict` needs it.

    Args:
        opened: the file.
        allow_targets: the user's modules that a _target_ may name.

    Raises:
        ConfigError: the record is incomplete.
    """
    place = record_path(opened.path)
    config, data = opened.record.get("config"), opened.record.get("data")
    if not isinstance(config, Mapping) or not isinstance(data, Mapping):
        raise ConfigError(
            f"{place} does not hold the run's config and data: an older effbench wrote it, or it is damaged. Name its "
            "run with run=FOLDER, or export the run again."
        )
    # The record may be a stranger's: it names no modules to import, and calls nothing.
    plain = {**upgraded({**config, "allow_targets": []}, str(place)), "callbacks": {}}
    checked = parse({**plain, "allow_targets": list(allow_targets)})
    metrics = {"metrics": opened.record.get("metrics") or {}}
    return ExportedRun(opened.path.parent, checked, opened, {"data": dict(data), "task": metrics})
