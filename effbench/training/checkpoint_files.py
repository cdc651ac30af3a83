"""Checkpoints on disk, which are complete or absent.

    step-00000420/  model.safetensors  [ema.safetensors]  state.pt  manifest.json

A checkpoint is written under a temporary name, fsynced and renamed. The manifest holds the sha256 of each file and of
itself, because torch loads a file with a flipped bit without an error.
"""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from effbench.cache_dir import is_file, is_folder
from effbench.disk import move, patiently, sync, sync_folder
from effbench.errors import ConfigError, EffbenchError, shown
from effbench.guarded import MissingFileError, UnreadableError, kind_of, read_bytes, require_regular
from effbench.records import naming_disk_faults, sha256_of

FORMAT = 2
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
    found = folder.glob("step-*") if is_folder(folder) else ()
    return sorted(found, key=lambda path: path.name, reverse=True)


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
    return weights_and_manifest(folder)[0]


def weights_and_manifest(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the evaluated weights, and the manifest, after one check of all files."""
    manifest = read_manifest(folder)
    names = manifest["sha256"]
    name = "ema.safetensors" if "ema.safetensors" in names else "model.safetensors"
    weights = _read_tensors(folder / name)
    weights.pop("_ema_steps", None)  # the average's step count, which is no weight
    return weights, manifest


def read_manifest(folder: Path) -> dict[str, Any]:
    """Return the manifest of a checkpoint, after a check of all its files.

    Raises:
        DamagedError: a file is missing or damaged.
        ConfigError: there is no checkpoint, or it has another format.
    """
    path = folder / "manifest.json"
    if kind_of(folder) != "a folder":
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
        if isinstance(error.__cause__, PermissionError) or is_file(path):
            raise
        return None


def _digest(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


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
