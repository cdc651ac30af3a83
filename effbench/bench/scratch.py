"""The folder for the files of a measurement, in TMPDIR."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
from torch import Tensor

from effbench.errors import EffbenchError
from effbench.records import naming_disk_faults

ELSEWHERE = "TMPDIR=FOLDER"  # the remedy in messages about a full disk
_PREFIX = "effbench-bench-"


@contextmanager
def scratch() -> Iterator[Path]:
    """Give an empty folder, which is removed at the end of the block.

    Raises:
        EffbenchError: none can be made.
    """
    with ExitStack() as block:
        try:
            with naming_disk_faults(Path(tempfile.gettempdir()) / _PREFIX, elsewhere=ELSEWHERE):
                folder = block.enter_context(tempfile.TemporaryDirectory(prefix=_PREFIX))
        except FileNotFoundError as error:  # Python has tried the usual folders
            raise EffbenchError(f"no folder for temporary files can be written. Name one with {ELSEWHERE}.") from error
        yield Path(folder)


def save_array(path: Path, tensor: Tensor) -> Path:
    """Write a tensor as a .npy file and return its path. Raises NoSpaceError."""
    with naming_disk_faults(path, tensor.numel() * tensor.element_size(), ELSEWHERE):
        np.save(path, tensor.contiguous().numpy())
    return path
