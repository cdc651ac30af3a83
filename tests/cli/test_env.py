"""`effbench env`: what a number was measured with."""

from __future__ import annotations

import importlib.metadata
import json
import platform
from pathlib import Path

import pytest
import torch

from tests.cli.conftest import Effbench


def test_json_holds_versions_processor_and_memory(effbench: Effbench) -> None:
    code, out, err = effbench("env", "--json")
    assert (code, err) == (0, "")
    facts = json.loads(out)
    for name in ("effbench", "torch", "torchvision", "lion-pytorch", "adan-pytorch", "hydra-core", "omegaconf"):
        assert facts[name.replace("-", "_")] == importlib.metadata.version(name)
    assert facts["python"] == platform.python_version()
    assert facts["cores"] >= 1
    assert facts["memory_bytes"] > 1e8
    assert facts["threads"] == torch.get_num_threads()
    assert facts["threads_from"]
    assert facts["waiting"]
    assert "cpu_quota" in facts
    assert facts["cpu"]


def test_text_holds_the_same_facts_a_line_each(effbench: Effbench) -> None:
    shown = {"memory_bytes": "memory", "cache_bytes": "cache_size", "cache_budget_bytes": "cache_budget"}
    names = {shown.get(name, name) for name in json.loads(effbench("env", "--json")[1])}
    lines = effbench("env")[1].splitlines()
    assert {line.split()[0] for line in lines} == names


def test_env_reports_the_cache_its_size_and_its_budget(
    effbench: Effbench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "kept"))
    monkeypatch.setenv("EFFBENCH_CACHE_GB", "1.5")
    (tmp_path / "kept" / "effbench" / "kernels").mkdir(parents=True)
    (tmp_path / "kept" / "effbench" / "kernels" / "a.so").write_bytes(b"x" * 700)
    facts = json.loads(effbench("env", "--json")[1])
    assert facts["cache"] == "~/kept/effbench"
    assert facts["cache_bytes"] >= 700
    assert facts["cache_budget_bytes"] == 1_500_000_000
    monkeypatch.setenv("EFFBENCH_CACHE_GB", "lots")
    code, _, err = effbench("env")
    assert code == 2
    assert "EFFBENCH_CACHE_GB must be a number of gigabytes" in err


@pytest.mark.row(64)
def test_env_reports_the_threads_of_training_and_the_reason(effbench: Effbench, monkeypatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("GOMP_SPINCOUNT", "2000")
    facts = json.loads(effbench("env", "--json")[1])
    monkeypatch.setattr("effbench.processors.affinity", lambda: 8)
    assert facts["threads"] == 1
    assert facts["waiting"] == "as GOMP_SPINCOUNT=2000 says"
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    facts = json.loads(effbench("env", "--json")[1])
    assert (facts["threads"], facts["threads_from"]) == (3, "OMP_NUM_THREADS=3")


def test_env_contains_no_user_data(effbench: Effbench, monkeypatch) -> None:
    monkeypatch.setenv("SECRET_TOKEN", "hunter2-canary")
    monkeypatch.setenv("USER", "alice-canary")
    assert "canary" not in effbench("env", "--json")[1]


def test_env_takes_no_words(effbench: Effbench) -> None:
    code, out, err = effbench("env", "torch")
    assert (code, out) == (2, "")
    assert "'torch'" in err
