"""A sweep that was killed goes on: done jobs are left alone, begun ones resumed, nothing is overwritten."""

from __future__ import annotations

import csv
import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from safetensors.torch import load_file

from effbench.errors import ConfigError
from effbench.jobs.plan import read_plan, standing
from effbench.jobs.processes import record_unrecorded, stamp
from effbench.records import read_summary, sha256_of, write_summary
from tests.cli.conftest import Effbench
from tests.commandline import TINY
from tests.training.tiny import same

pytestmark = pytest.mark.row(25)

SWEEP = [
    "model=mlp", "model.hidden=[16]", "data=synthetic", "data.num_train=320", "data.num_val=64", "data.num_test=64",
    "data.image_size=8", "data.batch_size=16", "trainer.max_epochs=3", "trainer.log_every_n_steps=5",
    "checkpoint.every_n_steps=4", "device.threads=1", "optimizer=sgd,adamw,lion",
]  # fmt: skip


OUTSIDE = json.dumps({"schema_version": 1, "overrides": [], "jobs": [{"folder": "../x", "apart": [], "overrides": []}]})


def jobs(folder: Path) -> dict[str, Path]:
    return {path.name: path for path in sorted(folder.glob("0*")) if path.is_dir()}


def statuses(folder: Path) -> list[str]:
    with (folder / "sweep.csv").open(newline="") as stream:
        return [row["status"] for row in csv.DictReader(stream)]


def outcome(run: Path) -> dict[str, object]:
    """What must not depend on interruptions."""
    with (run / "metrics.csv").open(newline="") as stream:
        rows = [{k: v for k, v in row.items() if k != "train/images_per_s"} for row in csv.DictReader(stream)]
    summary = json.loads((run / "summary.json").read_text())
    weights = load_file(run / "checkpoints" / "last" / "model.safetensors")
    return {"rows": rows, "weights": weights, **{key: summary[key] for key in ("status", "metrics", "best", "steps")}}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, object]]:
    from effbench import cli

    folder = tmp_path_factory.mktemp("whole") / "sweep"
    assert cli.main(["train", "-m", *SWEEP, f"hydra.sweep.dir='{folder}'"]) == 0
    return {name: outcome(path) for name, path in jobs(folder).items()}


def attempt(words: list[str], folder: Path, until: tuple[int, int] | None) -> int:
    """The sweep, killed as soon as job number until[0] has a checkpoint of step until[1] or later."""
    command = [sys.executable, "-m", "effbench", "train", "-m", *words]
    process = subprocess.Popen(command, cwd=folder, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    while process.poll() is None:
        if until is not None and reached(folder / "sweep", *until):
            process.send_signal(signal.SIGKILL)
        time.sleep(0.002)
    return process.returncode


def reached(sweep: Path, number: int, step: int) -> bool:
    saved = sweep.glob(f"{number:03d}_*/checkpoints/step-*")
    return any(int(path.name.removeprefix("step-")) >= step for path in saved)


@pytest.mark.proof
@pytest.mark.process
def test_a_sweep_killed_at_random_ends_as_the_uninterrupted_one(whole, tmp_path):
    folder, chance, kills = tmp_path / "sweep", random.Random(0), 0
    moments = [(number, chance.randrange(4, 50)) for number in (0, 2)]
    words = [*SWEEP, "hydra.sweep.dir=sweep"]
    done: dict[str, str] = {}
    while attempt(words, tmp_path, moments.pop(0) if moments else None) != 0:
        kills += 1
        time.sleep(1)  # the job at hand hears of it and saves
        for name, path in jobs(folder).items():
            if standing(path) == "done":
                digest = sha256_of(path / "summary.json")
                assert done.setdefault(name, digest) == digest
        words = ["sweep.resume=sweep"]
        assert kills <= 2
    assert 0 < kills <= 2
    assert jobs(folder).keys() == whole.keys()
    assert all(same(outcome(path), whole[name]) for name, path in jobs(folder).items())
    assert statuses(folder) == ["completed"] * 3


@pytest.mark.proof
@pytest.mark.process
def test_done_jobs_are_left_alone_and_new_combinations_are_added(effbench: Effbench, tmp_path: Path) -> None:
    first = ["train", "-m", *TINY, "optimizer=sgd,adamw"]
    assert effbench(*first, "hydra.sweep.dir=sweep")[0] == 0
    before = {path: sha256_of(path) for path in (tmp_path / "sweep").rglob("0*/**/*") if path.is_file()}
    code, _, err = effbench("train", "-m", *TINY, "optimizer=sgd,adamw,lion", "sweep.resume=sweep")
    assert code == 0
    assert err.count("already done") == 2
    assert {path: sha256_of(path) for path in before} == before
    assert [item.job.folder.name for item in read_plan(tmp_path / "sweep")[1]] == [
        "000_optimizer=sgd", "001_optimizer=adamw", "002_optimizer=lion",
    ]  # fmt: skip
    assert statuses(tmp_path / "sweep") == ["completed"] * 3


@pytest.mark.proof
@pytest.mark.process
def test_a_failed_job_is_tried_again_and_its_first_attempt_kept(effbench: Effbench, tmp_path: Path) -> None:
    words = ["train", "-m", *TINY, "data=image_folder", "data.root=images,missing", "data.image_size=8"]
    (tmp_path / "images").mkdir()
    assert effbench(*words, "hydra.sweep.dir=sweep")[0] == 1
    make_images(tmp_path / "missing")
    code, out, _ = effbench("train", "-m", "sweep.resume=sweep")
    assert code == 1
    assert "completed" in out
    assert sorted(path.name for path in (tmp_path / "sweep").glob("0*.failed-1")) == [
        "000_data.root=images.failed-1", "001_data.root=missing.failed-1",
    ]  # fmt: skip


def make_images(folder: Path) -> None:
    from PIL import Image

    for kind, shade in (("dark", 10), ("light", 200)):
        (folder / kind).mkdir(parents=True)
        for number in range(10):
            Image.new("L", (8, 8), shade + number).save(folder / kind / f"{number}.png")


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (None, "there is no sweep in that folder"),
        ("{", "is damaged"),
        ('{"schema_version": 9, "jobs": []}', "schema_version 9"),
        (
            '{"schema_version": 1, "overrides": [], "jobs": [{"folder": "../x", "apart": [], "overrides": []}]}',
            "is not the name",
        ),
    ],
)
def test_a_sweep_that_cannot_be_gone_on_with_is_named(content, expected, effbench, tmp_path):
    (tmp_path / "sweep").mkdir()
    if content is not None:
        (tmp_path / "sweep" / "sweep.json").write_text(content)
    code, _, err = effbench("train", "-m", "sweep.resume=sweep")
    assert code == 2
    assert expected in err
    with pytest.raises(ConfigError):
        read_plan(tmp_path / "sweep")


def test_sweep_plan_cannot_set_allow_targets(tmp_path):
    folder = tmp_path / "sweep"
    folder.mkdir()
    job = {"folder": "000", "apart": [], "overrides": [*TINY, "allow_targets=[os]", "hydra.run.dir=elsewhere"]}
    (folder / "sweep.json").write_text(json.dumps({"schema_version": 1, "overrides": [], "jobs": [job]}))
    assert list(read_plan(folder)[1][0].words) == list(TINY)


@pytest.mark.proof
@pytest.mark.process
def test_sweep_resume_combines_new_values_with_original_sweep(effbench: Effbench, tmp_path: Path) -> None:
    assert effbench("train", "-m", *TINY, "optimizer=sgd,lion", "seed=0", "hydra.sweep.dir=sweep")[0] == 0
    assert effbench("train", "-m", "sweep.resume=sweep", "seed=5")[0] == 0
    assert statuses(tmp_path / "sweep") == ["completed"] * 4
    asked, planned = read_plan(tmp_path / "sweep")
    assert asked == [*TINY, "optimizer=sgd,lion", "seed=5"]
    assert [item.words[-2:] for item in planned[2:]] == [["optimizer=sgd", "seed=5"], ["optimizer=lion", "seed=5"]]


def test_a_refused_resume_is_recorded_and_keeps_what_there_was(tmp_path: Path) -> None:
    write_summary(tmp_path, {"status": "interrupted", "stop_reason": "SIGINT", "metrics": {"val/acc": 0.5}, "argv": []})
    before = stamp(tmp_path)
    record_unrecorded(tmp_path, before, ConfigError("data.root=/x: no such folder."))
    found = read_summary(tmp_path)
    assert (found["status"], found["error"]) == ("failed", "data.root=/x: no such folder.")
    assert (found["metrics"], found["stop_reason"]) == ({"val/acc": 0.5}, None)
    record_unrecorded(tmp_path, before, ConfigError("killed"))  # the job has said why
    assert read_summary(tmp_path)["error"] == "data.root=/x: no such folder."


def test_a_session_that_began_and_did_not_end_is_recorded(tmp_path: Path) -> None:
    entries = {"status": "interrupted", "metrics": {}, "argv": [], "sessions": [{"status": "running"}]}
    write_summary(tmp_path, entries)
    record_unrecorded(tmp_path, None, ConfigError("killed by signal 9"))
    assert read_summary(tmp_path)["error"] == "killed by signal 9"
    write_summary(tmp_path, {**entries, "sessions": [{"status": "running"}, {"status": "interrupted"}]})
    record_unrecorded(tmp_path, None, ConfigError("killed by signal 9"))
    assert read_summary(tmp_path)["status"] == "interrupted"


@pytest.mark.proof
@pytest.mark.process
def test_a_job_in_a_folder_with_an_apostrophe_is_resumed(effbench: Effbench, tmp_path: Path) -> None:
    """Its data have changed: the refusal is then the reason of the job."""
    words = ["data=image_folder", "data.image_size=8", "model=mlp", "model.hidden=[4]", "device.threads=1"]
    words += ["data.root=images", "data.batch_size=4", "checkpoint.every_n_steps=2", "trainer.max_epochs=2"]
    make_images(tmp_path / "images")
    folder = tmp_path / "it's"
    train = ["train", "-m", *words, "optimizer=sgd,adamw"]
    assert effbench(*train, "hydra.sweep.dir='it\\'s'")[0] == 0
    [run, _] = jobs(folder).values()
    summary = json.loads((run / "summary.json").read_text())
    (run / "summary.json").write_text(json.dumps({**summary, "status": "interrupted"}))
    (tmp_path / "images" / "dark" / "0.png").unlink()
    code, out, _ = effbench("train", "-m", "sweep.resume=it's")
    assert code == 1
    assert "the dataset is not the one that" in " ".join(out.split())
    assert json.loads((run / "summary.json").read_text())["status"] == "failed"
