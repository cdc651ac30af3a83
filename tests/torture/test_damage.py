"""Rows 3 and 4: flipped bits and cut files."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.torture.conftest import result
from tests.torture.damage import changed, flipped, spots


@pytest.mark.process
@pytest.mark.row(3)
def test_every_flipped_bit_is_noticed_and_its_file_named(torture: dict[str, Any]) -> None:
    assert result(torture, "damage")["flips"] == {"tried": 200, "noticed": 200, "faults": []}


@pytest.mark.row(4)
def test_every_cut_is_noticed_and_its_file_named(torture: dict[str, Any]) -> None:
    cuts = result(torture, "damage")["cuts"]
    assert cuts["faults"] == []
    assert cuts["noticed"] == cuts["tried"] == 4 * (100 + 1)  # 0-99 % of each of four files, and each missing


@pytest.mark.row(3, 4)
def test_resume_before_a_damaged_checkpoint_ends_the_same(torture: dict[str, Any]) -> None:
    resumes = result(torture, "damage")["resumes"]
    assert resumes["faults"] == []
    assert resumes["noticed"] == resumes["tried"] == 4 + 1


def test_flips_are_spread_over_every_file_and_all_of_its_length(tmp_path: Path) -> None:
    for name, size in (("a", 1_000), ("b", 10_000), ("c", 3_333)):
        (tmp_path / name).write_bytes(bytes(size))
    chosen = spots(tmp_path, 200, seed=1)
    assert len(set(chosen)) == 200
    assert sorted(Counter(path.name for path, _, _ in chosen).values()) == [66, 67, 67]
    offsets = [offset for path, offset, _ in chosen if path.name == "b"]
    assert min(offsets) < 10_000 / 67
    assert max(offsets) >= 10_000 - 10_000 / 67
    assert {bit for _, _, bit in chosen} == set(range(8))


def test_a_flip_changes_one_bit_and_is_taken_back(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"\x00\xff")
    with changed(path, flipped(path, 1, 7)):
        assert path.read_bytes() == b"\x00\x7f"
    assert path.read_bytes() == b"\x00\xff"
    with changed(path, None):
        assert not path.exists()
    assert path.read_bytes() == b"\x00\xff"
