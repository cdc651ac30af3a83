"""CIFAR-10 (Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009), from its python archive."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import pickle
import secrets
import tarfile
import urllib.request
import zlib
from collections.abc import Iterator
from http.client import HTTPException
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar

import numpy as np
import torch
from tqdm import tqdm

from effbench.cache_dir import cache_home
from effbench.config.options import BOOL
from effbench.data.folder_files import printable
from effbench.data.images.modality import square_images
from effbench.data.images.pixels import resized
from effbench.data.option_checks import check_counts, check_division, given_folder
from effbench.data.preview import previewed
from effbench.data.splits import Split, Splits, digest, hold_out
from effbench.disk import move
from effbench.errors import DataError

URL = "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz"
MD5 = "c58f30108f718f92721af3b95e74349a"  # published next to the archive
NUM_BYTES = 170_498_071
ARCHIVE, FOLDER = "cifar-10-python.tar.gz", "cifar-10-batches-py"
TRAIN_FILES = tuple(f"data_batch_{number}" for number in range(1, 6))
TEST_FILE, META_FILE = "test_batch", "batches.meta"
_FILES = (*TRAIN_FILES, TEST_FILE, META_FILE)
_FILE_LIMIT = 64_000_000  # bytes; the real files have 31 MB
_ARCHIVE_LIMIT = 1_000_000_000  # bytes unpacked; the real one has 186 MB
_TIMEOUT_S = 30


@previewed(square_images(3, 32), slow=True)
def cifar10(
    root: str | Path | None = None,
    download: bool = False,
    image_size: int = 32,
    val_fraction: float = 0.1,
    split_seed: int = 0,
) -> Splits:
    """Read CIFAR-10: uint8 (N, 3, image_size, image_size), 10 classes; 50,000 images of train and val, 10,000 test.

    Args:
        root: folder that holds cifar-10-batches-py/ or cifar-10-python.tar.gz, which is read without unpacking to disk;
            None for $XDG_CACHE_HOME/effbench/cifar10, or ~/.cache/effbench/cifar10.
        download: fetch the archive (170 MB) into root if neither is there.
        image_size: pixels a side; images are resized once.
        val_fraction: stratified part of the 50,000 for validation; 0 for none.
        split_seed: determines the validation split.

    Raises:
        ConfigError: an option is of the wrong type or out of range.
        DataError: files are missing or damaged, or hold anything but arrays of bytes and labels.
    """
    BOOL.check(download, "data.download")
    check_counts("pixel", image_size=image_size)  # here too: reading takes longer than resizing
    check_division(split_seed, val_fraction=val_fraction)
    contents = _contents(given_folder("root", root) or cache_home() / "cifar10", download)

    names = contents[META_FILE].get(b"label_names")
    if not isinstance(names, list) or not names or not all(isinstance(name, bytes) for name in names):
        raise DataError(f"{META_FILE} has no list of names in b'label_names': it is not a file of CIFAR-10.")
    classes = tuple(printable(name.decode("utf-8", "surrogateescape")) for name in names)

    # in the order of the files: the split by `split_seed` depends on it
    parts = [_split(name, contents[name], len(classes)) for name in TRAIN_FILES]
    train = Split(torch.cat([part.images for part in parts]), torch.cat([part.labels for part in parts]))
    test = _split(TEST_FILE, contents[TEST_FILE], len(classes))
    # The digest is that of the whole set at its own size: other splits and sizes of it stay comparable.
    sha256 = digest(train.images, train.labels, test.images, test.labels)
    rest, val = hold_out(train, val_fraction, split_seed) if val_fraction > 0 else (train, None)
    return resized(Splits("cifar10", rest, val, test, classes, sha256), image_size)


def _contents(root: Path, download: bool) -> dict[str, dict[bytes, Any]]:
    """Return {file name: its dictionary} from the folder, or from the archive, which is downloaded if asked for."""
    folder, archive = root / FOLDER, root / ARCHIVE
    raw: dict[str, bytes] = {}
    try:
        if folder.is_dir():
            source = folder
            for name in _FILES:
                if (folder / name).is_file():
                    with (folder / name).open("rb") as file:
                        raw[name] = _bounded(file, f"{printable(folder)}: {name}")
        else:
            if not archive.is_file():
                _fetch(archive, download)
            raw, source = _read_archive(archive), archive
    except OSError as error:
        raise DataError(
            f"CIFAR-10 in {printable(root)} cannot be read or put there (170 MB): {error.strerror or error}. "
            "Give another folder: data.root=DIR."
        ) from error
    if missing := [name for name in _FILES if name not in raw]:
        raise DataError(f"{printable(source)} has no {', '.join(missing)}. Delete it and fetch it again.")
    return {name: unpickled(raw[name], f"{printable(source)}: {name}") for name in _FILES}


# --- files ----------------------------------------------------------------------------------------------------


def _read_archive(archive: Path) -> dict[str, bytes]:
    """Read the wanted members in one pass, without writing files. Raises DataError for signs of an attack."""
    if archive.stat().st_size == NUM_BYTES:  # the published archive: its md5 is known
        with archive.open("rb") as file:
            found = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
        if found != MD5:
            raise DataError(
                f"{printable(archive)} is damaged: md5 {found}, published {MD5}. Delete it and fetch it again."
            )
    raw = {}
    try:
        with gzip.open(archive) as unzipped, tarfile.open(fileobj=_Capped(unzipped, archive), mode="r|") as tar:
            for member in tar:
                _check_harmless(member, archive)
                name = member.name.rpartition("/")[2]
                if member.isfile() and member.name == f"{FOLDER}/{name}" and name in _FILES:
                    raw[name] = _bounded(tar.extractfile(member), f"{printable(archive)}: {name}")
    except (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(
            f"{printable(archive)} is no whole tar.gz archive ({error}). Delete it and fetch it again."
        ) from error
    return raw


def _check_harmless(member: tarfile.TarInfo, archive: Path) -> None:
    """Refuse an archive with paths outside its folder. Nothing is unpacked to disk, but it cannot be trusted."""
    path = PurePosixPath(member.name.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts:
        why = "leads out of its folder"
    elif not (member.isreg() or member.isdir()):
        why = "is a link" if member.issym() or member.islnk() else "is no file or folder"
    elif member.size > _FILE_LIMIT:
        why = f"is said to have {member.size:,} bytes, above the limit of {_FILE_LIMIT:,} bytes"
    else:
        return
    raise DataError(
        f"{printable(archive)}: {printable(member.name)} {why}. That is no archive of CIFAR-10: delete it and fetch it "
        "again."
    )


def _bounded(file: Any, what: str) -> bytes:
    # one byte more than the limit tells a file at the limit from a larger one
    content: bytes = file.read(_FILE_LIMIT + 1)
    if len(content) > _FILE_LIMIT:
        raise DataError(f"{what} is above the limit of {_FILE_LIMIT:,} bytes: it is no file of CIFAR-10.")
    return content


class _Capped(io.RawIOBase):
    """Reads `file` up to a limit: a small archive may unpack to any size, also in headers kept by tarfile."""

    def __init__(self, file: Any, archive: Path):
        self._file, self._archive, self._left = file, archive, _ARCHIVE_LIMIT

    def read(self, size: int = -1, /) -> bytes:
        content: bytes = self._file.read(size)
        # counted as it is read: a header may state any size
        self._left -= len(content)
        if self._left < 0:
            raise DataError(f"{printable(self._archive)} unpacks to more than the limit of {_ARCHIVE_LIMIT:,} bytes.")
        return content


def _fetch(archive: Path, download: bool) -> None:
    """Download the archive to a temporary name, and rename it if its md5 is the published one."""
    if not download:
        raise DataError(
            f"CIFAR-10 is not in {printable(archive.parent)}: put {ARCHIVE} ({URL}) there, or name its folder with "
            "data.root=DIR, or let it be fetched (170 MB): data.download=true."
        )
    archive.parent.mkdir(parents=True, exist_ok=True)
    # a name of its own: two processes may fetch at once, and the last rename wins with the same content
    temporary = archive.with_name(f".{ARCHIVE}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
    md5 = hashlib.md5(usedforsecurity=False)
    try:
        with (
            temporary.open("xb") as file,
            tqdm(desc=ARCHIVE, total=NUM_BYTES, unit="B", unit_scale=True, disable=None) as bar,
        ):
            for chunk in _chunks():
                file.write(chunk)
                md5.update(chunk)
                bar.update(len(chunk))
            file.flush()
            os.fsync(file.fileno())  # before the rename: a power cut must not leave an archive with holes
        if md5.hexdigest() != MD5:
            raise DataError(
                f"{URL} gave a file of md5 {md5.hexdigest()}, published is {MD5}. Try again, or fetch it by hand."
            )
        move(temporary, archive)
    finally:
        temporary.unlink(missing_ok=True)


def _chunks() -> Iterator[bytes]:
    """Yield the content of URL. An OSError in here is one of the network, in `_fetch` one of the disk."""
    try:
        with urllib.request.urlopen(URL, timeout=_TIMEOUT_S) as response:
            while chunk := response.read(1 << 20):
                yield chunk
    except (OSError, HTTPException) as error:
        raise DataError(
            f"{URL} cannot be reached or broke off ({error}). Try again, or put the file into data.root by hand."
        ) from error


# --- content --------------------------------------------------------------------------------------------------


class _StandIn:
    """Replaces numpy's array, dtype and their constructor during unpickling; it only stores its arguments."""

    def __init__(self, *arguments: Any):
        self.arguments = arguments

    def __setstate__(self, state: Any) -> None:
        self.state = state


def _encode(text: str, encoding: str) -> bytes:
    """Encode text of code points 0 to 255 as bytes: Python 3 writes bytes so in the old pickle protocol."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"it encodes text as {encoding!r}")
    return text.encode("latin1")


class _Unpickler(pickle._Unpickler):
    """An unpickler that can name only two functions of ours. An ordinary one can call anything that a pickle names.

    It is derived from the pure Python version, because one opcode makes the C version allocate any amount of memory.
    """

    stand_ins: ClassVar[dict[tuple[str, str], Any]] = {
        ("numpy.core.multiarray", "_reconstruct"): _StandIn,  # numpy 1
        ("numpy._core.multiarray", "_reconstruct"): _StandIn,  # numpy 2
        ("numpy", "ndarray"): _StandIn,
        ("numpy", "dtype"): _StandIn,
        ("_codecs", "encode"): _encode,
    }

    def find_class(self, module: str, name: str) -> Any:
        # by module and name together: `encode` of another module is another function
        if (module, name) not in self.stand_ins:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which is refused")
        return self.stand_ins[module, name]


def unpickled(raw: bytes, what: str) -> dict[bytes, Any]:
    """Read the dictionary of a CIFAR batch or meta file without running code from it.

    Args:
        raw: content of the file.
        what: beginning of messages.

    Returns:
        The dictionary; arrays of uint8 are numpy arrays.

    Raises:
        DataError: the file needs anything that such files do not.
    """
    try:
        content = _Unpickler(io.BytesIO(raw), encoding="bytes").load()
        if not isinstance(content, dict):
            raise TypeError(f"it holds a {type(content).__name__}, not a dictionary")
        for key, value in content.items():
            if isinstance(value, _StandIn):
                # numpy's pickled state of an array: (version, shape, dtype, is Fortran order, bytes)
                _, shape, dtype, fortran, pixels = value.state
                if dtype.arguments[0] not in (b"u1", "u1") or fortran or not isinstance(pixels, bytes):
                    raise TypeError("an array in it is not of bytes in C order")
                content[key] = np.frombuffer(pixels, np.uint8).reshape(shape)
        return content
    except MemoryError:
        raise
    except Exception as error:  # a damaged pickle may raise nearly anything
        reason = str(error) or type(error).__name__
        raise DataError(f"{what} is not a file of CIFAR-10: {reason}. Delete it and fetch it again.") from error


def _split(name: str, batch: dict[bytes, Any], num_classes: int) -> Split:
    """Return a split. b'data': uint8 (N, 3072), rows of red, green and blue planes of 32 x 32. b'labels': N ints."""
    data, labels = batch.get(b"data"), batch.get(b"labels")
    if not isinstance(data, np.ndarray) or data.shape[1:] != (3072,):
        raise DataError(f"{name} has no uint8 array (N, 3072) in b'data': it is not a file of CIFAR-10.")
    if not isinstance(labels, list) or len(labels) != len(data):
        raise DataError(f"{name} has no list of {len(data)} labels in b'labels': it is not a file of CIFAR-10.")
    # each label, before a tensor is made: a tensor would turn True into 1, and refuse 2**70 in its own words
    for row, label in enumerate(labels):
        if type(label) is not int or not 0 <= label < num_classes:
            raise DataError(f"{name} row {row} has label {label!r}, outside [0, {num_classes}).")
    # a copy: the bytes of a pickle are read-only
    return Split(torch.from_numpy(data.reshape(-1, 3, 32, 32).copy()), torch.tensor(labels, dtype=torch.int64))
