"""Explain topics: one thread, one seed, and torch's generator left as it was."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from effbench.errors import ConfigError, unknown_name
from effbench.explain import TAKES_RUN, TOPICS
from effbench.explain.content import Explanation, Request


def explained(topic: str, request: Request | None = None) -> Explanation:
    """Return the explanation of a topic.

    Raises:
        ConfigError: there is no such topic, or it takes no run and no text.
    """
    request = request or Request()
    if topic not in TOPICS:
        raise ConfigError(unknown_name("topic", topic, TOPICS))
    if topic not in TAKES_RUN and (request.run is not None or request.text is not None):
        what = "run" if request.run is not None else "text"
        raise ConfigError(f"topic {topic} takes no {what}. Topics that do: {', '.join(TAKES_RUN)}.")
    module = importlib.import_module(f"effbench.explain.topics.{topic}")
    with _alone(request.seed):
        explanation: Explanation = module.explain(request)
    return explanation


@contextmanager
def _alone(seed: int) -> Iterator[None]:
    """Use one thread, whose sums do not depend on the machine's processors, and a generator of our own."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            yield
    finally:
        torch.set_num_threads(threads)
