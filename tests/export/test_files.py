"""A file and its record: both or the old ones, never a record beside a file that it does not tell of."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from effbench.errors import ThresholdError
from effbench.export.files import publish_file, record_path

OLD, NEW = b"old" * 10, b"new" * 20  # small enough to wait in a buffer, if nobody flushes it


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_export_is_checked_on_disk_before_it_is_published(tmp_path: Path) -> None:
    target = tmp_path / "it.onnx"
    seen = []

    def check(path: Path) -> Mapping[str, Any]:
        seen.append((path.read_bytes(), path.parent == tmp_path, target.exists()))
        return {"answer": 42}

    facts = publish_file(target, NEW, check)
    assert seen == [(NEW, True, False)]
    assert target.read_bytes() == NEW
    assert facts["answer"] == 42
    assert facts["sha256"] == hashlib.sha256(NEW).hexdigest()
    assert json.loads(record_path(target).read_text()) == facts
    assert names(tmp_path) == ["it.onnx", "it.onnx.json"]


@pytest.mark.row(48)
@pytest.mark.parametrize("error", [ThresholdError, KeyboardInterrupt, ZeroDivisionError])
def test_a_refused_export_changes_no_file(error: type[BaseException], tmp_path: Path) -> None:
    target = tmp_path / "it.onnx"
    publish_file(target, OLD, lambda _: {})
    record = record_path(target).read_bytes()

    def refuse(_: Path) -> Mapping[str, Any]:
        raise error("no")

    with pytest.raises(error):
        publish_file(target, NEW, refuse)
    assert (target.read_bytes(), record_path(target).read_bytes()) == (OLD, record)
    assert names(tmp_path) == ["it.onnx", "it.onnx.json"]


@pytest.mark.row(47)
def test_old_record_is_removed_before_its_file_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "it.onnx"
    publish_file(target, OLD, lambda _: {})
    seen = []
    rename = Path.replace

    def watched(self: Path, to: Path) -> Path:
        seen.append((target.read_bytes(), record_path(target).exists()))
        return rename(self, to)

    monkeypatch.setattr(Path, "replace", watched)
    publish_file(target, NEW, lambda _: {})
    assert seen == [(OLD, False), (NEW, False)]


@pytest.mark.row(47)
def test_export_removes_only_leftovers_of_a_killed_namesake(tmp_path: Path) -> None:
    ours = [".it.onnx.12-ab.tmp", ".it.onnx.json.12-ab.tmp"]
    others = [".other.onnx.12-ab.tmp", "it.onnx.12-ab.tmp", ".it.onnx"]
    for name in (*ours, *others):
        (tmp_path / name).touch()
    publish_file(tmp_path / "it.onnx", NEW, lambda _: {})
    assert names(tmp_path) == sorted([*others, "it.onnx", "it.onnx.json"])


def test_numbers_that_are_not_finite_never_reach_a_record(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        publish_file(tmp_path / "it.onnx", NEW, lambda _: {"parity": float("nan")})
    assert names(tmp_path) == []


@pytest.mark.row(45)
def test_secrets_of_the_environment_do_not_reach_the_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_abcdefgh")
    publish_file(tmp_path / "it.onnx", NEW, lambda _: {"run": "outputs/hf_abcdefgh/run"})
    assert json.loads((tmp_path / "it.onnx.json").read_text())["run"] == "outputs/***/run"
