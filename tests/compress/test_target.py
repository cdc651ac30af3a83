"""Targets, and the search over candidates of known cost: what is tried, what is kept, what is told.

The compressions themselves are replaced by records of known numbers.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from effbench.compress import search as searching
from effbench.compress import trial as trials
from effbench.compress.options import CompressOptions, measuring
from effbench.compress.search import search
from effbench.compress.table import print_search
from effbench.compress.target import SearchOptions, Target
from effbench.errors import ConfigError, EffbenchError, ThresholdError


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


@pytest.mark.parametrize("text", ["2", "fast", "0 ms", "-1 MB", "latency/0", "latency", "2 mm", 2, ""])
def test_another_target_is_refused_with_examples(text: Any) -> None:
    with pytest.raises(ConfigError, match="'2 ms', '1 MB', 'latency/4'"):
        Target.parsed(text)


def test_options_of_a_search_are_checked() -> None:
    with pytest.raises(ConfigError, match="minutes must be a number > 0"):
        SearchOptions(Target.parsed("2 ms"), minutes=0)


# --- the search: (part of the latency of its source, points lost) of each compression

COSTS = {"onnxruntime": (0.5, 0.1), "openvino": (0.6, 0.0), 0.25: (0.8, 0.2), 0.5: (0.5, 0.4), 0.75: (0.3, 2.0)}
REFUSED: dict[str, float] = {}


class Source:
    """A run that nothing is read from."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.config = type("Config", (), {"allow_targets": []})


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, Any]]:
    """The compressions that were asked for: (folder of the source, option)."""
    calls: list[tuple[str, Any]] = []

    def compress_loaded(source: Source, options: CompressOptions, folder: Path, final: Path) -> dict[str, Any]:
        key = getattr(options.own, "backend", None) or getattr(options.own, "ratio", None)
        calls.append((source.folder.name, key))
        if key == "broken":
            raise EffbenchError("it is broken")
        part, lost = COSTS[key]
        if key == REFUSED.get("ratio"):
            raise ConfigError("rounding keeps every channel")
        if getattr(options.own, "max_drop", 10) + 1e-9 < lost:
            raise ThresholdError("it loses too much")
        arm = {"backend": "onnxruntime", "bytes": 100, "batches": {"1": {"latency_s": {"p50": {"estimate": 1.0}}}}}
        record = {
            "method": options.method, "options": {}, "details": {}, "source": {"run": "?"},
            "validation": {"drop": lost, "of": "points of accuracy"},
            "after": {"metrics": {}, "accuracy": None, "parameters": 1, "macs": 1},
            "test": {"split": "test", "lost": None, "lost_of": None},
            "speed": {
                "arms": [{**arm, "side": "before"}, {**arm, "side": "after"}], "batch_sizes": [1],
                "fastest": {"before": "onnxruntime", "after": "onnxruntime"}, "fastest_ratio": {"estimate": part},
                "doubts": ["the clock changed"],
            },
        }  # fmt: skip
        if options.method == "quantize":
            record["file"] = "small.onnx"
            (folder / "export").mkdir()
            (folder / "export" / "small.onnx.json").write_text(json.dumps({"run": str(source.folder), "bytes": 7}))
        (folder / "compression.json").write_text(json.dumps({"schema_version": 1, **record}))
        (folder / "weights").write_text(str(final))
        return record

    tested = {"split": "test", "samples": 1, "lost": None, "lost_of": None, "before": {}, "after": {}}
    monkeypatch.setattr(trials, "compress_loaded", compress_loaded)
    monkeypatch.setattr(searching, "loaded_result", lambda folder, _: Source(folder))
    monkeypatch.setattr(searching, "paired_test", lambda *_: tested)
    return calls


def searched(tmp_path: Path, target: str, **options: Any) -> dict[str, Any]:
    (tmp_path / "run").mkdir()
    chosen = SearchOptions(Target.parsed(target), **options)
    return search(Source(tmp_path / "run"), chosen, tmp_path / "result")  # type: ignore[arg-type]


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


def test_only_runtimes_that_are_measured_get_a_file(tmp_path: Path, made: list[tuple[str, Any]]) -> None:
    searched(tmp_path, "latency/100", bench=measuring(backends=["eager", "onnxruntime"]), max_drop=0.3)
    assert made == [("run", "onnxruntime"), ("run", 0.25), ("structured-0.25", "onnxruntime"), ("run", 0.5)]


def test_without_a_runtime_for_8_bits_only_channels_go(tmp_path: Path, made: list[tuple[str, Any]]) -> None:
    searched(tmp_path, "latency/100", bench=measuring(backends=["eager"]), max_drop=0.3, minutes=1e-9)
    assert made == [("run", 0.25)]  # one candidate at least


@pytest.mark.usefixtures("made")
def test_the_doubts_of_a_latency_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = searched(tmp_path, "latency/2")
    print_search({**found, "path": "x"})
    assert capsys.readouterr().out.splitlines()[-2:] == ["Doubt: the clock changed.", "  x"]
    found["search"]["target"] = "size/2"
    print_search({**found, "path": "x"})
    assert "Doubt" not in capsys.readouterr().out


def test_after_its_minutes_no_candidate_is_begun(tmp_path: Path, made: list[tuple[str, Any]]) -> None:
    assert not searched(tmp_path, "latency/100", minutes=1e-9)["search"]["met"]
    assert made == [("run", "onnxruntime")]
