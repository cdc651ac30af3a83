"""What is to be exported, and how, checked before torch is imported."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import Field

from effbench.config.arguments import check_path, check_text
from effbench.config.options import FRACTION_ABOVE_0, Rule
from effbench.errors import ConfigError, unknown_name
from effbench.export.formats import FORMATS
from effbench.export.interface import OPSET, OPSETS

TOLERANCE = 1e-4  # of the largest logit, if the user says none
LAYOUTS = ("file", "huggingface")
_OPSETS = Rule[int](
    Annotated[int, Field(ge=OPSETS[0], le=OPSETS[-1])], f"a whole number from {OPSETS[0]} to {OPSETS[-1]}"
)
_MAX_BATCH = Rule[int](Annotated[int, Field(ge=1, le=4096)], "a whole number of samples from 1 to 4096")


@dataclass(frozen=True)
class Wanted:
    """What is to be exported, and how; see `effbench.run.export.export_run`.

    Attributes:
        format_name: a key of FORMATS.
        checkpoint: name of the checkpoint.
        output: folder of the file; '' is RUN/export.
        tolerance: of the largest logit.
        opset: ONNX operator set; None for the format's own.
        compare_data: compare on samples of the run's data; False: on random inputs.
        layout: a key of LAYOUTS.
        max_batch: most samples of a call, for a format whose files state it; None for the format's own.
        data_keys: keys of the data section that the user has replaced.

    Raises:
        ConfigError: a value is wrong, or of no use for the format.
    """

    format_name: str
    checkpoint: str
    output: str | Path
    tolerance: float
    opset: int | None
    compare_data: bool
    layout: str
    max_batch: int | None = None
    data_keys: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_text("format_name", self.format_name)
        if self.format_name not in FORMATS:
            raise ConfigError(unknown_name("format", self.format_name, FORMATS))
        check_text("checkpoint", self.checkpoint)
        check_path("output", self.output)
        check_text("layout", self.layout)
        if self.layout not in LAYOUTS:
            raise ConfigError(unknown_name("layout", self.layout, LAYOUTS))
        FRACTION_ABOVE_0.check(self.tolerance, "tolerance", "a fraction of the largest logit, in (0, 1], such as 1e-4")
        if self.opset is not None:
            self._check_opset()
        if self.max_batch is not None:
            self._check_max_batch()

    @property
    def most_samples(self) -> int | None:
        """Most samples of a call that the file takes; None: any number."""
        return self.max_batch or FORMATS[self.format_name].max_batch

    def _check_opset(self) -> None:
        _OPSETS.check(self.opset, "opset", remedy=f"{OPSET} is usual.")
        if self.format_name != "onnx":
            raise ConfigError(f"opset={self.opset} is for format=onnx, not format={self.format_name}. Leave it out.")

    def _check_max_batch(self) -> None:
        _MAX_BATCH.check(self.max_batch, "max_batch")
        if FORMATS[self.format_name].max_batch is None:
            stating = ", ".join(each.name for each in FORMATS.values() if each.max_batch)
            raise ConfigError(
                f"max_batch={self.max_batch} is for format={stating}: a file of format={self.format_name} takes any "
                "number of samples. Leave it out."
            )
