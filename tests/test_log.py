"""The effbench logger: how narration looks, who else may take it, and that it ends no run."""

from __future__ import annotations

import errno
import io
import logging
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from effbench import cli
from effbench.log import LOGGER, at_level
from effbench.training import callbacks
from effbench.training.callbacks import Progress
from effbench.training.state import TrainState
from tests.commandline import TINY, effbench, python

log = logging.getLogger("effbench.here")


@pytest.fixture(autouse=True)
def as_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    handlers, level = list(LOGGER.handlers), LOGGER.level
    yield
    LOGGER.handlers[:], LOGGER.propagate = handlers, False
    LOGGER.setLevel(level)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_only_warnings_and_errors_have_a_log_prefix(capsys: pytest.CaptureFixture[str]) -> None:
    log.debug("hidden")
    log.info("5 % of it\tdone")
    log.warning("odd")
    log.error(ValueError("bad"))
    assert capsys.readouterr() == ("", "5 % of it\tdone\nwarning: odd\nerror: bad\n")


@pytest.mark.parametrize(("level", "shown"), [(logging.WARNING, "warning: c\n"), (logging.DEBUG, "a b c")])
def test_a_level_holds_for_its_block_and_debug_names_loggers(
    level: int, shown: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with at_level(level):
        log.debug("a")
        log.info("b")
        log.warning("c")
    log.info("after")
    names = "effbench.here: a\neffbench.here: b\neffbench.here: warning: c\n"
    assert capsys.readouterr().err == (names if level == logging.DEBUG else shown) + "after\n"


def test_ranks_other_than_0_say_which_they_are(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for rank in ("0", "1"):
        monkeypatch.setenv("RANK", rank)
        log.warning("odd")
    assert capsys.readouterr().err == "warning: odd\n[rank 1] warning: odd\n"


def test_no_line_steers_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    log.info("\x1b[2Jclass \u202ename\r")
    assert capsys.readouterr().err == "\\x1b[2Jclass \\u202ename\\r\n"


class Full(io.StringIO):
    def write(self, text: str) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")


def closed() -> io.StringIO:
    stream = io.StringIO()
    stream.close()
    return stream


@pytest.mark.row(56)
@pytest.mark.parametrize("stream", [None, closed(), Full()])
def test_a_stream_that_takes_nothing_ends_no_run(stream: io.StringIO | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", stream)
    log.info("lost")


@pytest.mark.row(56)
def test_another_program_s_stream_without_unicode_gets_ascii(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stderr", io.TextIOWrapper(raw, "ascii"))
    log.info("32×32 é")
    assert raw.getvalue() == b"32x32 \\u00e9\n"


def test_a_program_s_file_gets_the_lines_too(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    own = logging.FileHandler(tmp_path / "own.log")
    LOGGER.addHandler(own)
    log.info("once")
    own.close()
    assert capsys.readouterr().err == "once\n"
    assert (tmp_path / "own.log").read_text() == "once\n"


def test_a_program_s_handler_for_stderr_replaces_ours(capsys: pytest.CaptureFixture[str]) -> None:
    own = logging.StreamHandler(sys.stderr)
    own.setFormatter(logging.Formatter("own %(message)s"))
    LOGGER.addHandler(own)
    log.info("once")
    assert capsys.readouterr().err == "own once\n"


def test_propagation_hands_the_lines_to_the_root_alone(capsys: pytest.CaptureFixture[str]) -> None:
    own = logging.StreamHandler(sys.stderr)
    own.setFormatter(logging.Formatter("root %(message)s"))
    logging.getLogger().addHandler(own)
    log.info("ours")
    LOGGER.propagate = True
    log.info("theirs")
    logging.getLogger().removeHandler(own)
    assert capsys.readouterr().err == "ours\nroot theirs\n"


@pytest.mark.process
@pytest.mark.parametrize(
    ("before", "lines"),
    [
        ("", ["one", "warning: two"]),
        ("logging.getLogger('effbench').setLevel(logging.WARNING)", ["warning: two"]),
        ("logging.basicConfig(level=logging.INFO, format='root %(message)s')", ["one", "warning: two"]),
        ("logging.getLogger('effbench').addHandler(logging.StreamHandler())", ["two"]),
    ],
)
def test_logging_configured_before_the_import_is_kept(before: str, lines: list[str], tmp_path: Path) -> None:
    code = "log = logging.getLogger('effbench.x'); log.info('one'); log.warning('two')"
    done = python("-c", f"import logging\n{before}\nimport effbench\n{code}", cwd=tmp_path)
    assert done.stderr.splitlines() == lines


def test_lines_come_above_the_bar_that_quiet_hides(monkeypatch: pytest.MonkeyPatch) -> None:
    context: Any = SimpleNamespace(state=TrainState(), total_steps=10, steps_per_epoch=5)
    monkeypatch.setattr(sys, "stderr", Terminal())
    bar = Progress({})
    bar.fit_start(context)
    log.warning("odd")
    bar.fit_end(context)
    log.info("after")
    shown = sys.stderr.getvalue()  # type: ignore[attr-defined]
    assert "0/10" in shown
    assert "\rwarning: odd\n" in shown
    assert shown.endswith("\rafter\n")
    monkeypatch.setattr(sys, "stderr", Terminal())
    with at_level(logging.WARNING):
        bar = Progress({})
        bar.fit_start(context)
        bar.epoch_end(context, {})
        bar.fit_end(context)
    assert sys.stderr.getvalue() == ""  # type: ignore[attr-defined]


def test_a_long_epoch_without_a_bar_says_the_time_left(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """30 s a step, 100 steps: a word after a minute, then each ten, none soon after an epoch's own line."""
    now = 0.0
    monkeypatch.setattr(callbacks.time, "monotonic", lambda: now)
    context: Any = SimpleNamespace(state=TrainState(), total_steps=100, steps_per_epoch=50)
    bar = Progress({})
    bar.fit_start(context)
    said = []
    with caplog.at_level(logging.INFO, "effbench"):
        for step in range(1, 101):
            now = 30.0 * step
            context.state.step = step
            bar.step_end(context)
            if caplog.records:
                said.append((step, caplog.records[-1].getMessage()))
            if step == 50:
                bar.epoch_end(context, {})
            caplog.clear()
    assert [step for step, _ in said] == [2, 22, 42, 70, 90]
    assert said[0][1] == "step 2 of 100; at this speed 49 min more, if it is not stopped early"
    assert "15 min" in said[3][1]


@pytest.mark.process
def test_quiet_and_verbose_go_anywhere_and_the_last_one_wins(tmp_path: Path) -> None:
    quiet = effbench("-q", "train", *TINY, "hydra.run.dir=quiet", cwd=tmp_path)
    assert (quiet.returncode, quiet.stderr) == (0, "")
    assert "test accuracy" in quiet.stdout
    verbose = effbench("train", "-q", *TINY, "hydra.run.dir=verbose", "--verbose", cwd=tmp_path)
    assert "effbench.training.checkpoint: checkpoint verbose/checkpoints/step-" in verbose.stderr
    assert "\neffbench.run.session: data " in verbose.stderr


@pytest.mark.parametrize("verb", cli.VERBS)
def test_every_verb_takes_and_documents_quiet_and_verbose(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    for flag in ("-q", "--quiet", "-v", "--verbose"):
        assert cli.main([verb, "--help", flag]) == 0
        assert "-q, --quiet" in capsys.readouterr().out


def test_quiet_prints_errors_and_verbose_adds_the_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["train", "modle=mlp", "-q"]) == 2
    assert capsys.readouterr().err == "error: there is no key 'modle'. The nearest: model.\n"
    assert cli.main(["train", "modle=mlp", "-v"]) == 2
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.proof
@pytest.mark.process
def test_hydra_launcher_adds_no_duplicate_line_and_keeps_level(tmp_path: Path) -> None:
    words = ["train", "-m", "seed=0,1", "hydra/launcher=basic", *TINY]
    loud = effbench(*words, "hydra.sweep.dir=loud", cwd=tmp_path)
    assert loud.returncode == 0, loud.stderr
    assert loud.stderr.count("\ndata ") + loud.stderr.startswith("data ") == 2
    assert loud.stdout.count("data synthetic") == 0
    quiet = effbench(*words, "hydra.sweep.dir=quiet", "--quiet", cwd=tmp_path)
    assert (quiet.returncode, quiet.stderr) == (0, "")
    assert "HYDRA" not in quiet.stdout
