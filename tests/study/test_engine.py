"""A small real study by the command line: its budget, its pairing, what reads the test split, kills and restarts."""

from __future__ import annotations

import json
import random
import re
import shlex
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.commandline import effbench
from tests.study.kills import WORDS, killed, same, table_in, verdicts
from tests.terminal import CTRL_C, Terminal

pytest.importorskip("optuna")
pytestmark = pytest.mark.proof  # 18 real runs


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished study."""
    place = tmp_path_factory.mktemp("study")
    result = effbench(*WORDS, cwd=place)
    assert result.returncode == 0, result.stderr
    (place / "stdout").write_text(result.stdout)
    return place / "out"


@pytest.mark.process
@pytest.mark.slow
def test_every_arm_has_exactly_its_budget(done: Path) -> None:
    table = table_in(done)
    assert [(each.arm, each.number) for each in table.trials] == [
        (arm, number) for arm in ("mlp-sgd", "mlp-adamw") for number in range(3)
    ]
    assert [(each.arm, each.seed) for each in table.confirmations] == [
        (arm, seed) for arm in ("mlp-sgd", "mlp-adamw") for seed in range(1, 7)
    ]
    assert {each.status for each in (*table.trials, *table.confirmations)} == {"completed"}
    assert {each.steps for each in (*table.trials, *table.confirmations)} == {12}


@pytest.mark.process
@pytest.mark.slow
def test_the_setting_best_on_validation_is_confirmed(done: Path) -> None:
    table = table_in(done)
    for arm in table.arms:
        best = max((each for each in table.trials if each.arm == arm.name), key=lambda each: each.value or 0.0)
        chosen = [each.settings for each in table.confirmations if each.arm == arm.name]
        assert chosen == [best.settings] * 6


@pytest.mark.process
@pytest.mark.slow
def test_only_final_runs_read_the_test_split(done: Path) -> None:
    for folder in (done / "runs").glob("*/*"):
        summary = json.loads((folder / "summary.json").read_text())
        is_final = folder.name.startswith("confirm")
        assert ("test/acc" in summary["metrics"]) == is_final
        assert (folder / "predictions.csv").exists() == is_final


@pytest.mark.process
@pytest.mark.slow
def test_predictions_kept_for_each_sample_give_the_test_accuracy(done: Path) -> None:
    for run in table_in(done).confirmations:
        assert run.correct is not None
        assert len(run.correct) == 2000
        assert sum(run.correct) / 2000 == pytest.approx(run.test, abs=1e-12)


@pytest.mark.process
@pytest.mark.slow
def test_a_seed_means_the_same_split_in_every_arm(done: Path) -> None:
    def config(arm: str, index: int) -> dict[str, Any]:
        found = yaml.safe_load((done / "runs" / arm / f"confirm-{index:03d}" / "config.yaml").read_text())
        return dict(found)

    for index in range(6):
        for arm in ("mlp-sgd", "mlp-adamw"):
            assert config(arm, index)["seed"] == config(arm, index)["data"]["split_seed"] == index + 1


@pytest.mark.process
@pytest.mark.slow
def test_the_target_is_the_baselines_median_on_validation(done: Path) -> None:
    table = table_in(done)
    values = sorted(each.validation or 0.0 for each in table.confirmations if each.arm == "mlp-adamw")
    assert table.target == pytest.approx((values[2] + values[3]) / 2, abs=1e-7)
    assert table.target_source == "validation"
    for run in table.confirmations:
        assert (run.steps_to_target is not None) == ((run.validation or 0.0) >= (table.target or 0.0))
    # a faster arm has to be so in other tunings too, so trials have times as well
    for trial in table.trials:
        assert (trial.steps_to_target is not None) == ((trial.value or 0.0) >= (table.target or 0.0))
        assert (trial.steps_to_target or 0) <= trial.steps


@pytest.mark.process
@pytest.mark.slow
def test_the_result_is_a_page_markdown_csv_and_json(done: Path) -> None:
    shown = (done.parent / "stdout").read_text()
    result = json.loads((done / "result.json").read_text())["value"]
    page = (done / "study.html").read_text()
    for sentence in result["verdicts"]:
        assert sentence in shown.replace("\n", " ")
        assert sentence.split(":")[0] in page
    assert (done / "runs.csv").read_text().count("\n") == 13
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert "https://" not in page


@pytest.mark.process
@pytest.mark.slow
def test_the_same_command_again_runs_nothing(done: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in (done / "runs").rglob("summary.json")}
    result = effbench(*WORDS, "--json", cwd=done.parent)
    assert result.returncode == 0, result.stderr
    assert {path: path.stat().st_mtime_ns for path in (done / "runs").rglob("summary.json")} == before
    assert json.loads(result.stdout)["verdicts"] == json.loads((done / "result.json").read_text())["value"]["verdicts"]


@pytest.mark.process
@pytest.mark.slow
def test_a_study_is_read_from_its_journal_alone(done: Path, tmp_path: Path) -> None:
    kept = tmp_path / "out"
    kept.mkdir()
    for name in ("study.json", "journal.log"):
        shutil.copy(done / name, kept)
    result = effbench(*WORDS, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert same(table_in(kept)) == same(table_in(done))
    assert not (kept / "runs").exists()


@pytest.mark.process
def test_killed_at_random_and_restarted_it_ends_the_same(done: Path, tmp_path: Path) -> None:
    killed(WORDS, tmp_path, kills=4, chance=random.Random(0))  # `make torture` kills it 30 times
    assert same(table_in(tmp_path / "out")) == same(table_in(done))
    assert verdicts(tmp_path / "out") == verdicts(done)
    assert not list((tmp_path / "out").rglob("*.failed-*"))


@pytest.mark.process
def test_after_ctrl_c_the_printed_command_ends_the_same(done: Path, tmp_path: Path) -> None:
    with Terminal(WORDS, tmp_path, columns=80) as terminal:
        terminal.wait_for("final mlp-adamw 1/6")
        terminal.type(CTRL_C)
        assert terminal.ended() == 128 + signal.SIGINT
    assert "stopping; the runs save their state first" in terminal.text
    told = re.search(r"interrupted; (\d+) runs left. Resume with: effbench (.*)\n", terminal.text)
    assert told is not None, terminal.text
    assert 0 < int(told[1]) < 12  # of 18 runs, 6 and one had ended
    ended = effbench(*shlex.split(told[2]), cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr
    assert same(table_in(tmp_path / "out")) == same(table_in(done))
    assert verdicts(tmp_path / "out") == verdicts(done)


@pytest.mark.process
@pytest.mark.parametrize("flags", [[], ["--plan"]])
def test_ctrl_c_before_the_study_began_leaves_nothing(flags: list[str], tmp_path: Path) -> None:
    with Terminal([*WORDS, *flags], tmp_path) as terminal:
        terminal.wait_for("trying a few steps")
        terminal.type(CTRL_C)
        assert terminal.ended() == 128 + signal.SIGINT
    assert re.search("interrupted.*; nothing is written", terminal.text)
    assert "Traceback" not in terminal.text
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[tuple[Path, Callable[[int], None]]]:
    """(a folder with 200 kB, a function that gives it another number of kB)."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", str(place)], check=False, capture_output=True
    )
    if mounted.returncode != 0:
        pytest.skip("only root mounts")

    def resize(kilobytes: int) -> None:
        subprocess.run(["mount", "-o", f"remount,size={kilobytes}k", str(place)], check=True)

    yield place, resize
    subprocess.run(["umount", "-l", str(place)], check=True)


@pytest.mark.process
def test_a_disk_that_fills_up_stops_it_and_it_goes_on(
    done: Path, small_disk: tuple[Path, Callable[[int], None]]
) -> None:
    place, resize = small_disk
    for kilobytes in (200, 480, 1000):  # no space for the first steps, for the first runs, for later ones
        resize(kilobytes)
        stopped = effbench(*WORDS, cwd=place)
        told = stopped.stderr.strip().splitlines()[-1]
        assert stopped.returncode in (1, 2), stopped.stderr
        assert told.startswith("error: ")
        assert "No space left on device" in told
        assert "hydra.run.dir" not in told
        assert (place / "out" / "study.json").exists() == (kilobytes > 200)
    resize(100_000)
    ended = effbench(*WORDS, cwd=place)
    assert ended.returncode == 0, ended.stderr
    assert same(table_in(place / "out")) == same(table_in(done))
    assert verdicts(place / "out") == verdicts(done)
    assert not list((place / "out").rglob("*.failed-*"))


@pytest.mark.process
def test_a_budget_in_seconds_gives_every_run_of_an_arm_its_steps(tmp_path: Path) -> None:
    words = [*WORDS, "study.epochs=null", "study.seconds=0.2", "study.trials=2", "study.timing_rounds=2"]
    result = effbench(*words, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    table = table_in(tmp_path / "out")
    for arm in table.arms:
        runs = [each for each in (*table.trials, *table.confirmations) if each.arm == arm.name]
        assert [each.status for each in runs] == ["completed"] * 8
        assert len({each.steps for each in runs}) == 1
    [cost, _] = table.costs
    assert table.clock == "steps x step time measured alone"
    first = next(each for each in table.confirmations if each.arm == cost.arm)
    assert first.seconds == pytest.approx(first.steps * cost.step_seconds.estimate)
    second = effbench(*words, cwd=tmp_path)
    assert second.returncode == 0, second.stderr
    assert "measuring" not in second.stderr


@pytest.mark.process
@pytest.mark.slow
def test_an_arm_without_validation_is_refused_at_once(tmp_path: Path) -> None:
    result = effbench(*WORDS, "data.val_fraction=0", cwd=tmp_path)
    assert result.returncode == 2
    assert "validation" in result.stderr
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "out" / "study.json").exists()


@pytest.mark.process
@pytest.mark.slow
def test_a_folder_that_cannot_be_written_is_refused_by_its_key(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    result = effbench(*WORDS, "study.folder=file/x", cwd=tmp_path)
    assert result.returncode == 2
    assert "file/x cannot be written (Not a directory). Choose another with study.folder=DIR" in result.stderr


@pytest.mark.spread(1)
@pytest.mark.process
@pytest.mark.slow
@pytest.mark.parametrize("flags", [[], ["--plan"]])
def test_an_arm_that_cannot_be_built_leaves_nothing(flags: list[str], tmp_path: Path) -> None:
    result = effbench(*WORDS, "model.dropout=7", "study.folder=new/out", *flags, cwd=tmp_path)
    assert result.returncode == 2
    assert "arm mlp-sgd cannot be built: model.dropout" in result.stderr
    assert list(tmp_path.iterdir()) == []
