"""The user's words in a model card: they are kept when an export writes the card anew."""

from __future__ import annotations

import hashlib
import logging
import os
import re
from itertools import chain, count
from pathlib import Path

from effbench.export.files import ELSEWHERE
from effbench.guarded import read_bytes
from effbench.records import replacing
from effbench.redaction import redact_environment

log = logging.getLogger(__name__)

SECTIONS = ("Intended use", "Limits")  # the user fills them in
_UNFILLED = "To be filled in"  # begins their text until then
_SECTION = re.compile(rf"^## ({'|'.join(SECTIONS)})[ \t]*\n(.*?)(?=^## |^<!-- effbench |\Z)", re.MULTILINE | re.DOTALL)
_MARK = re.compile(r"^<!-- effbench (.*) -->[ \t]*$", re.MULTILINE)


def marked(card: str) -> str:
    """Return the card with digests of its parts as a comment, by which `with_words` tells what the user changed."""
    return f"{card}\n<!-- effbench {' '.join(map(_digest, _parts(card).values()))} -->\n"


def with_words(card: str, path: Path) -> str:
    """Return a new card with what the user wrote into the SECTIONS of the old one at `path`, which stays as it is.

    If the user changed something else in the old one, it is copied to `path`.before, so that no word is lost.

    Raises:
        UnreadableError: the old one cannot be read.
        EffbenchError: the copy cannot be written.
    """
    if path.is_symlink() or not path.exists():  # a link is replaced, and the file behind it stays
        return card
    content = read_bytes(path)
    try:
        old = re.sub("\r\n?", "\n", content.decode("utf-8-sig"))
    except UnicodeDecodeError:  # nothing can be told of its sections
        old = ""
    mark, parts = _MARK.search(old), _parts(old)
    if mark:
        known = mark[1].split()
        changed = {name for name, text in parts.items() if _digest(text) not in known}
    else:  # an older effbench wrote it, or the comment was removed
        changed = {name for name, text in parts.items() if not text.lstrip().startswith(_UNFILLED)}
    words = {name: parts[name].strip("\n") for name in SECTIONS if name in changed and parts[name].strip()}
    if words:
        log.info(f"note: {path.name} keeps your text of {' and '.join(words)}")
    if "" in changed:
        kept = _free(path)
        with replacing(kept, len(content), ELSEWHERE) as copy:
            copy.write(content)
        why = f"was changed outside of {' and '.join(SECTIONS)}" if mark else "has no digests at its end"
        log.info(f"note: {path.name} {why}: a copy of it is {kept.name}")
    return _SECTION.sub(
        lambda found: f"## {found[1]}\n\n{words[found[1]]}\n\n" if found[1] in words else found[0], card
    )


def _parts(card: str) -> dict[str, str]:
    """Return name -> text of each of the SECTIONS, and "" -> the rest of the card with their headings."""
    card = _MARK.sub("", card)
    return {"": _SECTION.sub(r"## \1\n", card), **dict(_SECTION.findall(card))}


def _digest(text: str) -> str:
    # of the text as it is written, but for white space, which editors change
    written = " ".join(redact_environment(text).split())
    return hashlib.sha256(written.encode("utf-8", "backslashreplace")).hexdigest()[:16]


def _free(path: Path) -> Path:
    """Return path.before, or if that is there path.before2, and so on."""
    names = (path.with_name(f"{path.name}.before{number}") for number in chain([""], count(2)))
    return next(name for name in names if not os.path.lexists(name))
