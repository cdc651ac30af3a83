"""A sweep and a study on a small file of texts: their models have the vocabulary that was fitted to it."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
import torch

from effbench import build
from effbench.config.compose import compose
from tests.commandline import effbench
from tests.study.kills import table_in

pytestmark = pytest.mark.proof

BYTES = {"sgd": 4, "adamw": 8}  # of state a parameter
STUDY = [
    "study", "study=smoke", "study.optimizers=[sgd,adamw]", "study.trials=1", "study.seeds=6", "study.epochs=1",
    "study.timing_rounds=1", "study.folder=out",
]  # fmt: skip


@pytest.fixture
def words(tmp_path: Path) -> list[str]:
    """A config for a file of texts in the current folder, of two classes and about 110 words."""
    rows = [f"{'good' if row % 2 else 'bad'} day number{row % 100} {row},{'ab'[row % 2]}" for row in range(300)]
    (tmp_path / "texts.csv").write_text("\n".join(["text,label", *rows]))
    return [
        "data=text_csv", "data.file=texts.csv", "data.tokenizer=words", "data.max_length=8", "model=text_cnn",
        "model.dim=4", "device.threads=1",
    ]  # fmt: skip


def fitted_parameters(words: list[str]) -> int:
    """Count the parameters of the model as training builds it."""
    config = compose(words)
    data = build.splits(config)
    model = build.model(config, len(data.classes), build.modality(config, data, torch.device("cpu")))
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.process
def test_a_sweep_on_texts_trains_the_fitted_model(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    every = [*words, "optimizer=sgd,adamw", "trainer.max_epochs=1", "hydra.sweep.dir=swept"]
    done = effbench("train", "-m", *every, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    with (tmp_path / "swept" / "sweep.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["status"] for row in rows] == ["completed"] * 2
    for row in rows:
        summary = json.loads((tmp_path / row["folder"] / "summary.json").read_text())
        assert summary["model"]["parameters"] == fitted_parameters(words)
        assert summary["data"]["unit"] == "text"


@pytest.mark.process
@pytest.mark.slow
def test_a_study_on_texts_states_the_costs_of_the_fitted_model(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("optuna")
    monkeypatch.chdir(tmp_path)
    options = [word for word in words if not word.startswith(("model=", "device."))]  # the study has threads of its own
    arms = ["study.models=[text_cnn]", "study.baseline=text_cnn-adamw", "trainer.limit_train_batches=8"]
    done = effbench(*STUDY, *arms, *options, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    costs = table_in(tmp_path / "out").costs
    assert [cost.arm for cost in costs] == ["text_cnn-sgd", "text_cnn-adamw"]
    for cost in costs:
        assert (cost.parameters, cost.unit) == (fitted_parameters(words), "text")
        state = BYTES[cost.arm.removeprefix("text_cnn-")] * cost.parameters
        assert 0 <= cost.optimizer_state_bytes - state < 100  # a step count for each tensor
