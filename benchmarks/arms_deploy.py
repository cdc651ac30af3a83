"""Arms of the deployment rows: each runtime called as its documentation does, and effbench's own calls beside it.

By hand: none of effbench.bench and effbench.export is used, so that a mistake there is not repeated here.
"""

from __future__ import annotations

import copy
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.turns import Turns

TURN_S, LEAST_CALLS, WARM_UP = 0.3, 5, 10
ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
BY_HAND = (
    "eager", "channels_last", "bf16", "torchscript", "torch_export", "onnxruntime", "openvino_f32", "openvino_bf16"
)  # fmt: skip


# --- files, written in the process of the row


def write_by_hand(words: list[str], folder: Path) -> None:
    """The files that the arms by hand read: model.pt (pickled), .ts, .pt2, .onnx and sample.npy, a batch of 1."""
    import torch

    import effbench
    from effbench import build
    from effbench.run.validate import own_setting

    config = effbench.compose(words)
    setting = own_setting(config)
    torch.manual_seed(0)
    model = build.model(config, setting.num_classes, setting.modality).eval().requires_grad_(False)
    model = model.to(memory_format=torch.contiguous_format)
    two = torch.rand(2, *setting.modality.shape)
    np.save(folder / "sample.npy", two[:1].numpy())
    torch.save(model, folder / "model.pt")
    with torch.no_grad():
        torch.jit.freeze(torch.jit.trace(model, two[:1])).save(str(folder / "model.ts"))
        torch.export.save(torch.export.export(model, (two[:1],)), folder / "model.pt2")
        torch.onnx.export(model, (two[:1],), folder / "model.onnx", dynamo=True, external_data=False, verbose=False)


# --- arms


def by_hand(turns: Turns, backend: str, folder: str) -> None:
    """A slice: the median of single calls with a batch of 1 and one thread."""
    if backend in OF_TORCH:
        _one_thread_for_torch()
    call = CALLS[backend](Path(folder), np.load(Path(folder) / "sample.npy"))
    _report(turns, call)


def our_call(turns: Turns, file: str, samples: str) -> None:
    """The same, of the call that `effbench bench` times."""
    from effbench.bench.backends import BACKENDS

    backend = BACKENDS["onnxruntime"]
    loaded = backend.load(backend.runtime(), Path(file), 1)
    batch = loaded.native(np.load(samples))
    _report(turns, lambda: loaded.run(batch))


def our_answer(turns: Turns, file: str, samples: str) -> None:
    """The same, of what `effbench predict FILE` calls: tensors in and out."""
    import torch

    from effbench.export.onnx_files import load_onnx

    torch.set_num_threads(1)
    forward, batch = load_onnx(Path(file).read_bytes()), torch.from_numpy(np.load(samples))
    _report(turns, lambda: forward(batch))


def bench_worker(turns: Turns, file: str, samples: str) -> None:
    """The median that a process of `effbench bench` finds in a turn, by its own clock."""
    from tempfile import TemporaryDirectory

    from effbench.bench.processes import ArmProcess

    job = {
        "backend": "onnxruntime", "file": file, "samples": samples, "threads": 1, "turn_s": TURN_S, "turns": 1,
        "answers": "",
    }  # fmt: skip
    with TemporaryDirectory() as folder:
        process = ArmProcess(job, Path(folder), 1)
        process.ask()
        turns.lap()
        while True:
            turns.lap(statistics.median(process.ask("go")["calls_s"]))


def onnx_file(turns: Turns, file: str, samples: str) -> None:
    """By hand, of a given file."""
    _report(turns, _session(Path(file), np.load(samples)))


def export_bare(turns: Turns, run: str) -> None:
    """One lap: seconds from a run to a file by torch's exporter alone, the first in its process."""
    import torch

    from effbench.run.load import load_run

    torch.set_num_threads(1)

    def export(path: Path) -> None:
        loaded = load_run(run)
        model = loaded.model().to(memory_format=torch.contiguous_format).requires_grad_(False)
        two = torch.rand(2, *loaded.shape)
        torch.onnx.export(
            model, (two,), path, dynamo=True, dynamic_shapes=({0: torch.export.Dim("N")},), external_data=False,
            verbose=False,
        )  # fmt: skip

    load_run(run).model()  # imports of the config's and the model's modules
    _once(turns, export)


def export_ours(turns: Turns, run: str) -> None:
    """One lap: seconds from a run to a file with its record by effbench's export, the first in its process."""
    import torch

    from effbench.run.export import export_run
    from effbench.run.load import load_run

    torch.set_num_threads(1)
    load_run(run).model()
    _once(turns, lambda path: export_run(run, output=path.parent) and None)


def _once(turns: Turns, work: Callable[[Path], None]) -> None:
    from tempfile import TemporaryDirectory

    with TemporaryDirectory() as folder:
        turns.lap()
        while True:
            begun = time.perf_counter()
            work(Path(folder) / "model.onnx")
            turns.lap(time.perf_counter() - begun)


# --- the clock: another one than perf_counter, which effbench bench reads


def _report(turns: Turns, call: Callable[[], Any]) -> None:
    for _ in range(WARM_UP):
        call()
    turns.lap()
    while True:
        call()  # another arm had the caches
        turns.lap(_median_s(call))


def _median_s(call: Callable[[], Any]) -> float:
    times, clock = [], time.CLOCK_MONOTONIC_RAW if sys.platform == "linux" else time.CLOCK_MONOTONIC
    end = time.monotonic() + TURN_S
    while time.monotonic() < end or len(times) < LEAST_CALLS:
        begun = time.clock_gettime_ns(clock)
        call()
        times.append(time.clock_gettime_ns(clock) - begun)
    return statistics.median(times) / 1e9


# --- each runtime: (folder of the files, a batch of 1) -> a call


def _one_thread_for_torch() -> None:
    """Once a process, and before its first call: torch refuses to change the second number later."""
    import torch

    torch.set_num_threads(1)
    torch.set_num_interop_threads(1)


def _torch(forward: Any, sample: Any) -> Callable[[], Any]:
    import torch

    def call() -> Any:
        with torch.no_grad():
            return forward(sample)

    return call


def _eager(folder: Path, sample: Any) -> Callable[[], Any]:
    import torch

    return _torch(torch.load(folder / "model.pt", weights_only=False), torch.from_numpy(sample))


def _channels_last(folder: Path, sample: Any) -> Callable[[], Any]:
    import torch

    model = torch.load(folder / "model.pt", weights_only=False).to(memory_format=torch.channels_last)
    return _torch(lambda batch: model(batch.contiguous(memory_format=torch.channels_last)), torch.from_numpy(sample))


def _bf16(folder: Path, sample: Any) -> Callable[[], Any]:
    import torch

    model = copy.deepcopy(torch.load(folder / "model.pt", weights_only=False)).bfloat16()
    return _torch(lambda batch: model(batch.bfloat16()).float(), torch.from_numpy(sample))


def _torchscript(folder: Path, sample: Any) -> Callable[[], Any]:
    import torch

    return _torch(torch.jit.load(str(folder / "model.ts")), torch.from_numpy(sample))


def _torch_export(folder: Path, sample: Any) -> Callable[[], Any]:
    import torch

    return _torch(torch.export.load(folder / "model.pt2").module(), torch.from_numpy(sample))


def _onnxruntime(folder: Path, sample: Any) -> Callable[[], Any]:
    return _session(folder / "model.onnx", sample)


def _session(path: Path, sample: Any) -> Callable[[], Any]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    feed = {session.get_inputs()[0].name: sample}
    return lambda: session.run(None, feed)


def _openvino(folder: Path, sample: Any, precision: str = "f32") -> Callable[[], Any]:
    sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]  # an import alone reports to its makers
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    import openvino

    core = openvino.Core()
    if precision == "bf16" and "BF16" not in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        raise SystemExit("no bfloat16 here")
    hints = {"INFERENCE_PRECISION_HINT": precision, "INFERENCE_NUM_THREADS": 1, "PERFORMANCE_HINT": "LATENCY"}
    request = core.compile_model(str(folder / "model.onnx"), "CPU", hints).create_infer_request()
    return lambda: request.infer([sample], share_inputs=True, share_outputs=True)


def _openvino_bf16(folder: Path, sample: Any) -> Callable[[], Any]:
    return _openvino(folder, sample, "bf16")


CALLS: dict[str, Callable[[Path, Any], Callable[[], Any]]] = {
    "eager": _eager, "channels_last": _channels_last, "bf16": _bf16, "torchscript": _torchscript,
    "torch_export": _torch_export, "onnxruntime": _onnxruntime, "openvino_f32": _openvino,
    "openvino_bf16": _openvino_bf16,
}  # fmt: skip
assert tuple(CALLS) == BY_HAND
OF_TORCH = ("eager", "channels_last", "bf16", "torchscript", "torch_export")
