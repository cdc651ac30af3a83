"""Exact resume of runs on texts: batches by length, and windows at places that are drawn."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from tests import texts
from tests.cli.conftest import Effbench
from tests.cli.interrupting import SendsSignal, ends_like, summary

# Two epochs: of 5 steps of two micro-batches; of 8 steps.
TWO_EPOCHS = [
    "trainer.max_epochs=2", "trainer.log_every_n_steps=1", "scheduler=cosine", "scheduler.warmup=3", "ema=on",
    "early_stopping=off",
]  # fmt: skip
TEXTS = [
    *texts.LSTM, "data.batch_size=8", "trainer.accumulate_grad_batches=2", "model.dropout=0.2",
    "model.token_dropout=0.1", *TWO_EPOCHS,
]  # fmt: skip
WINDOWS = [*texts.GPT, "data.batch_size=12", "model.dropout=0.2", "optimizer=muon", *TWO_EPOCHS]


def words_of(kind: str, folder: Path) -> list[str]:
    if kind == "texts":
        return [*TEXTS, f"data.file={texts.write_texts(folder)}"]
    return [*WINDOWS, f"data.file={texts.write_text(folder)}"]


@pytest.mark.process
@pytest.mark.row(9)
@pytest.mark.parametrize(("kind", "step", "per_epoch"), [("texts", 8, 5), ("windows", 13, 8)])
def test_a_text_run_stopped_within_an_epoch_ends_bit_for_bit(
    kind: str, step: int, per_epoch: int, send: SendsSignal, effbench: Effbench, tmp_path: Path
) -> None:
    words = words_of(kind, tmp_path)
    assert effbench("train", *words, "hydra.run.dir=whole")[0] == 0
    assert summary(tmp_path / "whole")["steps"] == 2 * per_epoch
    send(signal.SIGTERM, step)
    assert effbench("train", *words, "hydra.run.dir=run")[0] == 143
    assert summary(tmp_path / "run")["steps"] == step
    send.never()
    assert effbench("train", "resume=run")[0] == 0
    ends_like(tmp_path / "run", tmp_path / "whole")


@pytest.mark.proof
@pytest.mark.process
@pytest.mark.row(13)
@pytest.mark.parametrize("kind", ["texts", "windows"])
def test_verify_resume_confirms_an_exact_resume_of_text_runs(kind: str, effbench: Effbench, tmp_path: Path) -> None:
    code, out, err = effbench("verify", "resume", *words_of(kind, tmp_path), "steps=6", "at=5")
    assert (code, out.count("WRONG")) == (0, 0), out + err
    for part in ("weights", "averaged weights", "optimizer", "schedule", "metrics.csv"):
        assert part in out
