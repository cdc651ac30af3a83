"""Checkpoints that are whole or not there.

    checkpoints/step-00000420/  model.safetensors  [ema.safetensors]  state.pt  manifest.json
    checkpoints/last -> step-00000420
    checkpoints/best -> step-00000378

A checkpoint is written under a temporary name, fsynced and renamed; the links are replaced by rename too. The
manifest holds the sha256 of each file, because a flipped bit loads silently otherwise.
"""

from __future__ import annotations

import json
import os
import shutil
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.optim import Optimizer

from effbench.errors import ConfigError, EffbenchError
from effbench.records import naming_full_disk, sha256_of, sync_folder

FORMAT = 1


@dataclass(frozen=True)
class Snapshot:
    """weights: the model's state_dict. ema: the averaged one's, or empty. state: everything else, plain or tensors."""

    weights: dict[str, Tensor]
    ema: dict[str, Tensor]
    state: dict[str, Any]


class Checkpoints:
    """Keeps the `keep_best` best by the monitored metric (mode min or max), and the newest if `keep_last`."""

    def __init__(self, folder: Path, monitor: str, mode: str, keep_best: int, keep_last: bool):
        self.folder, self.monitor = folder, monitor
        self._sign = 1.0 if mode == "max" else -1.0
        self._keep_best, self._keep_last = keep_best, keep_last
        self.ranking: list[tuple[float, str]] = []  # (value, folder name), best first

    def save(self, snapshot: Snapshot, step: int, value: float | None, keep: bool = False) -> None:
        """Writes the checkpoint of `step`; `value` is the monitored metric, None where there was no validation.

        keep: as `last`, even where last ones are not kept otherwise (an interrupted run must be able to go on).
        """
        ranking = self._ranked(value, f"step-{step:08d}")
        is_best = any(name == f"step-{step:08d}" for _, name in ranking)
        if not (self._keep_last or is_best or keep):
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        snapshot.state["ranking"] = [list(entry) for entry in ranking]
        target = self.folder / f"step-{step:08d}"
        write_checkpoint(target, snapshot)
        self.ranking = ranking
        if self._keep_last or keep:
            _link(self.folder / "last", target.name)
        if ranking and self._keep_best:
            _link(self.folder / "best", ranking[0][1])
        self._forget()

    def restore(self, ranking: Sequence[tuple[float, str]]) -> None:
        """Goes on from a checkpoint's ranking. A kill may have come between it and the link `best`: made again."""
        self.ranking = [(value, name) for value, name in ranking]
        if self.ranking and (self.folder / self.ranking[0][1]).is_dir():
            _link(self.folder / "best", self.ranking[0][1])

    def _ranked(self, value: float | None, name: str) -> list[tuple[float, str]]:
        others = [entry for entry in self.ranking if entry[1] != name]
        if value is not None:
            others.append((value, name))  # behind equals: the earlier of two equals stays the best
        return sorted(others, key=lambda entry: -self._sign * entry[0])[: self._keep_best]

    def _forget(self) -> None:
        kept = {name for _, name in self.ranking}
        kept |= {link.readlink().name for link in (self.folder / "last", self.folder / "best") if link.is_symlink()}
        left_by_a_kill = self.folder.glob(".step-*")
        for path in (*self.folder.glob("step-*"), *left_by_a_kill):
            if path.name not in kept:
                shutil.rmtree(path)

    @property
    def best(self) -> Path | None:
        path = self.folder / "best"
        return path if path.exists() else None


def write_checkpoint(target: Path, snapshot: Snapshot) -> None:
    """`target` as a folder, all of it or nothing."""
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    needed = _bytes_of(snapshot)
    try:
        with naming_full_disk(target, needed):
            temporary.mkdir()
            _write_tensors(temporary / "model.safetensors", snapshot.weights)
            if snapshot.ema:
                _write_tensors(temporary / "ema.safetensors", snapshot.ema)
            _write_state(temporary / "state.pt", snapshot.state)
            digests = {path.name: sha256_of(path) for path in sorted(temporary.iterdir())}
            manifest = {"format": FORMAT, "torch": torch.__version__, "sha256": digests}
            (temporary / "manifest.json").write_text(json.dumps(manifest, indent=2) + "\n")
            for path in temporary.iterdir():
                _sync_file(path)
        sync_folder(temporary)
        aside = target.with_name(f".{target.name}.{os.getpid()}.old")
        if target.exists():
            target.rename(aside)
        temporary.rename(target)
        sync_folder(target.parent)
        shutil.rmtree(aside, ignore_errors=True)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _write_tensors(path: Path, tensors: dict[str, Tensor]) -> None:
    content = {name: tensor.detach().cpu().contiguous() for name, tensor in _without_aliases(tensors).items()}
    try:
        save_file(content, path)
    except SafetensorError as error:
        # safetensors hides errno behind its own class; ask the file system itself.
        text = str(error)
        for number in (28, 27, 122):
            if f"os error {number}" in text:
                raise OSError(number, os.strerror(number)) from error
        raise EffbenchError(f"cannot write {path}: {text}") from error


def _write_state(path: Path, state: dict[str, Any]) -> None:
    try:
        with path.open("wb") as stream:  # a path would hide "No space left"
            torch.save(state, stream)
    except RuntimeError as error:
        # torch stumbles over the unfinished archive while the disk's own error is on its way.
        raise error.__context__ if isinstance(error.__context__, OSError) else error from None


def _without_aliases(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Tied tensors copied apart: safetensors refuses shared memory."""
    seen: set[int] = set()
    apart = {}
    for name, tensor in tensors.items():
        pointer = tensor.untyped_storage().data_ptr()
        apart[name] = tensor.clone() if pointer in seen else tensor
        seen.add(pointer)
    return apart


def read_checkpoint(folder: Path) -> Snapshot:
    """Raises EffbenchError naming the file that is missing, damaged or of another format."""
    names = check_digests(folder)
    state = torch.load(folder / "state.pt", map_location="cpu", weights_only=True)
    ema = load_file(folder / "ema.safetensors") if "ema.safetensors" in names else {}
    return Snapshot(load_file(folder / "model.safetensors"), ema, state)


def read_weights(folder: Path) -> dict[str, Tensor]:
    """What the run evaluates: the averaged weights where there are any, else the model's."""
    names = check_digests(folder)
    name = "ema.safetensors" if "ema.safetensors" in names else "model.safetensors"
    weights: dict[str, Tensor] = load_file(folder / name)
    weights.pop("_ema_steps", None)
    return weights


def load_optimizer(optimizer: Optimizer, state: dict[str, Any]) -> None:
    """optimizer.load_state_dict that keeps this config's settings and each tensor's memory layout.

    A fused step walks raw memory: a state with other strides than its parameter would be paired with the wrong
    elements.
    """
    kept = ("params", "lr", "initial_lr")  # the learning rate is the schedule's to restore
    settings = [{key: value for key, value in group.items() if key not in kept} for group in optimizer.param_groups]
    optimizer.load_state_dict(state)
    for group, own in zip(optimizer.param_groups, settings, strict=True):
        group.update(own)
        for parameter in group["params"]:
            for key, value in optimizer.state.get(parameter, {}).items():
                if isinstance(value, Tensor) and value.shape == parameter.shape:
                    layout = torch.empty_like(parameter, dtype=value.dtype)
                    optimizer.state[parameter][key] = layout.copy_(value).detach()


def load_weights(model: nn.Module, weights: dict[str, Tensor]) -> None:
    """model.load_state_dict with the layout versions that safetensors has no room for (MNASNet asks for them)."""
    versioned = OrderedDict(weights)
    versioned._metadata = model.state_dict()._metadata  # type: ignore[attr-defined]
    model.load_state_dict(versioned)


def check_digests(folder: Path) -> set[str]:
    """The files that the manifest vouches for, each of them found whole."""
    path = folder / "manifest.json"
    if not path.is_file():
        raise ConfigError(f"there is no checkpoint at {folder}: no manifest.json.")
    try:
        manifest = json.loads(path.read_text())
        version, digests = manifest["format"], dict(manifest["sha256"])
    except (ValueError, KeyError, TypeError) as error:
        raise EffbenchError(f"{path} is damaged: {error}. Use another checkpoint of the run.") from error
    if version != FORMAT:
        raise EffbenchError(f"{path} is of checkpoint format {version}; this effbench reads {FORMAT}.")
    for name, digest in digests.items():
        if not (folder / name).is_file() or sha256_of(folder / name) != digest:
            raise EffbenchError(
                f"{folder / name} is damaged: its sha256 is not the manifest's. Use another checkpoint."
            )
    return set(digests)


def _link(link: Path, name: str) -> None:
    """Points `link` at its sibling `name`; at no moment is it missing."""
    temporary = link.with_name(f".{link.name}.{os.getpid()}.tmp")
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(name)
    temporary.replace(link)
    sync_folder(link.parent)


def _sync_file(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
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
