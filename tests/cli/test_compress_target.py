"""A target and a sweep, really made and measured: exit codes, and numbers that are those of the files on disk."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import torch

import effbench
from effbench.export.opening import open_export
from effbench.run.exported_run import ExportedRun
from effbench.run.load import load_run
from tests.cli.conftest import Effbench
from tests.compress.test_pruned_runs import SMALL

pytest.importorskip("onnxruntime")
pytest.importorskip("torch_pruning")

pytestmark = [pytest.mark.proof, pytest.mark.process, pytest.mark.slow]

FEW = ["rounds=3", "seconds=0.05", "epochs=1"]


@pytest.fixture(scope="module")
def dense(tmp_path_factory: pytest.TempPathFactory) -> Path:
    # wide enough that weights are most of a file
    words = [*SMALL, "model.channels=[32,64]", "model.hidden=128"]
    return effbench.train(words, tmp_path_factory.mktemp("runs") / "dense").folder


@pytest.fixture(scope="module")
def values(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that predicts numbers, which has no accuracy to lose."""
    folder = tmp_path_factory.mktemp("values")
    rows = "".join(f"{n / 10},{n % 7},{n / 5 - n % 7}\n" for n in range(120))
    (folder / "table.csv").write_text(f"a,b,price\n{rows}")
    words = ["data=table_csv", f"data.file={folder / 'table.csv'}", "data.label_column=price", "data.targets=values"]
    words += ["task=regression", "loss=mse", "model=mlp", "model.hidden=[64,64]", "trainer.max_epochs=2"]
    return effbench.train([*words, "device=cpu", "device.threads=1"], folder / "run").folder


def record_of(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "compression.json").read_text()))


def arms_of(record: dict[str, Any], backend: str) -> dict[str, dict[str, Any]]:
    return {arm["side"]: arm for arm in record["speed"]["arms"] if arm["backend"] == backend}


def test_a_size_is_reached_by_the_file_that_is_there(dense: Path, effbench: Effbench, tmp_path: Path) -> None:
    result = tmp_path / "small"
    words = ["target=size/2", "max_drop=100", "backends=[eager,onnxruntime]", f"output={result}"]
    code, out, _ = effbench("compress", str(dense), *words, *FEW)
    assert code == 0, out
    record = record_of(result)
    found, own = record["search"], arms_of(record, "onnxruntime")
    file = result / "export" / found["file"]
    assert (found["met"], found["backend"]) == (True, "onnxruntime")
    assert file.stat().st_size == found["bytes"] == own["after"]["bytes"] == found["candidates"][-1]["bytes"]
    assert found["value"] == file.stat().st_size / own["before"]["bytes"] <= 0.5
    assert out.splitlines()[-1] == f"  {file}"
    assert isinstance(load_run(result), ExportedRun)


def test_a_pruned_result_is_a_run_with_a_file(dense: Path, effbench: Effbench, tmp_path: Path) -> None:
    """Neither backend reads files of 8 bits, so that channels are removed."""
    result = tmp_path / "small"
    words = ["target=size/2", "max_drop=100", "backends=[eager,torchscript]", f"output={result}"]
    code, out, _ = effbench("compress", str(dense), *words, *FEW)
    assert code == 0, out
    record, run = record_of(result), load_run(result)
    found = record["search"]
    file = result / "export" / found["file"]
    assert (found["met"], found["backend"], record["file"]) == (True, "torchscript", None)
    assert file.stat().st_size == found["bytes"]
    assert found["value"] == pytest.approx(file.stat().st_size / arms_of(record, "torchscript")["before"]["bytes"])
    assert json.loads(Path(f"{file}.json").read_text())["run"] == str(result)
    # by its checkpoint, whose answers the file gives
    assert not isinstance(run, ExportedRun)
    inputs = torch.rand(3, *run.shape)
    with torch.inference_mode():
        assert torch.allclose(
            open_export(file, trust=True).forward(inputs), run.model()(run.modality().normalise(inputs)), atol=1e-4
        )
    assert effbench("eval", str(result))[0] == 0
    assert not [path.name for path in result.iterdir() if path.name.startswith((".", "plan"))]


def test_a_latency_that_the_run_has_writes_nothing(dense: Path, effbench: Effbench, tmp_path: Path) -> None:
    result = tmp_path / "small"
    words = ["target=10 s", "backends=[eager,onnxruntime]", f"output={result}", "--json"]
    code, out, _ = effbench("compress", str(dense), *words, *FEW)
    found = json.loads(out)
    assert (code, found["path"], found["search"]["met"]) == (0, None, True)
    assert found["search"]["backend"] in ("eager", "onnxruntime")
    assert 0 < found["search"]["value"] <= found["search"]["value_high"] < 10
    assert not result.exists()


@pytest.mark.parametrize("kind", ["dense", "values"])
def test_a_latency_out_of_reach_exits_3_with_its_proof(
    kind: str, request: pytest.FixtureRequest, effbench: Effbench, tmp_path: Path
) -> None:
    result, source = tmp_path / "small", request.getfixturevalue(kind)
    words = ["target=latency/1000000000", "max_drop=1000", "minutes=0.0001", f"output={result}"]
    code, out, _ = effbench("compress", str(source), *words, *FEW)
    assert code == 3, out
    record = record_of(result)
    found, speed = record["search"], record["speed"]
    assert found["backend"] == speed["fastest"]["after"]
    assert found["backend_lost"] == arms_of(record, found["backend"])["after"]["lost"]
    assert found["value"] == speed["fastest_ratio"]["estimate"]
    margin = 1 + speed["margin"]
    # of the file alone, and of the backend beside it
    beside = {arm["backend"]: arm["more"] for arm in speed["arms"] if arm["side"] == "after"}
    assert beside["onnxruntime"] == 0
    assert found["more"] == beside[found["backend"]]
    assert (found["drop"] == record["validation"]["drop"]) is (found["more"] == 0)
    assert found["value_high"] == pytest.approx(speed["fastest_ratio"]["high"] * margin)
    assert (result / "export" / found["file"]).stat().st_size == found["bytes"]


def test_a_sweep_has_the_numbers_of_its_runs(dense: Path, effbench: Effbench, tmp_path: Path) -> None:
    result = tmp_path / "sweep"
    words = ["method=structured", "sweep=0.25,0.5", "backends=[eager,onnxruntime]", f"output={result}"]
    code, out, _ = effbench("compress", str(dense), *words, *FEW)
    assert code == 0, out
    found = json.loads((result / "tradeoff.json").read_text())
    assert [row["ratio"] for row in found["rows"]] == [0.25, 0.5]
    sizes = [found["before"]["bytes"], *(row["bytes"] for row in found["rows"])]
    assert sizes == sorted(sizes, reverse=True)
    for row in found["rows"]:
        folder = result / f"ratio-{row['ratio']}"
        record = record_of(folder)
        assert row["bytes"] == arms_of(record, "onnxruntime")["after"]["bytes"]
        assert row["p50_s"] == arms_of(record, row["backend"])["after"]["batches"]["1"]["latency_s"]["p50"]
        # the file that a user gets is the one that was measured, but for what names it
        code, out, _ = effbench("export", str(folder), "--json")
        assert code == 0
        assert Path(json.loads(out)["path"]).stat().st_size == pytest.approx(row["bytes"], rel=0.02)
        assert load_run(folder).summary["model"]["parameters"] == row["parameters"]
    with (result / "tradeoff.csv").open(newline="") as stream:
        assert [int(row["bytes"]) for row in csv.DictReader(stream)] == sizes[1:]


@pytest.mark.parametrize("target", ["2 ms", "size/2"])
def test_data_that_are_not_there_exit_2(target: str, values: Path, effbench: Effbench, tmp_path: Path) -> None:
    words = [f"target={target}", "data.file=/nowhere.csv", f"output={tmp_path / 'small'}"]
    code, _, err = effbench("compress", str(values), *words)
    assert code == 2
    assert "/nowhere.csv" in err
    assert "max_drop" not in err
