"""Two workers at one study on a real PostgreSQL, which the test starts (Debian's package postgresql)."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from effbench.study.table import table_from_json
from tests.commandline import effbench
from tests.patience import patience
from tests.study.kills import WORDS

pytest.importorskip("optuna")
pytest.importorskip("psycopg")
PROGRAMS = sorted(Path("/usr/lib/postgresql").glob("*/bin"))


def as_postgres(command: list[str]) -> list[str]:
    """PostgreSQL refuses to run as root."""
    return ["runuser", "-u", "postgres", "--", *command] if os.getuid() == 0 else command


@dataclass
class Server:
    """A PostgreSQL with an empty database.

    Attributes:
        address: for study.storage.
        control: the command that starts and stops it.
        options: of a start.
    """

    address: str
    control: list[str]
    options: str

    def start(self) -> None:
        self._run("-o", self.options, "start")

    def stop(self) -> None:
        """End it as a power cut does."""
        self._run("-m", "immediate", "stop")

    def _run(self, *words: str) -> None:
        subprocess.run(as_postgres([*self.control, *words]), check=True, stdout=subprocess.DEVNULL, cwd="/")


@pytest.fixture
def server() -> Iterator[Server]:
    if not PROGRAMS:
        pytest.skip("PostgreSQL is not installed")
    place = Path(tempfile.mkdtemp(prefix="effbench-postgres-", dir="/tmp"))  # pytest's folders are root's alone
    if os.getuid() == 0:
        shutil.chown(place, "postgres")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    data, programs = place / "data", PROGRAMS[-1]
    subprocess.run(
        as_postgres([str(programs / "initdb"), "-D", str(data), "-A", "trust", "-U", "me", "--no-sync"]),
        check=True, stdout=subprocess.DEVNULL, cwd="/",
    )  # fmt: skip
    options = f"-p {port} -k {place} -c listen_addresses=127.0.0.1 -c fsync=off"
    control = [str(programs / "pg_ctl"), "-D", str(data), "-w", "-l", str(place / "log")]
    running = Server(f"postgresql://me@127.0.0.1:{port}/postgres", control, options)
    running.start()
    yield running
    running.stop()
    shutil.rmtree(place, ignore_errors=True)


# A worker as on another machine: its name differs, so that only its signs of life tell whether it lives. They come
# often here, or the test would wait for one and a half minutes.
ELSEWHERE = (
    "import socket, sys; socket.gethostname = lambda: 'HOST'; import effbench.study.workers as workers; "
    "workers.BEAT_S, workers.STALE_S = 1.0, 10.0; from effbench.cli import main; sys.exit(main(sys.argv[1:]))"
)


@contextmanager
def worker(host: str, words: Sequence[str], place: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A worker with this host name in a folder of its own; its stderr is the file `stderr` there."""
    place.mkdir()
    command = [sys.executable, "-c", ELSEWHERE.replace("HOST", host), *words]
    with (
        (place / "stderr").open("wb") as stderr,
        subprocess.Popen(command, cwd=place, stdout=subprocess.DEVNULL, stderr=stderr) as process,
    ):
        try:
            yield process
        finally:
            process.kill()


def wait_for_runs(place: Path, count: int, process: subprocess.Popen[bytes]) -> None:
    """Wait until the worker has told of so many runs."""
    while (text := (place / "stderr").read_text()).count("val/acc") < count:
        assert process.poll() is None, text
        time.sleep(0.05)


def unfinished(place: Path) -> list[Path]:
    """The runs there that have begun and not ended."""
    return [run for run in (place / "out").glob("runs/*/*") if not (run / "summary.json").exists()]


@pytest.mark.process
@pytest.mark.proof
def test_two_workers_share_a_study_and_one_is_killed(server: Server, tmp_path: Path) -> None:
    words = [*WORDS, f"study.storage={server.address}", "study.workers=1", "study.trials=6"]
    here, there = tmp_path / "one", tmp_path / "two"  # two machines without a common folder
    with worker("one", words, here) as first:
        wait_for_runs(here, 1, first)
        with worker("two", words, there) as second:
            wait_for_runs(there, 1, second)
            wait_for_runs(here, (here / "stderr").read_text().count("val/acc") + 1, first)  # both work at once
            while not unfinished(here):
                time.sleep(0.01)
            first.kill()
            assert second.wait(patience(300)) == 0, (there / "stderr").read_text()
    assert "its worker has died; taken up again" in (there / "stderr").read_text()

    table = table_from_json((there / "out" / "table.json").read_text())
    arms = ("mlp-sgd", "mlp-adamw")
    assert [(each.arm, each.number) for each in table.trials] == [(arm, n) for arm in arms for n in range(6)]
    assert [(each.arm, each.seed) for each in table.confirmations] == [(arm, n) for arm in arms for n in range(1, 7)]
    assert {each.status for each in (*table.trials, *table.confirmations)} == {"completed"}
    # each run of the table was done by one of them; the run that was cut short by both
    done = [
        {str(path.relative_to(place / "out")) for path in (place / "out").glob("runs/*/*")} for place in (here, there)
    ]
    assert done[0] | done[1] == {each.run for each in (*table.trials, *table.confirmations)}
    assert len(done[0] & done[1]) == 1


@pytest.mark.process
@pytest.mark.proof
def test_a_server_that_goes_away_stops_the_study_and_it_goes_on(server: Server, tmp_path: Path) -> None:
    words = [*WORDS, f"study.storage={server.address}"]
    told = tmp_path / "stderr"
    with (
        told.open("wb") as stderr,
        subprocess.Popen(
            [sys.executable, "-m", "effbench", *words], cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=stderr
        ) as process,
    ):
        while process.poll() is None and told.read_text().count("val/acc") < 3:
            time.sleep(0.1)
        server.stop()
        assert process.wait(patience(60)) == 1
    error = told.read_text().strip().splitlines()[-1]
    assert error.startswith("error: the study has stopped: StorageInternalError: ")
    assert error.endswith("Every run that has ended is kept: mend this, then give the same command again.")
    assert "invalid data" not in error  # Optuna's own text
    assert "Traceback" not in told.read_text()

    refused = effbench(*words, cwd=tmp_path)
    assert refused.returncode == 2
    assert "does not answer" in refused.stderr

    server.start()
    ended = effbench(*words, cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr
    table = table_from_json((tmp_path / "out" / "table.json").read_text())
    assert len({(each.arm, each.number) for each in table.trials}) == len(table.trials) == 6
    assert len({(each.arm, each.seed) for each in table.confirmations}) == len(table.confirmations) == 12
    assert {each.status for each in (*table.trials, *table.confirmations)} == {"completed"}


@pytest.mark.proof
@pytest.mark.process
def test_a_silent_server_is_refused_without_its_password(tmp_path: Path) -> None:
    result = effbench(*WORDS, "study.storage=postgresql://me:hunter22@127.0.0.1:9/x", cwd=tmp_path)
    assert result.returncode == 2
    assert "does not answer" in result.stderr
    assert "hunter22" not in result.stderr
    assert not (tmp_path / "out" / "runs").exists()
