"""The checkpoints of a run: which are kept, and the links to the last and the best.

    checkpoints/step-00000420/  see checkpoint_files.py
    checkpoints/step-00000410/  the one before, in case the newest is damaged
    checkpoints/last -> step-00000420
    checkpoints/best -> step-00000378

A link is replaced by rename, so that it always leads to a whole checkpoint.
"""

from __future__ import annotations

import logging
import math
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from effbench.disk import followed, move, point, pointed, sync_folder
from effbench.errors import EffbenchError
from effbench.metrics import LOSS
from effbench.records import naming_disk_faults
from effbench.training.checkpoint_files import (
    Snapshot,
    committed,
    read_checkpoint,
    read_manifest,
    write_checkpoint,
)

log = logging.getLogger(__name__)

NEWEST_KEPT = 2  # the last, and the one before it


@dataclass(eq=False)
class Checkpoints:
    """The checkpoints of a run: the best by the monitored metric, and the newest two if `keep_last`.

    Attributes:
        folder: checkpoints/ of the run folder.
        monitor: the metric.
        mode: 'min' or 'max'.
        keep_best: how many of the best to keep.
        keep_last: keep the newest two.
        identity: further content of manifests: digests of config and data, versions of libraries.
        ranking: (value, folder name), best first; of equal values that with the smaller val/loss, then the earlier.
        first_saved: called once, when a checkpoint has been written.
    """

    folder: Path
    monitor: str
    mode: str
    keep_best: int
    keep_last: bool
    identity: dict[str, Any] = field(default_factory=dict)
    ranking: list[tuple[float, str]] = field(default_factory=list, init=False)
    first_saved: Callable[[], None] | None = field(default=None, init=False)
    _losses: dict[str, float] = field(default_factory=dict, init=False)  # folder name -> val/loss
    _restored_step: int | None = field(default=None, init=False)

    def save(
        self, snapshot: Snapshot, step: int, value: float | None, keep: bool = False, loss: float | None = None
    ) -> None:
        """Write the checkpoint of `step`, if it is to be kept.

        Args:
            snapshot: what to save.
            step: optimizer steps taken.
            value: the monitored metric; None without a validation.
            keep: keep it as `last` in any case: an interrupted run must be able to resume.
            loss: val/loss of that validation.
        """
        if not self.is_due(step, value, keep, loss):
            return
        target = self.folder / checkpoint_name(step)
        ranking, losses = self._ranked(value, target.name, loss)
        snapshot.state["ranking"] = [list(entry) for entry in ranking]
        snapshot.state["ranking_losses"] = losses
        if not self.folder.is_dir():
            self.folder.mkdir(parents=True)
            sync_folder(self.folder.parent)

        # A resumed run may write the same step again. The old folder is then absent for a moment: no link may need it.
        older = [path for path in committed(self.folder) if path.name < target.name]
        for link in (self.folder / "last", self.folder / "best"):
            if older and pointed(link) == target.name:
                _link(link, older[0].name)

        write_checkpoint(target, snapshot, self.identity | {"step": step})
        log.debug(f"checkpoint {target} written; best by {self.monitor}: {ranking[:1]}")
        self.ranking, self._losses = ranking, losses
        # The links move after the checkpoint is complete, and old ones go after that: at each moment a kill leaves
        # links to whole checkpoints.
        if self.keep_last or keep:
            _link(self.folder / "last", target.name)
        if ranking and self.keep_best:
            _link(self.folder / "best", ranking[0][1])
        if not (self.keep_last or keep):
            self._drop_interruption()
        if self.first_saved is not None:
            call, self.first_saved = self.first_saved, None
            call()
        self._forget(target.name)

    def is_due(self, step: int, value: float | None, keep: bool, loss: float | None = None) -> bool:
        """Return True if a save with these arguments writes a checkpoint.

        Args:
            step: optimizer steps taken.
            value: the monitored metric; None without a validation.
            keep: keep it as `last` in any case.
            loss: val/loss of that validation.
        """
        name = checkpoint_name(step)
        return self.keep_last or keep or any(ranked == name for _, ranked in self._ranked(value, name, loss)[0])

    def restore(
        self, ranking: Sequence[tuple[float, str]], step: int, losses: Mapping[str, float] | None = None
    ) -> None:
        """Continue from the checkpoint of `step` and its ranking; nothing is written yet.

        A damaged best checkpoint is reported and removed from the ranking: else there would be none to test at the end.

        Args:
            ranking: of the checkpoint.
            step: its step.
            losses: folder name -> val/loss of the ranked ones; None in checkpoints that were written before ties were
                decided by it: then each of them tells its own.
        """
        self._restored_step, self.ranking, self._losses = step, [], {}
        for value, name in ranking:
            try:
                read_manifest(self.folder / name)
                loss = _recorded_loss(self.folder / name) if losses is None else losses.get(name)
                self.ranking.append((value, name))
                if loss is not None:
                    self._losses[name] = loss
            except EffbenchError as error:
                if (self.folder / name).is_dir():  # a missing one was removed after this checkpoint was written
                    log.warning(f"{error} It can no longer be the best.")

    def relink(self) -> None:
        """Make the links `last` and `best` agree with the restored checkpoint.

        They may differ because a kill came before a link was moved, or because the run fell back to an older
        checkpoint.
        """
        if self._restored_step is None:
            return
        newest, last = self.folder / checkpoint_name(self._restored_step), self.folder / "last"
        # an interrupted run has a link `last` even with save_last=false
        if newest.is_dir() and (self.keep_last or pointed(last)):
            _link(last, newest.name)
        if self.ranking:
            _link(self.folder / "best", self.ranking[0][1])
        else:
            (self.folder / "best").unlink(missing_ok=True)

    def finish(self) -> None:
        """Remove the checkpoint of an interruption, once the run has ended: no newer one may have been ranked."""
        if not self.keep_last and (self.folder / "last").exists():
            with suppress(OSError):  # it costs disk space only: the run has ended well
                self._drop_interruption()
                self._forget(newest="")

    def _drop_interruption(self) -> None:
        """Remove the link `last` of an interrupted run that keeps no last ones: its weights are no longer the last."""
        last = self.folder / "last"
        if last.is_dir() and not last.is_symlink():  # a copy of the run that followed its links
            shutil.rmtree(last)
        else:
            last.unlink(missing_ok=True)

    def _ranked(
        self, value: float | None, name: str, loss: float | None
    ) -> tuple[list[tuple[float, str]], dict[str, float]]:
        """Return the ranking with a further checkpoint, best first, without those that are not kept; and their losses.

        Args:
            value: the monitored metric; None without a validation.
            name: of the checkpoint's folder.
            loss: val/loss of that validation.
        """
        others = [entry for entry in self.ranking if entry[1] != name]
        losses = self._losses if loss is None else {**self._losses, name: loss}
        # A value that is not finite chooses nothing: among such values the first epoch would stay the best.
        if value is not None and math.isfinite(value):
            others.append((value, name))  # last: the sort is stable, so of equal ones the earlier stays the best
        sign = -1 if self.mode == "max" else 1

        def worse(entry: tuple[float, str]) -> tuple[bool, float, float]:
            # NaN last, which older records may hold: a sort would leave it anywhere, also in front. On a small
            # validation split many epochs have equal accuracies: the loss tells more. An unknown one stays in front.
            return math.isnan(entry[0]), sign * entry[0], losses.get(entry[1], -math.inf)

        kept = sorted(others, key=worse)[: self.keep_best]
        return kept, {name: losses[name] for _, name in kept if name in losses}

    def _forget(self, newest: str) -> None:
        """Remove checkpoints that are not kept. Those after `newest` are stale: the run fell back to an older one."""
        kept = {name for _, name in self.ranking}
        kept |= {name for link in ("last", "best") if (name := pointed(self.folder / link))}
        if self.keep_last:
            kept |= set(sorted(path.name for path in self.folder.glob("step-*") if path.name <= newest)[-NEWEST_KEPT:])
        self._clear()  # left by a kill
        for path in self.folder.glob("step-*"):
            if path.name not in kept:
                move(path, path.with_name(f".{path.name}.old"))  # a kill must not leave a part of it under its name
        self._clear()

    def _clear(self) -> None:
        """Remove folders and links with temporary names."""
        for path in self.folder.glob(".step-*"):
            shutil.rmtree(path, ignore_errors=True)  # NFS keeps files that are open elsewhere; the next save repeats it
        for link in self.folder.glob(".[lb]*.tmp"):
            link.unlink()

    @property
    def best(self) -> Path | None:
        """The best checkpoint; None if there is none."""
        path = followed(self.folder / "best")
        return path if path.exists() else None


def checkpoint_name(step: int) -> str:
    """Return the name of the folder of a step's checkpoint."""
    return f"step-{step:08d}"


def _recorded_loss(folder: Path) -> float | None:
    """Return the val/loss that a checkpoint was saved with; None if it does not tell."""
    progress = read_checkpoint(folder).state.get("train")
    metrics = progress.get("metrics") if isinstance(progress, dict) else None
    loss = metrics.get(f"val/{LOSS}") if isinstance(metrics, dict) else None
    return loss if isinstance(loss, float) and math.isfinite(loss) else None


def _link(link: Path, name: str) -> None:
    """Point `link` at its sibling `name`; it is never missing in between."""
    with naming_disk_faults(link):
        point(link, name)
