"""The table of a study as JSON, and which pairs are compared."""

from __future__ import annotations

import dataclasses
import json
import math

import pytest

from effbench.errors import DataError
from effbench.stats import Interval
from effbench.study.table import Range, curves_from_json, pairs_to_compare, table_from_json, table_to_json
from tests.study.planted import arm_of, confirmation, cost, study, trial


def test_a_table_survives_json():
    bits = bytes([1, 0, 1])
    table = study(
        {"swin/lion": [0.8], "swin/adamw": [None]},
        trials=(trial("swin/lion", 0, settings={"lr": 1.0, "layers": 2, "nesterov": True, "decay": "cosine"}),),
        costs=(dataclasses.replace(cost("swin/lion", 1.0), step_seconds=Interval(1.0, -math.inf, math.inf, 1)),),
        confirmations=(confirmation("swin/lion", 1, 2 / 3, correct=bits), confirmation("swin/adamw", 1, None)),
    )
    arms = (dataclasses.replace(table.arms[0], space={"lr": Range(1e-4, 1e-1, log=True)}), table.arms[1])
    table = dataclasses.replace(table, arms=arms)
    text = table_to_json(table)
    found = table_from_json(text)
    assert found == table
    assert [type(value) for value in found.trials[0].settings.values()] == [float, int, bool, str]
    assert '"101"' in text
    json.loads(text, parse_constant=pytest.fail)  # strict: no Infinity


def test_a_table_of_schema_1_still_reads():
    table = study({"a": [0.8]}, costs=(cost("a", 1.0),))
    record = json.loads(table_to_json(table))
    record["schema_version"] = 1
    [one] = record["value"]["costs"]
    one["images_per_second"] = one.pop("samples_per_second")
    for newer in ("unit", "digits"):
        del record["value"][newer]
    del one["unit"]
    assert table_from_json(json.dumps(record)) == table


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"schema_version": 99, "value": {}}', "schema_version 99; this effbench reads up to 2"),
        ("[]", "not a study's table"),
        ('{"schema_version": 1, "value": {"name": 3}}', "not a study's table"),
        ('{"schema_version": 1, "val', "not a study's table"),
        ("[" * 100_000, "not a study's table"),
    ],
)
def test_other_files_are_refused(text, message):
    with pytest.raises(DataError, match=message):
        table_from_json(text)


def damage(record, path, value):
    """Set the value at a path of keys and places."""
    for step in path[:-1]:
        record = record[step]
    record[path[-1]] = value


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("pairs", 0, 1), "nobody", "names 'nobody', which is none of its arms"),
        (("pairs", 0, 1), "swin/lion", "a pair compares an arm with itself"),
        (("costs", 0, "arm"), "nobody", "names 'nobody'"),
        (("arms", 1, "name"), "swin/lion", "two arms have one name"),
        (("arms", 0, "space"), {"lr": {"low": 0, "high": 1, "log": True}}, "logarithmic range reaches down to 0"),
        (("confirmations", 0, "steps"), 10**400, "too large"),
        (("confirmations", 0, "steps"), -1, "greater than or equal to 0"),
        (("confirmations", 0, "steps_to_target"), "nan", "finite"),
        (("costs", 0, "step_seconds", "estimate"), "nan", "a step time is not finite"),
        (("target",), "inf", "finite"),
    ],
)
def test_a_table_that_cannot_be_analysed_is_refused(path, value, message):
    table = study({"swin/lion": [0.8], "swin/adamw": [0.7]}, costs=(cost("swin/lion", 1.0),))
    record = json.loads(table_to_json(table))
    damage(record["value"], path, value)
    with pytest.raises(DataError, match=message):
        table_from_json(json.dumps(record))


@pytest.mark.parametrize(
    "text",
    ["[]", '{"a": 3}', '{"a": [[[1]]]}', '{"a": [[[-1, 0.5]]]}', '{"a": [[[1, NaN]]]}', '{"a": [[[1, 1e300]]]}', "{"],
)
def test_other_curves_are_refused(text):
    with pytest.raises(DataError, match="not a study's learning curves"):
        curves_from_json(text)


def test_curves_survive_json():
    curves = {"a": [[(10, 0.5), (20, 2 / 3)], []], "b": []}
    assert curves_from_json(json.dumps(curves)) == curves


def test_pairs_follow_the_rule():
    arms = [arm_of(f"{model}/{optimizer}") for model in ("cnn", "swin") for optimizer in ("sgd", "adamw", "lion")]
    within = pairs_to_compare(arms)
    assert len(within) == 6
    assert all(a.split("/")[0] == b.split("/")[0] for a, b in within)
    assert len(pairs_to_compare(arms, "all")) == 15
    assert pairs_to_compare(arms, "baseline", "cnn/adamw") == (
        ("cnn/sgd", "cnn/adamw"), ("cnn/lion", "cnn/adamw"), ("swin/sgd", "swin/adamw"), ("swin/lion", "swin/adamw"),
    )  # fmt: skip
    plain = [arm_of(name) for name in ("plain", "mixup", "cutout")]
    assert pairs_to_compare(plain, "baseline", "plain") == (("mixup", "plain"), ("cutout", "plain"))
    assert len(pairs_to_compare(plain)) == 3
