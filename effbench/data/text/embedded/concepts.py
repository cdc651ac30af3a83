"""Which strings belong to one concept, and which split a concept is in."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence


def joined(groups: Iterable[Sequence[str]]) -> dict[str, str]:
    """Join groups that share a member, directly or through others.

    Returns:
        Each member -> the least member of all that are joined with it.
    """
    parent: dict[str, str] = {}

    def root(member: str) -> str:
        parent.setdefault(member, member)
        while parent[member] != member:
            parent[member] = parent[parent[member]]
            member = parent[member]
        return member

    for group in groups:
        for member in group:
            low, high = sorted((root(group[0]), root(member)))
            parent[high] = low
    return {member: root(member) for member in list(parent)}


def split_of(concept: str) -> str:
    """Return 'train' for 75 % of the concepts, 'val' for 10 %, 'test' for 15 %, whatever other concepts there are."""
    part = rank(concept) % 20
    return "train" if part < 15 else "val" if part < 17 else "test"


def rank(name: str) -> int:
    """Return a number to order by that has nothing to do with what the name says."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest())
