"""The text rows compare like with like: both sides of each compute the same numbers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import recipe_runs
from benchmarks.arms_text import Packed, attention_pass
from benchmarks.page import DATA
from benchmarks.rows import text_gpt_recipe
from benchmarks.rows.text_local_attention import LENGTHS, exponent, name_of
from benchmarks.rows.text_lstm import BATCH, random_waste
from benchmarks.rows.text_recipes import recipes_on
from effbench.models.recurrent import LstmAttention


def test_packed_sequences_give_the_numbers_of_our_model() -> None:
    torch.manual_seed(0)
    ours = LstmAttention(3, 11, dim=6, hidden=5, attention=4).eval()
    tokens = torch.randint(1, 11, (4, 9))
    for row, length in enumerate((9, 4, 1, 6)):
        tokens[row, length:] = 0
    expected = ours(tokens).detach()
    packed = Packed(ours).eval()
    torch.testing.assert_close(packed(tokens), expected, rtol=1e-5, atol=1e-6)


def test_local_and_dense_attention_have_the_same_gradients() -> None:
    for ours, dense in zip(attention_pass("local", 300)(), attention_pass("dense", 300)(), strict=True):
        torch.testing.assert_close(ours, dense, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("power", [1.0, 2.0])
def test_the_exponent_is_that_of_the_growth(power: float) -> None:
    values = {name_of("local", tokens): 3e-6 * tokens**power for tokens in LENGTHS}
    assert exponent("local")(values) == pytest.approx(power)


def test_texts_of_one_length_waste_nothing_in_any_order() -> None:
    assert random_waste([7] * 2 * BATCH) == 0
    # a batch of lengths 1 and 9 in equal parts is padded to 9: (1 + 9) / 18 of it are tokens
    assert random_waste([1, 9] * (BATCH // 2)) == pytest.approx(1 - 10 / 18)


@pytest.mark.proof
@pytest.mark.slow
def test_recipes_of_other_data_are_not_run_for_a_text_set() -> None:
    assert "mobilenet_adamw" in recipes_on("fashion_mnist")
    assert "mobilenet_adamw" not in recipes_on("language_id")


@pytest.mark.slow
def test_a_kept_run_is_repeated_only_for_another_config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[tuple[str, int]] = []

    def trained(recipe: str, seed: int, budget_s: int) -> dict[str, float]:
        made.append((recipe, seed))
        return {"test": 0.5 + seed, "val": 0.4, "training_s": float(budget_s)}

    monkeypatch.setattr(recipe_runs, "KEPT", tmp_path / "runs.json")
    monkeypatch.setattr(recipe_runs, "trained", trained)
    for _ in range(2):
        assert [recipe_runs.run_of("ngrams_language_id", seed, 60)["test"] for seed in (0, 1)] == [0.5, 1.5]
    name = "ngrams_language_id"
    assert made == [(name, 0), (name, 1)]
    recipe_runs.run_of("ngrams_language_id", 0, 90)  # another budget
    kept = recipe_runs.kept_runs()["ngrams_language_id, 60 s, seed 1"]
    recipe_runs.keep("ngrams_language_id, 60 s, seed 1", {**kept, "config": "of an older recipe"})
    recipe_runs.run_of("ngrams_language_id", 1, 60)
    assert made[2:] == [(name, 0), (name, 1)]


def test_the_gpt_recipe_has_a_target_after_each_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    def run_of(recipe: str, seed: int, budget_s: int) -> dict[str, Any]:
        made.append((recipe, seed, budget_s))
        machine = {"cpu": "Z80" if seed else "6502", "cpu_capability": "no floats"}
        found = {"val": 1.8 - budget_s / 1e4 + seed / 1e3, "test": 2.0, "training_s": float(budget_s)}
        return {**found, "machine": machine}

    made: list[tuple[str, int, int]] = []
    monkeypatch.setattr(text_gpt_recipe, "run_of", run_of)
    found = text_gpt_recipe.measure()
    assert made == [("gpt_kjv", seed, budget) for budget in (300, 900) for seed in range(3)]
    five, fifteen = (figure for figure in found if figure.target)
    assert (five.target, fifteen.target) == ("<= 1.85", "<= 1.75")
    assert (five.value.estimate, fifteen.value.estimate) == pytest.approx((1.771, 1.711))
    assert fifteen.arms == {"training": "900 s, 900 s, 900 s", "on": "6502 with no floats, Z80 with no floats"}
    assert len({figure.what for figure in found}) == 4


def test_notes_of_the_page_say_each_sentence_once() -> None:
    for row, entry in json.loads(DATA.read_text(encoding="utf-8")).items():
        for note in {figure["note"] for figure in entry["figures"]}:
            sentences = note.rstrip(".").split(". ")
            assert len(set(sentences)) == len(sentences), f"row {row}: {note}"
