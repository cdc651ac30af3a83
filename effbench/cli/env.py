"""effbench env: versions, processor and memory, as every run records them."""

from __future__ import annotations

import os
from collections.abc import Sequence

from effbench.cli.flags import VERB_FLAGS, parse_flags, show_help
from effbench.errors import ConfigError
from effbench.strict_json import print_json

HELP = """usage: effbench env [--json]

Prints what to quote with a measured number: versions, processor, memory and GPU; the number of threads of training,
what decided it, and how idle threads wait; the cache folder, its size, and the limit for decoded data in it. Above the
limit the least recently used data are removed, except those in use."""


def main(words: Sequence[str]) -> int:
    arguments = parse_flags(words, VERB_FLAGS["env"])
    if arguments.has("help"):
        return show_help(HELP, asked=True)
    if arguments.overrides:
        raise ConfigError(f"effbench env takes no arguments; got {arguments.overrides[0]!r}.")
    from effbench.cache_dir import BUDGET, budget_bytes, cache_home, size_of
    from effbench.processors import usable
    from effbench.report.environment import environment
    from effbench.units import human_bytes

    threads, cache = usable(), cache_home()
    home, shown = os.path.expanduser("~"), str(cache)  # noqa: PTH111 - Path's raises where there is no home
    if shown.startswith(f"{home}/"):
        shown = f"~{shown.removeprefix(home)}"  # without the user's name
    # what every run records, with what depends on this shell: threads and cache
    facts = environment() | {"threads": threads.count, "threads_from": threads.why}
    facts |= {"cache": shown, "cache_bytes": size_of(cache), "cache_budget_bytes": budget_bytes(cache)}
    if arguments.has("json"):
        print_json(facts)
        return 0

    if facts["memory_bytes"]:
        # For people in GB; --json keeps the bytes.
        facts["memory"] = human_bytes(facts.pop("memory_bytes"))
    facts["cache_size"] = human_bytes(facts.pop("cache_bytes"))
    facts["cache_budget"] = f"{human_bytes(facts.pop('cache_budget_bytes'))} of decoded data ({BUDGET}=GB sets it)"
    width = max(map(len, facts))
    for name, value in facts.items():
        print(f"{name:<{width}}  {'-' if value is None else value}")
    return 0
