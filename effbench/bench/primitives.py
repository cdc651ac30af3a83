"""Two ways to compute the same kind of layer, in turns: convolutions by channels and size, attention by length."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from effbench.bench.memory import naming_lack_of_memory
from effbench.disturbance import OTHERS, calibration_s, drifted, others_share, reading
from effbench.jobs.processes import called, relaying
from effbench.stats import median, positive_interval

log = logging.getLogger(__name__)

SCHEMA = 1
KERNEL = 3
WINDOW, HEADS, HEAD_WIDTH = 64, 4, 32
WARM_UP_CALLS = 3
_TURN_S, _TURNS = 0.02, 15  # seconds of calls before the other layer has its turn; turns of a pair in a process


@dataclass(frozen=True)
class Pair:
    """Two layers that are compared.

    Attributes:
        case: what they have in common, for a row: {'channels': 64, 'size': 32}.
        ours: name and facts of the cheaper layer: {'parameters': ..., 'macs': ...}.
        other: the same of the layer that it replaces.
        formula: ratio of the MACs by the formula; None if there is none.
    """

    case: Mapping[str, int]
    ours: Mapping[str, Any]
    other: Mapping[str, Any]
    formula: float | None


def bench_pairs(kind: str, cases: Sequence[Mapping[str, int]], rounds: int, threads: int) -> dict[str, Any]:
    """Measure pairs of layers in processes of their own and return the record.

    Args:
        kind: 'layers' or 'attention'.
        cases: of the pairs: channels, size and batch of a convolution; tokens of an attention.
        rounds: processes.
        threads: of a process.

    Raises:
        EffbenchError: a process died, such as for lack of memory.
    """
    from effbench.report.environment import environment

    found: list[dict[str, Any]] = []
    with relaying() as relay:
        for number in range(rounds):
            log.info(f"round {number + 1} of {rounds}: {len(cases)} pairs")
            one = called(relay, timed_pairs, kind, cases, number, threads)
            if one is None:
                raise relay.interruption()
            found.append(one)
    rows = []
    for place, pair in enumerate(found[0]["pairs"]):
        each = [one["times"][place] for one in found]
        samples = {
            "ours_s": [median([ours for ours, _ in turns]) for turns in each],
            "other_s": [median([other for _, other in turns]) for turns in each],
            # within a turn, so that drift of the machine is in both
            "time_ratio": [median([ours / other for ours, other in turns]) for turns in each],
        }
        rows.append({**pair, **{name: asdict(positive_interval(values)) for name, values in samples.items()}})
    return {
        "schema_version": SCHEMA,
        "kind": kind,
        "options": {"rounds": rounds, "threads": threads, "turns": _TURNS, "turn_s": _TURN_S},
        "constants": {"kernel": KERNEL}
        if kind == "layers"
        else {"window": WINDOW, "heads": HEADS, "width": HEAD_WIDTH},
        "rows": rows,
        "drift": max(max(one["drift"], 1 / one["drift"]) for one in found),
        "disturbed_rounds": sum((one["others"] or 0) > OTHERS or drifted(one["drift"]) for one in found),
        "environment": environment(),
    }


def timed_pairs(kind: str, cases: Sequence[Mapping[str, int]], number: int, threads: int) -> dict[str, Any]:
    """Return facts and times of all pairs; called in a process of its own.

    Args:
        kind: 'layers' or 'attention'.
        cases: of the pairs.
        number: of the round; in every second one the pairs and their layers change their order.
        threads: of torch.
    """
    import torch

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    before, begin = calibration_s(), reading()
    make = _convolutions if kind == "layers" else _attentions
    pairs: list[dict[str, Any]] = [{} for _ in cases]
    times: list[list[tuple[float, float]]] = [[] for _ in cases]
    order = list(enumerate(cases))
    with torch.inference_mode():
        for place, case in order if number % 2 == 0 else order[::-1]:
            named = " ".join(f"{key}={value}" for key, value in case.items())
            with naming_lack_of_memory(f"mode={kind} {named}", "Measure smaller ones."):
                pair, ours, other = make(case)
                times[place] = _turns(ours, other, ours_first=number % 2 == 0)
            pairs[place] = {"case": dict(pair.case), "ours": dict(pair.ours), "other": dict(pair.other)}
            pairs[place]["formula"] = pair.formula
    end = reading()
    others = others_share(begin, end) if begin and end else None
    return {"pairs": pairs, "times": times, "others": others, "drift": calibration_s() / before}


def _turns(ours: Callable[[], Any], other: Callable[[], Any], ours_first: bool) -> list[tuple[float, float]]:
    """Return (seconds of a call of ours, of the other) for each turn."""
    for _ in range(WARM_UP_CALLS):
        ours()
        other()
    found = []
    for turn in range(_TURNS):
        if (turn % 2 == 0) == ours_first:
            mine = _slice(ours)
            found.append((mine, _slice(other)))
        else:
            its = _slice(other)
            found.append((_slice(ours), its))
    return found


def _slice(call: Callable[[], Any]) -> float:
    """Return the seconds of a call: the median of as many as _TURN_S holds, at least one."""
    times: list[float] = []
    end = time.perf_counter() + _TURN_S
    while not times or time.perf_counter() < end:
        begun = time.perf_counter()
        call()
        times.append(time.perf_counter() - begun)
    return median(times)


Made = tuple[Pair, Callable[[], Any], Callable[[], Any]]


def _convolutions(case: Mapping[str, int]) -> Made:
    """Return a depthwise separable convolution beside a standard one, with as many channels out as in."""
    import torch
    from torch import nn

    from effbench.models import accounting
    from effbench.models.layers import DepthwiseSeparableConv2d

    channels, size = case["channels"], case["size"]
    ours = DepthwiseSeparableConv2d(channels, channels, KERNEL, bias=False).eval()
    other = nn.Conv2d(channels, channels, KERNEL, padding=KERNEL // 2, bias=False).eval()
    # channels last, as convolutional nets run on a CPU by default
    x_BCHW = torch.randn(case["batch"], channels, size, size).contiguous(memory_format=torch.channels_last)
    ours, other = (layer.to(memory_format=torch.channels_last) for layer in (ours, other))  # type: ignore[assignment]
    facts = [
        {"parameters": accounting.parameters(layer).total, "macs": accounting.macs(layer, x_BCHW[:1]).macs}
        for layer in (ours, other)
    ]
    formula = 1 / channels + 1 / KERNEL**2  # arXiv:1704.04861, section 3.1
    return Pair(case, facts[0], facts[1], formula), lambda: ours(x_BCHW), lambda: other(x_BCHW)


def _attentions(case: Mapping[str, int]) -> Made:
    """Return local attention beside dense attention, from queries, keys and values on."""
    import torch

    from effbench.models.attention import LocalAttention, SelfAttention

    tokens, width = case["tokens"], HEADS * HEAD_WIDTH
    local, dense = LocalAttention(width, HEADS, WINDOW).eval(), SelfAttention(width, HEADS).eval()
    q, k, v = (torch.randn(1, HEADS, tokens, HEAD_WIDTH) for _ in range(3))
    # of scores and of the weighted sum of values, for the tokens that one sees: edges of the text see fewer
    seen = sum(min(place + WINDOW, tokens - 1) - max(place - WINDOW, 0) + 1 for place in range(tokens))
    macs = [2 * width * count for count in (seen, tokens**2)]
    parameters = sum(each.numel() for each in dense.parameters())
    facts = [{"parameters": parameters, "macs": count} for count in macs]
    formula = (2 * WINDOW + 1) / tokens if tokens > 2 * WINDOW else 1.0
    return (
        Pair(case, facts[0], facts[1], formula),
        lambda: local.mixed(q, k, v, None),
        lambda: dense.mixed(q, k, v, None),
    )
