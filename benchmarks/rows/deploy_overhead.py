"""What effbench adds: to a call of ONNX Runtime, to the time that is reported, and to an export."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks.alternate import Arm, rounds
from benchmarks.arms_deploy import ONE_THREAD
from benchmarks.deploy import onnx_file, trained
from benchmarks.figures import Figure, figure, milliseconds, over
from benchmarks.rows.deploy_backends import PLAN as RUNS

TITLE = "Overhead: calls of ONNX Runtime, reported times, export"
PLACE = "benchmarks.arms_deploy:"
CALLS: dict[str, tuple[str, ...]] = {
    "mobilenet_v3_small 32": ("model=mobilenet", "data=synthetic", "data.image_size=32"),
    "resnet18 224": ("model=resnet18", "data=synthetic", "data.image_size=224"),
}
EXPORTS = ("mobilenet_v3_small 32", "resnet18 224")
TURNS, PROCESSES, EXPORT_TURNS = 27, 3, 5
NOTE = (
    "One file, one thread, batch 1; a slice is the median of the calls of 0.3 s. By hand: a session as ONNX Runtime's "
    "documentation makes it. Ours: the call that `effbench bench` times; with tensors: what `effbench predict FILE` "
    "calls. All three by CLOCK_MONOTONIC_RAW; reported: by bench's own process and clock."
)
EXPORT_NOTE = (
    "Export: from a run on disk to a file, the first in a fresh process, imports of the exporter included. "
    "Bare: reads the model and calls torch.onnx.export. Ours also adds normalisation, writes record, card and program, "
    "and compares the file with the model on 256 validation images, or as many as take 20 GMACs, at least 8."
)


def measure() -> list[Figure]:
    found = [each for name, words in CALLS.items() for each in calls(name, words)]
    return [*found, *(export(name) for name in EXPORTS)]


def calls(name: str, words: Sequence[str]) -> list[Figure]:
    with tempfile.TemporaryDirectory() as folder:
        file, samples = onnx_file(words, Path(folder))
        options = {"file": str(file), "samples": str(samples)}
        arms = {
            "ours": "our_call", "by hand": "onnx_file", "ours with tensors": "our_answer", "reported": "bench_worker"
        }  # fmt: skip
        found = rounds(
            [Arm(arm, PLACE + function, options, ONE_THREAD) for arm, function in arms.items()], TURNS, PROCESSES
        )
    return [
        figure(f"ours / by hand, {name}", found, over("ours", "by hand"), "<= 1.02", milliseconds, NOTE),
        figure(
            f"ours with tensors / by hand, {name}", found, over("ours with tensors", "by hand"), "", milliseconds, NOTE
        ),
        figure(f"reported / ours, {name}", found, over("reported", "ours"), "<= 1.02", milliseconds, NOTE),
        figure(f"ours / reported, {name}", found, over("ours", "reported"), "<= 1.02", milliseconds, NOTE),
    ]


def export(name: str) -> Figure:
    run = trained(name.replace(" ", "_"), RUNS[name][0])
    options = {"run": str(run)}
    arms = [
        Arm("export and gate", f"{PLACE}export_ours", options, ONE_THREAD),
        Arm("bare exporter", f"{PLACE}export_bare", options, ONE_THREAD),
    ]
    found = rounds(arms, EXPORT_TURNS, EXPORT_TURNS, parts=1)  # a process each: the first export in it
    above = over("export and gate", "bare exporter")
    return figure(f"export and gate / bare exporter, {name}", found, above, "<= 1.3", "{:.2f} s".format, EXPORT_NOTE)
