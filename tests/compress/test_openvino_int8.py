"""NNCF's accuracy control on a small graph: as few layers in float32 as hold the bound, and never all of them."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from effbench.compress import openvino_int8
from effbench.compress.openvino_int8 import OpenvinoInt8
from effbench.errors import OutOfTimeError
from effbench.export.interface import Forward
from effbench.export.openvino_runtime import import_openvino, members_of
from tests.compress.test_onnx_int8 import graph_file

pytestmark = [
    pytest.mark.slow,
    pytest.mark.proof,  # the import of NNCF alone
    pytest.mark.skipif(find_spec("nncf") is None, reason="extra compress"),
]

INPUTS = np.random.default_rng(1).normal(size=(64, 8)).astype(np.float32)
SAMPLES = torch.from_numpy(INPUTS[:16])


class Judging:
    """Compares a file with the formula of its graph: by how many percent outputs move, or 1 if they move at all."""

    def __init__(self, weights: list[np.ndarray], any_is_one: bool = False):
        self.expected = np.maximum(INPUTS @ weights[0], 0) @ weights[1]
        self.any_is_one, self.calls = any_is_one, 0

    def __call__(self, forward: Forward) -> float:
        self.calls += 1
        moved = self.moved(forward(torch.from_numpy(INPUTS)).numpy())
        return float(moved > 1e-4) if self.any_is_one else 100 * moved

    def moved(self, outputs: np.ndarray) -> float:
        return float(np.sqrt(((outputs - self.expected) ** 2).mean() / (self.expected**2).mean()))


def by_hand(content: bytes) -> tuple[np.ndarray, set[str]]:
    """What OpenVINO answers for the archive, and the types of its matrices."""
    core = import_openvino().Core()
    graph, weights = members_of(content)
    model = core.read_model(model=graph, weights=weights)
    kinds = {
        node.get_element_type().get_type_name()
        for node in model.get_ops()
        # scales are a row or a column
        if node.get_type_name() == "Constant" and len(node.get_output_shape(0)) == 2
        if min(node.get_output_shape(0)) > 1
    }
    return core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})(INPUTS)[0], kinds


@pytest.mark.process
def test_layers_stay_in_float_until_the_bound_holds(tmp_path: Path) -> None:
    file, weights = graph_file(tmp_path / "f.onnx", width=32)
    judge = Judging(weights)
    whole, content = OpenvinoInt8(file, SAMPLES, attention=False).within_bound(judge, 1e6)
    assert (whole.layers, whole.floating, judge.calls) == (2, (), 1)
    outputs, kinds = by_hand(content)
    assert judge.moved(outputs) == pytest.approx(whole.drop / 100, rel=1e-3)
    assert kinds == {"i8"}
    judge.calls, bound = 0, 0.9 * whole.drop
    mixed, content = OpenvinoInt8(file, SAMPLES, attention=False).within_bound(judge, bound)
    assert mixed.drop <= bound < mixed.drop_of_all == pytest.approx(whole.drop)
    assert len(mixed.floating) == 1
    outputs, kinds = by_hand(content)
    assert judge.moved(outputs) == pytest.approx(mixed.drop / 100, rel=1e-3)
    assert kinds == {"i8", "f32"}
    # each is an evaluation of all validation samples; NNCF would make one for each sample of its own
    assert judge.calls <= 12


@pytest.mark.process
def test_products_of_activations_are_no_layers(tmp_path: Path) -> None:
    """A key is the output of a layer with weights: these are of that layer, and not of the product with the query."""
    file, _ = graph_file(tmp_path / "f.onnx", attention=True, width=32)
    for attention in (True, False):
        quantizer = OpenvinoInt8(file, SAMPLES, attention)
        assert quantizer.within_bound(lambda _: 0.0, 1.0)[0].layers == 2


@pytest.mark.process
def test_a_bound_that_no_8_bits_hold_gives_no_float_file(tmp_path: Path) -> None:
    """NNCF ends with the model as it was, which loses nothing and is no smaller."""
    file, weights = graph_file(tmp_path / "f.onnx", width=32)
    mixed, content = OpenvinoInt8(file, SAMPLES, attention=False).within_bound(Judging(weights, any_is_one=True), 0.5)
    assert (mixed.drop, mixed.floating) == (1.0, ())
    assert by_hand(content)[1] == {"i8"}


@pytest.mark.process
def test_accuracy_control_ends_at_the_deadline(tmp_path: Path) -> None:
    """NNCF calls the judge for each group of operators, and takes its first error for another kind of metric."""
    file, weights = graph_file(tmp_path / "f.onnx", width=32)
    judge = Judging(weights, any_is_one=True)
    with pytest.raises(OutOfTimeError, match="when NNCF's accuracy control had not ended"):
        OpenvinoInt8(file, SAMPLES, attention=False).within_bound(judge, 0.5, deadline=0.0)
    assert judge.calls == 1  # of the file with all layers in 8 bits


def largest(content: bytes) -> int:
    """Magnitude of the largest weight of 8 bits."""
    graph, weights = members_of(content)
    found = [
        np.abs(node.get_data().astype(int)).max()
        for node in import_openvino().Core().read_model(model=graph, weights=weights).get_ops()
        if node.get_type_name() == "Constant" and node.get_element_type().get_type_name() == "i8"
    ]
    return int(max(found))


@pytest.mark.parametrize("products", [True, False])
def test_weights_have_7_bits_where_products_saturate(
    products: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(openvino_int8, "has_int8_products", lambda: products)
    file, _ = graph_file(tmp_path / "f.onnx")
    content = OpenvinoInt8(file, SAMPLES, attention=False).content()
    assert largest(content) in (range(120, 129) if products else range(57, 65))
