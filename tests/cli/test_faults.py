"""A loss that is not finite, memory that does not suffice, a batch that cannot be made: what `effbench train` does.

White-box: batches fail in the data pipeline's own `_make`.
"""

from __future__ import annotations

import json
import math
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from effbench.cpu.linear import CpuLinear
from effbench.data.batches import Batch, EvalBatches, TrainBatches
from effbench.tasks.losses import CrossEntropy
from effbench.training.checkpoint_files import read_checkpoint
from tests.cli.conftest import Effbench
from tests.cli.interrupting import FOUR_EPOCHS_OF_FIVE_STEPS, ends_like, summary, weights
from tests.commandline import script
from tests.patience import patience
from tests.training.tiny import largest_difference


def spoil_losses(monkeypatch: pytest.MonkeyPatch, steps: set[int], value: float = math.nan) -> None:
    """The loss of these training steps (from 1, of this process) becomes `value`."""
    whole, count = CrossEntropy.summed, 0

    def summed(*args: Any) -> torch.Tensor:
        nonlocal count
        count += torch.is_grad_enabled()  # an evaluation sums losses, too
        loss: torch.Tensor = whole(*args)
        return loss * value if count in steps and torch.is_grad_enabled() else loss

    monkeypatch.setattr(CrossEntropy, "summed", summed)


def finite(run: Path) -> bool:
    snapshots = [read_checkpoint(path) for path in (run / "checkpoints").glob("step-*")]
    return all(bool(t.isfinite().all()) for s in snapshots for t in (*s.weights.values(), *s.ema.values()))


@pytest.mark.process
@pytest.mark.row(27)
@pytest.mark.parametrize("words", [[], ["trainer.on_nonfinite=stop"]], ids=["by default", "as configured"])
def test_nonfinite_loss_ends_run_as_diverged_and_keeps_best(
    words: list[str], effbench: Effbench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoil_losses(monkeypatch, {13})
    code, out, err = effbench("train", *FOUR_EPOCHS_OF_FIVE_STEPS, *words, "hydra.run.dir=run")
    assert (code, "diverged" in out) == (1, True)
    assert "the run diverged: the training loss is nan at step 13: lower optimizer.lr" in err
    assert summary(tmp_path / "run")["status"] == "diverged"
    assert summary(tmp_path / "run")["steps"] == 12
    assert (tmp_path / "run" / "checkpoints" / "best").resolve().name in ("step-00000005", "step-00000010")
    assert finite(tmp_path / "run")


@pytest.mark.process
@pytest.mark.row(27)
def test_nonfinite_steps_are_skipped_reported_and_counted(
    effbench: Effbench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoil_losses(monkeypatch, {3, 13, 14}, math.inf)
    code, out, err = effbench("train", *FOUR_EPOCHS_OF_FIVE_STEPS, "trainer.on_nonfinite=skip", "hydra.run.dir=run")
    assert (code, "completed" in out) == (0, True)
    assert [line.split(":")[1].strip() for line in err.splitlines() if line.startswith("warning")] == [
        f"step {step} is left out" for step in (3, 13, 14)
    ]
    assert summary(tmp_path / "run")["skipped_steps"] == 3
    assert summary(tmp_path / "run")["steps"] == 20
    assert finite(tmp_path / "run")


@pytest.mark.proof
@pytest.mark.process
@pytest.mark.row(27)
def test_without_nonfinite_steps_skip_trains_like_stop(uninterrupted: Path, effbench: Effbench, tmp_path: Path) -> None:
    words = ["trainer.on_nonfinite=skip", "trainer.on_oom=halve", "hydra.run.dir=run"]
    assert effbench("train", *FOUR_EPOCHS_OF_FIVE_STEPS, *words)[0] == 0
    ends_like(tmp_path / "run", uninterrupted)
    assert summary(tmp_path / "run")["skipped_steps"] == 0
    assert summary(tmp_path / "run")["pieces"] == 1


# --- out of memory


def room_for(monkeypatch: pytest.MonkeyPatch, samples: int, training: bool) -> None:
    """A convolution over more samples than that, in training or in evaluation, has no memory."""
    whole = torch.nn.Conv2d.forward

    def forward(self: torch.nn.Conv2d, x: torch.Tensor) -> torch.Tensor:
        if len(x) > samples and self.training == training:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return whole(self, x)

    monkeypatch.setattr(torch.nn.Conv2d, "forward", forward)


@pytest.mark.process
@pytest.mark.row(29)
@pytest.mark.parametrize(("training", "key", "size"), [(True, "batch_size", 8), (False, "eval_batch_size", 512)])
def test_oom_is_one_line_with_batch_size_and_remedies(
    training: bool, key: str, size: int, effbench: Effbench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    room_for(monkeypatch, 7, training)
    code, _, err = effbench("train", *FOUR_EPOCHS_OF_FIVE_STEPS, "hydra.run.dir=run")
    assert code == 1
    where = "training" if training else "evaluation"
    said = err.splitlines()[-1]
    assert said.startswith(f"error: out of memory in {where} at data.{key}={size}: lower data.{key}, data.image_size")
    assert "trainer.on_oom=halve" in said
    assert summary(tmp_path / "run")["status"] == "failed"
    assert f"data.{key}={size}" in summary(tmp_path / "run")["error"]


@pytest.mark.spread(1)
@pytest.mark.process
@pytest.mark.row(29)
@pytest.mark.parametrize("word", ["ema=on", "ema=off", "checkpoint.every_n_steps=3"])
def test_on_oom_halve_covers_the_batch_norm_statistics_pass(
    word: str, effbench: Effbench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before a validation, and before a checkpoint that comes sooner."""
    room_for(monkeypatch, 7, training=False)
    limits = ["trainer.on_oom=halve", "data.eval_batch_size=16", "hydra.run.dir=run"]
    code, _, err = effbench("train", *FOUR_EPOCHS_OF_FIVE_STEPS, word, *limits)
    assert code == 0, err
    told = [line for line in err.splitlines() if "out of memory in evaluation at data.eval_batch_size=16" in line]
    assert [line.rpartition("cut into ")[2].split()[0] for line in told] == ["2", "4"]
    assert (summary(tmp_path / "run")["status"], summary(tmp_path / "run")["pieces"]) == ("completed", 1)


@pytest.mark.proof
@pytest.mark.process
@pytest.mark.row(29)
def test_on_oom_halve_equals_accumulation_and_is_reported(
    effbench: Effbench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mlp = ["model=mlp", *(word for word in FOUR_EPOCHS_OF_FIVE_STEPS if not word.startswith("model"))]
    mlp += ["model.hidden=[16]", "model.dropout=0.0"]
    whole = CpuLinear.forward

    def forward(self: CpuLinear, x: torch.Tensor) -> torch.Tensor:
        if len(x) > (2 if self.training else 5):
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return whole(self, x)

    with monkeypatch.context() as patch:
        patch.setattr(CpuLinear, "forward", forward)
        words = ["trainer.on_oom=halve", "data.eval_batch_size=16", "hydra.run.dir=run"]
        code, out, err = effbench("train", *mlp, *words)
    assert (code, "completed" in out) == (0, True), err
    told = [line for line in err.splitlines() if "out of memory" in line]
    assert [line.rpartition("cut into ")[2].split()[0] for line in told] == ["2", "4", "2", "4"]
    assert all("the effective batch stays" in line for line in told)
    assert summary(tmp_path / "run")["pieces"] == 4
    words = ["data.batch_size=2", "trainer.accumulate_grad_batches=4", "hydra.run.dir=known"]
    assert effbench("train", *mlp, *words)[0] == 0
    assert largest_difference(weights(tmp_path / "run"), weights(tmp_path / "known")) <= 1e-6
    assert summary(tmp_path / "run")["metrics"] == pytest.approx(summary(tmp_path / "known")["metrics"], rel=1e-4)


# A batch of 2048 needs some 400 MB of activations. The limit comes when all is loaded: 200 MB beyond what is in use.
STARVED = """
import resource, sys
from effbench import cli
from effbench.training.callbacks import Progress
def fit_start(self, state, *_):
    self._epochs = 1
    used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + 200_000_000,) * 2)
Progress.fit_start = fit_start
sys.exit(cli.main(["train", *sys.argv[1:]]))
"""


@pytest.mark.spread(1)
@pytest.mark.process
@pytest.mark.row(29)
@pytest.mark.parametrize("rule", ["raise", "halve"])
def test_a_real_out_of_memory_on_a_cpu_is_named_or_halved(rule: str, tmp_path: Path) -> None:
    if not Path("/proc/self/statm").exists():
        pytest.skip("there is no /proc here")
    words = [
        "model=mlp", "model.hidden=[8192]", "data=synthetic", "data.num_train=4096", "data.num_val=16",
        "data.num_test=16", "data.image_size=4", "data.channels=1", "data.batch_size=2048", "data.eval_batch_size=16",
        "trainer.max_epochs=1", "optimizer=sgd", "device=cpu", "device.threads=1", f"trainer.on_oom={rule}",
        "hydra.run.dir=run",
    ]  # fmt: skip
    done = script(STARVED, *words, cwd=tmp_path)
    assert "Traceback" not in done.stderr
    if rule == "raise":
        assert done.returncode == 1
        assert "error: out of memory in training at data.batch_size=2048: lower data.batch_size" in done.stderr
    else:
        assert done.returncode == 0, done.stderr
        assert summary(tmp_path / "run")["pieces"] >= 2
        assert summary(tmp_path / "run")["steps"] == 2
        assert "each batch is cut into 2 pieces from now on" in done.stderr


WITHOUT_THREADS = """
import sys, threading
from effbench import cli
threading.stack_size(2**46)  # more than an address space has: no thread starts
sys.exit(cli.main(["train", *sys.argv[1:]]))
"""


@pytest.mark.process
@pytest.mark.row(29)
@pytest.mark.parametrize("workers", [0, 2])
def test_without_threads_a_run_ends_or_is_refused_by_name(workers: int, tmp_path: Path) -> None:
    words = [*FOUR_EPOCHS_OF_FIVE_STEPS, f"data.num_workers={workers}", "device.threads=1", "hydra.run.dir=run"]
    done = script(WITHOUT_THREADS, *words, cwd=tmp_path)
    assert "Traceback" not in done.stderr
    if workers:
        assert done.returncode == 1
        assert "error: the system starts no further thread for this process" in done.stderr
    else:
        assert done.returncode == 0, done.stderr
        assert "no thread to write the checkpoint" in done.stderr


# --- batches that fail or hang


@pytest.mark.process
@pytest.mark.row(30)
@pytest.mark.parametrize("workers", [0, 2])
def test_failing_batch_ends_run_with_one_line_and_run_resumes(
    workers: int, uninterrupted: Path, effbench: Effbench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = TrainBatches.make

    def make(self: TrainBatches, epoch: int, step: int, part: int = 0) -> Batch:
        if (epoch, step) == (2, 3):
            raise ValueError("a bad sector")
        return whole(self, epoch, step, part)

    words = [*FOUR_EPOCHS_OF_FIVE_STEPS, f"data.num_workers={workers}", "hydra.run.dir=run"]
    with monkeypatch.context() as patch:
        patch.setattr(TrainBatches, "make", make)
        code, _, err = effbench("train", *words)
    assert code == 1
    said = err.splitlines()[-1]
    assert said.startswith("error: the batch of epoch 3, step 4 of 5 (samples ")
    assert "cannot be made: ValueError: a bad sector." in said
    assert err.splitlines()[-2].startswith("epoch 2/4")
    assert effbench("train", "resume=run")[0] == 0
    ends_like(tmp_path / "run", uninterrupted)


@pytest.mark.process
@pytest.mark.row(30)
def test_a_failing_evaluation_batch_is_named_too(effbench: Effbench, monkeypatch: pytest.MonkeyPatch) -> None:
    def make(*_: Any) -> Batch:
        raise ValueError("a bad sector")

    monkeypatch.setattr(EvalBatches, "_make", make)
    code, _, err = effbench("train", *FOUR_EPOCHS_OF_FIVE_STEPS, "hydra.run.dir=run")
    assert code == 1
    assert "error: the batch of an evaluation (samples 0, 1, 2, " in err


HANGING = """
import sys, threading
from effbench import cli
from effbench.data.batches import TrainBatches
whole = TrainBatches.make
def make(self, epoch, step, part=0):
    if (epoch, step) == (2, 3):
        threading.Event().wait()
    return whole(self, epoch, step, part)
TrainBatches.make = make
sys.exit(cli.main(["train", *sys.argv[1:]]))
"""


@pytest.mark.process
@pytest.mark.row(30)
def test_hanging_worker_is_named_and_the_process_ends(uninterrupted: Path, effbench: Effbench, tmp_path: Path) -> None:
    words = [*FOUR_EPOCHS_OF_FIVE_STEPS, "data.num_workers=2", "data.timeout_s=0.5", "hydra.run.dir=run"]
    begun = time.monotonic()
    done = script(HANGING, *words, cwd=tmp_path)
    assert time.monotonic() - begun < patience(60)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    said = done.stderr.splitlines()[-1]
    assert said.startswith("error: the batch of epoch 3, step 4 of 5 (samples ")
    assert "took longer than data.timeout_s=0.5. Raise that if it was only slow." in said
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["status"] == "failed"
    assert effbench("train", "resume=run", "data.timeout_s=60")[0] == 0
    ends_like(tmp_path / "run", uninterrupted)


@pytest.mark.slow
@pytest.mark.row(30)
def test_a_time_out_needs_a_worker_to_wait_for(effbench: Effbench, tmp_path: Path) -> None:
    for words in (["data.timeout_s=5"], ["data.timeout_s=0", "data.num_workers=1"]):
        code, out, err = effbench("train", *FOUR_EPOCHS_OF_FIVE_STEPS, *words)
        assert (code, out) == (2, "")
        assert "data.timeout_s" in err
    assert not list(tmp_path.iterdir())


# --- data and model that do not fit


OWN = """
import torch
def model(in_channels, image_size, outputs=3):
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(in_channels * image_size[0] ** 2, outputs))
"""


@pytest.mark.spread(1)
@pytest.mark.process
@pytest.mark.row(35)
@pytest.mark.parametrize("outputs", [3, 11])
def test_model_with_wrong_class_count_is_refused_before_training(
    outputs: int, effbench: Effbench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "ten_lab.py").write_text(OWN)
    (tmp_path / "conf" / "model").mkdir(parents=True)
    (tmp_path / "conf" / "model" / "own.yaml").write_text(
        "defaults: [_base, _self_]\n_target_: ten_lab.model\noutputs: 3\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    shared = [word for word in FOUR_EPOCHS_OF_FIVE_STEPS if not word.startswith("model")]
    words = ["--config-dir", "conf", "model=own", *shared, "allow_targets=[ten_lab]", "hydra.run.dir=run"]
    code, out, err = effbench("train", *words, f"model.outputs={outputs}")
    assert (code, out) == (2, "")
    assert f"'ten_lab.model' makes {outputs} outputs an image, but synthetic has 10 classes, labelled 0 to 9" in err
    assert not (tmp_path / "run").exists()
    assert effbench("train", *words, "model.outputs=10")[0] == 0


@pytest.mark.slow
@pytest.mark.row(36)
@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["trainer.max_steps=0"], ["trainer.max_steps", "greater than or equal to 1", "0"]),
        (["trainer.max_epochs=0"], ["trainer.max_epochs", "greater than or equal to 1"]),
        (["trainer.limit_train_batches=0"], ["trainer.limit_train_batches", "greater than"]),
        (["data.batch_size=41"], ["data.batch_size", "41", "holds 40 images: not one step"]),
        (["trainer.accumulate_grad_batches=6"], ["accumulate_grad_batches", "8 x 6", "not one step"]),
        (["data.num_train=1", "data.drop_last=false"], ["data.batch_size", "not one step"]),
    ],
    ids=str,
)
def test_a_run_without_a_step_is_refused(
    words: list[str], expected: list[str], effbench: Effbench, tmp_path: Path
) -> None:
    code, out, err = effbench("train", *FOUR_EPOCHS_OF_FIVE_STEPS, *words, "hydra.run.dir=run")
    assert (code, out) == (2, "")
    assert all(part in err for part in expected), err
    assert not list(tmp_path.iterdir())


@pytest.mark.process
@pytest.mark.row(36)
def test_last_batch_of_one_is_dropped_for_batch_norm(effbench: Effbench, tmp_path: Path) -> None:
    words = ["data.num_train=41", "data.drop_last=false", "trainer.max_epochs=2", "hydra.run.dir=run"]
    assert effbench("train", *FOUR_EPOCHS_OF_FIVE_STEPS, *words)[0] == 0
    assert (summary(tmp_path / "run")["steps"], summary(tmp_path / "run")["images_seen"]) == (10, 80)
