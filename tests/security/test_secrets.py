"""Canaries in the environment and in overrides: in no byte and no name of what a run, a sweep or a failure leaves."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import yaml

from effbench import cli
from effbench.run.overrides import recorded_overrides
from tests.commandline import TINY

pytestmark = pytest.mark.row(45)

BY_NAME = {
    "HF_TOKEN": "hf_c4naryAAAA1111",
    "AWS_SECRET_ACCESS_KEY": "c4nary/BBBB+2222=",
    "DB_PASSWORD": "c4nary with spaces CCCC",
    "SIGNING_PRIVATE_KEY": "-----BEGIN c4naryDDDD\nsecond line-----",
    "WANDB_API_KEY": "c4nary0000000000000000000000000000EEEE44",
    "BUILD_CREDENTIALS": "größe-c4nary'FFFF\"",
}
OVERRIDE = "c4naryGGGG5555"  # given under a key that is named like a secret
FOR_THE_JOB = "c4naryHHHH6666"  # put into the job's own environment
CANARIES = [*BY_NAME.values(), OVERRIDE, FOR_THE_JOB]
WORDS = [*TINY, f"+hydra.job.env_set.MY_TOKEN={FOR_THE_JOB}"]

OWN = """
from effbench.models.mlp import mlp
def model(num_classes, in_channels, image_size, api_key=None, note=None, fail=False):
    if fail:
        raise ZeroDivisionError(f"cannot log in with api_key={api_key!r} and {note}")
    return mlp(num_classes, in_channels, image_size, hidden=[4])
"""


@pytest.fixture(autouse=True)
def canaries(elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Set in the environment, and an own model whose options are secrets."""
    for name, value in BY_NAME.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("WANDB_MODE", "offline")
    (elsewhere / "lab").mkdir()
    (elsewhere / "lab" / "secretive_lab.py").write_text(OWN)
    (elsewhere / "conf" / "model").mkdir(parents=True)
    text = "defaults: [_base, _self_]\n_target_: secretive_lab.model\napi_key: null\nnote: null\nfail: false\n"
    (elsewhere / "conf" / "model" / "own.yaml").write_text(text)
    monkeypatch.syspath_prepend(str(elsewhere / "lab"))
    monkeypatch.delitem(sys.modules, "secretive_lab", raising=False)
    return elsewhere


OWN_WORDS = ["--config-dir", "conf", "model=own", "allow_targets=[secretive_lab]", "debug=smoke", "device.threads=1"]
SECRETS = [f"model.api_key={OVERRIDE}", "model.note='${oc.env:DB_PASSWORD} ${oc.env:HF_TOKEN}'"]


def leaks(folder: Path) -> list[str]:
    """Every canary in a name or in the bytes of a file, also as UTF-16 and by its distinct part alone."""
    found = []
    parts = {part for canary in CANARIES for part in (canary, canary[-8:], canary.partition("c4nary")[2] or canary)}
    for path in sorted(folder.rglob("*")):
        content = path.read_bytes() if path.is_file() else b""
        for part in parts:
            if part in str(path.relative_to(folder)):
                found.append(f"{part!r} in the name {path}")
            found += [f"{part!r} in {path}" for code in ("utf-8", "utf-16-le") if part.encode(code) in content]
    return found


def train(words: list[str], monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(sys, "argv", ["effbench", "train", *words])  # what summary.json tells of
    return cli.main(["train", *words])


def test_the_search_finds_every_planted_secret(elsewhere: Path) -> None:
    (elsewhere / "x").mkdir()
    for number, canary in enumerate(CANARIES):
        (elsewhere / "x" / str(number)).write_bytes(b"\0\xff" + canary.encode() + b"\0")
    assert {line.rpartition("/")[2] for line in leaks(elsewhere / "x")} == {str(n) for n in range(len(CANARIES))}


@pytest.mark.spread(1)
@pytest.mark.process
@pytest.mark.parametrize("logger", ["csv", "tensorboard", "wandb"])
def test_a_run_holds_no_secret(logger: str, elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip({"csv": "csv"}.get(logger, logger))
    words = [*OWN_WORDS, *SECRETS, *WORDS[-1:], f"logger={logger}", "hydra.run.dir=run"]
    words += ["logger.project='p ${oc.env:HF_TOKEN}'", "+hydra.job.env_set.OTHER=${oc.env:AWS_SECRET_ACCESS_KEY}"]
    assert train(words, monkeypatch) == 0
    assert leaks(elsewhere / "run") == []
    config = yaml.safe_load((elsewhere / "run" / "config.yaml").read_text())
    assert config["model"]["api_key"] == "***"
    assert config["model"]["note"] == "*** ***"
    assert config["logger"]["project"] == "p ***"
    assert "model.api_key=***" in json.loads((elsewhere / "run" / "summary.json").read_text())["argv"]


@pytest.mark.proof
@pytest.mark.process
@pytest.mark.filterwarnings("ignore")  # MLflow's own, of many libraries
def test_mlflow_gets_no_secret(elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("mlflow")
    words = [*OWN_WORDS, *SECRETS, "logger=mlflow", "hydra.run.dir=run"]
    assert train(words, monkeypatch) == 0
    assert leaks(elsewhere / "run") == []


@pytest.mark.process
def test_the_hydra_record_has_the_format_of_hydra(elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert train([*WORDS, "seed=3", "logger.project=${oc.env:HF_TOKEN}", "hydra.run.dir=run"], monkeypatch) == 0
    record = elsewhere / "run" / ".hydra"
    assert sorted(path.name for path in record.iterdir()) == ["config.yaml", "hydra.yaml", "overrides.yaml"]
    parts = {path.stem: yaml.safe_load(path.read_text()) for path in record.iterdir()}
    assert parts["overrides"] == [*TINY, "seed=3", "logger.project=${oc.env:HF_TOKEN}"]
    assert parts["config"]["seed"] == 3
    assert parts["config"]["logger"]["project"] == "${oc.env:HF_TOKEN}"  # where it is, not what it is
    assert parts["hydra"]["hydra"]["runtime"]["output_dir"] == str(elsewhere / "run")
    assert parts["hydra"]["hydra"]["output_subdir"] == ".hydra"
    assert parts["hydra"]["hydra"]["job"]["env_set"] == {"MY_TOKEN": "***"}
    assert "hydra.run.dir=run" in parts["hydra"]["hydra"]["overrides"]["hydra"]


@pytest.mark.slow
def test_a_failing_run_holds_no_secret(elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = [*OWN_WORDS, *SECRETS, "model.fail=true", "hydra.run.dir=run"]
    with pytest.raises(ZeroDivisionError):
        train(words, monkeypatch)
    summary = json.loads((elsewhere / "run" / "summary.json").read_text())
    assert "cannot log in with api_key=***" in summary["error"]
    assert leaks(elsewhere / "run") == []


@pytest.mark.proof
@pytest.mark.process
def test_a_sweep_holds_no_secret(elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["-m", *OWN_WORDS, *SECRETS, "model.fail=false,true", "hydra.sweep.dir=sweep"]
    assert train(words, monkeypatch) == 1
    assert leaks(elsewhere / "sweep") == []
    assert "api_key=***" in (elsewhere / "sweep" / "sweep.csv").read_text()


@pytest.mark.proof
@pytest.mark.process
def test_a_sweep_over_secrets_names_no_folder_by_them(elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["-m", *OWN_WORDS, f"model.api_key={OVERRIDE},{OVERRIDE}2", "hydra.sweep.dir=sweep"]
    assert train(words, monkeypatch) == 0
    assert leaks(elsewhere / "sweep") == []


@pytest.mark.proof
@pytest.mark.process
def test_hydra_launcher_that_records_its_command_gets_no_secret(
    elsewhere: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["-m", *OWN_WORDS, "hydra/launcher=basic", "seed=1,2", "hydra.sweep.dir=sweep"]
    assert train([*words, *SECRETS], monkeypatch) == 2
    assert "Sweep without hydra/launcher" in capsys.readouterr().err
    assert leaks(elsewhere / "sweep") == []
    secret = "model.note=${oc.env:DB_PASSWORD}"  # is written as it stands here
    assert train([*words[:-1], "hydra.sweep.dir=other", secret], monkeypatch) == 0
    assert leaks(elsewhere / "other") == []


@pytest.mark.process
def test_a_resume_asks_for_the_secret_again(
    elsewhere: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [*OWN_WORDS, SECRETS[0], "trainer.max_steps=2", "checkpoint.save_last=true", "hydra.run.dir=run"]
    assert train(words, monkeypatch) == 0
    assert "model.api_key=***" in (recorded_overrides(elsewhere / "run") or [])
    words = ["--config-dir", "conf", "resume=run", "allow_targets=[secretive_lab]"]
    before = {path: path.read_bytes() for path in (elsewhere / "run").rglob("*") if path.is_file()}
    assert train([*words, "trainer.max_steps=4", "trainer.max_epochs=4"], monkeypatch) == 2
    err = capsys.readouterr().err
    assert "model.api_key looks like a secret" in err
    assert "Give it again" in err
    assert {path: path.read_bytes() for path in (elsewhere / "run").rglob("*") if path.is_file()} == before
    assert train([*words, "trainer.max_steps=4", "trainer.max_epochs=4", SECRETS[0]], monkeypatch) == 0
    assert json.loads((elsewhere / "run" / "summary.json").read_text())["steps"] == 4
    assert leaks(elsewhere / "run") == []


def test_the_same_secret_makes_the_same_run_to_resume_auto(elsewhere: Path) -> None:
    from effbench.run.resume_words import newest_unfinished

    folder = elsewhere / "outputs" / "day" / "time"
    (folder / ".hydra").mkdir(parents=True)
    (folder / "checkpoints" / "step-00000002").mkdir(parents=True)
    (folder / ".hydra" / "overrides.yaml").write_text("- model=own\n- model.api_key=***\n")
    assert newest_unfinished(elsewhere / "outputs", ["model=own", SECRETS[0]]) == folder
    assert newest_unfinished(elsewhere / "outputs", ["model=own"]) is None
