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
import inspect
import json
import logging
import os
import pickle
import re
import shutil
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.optim import Optimizer

from effbench.disk import followed, move, patiently, point, pointed, sync, sync_folder
from effbench.errors import ConfigError, EffbenchError
from effbench.guarded import MissingFileError, UnreadableError, read_bytes, require_regular
from effbench.records import naming_disk_faults, sha256_of

log = logging.getLogger(__name__)

FORMAT = 2
NEWEST_KEPT = 2  # the last, and the one before it
_REQUIRED = ("model.safetensors", "state.pt")  # in every checkpoint
_SHOWN = 10  # keys listed in one message


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


class Checkpoints:
    """The checkpoints of a run: the best by the monitored metric, and the newest two if `keep_last`.

    Args:
        folder: checkpoints/ of the run folder.
        monitor: the metric.
        mode: 'min' or 'max'.
        keep_best: how many of the best to keep.
        keep_last: keep the newest two.
        identity: further content of manifests: digests of config and data, versions of libraries.
    """

    def __init__(
        self,
        folder: Path,
        monitor: str,
        mode: str,
        keep_best: int,
        keep_last: bool,
        identity: Mapping[str, Any] | None = None,
    ):
        self.folder, self.monitor = folder, monitor
        self.identity = dict(identity or {})
        self._sign = 1.0 if mode == "max" else -1.0
        self._keep_best, self._keep_last = keep_best, keep_last
        self.ranking: list[tuple[float, str]] = []  # (value, folder name), best first
        self.first_saved: Callable[[], None] | None = None  # called once, when a checkpoint has been written
        self._restored_step: int | None = None

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
        ranking = self._ranked(value, f"step-{step:08d}")
        if not self.folder.is_dir():
            self.folder.mkdir(parents=True)
            sync_folder(self.folder.parent)
        snapshot.state["ranking"] = [list(entry) for entry in ranking]
        target = self.folder / f"step-{step:08d}"
        self._step_back_from(target)
        write_checkpoint(target, snapshot, self.identity | {"step": step})
        log.debug(f"checkpoint {target} written; best by {self.monitor}: {ranking[:1]}")
        self.ranking = ranking
        if self._keep_last or keep:
            _link(self.folder / "last", target.name)
        if ranking and self._keep_best:
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
        return self._keep_last or keep or any(ranked == name for _, ranked in self._ranked(value, name))

    def _step_back_from(self, target: Path) -> None:
        """Repoint links before `target` is overwritten, because it is briefly absent."""
        older = [path for path in committed(self.folder) if path.name < target.name]
        for link in (self.folder / "last", self.folder / "best"):
            if older and pointed(link) == target.name:
                _link(link, older[0].name)

    def restore(self, ranking: Sequence[tuple[float, str]], step: int) -> None:
        """Continue from the checkpoint of `step` and its ranking; nothing is written yet.

        A damaged best checkpoint is reported and removed from the ranking: else there would be none to test at the end.
        """
        self._restored_step = step
        damaged = {name: error for _, name in ranking if (error := self._damage(name)) is not None}
        for name, error in damaged.items():
            if (self.folder / name).is_dir():
                log.warning(f"{error} It can no longer be the best.")
        self.ranking = [(value, name) for value, name in ranking if name not in damaged]

    def relink(self) -> None:
        """After `restore`: make the links `last` and `best` agree with it.

        They may differ because a kill came before a link was moved, or because the run fell back to an older
        checkpoint.
        """
        if self._restored_step is None:
            return
        newest, last = self.folder / f"step-{self._restored_step:08d}", self.folder / "last"
        if newest.is_dir() and (self._keep_last or pointed(last)):
            _link(last, newest.name)
        if self.ranking:
            _link(self.folder / "best", self.ranking[0][1])
        else:
            (self.folder / "best").unlink(missing_ok=True)

    def _damage(self, name: str) -> EffbenchError | None:
        """Return the error of a damaged checkpoint, or None."""
        try:
            read_manifest(self.folder / name)
        except EffbenchError as error:
            return error
        return None

    def _ranked(self, value: float | None, name: str) -> list[tuple[float, str]]:
        others = [entry for entry in self.ranking if entry[1] != name]
        if value is not None:
            others.append((value, name))  # last: of equal values the earlier one stays the best
        return sorted(others, key=lambda entry: -self._sign * entry[0])[: self._keep_best]

    def _forget(self, newest: str) -> None:
        """Remove checkpoints that are not kept. Those after `newest` are stale: the run fell back to an older one."""
        kept = {name for _, name in self.ranking}
        kept |= {name for link in ("last", "best") if (name := pointed(self.folder / link))}
        if self._keep_last:
            kept |= set(sorted(path.name for path in self.folder.glob("step-*") if path.name <= newest)[-NEWEST_KEPT:])
        self._clear()  # left by a kill
        for path in self.folder.glob("step-*"):
            if path.name not in kept:
                move(path, path.with_name(f".{path.name}.old"))  # a kill must not leave a part of it under its name
        self._clear()

    def _clear(self) -> None:
        for path in self.folder.glob(".step-*"):
            shutil.rmtree(path, ignore_errors=True)  # NFS keeps files that are open elsewhere; the next save repeats it
        for link in self.folder.glob(".[lb]*.tmp"):
            link.unlink()

    @property
    def best(self) -> Path | None:
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
    needed = _bytes_of(snapshot)
    for left in (temporary, aside):  # left by a killed process with the same number, as in containers
        shutil.rmtree(left, ignore_errors=True)
    try:
        with naming_disk_faults(target, needed):
            temporary.mkdir()
            _write_tensors(temporary / "model.safetensors", snapshot.weights)
            if snapshot.ema:
                _write_tensors(temporary / "ema.safetensors", snapshot.ema)
            _write_state(temporary / "state.pt", snapshot.state)
            digests = {path.name: sha256_of(path) for path in sorted(temporary.iterdir())}
            manifest = {"format": FORMAT, **(identity or {}), "sha256": digests}
            text = json.dumps(manifest | {"digest": _digest(manifest)}, indent=2)
            (temporary / "manifest.json").write_text(text + "\n", encoding="utf-8")
            for path in temporary.iterdir():
                _sync_file(path)
            sync_folder(temporary)
            if target.exists():
                move(target, aside)
            move(temporary, target)
            sync_folder(target.parent)
        shutil.rmtree(aside, ignore_errors=True)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _write_tensors(path: Path, tensors: dict[str, Tensor]) -> None:
    content = {name: tensor.detach().cpu().contiguous() for name, tensor in _without_aliases(tensors).items()}

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


def _without_aliases(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Copy tied tensors: safetensors refuses shared memory."""
    seen: set[int] = set()
    apart = {}
    for name, tensor in tensors.items():
        pointer = tensor.untyped_storage().data_ptr()
        apart[name] = tensor.clone() if pointer in seen else tensor
        seen.add(pointer)
    return apart


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
    weights.pop("_ema_steps", None)
    return weights


def load_optimizer(optimizer: Optimizer, state: dict[str, Any]) -> None:
    """Load an optimizer's state, but keep this config's settings and each tensor's memory layout.

    Settings are what the constructor takes. Other entries of a parameter group, such as a step count, are state. The
    layout matters because a fused step walks over raw memory: with other strides, state and parameter would not match.
    """
    taken = _options_of(type(optimizer)) - {"params", "lr"}  # the schedule restores the learning rate
    settings = [{key: value for key, value in group.items() if key in taken} for group in optimizer.param_groups]
    optimizer.load_state_dict(state)
    for group, own in zip(optimizer.param_groups, settings, strict=True):
        group.update(own)
        for parameter in group["params"]:
            for key, value in optimizer.state.get(parameter, {}).items():
                if type(value) is Tensor and value.shape == parameter.shape:  # strides of a subclass do not matter
                    layout = torch.empty_like(parameter, dtype=value.dtype)
                    optimizer.state[parameter][key] = layout.copy_(value).detach()


def _options_of(kind: type) -> set[str]:
    """Return the arguments of the constructor and of the base classes' constructors."""
    own = [vars(base)["__init__"] for base in kind.__mro__ if "__init__" in vars(base)]
    return {name for each in own if inspect.isfunction(each) for name in inspect.signature(each).parameters}


def load_weights(model: nn.Module, weights: dict[str, Tensor]) -> None:
    """Load weights, with the layout versions that safetensors does not hold (MNASNet needs them).

    Raises:
        ConfigError: a key is missing, superfluous or of another shape; the message lists them.
    """
    if problems := _misfits(model.state_dict(), weights):
        more = [f"and {len(problems) - _SHOWN} more"] if len(problems) > _SHOWN else []
        raise ConfigError("\n  ".join(["the weights do not fit the model:", *problems[:_SHOWN], *more]))
    versioned = OrderedDict(weights)
    versioned._metadata = model.state_dict()._metadata  # type: ignore[attr-defined]
    model.load_state_dict(versioned)


def _misfits(own: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> list[str]:
    def shape(tensors: Mapping[str, Tensor], key: str) -> str:
        return str(tuple(tensors[key].shape)) if key in tensors else "none"

    return [
        f"{key}: checkpoint {shape(other, key)}, model {shape(own, key)}"
        for key in dict.fromkeys([*own, *other])
        if shape(other, key) != shape(own, key)
    ]


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
        raise _unreadable(error) from error
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise DamagedError(f"{path} is missing or damaged ({error}).") from error
    if stated is not None and stated != _digest(manifest):
        raise DamagedError(f"{path} is damaged: its digest is not that of its content.")
    if version != FORMAT:
        raise ConfigError(
            f"{path} is of checkpoint format {version!r}; this effbench reads {FORMAT}. Use the effbench that wrote it."
        )
    if stated is None:
        raise DamagedError(f"{path} is damaged: it holds no digest of itself.")
    if unlisted := [name for name in _REQUIRED if name not in digests]:
        raise DamagedError(f"{path} is damaged: it lists no sha256 of {', '.join(unlisted)}.")
    for name, digest in digests.items():
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


def _unreadable(error: UnreadableError) -> EffbenchError:
    """Return the error for a file: without permission it belongs to another user and is not damaged."""
    if isinstance(error.__cause__, PermissionError):
        return error
    return DamagedError(f"{str(error).removesuffix('.')}: it is damaged.")


def _digest(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _link(link: Path, name: str) -> None:
    """Point `link` at its sibling `name`; it is never missing in between."""
    with naming_disk_faults(link):
        point(link, name)


def _sync_file(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        sync(descriptor)
    finally:
        os.close(descriptor)


def _bytes_of(value: Any) -> int:
    if isinstance(value, Tensor):
        return value.numel() * value.element_size()
    if isinstance(value, Snapshot):
        return _bytes_of([value.weights, value.ema, value.state])
    if isinstance(value, dict):
        return sum(map(_bytes_of, value.values()))
    return sum(map(_bytes_of, value)) if isinstance(value, list | tuple) else 0
