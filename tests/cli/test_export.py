"""`effbench export`: files that other runtimes run, that answer as the run does, and that are whole or not there."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import warnings
import zipfile
from collections import UserDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image, ImageOps
from safetensors.numpy import load_file
from torch import Tensor, nn

from effbench import build
from effbench.data.images.modality import Images
from effbench.data.modality import Settings
from effbench.data.splits import representative_sample
from effbench.export import files, formats
from effbench.run.load import load_run
from tests.cli.conftest import Effbench
from tests.commandline import TINY, python, script

onnx = pytest.importorskip("onnx")
ort = pytest.importorskip("onnxruntime")

# The import of ExecuTorch's exporter alone takes ten seconds of processor time and more.
FORMATS = [pytest.param(name, marks=[pytest.mark.proof] * (name == "executorch")) for name in formats.FORMATS]
SUFFIXES = {name: form.suffix for name, form in formats.FORMATS.items()}
ROOT = Path(__file__).parents[2]


def answers(path: Path, images: np.ndarray) -> np.ndarray:
    """float32 (N, C, H, W) -> logits (N, K), by the file's own runtime and none of effbench's code."""
    if path.suffix == ".onnx":
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        return np.asarray(session.run(["logits"], {"images": images})[0])
    if path.suffix in BY_ITSELF:
        return in_a_process(path, images)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.jit is deprecated, and still what reads TorchScript
        module = torch.jit.load(path) if path.suffix == ".pt" else torch.export.load(path).module()
        return np.asarray(module(torch.from_numpy(images)))


# suffix -> as the runtime's documentation runs a file: arguments are the file, or its folder, and an array's
BY_ITSELF = {
    ".zip": (
        "sys.modules['openvino_telemetry'] = None\n"
        "import openvino\n"
        "options = {'INFERENCE_PRECISION_HINT': 'f32', 'INFERENCE_NUM_THREADS': 1}\n"
        "model = openvino.Core().compile_model(sys.argv[1] + '/model.xml', 'CPU', options)\n"
        "np.save(sys.argv[2], model(np.load(sys.argv[2]))['logits'])\n"
    ),
    ".pte": (
        "import torch\n"
        "from executorch.runtime import Runtime\n"
        "program = Runtime.get().load_program(sys.argv[1])\n"
        "method = program.load_method('forward')\n"
        "parts = torch.from_numpy(np.load(sys.argv[2])).split(32)\n"
        "np.save(sys.argv[2], torch.cat([method.execute((part,))[0] for part in parts]).numpy())\n"
    ),
}


def in_a_process(path: Path, images: np.ndarray) -> np.ndarray:
    """The file, or the archive unpacked, in a process that knows nothing of effbench."""
    place, array = path, path.with_suffix(".npy")
    if zipped := zipfile.is_zipfile(path):
        place = path.with_suffix("")
        shutil.unpack_archive(path, place)
    np.save(array, images)
    code = f"import sys; import numpy as np\n{BY_ITSELF[path.suffix]}"
    subprocess.run([sys.executable, "-c", code, place, array], check=True)
    logits = np.load(array)
    if zipped:
        shutil.rmtree(place)
    array.unlink()
    return np.asarray(logits)


def pixels(run: Path, split: str = "test") -> Tensor:
    """uint8 (N, C, H, W)."""
    return build.splits(load_run(run).config).named()[split].images


def compared(run: Path) -> Tensor:
    """The 256 of the validation split that parity is measured on."""
    val = build.splits(load_run(run).config).named()["val"]
    return val.images[representative_sample(val.labels, 256)]


def in_unit_range(images: Tensor) -> np.ndarray:
    return np.asarray(images, np.float32) / np.float32(255)


class Exports(UserDict[str, Path]):
    """Format -> the run's file in a folder of its own; each is made at its first use."""

    def __init__(self, run: Path, folder: Path):
        super().__init__()
        self.run, self.folder = run, folder

    def __missing__(self, name: str) -> Path:
        from effbench import cli

        folder = self.folder / name
        assert cli.main(["export", str(self.run), f"format={name}", f"output={folder}"]) == 0
        self[name] = folder / f"mlp-best{SUFFIXES[name]}"
        return self[name]


@pytest.fixture(scope="session")
def exports(finished: tuple[Path, str, str], tmp_path_factory: pytest.TempPathFactory) -> Exports:
    """The finished MLP in every format."""
    return Exports(finished[0], tmp_path_factory.mktemp("exports"))


# --- what the file computes


@pytest.mark.spread(2)
@pytest.mark.slow
@pytest.mark.parametrize("name", FORMATS)
def test_export_equals_the_float64_formula_of_the_network(name: str, run: Path, exports: Exports) -> None:
    weights = load_file(run / "checkpoints" / "best" / "model.safetensors")
    data = json.loads((run / "summary.json").read_text())["data"]
    images = in_unit_range(pixels(run)[:50])
    x = ((images.astype(np.float64) - data["mean"][0]) / data["std"][0]).reshape(50, -1)
    hidden = np.maximum(x @ weights["hidden1.0.weight"].T.astype(np.float64) + weights["hidden1.0.bias"], 0)
    expected = hidden @ weights["head.weight"].T.astype(np.float64) + weights["head.bias"]
    assert np.abs(expected).max() > 1  # a trained network's: near zero everything would agree
    np.testing.assert_allclose(answers(exports[name], images), expected, atol=2e-5 * np.abs(expected).max())


@pytest.mark.spread(2)
@pytest.mark.parametrize("name", FORMATS)
def test_export_classifies_like_the_api(name: str, run: Path, exports: Exports) -> None:
    logits = answers(exports[name], in_unit_range(pixels(run)))
    expected = load_run(run).predict(pixels(run))
    torch.testing.assert_close(torch.from_numpy(logits).softmax(1), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.spread(2)
@pytest.mark.parametrize("name", FORMATS)
def test_export_output_is_independent_of_the_batch_size(name: str, run: Path, exports: Exports) -> None:
    images = in_unit_range(pixels(run)[:97])
    whole = answers(exports[name], images)
    for size in (1, 2, 3, 64):
        np.testing.assert_allclose(answers(exports[name], images[:size]), whole[:size], rtol=1e-4, atol=1e-4)


def test_the_onnx_file_is_valid_and_declares_its_input(exports: Exports) -> None:
    model = onnx.load(str(exports["onnx"]))
    onnx.checker.check_model(model, full_check=True)
    assert {(entry.domain, entry.version) for entry in model.opset_import} == {("", 20)}
    [images], [logits] = model.graph.input, model.graph.output
    for value, name, rest in ((images, "images", [1, 28, 28]), (logits, "logits", [10])):
        dims = value.type.tensor_type.shape.dim
        assert (value.name, value.type.tensor_type.elem_type) == (name, onnx.TensorProto.FLOAT)
        assert (dims[0].dim_param, [dim.dim_value for dim in dims[1:]]) == ("N", rest)
    assert not any(tensor.external_data for tensor in model.graph.initializer)


@pytest.mark.spread(1)
@pytest.mark.parametrize("name", FORMATS)
def test_no_path_of_this_machine_is_in_the_file(name: str, exports: Exports, tmp_path: Path) -> None:
    """Exporters note the source line behind each operation."""
    if zipfile.is_zipfile(exports[name]):
        shutil.unpack_archive(exports[name], tmp_path / "it", "zip")
    parts = [exports[name], *(path for path in tmp_path.rglob("*") if path.is_file())]
    for place in (str(ROOT), "site-packages"):
        assert not [part for part in parts if place.encode() in part.read_bytes()]


# --- the record beside it


@pytest.mark.parametrize("name", FORMATS)
def test_the_record_describes_the_file(name: str, run: Path, exports: Exports) -> None:
    path = exports[name]
    record = json.loads((path.parent / f"{path.name}.json").read_text())
    content = path.read_bytes()
    assert (record["file"], record["bytes"]) == (path.name, len(content))
    assert record["sha256"] == hashlib.sha256(content).hexdigest()
    assert (record["format"], record["opset"]) == (name, 20 if name == "onnx" else None)
    given = {"name": "images", "shape": ["N", 1, 28, 28], "dtype": "float32", "range": [0.0, 1.0]}
    batch = {"batch": {"least": 1, "most": 32}} if name == "executorch" else {}
    assert record["input"] == {**given, **batch}
    assert record["output"] == {"name": "logits", "shape": ["N", 10], "dtype": "float32"}
    assert tuple(record["classes"]) == load_run(run).classes
    assert record["run"] == str(run)
    assert record["checkpoint"] == {"name": "best", "step": int(best(run).name.removeprefix("step-"))}
    weights = (best(run) / "model.safetensors").read_bytes()
    assert record["weights_sha256"] == hashlib.sha256(weights).hexdigest()
    assert record["versions"]["torch"] == torch.__version__.partition("+")[0]
    assert ({"onnx", "onnxruntime"} <= record["versions"].keys()) is (name == "onnx")
    for library in ("openvino", "executorch"):
        assert (library in record["versions"]) is (name == library)
    options = {"INFERENCE_PRECISION_HINT": "f32"} if name == "openvino" else {}
    assert record["parity"]["runtime_options"] == options
    sides = [f"{path.name}.json", f"{path.name}.README.md", *([f"{path.name}.predict.py"] if name == "onnx" else [])]
    assert sorted(file.name for file in path.parent.iterdir()) == sorted([path.name, *sides])


def best(run: Path) -> Path:
    return (run / "checkpoints" / "best").resolve()


@pytest.mark.parametrize("name", FORMATS)
def test_recorded_parity_is_reproducible_on_validation_images(name: str, run: Path, exports: Exports) -> None:
    """256 of the 600, a sample of all classes."""
    parity = json.loads((exports[name].parent / f"{exports[name].name}.json").read_text())["parity"]
    images = compared(run)
    trained = load_run(run)
    with torch.no_grad():
        expected = np.asarray(trained.model()(trained.modality().normalise(images.float() / 255)))
    difference = np.abs(answers(exports[name], in_unit_range(images)) - expected).max()
    assert (parity["split"], parity["samples"]) == ("val", 256)
    assert parity["largest_logit"] == pytest.approx(np.abs(expected).max(), rel=1e-5)
    assert parity["relative"] == parity["max_difference"] / parity["largest_logit"]
    assert parity["max_difference"] < 1e-5 * parity["largest_logit"]
    assert difference < 1e-5 * parity["largest_logit"]
    assert (parity["agreement"], parity["agreeing"]) == (1.0, 256)


@pytest.mark.proof
@pytest.mark.spread(1)
@pytest.mark.slow
@pytest.mark.parametrize("opset", [18, 25])
def test_opset_of_the_file_is_the_one_asked_for(opset: int, run: Path, effbench: Effbench, tmp_path: Path) -> None:
    code, out, _ = effbench("export", str(run), f"opset={opset}", "output=it", "--json")
    assert (code, json.loads(out)["opset"]) == (0, opset)
    model = onnx.load(str(tmp_path / "it" / "mlp-best.onnx"))
    assert {(entry.domain, entry.version) for entry in model.opset_import} == {("", opset)}


@pytest.mark.proof
def test_an_opset_that_torch_does_not_write_is_an_error(
    run: Path, effbench: Effbench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Asked for one below 18, torch writes 18 without a word."""
    from effbench.export import onnx_files

    monkeypatch.setattr(onnx_files, "OPSET", 9)
    code, _, err = effbench("export", str(run), "output=it")
    assert (code, list(tmp_path.iterdir())) == (1, [])
    assert "the exporter cannot write opset=9 and wrote " in err


def test_without_data_random_inputs_are_compared_and_said(
    run: Path, effbench: Effbench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unread(*_: Any) -> None:
        raise AssertionError("the data are read")

    monkeypatch.setattr(build, "splits", unread)
    code, out, err = effbench("export", str(run), "format=torchscript", "--no-data", "output=it")
    assert code == 0
    assert "compared on 256 random inputs only (--no-data)" in err
    assert "100.00 % of 256 random images" in out
    parity = json.loads((tmp_path / "it" / "mlp-best.pt.json").read_text())["parity"]
    assert (parity["split"], parity["inputs"], parity["samples"]) == (None, "random", 256)
    assert parity["largest_logit"] > 0.1
    with pytest.raises(AssertionError, match="the data are read"):
        effbench("export", str(run), "format=torchscript", "output=it")


@pytest.mark.row(48)
def test_without_data_a_changed_model_is_still_refused(
    run: Path, effbench: Effbench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from effbench.export import portable as module

    whole = module.portable

    def changed(*words: Any) -> nn.Module:
        own = whole(*words)
        with torch.no_grad():
            own.get_parameter("model.head.bias")[3] += 1.0
        return own

    monkeypatch.setattr(module, "portable", changed)
    assert effbench("export", str(run), "format=torchscript", "--no-data", "output=it")[0] == 3
    assert not list(tmp_path.iterdir())


TELLING = """
import socket, sys
from pathlib import Path

def refused(*words, **named):
    Path("told.txt").write_text(repr(words))
    raise OSError("no network in this test")

socket.create_connection = socket.getaddrinfo = socket.socket.connect = refused
from effbench import cli
code = cli.main(["export", sys.argv[1], "format=openvino", "output=it"])
import time; time.sleep(0.5)  # telemetry is sent by a thread
assert "openvino" in sys.modules, "nothing is proved"
assert not [name for name in sys.modules if name.startswith("openvino_telemetry")], "imported"
sys.exit(code)
"""


@pytest.mark.proof
@pytest.mark.process
def test_openvino_reports_nothing_to_its_makers(run: Path, tmp_path: Path) -> None:
    """openvino-telemetry would ask for an address on the network, and keep an ID in ~/intel."""
    home = tmp_path / "home"
    home.mkdir()
    variables = {name: value for name, value in os.environ.items() if name not in ("CI", "TF_BUILD", "JENKINS_URL")}
    words = [sys.executable, "-c", TELLING, str(run)]
    done = subprocess.run(
        words, cwd=tmp_path, capture_output=True, text=True, check=False, env={**variables, "HOME": str(home)}
    )
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "told.txt").exists()
    assert not (home / "intel").exists()


def test_the_table_and_the_json_say_the_same(run: Path, effbench: Effbench, tmp_path: Path) -> None:
    words = ["export", str(run), "format=torchscript", "output=it"]
    code, out, err = effbench(*words)
    assert code == 0
    rows = dict(line.split(maxsplit=1) for line in out.replace("same answers", "same").splitlines())
    assert (rows["format"], rows["file"]) == ("torchscript", "it/mlp-best.pt")
    assert rows["same"] == "100.00 % of 256 val images"
    assert "exporting mlp-best.pt" in err
    assert "comparing on 256 val images" in err
    result = json.loads(effbench(*words, "--json")[1])
    record = json.loads((tmp_path / "it" / "mlp-best.pt.json").read_text())
    assert result == {**record, "path": "it/mlp-best.pt"}
    assert rows["parity"].startswith(f"{result['parity']['relative']:.2g} of the largest logit")


# --- weights, data, models


@pytest.mark.proof
@pytest.mark.process
def test_export_uses_averaged_weights_of_the_chosen_checkpoint(effbench: Effbench, tmp_path: Path) -> None:
    words = ["model=mlp", "model.hidden=[8]", "ema=on", "data=synthetic", "data.image_size=8", "trainer.max_epochs=2"]
    assert effbench("train", *words, "device.threads=1", "hydra.run.dir=run")[0] == 0
    older, newer = sorted((tmp_path / "run" / "checkpoints").glob("step-*"))
    assert older.with_name("last").resolve() == newer
    older.with_name("best").unlink()
    older.with_name("best").symlink_to(older.name)
    images = pixels(tmp_path / "run")
    for which in ("best", "last"):
        assert effbench("export", "run", "format=torchscript", f"checkpoint={which}")[0] == 0
        logits = answers(tmp_path / "run" / "export" / f"mlp-{which}.pt", in_unit_range(images))
        expected = load_run(tmp_path / "run").predict(images, which)
        torch.testing.assert_close(torch.from_numpy(logits).softmax(1), expected, rtol=1e-4, atol=1e-5)


MODELS = {
    "cnn": ["model=cnn", "model.channels=[4,8]", "model.hidden=16"],
    "mobilenet_v3_small": ["model=mobilenet", "model.bn_momentum=0.5"],
    "swin_micro": ["model=swin_micro", "model.embed_dim=8", "model.depths=[2,2]", "model.num_heads=[1,2]"],
    "vit_tiny": ["model=vit_tiny", "model.depth=2"],
}
SMALL_DATA = ["data=synthetic", "data.num_train=16", "data.num_val=8", "data.num_test=8", "data.num_classes=3"]


@dataclass
class Networks:
    """Runs of MODELS, 20 steps on small colour images, and exports of their last weights; each is made once."""

    folder: Path

    def run(self, name: str) -> Path:
        words = [*MODELS[name], *SMALL_DATA, "data.batch_size=8", "trainer.max_epochs=10", "device.threads=1"]
        return self._made(self.folder / name, ["train", *words, f"hydra.run.dir={self.folder / name}"])

    def export(self, name: str, form: str) -> Path:
        path = self.run(name) / "export" / f"{name}-last{SUFFIXES[form]}"
        return self._made(path, ["export", str(self.run(name)), f"format={form}", "checkpoint=last"])

    def _made(self, path: Path, words: list[str]) -> Path:
        from effbench import cli

        assert path.exists() or cli.main(words) == 0
        return path


@pytest.fixture(scope="session")
def networks(tmp_path_factory: pytest.TempPathFactory) -> Networks:
    return Networks(tmp_path_factory.mktemp("networks"))


@pytest.mark.proof
@pytest.mark.process
@pytest.mark.parametrize("form", SUFFIXES)
@pytest.mark.parametrize("name", MODELS)
def test_every_kind_of_network_is_equal_in_every_format(name: str, form: str, networks: Networks) -> None:
    run = networks.run(name)
    images = pixels(run)
    logits = answers(networks.export(name, form), in_unit_range(images))
    trained = load_run(run)
    with torch.no_grad():
        expected = np.asarray(trained.model("last")(trained.modality().normalise(images.float() / 255)))
    assert np.abs(expected).max() > 0.1
    assert expected.std(0).max() > 0.01  # not one answer for all images
    np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


@pytest.mark.slow
@pytest.mark.proof
def test_depthwise_convolutions_are_plain_ones_in_the_graph(networks: Networks) -> None:
    """Training computes MobileNet's of 5 x 5 by an autograd function of our own; none of it may be exported."""
    model = load_run(networks.run("mobilenet_v3_small")).model()
    convolutions = [module for module in model.modules() if isinstance(module, nn.Conv2d)]
    assert any(module.groups == module.in_channels and module.kernel_size == (5, 5) for module in convolutions)
    assert {type(module) for module in convolutions} == {nn.Conv2d}
    nodes = onnx.load(str(networks.export("mobilenet_v3_small", "onnx"))).graph.node
    assert {node.domain for node in nodes} == {""}
    grouped = [attribute.i for node in nodes for attribute in node.attribute if attribute.name == "group"]
    assert sorted(grouped) == sorted(module.groups for module in convolutions)
    graph = torch.export.load(networks.export("mobilenet_v3_small", "torch_export")).graph
    called = [str(node.target) for node in graph.nodes if node.op == "call_function"]
    assert sum("aten.conv2d" in name for name in called) == len(convolutions)
    assert all(name.startswith("aten.") for name in called), set(called)


@pytest.mark.process
def test_without_a_validation_split_training_images_are_compared(effbench: Effbench) -> None:
    words = [*TINY, "data.val_fraction=0", "early_stopping=off", "checkpoint.save_top_k=0", "hydra.run.dir=run"]
    assert effbench("train", *words)[0] == 0
    result = json.loads(effbench("export", "run", "format=torchscript", "--json")[1])
    assert result["parity"]["split"] == "train"


# --- refusals


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (
            ["format=onx"],
            ["format 'onx'", "executorch, onnx, openvino, torch_export, torchscript", "Did you mean 'onnx'?"],
        ),
        (["checkpoint=first"], ["checkpoint 'first'", "best, last"]),
        (["checkpoint=../../x"], ["checkpoint '../../x'"]),
        (["tolerance=0"], ["tolerance must be", "(0, 1]", "'0'", "such as 1e-4"]),
        (["tolerance=1 %"], ["tolerance must be", "'1 %'"]),
        (["tolerance=nan"], ["tolerance must be", "'nan'"]),
        (["tolerance=2"], ["tolerance must be", "'2'"]),
        (["opset=17", "format=onnx"], ["opset must be", "18 to 25", "got 17"]),
        (["opset=twenty", "format=onnx"], ["opset must be", "'twenty'"]),
        (["opset=20"], ["opset=20 is for format=onnx, not format=torchscript"]),
        (["max_batch=8"], ["max_batch=8 is for format=executorch: a file of format=torchscript takes any number"]),
        (["max_batch=0", "format=executorch"], ["max_batch must be", "from 1 to 4096", "got 0"]),
        (["max_batch=many", "format=executorch"], ["max_batch must be", "'many'"]),
        (["--no-data", "data.root=x"], ["--no-data reads no data", "data.root"]),
        (["fromat=onnx"], ["option of export 'fromat'", "Did you mean 'format'?"]),
        (["another"], ["option of export 'another'"]),
        (["output=file"], ["output folder file cannot be written", "output=FOLDER"]),
        (["data.image_size=32"], ["(1, 32, 32)", "(1, 28, 28)"]),
        (["data.subset=full", "data.root=/nowhere"], ["/nowhere"]),
    ],
    ids=lambda value: value[0],
)
def test_export_refuses_invalid_words_with_the_reason(
    words: list[str], expected: list[str], run: Path, effbench: Effbench, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    output = [] if words[0].startswith("output") else ["output=it"]
    code, out, err = effbench("export", str(run), "format=torchscript", *output, *words)
    assert (code, out) == (2, "")
    assert all(part in err for part in expected), err
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("module", ["onnx", "onnxruntime", "onnxscript"])
def test_missing_export_extra_exits_4_before_reading_the_run(
    module: str, run: Path, effbench: Effbench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    code, out, err = effbench("export", str(run), "output=it")
    assert (code, out) == (4, "")
    assert err == "error: format=onnx needs the extra 'onnx': pip install 'effbench[onnx]'\n"
    assert not list(tmp_path.iterdir())
    assert effbench("export", str(run), "format=torchscript", "output=it")[0] == 0


@pytest.mark.parametrize(
    ("name", "module"), [("openvino", "openvino"), ("openvino", "onnx"), ("executorch", "executorch")]
)
def test_a_missing_library_names_the_format_s_own_extra(
    name: str, module: str, run: Path, effbench: Effbench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    code, _, err = effbench("export", str(run), f"format={name}", "output=it")
    assert (code, list(tmp_path.iterdir())) == (4, [])
    assert err == f"error: format={name} needs the extra '{name}': pip install 'effbench[{name}]'\n"


def test_exporter_failure_is_reported_with_the_other_formats(
    run: Path, effbench: Effbench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise RuntimeError("aten::strange is not known\nand more of it")

    monkeypatch.setattr(torch.jit, "trace", refuse)
    code, out, err = effbench("export", str(run), "format=torchscript", "output=it")
    assert (code, out) == (1, "")
    assert "error: format=torchscript cannot hold this model: aten::strange is not known. Try format=onnx" in err
    assert not list(tmp_path.iterdir())


def test_a_bad_output_is_refused_before_the_model_is_read(
    run: Path, effbench: Effbench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from effbench.run.run import Run

    def read(*_: Any) -> None:
        raise AssertionError("the model is read")

    monkeypatch.setattr(Run, "model_and_manifest", read)
    (tmp_path / "file").touch()
    for output in ("file", "file/below"):
        code, _, err = effbench("export", str(run), "format=torchscript", f"output={output}")
        assert (code, f"the output folder {output} cannot be written" in err) == (2, True)
    with pytest.raises(AssertionError, match="the model is read"):
        effbench("export", str(run), "format=torchscript", "output=new/folder")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]  # new/ was made, and is gone


@pytest.mark.process
def test_two_exports_into_one_folder_at_once_are_refused(run: Path, effbench: Effbench, tmp_path: Path) -> None:
    code = "import sys, time; from pathlib import Path; from effbench.run.lock import holding\n"
    code += "with holding(Path('it')): print('held', flush=True); sys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=-1, stdout=-1, cwd=tmp_path) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"held\n"
        status, out, err = effbench("export", str(run), "format=torchscript", "output=it")
        other.communicate()
    assert (status, out) == (2, "")
    assert f"it is in use by process {other.pid}" in err
    assert "output=FOLDER" in err


# --- row 48: parity


def perturbed(content: bytes, by: float) -> bytes:
    """The ONNX file with one of its weights changed."""
    model = onnx.load_from_string(content)
    [weight] = [tensor for tensor in model.graph.initializer if tensor.name.endswith("head.weight")]
    values = onnx.numpy_helper.to_array(weight).copy()
    values[0, 0] += by
    weight.CopyFrom(onnx.numpy_helper.from_array(values, weight.name))
    return bytes(model.SerializeToString())


@pytest.mark.proof
@pytest.mark.slow
@pytest.mark.row(48)
def test_perturbed_export_is_refused_and_the_older_file_kept(
    run: Path, effbench: Effbench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert effbench("export", str(run), "output=it")[0] == 0
    before = {path.name: path.read_bytes() for path in (tmp_path / "it").iterdir()}
    made = formats.export_bytes
    monkeypatch.setattr(formats, "export_bytes", lambda *words: perturbed(made(*words), 0.5))
    code, out, err = effbench("export", str(run), "output=it")
    assert (code, out) == (3, "")
    assert "error: format=onnx does not give the model's answers: logits differ by " in err
    shown = float(err.partition("differ by ")[2].partition(",")[0])
    weights = load_file(run / "checkpoints" / "best" / "model.safetensors")
    hidden = first_hidden_unit(run, weights)
    assert shown == pytest.approx(0.5 * hidden.max(), rel=1e-2)
    assert "tolerance=0.0001 of the largest logit" in err
    assert {path.name: path.read_bytes() for path in (tmp_path / "it").iterdir()} == before


def first_hidden_unit(run: Path, weights: dict[str, np.ndarray]) -> np.ndarray:
    """Its activation on the 256 images compared: what a change of its weight to a class moves that logit by."""
    data = json.loads((run / "summary.json").read_text())["data"]
    x = (in_unit_range(compared(run)).reshape(256, -1) - data["mean"][0]) / data["std"][0]
    return np.asarray(np.maximum(x @ weights["hidden1.0.weight"][0] + weights["hidden1.0.bias"][0], 0))


@pytest.mark.spread(1)
@pytest.mark.slow
@pytest.mark.row(48)
@pytest.mark.parametrize("name", FORMATS)
def test_model_changed_before_export_is_refused_without_a_folder(
    name: str, run: Path, effbench: Effbench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from effbench.export import portable as module

    whole = module.portable

    def changed(*words: Any) -> nn.Module:
        own = whole(*words)
        with torch.no_grad():
            own.get_parameter("model.head.bias")[3] += 1.0
        return own

    monkeypatch.setattr(module, "portable", changed)
    code, out, err = effbench("export", str(run), f"format={name}", "output=it")
    assert (code, out) == (3, "")
    assert "logits differ by 1, " in err
    assert not list(tmp_path.iterdir())


@pytest.mark.spread(1)
@pytest.mark.slow
@pytest.mark.row(48)
@pytest.mark.parametrize("name", FORMATS)
def test_a_file_that_its_runtime_cannot_read_is_refused(
    name: str, run: Path, effbench: Effbench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = formats.export_bytes
    monkeypatch.setattr(formats, "export_bytes", lambda *words: made(*words)[:5000])
    code, out, err = effbench("export", str(run), f"format={name}", "output=it")
    assert (code, out) == (3, "")
    assert f"error: format={name}: its own runtime cannot read the file: " in err
    assert not list(tmp_path.iterdir())


@pytest.mark.row(48)
def test_the_normalisation_is_part_of_what_is_compared(
    run: Path, effbench: Effbench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from effbench.export import portable as module

    whole = module.portable

    def off(model: nn.Module, normaliser: nn.Module, rescaler: nn.Module) -> nn.Module:
        normaliser.get_buffer("std").mul_(1.01)
        return whole(model, normaliser, rescaler)

    monkeypatch.setattr(module, "portable", off)
    code, _, err = effbench("export", str(run), "format=torchscript", "output=it")
    assert (code, "logits differ by" in err) == (3, True)
    assert not list(tmp_path.iterdir())


@pytest.mark.proof
@pytest.mark.slow
@pytest.mark.row(48)
def test_the_tolerance_is_the_user_s(run: Path, effbench: Effbench, monkeypatch: pytest.MonkeyPatch) -> None:
    made = formats.export_bytes
    monkeypatch.setattr(formats, "export_bytes", lambda *words: perturbed(made(*words), 1e-3))
    code, _, err = effbench("export", str(run), "output=it", "tolerance=1e-6")
    assert (code, "tolerance=1e-06" in err) == (3, True)
    code, out, _ = effbench("export", str(run), "output=it", "tolerance=0.1", "--json")
    assert code == 0
    assert 1e-6 < json.loads(out)["parity"]["relative"] < 0.1
    assert json.loads(out)["parity"]["tolerance"] == 0.1


@pytest.mark.row(48)
def test_weights_with_nan_are_not_exported(run: Path, effbench: Effbench, tmp_path: Path) -> None:
    """Their logits equal nothing."""
    from effbench.run.run import Run

    whole = Run.model_and_manifest

    def broken(self: Run, which: str = "best") -> tuple[nn.Module, dict[str, Any]]:
        model, manifest = whole(self, which)
        with torch.no_grad():
            model.get_parameter("head.bias")[0] = float("nan")
        return model, manifest

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Run, "model_and_manifest", broken)
        code, _, err = effbench("export", str(run), "format=torchscript", "output=it")
    assert (code, "logits differ by nan" in err) == (3, True)
    assert not list(tmp_path.iterdir())


# --- row 47: killed, or no space


@pytest.fixture(scope="session")
def two_runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Of one small MLP, from two seeds."""
    from effbench import cli

    folder = tmp_path_factory.mktemp("two")
    words = [*TINY, *SMALL_DATA, "data.image_size=8"]
    for seed in (0, 1):
        assert cli.main(["train", *words, f"seed={seed}", f"hydra.run.dir={folder / str(seed)}"]) == 0
    return folder / "0", folder / "1"


@pytest.mark.proof
@pytest.mark.process
@pytest.mark.row(47)
def test_export_killed_at_any_syscall_leaves_old_or_new_file(two_runs: tuple[Path, Path], tmp_path: Path) -> None:
    done = python("-m", "tests.cli.export_kills", *map(str, two_runs), str(tmp_path / "work"), cwd=ROOT, timeout_s=600)
    assert done.returncode == 0, done.stdout + done.stderr
    told = json.loads(done.stdout)
    assert {"open", "write", "fsync", "unlink", "replace"} <= set(told["calls"])
    assert told["kills"] == 2 * len(told["calls"]) > 30
    assert told["faults"] == {}


KILLED = """
import os, signal, sys
from pathlib import Path
from effbench import cli
Path.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
cli.main(["export", sys.argv[1], "output=it"])
"""


@pytest.mark.proof
@pytest.mark.process
@pytest.mark.row(47)
def test_killed_onnx_export_keeps_old_file_and_next_cleans_up(
    two_runs: tuple[Path, Path], effbench: Effbench, tmp_path: Path
) -> None:
    assert effbench("export", str(two_runs[0]), "output=it")[0] == 0
    before = (tmp_path / "it" / "mlp-best.onnx").read_bytes()
    done = script(KILLED, str(two_runs[1]), cwd=tmp_path)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert (tmp_path / "it" / "mlp-best.onnx").read_bytes() == before
    assert len(list((tmp_path / "it").glob(".*.tmp"))) == 2
    assert effbench("export", str(two_runs[1]), "output=it")[0] == 0
    assert (tmp_path / "it" / "mlp-best.onnx").read_bytes() != before
    left = sorted(path.name for path in (tmp_path / "it").iterdir())
    assert left == [f"mlp-best.onnx{end}" for end in ("", ".README.md", ".json", ".predict.py")]


LIMITED = """
import resource, sys
from effbench import cli
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]), resource.RLIM_INFINITY))
sys.exit(cli.main(["export", *sys.argv[2:]]))
"""


@pytest.mark.spread(1)
@pytest.mark.process
@pytest.mark.row(47)
@pytest.mark.parametrize(("name", "earlier"), [("onnx", False), ("torchscript", True), ("torch_export", False)])
def test_export_without_disk_space_leaves_no_partial_file(
    name: str, earlier: bool, two_runs: tuple[Path, Path], effbench: Effbench, tmp_path: Path
) -> None:
    before = {}
    if earlier:
        assert effbench("export", str(two_runs[0]), f"format={name}", "output=it")[0] == 0
        before = {path.name: path.read_bytes() for path in (tmp_path / "it").iterdir()}
    done = script(LIMITED, "2000", str(two_runs[1]), f"format={name}", "output=it", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert "Traceback" not in done.stderr
    assert f"error: no space at it/mlp-best{SUFFIXES[name]}, needs " in done.stderr
    assert "output=FOLDER" in done.stderr
    folder = tmp_path / "it"
    assert ({path.name: path.read_bytes() for path in folder.iterdir()} if folder.exists() else {}) == before


@contextmanager
def small_disk(folder: Path, kilobytes: int) -> Iterator[None]:
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "none", str(folder)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("no right to mount a file system")
    try:
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.process
@pytest.mark.row(47)
def test_a_disk_that_is_really_full_is_named(run: Path, effbench: Effbench, tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 64):
        code, out, err = effbench("export", str(run), "format=torchscript", "output=disk/it")
        left = list((tmp_path / "disk").iterdir())
    assert (code, out, left) == (1, "", [])
    assert "error: no space at disk/it/mlp-best.pt, needs " in err
    assert "No space left on device" in err


@pytest.mark.row(47)
@pytest.mark.parametrize("number", [1, 2])
def test_disk_full_in_fsync_keeps_the_older_export(
    number: int, two_runs: tuple[Path, Path], effbench: Effbench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file's own sync, then its record's: both come before anything is renamed."""
    from tests.cli.test_full_disk import full_from

    assert effbench("export", str(two_runs[0]), "format=torchscript", "output=it")[0] == 0
    before = {path.name: path.read_bytes() for path in (tmp_path / "it").iterdir()}
    monkeypatch.setattr(files.os, "fsync", full_from(number, files.os.fsync))
    code, out, err = effbench("export", str(two_runs[1]), "format=torchscript", "output=it")
    assert (code, out) == (1, "")
    assert "error: no space at it/mlp-best.pt" in err
    assert {path.name: path.read_bytes() for path in (tmp_path / "it").iterdir()} == before


# --- what the record says of a file's way to the model


def as_the_record_says(path: Path, record: dict[str, Any]) -> np.ndarray:
    """float32 (1, C, H, W) out of an image file, by numpy, Pillow and the record alone."""
    steps = record["preprocessing"]
    image: Image.Image = Image.open(io.BytesIO(path.read_bytes()))
    image.draft(None, tuple(steps["jpeg"]["draft"]))
    assert steps["exif_orientation"] == "applied"
    image = ImageOps.exif_transpose(image)
    if image.mode in ("F", "I") or image.mode.startswith("I;"):
        deep = steps["more_than_8_bits"]
        white = deep["white"]["floats" if image.mode == "F" else "integers"]
        assert deep["scale"] == "uint8 of round(min(value, white) * 255 / white) in float64, halves to even"
        values = np.minimum(np.asarray(image, np.float64), white)
        image = Image.fromarray(np.round(values * 255 / white).astype(np.uint8))
    if image.has_transparency_data:
        assert steps["transparency"] == "over white"
        white = Image.new("RGBA", image.size, "white")
        white.alpha_composite(image.convert("RGBA"))
        image = white
    image = image.convert("RGB").convert(steps["colour_order"])
    width, height = image.size
    assert (steps["crop"]["side"], steps["crop"]["place"]) == ("the shorter side", "centre")
    side = min(width, height)
    left, top = (width - side) / 2, (height - side) / 2
    kind = {"bilinear": Image.Resampling.BILINEAR}[steps["resize"]["interpolation"]]
    assert steps["resize"]["antialias"]  # as Pillow always does
    size = tuple(steps["resize"]["size"])
    image = image.resize(size, kind, box=(left, top, left + side, top + side))
    assert steps["then"]["layout"] == "NCHW"
    planes = np.asarray(image, steps["dtype"]).reshape(*size, -1).transpose(2, 0, 1)
    return np.asarray(planes[None].astype(steps["then"]["dtype"]) * np.float32(steps["then"]["scale"]))


def pictures(folder: Path) -> list[Path]:
    """Images whose way to the model differs, each with another content."""
    low = np.random.default_rng(0).integers(0, 256, (6, 9, 4), np.uint8)
    smooth = Image.fromarray(low, "RGBA").resize((450, 300), Image.Resampling.BICUBIC)
    deep = np.asarray(smooth.convert("L").resize((40, 33)), np.uint16) * 200 + 7  # above and below 2^15
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees
    folder.mkdir()
    smooth.convert("RGB").save(folder / "wide.jpg")  # far above the model's size
    smooth.convert("RGB").resize((40, 90)).save(folder / "turned.jpg", exif=exif)
    smooth.resize((70, 50)).save(folder / "transparent.png")
    smooth.convert("L").resize((29, 28)).save(folder / "gray.png")
    smooth.convert("RGB").resize((64, 64)).quantize(32).save(folder / "palette.gif")
    Image.fromarray(deep).save(folder / "deep.png", exif=exif)
    Image.fromarray(deep[::-1].astype(np.float32) / 2**16).save(folder / "floats.tif")
    return sorted(folder.iterdir())


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("white", [None, (16383.0, 0.5)])
def test_pixels_from_the_record_alone_are_those_of_effbench(
    channels: int, white: tuple[float, float] | None, tmp_path: Path
) -> None:
    """White levels are those of a train split; None: it held no image of more than 8 bits."""
    recorded = {"shape": (channels, 28, 28), "mean": [0.5] * channels, "std": [0.2] * channels, "white_level": white}
    images = Images.restored(recorded, Settings())
    record = json.loads(json.dumps(images.export_facts()))
    files, problems = pictures(tmp_path / "pictures"), list[str]()
    [(names, read)] = images.read_files([str(tmp_path / "pictures")], {}, problems)
    assert not problems
    assert [name["file"] for name in names] == [str(file) for file in files]
    for file, expected in zip(files, images.portable(read), strict=True):
        np.testing.assert_array_equal(as_the_record_says(file, record)[0], expected.numpy(), err_msg=file.name)


@pytest.mark.spread(1)
@pytest.mark.process
@pytest.mark.parametrize("channels", [1, 3])
def test_predict_is_reproduced_from_the_record_and_the_file(
    channels: int, run: Path, exports: Exports, tmp_path: Path, effbench: Effbench
) -> None:
    path = exports["onnx"]
    if channels == 3:
        words = ["data=synthetic", "data.num_train=64", "data.num_val=32", "data.num_test=16"]
        run = tmp_path / "colour"
        assert effbench("train", *TINY, *words, f"hydra.run.dir={run}")[0] == 0
        assert effbench("export", str(run), f"output={tmp_path}")[0] == 0
        path = tmp_path / "mlp-best.onnx"
    record = json.loads((path.parent / f"{path.name}.json").read_text())
    files = pictures(tmp_path / "pictures")
    code, out, _ = effbench("predict", str(run), *map(str, files), "top_k=10", "--json")
    assert code == 0
    assert record["probabilities"].startswith("softmax")
    seen = set()
    for file, row in zip(files, json.loads(out), strict=True):
        logits = answers(path, as_the_record_says(file, record))[0].astype(np.float64)
        ours = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
        theirs = {entry["class"]: entry["probability"] for entry in row["top_k"]}
        assert np.abs(ours - [theirs[name] for name in record["classes"]]).max() < 1e-3
        seen.add(tuple(np.round(ours, 4)))
    assert len(seen) == len(files)  # the pictures are told apart, so that the comparison says something


# --- predict.py

BARE = """
import os, runpy, sys
sys.path[:] = [path for path in sys.path if "site-packages" not in path] + [sys.argv[1]]
for module in ("torch", "effbench", "torchvision", "onnx"):
    try:
        __import__(module)
    except ImportError:
        continue
    sys.exit(f"{module} can be imported: nothing is proved")
sys.argv = sys.argv[2:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.fixture(scope="session")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for sys.path with onnxruntime, numpy and Pillow, and no other library."""
    folder = tmp_path_factory.mktemp("bare")
    site = Path(np.__file__).parents[1]
    for name in ("numpy", "numpy.libs", "PIL", "pillow.libs", "onnxruntime"):
        if (site / name).exists():
            (folder / name).symlink_to(site / name)
    return folder


def by_itself(program: Path, files: list[Path], bare: Path, refused: Sequence[Path] = ()) -> list[dict[str, Any]]:
    """What the program prints, as python -I -S runs it: without this environment, and so without torch.

    Args:
        program: the program.
        files: its arguments.
        bare: a folder with the libraries that it may import.
        refused: files that it must list as unreadable, in this order, with the exit code 1.
    """
    words = [sys.executable, "-I", "-S", "-c", BARE, str(bare), str(program), *map(str, files)]
    done = subprocess.run(words, capture_output=True, text=True, check=False, cwd="/")
    listed = [line for line in done.stderr.splitlines() if line.startswith(str(files[0].parents[1]))]
    assert (done.returncode, len(listed)) == (int(bool(refused)), len(refused)), done.stderr
    assert all(line.startswith(f"{path}: ") for line, path in zip(listed, refused, strict=True))
    assert "Traceback" not in done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def unreadable(folder: Path) -> list[Path]:
    """Files that `effbench predict` refuses for a run that was trained on images of 8 bits."""
    values = np.linspace(0, 1, 30 * 30, dtype=np.float32).reshape(30, 30)
    folder.mkdir()
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (90, 90), np.uint8))
    for name in ("altered.png", "cut.jpg"):
        noise.save(folder / name)
        content = (folder / name).read_bytes()
        half = len(content) // 2
        rest = bytes([content[half] ^ 255]) + content[half + 1 :] if name == "altered.png" else b""
        (folder / name).write_bytes(content[:half] + rest)
    Image.fromarray(values * 255).save(folder / "bright.tif")
    Image.fromarray((values * 70_000).astype(np.int32)).save(folder / "large.tif")
    Image.fromarray(np.where(values > 0.9, np.float32("nan"), values)).save(folder / "nan.tif")
    Image.fromarray(values - np.float32(0.001)).save(folder / "negative.tif")
    (folder / "notes.txt").write_text("no image")
    Image.new("RGB", (30, 30)).save(folder / "other.pcx")  # of a format that is not read
    return sorted(folder.iterdir())


@pytest.mark.process
def test_predict_py_answers_like_effbench_predict(
    run: Path, exports: Exports, bare: Path, tmp_path: Path, effbench: Effbench
) -> None:
    program = exports["onnx"].with_name("mlp-best.onnx.predict.py")
    lines = [line for line in program.read_text().splitlines() if line.strip()]
    assert len(lines) <= 32  # 1 of them says what it is, 7 what it imports
    pictures(tmp_path / "pictures")
    with Image.open(tmp_path / "pictures" / "wide.jpg") as image:
        image.resize((50, 40)).save(tmp_path / "pictures" / "damaged exif.png", exif=b"Exif\0\0junk")
    files, refused = sorted((tmp_path / "pictures").iterdir()), unreadable(tmp_path / "unreadable")
    given = [*refused[:3], *files, *refused[3:]]
    code, out, err = effbench("predict", str(run), *map(str, given), "--json")
    assert (code, [str(path) in err for path in given]) == (1, [path in refused for path in given])
    ours, theirs = by_itself(program, given, bare, refused), json.loads(out)
    assert [row["file"] for row in ours] == [row["file"] for row in theirs] == [str(file) for file in files]
    assert [row["class"] for row in ours] == [row["class"] for row in theirs]
    np.testing.assert_allclose(
        [row["probability"] for row in ours], [row["probability"] for row in theirs], atol=1e-3, rtol=0
    )
    assert len({row["probability"] for row in ours}) == len(files)


@pytest.mark.proof
@pytest.mark.process
def test_predict_py_of_deep_images_takes_larger_values_as_white(exports: Exports, bare: Path, tmp_path: Path) -> None:
    """As the record of a run says whose train split held images of more than 8 bits."""
    from effbench.export.script import predict_script

    shutil.copytree(exports["onnx"].parent, tmp_path / "it")
    record = json.loads((tmp_path / "it" / "mlp-best.onnx.json").read_text())
    white = {"integers": 4095.0, "floats": 0.5}
    record["preprocessing"]["more_than_8_bits"] |= {"above_white": "white", "white": white}
    (tmp_path / "it" / "program.py").write_text(predict_script(record, "program.py") or "")
    values = np.random.default_rng(0).random((30, 30), np.float32)
    files = [tmp_path / "it" / name for name in ("deep.tif", "clipped.tif", "infinite.tif")]
    infinite = np.where(values > 0.1, values, np.float32("inf"))
    for path, content in zip(files, (values, values.clip(0, 0.5), infinite), strict=True):
        Image.fromarray(content).save(path)
    [deep, clipped] = by_itself(tmp_path / "it" / "program.py", files, bare, files[2:])
    assert deep["probability"] == clipped["probability"]


LABELS = """
import torch
from effbench.data.splits import Split, Splits

def photos(targets):
    images = torch.randint(0, 256, (64, 3, 8, 8), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    means = images.float().mean((2, 3)) / 255
    targets = means if targets == "values" else (means > 0.5).float()
    split = Split(images, targets)
    return Splits(train=split, val=split, test=split, classes=("red", "green", "blue"), name="photos", sha256="0" * 64)
"""


@pytest.mark.proof
@pytest.mark.process
@pytest.mark.parametrize(
    ("targets", "words"),
    [
        ("values", ["task=regression", "loss=mse", "task.metrics=[mae]"]),
        ("labels", ["task=multilabel", "loss=bce", "task.metrics=[label_acc]"]),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_predict_py_answers_for_labels_and_values(
    targets: str, words: list[str], bare: Path, tmp_path: Path, effbench: Effbench, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "conf" / "data").mkdir(parents=True)
    (tmp_path / "conf" / "data" / "photos.yaml").write_text(
        f"defaults: [_base, _self_]\n_target_: photo_set.photos\ntargets: {targets}\n"
    )
    (tmp_path / "photo_set.py").write_text(LABELS)
    monkeypatch.syspath_prepend(tmp_path)
    mine = "allow_targets=[photo_set]"
    given = ["data=photos", *words, mine, "--config-dir", "conf", "data.batch_size=16", "augment=none"]
    assert effbench("train", *TINY, *given, "hydra.run.dir=run")[0] == 0
    assert effbench("export", "run", mine)[0] == 0
    files = pictures(tmp_path / "pictures")
    code, out, _ = effbench("predict", "run", mine, *map(str, files), "--json")
    assert code == 0
    for ours, theirs in zip(
        by_itself(tmp_path / "run/export/mlp-best.onnx.predict.py", files, bare), json.loads(out), strict=True
    ):
        key = {"values": "values", "labels": "probabilities"}[targets]
        assert ours.keys() == theirs.keys()
        assert ours[key] == pytest.approx(theirs[key], abs=1e-3)
        assert ours.get("labels") == theirs.get("labels")


# --- the model card and the layout of the Hub


def wilson(share: float, n: int) -> tuple[float, float]:
    """The roots of (p - share)^2 = z^2 p (1 - p) / n, by numpy."""
    z2 = 1.959963984540054**2
    low, high = np.sort(np.roots([1 + z2 / n, -2 * share - z2 / n, share**2]))
    return float(low), float(high)


def test_card_states_metrics_with_wilson_intervals(run: Path, exports: Exports) -> None:
    card = exports["onnx"].with_name("mlp-best.onnx.README.md").read_text()
    summary = json.loads((run / "summary.json").read_text())
    share, n = summary["metrics"]["test/acc"], summary["data"]["counts"]["test"]
    low, high = wilson(share, n)
    assert f"| accuracy | {100 * share:.2f} % | {100 * low:.2f} % to {100 * high:.2f} % (Wilson, n = {n:,}) |" in card
    assert f"| loss | {summary['metrics']['test/loss']:.4f} nats | not known from one run |" in card
    assert summary["data"]["sha256"] in card
    assert "- optimizer: AdamW (lr 0.003," in card
    assert "## Intended use\n\nTo be filled in" in card
    assert not card.startswith("---")


@pytest.mark.process
def test_card_of_an_untested_checkpoint_says_so(effbench: Effbench, tmp_path: Path) -> None:
    words = ["model=mlp", "model.hidden=[8]", "data=synthetic", "data.image_size=8", "trainer.max_epochs=2"]
    assert effbench("train", *words, "device.threads=1", "hydra.run.dir=run")[0] == 0
    steps = sorted(path.name for path in (tmp_path / "run" / "checkpoints").glob("step-*"))
    tested = json.loads((tmp_path / "run" / "summary.json").read_text())["best"]["checkpoint"]
    for step in steps:
        assert effbench("export", "run", "format=torchscript", f"checkpoint={step}")[0] == 0
        card = (tmp_path / "run" / "export" / f"mlp-{step}.pt.README.md").read_text()
        assert ("this file holds step" in card) is (step != tested)


@pytest.mark.process
def test_huggingface_layout_holds_what_the_hub_reads(run: Path, effbench: Effbench, tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("mine")
    assert effbench("export", str(run), "format=torchscript", "layout=huggingface", "output=.")[0] == 0
    folder = tmp_path / "mlp-best-huggingface"
    names = ["README.md", "config.json", "mlp-best.pt", "mlp-best.pt.json", "model.safetensors"]
    assert sorted(path.name for path in folder.iterdir()) == names
    assert (tmp_path / "README.md").read_text() == "mine"
    [_, front, _] = (folder / "README.md").read_text().split("---\n", 2)
    about, summary = yaml.safe_load(front), json.loads((run / "summary.json").read_text())
    assert (about["library_name"], about["pipeline_tag"]) == ("effbench", "image-classification")
    [result] = about["model-index"][0]["results"]
    assert {"type": "accuracy", "name": "test acc", "value": summary["metrics"]["test/acc"]} in result["metrics"]
    config = json.loads((folder / "config.json").read_text())
    assert [config["id2label"][str(number)] for number in range(10)] == list(load_run(run).classes)
    assert (config["num_channels"], config["image_size"]) == (1, [28, 28])
    model = load_run(run).model()
    weights = load_file(folder / "model.safetensors")
    assert weights.keys() == model.state_dict().keys()
    assert all(np.array_equal(weights[name], tensor.numpy()) for name, tensor in model.state_dict().items())
    assert effbench("eval", str(folder / "mlp-best.pt"), "trust=true")[0] == 0


@pytest.mark.process
@pytest.mark.parametrize(("layout", "name"), [("file", "mlp-best.pt.README.md"), ("huggingface", "README.md")])
def test_a_second_export_keeps_the_users_words(
    layout: str, name: str, run: Path, effbench: Effbench, tmp_path: Path
) -> None:
    words = ("export", str(run), "format=torchscript", f"layout={layout}", "output=it")
    assert effbench(*words)[0] == 0
    [card] = tmp_path.rglob(name)
    made = card.read_text()
    use, limits = (made.split(f"## {heading}\n\n")[1].split("\n")[0] for heading in ("Intended use", "Limits"))
    mine = made.replace(use, "For digits.").replace(limits, f"{limits} Not for letters.")
    card.write_text(mine)
    code, _, err = effbench(*words)
    assert (code, card.read_text()) == (0, mine)
    assert f"note: {name} keeps your text of Intended use and Limits" in err
    card.write_text(mine.replace("## Training", "## Training\n\n- by me"))
    code, _, err = effbench(*words)
    assert (code, card.read_text()) == (0, mine)
    assert f"note: {name} was changed outside of Intended use and Limits: a copy of it is {name}.before" in err
    assert "- by me" in card.with_name(f"{name}.before").read_text()


def test_an_unknown_layout_lists_what_there_is(run: Path, effbench: Effbench) -> None:
    code, _, err = effbench("export", str(run), "layout=hub")
    assert (code, "layout 'hub' is not one of: file, huggingface" in err) == (2, True)


CARD: dict[str, Any] = {
    "model": {"name": "m", "parameters": 1, "macs": None}, "file": "m.onnx", "format": "onnx", "bytes": 1,
    "versions": {"effbench": "1"}, "checkpoint": {"name": "best", "step": 4}, "input": {"name": "images"},
    "task": {"targets": "class"}, "classes": ["a"], "config": {"data": {}}, "data": {"name": "d", "sha256": "0"},
    "parity": {"split": "val", "samples": 1, "relative": 0.0, "agreeing": 1},
}  # fmt: skip


@pytest.mark.parametrize(
    ("facts", "other"),
    [({}, True), ({"quantized": {"scheme": "static"}}, False), ({"checkpoint": {"name": "best", "step": 0}}, False)],
)
def test_metrics_of_a_compressed_run_are_of_its_own_file(facts: dict[str, Any], other: bool) -> None:
    """Its summary has the steps of its run and no best checkpoint: 8 bits, or channels removed without fine-tuning."""
    from effbench.export.card import model_card

    card = model_card({**CARD, **facts}, {"steps": 9, "epochs": 1.0, "metrics": {"test/acc": 0.5}}, False)
    assert "| accuracy | 50.00 % |" in card
    assert ("measure it with effbench eval" in card) is other


def test_markup_in_class_names_stays_text_in_a_card() -> None:
    from effbench.export.card import model_card

    facts: dict[str, Any] = {
        "model": {"name": "m", "parameters": 1, "macs": None}, "file": "m.onnx", "format": "onnx", "bytes": 1,
        "versions": {"effbench": "1"}, "checkpoint": {"name": "best", "step": 1}, "input": {"name": "images"},
        "task": {"targets": "class"}, "classes": ["<img src=x>", "a|b", "x\ny"], "config": {"data": {}},
        "data": {"name": "d\n---\nevil: 1", "sha256": "`0"},
        "parity": {"split": "val", "samples": 1, "relative": 0.0, "agreeing": 1},
    }  # fmt: skip
    card = model_card(facts, {"steps": 1, "epochs": 1.0, "metrics": {"test/acc": 0.5}}, True)
    assert "<img" not in card
    assert "evil" not in yaml.safe_load(card.split("---\n")[1])
    assert "\nx" not in card
    assert "a\\|b" in card
