"""What a search ends with: a backend that keeps the bound, the file that it reads, or the error that stopped it.

The compressions themselves are replaced by records of known numbers.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from effbench import cli
from effbench.compress import itself, winner
from effbench.compress import search as searching
from effbench.compress import trial as trials
from effbench.compress.options import CompressOptions, measuring
from effbench.compress.table import print_search
from effbench.compress.target import SearchOptions, Target
from effbench.errors import ConfigError, DataError, EffbenchError, MissingExtraError, ThresholdError
from tests.compress.searches import ABOUT, ARM, COSTS, FAILING, Source, benched, gone, searched

# --- what is lost with the backend that the latency is of


def test_backends_may_lose_as_much_as_the_candidate(
    tmp_path: Path, made: list[tuple[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen, plain = [], trials.compress_loaded

    def compress_loaded(source: Any, options: CompressOptions, folder: Path, final: Path) -> dict[str, Any]:
        seen.append((options.method, options.bench.max_drop, options.bounded))
        return plain(source, options, folder, final)

    monkeypatch.setattr(trials, "compress_loaded", compress_loaded)
    searched(tmp_path, "latency/4", max_drop=0.45)
    assert seen[0] == ("quantize", 0.45, True)
    # 0.25 of the channels have lost 0.2
    assert seen[2:4] == [("structured", 0.45, True), ("quantize", pytest.approx(0.25), True)]
    assert made[2:4] == [("run", 0.25), ("structured-0.25", "onnxruntime")]


@pytest.mark.parametrize(("more", "held"), [(0.4, "onnxruntime"), (0.45, "openvino"), (0.55, "")])
@pytest.mark.usefixtures("made")
def test_what_its_backend_loses_counts_for_a_candidate(
    more: float, held: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """8 bits lose 0.1 points with ONNX Runtime and none with OpenVINO, and each backend `more` beside."""
    lost = {"estimate": more, "low": 0.0, "high": 9.0}
    for key, value in {"more": more, "lost": lost, "lost_of": "accuracy"}.items():
        monkeypatch.setitem(ARM, key, value)
    if not held:
        with pytest.raises(ThresholdError, match=r"int8-openvino \(\+0\.55 lost\)"):
            searched(tmp_path, "latency/1.5", max_drop=0.5)
        return
    record = searched(tmp_path, "latency/1.5", max_drop=0.5)
    found = record["search"]
    assert [row["drop"] <= 0.5 for row in found["candidates"]][-1]
    assert len(found["candidates"]) == ("onnxruntime", "openvino").index(held) + 1
    assert found["drop"] == pytest.approx(COSTS[held][1] + more)
    assert (found["backend"], found["more"], found["backend_lost"]) == ("onnxruntime", more, lost)
    print_search(record)
    told = " ".join(capsys.readouterr().out.split())
    assert (
        f"{found['drop']:+.2f} points of accuracy are lost on 2,000 validation samples, {more:.2f} of it by this"
        in told
    )


# --- the file of the result


@pytest.fixture
def pruning(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fewer bits lose too much, so that a pruned model is the result."""
    for runtime in ("onnxruntime", "openvino", "bf16"):
        monkeypatch.setitem(COSTS, runtime, (0.5, 5.0))


@pytest.mark.usefixtures("pruning")
def test_a_pruned_result_has_the_file_of_its_backend(
    tmp_path: Path, made: list[tuple[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    record = searched(tmp_path, "latency/1.25")
    assert made[-2:] == [("run", 0.25), ("export", "onnx")]
    found, exported = record["search"], tmp_path / "result" / "export"
    assert (found["met"], found["file"], found["no_file"]) == (True, "exported", None)
    assert record.get("file") is None  # the run is loaded by its checkpoint
    assert (exported / "exported").read_text() == "graph"
    assert json.loads((exported / "exported.json").read_text()) == {"run": str(tmp_path / "result")}
    print_search(record)
    assert capsys.readouterr().out.splitlines()[-1] == f"  {exported / 'exported'}"


@pytest.mark.parametrize(
    ("target", "about", "met", "text"),
    [
        ("latency/1.25", {"export": ThresholdError("it differs.")}, True, "effbench export {} format=onnx"),
        ("size/1.25", {"export": ThresholdError("it differs.")}, False, "effbench export {} format=onnx"),
        ("latency/1.25", {"fastest": "eager"}, True, "backend=eager runs the checkpoint"),
        ("latency/1.25", {"fastest": "aot_inductor"}, True, "runs a package that torch compiles from the checkpoint"),
        ("size/1.25", {"export": 80}, True, "Its file: export/exported (80 B)"),
        ("size/1.25", {"export": 81}, False, "Its file: export/exported (81 B)"),  # larger than the one measured
    ],
)
@pytest.mark.usefixtures("pruning")
def test_a_file_that_is_not_there_is_told(
    target: str, about: dict[str, Any], met: bool, text: str, tmp_path: Path, made: list[tuple[str, Any]],
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    for key, value in about.items():
        monkeypatch.setitem(ABOUT, key, value)
    monkeypatch.setenv("COLUMNS", "300")
    record = searched(tmp_path, target, max_drop=0.3)
    assert record["search"]["met"] is met
    assert record["search"]["ended"] == ("met" if met else "file")
    assert made[-1] == (("export", "onnx") if "export" in about else ("run", 0.25))
    print_search(record)
    assert text.format(tmp_path / "result") in " ".join(capsys.readouterr().out.split())


@pytest.mark.usefixtures("made", "pruning")
def test_the_command_for_a_file_loads_the_run_as_this_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without the data keys and the modules, the export would fail again, or compare on other data."""
    (tmp_path / "run").mkdir()
    for name, value in {"load_run": Source(tmp_path / "run"), "with_data": Source(tmp_path / "run"),
                        "read_summary": {"status": "completed"}, "compressed_file": None}.items():  # fmt: skip
        monkeypatch.setattr(f"effbench.compress.compress.{name}", lambda *_, value=value: value)
    monkeypatch.setitem(ABOUT, "export", ThresholdError("it differs."))
    monkeypatch.setenv("COLUMNS", "400")
    result = str(tmp_path / "result")
    words = ["target=latency/1.25", "epochs=3", "data.root=/my data", "allow_targets=[lab]", f"output={result}"]
    assert cli.main(["compress", str(tmp_path / "run"), *words]) == 0
    command = f"effbench export {result} format=onnx 'data.root=/my data' 'allow_targets=[lab]'"
    assert command in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    ("words", "carried"),
    [
        (["checkpoint=last", "data.root=/my data"], "checkpoint=last 'data.root=/my data'"),
        (["allow_targets=[lab]", "max_drop=1"], "'allow_targets=[lab]'"),
    ],
)
def test_the_command_for_the_runs_own_file_has_its_words(
    words: list[str], carried: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = {"target": "6 MB", "value": 5_000_000, "backend": "onnxruntime", "met": True}
    record = {"source": {"run": "runs/a"}, "search": found, "path": None}
    monkeypatch.setattr("effbench.cli.compress.compress_to_target", lambda *_: record)
    monkeypatch.setenv("COLUMNS", "400")
    assert cli.main(["compress", "runs/a", "target=6 MB", *words]) == 0
    told = " ".join(capsys.readouterr().out.split())
    assert told.endswith(f"For its file: effbench export runs/a format=onnx {carried}")


def test_the_format_is_that_of_the_backend() -> None:
    assert winner.format_of("openvino_f32", latency=True) == "openvino"
    assert winner.format_of("openvino_f32", latency=False) == "onnx"  # the file that was measured
    assert winner.format_of("eager", latency=True) is None


@pytest.mark.usefixtures("made")
def test_a_size_is_that_of_an_exported_file(
    tmp_path: Path, beside: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    beside["found"] = benched(0.001, 0.0015)
    record = searched(tmp_path, "0.01 kB", max_drop=0.5)
    # and not the byte of a pickled module
    assert (record["search"]["met"], record["search"]["value"]) == (False, 50)
    row = record["search"]["candidates"][0]
    assert (row["bytes"], row["file_backend"]) == (50, "onnxruntime")
    row["backend"] = "the fastest"
    print_search(record)
    assert "the fastest" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("target", "failed", "met"),
    [("0.06 kB", "before", True), ("size/2", "before", False), ("0.06 kB", "after", False), ("size/2", "", True)],
)
@pytest.mark.usefixtures("made")
def test_a_size_is_that_of_a_backend_that_works(
    target: str, failed: str, met: bool, tmp_path: Path, beside: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run's own size is asked for where the target is a part of it. failed: the side with no working backend."""
    beside["found"] = benched(0.001, 0.0015)
    monkeypatch.setitem(ABOUT, failed, "failed")
    if met:
        assert searched(tmp_path, target, max_drop=0.5)["search"]["bytes"] == 50
        return
    with pytest.raises(ThresholdError):
        searched(tmp_path, target, max_drop=0.5)


def test_a_size_without_a_file_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"backends=\[eager,bf16\] reads"):
        SearchOptions(Target.parsed("1 MB"), bench=measuring(backends=["eager", "bf16"]))


# --- errors that are not about losses


@pytest.mark.parametrize("error", [DataError("no such folder"), MissingExtraError("x", "onnx"), RuntimeError("y")])
def test_where_nothing_can_be_made_the_first_error_is_told(
    error: BaseException, tmp_path: Path, made: list[tuple[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    for key in COSTS:
        monkeypatch.setitem(FAILING, key, ConfigError("another one"))
    monkeypatch.setitem(FAILING, "onnxruntime", error)
    kind = type(error) if isinstance(error, EffbenchError) else EffbenchError
    with pytest.raises(EffbenchError) as told:
        searched(tmp_path, "latency/2", max_drop=9.0)
    assert type(told.value) is kind
    # of no class of ours: a bug of a library, which stays as the cause
    assert error in (told.value, told.value.__cause__)
    assert made[1:3] == [("run", "openvino"), ("run", 0.25)]
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_data_that_cannot_be_read_end_the_search_at_once(
    tmp_path: Path, made: list[tuple[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(searching, "judged_split", gone)
    with pytest.raises(DataError):
        searched(tmp_path, "latency/2")
    assert made == []


def test_a_run_that_cannot_be_read_ends_the_search(
    tmp_path: Path, made: list[tuple[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def source_of(*_: Any) -> None:
        raise ConfigError("its checkpoint is damaged.")

    monkeypatch.setattr(itself, "source_of", source_of)
    with pytest.raises(ConfigError, match="is damaged"):
        searched(tmp_path, "2 ms")
    assert made == []
