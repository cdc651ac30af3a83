"""effbench env: versions, processor and memory, as every run records them."""

from __future__ import annotations

import json
from collections.abc import Sequence

from effbench.commands.arguments import split
from effbench.errors import ConfigError

HELP = """usage: effbench env [--json]

Prints what a measured number should be quoted with: versions, processor, memory, GPU; and the threads that training
will use, what sets their number and how they wait for one another."""


def main(words: Sequence[str]) -> int:
    arguments = split(words, ["json"])
    if arguments.has("help"):
        print(HELP)
        return 0
    if arguments.overrides:
        raise ConfigError(f"effbench env takes no arguments; got {arguments.overrides[0]!r}.")
    from effbench.processors import usable
    from effbench.report.environment import environment
    from effbench.units import human_bytes

    threads = usable()
    facts = environment() | {"threads": threads.count, "threads_from": threads.why}
    if arguments.has("json"):
        print(json.dumps(facts, indent=2))
        return 0
    if facts["memory_bytes"]:
        facts["memory"] = human_bytes(facts.pop("memory_bytes"))
    width = max(map(len, facts))
    for name, value in facts.items():
        print(f"{name:<{width}}  {'-' if value is None else value}")
    return 0
