"""Runs that do not belong together: of several programs, machines or states of the data; and test samples in tuning."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Hashable, Iterable

from effbench.run.overrides import override_key
from effbench.study.results import Objection
from effbench.study.table import Confirmation, StudyTable, Trial
from effbench.summary_schema import DRAWN
from effbench.units import counted

_HASH = re.compile(r"\b[0-9a-f]{40,64}\b")  # of a commit, or of data
_MOST_VALUES = 5  # commits, machines or data that a sentence lists
_DATA = ("data", "recipe", "debug")  # the first part of words that may choose other data


def mixed(table: StudyTable) -> Iterable[Objection]:
    """Yield an objection for several commits, and one for several machines."""
    every: list[Trial | Confirmation] = [*table.trials, *table.confirmations]
    for kind, field, remedy in (
        ("mixed commits", "commit", "Run the study with one commit; a changed program is another study."),
        ("mixed machines", "machine", "Compare seconds within one machine only, or count steps instead."),
    ):
        # a run that failed before it began has none
        known = [(run.arm, value) for run in every if (value := str(getattr(run, field)))]
        values = Counter(value for _, value in known)
        if len(values) > 1:
            # named: arms whose commits or machines differ from the others', because these may explain their result
            of_arm: dict[str, set[str]] = {}
            for arm, value in known:
                of_arm.setdefault(arm, set()).add(value)
            uneven = sorted(arm for arm, own in of_arm.items() if own != set(values))
            where = f" These arms do not have all of them: {', '.join(uneven)}." if uneven else ""
            found = f"The runs come from {len(values)} {field}s: {_values_text(values)}.{where}"
            yield Objection(kind, tuple(uneven), found, remedy)


def _values_text(values: Counter[str]) -> str:
    """Return the values with their numbers of runs."""
    # 12 digits of a hash name a commit or data; the full hash would fill the line
    shown = [
        f"{_HASH.sub(lambda match: match[0][:12], value)} ({counted(count, 'run')})"
        for value, count in values.most_common(_MOST_VALUES)
    ]
    return ", ".join([*shown, *(["..."] if len(values) > _MOST_VALUES else [])])


def mixed_data(table: StudyTable) -> Iterable[Objection]:
    """Yield an objection if the data were changed while the study ran.

    The hash of some datasets follows the seed, which divides or generates them, and an arm may have data of its own. So
    it has to be one for all seeds, or one for each seed, over all arms that name the same data.
    """
    words = {
        arm.name: tuple(word for word in arm.overrides if override_key(word).partition(".")[0] in _DATA)
        for arm in table.arms
    }
    runs_of: dict[Hashable, list[tuple[int, str]]] = {}
    every: list[Trial | Confirmation] = [*table.trials, *table.confirmations]
    for run in every:
        if run.data:
            tuned = tuple(sorted((key, str(value)) for key, value in run.settings.items() if key.startswith("data.")))
            runs_of.setdefault((words.get(run.arm), tuned), []).append((run.seed, run.data))
    for runs in runs_of.values():
        values, seeds = Counter(data for _, data in runs), {seed for seed, _ in runs}
        if len(values) > 1 and not len(set(runs)) == len(seeds) == len(values):
            yield Objection(
                "mixed data", (), f"The data are not the same in all runs: sha256 {_values_text(values)}.",
                "Run the study in another folder, with data that stay as they are: its runs saw different samples.",
            )  # fmt: skip
            return


def drawn_test(table: StudyTable) -> Iterable[Objection]:
    """Yield an objection if tuning has seen test samples, because the seed divides the data."""
    if table.test_split == DRAWN:
        yield Objection(
            "test samples in tuning", (),
            "Each seed draws a test split of its own from all samples, so tuning has trained on some of the samples on "
            "which the final runs are tested.",
            "Give the data a test split of their own (a folder test, or data.test_file), which no seed changes.",
        )  # fmt: skip
