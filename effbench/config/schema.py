"""Schema of a config: types, ranges and conflicts. The defaults are in conf/ only.

Sections are frozen. Sections that configure a constructor (model, optimizer, scheduler, data, augment) are open: keys
that are not declared here are the constructor's options, and the constructor checks them.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationInfo,
    ValidatorFunctionWrapHandler,
    field_validator,
    model_serializer,
    model_validator,
)

from effbench.config.options import Count, Fraction, NonNegative, Positive, ThreadCount, Whole
from effbench.config.words import boolean_word
from effbench.errors import shown
from effbench.redaction import redact
from effbench.units import seconds_from, steps_from

Auto = Literal["auto"]  # a number derived from the data, see effbench/automatic.py
# A whole number counts batches, a float in (0, 1] is a share of them: 1 is one batch, 1.0 is all.
Limit = Count | Annotated[float, Field(gt=0, le=1)] | None
LimitOrNone = Limit | Literal[0]


class Section(BaseModel):
    """A section in which every key is declared."""

    # strict: '3' is no number, as pydantic would read it otherwise. protected_namespaces: pydantic reserves `model_`.
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, protected_namespaces=(), allow_inf_nan=False)


# Functions of these names say nothing about the model that they build.
_GENERIC = frozenset({"create", "build", "make", "model", "net", "network", "get_model", "create_model", "build_model"})


class OpenSection(BaseModel):
    """A section that also holds options of the object to construct."""

    model_config = ConfigDict(
        frozen=True,
        extra="allow",
        strict=True,
        protected_namespaces=(),
        allow_inf_nan=False,
        populate_by_name=True,
        serialize_by_alias=True,
    )

    target: str = Field(alias="_target_")
    passed: ClassVar[tuple[str, ...]] = ()  # declared keys that are options of the constructor, too

    @property
    def options(self) -> dict[str, Any]:
        """The keys that are passed to the constructor. Of the declared ones only those that are not null."""
        declared = {key: value for key in self.passed if (value := getattr(self, key)) is not None}
        return dict(self.model_extra or {}) | declared

    def without(self, key: str) -> Self:
        """Return the section without the option `key`."""
        kept = {name: value for name, value in self.model_dump(by_alias=True).items() if name != key}
        return type(self).model_validate(kept)

    @property
    def label(self) -> str:
        """Name for display: option arch or name, else the last part of the target."""
        options = self.options
        # arch (torchvision) and name (timm) say more than the one function that makes all of them.
        return str(options.get("arch") or options.get("name") or self._target_name)

    @property
    def _target_name(self) -> str:
        """Name of the target's class or function; if that is generic, such as create, the name of its module."""
        *modules, name = self.target.split(".")
        # mylab.nets.wide.create is `wide`, mylab.nets.Wide is `Wide`.
        return modules[-1] if name.lower() in _GENERIC and modules else name


def _of_known_classes(value: Any, check: ValidatorFunctionWrapHandler, info: ValidationInfo) -> Any:
    """Check an option of effbench's and torch's classes; in a class of the user's its name may mean something else."""
    known = str(info.data.get("target")).startswith(("effbench.", "torch."))
    return check(value) if known else value


class ModelConfig(OpenSection):
    @property
    def _target_name(self) -> str:
        """Name of the matching file in conf/model: ds_cnn and cnn share one function, vit_b and vit_l another."""
        from effbench.config.static_compose import choice_like

        return choice_like("model", {"_target_": self.target, **self.options}) or super()._target_name

    pretrained: str | None
    freeze: list[str]
    memory_format: Literal["auto", "channels_last", "contiguous"]


class OptimizerConfig(OpenSection):
    passed: ClassVar[tuple[str, ...]] = ("lr", "weight_decay", "betas", "eps")
    lr: Positive
    weight_decay: NonNegative
    betas: list[Annotated[float, Field(ge=0, lt=1)]] | None = None
    eps: Positive | None = None
    no_decay: bool
    group_lr: dict[str, NonNegative]

    @field_validator("no_decay", mode="before")
    @classmethod
    def _no_decay_is_no_list(cls, value: Any) -> Any:
        # Names of parameters, as other tools take them here. A text such as 'off' has its own message.
        if isinstance(value, list | dict) or (isinstance(value, str) and boolean_word(value) is None):
            raise ValueError(
                f"optimizer.no_decay must be true or false; got {shown(value)}. true exempts biases, norms, tokens and "
                "position tables from weight decay. To exempt others, return their names from a method "
                "no_weight_decay() of the model"
            )
        return value


class SchedulerConfig(OpenSection):
    """Lengths may be spans ('5%', '2 epochs'), which become steps when the length of an epoch is known."""

    @model_validator(mode="after")
    def _spans_can_be_read(self) -> SchedulerConfig:
        # The numbers of steps do not matter: only the text is checked.
        for key in ("warmup", "total_steps", "step_size", "steps_per_epoch"):
            if isinstance(value := self.options.get(key), str):
                steps_from(value, f"scheduler.{key}", total_steps=1000, steps_per_epoch=100)
        return self


class DataConfig(OpenSection):
    batch_size: Count | Auto
    eval_batch_size: Count
    drop_last: bool
    num_workers: Annotated[int, Field(ge=0, le=64)]
    timeout_s: Positive | None

    @model_validator(mode="after")
    def _workers_can_be_timed(self) -> DataConfig:
        if self.timeout_s is not None and self.num_workers == 0:
            raise ValueError(
                "data.timeout_s is how long to wait for a worker: it needs data.num_workers of at least 1; got "
                "data.num_workers=0"
            )
        return self


class DeviceConfig(Section):
    name: Literal["cpu", "cuda", "auto"]
    channels_last: bool | None
    threads: ThreadCount | None
    tf32: bool


class TrainerConfig(Section):
    max_epochs: Count | Auto | None
    min_steps: Count | Auto | None = None
    max_steps: Count | None
    max_time: Positive | str | None
    precision: Literal["32-true", "16-mixed", "bf16-mixed", "auto"]
    gradient_clip_val: Positive | None
    gradient_clip_algorithm: Literal["norm", "value"]
    accumulate_grad_batches: Count
    check_val_every_n_epoch: Count
    limit_train_batches: Limit
    limit_val_batches: Limit
    limit_test_batches: LimitOrNone
    log_every_n_steps: Count
    on_nonfinite: Literal["stop", "skip"]
    on_oom: Literal["raise", "halve"]
    deterministic: bool
    # true is torch.compile's mode `default`
    compile: bool | Literal["default", "reduce-overhead", "max-autotune"]

    @model_validator(mode="after")
    def _ends(self) -> TrainerConfig:
        if self.max_epochs is None and self.max_steps is None:
            raise ValueError("one of trainer.max_epochs and trainer.max_steps must be set: schedules need a length")
        if self.max_time is not None:
            seconds_from(self.max_time, "trainer.max_time")
        return self

    @property
    def is_trial(self) -> bool:
        """True if an epoch takes a part of the train split's batches only. 1 is one batch, 1.0 is all of them."""
        limit = self.limit_train_batches
        return limit is not None and not (isinstance(limit, float) and limit == 1)


class AugmentConfig(OpenSection):
    """The augmentation of one kind of samples, whose class checks its options.

    Options of the class for images have types here, to be refused early. Those that a class does not have are None,
    and no part of the config.
    """

    passed: ClassVar[tuple[str, ...]] = (
        "crop_padding", "flip", "shift", "scale", "rotate", "brightness", "contrast", "dropout_holes", "dropout_size",
        "mixup_alpha", "cutmix_alpha",
    )  # fmt: skip
    crop_padding: Whole | Auto | None = None
    flip: Fraction | None = None
    shift: Fraction | None = None
    scale: Fraction | None = None
    rotate: Annotated[float, Field(ge=0, le=180)] | None = None
    brightness: Fraction | None = None
    contrast: Fraction | None = None
    dropout_holes: Whole | None = None
    dropout_size: Fraction | None = None
    mixup_alpha: NonNegative | None = None
    cutmix_alpha: NonNegative | None = None
    _checked = field_validator(*passed, mode="wrap")(_of_known_classes)

    @model_serializer(mode="wrap")
    def _without_absent(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # An option of None would be passed on to a class that does not have it.
        return {key: value for key, value in handler(self).items() if value is not None}


class TaskConfig(OpenSection):
    metrics: list[str]


class LossConfig(OpenSection):
    passed: ClassVar[tuple[str, ...]] = ("label_smoothing", "class_weights")
    l1: NonNegative
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] | None = None
    class_weights: list[NonNegative] | Literal["balanced"] | None = None  # the builder gives every class its weights
    _checked = field_validator("label_smoothing", mode="wrap")(_of_known_classes)


class Monitor(Section):
    """A monitored metric with its mode, which monitors.check_monitors compares with the metric's own."""

    monitor: str
    # compose.parse has replaced `auto` for shipped metrics; for a user's own, build.with_monitors does.
    mode: Literal["min", "max", "auto"]


class EmaConfig(Section):
    enabled: bool
    decay: Annotated[float, Field(gt=0, lt=1)]


class EarlyStoppingConfig(Monitor):
    enabled: bool
    patience: Whole | Auto
    min_delta: NonNegative
    stopping_threshold: float | None


class CheckpointConfig(Monitor):
    save_top_k: Whole
    save_last: bool
    every_n_steps: Count | None
    background: bool
    allow_changed_data: bool

    @model_validator(mode="after")
    def _extra_saves_are_kept(self) -> CheckpointConfig:
        if self.every_n_steps is not None and not self.save_last:
            raise ValueError("checkpoint.every_n_steps saves the newest state: it needs checkpoint.save_last=true")
        return self


class LoggerConfig(Section):
    name: Literal["csv", "tensorboard", "wandb", "mlflow"]
    project: str
    offline: bool

    @model_validator(mode="after")
    def _project_is_a_name(self) -> LoggerConfig:
        """Check the name: logging libraries use it in paths and URLs."""
        # A backslash separates folders on Windows.
        parts = self.project.replace("\\", "/").split("/")
        if not self.project.strip() or not self.project.isprintable() or ".." in parts:
            raise ValueError(
                "logger.project must be a name without '..' and control characters, such as effbench; "
                f"got {self.project!r}"
            )
        return self


class CallbackConfig(OpenSection):
    """One callback: its class and its constructor's options."""


class CallbacksConfig(Section):
    """Name -> callback. The user chooses the names, so that callbacks combine and single options can be overridden."""

    model_config = ConfigDict(extra="allow")
    # By this annotation pydantic checks the keys that are not declared.
    __pydantic_extra__: dict[str, CallbackConfig] = Field(init=False)

    @model_validator(mode="before")
    @classmethod
    def _has_names(cls, content: Any) -> Any:
        # Before pydantic's own check: its message for a callback without a name would not say what is missing.
        named = content if isinstance(content, dict) else {}
        for name, section in named.items():
            if name == "_target_" or not isinstance(section, dict) or not isinstance(section.get("_target_"), str):
                raise ValueError(
                    f"callbacks.{name} must be a callback with a _target_; got {shown(section)}. "
                    "A file of callbacks/ holds a name for each callback, such as "
                    "'mine: {_target_: mylab.hooks.Mine, every: 10}'"
                )
        return content

    @property
    def named(self) -> dict[str, CallbackConfig]:
        return dict(self.__pydantic_extra__ or {})


class Config(Section):
    """The config of a run."""

    seed: Annotated[int, Field(ge=0, lt=2**32)]
    resume: str | None
    allow_targets: list[str]
    model: ModelConfig
    optimizer: OptimizerConfig
    scheduler: SchedulerConfig
    data: DataConfig
    device: DeviceConfig
    trainer: TrainerConfig
    augment: AugmentConfig
    task: TaskConfig
    loss: LossConfig
    ema: EmaConfig
    early_stopping: EarlyStoppingConfig
    checkpoint: CheckpointConfig
    logger: LoggerConfig
    callbacks: CallbacksConfig = Field(default_factory=CallbacksConfig)  # callbacks=[] omits the group

    def to_dict(self) -> dict[str, Any]:
        """Return plain containers as in config.yaml; secrets are replaced by ***."""
        # Redacted here, once for all: records, checkpoints and loggers all take this.
        return dict(redact(self.model_dump(by_alias=True)))
