"""Random numbers. Each is a function of (seed, purpose, epoch, step), so that interruptions do not change it."""

from __future__ import annotations

from enum import IntEnum
from functools import lru_cache

import numpy as np


class Purpose(IntEnum):
    """Purpose of a random stream. Streams with different purposes are independent."""

    WEIGHTS = 0
    ORDER = 1
    AUGMENT = 2
    FORWARD = 3  # dropout and the like
    STATISTICS = 4  # which images batch norm's statistics are computed from
    SAMPLE = 5  # tokens of a sampled text


_BLOCK = 64  # seeds computed together: a single one takes ten times as long, because its code has left the CPU cache


def seed_of_step(seed: int, purpose: Purpose, epoch: int, step: int, *rest: int) -> int:
    """Return derived_seed(seed, purpose, epoch, step, *rest), cached for steps in order.

    Args:
        seed: the run's seed.
        purpose: purpose of the stream.
        epoch: from 0.
        step: from 0, within the epoch.
        *rest: further coordinates, such as the rank.
    """
    return _seeds(seed, purpose, epoch, step // _BLOCK, rest)[step % _BLOCK]


@lru_cache(maxsize=16)
def _seeds(seed: int, purpose: Purpose, epoch: int, block: int, rest: tuple[int, ...]) -> list[int]:
    return [derived_seed(seed, purpose, epoch, block * _BLOCK + place, *rest) for place in range(_BLOCK)]


def derived_seed(seed: int, purpose: Purpose, *place: int) -> int:
    """Return a 63-bit seed by numpy's SeedSequence hash.

    Args:
        seed: the run's seed.
        purpose: purpose of the stream.
        *place: coordinates, such as epoch, step and rank.
    """
    words = np.array((seed, purpose, *place), np.uint32)  # as numpy converts a tuple, in half the time
    state = np.random.SeedSequence(words).generate_state(1, np.uint64)
    # torch takes seeds as signed 64-bit numbers
    return int(state[0]) >> 1
