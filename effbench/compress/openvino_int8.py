"""8-bit OpenVINO files, made by NNCF: weights by channel, activations by ranges from calibration samples."""

from __future__ import annotations

import io
import logging
import tempfile
from collections.abc import Callable, Iterable
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from effbench.compress.mixed import Judged, Mixed, within
from effbench.errors import MissingExtraError
from effbench.export.formats import loaded, quiet
from effbench.export.interface import Forward
from effbench.export.openvino_files import require_openvino
from effbench.export.openvino_runtime import GRAPH, WEIGHTS, archive, import_nncf
from effbench.processors import has_int8_products

log = logging.getLogger(__name__)

_WEIGHTED = ("Convolution", "GroupConvolution", "MatMul")


def require_nncf() -> Any:
    """Return the module nncf, which then sends nothing to its makers.

    Raises:
        MissingExtraError: it is not installed.
    """
    what, extra = "method=quantize backend=openvino", "compress"
    require_openvino(what, extra)
    try:
        return import_nncf()
    except ImportError as error:
        raise MissingExtraError(what, extra) from error


def openvino_int8(
    file: Path, samples: Tensor, judge: Callable[[Forward], Judged], bound: float, attention: bool
) -> tuple[Mixed, bytes]:
    """Return the archive of the quantized model, with layers in float32 if the bound fails otherwise.

    Args:
        file: the float32 ONNX file.
        samples: calibration samples as the file takes them, (N, ...).
        judge: a model as its runtime executes it -> what it loses.
        bound: largest drop.
        attention: the model has attention, whose activations are smoothed and quantized differently.
    """
    openvino, nncf = require_openvino(), require_nncf()
    graph = openvino.Core().read_model(str(file))
    arrays = [sample.numpy() for sample in samples.split(1)]
    saturating = not has_int8_products()
    options = {
        "preset": nncf.QuantizationPreset.MIXED,
        "model_type": nncf.ModelType.TRANSFORMER if attention else None,
        "subset_size": len(arrays),
    }
    # without VNNI two products of 8 bits may exceed the 16 bits that they are added in: weights of 7 bits
    fix = nncf.OverflowFix.ENABLE if saturating else nncf.OverflowFix.FIRST_LAYER
    advanced = nncf.AdvancedQuantizationParameters(overflow_fix=fix)
    # progress bars
    with quiet(), redirect_stdout(io.StringIO()):
        made = nncf.quantize(graph.clone(), nncf.Dataset(arrays), advanced_parameters=advanced, **options)
    content = _archived(openvino, made)
    lost = judge(loaded("openvino", content)).drop
    count = len(_layers(graph))
    if within(lost, bound):
        return Mixed(lost, lost, count, _floating(made)), content

    def validate(model: Any, items: Iterable[Any]) -> tuple[float, list[float]]:
        drop = judge(lambda inputs: torch.from_numpy(model(inputs.numpy())[0].copy())).drop
        # 1 where the bound holds, with which NNCF ends; not 0, by which it would divide
        metric = 1.0 if within(drop, bound) else 1.0 + bound - drop
        return metric, [metric for _ in items]

    log.info(f"all {count} layers quantized: {lost:+.2f} lost on validation samples (max_drop={bound:g})")
    with quiet(), redirect_stdout(io.StringIO()):
        controlled = nncf.quantize_with_accuracy_control(
            graph.clone(),
            nncf.Dataset(arrays),
            # one item that is not read: `judge` has its samples, and would be called for each item
            nncf.Dataset([0]),
            validate,
            max_drop=0.0,
            drop_type=nncf.DropType.ABSOLUTE,
            advanced_quantization_parameters=advanced,
            **options,
        )
    floating = _floating(controlled)
    if len(floating) == count:  # it gave up: that is the float32 file
        return Mixed(lost, lost, count, _floating(made)), content
    content = _archived(openvino, controlled)
    return Mixed(judge(loaded("openvino", content)).drop, lost, count, floating), content


def _archived(openvino: Any, graph: Any) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        openvino.save_model(graph, str(Path(folder) / GRAPH), compress_to_fp16=False)
        return archive({name: (Path(folder) / name).read_bytes() for name in (GRAPH, WEIGHTS)})


def _layers(graph: Any) -> list[Any]:
    """Return the operators with weights."""
    return [node for node in graph.get_ops() if node.get_type_name() in _WEIGHTED and _constant(node) is not None]


def _floating(graph: Any) -> tuple[str, ...]:
    """Return the names of layers whose weights are not integers."""
    layers = [(node, _constant(node)) for node in _layers(graph)]
    return tuple(
        node.get_friendly_name() for node, weights in layers if weights.get_element_type().get_type_name() == "f32"
    )


def _constant(node: Any) -> Any:
    """Return the constant that the second input is computed from; None if it is an activation."""
    # the integers come first: their scale is a constant too
    while node.get_type_name() != "Constant":
        sides = node.input_values()
        if not sides:
            return None
        node = (sides[1] if node.get_type_name() in _WEIGHTED else sides[0]).get_node()
    return node
