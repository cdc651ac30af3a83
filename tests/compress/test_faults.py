"""What a library raises ends one result, with a reason, and no other one; what a full disk does is named.

White-box: no small model makes a quantizer fail.
"""

from __future__ import annotations

import errno
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from effbench import cli
from effbench.compress import trial as trials
from effbench.compress.making import making
from effbench.compress.options import CompressOptions
from effbench.compress.quantize import _named_faults
from effbench.compress.trial import tried
from effbench.errors import ConfigError, DataError, EffbenchError, OutOfTimeError, ThresholdError
from effbench.records import NoSpaceError


class StrangeError(Exception):
    """As runtimes have them, of no known class."""


@pytest.mark.parametrize(
    ("raised", "kind", "text"),
    [
        (
            StrangeError("Conv_3 has no scale\nsecond line"),
            EffbenchError,
            "Conv_3 has no scale. Try backend=onnx",
        ),
        (RuntimeError(), EffbenchError, "backend=openvino cannot quantize this model: RuntimeError."),
        (OSError(errno.ENOSPC, "No space left on device"), NoSpaceError, "output=FOLDER"),
        (ThresholdError("it loses too much"), ThresholdError, "it loses too much"),
        (MemoryError("all is full"), MemoryError, "all is full"),
    ],
)
def test_what_a_quantizer_raises_has_a_name(
    raised: BaseException, kind: type[BaseException], text: str, tmp_path: Path
) -> None:
    with pytest.raises(kind) as told, _named_faults("openvino", tmp_path):
        raise raised
    assert type(told.value) is kind
    assert text in str(told.value)
    assert "second line" not in str(told.value)


def test_half_a_result_does_not_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It would stand among those of a sweep, and take the space that the next one needs."""

    def half(_: Any, __: Any, folder: Path, final: Path) -> dict[str, Any]:
        (folder / "checkpoints").mkdir()
        raise OSError(errno.ENOSPC, f"{final.name}: no space")

    monkeypatch.setattr(trials, "compress_loaded", half)
    with pytest.raises(OSError, match="int8: no space"):
        tried(SimpleNamespace(), CompressOptions("quantize"), "int8", tmp_path, tmp_path)  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.row(26)
@pytest.mark.parametrize(("refused", "code"), [({}, 0), ({"0.3": "it is broken"}, 1)])
def test_a_sweep_with_a_failed_ratio_exits_1(
    refused: dict[str, str], code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("effbench.cli.compress.compress_sweep", lambda *_: {"refused": refused})
    assert cli.main(["compress", "run", "method=structured", "sweep=0.1,0.3", "--json"]) == code
    assert ("it is broken" in capsys.readouterr().out) is bool(refused)


# --- the folder of several results


@pytest.mark.row(25)
@pytest.mark.parametrize(("plan", "kept"), [("mine", True), ("another", False), ("", False)])
def test_only_the_same_command_finds_what_a_killed_one_finished(plan: str, kept: bool, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), making(tmp_path / "result", "mine") as hidden:  # noqa: PT012
        (hidden / "ratio-0.1").mkdir()
        (hidden / "ratio-0.1" / "summary.json").write_text("{}")
        raise KeyboardInterrupt
    with making(tmp_path / "result", plan) as hidden:
        assert (hidden / "ratio-0.1" / "summary.json").exists() is kept
        (hidden / "tradeoff.json").write_text("{}")
    # the plan is no part of the result
    names = ["ratio-0.1", "tradeoff.json"] if kept else ["tradeoff.json"]
    assert sorted(path.name for path in (tmp_path / "result").iterdir()) == names
    assert [path.name for path in tmp_path.iterdir()] == ["result"]


@pytest.mark.parametrize(
    ("error", "plan", "finished"),
    [
        (KeyboardInterrupt, "mine", False),
        (EffbenchError, "mine", False),
        (ThresholdError, "mine", True),  # the same command would end with it again
        (OutOfTimeError, "mine", False),
        (EffbenchError, "", True),  # half of the only result
    ],
)
def test_what_no_command_can_go_on_with_is_removed(
    error: type[BaseException], plan: str, finished: bool, tmp_path: Path
) -> None:
    with pytest.raises(error), making(tmp_path / "result", plan) as hidden:  # noqa: PT012
        if finished:
            (hidden / "ratio-0.1").mkdir()
        raise error
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("error", [KeyboardInterrupt, DataError, ValueError, NoSpaceError, OutOfTimeError])
def test_an_error_leaves_what_is_finished(
    error: type[BaseException], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "effbench")
    with pytest.raises(error), making(tmp_path / "result", "mine") as hidden:  # noqa: PT012
        (hidden / "ratio-0.1").mkdir()
        raise error
    told = f"is kept in {hidden}: the same command goes on with it; to begin afresh, remove that folder"
    assert told in caplog.text
    with making(tmp_path / "result", "mine") as hidden:
        assert (hidden / "ratio-0.1").is_dir()
    assert [path.name for path in tmp_path.iterdir()] == ["result"]


def test_results_stay_if_the_place_was_taken_meanwhile(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="exists"), making(tmp_path / "result", "mine") as hidden:  # noqa: PT012
        (hidden / "ratio-0.1").mkdir()
        (tmp_path / "result").mkdir()
    (tmp_path / "result").rmdir()
    with making(tmp_path / "result", "mine"):
        pass
    assert [path.name for path in (tmp_path / "result").iterdir()] == ["ratio-0.1"]


def test_a_folder_that_is_left_empty_is_not_published(tmp_path: Path) -> None:
    for plan in ("", "mine"):
        with making(tmp_path / "result", plan):
            pass
        assert list(tmp_path.iterdir()) == []
