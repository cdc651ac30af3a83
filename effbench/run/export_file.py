"""Export a quantized run: its file is copied, with what else an export has beside it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from effbench.cache_dir import expanded
from effbench.errors import ConfigError
from effbench.export.files import ELSEWHERE, publish_file, publish_sides, record_path
from effbench.records import check_replaceable
from effbench.run.export_options import TOLERANCE
from effbench.run.exported_run import ExportedRun
from effbench.run.lock import holding

if TYPE_CHECKING:
    from effbench.run.export_options import Wanted
    from effbench.run.run import Run

_OF_FILE = ("file", "bytes", "sha256")  # of its record, which publish_file writes anew


def export_file(run: Run, wanted: Wanted) -> dict[str, Any]:
    """Copy the file of a quantized run, with a model card and a program; see `export_run`.

    Raises:
        ConfigError: another format or layout was asked for than the file has, or something that would do nothing.
    """
    assert isinstance(run, ExportedRun)
    record, file = run.opened.record, run.opened.path
    _check(run.folder, record["format"], record.get("opset"), wanted)
    target = (expanded(wanted.output) if wanted.output else file.parent) / file.name
    sides = _sides(run, target)
    kept = {key: value for key, value in record.items() if key not in _OF_FILE}
    check_replaceable([target, record_path(target), *sides], ELSEWHERE)
    with holding(target.parent, ELSEWHERE):
        if target.resolve() == file.resolve():
            # the run's only file stays as it is: a kill while it is replaced would leave the run without its record
            publish_sides(record, sides)
            return {**record, "path": str(target)}
        facts = publish_file(target, file.read_bytes(), lambda _: kept, sides)
    return {**facts, "path": str(target)}


def write_beside(run: Run) -> None:
    """Write what an export has beside its file, a model card and a program, beside the file of a quantized run."""
    assert isinstance(run, ExportedRun)
    publish_sides(run.opened.record, _sides(run, run.opened.path))


def _sides(run: ExportedRun, target: Path) -> dict[Path, Callable[[dict[str, Any]], str | None]]:
    """Return side file -> function of the record that returns its text, or None for no such file."""
    from effbench.export.card import model_card
    from effbench.export.card_words import with_words
    from effbench.export.script import predict_script
    from effbench.report.before_after import card_lines

    program, card = (target.with_name(f"{target.name}.{name}") for name in ("predict.py", "README.md"))
    lines = card_lines(run.folder)
    return {
        program: lambda facts: predict_script(facts, program.name),
        card: lambda facts: with_words(model_card(facts, run.summary, False, lines), card),
    }


def _check(folder: Path, format_name: str, opset: int | None, wanted: Wanted) -> None:
    if wanted.format_name != format_name:
        raise ConfigError(
            f"{folder} is quantized for format={format_name}; got format={wanted.format_name}. Write "
            f"format={format_name}, or compress its run for another backend."
        )
    if wanted.layout != "file":
        raise ConfigError(
            f"layout={wanted.layout} holds weights for torch, and {folder} is quantized. Write layout=file."
        )
    if wanted.opset not in (None, opset):
        raise ConfigError(f"opset must be {opset}, that of the quantized file; got {wanted.opset}. Leave it out.")
    if wanted.checkpoint != "best":
        raise ConfigError(f"{folder} is quantized and holds one checkpoint. Leave checkpoint={wanted.checkpoint} out.")
    unused = [f"tolerance={wanted.tolerance:g}"] if wanted.tolerance != TOLERANCE else []
    unused += [] if wanted.compare_data else ["--no-data"]
    unused += [f"data.{key}" for key in wanted.data_keys]
    if unused:
        raise ConfigError(
            f"{folder} is quantized: its file is copied and compared with nothing, so that {', '.join(unused)} would "
            f"do nothing. Leave {'it' if len(unused) == 1 else 'them'} out."
        )
