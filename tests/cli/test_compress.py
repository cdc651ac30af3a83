"""`effbench compress`: the result answers as its file, the numbers are right, and the run stays as it was."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from effbench import build, cli
from effbench.bench.sources import Source, file_source, quantized_source
from effbench.compress import run as compressing
from effbench.compress import trial as trials
from effbench.compress.making import making
from effbench.errors import ConfigError, ThresholdError
from effbench.export import opening
from effbench.export.opening import open_export
from effbench.processors import has_int8_products
from effbench.run.load import load_run
from effbench.stats import paired_share_interval
from tests.cli.conftest import Effbench
from tests.patience import patience

ort = pytest.importorskip("onnxruntime")

FEW = ["rounds=3", "seconds=0.05", "backends=onnxruntime", "calibration=32"]


@pytest.fixture(scope="session")
def quantized(finished: tuple[Path, str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The finished MLP in 8 bits."""
    folder = tmp_path_factory.mktemp("quantized") / "small"
    assert cli.main(["compress", str(finished[0]), "method=quantize", *FEW, f"output={folder}"]) == 0
    return folder


def record_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "compression.json").read_text())


def file_of(folder: Path) -> Path:
    return folder / "export" / record_of(folder)["file"]


def digests(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def by_hand(file: Path, samples: torch.Tensor) -> np.ndarray[Any, Any]:
    session = ort.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    [given] = session.get_inputs()
    return np.asarray(session.run(None, {given.name: samples.numpy()})[0])


@pytest.mark.proof
@pytest.mark.process
@pytest.mark.slow
def test_accuracy_before_and_after_is_what_onnxruntime_answers(run: Path, quantized: Path) -> None:
    found, loaded = record_of(quantized), load_run(run)
    test = build.splits(loaded.config).test
    assert test is not None
    samples = test.inputs.float() / 255  # as docs and FILE.json say: images in [0, 1]
    right_after = by_hand(file_of(quantized), samples).argmax(1) == test.labels.numpy()
    right_before = (loaded.predict(test.inputs).argmax(1) == test.labels).numpy()
    assert found["test"]["samples"] == len(test) == 2000
    assert found["before"]["metrics"]["acc"] == pytest.approx(right_before.mean())
    assert found["after"]["metrics"]["acc"] == pytest.approx(right_after.mean())
    assert found["before"]["metrics"]["acc"] == pytest.approx(loaded.summary["metrics"]["test/acc"])
    lost, gained = int((right_before & ~right_after).sum()), int((right_after & ~right_before).sum())
    wanted = paired_share_interval(lost, gained, 2000).times(100)
    assert found["test"]["lost"] == pytest.approx({**vars(wanted)})
    assert json.loads((quantized / "summary.json").read_text())["metrics"]["test/acc"] == pytest.approx(
        right_after.mean()
    )


@pytest.mark.proof
@pytest.mark.process
@pytest.mark.slow
def test_the_file_is_about_a_quarter_and_has_integer_weights(quantized: Path) -> None:
    import onnx

    found = record_of(quantized)
    assert found["details"]["bytes"] == file_of(quantized).stat().st_size < 0.4 * found["details"]["float32_bytes"]
    graph = onnx.load(file_of(quantized)).graph
    # of floating numbers only biases and scales are left
    floats = [each for each in graph.initializer if each.data_type == onnx.TensorProto.FLOAT]
    assert max(int(np.prod(each.dims)) for each in floats) < 1000
    assert (found["details"]["scheme"], found["details"]["calibration"]) == ("static", 32)
    weights = [each for each in graph.initializer if each.data_type == onnx.TensorProto.INT8]
    largest = max(int(np.abs(onnx.numpy_helper.to_array(each)).max()) for each in weights)
    bits = found["details"]["weight_bits"]
    assert 2 ** (bits - 2) <= largest <= 2 ** (bits - 1)
    assert json.loads(Path(f"{file_of(quantized)}.json").read_text())["quantized"]["weight_bits"] == bits


@pytest.mark.proof
@pytest.mark.process
@pytest.mark.slow
def test_bits_of_weights_can_be_those_of_another_processor(run: Path, tmp_path: Path) -> None:
    import onnx

    bits, result = 7 if has_int8_products() else 8, tmp_path / "other"
    assert cli.main(["compress", str(run), "method=quantize", *FEW, f"weight_bits={bits}", f"output={result}"]) == 0
    found = record_of(result)
    assert (found["options"]["weight_bits"], found["details"]["weight_bits"]) == (bits, bits)
    graph = onnx.load(file_of(result)).graph
    weights = [each for each in graph.initializer if each.data_type == onnx.TensorProto.INT8]
    largest = max(int(np.abs(onnx.numpy_helper.to_array(each)).max()) for each in weights)
    assert 2 ** (bits - 2) <= largest <= 2 ** (bits - 1)


@pytest.mark.proof
@pytest.mark.process
@pytest.mark.slow
def test_the_result_is_a_run_for_the_other_verbs(quantized: Path, effbench: Effbench, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(quantized, tmp_path / "copy"))
    code, out, _ = effbench("eval", str(copy), "--json")
    assert code == 0
    found = json.loads(out)
    assert found["test/acc"] == pytest.approx(record_of(quantized)["after"]["metrics"]["acc"])
    assert np.trace(found["confusion"]) / found["samples"] == pytest.approx(found["test/acc"])
    assert effbench("verify", str(copy))[0] == 0
    code, out, _ = effbench("report", str(copy), "output=page.html")
    assert code == 0
    code, out, _ = effbench("export", str(copy), "output=elsewhere", "--json")
    assert code == 0
    assert Path(json.loads(out)["path"]).read_bytes() == file_of(quantized).read_bytes()
    # in its own place: a kill while its only file is replaced would leave the run without the record
    own = [path for path in (copy / "export").iterdir() if path.suffix in (".onnx", ".json")]
    before = {path: path.stat().st_ino for path in own}
    # compress wrote them already
    sides = {path: path.read_text() for path in (copy / "export").iterdir() if path not in own}
    assert [path.name.partition(".onnx.")[2] for path in sorted(sides)] == ["README.md", "predict.py"]
    assert effbench("export", str(copy))[0] == 0
    assert {path: path.read_text() for path in (copy / "export").iterdir() if path not in own} == sides
    assert {path: path.stat().st_ino for path in own} == before
    [card] = (copy / "export").glob("*.README.md")
    assert "Scheme static, ranges from 32 training samples; all" in card.read_text()
    assert "Lost: " in card.read_text()
    card.write_text(card.read_text().replace("## Limits\n", "## Limits\n\nNot for letters.\n"))
    assert effbench("export", str(copy))[0] == 0
    assert "## Limits\n\nNot for letters.\n" in card.read_text()
    for word in ("tolerance=0.1", "--no-data", "data.split_seed=1"):
        code, _, err = effbench("export", str(copy), word)
        name = word if word.startswith(("tol", "--")) else "data.split_seed"
        assert (code, f"compared with nothing, so that {name} would do nothing. Leave it out." in err) == (2, True)
    code, _, err = effbench("export", str(copy), "format=torchscript")
    assert (code, "is quantized for format=onnx" in err) == (2, True)
    code, _, err = effbench("compress", str(copy), "method=quantize")
    assert (code, "is quantized already" in err) == (2, True)
    assert load_run(copy).predict(torch.zeros(1, 1, 28, 28, dtype=torch.uint8)).sum() == pytest.approx(1)


@pytest.mark.proof
@pytest.mark.process
@pytest.mark.slow
def test_a_file_for_openvino_answers_as_openvino_says(run: Path, effbench: Effbench, tmp_path: Path) -> None:
    if find_spec("nncf") is None:  # not by an import, which would report it to its makers
        pytest.skip("nncf is not installed")
    from effbench.export.openvino_runtime import import_openvino, members_of

    few = ["rounds=3", "seconds=0.05", "backends=openvino_f32", "calibration=16"]
    code, out, _ = effbench("compress", str(run), "method=quantize", "backend=openvino", *few, "output=ov", "--json")
    assert code == 0
    found = json.loads(out)  # no progress bar among it
    assert "openvino_telemetry" not in sys.modules
    file = file_of(tmp_path / "ov")
    core = import_openvino().Core()
    graph, weights = members_of(file.read_bytes())
    # by default it computes in bfloat16 where the processor has it
    hints = {"INFERENCE_PRECISION_HINT": "f32"}
    model = core.compile_model(core.read_model(model=graph, weights=weights), "CPU", hints)
    test = build.splits(load_run(run).config).test
    assert test is not None
    answers = model(test.inputs.float().numpy() / 255)[0].argmax(1)
    assert found["after"]["metrics"]["acc"] == pytest.approx((answers == test.labels.numpy()).mean())
    kinds = {node.get_element_type().get_type_name() for node in core.read_model(model=graph, weights=weights).get_ops()
             if node.get_type_name() == "Constant"}  # fmt: skip
    assert kinds & {"i8", "u8"}
    code, out, _ = effbench("bench", "ov", "rounds=3", "seconds=0.05", "samples=64", "batch_sizes=1", "--json")
    assert (code, json.loads(out)["reference"]) == (0, "openvino_f32")  # no backend is named: those that read the file


@pytest.mark.proof
@pytest.mark.process
@pytest.mark.slow
@pytest.mark.parametrize(("backend", "reader"), [("onnxruntime", "onnxruntime"), ("openvino", "openvino_f32")])
def test_calibration_auto_takes_the_fewest_samples(run: Path, effbench: Effbench, backend: str, reader: str) -> None:
    if backend == "openvino" and find_spec("nncf") is None:
        pytest.skip("nncf is not installed")
    # a bound that any file holds: 8 samples suffice
    few = ["rounds=3", "seconds=0.05", f"backends={reader}", "calibration=auto", "max_drop=100"]
    code, out, err = effbench(
        "compress", str(run), "method=quantize", f"backend={backend}", *few, "output=auto", "--json"
    )
    assert code == 0
    tried = [int(line.split()[0]) for line in err.splitlines() if line.endswith("lost with all layers in 8 bits")]
    details = json.loads(out)["details"]
    assert (tried, list(details["calibrations"]), details["calibration"]) == ([8], ["8"], 8)
    assert details["drop_of_all"] == pytest.approx(details["calibrations"]["8"])


@pytest.mark.proof
@pytest.mark.process
@pytest.mark.slow
@pytest.mark.parametrize(
    ("stated", "products", "warned"),
    [
        ({"weight_bits": 8}, False, True),
        ({"weight_bits": 8}, True, False),
        ({"weight_bits": 7}, False, False),
        ({}, False, False),  # older records
        (None, False, False),
        ("8", False, False),
    ],
)
def test_8_bits_are_warned_of_where_they_saturate(
    stated: Any, products: bool, warned: bool, quantized: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    """A file that states these bits is opened where products of 8 bits fit their sums (`products`), or do not."""
    file = file_of(Path(shutil.copytree(quantized, tmp_path / "copy")))
    place = Path(f"{file}.json")
    place.write_text(json.dumps({**json.loads(place.read_text()), "quantized": stated}))
    monkeypatch.setattr(opening, "has_int8_products", lambda: products)
    for opened in (lambda: open_export(file), lambda: load_run(tmp_path / "copy")):
        caplog.clear()
        with caplog.at_level("WARNING", "effbench"):
            opened()
        assert (f"{file.name} has weights of 8 bits" in caplog.text) is warned


@pytest.mark.proof
@pytest.mark.process
@pytest.mark.slow
def test_bench_of_the_result_reads_its_file(run: Path, quantized: Path, effbench: Effbench, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(quantized, tmp_path / "deep" / "copy"))
    record = record_of(copy)
    # a run is there, but was trained again since
    source = {**record["source"], "run": str(run), "weights_sha256": "0" * 64}
    (copy / "compression.json").write_text(json.dumps({**record, "source": source}))
    few = ["rounds=3", "seconds=0.05", "samples=64", "backends=onnxruntime", "batch_sizes=1"]
    code, out, err = effbench("bench", str(copy), *few, "--json")
    assert code == 0
    assert "the run before is not there, or has other weights now" in err
    [arm] = json.loads(out)["arms"]
    assert arm["bytes"] == file_of(quantized).stat().st_size
    assert (copy / "bench" / "bench.json").is_file()


@pytest.mark.proof
@pytest.mark.process
@pytest.mark.slow
def test_a_quantized_file_without_the_run_before_is_judged(run: Path, quantized: Path, tmp_path: Path) -> None:
    """By the data of its own run, whichever of the two bench is given."""
    copy = Path(shutil.copytree(quantized, tmp_path / "deep" / "copy"))
    file, record = file_of(copy), record_of(copy)
    place = Path(f"{file}.json")
    place.write_text(json.dumps({**json.loads(place.read_text()), "run": "/nowhere"}))
    before = Path(shutil.copytree(run, tmp_path / "before", symlinks=True))

    def both() -> list[Source]:
        opened = open_export(file)
        return [file_source(opened, {}, (), 64), quantized_source(copy, opened, {}, (), 64)]

    for source in both():
        assert (source.no_accuracy, source.split, source.model) == ("", "val", None)
        assert source.targets is not None
        assert len(source.targets) == len(source.samples) == 64
    # the run before was moved beside its result
    (copy / "compression.json").write_text(json.dumps({**record, "source": {**record["source"], "run": str(before)}}))
    assert all(source.model is not None for source in both())
    # it is there, and says too little
    (before / "summary.json").write_text('{"schema_version": 1}')
    for source in both():
        assert (source.no_accuracy, source.split, source.model) == ("", "val", None)


@pytest.mark.proof
@pytest.mark.process
@pytest.mark.slow
def test_a_damaged_file_of_the_result_is_refused(quantized: Path, effbench: Effbench, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(quantized, tmp_path / "copy"))
    content = bytearray(file_of(copy).read_bytes())
    content[len(content) // 2] ^= 1
    file_of(copy).write_bytes(content)
    code, _, err = effbench("eval", str(copy))
    assert (code, "its sha256 differs" in err) == (2, True)
    code, out, _ = effbench("verify", str(copy))
    assert (code, "its sha256 is not that of" in out) == (1, True)
    record = {**record_of(copy), "file": "../../private.onnx"}
    (copy / "compression.json").write_text(json.dumps(record))
    code, _, err = effbench("eval", str(copy))
    assert (code, "file must be the name of a file" in err) == (2, True)


@pytest.mark.process
@pytest.mark.slow
def test_an_error_leaves_the_run_and_no_result(
    run: Path, effbench: Effbench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = digests(run)

    def failing(*_: Any) -> Any:
        raise ThresholdError("it does not hold")

    monkeypatch.setattr(compressing, "compare", failing)
    code, _, err = effbench("compress", str(run), "method=quantize", *FEW, f"output={tmp_path / 'result'}")
    assert (code, "it does not hold" in err) == (3, True)
    assert list(tmp_path.iterdir()) == []
    assert digests(run) == before


@pytest.mark.proof
@pytest.mark.process
@pytest.mark.slow
def test_a_killed_compression_leaves_the_run_and_no_result(run: Path, tmp_path: Path) -> None:
    before, target = digests(run), tmp_path / "result"
    words = [sys.executable, "-m", "effbench", "compress", str(run), "method=quantize", *FEW, f"output={target}"]
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    deadline = time.monotonic() + patience(120)
    while not list(tmp_path.glob(".result.making/export")) and time.monotonic() < deadline:
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert not target.exists()
    assert digests(run) == before
    # the next one removes what is left, and its result is whole
    with making(target) as hidden:
        assert [path.name for path in hidden.iterdir()] == [".lock"]
        (hidden / "summary.json").write_text("{}")
    assert [path.name for path in target.iterdir()] == ["summary.json"]


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ([], "Say method=NAME, one of: quantize, structured, unstructured"),
        (["method=prune"], "method 'prune' is not one of"),
        (["method=quantize", "ratio=0.5"], "option of method=quantize 'ratio'"),
        (["method=quantize", "metod=x"], "option of compress 'metod'"),
        (["method=quantize", "sweep=0.1,0.3"], "sweep is over ratios, which method=quantize has not"),
        (["method=structured", "sweep=0.1,0.3", "ratio=0.5"], "ratio=0.5 has no use"),
        (["method=structured", "sweep=0.1,most"], "sweep=0.1,most: ratio must be the part of the channels to remove"),
        (["method=structured", "sweep="], "sweep= has no value. Write one, or leave it out"),
        (["method=structured", "sweep=0.5,"], "sweep must be a list of ratios, such as 0.1,0.3,0.5; got 0.5,"),
        ([f"target={'9' * 400} ms"], "target must be a latency"),
        (["target=fast"], "target must be a latency, a size, or a part of the run's"),
        (["target=2ms", "method=quantize"], "target= chooses the method itself"),
        (["target=2ms", "ratio=0.5"], "option of target 'ratio' is not one of: epochs, max_drop, minutes"),
        (["method=quantize", "minutes=3"], "option of method=quantize 'minutes'"),
        (["method=quantize", "rounds=1"], "rounds must be at least 3"),
        (["method=quantize", "backends=eager"], "backends=[eager] measures no file for backend=onnxruntime"),
        (["method=quantize", "checkpoint=step-9"], "checkpoint 'step-9' is not one of: best, last"),
    ],
)
def test_a_wrong_word_is_refused_by_name(words: list[str], text: str, run: Path, effbench: Effbench) -> None:
    code, _, err = effbench("compress", str(run), *words)
    assert code == 2
    assert text in err


@pytest.mark.parametrize("module", ["nncf", "openvino", "onnx"])
def test_the_extra_for_openvino_files_is_named_at_once(
    module: str, run: Path, effbench: Effbench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    code, _, err = effbench("compress", str(run), "method=quantize", "backend=openvino", "output=small")
    assert code == 4
    assert "method=quantize backend=openvino needs the extra 'compress': pip install 'effbench[compress]'" in err
    assert list(tmp_path.iterdir()) == []


def test_a_result_is_never_written_over(run: Path, effbench: Effbench, tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    code, _, err = effbench("compress", str(run), "method=quantize", "output=taken")
    assert (code, "taken exists" in err) == (2, True)


@pytest.mark.parametrize(
    "words",
    [["method=quantize"], ["method=unstructured", "sweep=0.1,0.3"], ["target=size/4"]],
    ids=lambda words: words[0],
)
def test_a_place_that_cannot_be_written_is_refused_first(
    words: list[str], run: Path, effbench: Effbench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def begun(*_: Any) -> None:
        raise AssertionError("it is compressed")

    for module in (compressing, trials):
        monkeypatch.setattr(module, "compress_loaded", begun)
    (tmp_path / "file").touch()
    code, _, err = effbench("compress", str(run), *words, "output=file/small")
    assert code == 2
    assert "cannot be written (Not a directory). Choose another with output=FOLDER" in err
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_no_result_is_made_within_its_run(run: Path, effbench: Effbench) -> None:
    code, _, err = effbench("compress", str(run), "method=structured", f"output={run / 'small'}")
    assert code == 2
    assert "is inside the run, which is never changed. Name a folder elsewhere." in err


def test_a_run_that_did_not_end_is_refused(run: Path, effbench: Effbench, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(run, tmp_path / "copy", symlinks=True))
    summary = json.loads((copy / "summary.json").read_text())
    (copy / "summary.json").write_text(json.dumps({**summary, "status": "interrupted"}))
    code, _, err = effbench("compress", str(copy), "method=quantize")
    assert (code, "status 'interrupted'" in err) == (2, True)


@pytest.mark.process
@pytest.mark.slow
def test_two_makers_of_one_result_exclude_each_other(tmp_path: Path) -> None:
    program = (
        "from effbench.compress.making import making\nfrom pathlib import Path\nimport sys\n"
        "try:\n    with making(Path(sys.argv[1])): pass\nexcept Exception as error: print(type(error).__name__)\n"
    )
    with making(tmp_path / "result") as hidden:
        (hidden / "mine").write_text("1")
        out = subprocess.run([sys.executable, "-c", program, str(tmp_path / "result")], capture_output=True, text=True)
        assert out.stdout.strip() == ConfigError.__name__
        assert (hidden / "mine").read_text() == "1"
    assert (tmp_path / "result" / "mine").is_file()
