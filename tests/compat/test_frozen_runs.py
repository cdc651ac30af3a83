"""Run folders of older versions are read for ever: each verb on the frozen runs of tests/compat/VERSION."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from effbench import cli

HERE = Path(__file__).parent
VERSIONS = sorted(path.name for path in HERE.iterdir() if (path / "eval.json").is_file())
RUNS = ("photos_run", "mid_epoch", "plateau", "sweep/000_optimizer=lion", "sweep/001_optimizer=sgd")
# runs that not every version has, such as (schema8, texts): texts, tables and next-token prediction
OTHERS = [(path.parent.name, path.name.removesuffix(".eval.json")) for path in sorted(HERE.glob("*/*.eval.json"))]


@pytest.fixture(params=VERSIONS)
def frozen(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of a version's runs, as the working folder."""
    folder = tmp_path / "runs"
    shutil.copytree(HERE / request.param, folder, symlinks=True)
    monkeypatch.chdir(folder)
    return folder


def result(capsys: pytest.CaptureFixture[str], *words: str) -> object:
    capsys.readouterr()
    assert cli.main(words) == 0, capsys.readouterr().err
    return json.loads(capsys.readouterr().out)


def assert_same(now: object, then: object) -> None:
    """Equal but for last digits, and for keys that were added since."""
    if isinstance(then, dict):
        assert isinstance(now, dict)
        for key, value in then.items():
            assert_same(now[key], value)
    elif isinstance(then, list):
        assert isinstance(now, list)
        assert len(now) == len(then)
        for own, value in zip(now, then, strict=True):
            assert_same(own, value)
    else:
        assert now == (pytest.approx(then, rel=1e-3, abs=1e-4) if isinstance(then, float) else then)


@pytest.mark.usefixtures("frozen")
@pytest.mark.parametrize("run", RUNS)
def test_verify_finds_an_old_run_whole(run: str) -> None:
    assert cli.main(["verify", run]) == 0


def test_eval_of_an_old_run_gives_the_recorded_metrics(frozen: Path, capsys: pytest.CaptureFixture[str]) -> None:
    then = json.loads((frozen / "eval.json").read_text())
    now = result(capsys, "eval", "photos_run", "--json")
    assert_same(now, then)


def test_predict_of_an_old_run_gives_the_recorded_predictions(frozen: Path, capsys: pytest.CaptureFixture[str]) -> None:
    then = json.loads((frozen / "predictions.json").read_text())
    now = result(capsys, "predict", "photos_run", "photos/test", "--json")
    assert isinstance(now, list)
    assert [(row["file"], row["class"]) for row in now] == [(row["file"], row["class"]) for row in then]
    assert [row["probability"] for row in now] == pytest.approx([row["probability"] for row in then], abs=1e-4)


@pytest.mark.spread(1)
@pytest.mark.usefixtures("frozen")
@pytest.mark.parametrize("name", ["torchscript", "torch_export", pytest.param("onnx", marks=pytest.mark.proof)])
def test_export_proves_its_file_against_an_old_run(name: str) -> None:
    assert cli.main(["export", "photos_run", f"format={name}"]) == 0


@pytest.mark.usefixtures("frozen")
def test_report_shows_old_runs_and_sweeps_without_a_problem(capsys: pytest.CaptureFixture[str]) -> None:
    page = result(capsys, "report", "photos_run", "mid_epoch", "plateau", "sweep", "--json")
    assert isinstance(page, dict)
    assert sum(len(table["rows"]) for table in page["tables"]) == 5
    assert not page["problems"]
    assert not page["unfinished"]


@pytest.mark.process
def test_frozen_run_stopped_mid_epoch_resumes_to_same_weights(frozen: Path) -> None:
    # On the machine of the record to the bit; another processor's last digits differ, and grow in steps.
    recorded = json.loads((frozen / "mid_epoch" / "summary.json").read_text())["environment"]
    assert cli.main(["train", "resume=mid_epoch", "trainer.max_steps=12"]) == 0
    here = json.loads((frozen / "mid_epoch" / "summary.json").read_text())["environment"]
    exact = all(recorded[key] == here[key] for key in ("cpu", "cpu_capability", "platform", "torch", "kernels"))
    limits = {"rtol": 0.0, "atol": 0.0} if exact else {"rtol": 1e-3, "atol": 1e-4}
    last = frozen / "mid_epoch" / "checkpoints" / "last"
    for name, then in (("model", "whole"), ("ema", "whole.ema")):
        now, reference = load_file(last / f"{name}.safetensors"), load_file(frozen / f"{then}.safetensors")
        assert now.keys() == reference.keys()
        for key, tensor in now.items():
            torch.testing.assert_close(tensor, reference[key], **limits)


@pytest.mark.spread(2)
@pytest.mark.process
@pytest.mark.parametrize("run", ["photos_run", "plateau"])
def test_an_old_run_can_be_resumed(run: str, frozen: Path) -> None:
    epochs = json.loads((frozen / run / "summary.json").read_text())["epochs"]
    assert cli.main(["train", f"resume={run}", f"trainer.max_epochs={round(epochs) + 1}"]) == 0
    assert json.loads((frozen / run / "summary.json").read_text())["epochs"] == epochs + 1
    assert cli.main(["verify", run]) == 0


@pytest.mark.usefixtures("frozen")
def test_an_old_sweep_is_found_finished(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["train", "-m", "sweep.resume=sweep"]) == 0
    assert "optimizer=lion" in capsys.readouterr().out


# --- texts, tables and next-token prediction


@pytest.fixture
def other(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A run of OTHERS, in a copy of its version's folder."""
    version, name = request.param
    shutil.copytree(HERE / version, tmp_path / "runs", symlinks=True)
    monkeypatch.chdir(tmp_path / "runs")
    return str(name)


def test_there_are_runs_of_each_kind() -> None:
    assert {name for _, name in OTHERS} == {"texts", "labels", "prices", "book"}


@pytest.mark.parametrize("other", OTHERS, indirect=True, ids="-".join)
def test_an_old_run_of_texts_or_rows_answers_as_then(other: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["verify", f"{other}_run"]) == 0
    then, now = json.loads(Path(f"{other}.eval.json").read_text()), result(capsys, "eval", f"{other}_run", "--json")
    assert_same(now, then)
    if (predicted := Path(f"{other}.predictions.json")).is_file():
        rows = result(capsys, "predict", f"{other}_run", f"{'prices' if other == 'prices' else 'texts'}.csv", "--json")
        assert_same(rows, json.loads(predicted.read_text()))


@pytest.mark.process
@pytest.mark.parametrize("other", OTHERS, indirect=True, ids="-".join)
def test_an_old_run_of_texts_or_rows_is_resumed_and_exported(other: str) -> None:
    run = f"{other}_run"
    before = json.loads(Path(run, "summary.json").read_text())["steps"]
    more = ["trainer.max_steps=24"] if other == "book" else ["trainer.max_epochs=3"]
    assert cli.main(["train", f"resume={run}", *more]) == 0
    assert json.loads(Path(run, "summary.json").read_text())["steps"] > before
    assert cli.main(["verify", run]) == 0
    assert cli.main(["export", run, "format=torchscript"]) == 0
    assert cli.main(["report", run, "output=page.html"]) == 0
