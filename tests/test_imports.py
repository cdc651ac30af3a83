"""Which modules of effbench import which, those imported inside of functions included (layers: see pyproject.toml)."""

from __future__ import annotations

import re
import tomllib
from graphlib import TopologicalSorter
from pathlib import Path

import grimp
import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "effbench"


def contract(name: str) -> dict[str, list[str]]:
    """The contract of pyproject.toml whose name contains `name`."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"]
    [found] = [each for each in settings["contracts"] if name in each["name"]]
    return found


def modules_of(folder: Path) -> set[str]:
    """The modules and packages in a folder, with dots."""
    paths = [path for path in folder.iterdir() if path.suffix == ".py" or (path / "__init__.py").is_file()]
    return {".".join(path.with_suffix("").relative_to(ROOT).parts) for path in paths if path.stem != "__init__"}


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


def test_contributing_lists_the_layers_of_pyproject() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    block = text.split("## Architecture")[1].split("```")[1]
    # names stand before a gap of two spaces, what they are for after it
    heads = [re.split(r"\s{2,}", line.strip())[0] for line in block.strip().splitlines()]
    listed = [name.rstrip("/") for head in heads for name in head.split()]
    layers = [layer.split(" | ") for layer in contract("lower layers")["layers"]][1:]  # without __main__
    # a layer may take several lines; the order in it is free
    assert listed == [name for layer in layers for name in sorted(layer, key=listed.index)]


def test_every_module_outside_hydra_s_layers_is_forbidden_it() -> None:
    may = {"__main__", "cli", "config", "jobs", "run"}
    assert set(contract("know Hydra")["source_modules"]) == modules_of(PACKAGE) - {f"effbench.{name}" for name in may}


def test_no_module_but_splits_may_know_a_modality() -> None:
    free = {f"effbench.data.{name}" for name in ("images", "rows", "splits", "text")}
    expected = (modules_of(PACKAGE) - {"effbench.__main__", "effbench.data"}) | (modules_of(PACKAGE / "data") - free)
    assert set(contract("modality's folder")["source_modules"]) == expected


def test_every_verb_is_in_the_contract_of_independence() -> None:
    from effbench.cli import VERBS

    assert set(contract("verbs")["modules"]) == {f"effbench.cli.{verb}" for verb in VERBS}
