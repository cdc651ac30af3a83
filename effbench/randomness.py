"""Every random number is a function of (seed, purpose, epoch, step), never of how often a run was interrupted."""

from __future__ import annotations

from enum import IntEnum
from functools import lru_cache

import numpy as np


class Purpose(IntEnum):
    """What a stream of random numbers is for: streams with different purposes never coincide."""

    WEIGHTS = 0
    ORDER = 1
    AUGMENT = 2
    FORWARD = 3  # dropout and the like
    STATISTICS = 4  # the images that batch norm's statistics are made from


_BLOCK = 64  # steps whose seeds are made at once: one alone, its code out of the cache by then, takes ten times as long


def seed_of_step(seed: int, purpose: Purpose, epoch: int, step: int, *rest: int) -> int:
    """derived_seed(seed, purpose, epoch, step, *rest), for steps taken in order."""
    return _seeds(seed, purpose, epoch, step // _BLOCK, rest)[step % _BLOCK]


@lru_cache(maxsize=16)
def _seeds(seed: int, purpose: Purpose, epoch: int, block: int, rest: tuple[int, ...]) -> list[int]:
    return [derived_seed(seed, purpose, epoch, block * _BLOCK + place, *rest) for place in range(_BLOCK)]


def derived_seed(seed: int, purpose: Purpose, *place: int) -> int:
    """A 63-bit seed for `purpose` at `place` (epoch, step, rank, …), by numpy's SeedSequence hash."""
    words = np.array((seed, purpose, *place), np.uint32)  # as numpy makes them of a tuple, in half the time
    state = np.random.SeedSequence(words).generate_state(1, np.uint64)
    return int(state[0]) >> 1
