"""Fashion-MNIST (Xiao et al., arXiv:1708.07747): the embedded subset, or the full set from idx.gz files."""

from __future__ import annotations

import gzip
import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch

from effbench.data.images.modality import square_images
from effbench.data.images.pixels import resized
from effbench.data.option_checks import check_counts, check_division, given_folder
from effbench.data.preview import previewed
from effbench.data.shipped import read_shipped
from effbench.data.splits import Split, Splits, digest, hold_out
from effbench.errors import ConfigError, DataError, shown
from effbench.escaping import for_terminal
from effbench.guarded import kind_of

CLASSES = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip
SYSTEM_FOLDER = Path("/usr/share/datasets/fashion-mnist")
EMBEDDED = Path(__file__).parent / "embedded" / "fashion_mnist_subset.npz"
_FILES = {
    "train": ("train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"),
    "test": ("t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"),
}
_FILE_LIMIT = 500_000_000  # bytes unpacked; the largest real file has 47 MB
Array = np.ndarray[Any, np.dtype[np.uint8]]
Arrays = dict[str, tuple[Array, Array]]


@previewed(square_images(1, 28))
def fashion_mnist(
    root: str | None = None,
    subset: str = "embedded",
    image_size: int = 28,
    val_fraction: float = 0.1,
    split_seed: int = 0,
) -> Splits:
    """Read Fashion-MNIST: 28 x 28 grayscale, 10 classes.

    Args:
        root: folder with the idx.gz files of the full set, by default that of Debian's dataset-fashion-mnist; only with
            subset='full'.
        subset: 'embedded' (6,000 train, 2,000 test, in the package) or 'full' (60,000 and 10,000).
        image_size: pixels a side; images are resized once.
        val_fraction: stratified part of the train images for validation; 0 for none.
        split_seed: determines the validation split.

    Raises:
        ConfigError: an option is of the wrong type or out of range.
        DataError: files are missing or damaged.
    """
    check_counts("pixel", image_size=image_size)
    check_division(split_seed, val_fraction=val_fraction)
    folder = given_folder("root", root) or SYSTEM_FOLDER
    if subset not in ("embedded", "full"):
        raise ConfigError(f"data.subset must be 'embedded' or 'full'; got {shown(subset)}.")
    # `data.root=photos` without a `data=` would train on this set without a word
    if subset == "embedded" and root:
        raise ConfigError(
            f"data.root={for_terminal(str(root))} has no use with data.subset=embedded. For images of your own write "
            "data=image_folder data.root=...; for all of Fashion-MNIST add data.subset=full."
        )
    arrays = _read_embedded() if subset == "embedded" else read_folder(folder)

    whole = {
        # a copy: an array out of bytes is read-only, and torch would warn of it
        which: Split(torch.from_numpy(images.copy()).unsqueeze(1), torch.from_numpy(labels.astype(np.int64)))
        for which, (images, labels) in arrays.items()
    }
    # The digest is that of the whole set at its own size: other splits and sizes of it stay comparable.
    sha256 = digest(*(part for split in whole.values() for part in (split.images, split.labels)))
    train, val = hold_out(whole["train"], val_fraction, split_seed) if val_fraction > 0 else (whole["train"], None)
    return resized(Splits(f"fashion_mnist/{subset}", train, val, whole["test"], CLASSES, sha256), image_size)


def read_folder(folder: Path) -> Arrays:
    """Read {'train' and 'test': (images (N, 28, 28) uint8, labels (N,) uint8)} from the four idx.gz files."""
    missing = [name for names in _FILES.values() for name in names if kind_of(folder / name, "data.root") != "a file"]
    if missing:
        raise DataError(
            f"data.subset=full needs Fashion-MNIST's idx.gz files in {folder}; missing: {', '.join(missing)}. "
            "Install Debian's package dataset-fashion-mnist, or name their folder with data.root=DIR."
        )
    arrays = {}
    for which, names in _FILES.items():
        images, labels = _read_idx(folder / names[0], dimensions=3), _read_idx(folder / names[1], dimensions=1)
        if len(images) != len(labels):
            raise DataError(
                f"{folder / names[0]} holds {len(images)} images, but {folder / names[1]} {len(labels)} labels. Fetch "
                "both again."
            )
        arrays[which] = images, labels
    return arrays


def _read_idx(path: Path, dimensions: int) -> Array:
    """Read the uint8 array of an idx.gz file: magic 0x0000 08 <dimensions>, big-endian sizes, then the bytes."""
    try:
        with gzip.open(path) as file:  # with a limit: a small file may unpack to any size
            raw = file.read(_FILE_LIMIT + 1)
        if len(raw) > _FILE_LIMIT:
            raise DataError(f"{path} unpacks to more than the limit of {_FILE_LIMIT:,} bytes: it is not Fashion-MNIST.")
        header = struct.unpack_from(f">{1 + dimensions}I", raw)
    except (OSError, EOFError, zlib.error, struct.error) as error:
        raise DataError(f"{path} is not a whole idx.gz file ({error}). Fetch it again.") from error
    magic, sizes = header[0], header[1:]
    start = 4 * (1 + dimensions)
    # 0x08 is the idx format's code of unsigned bytes, the low byte the number of dimensions
    if magic != 0x0800 + dimensions or len(raw) - start != int(np.prod(sizes)):
        raise DataError(f"{path} is not an idx file of {dimensions} dimensions of bytes. Fetch it again.")
    return np.frombuffer(raw, np.uint8, offset=start).reshape(sizes)


def _read_embedded() -> Arrays:
    content, _ = read_shipped(EMBEDDED)
    # from the bytes that were hashed: the file might change in between
    with np.load(io.BytesIO(content), allow_pickle=False) as archive:
        return {which: (archive[f"{which}_images"], archive[f"{which}_labels"]) for which in ("train", "test")}
