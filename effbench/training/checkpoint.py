"""Checkpoints, which are complete or absent.

    checkpoints/step-00000420/  model.safetensors  [ema.safetensors]  state.pt  manifest.json
    checkpoints/step-00000410/  the one before, in case the newest is damaged
    checkpoints/last -> step-00000420
    checkpoints/best -> step-00000378

A checkpoint is written under a temporary name, fsynced and renamed; the links are replaced by rename too. The
manifest holds the sha256 of each file and of itself, because torch loads a file with a flipped bit without an error.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import pickle
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from effbench.disk import followed, move, patiently, point, pointed, sync, sync_folder
from effbench.errors import ConfigError, EffbenchError, shown
from effbench.guarded import MissingFileError, UnreadableError, read_bytes, require_regular
from effbench.records import naming_disk_faults, sha256_of

log = logging.getLogger(__name__)

FORMAT = 2
NEWEST_KEPT = 2  # the last, and the one before it
_REQUIRED = ("model.safetensors", "state.pt")  # in every checkpoint


class DamagedError(EffbenchError):
    """A checkpoint is damaged; another one must be used."""


@dataclass(frozen=True)
class Snapshot:
    """The content of a checkpoint.

    Attributes:
        weights: the model's state_dict.
        ema: the averaged state_dict, or empty.
        state: everything else, as plain values and tensors.
    """

    weights: dict[str, Tensor]
    ema: dict[str, Tensor]
    state: dict[str, Any]


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
        ranking: (value, folder name), best first.
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
    _restored_step: int | None = field(default=None, init=False)

    def save(self, snapshot: Snapshot, step: int, value: float | None, keep: bool = False) -> None:
        """Write the checkpoint of `step`, if it is to be kept.

        Args:
            snapshot: what to save.
            step: optimizer steps taken.
            value: the monitored metric; None without a validation.
            keep: keep it as `last` in any case: an interrupted run must be able to resume.
        """
        if not self.is_due(step, value, keep):
            return
        target = self.folder / f"step-{step:08d}"
        ranking = self._ranked(value, target.name)
        snapshot.state["ranking"] = [list(entry) for entry in ranking]
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
        self.ranking = ranking
        # The links move after the checkpoint is complete, and old ones go after that: at each moment a kill leaves
        # links to whole checkpoints.
        if self.keep_last or keep:
            _link(self.folder / "last", target.name)
        if ranking and self.keep_best:
            _link(self.folder / "best", ranking[0][1])
        if self.first_saved is not None:
            call, self.first_saved = self.first_saved, None
            call()
        self._forget(target.name)

    def is_due(self, step: int, value: float | None, keep: bool) -> bool:
        """Return True if a save with these arguments writes a checkpoint.

        Args:
            step: optimizer steps taken.
            value: the monitored metric; None without a validation.
            keep: keep it as `last` in any case.
        """
        name = f"step-{step:08d}"
        return self.keep_last or keep or any(ranked == name for _, ranked in self._ranked(value, name))

    def restore(self, ranking: Sequence[tuple[float, str]], step: int) -> None:
        """Continue from the checkpoint of `step` and its ranking; nothing is written yet.

        A damaged best checkpoint is reported and removed from the ranking: else there would be none to test at the end.
        """
        self._restored_step, self.ranking = step, []
        for value, name in ranking:
            try:
                read_manifest(self.folder / name)
                self.ranking.append((value, name))
            except EffbenchError as error:
                if (self.folder / name).is_dir():  # a missing one was removed after this checkpoint was written
                    log.warning(f"{error} It can no longer be the best.")

    def relink(self) -> None:
        """After `restore`: make the links `last` and `best` agree with it.

        They may differ because a kill came before a link was moved, or because the run fell back to an older
        checkpoint.
        """
        if self._restored_step is None:
            return
        newest, last = self.folder / f"step-{self._restored_step:08d}", self.folder / "last"
        if newest.is_dir() and (self.keep_last or pointed(last)):
            _link(last, newest.name)
        if self.ranking:
            _link(self.folder / "best", self.ranking[0][1])
        else:
            (self.folder / "best").unlink(missing_ok=True)

    def _ranked(self, value: float | None, name: str) -> list[tuple[float, str]]:
        """Return the ranking with a further checkpoint, the best first, without those that are not kept."""
        others = [entry for entry in self.ranking if entry[1] != name]
        if value is not None:
            others.append((value, name))  # last: the sort is stable, so of equal values the earlier stays the best
        sign = -1 if self.mode == "max" else 1
        return sorted(others, key=lambda entry: sign * entry[0])[: self.keep_best]

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


def write_checkpoint(target: Path, snapshot: Snapshot, identity: Mapping[str, Any] | None = None) -> None:
    """Write a checkpoint folder, completely or not at all.

    Args:
        target: the folder.
        snapshot: its content.
        identity: further content of the manifest.

    Raises:
        NoSpaceError: the disk is full.
    """
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    aside = target.with_name(f".{target.name}.{os.getpid()}.old")
    needed = _bytes_of(snapshot)  # for the message of a full disk
    for left in (temporary, aside):  # left by a killed process with the same number, as in containers
        shutil.rmtree(left, ignore_errors=True)
    try:
        with naming_disk_faults(target, needed):
            temporary.mkdir()
            _write_tensors(temporary / "model.safetensors", snapshot.weights)
            if snapshot.ema:
                _write_tensors(temporary / "ema.safetensors", snapshot.ema)
            _write_state(temporary / "state.pt", snapshot.state)
            # The manifest is last, because it holds the digests of the others.
            digests = {path.name: sha256_of(path) for path in sorted(temporary.iterdir())}
            manifest = {"format": FORMAT, **(identity or {}), "sha256": digests}
            text = json.dumps(manifest | {"digest": _digest(manifest)}, indent=2)
            (temporary / "manifest.json").write_text(text + "\n", encoding="utf-8")
            for path in temporary.iterdir():
                _sync_file(path)
            sync_folder(temporary)
            if target.exists():  # a folder cannot be renamed over one that is not empty
                move(target, aside)
            move(temporary, target)
            sync_folder(target.parent)
        shutil.rmtree(aside, ignore_errors=True)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _write_tensors(path: Path, tensors: dict[str, Tensor]) -> None:
    content: dict[str, Tensor] = {}
    addresses: set[int] = set()
    for name, tensor in tensors.items():
        # safetensors refuses tensors that share memory, as tied weights do: each after the first is copied.
        address = tensor.untyped_storage().data_ptr()
        apart = tensor.clone() if address in addresses else tensor
        addresses.add(address)
        content[name] = apart.detach().cpu().contiguous()

    def write() -> None:
        path.touch()
        mode = path.stat().st_mode  # the mode of a new file: safetensors allows only the owner
        try:
            save_file(content, path)
        except SafetensorError as error:
            # safetensors raises its own class and has errno in the text
            if found := re.search(r"os error (\d+)", str(error)):
                raise OSError(int(found[1]), os.strerror(int(found[1]))) from error
            raise EffbenchError(f"cannot write {path}: {error}") from error
        if path.stat().st_mode != mode:  # a file system without modes may refuse to set one
            path.chmod(mode)

    patiently(write)


def _write_state(path: Path, state: dict[str, Any]) -> None:
    try:
        with path.open("wb") as stream:  # with a path torch would hide "No space left"
            torch.save(state, stream)
    except RuntimeError as error:
        # torch raises another error for the unfinished archive while the disk's error propagates.
        raise error.__context__ if isinstance(error.__context__, OSError) else error from None


def read_newest(folder: Path) -> tuple[Path, Snapshot, list[str]]:
    """Return the newest undamaged checkpoint.

    Returns:
        (its path, its content, what is wrong with newer ones).

    Raises:
        ConfigError: there is none, or one has another format.
        EffbenchError: all are damaged.
    """
    complaints: list[str] = []
    for path in committed(folder):
        try:
            return path, read_checkpoint(path), complaints
        except DamagedError as error:
            complaints.append(str(error))
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"{folder} is not a folder: the run's checkpoints are gone. Start a new run.")
    if not complaints:
        raise ConfigError(f"{folder} holds no checkpoint: nothing was saved to continue from. Start a new run.")
    raise EffbenchError("no checkpoint is whole; start a new run:\n" + "\n".join(complaints))


def committed(folder: Path) -> list[Path]:
    """Return the checkpoints in `folder`, newest first."""
    return sorted(folder.glob("step-*"), key=lambda path: path.name, reverse=True)


def read_checkpoint(folder: Path) -> Snapshot:
    """Return the content of a checkpoint.

    Raises:
        DamagedError: a file is missing or damaged; the message names it.
        ConfigError: it has another format, or holds a pickle.
    """
    names = read_manifest(folder)["sha256"]
    path = folder / "state.pt"
    try:
        # weights_only: a pickle could run code. On the CPU first: the GPU it was saved from may not exist here.
        state = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ConfigError(f"{path} holds more than tensors and plain values: refused, it could run code.") from error
    except (RuntimeError, OSError, EOFError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise ConfigError(f"{path} is no state of a run, though its digest is right: {error!r}. Refused.") from error
    if not isinstance(state, dict):
        raise ConfigError(
            f"{path} is no state of a run, though its digest is right: a {type(state).__name__}. Refused."
        )
    ema = _read_tensors(folder / "ema.safetensors") if "ema.safetensors" in names else {}
    return Snapshot(_read_tensors(folder / "model.safetensors"), ema, state)


def _read_tensors(path: Path) -> dict[str, Tensor]:
    try:
        tensors: dict[str, Tensor] = load_file(path)
    except SafetensorError as error:
        raise ConfigError(f"{path} is no safetensors file, though its digest is right: {error}. Refused.") from error
    return tensors


def read_weights(folder: Path) -> dict[str, Tensor]:
    """Return the evaluated weights: the averaged ones if there are any, else the model's."""
    names = read_manifest(folder)["sha256"]
    name = "ema.safetensors" if "ema.safetensors" in names else "model.safetensors"
    weights = _read_tensors(folder / name)
    weights.pop("_ema_steps", None)  # the average's step count, which is no weight
    return weights


def read_manifest(folder: Path) -> dict[str, Any]:
    """Return the manifest of a checkpoint, after a check of all its files.

    Raises:
        DamagedError: a file is missing or damaged.
        ConfigError: there is no checkpoint, or it has another format.
    """
    path = folder / "manifest.json"
    if not folder.is_dir():
        raise ConfigError(f"there is no checkpoint at {folder}.")
    try:
        manifest = dict(json.loads(read_bytes(path)))
        stated, version, digests = manifest.pop("digest", None), manifest["format"], dict(manifest["sha256"])
    except MissingFileError as error:
        raise DamagedError(f"{path} is missing or damaged (there is no such file).") from error
    except UnreadableError as error:
        if isinstance(error.__cause__, PermissionError):  # another user's file, not a damaged one
            raise
        raise DamagedError(f"{str(error).removesuffix('.')}: it is damaged.") from error
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise DamagedError(f"{path} is missing or damaged ({error}).") from error
    # The digest first: a flipped bit in `format` is damage, and an older checkpoint may be whole.
    if stated is not None and stated != _digest(manifest):
        raise DamagedError(f"{path} is damaged: its digest is not that of its content.")
    if version != FORMAT:
        raise ConfigError(
            f"{path} is of checkpoint format {shown(version)}; this effbench reads {FORMAT}. Use the effbench "
            "that wrote it."
        )
    # After the version: another format may hold no digest of itself.
    if stated is None:
        raise DamagedError(f"{path} is damaged: it holds no digest of itself.")
    if unlisted := [name for name in _REQUIRED if name not in digests]:
        raise DamagedError(f"{path} is damaged: it lists no sha256 of {', '.join(unlisted)}.")
    for name, digest in digests.items():
        # The folder may be a stranger's: a path in place of a name could lead out of it.
        if Path(name).name != name or _digest_of(folder / name) != digest:
            raise DamagedError(f"{folder / name} is missing or damaged: its sha256 is not the manifest's.")
    return manifest


def _digest_of(path: Path) -> str | None:
    """Return the digest of a file; None if it is missing, or a pipe or a device, which could be endless."""
    try:
        require_regular(path)
        return sha256_of(path)
    except UnreadableError as error:
        if isinstance(error.__cause__, PermissionError) or path.is_file():
            raise
        return None


def _digest(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _link(link: Path, name: str) -> None:
    """Point `link` at its sibling `name`; it is never missing in between."""
    with naming_disk_faults(link):
        point(link, name)


def _sync_file(path: Path) -> None:
    # Opened for reading: fsync flushes the file, whoever wrote to it.
    descriptor = os.open(path, os.O_RDONLY)
    try:
        sync(descriptor)
    finally:
        os.close(descriptor)


def _bytes_of(value: Any) -> int:
    """Return the bytes of all tensors in a snapshot, which is about the size of its files."""
    if isinstance(value, Tensor):
        return value.numel() * value.element_size()
    if isinstance(value, Snapshot):
        return _bytes_of([value.weights, value.ema, value.state])
    if isinstance(value, dict):
        return sum(map(_bytes_of, value.values()))
    return sum(map(_bytes_of, value)) if isinstance(value, list | tuple) else 0
