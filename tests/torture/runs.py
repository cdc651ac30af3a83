"""Real `effbench train` processes to kill, and the comparison, bit for bit, of what they leave.

A process is forked from one that has imported everything, so that starting costs a tenth of a second and not three;
it runs the real command in a folder of its own and dies by a real SIGKILL.
"""

from __future__ import annotations

import argparse
import gc
import hashlib
import importlib
import json
import mmap
import os
import select
import shutil
import struct
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import effbench.cli.train
import effbench.run.session
from effbench import cli
from effbench.config.compose import compose_raw
from effbench.errors import EffbenchError
from effbench.records import read_metrics
from effbench.report.environment import environment
from effbench.training.callbacks import Progress
from effbench.training.checkpoint import Checkpoints
from effbench.training.checkpoint_files import read_checkpoint
from effbench.units import human_bytes
from tests.patience import patience

STEPS = 60
# Batch norm, dropout, augmentation with mixup, AdamW, EMA, warm-up + cosine, clipping, early stopping: whatever could
# be lost on the way. An epoch has 16 steps, a save comes every 3: most are in mid-epoch, and the run ends in one.
# Training waits for each save, so that a kill at a step finds the same files every time; the crash loop lets it go on.
CONFIG = (
    "model=cnn", "model.channels=[4,8]", "model.hidden=16", "model.dropout=0.2", "optimizer=adamw",
    "optimizer.lr=1e-2", "ema=on", "ema.decay=0.9", "augment=basic", "augment.rotate=10", "augment.mixup_alpha=0.2",
    "scheduler=cosine", "scheduler.warmup=5", "data=synthetic", "data.num_train=128", "data.num_val=32",
    "data.num_test=32", "data.image_size=8", "data.channels=1", "data.num_classes=4", "data.noise=0.3",
    "data.batch_size=8", "trainer.max_epochs=null", f"trainer.max_steps={STEPS}", "trainer.log_every_n_steps=1",
    "trainer.gradient_clip_val=0.5", "trainer.precision=32-true", "trainer.deterministic=true",
    "checkpoint.every_n_steps=3", "checkpoint.background=false", "checkpoint.monitor=val/loss", "checkpoint.mode=min",
    "early_stopping.patience=50",
    "device=cpu", "device.threads=1",
)  # fmt: skip
CLOCKS = ("training_s", "elapsed_s")  # the only numbers in a checkpoint that may differ
OF_A_SESSION = ("sha256", "digest", "settings", "sessions")  # in a manifest: what covers clocks, and what tells them
COMPARED = (
    "status", "stop_reason", "metrics", "best", "epochs", "steps", "images_seen", "model", "precision", "data",
)  # fmt: skip
NO_ANSWER_S = 120.0

Hook = Callable[[int], None]  # what to change in the new process before it runs; gets the descriptor of its bell


# --- processes


@dataclass
class Child:
    """A running attempt. bell: gets a byte when the attempt rings it, and its end when the attempt is gone."""

    pid: int
    bell: int
    log: Path

    def ring(self, timeout_s: float) -> str:
        """Waits: 'rang', 'gone' or 'silent'."""
        if not select.select([self.bell], [], [], patience(timeout_s))[0]:
            return "silent"
        return "rang" if os.read(self.bell, 1) else "gone"

    def kill(self) -> int:
        """SIGKILL, wherever it is; what `wait` says."""
        with suppress(ProcessLookupError):
            os.kill(self.pid, 9)
        return self.wait()

    def wait(self) -> int:
        """Exit code, or minus the signal that ended it."""
        _, status = os.waitpid(self.pid, 0)
        os.close(self.bell)
        return os.waitstatus_to_exitcode(status)

    def told(self) -> str:
        return self.log.read_text(errors="replace") if self.log.is_file() else ""


def start(words: Sequence[str], cwd: Path, *hooks: Hook) -> Child:
    """`effbench train WORDS` in `cwd`, in a process of its own, after `hooks`."""
    cwd.mkdir(parents=True, exist_ok=True)
    log = cwd / "log.txt"
    hears, rings = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid == 0:
        code = 70
        gc.disable()  # a third of so short an attempt
        try:
            os.close(hears)
            os.chdir(cwd)
            output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
            os.dup2(output, 1)
            os.dup2(output, 2)
            _without_curves()
            for hook in hooks:
                hook(rings)
            code = cli.main(["train", *words])
        except BaseException:  # noqa: BLE001 - a forked process must not return into its parent's code
            traceback.print_exc()
        finally:
            with suppress(BaseException):
                sys.stdout.flush()
                sys.stderr.flush()
            os._exit(code)
    os.close(rings)
    return Child(pid, hears, log)


def finish(words: Sequence[str], cwd: Path, *hooks: Hook) -> tuple[int, str]:
    """(exit code, what it printed) of an attempt that is left alone."""
    child = start(words, cwd, *hooks)
    while (heard := child.ring(NO_ANSWER_S)) == "rang":
        pass
    if heard == "silent":
        child.kill()
        return -9, f"no end within {NO_ANSWER_S:.0f} s\n{child.told()}"
    return child.wait(), child.told()


def uninterrupted(folder: Path, *hooks: Hook, config: Sequence[str] = CONFIG) -> tuple[dict[str, Any], Path]:
    """(outcome of a run that nothing disturbs, the folder in which each of its checkpoints is kept)."""
    states = folder / "states"
    states.mkdir(parents=True)
    code, told = finish([*config, "hydra.run.dir=run"], folder, *hooks, keeping_all(states))
    if code:
        raise RuntimeError(f"an uninterrupted run fails with {code}:\n{told}")
    return outcome(folder / "run"), states


@contextmanager
def workplace(folder: Path | None = None) -> Iterator[Path]:
    """A temporary folder within `folder` (or the system's), in a process that is ready to fork attempts."""
    with tempfile.TemporaryDirectory(prefix="effbench-torture-", dir=folder) as place:
        if not gc.get_freeze_count():
            _warm_up(Path(place) / "warm-up")
        yield Path(place)


def _warm_up(work: Path) -> None:
    """Pays once, before forking, for what every attempt would pay again.

    Much is imported late (Hydra, rich, torch's compiler): one attempt tells what, and the parent follows. Hydra's
    parser remembers what it has parsed. Frozen objects are left alone by the children's garbage collections.
    """

    def list_modules(_: int) -> None:
        def save_names(*_: Any) -> None:
            (work / "modules.json").write_text(json.dumps(list(sys.modules)))

        Progress.fit_end = save_names  # type: ignore[method-assign]

    code, told = finish([*CONFIG, "hydra.run.dir=run", "trainer.max_steps=6"], work, list_modules)
    if code:
        raise RuntimeError(f"an uninterrupted run fails with {code}:\n{told}")
    assert "was not drawn" not in told, told  # the stub of draw_curves takes other arguments
    for name in json.loads((work / "modules.json").read_text()):
        if name not in sys.modules:
            with suppress(Exception):
                importlib.import_module(name)
    compose_raw(CONFIG)
    gc.freeze()


def _without_curves() -> None:
    """The picture takes half of a tiny run's time and is no part of its state."""
    effbench.run.session.draw_curves = lambda *_: None


# --- hooks in a process that is going to be killed


class Page:
    """Three counters in memory shared with forked processes, which outlive a SIGKILL.

    begun, ended: saves. events: what Python's audit hooks tell of files opened, renamed, removed within a save.
    """

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, 24)

    def read(self) -> tuple[int, int, int]:
        begun, ended, events = struct.unpack_from("QQQ", self._memory)
        return begun, ended, events

    def write(self, begun: int, ended: int, events: int) -> None:
        struct.pack_into("QQQ", self._memory, 0, begun, ended, events)

    @property
    def inside(self) -> bool:
        begun, ended, _ = self.read()
        return begun > ended


def around_saves(before: Callable[[int], None], after: Callable[[int, Checkpoints], None]) -> None:
    """Calls before(n) and after(n, checkpoints) around the n-th save of this process; the save itself is untouched."""
    whole, count = Checkpoints.save, 0

    def save(self: Checkpoints, *args: Any, **options: Any) -> None:
        nonlocal count
        count += 1
        mine = count
        before(mine)
        whole(self, *args, **options)
        after(mine, self)

    Checkpoints.save = save  # type: ignore[method-assign]


def counted(page: Page, ring_at: tuple[int, int] | None = None, rest_s: float = 0.0) -> Hook:
    """Keeps `page`; rings the bell in save ring_at[0] (from 1), at its file event ring_at[1] (from 0), and rests."""

    def hook(bell: int) -> None:
        def event(name: str, _: tuple[Any, ...]) -> None:
            begun, ended, events = page.read()
            if begun > ended and (name == "open" or name.startswith(("os.", "shutil."))):
                page.write(begun, ended, events + 1)
                if ring_at == (begun, events):
                    os.write(bell, b"!")
                    time.sleep(rest_s)

        page.write(0, 0, 0)
        sys.addaudithook(event)
        around_saves(lambda number: page.write(number, number - 1, 0), lambda number, _: _ended(page, number))

    return hook


def _ended(page: Page, number: int) -> None:
    page.write(number, number, page.read()[2])


def keeping_all(store: Path) -> Hook:
    """Copies every checkpoint as it is committed: what a killed run's must equal, at each step."""

    def after(_: int, checkpoints: Checkpoints) -> None:
        for path in checkpoints.folder.glob("step-*"):
            if not (store / path.name).exists():
                shutil.copytree(path, store / path.name)

    return lambda _: around_saves(lambda _: None, after)


def dying_after_step(step: int) -> Hook:
    """SIGKILL at the end of training step `step`, before anything of it is saved."""

    def hook(_: int) -> None:
        def step_end(_: Any, context: Any) -> None:
            if context.state.step == step:
                os.kill(os.getpid(), 9)

        Progress.step_end = step_end  # type: ignore[method-assign]

    return hook


# --- what a run left


def steps_logged(run: Path) -> int:
    """The last step in metrics.csv, whose rows are written out one by one; 0 without any."""
    with suppress(EffbenchError, OSError, KeyError, ValueError):
        return max((int(row["step"]) for row in read_metrics(run) if row["train/loss"]), default=0)
    return 0


def committed(run: Path) -> list[Path]:
    """Checkpoint folders under their final names, oldest first."""
    return sorted((run / "checkpoints").glob("step-*"))


def problem(checkpoint: Path) -> str | None:
    """What is wrong with a committed checkpoint; its digests are computed here, not by the code under test."""
    try:
        stated = json.loads((checkpoint / "manifest.json").read_text())["sha256"]
        found = {
            path.name: hashlib.sha256(path.read_bytes()).hexdigest()
            for path in checkpoint.iterdir()
            if path.name != "manifest.json"
        }
        if found != stated:
            return f"{checkpoint}: the files are not those of the manifest"
        read_checkpoint(checkpoint)
    except (OSError, ValueError, KeyError, RuntimeError, EffbenchError) as error:
        return f"{checkpoint}: {type(error).__name__}: {error}"
    return None


def whole(checkpoint: Path) -> bool:
    return problem(checkpoint) is None


def broken(run: Path) -> list[str]:
    """Committed checkpoints that are damaged, and links that lead to none."""
    found = [text for path in committed(run) if (text := problem(path))]
    links = [run / "checkpoints" / name for name in ("last", "best")]
    return found + [f"{link} leads nowhere" for link in links if link.is_symlink() and not link.exists()]


def content(checkpoint: Path) -> dict[str, Any]:
    """All of a checkpoint that must be equal to the bit: clocks left out, digests over them, and who made it when."""
    snapshot, manifest = read_checkpoint(checkpoint), json.loads((checkpoint / "manifest.json").read_text())
    state = {**snapshot.state, "train": {k: v for k, v in snapshot.state["train"].items() if k not in CLOCKS}}
    facts = {key: value for key, value in manifest.items() if key not in OF_A_SESSION}
    return {"weights": snapshot.weights, "ema": snapshot.ema, "state": state, "manifest": facts}


def differences(a: Any, b: Any, where: str = "") -> Iterator[str]:
    """The places at which two nests of tensors and numbers are not equal to the bit."""
    if type(a) is not type(b):
        yield f"{where}: {type(a).__name__} and {type(b).__name__}"
    elif isinstance(a, Mapping):
        for key in dict.fromkeys([*a, *b]):
            if key in a and key in b:
                yield from differences(a[key], b[key], f"{where}/{key}")
            else:
                yield f"{where}/{key}: only in {'one' if key in a else 'the other'}"
    elif isinstance(a, list | tuple):
        if len(a) != len(b):
            yield f"{where}: {len(a)} and {len(b)} entries"
        for index, pair in enumerate(zip(a, b, strict=False)):
            yield from differences(*pair, f"{where}/{index}")
    elif not _same_bits(a, b):
        yield where if isinstance(a, Tensor) else f"{where}: {a!r} and {b!r}"


def _same_bits(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor):
        return a.dtype == b.dtype and a.shape == b.shape and torch.equal(_bytes(a), _bytes(b))
    return bool(struct.pack("d", a) == struct.pack("d", b) if isinstance(a, float) else a == b)


def _bytes(tensor: Tensor) -> Tensor:
    """As integers: a NaN equals itself, 0.0 is not -0.0."""
    return tensor.contiguous().reshape(-1).view(torch.uint8)


def outcome(run: Path, among: Container[str] | None = None) -> dict[str, Any]:
    """All of a finished run that must be equal to the bit; of its checkpoints those `among` these, or all."""
    summary = json.loads((run / "summary.json").read_text())
    links = [link for link in (run / "checkpoints").glob("[!.]*") if link.is_symlink()]
    return {
        "checkpoints": {path.name: content(path) for path in committed(run) if among is None or path.name in among},
        "links": {link.name: str(link.readlink()) for link in links},
        "metrics.csv": [{k: v for k, v in row.items() if "per_s" not in k} for row in read_metrics(run)],
        "summary": {key: summary[key] for key in COMPARED},
    }


def mismatches(run: Path, reference: Mapping[str, Any]) -> list[str]:
    """Where a finished run differs from the uninterrupted one's `outcome`; `surplus` is another matter."""
    try:
        return list(differences(outcome(run, reference["checkpoints"]), reference, run.name))
    except (OSError, ValueError, KeyError, RuntimeError, EffbenchError) as error:
        return [f"{run}: {type(error).__name__}: {error}"]


def surplus(run: Path, reference: Mapping[str, Any]) -> list[str]:
    """What a kill left behind that nobody needs: temporary names, checkpoints that were about to be forgotten."""
    expected = {*reference["checkpoints"], *reference["links"]}
    return sorted(path.name for path in (run / "checkpoints").iterdir() if path.name not in expected)


def options(what: str, doc: str | None) -> argparse.ArgumentParser:
    """The command line that the parts have in common."""
    parser = argparse.ArgumentParser(prog=f"python -m {what}", description=doc)
    parser.add_argument("--folder", type=Path, help="where the runs live meanwhile; else the system's temporary folder")
    parser.add_argument("--json", type=Path, help="a file for the result, which goes to stdout as well")
    return parser


def rate_bound(trials: int) -> float:
    """No failure in `trials`: the failure rate is below this with 95 % confidence (the rule of three)."""
    return 3 / trials if trials else 1.0


def report(result: Mapping[str, Any], path: Path | None) -> None:
    """As JSON to `path`, and to stdout, with the day and the machine."""
    facts = environment()
    machine = (
        f"{facts['cpu']}, {facts['cores']} cores, {human_bytes(facts['memory_bytes'] or 0)}, {facts['platform']}, "
        f"Python {facts['python']}, torch {facts['torch']}"
    )
    result = {**result, "date": f"{date.today()}", "machine": machine, "environment": facts}
    text = json.dumps(result, indent=2, ensure_ascii=False) + "\n"
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    sys.stdout.write(text)
