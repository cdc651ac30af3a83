"""Row 56: stdout and stderr that are closed, full, left by their reader or without Unicode."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from effbench.console import for_width
from tests.commandline import TINY
from tests.patience import patience

GUARD = "import sys; from effbench.console import guard, final_exit_code; guard(); "
EFFBENCH = f"{sys.executable} -m effbench"
full = pytest.mark.skipif(not os.access("/dev/full", os.W_OK), reason="needs /dev/full")


def shell(line: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", "-c", line], cwd=cwd, env=os.environ | environment, text=True, capture_output=True, check=False,
        encoding="utf-8", timeout=patience(120),
    )  # fmt: skip


def guarded(code: str, redirections: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    (cwd / "guarded.py").write_text(GUARD + code, encoding="utf-8")
    return shell(f"{sys.executable} guarded.py {redirections}", cwd, **environment)


@pytest.mark.process
@full
@pytest.mark.row(56)
@pytest.mark.parametrize("redirections", ["2>/dev/full", "2>&-", "2>&- >&- <&-", "2> >(true)"])
def test_narration_that_nobody_can_read_changes_nothing(redirections: str, tmp_path: Path) -> None:
    code = (
        "import time; time.sleep(0.2)\n"  # until the reader has left
        "for _ in range(3): print('x' * 100_000, file=sys.stderr)\n"
        "sys.exit(final_exit_code(0))"
    )
    done = guarded(code, redirections, tmp_path)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.process
@full
@pytest.mark.row(56)
@pytest.mark.parametrize(
    ("redirections", "code", "said"),
    [
        (">/dev/full", 1, "error: the result could not be written to stdout (No space left on device).\n"),
        (">/dev/full 2>/dev/full", 1, ""),
        ("> >(true)", 0, ""),
        (">&-", 0, ""),
    ],
)
def test_lost_stdout_is_an_error_unless_the_reader_closed_it(
    redirections: str, code: int, said: str, tmp_path: Path
) -> None:
    done = guarded(
        "import time; time.sleep(0.2); print('result'); sys.exit(final_exit_code(0))", redirections, tmp_path
    )
    assert (done.returncode, done.stderr) == (code, said)


@pytest.mark.process
@pytest.mark.row(56)
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_narration_resumes_when_the_disk_has_space_again(unbuffered: str, tmp_path: Path) -> None:
    code = (
        "import resource, signal\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4, -1)); print('first', file=sys.stderr)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100, -1)); print('second', file=sys.stderr)\n"
    )
    done = guarded(code, "2>log", tmp_path, PYTHONUNBUFFERED=unbuffered)
    assert done.returncode == 0
    assert (tmp_path / "log").read_text() == "firssecond\n"


@pytest.mark.process
def test_a_closed_stderr_does_not_become_the_next_file(tmp_path: Path) -> None:
    code = "import os; stream = open('record', 'w'); os.write(2, b'noise'); print(stream.fileno(), file=stream)"
    assert guarded(code, "2>&- <&-", tmp_path).returncode == 0
    assert int((tmp_path / "record").read_text()) > 2


@pytest.mark.process
def test_a_reader_that_is_slow_on_a_non_blocking_pipe_gets_all(tmp_path: Path) -> None:
    code = "import os; os.set_blocking(1, False); print('x' * 300_000); sys.exit(final_exit_code(0))"
    done = guarded(code, "| (sleep 0.3; wc -c)", tmp_path)
    assert done.stdout.strip() == "300001"


@pytest.mark.process
def test_non_ascii_is_transliterated_and_json_is_escaped(tmp_path: Path) -> None:
    code = (
        "import json; from effbench.console import writes_unicode\n"
        "print('32×32 ± 1 … é 😀')\n"
        "print(json.dumps('32×32 é 😀', ensure_ascii=not writes_unicode()))"
    )
    done = guarded(code, "", tmp_path, PYTHONIOENCODING="ascii")
    text, data = done.stdout.splitlines()
    assert text == r"32x32 +/- 1 ... \u00e9 \ud83d\ude00"
    assert json.loads(data) == "32×32 é 😀"


@pytest.mark.process
def test_bytes_of_a_file_name_stay_those_bytes(tmp_path: Path) -> None:
    guarded(r"print('caf\udce9')", ">out", tmp_path)
    assert (tmp_path / "out").read_bytes() == b"caf\xe9\n"


@pytest.mark.proof
@pytest.mark.process
@full
@pytest.mark.row(56)
def test_training_outlives_its_stderr_and_stdout(tmp_path: Path) -> None:
    train = f"{EFFBENCH} train {' '.join(TINY)}"
    done = shell(
        f"{train} hydra.run.dir=run --json >/dev/full 2>&1; echo $?\n"
        f"({train} -m seed=0,1 hydra.sweep.dir=sweep; echo $? >code) 2>&1 | head -n 1; cat code",
        tmp_path,
        PYTHONIOENCODING="ascii",
    )
    result_lost, _, sweep = done.stdout.splitlines()
    assert (result_lost, sweep) == ("1", "0")
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["status"] == "completed"
    assert (tmp_path / "sweep" / "sweep.csv").read_text().count("completed") == 2


@pytest.mark.proof
@pytest.mark.process
@pytest.mark.row(56)
def test_a_program_that_calls_train_keeps_its_own_streams(tmp_path: Path) -> None:
    code = (
        "import io, sys, effbench\n"
        "before = sys.stdout, sys.stderr\n"
        f"run = effbench.train(effbench.compose({list(TINY)!r}), 'run')\n"
        "assert (sys.stdout, sys.stderr) == before\n"
        "print(run.summary['status'])"
    )
    (tmp_path / "own.py").write_text(code)
    assert shell(f"{sys.executable} own.py 2>/dev/full", tmp_path).stdout == "completed\n"


class _Screen(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


FIELDS = "epoch 1/12  step 600  train/loss 0.6934  train/acc 50.00 %  val/loss 0.6908  val/acc 50.00 %  1,063 texts/s"
SENTENCE = (
    "kjv: train 3,060,238 bytes (3,060,238 tokens); evaluation reads windows of 128 tokens side by side: the first "
    "token of a window is predicted from 1 token, the last from 128, and 12 % of them are from /tmp/a-long/path-to/it"
)


@pytest.mark.parametrize("columns", [40, 60, 80, 100])
@pytest.mark.parametrize("line", [FIELDS, SENTENCE])
def test_a_terminal_s_lines_break_between_words(line: str, columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    shown = for_width(f"short\n{line}", _Screen()).split("\n")
    assert shown[0] == "short"
    assert max(map(len, shown)) <= columns
    assert all(piece.startswith("  ") for piece in shown[2:])
    assert " ".join(" ".join(shown[1:]).split()) == " ".join(line.split())
    assert not any(piece.startswith(("  %", "  texts/s")) for piece in shown)
    if line == FIELDS:  # a name stays with its value
        assert {field for piece in shown[1:] for field in piece.strip().split("  ")} == set(FIELDS.split("  "))


def test_a_file_or_pipe_gets_whole_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    assert for_width(SENTENCE, io.StringIO()) == SENTENCE
    path = "/tmp/" + "x" * 90
    assert for_width(f"see {path}", _Screen()).split() == ["see", path]  # a path can still be copied
    command = f"interrupted; 3 runs left. Resume with: effbench study study=smoke 'study.folder={path}' seed=1"
    assert for_width(command, _Screen()) == command  # a line break would make another command of it
