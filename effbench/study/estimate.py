"""What a study will take and what it can tell apart, before its first run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from effbench.report.spread import seconds
from effbench.report.text_table import TextColumn, console, print_sentence, print_table
from effbench.study.alone import PACE_ROUNDS
from effbench.study.deployment import backends, estimated_s, measures_deployment
from effbench.study.measure import TIMED_STEPS, Probe, steps_in
from effbench.study.plan import StudyPlan
from effbench.study.plan_words import plan_sentences
from effbench.study.space import Dimension, words_of
from effbench.study.tuning import arms_compared
from effbench.units import counted, human_count, human_span

_START_S = 1.0  # of an arm's first run in a process, beyond what a short run shows


@dataclass(frozen=True)
class Estimate:
    """The size of a study.

    Attributes:
        plan: the plan.
        probes: arm -> short run.
        begun: the study's folder holds it already.
        ended: its runs that have ended; None if not known.
    """

    plan: StudyPlan
    probes: Mapping[str, Probe]
    begun: bool = False
    ended: int | None = 0

    @property
    def runs(self) -> int:
        return len(self.plan.arms) * (self.plan.keys.trials + self.plan.keys.seeds)

    def steps_of(self, arm: str) -> int:
        """Return the optimizer steps of one run of an arm."""
        keys, each = self.plan.keys, self.probes[arm]
        # from a short run; the study measures longer ones and may come to a few steps more or less (tasks.steps_of)
        return steps_in(keys.seconds, each.step_s) if keys.seconds else round(each.steps_per_epoch * (keys.epochs or 0))

    def run_s(self, arm: str) -> float:
        """Return the seconds of one run of an arm."""
        each, steps = self.probes[arm], self.steps_of(arm)
        # one validation an epoch; the one more is the test, or the validation at a last step within an epoch
        return each.start_s + steps * each.step_s + (steps / each.steps_per_epoch + 1) * each.evaluation_s

    @property
    def total_s(self) -> float:
        """Seconds of the whole study with its workers; runs that share a machine slow each other down a little."""
        keys = self.plan.keys
        # divided by the workers: several runs go side by side, where a timed one has the machine alone
        runs = sum(self.run_s(arm.name) for arm in self.plan.arms) * (keys.trials + keys.seeds) / keys.workers
        # a budget in seconds is measured before, too
        rounds = keys.timing_rounds + (PACE_ROUNDS if keys.seconds else 0)
        timing = sum(
            self.probes[arm.name].start_s + TIMED_STEPS * self.probes[arm.name].step_s for arm in self.plan.arms
        )
        return runs + rounds * timing + self.deployment_s + _START_S

    @property
    def networks(self) -> int:
        """Different networks, as far as their sizes tell; arms with one network share a measurement of deployment."""
        return len({(each.parameters, each.macs) for each in self.probes.values()})

    @property
    def deployment_s(self) -> float:
        """Seconds of measuring latency and file sizes at the end; they are part of `total_s`."""
        rounds = self.plan.keys.deployment_rounds
        return estimated_s(self.networks, rounds) if measures_deployment(self.plan) else 0.0

    def _deployment(self) -> list[str]:
        """Return what measuring deployment takes, in words; [] where it is not measured."""
        if not self.deployment_s:
            return []
        found = backends()
        return [
            f"Deployment, at the end: {counted(self.networks, 'network')} x {len(found)} backends "
            f"({', '.join(found)}) x {self.plan.keys.deployment_rounds} rounds, about {human_span(self.deployment_s)} "
            "of it; study.deployment_rounds=0 leaves it out."
        ]

    def sentences(self) -> list[str]:
        """Return what the plan can find, in words."""
        plan = self.plan
        return plan_sentences(
            plan.keys.seeds,
            len(plan.pairs),
            plan.rules,
            display=plan.display,
            trials=plan.keys.trials,
            arms=arms_compared(plan.pairs),
            sampler=plan.keys.sampler,
        )

    def _standing(self) -> list[str]:
        """Return how far the study is, in words; [] for a new one."""
        if not self.begun:
            return []
        known = "" if self.ended is None else f": {self.ended} of {self.runs} runs have ended"
        return [f"{self.plan.folder} holds this study{known}."]

    def _target(self) -> list[str]:
        """Return the target that was given, in words, as its values are written elsewhere."""
        target = self.plan.keys.target
        if target is None or target == "median":
            return []
        return [f"Target: validation {self.plan.display.with_unit(target)}."]

    def line(self) -> str:
        keys = self.plan.keys
        return (
            f"{len(self.plan.arms)} arms x ({keys.trials} tuning runs + {keys.seeds} seeds) = {self.runs} runs, about "
            f"{seconds(self.total_s)} with {keys.workers} at a time"
        )

    def record(self) -> dict[str, Any]:
        """Return plain containers for JSON."""
        keys = self.plan.keys
        arms = [
            {
                "arm": arm.name,
                "overrides": list(arm.arm.overrides),
                "search_space": {"name": arm.space.name, **arm.space.record()},
                "steps": self.steps_of(arm.name),
                "step_s": self.probes[arm.name].step_s,
                "run_s": self.run_s(arm.name),
                "parameters": self.probes[arm.name].parameters,
            }
            for arm in self.plan.arms
        ]
        return {
            "study": self.plan.name,
            "digest": self.plan.digest,
            "arms": arms,
            "trials": keys.trials,
            "seeds": list(self.plan.seeds),
            "pairs": [list(pair) for pair in self.plan.pairs],
            "runs": self.runs,
            "ended": self.ended,
            "estimated_s": self.total_s,
            "deployment_s": self.deployment_s,
            "power": self.sentences(),
        }

    def show(self) -> None:
        """Print the plan to stdout."""
        # drop_order: what a narrow terminal can do without
        plan, out = self.plan, console()
        print_sentence(out, f"study {plan.name}: {self.line()}")
        names = [arm.name for arm in plan.arms]
        print_table(
            [
                TextColumn("arm", names, is_number=False),
                TextColumn("space", [arm.space.name for arm in plan.arms], is_number=False, drop_order=2),
                TextColumn("params", [human_count(self.probes[name].parameters) for name in names], drop_order=3),
                TextColumn("steps", [f"{self.steps_of(name):,}" for name in names]),
                TextColumn("a step", [f"{self.probes[name].step_s * 1000:.1f} ms" for name in names]),
                TextColumn("a run", [seconds(self.run_s(name)) for name in names]),
            ]
        )
        # the two ends of each range say more than the file's name; a space that several arms share is shown once
        spaces = {arm.space.name: arm.space for arm in plan.arms}
        for name, space in spaces.items():
            print_sentence(out, f"{name}: {', '.join(map(_dimension_text, space.dimensions))}")
        for sentence in [*self._standing(), *self._target(), *self._deployment(), *self.sentences()]:
            print_sentence(out, sentence)


def _dimension_text(dimension: Dimension) -> str:
    """Return a setting as an override with its values: 'optimizer.lr=0.003 to 1.0', 'scheduler.warmup=0 | 5% | 10%'."""
    words = [words_of({dimension.key: value})[0] for value in dimension.values]
    between = " | " if dimension.kind == "choices" else " to "
    return between.join([words[0], *(word.partition("=")[2] for word in words[1:])])
