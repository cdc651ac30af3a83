"""docs/glossary.md: one entry a term, in alphabetical order, linked from the pages that newcomers read."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
TERMS = re.findall(r"^- \*\*(.+?)\*\*:", (ROOT / "docs" / "glossary.md").read_text(encoding="utf-8"), re.M)


def test_the_glossary_is_alphabetical_and_defines_each_term_once() -> None:
    assert len(TERMS) > 60
    assert sorted(set(TERMS), key=lambda term: (term.partition(" ")[0].lower(), term.lower())) == TERMS


def test_readme_and_contributing_link_the_glossary() -> None:
    for page in ("README.md", "CONTRIBUTING.md"):
        assert "(docs/glossary.md)" in (ROOT / page).read_text(encoding="utf-8")
