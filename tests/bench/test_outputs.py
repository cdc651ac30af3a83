"""Where a measurement is written: what cannot be is refused before it, and no older file stays beside a new one."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from effbench import cli
from effbench.bench import primitives, training
from effbench.bench import run as benching
from effbench.errors import EffbenchError

MODES = {
    "layers": ["mode=layers"],
    "attention": ["mode=attention"],
    "train": ["mode=train", "model=mlp"],
    "bench": ["model=mlp"],
}


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """One entry for each measurement that was begun; all fail."""
    begun: list[int] = []

    def measure(*_: Any) -> None:
        begun.append(1)
        raise EffbenchError("it does not work")

    monkeypatch.setattr(primitives, "bench_pairs", measure)
    monkeypatch.setattr(training, "bench_training", measure)
    monkeypatch.setattr(benching, "bench_source", measure)
    return begun


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("output", ["file", "file/below"])
def test_a_folder_that_cannot_be_written_is_refused_first(
    mode: str, output: str, measured: list[int], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    Path("file").write_text("mine")
    assert cli.main(["bench", *MODES[mode], f"output={output}"]) == 2
    assert f"the output folder {output} cannot be written" in capsys.readouterr().err
    assert measured == []
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("mode", MODES)
def test_a_name_that_a_folder_has_is_refused_first(
    mode: str, measured: list[int], capsys: pytest.CaptureFixture[str]
) -> None:
    Path("out", f"{mode}.json").mkdir(parents=True)
    assert cli.main(["bench", *MODES[mode], "output=out"]) == 2
    err = capsys.readouterr().err
    assert f"out/{mode}.json is no file that could be replaced. Choose another folder with output=FOLDER" in err
    assert measured == []


@pytest.mark.parametrize("mode", MODES)
def test_a_measurement_that_fails_leaves_no_folder(mode: str, measured: list[int], tmp_path: Path) -> None:
    assert cli.main(["bench", *MODES[mode], "output=some/new/folder"]) == 1
    assert measured == [1]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.process
@pytest.mark.slow
def test_two_measurements_for_one_folder_exclude_each_other(
    measured: list[int], capsys: pytest.CaptureFixture[str]
) -> None:
    code = "import sys; from pathlib import Path; from effbench.bench.record import taken\n"
    code += "with taken(Path('out'), ()): print('held', flush=True); sys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=-1, stdout=-1) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"held\n"
        status = cli.main(["bench", "mode=layers", "output=out"])
        other.communicate()
    assert (status, measured) == (2, [])
    assert f"out is in use by process {other.pid}" in capsys.readouterr().err


def pair(channels: int) -> dict[str, Any]:
    seconds = {"estimate": 0.5, "low": 0.4, "high": 0.6, "n": 3}
    counts = {"parameters": 10, "macs": 20}
    return {
        "case": {"channels": channels, "size": 14, "batch": 1}, "ours": counts, "other": counts, "formula": 0.2,
        "ours_s": seconds, "other_s": seconds, "time_ratio": seconds,
    }  # fmt: skip


def test_a_figure_of_another_measurement_does_not_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    def record(*channels: int) -> dict[str, Any]:
        return {"schema_version": 1, "kind": "layers", "rows": [pair(each) for each in channels]}

    for channels in ((8, 16), (32,)):
        found = record(*channels)
        monkeypatch.setattr(primitives, "bench_pairs", lambda *_, found=found: found)
        assert cli.main(["bench", "mode=layers", "output=out", "--json"]) == 0
        assert json.loads(Path("out", "layers.json").read_text()) == found
        # of one case there is no line
        assert Path("out", "layers.svg").exists() is (len(channels) > 1)
