"""The backends: what file each one reads, and how it loads and runs the file in a process of its own.

Nothing heavy is imported here: a process that measures ONNX Runtime does not have torch in its memory.
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from effbench.export.executorch_runtime import import_executorch, open_program
from effbench.export.openvino_runtime import import_openvino, members_of
from effbench.processors import cpu_flags

if TYPE_CHECKING:
    import numpy as np
    from torch import nn

OUTPUT = "logits"  # name of the output in ONNX files, as effbench.export writes it
# The flags with which /proc/cpuinfo names arithmetic in bfloat16: x86 (AVX-512, AMX) and ARM.
BF16_FLAGS = {"avx512_bf16", "amx_bf16", "bf16"}


class UnavailableError(Exception):
    """The backend cannot run here; the text is the reason in its row."""


@dataclass(frozen=True)
class Loaded:
    """A model in its runtime.

    Attributes:
        native: array -> the form in which the runtime takes a batch; not timed.
        run: runs a batch in this form; timed.
        array: result of `run` -> float32 array (N, ...).
        notes: what a reader of the result must know, such as the precision that the runtime chose.
    """

    native: Callable[[np.ndarray[Any, Any]], Any]
    run: Callable[[Any], Any]
    array: Callable[[Any], np.ndarray[Any, Any]]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Backend:
    """A way to run a model.

    Attributes:
        name: as in backends=[...].
        file: the kind of file it reads: a format of `effbench export`, or a key of effbench.bench.prepare.WRITERS.
        about: one line for people.
        runtime: imports and returns the runtime.
        load: (runtime, path, threads) -> the model.
        libraries: distributions whose versions are recorded.
        asked_for: measured only if the user names it, because its preparation takes minutes.
        extra: of effbench that has the libraries; '' for none.
        also: another kind of exported file it reads; '' for none.
        compiles_late: at the first call with each batch size, which therefore counts as loading.
        obstacle: the runtime -> why it can run no model on this processor; '' if it can.
    """

    name: str
    file: str
    about: str
    runtime: Callable[[], Any]
    load: Callable[[Any, Path, int], Loaded]
    libraries: tuple[str, ...] = ("torch",)
    asked_for: bool = False
    extra: str = ""
    also: str = ""
    compiles_late: bool = False
    obstacle: Callable[[Any], str] = lambda _: ""


def has_bf16() -> bool | None:
    """Return whether the processor has arithmetic in bfloat16; None if the system does not tell."""
    flags = cpu_flags()
    return bool(flags & BF16_FLAGS) if flags else None


# --- torch


def _torch() -> Any:
    import torch

    return torch


def _as_loaded(torch: Any, forward: Callable[[Any], Any], threads: int, notes: tuple[str, ...] = ()) -> Loaded:
    torch.set_num_threads(threads)
    torch.set_num_interop_threads(1)

    # no_grad and not inference_mode: modules of TorchScript and of torch.export were made outside of it
    def run(batch: Any) -> Any:
        with torch.no_grad():
            return forward(batch)

    return Loaded(torch.from_numpy, run, lambda outputs: outputs.float().numpy(), notes)


def _module(torch: Any, path: Path) -> nn.Module:
    # This process's parent wrote the file, into a folder that only its user can write.
    module: nn.Module = torch.load(path, weights_only=False)
    return module.eval()


def _load_eager(torch: Any, path: Path, threads: int) -> Loaded:
    return _as_loaded(torch, _module(torch, path), threads)


def _load_channels_last(torch: Any, path: Path, threads: int) -> Loaded:
    module = _module(torch, path).to(memory_format=torch.channels_last)

    def forward(batch: Any) -> Any:
        if batch.dim() != 4:
            raise UnavailableError("channels_last is for samples with channels, rows and columns (images)")
        # within the timed part: samples arrive as (N, C, H, W)
        return module(batch.contiguous(memory_format=torch.channels_last))

    return _as_loaded(torch, forward, threads)


def _load_bf16(torch: Any, path: Path, threads: int) -> Loaded:
    emulated = "bfloat16 is emulated: this processor has no arithmetic in it"
    return _as_loaded(torch, _module(torch, path), threads, (emulated,) if has_bf16() is False else ())


def _load_compiled(torch: Any, path: Path, threads: int) -> Loaded:
    return _as_loaded(torch, torch.compile(_module(torch, path), dynamic=False), threads)


def _load_torchscript(torch: Any, path: Path, threads: int) -> Loaded:
    return _as_loaded(torch, torch.jit.load(str(path), map_location="cpu"), threads)


def _load_torch_export(torch: Any, path: Path, threads: int) -> Loaded:
    with path.open("rb") as stream:
        program = torch.export.load(stream)
    return _as_loaded(torch, program.module(), threads)


def _load_aot_inductor(torch: Any, path: Path, threads: int) -> Loaded:
    from torch._inductor import aoti_load_package

    return _as_loaded(torch, aoti_load_package(str(path)), threads)


# --- other runtimes


def _onnxruntime() -> Any:
    import onnxruntime

    return onnxruntime


def _load_onnxruntime(runtime: Any, path: Path, threads: int) -> Loaded:
    options = runtime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.log_severity_level = 3  # errors only
    # Threads that spin after a call burn tens of milliseconds of a processor that the next arm measures on.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    [given] = session.get_inputs()
    name = given.name
    return Loaded(lambda array: {name: array}, lambda batch: session.run([OUTPUT], batch)[0], lambda array: array)


def _load_openvino(openvino: Any, path: Path, threads: int, precision: str) -> Loaded:
    core = openvino.Core()
    if precision == "bf16" and (reason := _without_bf16(core)):
        raise UnavailableError(reason)
    hints = {
        # explicitly: by default OpenVINO computes in bfloat16 wherever the processor has it, and does not say so
        "INFERENCE_PRECISION_HINT": precision,
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": 1,
        "PERFORMANCE_HINT": "LATENCY",
        "ENABLE_CPU_PINNING": False,  # no other arm is tied to a core
    }
    compiled = core.compile_model(_graph(core, path), "CPU", hints)
    used = compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name()
    if used != precision:
        raise UnavailableError(f"OpenVINO computes in {used} although {precision} was asked for")
    request, output = compiled.create_infer_request(), compiled.output(0)

    def run(batch: Any) -> Any:
        return request.infer(batch, share_inputs=True, share_outputs=True)[output]

    return Loaded(lambda array: [array], run, lambda array: array.copy())


def _without_bf16(core: Any) -> str:
    """Return why OpenVINO does not compute in bfloat16 on this processor; '' if it does."""
    if "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        return ""
    return "not available: this processor has no arithmetic in bfloat16, OpenVINO would take f32"


def _graph(core: Any, path: Path) -> Any:
    if not zipfile.is_zipfile(path):
        return core.read_model(str(path))
    graph, weights = members_of(path.read_bytes())
    return core.read_model(model=graph, weights=weights)


def _load_executorch(executorch: Any, path: Path, threads: int) -> Loaded:
    program = open_program(executorch, path.read_bytes(), threads)
    return _as_loaded(_torch(), program, threads, (f"memory planned for {program.sizes[0]} samples a call",))


_F32, _BF16 = partial(_load_openvino, precision="f32"), partial(_load_openvino, precision="bf16")
_ORT, _OV = ("onnxruntime",), ("openvino",)
_EVERY = (
    Backend("eager", "module", "torch's own layers", _torch, _load_eager),
    Backend("channels_last", "module", "eager with channels last in memory", _torch, _load_channels_last),
    Backend("bf16", "module_bf16", "eager with weights and activations in bfloat16", _torch, _load_bf16),
    Backend("torchscript", "torchscript", "the frozen TorchScript file", _torch, _load_torchscript),
    Backend("torch_export", "torch_export", "the module of the torch.export file", _torch, _load_torch_export),
    Backend("aot_inductor", "aot_inductor", "compiled ahead of time", _torch, _load_aot_inductor, asked_for=True),
    Backend("compile", "module", "torch.compile", _torch, _load_compiled, asked_for=True, compiles_late=True),
    Backend("onnxruntime", "onnx", "ONNX Runtime in float32", _onnxruntime, _load_onnxruntime, _ORT, extra="onnx"),
    Backend(
        "openvino_f32", "onnx", "OpenVINO in float32", import_openvino, _F32, _OV, extra="openvino", also="openvino"
    ),
    Backend(
        "openvino_bf16",
        "onnx",
        "OpenVINO in bfloat16",
        import_openvino,
        _BF16,
        _OV,
        extra="openvino",
        also="openvino",
        obstacle=lambda openvino: _without_bf16(openvino.Core()),
    ),
    Backend(
        "executorch",
        "executorch",
        "ExecuTorch with XNNPACK",
        import_executorch,
        _load_executorch,
        ("torch", "executorch"),
        asked_for=True,
        extra="executorch",
    ),
)
BACKENDS = {backend.name: backend for backend in _EVERY}
DEFAULT = tuple(backend.name for backend in _EVERY if not backend.asked_for)
