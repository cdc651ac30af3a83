"""An exported file in place of a run: its answers come from the file, through the runtime of its format."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from effbench import build
from effbench.cache_dir import expanded
from effbench.config.arguments import check_text
from effbench.config.compose import parse
from effbench.config.versions import upgraded
from effbench.data.modality import AugmentParams, Modality
from effbench.errors import ConfigError
from effbench.export.files import record_path
from effbench.export.opening import Opened
from effbench.run.load import load_run
from effbench.run.run import Run
from effbench.special_tokens import PADDING
from effbench.tasks.task import Task

BEST = "best"  # the checkpoint that nobody asked for


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
        """Return the file as a module."""
        check_text("checkpoint", which)
        if which != BEST:
            held = self.opened.record["checkpoint"].get("name")
            raise ConfigError(
                f"{self.opened.path} holds one checkpoint ({held}), so checkpoint={which} has no use. Leave it out."
            )
        return _FileModel(self.opened)

    @cached_property
    def task(self) -> Task:
        # Nothing is restored: the outputs of the file have the unit of the targets already.
        return build.task_of(self.config, len(self.classes), facts=super().modality().task_facts(self.data))

    def modality(self, device: torch.device | None = None) -> Modality:
        return without_normalisation(super().modality(device))


def exported_with_run(opened: Opened, run: str, allow_targets: Sequence[str]) -> ExportedRun:
    """Return the file with the config and the data of its run, as `eval` needs them.

    Args:
        opened: the file.
        run: folder of the run; '' for the one that the record names.
        allow_targets: the user's modules that a _target_ may name.

    Raises:
        ConfigError: the folder holds no run, or one of other classes or samples.
    """
    # An export is in RUN/export by default: it is still there after RUN was moved or copied.
    places = [expanded(run)] if run else [expanded(opened.record["run"]), opened.path.resolve().parents[1]]
    folder = next((place for place in places if run or (place / "summary.json").is_file()), None)
    if folder is None:
        raise ConfigError(
            f"{opened.path} was exported from the run {opened.record['run']}, which is not there. eval reads the data "
            "that the run's config names: say where its folder is now with run=FOLDER."
        )
    found = load_run(folder, allow_targets)
    own, theirs = opened.record.get("data"), found.data
    for key in ("classes", "shape"):
        if isinstance(own, Mapping) and own.get(key) != theirs[key]:
            raise ConfigError(f"{opened.path} was exported from another run than {folder}: data.{key} differs.")
    return ExportedRun(found.folder, found.config, opened)


def exported_alone(opened: Opened, allow_targets: Sequence[str]) -> ExportedRun:
    """Return the file with what its record says of its run, as `predict` needs it.

    Args:
        opened: the file.
        allow_targets: the user's modules that a _target_ may name.

    Raises:
        ConfigError: the record is incomplete.
    """
    place = record_path(opened.path)
    config, data = opened.record.get("config"), opened.record.get("data")
    if not isinstance(config, Mapping) or not isinstance(data, Mapping):
        raise ConfigError(
            f"{place} does not hold the run's config and data: an older effbench wrote it, or it is damaged. Name its "
            "run with run=FOLDER, or export the run again."
        )
    # The record may be a stranger's: it names no modules to import, and calls nothing.
    plain = {**upgraded({**config, "allow_targets": []}, str(place)), "callbacks": {}}
    checked = parse({**plain, "allow_targets": list(allow_targets)})
    metrics = {"metrics": opened.record.get("metrics") or {}}
    return ExportedRun(opened.path.parent, checked, opened, {"data": dict(data), "task": metrics})


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
    """The file as a module. Samples of one fixed length are padded to it, which changes no answer."""

    def __init__(self, opened: Opened):
        super().__init__()
        self._opened = opened
        # who moves inputs to a model's device asks one of its parameters
        self.device = nn.Parameter(torch.empty(0), requires_grad=False)

    def forward(self, inputs: Tensor) -> Tensor:
        length, given = self._opened.fixed_length, inputs.shape[1]
        if length is None or given == length:
            return self._opened.forward(inputs)
        padded = inputs.new_full((len(inputs), length), PADDING)
        padded[:, :given] = inputs
        outputs = self._opened.forward(padded)
        # of a next-token model: the outputs of the padding are not asked for
        return outputs[:, :given] if outputs.dim() > 2 else outputs
