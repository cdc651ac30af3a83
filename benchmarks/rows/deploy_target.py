"""An unguided user's one command, `compress target=`, beside the best of ten settings that one might try by hand."""

from __future__ import annotations

from pathlib import Path

from benchmarks.deploy import MAX_DROP, SAMPLES, Side, compressed, compression, in_turns, side_of, trained
from benchmarks.figures import Figure
from effbench.bench.sources import run_source
from effbench.compress.drop import Judge
from effbench.run.load import load_run

TITLE = "One command with a target beside ten settings by hand"
DENSE = ("model=cnn", "trainer.max_epochs=10", "early_stopping=off")  # the run of deploy_structured
BACKENDS = ("onnxruntime", "openvino_f32")
QUICK = ("rounds=3", "seconds=0.2", "backends=[onnxruntime,openvino_f32]")
MINUTES = 20
# As fast as it gets: no candidate reaches it, so the search ends with the nearest.
ONE = ("target=latency/100", f"max_drop={MAX_DROP}", f"minutes={MINUTES}", *QUICK)
# Each: one or two commands, one after the other.
ORT, OPENVINO = (("method=quantize", f"backend={name}", f"max_drop={MAX_DROP}") for name in ("onnxruntime", "openvino"))


def cut(ratio: float, epochs: int, *more: str) -> tuple[str, ...]:
    return ("method=structured", f"ratio={ratio}", f"epochs={epochs}", *more)


BY_HAND: dict[str, tuple[tuple[str, ...], ...]] = {
    "int8 for ONNX Runtime": (ORT,),
    "int8 for OpenVINO": (OPENVINO,),
    "0.25, 3 epochs": (cut(0.25, 3),),
    "0.5, 3 epochs": (cut(0.5, 3),),
    "0.5, 8 epochs": (cut(0.5, 8),),
    "0.625, 8 epochs": (cut(0.625, 8),),
    "0.75, 8 epochs": (cut(0.75, 8),),
    "0.75, 8 epochs in 2 steps": (cut(0.75, 8, "steps=2"),),
    "0.5, 8 epochs, int8 for ONNX Runtime": (cut(0.5, 8), ORT),
    "0.5, 8 epochs, int8 for OpenVINO": (cut(0.5, 8), OPENVINO),
}
ROUNDS, SECONDS = 5, 0.5
NOTE = (
    "model=cnn, 10 epochs of the embedded Fashion-MNIST. One command: "
    f"`effbench compress RUN target=latency/100 max_drop={MAX_DROP} minutes={MINUTES}`, which ends with the nearest it "
    "could reach. By hand: the fastest of ten settings. Both lose at most "
    f"{MAX_DROP} points of validation accuracy; all that do are measured in turns with ONNX Runtime and OpenVINO in "
    "float32 (8 bits: with the runtime that the file is for), batch 1, one thread, each by its fastest backend."
)


def measure() -> list[Figure]:
    dense = trained("cnn_28", DENSE)
    judge = Judge(load_run(dense), "best")
    folders = {"one command": compressed(dense, ONE), **{name: _chain(dense, name) for name in BY_HAND}}
    drops = {
        name: judge.drop(judge.outputs(load_run(folder))) for name, folder in folders.items() if folder is not None
    }
    kept = {name: folder for name, folder in folders.items() if folder is not None and drops[name] <= MAX_DROP + 1e-9}
    if "one command" not in kept or len(kept) < 2:
        raise RuntimeError(f"points lost on validation samples: {drops}; nothing to compare")
    found = in_turns([_side(name, folder, dense) for name, folder in kept.items()], ROUNDS, SECONDS)
    ours = found.fastest("one command")
    best = min((found.fastest(name) for name in kept if name != "one command"), key=found.p50)
    arms = {**found.texts(), **{f"{name}, points lost": f"{drop:+.2f}" for name, drop in drops.items()}}
    what = f"{ours} / {best}, by hand"
    return [Figure(what, found.over(ours, best), "<= 1.15", found.control, arms, NOTE)]


def _chain(run: Path, name: str) -> Path | None:
    folder: Path | None = run
    for words in BY_HAND[name]:
        folder = None if folder is None else compressed(folder, (*words, *QUICK))
    return folder


def _side(name: str, folder: Path, dense: Path) -> Side:
    record = compression(folder)
    source = (folder / record["source"]["run"]).resolve()
    before = run_source(source if source.is_dir() else dense, "best", {}, (), SAMPLES)
    return side_of(name, folder, before, BACKENDS)
