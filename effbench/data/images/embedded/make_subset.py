"""Makes fashion_mnist_subset.npz: the first 600 train and 200 test images of each class, in file order.

Run `python -m effbench.data.images.embedded.make_subset FOLDER`, FOLDER holding the four idx.gz files of Fashion-MNIST
(Debian's package dataset-fashion-mnist puts them in /usr/share/datasets/fashion-mnist). It rewrites the archive
and its sha256 beside this file; the bytes are the same on every run.
"""

from __future__ import annotations

import io
import sys
import zipfile
from pathlib import Path

import numpy as np

from effbench.data.images.fashion_mnist import EMBEDDED, read_folder
from effbench.data.shipped import write_shipped

PER_CLASS = {"train": 600, "test": 200}


def first_of_each_class(labels: np.ndarray, count: int) -> np.ndarray:
    """Return the indices (ascending) of the first `count` samples of every class. labels: (N,)."""
    # sorted: samples keep the file order of the full set
    return np.sort(np.concatenate([np.flatnonzero(labels == label)[:count] for label in np.unique(labels)]))


def make(folder: Path) -> bytes:
    """Return the archive's bytes: arrays train_images, train_labels, test_images, test_labels (uint8)."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for which, (images, labels) in read_folder(folder).items():
            chosen = first_of_each_class(labels, PER_CLASS[which])
            for name, array in (("images", images), ("labels", labels)):
                member = io.BytesIO()
                np.save(member, array[chosen], allow_pickle=False)
                # A fixed date: the archive's digest must not depend on when it was made.
                info = zipfile.ZipInfo(f"{which}_{name}.npy", date_time=(1980, 1, 1, 0, 0, 0))
                archive.writestr(info, member.getvalue(), zipfile.ZIP_DEFLATED, 9)
    return buffer.getvalue()


if __name__ == "__main__":
    write_shipped(EMBEDDED, make(Path(sys.argv[1])))
