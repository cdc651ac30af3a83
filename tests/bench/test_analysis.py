"""Estimates, ratios and verdicts from planted times."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from effbench.bench.analysis import at_size, estimates, ratio
from effbench.bench.verdict import Candidate, trust, verdict
from effbench.report.deployment import OFFLINE, SINGLE_STREAM
from effbench.stats import paired_share_interval, percentile, positive_interval

ROUNDS, TURNS = 5, 4


def processes(
    seconds: float, size: int = 1, slow: float = 1.0, seed: int = 0, drift: float = 1.0
) -> list[dict[str, Any]]:
    """Processes of an arm: calls of about `seconds`, 1 % apart, in turns that the machine slows by up to `slow`."""
    chance, machine = np.random.default_rng(seed), np.random.default_rng(99)
    found = []
    for number in range(ROUNDS):
        turns = []
        for _ in range(TURNS):
            speed = machine.uniform(1.0, slow)
            calls = (seconds * speed * chance.normal(1.0, 0.01, 50)).tolist()
            turns.append({
                "calls_s": calls, "wall_s": sum(calls), "processor_s": 0.5 * sum(calls), "involuntary": 2,
                "others": 0.5,
            })  # fmt: skip
        found.append({
            "round": number, "batch_size": size, "turns": turns, "drift": drift, "import_s": 1.0, "load_s": 0.5,
            "first_s": 0.1, "peak_bytes": 10**8 + number,
        })  # fmt: skip
    return found


def test_estimates_are_numpys_of_the_planted_times() -> None:
    own = processes(0.01, size=8)
    found = estimates(own, 8)
    calls = [[call for turn in process["turns"] for call in turn["calls_s"]] for process in own]
    assert found["calls"] == ROUNDS * TURNS * 50
    for name, share in (("p90", 90), ("p95", 95), ("p99", 99)):
        each = [np.percentile(some, share, method="inverted_cdf") for some in calls]
        assert found["latency_s"][name]["estimate"] == pytest.approx(np.exp(np.log(each).mean()))
    means = np.array([np.mean(some) for some in calls])
    assert found["samples_per_s"]["estimate"] == pytest.approx(np.exp(np.log(8 / means).mean()))
    assert found["processor_share"] == pytest.approx(0.5)
    assert found["others_seen"] == 1.0
    assert found["peak_bytes"] == 10**8 + ROUNDS - 1


def test_a_load_that_compiled_is_told_apart() -> None:
    own = processes(0.01)
    assert estimates(own, 1)["cold_load_s"] is None
    own[0] |= {"cold": True, "load_s": 40.0}
    own[1]["load_s"] = own[2]["load_s"] = 0.75
    found = estimates(own, 1)
    assert (found["cold_load_s"], found["load_s"]) == (40.0, 0.625)
    assert estimates(own[:1], 1)["load_s"] == 40.0  # nothing else is known


def test_a_percentile_needs_enough_calls_of_a_process() -> None:
    own = processes(0.01)
    for process in own:
        process["turns"] = process["turns"][:1]
    found = estimates(own, 1)["latency_s"]
    assert found["p99"] is None  # of 50 calls it would be the slowest one
    assert found["p95"] is not None


@pytest.mark.parametrize("share", [0.5, 0.9, 0.95, 0.99, 1.0])
def test_percentile_is_the_inverted_distribution_function(share: float) -> None:
    for n in (1, 2, 9, 10, 11, 100, 101):
        values = sorted(np.random.default_rng(n).normal(size=n).tolist())
        assert percentile(values, share) == np.percentile(values, 100 * share, method="inverted_cdf")


def test_drift_of_the_machine_leaves_the_ratio_alone() -> None:
    """Both arms are slowed alike in each turn, by up to 3; unpaired means would differ by tens of percent."""
    found = ratio(processes(0.02, slow=3.0, seed=1), processes(0.01, slow=3.0, seed=2))
    assert found is not None
    assert found.estimate == pytest.approx(2.0, rel=0.01)
    assert 1.97 < found.low < found.high < 2.03


def test_rounds_are_paired_by_number_not_by_place() -> None:
    one, other = processes(0.02, slow=3.0, seed=1), processes(0.01, slow=3.0, seed=2)
    found = ratio(one[1:], other[::-1])
    assert found is not None
    assert found.n == ROUNDS - 1
    assert found.estimate == pytest.approx(2.0, rel=0.01)
    assert ratio(one[:1], other[1:]) is None


def test_positive_interval_covers_the_true_geometric_mean() -> None:
    chance = np.random.default_rng(5)
    hits = 0
    for _ in range(2000):
        found = positive_interval(np.exp(chance.normal(math.log(3.0), 0.5, 5)).tolist())
        hits += found.low <= 3.0 <= found.high
    assert 0.935 < hits / 2000 < 0.965


def test_paired_share_interval_covers_the_true_loss() -> None:
    """Where the textbook interval has no width, too: with 500 samples and 0.2 % that change, half of the time none."""
    chance, hits = np.random.default_rng(3), 0
    for _ in range(2000):
        lost, gained, _ = chance.multinomial(500, [0.002, 0.001, 0.997])
        found = paired_share_interval(int(lost), int(gained), 500)
        hits += found.low <= 0.001 <= found.high
        assert found.high > found.low
    assert hits / 2000 > 0.93
    whole = paired_share_interval(30, 10, 400)
    assert whole.estimate == pytest.approx(0.05)
    # by hand: 30.5 - 10.5 over 402, +- 1.96 * sqrt(41 - 400 / 402) / 402
    assert whole.high == pytest.approx(20 / 402 + 1.959964 * math.sqrt(41 - 400 / 402) / 402, rel=1e-5)


# --- verdicts


def candidates(**seconds: float) -> list[Candidate]:
    return [Candidate(name, processes(each, seed=place)) for place, (name, each) in enumerate(seconds.items())]


def test_the_fastest_is_the_winner_where_it_is_distinguished() -> None:
    arms = candidates(eager=0.01, onnxruntime=0.002, openvino_f32=0.003)
    found = verdict(SINGLE_STREAM, arms, arms[0], 1, 0.0)
    assert found is not None
    assert (found["winner"], found["not_distinguished"], found["reference"]) == ("onnxruntime", [], "eager")
    assert found["gain"]["estimate"] == pytest.approx(5.0, rel=0.02)


def test_equal_backends_have_no_winner() -> None:
    arms = candidates(eager=0.01, onnxruntime=0.002, openvino_f32=0.002)
    found = verdict(SINGLE_STREAM, arms, arms[0], 1, 0.0)
    assert found is not None
    assert found["winner"] is None
    assert {found["best"], *found["not_distinguished"]} == {"onnxruntime", "openvino_f32"}


@pytest.mark.parametrize(("margin", "winner"), [(0.0, "onnxruntime"), (0.4, "onnxruntime"), (0.6, None)])
def test_nobody_wins_by_less_than_the_margin(margin: float, winner: str | None) -> None:
    arms = candidates(onnxruntime=0.002, openvino_f32=0.003)
    found = verdict(SINGLE_STREAM, arms, None, 1, margin)
    assert found is not None
    assert found["winner"] == winner


def test_throughput_takes_each_backend_at_its_best_batch_size() -> None:
    small = Candidate("onnxruntime", [*processes(0.002, 1), *processes(0.064, 32, seed=1)])
    large = Candidate("eager", [*processes(0.01, 1, seed=2), *processes(0.032, 32, seed=3)])
    found = verdict(OFFLINE, [small, large], large, None, 0.0)
    assert found is not None
    assert (found["winner"], found["batch_size"]) == ("eager", 32)
    latency = verdict(SINGLE_STREAM, [small, large], large, 1, 0.0)
    assert latency is not None
    assert latency["winner"] == "onnxruntime"


def test_nothing_measured_is_no_verdict() -> None:
    assert verdict(SINGLE_STREAM, candidates(eager=0.01), None, 4, 0.0) is None
    assert verdict(OFFLINE, [], None, None, 0.0) is None


@pytest.mark.parametrize(
    ("again", "drift", "margin", "reasons"),
    [
        (0.01, 1.0, 0.0, 0),
        (0.0104, 1.0, 0.0, 0),  # within the bound of 5 %
        (0.013, 1.0, 0.3, 1),
        (0.0077, 1.0, 0.3, 1),  # the second arm is faster: as bad
        (0.01, 1.09, 0.0, 0),  # within the bound of 10 %
        (0.01, 1.25, 0.25, 1),
        (0.01, 0.8, 0.25, 1),
        (0.013, 1.5, 0.5, 2),
    ],
)
def test_aa_and_drift_beyond_their_bounds_limit_the_verdict(
    again: float, drift: float, margin: float, reasons: int
) -> None:
    first, second = processes(0.01, seed=1, drift=drift), processes(again, seed=2, drift=drift)
    found = trust(first, second, [*first, *second], [1])
    assert found.margin == pytest.approx(margin, abs=0.01)
    assert len(found.reasons) == reasons
    assert found.control[1].estimate == pytest.approx(again / 0.01, rel=0.01)


def test_a_single_disturbed_round_is_told_and_limits_nothing() -> None:
    first = processes(0.01, seed=1)
    first[2]["drift"] = 3.0
    found = trust(first, processes(0.01, seed=2), first, [1])
    assert (found.drift, found.margin) == (3.0, 0.0)


def test_without_a_control_a_factor_of_two_is_told_apart() -> None:
    first = processes(0.01, seed=1)
    found = trust(first, [], first, [1])
    assert (found.control, found.margin) == ({}, 1.0)
    assert found.reasons == ("the control, a second measurement of the same backend, failed at batch 1",)
    assert trust([], [], [], [1]).reasons == ()  # nothing was measured at this size


@pytest.mark.parametrize(("own", "again"), [(0, 0), (2, 5), (5, 2)])
def test_a_control_with_an_arm_that_failed_is_none(own: int, again: int) -> None:
    """The arm that is measured twice ended after so many rounds, once or both times; another one goes on."""
    first, second = processes(0.01, seed=1)[:own], processes(0.01, seed=2)[:again]
    found = trust(first, second, [*first, *second, *processes(0.002, seed=3)], [1])
    assert (found.control, found.margin) == ({}, 1.0)
    assert found.reasons == ("the control, a second measurement of the same backend, failed at batch 1",)


def test_at_size_selects_and_orders_by_round() -> None:
    every = [*processes(0.01, 8), *processes(0.01, 1)][::-1]
    assert [process["round"] for process in at_size(every, 8)] == list(range(ROUNDS))
