"""Two processes train on texts the very model that one process trains: batches by length, and next tokens."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from effbench.config.compose import compose
from effbench.run import session as training
from tests import texts
from tests.training.test_distributed import Job, as_numbers, rows, train_in_ranks, weights
from tests.training.tiny import largest_difference

# SGD: a divisor that is wrong by a factor would change nothing for Adam.
COMMON = [
    "optimizer=sgd", "optimizer.lr=0.1", "scheduler=cosine", "model.dropout=0.0", "early_stopping=off",
    "trainer.max_epochs=2", "trainer.max_steps=null", "trainer.log_every_n_steps=3", "data.eval_batch_size=7",
    "data.drop_last=false", "device=cpu", "device.threads=1",
]  # fmt: skip
# Uneven shares, and a last step that is incomplete: five steps an epoch, of 100 windows and of 80 texts.
CASES = {
    "windows": [*texts.GPT, "data.batch_size=11", "trainer.accumulate_grad_batches=2"],
    "texts by length": [*texts.LSTM, "data.batch_size=9", "trainer.accumulate_grad_batches=2", "loss.l1=1e-3"],
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, int], Path]:
    """(case, processes) -> run folder."""
    scratch = tmp_path_factory.mktemp("ranks")
    files = {"windows": texts.write_text(scratch), "texts by length": texts.write_texts(scratch)}
    words = {name: [*own, *COMMON, f"data.file='{files[name]}'"] for name, own in CASES.items()}
    folders = {(name, world): scratch / str(world) / name for name in CASES for world in (1, 2)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "draw_curves", lambda *_: None)
        train_in_ranks([Job(words[name], folders[name, 2]) for name in CASES], scratch)
        for name in CASES:
            training.train(compose(words[name]), folders[name, 1])
    return folders


@pytest.mark.proof
@pytest.mark.process
@pytest.mark.parametrize("case", CASES)
def test_two_processes_on_texts_end_at_the_weights_of_one(case: str, folders: dict[tuple[str, int], Path]) -> None:
    one, two = weights(folders[case, 1]), weights(folders[case, 2])
    assert largest_difference(one, two) < 1e-6
    summary = json.loads((folders[case, 2] / "summary.json").read_text())
    assert (summary["status"], summary["steps"], summary["processes"]) == ("completed", 10, 2)


@pytest.mark.proof
@pytest.mark.process
@pytest.mark.parametrize("case", CASES)
def test_two_processes_on_texts_log_the_metrics_of_one(case: str, folders: dict[tuple[str, int], Path]) -> None:
    one, two = rows(folders[case, 1]), rows(folders[case, 2])
    assert [row["step"] for row in one] == [row["step"] for row in two]
    for expected, row in zip(one, two, strict=True):
        assert as_numbers(row) == pytest.approx(as_numbers(expected), rel=1e-5, abs=1e-6)
    metrics = [json.loads((folders[case, world] / "summary.json").read_text())["metrics"] for world in (1, 2)]
    measure = "bits_per_byte" if case == "windows" else "acc"
    assert {"train/loss", "val/loss", f"val/{measure}", f"test/{measure}"} <= metrics[0].keys()
    assert metrics[1] == pytest.approx(metrics[0], rel=1e-5)
