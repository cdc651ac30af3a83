"""The plan of a study: what it runs, what it refuses before time is spent, and when it is another study."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from effbench.config.compose import compose
from effbench.config.study_files import options
from effbench.errors import ConfigError
from effbench.metrics import MeanAbsoluteError
from effbench.records import STUDY_FILE
from effbench.study.frozen import freeze
from effbench.study.plan import StudyPlan, digest_of
from effbench.study.planning import planned
from effbench.study.table import StudyRules

SMOKE = ["study=smoke", "device.name=cpu"]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def user_file(folder: Path, group: str, name: str, text: str) -> str:
    (folder / group).mkdir(parents=True, exist_ok=True)
    (folder / group / f"{name}.yaml").write_text(text)
    return str(folder)


@pytest.mark.slow
def test_arms_are_models_x_optimizers() -> None:
    plan = planned([*SMOKE, "study.models=[mlp,cnn]", "study.optimizers=[sgd,adamw]", "study.baseline=mlp-adamw"])
    assert [arm.name for arm in plan.arms] == ["mlp-sgd", "mlp-adamw", "cnn-sgd", "cnn-adamw"]
    assert plan.pairs == (("mlp-sgd", "mlp-adamw"), ("cnn-sgd", "cnn-adamw"))
    assert [arm.space.name for arm in plan.arms] == ["sgd", "adamw", "sgd", "adamw"]


@pytest.mark.slow
def test_named_arms_are_lists_of_overrides(tmp_path: Path) -> None:
    text = (
        "defaults: [_base, _self_]\noverrides: [model=mlp, optimizer=lion]\n"
        "arms: {flat: [scheduler=constant], wave: [scheduler=cosine]}\n"
    )
    plan = planned(["study=mine"], user_file(tmp_path / "own", "study", "mine", text))
    words = plan.words("wave", {"optimizer.lr": 0.001}, seed=5, tests=False)
    config = compose(words)
    assert "Cosine" in config.scheduler.target
    assert (config.optimizer.lr, config.seed, config.data.options["split_seed"]) == (0.001, 5, 5)
    assert plan.arms[0].space.name == "lion"  # follows from the optimizer in study.overrides
    assert plan.baseline == "flat"


@pytest.mark.slow
def test_tuning_leaves_the_test_split_unread_final_runs_do_not() -> None:
    plan = planned(SMOKE)
    tuning = compose(plan.words("mlp-sgd", {}, plan.tuning_seed, tests=False))
    final = compose(plan.words("mlp-sgd", {}, plan.seeds[0], tests=True))
    assert (tuning.trainer.limit_test_batches, final.trainer.limit_test_batches) == (0, None)
    assert list(final.callbacks.named) == ["keep_predictions"]
    assert plan.tuning_seed not in plan.seeds


@pytest.mark.slow
@pytest.mark.parametrize("words", [[], ["checkpoint.monitor=val/wrong", "checkpoint.mode=min"]], ids=["auto", "given"])
def test_a_users_metric_decides_what_a_study_compares(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = "from effbench.metrics import Accuracy, Display\nclass Wrong(Accuracy):\n    name = 'wrong'\n"
    (tmp_path / "studymetric.py").write_text(f"{lines}    display = Display('wrong answers', 'min', 'kg', digits=1)\n")
    monkeypatch.syspath_prepend(tmp_path)
    plan = planned([*SMOKE, "task.metrics=[studymetric.Wrong]", "allow_targets=[studymetric]", *words])
    assert (plan.metric, plan.mode) == ("wrong", "min")
    assert plan.display.with_unit(2.34) == "2.3 kg"
    assert "kg" not in json.dumps(plan.record())  # how it is written changes no study


@pytest.mark.proof
@pytest.mark.slow
def test_the_loss_has_the_unit_of_its_task() -> None:
    rows = ["data=synthetic_rows", "data.targets=values", "task=regression", "loss=mse"]
    monitor = ["checkpoint.monitor=val/loss", "checkpoint.mode=min"]
    assert planned([*SMOKE, *monitor]).display.unit == "nats"
    assert planned([*SMOKE, *rows, *monitor]).display.unit == ""
    assert planned([*SMOKE, *rows]).display == MeanAbsoluteError.display


def test_words_given_reach_every_run_but_not_over_an_arm() -> None:
    plan = planned([*SMOKE, "data.val_fraction=0.2", "optimizer.no_decay=false"])
    for arm in plan.arms:
        config = compose(plan.words(arm.name, {}, 0, tests=False))
        assert config.data.options["val_fraction"] == 0.2
        assert config.optimizer.no_decay is False
        assert config.optimizer.target.lower().endswith(arm.arm.optimizer or "")


@pytest.mark.spread(12)
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["study=smke"], "Did you mean 'smoke'"),
        (["model=mlp"], "name one study"),
        ([*SMOKE, "study.trails=4"], "Did you mean 'study.trials'"),
        ([*SMOKE, "study.trials=0"], "study.trials"),
        ([*SMOKE, "study.seeds=1"], "least"),
        ([*SMOKE, "study.seeds=5"], "at least 7"),
        ([*SMOKE, "study.models=[mlp]", "study.optimizers=[sgd,lyon]"], "arm mlp-lyon cannot be built"),
        ([*SMOKE, "study.models=[]"], "needs study.models and study.optimizers"),
        ([*SMOKE, "study.optimizers=[adamw]"], "compares nothing"),
        ([*SMOKE, "study.optimizers=[adamw,adamw,sgd]"], "two arms are named mlp-adamw"),
        ([*SMOKE, "study.baseline=adamw"], "study.baseline"),
        ([*SMOKE, "model.hiden=[8]"], "hidden"),
        ([*SMOKE, "seed=3"], "study.seed"),
        ([*SMOKE, "trainer.max_epochs=3"], "study.epochs"),
        ([*SMOKE, "resume=outputs/x"], "same command"),
        ([*SMOKE, "study.search_space=nadam"], "search_space"),
        ([*SMOKE, "study.trials=4,8"], "one value"),
        ([*SMOKE, "study.arms={a: [optimizer=sgd]}"], "in quotes"),
        ([*SMOKE, "model=cnn"], "model=cnn has no effect: all arms set model themselves. Choose it by study.models"),
        ([*SMOKE, "optimizer.lr=0.1"], "all arms tune optimizer.lr themselves. Name another space"),
        (
            [
                *SMOKE,
                "study.baseline=null",
                "study.optimizers={a: ['optimizer=sgd', 'optimizer.lr=1'], b: ['optimizer=lion']}",
            ],
            "arm mlp-a: optimizer.lr=1 has no effect: search_space/sgd tunes",
        ),
        ([*SMOKE, "study.arms={a: ['optimizer=sgd']}"], "needs study.models and study.optimizers"),
        ([*SMOKE, "study.sampler=sobol"], "study.sampler"),
        ([*SMOKE, "study.target=85"], r"study.target must be a fraction in \[0, 1\].*; got 85. For 85 % write 0.85"),
        ([*SMOKE, "study.relevant_difference=0.5"], "below 0.5, .*; got 0.5. For 0.5 points write 0.005"),
        (
            [*SMOKE, "study.optimizers=[adamw,schedule_free]"],
            r"needs scheduler=constant.*write schedule_free: \['optimizer=schedule_free', 'scheduler=constant'\]",
        ),
    ],
)
def test_what_cannot_be_run_is_refused_with_the_remedy(words: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        planned(words)
    assert not Path("outputs").exists()


def test_schedule_free_is_taken_with_a_constant_scheduler() -> None:
    optimizers = "{adamw: ['optimizer=adamw'], schedule_free: ['optimizer=schedule_free', 'scheduler=constant']}"
    assert len(planned([*SMOKE, f"study.optimizers={optimizers}"]).arms) == 2


def test_brackets_without_quotes_are_refused_with_the_remedy(tmp_path: Path) -> None:
    own = user_file(tmp_path / "own", "study", "two", "overrides: [model=mlp, model.hidden=[64], optimizer=sgd]\n")
    with pytest.raises(ConfigError, match="line 1.* Quote overrides that hold brackets"):
        planned(["study=two"], own)


def test_an_empty_space_is_refused(tmp_path: Path) -> None:
    own = user_file(tmp_path / "own", "search_space", "none", "# nothing\n")
    with pytest.raises(ConfigError, match="search space none is empty"):
        planned([*SMOKE, "study.search_space=none"], own)


@pytest.mark.slow
def test_a_space_smaller_than_the_budget_is_refused(tmp_path: Path) -> None:
    own = user_file(tmp_path / "own", "search_space", "few", "optimizer.lr: {choices: [0.1, 0.2]}  # two\n")
    with pytest.raises(ConfigError, match="only 2 settings"):
        planned([*SMOKE, "study.search_space=few"], own)


@pytest.mark.slow
def test_a_choice_between_others_that_is_refused_is_named(tmp_path: Path) -> None:
    own = user_file(tmp_path / "own", "search_space", "odd", "optimizer.lr: {choices: [0.1, -1.0, 0.2]}\n")
    with pytest.raises(ConfigError, match=r"with optimizer\.lr=-1\.0: "):
        planned([*SMOKE, "study.search_space=odd"], own)


def test_a_space_with_an_unknown_key_is_refused(tmp_path: Path) -> None:
    own = user_file(tmp_path / "own", "search_space", "odd", "optimizer.lrr: {log: [0.1, 0.2]}\n")
    with pytest.raises(ConfigError, match=r"Did you mean 'optimizer.lr'"):
        planned([*SMOKE, "study.search_space=odd"], own)


# --- study.json -------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_same_words_are_the_same_study_wherever_it_is_run() -> None:
    freeze(planned(SMOKE))
    freeze(planned([*SMOKE, "study.workers=4", "study.threads=2", "data.num_workers=0"]))
    freeze(planned(["study=smoke", "device.name=auto"]))
    content = json.loads(Path("outputs/studies/smoke", STUDY_FILE).read_text())
    assert content["digest"] == planned(SMOKE).digest


@pytest.mark.spread(3)
@pytest.mark.slow
@pytest.mark.parametrize(
    ("word", "told"),
    [
        ("study.trials=8", "keys.trials: 6 there, 8 asked for"),
        ("study.optimizers=[sgd,adamw]", "arms.mlp-lion"),
        ("data.val_fraction=0.2", "config.data.val_fraction: 0.1 there, 0.2 asked for"),
        ("study.alpha=0.06", "keys.alpha"),
        ("study.sampler=random", "keys.sampler: qmc there, random asked for"),
        # they change the numbers, so a worker that joins with others would mix two experiments
        ("device.tf32=false", "config.device.tf32: True there, False asked for"),
        ("device.channels_last=true", "config.device.channels_last: None there, True asked for"),
    ],
)
def test_a_changed_study_is_refused_with_what_changed(word: str, told: str) -> None:
    freeze(planned(SMOKE))
    with pytest.raises(ConfigError, match="holds another study") as refusal:
        freeze(planned([*SMOKE, word]))
    assert told in str(refusal.value)


@pytest.mark.proof
@pytest.mark.slow
def test_a_changed_search_space_is_another_study(tmp_path: Path) -> None:
    text = "optimizer.lr: {log: [0.001, 0.1]}  # a\n"
    own = user_file(tmp_path / "own", "search_space", "mine", text)
    words = [*SMOKE, "study.search_space=mine"]
    freeze(planned(words, own))
    user_file(tmp_path / "own", "search_space", "mine", text.replace("0.1]", "0.2]"))
    with pytest.raises(ConfigError, match="search_space.optimizer.lr.log"):
        freeze(planned(words, own))


def named_arms(*names: str) -> list[str]:
    optimizers = {"a": "sgd", "b": "adamw", "c": "lion"}
    arms = ", ".join(f"{name}: ['model=mlp', 'optimizer={optimizers[name]}']" for name in names)
    return [f"study.arms={{{arms}}}", "study.models=[]", "study.optimizers=[]"]


@pytest.mark.slow
def test_arms_in_another_order_may_not_change_what_is_compared() -> None:
    """By default the baseline is the first arm; a mapping with another order of its keys is an equal one."""
    plan, other = (planned([*SMOKE, *named_arms(*names), "study.baseline=null"]) for names in ("abc", "bac"))
    assert plan.digest != other.digest
    freeze(plan)
    for _ in range(2):
        with pytest.raises(ConfigError, match="\n  baseline: a there, b asked for\n"):
            freeze(other)
        assert freeze(plan).baseline == "a"
        # the second time as an older effbench wrote it
        rewritten(plan, lambda study: [study.pop(key, None) for key in ("baseline", "pairs")])


@pytest.mark.slow
def test_a_given_baseline_allows_any_order_of_the_arms() -> None:
    for names in ("abc", "cba"):
        freeze(planned([*SMOKE, *named_arms(*names), "study.baseline=b"]))


def test_runs_of_an_unknown_study_are_no_results_of_a_new_one() -> None:
    plan = planned(SMOKE)
    (plan.folder / "runs" / "mlp-sgd").mkdir(parents=True)
    with pytest.raises(ConfigError, match=r"runs holds runs, and there is no study\.json.*study\.folder=DIR"):
        freeze(plan)
    assert not (plan.folder / STUDY_FILE).exists()


def rewritten(plan: StudyPlan, change: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    """Change what the plan's study.json holds, with the digest that an effbench would have written."""
    path = plan.folder / STUDY_FILE
    content = dict(json.loads(path.read_text()))
    change(content["study"])
    content["digest"] = digest_of(content["study"])
    path.write_text(json.dumps(content))
    return content


@pytest.mark.slow
def test_a_study_keeps_the_rules_it_was_frozen_with() -> None:
    plan = planned([*SMOKE, "study.alpha=0.06"])
    assert freeze(plan).rules == plan.rules
    assert plan.rules == StudyRules(alpha=0.06, confidence=0.94)

    def other_defaults(study: dict[str, Any]) -> None:
        study["rules"] |= {"meaningful": 0.8, "tuning": 0.9, "budgets": [3, 7]}

    content = rewritten(plan, other_defaults)
    found = freeze(plan)
    assert found.rules == replace(plan.rules, meaningful=0.8, tuning=0.9, budgets=(3, 7))
    assert found.digest == content["digest"]  # the name of the journal's studies
    assert found.digest != plan.digest
    assert freeze(found) == found


@pytest.mark.slow
def test_a_study_file_from_before_the_rules_goes_on() -> None:
    plan = planned(SMOKE)
    freeze(plan)

    def without(study: dict[str, Any]) -> None:
        del study["rules"], study["keys"]["sampler"]
        for arm in study["arms"].values():
            arm["config"] = {key: value for key, value in arm["config"].items() if not key.startswith("device.")}

    content = rewritten(plan, without)
    found = freeze(plan)
    assert found.digest == content["digest"]
    # what was in force then: a rule that is added needs its value of before in frozen.py
    assert asdict(found.rules) == {
        "alpha": 0.05, "confidence": 0.95, "meaningful": 0.75, "tuning": 0.95, "relevant_difference": None,
        "power": 0.8, "budgets": (1, 2, 5, 10), "seed": 0, "target_per_model": False,
    }  # fmt: skip


@pytest.mark.parametrize("rules", [{"tuning": "much"}, {"luck": 3}, [1]])
def test_rules_that_cannot_be_read_are_named(rules: Any) -> None:
    plan = planned(SMOKE)
    freeze(plan)
    rewritten(plan, lambda study: study.update(rules=rules))
    with pytest.raises(ConfigError, match=r"study\.json: the rules of the study cannot be read"):
        freeze(plan)


def test_a_newer_study_file_names_the_effbench_that_wrote_it() -> None:
    plan = planned(SMOKE)
    freeze(plan)
    path = plan.folder / STUDY_FILE
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, "schema_version": 99, "effbench": "7.5.0"}))
    with pytest.raises(ConfigError, match=r"schema_version 99.*effbench 7\.5\.0"):
        freeze(plan)


def test_a_damaged_study_file_is_refused() -> None:
    plan = planned(SMOKE)
    freeze(plan)
    path = plan.folder / STUDY_FILE
    content = json.loads(path.read_text())
    content["study"]["keys"]["trials"] = 5  # the digest no longer fits
    for text in (json.dumps(content), path.read_text()[:-40], "[]"):
        path.write_text(text)
        with pytest.raises(ConfigError, match="damaged"):
            freeze(plan)


@pytest.mark.proof
@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(options("study")))
def test_every_study_that_ships_can_be_planned(name: str) -> None:
    plan = planned([f"study={name}"])
    assert len(plan.pairs) >= 2
