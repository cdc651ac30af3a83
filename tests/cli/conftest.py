"""One small finished run for all tests that only read it."""

from __future__ import annotations

import io
import signal
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest

from effbench import cli
from tests.cli.interrupting import FOUR_EPOCHS_OF_FIVE_STEPS, SendsSignal

TWENTY_STEPS = [
    "model=mlp", "model.hidden=[32]", "optimizer.lr=3e-3", "trainer.max_epochs=2", "trainer.limit_train_batches=10",
    "trainer.log_every_n_steps=4", "device.threads=1",
]  # fmt: skip


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(autouse=True)
def hears_hangups() -> Iterator[None]:
    """Also where the tests themselves run under nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, str]:
    """(folder, stdout, stderr) of 20 steps of an MLP on the embedded images."""
    folder = tmp_path_factory.mktemp("finished") / "a run"
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        assert cli.main(["train", *TWENTY_STEPS, f"hydra.run.dir='{folder}'"]) == 0
    return folder, out.getvalue(), err.getvalue()


@pytest.fixture
def run(finished: tuple[Path, str, str]) -> Iterator[Path]:
    """The finished run that all tests of a worker share: a test that writes into it fails, not the next one."""
    before = states(finished[0])
    yield finished[0]
    assert states(finished[0]) == before


def states(folder: Path) -> dict[Path, tuple[int, int]]:
    """Size and time of the last change of everything in a folder."""
    found = {path: path.lstat() for path in folder.rglob("*")}
    return {path: (stat.st_size, stat.st_mtime_ns) for path, stat in found.items()}


@pytest.fixture(scope="session")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What every interrupted run must come to."""
    folder = tmp_path_factory.mktemp("uninterrupted") / "run"
    assert cli.main(["train", *FOUR_EPOCHS_OF_FIVE_STEPS, f"hydra.run.dir={folder}"]) == 0
    return folder


@pytest.fixture
def send(monkeypatch: pytest.MonkeyPatch) -> SendsSignal:
    return SendsSignal(monkeypatch)


Effbench = Callable[..., tuple[int, str, str]]


@pytest.fixture
def effbench(capsys: pytest.CaptureFixture[str]) -> Effbench:
    """Calls the command in this process: (exit code, stdout, stderr), and no traceback in them."""

    def call(*words: str) -> tuple[int, str, str]:
        capsys.readouterr()
        code = cli.main(words)
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        return code, out, err

    return call
