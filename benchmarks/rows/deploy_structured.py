"""Half of the channels removed: latency over the dense run's, what is lost, and 8 bits on top."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from benchmarks.deploy import SAMPLES, compressed, compression, in_turns, note_here, side_of, target_here, trained
from benchmarks.figures import Figure
from effbench.bench.sources import run_source
from effbench.compress.compare import MOST, paired_test
from effbench.run.load import load_run
from effbench.stats import mean_interval, positive_interval

TITLE = "Structured pruning by half, and 8 bits on top"
SEEDS = range(3)
ORT = "onnxruntime"
# model: (words of the dense run, epochs of fine-tuning, target of the latency)
PLAN: dict[str, tuple[tuple[str, ...], int, str]] = {
    "cnn": (("model=cnn", "trainer.max_epochs=10", "early_stopping=off"), 6, "<= 0.35"),
    "mobilenet": (("model=mobilenet", "trainer.max_epochs=12", "early_stopping=off"), 12, "<= 0.45"),
    "resnet18": (("model=resnet18", "trainer.max_epochs=2", "early_stopping=off"), 6, "<= 0.20"),
}
TOGETHER = ("resnet18", "<= 0.12", "<= 1.5")  # model, targets of latency and of points lost
ROUNDS, SECONDS = 3, 0.5
MEASURED = (f"rounds={ROUNDS}", f"seconds={SECONDS}", f"backends=[{ORT}]")
INT8 = ("method=quantize", "rounds=3", "seconds=0.1", f"backends=[{ORT}]", "max_drop=1.5")
NOTE = (
    "`effbench compress RUN method=structured ratio=0.5 epochs=N` of runs on the embedded Fashion-MNIST at 28 px "
    "(epochs before, N: cnn 10, 6; mobilenet 12, 12; resnet18 2, 6). Latency: p50 of ONNX Runtime at batch 1, one "
    "thread, paired by turns; interval over runs. Lost: points on the same 2,000 test images, mean over runs with "
    "Student's interval. Fine-tuning also trains further what the dense run had not finished."
)


def measure() -> list[Figure]:
    found = [figure for name in PLAN for figure in pruned(name)]
    return [*found, *together(*TOGETHER)]


def runs(name: str) -> list[tuple[Path, Path]]:
    """(dense, pruned) for each seed."""
    words, epochs, _ = PLAN[name]
    made = []
    for seed in SEEDS:
        dense = trained(f"{name}_28", words, seed)
        result = compressed(dense, ("method=structured", "ratio=0.5", f"epochs={epochs}", *MEASURED))
        assert result is not None  # only a bound of what may be lost refuses
        made.append((dense, result))
    return made


def pruned(name: str) -> list[Figure]:
    target = PLAN[name][2]
    records = [compression(result) for _, result in runs(name)]
    ratios = [pair["ratio"]["estimate"] for record in records for pair in record["speed"]["pairs"]]
    controls = [record["speed"]["control"]["1"]["estimate"] for record in records]
    lost = [record["test"]["lost"]["estimate"] for record in records]
    arms = {"before": _accuracies(records, "before"), "after": _accuracies(records, "after")}
    control = positive_interval(controls)
    return [
        Figure(f"latency pruned / dense, {name}", positive_interval(ratios), target, control, arms, NOTE),
        Figure(f"points lost, {name}", mean_interval(lost), "<= 0.7", None, arms, NOTE),
    ]


def _accuracies(records: Sequence[dict[str, object]], side: str) -> str:
    return ", ".join(f"{100 * record[side]['accuracy']['estimate']:.2f} %" for record in records)  # type: ignore[index]


def together(name: str, latency: str, points: str) -> list[Figure]:
    ratios, controls, lost = [], [], []
    for dense, result in runs(name):
        small = compressed(result, INT8)
        if small is None:
            raise RuntimeError(f"{result.name} loses more than 1.5 points on validation samples in 8 bits")
        before, between = (run_source(folder, "best", {}, (), SAMPLES) for folder in (dense, result))
        found = in_turns(
            [side_of("dense", dense, before, [ORT]), side_of("both", small, between, [ORT])], ROUNDS, SECONDS
        )
        ratios.append(found.over(f"both {ORT}", f"dense {ORT}").estimate)
        controls += [found.control.estimate] if found.control else []
        test = paired_test(load_run(dense), "best", load_run(small), "test", MOST)
        lost.append(test["lost"]["estimate"])
    what = f"pruned and in 8 bits / dense in float32, {name}"
    return [
        Figure(what, positive_interval(ratios), target_here(latency), positive_interval(controls), {}, note_here(NOTE)),
        Figure(f"points lost, {what}", mean_interval(lost), points, None, {}, note_here(NOTE)),
    ]
