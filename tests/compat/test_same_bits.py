"""Configs of version 0.1 train to the same bits: numbers recorded by commit ec3c903, before the code was rearranged.

Each run is seeded, of one or two epochs. Other processors and builds of torch have other last digits: there the tests
are skipped.
"""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import effbench

RECORD = json.loads((Path(__file__).parent / "bits.json").read_text())
SAME_MACHINE = ("cpu", "cpu_capability", "platform", "torch", "kernels")

pytestmark = [pytest.mark.process, pytest.mark.proof]


@pytest.mark.parametrize("name", RECORD["runs"])
def test_a_config_of_0_1_trains_to_the_same_bits(name: str, tmp_path: Path) -> None:
    recorded = RECORD["runs"][name]
    run = effbench.train(recorded["words"], tmp_path / "run")
    here = run.summary["environment"]
    if differs := [key for key in SAME_MACHINE if here[key] != RECORD["environment"][key]]:
        pytest.skip(f"recorded on another machine: {', '.join(differs)}")
    assert digests(tmp_path / "run") == recorded["digests"]


def digests(run: Path) -> dict[str, str]:
    """Digests of weights, of the state that a resume needs, and of the columns of metrics.csv that are no clocks."""
    last = (run / "checkpoints" / "last").resolve()
    found = {path.name: of_tensors(load_file(path)) for path in last.glob("*.safetensors")}
    state = torch.load(last / "state.pt", weights_only=True)
    for part in ("optimizer", "schedule", "precision", "stopping", "ranking"):
        found[part] = of_tensors(dict(leaves(state[part])))
    with (run / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    columns = [column for column in rows[0] if not column.endswith("_per_s")]
    return found | {column: sha256("\n".join(row[column] for row in rows).encode()) for column in columns}


def of_tensors(tensors: Mapping[str, torch.Tensor]) -> str:
    """One digest of all tensors: names, types, shapes and bytes."""
    parts = []
    for name, tensor in sorted(tensors.items()):
        content = tensor.contiguous().flatten().view(torch.uint8).numpy().tobytes()
        parts.append(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode() + content)
    return sha256(b"".join(parts))


def leaves(value: Any, prefix: str = "") -> Iterator[tuple[str, torch.Tensor]]:
    """(dotted name, tensor) of every tensor and number."""
    if isinstance(value, dict):
        for key, part in value.items():
            yield from leaves(part, f"{prefix}{key}.")
    elif isinstance(value, list | tuple):
        for key, part in enumerate(value):
            yield from leaves(part, f"{prefix}{key}.")
    elif isinstance(value, torch.Tensor):
        yield prefix, value
    elif isinstance(value, int | float):
        yield prefix, torch.tensor(value, dtype=torch.float64)


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]
