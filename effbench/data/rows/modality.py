"""Feature rows: float32 (N, F), standardised by mean and deviation of the train split."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor, nn

from effbench.data.modality import AugmentParams, Modality, Normalise, Settings, tensor_of
from effbench.data.rows.csv_files import csv_files, read_rows
from effbench.data.split_checks import as_tensor
from effbench.data.table_files import is_coarse
from effbench.errors import ConfigError, DataError
from effbench.units import counted

if TYPE_CHECKING:
    from effbench.data.splits import Splits

log = logging.getLogger(__name__)

ROWS = 65_536  # rows in a prediction batch


class Rows(Modality):
    """Feature rows.

    Args:
        mean: (F,), mean of each feature in the train split.
        std: (F,), standard deviation; 1 for a constant feature.
        settings: settings of the run.
        names: names of the features, for files with a header; None if the dataset has none.
    """

    unit = "row"
    layout = "(F,)"

    def __init__(self, mean: Sequence[float], std: Sequence[float], settings: Settings, names: Any = None):
        super().__init__((len(mean),), settings.device)
        self.mean, self.std, self.names = list(mean), list(std), names
        # on the device once, because `normalise` runs for each batch
        self._mean, self._std = (torch.tensor(values, device=settings.device) for values in (self.mean, self.std))

    @classmethod
    def checked(cls, name: str, inputs: Any, count: int) -> Tensor:
        """Return float32 (N, F) of finite numbers."""
        found = as_tensor(f"{name} rows", inputs)
        # (N,) too is refused: one feature, or one row?
        if found.dim() != 2 or len(found) != count or found.shape[1] == 0 or found.is_complex():
            raise DataError(
                f"{name} rows must be numbers (N, F) with N labels; got {found.dtype} {tuple(found.shape)} with "
                f"{count} labels."
            )
        rows = found.to(torch.float32)  # before the check: 1e300 becomes an infinity
        odd = (~rows.isfinite()).nonzero()
        if len(odd):
            row, column = odd[0].tolist()
            raise DataError(
                f"{name} rows must be finite in float32; row {row} has {float(found[row, column])} in column {column} "
                f"({len(odd)} such values). Fill them in, or leave those rows out."
            )
        if found.dtype in (torch.float64, torch.int64):
            _tell_coarse(name, found.double(), rows)
        return rows

    @classmethod
    def size_text(cls, shape: Sequence[int]) -> str:
        return counted(shape[0], "feature")

    @classmethod
    def fit(cls, data: Splits, settings: Settings) -> Self:
        rows = data.train.inputs.double()  # sums of float32 would lose digits over many rows
        std = rows.std(0, correction=0)
        # A constant feature has deviation 0, or a rounding error of float64: dividing by it would give huge values.
        std = torch.where(std > 1e-12 * rows.abs().amax(0), std, 1.0)
        return cls(rows.mean(0).tolist(), std.tolist(), settings, data.facts.get("features"))

    @classmethod
    def blank(cls, shape: Sequence[int], settings: Settings | None = None) -> Self:
        return cls([0.0] * shape[0], [1.0] * shape[0], settings or Settings())

    def record(self) -> dict[str, Any]:
        return {"mean": self.mean, "std": self.std}

    @classmethod
    def restored(cls, data: Mapping[str, Any], settings: Settings) -> Self:
        mean, std, names = data.get("mean"), data.get("std"), data.get("features")
        if mean is None or std is None or not [len(mean)] == [len(std)] == list(data["shape"]):
            raise ValueError("it needs data.mean and data.std of each feature")
        if names is not None and len(names) != len(mean):
            raise ValueError("data.features must name each feature")
        return cls(mean, std, settings, names)

    @classmethod
    def identity(cls, data: Splits) -> dict[str, Any]:
        """Return the names of the features, where the dataset has names."""
        return {"features": data.facts.get("features")}

    @property
    def facts(self) -> dict[str, Any]:
        return {"in_features": self.shape[0]}

    def batch(self, inputs: Tensor, indices: Tensor, params: AugmentParams, rows: slice) -> Tensor:
        """Return float32 (B, F)."""
        return self.normalise(self.transfer.to_device(inputs.index_select(0, indices[rows])))

    def plain(self, inputs: Tensor, rows: slice | Tensor) -> Tensor:
        """Return float32 (B, F)."""
        return self.normalise(self.transfer.to_device(inputs[rows]))

    def given(self, inputs: Any) -> Iterator[Tensor]:
        """Accept a CSV file, a folder or list of such, or numbers (F,) or (N, F)."""
        if (paths := self.paths_in(inputs)) is not None:
            for path in csv_files(paths):
                yield read_rows(path, self.shape[0], self.names)
            return
        rows = tensor_of(inputs)
        yield self.required(rows[None] if rows.dim() == 1 else rows)

    @staticmethod
    def paths_in(inputs: Any) -> list[str] | None:
        """Return the paths that `predict` was given, one or a list; None for numbers."""
        paths = [inputs] if isinstance(inputs, str | os.PathLike) else inputs
        if isinstance(paths, list | tuple) and paths and all(isinstance(path, str | os.PathLike) for path in paths):
            return list(map(os.fspath, paths))
        return None

    def required(self, samples: Tensor) -> Tensor:
        if samples.dim() != 2 or samples.shape[1] != self.shape[0] or samples.is_complex():
            raise ConfigError(
                f"predict takes numbers (N, {self.shape[0]}); got {samples.dtype} {tuple(samples.shape)}."
            )
        rows = samples.to(torch.float32)
        if not rows.isfinite().all():
            raise ConfigError("predict takes finite numbers; got a NaN or an infinity.")
        return rows

    def read_files(
        self, paths: Sequence[str], options: Mapping[str, Any], problems: list[str]
    ) -> Iterator[tuple[list[dict[str, Any]], Tensor]]:
        """Yield {'file': path, 'row': number from 1} for each row. A file with a bad line is omitted entirely."""
        for path in csv_files(paths):
            # Omitted as a whole: the rows after a bad line would get wrong numbers.
            try:
                rows = read_rows(path, self.shape[0], self.names)
            except DataError as error:
                problems.append(str(error))
                continue
            for first, chunk in zip(range(0, len(rows), ROWS), rows.split(ROWS), strict=True):
                names = [{"file": str(path), "row": first + place + 1} for place in range(len(chunk))]
                yield names, chunk

    def normalise(self, portable: Tensor) -> Tensor:
        return (portable - self._mean.to(portable.device)) / self._std.to(portable.device)

    def normaliser(self) -> nn.Module:
        return Normalise(self.mean, self.std)

    def random_portable(self, count: int) -> Tensor:
        """Return rows of normal values with the mean and deviation of each feature in the train split."""
        # in the range of the data: numbers in [0, 1] could be thousands of deviations away from it
        rows = torch.randn(count, *self.shape, generator=torch.Generator().manual_seed(0))
        return rows * self._std.cpu() + self._mean.cpu()

    def export_facts(self) -> dict[str, Any]:
        about = {"features": self.names} if self.names else {}
        return {**super().export_facts(), "preprocessing": about, "normalisation_inside": self.record()}


def _tell_coarse(name: str, exact: Tensor, rows: Tensor) -> None:
    """Warn of features whose differences are lost in float32.

    Args:
        name: of the split.
        exact: float64 (N, F), as they were given.
        rows: the same in float32.
    """
    errors, deviations = (rows.double() - exact).abs().amax(0).tolist(), exact.std(0, correction=0).tolist()
    lost = [place for place, pair in enumerate(zip(errors, deviations, strict=True)) if is_coarse(*pair)]
    if lost:
        log.warning(
            f"{name} rows: float32 holds the numbers of column {lost[0]} to within {errors[lost[0]]:.3g} only, which "
            f"is much of their differences ({counted(len(lost), 'such column')}). Subtract a number, such as the mean"
        )
