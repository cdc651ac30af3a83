"""The time of a search: what it takes is known before it is begun, and a search that it ended says so.

The compressions themselves are replaced by records of known numbers.
"""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from effbench.compress import search as searching
from effbench.compress import trial as trials
from effbench.compress.options import CompressOptions, measuring
from effbench.compress.table import print_search
from effbench.errors import OutOfTimeError, ThresholdError
from tests.compress.searches import COSTS, FAILING, LONGER, searched


@pytest.mark.parametrize(
    ("target", "minutes", "ended"),
    [("latency/2", 10, "met"), ("latency/9", 10, "all"), ("latency/9", 1e-9, "time")],
)
@pytest.mark.usefixtures("made")
def test_a_search_says_why_it_ended(
    target: str, minutes: float, ended: str, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    with caplog.at_level("INFO", logger="effbench"):
        record = searched(tmp_path, target, max_drop=0.3, minutes=minutes)
    assert record["search"]["ended"] == ended
    print_search(record)
    told = " ".join(capsys.readouterr().out.split())
    late = ended == "time"
    assert ("The time was over (minutes=1e-09) before all was tried. Try minutes=2e-09." in told) is late
    # once, and not for each candidate that is left
    assert caplog.text.count("minutes=1e-09: the time is over, no further candidate is begun") == late


def test_time_that_ends_too_early_keeps_what_was_made(
    tmp_path: Path, made: list[tuple[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same command with more minutes begins with 12 epochs."""
    monkeypatch.setitem(LONGER, 0.25, (0.8, 0.0))
    options = {"max_drop": 0.1, "epochs": "auto", "bench": measuring(backends=["eager"])}
    with pytest.raises(OutOfTimeError) as told:
        searched(tmp_path, "latency/1.25", minutes=1e-9, **options)
    assert told.value.exit_code == 3
    assert "loses at most 0.1 (max_drop) on 2,000 validation samples, and the time was over (minutes=1e-09)" in str(
        told.value
    )
    assert "Write minutes=2e-09. Tried: structured-0.25 (+0.20 lost)." in str(told.value)
    assert (tmp_path / ".result.making" / "structured-0.25" / "compression.json").is_file()
    assert made == [("run", 0.25)]
    assert searched(tmp_path, "latency/1.25", **options)["search"]["met"]
    assert made == [("run", 0.25), ("run", 0.25), ("export", "onnx")]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["result", "run"]


def test_a_candidate_that_ran_out_of_time_is_no_loss(
    tmp_path: Path, made: list[tuple[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[float] = []
    plain = trials.compress_loaded

    def compress_loaded(source: Any, options: CompressOptions, folder: Path, final: Path) -> dict[str, Any]:
        seen.append(options.deadline)
        return plain(source, options, folder, final)

    monkeypatch.setattr(trials, "compress_loaded", compress_loaded)
    monkeypatch.setattr(searching, "time", SimpleNamespace(monotonic=lambda: 1000.0))
    for name in ("onnxruntime", "openvino"):
        monkeypatch.setitem(FAILING, name, OutOfTimeError("the time was over when 3 of 9 layers had been tried"))
    monkeypatch.setitem(COSTS, 0.25, (0.8, 5.0))
    with pytest.raises(OutOfTimeError, match=r"int8-onnxruntime \(the time was over when 3 of 9 layers"):
        searched(tmp_path, "latency/2", minutes=2)
    assert seen == [1120.0] * 3
    assert len(made) == 3


@pytest.mark.parametrize(("minutes", "begun"), [(15, False), (21, True)])
def test_a_new_ratio_takes_as_long_as_the_nearest_one(
    minutes: float, begun: bool, tmp_path: Path, made: list[tuple[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """0.5 is reached after 800 s, with 12 epochs at once, which took 400 s at 0.25."""
    clock, plain = [0.0], trials.compress_loaded

    def compress_loaded(source: Any, options: CompressOptions, folder: Path, final: Path) -> dict[str, Any]:
        clock[0] += 400 if getattr(options.own, "epochs", 0) == 12 else 100
        return plain(source, options, folder, final)

    monkeypatch.setattr(trials, "compress_loaded", compress_loaded)
    monkeypatch.setattr(searching, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    monkeypatch.setitem(LONGER, 0.25, (0.8, 0.0))
    found = searched(tmp_path, "latency/100", max_drop=0.1, epochs="auto", minutes=minutes)
    assert made[2:5] == [("run", 0.25), ("run", 0.25), ("structured-0.25-12-epochs", "onnxruntime")]
    assert (("run", 0.5) in made) is begun
    assert found["search"]["ended"] == ("all" if begun else "time")


@pytest.mark.usefixtures("made")
def test_a_loss_with_time_left_is_no_matter_of_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(COSTS, "openvino", (0.6, 5.0))
    with pytest.raises(ThresholdError) as told:
        searched(tmp_path, "latency/2", max_drop=0.05)
    assert type(told.value) is ThresholdError
    assert "minutes" not in str(told.value)


def test_a_resumed_search_knows_what_fine_tuning_took(
    tmp_path: Path, made: list[tuple[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Finished candidates come back at once; their 3 epochs took 170 s, so 12 would take 680."""
    monkeypatch.setattr(searching, "read_summary", lambda _: {"timing": {"training_s": 170.0}})
    for minutes, longer in ((11, False), (12, True)):
        made.clear()
        (tmp_path / str(minutes)).mkdir()
        searched(tmp_path / str(minutes), "latency/100", max_drop=0.1, epochs="auto", minutes=minutes)
        assert made[2:] == [("run", 0.25)] * (1 + longer)


def test_after_its_minutes_no_candidate_is_begun(tmp_path: Path, made: list[tuple[str, Any]]) -> None:
    assert not searched(tmp_path, "latency/100", minutes=1e-9)["search"]["met"]
    assert made == [("run", "onnxruntime")]
