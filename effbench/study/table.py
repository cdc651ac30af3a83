"""The data of a study: arms, tuning trials, final runs and measured costs, as plain data with JSON.

The engine collects it; the statistics, the objections and the page read it. No torch, no numpy.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Annotated, Any, Literal, TypeVar

from pydantic import (
    AliasChoices,
    BeforeValidator,
    Field,
    FiniteFloat,
    NonNegativeInt,
    PlainSerializer,
    TypeAdapter,
    ValidationError,
)

from effbench.errors import DataError
from effbench.metrics import Display
from effbench.stats import Interval
from effbench.study.versioned_json import from_json, to_json
from effbench.summary_schema import IMAGE

# Of table.json; a field with a default does not raise it, because an older effbench still reads the file.
TABLE_SCHEMA = 2

# StudyTable.clock: where the seconds of a run come from
MEASURED = "measured"
FROM_STEPS = "steps x step time measured alone"

Setting = bool | int | float | str
TargetSource = Literal["none", "given", "validation", "test"]
CompareRule = Literal["within_model", "all", "baseline"]
Sampler = Literal["qmc", "random"]

LARGEST = 1e100  # a metric beyond it counts as not finite: sums of its square overflow, and no figure could show it
_Drawable = Annotated[float, Field(gt=-LARGEST, lt=LARGEST)]
Curves = dict[str, list[list[tuple[NonNegativeInt, _Drawable]]]]  # arm -> (step, value) by validation, by final run


# A table of 10,000 runs has 10 million bits: as bytes they are read in 0.02 s, as a tuple of bools in 0.7 s.
_AS_LETTERS = bytes.maketrans(b"\x00\x01", b"01")
_AS_BITS = bytes(letter == ord("1") for letter in range(256))


def _bits_to_text(correct: bytes | None) -> str | None:
    return None if correct is None else bytes(correct).translate(_AS_LETTERS).decode("ascii")


def bits(text: str) -> bytes:
    """Return a byte of 1 for each '1' of the text, and of 0 for others."""
    return text.encode().translate(_AS_BITS)


def _text_to_bits(value: Any) -> Any:
    return bits(value) if isinstance(value, str) else value


# One letter a sample: 10,000 test samples take 10 kB of JSON instead of 60 kB.
Bits = Annotated[bytes | None, BeforeValidator(_text_to_bits), PlainSerializer(_bits_to_text)]


@dataclass(frozen=True)
class Range:
    """The range of a numeric setting in a search space; categorical settings have none.

    Attributes:
        low: smallest value.
        high: largest value.
        log: sampled evenly in the logarithm.
    """

    low: FiniteFloat
    high: FiniteFloat
    log: bool = False


@dataclass(frozen=True)
class Arm:
    """One of the configurations that are compared: a list of overrides and the space of what is tuned.

    Attributes:
        name: unique in the study, such as 'swin/lion'.
        model: factor of a factorial study; None for other arms.
        optimizer: factor of a factorial study; None for other arms. Schedulers or recipes may take its place.
        overrides: what distinguishes the arm.
        space: setting -> its range.
        title: how sentences call the arm; '' for its optimizer, or its name.
    """

    name: str
    model: str | None = None
    optimizer: str | None = None
    overrides: tuple[str, ...] = ()
    space: dict[str, Range] = field(default_factory=dict)
    title: str = ""


@dataclass(frozen=True)
class Trial:
    """One tuning run. It reads train and validation samples only.

    Attributes:
        arm: name of its arm.
        number: 0, 1, ... in its arm.
        settings: what was sampled.
        seed: of the run.
        value: best validation metric; None if the run diverged or failed.
        steps: optimizer steps taken.
        seconds: training time without evaluation.
        commit: of effbench.
        machine: a name that is equal for equal machines.
        status: as in summary.json: completed, stopped_early, diverged, failed, interrupted.
        epochs: epochs trained; None if not known.
        run: the run folder.
        digest: of the run's config.
        steps_to_target: None if the target was not reached within `steps`, or not known.
        reason: why it diverged, failed or stopped early; '' if it did not.
        data: sha256 of the dataset; '' if not known.
    """

    arm: str
    number: int
    settings: dict[str, Setting]
    seed: int
    value: float | None
    steps: NonNegativeInt
    seconds: FiniteFloat
    commit: str
    machine: str
    status: str
    epochs: float | None = None
    run: str = ""
    digest: str = ""
    steps_to_target: FiniteFloat | None = None
    reason: str = ""
    data: str = ""


@dataclass(frozen=True)
class Confirmation:
    """One run of an arm's chosen setting. Runs of all arms with one seed form a pair (or a block).

    Attributes:
        arm: name of its arm.
        seed: of initial weights, order of the data, augmentation and the train/validation split.
        validation: best validation metric; None if the run diverged or failed.
        test: test metric of the best checkpoint; None if the run diverged or failed.
        steps_to_target: None if the target was not reached within `steps`.
        seconds_to_target: None if the target was not reached within `seconds`.
        steps: optimizer steps taken.
        seconds: training time without evaluation, by the clock that StudyTable.clock names.
        commit: of effbench.
        machine: a name that is equal for equal machines.
        status: as in summary.json.
        correct: one byte of 0 or 1 a test sample, in the order of the test split; None if the task has no classes.
        settings: the arm's chosen setting, as it was run.
        epochs: epochs trained; None if not known.
        run: the run folder.
        digest: of the run's config.
        reason: why it diverged, failed or stopped early; '' if it did not.
        one_class: it predicts one class for all test samples, which have several.
        data: sha256 of the dataset; '' if not known.
    """

    arm: str
    seed: int
    validation: float | None
    test: float | None
    steps_to_target: FiniteFloat | None
    seconds_to_target: FiniteFloat | None
    steps: NonNegativeInt
    seconds: FiniteFloat
    commit: str
    machine: str
    status: str
    correct: Bits = None
    settings: dict[str, Setting] = field(default_factory=dict)
    epochs: float | None = None
    run: str = ""
    digest: str = ""
    reason: str = ""
    one_class: bool = False
    data: str = ""


Run = TypeVar("Run", Trial, Confirmation)


@dataclass(frozen=True)
class Deployed:
    """An arm's best run with one backend, on the CPU.

    Attributes:
        backend: as `effbench bench` names it.
        latency_p50_seconds: median time of one sample; its interval also holds the doubts of the measurement.
        file_bytes: size of the backend's file.
    """

    backend: str
    latency_p50_seconds: Interval
    file_bytes: NonNegativeInt


@dataclass(frozen=True)
class Cost:
    """What an arm costs, measured alone on the machine.

    Attributes:
        arm: name of the arm.
        step_seconds: one optimizer step.
        samples_per_second: of training; images_per_second in files of schema 1.
        peak_memory_bytes: of the training process.
        optimizer_state_bytes: of all parameters.
        parameters: number of the model's parameters.
        macs: multiply-accumulate operations of one sample.
        latency_p50_seconds: of inference with one sample: of the fastest backend of `deployed`, or else of the
            untrained model on the device of the runs; None if not measured.
        contaminated: other work or clock drift was seen while it was measured.
        unit: the word for a sample.
        defaults: it was measured with the arm's default settings, because a short run with its best setting failed, or
            none was known.
        deployed: the arm's best run by backend, the fastest that keeps the accuracy first; () if not measured.
        deployed_run: folder name of that run; '' for untrained weights.
        deployed_arm: the arm whose run was measured: arms with one and the same network share a measurement.
        deployed_unit: the word for what a latency is of: one input of the model, such as a window of tokens.
        deployed_on: processor, threads and versions.
        deployment_failure: why deployment was to be measured and was not; ''.
    """

    arm: str
    step_seconds: Interval
    samples_per_second: Annotated[
        float, Field(validation_alias=AliasChoices("samples_per_second", "images_per_second"))
    ]
    peak_memory_bytes: int
    optimizer_state_bytes: int
    parameters: int
    macs: int
    latency_p50_seconds: float | None
    contaminated: bool
    unit: str = IMAGE
    defaults: bool = False
    deployed: tuple[Deployed, ...] = ()
    deployed_run: str = ""
    deployed_arm: str = ""
    deployed_unit: str = "sample"
    deployed_on: str = ""
    deployment_failure: str = ""

    @property
    def file_bytes(self) -> int | None:
        """Size of the file that the fastest backend reads; None if deployment was not measured."""
        return self.deployed[0].file_bytes if self.deployed else None


@dataclass(frozen=True)
class StudyRules:
    """How a study is judged; fixed before its first trial.

    Attributes:
        alpha: the family-wise error rate.
        confidence: of the intervals.
        meaningful: P(A beats B) from which a difference is called meaningful (arXiv:2103.03098 uses 0.75).
        tuning: 1 - the error rate of the luck of tuning, where there are trials; from it, the number of arms and the
            sampler follows the share of resampled tunings in which an arm has to lead (tuning.lead_needed).
        relevant_difference: the difference worth telling apart, in the metric's unit; None for the observed one.
        power: wanted probability of finding it.
        budgets: numbers of trials at which the arms are compared; all trials are added.
        target_per_model: a target by rule is that of each model's own baseline; False: of the one baseline for all.
        seed: of the resampling.
    """

    alpha: float = 0.05
    confidence: float = 0.95
    meaningful: float = 0.75
    tuning: float = 0.95
    relevant_difference: float | None = None
    power: float = 0.8
    budgets: tuple[int, ...] = (1, 2, 5, 10)
    seed: int = 0
    target_per_model: bool = True


@dataclass(frozen=True)
class StudyTable:
    """Everything the statistics of a study are computed from.

    Attributes:
        name: of the study.
        arms: in the order of the plan.
        pairs: (a, b) names of the arms that are compared, see `pairs_to_compare`; Holm's correction counts them.
        trials: tuning runs.
        confirmations: runs of the chosen settings.
        costs: at most one an arm.
        metric: METRIC, for the values of val/METRIC and test/METRIC.
        mode: 'max' if larger is better.
        as_percent: values are fractions, written in percent; differences in points (pt).
        planned_trials: tuning runs an arm.
        planned_seeds: seeds of the final runs.
        planned_epochs: epochs a run; None if the budget is in seconds.
        planned_seconds: training seconds a run; None if the budget is in epochs.
        target: value of the validation metric that a run has to reach; None without target, or with `targets`.
        targets: arm -> its target, where each model has its own; {} otherwise.
        target_source: where the target comes from; 'test' is an objection.
        baseline: arm whose median best sets the target, and with which rule 'baseline' compares; None without.
        same_test_samples: all final runs have the same test samples in the same order.
        test_split: how it follows the seed: DRAWN or GENERATED; '' if it does not, or is not known to.
        clock: how seconds were obtained: MEASURED by each run, beside other runs, or FROM_STEPS.
        sampler: of the tuning runs' settings: 'qmc', evenly spread points, or 'random', independent ones.
        unit: of the metric; '' for a fraction.
        digits: of the metric after the decimal point, where it is not written in percent.
    """

    name: str
    arms: tuple[Arm, ...]
    pairs: tuple[tuple[str, str], ...]
    trials: tuple[Trial, ...]
    confirmations: tuple[Confirmation, ...]
    costs: tuple[Cost, ...]
    metric: str
    mode: Literal["max", "min"]
    as_percent: bool
    planned_trials: NonNegativeInt
    planned_seeds: tuple[int, ...]
    planned_epochs: FiniteFloat | None = None
    planned_seconds: FiniteFloat | None = None
    target: FiniteFloat | None = None
    target_source: TargetSource = "none"
    targets: dict[str, FiniteFloat] = field(default_factory=dict)
    baseline: str | None = None
    same_test_samples: bool = True
    test_split: str = ""
    clock: str = MEASURED
    sampler: Sampler = "qmc"
    unit: str = ""
    digits: Annotated[int, Field(ge=0, le=15)] = 4

    @cached_property
    def display(self) -> Display:
        """How values of the metric are written."""
        return Display(self.metric, self.mode, self.unit, self.as_percent, self.digits)

    @property
    def has_target(self) -> bool:
        return self.target is not None or bool(self.targets)

    def target_of(self, arm: str) -> float | None:
        """Return the validation metric that runs of an arm have to reach."""
        return self.targets.get(arm, self.target)

    @cached_property
    def trials_by_arm(self) -> dict[str, list[Trial]]:
        """Arm -> its trials; each pair asks for those of two arms."""
        return _by_arm(self.trials)

    @cached_property
    def confirmations_by_arm(self) -> dict[str, list[Confirmation]]:
        """Arm -> its final runs."""
        return _by_arm(self.confirmations)


def _by_arm(runs: Iterable[Run]) -> dict[str, list[Run]]:
    found: dict[str, list[Run]] = {}
    for run in runs:
        found.setdefault(run.arm, []).append(run)
    return found


def pairs_to_compare(
    arms: Sequence[Arm], rule: CompareRule = "within_model", baseline: str | None = None
) -> tuple[tuple[str, str], ...]:
    """Return the pairs of arms that a study compares, as (a, b) in the order of the arms.

    Args:
        arms: of the study.
        rule: 'within_model': arms of one model (all pairs if no arm has a model); 'all': all pairs; 'baseline': each
            arm with the baseline of its model, which is the arm of that model with the baseline's optimizer.
        baseline: name of the baseline arm, for rule 'baseline'.
    """
    # Holm's correction counts these pairs: each one that nobody asked for costs all others power
    pairs: Iterable[tuple[Arm, Arm]] = itertools.combinations(arms, 2)
    if rule != "all":
        pairs = [(a, b) for a, b in pairs if a.model == b.model]
    if rule == "baseline":
        own = set(baselines(arms, baseline).values())
        # the baseline comes second: "A beats the baseline"
        pairs = [(b, a) if a.name in own else (a, b) for a, b in pairs if (a.name in own) != (b.name in own)]
    return tuple((a.name, b.name) for a, b in pairs)


def baselines(arms: Sequence[Arm], baseline: str | None) -> dict[str | None, str]:
    """Return model -> its baseline arm: that with the baseline's optimizer; arms without model have the one baseline.

    Args:
        arms: of the study.
        baseline: name of the baseline arm.
    """
    optimizer = next((arm.optimizer for arm in arms if arm.name == baseline), None)
    return {
        arm.model: arm.name
        for arm in arms
        if arm.name == baseline or (optimizer is not None and arm.optimizer == optimizer)
    }


def finite(value: float | None) -> float | None:
    """Return the value, or None for one that is not finite, or beyond LARGEST: it counts as a run without result."""
    return value if value is not None and abs(value) < LARGEST else None


def table_to_json(table: StudyTable) -> str:
    """Return the table as strict JSON."""
    return to_json(table, TABLE_SCHEMA)


def table_from_json(text: str) -> StudyTable:
    """Read `table_to_json`'s JSON.

    Raises:
        DataError: the text is not a study's table, of a newer version, or its parts do not belong together.
    """
    table = from_json(StudyTable, text, TABLE_SCHEMA, "a study's table")
    if fault := _fault(table):
        raise DataError(f"not a study's table: {fault}")
    return table


def curves_from_json(text: str) -> Curves:
    """Read the learning curves of a study.

    Raises:
        DataError: the text is something else.
    """
    try:
        return TypeAdapter(Curves).validate_json(text)
    except ValidationError as error:
        raise DataError(f"not a study's learning curves: {error.errors()[0]['msg']}") from error


def _fault(table: StudyTable) -> str:
    """Return in what a table contradicts itself, or cannot be analysed; '' for nothing."""
    names = [arm.name for arm in table.arms]
    if len(set(names)) < len(names):
        return "two arms have one name"
    used = {name for pair in table.pairs for name in pair}
    used |= {each.arm for each in table.trials} | {each.arm for each in table.confirmations}
    used |= {each.arm for each in table.costs} | set(table.targets)
    if strangers := sorted(used - set(names)):
        return f"it names {strangers[0]!r}, which is none of its arms"
    if any(a == b for a, b in table.pairs):
        return "a pair compares an arm with itself"
    if any(space.log and space.low <= 0 for arm in table.arms for space in arm.space.values()):
        return "a logarithmic range reaches down to 0 or below"
    if not all(abs(cost.step_seconds.estimate) < LARGEST for cost in table.costs):
        return "a step time is not finite"
    return ""
