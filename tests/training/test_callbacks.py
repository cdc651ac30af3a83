"""Callbacks of a user's own: what they get, what they may do, and what becomes of their errors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import effbench
from effbench import Callback, build, cli
from effbench.callbacks import KeepWeights
from effbench.config.compose import compose
from effbench.config.static_compose import composed
from effbench.config.versions import upgraded
from effbench.errors import ConfigError, EffbenchError
from effbench.records import read_metrics
from effbench.training.callbacks import HOOKS, Callbacks, NamedCallback
from effbench.training.snapshots import snapshot_of
from tests.training.tiny import Rows, dense, trainer
from tests.training.tiny import data as tiny_data

SMALL = [
    "model=mlp", "model.hidden=[8]", "data=synthetic", "data.num_train=64", "data.num_val=16", "data.num_test=16",
    "data.batch_size=16", "trainer.max_epochs=2", "early_stopping=off", "trainer.log_every_n_steps=1",
    "device.threads=1", "device=cpu",
]  # fmt: skip


def summary(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "summary.json").read_text()))


# --- the context ------------------------------------------------------------------------------------------------------


class Notes(Callback):
    def __init__(self) -> None:
        self.heard: list[str] = []
        self.context: Any = None

    def fit_start(self, context):
        self.context = context
        self.heard.append(f"start {context.total_steps} {context.steps_per_epoch}")

    def before_step(self, context):
        self.heard.append("gradients" if all(p.grad is not None for p in context.model.parameters()) else "none")

    def epoch_end(self, context, values):
        self.heard.append(f"epoch {context.state.epoch} {'val/loss' in values}")

    def saving(self, context):
        self.heard.append("saving")

    def fit_end(self, context):
        self.heard.append(f"end {context.state.status}")

    def tested(self, context, values):
        self.heard.append(" ".join(sorted(values)))

    def run_end(self, context):
        self.heard.append("run end")


@pytest.mark.process
def test_a_hook_gets_trainer_model_folder_splits_and_state(tmp_path: Path) -> None:
    notes = Notes()
    run = effbench.train([*SMALL, "trainer.max_epochs=1"], tmp_path / "run", callbacks=[notes])
    context = notes.context
    assert notes.heard == [
        "start 4 4", *["gradients"] * 4, "epoch 1 True", "saving", "end completed", "test/acc test/loss", "run end",
    ]  # fmt: skip
    assert context.folder == run.folder
    assert context.splits.name == "synthetic"
    assert context.model is context.trainer.model
    assert context.state.step == 4
    assert context.is_main
    with pytest.raises(AttributeError):
        context.folder = tmp_path


@pytest.mark.process
def test_callback_stop_still_validates_saves_and_tests(tmp_path: Path) -> None:
    class Enough(Callback):
        def epoch_end(self, context, values):
            context.stop("good enough")

    run = effbench.train([*SMALL, "trainer.max_epochs=9"], tmp_path / "run", callbacks=[Enough()])
    told = run.summary
    assert (told["status"], told["stop_reason"], told["steps"]) == ("completed", "good enough", 4)
    assert {"val/acc", "test/acc"} <= set(told["metrics"])
    assert run.checkpoint("last").resolve().name == "step-00000004"


@pytest.mark.process
@pytest.mark.parametrize("hook", ["fit_start", "step_end"])
def test_a_stop_in_mid_epoch_ends_after_that_step(hook: str, tmp_path: Path) -> None:
    stop = type("Stop", (Callback,), {hook: lambda _, context: context.stop("now")})()
    run = effbench.train(SMALL, tmp_path / "run", callbacks=[stop])
    assert (run.summary["steps"], run.summary["stop_reason"]) == (1, "now")
    assert run.checkpoint("last").resolve().name == "step-00000001"


# --- errors -----------------------------------------------------------------------------------------------------------


class Raises(Callback):
    def __init__(self, hook: str, error: BaseException):
        def fail(*_: Any) -> None:
            raise error

        setattr(self, hook, fail)

    def step_end(self, context): ...


@pytest.mark.spread(5)
@pytest.mark.process
@pytest.mark.parametrize(
    ("hook", "error"),
    [*((hook, ValueError("broken")) for hook in HOOKS), ("step_end", ConfigError("broken")), ("logged", SystemExit(0))],
    ids=repr,
)
def test_callback_error_names_callback_and_hook_and_fails_run(hook: str, error: BaseException, tmp_path: Path) -> None:
    with pytest.raises(EffbenchError, match=rf"callback Raises \(.*Raises\) raised .* in {hook} ") as raised:
        effbench.train([*SMALL, "trainer.max_steps=2"], tmp_path / "run", callbacks=[Raises(hook, error)])
    assert raised.value.exit_code == 1
    told = summary(tmp_path / "run")
    assert told["status"] == "failed"
    assert "callback Raises" in told["error"]
    if hook not in ("fit_start", "before_step"):
        assert read_metrics(tmp_path / "run")


@pytest.mark.process
def test_first_callback_error_is_raised_and_others_hear_run_end(tmp_path: Path, caplog: Any) -> None:
    first, notes = Raises("step_end", ValueError("first")), Notes()
    late = Raises("run_end", ValueError("late"))
    with pytest.raises(EffbenchError, match="first"):
        effbench.train(SMALL, tmp_path / "run", callbacks=[first, late, notes])
    assert notes.heard[-2:] == ["end failed", "run end"]
    assert "late" in caplog.text


@pytest.mark.process
def test_error_in_run_end_does_not_skip_other_callbacks_run_end(tmp_path: Path) -> None:
    notes = Notes()
    with pytest.raises(EffbenchError, match="late"):
        effbench.train(SMALL, tmp_path / "run", callbacks=[Raises("run_end", ValueError("late")), notes])
    assert notes.heard[-1] == "run end"


# --- state ------------------------------------------------------------------------------------------------------------


class Counts(Callback):
    """Changes the training by what it has counted: a resume that forgets that is not exact."""

    def __init__(self, dies_at: int | None = None):
        self.count, self._dies_at = 0, dies_at

    def before_step(self, context):
        self.count += 1
        for parameter in context.model.parameters():
            parameter.grad.mul_(1 + self.count % 3)

    def step_end(self, context):
        if context.state.step == self._dies_at:
            raise EffbenchError("died")

    def state_dict(self):
        return {"count": self.count}

    def load_state_dict(self, state):
        self.count = state["count"]


@pytest.mark.process
@pytest.mark.row(13)
def test_a_callback_s_state_goes_with_the_checkpoint(tmp_path: Path) -> None:
    whole = effbench.train(SMALL, tmp_path / "whole", callbacks=[Counts()])
    with pytest.raises(EffbenchError, match="died"):
        effbench.train(SMALL, tmp_path / "broken", callbacks=[Counts(dies_at=6)])
    resumed = effbench.train([f"resume={tmp_path / 'broken'}"], callbacks=[Counts()])
    a, b = (load_file(run.checkpoint("last") / "model.safetensors") for run in (whole, resumed))
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert torch.load(resumed.checkpoint("last") / "state.pt")["callbacks"] == {"callback Counts": {"count": 8}}


@pytest.mark.parametrize(
    "state", [{"a": np.float64(1)}, {"a": {1, 2}}, [1], {"a": object()}], ids=lambda state: str(type(state))
)
def test_callback_state_that_cannot_be_saved_is_refused(state: Any) -> None:
    class Odd(Callback):
        def state_dict(self):
            return state

    with pytest.raises(EffbenchError, match="state_dict must return a dict of tensors, numbers"):
        Callbacks([NamedCallback("callbacks.odd", Odd())]).state_dict()


def test_a_checkpoint_is_as_before_without_a_callback_s_state() -> None:
    run = trainer(tiny_data(), dense(), 1, watch=[Rows()])
    assert "callbacks" not in snapshot_of(run).state


# --- the group --------------------------------------------------------------------------------------------------------


class NoHook(Callback): ...


class Lightning(Callback):
    def on_train_epoch_end(self, trainer, module): ...


class Arity(Callback):
    def epoch_end(self, context): ...


def own(name: str) -> list[str]:
    return [f"+callbacks.mine={{_target_:tests.training.test_callbacks.{name}}}", "allow_targets=[tests.training]"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "complaint"),
    [
        ("NoHook", "it defines no hook; the hooks are fit_start, .*run_end"),
        ("Lightning", "on_train_epoch_end is no hook and would not be called; the hooks are fit_start"),
        ("Arity", r"epoch_end must take \(context, values\)"),
        ("summary", "must be a class derived from effbench.Callback"),
        ("Path", "is not allowed"),
        ("Raises", "missing 2 required positional arguments"),
    ],
)
def test_an_invalid_callback_class_is_refused_by_name(name: str, complaint: str) -> None:
    with pytest.raises(ConfigError, match=rf"callbacks\.mine.*{complaint}"):
        build.callbacks(compose(own(name)))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["+callbacks.x={a:1}"], "callbacks.x must be a callback with a _target_"),
        (["+callbacks._target_=effbench.callbacks.KeepWeights"], "callbacks._target_ must be a callback"),
        (["+callbacks.x={_target_:os.system}"], "callbacks.x._target_ 'os.system' is not allowed"),
        (["+callbacks._args_=[1]"], "callbacks._args_ is not allowed"),
        (["+callbacks.x={_target_:effbench.callbacks.KeepWeights,a:{_target_:os.system}}"], "callbacks.x.a._target_"),
        (["callbacks=[keep_weights,nope]"], "callbacks 'nope' is not one of: keep_predictions, keep_weights, none"),
        (["callbacks=keep_weights", "callbacks.keep_weights.every=2"], "no key 'callbacks.keep_weights.every'"),
        (["callback=keep_weights"], "Write callbacks=keep_weights"),
    ],
)
def test_a_wrong_callback_is_refused_before_any_import(words: list[str], complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        compose(words)


@pytest.mark.slow
def test_choices_combine_and_single_options_are_overridden() -> None:
    config = compose(["callbacks=[none,keep_weights]", "callbacks.keep_weights.every_n_epochs=5", *own("Notes")])
    assert list(config.callbacks.named) == ["keep_weights", "mine"]
    assert config.callbacks.named["keep_weights"].options == {"every_n_epochs": 5}
    assert len(build.callbacks(config)) == 2
    assert not compose(["callbacks=[]"]).callbacks.named
    given = composed([("callbacks", "[none,keep_weights]")])
    assert given["callbacks"]["keep_weights"]["every_n_epochs"] == 1


@pytest.mark.slow
def test_an_older_record_without_the_group_has_no_callbacks() -> None:
    content = {key: value for key, value in compose([]).to_dict().items() if key != "callbacks"}
    assert upgraded(content, "config.yaml")["callbacks"] == {}


@pytest.mark.process
def test_a_run_is_read_without_the_modules_of_its_callbacks(tmp_path: Path) -> None:
    effbench.train([*SMALL, "trainer.max_steps=1", *own("Notes")], tmp_path / "run")
    assert "test_callbacks.Notes" in (tmp_path / "run" / "config.yaml").read_text()
    assert effbench.load_run(tmp_path / "run").model() is not None


# --- keep_weights -----------------------------------------------------------------------------------------------------


@pytest.mark.process
def test_keep_weights_writes_the_evaluated_weights(tmp_path: Path) -> None:
    run = effbench.train([*SMALL, "ema=on", "callbacks=keep_weights"], tmp_path / "run")
    kept = sorted((run.folder / "weights").iterdir())
    assert [path.name for path in kept] == ["epoch-0001.safetensors", "epoch-0002.safetensors"]
    last, average = load_file(kept[1]), load_file(run.checkpoint("last") / "ema.safetensors")
    assert all(torch.equal(last[name], average[name]) for name in last)
    assert effbench.train([*SMALL, f"model.pretrained={kept[0]}", "trainer.max_steps=1"], tmp_path / "tuned").summary


@pytest.mark.parametrize("every", [0, -1, 1.5, True, "2"])
def test_keep_weights_refuses_an_invalid_number_of_epochs(every: Any) -> None:
    with pytest.raises(ConfigError, match=r"keep_weights\.every_n_epochs must be a whole number >= 1"):
        KeepWeights(every)


# --- columns ----------------------------------------------------------------------------------------------------------


class Twice(Callback):
    """Logs in the middle of a logged interval, and from the row of an epoch."""

    columns = ("at", "gap")

    def step_end(self, context):
        if context.state.step in (2, 5):
            context.log("at", torch.tensor(context.state.step))

    def epoch_end(self, context, values):
        context.log("gap", values["val/loss"] - values["train/loss"])


EVERY_THIRD = [*SMALL, "trainer.log_every_n_steps=3", "scheduler=constant"]


@pytest.mark.process
def test_logged_values_are_columns_of_the_rows_they_belong_to(tmp_path: Path, caplog: Any) -> None:
    caplog.set_level("INFO")
    effbench.train(EVERY_THIRD, tmp_path / "run", callbacks=[Twice()])
    rows = read_metrics(tmp_path / "run")
    assert list(rows[0])[-2:] == ["at", "gap"]
    assert [(row["row"], row["step"], row["at"]) for row in rows] == [
        ("step", "3", "2"), ("epoch", "4", ""), ("step", "6", "5"), ("epoch", "8", ""),
    ]  # fmt: skip
    for row in rows[1::2]:
        assert float(row["gap"]) == pytest.approx(float(row["val/loss"]) - float(row["train/loss"]), abs=1e-6)
        assert f"gap {float(row['gap']):.4g}" in caplog.text


@pytest.mark.process
def test_a_value_that_waits_for_its_row_survives_an_interruption(tmp_path: Path) -> None:
    """Stopped after step 2, whose value belongs into the row of step 3."""

    class Signal(Twice):
        def step_end(self, context):
            super().step_end(context)
            if context.state.step == 2:
                context.trainer.interrupted_by = "SIGTERM"

    stopped = effbench.train(EVERY_THIRD, tmp_path / "run", callbacks=[Signal()])
    assert stopped.summary["steps"] == 2
    effbench.train([f"resume={tmp_path / 'run'}"], callbacks=[Twice()])
    rows = read_metrics(tmp_path / "run")
    assert [row["at"] for row in rows] == ["2", "", "5", ""]


@pytest.mark.process
def test_a_resumed_run_gets_the_columns_of_a_callback_it_had_not(tmp_path: Path) -> None:
    effbench.train([*EVERY_THIRD, "trainer.max_epochs=1"], tmp_path / "run")
    before = read_metrics(tmp_path / "run")
    effbench.train([f"resume={tmp_path / 'run'}", "trainer.max_epochs=2"], callbacks=[Twice()])
    rows = read_metrics(tmp_path / "run")
    assert rows[:2] == [{**row, "at": "", "gap": ""} for row in before]
    assert rows[2]["at"] == "5"
    assert rows[3]["gap"]


@pytest.mark.process
@pytest.mark.parametrize(
    ("hook", "name", "complaint"),
    [("step_end", "other", r"columns = \('other',\)"), ("run_end", "mine", "after the last row")],
)
def test_a_value_that_no_row_would_hold_is_an_error(hook: str, name: str, complaint: str, tmp_path: Path) -> None:
    kind = type("Mine", (Callback,), {"columns": ["mine"], hook: lambda _, context: context.log(name, 1)})
    with pytest.raises(EffbenchError, match=complaint):
        effbench.train([*SMALL, "trainer.max_steps=1"], tmp_path / "run", callbacks=[kind()])


@pytest.mark.process
@pytest.mark.parametrize(
    "value", ["1e3", None, 1j, torch.zeros(2), 10**400], ids=["text", "none", "complex", "vector", "big"]
)
def test_a_logged_value_is_one_number(value: Any, tmp_path: Path) -> None:
    class Mine(Callback):
        columns = ("mine",)

        def step_end(self, context):
            context.log("mine", value)

    with pytest.raises(EffbenchError, match=r"column 'mine' takes one number; got .* \(test_callbacks\.py, line \d+\)"):
        effbench.train([*SMALL, "trainer.max_steps=1"], tmp_path / "run", callbacks=[Mine()])


@pytest.mark.parametrize(
    "columns",
    ["mine", [1], ["step"], ["_step"], ["train/loss"], ["lr/decay"], ["a,b"], [""], ["."], ["a/../b"], ["a/"]],
)
def test_columns_that_cannot_be_are_refused(columns: Any) -> None:
    kind = type("Mine", (Callback,), {"columns": columns, "step_end": lambda *_: None})
    with pytest.raises(ConfigError, match="column"):
        build.callbacks(compose([]), [kind()])


def test_two_callbacks_of_one_column_are_refused_early(tmp_path: Path) -> None:
    other = type("Other", (Callback,), {"columns": ["gap"], "step_end": lambda *_: None})
    with pytest.raises(ConfigError, match="callback Twice and callback Other both have the column 'gap'"):
        effbench.train(SMALL, tmp_path / "run", callbacks=[Twice(), other()])
    assert not (tmp_path / "run").exists()


class Unreadable(Callback):
    """As a callback whose columns depend on a file that is not there."""

    @property
    def columns(self):
        raise RuntimeError("no names")

    def step_end(self, context): ...


@pytest.mark.slow
def test_columns_that_raise_end_as_an_error_of_the_user(tmp_path: Path, capsys: Any) -> None:
    assert cli.main(["train", *SMALL, *own("Unreadable"), f"hydra.run.dir={tmp_path / 'run'}"]) == 2
    err = capsys.readouterr().err
    assert "callbacks.mine (tests.training.test_callbacks.Unreadable): columns raised RuntimeError('no names')" in err
    assert "(test_callbacks.py, line " in err
    assert "Traceback" not in err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("attribute", ["columns", "epoch_end"])
@pytest.mark.parametrize("error", [RuntimeError("no"), SystemExit(0), OSError(2, "no")], ids=repr)
def test_an_attribute_that_raises_names_its_callback(attribute: str, error: BaseException) -> None:
    def fail(_: Any) -> None:
        raise error

    kind = type("Mine", (Callback,), {"step_end": lambda *_: None, attribute: property(fail)})
    with pytest.raises(ConfigError, match=rf"callback Mine \(.*Mine\): {attribute} raised .*test_callbacks\.py, line"):
        build.callbacks(compose([]), [kind()])


def test_columns_are_read_once() -> None:
    """A property may give another answer the next time, or none."""
    answers = iter([["a"]])
    kind = type("Mine", (Callback,), {"step_end": lambda *_: None, "columns": property(lambda _: next(answers))})
    [named] = build.callbacks(compose([]), [kind()])
    assert Callbacks([named]).columns == ["a"]


@pytest.mark.parametrize("key", ["checkpoint.monitor", "early_stopping.monitor"])
def test_a_column_cannot_be_monitored(key: str, tmp_path: Path) -> None:
    words = ["early_stopping=on" if word == "early_stopping=off" else word for word in SMALL]
    listed = "train/acc, train/loss, val/acc, val/loss"
    complaint = (
        f"{key} 'gap' is not one of: {listed}.* A column that a callback logs cannot be monitored: write a metric"
    )
    with pytest.raises(ConfigError, match=complaint):
        effbench.train([*words, f"{key}=gap"], tmp_path / "run", callbacks=[Twice()])
    assert not (tmp_path / "run").exists()
