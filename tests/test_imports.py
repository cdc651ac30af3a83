"""Which modules of effbench import which, those imported inside of functions included (layers: see pyproject.toml)."""

from __future__ import annotations

from graphlib import TopologicalSorter

import grimp
import pytest


@pytest.fixture(scope="module")
def imports() -> dict[str, set[str]]:
    """Module -> modules of effbench that it imports; what only a type checker imports is left out."""
    graph = grimp.build_graph("effbench", exclude_type_checking_imports=True, cache_dir=None)
    return {module: graph.find_modules_directly_imported_by(module) for module in graph.modules}


def test_no_modules_import_each_other(imports: dict[str, set[str]]) -> None:
    TopologicalSorter(imports).prepare()  # raises CycleError, which names the circle


def test_only_the_program_imports_the_command_line(imports: dict[str, set[str]]) -> None:
    outside = {module for module in imports if not module.startswith("effbench.cli")}
    users = {module for module in outside if any(name.startswith("effbench.cli") for name in imports[module])}
    assert users == {"effbench.__main__"}
