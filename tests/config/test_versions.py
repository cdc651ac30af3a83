"""Configs of older records get today's keys; those of newer ones are refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from effbench.config import static_compose as static
from effbench.config.compare import config_digest
from effbench.config.compose import compose
from effbench.config.versions import SCHEMA, stamped, upgraded
from effbench.config.yaml_text import write_yaml
from effbench.errors import ConfigError
from effbench.run.overrides import words_of_older


def record(*words: str) -> dict[str, Any]:
    return compose(words).to_dict()


@pytest.mark.slow
def test_groups_and_keys_missing_in_a_record_get_the_defaults() -> None:
    whole = record()
    older = {key: value for key, value in whole.items() if key != "ema"}
    older["checkpoint"] = {"monitor": "val/acc", "mode": "max"}
    older["optimizer"] = {key: value for key, value in whole["optimizer"].items() if key != "eps"}
    now = upgraded(older, "config.yaml")
    assert now["ema"] == whole["ema"]
    assert now["checkpoint"] == {**whole["checkpoint"], "monitor": "val/acc", "mode": "max"}
    assert now["optimizer"] == whole["optimizer"]


@pytest.mark.slow
def test_missing_keys_of_a_group_come_from_the_recorded_choice() -> None:
    lion = record("optimizer=lion")["optimizer"]
    older = {
        **record(),
        "optimizer": {key: value for key, value in lion.items() if key not in ("betas", "weight_decay")},
    }
    assert upgraded(older, "config.yaml")["optimizer"] == lion


@pytest.mark.spread(2)
@pytest.mark.slow
@pytest.mark.parametrize(
    ("section", "choice", "gone"),
    [
        ("augment", "none", ["flip", "_target_"]),
        ("augment", "strong", ["rotate", "_target_"]),
        ("early_stopping", "off", ["enabled"]),
        ("ema", "on", ["decay"]),
        ("device", "cpu", ["tf32"]),
    ],
)
def test_missing_keys_come_from_the_choice_also_without_class(section: str, choice: str, gone: list[str]) -> None:
    whole = record(f"{section}={choice}")
    older = {**whole, section: {key: value for key, value in whole[section].items() if key not in gone}}
    now = upgraded(older, "config.yaml")[section]
    # early_stopping=off differs from on in the key that is gone: then it is the default.
    assert now == (record()[section] if gone == ["enabled"] else whole[section])


@pytest.mark.slow
def test_record_of_schema_3_without_batch_norm_has_batch_norm() -> None:
    model = record("model=ds_cnn")["model"]
    older = {**record("model=ds_cnn"), "model": {key: model[key] for key in model if key != "batch_norm"}}
    assert upgraded({"schema_version": 3, **older}, "config.yaml")["model"] == model


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "key"),
    [(("task=regression", "loss=mse"), "task.standardise"), (("data=table_csv",), "data.equal_rows_together")],
)
def test_a_run_from_before_a_key_goes_on_without_it(words: tuple[str, ...], key: str, tmp_path: Path) -> None:
    """Older records are read with the value by which they were made, and their words are composed with it."""
    section, _, name = key.partition(".")
    now = record(*words)
    older = {**now, section: {each: value for each, value in now[section].items() if each != name}}
    assert upgraded({"schema_version": 4, **older}, "config.yaml")[section] == {**now[section], name: False}
    assert upgraded(stamped(now), "config.yaml") == now
    (tmp_path / "config.yaml").write_text(write_yaml({"schema_version": 4, **older}))
    assert words_of_older(tmp_path) == {key: f"++{key}=false"}
    (tmp_path / "config.yaml").write_text(write_yaml(stamped(now)))
    assert words_of_older(tmp_path) == {}


@pytest.mark.slow
@pytest.mark.slow
@pytest.mark.parametrize(("subset", "kept"), [("embedded", False), ("full", True)])
def test_a_folder_that_older_runs_did_not_read_is_dropped(subset: str, kept: bool) -> None:
    """Beside the embedded subset it had no effect; today it is refused, and `eval` and `resume` would be, too."""
    config = compose(["data.root=photos", f"data.subset={subset}"]).to_dict()
    assert upgraded({"schema_version": 8, **config}, "config.yaml")["data"]["root"] == ("photos" if kept else None)


@pytest.mark.parametrize("name", ["text_csv", "text_folder", "table_csv", "language_id", "wordnet_gloss", "kjv_kinds"])
def test_a_run_from_before_schema_8_keeps_its_rules(name: str, tmp_path: Path) -> None:
    now = record(f"data={name}")
    assert now["data"]["rules"] == 2
    older = {**now, "data": {key: value for key, value in now["data"].items() if key != "rules"}}
    assert upgraded({"schema_version": 7, **older}, "config.yaml")["data"] == {**now["data"], "rules": 1}
    (tmp_path / "config.yaml").write_text(write_yaml({"schema_version": 7, **older}))
    assert words_of_older(tmp_path) == {"data.rules": "++data.rules=1"}
    (tmp_path / "config.yaml").write_text(write_yaml(stamped(now)))
    assert words_of_older(tmp_path) == {}


@pytest.mark.slow
def test_a_key_deleted_in_the_current_version_stays_deleted() -> None:
    config = record("~optimizer.betas")
    assert "betas" in static.composed()["optimizer"]
    assert upgraded(stamped(config), "config.yaml") == config


@pytest.mark.slow
def test_a_section_that_is_none_is_left_to_the_schema_to_refuse() -> None:
    assert upgraded({**record(), "checkpoint": None}, "config.yaml")["checkpoint"] is None


@pytest.mark.slow
@pytest.mark.parametrize("section", ["model", "data", "trainer"])
def test_a_record_without_a_section_of_every_version_is_damaged(section: str) -> None:
    with pytest.raises(ConfigError, match=f"config.yaml is damaged: section {section} is missing or incomplete"):
        upgraded({key: value for key, value in record().items() if key != section}, "config.yaml")


@pytest.mark.slow
def test_modules_that_moved_are_found_by_their_old_name() -> None:
    older = record("data=synthetic")
    older["data"]["_target_"] = "effbench.data.synthetic.synthetic"
    assert upgraded(older, "config.yaml")["data"]["_target_"] == "effbench.data.images.synthetic.synthetic"


@pytest.mark.parametrize("version", [SCHEMA + 1, 10**9])
def test_a_newer_version_is_refused(version: int) -> None:
    with pytest.raises(ConfigError, match=rf"config.yaml has schema_version {version}.* a newer effbench wrote it"):
        upgraded({"schema_version": version}, "config.yaml")


@pytest.mark.parametrize("version", [0, -1, "2", 1.5, True, None])
def test_an_invalid_version_is_refused(version: object) -> None:
    with pytest.raises(ConfigError, match="schema_version must be a whole number"):
        upgraded({"schema_version": version}, "config.yaml")


@pytest.mark.slow
def test_the_version_is_no_part_of_the_experiment() -> None:
    assert config_digest(stamped(record())) == config_digest(record())
