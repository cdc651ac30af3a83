"""Rules for the tests themselves."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
ROOT = TESTS.parent
# Of torch and ctypes, with no public way to them.
OF_OTHERS = {"_fields_", "_forward_hooks", "_forward_pre_hooks", "_last_lr", "_metadata", "_name", "_version"}
LONGEST_FUNCTION = 60  # lines, so that a function fits a screen
LONGEST_NAME = 60  # so that a name fits a line of pytest's report beside its file


@cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


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
def test_no_function_of_effbench_is_longer_than_a_screen() -> None:
    functions = {
        f"{path.relative_to(ROOT)}: {node.name}": (node.end_lineno or 0) - node.lineno + 1
        for path in (ROOT / "effbench").rglob("*.py")
        for node in ast.walk(parsed(path))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }
    assert len(functions) > 1000
    assert {name: lines for name, lines in functions.items() if lines > LONGEST_FUNCTION} == {}


@pytest.mark.proof
@pytest.mark.slow
def test_only_white_box_files_use_private_names() -> None:
    """A test that reaches into effbench's private names breaks when the code is rearranged: its file says so."""
    ours = {
        word
        for path in (ROOT / "effbench").rglob("*.py")
        for word in re.findall(r"\b_[a-z]\w*|\b_[A-Z]\w*", path.read_text(encoding="utf-8"))
    }
    for path in sorted(TESTS.rglob("*.py")):
        tree = parsed(path)
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


@pytest.mark.slow
def test_each_time_limit_grows_with_the_machines_load() -> None:
    found = {
        f"{path.relative_to(TESTS)}:{line}" for path in TESTS.rglob("*.py") for line in _fixed_limits(parsed(path))
    }
    assert not found, "Wrap the seconds: tests.patience.patience(60)."


@pytest.mark.parametrize(
    "code",
    [
        "run(words, timeout=60)",
        "run(words, timeout=LONGEST_S)",
        "process.wait(60)",
        "thread.join(LONGEST_S)",
        "deadline = time.monotonic() + 5",
        "assert time.perf_counter() - begun < 5",
    ],
)
def test_a_fixed_time_limit_is_found(code: str) -> None:
    assert list(_fixed_limits(ast.parse(code))) == [1]
    in_patience = re.sub(r"(?<=[ (=])(\d+|LONGEST_S)", r"patience(\1)", code)
    assert list(_fixed_limits(ast.parse(in_patience))) == []


def _fixed_limits(tree: ast.AST) -> Iterator[int]:
    """The lines with a time limit that is a number or a constant."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            limits = [word.value for word in node.keywords if word.arg == "timeout"]
            of_text = isinstance(node.func, ast.Attribute) and isinstance(
                node.func.value, ast.Constant
            )  # ",".join(NAMES)
            if isinstance(node.func, ast.Attribute) and node.func.attr in ("wait", "join", "result") and not of_text:
                limits += node.args
            if any(map(_is_fixed, limits)):
                yield node.lineno
        elif isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):  # deadline = now + 5
            if _reads_a_clock(node.left) and _is_fixed(node.right):
                yield node.lineno
        elif (
            isinstance(node, ast.Compare)  # elapsed < 5
            and isinstance(node.ops[0], ast.Lt | ast.LtE)
            and _reads_a_clock(node.left)
            and _is_fixed(node.comparators[0])
        ):
            yield node.lineno


def _is_fixed(value: ast.AST) -> bool:
    number = isinstance(value, ast.Constant) and isinstance(value.value, int | float)
    return number or (isinstance(value, ast.Name) and value.id.isupper())


def _reads_a_clock(value: ast.AST) -> bool:
    return bool(re.search(r"\b(monotonic|perf_counter|time)\(\)", ast.unparse(value)))
