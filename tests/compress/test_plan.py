"""Candidates that a killed search or sweep left are taken by the same command on the same machine only."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from effbench.compress import record as recording
from effbench.compress.making import making
from effbench.compress.record import plan_of


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A run on a machine of known facts."""
    monkeypatch.setattr(recording, "environment", lambda: {"cpu": "Z80", "cpu_capability": "AVX2", "memory_bytes": 1})
    monkeypatch.setattr(recording, "has_bf16", lambda: False)
    monkeypatch.setattr(recording, "has_int8_products", lambda: True)
    monkeypatch.setattr(recording, "installed", lambda name: f"{name} 1.0")
    monkeypatch.setattr(recording, "read_manifest", lambda _: {"sha256": {"model.safetensors": "ab"}})
    config = SimpleNamespace(to_dict=dict)
    return SimpleNamespace(folder=tmp_path / "run", checkpoint=lambda name: tmp_path / name, config=config)


@pytest.mark.parametrize(
    ("name", "other", "same"),
    [
        ("environment", lambda: {"cpu": "Z80", "cpu_capability": "AVX2", "memory_bytes": 2}, True),
        ("environment", lambda: {"cpu": "6502", "cpu_capability": "AVX2"}, False),
        ("environment", lambda: {"cpu": "Z80", "cpu_capability": "AVX512"}, False),
        ("has_bf16", lambda: True, False),
        ("has_int8_products", lambda: False, False),
        ("installed", lambda name: f"{name} {'1.1' if name == 'onnxruntime' else '1.0'}", False),
    ],
)
def test_another_machine_does_not_take_the_candidates(
    name: str, other: Any, same: bool, source: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "result"
    with pytest.raises(KeyboardInterrupt), making(target, plan_of(source, "best", "")) as hidden:  # noqa: PT012
        (hidden / "structured-0.25").mkdir()
        raise KeyboardInterrupt
    monkeypatch.setattr(recording, name, other)
    with making(target, plan_of(source, "best", "")) as hidden:
        assert (hidden / "structured-0.25").is_dir() is same
