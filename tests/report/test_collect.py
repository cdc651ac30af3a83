"""Runs are found and read each by itself: damage is named and costs no other run."""

from __future__ import annotations

import inspect
import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from effbench.config.compare import leaves
from effbench.config.versions import SCHEMA, stamped, upgraded
from effbench.errors import ConfigError
from effbench.report.collect import curve_rows, find_runs, read_runs, shortened
from effbench.report.ranking import tables
from tests.report.pages import COLUMNS, config, curve, read, summary, write_run


def test_runs_are_found_at_any_depth_once_in_the_order_of_names(tmp_path: Path) -> None:
    for name in ("b/002_x", "b/001_y", "a", "c/d/e/f", ".hidden/x"):
        write_run(tmp_path / name, summary())
    (tmp_path / "empty").mkdir()
    (tmp_path / "loop").symlink_to(tmp_path, target_is_directory=True)
    folders, unread = find_runs([tmp_path, tmp_path / "b", tmp_path / "a"])
    assert [str(folder.relative_to(tmp_path)) for folder in folders] == ["a", "b/001_y", "b/002_x", "c/d/e/f"]
    assert unread == []
    assert [run.name for run in read_runs(folders)] == ["a", "b/001_y", "b/002_x", "c/d/e/f"]


def test_a_lone_run_has_its_own_name_wherever_it_is_called_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_run(tmp_path / "x" / "my run", summary())
    monkeypatch.chdir(tmp_path / "x" / "my run")
    assert [run.name for run in read(Path())] == ["my run"]


def test_no_run_and_no_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no run in"):
        find_runs([tmp_path])
    with pytest.raises(ConfigError, match="there is no folder"):
        find_runs([tmp_path / "nowhere"])


def test_a_deep_tree_is_walked(tmp_path: Path) -> None:
    place = tmp_path.joinpath(*"d" * 200)
    write_run(place, summary())
    frames = len(inspect.stack())
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(frames + 100)
    try:
        assert find_runs([tmp_path]) == ([place], [])
    finally:
        sys.setrecursionlimit(limit)


DAMAGE: dict[str, tuple[str, bytes | None, str]] = {
    "cut": ("summary.json", b'{"schema_version": 1, "sta', "not valid JSON"),
    "empty": ("summary.json", b"", "not valid JSON"),
    "no JSON": ("summary.json", b"\xff\xfe\x00", "not valid JSON"),
    "a list": ("summary.json", b"[1]", "schema_version must be 1; got null"),
    "another version": ("summary.json", b'{"schema_version": 7}', "schema_version 7"),
    "no status": ("summary.json", b'{"schema_version": 1}', "status null is not one of"),
    "a strange status": ("summary.json", b'{"schema_version": 1, "status": ["x"]}', "is not one of completed"),
    "deep": ("summary.json", b'{"schema_version": 1, "a": ' + b"[" * 90 + b"]" * 90 + b"}", "deeper than 20"),
    "too deep to parse": ("summary.json", b"[" * 100_000, "summary.json is not valid JSON"),
    "an endless number": (
        "summary.json",
        b'{"schema_version": 1, "a": ' + b"9" * 9000 + b"}",
        "summary.json is not valid JSON",
    ),
    "missing": ("summary.json", None, "has no summary.json"),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_a_damaged_summary_is_named_and_the_others_are_read(case: str, tmp_path: Path) -> None:
    name, content, reason = DAMAGE[case]
    for folder in ("000", "001", "002"):
        write_run(tmp_path / folder, summary())
    (tmp_path / "001" / name).unlink()
    if content is not None:
        (tmp_path / "001" / name).write_bytes(content)
    records = read(tmp_path)
    assert [run.status for run in records] == ["completed", "unreadable", "completed"]
    [problem] = records[1].problems
    assert reason in problem
    assert len(problem) < 400
    assert str(tmp_path) not in problem
    assert [run.problems for run in records[::2]] == [(), ()]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes")
def test_a_pipe_in_a_file_s_place_is_not_waited_for(tmp_path: Path) -> None:
    write_run(tmp_path / "a", summary())
    for name in ("summary.json", "metrics.csv", "config.yaml"):
        (tmp_path / "a" / name).unlink()
        os.mkfifo(tmp_path / "a" / name)
    [run] = read(tmp_path)
    assert "it is not a regular file" in run.problems[0]
    assert "it is not a regular file" in curve_rows(run.folder)[1][0]


@pytest.mark.parametrize("value", ["0.9", True, [1], {}, 10**400])
def test_a_value_that_is_no_number_is_named_and_left_out(value: Any, tmp_path: Path) -> None:
    record = summary()
    record["best"]["value"] = value
    record["metrics"]["test/acc"] = value
    record["timing"] = value
    folder = write_run(tmp_path / "a", None)
    (folder / "summary.json").write_text(json.dumps({"schema_version": 1, **record}))
    [run] = read(tmp_path)
    if run.summary is None:  # a number without end
        assert "300 digits" in run.problems[0]
        return
    assert run.part("best")["value"] is None
    assert run.part("metrics")["test/acc"] is None
    assert any("best.value is" in text for text in run.problems)
    assert run.part("timing") == {}
    assert value == {} or any("timing is not a mapping" in text for text in run.problems)


@pytest.mark.parametrize(
    "text",
    [
        "a: [1",
        "- 1\n- 2\n",
        "a: &x [*x]\n",
        "x: !!python/object/apply:os.getcwd []\n",
        "a: " + "[" * 5000,
        "",
    ],
    ids=["cut", "a list", "references", "an object", "deep", "empty"],
)
def test_a_config_that_is_none_is_named(text: str, tmp_path: Path) -> None:
    write_run(tmp_path / "a", summary())
    (tmp_path / "a" / "config.yaml").write_text(text)
    [run] = read(tmp_path)
    assert run.config == {}
    assert run.finished
    if text:
        assert run.experiment is None
        assert "config.yaml cannot be read" in run.problems[0]


def test_configs_are_read_as_yaml_says_whatever_their_layout(tmp_path: Path) -> None:
    text = "{seed: 3,\n model: {hidden: [1,\n2]}\n}\n"
    write_run(tmp_path / "flow", summary())
    (tmp_path / "flow" / "config.yaml").write_text(text)
    write_run(tmp_path / "plain", summary(), {"seed": 4, "model": {"hidden": ["- a", "b: c"]}, "note": "x\ny: z\n"})
    flow, plain = read(tmp_path)
    assert flow.config == {"seed": 3, "model.hidden": [1, 2]}
    assert plain.config == {"seed": 4, "model.hidden": ["- a", "b: c"], "note": "x\ny: z\n"}


LAYOUTS = [
    "a:\n  b: 1\n  c:\n    d: [2,\n      3]\n    e: |\n      f: 4\n\n      g\n  h: {}\n",
    "a:\n  b: |\n   c: 1\n\n   d: 2\n  e: 3\n",
    "a:\n  b: 'x\n  c: y'\n  d: 1\n",
    "a:\n  b: 1\n  b: 2\n",
    "a:\n- b: 1\n  c: 2\nd:\n  - e\n  - f\n",
    "a: |\n  b: 1\n  c: 2\n",
    "a: &x\n  b: 1\nc: 2\n",
    "# what\na:\n  # why\n  b: 1\n\n  c: '#'\n",
    "---\na:\n  b: 1\n...\n",
    "a:\r\n  b: 1\r\n  c: 2\r\n",
    "a: &x [1]\nb: [*x, *x]\n",
]


@pytest.mark.parametrize("text", LAYOUTS)
def test_a_config_read_in_parts_equals_one_read_whole(text: str, tmp_path: Path) -> None:
    write_run(tmp_path / "a", summary())
    (tmp_path / "a" / "config.yaml").write_bytes(text.encode())
    [run] = read(tmp_path)
    assert run.config == leaves(yaml.safe_load(text))


def test_a_config_is_read_as_on_the_command_line(tmp_path: Path) -> None:
    write_run(tmp_path / "a", summary())
    (tmp_path / "a" / "config.yaml").write_text("a:\n  b: 2026-01-01\n  c: 1e-3\n  d: on\n  e: 1:30\n  1: 2\n")
    [run] = read(tmp_path)
    assert run.config == {"a.b": "2026-01-01", "a.c": 0.001, "a.d": "on", "a.e": "1:30", "a.1": 2}


def test_seed_and_session_keys_do_not_change_the_experiment(tmp_path: Path) -> None:
    write_run(tmp_path / "a", summary(), config(1))
    write_run(tmp_path / "b", summary(), config(2, resume="x", allow_targets=["y"]))
    write_run(tmp_path / "c", summary(), config(1, optimizer={"lr": 0.2}))
    a, b, c = (run.experiment for run in read(tmp_path))
    assert a == b != c


def test_a_secret_in_a_config_of_a_stranger_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hunter2hunter2")
    write_run(tmp_path / "a", summary(), config(logger={"api_key": "abcdef", "project": "hunter2hunter2"}))
    [run] = read(tmp_path)
    assert run.config["logger.api_key"] == run.config["logger.project"] == "***"


def test_rows_that_are_torn_are_counted_and_the_others_drawn(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "a", summary())
    with (folder / "metrics.csv").open("ab") as stream:
        stream.write(b"step,2,17,nan,inf\nstep,2,oops,1\nneither,2,18\nstep,2,19,x\nepoch,2,1" + b"9" * 5000 + b",\nst")
    rows, problems = curve_rows(folder)
    assert len(rows) == len(curve()) + 1
    assert rows[-1]["train/loss"] == rows[-1]["train/acc"] == ""  # neither nan nor inf has a place
    assert problems == ["metrics.csv: 5 of 24 rows cannot be read"]


@pytest.mark.parametrize("content", [b"\xff\xfe", b'"' + b"x" * 200_000, b"\0\0", b"a,b\n1,2\n", b""])
def test_metrics_that_are_none_are_an_empty_drawing(content: bytes, tmp_path: Path) -> None:
    folder = write_run(tmp_path / "a", summary())
    (folder / "metrics.csv").write_bytes(content)
    assert curve_rows(folder)[0] == []
    (folder / "metrics.csv").unlink()
    assert curve_rows(folder) == ([], ["there is no metrics.csv"])


def test_long_values_are_shortened() -> None:
    assert shortened("x" * 500) == "x" * 199 + "…"
    assert shortened([1, {"a": None}]) == '[1, {"a": null}]'
    assert shortened(1e-8) == "1e-08"
    assert COLUMNS[0] == "row"


def test_symlinked_config_in_a_run_is_not_read_into_the_report(tmp_path: Path) -> None:
    private = tmp_path / "private.yaml"
    private.write_text("token_of_mine: hunter2\n")
    run = write_run(tmp_path / "runs" / "a", summary())
    (run / "config.yaml").unlink(missing_ok=True)
    (run / "config.yaml").symlink_to(private)
    [record] = read(tmp_path / "runs")
    assert record.config == {}
    assert any("a link" in problem for problem in record.problems)


@pytest.mark.slow
def test_downsampling_keeps_extremes_and_counts_torn_rows(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "a", summary())
    rows = [f"step,{step // 1000},{step},{2 - step / 1e5},0.5,,,100,0.1" for step in range(1, 60_001)]
    rows[34_567] = "step,34,34568,99.5,0.5,,,100,0.1"  # a spike
    rows[45_678] = "step,45,45679,0.001,nan,,,100,0.1"
    rows[50_000] = "step,50,torn"
    for epoch in range(1, 61):
        rows.insert(epoch * 1000 + epoch - 1, f"epoch,{epoch},{epoch * 1000},1.0,0.5,{epoch},0.{epoch:02d},100,0.1")
    (folder / "metrics.csv").write_text("\n".join([",".join(COLUMNS), *rows, ""]))
    kept, problems = curve_rows(folder)
    assert len(kept) < 10_000
    assert problems == [f"metrics.csv: 1 of {len(rows)} rows cannot be read"]
    steps = [row for row in kept if row["row"] == "step"]
    assert [steps[0]["step"], steps[-1]["step"]] == ["1", "60000"]
    assert [row["step"] for row in steps] == sorted((row["step"] for row in steps), key=int)
    losses = {float(row["train/loss"]): row["step"] for row in steps}
    assert (losses[max(losses)], losses[min(losses)]) == ("34568", "45679")
    assert {row["train/acc"] for row in steps} <= {"0.5", ""}
    assert [row["val/loss"] for row in kept if row["row"] == "epoch"][-1] == "60"


def recorded(version: int, run: str = "mid_epoch") -> dict[str, Any]:
    """The frozen run's config as effbench of that schema version would have written it."""
    first: dict[str, Any] = yaml.safe_load(
        (Path(__file__).parents[1] / "compat" / "0.1" / run / "config.yaml").read_text()
    )
    if version == 1:
        return first
    whole = stamped(upgraded(first, "config.yaml"))
    if version == 2:  # which had one augmentation group
        whole["augment"] = {key: value for key, value in whole["augment"].items() if key != "_target_"}
    return {**whole, "schema_version": version}


@pytest.mark.parametrize("layout", ["block", "flow"])
def test_equal_runs_of_each_version_are_one_experiment(layout: str, tmp_path: Path) -> None:
    for version in range(1, SCHEMA + 1):
        folder = write_run(tmp_path / str(version), summary(), {**recorded(version), "seed": version})
        if layout == "flow":
            text = yaml.safe_dump(recorded(version), default_flow_style=True)
            (folder / "config.yaml").write_text(text)
    records = read(tmp_path)
    assert [run.problems for run in records] == [()] * SCHEMA
    assert len({run.experiment for run in records}) == 1
    # What report shows is what eval, verify and resume read.
    whole = leaves(upgraded(recorded(1), "config.yaml"))
    assert all(run.config == {**whole, "seed": run.config["seed"]} for run in records)
    [table] = tables(records)
    assert len(table.rows) == 1
    assert table.keys == []


def test_runs_of_two_versions_differ_only_in_what_was_set(tmp_path: Path) -> None:
    older, newer = recorded(1), recorded(SCHEMA)
    write_run(tmp_path / "a", summary(), {**older, "optimizer": {**older["optimizer"], "lr": 0.5}})
    write_run(tmp_path / "b", summary(), newer)
    [table] = tables(read(tmp_path))
    assert table.keys == ["optimizer.lr"]


@pytest.mark.parametrize("layout", ["block", "flow"])
def test_a_config_of_a_newer_version_is_named(layout: str, tmp_path: Path) -> None:
    folder = write_run(tmp_path / "a", summary())
    text = yaml.safe_dump({**config(), "schema_version": SCHEMA + 1}, default_flow_style=layout == "flow")
    (folder / "config.yaml").write_text(text)
    [run] = read(tmp_path)
    assert run.experiment is None
    assert "a newer effbench wrote it" in run.problems[0]


def test_an_incomplete_old_config_is_shown_as_it_is(tmp_path: Path) -> None:
    cut = {key: value for key, value in recorded(2).items() if key in ("schema_version", "seed", "model", "augment")}
    write_run(tmp_path / "a", summary(), cut)
    [run] = read(tmp_path)
    assert run.problems == ()
    assert run.config == leaves(cut)
