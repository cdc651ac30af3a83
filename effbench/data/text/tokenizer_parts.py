"""Parts of a tokenizer.json: which ones effbench writes, and how much longer the others may make a text.

A normalizer is a list of steps, each of which may replace a letter by several: thirty steps that double it make one
letter a gigabyte. The record of a run may be a stranger's, and a file of the user's damaged.
"""

from __future__ import annotations

from base64 import b64decode
from collections.abc import Iterator, Mapping
from typing import Any

MOST_GROWTH = 1000  # times as long as a text; published tokenizers stay below 60
_MOST_PARTS = 100  # published ones have up to ten
_BYTES = 4  # of a letter in UTF-8: ByteLevel makes a letter of each
# NFC, NFKD, Lowercase and others of Unicode are no factor: what they have made longer they make no longer again
_LISTS = ("normalizers", "pretokenizers", "processors")


def check_own_parts(whole: Mapping[str, Any]) -> None:
    """Refuse parts that effbench does not write for data.tokenizer=bpe. Raises ValueError.

    whole: content of a tokenizer.json, as the library writes it.
    """
    for key in ("normalizer", "post_processor"):
        if whole.get(key) is not None:
            raise ValueError(f"it has a {key}, which data.tokenizer=bpe does not have")
    for key in ("pre_tokenizer", "decoder"):
        kind = (whole.get(key) or {}).get("type")
        if kind != "ByteLevel":
            raise ValueError(f"its {key} is {kind}, and that of data.tokenizer=bpe ByteLevel")


def check_growth(whole: Mapping[str, Any]) -> None:
    """Refuse a tokenizer that may make a text more than MOST_GROWTH times as long. Raises ValueError.

    whole: content of a tokenizer.json, as the library writes it.
    """
    growth, count = 1, 0
    for key in ("normalizer", "pre_tokenizer", "post_processor"):
        for part in _parts(whole.get(key)):
            growth, count = growth * _growth(part), count + 1
            if growth > MOST_GROWTH:
                raise ValueError(
                    f"its {key} may make a text more than {MOST_GROWTH:,} times as long, which would fill the memory"
                )
            if count > _MOST_PARTS:
                raise ValueError(f"it has more than {_MOST_PARTS} steps before and after its model")


def _parts(part: Any) -> Iterator[Mapping[str, Any]]:
    """Yield the steps of a part, those of lists one by one."""
    if not isinstance(part, Mapping):
        return
    inside = next((part[key] for key in _LISTS if isinstance(part.get(key), list)), None)
    if inside is None:
        yield part
    for each in inside or ():
        yield from _parts(each)


def _growth(part: Mapping[str, Any]) -> int:
    """Return how many times as long a step may make a text, at most; what it adds once counts as times."""
    kind = part.get("type")
    if kind == "ByteLevel":
        return _BYTES
    if kind == "Replace":
        # an expression may match the place between two letters, too
        given = part.get("pattern")
        pattern = given.get("String") if isinstance(given, Mapping) else None
        content = len(str(part.get("content", "")))
        return -(-content // len(pattern)) or 1 if pattern else 1 + content
    if kind == "Prepend":
        return 1 + len(str(part.get("prepend", ""))) // MOST_GROWTH
    if kind == "Precompiled":
        return _longest_of(str(part.get("precompiled_charsmap") or ""))
    if kind == "TemplateProcessing":
        return _copies(part)
    return 1


def _longest_of(charsmap: str) -> int:
    """Return the letters of the longest text in a map of SentencePiece: a trie, and texts that end with a NUL."""
    content = b64decode(charsmap)
    size = int.from_bytes(content[:4], "little")
    return max([1, *(len(text.decode("utf-8", "replace")) for text in content[4 + size :].split(b"\0"))])


def _copies(template: Mapping[str, Any]) -> int:
    """Return how often a template has the text; tokens around it count as one text for each MOST_GROWTH."""
    copies = added = 0
    special = template.get("special_tokens") or {}
    for piece in template.get("single") or ():
        copies += "Sequence" in piece
        name = (piece.get("SpecialToken") or {}).get("id")
        added += len((special.get(name) or {}).get("ids") or ())
    return max(1, copies) + added // MOST_GROWTH
