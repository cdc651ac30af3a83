"""effbench verify: damage to a run's folder is found; exact resume is proved, and its breaking noticed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from effbench.report.verify import failures, verify_run
from effbench.run.verify_resume import differences
from effbench.training.ema import Ema
from effbench.training.trainer import Trainer
from tests.cli.conftest import Effbench

TINY = ["model=cnn", "model.channels=[4]", "model.hidden=8", "data.batch_size=16", "device.threads=1"]


@pytest.fixture
def copy(run: Path, tmp_path: Path) -> Path:
    shutil.copytree(run, tmp_path / "run", symlinks=True)
    return tmp_path / "run"


def test_a_finished_run_passes_every_check(run: Path, effbench: Effbench) -> None:
    code, out, _ = effbench("verify", str(run))
    assert code == 0
    assert "WRONG" not in out
    code, out, _ = effbench("verify", str(run), "--json")
    assert all(row["ok"] for row in json.loads(out))


def edit(name: str, before: str, after: str) -> Callable[[Path], None]:
    def change(run: Path) -> None:
        text = (run / name).read_text()
        assert before in text
        (run / name).write_text(text.replace(before, after, 1))

    return change


def flip(run: Path) -> None:
    path = run / "checkpoints" / "last" / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-5] ^= 4
    path.write_bytes(content)


def add_average(run: Path) -> None:
    checkpoint = run / "checkpoints" / "last"
    shutil.copy(checkpoint / "model.safetensors", checkpoint / "ema.safetensors")


def lose_a_row(run: Path) -> None:
    header, *rows = (run / "metrics.csv").read_text().splitlines(keepends=True)
    (run / "metrics.csv").write_text(header + "".join(rows[:1] + rows[2:]))


def better(run: Path) -> None:
    summary = json.loads((run / "summary.json").read_text())
    summary["metrics"]["val/acc"] += 0.01
    (run / "summary.json").write_text(json.dumps(summary))


def best_value(run: Path) -> None:
    summary = json.loads((run / "summary.json").read_text())
    summary["best"]["value"] += 0.01
    (run / "summary.json").write_text(json.dumps(summary))


def relink(run: Path) -> None:
    link = run / "checkpoints" / "best"
    link.unlink()
    link.symlink_to("step-99999999")


@pytest.mark.parametrize(
    ("damage", "check"),
    [
        (flip, "checkpoint step-00000020"),
        (add_average, "checkpoint step-00000020"),
        (lose_a_row, "metrics"),
        (better, "summary agrees with metrics"),
        (best_value, "summary agrees with metrics"),
        (relink, "links"),
        (edit("config.yaml", "lr: 0.003", "lr: 0.004"), "config of the last checkpoint"),
        (edit("config.yaml", "max_epochs: 2", "max_epochs: two"), "config"),
        (edit("summary.json", '"status": "completed"', '"status": "done"'), "summary"),
        (edit("summary.json", '"status": "completed",', ""), "summary"),
        (edit("metrics.csv", "step,", "stop,"), "metrics"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_damage_is_found_and_named(damage, check, copy, effbench):
    damage(copy)
    found = {item.name: item.problem for item in failures(verify_run(copy))}
    assert check in found
    assert "'status'" not in found.values()  # a KeyError's text
    code, out, _ = effbench("verify", str(copy))
    assert code == 1
    assert "WRONG" in out
    assert "None" not in out  # null is what the file holds


def test_a_study_has_removed_the_checkpoints(copy: Path, tmp_path: Path) -> None:
    own = tmp_path / "study" / "runs" / "mlp-sgd" / "confirm-000"
    copy.rename(own.parent.mkdir(parents=True) or own)
    shutil.rmtree(own / "checkpoints")
    assert [item.name for item in failures(verify_run(own))] == ["links"]
    (tmp_path / "study" / "study.json").write_text("{}")
    assert list(failures(verify_run(own))) == []
    (own / "checkpoints").mkdir()  # a study removes the whole folder: this one has lost something
    assert [item.name for item in failures(verify_run(own))] == ["links"]


@pytest.mark.parametrize("at", ["0.25,nan", "inf,0.25", "nan,-inf"], ids=["end", "begin", "all"])
def test_a_metric_that_is_not_finite_at_times_is_no_damage(at: str, copy: Path) -> None:
    header, *rows = (copy / "metrics.csv").read_text().splitlines()
    cells = iter(at.split(","))
    own = [next(cells) if row.startswith("epoch,") else "" for row in rows]
    lines = [f"{header},val/kappa", *(f"{row},{cell}" for row, cell in zip(rows, own, strict=True))]
    (copy / "metrics.csv").write_text("\n".join(lines) + "\n")
    summary = json.loads((copy / "summary.json").read_text())
    summary["metrics"]["val/kappa"] = 0.25 if at.endswith("0.25") else None
    summary["best"] |= {"metric": "val/kappa", "value": 0.25 if "0.25" in at else None}
    (copy / "summary.json").write_text(json.dumps(summary))
    assert list(failures(verify_run(copy))) == []
    summary["best"]["value"] = 0.5
    (copy / "summary.json").write_text(json.dumps(summary))
    assert [item.name for item in failures(verify_run(copy))] == ["summary agrees with metrics"]


@pytest.mark.proof
@pytest.mark.process
def test_a_run_resumed_within_an_epoch_passes_every_check(effbench: Effbench, tmp_path: Path) -> None:
    rows = ["data=synthetic_rows", "model=mlp", "model.hidden=[8]", "device.threads=1", "trainer.max_epochs=2"]
    assert effbench("train", *rows, "trainer.max_time=0.00001", "hydra.run.dir=run")[0] == 0
    assert effbench("verify", "run")[0] == 0
    assert effbench("train", "resume=run", "trainer.max_time=null")[0] == 0
    code, out, _ = effbench("verify", "run")
    assert (code, "WRONG" in out) == (0, False), out
    log = tmp_path / "run" / "metrics.csv"
    lines = log.read_text().splitlines()
    log.write_text("\n".join([*lines, lines[-1]]) + "\n")  # the last epoch's row twice
    assert effbench("verify", "run")[0] == 1


@pytest.mark.process
def test_predict_names_rows_whose_answer_is_not_finite(effbench: Effbench, tmp_path: Path) -> None:
    words = ["data=synthetic_rows", "model=mlp", "model.hidden=[8]", "debug=smoke", "device.threads=1"]
    assert effbench("train", *words, "hydra.run.dir=run")[0] == 0
    width = len(json.loads((tmp_path / "run" / "summary.json").read_text())["data"]["mean"])
    (tmp_path / "rows.csv").write_text("\n".join(",".join([value] * width) for value in ("1", "3.4e38")))
    code, out, err = effbench("predict", "run", "rows.csv", "--json")
    assert (code, len(json.loads(out))) == (1, 1)
    assert "rows.csv row 2: the model's answer is not finite" in err
    code, _, err = effbench("predict", "run", "rows.csv", "output=run/summary.json")
    assert (code, "a file of a run's record" in err) == (2, True)


def test_verify_refuses_a_path_that_is_not_a_run(effbench: Effbench, tmp_path: Path) -> None:
    assert effbench("verify", str(tmp_path))[0] == 2
    assert effbench("verify", "a", "b")[0] == 2
    assert effbench("verify")[0] == 2


@pytest.mark.process
@pytest.mark.row(13)
def test_verify_resume_confirms_an_exact_resume(effbench: Effbench) -> None:
    code, out, _ = effbench("verify", "resume", *TINY, "optimizer=adan", "ema=on", "augment=strong", "steps=6", "at=4")
    assert (code, out.count("WRONG")) == (0, 0), out
    for part in ("weights", "averaged weights", "optimizer", "schedule", "metrics.csv"):
        assert part in out


@pytest.mark.proof
@pytest.mark.process
@pytest.mark.parametrize(
    ("owner", "name"), [(Trainer, "_seed_forward"), (Ema, "load_state_dict")], ids=["randomness", "average"]
)
def test_a_resume_that_is_not_exact_is_caught(owner, name, effbench, monkeypatch):
    monkeypatch.setattr(owner, name, lambda *_: None)
    code, out, _ = effbench("verify", "resume", *TINY, "model.dropout=0.5", "ema=on", "steps=4", "at=3")
    assert code == 1
    assert "differs in" in out


@pytest.mark.proof
@pytest.mark.process
def test_verify_resume_shortens_what_belongs_to_the_whole_run(effbench: Effbench) -> None:
    """The user's config is sound: only here would it contradict the few steps, or end before the kill."""
    words = ["trainer.min_steps=500", "trainer.max_epochs=auto", "early_stopping=on", "early_stopping.patience=1"]
    words += ["early_stopping.stopping_threshold=0.0", "optimizer.lr=1e-30"]
    code, out, err = effbench("verify", "resume", *TINY, *words)
    assert (code, out.count("WRONG")) == (0, 0), out + err


def test_verify_resume_says_how_a_long_warm_up_is_checked(effbench: Effbench) -> None:
    code, out, err = effbench("verify", "resume", *TINY, "scheduler=cosine", "scheduler.warmup=500")
    assert (code, out) == (2, "")
    assert "scheduler.warmup must be shorter than total_steps (8); got 500" in err
    assert "verify resume trains 8 steps" in err
    assert "steps=N" in err


@pytest.mark.parametrize("words", [["steps=0"], ["steps=x"], ["at=8"], ["optimizer=lyon"]])
def test_bad_options_of_verify_resume_are_refused(words, effbench):
    code, out, err = effbench("verify", "resume", *TINY, *words)
    assert (code, out) == (2, "")
    assert words[0].partition("=")[0] in err


def test_values_are_compared_to_the_bit() -> None:
    nan, zero = torch.tensor([float("nan")]), torch.tensor([0.0])
    assert not list(differences({"a": [nan, 1.0]}, {"a": [nan.clone(), 1.0]}))
    assert list(differences({"a": zero}, {"a": -zero})) == ["a"]
    assert list(differences({"a": [1, 2]}, {"a": [1, 3]})) == ["a[1]"]
    assert list(differences({"a": 1}, {"b": 1})) == ["a", "b"]
    assert list(differences(zero, zero.double())) == [""]
    assert list(differences({"a": 1}, {"a": 1.0})) == ["a"]
