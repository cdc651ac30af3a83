"""`effbench report STUDY`: the page is made again from the data; a damaged folder is refused in words."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from effbench.cli import main
from effbench.study import report as reporting
from effbench.study.analysis import analyse
from effbench.study.collect import failed_outcome
from effbench.study.frozen import freeze
from effbench.study.ledger import Ledger, Task
from effbench.study.page import CURVES, MARKDOWN, PAGE, TABLE, write_page
from effbench.study.planning import planned
from effbench.study.report import ended_runs
from effbench.study.storage import opened
from effbench.study.table import table_from_json, table_to_json
from tests.study.test_page import ARMS, small_study

pytest.importorskip("optuna")
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a study with its page."""
    folder = tmp_path_factory.mktemp("report") / "study"
    freeze(planned(["study=smoke", f"study.folder={folder}"]))
    table = small_study()
    write_page(folder, table, analyse(table), {arm: [[(10, 0.5), (20, 0.7)]] for arm in ARMS})
    return folder


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "study"))


def test_the_page_is_made_again_from_the_data(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = [(folder / name).read_text() for name in (MARKDOWN, TABLE, CURVES)]
    for name in (PAGE, MARKDOWN):
        (folder / name).unlink()
    assert main(["report", str(folder)]) == 0
    assert "sgd beats" in capsys.readouterr().out
    assert [(folder / name).read_text() for name in (MARKDOWN, TABLE, CURVES)] == before
    assert "<h2>Verdict</h2>" in (folder / PAGE).read_text()


def test_the_result_is_json_on_demand(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(folder), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["folder"] == str(folder)
    assert len(found["comparisons"]) == 3


def test_another_name_for_the_page_is_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (folder / PAGE).read_bytes()
    assert main(["report", str(folder), f"output={folder}/other.html"]) == 2
    assert "whose page is always study.html" in capsys.readouterr().err
    assert (folder / PAGE).read_bytes() == before
    assert not (folder / "other.html").exists()


def test_a_page_that_cannot_be_written_is_refused_first(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def analysed(*_: object) -> None:
        raise AssertionError("it is analysed")

    monkeypatch.setattr(reporting, "analyse", analysed)
    (folder / PAGE).unlink()
    (folder / PAGE).mkdir()
    assert main(["report", str(folder)]) == 2
    assert f"{folder / PAGE} is where the page of a study is written, and it is a folder." in capsys.readouterr().err


def test_runs_that_ended_after_the_table_are_told(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As after a kill: the journal is written at once, the table at the end."""
    ledger = Ledger(opened(None, folder), "s", True, {})
    for index in range(3):
        claim = ledger.take([Task("tune", "mlp/sgd", index)])
        assert claim is not None
        ledger.finish(claim, failed_outcome("", f"runs/mlp/sgd/tune-{index:03d}"))
    assert len(ended_runs(folder)) == 3
    assert main(["report", str(folder)]) == 0
    assert "; 3 runs that journal.log holds ended later and are not counted here." in told_in(capsys)
    text = (folder / TABLE).read_text()
    table = table_from_json(text)
    trials = [replace(each, run=f"runs/mlp/sgd/tune-{each.number:03d}") for each in table.trials[:3]]
    (folder / TABLE).write_text(table_to_json(replace(table, trials=tuple(trials))))
    assert main(["report", str(folder)]) == 0
    assert "ended later" not in told_in(capsys)


def told_in(capsys: pytest.CaptureFixture[str]) -> str:
    return " ".join(capsys.readouterr().err.split())


def replaced(name: str, old: str, new: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        text = (folder / name).read_text()
        assert old in text
        (folder / name).write_text(text.replace(old, new, 1))

    return change


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda folder: (folder / TABLE).unlink(), "a study without results yet"),
        (lambda folder: (folder / CURVES).unlink(), "a study without results yet"),
        (lambda folder: (folder / CURVES).write_text("[]"), "curves.json is damaged: not a study's learning curves"),
        (lambda folder: (folder / CURVES).write_bytes(b"\xff"), "curves.json"),
        (replaced(TABLE, '["mlp/sgd", "mlp/lion"]', '["mlp/sgd", "mlp/x"]'), "names 'mlp/x', which is none of its"),
        (lambda folder: (folder / TABLE).write_text("[" * 10_000), "table.json is damaged: not a study's table"),
    ],
)
def test_a_damaged_folder_is_refused_in_words(
    change: Callable[[Path], None], told: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    change(folder)
    assert main(["report", str(folder)]) == 2
    assert told in capsys.readouterr().err


@pytest.mark.process
def test_it_starts_without_torch() -> None:
    told = "import sys, effbench.study.report; sys.exit('torch' in sys.modules or 'optuna' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", told], check=False).returncode == 0
