"""An output that the user names is written as a shell would write it; links in a run's folder are not followed."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from PIL import Image

from effbench import cli
from effbench.records import MetricsFile, output_problem, write_output
from tests.commandline import effbench
from tests.patience import patience

pytestmark = pytest.mark.row(61)


@pytest.fixture
def photo(run: Path) -> Path:
    Image.new("L", (28, 28), 128).save(run.parent / "photo.png")
    return run.parent


def predict(output: object) -> int:
    return cli.main(["predict", "run", "photo.png", f"output={output}"])


@pytest.mark.usefixtures("photo")
def test_predict_writes_into_a_device_a_pipe_and_a_linked_file(photo: Path) -> None:
    assert predict("/dev/null") == 0
    assert stat.S_ISCHR(Path("/dev/null").stat().st_mode)
    os.mkfifo(photo / "pipe.csv")
    got: list[bytes] = []
    reader = threading.Thread(target=lambda: got.append((photo / "pipe.csv").read_bytes()))
    reader.start()
    assert predict("pipe.csv") == 0
    reader.join(patience(10))
    assert got[0].startswith(b"file,class,probability")
    assert stat.S_ISFIFO((photo / "pipe.csv").stat().st_mode)
    (photo / "there").mkdir()
    (photo / "there" / "rows.csv").write_text("old")
    (photo / "rows.csv").symlink_to("there/rows.csv")
    assert predict("rows.csv") == 0
    assert (photo / "rows.csv").is_symlink()
    assert (photo / "there" / "rows.csv").read_bytes() == got[0]
    assert os.listdir(photo / "there") == ["rows.csv"]  # noqa: PTH208


@pytest.mark.process
def test_dev_stdout_is_the_stdout_of_the_command(photo: Path) -> None:
    done = effbench("predict", "run", "photo.png", "output=/dev/stdout", cwd=photo)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("file,class,probability")


@pytest.mark.proof
@pytest.mark.process
def test_output_to_stdout_keeps_a_file_opened_for_append(photo: Path) -> None:
    (photo / "all.csv").write_text("precious\n")
    with (photo / "all.csv").open("a") as log:
        command = [sys.executable, "-m", "effbench", "predict", "run", "photo.png", "output=/dev/stdout"]
        subprocess.run(command, cwd=photo, stdout=log, check=True)
    first, header, *_ = (photo / "all.csv").read_text().splitlines()
    assert (first, header[:10]) == ("precious", "file,class")


def test_report_writes_into_a_pipe_and_through_a_link(photo: Path) -> None:
    (photo / "page.html").symlink_to("real.html")  # leads to nothing yet
    assert cli.main(["report", "run", "output=page.html"]) == 0
    assert (photo / "page.html").is_symlink()
    assert (photo / "real.html").read_text().startswith("<!")


def test_invalid_output_paths_are_refused_before_prediction(photo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (photo / "linked").symlink_to(photo / "inside")
    for output in (".", "inside", "linked", "nowhere/rows.csv", "/dev"):
        assert predict(output) == 2
        assert "output=" in capsys.readouterr().err


def test_recipe_cp_overwrites_nothing(elsewhere: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = elsewhere / "swin_lion.yaml"
    for put in (lambda: os.mkfifo(target), lambda: target.symlink_to("/nonexistent"), lambda: target.write_text("x")):
        put()
        assert cli.main(["recipe", "cp", "swin_lion", "."]) == 2
        assert "exists already" in capsys.readouterr().err
        target.unlink()
    assert cli.main(["recipe", "cp", "swin_lion", "/dev/null"]) == 2


def test_an_export_replaces_no_pipe_and_no_folder(photo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (photo / "out").mkdir()
    for put in (os.mkfifo, os.mkdir):
        put(photo / "out" / "mlp-best.pt")
        assert cli.main(["export", "run", "format=torchscript", "output=out"]) == 2
        assert "no file that could be replaced" in capsys.readouterr().err
        (os.rmdir if put is os.mkdir else os.remove)(photo / "out" / "mlp-best.pt")


def test_a_whole_text_goes_through_a_slow_pipe(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "p")
    got: list[int] = []
    reader = threading.Thread(target=lambda: got.append(len((tmp_path / "p").read_bytes())))
    reader.start()
    write_output(tmp_path / "p", "x" * 1_000_000)  # sixteen times what a pipe holds
    reader.join(patience(10))
    assert got == [1_000_000]
    assert output_problem(tmp_path / "p") is None


@pytest.mark.process
def test_no_link_in_a_run_leads_to_a_file_of_the_reader_s(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A stranger's run whose lock, record and metrics are links: taken up, exported and verified."""
    mine = run.parent / "mine"
    mine.write_text("mine\n")
    (run / ".lock").symlink_to(mine)
    assert cli.main(["train", "resume=run"]) == 2
    assert "cannot be a lock" in capsys.readouterr().err
    (run / ".lock").unlink()
    for name in ("summary.json", "metrics.csv", "config.yaml", ".hydra/overrides.yaml"):
        content = (run / name).read_bytes()
        (run / name).unlink()
        copy = run.parent / Path(name).name
        copy.write_bytes(content)
        (run / name).symlink_to(copy)
    before = {path.name: path.read_bytes() for path in run.parent.iterdir() if path.is_file()}
    assert cli.main(["train", "resume=run", "trainer.max_steps=3", "trainer.max_epochs=3"]) in (0, 1, 2)
    assert {path.name: path.read_bytes() for path in run.parent.iterdir() if path.is_file()} == before


def test_a_link_to_nothing_makes_no_file_where_it_leads(tmp_path: Path) -> None:
    (tmp_path / "metrics.csv").symlink_to(tmp_path / "startup")
    log = MetricsFile(tmp_path / "metrics.csv", ["step"])
    log.row({"step": 1})
    log.close()
    assert not (tmp_path / "startup").exists()
