"""Two processes over gloo train the very model that one process trains."""

from __future__ import annotations

import csv
import json
import os
import signal
import socket
import subprocess
import sys
import time
import traceback
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from effbench import build, cli, load_run
from effbench.config.compose import compose
from effbench.run import session as training
from effbench.training.callbacks import Callback
from tests.commandline import forkserver
from tests.patience import patience
from tests.training.tiny import largest_difference

MLP = ["model=mlp", "model.hidden=[16]", "model.dropout=0.0"]
SMALL = [
    "data=synthetic", "data.num_train=330", "data.num_val=45",
    "data.num_test=20", "data.channels=1", "data.image_size=8", "data.num_classes=4", "data.eval_batch_size=7",
    "optimizer=sgd", "optimizer.lr=0.1", "scheduler=cosine", "early_stopping=off", "trainer.max_epochs=null",
    "trainer.max_steps=20", "trainer.log_every_n_steps=5", "device=cpu", "device.threads=1",
]  # fmt: skip
CASES = {
    "accumulation, uneven shares": ["data.batch_size=7", "trainer.accumulate_grad_batches=3"],
    "incomplete steps, a weighted loss, clipping": [
        "data.batch_size=9", "trainer.accumulate_grad_batches=2", "data.drop_last=false", "loss.label_smoothing=0.1",
        "loss.class_weights=[0.2,1,2,0.5]", "loss.l1=1e-3", "trainer.gradient_clip_val=0.05",
    ],
    "augmented, mixed, averaged": [
        "augment=strong", "augment.mixup_alpha=0.4", "augment.cutmix_alpha=1.0", "ema=on", "ema.decay=0.9",
        "loss.class_weights=[0.2,1,2,0.5]",
    ],
}  # fmt: skip


BATCH_NORM = ["model=cnn", "model.channels=[4]", "model.hidden=8", "data.batch_size=4", "data.noise=0.2"]
HUNG_S = 150.0  # ranks that wait for each other


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass
class Job:
    """A run for several processes. A port of its own: a rank that is early must not find the last run's store."""

    overrides: list[str]
    folder: Path
    port: int = field(default_factory=free_port)
    stop: int | None = None  # the last rank gets SIGTERM after this step


def in_a_rank(rank: int, world: int, jobs: list[Job], report: Path) -> None:
    """What torchrun would start, forked: importing torch again would take longer than all the training."""
    torch.set_num_threads(1)
    training.draw_curves = lambda *_: None  # takes longer than the training
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(world), LOCAL_WORLD_SIZE=str(world))
    os.environ["MASTER_ADDR"] = "127.0.0.1"
    try:
        with report.with_suffix(f".{rank}").open("w") as printed:
            for stream in (1, 2):
                os.dup2(printed.fileno(), stream)
            for job in jobs:
                os.environ["MASTER_PORT"] = str(job.port)
                # Only rank 0's folder counts: the other proposes one of its own.
                folder = job.folder if rank == 0 else job.folder.with_name(f"{job.folder.name} of rank {rank}")
                stops = [Terminated(job.stop)] if job.stop and rank == world - 1 else []
                training.train(compose(job.overrides), folder, callbacks=stops)
                left = [name for task in Path("/proc/self/task").glob("*/comm") if "gloo" in (name := task.read_text())]
                assert not left, f"threads of the group outlive it, and may abort the process at its end: {left}"
    except BaseException:
        report.write_text(traceback.format_exc())
        raise


def train_in_ranks(jobs: list[Job], scratch: Path, world: int = 2) -> None:
    report = scratch / "report"
    ranks = [forkserver().Process(target=in_a_rank, args=(rank, world, jobs, report)) for rank in range(world)]
    deadline = time.monotonic() + patience(HUNG_S)
    for rank in ranks:
        rank.start()
    for rank in ranks:
        rank.join(max(0.0, deadline - time.monotonic()))
        if rank.is_alive():
            rank.kill()
            rank.join()
    assert [rank.exitcode for rank in ranks] == [0] * world, report.read_text() if report.exists() else "a rank hung"


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[tuple[str, int], Path]:
    """(case, processes) -> run folder."""
    scratch = tmp_path_factory.mktemp("ranks")
    folders = {(name, world): scratch / str(world) / name for name in CASES for world in (1, 2)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "draw_curves", lambda *_: None)
        folders["batch norm", 2] = scratch / "2" / "batch norm"
        jobs = [Job([*SMALL, *MLP, *CASES[name]], folders[name, 2]) for name in CASES]
        train_in_ranks([*jobs, Job([*SMALL, *BATCH_NORM], folders["batch norm", 2])], scratch)
        for name, overrides in CASES.items():
            training.train(compose([*SMALL, *MLP, *overrides]), folders[name, 1])
    return folders


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "checkpoints" / "last" / "model.safetensors")


def rows(run: Path) -> list[dict[str, str]]:
    with (run / "metrics.csv").open(newline="") as stream:
        return [{k: v for k, v in row.items() if "per_s" not in k} for row in csv.DictReader(stream)]


def as_numbers(row: dict[str, str]) -> list[float]:
    return [float(cell) for cell in row.values() if cell.replace(".", "").replace("-", "").replace("e", "").isdigit()]


@pytest.mark.proof
@pytest.mark.process
@pytest.mark.parametrize("case", CASES)
def test_two_processes_end_at_the_weights_of_one(case, folders):
    one, two = weights(folders[case, 1]), weights(folders[case, 2])
    assert largest_difference(one, two) < 1e-6
    summary = json.loads((folders[case, 2] / "summary.json").read_text())
    assert (summary["status"], summary["steps"], summary["processes"]) == ("completed", 20, 2)


@pytest.mark.proof
@pytest.mark.parametrize("case", CASES)
def test_two_processes_log_the_metrics_of_one(case, folders):
    one, two = rows(folders[case, 1]), rows(folders[case, 2])
    assert [row["step"] for row in one] == [row["step"] for row in two]
    for expected, row in zip(one, two, strict=True):
        assert as_numbers(row) == pytest.approx(as_numbers(expected), rel=1e-5, abs=1e-6)
    metrics = [json.loads((folders[case, world] / "summary.json").read_text())["metrics"] for world in (1, 2)]
    assert {"train/loss", "val/loss", "val/acc", "test/acc"} <= metrics[0].keys()
    assert metrics[1] == pytest.approx(metrics[0], rel=1e-5)


@pytest.mark.proof
def test_two_processes_end_at_the_averaged_weights_of_one(folders):
    one, two = (folders["augmented, mixed, averaged", world] / "checkpoints/last/ema.safetensors" for world in (1, 2))
    assert largest_difference(load_file(one), load_file(two)) < 1e-6


@pytest.mark.proof
def test_all_ranks_validate_with_rank_0_batch_norm_statistics(folders):
    """Else the ranks would measure models that are not the one saved."""
    run = load_run(folders["batch norm", 2])
    val = build.splits(run.config).val
    probabilities = run.predict(val.images, which="last").double()
    loss = torch.nn.functional.nll_loss(probabilities.log(), val.labels).item()
    accuracy = (probabilities.argmax(1) == val.labels).double().mean().item()
    assert run.summary["metrics"]["val/loss"] == pytest.approx(loss, rel=1e-5)
    assert run.summary["metrics"]["val/acc"] == pytest.approx(accuracy)


@pytest.mark.proof
def test_only_rank_0_writes_a_folder(folders):
    parent = folders["batch norm", 2].parent
    assert sorted(path.name for path in parent.iterdir()) == sorted([*CASES, "batch norm"])


@pytest.mark.proof
def test_the_cases_train_different_models(folders):
    ends = [weights(folders[case, 1]) for case in CASES]
    assert all(largest_difference(a, b) > 1e-4 for i, a in enumerate(ends) for b in ends[:i])


@pytest.mark.proof
@pytest.mark.process
def test_torchrun_trains_one_run_from_the_command_line(folders, tmp_path):
    words = [
        sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", f"--master_port={free_port()}",
        "-m", "effbench", "train", *SMALL, *MLP, *CASES["accumulation, uneven shares"],
    ]  # fmt: skip
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])}
    result = subprocess.run(
        words, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False, timeout=patience(HUNG_S)
    )
    assert result.returncode == 0, result.stderr
    runs = [path.parent for path in tmp_path.rglob("summary.json")]
    assert len(runs) == 1
    assert len([*tmp_path.rglob("config.yaml")]) == 2, "the run's own and Hydra's record"
    assert len([*tmp_path.glob("outputs/*/*")]) == 1
    assert largest_difference(weights(runs[0]), weights(folders["accumulation, uneven shares", 1])) < 1e-6
    assert result.stdout.count("test accuracy") == 1
    assert result.stderr.count("data synthetic:") == 1


DYING = """
import os, sys
from effbench import cli
from effbench.training.trainer import Trainer
whole = Trainer.update
def update(self, stats):
    if self.ranks.rank == 1 and self.state.step == 7:
        os._exit(9)
    whole(self, stats)
Trainer.update = update
sys.exit(cli.main(["train", *sys.argv[1:]]))
"""


@pytest.mark.proof
@pytest.mark.process
@pytest.mark.row(12)
def test_dead_rank_is_named_others_end_and_the_run_resumes(tmp_path, monkeypatch):
    (tmp_path / "dying.py").write_text(DYING)
    words = [*SMALL, *MLP, "data.batch_size=16", "checkpoint.every_n_steps=5", "hydra.run.dir=run"]
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", f"--master_port={free_port()}"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])}
    result = subprocess.run(
        [*command, "dying.py", *words],
        cwd=tmp_path, env=environment, capture_output=True, text=True, check=False, timeout=patience(HUNG_S),
    )  # fmt: skip
    assert result.returncode != 0
    cause = result.stderr[result.stderr.index("Root Cause") :]
    assert "rank      : 1 (local_rank: 1)" in cause
    assert "exitcode  : 9" in cause
    assert (tmp_path / "run" / "checkpoints" / "last").readlink().name == "step-00000005"
    assert "rank      : 0 (local_rank: 0)" in result.stderr, "rank 0 ended too"
    monkeypatch.chdir(tmp_path)
    assert cli.main(["train", "resume=run"]) == 0
    training.train(compose(words[:-1]), tmp_path / "whole")
    assert largest_difference(weights(tmp_path / "run"), weights(tmp_path / "whole")) < 1e-6


class Terminated(Callback):
    """Sends this process SIGTERM after a step."""

    def __init__(self, step: int):
        self.step = step

    def step_end(self, context):
        if context.state.step == self.step:
            os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.proof
@pytest.mark.process
def test_run_stopped_within_an_epoch_resumes_with_other_ranks(tmp_path, capsys):
    """Of twenty steps an epoch: two processes stop after step 10, one after step 7; the other number goes on."""
    words = [*SMALL, *MLP, "data.batch_size=16", "trainer.max_steps=30", "ema=on"]
    by_two, by_one, whole = tmp_path / "by two", tmp_path / "by one", tmp_path / "whole"
    training.train(compose(words), whole)
    train_in_ranks([Job(words, by_one, stop=7)], tmp_path, world=1)
    assert json.loads((by_one / "summary.json").read_text())["steps"] == 7
    resumed = Job([*words, f"resume='{by_one}'"], by_one)
    train_in_ranks([Job(words, by_two, stop=7), resumed], tmp_path)
    assert json.loads((by_two / "summary.json").read_text())["steps"] == 10, "ranks agree on signals at logged steps"
    capsys.readouterr()
    training.train(compose([*words, f"resume='{by_two}'"]))
    assert "changed since the checkpoint: processes from 2 to 1" in capsys.readouterr().err
    for run in (by_one, by_two):
        assert json.loads((run / "summary.json").read_text())["status"] == "completed"
        assert largest_difference(weights(run), weights(whole)) < 1e-6
        assert [row["step"] for row in rows(run)] == [row["step"] for row in rows(whole)]
        for expected, row in zip(rows(whole), rows(run), strict=True):
            assert as_numbers(row) == pytest.approx(as_numbers(expected), rel=1e-5, abs=1e-6)


@pytest.mark.proof
@pytest.mark.process
def test_ranks_that_change_a_begun_epoch_are_refused(tmp_path):
    """330 = 41 x 8 + 2: two samples are a batch for one process, and are left out by two."""
    words = [*SMALL, *MLP, "data.batch_size=8", "data.drop_last=false"]
    train_in_ranks([Job(words, tmp_path / "run", stop=3)], tmp_path, world=1)
    resumed = Job([*words, f"resume='{tmp_path / 'run'}'"], tmp_path / "run")
    with pytest.raises(AssertionError, match="stopped within an epoch of 1 processes.* with 2 its last step has other"):
        train_in_ranks([resumed], tmp_path)


@pytest.mark.proof
@pytest.mark.process
def test_a_rank_without_a_validation_sample_keeps_nobody_waiting(tmp_path):
    job = Job([*SMALL, *MLP, "data.num_val=1", "data.batch_size=7", "trainer.max_steps=2"], tmp_path / "two")
    train_in_ranks([job], tmp_path)
    assert json.loads((tmp_path / "two" / "summary.json").read_text())["status"] == "completed"
