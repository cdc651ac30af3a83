"""What the templates of pages and figures share: their environment, and the removal of what no page may hold."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from effbench.escaping import for_terminal
from effbench.redaction import redact

if TYPE_CHECKING:
    from jinja2 import Environment


def environment_of(*folders: Path) -> Environment:
    """Return the environment of templates in these folders and in this one. It escapes all that they insert."""
    # only here: other verbs do not need it
    import jinja2

    return jinja2.Environment(
        loader=jinja2.FileSystemLoader([*folders, Path(__file__).parent]),
        autoescape=True,  # names and values come from files of others
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def harmless(content: Any) -> Any:
    """Return the content without secrets and without characters that control a terminal or the text direction."""
    texts: dict[str, None] = {}  # thousands of rows share most texts, so that each is cleaned once
    pending = [content]
    while pending:
        value = pending.pop()
        if isinstance(value, str):
            texts[value] = None
        elif isinstance(value, dict):
            pending += value.values()
        elif isinstance(value, list | tuple):
            pending += value
    return _replaced(content, dict(zip(texts, map(for_terminal, redact(list(texts))), strict=True)))


def _replaced(value: Any, texts: Mapping[str, str]) -> Any:
    if isinstance(value, str):
        return texts[value]
    if isinstance(value, dict):
        return {key: _replaced(item, texts) for key, item in value.items()}
    return [_replaced(item, texts) for item in value] if isinstance(value, list | tuple) else value
