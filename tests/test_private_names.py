"""Every private name of another package is in docs/private_names.md, exists, and is used where the table says."""

from __future__ import annotations

import re
from collections import defaultdict
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.private_names import found, resolve

TABLE = Path(__file__).parents[1] / "docs" / "private_names.md"


class Listed(NamedTuple):
    files: tuple[str, ...]
    why: str


def listed() -> dict[str, Listed]:
    """The table's rows by name."""
    rows = [line.strip("| \n").split(" | ") for line in TABLE.read_text().splitlines() if line.startswith("| `")]
    return {
        name: Listed(tuple(re.findall("`([^`]+)`", files)), why)
        for names, files, why, _ in rows
        for name in re.findall("`([^`]+)`", names)
    }


@cache
def used() -> dict[str, set[str]]:
    """Files of effbench/ by the name in the table, or by the name as it was found where the table has none."""
    known, files = list(listed()), defaultdict(set)
    for name, paths in found().items():
        matching = [row for row in known if row == name or (name.startswith(".") and row.endswith(name))]
        parents = [row for row in known if row.startswith(f"{name}.")]  # torch._C of torch._C.PyTorchFileReader
        for row in matching or ([] if parents else [name]):
            files[row] |= {path.removeprefix("effbench/") for path in paths}
    return files


def release(package: str) -> str:
    try:
        return f"{package} {version(f'{package}-core' if package == 'hydra' else package)}"
    except PackageNotFoundError:
        return f"this Python's {package}"


@pytest.mark.parametrize("name", listed())
def test_a_private_name_that_we_use_exists(name: str) -> None:
    try:
        resolve(name)
    except (AttributeError, ImportError):
        files, why = listed()[name]
        pytest.fail(
            f"{name} is gone in {release(name.split('.')[0])}: used by {', '.join(files)}: {why}", pytrace=False
        )


@pytest.mark.proof
@pytest.mark.slow
def test_every_private_name_that_is_used_is_listed() -> None:
    missing = {name: sorted(files) for name, files in used().items() if name not in listed()}
    assert not missing, f"use a public name, or add to {TABLE.name}: {missing}"


@pytest.mark.proof
@pytest.mark.slow
def test_every_listed_name_is_used_where_the_table_says() -> None:
    shared: dict[tuple[str, ...], set[str]] = defaultdict(set)  # names of one row share its files
    for name, row in listed().items():
        assert name in used(), f"{name} is used nowhere: remove it from {TABLE.name}"
        assert used()[name] <= set(row.files), f"{name}: {TABLE.name} lacks a file of {sorted(used()[name])}"
        shared[row.files] |= used()[name]
    assert {files: set(files) for files in shared} == shared


def test_a_name_that_is_gone_is_told_clearly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr("torch._standard_gamma")
    with pytest.raises(
        pytest.fail.Exception, match=r"^torch\._standard_gamma is gone in torch \d.*: used by data/images/"
    ):
        test_a_private_name_that_we_use_exists("torch._standard_gamma")
