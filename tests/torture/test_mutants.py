"""What the torture would notice: the resume code broken a line at a time."""

from __future__ import annotations

from typing import Any

import pytest

from tests.torture.conftest import result
from tests.torture.mutants import MUTANTS, UNCHANGED, Mutant

BRIEF = [mutant for mutant in MUTANTS if mutant.brief]


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_the_source_still_contains_the_text_a_mutant_changes(mutant: Mutant) -> None:
    assert mutant.applies()


@pytest.mark.row(1, 2, 3)
@pytest.mark.parametrize("mutant", BRIEF, ids=lambda mutant: mutant.name)
def test_a_mutant_is_caught(mutant: Mutant, torture: dict[str, Any]) -> None:
    [row] = [row for row in result(torture, "mutants")["table"] if row["mutant"] == mutant.name]
    assert row["caught"]


def test_unchanged_code_is_blamed_by_no_check(torture: dict[str, Any]) -> None:
    unchanged = result(torture, "mutants")["unchanged"]
    assert [row["check"] for row in unchanged] == [mutant.check for mutant in UNCHANGED if mutant.brief]
    assert [row["by"] for row in unchanged if row["caught"]] == []


def test_a_mutant_whose_source_text_is_missing_is_reported() -> None:
    mutant = Mutant("gone", "effbench.training.ema:Ema.update", (("no such text", "pass"),))
    with pytest.raises(LookupError, match=r"'gone'.*Ema\.update holds 0 times: no such text"):
        mutant.applies()
