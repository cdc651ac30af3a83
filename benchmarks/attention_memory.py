"""Bytes that attention needs beside its inputs, mask included: python -m benchmarks.attention_memory KIND TOKENS"""

from __future__ import annotations

import sys

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.arms_text import attention_pass
from benchmarks.memory import most_held


def main() -> None:
    kind, tokens = sys.argv[1], int(sys.argv[2])
    torch.set_num_threads(2)
    run = attention_pass(kind, tokens)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        run()
    mask = 4 * tokens**2 if kind == "dense" else 0  # prebuilt, and so not in the profile
    print(most_held(seen) + mask)


if __name__ == "__main__":
    main()
