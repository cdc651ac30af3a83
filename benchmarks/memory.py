"""An optimizer's state, the most held beside it in a step, the ideal: python -m benchmarks.memory NAME MODEL"""

from __future__ import annotations

import json
import sys

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.arms_steps import STATE_BYTES, optimizer, parameters


def transient(chosen: torch.optim.Optimizer) -> int:
    """The most bytes allocated at once within one step."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        chosen.step()
    return most_held(seen)


def most_held(seen: profile) -> int:
    """The most bytes allocated at once while a profile with profile_memory was taken."""
    held = most = 0
    for event in seen.profiler.kineto_results.events():
        if event.name() == "[memory]":
            held += event.nbytes()
            most = max(most, held)
    return most


def main() -> None:
    name, model = sys.argv[1:]
    of = parameters(model)
    chosen = optimizer(name, of)
    chosen.step()
    chosen.step()
    tensors = [value for state in chosen.state.values() for value in state.values() if isinstance(value, torch.Tensor)]
    state = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
    ideal = sum(parameter.numel() for parameter in of) * STATE_BYTES[name.split("-")[-1 if name[:4] == "timm" else 0]]
    print(json.dumps([state, transient(chosen), ideal]))


if __name__ == "__main__":
    main()
