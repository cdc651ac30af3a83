"""Modes besides inference: a training step's parts add up; pairs of layers have their formulas; mistakes are named."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from effbench import build, cli
from effbench.bench import primitives, step_split, training
from effbench.bench.primitives import bench_pairs
from effbench.config.compose import compose, parse
from effbench.config.schema import Config
from effbench.errors import EffbenchError
from effbench.training.timers import Clocks


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_parts_of_a_step_are_those_of_the_clocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A trainer whose parts take planted seconds: 1 data, 2 forward, 4 backward, 8 clip, 16 optimizer, 32 between."""
    now = [0.0]
    clock = SimpleNamespace(perf_counter=lambda: now[0])
    monkeypatch.setattr("effbench.training.timers.time", clock)
    monkeypatch.setattr(step_split, "time", clock)

    def takes(seconds: float) -> None:
        now[0] += seconds

    trainer: Any = SimpleNamespace(
        clocks=Clocks(),
        clip=lambda: takes(8),
        precision=SimpleNamespace(backward=lambda _: takes(4)),
        train=SimpleNamespace(modality=SimpleNamespace(unit="image")),
    )
    context: Any = SimpleNamespace(trainer=trainer, state=SimpleNamespace(step=0, samples_seen=0))
    split = step_split.StepSplit(warm_up=1)
    split.fit_start(context)
    for _ in range(3):
        with trainer.clocks.data:
            takes(1)
        with trainer.clocks.forward_backward:
            takes(2)
            trainer.precision.backward(None)
        with trainer.clocks.optimizer:
            trainer.clip()
            takes(16)
        with trainer.clocks.evaluation:
            takes(64)  # no part of a step
        takes(32)
        context.state.step += 1
        context.state.samples_seen += 7
        split.step_end(context)
    expected = {"data": 1, "forward": 2, "backward": 4, "clip": 8, "optimizer": 16, "other": 32}
    assert split.steps == [expected, expected]  # without the step of the warm-up
    assert (split.batch_size, split.unit) == (7, "image")


@pytest.mark.proof
@pytest.mark.process
@pytest.mark.slow
def test_a_real_run_is_split_into_parts_that_add_up(tmp_path: Path, capsys: Any) -> None:
    # the ends of the run's own training do not shorten the measurement
    own = ["trainer.max_epochs=1", "trainer.limit_train_batches=4", "trainer.max_time=0.01"]
    own += ["checkpoint.every_n_steps=2", "scheduler.warmup=500"]
    words = ["model=mlp", "model.hidden=[16]", "data.batch_size=20", *own, "steps=12", "rounds=3"]
    assert cli.main(["bench", "mode=train", *words, f"output={tmp_path / 'out'}", "--json"]) == 0
    record = json.loads((tmp_path / "out" / "train.json").read_text())
    assert json.loads(capsys.readouterr().out)["parts"] == record["parts"]
    assert sum(part["share"] for part in record["parts"].values()) == pytest.approx(1.0)
    assert (record["batch_size"], record["steps_counted"], record["device"]) == (20, 3 * 7, "cpu")
    assert record["parts"]["backward"]["estimate_s"] > 0
    assert (tmp_path / "out" / "train.png").read_bytes()[:4] == b"\x89PNG"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]  # the short runs are gone


class BegunError(Exception):
    """A training is about to begin."""


def measured_config(monkeypatch: pytest.MonkeyPatch, *words: str) -> Config:
    """The config whose steps are measured for these overrides."""

    def called(_: Any, __: Any, content: dict[str, Any], ___: Path) -> None:
        raise BegunError(content)

    monkeypatch.setattr(training, "called", called)
    with pytest.raises(BegunError) as begun:
        training.bench_training(compose(words), steps=45)
    return parse(begun.value.args[0])


def test_overrides_may_name_a_module_of_the_users(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """With a group of the user's, whose model is in that module."""
    (tmp_path / "conf" / "model").mkdir(parents=True)
    (tmp_path / "conf" / "model" / "own.yaml").write_text("defaults: [_base, _self_]\n_target_: mylab.own_model\n")
    seen: list[Config] = []

    def stopped(config: Config, *_: Any) -> None:
        seen.append(config)
        raise EffbenchError("enough")

    monkeypatch.setattr(training, "bench_training", stopped)
    words = ["bench", "mode=train", "allow_targets=[mylab,mylab.nets]", "model=own", "--config-dir", "conf"]
    assert cli.main(words) == 1
    assert [config.allow_targets for config in seen] == [["mylab", "mylab.nets"]]


@pytest.mark.parametrize("logger", ["wandb", "mlflow"])
def test_a_measurement_is_no_run_of_a_tracking_service(logger: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert measured_config(monkeypatch, "model=mlp", f"logger={logger}").logger.name == "csv"


@pytest.mark.parametrize(
    "words",
    [["scheduler.warmup=2000"], ["scheduler.warmup='9 epochs'"], ["scheduler=constant", "scheduler.warmup=2000"], []],
)
def test_the_runs_own_schedule_does_not_limit_the_steps(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    config = measured_config(monkeypatch, "model=mlp", "checkpoint.every_n_steps=10", *words)
    assert config.checkpoint.every_n_steps is None
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=1.0)
    build.schedule(config, optimizer, total_steps=45, steps_per_epoch=10)  # which refuses a warm-up of 2,000 steps
    assert optimizer.param_groups[0]["lr"] == 1.0


def test_a_run_is_measured_without_the_file_of_its_first_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """A step takes as long with any weights; what is frozen costs no gradients."""
    config = measured_config(monkeypatch, "model=mlp", "model.pretrained=nowhere", "model.freeze=['hidden.*']")
    assert (config.model.pretrained, config.model.freeze) == (None, ["hidden.*"])


@pytest.mark.parametrize(("device", "told"), [("cuda", True), ("auto", torch.cuda.is_available()), ("cpu", False)])
def test_a_device_that_is_not_measured_is_named(
    device: str, told: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    measured_config(monkeypatch, "model=mlp", f"device.name={device}")
    assert (f"effbench bench measures on the CPU; device={device} is not used" in caplog.text) is told


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
@pytest.mark.parametrize("words", [["mode=layers", "channels=8", "sizes=8"], ["mode=train", "model=mlp"]])
def test_a_signal_ends_a_measurement_with_its_exit_code(
    words: list[str], number: signal.Signals, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ended(relay: Any, *_: Any) -> None:
        relay.signals.append(number)

    for module in (primitives, training):
        monkeypatch.setattr(module, "called", ended)
    assert cli.main(["bench", *words]) == code


@pytest.mark.proof
@pytest.mark.process
@pytest.mark.slow
def test_convolutions_have_the_counts_of_torchs_layers() -> None:
    record = bench_pairs("layers", [{"channels": 8, "size": 10, "batch": 2}], 3, 1)
    [row] = record["rows"]
    standard = nn.Conv2d(8, 8, 3, bias=False)
    assert row["other"]["parameters"] == sum(each.numel() for each in standard.parameters())
    assert row["other"]["macs"] == 10 * 10 * 9 * 8 * 8
    assert row["ours"]["macs"] == 10 * 10 * (9 * 8 + 8 * 8)
    assert row["formula"] == pytest.approx(1 / 8 + 1 / 9)
    assert row["ours"]["macs"] / row["other"]["macs"] == pytest.approx(row["formula"])
    times = row["ours_s"]["estimate"] / row["other_s"]["estimate"]
    assert row["time_ratio"]["low"] < row["time_ratio"]["high"]
    assert row["time_ratio"]["estimate"] / times == pytest.approx(1.0, rel=5.0)


@pytest.mark.proof
@pytest.mark.process
@pytest.mark.slow
def test_attention_counts_the_pairs_of_tokens_that_see_others() -> None:
    record = bench_pairs("attention", [{"tokens": 300}], 3, 1)
    [row] = record["rows"]
    places = torch.arange(300)
    seen = int(((places[:, None] - places).abs() <= record["constants"]["window"]).sum())
    width = record["constants"]["heads"] * record["constants"]["width"]
    assert row["ours"]["macs"] == 2 * width * seen
    assert row["other"]["macs"] == 2 * width * 300**2


def test_where_no_config_is_composed_its_folder_is_refused(capsys: Any) -> None:
    for words, text in {
        ("verify", "nowhere"): "and a run takes none",
        ("recipe", "ls"): "effbench recipe ls has no --config-dir; effbench recipe validate has",
    }.items():
        assert cli.main([*words, "--config-dir", "."]) == 2
        assert text in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["mode=fast"], "mode 'fast' is not one of: attention, inference, layers, train"),
        (["mode=layers", "channel=[3]"], "option of mode=layers 'channel' is not one of"),
        (["mode=layers", "channels=[]"], "channels must hold a number"),
        (["mode=layers", "sizes=[0]"], "each item of sizes must be a whole number >= 1; got 0"),
        (["mode=attention", "tokens=many"], "each item of tokens"),
        (["mode=attention", "rounds=2"], "rounds must be at least 3"),
        (["mode=train", "model=mlp", "steps=5"], "steps must be at least 10"),
        (["mode=train", "nowhere"], "nowhere is not a run"),
        (["mode=train", "model=mlpp"], "mlp"),
        (["mode=layers", "output="], "output= has no value. Write one, or leave it out"),
        (["mode=train", "model=mlp", "steps="], "steps= has no value"),
        (["model=mlp", "output="], "output= has no value"),
        (["nowhere", "backends=[]"], "backends must name a backend; got []"),
        (["mode=layers", "--config-dir", "."], "--config-dir holds groups for overrides such as model=NAME, and"),
        (["mode=attention", "--config-dir", "."], "and mode=attention takes none"),
        (["mode=train", "nowhere", "--config-dir", "."], "and a run takes none"),
        (["nowhere", "--config-dir", "."], "and a run or a file takes none. Leave it out"),
    ],
)
def test_a_mistake_is_named_before_anything_is_measured(words: list[str], text: str, capsys: Any) -> None:
    assert cli.main(["bench", *words]) == 2
    assert text in capsys.readouterr().err
