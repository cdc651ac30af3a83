"""What a stranger's run may hold in the place of its files: refused with a word, never a traceback and never a wait."""

from __future__ import annotations

import json
import os
import signal
import stat
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from effbench import cli
from effbench.config.compose import compose
from effbench.errors import ConfigError
from effbench.guarded import METRICS_BYTES, UnreadableError, read_bytes
from effbench.jobs.plan import read_plan, standing
from effbench.records import read_summary
from effbench.report.sweep import Job, sweep_rows
from effbench.run.load import recorded_config
from effbench.run.run import Run
from effbench.study.frozen import read_frozen
from effbench.summary_schema import FIELDS
from tests.commandline import TINY, python

pytestmark = pytest.mark.row(60)

READERS = (
    ["predict", "run", "photo.png"],
    ["eval", "run"],
    ["verify", "run"],
    ["report", "run"],
    ["train", "resume=run"],
    ["export", "run", "format=torchscript"],
)
WRONG = [None, True, -1, 10**400, 1e300, "x\x1b[31mred", "", [], [None], [[]], {}, {"a": {}}, [1, 2, 3], ["a", "a"]]


@contextmanager
def within(seconds: int) -> Iterator[None]:
    """Ends a test that waits for a pipe."""

    def late(*_: Any) -> None:
        raise AssertionError(f"still waiting after {seconds} s")

    old = signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, old)


@pytest.fixture
def photo(run: Path) -> Path:
    from PIL import Image

    Image.new("L", (28, 28), 128).save(run.parent / "photo.png")
    return run


def outcome(words: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    capsys.readouterr()
    code = cli.main(words)
    captured = capsys.readouterr()
    assert "\x1b" not in captured.out + captured.err
    assert "Traceback" not in captured.out + captured.err
    return code, captured.err


def replaced(content: dict[str, Any], dotted: str, value: Any) -> dict[str, Any]:
    part, dot, key = dotted.partition(".")
    if not dot:
        return {**content, part: value}
    return {**content, part: {**content[part], key: value}}


@pytest.mark.spread(6)
@pytest.mark.slow
@pytest.mark.parametrize("field", FIELDS)
def test_no_wrong_field_of_a_summary_gives_a_traceback(
    field: str, photo: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """All values are tried on some field: verify reads those of a field, another reader one of them."""
    whole = json.loads((photo / "summary.json").read_text())
    number = list(FIELDS).index(field)
    refused = []
    for value in WRONG[number % 4 :: 4]:
        (photo / "summary.json").write_text(json.dumps(replaced(whole, field, value)))
        code, told = outcome(["verify", "run"], capsys)
        assert code in (0, 1, 2)
        if value is not None and not FIELDS[field][1](value):
            assert code > 0, value
            refused.append(value)
    others = [words for words in READERS if words[0] not in ("verify", "report")]
    value, words = refused[number % len(refused)], others[number % len(others)]
    (photo / "summary.json").write_text(json.dumps(replaced(whole, field, value)))
    code, told = outcome(words, capsys)
    assert code == 2, (value, words)
    assert "summary.json" in told


@pytest.mark.parametrize("field", ["data.classes", "data.shape", "data.mean", "data.std", "data", "best"])
@pytest.mark.parametrize("value", [None, [], {}, [1, 2, 3], [0.5] * 5], ids=repr)
def test_predict_refuses_a_summary_without_the_fields_it_needs(
    field: str, value: Any, photo: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = json.loads((photo / "summary.json").read_text())
    (photo / "summary.json").write_text(json.dumps(replaced(whole, field, value)))
    code, told = outcome(["predict", "run", "photo.png"], capsys)
    assert code == 0 or (code == 2 and told.startswith("error: "))
    if field.startswith("data"):
        assert code == 2


SECTIONS = ["model", "optimizer", "data", "trainer", "early_stopping", "seed", "logger"]
WRONG_SECTIONS: list[Any] = [None, "x", {"_target_": 3}]


@pytest.mark.spread(9)
@pytest.mark.parametrize("section", SECTIONS)
@pytest.mark.parametrize("value", WRONG_SECTIONS, ids=repr)
def test_no_wrong_section_of_a_config_gives_a_traceback(
    section: str, value: Any, photo: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = yaml.safe_load((photo / "config.yaml").read_text())
    (photo / "config.yaml").write_text(yaml.safe_dump({**content, section: value}))
    resumed = WRONG_SECTIONS.index(value) == SECTIONS.index(section) % len(WRONG_SECTIONS)  # costly: once a section
    for words in (READERS[0], READERS[2], *([READERS[4]] if resumed else [])):
        code, told = outcome(words, capsys)
        assert code in (0, 1, 2)
        assert code != 2 or "error: " in told, told


FILES = ["summary.json", "config.yaml", "metrics.csv", "checkpoints/last/manifest.json", "checkpoints/last/state.pt",
         "checkpoints/last/model.safetensors", ".hydra/overrides.yaml"]  # fmt: skip
OF_A_RESUME = ("checkpoints/last/state.pt", ".hydra/overrides.yaml")


def pipe(path: Path) -> None:
    os.mkfifo(path)


def endless(path: Path) -> None:
    path.symlink_to("/dev/zero")


def huge(path: Path) -> None:
    path.touch()
    os.truncate(path, METRICS_BYTES * 30)


PUT = [(put, name) for name in FILES for put in (pipe, endless, huge)
       if put is not huge or not name.endswith((".pt", ".safetensors"))]  # weights may be large  # fmt: skip


@pytest.mark.spread(7)
@pytest.mark.process
@pytest.mark.parametrize(("put", "name"), PUT)
def test_no_reader_blocks_on_a_file_that_is_not_regular(
    put: Any, name: str, photo: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for link in ("best", "last"):  # both, so that no whole one is left to take
        folder = (photo / "checkpoints" / link).resolve()
        path = folder / Path(name).name if name.startswith("checkpoints") else photo / name
        path.unlink(missing_ok=True)
        put(path)
    resumed = put is pipe or name in OF_A_RESUME  # costly, and the other readers read the rest too
    for words in (READERS[0], READERS[2], READERS[3], *([READERS[4]] if resumed else [])):
        with within(20):
            code, _ = outcome(words, capsys)
        assert code in (0, 1, 2)
    assert path.is_symlink() or not path.is_file() or path.stat().st_size


def test_a_pipe_or_endless_file_as_a_sweep_s_plan_is_refused(
    elsewhere: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for put in (pipe, endless):
        (elsewhere / "sweep").mkdir(exist_ok=True)
        put(elsewhere / "sweep" / "sweep.json")
        with within(10):
            assert outcome(["train", "-m", "sweep.resume=sweep"], capsys)[0] == 2
        (elsewhere / "sweep" / "sweep.json").unlink()


def test_file_of_growing_or_hidden_size_is_read_up_to_the_limit(tmp_path: Path) -> None:
    with pytest.raises(UnreadableError, match="more than"):
        read_bytes(Path("/proc/self/maps"), most=100)  # says of itself that it has no bytes
    (tmp_path / "a").write_bytes(b"x" * 101)
    with pytest.raises(UnreadableError, match="at most"):
        read_bytes(tmp_path / "a", most=100)
    assert read_bytes(tmp_path / "a", most=101) == b"x" * 101


# --- YAML bombs -------------------------------------------------------------------------------------------------------

ALIASES = "\n".join([f"a{i}: &a{i} [{','.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 10)])
MERGES = "\n".join([f"m{i}: &m{i} {{<<: [{','.join([f'*m{i - 1}'] * 9)}]}}" for i in range(1, 10)])
BOMBS = {
    "aliases": f"a0: &a0 [x,x,x]\n{ALIASES}\n",
    "merges": "m0: &m0 {a: 1}\n"
    + "".join(f"m{i}: &m{i} {{<<: [{','.join([f'*m{i - 1}'] * 9)}]}}\n" for i in range(1, 10)),
    "a long list": f"loss:\n  class_weights: [{'1,' * 1_500_000}1]\n",
    "depth": f"model: {{hidden: {'[' * 5000}{']' * 5000}}}\n",
    "itself": "a: &a [*a]\n",
    "references": "".join(f"x{i}: '${{x{i + 1}}}${{x{i + 1}}}'\n" for i in range(25)) + "x25: y\n",
    "a long number": f"seed: {'9' * 500_000}\n",
    "many megabytes": f"a: {'x' * 5_000_000}\n",
    "a circle": "a: ${b}\nb: ${a}\n",
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_recipe_that_stands_for_more_than_it_holds_is_refused(
    name: str, elsewhere: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (elsewhere / "bomb.yaml").write_text("# @package _global_\n" + BOMBS[name])
    with within(20):
        code, told = outcome(["train", "recipe=bomb.yaml"], capsys)
    assert code == 2
    assert told.startswith("error: ")
    assert len(told) < 1000


@pytest.mark.parametrize("name", BOMBS)
def test_a_group_of_a_folder_is_bounded_as_a_recipe_is(
    name: str, elsewhere: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (elsewhere / "conf" / "debug").mkdir(parents=True)
    (elsewhere / "conf" / "debug" / "bomb.yaml").write_text("# @package _global_\n" + BOMBS[name])
    with within(20):
        code, told = outcome(["train", "--config-dir", "conf", "debug=bomb"], capsys)
    assert code == 2
    assert told.startswith("error: ")


@pytest.mark.parametrize("put", [pipe, endless])
def test_a_recipe_that_is_no_file_is_refused(put: Any, elsewhere: Path, capsys: pytest.CaptureFixture[str]) -> None:
    put(elsewhere / "r.yaml")
    with within(10):
        assert outcome(["train", "recipe=r.yaml"], capsys)[0] == 2


@pytest.mark.slow
def test_files_that_name_each_other_are_looked_at_so_often_only(
    elsewhere: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """2^20 files by their defaults lists."""
    (elsewhere / "conf" / "debug").mkdir(parents=True)
    for index in range(20):
        entries = "".join(f"  - f{index + 1}@{side}\n" for side in "ab")
        (elsewhere / "conf" / "debug" / f"f{index}.yaml").write_text(f"defaults:\n{entries}")
    (elsewhere / "conf" / "debug" / "f20.yaml").write_text("x: 1\n")
    with within(60):
        code, told = outcome(["train", "--config-dir", "conf", "debug=f0"], capsys)
    assert code == 2
    assert "2000 files" in told


@pytest.mark.proof
@pytest.mark.process
@pytest.mark.row(61)
def test_files_of_a_run_follow_the_umask(tmp_path: Path) -> None:
    """safetensors makes files for their owner alone, whatever the umask."""
    script = f"import os, sys; os.umask(0o027); from effbench.cli import main; sys.exit(main(['train', *{TINY!r}, 'hydra.run.dir=run', 'checkpoint.save_last=true', 'ema=on']))"  # noqa: E501
    assert python("-c", script, cwd=tmp_path).returncode == 0
    files = [path for path in (tmp_path / "run").rglob("*") if path.is_file()]
    assert {path.name for path in files} >= {"model.safetensors", "ema.safetensors", "state.pt", "summary.json"}
    assert {oct(stat.S_IMODE(path.stat().st_mode)) for path in files} == {"0o640"}


@pytest.mark.process
@pytest.mark.row(61)
@pytest.mark.skipif(os.getuid() != 0, reason="needs a second user")
@pytest.mark.parametrize("name", ["model.safetensors", "manifest.json", "summary.json", "config.yaml"])
def test_a_file_that_may_not_be_read_is_named(name: str, photo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As another user: root may read all."""
    assert outcome(["predict", "run", "photo.png"], capsys)[0] == 0  # imports what that user may not
    for path in [photo.parent, *photo.rglob("*")]:
        path.chmod(0o755)
    for path in photo.rglob(name):
        path.chmod(0)
    code, told = as_nobody(["predict", "run", "photo.png"], photo.parent / "told")
    assert code in (1, 2), told
    assert name in told
    assert "Permission denied" in told
    assert "Traceback" not in told


def as_nobody(words: list[str], told: Path) -> tuple[int, str]:
    """(exit code, stderr) of a command in a forked process with the rights of user 65534."""
    pid = os.fork()
    if pid == 0:
        code = 99
        try:
            os.dup2(os.open(told, os.O_CREAT | os.O_WRONLY), 2)
            sys.stderr = os.fdopen(2, "w")
            os.setgroups([])
            os.setgid(65534)
            os.setuid(65534)
            code = cli.main(words)
        except BaseException:  # noqa: BLE001 - what it is, the test reads
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), told.read_text()


# --- versions

BY_NAME: dict[str, Callable[[Path], object]] = {
    "summary.json": lambda path: read_summary(path.parent),
    "sweep.json": lambda path: read_plan(path.parent),
    "config.yaml": lambda path: recorded_config(path.parent),
    "study.json": read_frozen,
}


@pytest.mark.parametrize("name", BY_NAME)
def test_a_record_of_a_newer_version_is_refused_by_name(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text('{"schema_version": 99, "effbench": "9.9"}')
    said = rf"{tmp_path / name} has schema_version 99, and this effbench reads up to \d+: .* wrote it\. Install"
    with pytest.raises(ConfigError, match=said):
        BY_NAME[name](tmp_path / name)


def test_a_summary_without_a_status_is_damaged(tmp_path: Path) -> None:
    (tmp_path / "summary.json").write_text('{"schema_version": 1, "metrics": {}}')
    with pytest.raises(ConfigError, match="summary.json is damaged: it has no status"):
        read_summary(tmp_path)
    assert repr(Run(tmp_path, compose())).endswith("no summary yet)")  # a notebook shows it: it must not raise
    assert sweep_rows([Job(0, [], tmp_path)])[0]["status"] == "failed"
    with pytest.raises(ConfigError, match="no status"):
        standing(tmp_path)
