"""8-bit OpenVINO files, made by NNCF: weights by channel, activations by ranges from calibration samples."""

from __future__ import annotations

import io
import logging
import math
import tempfile
from collections.abc import Callable, Iterable
from contextlib import redirect_stdout
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from effbench.compress.mixed import Mixed, check_time, within
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


class OpenvinoInt8:
    """One float32 file to be quantized with the given calibration samples.

    Args:
        file: the float32 ONNX file.
        samples: calibration samples as the file takes them, (N, ...).
        attention: the model has attention, whose activations are smoothed and quantized differently.
    """

    def __init__(self, file: Path, samples: Tensor, attention: bool):
        self._openvino, self._nncf = require_openvino(), require_nncf()
        self._graph = self._openvino.Core().read_model(str(file))
        self._arrays = [sample.numpy() for sample in samples.split(1)]
        # without VNNI two products of 8 bits may exceed the 16 bits that they are added in: weights of 7 bits
        fixes = self._nncf.OverflowFix
        fix = fixes.FIRST_LAYER if has_int8_products() else fixes.ENABLE
        self._advanced = self._nncf.AdvancedQuantizationParameters(overflow_fix=fix)
        self._options = {
            "preset": self._nncf.QuantizationPreset.MIXED,
            "model_type": self._nncf.ModelType.TRANSFORMER if attention else None,
            "subset_size": len(self._arrays),
        }

    @cached_property
    def _quantized(self) -> Any:
        """The graph with all layers in 8 bits."""
        # progress bars
        with quiet(), redirect_stdout(io.StringIO()):
            return self._nncf.quantize(
                self._graph.clone(),
                self._nncf.Dataset(self._arrays),
                advanced_parameters=self._advanced,
                **self._options,
            )

    def content(self) -> bytes:
        """Return the archive with all layers in 8 bits."""
        return _archived(self._openvino, self._quantized)

    def within_bound(
        self, judge: Callable[[Forward], float], bound: float, deadline: float = math.inf
    ) -> tuple[Mixed, bytes]:
        """Return the archive with layers in float32 if the bound fails otherwise.

        Args:
            judge: a model as its runtime executes it -> what it loses.
            bound: largest drop.
            deadline: in seconds of time.monotonic(), after which no more models are tried.

        Raises:
            OutOfTimeError: the deadline came before NNCF ended.
        """
        content, count = self.content(), len(_layers(self._graph))
        lost = judge(loaded("openvino", content))
        whole = Mixed(lost, lost, count, _floating(self._quantized))
        if within(lost, bound):
            return whole, content
        log.info(f"all {count} layers quantized: {lost:+.2f} lost (max_drop={bound:g})")
        controlled = self._controlled(judge, bound, deadline)
        floating = _floating(controlled)
        if len(floating) == count:  # it gave up: that is the float32 file
            return whole, content
        content = _archived(self._openvino, controlled)
        return Mixed(judge(loaded("openvino", content)), lost, count, floating), content

    def _controlled(self, judge: Callable[[Forward], float], bound: float, deadline: float) -> Any:
        """Return the graph that NNCF's accuracy control ends with. The arguments are those of `within_bound`."""

        def validate(model: Any, items: Iterable[Any]) -> tuple[float, list[float]]:
            check_time(deadline, "NNCF's accuracy control had not ended")
            drop = judge(lambda inputs: torch.from_numpy(model(inputs.numpy())[0].copy()))
            # 1 where the bound holds, with which NNCF ends; not 0, by which it would divide
            metric = 1.0 if within(drop, bound) else 1.0 + bound - drop
            return metric, [metric for _ in items]

        with quiet(), redirect_stdout(io.StringIO()):
            return self._nncf.quantize_with_accuracy_control(
                self._graph.clone(),
                self._nncf.Dataset(self._arrays),
                # one item that is not read: `judge` has its samples, and would be called for each item
                self._nncf.Dataset([0]),
                validate,
                max_drop=0.0,
                drop_type=self._nncf.DropType.ABSOLUTE,
                advanced_quantization_parameters=self._advanced,
                **self._options,
            )


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


def _constant(layer: Any) -> Any:
    """Return the constant that the second input is computed from; None if it is an activation."""
    pending, found = [layer.input_value(1).get_node()], None
    while pending:
        node = pending.pop()
        sides = [side.get_node() for side in node.input_values()]
        if node.get_type_name() == "Constant":
            # the integers come first: their scale is a constant too
            found = node if found is None else found
        elif not sides or node.get_type_name() in _WEIGHTED:  # an input of the graph, or outputs of another layer
            return None
        pending += reversed(sides)
    return found
