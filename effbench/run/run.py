"""A finished (or interrupted) run, read back from its folder."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from effbench import build
from effbench.config.options import COUNT
from effbench.config.schema import Config
from effbench.cpu.accelerate import accelerate
from effbench.data.batches import BatchTransform
from effbench.data.given import images_of
from effbench.data.images.decoding import MAX_PIXELS, Levels
from effbench.disk import followed, pointed
from effbench.errors import ConfigError, EffbenchError, unknown_name
from effbench.metrics import LOSS, recorded_displays
from effbench.records import read_metrics, read_summary
from effbench.tasks.task import Task
from effbench.training.checkpoint import DamagedError, load_weights, read_weights


@dataclass(frozen=True, repr=False)
class Run:
    """config: as trained, without its callbacks. folder: of config.yaml, summary.json, metrics.csv and checkpoints/."""

    folder: Path
    config: Config

    def __repr__(self) -> str:
        """A line: the folder, how the run ended, what it reached."""
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
        """summary.json."""
        return read_summary(self.folder)

    @cached_property
    def metrics(self) -> list[dict[str, str]]:
        """The rows of metrics.csv."""
        return read_metrics(self.folder)

    @property
    def data(self) -> dict[str, Any]:
        """What the summary says of the dataset. Raises ConfigError where the run failed before it was read."""
        data = self.summary.get("data")
        if data is None:
            raise ConfigError(f"{self.folder} is a run that failed before it began: {self.summary.get('error')}.")
        path = self.folder / "summary.json"
        if absent := [f"data.{key}" for key in ("classes", "shape", "mean", "std", "sha256") if data.get(key) is None]:
            raise ConfigError(f"{path} is damaged: it lacks {', '.join(absent)}.")
        if not data["classes"] or not len(data["mean"]) == len(data["std"]) == data["shape"][0]:
            raise ConfigError(f"{path} is damaged: it needs a class, and data.mean and data.std of each channel.")
        return dict(data)

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names, in label order."""
        return tuple(self.data["classes"])

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of the images that the model takes."""
        channels, height, width = self.data["shape"]
        return channels, height, width

    @property
    def white_level(self) -> tuple[float, float]:
        """What becomes white in pictures of more than 8 bits: of integers, and of floats; see data.white_level."""
        integers, floats = self.summary.get("data", {}).get("white_level") or (65535.0, 1.0)
        return float(integers), float(floats)

    def checkpoint(self, which: str = "best") -> Path:
        """checkpoints/best, or last; without a best one (no validation), the last."""
        if Path(which).name != which:  # a path would lead to another run's
            raise ConfigError(unknown_name("checkpoint", which, ("best", "last")))
        folder = self.folder / "checkpoints"
        choices = [folder / which, folder / "last"] if which == "best" else [folder / which]
        for path in map(followed, choices):
            if path.exists():
                return path
        if which not in ("best", "last"):
            raise ConfigError(unknown_name("checkpoint", which, ("best", "last")))
        for path in choices:
            if name := pointed(path):
                raise ConfigError(f"{path} points to {name}, which is not there. {self._remedy}")
        raise ConfigError(f"{self.folder} holds no checkpoint '{which}': it was not saved, or the run failed before.")

    @property
    def _remedy(self) -> str:
        return f"Try checkpoint=best or last; `effbench verify {self.folder}` shows which are whole."

    def model(self, which: str = "best") -> nn.Module:
        """The trained model on the CPU in eval mode, of torch's plain layers; averaged weights where there are any."""
        channels, height, width = self.image_shape
        # The weights come from the checkpoint: model.pretrained may be long gone.
        section = self.config.model.model_copy(update={"pretrained": None, "freeze": []})
        config = self.config.model_copy(update={"model": section})
        model = build.model(config, len(self.classes), channels, (height, width))
        try:
            load_weights(model, read_weights(self.checkpoint(which)))
        except DamagedError as error:
            raise EffbenchError(f"{error} {self._remedy}") from error
        return model.to(memory_format=build.memory_format(config)).eval()

    @cached_property
    def task(self) -> Task:
        """What the model was trained for; its loss without class weights, which only training needs."""
        return build.task_of(self.config, len(self.classes))

    def transform(self, device: torch.device | None = None) -> BatchTransform:
        """The normalisation of the run's train split."""
        data = self.data
        on = device or torch.device("cpu")
        return BatchTransform(tuple(data["mean"]), tuple(data["std"]), on, build.memory_format(self.config))

    def predict(self, inputs: Any, which: str = "best") -> Tensor:
        """Float (N, K): class probabilities; of another task its answers, such as the values of a regression.

        inputs: a file, a folder of images, a Pillow image, a uint8 tensor or array (C, H, W), or a list of such; or
        uint8 (N, C, H, W) as the dataset holds them. Files and Pillow images are brought to the run's size and
        channels as `effbench predict` does. Raises ConfigError for anything else and for a file that is no image.
        """
        probabilities = self.predictor(which)
        return torch.cat(
            [probabilities(images) for images in images_of(inputs, self.image_shape, self.max_pixels, self.levels)]
        )

    @property
    def levels(self) -> Levels | None:
        """What became white in pictures of more than 8 bits; None where the dataset had none."""
        return Levels(*self.white_level) if self.data.get("white_level") else None

    @property
    def max_pixels(self) -> int:
        """Of a file: as the run's data were read."""
        value = self.config.data.options.get("max_pixels")
        if value is not None and not COUNT.holds(value):
            path = self.folder / "config.yaml"
            raise ConfigError(f"{path} is damaged: data.max_pixels must be a whole number above 0; got {value!r:.80}.")
        return value or MAX_PIXELS

    def predictor(self, which: str = "best") -> Callable[[Tensor], Tensor]:
        """`predict` with the weights read once: uint8 (N, C, H, W) -> float (N, K)."""
        model, transform = self.model(which), self.transform()
        accelerate(model)
        task = self.task

        @torch.inference_mode()
        def probabilities(images: Tensor) -> Tensor:
            if images.dtype != torch.uint8 or tuple(images.shape[1:]) != self.image_shape:
                raise ConfigError(
                    f"predict takes uint8 (N, {', '.join(map(str, self.image_shape))}); "
                    f"got {images.dtype} {tuple(images.shape)}."
                )
            chunks = images.split(self.config.data.eval_batch_size)
            return torch.cat([task.answers(model(transform(chunk.float().mul_(1 / 255)))) for chunk in chunks])

        return probabilities
