"""Lines of user code, counted by one rule."""

from __future__ import annotations

import ast
import io
import tokenize
from pathlib import Path

RULE = (
    "Lines: those of the framework's file in benchmarks/frameworks/peers/, formatted by `ruff format` at its default "
    "width without magic trailing commas, less comments, docstrings and blank lines; for effbench also those of the "
    "YAML file that a module of one's own needs. Images and module come from task.py and are counted for none."
)
_LAYOUT = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}


def user_lines(path: Path) -> int:
    """Return the lines of a Python or YAML file that count."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".yaml":
        return sum(bool(line.partition("#")[0].strip()) for line in text.splitlines())
    code = {
        line
        for token in tokenize.generate_tokens(io.StringIO(text).readline)
        if token.type not in _LAYOUT
        for line in range(token.start[0], token.end[0] + 1)
    }
    return len(code - _docstrings(text))


def _docstrings(text: str) -> set[int]:
    """Return the numbers of the lines that hold docstrings."""
    found: set[int] = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node) is not None:
            first = node.body[0]
            found |= set(range(first.lineno, (first.end_lineno or first.lineno) + 1))
    return found
