"""Targets, and the search over candidates of known cost: what is tried, what is kept, what is told.

The compressions themselves are replaced by records of known numbers.
"""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from effbench.compress import making as makings
from effbench.compress import search as searching
from effbench.compress import target as targets
from effbench.compress import winner
from effbench.compress.options import measuring
from effbench.compress.table import print_search
from effbench.compress.target import SearchOptions, Target
from effbench.errors import ConfigError, DataError, ThresholdError
from tests.compress.searches import ABOUT, COSTS, FAILING, LEAST_DROPS, LONGER, REFUSED, benched, gone, searched


@pytest.mark.parametrize(
    ("text", "latency", "most", "relative"),
    [
        ("2 ms", True, 0.002, False),
        ("350us", True, 350e-6, False),
        ("1.5 MB", False, 1.5e6, False),
        ("800 kB", False, 8e5, False),
        ("latency/4", True, 0.25, True),
        ("size/2.5", False, 0.4, True),
    ],
)
def test_a_target_is_a_latency_a_size_or_a_part(text: str, latency: bool, most: float, relative: bool) -> None:
    found = Target.parsed(text)
    assert (found.latency, found.relative) == (latency, relative)
    assert found.most == pytest.approx(most)


@pytest.mark.parametrize(
    "text",
    ["2", "fast", "0 ms", "-1 MB", "latency/0", "latency", "2 mm", 2, "", "latency/0.5", "size/0.9", "latency/1"],
)
def test_another_target_is_refused_with_examples(text: Any) -> None:
    with pytest.raises(ConfigError, match="'2 ms', '1 MB', 'latency/4'"):
        Target.parsed(text)


def test_options_of_a_search_are_checked() -> None:
    with pytest.raises(ConfigError, match="minutes must be a number > 0"):
        SearchOptions(Target.parsed("2 ms"), minutes=0)
    with pytest.raises(ConfigError, match="epochs must be auto or a whole number of epochs >= 0"):
        SearchOptions(Target.parsed("2 ms"), epochs="long")
    assert [SearchOptions(Target.parsed("2 ms"), epochs=given).lengths for given in ("auto", 5)] == [(3, 12), (5,)]


# --- the search


def test_the_first_candidate_that_holds_ends_the_search(tmp_path: Path, made: list[tuple[str, Any]]) -> None:
    found = searched(tmp_path, "latency/2")
    assert made == [("run", "onnxruntime")]
    assert found["search"]["met"]
    assert found["source"]["run"] == "../run"
    assert sorted(path.name for path in (tmp_path / "result").iterdir()) == ["compression.json", "export", "weights"]


def test_pruning_and_8_bits_together_multiply_and_add(tmp_path: Path, made: list[tuple[str, Any]]) -> None:
    found = searched(tmp_path, "latency/4", max_drop=0.5)
    # 0.5 of the channels: 0.5 x 0.5 of the latency, 0.4 + 0.1 points
    assert made[-2:] == [("run", 0.5), ("structured-0.5", "onnxruntime")]
    assert found["search"]["value"] == pytest.approx(0.25)
    assert found["search"]["drop"] == pytest.approx(0.5)
    assert found["search"]["met"]
    result = tmp_path / "result"
    assert sorted(path.name for path in result.iterdir()) == ["before", "compression.json", "export", "weights"]
    # and not the folder of the search, which is gone
    file = json.loads((result / "export" / "small.onnx.json").read_text())
    assert file == {"run": str(result / "before"), "bytes": 7}
    runs = [
        json.loads((place / "compression.json").read_text())["source"]["run"] for place in (result, result / "before")
    ]
    assert runs == ["before", "../../run"]


def test_out_of_reach_gives_the_nearest_that_keeps_the_bound(tmp_path: Path, made: list[tuple[str, Any]]) -> None:
    found = searched(tmp_path, "latency/100", max_drop=0.3)
    # 0.25 of the channels is kept and quantized; 0.5 loses 0.4, more than the bound, and ends the search
    assert made[2:] == [("run", 0.25), ("structured-0.25", "onnxruntime"), ("run", 0.5)]
    assert not found["search"]["met"]
    assert found["search"]["value"] == pytest.approx(0.4)
    assert [row["name"] for row in found["search"]["candidates"]][-1] == "structured-0.5"


@pytest.mark.parametrize(("minutes", "longer"), [(10, False), (20, True)])
def test_what_lost_too_much_is_fine_tuned_longer(
    minutes: float, longer: bool, tmp_path: Path, made: list[tuple[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of candidates that take 100 s, 12 epochs take 400: they are begun only if they can end in time."""
    monkeypatch.setitem(LONGER, 0.5, (0.5, 0.2))
    monkeypatch.setattr(searching, "time", SimpleNamespace(monotonic=lambda: 100.0 * len(made)))
    found = searched(tmp_path, "latency/100", max_drop=0.3, epochs="auto", minutes=minutes)
    first = [("run", 0.25), ("structured-0.25", "onnxruntime"), ("run", 0.5)]
    more = [("run", 0.5), ("structured-0.5-12-epochs", "onnxruntime"), ("run", 0.75)]
    assert made[2:] == first + more * longer
    assert found["search"]["value"] == pytest.approx(0.25 if longer else 0.4)
    names = [row["name"] for row in found["search"]["candidates"]]
    assert names[-1] == ("structured-0.75-12-epochs" if longer else "structured-0.5")


def test_a_ratio_that_fails_is_not_tried_with_more_epochs(
    tmp_path: Path, made: list[tuple[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    for ratio in searching.RATIOS:
        monkeypatch.setitem(FAILING, ratio, RuntimeError("torch-pruning cannot"))
    searched(tmp_path, "latency/100", epochs="auto")
    assert made[2:] == [("run", ratio) for ratio in searching.RATIOS]


def test_16_bits_are_not_tried_below_half_of_the_size(tmp_path: Path, made: list[tuple[str, Any]]) -> None:
    """8 bits have half of it already, within the bound."""
    searched(tmp_path, "size/100", max_drop=0.3)
    assert ("run", "bf16") not in made


def test_a_ratio_that_cannot_be_made_does_not_end_the_search(
    tmp_path: Path, made: list[tuple[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rounding keeps every channel of a narrow model at a small ratio, and not at a larger one."""
    monkeypatch.setitem(REFUSED, "ratio", 0.25)
    found = searched(tmp_path, "latency/4", max_drop=0.5)
    assert found["search"]["met"]
    assert made[2:] == [("run", 0.25), ("run", 0.5), ("structured-0.5", "onnxruntime")]
    assert [row["failed"] for row in found["search"]["candidates"] if row["failed"]] == ["rounding keeps every channel"]


@pytest.mark.usefixtures("made")
def test_nothing_within_the_bound_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(COSTS, "openvino", (0.6, 5.0))
    with pytest.raises(ThresholdError, match=r"int8-onnxruntime \(it loses too much\)"):
        searched(tmp_path, "latency/2", max_drop=0.05)
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


@pytest.mark.parametrize("target", ["size/1.4", "latency/1.4"])
def test_for_a_size_16_bits_come_before_pruning(
    target: str, tmp_path: Path, made: list[tuple[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half of the file, where 8 bits lose too much; no runtime is faster with it."""
    for runtime in ("onnxruntime", "openvino"):
        monkeypatch.setitem(COSTS, runtime, (0.5, 5.0))
    found = searched(tmp_path, target)
    if target.startswith("latency"):
        assert ("run", "bf16") not in made
        return
    assert made == [("run", "onnxruntime"), ("run", "openvino"), ("run", "bf16")]
    assert [row["name"] for row in found["search"]["candidates"]][-1] == "bf16-onnxruntime"
    assert (found["search"]["met"], found["search"]["value"]) == (True, pytest.approx(0.7))


def test_only_runtimes_that_are_measured_get_a_file(tmp_path: Path, made: list[tuple[str, Any]]) -> None:
    searched(tmp_path, "latency/100", bench=measuring(backends=["eager", "onnxruntime"]), max_drop=0.3)
    assert made == [("run", "onnxruntime"), ("run", 0.25), ("structured-0.25", "onnxruntime"), ("run", 0.5)]


def test_without_a_runtime_for_8_bits_only_channels_go(tmp_path: Path, made: list[tuple[str, Any]]) -> None:
    searched(tmp_path, "latency/100", bench=measuring(backends=["eager"]), max_drop=0.3, minutes=1e-9)
    assert made == [("run", 0.25), ("export", "onnx")]  # one candidate at least


@pytest.mark.usefixtures("made")
def test_the_doubts_of_a_latency_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = searched(tmp_path, "latency/2")
    print_search({**found, "path": "x"})
    assert capsys.readouterr().out.splitlines()[-2:] == ["Doubt: the clock changed.", "  x/export/small.onnx"]
    found["search"]["target"] = "size/2"
    print_search({**found, "path": "x"})
    assert "Doubt" not in capsys.readouterr().out


@pytest.mark.parametrize(
    "error", [OSError(28, "No space left on device"), MemoryError(), RuntimeError("ONNX Runtime cannot")]
)
def test_a_candidate_that_a_library_fails_at_costs_no_other(
    error: BaseException, tmp_path: Path, made: list[tuple[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(FAILING, "onnxruntime", error)
    found = searched(tmp_path, "latency/1.5")
    assert made == [("run", "onnxruntime"), ("run", "openvino")]
    assert found["search"]["met"]
    [failed] = [row for row in found["search"]["candidates"] if row["failed"]]
    assert failed == {"name": "int8-onnxruntime", "failed": str(error) or "MemoryError"}


def test_a_miss_within_its_interval_does_not_end_the_search(
    tmp_path: Path, made: list[tuple[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """0.25 of the channels loses 0.8 points by chance, and 0.5 of them 0.4; 0.75 surely loses too much."""
    monkeypatch.setitem(COSTS, 0.25, (0.8, 0.8))
    monkeypatch.setitem(LEAST_DROPS, 0.25, {"low": 0.1})
    monkeypatch.setitem(LEAST_DROPS, 0.75, {"low": 1.0})
    found = searched(tmp_path, "latency/100", max_drop=0.5)
    # what misses the bound is not quantized too
    assert made[2:] == [("run", 0.25), ("run", 0.5), ("structured-0.5", "onnxruntime"), ("run", 0.75)]
    assert found["search"]["value"] == pytest.approx(0.25)


@pytest.mark.parametrize(
    ("target", "reached", "distinguished"),
    [("latency/1.5", "reached", True), ("latency/2", "reached", False), ("latency/4", "reached", False)],
)
@pytest.mark.usefixtures("made")
def test_the_interval_of_what_was_reached_is_told(
    target: str, reached: str, distinguished: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = searched(tmp_path, target)
    part = found["search"]["value"]
    # of two steps, the ends multiply
    power = 2 if found["source"]["run"] == "before" else 1
    ends = [found["search"][f"value_{end}"] for end in ("low", "high")]
    assert ends == pytest.approx([part * 0.9**power, part * 1.1**power])
    print_search({**found, "path": "x"})
    out = capsys.readouterr().out
    told = " ".join(out.split())
    assert f"target={target} {reached}: {part:.3f} of the run's latency [{ends[0]:.3f}, {ends[1]:.3f}]" in told
    assert ("not distinguished from it" in told) is not distinguished


@pytest.mark.usefixtures("made")
def test_ends_are_as_far_off_as_the_measurement_may_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The run itself is judged so."""
    monkeypatch.setitem(ABOUT, "margin", 0.25)
    found = searched(tmp_path, "latency/2")["search"]
    assert [found[f"value_{end}"] for end in ("low", "high")] == pytest.approx([0.5 * 0.9 / 1.25, 0.5 * 1.1 * 1.25])


# --- the run itself


@pytest.mark.parametrize(
    ("target", "found", "reached"),
    [
        ("2 ms", benched(0.001, 0.0015), "1 ms"),
        ("2 ms", benched(0.001, 0.0025), ""),  # not surely
        ("2 ms", benched(0.001, 0.0015, margin=0.5), ""),  # the control alone differs by more
        ("2 ms", benched(0.003, 0.004), ""),
        ("6 MB", benched(0.001, 0.0015), "5 MB"),
        ("4 MB", benched(0.001, 0.0015), ""),
    ],
)
def test_a_run_that_reaches_the_target_is_not_compressed(
    target: str, found: dict[str, Any], reached: str, beside: dict[str, Any], tmp_path: Path,
    made: list[tuple[str, Any]], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    beside["found"] = found
    record = searched(tmp_path, target, minutes=1e-9)
    assert bool(made) is not bool(reached)
    monkeypatch.setenv("COLUMNS", "300")
    if not reached:
        assert record["path"] is not None
        return
    assert (record["path"], record["search"]["met"]) == (None, True)
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
    print_search(record)
    told = " ".join(capsys.readouterr().out.split())
    assert f"target={target} is reached by the run itself: {reached} with backend=onnxruntime." in told
    assert f"effbench export {tmp_path / 'run'} format=onnx" in told


@pytest.mark.parametrize("target", ["2 ms", "6 MB"])
@pytest.mark.parametrize(("risen", "other", "reached"), [(0.4, 90.0, True), (0.6, 0.0, False)])
@pytest.mark.usefixtures("made")
def test_without_accuracy_the_run_is_judged_by_its_loss(
    target: str, risen: float, other: float, reached: bool, beside: dict[str, Any], tmp_path: Path
) -> None:
    """As candidates are, and not by how many answers are other ones.

    Args:
        target: of the search, with max_drop=0.5.
        risen: by how many percent the loss rises with ONNX Runtime.
        other: percent of its answers that are other ones.
        reached: whether the run itself is named.
        beside: what is found of it.
        tmp_path: for the folders.
    """
    beside["found"] = found = benched(0.001, 0.0015)
    for arm in found["arms"][:3]:
        arm["lost_of"] = "answers"
    found["arms"][1] |= {"lost": {"estimate": other}, "metrics": {"loss": 2.0 * (1 + risen / 100)}}
    found["arms"][2]["status"] = "failed"
    record = searched(tmp_path, target, max_drop=0.5)
    assert (record["path"] is None) is reached
    if reached:
        assert (record["search"]["backend"], record["search"]["more"]) == ("onnxruntime", pytest.approx(risen))


def test_a_part_of_the_run_is_not_compared_with_the_run(tmp_path: Path, made: list[tuple[str, Any]]) -> None:
    searched(tmp_path, "latency/2")  # which would otherwise load the run
    assert made


@pytest.mark.parametrize("there", [True, False, None])
def test_bfloat16_is_measured_for_a_latency_if_it_is_there(there: bool | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(targets, "has_bf16", lambda: there)
    latency, size = (SearchOptions(Target.parsed(text)).measured for text in ("2 ms", "2 MB"))
    assert ("openvino_bf16" in latency.chosen) is bool(there)
    assert "openvino_bf16" not in size.chosen
    assert (latency.rounds, latency.seconds) == (3, 0.5)
    assert searching_with(["eager"]).chosen == ("eager",)


def searching_with(backends: list[str]) -> Any:
    return targets.searching(Target.parsed("2 ms"), backends=backends)


# --- a search that was killed


@pytest.mark.row(25)
def test_a_search_that_was_killed_goes_on_with_its_candidates(
    tmp_path: Path, made: list[tuple[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "whole").mkdir()
    whole = searched(tmp_path / "whole", "latency/4", max_drop=0.5)
    tried = made.copy()
    made.clear()
    monkeypatch.setitem(FAILING, 0.5, KeyboardInterrupt("SIGTERM"))
    with pytest.raises(KeyboardInterrupt):
        searched(tmp_path, "latency/4", max_drop=0.5)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".result.making", "run", "whole"]
    monkeypatch.delitem(FAILING, 0.5)
    made.clear()
    found = searched(tmp_path, "latency/4", max_drop=0.5)
    # the one that was interrupted, and those after it
    assert made == tried[tried.index(("run", 0.5)) :]
    assert found["search"]["candidates"] == whole["search"]["candidates"]
    assert [path.name for path in (tmp_path / "result").iterdir() if path.name.startswith((".", "plan"))] == []


def test_an_error_costs_no_candidates(
    tmp_path: Path, made: list[tuple[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bug at one candidate, and then data that are not there: the third command goes on."""
    monkeypatch.setitem(FAILING, 0.5, ValueError("a bug"))
    with pytest.raises(ValueError, match="a bug"):
        searched(tmp_path, "latency/4", max_drop=0.5)
    monkeypatch.delitem(FAILING, 0.5)
    with monkeypatch.context() as patched:
        patched.setattr(searching, "judged_split", gone)
        with pytest.raises(DataError):
            searched(tmp_path, "latency/4", max_drop=0.5)
    made.clear()
    assert searched(tmp_path, "latency/4", max_drop=0.5)["search"]["met"]
    assert made[0] == ("run", 0.5)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["result", "run"]


@pytest.mark.parametrize("last", [False, True])
def test_a_kill_at_the_end_costs_no_candidates(
    last: bool, tmp_path: Path, made: list[tuple[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """last: while it is published."""

    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(*((makings, "move") if last else (winner, "write_compression")), killed)
        with pytest.raises(KeyboardInterrupt):
            searched(tmp_path, "latency/4", max_drop=0.5)
    assert not (tmp_path / "result").exists()
    made.clear()
    found = searched(tmp_path, "latency/4", max_drop=0.5)
    assert (made, found["search"]["met"]) == ([], True)
    assert sorted(path.name for path in (tmp_path / "result").iterdir()) == [
        "before", "compression.json", "export", "weights"
    ]  # fmt: skip


def test_another_search_does_not_take_the_candidates(
    tmp_path: Path, made: list[tuple[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(FAILING, 0.25, KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        searched(tmp_path, "latency/4", max_drop=0.5)
    made.clear()
    monkeypatch.delitem(FAILING, 0.25)
    searched(tmp_path, "latency/4", max_drop=0.45)
    assert made[0] == ("run", "onnxruntime")
