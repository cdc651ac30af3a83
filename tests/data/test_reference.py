"""What a simple method reaches on the data that ship: stated by the dataset, and true."""

from __future__ import annotations

import pytest

import benchmarks.text_baselines
from effbench.data.reference import Reference
from effbench.data.text import kjv, language_id, wordnet_gloss

GIVEN = Reference("linear n-grams", "acc", 0.807, "python -m benchmarks.text_baselines wordnet_gloss")
OF_DATA = {"language_id": language_id, "wordnet_gloss": wordnet_gloss, "kjv_kinds": kjv}


def test_a_reference_is_read_back_from_the_facts() -> None:
    assert Reference.recorded({"name": "x", **GIVEN.facts()}) == GIVEN
    assert Reference.recorded({"name": "x"}) is None


@pytest.mark.parametrize(
    "change", [{"value": "high"}, {"value": True}, {"value": None}, {"method": ""}, {"metric": None}, {"n": "one"}]
)
def test_a_damaged_reference_counts_as_none(change) -> None:
    assert Reference.recorded({"reference": {**GIVEN.facts()["reference"], **change}}) is None
    assert Reference.recorded({"reference": "87 %"}) is None


@pytest.mark.slow
def test_the_reference_holds_for_passages_of_8_verses_only() -> None:
    assert kjv.read_kjv_kinds().reference == kjv.read_kjv_kinds(verses=8).reference == kjv.REFERENCE
    assert kjv.read_kjv_kinds(verses=4).reference is None


@pytest.mark.proof
@pytest.mark.parametrize("name", OF_DATA)
def test_the_references_are_what_their_commands_measure(name) -> None:
    reference = OF_DATA[name].REFERENCE
    assert reference.command == f"python -m benchmarks.text_baselines {name}"
    measured = getattr(benchmarks.text_baselines, name)().accuracy["test"]
    # 0.3 points: another version of scikit-learn may solve to another tolerance
    assert reference.value == pytest.approx(measured, abs=0.003)
