"""Search spaces: which settings are tuned, in which range, and how points of the unit cube become settings.

A file of conf/search_space holds one line a setting: `KEY: {log: [LOW, HIGH]}`, `{uniform: [LOW, HIGH]}`,
`{int: [LOW, HIGH]}` or `{choices: [A, B]}`.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Literal

from effbench.config.recipes import quoted
from effbench.errors import ConfigError, shown
from effbench.study.table import Range, Setting

KINDS = ("log", "uniform", "int", "choices")
Sampler = Literal["qmc", "random"]
_MOST_DRAWS = 100  # points a wanted setting, after which one that was drawn already is taken again
_DIGITS = 4  # significant digits of sampled numbers: settings that people can read and repeat


@dataclass(frozen=True)
class Dimension:
    """One setting.

    Attributes:
        key: config key, such as optimizer.lr.
        kind: one of KINDS.
        values: (low, high), or the choices.
    """

    key: str
    kind: str
    values: tuple[Setting, ...]

    def at(self, place: float) -> Setting:
        """Return the value at `place` in [0, 1)."""
        # min: a place of nearly 1 times the number of values may round up to that number
        if self.kind == "choices":
            return self.values[min(int(place * len(self.values)), len(self.values) - 1)]
        low, high = (float(value) for value in self.values)
        if self.kind == "int":
            return int(low) + min(int(place * (high - low + 1)), int(high - low))
        if self.kind == "log":
            # evenly in the logarithm: each decade of learning rates gets equally many trials
            value = math.exp(math.log(low) + place * (math.log(high) - math.log(low)))
        else:
            value = low + place * (high - low)
        # rounding may lead out of the range
        return min(max(float(f"{value:.{_DIGITS}g}"), low), high)


@dataclass(frozen=True)
class SearchSpace:
    """The settings that are tuned for an arm.

    Attributes:
        name: of its file.
        dimensions: at least one.
    """

    name: str
    dimensions: tuple[Dimension, ...]

    def settings(self, point: Sequence[float]) -> dict[str, Setting]:
        """Return the settings at a point of the unit cube."""
        return {each.key: each.at(place) for each, place in zip(self.dimensions, point, strict=True)}

    def corners(self) -> list[dict[str, Setting]]:
        """Return settings to check that they compose: all lowest and all highest values, and each choice once."""
        last = 1 - 2**-53  # the largest float below 1
        ends = [self.settings([place] * len(self.dimensions)) for place in (0.0, last)]
        # what lies within a range composes if its ends do, but each choice is a value of its own
        numbers = [len(each.values) if each.kind == "choices" else 1 for each in self.dimensions]
        inner = [
            self.settings([(min(at, number - 1) + 0.5) / number if number > 1 else 0.0 for number in numbers])
            for at in range(1, max(numbers) - 1)
        ]
        return [*ends, *inner]

    def distinct(self) -> float:
        """Return the number of different settings: infinite with a range of real numbers."""
        counts = {
            "choices": lambda each: len(each.values),
            "int": lambda each: int(each.values[1]) - int(each.values[0]) + 1,
        }
        return math.prod(counts[each.kind](each) if each.kind in counts else math.inf for each in self.dimensions)

    def ranges(self) -> dict[str, Range]:
        """Return setting -> range of the numeric settings."""
        found = {}
        for each in self.dimensions:
            if each.kind != "choices":
                low, high = each.values
                found[each.key] = Range(float(low), float(high), each.kind == "log")
        return found

    def record(self) -> dict[str, Any]:
        """Return plain containers in the form of the YAML file."""
        return {each.key: {each.kind: list(each.values)} for each in self.dimensions}


def words_of(settings: Mapping[str, Setting]) -> list[str]:
    """Return settings as overrides. A text is written as it is: '[0.9,0.99]' is a list to Hydra."""
    words = []
    for key, value in settings.items():
        if isinstance(value, bool):
            text = str(value).lower()  # YAML's words, not Python's
        elif isinstance(value, str):
            # lists, quoted texts, and durations such as 5% need no quotes; anything else might be Hydra's grammar
            plain = value[:1] in "[{'\"" or value.replace("%", "").isalnum()
            text = value if plain else quoted(value)
        else:
            text = repr(value)  # all digits: the run has the very number that was sampled
        words.append(f"{key}={text}")
    return words


def short_words_of(settings: Mapping[str, Setting]) -> list[str]:
    """Return settings for a log line: 'lr=0.01' for optimizer.lr. Keys of which two end alike stay whole."""
    ends = [key.rpartition(".")[2] for key in settings]
    words = zip(settings, ends, words_of(settings), strict=True)
    return [word if ends.count(end) > 1 else word[len(key) - len(end) :] for key, end, word in words]


def search_space(name: str, content: Mapping[str, Any]) -> SearchSpace:
    """Return the checked space of a file.

    Args:
        name: of the file, for messages.
        content: the file's keys.

    Raises:
        ConfigError: the space is empty, or a line is not as the module describes.
    """
    if not content:
        raise ConfigError(
            f"the search space {name} is empty: there is nothing to tune. Name a setting and its range in "
            f"search_space/{name}.yaml, such as optimizer.lr: {{log: [1e-4, 1e-2]}}."
        )
    return SearchSpace(name, tuple(_dimension(f"search_space/{name}", key, line) for key, line in content.items()))


def _dimension(where: str, key: str, line: Any) -> Dimension:
    if not (isinstance(line, Mapping) and len(line) == 1 and next(iter(line)) in KINDS):
        raise ConfigError(
            f"{where}: {key} must be one of {{log: [LOW, HIGH]}}, {{uniform: [LOW, HIGH]}}, {{int: [LOW, HIGH]}}, "
            f"{{choices: [A, B]}}; got {shown(line)}."
        )
    [(kind, values)] = line.items()
    if kind == "choices":
        plain = isinstance(values, list) and all(isinstance(value, bool | int | float | str) for value in values)
        if not plain or not values or len(set(map(repr, values))) < len(values):
            raise ConfigError(
                f"{where}: {key} must list different numbers or texts; got {shown(values)}. A list is a choice in "
                "quotes: '[0.9,0.99]'."
            )
        return Dimension(key, kind, tuple(values))
    kinds = (int,) if kind == "int" else (int, float)
    # not bool, which is an int in Python: {log: [false, true]} is a mistake
    numbers = isinstance(values, list) and all(
        isinstance(value, kinds) and not isinstance(value, bool) and math.isfinite(value) for value in values
    )
    if not numbers or len(values) != 2:
        raise ConfigError(f"{where}: {key} must have two numbers as ends of {kind}; got {shown(values)}.")
    low, high = values
    if not low < high or (kind == "log" and low <= 0):
        rule = "0 < LOW < HIGH" if kind == "log" else "LOW < HIGH"
        raise ConfigError(
            f"{where}: {key} must have {rule}; got {shown(values)}. For a fixed value use study.overrides."
        )
    return Dimension(key, kind, (low, high))


def sampled(space: SearchSpace, count: int, seed: int, sampler: Sampler = "qmc") -> list[dict[str, Setting]]:
    """Return the settings of all tuning runs of an arm, different ones as far as the space has so many.

    They depend on the arguments alone, so that workers and interruptions do not change them, and arms with equally many
    settings get the same points.

    Args:
        space: the search space.
        count: number of settings.
        seed: of the points.
        sampler: qmc: points of a scrambled Sobol sequence; random: independent points.
    """
    points = _sobol_points(space, seed) if sampler == "qmc" else _random_points(space, seed)
    found: list[dict[str, Setting]] = []
    repeated: list[dict[str, Setting]] = []
    # a setting that is run twice with one seed gives the same number twice: a trial less than the other arms have
    for point in islice(points, count * _MOST_DRAWS):
        settings = space.settings(point)
        (repeated if settings in found else found).append(settings)
        if len(found) == count:
            return found
    return [*found, *repeated][:count]


def _random_points(space: SearchSpace, seed: int) -> Iterator[list[float]]:
    draw = random.Random(seed)
    while True:
        yield [draw.random() for _ in space.dimensions]


def _sobol_points(space: SearchSpace, seed: int) -> Iterator[list[float]]:
    """Yield the points of Optuna's QMCSampler in the unit cube."""
    from effbench.study.storage import optuna_library  # scipy and Optuna take a second

    optuna = optuna_library()
    # The sampler sees the unit cube, and `Dimension.at` makes settings of its points: what is tried does not depend on
    # how a version of Optuna maps each kind of range. Sobol points are most even when their number is a power of two,
    # which is why study.trials is 16 by default.
    unit = {each.key: optuna.distributions.FloatDistribution(0.0, 1.0) for each in space.dimensions}
    sampler = optuna.samplers.QMCSampler(
        # scrambled: the plain sequence begins in the corner of all lowest values, the same for every study
        scramble=True,
        seed=seed,
        warn_independent_sampling=False,
        warn_asynchronous_seeding=False,
    )
    study = optuna.create_study(sampler=sampler)
    # QMCSampler takes its dimensions from the first finished trial, and draws that one at random itself
    middle = dict.fromkeys(unit, 0.5)
    study.add_trial(optuna.trial.create_trial(params=middle, distributions=unit, value=0.0))
    while True:
        params = study.ask(unit).params
        yield [params[key] for key in unit]
