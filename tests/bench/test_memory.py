"""What would exceed the memory is refused by its key before anything is measured, or named where it fails.

White-box: `_convolutions` is where a pair of layers is allocated.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from effbench import cli
from effbench.bench import primitives
from effbench.bench import run as running
from effbench.bench.memory import check_batch, naming_lack_of_memory
from effbench.bench.options import BenchOptions
from effbench.bench.run import answering, batch_files
from effbench.bench.sources import Source
from effbench.errors import ConfigError, EffbenchError

ROWS = Source({}, torch.zeros(4, 3), "row")


def test_a_batch_beyond_the_memory_is_refused_before_any_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def prepared(*_: Any) -> None:
        raise AssertionError("files are written")

    monkeypatch.setattr(running, "prepare", prepared)
    options = BenchOptions(backends=["eager", "onnxruntime"], batch_sizes=[1, 10**12])
    with pytest.raises(ConfigError) as refused:
        answering(ROWS, options, tmp_path)
    text = "batch_sizes: the inputs of a batch of 1000000000000, in 3 processes that take turns, would take 36 TB"
    assert text in str(refused.value)
    assert str(refused.value).endswith("Lower batch_sizes.")
    assert list(tmp_path.iterdir()) == []


def test_a_batch_beyond_the_limit_of_its_container_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """256 GB in the machine, and 4 GB for the container: the kernel would end the process without a word."""
    memory = {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": 256 * 10**9 // 4096}
    monkeypatch.setattr("os.sysconf", memory.__getitem__)
    for limit, refused in ((4 * 10**9, True), (None, False), (10**12, False), (9223372036854771712, False)):
        monkeypatch.setattr("effbench.data.option_checks.memory_limit", lambda limit=limit: limit)
        if not refused:
            check_batch(10_000, 4 * 3 * 224**2, 1)
            continue
        with pytest.raises(ConfigError, match=r"and the limit of its control group.* is 4.* GB\. Lower batch"):
            check_batch(10_000, 4 * 3 * 224**2, 1)


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["mode=layers", "channels=[16,1000000]", "sizes=14"], "mode=layers: channels=1000000 sizes=14 batch=1 would"),
        (["mode=layers", "channels=16", "sizes=9000000"], "Lower channels, sizes or batch."),
        (["mode=layers", "channels=16", "sizes=14", "batch=9999999999"], "batch=9999999999 would take"),
        (["mode=attention", "tokens=99999999999"], "mode=attention: tokens=99999999999 would take 205 TB"),
    ],
)
def test_layers_beyond_the_memory_are_refused(
    words: list[str], text: str, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    def measured(*_: Any) -> None:
        raise AssertionError("a process is started")

    monkeypatch.setattr(primitives, "called", measured)
    assert cli.main(["bench", *words]) == 2
    assert text in capsys.readouterr().err


def lacking(*_: Any, **__: Any) -> None:
    # the text of torch's CPU allocator
    raise RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory: you tried 9 bytes")


def test_memory_that_other_programs_use_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Within the memory of the machine, and yet not there."""
    monkeypatch.setattr(torch.Tensor, "repeat", lacking)
    with pytest.raises(EffbenchError, match=r"out of memory: the inputs of a batch of 8 .*\. Lower batch_sizes\.$"):
        batch_files(ROWS, BenchOptions(batch_sizes=[8]), tmp_path)
    monkeypatch.setattr(torch, "set_num_threads", lambda _: None)
    monkeypatch.setattr(primitives, "_convolutions", lacking)
    case = {"channels": 8, "size": 9, "batch": 1}
    with pytest.raises(EffbenchError, match="out of memory: mode=layers channels=8 size=9 batch=1 "):
        primitives.timed_pairs("layers", [case], 0, 1)


def test_another_error_is_not_taken_for_a_lack_of_memory() -> None:
    with pytest.raises(RuntimeError, match="shapes differ"), naming_lack_of_memory("a batch", "Lower it."):
        raise RuntimeError("shapes differ")
