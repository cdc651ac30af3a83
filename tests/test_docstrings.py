"""Contract of docstrings: Google style, with sections that name the real parameters."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1] / "effbench"
PENDING: tuple[str, ...] = ()  # packages and modules whose public functions need not document their parameters yet
FEW = 3  # parameters from which an Args section is required
SECTION = re.compile(r"^ *(Args|Attributes):\n((?: +.*\n|\n)*)", re.M)
ENTRY = re.compile(r"^( +)\*{0,2}(\w+(?:, \w+)*): ", re.M)

Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
TREES = {path: ast.parse(path.read_text(encoding="utf-8")) for path in sorted(ROOT.rglob("*.py"))}


def definitions(tree: ast.Module) -> Iterator[tuple[str, Definition, ast.ClassDef | None]]:
    """(name, node, the class of a method) of functions and classes of a module, and of their methods."""
    for node in tree.body:
        if isinstance(node, Definition):
            yield node.name, node, None
        if isinstance(node, ast.ClassDef):
            for part in node.body:
                if isinstance(part, ast.FunctionDef):
                    yield f"{node.name}.{part.name}", part, node


def parameters(node: ast.FunctionDef | ast.AsyncFunctionDef) -> list[str]:
    found = [each.arg for each in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)]
    found += [each.arg for each in (node.args.vararg, node.args.kwarg) if each is not None]
    return [name for name in found if name not in ("self", "cls")]


def constructor(node: ast.ClassDef) -> list[str]:
    """Parameters of __init__; of a dataclass or named tuple its fields."""
    for part in node.body:
        if isinstance(part, ast.FunctionDef) and part.name == "__init__":
            return parameters(part)
    return []


def fields(node: ast.ClassDef) -> list[str]:
    """Class attributes, instance attributes set in __init__, and properties."""
    found = [
        part.target.id for part in node.body if isinstance(part, ast.AnnAssign) and isinstance(part.target, ast.Name)
    ]
    found += [
        name.id
        for part in node.body
        if isinstance(part, ast.Assign)
        for name in part.targets
        if isinstance(name, ast.Name)
    ]
    for each in ast.walk(node):
        if (
            isinstance(each, ast.Attribute)
            and isinstance(each.ctx, ast.Store)
            and getattr(each.value, "id", "") == "self"
        ):
            found.append(each.attr)
    return found + [part.name for part in node.body if isinstance(part, ast.FunctionDef)]


def documented(node: Definition) -> dict[str, list[str]]:
    """Section -> names of its entries, which are the least indented lines with 'name: '."""
    sections: dict[str, list[str]] = {}
    for title, body in SECTION.findall((ast.get_docstring(node) or "") + "\n"):
        entries = ENTRY.findall(body)
        first = min((len(indent) for indent, _ in entries), default=0)
        sections[title] = [name for indent, names in entries if len(indent) == first for name in names.split(", ")]
    return sections


def overridden(name: str) -> bool:
    """True if a class of effbench documents the parameters of a method with this name: overrides share its text."""
    method = name.rpartition(".")[2]
    return any(
        each.rpartition(".")[2] == method and "Args" in documented(node)
        for tree in TREES.values()
        for each, node, owner in definitions(tree)
        if owner is not None and each != name
    )


def is_covered(path: Path) -> bool:
    place = path.relative_to(ROOT).as_posix()
    return not any(place == each or place.startswith(f"{each}/") for each in PENDING)


def public() -> Iterator[tuple[str, Definition, list[str]]]:
    """(place, node, parameters) of public functions, methods and classes of the covered modules."""
    for path, tree in TREES.items():
        if not is_covered(path) or (path.name.startswith("_") and path.name != "__init__.py"):
            continue
        for name, node, _ in definitions(tree):
            if any(part.startswith("_") for part in name.split(".")):
                continue
            names = constructor(node) if isinstance(node, ast.ClassDef) else parameters(node)
            yield f"{path.relative_to(ROOT)}: {name}", node, names


def test_every_pending_package_exists() -> None:
    assert [each for each in PENDING if not (ROOT / each).exists()] == []


def test_public_functions_document_every_parameter() -> None:
    missing = {
        place: absent
        for place, node, names in public()
        if len(names) >= FEW
        and (absent := [each for each in names if each not in documented(node).get("Args", [])])
        and not (not documented(node) and overridden(place.rpartition(": ")[2]))
    }
    assert missing == {}


def test_docstrings_name_only_parameters_that_exist() -> None:
    wrong = {}
    for path, tree in TREES.items():
        for name, node, _ in definitions(tree):
            known = constructor(node) + fields(node) if isinstance(node, ast.ClassDef) else parameters(node)
            named = [each for names in documented(node).values() for each in names]
            if unknown := [each for each in named if each not in known]:
                wrong[f"{path.relative_to(ROOT)}: {name}"] = unknown
    assert wrong == {}


def test_public_functions_have_a_summary_line() -> None:
    """The summary is one sentence on the first line, which an editor shows."""
    bad = [
        place
        for place, node, _ in public()
        if (text := ast.get_docstring(node)) and not text.split("\n\n")[0].rstrip().endswith((".", ":", '"', "…"))
    ]
    assert bad == []


# Words that begin a noun phrase or a condition, and quotes.
NO_VERBS = ("A", "An", "The", "How", "What", "Whether", "Where", "Which", "After", "Before", "Within", "True", "'", '"')


def test_docs_of_functions_begin_with_a_verb() -> None:
    """Such as 'Return the word for one sample'. A property names its value, as an attribute does."""
    first = {
        place: text.split()[0]
        for place, node, _ in public()
        if isinstance(node, ast.FunctionDef)
        if not any("property" in ast.unparse(each) for each in node.decorator_list)
        if (text := ast.get_docstring(node))
    }
    assert len(first) > 300
    assert {place: word for place, word in first.items() if word in NO_VERBS or word.startswith(("'", '"'))} == {}
