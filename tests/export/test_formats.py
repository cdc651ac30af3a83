"""The table of formats: what it names is there, and help and documentation name what it holds."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from importlib import import_module
from pathlib import Path

import pytest

from effbench.bench.backends import BACKENDS
from effbench.export.formats import FORMATS, PROGRAMS, Format

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("each", FORMATS.values(), ids=list(FORMATS))
def test_a_format_s_module_has_its_functions(each: Format) -> None:
    for verb in ("make", "load", *(["require"] if each.extra else [])):
        assert callable(each.function(verb))


def test_each_format_has_its_own_suffix_and_a_declared_extra() -> None:
    assert len({each.suffix for each in FORMATS.values()}) == len(FORMATS)
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert {each.extra for each in FORMATS.values()} - {""} <= declared.keys()
    assert {backend.extra for backend in BACKENDS.values()} - {""} <= declared.keys()


def test_help_and_documentation_name_every_format_and_backend() -> None:
    helps = {verb: import_module(f"effbench.cli.{verb}").HELP for verb in ("export", "eval", "predict", "bench")}
    page = (ROOT / "docs" / "export.md").read_text()
    for name, each in FORMATS.items():
        assert name in helps["export"]
        [row] = [line for line in page.splitlines() if line.startswith(f"| `{name}` |")]
        assert each.suffix in row
        assert f"extra `{each.extra}`" in row or not each.extra
        assert ("`trust=true`" in row) is each.program
    for verb in ("eval", "predict", "bench"):
        assert all(name in helps[verb] for name in PROGRAMS), verb
    page = (ROOT / "docs" / "bench.md").read_text()
    for name in BACKENDS:
        assert name in helps["bench"]
        assert [line for line in page.splitlines() if line.startswith("| `") and f"`{name}`" in line.split(" | ")[0]]


@pytest.mark.process
def test_formats_are_known_without_torch() -> None:
    code = "import sys, effbench.export.formats; sys.exit('torch' in sys.modules or 'executorch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
