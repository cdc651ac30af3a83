"""Finds the private names of other packages that effbench/ uses, in the syntax trees of its files."""

from __future__ import annotations

import ast
import importlib
from collections import defaultdict
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

PACKAGE = Path(__file__).parents[1] / "effbench"
# Documented although they begin with an underscore.
DOCUMENTED = {"_asdict", "_fields", "_replace", "_make", "_exit", "_fields_", "_target_", "_missing_", "_value_"}

PACKAGES = ("torch", "torchvision", "hydra", "omegaconf", "pydantic", "pickle")  # named in strings, too
OURS = ("effbench", "__future__")
ARGUMENTS = {"zeros()": (1,)}  # of the calls in names


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.endswith("__") and name not in DOCUMENTED


def found() -> dict[str, set[str]]:
    """Files by private name. The name of an attribute whose object is not known begins with a dot."""
    trees = {path: ast.parse(path.read_text(encoding="utf-8")) for path in sorted(PACKAGE.rglob("*.py"))}
    own = {name for tree in trees.values() for name in _defined(tree)}
    names: dict[str, set[str]] = defaultdict(set)
    for path, tree in trees.items():
        for name in _used(tree, own):
            names[name].add(path.relative_to(PACKAGE.parent).as_posix())
    return dict(names)


def resolve(name: str) -> Any:
    """The object of a dotted name with calls in it. Raises AttributeError or ImportError where it is gone."""
    parts = name.split(".")
    module, attributes = _module_of(parts)
    value = importlib.import_module(module)
    for part in attributes:
        value = getattr(value, part.removesuffix("()"))
        value = value(*ARGUMENTS.get(part, ())) if part.endswith("()") else value
    return value


def _module_of(parts: list[str]) -> tuple[str, list[str]]:
    """(the longest part of the name that is a module, the rest)."""
    for count in range(len(parts), 1, -1):
        with suppress(ModuleNotFoundError):
            if not parts[count - 1].endswith("()") and importlib.import_module(".".join(parts[:count])):
                return ".".join(parts[:count]), parts[count:]
    return parts[0], parts[1:]


def _defined(tree: ast.AST) -> Iterator[str]:
    """Attributes that effbench/ defines itself: what modules and classes hold, and attributes of `self` and `cls`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef):
            for statement in node.body:
                yield from _named(statement)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and _is_self(node.value):
            yield node.attr


def _named(statement: ast.stmt) -> Iterator[str]:
    if isinstance(statement, ast.FunctionDef | ast.ClassDef):
        yield statement.name
    elif isinstance(statement, ast.Assign | ast.AnnAssign):
        for node in ast.walk(statement):
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                yield node.id


def _is_self(node: ast.expr) -> bool:
    return isinstance(node, ast.Name) and node.id in ("self", "cls")


def _used(tree: ast.AST, own: set[str]) -> Iterator[str]:
    imported = dict(_imports(tree))
    for full in imported.values():
        if any(map(is_private, full.split("."))):
            yield full
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            yield from _attribute(node, imported, own)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            parts = node.value.split(".")
            if parts[0] in PACKAGES and all(map(str.isidentifier, parts)) and any(map(is_private, parts)):
                yield node.value
        elif isinstance(node, ast.ClassDef):
            yield from _overridden(node, imported)


def _imports(tree: ast.AST) -> Iterator[tuple[str, str]]:
    """(name in the file, full name) of what comes from other packages."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                full = alias.name if alias.asname else alias.name.split(".")[0]
                if full.split(".")[0] not in OURS:
                    yield alias.asname or full, full
        elif isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] not in OURS:
            for alias in node.names:
                yield alias.asname or alias.name, f"{node.module}.{alias.name}"


def _dotted(node: ast.expr) -> list[str] | None:
    if isinstance(node, ast.Name):
        return [node.id]
    if isinstance(node, ast.Attribute):
        base = _dotted(node.value)
        return None if base is None else [*base, node.attr]
    return None


def _attribute(node: ast.Attribute, imported: dict[str, str], own: set[str]) -> Iterator[str]:
    dotted = _dotted(node)
    if dotted and dotted[0] in imported:
        if any(map(is_private, dotted[1:])):
            yield ".".join([imported[dotted[0]], *dotted[1:]])
    elif is_private(node.attr) and node.attr not in own:
        yield f".{node.attr}"


def _overridden(node: ast.ClassDef, imported: dict[str, str]) -> Iterator[str]:
    """Private methods of a base class from another package that the class defines anew."""
    for base in map(_dotted, node.bases):
        if base and base[0] in imported:
            full = ".".join([imported[base[0]], *base[1:]])
            for method in node.body:
                private = isinstance(method, ast.FunctionDef) and is_private(method.name)
                if private and hasattr(resolve(full), method.name):
                    yield f"{full}.{method.name}"
