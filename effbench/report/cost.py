"""The cost of a model x optimizer pairing, from shapes only: nothing is trained, and weights take no memory."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from effbench import build
from effbench.automatic import BATCH_SIZES, batch_size_for, number
from effbench.config.monitors import AUTO
from effbench.config.schema import Config
from effbench.data.modality import Modality
from effbench.data.reference import Reference
from effbench.data.splits import Splits
from effbench.errors import ConfigError, DataError
from effbench.models import accounting
from effbench.training.ema import averages_itself
from effbench.training.precision import choose_precision
from effbench.units import article

Given = tuple[tuple[int, ...] | None, int | None]  # the shape of a sample and the number of classes

_PAPERS_CLASSES = 1000  # of ImageNet, which the papers' costs are for
_DTYPES = {"32-true": torch.float32, "16-mixed": torch.float16, "bf16-mixed": torch.bfloat16}


@dataclass(frozen=True)
class Setting:
    """The input that a model is built for.

    Attributes:
        modality: of the samples.
        num_classes: number of logits.
        reference: what a simple method reaches on these data; None if unknown.
        samples: of the train split; None if the data were not read.
    """

    modality: Modality
    num_classes: int
    reference: Reference | None = None
    samples: int | None = None

    @property
    def example(self) -> Tensor:
        """A batch of one sample."""
        return self.modality.example()

    def __str__(self) -> str:
        return f"{self.modality.size_text(self.modality.shape)}, {self.num_classes} {self.modality.outputs}"


def setting_for(config: Config, given: Given | None = None) -> Setting:
    """Return the setting in which a config's cost is stated.

    Args:
        config: its dataset decides the modality.
        given: shape of a sample, or None for the shape of the papers, and number of classes, or None for that of the
            vocabulary, if there is one, else of the papers. Without `given` the data are read, and the setting is
            theirs.

    Raises:
        ConfigError: the shape is not one of the modality.
        DataError: the data cannot be read.
    """
    if given is None:
        try:
            return read_setting(config)
        except DataError as error:
            raise DataError(f"{error}\nTo do without the data, give input=3x224x224 classes=1000.") from error

    shape, num_classes = given
    # the data themselves are not read: input= and classes= stand for them
    preview = build.preview(config)
    kind = Splits.modality if preview is None else type(preview)
    # without input=, the shape of the papers; a modality without one takes the dataset's own
    usual = kind.published[0] if kind.published else None if preview is None else preview.shape
    shape = shape or usual
    if shape is None or (usual is not None and len(shape) != len(usual)):
        such_as = f", such as {'x'.join(map(str, usual))}" if usual else ""
        raise ConfigError(
            f"input must be {kind.layout} of {article(kind.unit)} {kind.unit}, with x between them{such_as}; got "
            f"{'x'.join(map(str, shape or ()))!r}."
        )
    modality = kind.blank(shape, build.settings(config))
    return Setting(modality, num_classes or modality.num_outputs or _PAPERS_CLASSES)


def read_setting(config: Config) -> Setting:
    """Read the data, and return their setting: a run's model has these sizes. Raises DataError if they cannot be read.

    The modality is fitted, because what is fitted may decide the size of a model: a tokenizer has fewer token numbers
    than data.vocab_size if the texts have fewer.
    """
    data = build.splits(config)
    fitted = data.modality.fit(data, build.settings(config))
    return Setting(fitted, len(data.classes), Reference.recorded(data.facts), len(data.train))


def published(config: Config, kind: type[Modality]) -> Setting | None:
    """Return the setting of the papers' tables for samples of this kind: ImageNet-1k's for images."""
    if kind.published is None:
        return None
    shape, num_classes = kind.published
    return Setting(kind.blank(shape, build.settings(config)), num_classes)


def shape_model(config: Config, setting: Setting) -> nn.Module:
    """Build the model on the meta device: shapes without data. Pretrained weights are not loaded."""
    # the meta device has no data to load weights into
    section = config.model.model_copy(update={"pretrained": None})
    with torch.device("meta"):
        return build.model(config.model_copy(update={"model": section}), setting.num_classes, setting.modality)


def cost(config: Config, setting: Setting) -> dict[str, Any]:
    """Return parameters, MACs of the forward pass of one sample, and bytes of a training step at data.batch_size.

    data.batch_size=auto counts as what training on these data would use; as its largest value if they were not read.
    """
    task = build.task_of(config, setting.num_classes)
    task.check_samples(type(setting.modality), f"data ({config.data.label})")
    model = shape_model(config, setting)
    counts = accounting.parameters(model)
    usual = BATCH_SIZES[0] if setting.samples is None else batch_size_for(setting.samples)
    batch_size = usual if config.data.batch_size == AUTO else number(config.data.batch_size)
    compute = accounting.macs(model, setting.example)
    # the precision of a real run decides the bytes of activations
    on_gpu = config.device.name == "cuda" or (config.device.name == "auto" and torch.cuda.is_available())
    precision, _ = choose_precision(config.trainer.precision, torch.device("cuda" if on_gpu else "cpu"))
    # frozen parameters get no gradients
    gradients = sum(p.numel() * p.element_size() for p in model.parameters() if p.requires_grad)
    target = task.example_targets(setting.modality.shape, setting.num_classes)
    made = task.output_shape(setting.modality.shape, setting.num_classes)

    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        if tuple(outputs.shape[1:]) != made:
            raise ConfigError(
                f"model={config.model.label} makes outputs {tuple(outputs.shape[1:])} {article(setting.modality.unit)} "
                f"{setting.modality.unit}, and task={task.label} takes {made}: they do not fit. For task=next_token "
                "write data=kjv model=gpt."
            )
        return task.loss.summed(*task.rows(outputs, targets, full=True))

    kept = accounting.activation_bytes(model, setting.example, batch_size, loss, target, _DTYPES[precision.name])
    optimizer = _optimizer(config, model)
    state = [value for each in optimizer.state.values() for value in each.values() if isinstance(value, Tensor)]
    averages = config.ema.enabled or averages_itself(optimizer)  # either is kept in a second model
    parts = {
        "weight_bytes": counts.bytes,
        "gradient_bytes": gradients,
        "optimizer_state_bytes": sum(value.numel() * value.element_size() for value in state),
        "ema_bytes": counts.bytes if averages else 0,
        "activation_bytes": kept,
    }
    return {
        "setting": str(setting),
        "unit": setting.modality.unit,
        "parameters": counts.total,
        "trainable_parameters": counts.trainable,
        "macs": compute.macs,
        "flops": compute.flops,
        "batch_size": batch_size,
        **parts,
        "step_bytes": sum(parts.values()),
        "separable_layers": [asdict(row) for row in accounting.separable_layers(model, setting.example)],
        **(setting.reference.facts() if setting.reference else {}),
    }


def _optimizer(config: Config, model: nn.Module) -> Optimizer:
    """Return the optimizer after one step on gradients without data: it then has its state."""
    # Fused kernels do not run on the meta device; their state is that of the plain kernels.
    section = config.optimizer.without("fused")
    optimizer = build.optimizer(config.model_copy(update={"optimizer": section}), model)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.grad = torch.empty_like(parameter)  # optimizers skip parameters without a gradient
    if averages_itself(optimizer):
        optimizer.train()  # type: ignore[attr-defined]
    optimizer.step()
    return optimizer
