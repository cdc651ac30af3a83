"""A finished or interrupted run, loaded from its folder."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from effbench import build
from effbench.config.arguments import check_text
from effbench.config.options import WHOLE
from effbench.config.schema import Config
from effbench.cpu.accelerate import accelerate
from effbench.data.modality import Modality
from effbench.disk import followed, pointed
from effbench.errors import ConfigError, EffbenchError, shown, unknown_name
from effbench.guarded import kind_of
from effbench.metrics import LOSS, recorded_displays
from effbench.records import read_metrics, read_summary
from effbench.run.compressed import shaped_model
from effbench.tasks.generation import continuation, tokenizer_of
from effbench.tasks.task import Task
from effbench.training.checkpoint_files import DamagedError, weights_and_manifest
from effbench.training.snapshots import load_weights

_REMEDY = "Try checkpoint=best or last; `effbench verify {}` shows which are undamaged."


@dataclass(frozen=True, repr=False)
class Run:
    """A run that was trained.

    Attributes:
        folder: holds config.yaml, summary.json, metrics.csv and checkpoints/.
        config: the run's config, without its callbacks.
        redrawn: keys of the data section that draw the splits otherwise than in training (effbench/run/load.py).
    """

    folder: Path
    config: Config
    redrawn: tuple[str, ...] = field(default=(), kw_only=True)
    on_cpu: ClassVar[bool] = False  # True if the model runs on the CPU only

    def __repr__(self) -> str:
        """Show the folder, the status and the main result in one line."""
        # A notebook shows the repr of any value: a damaged folder must not raise here.
        try:
            metrics, status = self.summary.get("metrics") or {}, str(self.summary["status"])
        except (ConfigError, OSError):
            return f"Run({str(self.folder)!r}, no summary yet)"
        displays = recorded_displays(self.summary)
        reached = [
            f"{text} {display.title} {display.text(metrics[f'{split}/{name}'])}"
            for split, text in (("test", "test"), ("val", "validation"))
            for name, display in displays.items()
            if name != LOSS and metrics.get(f"{split}/{name}") is not None
        ]
        return f"Run({', '.join([repr(str(self.folder)), status.replace('_', ' '), *reached[:1]])})"

    @cached_property
    def summary(self) -> dict[str, Any]:
        """The content of summary.json."""
        return read_summary(self.folder)

    @cached_property
    def metrics(self) -> list[dict[str, str]]:
        """The rows of metrics.csv."""
        return read_metrics(self.folder)

    @property
    def record_file(self) -> Path:
        """The file that holds the summary, for messages."""
        return self.folder / "summary.json"

    @property
    def precision(self) -> str:
        """Number formats of training, with which its test is evaluated again."""
        return self.config.trainer.precision

    @property
    def data(self) -> dict[str, Any]:
        """The section on the dataset in the summary. Raises ConfigError if the run failed before the data were read."""
        data = self.summary.get("data")
        if data is None:
            raise ConfigError(f"{self.folder} is a run that failed before it began: {self.summary.get('error')}.")
        path = self.record_file
        if absent := [f"data.{key}" for key in ("classes", "shape", "sha256") if data.get(key) is None]:
            raise ConfigError(f"{path} is damaged: it lacks {', '.join(absent)}.")
        if not data["classes"]:
            raise ConfigError(f"{path} is damaged: it needs a class.")
        return dict(data)

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names, in label order."""
        return tuple(self.data["classes"])

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one model input, without the batch: (channels, height, width) for an image."""
        return tuple(self.data["shape"])

    @property
    def image_shape(self) -> tuple[int, ...]:
        """Like `shape`, for a run on images."""
        return self.shape

    @property
    def white_level(self) -> tuple[float, float]:
        """White levels (of integers, of floats) for images above 8 bits; see data.white_level."""
        integers, floats = self.summary.get("data", {}).get("white_level") or (65535.0, 1.0)
        return float(integers), float(floats)

    def checkpoint(self, which: str = "best") -> Path:
        """Return the folder of checkpoint 'best' or 'last'. Without validation, best means last."""
        check_text("checkpoint", which)
        if Path(which).name != which:  # a path could lead to another run's checkpoint
            raise ConfigError(unknown_name("checkpoint", which, ("best", "last")))
        folder = self.folder / "checkpoints"
        choices = [folder / which, folder / "last"] if which == "best" else [folder / which]
        # `best` and `last` are links, or files with a name where the file system has no links.
        for path in map(followed, choices):
            if kind_of(path) is not None:
                return path
        # Other names, such as step-00000042, are accepted if the folder exists, and unknown otherwise.
        if which not in ("best", "last"):
            raise ConfigError(unknown_name("checkpoint", which, ("best", "last")))
        for path in choices:
            if name := pointed(path):
                raise ConfigError(f"{path} points to {name}, which is not there. {_REMEDY.format(self.folder)}")
        raise ConfigError(f"{self.folder} holds no checkpoint '{which}': it was not saved, or the run failed before.")

    def model(self, which: str = "best") -> nn.Module:
        """Return the trained model on the CPU in eval mode, with torch's plain layers.

        The weights are the averaged ones if the run kept an average. Its inputs are those that `modality()` makes, its
        outputs those that `task.answers` takes: `predict` does both.
        """
        return self.model_and_manifest(which)[0]

    def model_and_manifest(self, which: str = "best") -> tuple[nn.Module, dict[str, Any]]:
        """Return the model as `model` does, and the manifest of its checkpoint, whose files are read once for both."""
        # The weights come from the checkpoint; the file of model.pretrained may no longer exist.
        section = self.config.model.model_copy(update={"pretrained": None, "freeze": []})
        config = self.config.model_copy(update={"model": section})
        model = shaped_model(config, self.folder, len(self.classes), self.modality())
        try:
            weights, manifest = weights_and_manifest(self.checkpoint(which))
            load_weights(model, weights)
        except DamagedError as error:
            raise EffbenchError(f"{error} {_REMEDY.format(self.folder)}") from error
        return model.to(memory_format=build.memory_format(config)).eval(), manifest

    @cached_property
    def task(self) -> Task:
        """The task. Its loss has no class weights: only training needs them."""
        task = build.task_of(self.config, len(self.classes), facts=self.modality().task_facts(self.data))
        try:
            task.restore(self.summary.get("task") or {})
        except (ValueError, TypeError) as error:
            raise ConfigError(f"{self.record_file} is damaged: {error}.") from error
        return task

    def modality(self, device: torch.device | None = None) -> Modality:
        """Return the modality fitted to the run's train split: normalisation statistics, how files are read."""
        try:
            return build.restored_modality(self.config, self.data, device)
        except (ValueError, LookupError, TypeError) as error:
            raise ConfigError(
                f"{self.record_file} is damaged: {error}. Restore it from a copy, or train the run again."
            ) from error

    def predict(self, inputs: Any, which: str = "best") -> Tensor:
        """Predict for new inputs.

        Args:
            inputs: for a run on images, a file, a folder of images, a Pillow image, a uint8 tensor or array (C, H, W),
                a list of these, or a uint8 batch (N, C, H, W) of the dataset's size. Files and Pillow images are
                brought to the run's size and channels, as in `effbench predict`. For a run on rows, a CSV file, or
                numbers of shape (F,) or (N, F). For a run on texts, a text or a list of texts.
            which: checkpoint, 'best' or 'last'.

        Returns:
            Float (N, K): class probabilities; for other tasks their answers, such as the values of a regression; for
            next-token runs (N, T, K), the probabilities of the token after each place (see also `continued`).

        Raises:
            ConfigError: an input has another type or shape, or a file cannot be read.
        """
        answers = self.predictor(which)
        return torch.cat([answers(samples) for samples in self.modality().given(inputs)])

    def predictor(self, which: str = "best") -> Callable[[Tensor], Tensor]:
        """Return a function like `predict` that loads the weights once: dataset samples (N, ...) -> float (N, K)."""
        model, modality = self.model(which), self.modality()
        # Here and not in `model`: who asks for the model gets torch's own layers.
        accelerate(model)
        task = self.task

        @torch.inference_mode()
        def answers(samples: Tensor) -> Tensor:
            # In chunks, like an evaluation: all samples at once may not fit into memory.
            chunks = modality.required(samples).split(self.config.data.eval_batch_size)
            batches = (modality.portable(modality.shortened(chunk)) for chunk in chunks)
            return torch.cat([task.answers(model(modality.normalise(batch))) for batch in batches])

        return answers

    def continued(self, text: str, which: str = "best", **options: Any) -> str:
        """Return the text that a next-token run continues `text` with.

        Args:
            text: at least one character; the model sees its last tokens.
            which: checkpoint, 'best' or 'last'.
            options: length (tokens), temperature, top_k and seed; by default those of the run's task, and its seed.

        Raises:
            ConfigError: the run is of another task, the text is empty, or an option is unknown or out of range.
        """
        if not isinstance(text, str) or not text:
            raise ConfigError(f"continued takes a text of at least one character; got {shown(text)}.")
        modality = self.modality()
        if why := modality.problem(text):
            raise ConfigError(f"continued: the text {shown(text[:80])} {why}. Leave it out.")
        follow = self.continuer(which, **options)
        tokenizer = tokenizer_of(modality)
        assert tokenizer is not None  # continuer refuses others
        tokens = tokenizer.encode(text)
        modality.tell_unknown("continued", torch.tensor(tokens))
        return follow(tokens)

    def continuer(self, which: str = "best", **options: Any) -> Callable[[Sequence[int]], str]:
        """Return a function like `continued` that loads the weights once: token numbers -> the text that follows."""
        task, modality = self.task, self.modality()
        tokenizer = tokenizer_of(modality)
        if task.sampling is None or tokenizer is None:
            raise ConfigError(f"only runs with task=next_token continue texts; this one has task={task.label}.")
        known = ("length", "temperature", "top_k", "seed")
        if unknown := [key for key in options if key not in known]:
            raise ConfigError(unknown_name("option of continued", unknown[0], known))
        seed = WHOLE.check(options.pop("seed", self.config.seed), "seed")
        sampling = replace(task.sampling, key="", **options)
        if not task.samples and "length" not in options:
            raise ConfigError("length is needed: the run was trained with task.length=0.")
        model, context = self.model(which), modality.shape[0]
        accelerate(model)
        return lambda tokens: continuation(model, tokenizer, tokens, context, sampling, seed)
