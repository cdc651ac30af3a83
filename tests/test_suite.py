"""Rules for the tests themselves."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
ROOT = TESTS.parent
# Of torch and ctypes, with no public way to them.
OF_OTHERS = {"_fields_", "_forward_hooks", "_forward_pre_hooks", "_last_lr", "_metadata", "_name", "_version"}
LONGEST_NAME = 60  # so that a name fits a line of pytest's report beside its file


def test_names_of_tests_have_at_most_60_characters() -> None:
    paths = list(TESTS.rglob("test_*.py"))
    names = {
        f"{path.relative_to(TESTS)}: {name}"
        for path in paths
        for name in re.findall(r"^\s*(?:async )?def (test_\w+)", path.read_text(encoding="utf-8"), re.MULTILINE)
        if len(name) > LONGEST_NAME
    }
    assert len(paths) > 100
    assert not names


@pytest.mark.slow
def test_only_white_box_files_use_private_names() -> None:
    """A test that reaches into effbench's private names breaks when the code is rearranged: its file says so."""
    ours = {
        word
        for path in (ROOT / "effbench").rglob("*.py")
        for word in re.findall(r"\b_[a-z]\w*|\b_[A-Z]\w*", path.read_text(encoding="utf-8"))
    }
    for path in sorted(TESTS.rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        used = sorted({name for name in _private_names(tree) if name in ours - OF_OTHERS})
        said = "White-box" in (ast.get_docstring(tree) or "")
        assert bool(used) <= said, f"{path.relative_to(ROOT)} uses {used}: say 'White-box: why' in its docstring"


def _private_names(tree: ast.AST) -> Iterator[str]:
    """Private attributes of modules and objects but self, os and torch; names that monkeypatch.setattr replaces."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("effbench"):
            yield from (alias.name for alias in node.names if alias.name.startswith("_"))
        elif isinstance(node, ast.Attribute) and re.match(r"_[a-zA-Z]", node.attr):
            if ast.unparse(node.value).partition(".")[0] not in ("self", "cls", "os", "torch"):
                yield node.attr
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("setattr"):
            words = (word.value for word in node.args if isinstance(word, ast.Constant) and isinstance(word.value, str))
            yield from (name for word in words if re.match(r"_[a-zA-Z]", name := word.rpartition(".")[2]))
