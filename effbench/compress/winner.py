"""The best candidate of a search becomes its result: it is tested, its file is written, and its folder stays."""

from __future__ import annotations

import json
import logging
import os
import shlex
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from effbench.bench.backends import BACKENDS
from effbench.compress.compare import MOST, paired_test
from effbench.compress.making import CHOSEN
from effbench.compress.options import ELSEWHERE, has_file
from effbench.compress.record import write_compression
from effbench.compress.run import loaded_result, write_test
from effbench.compress.trial import FAULTS, Trial
from effbench.errors import first_line
from effbench.export.files import record_path
from effbench.records import naming_disk_faults, write_text
from effbench.report.compression import FILES, NAME, PRUNED
from effbench.run.export import export_loaded
from effbench.run.export_file import write_beside
from effbench.run.export_options import TOLERANCE, Wanted
from effbench.run.run import Run
from effbench.stats import Interval

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Candidate:
    """A trial with what it costs beside the run itself, also if it was made in two steps.

    Attributes:
        trial: the last step.
        pruned: the step before it; None for one step.
        interval: seconds, bytes, or for a relative target the part of what the run has.
        drop: what is lost with the arm on validation samples.
        arm: the backend that the target is measured with, as in its record.
    """

    trial: Trial
    pruned: Trial | None
    interval: Interval
    drop: float
    arm: Mapping[str, Any]

    @property
    def value(self) -> float:
        """The estimate."""
        return self.interval.estimate


def tested(best: Candidate, source: Run, checkpoint: str) -> dict[str, Any]:
    """Test the best candidate beside the run, write that into its records, and return what was found.

    No other candidate is tested: the test split tells the result, and does not choose it.

    Args:
        best: the candidate.
        source: the run.
        checkpoint: name of its checkpoint.
    """
    if best.pruned is None:
        return write_test(source, checkpoint, best.trial.folder)
    # the record of each step compares with the one before
    write_test(source, checkpoint, best.pruned.folder)
    write_test(loaded_result(best.pruned.folder, source), "best", best.trial.folder)
    return paired_test(source, checkpoint, loaded_result(best.trial.folder, source), "test", MOST)


def format_of(backend: str, latency: bool) -> str | None:
    """Return the format of the file that a user of a backend takes; None for those that run checkpoints.

    Args:
        backend: its name.
        latency: the fastest backend was looked for: its runtime's own format. For a size: the file that was measured.
    """
    found = BACKENDS[backend]
    return ((latency and found.also) or found.file) if has_file(backend) else None


def export_command(run: str | Path, kind: str, words: Sequence[str]) -> str:
    """Return the shell command that writes the file of a run.

    Args:
        run: its folder.
        kind: format of the file.
        words: those of this command that the run may need: its checkpoint, data keys and modules.
    """
    return shlex.join(["effbench", "export", str(run), f"format={kind}", *words])


def written_file(best: Candidate, source: Run, final: Path, latency: bool, words: Sequence[str] = ()) -> dict[str, Any]:
    """Write the file of the best candidate into its folder, if it has none yet, and return what a record says of it.

    Args:
        best: the candidate.
        source: the run.
        final: folder of the result.
        latency: the target is one.
        words: data keys and modules of the command, for one that tries again.

    Returns:
        file (name or None), bytes, no_file (why there is none), and the values of `arm` that prove the bound.
    """
    arm = best.arm
    facts = {
        "backend": arm["backend"],
        "backend_lost": arm.get("lost"),
        "backend_lost_of": arm.get("lost_of"),
        "more": arm.get("more") or 0.0,
        "of": best.trial.record["validation"]["of"],
        "file": best.trial.record.get("file"),
        "bytes": arm.get("bytes"),
        "no_file": None,
    }
    if facts["file"]:
        return facts
    kind = format_of(arm["backend"], latency)
    if kind is None:
        return {**facts, "bytes": None, "no_file": _without_file(arm["backend"])}
    try:
        run = loaded_result(best.trial.folder, source)
        made = export_loaded(run, Wanted(kind, "best", "", TOLERANCE, None, True, "file"))
    except FAULTS as error:  # the checkpoint is the result all the same
        log.warning(f"the file was not exported: {first_line(error)}")
        log.debug("traceback:", exc_info=True)
        again = export_command(final, kind, words)
        return {**facts, "bytes": None, "no_file": f"{first_line(error)} To try again: {again}"}
    return {**facts, "file": Path(made["path"]).name, "bytes": made["bytes"]}


def _without_file(backend: str) -> str:
    if BACKENDS[backend].file == "aot_inductor":
        return f"backend={backend} runs a package that torch compiles from the checkpoint; effbench writes none."
    return f"backend={backend} runs the checkpoint."


def keep(best: Candidate, source: Run, hidden: Path, final: Path, facts: Mapping[str, Any]) -> dict[str, Any]:
    """Make the folder that is published of the best candidate, and return its record.

    All candidates stay as they are: a command that is killed here goes on with them.

    Args:
        best: the candidate.
        source: the run.
        hidden: holds a folder a candidate.
        final: the name of the published folder in the end.
        facts: of the search.
    """
    chosen, run = hidden / CHOSEN, source.folder.resolve()
    shutil.rmtree(chosen, ignore_errors=True)  # a killed command was at it
    _copy(best.trial.folder, chosen)
    if best.pruned is not None:
        _copy(best.pruned.folder, chosen / PRUNED)
        _rewrite(chosen / PRUNED, os.path.relpath(run, (final / PRUNED).resolve()), {})
    before = PRUNED if best.pruned else os.path.relpath(run, final.resolve())
    record = _rewrite(chosen, before, {"search": dict(facts)})
    if record.get("file"):
        if best.pruned is not None:
            _name_run(record_path(chosen / FILES / record["file"]), final / PRUNED)
        write_beside(loaded_result(chosen, source))  # its card tells what was lost, also by both steps
    elif facts["file"]:
        _name_run(record_path(chosen / FILES / facts["file"]), final)
    return record


def _copy(folder: Path, target: Path) -> None:
    with naming_disk_faults(target, elsewhere=ELSEWHERE):
        shutil.copytree(folder, target, symlinks=True, copy_function=_linked)


def _linked(path: str, target: str) -> None:
    """Give a file a second name, which takes no space: records are replaced, never changed. Else copy it."""
    try:
        os.link(path, target, follow_symlinks=False)
    except OSError:  # the file system has no such names
        with naming_disk_faults(Path(target), elsewhere=ELSEWHERE):
            shutil.copy2(path, target, follow_symlinks=False)


def _rewrite(folder: Path, run: str, added: Mapping[str, Any]) -> dict[str, Any]:
    """Write compression.json again, with another path to the run before."""
    record = json.loads((folder / NAME).read_text(encoding="utf-8"))
    record = {**record, "source": {**record["source"], "run": run}, **added}
    write_compression(folder, record)
    return record


def _name_run(path: Path, run: Path) -> None:
    """Write the record of a file again, with the place where its run is now."""
    record = json.loads(path.read_text(encoding="utf-8"))
    write_text(path, json.dumps({**record, "run": str(run)}, indent=2, ensure_ascii=False) + "\n")
