"""`effbench env`: what a number was measured with."""

from __future__ import annotations

import importlib.metadata
import json
import platform

import torch

from tests.commands.conftest import Effbench


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
    assert facts["cpu"]


def test_text_holds_the_same_facts_a_line_each(effbench: Effbench) -> None:
    names = {name for name in json.loads(effbench("env", "--json")[1]) if name != "memory_bytes"}
    lines = effbench("env")[1].splitlines()
    assert {line.split()[0] for line in lines} == names | {"memory"}


def test_nothing_of_the_user_is_in_it(effbench: Effbench, monkeypatch) -> None:
    monkeypatch.setenv("SECRET_TOKEN", "hunter2-canary")
    monkeypatch.setenv("USER", "alice-canary")
    assert "canary" not in effbench("env", "--json")[1]


def test_it_takes_no_words(effbench: Effbench) -> None:
    code, out, err = effbench("env", "torch")
    assert (code, out) == (2, "")
    assert "'torch'" in err
