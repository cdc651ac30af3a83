"""Options of `effbench compress`, checked before torch is imported."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Annotated, Any, TypeVar

from pydantic import Field

from effbench.bench.backends import BACKENDS
from effbench.bench.options import BenchOptions, bench_options
from effbench.config.options import BOOL, COUNT, FRACTION_BETWEEN, NON_NEGATIVE, POSITIVE, WHOLE, Rule
from effbench.errors import ConfigError, shown, unknown_name
from effbench.export.formats import FORMATS

ELSEWHERE = "output=FOLDER"  # the remedy in messages about the folder
SCHEMES = ("auto", "static", "dynamic", "bf16")
AUTO = "auto"
CALIBRATIONS = (8, 32, 128, 512)
WEIGHT_BITS = (7, 8)
_BITS = Rule[int](Annotated[int, Field(ge=WEIGHT_BITS[0], le=WEIGHT_BITS[-1])], "7, 8 or auto")
RUNTIMES = ("onnxruntime", "openvino")
_MAX_DROP = "points of accuracy, a number >= 0, such as 0.5"


@dataclass(frozen=True)
class QuantizeOptions:
    """How weights and activations are brought to fewer bits.

    Attributes:
        scheme: 'static' (ranges of the activations from calibration samples) or 'dynamic' (from each input, at run
            time, for ONNX Runtime only); 'auto' chooses one of the two by the model's input and layers, for OpenVINO
            always 'static'. 'bf16': only weights, in 16 bits.
        backend: the runtime that the file is made for.
        calibration: training samples from which 'static' takes ranges, 128 if it is not set; 'auto': the fewest of
            CALIBRATIONS with which all layers in 8 bits hold max_drop. Other schemes take none.
        max_drop: points of validation accuracy that may be lost; layers stay in float32 until it holds.
        weight_bits: 7 or 8, for ONNX Runtime only; None or 'auto': 8 on processors with VNNI or the like, else 7.
    """

    scheme: str = "auto"
    backend: str = "onnxruntime"
    calibration: int | str | None = None
    max_drop: float = 0.5
    weight_bits: int | str | None = None

    def __post_init__(self) -> None:
        _one_of("scheme", self.scheme, SCHEMES)
        _one_of("backend", self.backend, RUNTIMES)
        if self.calibration is None:
            if self.scheme in (AUTO, "static"):
                object.__setattr__(self, "calibration", 128)
        elif self.scheme not in (AUTO, "static"):
            raise ConfigError(
                f"calibration={shown(self.calibration, quotes=False)} is for scheme=static; scheme={self.scheme} takes "
                "no ranges from samples. Leave one of them out."
            )
        elif self.calibration != AUTO:
            COUNT.check(
                self.calibration, "calibration", "a whole number of training samples >= 1, such as 128, or auto"
            )
        NON_NEGATIVE.check(self.max_drop, "max_drop", _MAX_DROP)
        if self.scheme == "dynamic" and self.backend != "onnxruntime":
            raise ConfigError(f"scheme=dynamic needs backend=onnxruntime; got {self.backend}. Leave one of them out.")
        self._check_bits()

    @property
    def bits(self) -> int | None:
        """Bits of the weights; None: those that fit this processor."""
        return self.weight_bits if isinstance(self.weight_bits, int) else None

    def _check_bits(self) -> None:
        if self.weight_bits in (None, AUTO):
            object.__setattr__(self, "weight_bits", None)  # results of older versions have none in their record
            return
        _BITS.check(self.weight_bits, "weight_bits")
        if self.backend != "onnxruntime":
            raise ConfigError(
                f"weight_bits={self.weight_bits} needs backend=onnxruntime; got {self.backend}, whose weights have the "
                "bits that fit the processor they are made on. Leave one of them out."
            )
        if self.scheme == "bf16":
            raise ConfigError(
                f"weight_bits={self.weight_bits} is for weights in 8 bits; scheme=bf16 stores 16. Leave one out."
            )


@dataclass(frozen=True, kw_only=True)
class FineTuneOptions:
    """How what is removed is made good by training.

    Attributes:
        steps: the ratio is reached in so many steps, with fine-tuning after each.
        epochs: of fine-tuning, over all steps.
        lr: learning rate of fine-tuning; None: the run's.
        distill: the loss is against the outputs of the run before.
    """

    steps: int = 1
    epochs: int = 3
    lr: float | None = None
    distill: bool = False

    def __post_init__(self) -> None:
        COUNT.check(self.steps, "steps")
        WHOLE.check(self.epochs, "epochs", "a whole number of epochs >= 0; 0: no fine-tuning")
        if self.lr is not None:
            POSITIVE.check(self.lr, "lr")
        BOOL.check(self.distill, "distill")
        if self.epochs < self.steps and self.steps > 1:
            raise ConfigError(
                f"steps={self.steps} fine-tunes after each step, so epochs must be at least {self.steps}; got "
                f"{self.epochs}. Write more epochs, or fewer steps."
            )
        for key, given in (("distill=true", self.distill), (f"lr={self.lr}", self.lr is not None)):
            if given and not self.epochs:
                raise ConfigError(f"{key} needs fine-tuning: epochs must be at least 1; got 0.")


@dataclass(frozen=True, kw_only=True)
class StructuredOptions(FineTuneOptions):
    """How channels are removed.

    Attributes:
        ratio: part of each layer's channels to remove.
        round_to: kept channels are a multiple of this, as kernels like them.
    """

    ratio: float = 0.5
    round_to: int = 8

    def __post_init__(self) -> None:
        FRACTION_BETWEEN.check(self.ratio, "ratio", "the part of the channels to remove, in (0, 1), such as 0.5")
        COUNT.check(self.round_to, "round_to")
        super().__post_init__()


@dataclass(frozen=True, kw_only=True)
class UnstructuredOptions(FineTuneOptions):
    """How single weights are set to zero.

    Attributes:
        ratio: part of all weights to set to zero.
    """

    ratio: float = 0.5

    def __post_init__(self) -> None:
        FRACTION_BETWEEN.check(self.ratio, "ratio", "the part of the weights to set to zero, in (0, 1), such as 0.5")
        super().__post_init__()


def _one_of(key: str, value: object, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ConfigError(unknown_name(key, shown(value, quotes=False), known))


MethodOptions = QuantizeOptions | StructuredOptions | UnstructuredOptions
METHOD_OPTIONS: Mapping[str, type[MethodOptions]] = {
    "quantize": QuantizeOptions,
    "structured": StructuredOptions,
    "unstructured": UnstructuredOptions,
}
MEASURED = ("eager", "onnxruntime", "openvino_f32")  # backends that before and after are measured with
BENCH_OPTIONS = ("backends", "threads", "rounds", "seconds")  # of BenchOptions, beside the options of the method


def measuring(**given: Any) -> BenchOptions:
    """Return how before and after are measured: as `bench` measures, with fewer backends and batches of 1."""
    return bench_options({"backends": MEASURED, "batch_sizes": (1,), "seconds": 1.0, **given})


@dataclass(frozen=True)
class CompressOptions:
    """What is done to a run.

    Attributes:
        method: a key of METHOD_OPTIONS.
        own: options of the method; None: its defaults.
        checkpoint: of the run: 'best', 'last' or the name of a checkpoint.
        bench: how before and after are measured.
        asked: the user has set max_drop of the method, so that a run without validation samples is refused.
        bounded: a candidate of a search: the test split is left for the best one, and a backend with which more than
            bench.max_drop is lost in all is not named the fastest.
        deadline: of a search, in seconds of time.monotonic(): layers are not chosen after it.

    Raises:
        ConfigError: an option is unknown or out of range.
    """

    method: str
    own: MethodOptions | None = None
    checkpoint: str = "best"
    bench: BenchOptions = field(default_factory=measuring)
    bounded: bool = False
    asked: bool = False
    deadline: float = math.inf

    def __post_init__(self) -> None:
        _one_of("method", self.method, tuple(METHOD_OPTIONS))
        kind = METHOD_OPTIONS[self.method]
        if self.own is None:
            object.__setattr__(self, "own", kind())
        elif not isinstance(self.own, kind):
            raise ConfigError(f"method={self.method} takes {kind.__name__}; got {type(self.own).__name__}.")
        if isinstance(self.own, QuantizeOptions) and not readers(self.own.backend, self.bench):
            raise ConfigError(
                f"backends=[{','.join(self.bench.chosen)}] measures no file for backend={self.own.backend}: name one "
                f"that reads it, of {', '.join(_READERS[self.own.backend])}, or leave backends out."
            )


_READERS = {
    runtime: tuple(name for name, each in BACKENDS.items() if kind in (each.file, each.also))
    for runtime, kind in zip(RUNTIMES, ("onnx", "openvino"), strict=True)
}


def readers(runtime: str, bench: BenchOptions) -> list[str]:
    """Return the backends to be measured that read a quantized file. runtime: of RUNTIMES, for which it is made."""
    return [name for name in bench.chosen if name in _READERS[runtime]]


def has_file(backend: str) -> bool:
    """Return whether a backend reads a file that `effbench export` writes, and not a module in torch's own memory."""
    return BACKENDS[backend].file in FORMATS


Own = TypeVar("Own", QuantizeOptions, StructuredOptions, UnstructuredOptions)


def own_options(options: CompressOptions, kind: type[Own]) -> Own:
    """Return the options of the method, of the class that it takes."""
    assert isinstance(options.own, kind)
    return options.own


def method_options(method: str, given: Mapping[str, Any]) -> MethodOptions:
    """Return the checked options of a method.

    Args:
        method: a key of METHOD_OPTIONS.
        given: name -> value of those that the user has set.

    Raises:
        ConfigError: the method is unknown, or has no such option.
    """
    _one_of("method", method, tuple(METHOD_OPTIONS))
    kind = METHOD_OPTIONS[method]
    known = [each.name for each in fields(kind)]
    for key in given:
        if key not in known:
            raise ConfigError(unknown_name(f"option of method={method}", key, known))
    return kind(**given)


def compress_options(method: str, checkpoint: str, given: Mapping[str, Any]) -> CompressOptions:
    """Return the checked options of those that the user has set.

    Args:
        method: a key of METHOD_OPTIONS.
        checkpoint: of the run: 'best', 'last' or the name of a checkpoint.
        given: options of the method, and BENCH_OPTIONS.

    Raises:
        ConfigError: there is no such method or option, or a value is out of range.
    """
    own = {key: value for key, value in given.items() if key not in BENCH_OPTIONS}
    bench = {key: value for key, value in given.items() if key in BENCH_OPTIONS}
    asked = "max_drop" in own
    return CompressOptions(method, method_options(method, own), checkpoint, measuring(**bench), asked=asked)
