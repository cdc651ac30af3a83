"""`effbench bench`: what is recorded, what fails is a row, and nothing is half-written."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from effbench import cli
from effbench.bench import run as benching
from effbench.bench import sources, training
from effbench.bench.processes import ArmError, ArmProcess
from effbench.export import opening
from effbench.export.formats import PROGRAMS
from effbench.report.deployment import is_of_other_data
from effbench.run.load import load_run
from tests.cli.test_export import answers, compared, in_unit_range

pytest.importorskip("onnxruntime")

FEW = ["rounds=3", "seconds=0.05", "samples=64"]


@pytest.fixture(scope="session")
def benched(finished: tuple[Path, str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with bench.json of the finished MLP: bfloat16 and ONNX Runtime."""
    folder = tmp_path_factory.mktemp("benched")
    words = ["backends=[bf16,onnxruntime]", "batch_sizes=[1,3]", f"output={folder}"]
    assert cli.main(["bench", str(finished[0]), *words, *FEW]) == 0
    return folder


def record_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "bench.json").read_text())


def arm_of(record: dict[str, Any], name: str) -> dict[str, Any]:
    return next(arm for arm in record["arms"] if arm["backend"] == name)


@pytest.mark.proof
@pytest.mark.process
@pytest.mark.slow
def test_each_backend_has_times_for_each_batch_size(benched: Path) -> None:
    record = record_of(benched)
    assert [arm["backend"] for arm in record["arms"]] == ["bf16", "onnxruntime"]
    for arm in record["arms"]:
        assert arm["status"] == "ok"
        assert arm["batches"].keys() == {"1", "3"}
        for size, found in arm["batches"].items():
            assert found["rounds"] == 3
            mean = found["latency_s"]["mean"]
            assert 0 < mean["low"] <= mean["estimate"] <= mean["high"]
            assert found["samples_per_s"]["estimate"] == pytest.approx(int(size) / mean["estimate"])
            assert found["peak_bytes"] > 10**7
    # a process of ONNX Runtime does not hold torch
    peaks = [arm_of(record, name)["batches"]["1"]["peak_bytes"] for name in ("onnxruntime", "bf16")]
    assert peaks[0] < 0.5 * peaks[1]
    assert record["processes"].keys() == {"bf16", "onnxruntime", "bf16 again"}
    assert all(len(processes) == 6 for processes in record["processes"].values())
    assert record["control"]["ratio"].keys() == {"1", "3"}


@pytest.mark.proof
@pytest.mark.process
@pytest.mark.slow
def test_accuracy_and_parity_are_those_of_onnxruntime_by_hand(benched: Path, run: Path, tmp_path: Path) -> None:
    from effbench import build
    from effbench.data.splits import representative_sample

    assert cli.main(["export", str(run), f"output={tmp_path}"]) == 0
    val = build.splits(load_run(run).config).named()["val"]
    rows = representative_sample(val.labels, 64)
    logits = answers(tmp_path / "mlp-best.onnx", in_unit_range(val.images[rows]))
    arm = arm_of(record_of(benched), "onnxruntime")
    right = (logits.argmax(1) == val.labels[rows].numpy()).mean()
    assert arm["metrics"]["acc"] == pytest.approx(right)
    expected = load_run(run).model()
    modality = load_run(run).modality()
    with torch.inference_mode():
        own = expected(modality.normalise(modality.portable(val.images[rows]))).numpy()
    assert arm["parity"]["largest_logit"] == pytest.approx(np.abs(own).max(), rel=1e-5)
    assert arm["parity"]["relative"] < 1e-5
    assert arm["lost"]["estimate"] == 0
    rounded = arm_of(record_of(benched), "bf16")["parity"]["relative"]
    assert 1e-4 < rounded < 0.1  # bfloat16 has 8 bits
    assert len(compared(run)) == 256


@pytest.mark.proof
@pytest.mark.process
@pytest.mark.slow
def test_the_csv_has_the_numbers_of_the_json(benched: Path) -> None:
    with (benched / "bench.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [(row["backend"], row["batch_size"]) for row in rows] == [
        (name, size) for name in ("bf16", "onnxruntime") for size in ("1", "3")
    ]
    found = arm_of(record_of(benched), "onnxruntime")["batches"]["3"]
    assert float(rows[3]["p50_s"]) == pytest.approx(found["latency_s"]["p50"]["estimate"], rel=1e-7)
    assert float(rows[3]["samples_per_s_low"]) == pytest.approx(found["samples_per_s"]["low"], rel=1e-7)
    figure = (benched / "bench.svg").read_text()
    assert all(name in figure for name in ("onnxruntime", "bf16"))


@pytest.mark.proof
@pytest.mark.process
@pytest.mark.slow
def test_the_table_fits_80_columns(benched: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    from effbench.bench.table import print_record

    monkeypatch.setenv("COLUMNS", "80")
    record = record_of(benched)
    print_record(record)
    out = capsys.readouterr().out
    table = out.split("\nLeast latency")[0].splitlines()
    assert max(map(len, table)) <= 80
    for arm in record["arms"]:
        assert f"{1000 * arm['batches']['1']['latency_s']['p50']['estimate']:.2f}"[:3] in out
    assert "Control: bf16 was measured twice; ratio" in out


@pytest.mark.proof
@pytest.mark.process
@pytest.mark.slow
def test_a_file_is_measured_and_what_cannot_read_it_is_a_row(run: Path, tmp_path: Path, capsys: Any) -> None:
    assert cli.main(["export", str(run), f"output={tmp_path}"]) == 0
    file = tmp_path / "mlp-best.onnx"
    words = ["backends=[eager,onnxruntime]", "batch_sizes=1", "--json"]
    capsys.readouterr()
    assert cli.main(["bench", str(file), *words, *FEW]) == 0
    printed = json.loads(capsys.readouterr().out)
    record = record_of(tmp_path / "bench" / file.name)
    assert printed["arms"] == record["arms"]
    assert arm_of(record, "eager")["reason"] == "it reads no file of format=onnx"
    assert arm_of(record, "onnxruntime")["metrics"]["acc"] > 0  # the run is there
    assert (record["reference"], record["verdicts"]["single_stream"]["winner"]) == ("onnxruntime", "onnxruntime")
    assert not (tmp_path / "bench" / file.name / "bench.svg").exists()  # one batch size is no line


@pytest.mark.proof
@pytest.mark.process
@pytest.mark.slow
@pytest.mark.parametrize(
    ("format_name", "suffix", "backend"),
    [
        ("openvino", "zip", "openvino_f32"),
        ("torchscript", "pt", "torchscript"),
        ("torch_export", "pt2", "torch_export"),
        ("executorch", "pte", "executorch"),
    ],
)
def test_each_format_is_measured_by_its_runtime(
    format_name: str, suffix: str, backend: str, run: Path, tmp_path: Path
) -> None:
    assert cli.main(["export", str(run), f"format={format_name}", f"output={tmp_path}"]) == 0
    [file] = tmp_path.glob(f"*.{suffix}")
    words = ["batch_sizes=1", *FEW]  # no backend is named: those that read the file
    if format_name in PROGRAMS:
        assert cli.main(["bench", str(file), *words]) == 2
        words.append("trust=true")
    assert cli.main(["bench", str(file), *words]) == 0
    found = arm_of(record_of(tmp_path / "bench" / file.name), backend)
    assert found["status"] == "ok"
    assert found["parity"]["relative"] < 1e-4


def test_trust_without_a_file_is_refused(run: Path, capsys: Any) -> None:
    assert cli.main(["bench", str(run), "trust=true"]) == 2
    assert "trust is for an exported file" in capsys.readouterr().err


@pytest.mark.slow
def test_a_bad_output_is_refused_before_anything_is_read(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    assert cli.main(["export", str(run), "format=torchscript", f"output={tmp_path / 'export'}"]) == 0
    (tmp_path / "file").touch()
    (tmp_path / "taken" / "bench.svg").mkdir(parents=True)

    def read(*_: Any) -> None:
        raise AssertionError("it is read")

    monkeypatch.setattr(opening, "open_export", read)
    monkeypatch.setattr(sources, "run_source", read)
    monkeypatch.setattr(training, "bench_training", read)
    file = str(tmp_path / "export" / "mlp-best.pt")
    for words in ([str(run)], ["mode=train", str(run)], [file, "trust=true"]):
        assert cli.main(["bench", *words, "output=file"]) == 2
        assert "the output folder file cannot be written" in capsys.readouterr().err
    for words in ([str(run)], [file, "trust=true"]):
        assert cli.main(["bench", *words, "output=taken"]) == 2
        assert "taken/bench.svg is no file that could be replaced" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["export", "file", "taken"]


def test_a_record_says_whether_its_data_are_the_runs(run: Path, tmp_path: Path) -> None:
    """Here the data of the run are replaced by others after its training."""
    other = Path(shutil.copytree(run, tmp_path / "other", symlinks=True))
    summary = json.loads((run / "summary.json").read_text())
    trained_on = {**summary["data"], "sha256": "0" * 64}
    (other / "summary.json").write_text(json.dumps({**summary, "data": trained_on}))
    for folder, told in ((run, False), (other, True)):
        facts = sources.run_source(folder, "best", {}, (), 8).facts
        assert facts["data"] == {key: summary["data"][key] for key in ("name", "sha256")}
        assert is_of_other_data(folder, facts) is told


def test_callbacks_of_a_run_are_left_out_and_named(run: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Its steps are measured also where the callbacks' module is not there."""
    copy = Path(shutil.copytree(run, tmp_path / "copy", symlinks=True))
    place = copy / "config.yaml"
    callbacks = {"mine": {"_target_": "mylab.hooks.Mine"}, "other": {"_target_": "mylab.hooks.Other"}}
    place.write_text(yaml.safe_dump({**yaml.safe_load(place.read_text()), "callbacks": callbacks}))
    for folder, told in ((run, False), (copy, True)):
        caplog.clear()
        with caplog.at_level("INFO", logger="effbench"):
            assert training.run_config(folder).callbacks.named == {}
        assert ("the run's callbacks are left out: mine, other" in caplog.text) is told
        assert ("left out" in caplog.text) is told


@pytest.mark.parametrize("changed", [{"channels": {"head": {"out_features": 8}}}, {"file": "small.onnx"}])
def test_a_compressed_run_has_no_training_step_of_its_own(
    changed: dict[str, Any], run: Path, tmp_path: Path, capsys: Any
) -> None:
    """Its config builds the model before it was compressed."""
    copy = Path(shutil.copytree(run, tmp_path / "copy", symlinks=True))
    record = {"schema_version": 1, "method": "structured", **changed}
    (copy / "compression.json").write_text(json.dumps(record))
    assert cli.main(["bench", "mode=train", str(copy)]) == 2
    assert (
        "(method=structured): the numbers would be of another model. Give the run before it" in capsys.readouterr().err
    )


@pytest.mark.proof
@pytest.mark.process
@pytest.mark.slow
def test_an_untrained_model_tells_no_accuracy_and_writes_nothing(tmp_path: Path, capsys: Any) -> None:
    words = ["model=mlp", "backends=[onnxruntime]", "batch_sizes=1", "--json"]
    assert cli.main(["bench", *words, *FEW]) == 0
    record = json.loads(capsys.readouterr().out)
    assert (record["kind"], record["no_accuracy"]) == ("model", "the weights are untrained")
    assert arm_of(record, "onnxruntime")["lost"] is None
    assert arm_of(record, "onnxruntime")["parity"]["relative"] < 1e-5
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_an_interrupted_measurement_leaves_the_earlier_result(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "bench.json").write_text("earlier")

    def stopped(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(benching, "prepare", stopped)
    assert cli.main(["bench", str(run), f"output={tmp_path}", *FEW]) == 130
    assert [path.name for path in tmp_path.iterdir()] == ["bench.json"]
    assert (tmp_path / "bench.json").read_text() == "earlier"


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["nowhere"], "nowhere is not a run"),
        (["rounds=3"], "what is to be measured?"),
        (["nowhere", "round=3"], "option of bench 'round' is not one of"),
        (["model=mlp", "checkpoint=last"], "checkpoint is of a run"),
        (["model=mlpp"], "mlp"),
        (["nowhere", "threads=two"], "threads must be a whole number in [1, 1024]; got 'two'"),
        (["nowhere", "backends=onnx"], "backend 'onnx' is not one of"),
    ],
)
def test_a_mistake_is_named_before_anything_is_measured(words: list[str], text: str, capsys: Any) -> None:
    assert cli.main(["bench", *words]) == 2
    assert text in capsys.readouterr().err


@pytest.mark.parametrize("name", ["model=mlp", "recipe=mine"])
def test_a_run_whose_name_begins_as_an_override_is_a_run(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a sweep names its jobs."""
    given: list[Any] = []
    monkeypatch.setattr("effbench.bench.bench.bench", lambda target, *_, **__: given.append(target) or {})
    monkeypatch.setattr("effbench.bench.bench.bench_untrained", lambda words, *_: given.append(words) or {})
    (tmp_path / name).mkdir()
    assert cli.main(["bench", name, "rounds=3", "data.root=elsewhere", "--json"]) == 0
    assert given == [name]
    # beside other overrides it is one
    assert cli.main(["bench", name, "optimizer=adamw", "rounds=3", "--json"]) == 0
    assert given == [name, [name, "optimizer=adamw"]]


# --- processes


def job(tmp_path: Path, **changed: Any) -> dict[str, Any]:
    np.save(tmp_path / "samples.npy", np.zeros((2, 3), np.float32))
    (tmp_path / "file").write_bytes(b"no model")
    return {
        "backend": "onnxruntime", "file": str(tmp_path / "file"), "samples": str(tmp_path / "samples.npy"),
        "threads": 1, "turn_s": 0.1, "turns": 1, "answers": "", **changed,
    }  # fmt: skip


@pytest.mark.process
def test_a_file_that_cannot_be_loaded_is_a_reason(tmp_path: Path) -> None:
    process = ArmProcess(job(tmp_path), tmp_path, 1)
    with pytest.raises(ArmError) as failed:
        process.ask()
    process.close()
    assert "InvalidProtobuf" in str(failed.value)


@pytest.mark.process
def test_a_killed_process_is_a_reason(tmp_path: Path) -> None:
    process = ArmProcess(job(tmp_path), tmp_path, 1)
    os.kill(process.pid, signal.SIGKILL)
    with pytest.raises(ArmError) as failed:
        process.ask()
    process.close()
    assert str(failed.value) == "its process ended with signal SIGKILL"


AT_A_PROMPT = """
from pathlib import Path
import torch, mylab
from effbench.bench.measure import Arm, answers_of
torch.save(mylab.Twice(), "twice.module")
arm = Arm("eager", "eager", Path("twice.module"))
got = answers_of(arm, Path("samples.npy"), 2, Path(), 1)
print(arm.failed or got[0].tolist())
"""


@pytest.mark.proof
@pytest.mark.process
def test_a_prompt_finds_a_module_of_the_current_folder(tmp_path: Path) -> None:
    """There sys.path has the folder as ''."""
    job(tmp_path)  # for its samples
    lines = ["import torch", "class Twice(torch.nn.Module):", "    def forward(self, x): return 2 * x + 1"]
    (tmp_path / "mylab.py").write_text("\n".join(lines) + "\n")
    done = subprocess.run([sys.executable, "-c", AT_A_PROMPT], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[[1.0, 1.0, 1.0], [1.0, 1.0, 1.0]]"
