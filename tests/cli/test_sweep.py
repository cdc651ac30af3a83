"""`effbench train -m`: every combination a run, a table at the end, and no job costs another one its run.

White-box: states that no real job leaves are made by `_finish` and `_job`; `_refused` is the check at the start.
"""

from __future__ import annotations

import csv
import json
import os
import re
import signal
import threading
import time
from pathlib import Path

import pytest

from effbench.config.compose import compose
from effbench.errors import ConfigError
from effbench.jobs import sweep
from effbench.jobs.plan import expand
from effbench.jobs.sweep import _finish, _refused
from effbench.report.text_table import print_table
from effbench.run.signals import Interrupted
from effbench.run.validate import refuse_early
from tests.cli.conftest import Effbench
from tests.commandline import TINY, script

FAULTY = """
import os, signal
from effbench.models.mlp import mlp
def model(num_classes, in_channels, image_size, fault):
    if fault == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if fault == "raises":
        raise ZeroDivisionError("the model's own mistake")
    if fault == "exits":
        os._exit(7)
    return mlp(num_classes, in_channels, image_size, hidden=[4])
"""
FAULTS = ["none", "killed", "raises", "exits", "fine"]
# One process for all sweeps, so that torch is imported once: each prints its exit code and what it wrote.
SWEEPS = """
import contextlib, io, json, os, sys
from effbench.cli import main
from effbench.run import session as training
sys.path.append(os.getcwd())
training.draw_curves = lambda *_: None  # half of a tiny job's time
done = {}
for name, words in json.loads(sys.argv[1]).items():
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(["train", "-m", *words, f"hydra.sweep.dir='{name}'"])
    done[name] = [code, out.getvalue(), err.getvalue()]
print(json.dumps(done))
"""
SMOKE = ["debug=smoke", "device.threads=1"]
WORDS = {
    "mixed": [*TINY, "optimizer.lr=0.01,0.001,1e30,-1"],
    "it\\'s ü, faulty": [
        "--config-dir", "conf", "model=faulty", f"model.fault={','.join(FAULTS)}", "allow_targets=[faulty_lab]", *SMOKE,
    ],
    "by recipe": ["recipe=mobilenet_adamw,mine.yaml", "model=mlp", *SMOKE],
    "excluding": [*TINY, "optimizer=schedule_free,sgd", "ema=on"],
    "alone": [*TINY],
    "with hydra": [*TINY, "seed=1,2", "hydra/launcher=basic"],
    "as json": [*TINY, "optimizer.lr=0.01,0.001,-1", "--json"],
    "as json with hydra": [*TINY, "seed=1,2", "hydra/launcher=basic", "--json"],
}  # fmt: skip


class Swept:
    """A sweep that has ended."""

    def __init__(self, folder: Path, code: int, out: str, err: str):
        self.folder, self.code, self.out, self.err = folder, code, out, err
        with (folder / "sweep.csv").open(newline="") as stream:
            self.rows = list(csv.DictReader(stream))

    def row(self, overrides: str) -> dict[str, str]:
        [row] = [row for row in self.rows if row["overrides"] == overrides]
        return row


@pytest.fixture(scope="module")
def sweeps(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Swept]:
    folder = tmp_path_factory.mktemp("sweeps")
    (folder / "faulty_lab.py").write_text(FAULTY)
    (folder / "conf" / "model").mkdir(parents=True)
    (folder / "conf" / "model" / "faulty.yaml").write_text(
        "defaults: [_base, _self_]\n_target_: faulty_lab.model\nfault: none\n"
    )
    (folder / "mine.yaml").write_text("# @package _global_\noptimizer:\n  lr: 0.5\n")
    done = script(SWEEPS, json.dumps(WORDS), cwd=folder)
    assert done.returncode == 0, done.stderr
    results = json.loads(done.stdout.splitlines()[-1])
    return {name: Swept(folder / name.replace("\\", ""), *result) for name, result in results.items()}


@pytest.mark.process
def test_every_combination_is_a_run_of_its_own_in_its_own_folder(sweeps: dict[str, Swept]) -> None:
    sweep = sweeps["mixed"]
    assert {row["overrides"] for row in sweep.rows} == {f"optimizer.lr={lr}" for lr in ("0.01", "0.001", "1e+30", "-1")}
    for row in sweep.rows:
        folder = sweep.folder.parent / row["folder"]
        assert folder.name == f"00{row['job']}_{row['overrides']}"
        assert json.loads((folder / "summary.json").read_text())["status"] == row["status"]
        trained = (folder / "checkpoints" / "best" / "model.safetensors").is_file()
        assert trained == (row["status"] == "completed")


def test_the_table_ranks_the_jobs_as_sweep_csv_does(sweeps: dict[str, Swept]) -> None:
    sweep = sweeps["mixed"]
    assert [row["rank"] for row in sweep.rows] == ["1", "2", "", ""]
    values = [float(row["value"]) for row in sweep.rows[:2]]
    assert values == sorted(values, reverse=True)
    table = sweep.out[sweep.out.index("rank") :]
    places = [table.index(f" {row['overrides'].removeprefix('optimizer.lr=')} ") for row in sweep.rows]
    assert places == sorted(places)
    assert sweep.out.rstrip().endswith("sweep.csv")
    assert "best val/acc" in table


@pytest.mark.process
def test_memory_and_time_are_each_job_s_own(sweeps: dict[str, Swept]) -> None:
    peaks = [int(row["peak_rss_bytes"]) for row in sweeps["by recipe"].rows]
    assert max(peaks) < 1.1 * min(peaks)


@pytest.mark.row(26)
def test_sweep_lists_refused_and_diverged_jobs_and_others_finish(sweeps: dict[str, Swept]) -> None:
    sweep = sweeps["mixed"]
    assert sweep.code == 1
    status = {row["overrides"].removeprefix("optimizer.lr="): row["status"] for row in sweep.rows}
    assert status == {"0.01": "completed", "0.001": "completed", "1e+30": "diverged", "-1": "failed"}
    diverged, refused = sweep.row("optimizer.lr=1e+30"), sweep.row("optimizer.lr=-1")
    assert "loss" in diverged["error"]
    assert "optimizer.lr should be greater than 0" in refused["error"]
    assert f"job {refused['job']} failed (optimizer.lr=-1): optimizer.lr should" in sweep.out
    assert sweep.err.index(f"job {refused['job']} will be refused: optimizer.lr") < sweep.err.index("job 0 (1 of ")
    assert "job 0 (1 of 4): optimizer.lr=0.01" in sweep.err


@pytest.mark.row(26)
def test_excluding_options_are_listed_before_the_first_job(sweeps: dict[str, Swept]) -> None:
    sweep = sweeps["excluding"]
    assert sweep.code == 1
    assert [row["status"] for row in sorted(sweep.rows, key=lambda row: row["job"])] == ["failed", "completed"]
    assert "ema=on averages the weights" in sweep.row("optimizer=schedule_free")["error"]
    assert sweep.err.index("job 0 will be refused: ema=on averages") < sweep.err.index("job 0 (1 of ")


@pytest.mark.row(26)
def test_job_that_crashes_is_recorded_and_the_next_one_runs(sweeps: dict[str, Swept]) -> None:
    sweep = sweeps["it\\'s ü, faulty"]
    assert sweep.code == 1
    rows = {fault: sweep.row(f"model.fault={fault}") for fault in FAULTS}
    assert {fault for fault in FAULTS if rows[fault]["status"] == "completed"} == {"none", "fine"}
    assert rows["killed"]["error"] == "killed by signal 9"
    assert "exit code 7" in rows["exits"]["error"]
    assert "the model's own mistake" in rows["raises"]["error"]
    for row in rows.values():
        assert json.loads((sweep.folder.parent / row["folder"] / "summary.json").read_text())["status"] == row["status"]


def test_recipes_can_be_swept_packaged_and_own(sweeps: dict[str, Swept]) -> None:
    sweep = sweeps["by recipe"]
    assert sweep.code == 0
    assert len(sweep.rows) == 2
    assert any("mine.yaml" in row["overrides"] for row in sweep.rows)


def test_a_sweep_of_one_is_a_sweep(sweeps: dict[str, Swept]) -> None:
    sweep = sweeps["alone"]
    assert (sweep.code, len(sweep.rows)) == (0, 1)
    assert re.fullmatch(r"000_model=mlp[\w.=,+-]*", Path(sweep.rows[0]["folder"]).name)


def test_hydra_s_launchers_end_in_the_same_table(sweeps: dict[str, Swept]) -> None:
    sweep = sweeps["with hydra"]
    assert sweep.code == 0
    assert sorted(row["status"] for row in sweep.rows) == ["completed", "completed"]
    assert "was not drawn" not in sweep.err  # these jobs are of the process itself, which stubs the drawing
    assert "rank" in sweep.out


@pytest.mark.parametrize(("name", "jobs"), [("as json", 3), ("as json with hydra", 2)])
def test_sweep_json_prints_exactly_the_rows_of_sweep_csv(name: str, jobs: int, sweeps: dict[str, Swept]) -> None:
    sweep = sweeps[name]
    rows = json.loads(sweep.out)
    assert len(rows) == jobs
    assert [{key: "" if value is None else str(value) for key, value in row.items()} for row in rows] == sweep.rows


# --- refused before any job -------------------------------------------------------------------------------------------


@pytest.mark.spread(2)
@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["model=mpl,nope"], ["model 'mpl'", "model 'nope'"]),
        (["model=glob(zzz*)"], ["matches nothing"]),
        (["seed=1,"], ["'seed=1,'"]),
        (["mlp"], ["'mlp'"]),
        (["resume=run", "seed=1,2"], ["resume=RUN continues one run, without -m"]),
        (["seed=1,2", "hydra.sweep.dir=taken"], ["taken cannot be written"]),
        (["seed=1,2", "hydra/launcher=nope"], ["hydra/launcher"]),
        (["seed=1,2", "hydra.sweep.dir=old"], ["old holds a sweep already"]),
        (["seed=1,2", "hydra.sweep.dir=old one"], ["Resume it with -m 'sweep.resume=old one', or choose"]),
        (["optimizer=schedule_free", "ema=on", "seed=1,2"], ["ema=on averages the weights, and so does"]),
    ],
    ids=lambda value: value[0],
)
def test_sweep_that_cannot_start_exits_2_and_leaves_nothing(
    words: list[str], expected: list[str], effbench: Effbench, tmp_path: Path
) -> None:
    (tmp_path / "taken").write_text("a file\n")
    for name in ("old", "old one"):
        (tmp_path / name / "000_seed=1").mkdir(parents=True)
    before = sorted(tmp_path.rglob("*"))
    code, out, err = effbench("train", "-m", *SMOKE, *words)
    assert (code, out) == (2, "")
    assert all(part in err for part in expected), err
    assert sorted(tmp_path.rglob("*")) == before


EXCLUDING = {
    "two averages": (["optimizer=sgd,schedule_free", "ema=on"], "ema=on averages the weights"),
    "a step by a closure": (
        ["optimizer._target_=torch.optim.SGD,torch.optim.LBFGS", "~optimizer.betas", "~optimizer.eps"],
        "does not fit the loop",
    ),
    "a loss of another task": (["loss=cross_entropy,bce"], "loss"),
    "a metric of another task": (["task.metrics=[acc],[mae]"], "metrics"),
    "an option of another class": (["optimizer=sgd,adamw", "+optimizer.momentum=0.9"], "momentum"),
    "a span of another schedule": (["+scheduler.step_size=1,2 weeks", "scheduler=constant"], "step_size"),
}


@pytest.mark.spread(1)
@pytest.mark.slow
@pytest.mark.parametrize("case", EXCLUDING)
def test_sweep_lists_jobs_whose_options_exclude_each_other(case: str) -> None:
    words, reason = EXCLUDING[case]
    jobs = dict(enumerate(expand(words)))
    refused = _refused(jobs, None, done=1)
    assert refused
    for number, chosen in jobs.items():
        alone = None
        try:
            refuse_early(compose(chosen))
        except ConfigError as error:
            alone = str(error)
        assert refused.get(number) == alone
    assert all(reason in text for text in refused.values())


@pytest.mark.process
def test_a_check_of_options_that_hangs_is_left_to_the_jobs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("effbench.run.validate.refused_early", lambda _: time.sleep(600))
    monkeypatch.setattr(sweep, "CHECK_S", 0.5)
    monkeypatch.setattr(sweep, "CHECK_A_JOB_S", 0.0)
    assert _refused({0: [*TINY]}, None) == {}


@pytest.mark.process
def test_a_signal_ends_the_check_of_options(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("effbench.run.validate.refused_early", lambda _: time.sleep(600))
    signaller = threading.Timer(1.0, os.kill, (os.getpid(), signal.SIGTERM))
    signaller.start()
    with pytest.raises(Interrupted, match="SIGTERM"):
        _refused({0: [*TINY]}, None)


def test_a_sweep_under_torchrun_is_refused(effbench: Effbench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    code, _, err = effbench("train", "-m", "seed=1,2")
    assert code == 2
    assert "torchrun" in err


# --- the combinations -------------------------------------------------------------------------------------------------


def test_combinations_are_all_pairs_the_last_varying_fastest() -> None:
    assert expand(["model=mlp,cnn", "optimizer.lr=0.1", "seed=range(2)"]) == [
        ["model=mlp", "optimizer.lr=0.1", "seed=0"],
        ["model=mlp", "optimizer.lr=0.1", "seed=1"],
        ["model=cnn", "optimizer.lr=0.1", "seed=0"],
        ["model=cnn", "optimizer.lr=0.1", "seed=1"],
    ]


def test_lists_and_quoted_commas_are_one_value() -> None:
    assert expand(["model.hidden=[8,16]", "logger.project='a,b'"]) == [["model.hidden=[8,16]", "logger.project='a,b'"]]


def test_a_glob_expands_to_every_member_except_the_base_files() -> None:
    from effbench.config.compose import group_options

    assert [words[0] for words in expand(["optimizer=glob(*)"])] == [
        f"optimizer={name}" for name in group_options()["optimizer"]
    ]
    assert expand(["data.root=_mine,x"]) == [["data.root=_mine"], ["data.root=x"]]
    with pytest.raises(ConfigError, match="matches nothing"):
        expand(["optimizer=glob(_*)"])


def test_a_job_s_folder_has_a_name_that_every_file_system_takes(tmp_path: Path) -> None:
    from effbench.jobs.plan import _job

    for word in (
        "data.root=/a b/'c'",
        "logger.project=" + "漢" * 300,
        "logger.project=😀",
        "x=" + "y" * 300,
        "a=../..",
    ):
        name = _job(7, [word], set(), tmp_path).folder.name
        assert re.fullmatch(r"007_[\w.=,+-]+", name, flags=re.ASCII)
        assert len(name) <= 110


def test_no_words_are_one_combination() -> None:
    assert expand([]) == [[]]


def test_a_sweep_without_any_result_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Interrupted before its first job had written a summary."""
    assert _finish(tmp_path, [], as_json=False) == 0
    assert capsys.readouterr().out == f"no job has a result yet\n{tmp_path / 'sweep.csv'}\n"
    print_table([])
    assert capsys.readouterr().out == ""
