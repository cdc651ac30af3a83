"""Seeds: functions of what they are for and of their place, as numpy's SeedSequence hashes them."""

from __future__ import annotations

import itertools

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from effbench.randomness import Purpose, derived_seed, seed_of_step

WORDS = st.integers(0, 2**32 - 1)


@given(WORDS, st.sampled_from(Purpose), st.lists(WORDS, max_size=4))
def test_a_seed_is_numpys_hash_of_its_words(seed, purpose, place):
    expected = np.random.SeedSequence((seed, purpose, *place)).generate_state(1, np.uint64)
    assert derived_seed(seed, purpose, *place) == int(expected[0]) >> 1


@given(WORDS, st.sampled_from(Purpose), st.integers(0, 1000), st.integers(0, 10_000), st.integers(0, 7))
def test_both_functions_give_the_same_seed_of_a_step(seed, purpose, epoch, step, rank):
    assert seed_of_step(seed, purpose, epoch, step, rank) == derived_seed(seed, purpose, epoch, step, rank)


def test_no_two_places_share_a_seed():
    places = itertools.product((0, 1), (Purpose.AUGMENT, Purpose.FORWARD), range(20), range(100))
    seeds = [seed_of_step(*place) for place in places]
    assert len(set(seeds)) == len(seeds)
