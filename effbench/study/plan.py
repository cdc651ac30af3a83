"""The plan of a study: arms, search spaces, budget, seeds and rules, as they are frozen before the first run.

planning.py makes a plan of the words of a command line; frozen.py writes it to study.json.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from effbench.config.compare import PLACES
from effbench.metrics import Display
from effbench.redaction import redact
from effbench.run.overrides import merge_overrides, override_key
from effbench.study.keys import StudyKeys
from effbench.study.space import SearchSpace, words_of
from effbench.study.table import Arm, CompareRule, Setting, StudyRules, pairs_to_compare

FOLDER = "study.folder=DIR"  # sets another folder; for remedies in messages
RUNS = "runs"  # folder of the runs, within that of the study
# Keys of a run that the study sets, with the key of the study that decides them. An override of one of them would make
# arms unequal (length, seed), or show the test split to tuning.
OWN_KEYS = {
    "seed": "study.seed",
    "data.split_seed": "study.seed",
    "trainer.max_epochs": "study.epochs or study.seconds",
    "trainer.max_steps": "study.epochs or study.seconds",
    "trainer.max_time": "study.epochs or study.seconds",
    "trainer.limit_test_batches": "nothing: only the final runs read the test split",
    "device.threads": "study.threads",
}
# How a study is run, and what it measures at its end. These keys are not frozen: another machine may join with other
# numbers, and a study may go on with more workers.
OPERATION = ("workers", "threads", "storage", "folder", "deployment_rounds")
MOST_EPOCHS = 1000  # of a run that only measures; the measurement ends it after a few steps


@dataclass(frozen=True)
class PlannedArm:
    """One arm.

    Attributes:
        arm: as the table has it.
        space: what is tuned.
        config: dotted key -> value of a run with the arm's defaults, without what the study sets.
        display: of the metric that its runs monitor.
    """

    arm: Arm
    space: SearchSpace
    config: Mapping[str, Any]
    display: Display

    @property
    def name(self) -> str:
        return self.arm.name


@dataclass(frozen=True)
class StudyPlan:
    """A checked study.

    Attributes:
        name: of its file in conf/study.
        keys: its keys.
        arms: the arms, in order.
        overrides: of every run, command line included.
        session_words: words for every process that are not recorded, such as allow_targets.
        folder: of study.json, journal and runs.
        metric: what the runs monitor, without its split: METRIC of val/METRIC.
        mode: 'max' if larger is better.
        config_dir: folder with the user's groups.
        frozen: digest and rules of the study.json that the study goes on from; None for a new study.
    """

    name: str
    keys: StudyKeys
    arms: tuple[PlannedArm, ...]
    overrides: tuple[str, ...]
    session_words: tuple[str, ...]
    folder: Path
    metric: str
    mode: Literal["max", "min"]
    config_dir: str | None
    frozen: tuple[str, StudyRules] | None = None

    @property
    def display(self) -> Display:
        """How values of the metric are written; all arms have one metric."""
        return self.arms[0].display

    @property
    def baseline(self) -> str:
        return self.keys.baseline or self.arms[0].name

    @property
    def tuning_seed(self) -> int:
        # one seed for all tuning runs: their differences are then those of the settings, not of luck with the seed
        return self.keys.seed

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seeds of the final runs, the same for all arms, so that their differences are paired."""
        # None of them is the tuning's: the best trial was picked partly for its luck with that seed and split.
        return tuple(self.keys.seed + 1 + index for index in range(self.keys.seeds))

    @property
    def pairs(self) -> tuple[tuple[str, str], ...]:
        return pairs_to_compare([each.arm for each in self.arms], self.keys.compare, self.baseline)

    @property
    def rules(self) -> StudyRules:
        return self.frozen[1] if self.frozen else self._new_rules()

    def _new_rules(self) -> StudyRules:
        """Return the rules by the keys, and by this effbench's defaults for what no key sets."""
        keys = self.keys
        return StudyRules(
            alpha=keys.alpha,
            confidence=1 - keys.alpha,  # so that an interval leaves 0 out where its test, uncorrected, has p < alpha
            relevant_difference=keys.relevant_difference,
            power=keys.power,
            seed=keys.seed,
        )

    def words(
        self, arm: str, settings: Mapping[str, Setting], seed: int, tests: bool, steps: int | None = None
    ) -> list[str]:
        """Return the overrides of one run.

        Args:
            arm: name of the arm.
            settings: what was sampled.
            seed: of weights, data order, augmentation and the validation split.
            tests: False: the run does not read the test split.
            steps: optimizer steps, for a budget in seconds; None: a short run that measures them.
        """
        planned = next(each for each in self.arms if each.name == arm)
        # The later ones win: words of all runs, of the arm, of the trial, and last what makes the study fair.
        given = merge_overrides(merge_overrides(self.overrides, planned.arm.overrides), words_of(settings))
        own = [f"seed={seed}"]
        if "data.split_seed" in planned.config:
            # The split varies with the seed, too: arXiv:2103.03098 varies all sources of noise at once. A dataset with
            # a validation split of its own has no such key.
            own.append(f"data.split_seed={seed}")
        # Schedules span max_steps or max_epochs, so every run sees its whole schedule. That is why a budget in seconds
        # becomes a number of steps and not trainer.max_time, which would cut the schedule off.
        if self.keys.epochs is not None:
            own += [f"trainer.max_epochs={self.keys.epochs}", "trainer.max_steps=null"]
        elif steps is not None:
            own += ["trainer.max_epochs=null", f"trainer.max_steps={steps}"]
        else:
            own += [f"trainer.max_epochs={MOST_EPOCHS}", "trainer.max_steps=null"]
        own += ["trainer.max_time=null", f"trainer.limit_test_batches={'null' if tests else 0}"]
        own += [f"device.threads={self.keys.threads}"]
        if tests:
            # class and probability of each test sample: the test set's own uncertainty is counted from them
            own.append("++callbacks.keep_predictions._target_=effbench.callbacks.KeepPredictions")
        return merge_overrides(given, own)

    def record(self) -> dict[str, Any]:
        """Return what is frozen of a new study with this plan, as plain containers without secrets."""
        keys = {key: value for key, value in self.keys.model_dump().items() if key not in OPERATION}
        # Places (paths, loggers, which device) are left out: the same study may go on where the data lie elsewhere.
        overrides = [word for word in self.overrides if not override_key(word).startswith(PLACES)]
        arms = {
            each.name: {
                "model": each.arm.model,
                "optimizer": each.arm.optimizer,
                "overrides": list(each.arm.overrides),
                "search_space": {"name": each.space.name, **each.space.record()},
                # the whole config, not the overrides alone: a default that a later version changes is another study
                "config": dict(each.config),
            }
            for each in self.arms
        }
        frozen = {
            "keys": {**keys, "overrides": overrides},
            "metric": self.metric,
            "rules": asdict(self._new_rules()),
            # by default both follow from the order of the arms, which the digest does not cover
            "baseline": self.baseline,
            "pairs": compared([each.arm for each in self.arms], self.keys.compare, self.baseline),
            "arms": arms,
        }
        # through JSON, so that a plan equals what study.json gives back: tuples are lists there, paths are text
        plain: dict[str, Any] = json.loads(json.dumps(redact(frozen), default=str))
        return plain

    @cached_property
    def digest(self) -> str:
        return self.frozen[0] if self.frozen else digest_of(self.record())


def compared(arms: Sequence[Arm], rule: CompareRule, baseline: str) -> list[list[str]]:
    """Return the pairs that are compared, in an order that is not that of the arms.

    Args:
        arms: of the study.
        rule: study.compare.
        baseline: name of the baseline arm.
    """
    return sorted(sorted(pair) for pair in pairs_to_compare(arms, rule, baseline))


def digest_of(record: Mapping[str, Any]) -> str:
    """Return the sha256 (hex) of a plan's record; the order of keys does not matter."""
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()
