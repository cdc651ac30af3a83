"""effbench and pytorch-lightning behind one face: how to begin and resume a run, and where things lie in it."""

from __future__ import annotations

import json
import os
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

HERE = Path(__file__).parent
STEPS = 60
NO_ANSWER_S = 120.0


@dataclass(frozen=True)
class Ended:
    """code: the exit code, or minus the signal. told: stdout and stderr together."""

    code: int
    told: str
    seconds: float = 0.0
    pid: int = 0

    @property
    def complaint(self) -> str:
        """What it says is wrong: a traceback's last message, or the lines that a program marks as such."""
        marked = [line for line in self.told.splitlines() if re.match(r"\s*(error|warning|note)\b", line, re.I)]
        _, found, tail = self.told.rpartition("Traceback (most recent call last):\n")
        message = [line for line in tail.splitlines() if not line.startswith(" ")] if found else []
        return "\n".join(marked + message)

    @property
    def error(self) -> str:
        """A program's own message, or the kind of error in the last traceback."""
        if own := re.search(r"^error: (.*?)(\. |\.?$)", self.told, re.M):
            return own[1]
        _, _, tail = self.told.rpartition("Traceback (most recent call last):\n")
        message = next((line for line in tail.splitlines() if not line.startswith(" ")), f"exit code {self.code}")
        return message.split(":")[0].rpartition(".")[2][:60]

    @property
    def steps(self) -> int:
        """Steps that it has trained, where they were counted."""
        return len(re.findall(r"^\[step \d+\]", self.told, re.M))

    @property
    def epochs(self) -> int:
        """Epochs that it says were trained."""
        return len(re.findall(r"^epoch \d+", self.told, re.M))


class Host:
    """A peer_host: one job at a time."""

    def __init__(self, python: Path | str, side: str, temporary: Path):
        environment = {
            **os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "",
            "PYTHONPATH": str(HERE.parent), "PYTHONDONTWRITEBYTECODE": "1",
            "TMPDIR": str(temporary), "MPLCONFIGDIR": str(temporary), "HOME": str(temporary),
        }  # fmt: skip
        self._process = subprocess.Popen(
            [str(python), str(HERE / "peer_host.py"), side],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            env=environment, text=True, bufsize=1,
        )  # fmt: skip
        self._log, self._begun = Path(), 0.0
        self.pid = 0

    def start(self, words: Sequence[str], cwd: Path, **job: Any) -> None:
        cwd.mkdir(parents=True, exist_ok=True)
        self._log = cwd.parent / f"{cwd.name}-{self._process.pid}.log"  # two may be at work in one folder
        job |= {"words": list(words), "cwd": str(cwd), "log": str(self._log)}
        self._begun = time.perf_counter()
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(job) + "\n")
        self.pid = int(self._answer(NO_ANSWER_S) or 0)

    def told(self) -> str:
        return self._log.read_text(errors="replace") if self._log.is_file() else ""

    def wait(self, timeout_s: float = NO_ANSWER_S) -> Ended:
        """Its end; SIGKILL after the time."""
        answer = self._answer(timeout_s)
        if answer is None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
            answer = self._answer(NO_ANSWER_S)
        return Ended(int(answer or 0), self.told(), time.perf_counter() - self._begun, self.pid)

    def run(self, words: Sequence[str], cwd: Path, timeout_s: float = NO_ANSWER_S, **job: Any) -> Ended:
        self.start(words, cwd, **job)
        return self.wait(timeout_s)

    def _answer(self, timeout_s: float) -> str | None:
        stream = self._process.stdout
        assert stream is not None
        if not select.select([stream], [], [], max(0.0, timeout_s))[0]:
            return None
        line = stream.readline()
        if not line:
            raise RuntimeError("a host of trainings ended: start it by hand to see why")
        return line.strip()

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


class Side:
    """One of the two. A run lies in `cwd / "run"`."""

    host_name: str
    python: Path | str = sys.executable

    def __init__(self, name: str, host: Host, spare: Host):
        self.name, self.host, self.spare = name, host, spare

    def words(self, cwd: Path, every: int = 3, steps: int = STEPS) -> list[str]:
        """The command that begins the run in `cwd`, or resumes it where there is something to resume."""
        raise NotImplementedError

    def newest(self, run: Path) -> list[Path]:
        """The files that a resume reads first."""
        raise NotImplementedError

    def readable(self, run: Path) -> dict[str, bool]:
        """Every committed checkpoint by name, the one that a resume reads first at the end: can it be read?"""
        raise NotImplementedError

    def state(self, run: Path) -> dict[str, Tensor]:
        """Weights, buffers and the optimizer's tensors at the end of a run."""
        raise NotImplementedError


class Effbench(Side):
    host_name = "effbench"
    CONFIG = (
        "model=cnn", "model.channels=[4,8]", "model.hidden=16", "model.dropout=0.2", "optimizer=adamw",
        "optimizer.lr=1e-2", "augment=basic", "scheduler=cosine", "scheduler.warmup=5", "data=synthetic",
        "data.num_train=128", "data.num_val=32", "data.num_test=32", "data.image_size=8", "data.channels=1",
        "data.num_classes=4", "data.noise=0.3", "data.batch_size=8", "trainer.max_epochs=null",
        "trainer.log_every_n_steps=1", "trainer.gradient_clip_val=0.5", "trainer.precision=32-true",
        "trainer.deterministic=true", "early_stopping=off", "device=cpu", "device.threads=1",
    )  # fmt: skip

    def words(self, cwd: Path, every: int = 3, steps: int = STEPS) -> list[str]:
        if list((cwd / "run" / "checkpoints").glob("step-*")):
            return ["train", "resume=run"]
        return ["train", *self.begin(every, steps)]

    def begin(self, every: int = 3, steps: int = STEPS) -> list[str]:
        return [*self.CONFIG, f"trainer.max_steps={steps}", f"checkpoint.every_n_steps={every}", "hydra.run.dir=run"]

    def newest(self, run: Path) -> list[Path]:
        return sorted((run / "checkpoints" / "last").resolve().iterdir())

    def readable(self, run: Path) -> dict[str, bool]:
        from effbench.errors import EffbenchError
        from effbench.training.checkpoint_files import read_checkpoint

        found = {}
        for path in sorted((run / "checkpoints").glob("step-*")):
            found[path.name] = True
            try:
                read_checkpoint(path)
            except (EffbenchError, OSError, ValueError, RuntimeError):
                found[path.name] = False
        return found

    def state(self, run: Path) -> dict[str, Tensor]:
        from effbench.training.checkpoint_files import read_checkpoint

        snapshot = read_checkpoint(run / "checkpoints" / "last")
        return {**snapshot.weights, **tensors(snapshot.state["optimizer"], "optimizer")}


class Lightning(Side):
    host_name = "lightning"
    loader = "plain"

    def words(self, cwd: Path, every: int = 3, steps: int = STEPS) -> list[str]:
        return ["fit", "--folder", "run", "--loader", self.loader, "--every", str(every), "--steps", str(steps)]

    def newest(self, run: Path) -> list[Path]:
        return [run / "checkpoints" / "last.ckpt"]

    def readable(self, run: Path) -> dict[str, bool]:
        found = {}
        for path in sorted((run / "checkpoints").glob("*.ckpt")):  # last.ckpt comes behind epoch=….ckpt
            try:
                found[path.name] = bool(torch.load(path, weights_only=False))
            except Exception:  # noqa: BLE001 - of whatever kind
                found[path.name] = False
        return found

    def state(self, run: Path) -> dict[str, Tensor]:
        content = torch.load(run / "checkpoints" / "last.ckpt", weights_only=False)  # this benchmark's own file
        return {**content["state_dict"], **tensors(content["optimizer_states"], "optimizer")}


def tensors(nest: Any, place: str) -> dict[str, Tensor]:
    """The tensors in a nest of dicts and lists, by their place in it."""
    if isinstance(nest, Tensor):
        return {place: nest}
    pairs = nest.items() if isinstance(nest, dict) else enumerate(nest) if isinstance(nest, list | tuple) else ()
    return {name: tensor for key, item in pairs for name, tensor in tensors(item, f"{place}.{key}").items()}


def difference(a: dict[str, Tensor], b: dict[str, Tensor]) -> float | None:
    """None where equal to the bit, else the largest difference of an element; infinite where the shapes differ."""
    if a.keys() != b.keys() or any(a[key].shape != b[key].shape for key in a):
        return float("inf")
    if all(torch.equal(_bytes(a[key]), _bytes(b[key])) for key in a):
        return None
    return max(float((a[key].double() - b[key].double()).abs().max()) for key in a if a[key].numel())


def _bytes(tensor: Tensor) -> Tensor:
    """A NaN equals itself, 0.0 is not -0.0."""
    return tensor.contiguous().reshape(-1).view(torch.uint8)
