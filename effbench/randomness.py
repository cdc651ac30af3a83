"""Every random number is a function of (seed, purpose, epoch, step), never of how often a run was interrupted."""

from __future__ import annotations

from enum import IntEnum

import numpy as np


class Purpose(IntEnum):
    """What a stream of random numbers is for: streams with different purposes never coincide."""

    WEIGHTS = 0
    ORDER = 1
    AUGMENT = 2
    FORWARD = 3  # dropout and the like


def derived_seed(seed: int, purpose: Purpose, *place: int) -> int:
    """A 63-bit seed for `purpose` at `place` (epoch, step, rank, …), by numpy's SeedSequence hash."""
    state = np.random.SeedSequence((seed, purpose, *place)).generate_state(1, np.uint64)
    return int(state[0]) >> 1
