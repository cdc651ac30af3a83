"""What the deployment rows share: short runs and their compressed results, which are kept, and arms in turns."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.alternate import ROOT
from benchmarks.figures import milliseconds
from effbench.bench.analysis import STATISTICS, at_size, calls_of, ratio
from effbench.bench.backends import BACKENDS
from effbench.bench.measure import Arm, measure
from effbench.bench.options import BenchOptions
from effbench.bench.prepare import prepare
from effbench.bench.run import AGAIN, answering, batch_files, thread_count
from effbench.bench.sources import Source, run_source, untrained_source
from effbench.bench.verdict import Candidate, Trust, trust, verdict
from effbench.config.compose import compose
from effbench.export.opening import read_record
from effbench.processors import has_int8_products
from effbench.records import FINISHED
from effbench.report.compression import compressed_file
from effbench.report.deployment import SINGLE_STREAM
from effbench.report.environment import environment
from effbench.stats import Interval, positive_interval

WORK = ROOT / "outputs" / "benchmarks" / "deploy"  # a second call goes on from what is there
SAMPLES = 512  # validation samples on which answers are compared
MAX_DROP = 0.5  # points of accuracy
NOT_HERE = "The target is for processors with VNNI (8-bit products); this one has none, so it is only reported."


def target_here(target: str) -> str:
    """The target, or '' on a processor for which it was not set."""
    return target if has_int8_products() else ""


def note_here(note: str) -> str:
    return note if has_int8_products() else f"{note} {NOT_HERE}"


# --- runs and results, made by the commands that a user would give


def trained(name: str, words: Sequence[str], seed: int = 0) -> Path:
    """The folder of the run with these words, trained now unless it is there."""
    own = [*words, f"seed={seed}", "device=cpu", "device.threads=1"]
    run = WORK / "runs" / f"{name}-{seed}-{_digest(own)}"
    if not is_finished(run):
        shutil.rmtree(run, ignore_errors=True)  # a run that was killed: the same seed trains the same weights again
        effbench_command("train", *own, f"hydra.run.dir={run}")
    return run


def is_finished(run: Path) -> bool:
    path = run / "summary.json"
    return path.is_file() and json.loads(path.read_text(encoding="utf-8"))["status"] in FINISHED


def compressed(run: Path, words: Sequence[str]) -> Path | None:
    """The folder of `effbench compress RUN words`, made now unless it is there; None if no result holds the bound."""
    # latencies are in it: another machine or version makes its own
    here = [str(environment().get(name)) for name in ("cpu", "torch")]
    folder = WORK / "results" / f"{run.name}-{_digest([*words, *here])}"
    refused = folder.with_suffix(".refused")
    if not folder.is_dir() and not refused.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        code = effbench_command("compress", str(run), *words, f"output={folder}", may_fail=True)
        if code and not folder.is_dir():  # with a target, code 3 and a folder: the nearest
            refused.write_text(" ".join(words), encoding="utf-8")
    return folder if folder.is_dir() else None


def compression(folder: Path) -> dict[str, Any]:
    record: dict[str, Any] = json.loads((folder / "compression.json").read_text(encoding="utf-8"))
    return record


def _digest(words: Sequence[str]) -> str:
    return hashlib.sha256("\0".join(words).encode()).hexdigest()[:8]


def effbench_command(*words: str, may_fail: bool = False) -> int:
    """Run a command; a code other than 0, or 3 if that may be, ends the row with what it printed."""
    print("   effbench", *(word.replace(f"{WORK}/", "") for word in words), file=sys.stderr, flush=True)
    done = subprocess.run(
        [sys.executable, "-m", "effbench", *words], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if done.returncode not in ((0, 3) if may_fail else (0,)):
        raise RuntimeError(f"effbench {' '.join(words)} ended with {done.returncode}:\n{done.stderr[-3000:]}")
    return done.returncode


# --- arms in turns


@dataclass(frozen=True)
class Side:
    """A model to measure. label: of its arms. backends: those that read it."""

    label: str
    source: Source
    backends: Sequence[str]


@dataclass(frozen=True)
class Measured:
    """What was measured at batch 1.

    Attributes:
        arms: label and backend -> the arm, for those that work.
        rows: label and backend -> what is known of it, such as `lost` and `reason`.
        trusted: what the control says.
    """

    arms: Mapping[str, Arm]
    rows: Mapping[str, Mapping[str, Any]]
    trusted: Trust

    @property
    def control(self) -> Interval | None:
        return self.trusted.control.get(1)

    def over(self, one: str, other: str) -> Interval:
        """p50 of one arm over that of another, paired by turn, with the interval over rounds."""
        found = ratio(*(at_size(self.arms[name].processes, 1) for name in (one, other)))
        assert found is not None  # arms that failed are left out
        return found

    def p50(self, name: str) -> float:
        return positive_interval([STATISTICS["p50"](calls_of(each)) for each in self.arms[name].processes]).estimate

    def best(self, names: Sequence[str] = ()) -> str:
        """The arm that `effbench bench` would put first among these: the fastest that keeps the accuracy."""
        kept = [Candidate(name, self.arms[name].processes) for name in names or self.arms if self.keeps(name)]
        found = verdict(SINGLE_STREAM, kept, None, 1, self.trusted.margin)
        assert found is not None
        return str(found["best"])

    def keeps(self, name: str) -> bool:
        lost = self.rows[name].get("lost")
        return name in self.arms and (lost is None or float(lost["estimate"]) <= MAX_DROP + 1e-9)

    def fastest(self, label: str) -> str:
        """The arm of a side with the least median."""
        return min((name for name in self.arms if name.removeprefix(f"{label} ") in BACKENDS), key=self.p50)

    def texts(self) -> dict[str, str]:
        """Each arm's median, the fastest first, for Figure.arms."""
        return {name: milliseconds(self.p50(name)) for name in sorted(self.arms, key=self.p50)}


def in_turns(sides: Sequence[Side], rounds: int = 5, seconds: float = 1.0) -> Measured:
    """Measure all sides at batch 1 with one thread, as `effbench bench` measures its backends.

    The first arm runs twice, as the control.
    """
    arms: list[Arm] = []
    rows: dict[str, Mapping[str, Any]] = {}
    with tempfile.TemporaryDirectory() as name, thread_count(1):
        for number, side in enumerate(sides):
            folder, options = Path(name) / str(number), _options(side, rounds, seconds)
            folder.mkdir()
            found, working = answering(side.source, options, folder)
            rows |= {f"{side.label} {backend}": row for backend, row in found.items()}
            for arm in working:
                arm.name = f"{side.label} {arm.name}"
            arms += working
        control = Arm(arms[0].name + AGAIN, arms[0].backend, arms[0].file)
        measure([*arms, control], batch_files(sides[0].source, options, Path(name)), options, Path(name))
    working = [arm for arm in arms if not arm.failed]
    every = [process for arm in (*working, control) for process in arm.processes]
    return Measured({arm.name: arm for arm in working}, rows, trust(arms[0].processes, control.processes, every, [1]))


def _options(side: Side, rounds: int, seconds: float) -> BenchOptions:
    return BenchOptions(
        backends=tuple(side.backends), batch_sizes=(1,), rounds=rounds, seconds=seconds, samples=SAMPLES,
        max_drop=MAX_DROP,
    )  # fmt: skip


def side_of(label: str, folder: Path, before: Source, backends: Sequence[str]) -> Side:
    """A run or a compressed result as a side.

    Args:
        label: of its arms.
        folder: of the run.
        before: the run that a quantized one was made of, whose samples and answers it is compared with.
        backends: for a run with weights; a quantized file has the one that it was made for.
    """
    file = compressed_file(folder)
    if file is None:
        return Side(label, run_source(folder, "best", {}, (), SAMPLES), backends)
    kind = str(read_record(file)["format"])
    reader = {"onnx": "onnxruntime", "openvino": "openvino_f32"}[kind]
    return Side(label, replace(before, files={kind: file}), (reader,))


def onnx_file(words: Sequence[str], folder: Path) -> tuple[Path, Path]:
    """An untrained model's ONNX file as `effbench bench` writes it, and a .npy file with a batch of 1."""
    source = untrained_source(compose([*words, "device=cpu"]), 1)
    found = prepare(source, [BACKENDS["onnxruntime"]], folder)
    np.save(folder / "sample.npy", source.samples.numpy())
    return found.files["onnxruntime"], folder / "sample.npy"
