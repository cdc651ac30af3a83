"""Compressing a run without a validation split: a bound is refused, and what is judged is said to be of training.

White-box: the outputs that a judge compares with are asked for.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest

import effbench
from effbench.compress.compress import compress, compress_to_target
from effbench.compress.drop import Judge
from effbench.compress.options import compress_options
from effbench.compress.target import SearchOptions, Target
from effbench.errors import ConfigError
from effbench.run.load import load_run

pytest.importorskip("onnxruntime")

WORDS = [
    "model=mlp", "model.hidden=[8]", "trainer.max_epochs=1", "trainer.limit_train_batches=2", "data.val_fraction=0",
    "early_stopping=off", "checkpoint.save_top_k=0", "device=cpu", "device.threads=1",
]  # fmt: skip


@pytest.fixture(scope="module")
def unvalidated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return effbench.train(WORDS, tmp_path_factory.mktemp("runs") / "all").folder


def test_the_drop_is_said_to_be_of_training_samples(unvalidated: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="effbench"):
        judge = Judge(load_run(unvalidated), "last")
    assert f"the run has no validation split: what is lost is judged on {judge.samples}" in caplog.text
    found = judge.facts(judge._reference)
    assert (judge.samples, found["split"], found["drop"]) == ("2,000 training samples", "train", 0)


@pytest.mark.parametrize("word", ["max_drop=0.5", "target=latency/8"])
def test_a_bound_without_validation_samples_is_refused(word: str, unvalidated: Path) -> None:
    key, _, value = word.partition("=")

    def made() -> Any:
        if key == "target":
            return compress_to_target(unvalidated, SearchOptions(Target.parsed(value), checkpoint="last"))
        return compress(unvalidated, compress_options("quantize", "last", {key: float(value)}))

    with pytest.raises(ConfigError) as refused:
        made()
    text = str(refused.value)
    assert text.startswith(f"{word} is judged on validation samples, and this run has no validation split")
    assert "data.val_fraction above 0" in text
    assert not list(unvalidated.parent.glob("*all-*"))
