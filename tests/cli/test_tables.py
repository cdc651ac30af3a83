"""Tables with numbers of any size go through every verb: train, eval, predict, export, resume."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

import effbench
from effbench import cli
from effbench.data.rows.table_csv import table_csv
from effbench.export.formats import load_exported

COLUMNS: dict[str, Any] = {"label_column": "Sale Price", "targets": "values"}
WORDS = [
    "data=table_csv", "data.file=houses.csv", "data.label_column='Sale Price'", "data.targets=values",
    "task=regression", "loss=mse", "model=linear", "optimizer.lr=0.03", "data.batch_size=32", "trainer.max_epochs=30",
    "device.threads=1",
]  # fmt: skip


@pytest.fixture
def houses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A table whose targets have mean 2e5 and deviation 1e5, in the working folder."""
    monkeypatch.chdir(tmp_path)
    draw = np.random.default_rng(0)
    features = draw.normal(size=(300, 3)) * [1.0, 50.0, 0.1] + [0.0, 300.0, -5.0]
    prices = features @ [80_000.0, 900.0, -300_000.0] - 1.5e6 + draw.normal(size=300) * 3e4
    with Path("houses.csv").open("w", newline="") as stream:
        csv.writer(stream).writerows([["area", "garden", "noise", "Sale Price"], *np.column_stack([features, prices])])


@pytest.mark.proof
@pytest.mark.process
@pytest.mark.usefixtures("houses")
def test_linear_regression_of_prices_is_as_good_as_scikit_learns(
    capsys: pytest.CaptureFixture[str],
) -> None:
    from sklearn.linear_model import LinearRegression

    assert cli.main(["train", *WORDS, "hydra.run.dir=run"]) == 0
    told = capsys.readouterr().err
    data = table_csv("houses.csv", **COLUMNS)
    assert data.test is not None
    reference = LinearRegression().fit(data.train.inputs.numpy(), data.train.labels.numpy())
    answers = reference.predict(data.test.inputs.numpy())
    rmse = float(np.sqrt(np.mean((answers - data.test.labels.numpy()) ** 2)))
    summary = json.loads(Path("run/summary.json").read_text())
    assert summary["metrics"]["test/rmse"] == pytest.approx(rmse, rel=0.03)
    assert summary["metrics"]["test/loss"] == pytest.approx(summary["metrics"]["test/rmse"] ** 2, rel=1e-5)
    # train/loss has the unit of val/loss: both are drawn in one chart
    assert summary["metrics"]["train/loss"] == pytest.approx(summary["metrics"]["train/rmse"] ** 2, rel=1e-4)
    assert summary["task"]["target_mean"] == pytest.approx([float(data.train.labels.double().mean())])
    assert summary["task"]["target_std"] == pytest.approx([float(data.train.labels.double().std(correction=0))])
    assert "data houses.csv: 210 train, 30 val, 60 test, 1 value, 3 features" in told
    assert "task.standardise: trained on (target - mean) / deviation of train: Sale Price" in told

    # what was trained is what is read
    assert cli.main(["eval", "run", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["test/rmse"] == pytest.approx(summary["metrics"]["test/rmse"], rel=1e-5)
    assert cli.main(["predict", "run", "houses.csv", "--json"]) == 0
    predicted = [row["values"]["Sale Price"] for row in json.loads(capsys.readouterr().out)]
    every = table_csv("houses.csv", **COLUMNS, val_fraction=0, test_fraction=0).train
    assert np.corrcoef(predicted, every.labels.numpy())[0, 1] > 0.9
    assert np.mean(predicted) == pytest.approx(float(every.labels.mean()), rel=0.05)
    assert cli.main(["export", "run", "format=torchscript"]) == 0
    exported = load_exported("torchscript", Path("run/export/linear-best.pt"))
    torch.testing.assert_close(exported(every.inputs)[:, 0].tolist(), predicted, rtol=1e-5, atol=1.0)
    record = json.loads(Path("run/export/linear-best.pt.json").read_text())
    assert record["rescaling_inside"] == {key: summary["task"][key] for key in ("target_mean", "target_std")}


@pytest.mark.proof
@pytest.mark.process
@pytest.mark.usefixtures("houses")
def test_a_regression_from_before_the_key_goes_on_unchanged() -> None:
    """As schema 4 recorded it: neither config nor summary know of a scale, and equal rows were drawn apart."""
    whole, begun = Path("whole"), Path("begun")
    off = ["task.standardise=false", "data.equal_rows_together=false", "scheduler=constant", "scheduler.warmup=0"]
    short = [word for word in WORDS if not word.startswith("trainer.max_epochs")]
    effbench.train([*short, *off, "trainer.max_epochs=2"], whole)
    assert cli.main(["train", *short, *off, "trainer.max_epochs=1", f"hydra.run.dir={begun}"]) == 0
    config = yaml.safe_load((begun / "config.yaml").read_text())
    del config["task"]["standardise"], config["data"]["equal_rows_together"]
    (begun / "config.yaml").write_text(yaml.safe_dump({**config, "schema_version": 4}))
    words = begun / ".hydra" / "overrides.yaml"
    words.write_text("".join(line for line in words.read_text().splitlines(True) if "=false" not in line))
    assert "target_mean" not in effbench.load_run(begun).summary["task"]
    assert cli.main(["train", f"resume={begun}", "trainer.max_epochs=2"]) == 0
    model, other = (effbench.load_run(folder).model("last").state_dict() for folder in (whole, begun))
    assert all(torch.equal(tensor, other[name]) for name, tensor in model.items())
    # another unit of the outputs would make the trained weights meaningless
    assert cli.main(["train", f"resume={begun}", "trainer.max_epochs=3", "task.standardise=true"]) == 2


@pytest.mark.proof
@pytest.mark.process
def test_texts_with_large_numbers_are_learnt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    lines = [f"{('a good', 'a bad')[n % 2]} flat no {n},{(500_000, 200_000)[n % 2] + n}\n" for n in range(200)]
    Path("flats.csv").write_text("text,price\n" + "".join(lines))
    words = [
        "data=text_csv", "data.file=flats.csv", "data.label_column=price", "data.targets=values", "task=regression",
        "loss=mse", "model=ngrams", "model.buckets=4096", "trainer.max_epochs=8", "optimizer.lr=0.01",
        "device.threads=1",
    ]  # fmt: skip
    run = effbench.train(words, tmp_path / "run")
    # the deviation of the prices is 150,000
    assert run.summary["metrics"]["test/rmse"] < 20_000
    assert run.predict(["a good flat no 7", "a bad flat no 7"]).flatten().tolist() == pytest.approx([5e5, 2e5], rel=0.1)


@pytest.mark.slow
@pytest.mark.usefixtures("houses")
def test_a_run_is_evaluated_on_another_table(capsys: pytest.CaptureFixture[str]) -> None:
    """With the means of its own train split, though the other table has other ones; a column in another place."""
    words = [word for word in WORDS if not word.startswith("trainer.max_epochs")]
    run = effbench.train([*words, "trainer.max_steps=9"], "run")
    with Path("houses.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))[:40]
    for row in rows:
        row["area"] = str(float(row["area"]) + 3)
    rows[0]["garden"] = ""
    with Path("new.csv").open("w", newline="") as stream:
        writer = csv.DictWriter(stream, ["Sale Price", "noise", "area", "garden"])
        writer.writeheader()
        writer.writerows(rows)
    data, task = run.summary["data"], run.summary["task"]
    [garden] = [column["fill"] for column in data["columns"] if column["name"] == "garden"]
    features = np.array([[float(row[name] or garden) for name in ("area", "garden", "noise")] for row in rows])
    [layer] = [module for module in run.model().modules() if isinstance(module, torch.nn.Linear)]
    inputs = (features - data["mean"]) / data["std"]
    outputs = inputs @ layer.weight.detach().double().numpy()[0] + layer.bias.item()
    answers = outputs * task["target_std"][0] + task["target_mean"][0]
    rmse = float(np.sqrt(np.mean((answers - [float(row["Sale Price"]) for row in rows]) ** 2)))
    capsys.readouterr()
    assert cli.main(["eval", "run", "data.file=new.csv", "--json"]) == 0
    told = capsys.readouterr()
    found = json.loads(told.out)
    assert found["samples"] == 40
    assert found["test/rmse"] == pytest.approx(rmse, rel=1e-4)
    assert "note: data.file is not the run's file: all 40 rows of it are evaluated" in told.err
    assert "data.file: missing or unknown cells: garden 1" in told.err
    assert cli.main(["eval", "run", "data.file=new.csv", "split=tset"]) == 2
    assert "split 'tset' is not one of" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.usefixtures("houses")
def test_an_export_s_record_names_no_folder_of_the_data(tmp_path: Path) -> None:
    """Also of a run of before, whose summary holds the path of its file."""
    words = [word for word in WORDS if not word.startswith(("trainer.max_epochs", "data.file"))]
    run = effbench.train([*words, f"data.file={tmp_path / 'houses.csv'}", "trainer.max_steps=2"], tmp_path / "run")
    assert run.summary["data"]["file"] == "houses.csv"
    found = []
    for file in ("houses.csv", str(tmp_path / "houses.csv")):
        path = run.folder / "summary.json"
        summary = json.loads(path.read_text())
        summary["data"]["file"] = file
        path.write_text(json.dumps(summary))
        record = effbench.export_run(run.folder, "torchscript")
        found.append({key: record[key] for key in ("data", "config", "preprocessing")})
        assert str(tmp_path) not in json.dumps(found[-1])
    assert found[0] == found[1]
    assert [column["name"] for column in found[0]["preprocessing"]["columns"]] == ["area", "garden", "noise"]
