"""8 bits for ONNX Runtime: how small the file is, and what it loses on the same test images."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.deploy import compressed, compression, trained
from benchmarks.figures import Figure
from effbench.stats import mean_interval

TITLE = "Files of 8 bits: size and accuracy, paired"
SEEDS = range(5)
FIT = ("trainer.max_epochs=4", "early_stopping=off")
DENSE: dict[str, tuple[str, ...]] = {
    "mobilenet_v3_small 28": ("model=mobilenet", *FIT),
    "resnet18 28": ("model=resnet18", "trainer.max_epochs=2", "early_stopping=off"),
    "swin_micro 32": ("recipe=swin_lion_cpu", "trainer.max_epochs=2"),
}
QUANTIZE = ("method=quantize", "rounds=3", "seconds=0.1", "backends=[onnxruntime]")
NOTE = (
    "`effbench compress RUN method=quantize` of runs on the embedded Fashion-MNIST, for 4 epochs (ResNet-18 and Swin: "
    "2). Lost: points of accuracy on the same 2,000 test images, mean over runs with Student's interval."
)


def measure() -> list[Figure]:
    return [found for name, words in DENSE.items() for found in _of(name, words)]


def _of(name: str, words: Sequence[str]) -> list[Figure]:
    folders = [compressed(trained(name.replace(" ", "_"), words, seed), QUANTIZE) for seed in SEEDS]
    if refused := folders.count(None):
        raise RuntimeError(f"{name}: {refused} runs lose more than 0.5 points on validation samples in 8 bits")
    records = [compression(folder) for folder in folders if folder is not None]
    shares = [record["details"]["bytes"] / record["details"]["float32_bytes"] for record in records]
    lost = [record["test"]["lost"]["estimate"] for record in records]
    floating = [len(record["details"]["floating"]) for record in records]
    arms = {"each run, points": ", ".join(f"{each:+.2f}" for each in lost),
            "layers kept in float32": ", ".join(map(str, floating))}  # fmt: skip
    return [
        Figure(f"int8 file / float32 file, {name}", mean_interval(shares), "<= 0.30", None, arms, NOTE),
        Figure(f"points lost, {name}", mean_interval(lost), "<= 0.3", None, arms, NOTE),
    ]
