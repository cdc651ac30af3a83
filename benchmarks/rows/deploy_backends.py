"""The backend that `effbench bench` names beside eager torch, at batch 1 with one thread, files of 8 bits included."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.deploy import (
    MAX_DROP,
    SAMPLES,
    Measured,
    compressed,
    in_turns,
    note_here,
    side_of,
    target_here,
    trained,
)
from benchmarks.figures import Figure
from effbench.bench.backends import DEFAULT
from effbench.bench.sources import run_source

TITLE = "Best backend beside eager torch, batch 1, one thread"
# Enough images and steps that the answers are better than chance: what 8 bits lose can be seen.
FASHION = ("data=fashion_mnist", "data.image_size=32", "trainer.max_epochs=2", "early_stopping=off")
LARGE = (
    "data=synthetic", "data.image_size=224", "data.num_train=128", "data.num_val=96", "data.num_test=96",
    "data.batch_size=16", "data.eval_batch_size=32", "augment=none", "trainer.max_epochs=1", "early_stopping=off",
)  # fmt: skip
PLAN: dict[str, tuple[tuple[str, ...], str]] = {
    "mobilenet_v3_small 32": (("model=mobilenet", *FASHION), "<= 0.12"),
    "mobilenet_v3_small 224": (("model=mobilenet", *LARGE), "<= 0.33"),
    "resnet18 224": (("model=resnet18", *LARGE), "<= 0.22"),
    "resnet50 224": (("model=resnet50", *LARGE), "<= 0.20"),
    "swin_t 224": (("model=swin", *LARGE), "<= 0.40"),
}
QUICK = ("rounds=3", "seconds=0.1", "backends=[onnxruntime]", "calibration=64")  # it is measured again in the row
INT8 = (("backend=onnxruntime", *QUICK), ("backend=openvino", *QUICK, "backends=[openvino_f32]"))
ROUNDS, SECONDS = 5, 1.0
NOTE = (
    "Weights of one or two short epochs (Fashion-MNIST at 32 px; at 224 px 128 synthetic images). Every backend of "
    f"`effbench bench` and the files of `effbench compress method=quantize` that lose at most {MAX_DROP} points of "
    "validation accuracy; the one that its verdict puts first. All in turns, each round in fresh processes."
)


def measure() -> list[Figure]:
    return [_of(name, words, target) for name, (words, target) in PLAN.items()]


def _of(name: str, words: Sequence[str], target: str) -> Figure:
    run = trained(name.replace(" ", "_"), words)
    before = run_source(run, "best", {}, (), SAMPLES)
    sides = [side_of("float", run, before, DEFAULT)]
    folders = [compressed(run, ("method=quantize", *words)) for words in INT8]
    sides += [side_of("int8", folder, before, ()) for folder in folders if folder is not None]
    found = in_turns(sides, ROUNDS, SECONDS)
    best = found.best()
    value = found.over(best, "float eager")
    return Figure(
        f"{best} / eager, {name}",
        value,
        target_here(target),
        found.control,
        found.texts(),
        note_here(NOTE + absent(found)),
    )


def absent(found: Measured) -> str:
    """What could not be measured, or may not be named, as a sentence to add."""
    missing = {name: row["reason"] for name, row in found.rows.items() if name not in found.arms}
    missing |= {name: f"loses {found.rows[name]['lost']['estimate']:.2f} points"
                for name in found.arms if not found.keeps(name)}  # fmt: skip
    return "".join(f" {name}: {reason}." for name, reason in missing.items())
