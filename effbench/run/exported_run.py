"""An exported file in place of a run: its answers come from the file, through the runtime of its format."""

from __future__ import annotations

from collections.abc import Mapping
from copy import copy
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from effbench import build
from effbench.config.arguments import check_text
from effbench.data.modality import AugmentParams, Modality
from effbench.errors import ConfigError, EffbenchError, first_line
from effbench.export.files import record_path
from effbench.export.opening import Opened, input_sides, output_sides
from effbench.run.run import Run
from effbench.special_tokens import PADDING
from effbench.tasks.task import Task
from effbench.units import counted

BEST = "best"  # the checkpoint that nobody asked for
_OTHER_RUN = "It is the file of another run, or one of the two records was changed: export the run again."


@dataclass(frozen=True, repr=False)
class ExportedRun(Run):
    """A run whose model is an exported file.

    Attributes:
        opened: the file.
        recorded: what stands for summary.json, if there is no run folder.
    """

    opened: Opened
    recorded: Mapping[str, Any] | None = None
    on_cpu: ClassVar[bool] = True

    @cached_property
    def summary(self) -> dict[str, Any]:
        return super().summary if self.recorded is None else dict(self.recorded)

    @property
    def record_file(self) -> Path:
        return super().record_file if self.recorded is None else record_path(self.opened.path)

    @property
    def precision(self) -> str:
        return "32-true"  # the file takes and gives float32

    def model(self, which: str = BEST) -> nn.Module:
        """Return the file as a module. Raises ConfigError if it is for other samples or classes than the run's."""
        check_text("checkpoint", which)
        if which != BEST:
            held = self.opened.record["checkpoint"].get("name")
            raise ConfigError(
                f"{self.opened.path} holds one checkpoint ({held}), so checkpoint={which} has no use. Leave it out."
            )
        self.check_sides()
        return _FileModel(self.opened)

    def check_sides(self) -> None:
        """Raise ConfigError unless the file takes this run's samples and has an output for each class."""
        record, path = self.opened.record, self.opened.path
        given, known = input_sides(record), self.record_file
        # a modality of the user's may give its files samples of another shape than its datasets
        if self.shape != given and self.modality().export_facts()["input"]["shape"][1:] != list(given):
            why = f"takes {record['input']['name']} of {given}, and data.shape in {known} is {list(self.shape)}"
            raise ConfigError(f"{path} {why}. {_OTHER_RUN}")
        outputs, count = output_sides(record), len(self.classes)
        wanted = tuple(self.task.output_shape(self.shape, count))
        if outputs != wanted:
            why = f"and for the {counted(count, 'name')} of data.classes in {known} they would be {wanted}"
            raise ConfigError(f"{path} has outputs of {outputs}, {why}. {_OTHER_RUN}")

    @cached_property
    def task(self) -> Task:
        # Nothing is restored: the outputs of the file have the unit of the targets already.
        return build.task_of(self.config, len(self.classes), facts=super().modality().task_facts(self.data))

    def modality(self, device: torch.device | None = None) -> Modality:
        return without_normalisation(super().modality(device))


def without_normalisation(modality: Modality) -> Modality:
    """Return the modality with batches in the form of `portable`, as exported files take them."""
    kind: Any = type(modality)

    class Portable(kind):  # type: ignore[misc]  # a modality of any class, also of the user's
        def normalise(self, portable: Tensor) -> Tensor:
            return portable

        def plain(self, inputs: Tensor, rows: slice | Tensor) -> Tensor:
            return super().portable(inputs[rows])  # type: ignore[no-any-return]

        def batch(self, inputs: Tensor, indices: Tensor, params: AugmentParams, rows: slice) -> Tensor:
            raise NotImplementedError("an exported file is not trained")

    own = copy(modality)
    own.__class__ = Portable
    return own


class _FileModel(nn.Module):
    """The file as a module. Samples of one fixed length are padded to it, which changes no answer.

    Raises:
        EffbenchError: the runtime fails at a batch.
    """

    def __init__(self, opened: Opened):
        super().__init__()
        self._opened = opened
        # who moves inputs to a model's device asks one of its parameters
        self.device = nn.Parameter(torch.empty(0), requires_grad=False)

    def forward(self, inputs: Tensor) -> Tensor:
        length, given = self._opened.fixed_length, inputs.shape[1]
        if length is None or given == length:
            return self._answers(inputs)
        padded = inputs.new_full((len(inputs), length), PADDING)
        padded[:, :given] = inputs
        outputs = self._answers(padded)
        # of a next-token model: the outputs of the padding are not asked for
        return outputs[:, :given] if outputs.dim() > 2 else outputs

    def _answers(self, inputs: Tensor) -> Tensor:
        try:
            return self._opened.forward(inputs)
        except (EffbenchError, MemoryError):
            raise
        except Exception as error:  # each runtime raises other classes
            raise EffbenchError(
                f"{self._opened.path} fails at a batch of {len(inputs)}: {first_line(error):.300}"
            ) from error
