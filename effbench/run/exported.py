"""Load an exported file in place of a run: with the folder of its run, or with its record alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from effbench.cache_dir import expanded
from effbench.config.compose import parse
from effbench.config.versions import upgraded
from effbench.errors import ConfigError
from effbench.export.files import record_path
from effbench.export.opening import Opened
from effbench.run.exported_run import ExportedRun
from effbench.run.load import load_run


def exported_with_run(opened: Opened, run: str, allow_targets: Sequence[str]) -> ExportedRun:
    """Return the file with the config and the data of its run, as `eval` needs them.

    Args:
        opened: the file.
        run: folder of the run; '' for the one that the record names.
        allow_targets: the user's modules that a _target_ may name.

    Raises:
        ConfigError: the folder holds no run, or one of other classes or samples.
    """
    # An export is in RUN/export by default: it is still there after RUN was moved or copied.
    places = [expanded(run)] if run else [expanded(opened.record["run"]), opened.path.resolve().parent.parent]
    folder = next((place for place in places if run or (place / "summary.json").is_file()), None)
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
