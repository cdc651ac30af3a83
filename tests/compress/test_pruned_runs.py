"""A pruned result is a run like any other: eval, resume, export and compress take it, and no extra is needed.

White-box: latency is not measured here, which takes minutes; a disk is full for one file; no file is exported to see
what its record says.
"""

from __future__ import annotations

import errno
import importlib.metadata
import json
import os
import shutil
import signal
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import effbench
from effbench import build
from effbench.bench.options import BenchOptions
from effbench.bench.run import surroundings
from effbench.compress.compress import compress
from effbench.compress.finetune import FineTuning, tuned_config
from effbench.compress.options import CompressOptions, StructuredOptions, UnstructuredOptions
from effbench.compress.quantize import _file_record
from effbench.config.compose import parse
from effbench.config.static_compose import member
from effbench.errors import ConfigError
from effbench.models.channels import apply_plan
from effbench.models.cnn import cnn
from effbench.records import NoSpaceError
from effbench.report import environment
from effbench.report.collect import read_runs
from effbench.report.verify import verify_run
from effbench.run.export import _facts
from effbench.run.export_options import Wanted
from effbench.run.load import load_run
from effbench.run.signals import Interrupted

SMALL = [
    "model=cnn", "model.channels=[16,32]", "model.hidden=32", "data=synthetic", "data.image_size=16",
    "data.num_classes=4", "data.channels=1", "data.num_train=128", "data.num_val=32", "data.num_test=64",
    "data.batch_size=32", "trainer.max_epochs=2", "early_stopping=off", "device.threads=1", "device=cpu",
]  # fmt: skip

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", autouse=True)
def unmeasured() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("effbench.compress.compare.speeds", lambda *_: {})
        yield


@pytest.fixture(scope="module")
def dense(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return effbench.train(SMALL, tmp_path_factory.mktemp("runs") / "dense").folder


@pytest.fixture(scope="module")
def structured(dense: Path) -> Path:
    pytest.importorskip("torch_pruning")
    compress(dense, CompressOptions("structured", StructuredOptions(epochs=1)))
    return dense.with_name("dense-structured")


@pytest.fixture(scope="module")
def unstructured(dense: Path) -> Path:
    own = UnstructuredOptions(ratio=0.8, steps=2, epochs=2)
    compress(dense, CompressOptions("unstructured", own))
    return dense.with_name("dense-unstructured")


@pytest.fixture(scope="module")
def frozen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a run that trains all but its first block."""
    words = [*SMALL, "trainer.max_epochs=1", "model.freeze=[block1.*]"]
    return effbench.train(words, tmp_path_factory.mktemp("runs") / "frozen").folder


@pytest.fixture
def without_library(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setitem(sys.modules, "torch_pruning", None)
    return


def record_of(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "compression.json").read_text()))


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    return dict(load_file(folder / "checkpoints" / "best" / "model.safetensors"))


def zeros(weights: dict[str, torch.Tensor], names: list[str]) -> float:
    return sum(int((weights[name] == 0).sum()) for name in names) / sum(weights[name].numel() for name in names)


@pytest.mark.usefixtures("without_library")
def test_file_holds_fewer_channels_and_the_run_loads_it(dense: Path, structured: Path) -> None:
    weights = weights_of(structured)
    assert weights["block1.0.weight"].shape == (8, 1, 3, 3)
    assert weights["hidden.1.weight"].shape == (16, 16 * 16)
    model = load_run(structured).model()
    assert {key: value.shape for key, value in model.state_dict().items()} == {k: v.shape for k, v in weights.items()}
    assert "channels: [16, 32]" not in (structured / "summary.json").read_text()
    counted = sum(value.numel() for key, value in weights.items() if "running" not in key and "num_b" not in key)
    assert record_of(structured)["after"]["parameters"] == counted
    assert load_run(structured).summary["model"]["parameters"] == counted
    assert weights_of(dense)["block1.0.weight"].shape == (16, 1, 3, 3), "the run itself stays"


@pytest.mark.usefixtures("without_library")
def test_eval_gives_the_recorded_metrics(structured: Path) -> None:
    found = effbench.evaluate_run(structured)
    recorded = load_run(structured).summary["metrics"]
    assert found["test/loss"] == pytest.approx(recorded["test/loss"], rel=1e-5)
    assert found["test/acc"] == recorded["test/acc"]
    assert record_of(structured)["after"]["metrics"]["acc"] == recorded["test/acc"]


def test_verify_finds_nothing_wrong(structured: Path, unstructured: Path) -> None:
    for folder in (structured, unstructured):
        assert [check for check in verify_run(folder) if check.problem] == []


@pytest.mark.usefixtures("without_library")
def test_resume_goes_on_with_the_pruned_model(structured: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(structured, tmp_path / "copy", symlinks=True)
    run = effbench.train([f"resume={copy}", "trainer.max_epochs=2"])
    assert run.summary["steps"] == 8
    assert run.model("last").block1[0].out_channels == 8


@pytest.mark.proof
@pytest.mark.usefixtures("without_library")
def test_export_has_the_pruned_layers_and_answers(structured: Path, tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    runtime = pytest.importorskip("onnxruntime")
    record = effbench.export_run(structured, "onnx", output=tmp_path / "pruned.onnx")
    shapes = [tuple(each.dims) for each in onnx.load(record["path"]).graph.initializer]
    assert (16, 8, 3, 3) in shapes
    assert (32, 16, 3, 3) not in shapes
    session = runtime.InferenceSession(record["path"], providers=["CPUExecutionProvider"])
    run = load_run(structured)
    images = torch.randint(0, 256, (3, 1, 16, 16), dtype=torch.uint8)
    (logits,) = session.run(None, {session.get_inputs()[0].name: run.modality().portable(images).numpy()})
    shifted = np.exp(logits - logits.max(1, keepdims=True))
    np.testing.assert_allclose(run.predict(images), shifted / shifted.sum(1, keepdims=True), atol=1e-4)


@pytest.mark.usefixtures("without_library")
def test_exported_files_alone_build_the_pruned_model(structured: Path, tmp_path: Path) -> None:
    """By what docs/export.md says: the config's model, the sizes of the plan, the weights."""
    record = effbench.export_run(structured, "torchscript", output=tmp_path, layout="huggingface")
    folder = Path(record["path"]).parent
    told = json.loads((folder / "config.json").read_text())["effbench"]
    assert told["channels"] == json.loads(Path(f"{record['path']}.json").read_text())["channels"]
    own = {key: told["model"][key] for key in ("kind", "channels", "kernel_size", "hidden", "dropout", "batch_norm")}
    whole = cnn(num_classes=4, in_channels=1, image_size=(16, 16), **own)
    apply_plan(whole, told["channels"], "config.json")
    whole.load_state_dict(load_file(folder / "model.safetensors"))
    inputs = torch.rand(3, 1, 16, 16)
    expected = load_run(structured).model()
    torch.testing.assert_close(whole.eval()(inputs), expected(inputs))

    card = (folder / "README.md").read_text()
    assert "## Compression" in card
    assert "method=structured, steps=1, epochs=1" in card
    assert "Of the run dense, checkpoint best" in card
    assert "Lost: " in card
    assert str(structured.parent) not in card


def test_a_constant_schedule_loses_its_warm_up(dense: Path) -> None:
    """It may be longer than fine-tuning."""
    run = load_run(dense)
    content = {**run.config.to_dict(), "scheduler": {**member("scheduler", "constant"), "warmup": 2000}}
    tuned = tuned_config(replace(run, config=parse(content)), 1, 0.5)
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=0.5)
    build.schedule(tuned, optimizer, total_steps=4, steps_per_epoch=4)
    assert optimizer.param_groups[0]["lr"] == 0.5


def test_zeros_survive_every_step_and_a_resume(unstructured: Path, tmp_path: Path) -> None:
    names = record_of(unstructured)["zeros"]
    assert names == ["block1.0.weight", "block2.0.weight", "hidden.1.weight", "head.weight"]
    assert zeros(weights_of(unstructured), names) == pytest.approx(0.8, abs=1e-3)
    before = weights_of(unstructured)
    copy = shutil.copytree(unstructured, tmp_path / "copy", symlinks=True)
    effbench.train([f"resume={copy}", "trainer.max_epochs=4"])
    after = load_file(copy / "checkpoints" / "last" / "model.safetensors")
    assert zeros(dict(after), names) == pytest.approx(0.8, abs=1e-3)
    for name in names:
        assert torch.equal(after[name] == 0, before[name] == 0), name
        assert not torch.equal(after[name], before[name]), "it has learnt"
    assert any("no speed" in note for note in record_of(unstructured)["details"]["notes"])


def test_a_result_is_compressed_again(structured: Path, unstructured: Path, tmp_path: Path) -> None:
    """Channels stay gone, and zeros stay zero, whichever came first."""
    sparse = UnstructuredOptions(epochs=0)
    compress(structured, CompressOptions("unstructured", sparse), tmp_path / "sparse")
    record = record_of(tmp_path / "sparse")
    assert record["source"]["compression"]["method"] == "structured"
    assert load_run(tmp_path / "sparse").model().block1[0].out_channels == 8
    assert zeros(weights_of_last(tmp_path / "sparse"), record["zeros"]) == pytest.approx(0.5, abs=1e-3)

    narrow = StructuredOptions(round_to=1, epochs=1)
    compress(unstructured, CompressOptions("structured", narrow), tmp_path / "narrow")
    assert load_run(tmp_path / "narrow").model().block1[0].out_channels == 8
    assert zeros(weights_of(tmp_path / "narrow"), record_of(tmp_path / "narrow")["zeros"]) > 0.5


def weights_of_last(folder: Path) -> dict[str, torch.Tensor]:
    return dict(load_file(folder / "checkpoints" / "last" / "model.safetensors"))


def test_without_epochs_the_weights_are_the_pruned_ones(dense: Path, tmp_path: Path) -> None:
    own = StructuredOptions(ratio=0.5, epochs=0)
    compress(dense, CompressOptions("structured", own), tmp_path / "bare")
    kept = weights_of_last(tmp_path / "bare")["block1.0.weight"]
    rows = weights_of(dense)["block1.0.weight"]
    assert len(kept) == 8
    assert all(any(torch.equal(row, each) for each in rows) for row in kept)
    assert [check for check in verify_run(tmp_path / "bare") if check.problem] == []
    run = effbench.train([f"resume={tmp_path / 'bare'}"])
    assert run.summary["status"] == "completed"
    assert run.model("last").block1[0].out_channels == 8


def test_each_step_removes_channels_of_frozen_layers(frozen: Path, tmp_path: Path) -> None:
    pytest.importorskip("torch_pruning")
    own = StructuredOptions(ratio=0.5, round_to=4, steps=2, epochs=2)
    compress(frozen, CompressOptions("structured", own), tmp_path / "narrow")
    widths = {name: len(weight) for name, weight in weights_of(tmp_path / "narrow").items() if weight.dim() > 1}
    assert widths == {"block1.0.weight": 8, "block2.0.weight": 16, "hidden.1.weight": 16, "head.weight": 4}


def test_an_untrained_result_of_a_frozen_run_resumes(frozen: Path, tmp_path: Path) -> None:
    """Its optimizer has the parameters that are trained, and no others."""
    bare = tmp_path / "bare"
    compress(frozen, CompressOptions("unstructured", UnstructuredOptions(epochs=0)), bare)
    before = weights_of_last(bare)
    run = effbench.train([f"resume={bare}"])
    assert run.summary["status"] == "completed"
    after = weights_of_last(bare)
    assert torch.equal(after["block1.0.weight"], before["block1.0.weight"])
    assert not torch.equal(after["block2.0.weight"], before["block2.0.weight"])


@pytest.mark.row(5)
@pytest.mark.parametrize("epochs", [0, 1])
def test_a_full_disk_is_named_with_an_option_of_compress(
    epochs: int, dense: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fine-tuning writes as any run does, whose remedy is hydra.run.dir."""

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("effbench.training.checkpoint_files._write_state", full)
    with pytest.raises(NoSpaceError, match="or write to another place with output=FOLDER") as told:
        compress(dense, CompressOptions("unstructured", UnstructuredOptions(epochs=epochs)), tmp_path / "out")
    assert "hydra.run.dir" not in str(told.value)
    assert list(tmp_path.iterdir()) == []


def test_a_library_of_another_distribution_has_a_version(
    dense: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As onnxruntime-gpu brings onnxruntime: metadata know no such name."""
    made = tmp_path / "onnxruntime_gpu-9.8.7.dist-info"
    made.mkdir()
    (made / "METADATA").write_text("Metadata-Version: 2.1\nName: onnxruntime-gpu\nVersion: 9.8.7\n")
    (made / "top_level.txt").write_text("onnxruntime\n")
    monkeypatch.syspath_prepend(tmp_path)
    plain = importlib.metadata.distribution

    def distribution(name: str) -> importlib.metadata.Distribution:
        if name == "onnxruntime":
            raise importlib.metadata.PackageNotFoundError(name)
        return plain(name)

    monkeypatch.setattr(importlib.metadata, "distribution", distribution)
    monkeypatch.setattr(environment, "installed", environment.installed.__wrapped__)
    facts = _facts(load_run(dense), Wanted("onnx", "best", "", 1e-4, None, True, "file"), None)
    for record in (facts, _file_record(facts, "onnx", "static")):
        assert record["versions"]["onnxruntime"] == "9.8.7"
        assert record["versions"]["torch"] == plain("torch").version
    assert surroundings(BenchOptions(backends=("onnxruntime",)))["onnxruntime"] == "9.8.7"


@pytest.mark.parametrize("damage", [{"gone": {"weight": [1]}}, {"head": {"weight": [10**9, 16]}}, {}])
def test_damaged_plan_is_refused_without_a_traceback(structured: Path, tmp_path: Path, damage: dict[str, Any]) -> None:
    copy = shutil.copytree(structured, tmp_path / "copy", symlinks=True)
    record = record_of(copy)
    (copy / "compression.json").write_text(json.dumps({**record, "channels": damage}))
    with pytest.raises(ConfigError, match="does not fit the model|do not fit the model"):
        load_run(copy).model()


def test_layers_of_a_plan_must_fit_each_other(structured: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(structured, tmp_path / "copy", symlinks=True)
    record = record_of(copy)
    # the next layer still takes as many channels as before
    first = {name: sizes for name, sizes in record["channels"].items() if name.startswith("block1.0")}
    assert 0 < len(first) < len(record["channels"])
    (copy / "compression.json").write_text(json.dumps({**record, "channels": first}))
    with pytest.raises(ConfigError, match="compression.json does not fit the model of the config"):
        load_run(copy).model()


def test_a_report_ranks_results_apart_from_their_run(dense: Path, structured: Path, unstructured: Path) -> None:
    experiments = {record.experiment for record in read_runs([dense, structured, unstructured])}
    assert len(experiments) == 3
    assert read_runs([structured])[0].config["compress.ratio"] == 0.5


def test_dense_weights_do_not_fit_the_pruned_model(dense: Path, structured: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(structured, tmp_path / "copy")
    state = weights_of(dense)
    best = next((copy / "checkpoints").glob("best"))
    save_file(state, best / "model.safetensors")
    with pytest.raises(effbench.EffbenchError, match="model.safetensors"):
        load_run(copy).model()


class Terminate(effbench.Callback):
    def step_end(self, context: Any) -> None:
        signal.raise_signal(signal.SIGTERM)


def test_signal_in_fine_tuning_ends_it_with_its_name(dense: Path, tmp_path: Path) -> None:
    run = load_run(dense)
    tuning = FineTuning(run, "best", tmp_path / "out", StructuredOptions(epochs=1))
    with pytest.raises(Interrupted, match="SIGTERM"):
        tuning.run(run.model(), 1, [Terminate()])
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_failed_compress_leaves_nothing(dense: Path, tmp_path: Path) -> None:
    before = sorted(path.name for path in dense.rglob("*"))
    own = StructuredOptions(epochs=1, lr=1e12)
    with pytest.raises(effbench.EffbenchError, match="fine-tuning"):
        compress(dense, CompressOptions("structured", own), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []
    assert sorted(path.name for path in dense.rglob("*")) == before
