"""effbench env: versions, processor and memory, as every run records them."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

from effbench.cli.flags import VERB_FLAGS, parse_flags, show_help
from effbench.errors import ConfigError

HELP = """usage: effbench env [--json]

Prints what to quote with a measured number: versions, processor, memory, GPU; the number of threads of training, what
decided it, and how they wait for each other; the cache folder, its size, and the limit for decoded images. Above the
limit the least recently used images are removed, but none that are in use."""


def _below_home(folder: Path) -> str:
    """Return ~/.cache/effbench for a folder in the home folder, without the user's name."""
    home = os.path.expanduser("~")  # noqa: PTH111 - Path's raises where there is none
    text = str(folder)
    return f"~{text.removeprefix(home)}" if text.startswith(f"{home}/") else text


def main(words: Sequence[str]) -> int:
    arguments = parse_flags(words, VERB_FLAGS["env"])
    if arguments.has("help"):
        return show_help(HELP, asked=True)
    if arguments.overrides:
        raise ConfigError(f"effbench env takes no arguments; got {arguments.overrides[0]!r}.")
    from effbench.cache_dir import cache_home
    from effbench.data.images.cache_budget import BUDGET, budget_bytes, size_of
    from effbench.processors import usable
    from effbench.report.environment import environment
    from effbench.units import human_bytes

    threads, folder = usable(), cache_home()
    facts = environment() | {"threads": threads.count, "threads_from": threads.why}
    facts |= {"cache": _below_home(folder), "cache_bytes": size_of(folder), "cache_budget_bytes": budget_bytes(folder)}
    if arguments.has("json"):
        print(json.dumps(facts, indent=2))
        return 0
    if facts["memory_bytes"]:
        facts["memory"] = human_bytes(facts.pop("memory_bytes"))
    facts["cache_size"] = human_bytes(facts.pop("cache_bytes"))
    facts["cache_budget"] = f"{human_bytes(facts.pop('cache_budget_bytes'))} of decoded images ({BUDGET}=GB sets it)"
    width = max(map(len, facts))
    for name, value in facts.items():
        print(f"{name:<{width}}  {'-' if value is None else value}")
    return 0
