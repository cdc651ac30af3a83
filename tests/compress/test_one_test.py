"""The test split is read for the result of a search, and for no candidate.

White-box: who reads the test split is counted, and latency is replaced by known numbers.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import effbench
from effbench.compress import compare as comparing
from effbench.compress import drop as dropping
from effbench.compress import search as searching
from effbench.compress.options import CompressOptions, UnstructuredOptions, measuring
from effbench.compress.run import compress_loaded, write_test
from effbench.compress.search import search
from effbench.compress.target import SearchOptions, Target
from effbench.report.verify import verify_run
from effbench.run.load import load_run
from effbench.run.session import TrainingSession
from tests.compress.searches import speed
from tests.compress.test_pruned_runs import SMALL

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", autouse=True)
def unmeasured() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("effbench.compress.compare.speeds", lambda *_: speed(0.9))
        yield


@pytest.fixture(scope="module")
def dense(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return effbench.train(SMALL, tmp_path_factory.mktemp("runs") / "dense").folder


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Who has read the test split."""
    found: list[str] = []
    plain, batches = dropping.tested_split, TrainingSession._test_batches

    def tested_split(run: Any, which: str, most: int) -> Any:
        if which == "test":
            found.append("comparison")
        return plain(run, which, most)

    def test_batches(*given: Any) -> Any:
        found.append("training")
        return batches(*given)

    for module in (comparing, dropping):
        monkeypatch.setattr(module, "tested_split", tested_split)
    monkeypatch.setattr(TrainingSession, "_test_batches", test_batches)
    return found


def record_of(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "compression.json").read_text()))


def test_a_candidate_is_tested_only_when_it_is_the_best(dense: Path, tmp_path: Path, reads: list[str]) -> None:
    source, own = load_run(dense), UnstructuredOptions(epochs=1)
    records = {}
    for name, bounded in (("single", False), ("candidate", True)):
        reads.clear()
        folder = tmp_path / name
        folder.mkdir()
        compress_loaded(source, CompressOptions("unstructured", own, bounded=bounded), folder, folder)
        assert ("comparison" in reads, "training" in reads) == (not bounded, not bounded)
        records[name] = record_of(folder)
    assert "test" not in records["candidate"]
    assert not [name for name in load_run(tmp_path / "candidate").summary["metrics"] if name.startswith("test/")]
    write_test(source, "best", tmp_path / "candidate")
    assert reads == ["comparison"]
    # as if it had been tested at once
    tested = record_of(tmp_path / "candidate")
    for key in ("test", "before", "after", "validation", "zeros"):
        assert tested[key] == records["single"][key], key
    metrics = [load_run(tmp_path / name).summary["metrics"] for name in ("single", "candidate")]
    assert metrics[0].keys() == metrics[1].keys()
    assert metrics[1]["test/acc"] == metrics[0]["test/acc"] == tested["after"]["metrics"]["acc"]
    assert "limit_test_batches: 0" not in (tmp_path / "candidate" / "config.yaml").read_text()
    assert [check for check in verify_run(tmp_path / "candidate") if check.problem] == []


@pytest.mark.proof
@pytest.mark.parametrize(
    ("backends", "ratios", "read", "steps"),
    [
        (["eager", "onnxruntime"], (), 1, 1),  # 8 bits
        (["eager"], (0.5,), 1, 1),  # fewer channels
        (["eager", "onnxruntime"], (0.5,), 3, 2),  # each step beside the one before, and both together
    ],
)
def test_a_search_reads_the_test_split_for_its_result(
    backends: list[str], ratios: tuple[float, ...], read: int, steps: int, dense: Path, tmp_path: Path,
    reads: list[str], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    pytest.importorskip("onnxruntime")
    pytest.importorskip("torch_pruning")
    monkeypatch.setattr(searching, "RATIOS", ratios)
    bench, result = measuring(backends=backends), tmp_path / "result"
    options = SearchOptions(Target.parsed("latency/100"), max_drop=1000, epochs=1, bench=bench)
    found = search(load_run(dense), options, result)
    assert reads == ["comparison"] * read
    assert len(found["search"]["candidates"]) == (3 if steps == 2 else 1)
    assert not any({"metrics", "lost"} & row.keys() for row in found["search"]["candidates"])
    for folder in (result, *([result / "before"] if steps == 2 else [])):
        record = record_of(folder)
        assert record["test"]["samples"] == 64
        assert load_run(folder).summary["metrics"]["test/acc"] == record["after"]["metrics"]["acc"]
    assert found["search"]["test"]["samples"] == 64
    [card] = (result / "export").glob("*.README.md")
    assert "Lost: " in card.read_text()
    assert [check for check in verify_run(result) if check.problem] == []
