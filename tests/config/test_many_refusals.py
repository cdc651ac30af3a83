"""A sweep's jobs are checked as one by one, but Hydra composes each choice of groups once."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from effbench.config import refusals
from effbench.config.compose import compose
from effbench.config.refusals import Refusals
from effbench.errors import ConfigError
from effbench.records import write_summary

WORDS = [
    ["optimizer.lr=0.1"],
    ["optimizer.lr=-1"],
    ["optimizer.lr=abc"],
    ["optimizer.lrr=1"],
    ["optimizer=lion", "optimizer.eps=1"],
    ["optimizer=sgd", "optimizer.momentum=0.5", "seed=3"],
    ["optimizer=AdamW", "optimizer.lr=0.1"],
    ["model=mlp", "model.hidden=[8,8]"],
    ["model=mlp", "model.hidden=3", "trainer.max_epochs=1.5"],
    ["+model.depth=3"],
    ["+optimizer.group_lr={a.*:0.1}"],
    ["optimizer.betas.0=0.5"],
    ["optimizer={lr:1}"],
    ["recipe=swin_lion_cpu", "optimizer.lr=1e-3"],
    ["recipe=swin_lion_cpu", "optimizer.lr=1e-3", "seed=-1"],
    ["trainer.max_epochs=null"],
    ["trainer.max_epochs=null", "trainer.max_steps=3"],
    ["data=image_folder", "data.root=2024"],
    ["loss.class_weights=[1,2]", "loss.label_smoothing=10"],
    ["trainer.max_time=1:00:00", "seed=1"],
    ["optimizer.lr=${seed}", "seed=1"],
    ["seed=${optimizer.lr}"],
    ["hydra.sweep.subdir=${hydra.job.override_dirname}", "data.root=../x"],
    ["allow_targets=[a.b]", "seed=1"],
    ["model._target_=os.system"],
    ["seed"],
    ["seed=1,2"],
    ["debug=smoke", "trainer.limit_val_batches=0.5"],
]


def of(together: Refusals, words: list[str]) -> str | None:
    try:
        together.checked(words)
    except ConfigError as error:
        return str(error)
    return None


def in_full(words: list[str]) -> str | None:
    try:
        compose(words)
    except ConfigError as error:
        return str(error)
    return None


@pytest.mark.proof
@pytest.mark.slow
def test_a_job_in_a_batch_is_refused_as_if_alone() -> None:
    together = Refusals()
    for words in WORDS:
        assert of(together, words) == in_full(words), words


@pytest.mark.slow
def test_a_user_folder_is_part_of_the_check(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "mine.yaml").write_text(
        "defaults: [_base, _self_]\n_target_: effbench.models.mlp.mlp\nhidden: [4]\ndropout: ${ema.decay}\n"
    )
    ours = Refusals(tmp_path)
    assert of(ours, ["model=mine", "model.hidden=[8]"]) is None
    assert "ema.decay" in str(of(ours, ["model=mine", "ema.decay=2"]))
    assert "mine" in str(of(Refusals(), ["model=mine"]))


@pytest.mark.slow
def test_sweep_check_composes_once_per_group_choice(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    composed: list[tuple[str, ...]] = []
    whole = refusals.compose_raw

    def counting(words: tuple[str, ...], config_dir: str | None) -> object:
        composed.append(tuple(words))
        return whole(words, config_dir)

    monkeypatch.setattr(refusals, "compose_raw", counting)
    together = Refusals()
    for number in range(100):
        assert of(together, [f"model={('mlp', 'cnn')[number % 2]}", f"optimizer.lr={number + 1}e-4"]) is None
    assert composed == [("model=mlp",), ("model=cnn",)]


def test_a_finished_sweep_is_resumed_without_composing_its_jobs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from effbench.jobs.sweep import sweep

    jobs = [{"folder": f"{n:03d}", "apart": [f"seed={n}"], "overrides": [f"seed={n}"]} for n in range(3)]
    record = {"schema_version": 1, "overrides": ["seed=0,1,2"], "jobs": jobs}
    (tmp_path / "sweep.json").write_text(json.dumps(record))
    for n in range(3):
        (tmp_path / f"{n:03d}").mkdir()
        best = {"metric": "val/acc", "value": 0.5, "checkpoint": "step-00000001"}
        write_summary(tmp_path / f"{n:03d}", {"status": "completed", "metrics": {}, "best": best})

    def refuse(*_: object) -> None:
        raise AssertionError("composed a job that is done")

    monkeypatch.setattr(refusals, "compose_raw", refuse)
    monkeypatch.setattr("effbench.jobs.sweep.composed", refuse)
    assert sweep([f"sweep.resume={tmp_path}"]) == 0
    assert "50.00 ± 0.00 %" in capsys.readouterr().out
