"""`effbench eval FILE` and `predict FILE`: an exported file answers as its run; broken and hostile ones are refused.

White-box: `_FileModel`, because no small run has a file of one length and outputs at each place.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import effbench
from effbench import build, cli
from effbench.bench.sources import file_source
from effbench.errors import ConfigError, EffbenchError
from effbench.export.formats import FORMATS
from effbench.export.opening import Opened, open_export, read_record
from effbench.export.openvino_runtime import archive
from effbench.run.exported import run_folder
from effbench.run.load import load_run
from tests.cli.conftest import Effbench
from tests.security.conftest import SENTINEL, Evil

onnx = pytest.importorskip("onnx")
ort = pytest.importorskip("onnxruntime")

BY_CLASS = ("per_class", "confusion")
NAMES = {name: f"mlp-best{FORMATS[name].suffix}" for name in ("onnx", "openvino", "torchscript")}


@pytest.fixture(scope="session")
def made(finished: tuple[Path, str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with exports of the finished MLP."""
    folder = tmp_path_factory.mktemp("made")
    for name in NAMES:
        assert cli.main(["export", str(finished[0]), f"format={name}", f"output={folder}"]) == 0
    return folder


@pytest.fixture
def files(made: Path, tmp_path: Path) -> Path:
    """A copy of the exports that a test may damage."""
    return Path(shutil.copytree(made, tmp_path / "files"))


@pytest.fixture
def photo(tmp_path: Path) -> str:
    from PIL import Image

    Image.effect_noise((40, 30), 80).convert("RGB").save(tmp_path / "photo.png")
    return "photo.png"


def vouched(path: Path, content: bytes, **changes: Any) -> Path:
    """Replace the file, and make its record vouch for it: what a stranger can do."""
    path.write_bytes(content)
    place = path.with_name(f"{path.name}.json")
    record = {**json.loads(place.read_text()), "sha256": hashlib.sha256(content).hexdigest(), **changes}
    place.write_text(json.dumps(record))
    return path


# --- a file answers as its run


@pytest.mark.parametrize("name", NAMES)
def test_eval_of_a_file_gives_the_metrics_of_its_run(name: str, run: Path, made: Path, effbench: Effbench) -> None:
    expected = json.loads(effbench("eval", str(run), "--json")[1])
    trust = ["trust=true"] if name == "torchscript" else []
    code, out, _ = effbench("eval", str(made / NAMES[name]), *trust, "--json")
    assert code == 0
    found = json.loads(out)
    assert [found.pop(key) for key in BY_CLASS] == [expected.pop(key) for key in BY_CLASS]
    assert found == pytest.approx(expected, rel=1e-5)
    assert "test accuracy" in effbench("eval", str(made / NAMES[name]), *trust)[1]


def test_eval_of_a_file_is_what_onnxruntime_answers(run: Path, made: Path, effbench: Effbench) -> None:
    """By hand, on a split and a number of classes that a constant answer would not reach."""
    split = build.splits(load_run(run).config).named()["val"]
    session = ort.InferenceSession(str(made / NAMES["onnx"]), providers=["CPUExecutionProvider"])
    [logits] = session.run(None, {"images": split.images.numpy().astype(np.float32) / np.float32(255)})
    right = (logits.argmax(1) == split.labels.numpy()).mean()
    measured = json.loads(effbench("eval", str(made / NAMES["onnx"]), "split=val", "--json")[1])
    assert measured["val/acc"] == pytest.approx(right, abs=1e-9)
    assert 0.3 < right < 1


@pytest.mark.parametrize("name", ["onnx", "openvino"])
def test_predict_of_a_file_needs_no_run(name: str, run: Path, files: Path, photo: str, effbench: Effbench) -> None:
    expected = json.loads(effbench("predict", str(run), photo, "--json")[1])
    record = files / f"{NAMES[name]}.json"
    record.write_text(json.dumps({**json.loads(record.read_text()), "run": "/nowhere"}))
    code, out, _ = effbench("predict", str(files / NAMES[name]), photo, "max_pixels=9999", "--json")
    assert code == 0
    [row], [like] = json.loads(out), expected
    assert [entry["class"] for entry in row["top_k"]] == [entry["class"] for entry in like["top_k"]]
    assert row["probability"] == pytest.approx(like["probability"], abs=1e-5)


def changed(file: Path, **changes: Any) -> Opened:
    """The file with another record; None takes a key out."""
    place = file.with_name(f"{file.name}.json")
    record = {key: value for key, value in {**json.loads(place.read_text()), **changes}.items() if value is not None}
    place.write_text(json.dumps(record))
    return open_export(file)


@pytest.mark.proof
def test_a_file_is_matched_with_its_run_by_its_weights(
    run: Path, files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = files / NAMES["onnx"]
    best = (run / "checkpoints" / "best").resolve()
    digest = hashlib.sha256((best / "model.safetensors").read_bytes()).hexdigest()
    step = int(best.name.removeprefix("step-"))

    def told(**changes: Any) -> tuple[bool, str]:
        """Whether the run's model is compared with, and what is said."""
        capsys.readouterr()
        found = file_source(changed(file, **changes), {}, (), 8)
        return found.model is not None, capsys.readouterr().err

    assert told() == (True, "")
    # another training of as many steps
    other = "the file has other weights than the run's checkpoint, though both are of step"
    same, err = told(weights_sha256="0" * 64)
    assert (same, f"{other} {step}: export again" in err) == (False, True)
    # the same weights, whatever the record says of their step
    assert told(weights_sha256=digest, checkpoint={"name": "best", "step": 1}) == (True, "")
    # a file of an older effbench has no digest
    same, err = told(weights_sha256=None)
    assert (same, f"the file is of step 1 and the run's checkpoint of step {step}: export again" in err) == (
        False,
        True,
    )
    assert told(checkpoint={"name": "best", "step": step}) == (True, "")


def test_of_two_runs_the_one_with_the_files_weights_is_taken(run: Path, files: Path, tmp_path: Path) -> None:
    """A relative path in the record leads to another run from another folder."""
    mine, other = (Path(shutil.copytree(run, tmp_path / name, symlinks=True)) for name in ("mine", "other"))
    place = (other / "checkpoints" / "best").resolve() / "manifest.json"
    manifest = json.loads(place.read_text())
    place.write_text(json.dumps({**manifest, "sha256": {**manifest["sha256"], "model.safetensors": "0" * 64}}))
    file = Path(shutil.copytree(files, mine / "export")) / NAMES["onnx"]
    assert run_folder(changed(file, run=str(other))) == mine
    assert run_folder(changed(file, weights_sha256="1" * 64)) == other  # neither has them: as the record says
    assert run_folder(changed(file, weights_sha256=None)) == other
    assert run_folder(changed(file, run="/nowhere")) == mine
    assert run_folder(changed(files / NAMES["onnx"], run="/nowhere")) is None


@pytest.mark.process
def test_a_moved_run_is_named_and_found_again(run: Path, effbench: Effbench, tmp_path: Path) -> None:
    moved = Path(shutil.copytree(run, tmp_path / "before", symlinks=True))
    assert effbench("export", "before", "format=torchscript", "output=out")[0] == 0
    assert effbench("export", "before", "format=torchscript")[0] == 0
    moved.rename(tmp_path / "after")
    code, _, err = effbench("eval", "out/mlp-best.pt", "trust=true")
    assert code == 2
    assert "exported from the run before, which is not there" in err
    assert "run=FOLDER" in err
    assert effbench("eval", "out/mlp-best.pt", "run=after", "trust=true")[0] == 0
    assert effbench("eval", "after/export/mlp-best.pt", "trust=true")[0] == 0  # in the run itself, it need not be said


def test_a_recorded_path_that_is_too_long_leads_nowhere(files: Path, effbench: Effbench) -> None:
    place = files / f"{NAMES['onnx']}.json"
    place.write_text(json.dumps({**json.loads(place.read_text()), "run": "x" * 300}))
    code, _, err = effbench("eval", str(files / NAMES["onnx"]))
    assert (code, "which is not there" in err, "run=FOLDER" in err) == (2, True, True), err


@pytest.mark.proof
@pytest.mark.process
def test_files_of_regressions_answer_in_the_unit(effbench: Effbench, tmp_path: Path) -> None:
    lines = [f"{x},{x * 3 % 7},{1000 * x + 5e5}" for x in range(60)]
    (tmp_path / "houses.csv").write_text("\n".join(["a,b,price", *lines]) + "\n")
    words = ["data=table_csv", "data.file=houses.csv", "data.label_column=price", "data.targets=values"]
    words += ["task=regression", "loss=mse", "model=mlp"]
    code, _, err = effbench("train", *words, "model.hidden=[8]", "debug=smoke", "hydra.run.dir=run")
    assert code == 0, err
    assert effbench("export", "run")[0] == 0
    whole, file = (json.loads(effbench("eval", which, "--json")[1]) for which in ("run", "run/export/mlp-best.onnx"))
    assert file == pytest.approx(whole, rel=1e-4)
    (tmp_path / "some.csv").write_text("a,b\n3,2\n40,1\n")
    whole, file = (
        json.loads(effbench("predict", which, "some.csv", "--json")[1]) for which in ("run", "run/export/mlp-best.onnx")
    )
    assert [row["values"]["price"] for row in file] == pytest.approx(
        [row["values"]["price"] for row in whole], rel=1e-5
    )


# --- refusals


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["checkpoint=last"], "holds one checkpoint (best)"),
        (["device=cuda"], "device must be cpu for an exported file"),
        (["trust=perhaps"], "trust must be true or false; got 'perhaps'"),
        (["run=/nowhere"], "/nowhere is not a run"),
    ],
    ids=lambda value: value[0],
)
def test_words_without_use_for_a_file_are_refused(words: list[str], said: str, made: Path, effbench: Effbench) -> None:
    code, _, err = effbench("eval", str(made / NAMES["onnx"]), *words)
    assert (code, said in err) == (2, True), err


@pytest.mark.parametrize("trust", ["false", "no", 1])
def test_a_trust_that_is_no_boolean_runs_no_program(trust: Any, made: Path) -> None:
    """A text such as 'false' is true in Python."""
    path = made / NAMES["torchscript"]
    for call in (
        lambda: effbench.evaluate_run(path, trust=trust),
        lambda: effbench.predict_files(path, [], trust=trust),
        lambda: effbench.bench_run(path, trust=trust),
    ):
        with pytest.raises(ConfigError, match=r"trust must be true or false; got"):
            call()


def test_words_for_files_are_refused_for_runs(run: Path, effbench: Effbench) -> None:
    assert "trust= is for exported files" in effbench("eval", str(run), "trust=true")[2]
    assert "run= is for exported files" in effbench("eval", str(run), f"run={run}")[2]


@pytest.mark.parametrize("verb", ["eval", "predict"])
@pytest.mark.parametrize("name", NAMES)
def test_a_file_with_another_sha256_is_refused(
    verb: str, name: str, files: Path, photo: str, effbench: Effbench
) -> None:
    path = files / NAMES[name]
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    code, out, err = effbench(verb, str(path), *([photo] if verb == "predict" else []), "trust=true")
    assert (code, out) == (2, "")
    assert "is not the file that" in err
    assert "sha256 differs" in err


def test_a_file_without_its_record_is_refused(files: Path, effbench: Effbench) -> None:
    (files / f"{NAMES['onnx']}.json").unlink()
    code, _, err = effbench("eval", str(files / NAMES["onnx"]))
    assert (code, "mlp-best.onnx.json is not beside it" in err) == (2, True)


@pytest.mark.parametrize("name", NAMES)
def test_a_broken_file_is_refused_by_its_runtime(name: str, files: Path, effbench: Effbench) -> None:
    path = files / NAMES[name]
    for content in (path.read_bytes()[:3000], b"", b"x" * 5000):
        code, _, err = effbench("eval", str(vouched(path, content)), "trust=true")
        assert code == 2
        assert "is broken, or no file of format" in err or "whole zip archive" in err, err


@pytest.mark.parametrize("verb", ["eval", "predict"])
def test_a_program_runs_only_if_it_is_trusted(
    verb: str, files: Path, photo: str, effbench: Effbench, tmp_path: Path
) -> None:
    path = files / NAMES["torchscript"]
    torch.save(Evil(), path)  # also a pickle in its place is not read
    vouched(path, path.read_bytes())
    code, _, err = effbench(verb, str(path), *([photo] if verb == "predict" else []))
    assert code == 2
    assert "is a program, which may do whatever you may do" in err
    assert "trust=true" in err
    assert not (tmp_path / SENTINEL).exists()


@pytest.mark.parametrize("place", ["initializer", "constant", "subgraph"])
def test_external_data_of_onnx_is_never_read(place: str, files: Path, effbench: Effbench, tmp_path: Path) -> None:
    path = files / NAMES["onnx"]
    model = onnx.load_from_string(path.read_bytes())
    tensor = onnx.TensorProto(name="secret", data_type=onnx.TensorProto.FLOAT, dims=[4])
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../secret.bin")
    node = onnx.helper.make_node("Constant", [], ["secret"], value=tensor)
    graph = onnx.helper.make_graph([node], "inner", [], [])
    if place == "initializer":
        model.graph.initializer.append(tensor)
    elif place == "constant":
        model.graph.node.append(node)
    else:
        model.graph.node.append(onnx.helper.make_node("If", ["images"], ["x"], then_branch=graph, else_branch=graph))
    os.mkfifo(tmp_path / "secret.bin")  # whoever opened it would wait
    code, _, err = effbench("eval", str(vouched(path, model.SerializeToString())))
    assert (code, "its tensor 'secret' lies in another file" in err) == (2, True), err


def zipped(members: dict[str, bytes], kind: int = zipfile.ZIP_STORED) -> bytes:
    import io

    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", kind) as file:
        for name, member in members.items():
            file.writestr(name, member)
    return content.getvalue()


ARCHIVES: dict[str, Callable[[bytes, bytes], bytes]] = {
    "a bomb": lambda graph, weights: zipped(
        {"model.xml": graph, "model.bin": weights + b"\0" * 50_000_000}, zipfile.ZIP_DEFLATED
    ),
    "a way out": lambda graph, weights: zipped({"../model.xml": graph, "model.bin": weights}),
    "one more": lambda graph, weights: zipped({"model.xml": graph, "model.bin": weights, "x": b""}),
    "one less": lambda graph, _: zipped({"model.xml": graph}),
    "short weights": lambda graph, weights: archive({"model.xml": graph, "model.bin": weights[:100]}),
    "far offset": lambda graph, weights: archive(
        {"model.xml": graph.replace(b'offset="0"', b'offset="99999999999"'), "model.bin": weights}
    ),
    "no graph": lambda _, weights: archive({"model.xml": b"<net/>", "model.bin": weights}),
    "an entity": lambda graph, weights: archive(
        {
            "model.xml": b'<!DOCTYPE net [<!ENTITY x SYSTEM "file:///etc/passwd">]>' + graph[:200] + b"&x;",
            "model.bin": weights,
        }
    ),
}


@pytest.mark.parametrize("name", ARCHIVES)
def test_a_hostile_openvino_archive_is_refused(name: str, files: Path, effbench: Effbench, tmp_path: Path) -> None:
    path = files / NAMES["openvino"]
    with zipfile.ZipFile(path) as file:
        graph, weights = file.read("model.xml"), file.read("model.bin")
    before = sorted(tmp_path.rglob("*"))
    code, _, err = effbench("eval", str(vouched(path, ARCHIVES[name](graph, weights))))
    assert code == 2, err
    assert "mlp-best.openvino.zip" in err or "the archive must hold" in err
    assert sorted(tmp_path.rglob("*")) == before  # nothing was unpacked


def test_a_graph_of_other_outputs_than_promised_is_refused(files: Path, effbench: Effbench) -> None:
    path = files / NAMES["onnx"]
    other = onnx.parser.parse_model(
        '<ir_version: 10, opset_import: ["": 20]> g (float[N, 1, 28, 28] images) => (float[N, 1, 28, 28] logits) '
        "{ logits = Relu(images) }"
    )
    code, _, err = effbench("eval", str(vouched(path, other.SerializeToString())))
    assert code == 2
    assert "gives torch.float32 (2, 1, 28, 28) for two images, and its record promises float32 (2, 10)" in err


def test_a_file_of_fewer_outputs_than_classes_is_refused(run: Path, files: Path, effbench: Effbench) -> None:
    """Its record vouches for it, and names the run: labels up to 9 would be looked up among two outputs."""
    path = files / NAMES["onnx"]
    two = onnx.parser.parse_model(
        '<ir_version: 10, opset_import: ["": 20]> g (float[N, 1, 28, 28] images) => (float[N, 2] logits) '
        "{ sides = Constant <value_ints = [2, 3]> () mean = ReduceMean <keepdims = 0> (images, sides) "
        "logits = Concat <axis = 1> (mean, mean) }"
    )
    vouched(path, two.SerializeToString(), output={"name": "logits", "shape": ["N", 2], "dtype": "float32"})
    said = "mlp-best.onnx has outputs of (2,), and for the 10 names of data.classes in"
    code, _, err = effbench("eval", str(path))
    assert (code, said in err, str(run / "summary.json") in err) == (2, True, True), err
    assert file_source(open_export(path), {}, (), 8).no_accuracy == "the file's run cannot be read"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"classes": ["a"]}, "has outputs of (10,), and for the 1 name of data.classes in"),
        ({"classes": 5}, "mlp-best.onnx.json is damaged: data.classes must be a list of names; got 5"),
        ({"classes": []}, "mlp-best.onnx.json is damaged: it needs a class"),
        ({"shape": [1, 10**7, 10**7]}, "mlp-best.onnx.json is damaged: data.shape must be channels, height and width"),
        ({"shape": [1, 99_999, 99_999]}, "takes images of (1, 28, 28), and data.shape in"),
        ({"shape": [28, 28]}, "data.shape must be channels, height and width; got [28, 28]"),
        ({"unit": "row", "shape": [10**9]}, "is damaged"),
    ],
    ids=str,
)
def test_data_that_do_not_fit_the_file_are_refused(
    changes: dict[str, Any], said: str, files: Path, photo: str, effbench: Effbench
) -> None:
    place = files / f"{NAMES['onnx']}.json"
    record = json.loads(place.read_text())
    place.write_text(json.dumps({**record, "data": {**record["data"], **changes}}))
    code, _, err = effbench("predict", str(files / NAMES["onnx"]), photo)
    assert (code, said in err) == (2, True), err


def test_a_fixed_length_other_than_the_longest_is_refused(tmp_path: Path) -> None:
    """A text would be padded to it, and to no more than the memory holds."""
    given = {"name": "texts", "shape": ["N", 10**12], "dtype": "int64", "lengths": {"least": 8, "most": 8}}
    texts = dict.fromkeys(("format", "file", "sha256", "run", "probabilities"), "x")
    record = {
        **texts,
        "schema_version": 2,
        "input": given,
        "output": {"shape": ["N", 2]},
        "checkpoint": {},
        "model": {},
    }
    (tmp_path / "x.onnx.json").write_text(json.dumps(record))
    with pytest.raises(ConfigError, match=r"input\.shape\[1\] must be a name, or input\.lengths\.most, 8; got 10000"):
        read_record(tmp_path / "x.onnx")


WRONG = [None, True, -1, 10**400, 1e300, "x\x1b[31mred", "", [], [None], [[]], {}, {"a": {}}, [1, 2, 3], ["a", "a"]]
KEYS = ("schema_version", "format", "sha256", "run", "input", "output", "checkpoint", "config", "data", "metrics")
INNER = ("shape", "lengths", "dtype", "name")


@pytest.mark.spread(4)
@pytest.mark.slow
@pytest.mark.parametrize("key", KEYS)
def test_a_damaged_record_is_a_message_not_a_traceback(key: str, files: Path, photo: str, effbench: Effbench) -> None:
    place = files / f"{NAMES['onnx']}.json"
    record = json.loads(place.read_text())
    inner = {"data": ("classes", "shape", "unit", "mean", "modality"), "input": INNER, "output": ("shape",)}
    damaged = [{**record, key: value} for value in WRONG]
    damaged += [{**record, key: {**record[key], name: value}} for name in inner.get(key, ()) for value in WRONG]
    for content in damaged:
        place.write_text(json.dumps(content))
        for verb, *words in (("predict", photo), ("eval",)):
            code, _, err = effbench(verb, str(files / NAMES["onnx"]), *words)  # effbench() refuses a traceback
            assert code in (0, 2), err
            assert "\x1b" not in err


def test_a_record_names_no_module_to_import(files: Path, photo: str, effbench: Effbench, tmp_path: Path) -> None:
    place = files / f"{NAMES['onnx']}.json"
    record = json.loads(place.read_text())
    (tmp_path / "evil.py").write_text(f"open({SENTINEL!r}, 'w')\n")
    record["config"]["task"]["_target_"] = "evil.Task"
    record["config"]["allow_targets"] = ["evil"]
    record["data"]["modality"] = "evil.Modality"
    place.write_text(json.dumps(record))
    code, _, err = effbench("predict", str(files / NAMES["onnx"]), photo)
    assert (code, "evil" in err) == (2, True)
    assert not (tmp_path / SENTINEL).exists()


@pytest.mark.proof
@pytest.mark.process
def test_files_of_texts_answer_as_their_runs(effbench: Effbench, tmp_path: Path) -> None:
    """A file of a fixed length, and a next-token model, whose file continues a text."""
    lines = [f'"{word} {other}",{label}' for label, word in enumerate(("gut", "good")) for other in range(40)]
    (tmp_path / "texts.csv").write_text("\n".join(["text,label", *lines]) + "\n")
    words = ["data=text_csv", "data.file=texts.csv", "data.max_length=12", "model=rnn", "model.dim=8", "debug=smoke"]
    code, _, err = effbench("train", *words, "hydra.run.dir=texts")
    assert code == 0, err
    assert effbench("export", "texts", "format=torchscript")[0] == 0
    (tmp_path / "some.txt").write_text("gut 3\ngood morning\n")
    file = "texts/export/" + next((tmp_path / "texts" / "export").glob("*.pt")).name
    whole, own = (
        effbench("predict", which, "some.txt", *trust, "--json")
        for which, trust in (("texts", ()), (file, ("trust=true",)))
    )
    assert [row["probability"] for row in json.loads(own[1])] == pytest.approx(
        [row["probability"] for row in json.loads(whole[1])], abs=1e-4
    )
    (tmp_path / "own.txt").write_text("so it was said and so it was done\n" * 60)
    words = ["data=text_file", "data.file=own.txt", "data.context=16", "model=gpt", "model.dim=8", "model.depth=1"]
    code, _, err = effbench("train", *words, "model.heads=1", "debug=smoke", "hydra.run.dir=next")
    assert code == 0, err
    assert effbench("export", "next", "format=onnx")[0] == 0
    asked = ("some.txt", "length=12", "temperature=0", "--json")
    whole, own = (effbench("predict", which, *asked) for which in ("next", "next/export/gpt-best.onnx"))
    assert own[0] == 0, own[2]
    assert json.loads(own[1]) == json.loads(whole[1])
    assert json.loads(effbench("eval", "next/export/gpt-best.onnx", "--json")[1]) == pytest.approx(
        json.loads(effbench("eval", "next", "--json")[1]), rel=1e-4
    )


def test_the_file_model_pads_to_its_one_length() -> None:
    from effbench.export.opening import Opened
    from effbench.run.exported_run import _FileModel

    seen = list[torch.Tensor]()

    def forward(inputs: torch.Tensor) -> torch.Tensor:
        seen.append(inputs)
        return nn.functional.one_hot(inputs, 9).float()

    record = {"input": {"dtype": "int64", "shape": ["N", 5]}}
    model = _FileModel(Opened(Path("x"), record, forward))
    outputs = model(torch.tensor([[3, 4]]))
    assert seen[0].tolist() == [[3, 4, 0, 0, 0]]
    assert outputs.argmax(-1).tolist() == [[3, 4]]


def test_a_runtime_that_fails_at_a_batch_is_named_with_its_file() -> None:
    from effbench.export.opening import Opened
    from effbench.run.exported_run import _FileModel

    def crash(inputs: torch.Tensor) -> torch.Tensor:
        del inputs
        raise RuntimeError("its runtime crashed: signal SIGSEGV\nand more")

    model = _FileModel(Opened(Path("it.pte"), {"input": {"dtype": "float32", "shape": ["N", 3]}}, crash))
    with pytest.raises(EffbenchError, match=r"^it.pte fails at a batch of 2: its runtime crashed: signal SIGSEGV$"):
        model(torch.zeros(2, 3))
