"""Explanations for several tests, each made once."""

from __future__ import annotations

from functools import cache

from effbench.explain.content import Explanation, Request
from effbench.explain.explaining import explained

TRAINED = ("attention", "mixed_precision", "quantization", "regularisation")  # topics that train a model for seconds


@cache
def explanation(topic: str) -> Explanation:
    """As docs/explain has it: with seed 0 and without what depends on the machine."""
    return explained(topic, Request(measured=False))
