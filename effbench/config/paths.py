"""Location of the packaged configs: beside the installed package, or in the checkout."""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parents[1]


def _find(name: str) -> Path:
    # The wheel holds copies under effbench/_data; a checkout has them beside the package, where they are edited.
    shipped = _PACKAGE / "_data" / name
    return shipped if shipped.is_dir() else _PACKAGE.parent / name


def conf_dir() -> Path:
    """Return the folder of Hydra groups."""
    return _find("conf")


def recipes_dir() -> Path:
    """Return the folder of effbench's recipes."""
    return _find("recipes")
