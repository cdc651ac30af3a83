"""Schedules against closed forms and torch's own, and what holds for all of them at any setting."""

from __future__ import annotations

import copy
import io
import itertools
import json
import math
import warnings
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.optim import lr_scheduler

from effbench import build
from effbench.config import static_compose as static
from effbench.config.compose import compose
from effbench.errors import ConfigError
from effbench.schedulers import Constant, Cosine, Exponential, OneCycle, Plateau, Step, learning_rates

torch.set_num_threads(1)
many = settings(deadline=None, max_examples=60)

LR = 0.3


def sgd(lr=LR):
    return torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=lr)


def trace(make, steps, lr=LR):
    """The learning rate of each of `steps` optimizer steps under a schedule, ours or torch's."""
    optimizer = sgd(lr)
    schedule, rates = make(optimizer), []
    for _ in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return rates


# --- each shape against torch's own class


def test_constant_stays_at_the_optimizers_lr():
    assert trace(Constant, 5) == [LR] * 5


def test_step_equals_torchs_step_lr():
    expected = trace(partial(lr_scheduler.StepLR, step_size=7, gamma=0.3), 40)
    assert trace(partial(Step, step_size=7, gamma=0.3), 40) == pytest.approx(expected)


def test_exponential_equals_torch_exponential_lr_at_epoch_ends():
    expected = trace(partial(lr_scheduler.ExponentialLR, gamma=0.8), 6)
    assert trace(partial(Exponential, steps_per_epoch=10, gamma=0.8), 60)[::10] == pytest.approx(expected)


def test_exponential_falls_by_the_same_share_at_every_step():
    rates = trace(partial(Exponential, steps_per_epoch=10, gamma=0.8), 30)
    assert [b / a for a, b in itertools.pairwise(rates)] == pytest.approx([0.8**0.1] * 29)


def test_cosine_equals_torchs_cosine_annealing_lr():
    expected = trace(partial(lr_scheduler.CosineAnnealingLR, T_max=50, eta_min=0.1 * LR), 51)
    assert trace(partial(Cosine, total_steps=50, min_factor=0.1), 51) == pytest.approx(expected)


@pytest.mark.parametrize("total_steps", [2, 3, 7, 50, 101])
@pytest.mark.parametrize("pct_start", [0.0, 0.1, 0.3, 0.6, 0.9])
def test_one_cycle_equals_torchs_without_momentum_cycling(total_steps, pct_start):
    options = {"total_steps": total_steps, "pct_start": pct_start, "div_factor": 10, "final_div_factor": 100}
    torchs = partial(lr_scheduler.OneCycleLR, max_lr=LR, cycle_momentum=False, **options)
    assert trace(partial(OneCycle, **options), total_steps) == pytest.approx(trace(torchs, total_steps))


@pytest.mark.parametrize(("total_steps", "pct_start"), [(2, 0.5), (10, 0.1), (1, 1.0), (1, 0.3), (5, 1.0)])
def test_one_cycle_is_defined_where_torchs_divides_by_zero(total_steps, pct_start):
    rates = trace(partial(OneCycle, total_steps=total_steps, pct_start=pct_start), total_steps + 3)
    assert all(0 < rate <= LR for rate in rates)


def test_warmup_equals_torchs_linear_lr_followed_by_the_shape():
    def torchs(optimizer):
        rise = lr_scheduler.LinearLR(optimizer, start_factor=0.2, total_iters=10)
        fall = lr_scheduler.CosineAnnealingLR(optimizer, T_max=40)
        return lr_scheduler.SequentialLR(optimizer, [rise, fall], milestones=[10])

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own SequentialLR uses its deprecated epoch argument
        expected = trace(torchs, 50)
    assert trace(partial(Cosine, total_steps=50, warmup=10, warmup_start=0.2), 50) == pytest.approx(expected)


@many
@given(
    metrics=st.lists(st.floats(0, 10) | st.just(math.nan), max_size=60),
    mode=st.sampled_from(["min", "max"]),
    patience=st.integers(0, 3),
    cooldown=st.integers(0, 3),
    threshold=st.floats(0, 0.5),
    min_factor=st.sampled_from([0.0, 0.05]),
)
def test_plateau_decides_as_torchs_reduce_lr_on_plateau(metrics, min_factor, **options):
    ours, torchs = sgd(), sgd()
    plateau = Plateau(ours, factor=0.5, min_factor=min_factor, **options)
    reference = lr_scheduler.ReduceLROnPlateau(torchs, factor=0.5, min_lr=min_factor * LR, eps=0, **options)
    for metric in metrics:
        ours.step()
        plateau.step()
        plateau.observe(metric)
        reference.step(metric)
        assert ours.param_groups[0]["lr"] == pytest.approx(torchs.param_groups[0]["lr"])


# --- rules in numbers


def test_patience_2_reduces_at_third_check_without_improvement():
    optimizer = sgd(1.0)
    plateau = Plateau(optimizer, factor=0.1, patience=2)
    rates = []
    for loss in [1.0, 1.0, 1.0, 1.0]:  # the first sets the best
        plateau.observe(loss)
        rates.append(optimizer.param_groups[0]["lr"])
    assert rates == pytest.approx([1.0, 1.0, 1.0, 0.1])


def test_plateau_listens_to_no_validation_during_the_warmup():
    optimizer = sgd(1.0)
    plateau = Plateau(optimizer, patience=0, warmup=3)
    for loss in [1.0, 9.0, 9.0]:
        plateau.observe(loss)
        plateau.step()
    assert optimizer.param_groups[0]["lr"] == 1.0


def test_optimizer_steps_alone_leave_the_plateau_where_it_is():
    assert trace(partial(Plateau, patience=0), 20) == [LR] * 20


def test_every_other_schedule_ignores_validations():
    optimizer = sgd()
    schedule = Cosine(optimizer, total_steps=10)
    for _ in range(20):
        schedule.observe(1.0)
    assert optimizer.param_groups[0]["lr"] == LR


def test_each_group_keeps_its_own_base_lr():
    groups = [{"params": [torch.nn.Parameter(torch.zeros(1))], "lr": lr} for lr in (1.0, 0.01)]
    optimizer = torch.optim.SGD(groups)
    schedule = Cosine(optimizer, total_steps=10)
    for _ in range(5):
        schedule.step()
    assert schedule.get_last_lr() == pytest.approx([0.5, 0.005])


def test_a_learning_rate_kept_as_a_tensor_is_written_in_place():
    rate = torch.tensor(1.0)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=rate)
    kept = optimizer.param_groups[0]["lr"]
    schedule = Cosine(optimizer, total_steps=2)
    schedule.step()
    assert optimizer.param_groups[0]["lr"] is kept
    assert kept.item() == pytest.approx(0.5)


def test_schedule_step_before_optimizer_step_does_not_warn():
    optimizer = sgd()
    schedule = Cosine(optimizer, total_steps=4)
    schedule.step()  # fp16 scaling skipped the first optimizer step; a warning would be an error here
    optimizer.step()
    schedule.step()
    assert optimizer.param_groups[0]["lr"] == pytest.approx(LR / 2)


def test_schedule_follows_a_longer_total_steps_on_resume():
    short = Cosine(sgd(), total_steps=10)
    for _ in range(10):
        short.step()
    optimizer = sgd()
    longer = Cosine(optimizer, total_steps=20)
    longer.load_state_dict(short.state_dict())
    assert optimizer.param_groups[0]["lr"] == pytest.approx(LR / 2)


def test_learning_rates_are_multiples_of_the_base_lr():
    assert learning_rates(partial(Step, step_size=2, gamma=0.5), 5) == [1, 1, 0.5, 0.5, 0.25]


def test_a_schedule_is_a_torch_lr_scheduler():
    assert isinstance(Constant(sgd()), lr_scheduler.LRScheduler)


# --- rules for all, at any setting

WARMUPS = st.fixed_dictionaries({"warmup": st.integers(0, 30), "warmup_start": st.floats(0, 1)})
TOTALS = st.integers(31, 120)
UNIT, GAMMA = st.floats(0, 1), st.floats(0.01, 1)
SHAPES = st.one_of(
    st.builds(partial, st.just(Constant)),
    st.builds(partial, st.just(Step), step_size=st.integers(1, 40), gamma=GAMMA),
    st.builds(partial, st.just(Exponential), steps_per_epoch=st.integers(1, 40), gamma=GAMMA),
    st.builds(partial, st.just(Cosine), total_steps=TOTALS, min_factor=UNIT),
    st.builds(partial, st.just(Plateau), patience=st.integers(0, 2), factor=st.floats(0.1, 0.9)),
    st.builds(
        partial,
        st.just(OneCycle),
        total_steps=TOTALS,
        pct_start=UNIT,
        div_factor=st.floats(1, 100),
        final_div_factor=st.floats(1, 1e4),
    ),
)
SCHEDULES = st.builds(lambda shape, warmup: partial(shape, **warmup), SHAPES, WARMUPS)
STEPS = 150  # beyond every total_steps


@pytest.mark.slow
@many
@given(SCHEDULES)
def test_no_factor_is_negative_or_above_1(make):
    assert all(0 <= factor <= 1 + 1e-12 for factor in learning_rates(make, STEPS))


@many
@given(SCHEDULES)
def test_warmup_rises_linearly_to_the_start_of_the_shape(make):
    warmup, start = make.keywords["warmup"], make.keywords["warmup_start"]
    rates = learning_rates(make, STEPS)
    rise = rates[: warmup + 1]
    assert rise == sorted(rise)
    assert rise[0] == pytest.approx(rise[-1] * (start if warmup else 1))
    jumps = [b - a for a, b in itertools.pairwise(rise)]
    assert jumps == pytest.approx([rise[-1] * (1 - start) / max(warmup, 1)] * warmup, abs=1e-12)


@many
@given(SCHEDULES)
def test_after_the_warmup_the_schedule_equals_its_unwarmed_shape(make):
    warmup = make.keywords["warmup"]
    options = {key: value for key, value in make.keywords.items() if not key.startswith("warmup")}
    if "total_steps" in options:
        options["total_steps"] -= warmup
    unwarmed = learning_rates(partial(make.func, **options), STEPS)
    assert learning_rates(make, STEPS)[warmup:] == pytest.approx(unwarmed[: STEPS - warmup])


@pytest.mark.slow
@many
@given(SCHEDULES.filter(lambda make: "total_steps" in make.keywords))
def test_the_learning_rate_is_constant_after_total_steps(make):
    rates = learning_rates(make, STEPS)[make.keywords["total_steps"] :]
    assert len(set(rates)) == 1


def observed(schedule, optimizer, steps):
    rates = []
    for _ in range(steps):
        schedule.step()
        schedule.observe(1.0)
        rates.append(optimizer.param_groups[0]["lr"])
    return rates


@many
@given(SCHEDULES, st.integers(0, STEPS))
def test_a_state_restored_at_any_step_gives_the_same_trace(make, t):
    optimizer, fresh = sgd(), sgd()
    schedule, restored = make(optimizer), make(fresh)
    observed(schedule, optimizer, t)
    file = io.BytesIO()
    torch.save(schedule.state_dict(), file)
    file.seek(0)
    restored.load_state_dict(torch.load(file, weights_only=True))
    assert fresh.param_groups[0]["lr"] == optimizer.param_groups[0]["lr"]
    assert observed(restored, fresh, 20) == observed(schedule, optimizer, 20)


@pytest.mark.parametrize("t", range(25))
def test_plateau_restored_in_patience_or_cooldown_goes_on_alike(t):
    optimizer, fresh = sgd(), sgd()
    schedule, restored = (Plateau(o, factor=0.5, patience=2, cooldown=3, warmup=2) for o in (optimizer, fresh))
    observed(schedule, optimizer, t)
    restored.load_state_dict(schedule.state_dict())
    assert observed(restored, fresh, 20) == observed(schedule, optimizer, 20)


@many
@given(SCHEDULES, st.integers(0, 40))
def test_a_deepcopy_continues_exactly(make, t):
    optimizer = sgd()
    schedule = make(optimizer)
    observed(schedule, optimizer, t)
    optimizer_copy, schedule_copy = copy.deepcopy((optimizer, schedule))
    assert observed(schedule_copy, optimizer_copy, 20) == observed(schedule, optimizer, 20)


@many
@given(SCHEDULES)
def test_the_state_is_plain_numbers(make):
    assert all(type(value) in (int, float) for value in make(sgd()).state_dict().values())


# --- what is refused


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (partial(Step, step_size=0), r"scheduler\.step_size must be a whole number of steps >= 1; got 0\."),
        (partial(Step, step_size=1.5), r"scheduler\.step_size must be .* got 1\.5\."),
        (partial(Step, step_size=1, gamma=2), r"scheduler\.gamma must be in \(0, 1\]; got 2\."),
        (partial(Exponential, steps_per_epoch=5, gamma=0), r"scheduler\.gamma must be in \(0, 1\]; got 0\."),
        (partial(Exponential, steps_per_epoch=0), r"scheduler\.steps_per_epoch must be .* >= 1; got 0\."),
        (partial(Cosine, total_steps=0), r"scheduler\.total_steps must be a whole number of steps >= 1; got 0\."),
        (partial(Cosine, total_steps="total"), r"scheduler\.total_steps must be .* got 'total'\."),
        (partial(Cosine, total_steps=9, min_factor=1.1), r"scheduler\.min_factor must be in \[0, 1\]; got 1\.1\."),
        (
            partial(Cosine, total_steps=10, warmup=10),
            r"scheduler\.warmup must be shorter than total_steps \(10\); got 10\. .*'5%'",
        ),
        (
            partial(Cosine, total_steps=9, warmup=0.05),
            r"warmup must be .* got 0\.05\. For 5 % of the run write '5%'\.$",
        ),
        (partial(Step, step_size=0.333), r"For 33\.3 % of the run write '33\.3%'\.$"),
        (partial(Plateau, patience=0.5), r"scheduler\.patience must be .* got 0\.5\.$"),
        (partial(Constant, warmup=-1), r"scheduler\.warmup must be a whole number of steps >= 0; got -1\."),
        (partial(Constant, warmup=True), r"scheduler\.warmup must be .* got true\."),
        (partial(Constant, warmup_start=float("nan")), r"scheduler\.warmup_start must be in \[0, 1\]; got nan\."),
        (partial(Plateau, mode="up"), r"scheduler\.mode must be 'min' .* or 'max' .* got 'up'\."),
        (partial(Plateau, factor=1.0), r"scheduler\.factor must be in \(0, 1\); got 1\.0\."),
        (partial(Plateau, patience=-1), r"scheduler\.patience must be a whole number of validations >= 0; got -1"),
        (partial(Plateau, threshold=1), r"scheduler\.threshold must be in \[0, 1\); got 1\."),
        (partial(OneCycle, total_steps=9, pct_start=30), r"scheduler\.pct_start must be in \[0, 1\]; got 30\."),
        (partial(OneCycle, total_steps=9, div_factor=0.5), r"scheduler\.div_factor must be >= 1; got 0\.5\."),
    ],
)
def test_an_option_out_of_range_names_key_rule_and_value(make, message):
    with pytest.raises(ConfigError, match=message):
        make(sgd())


def test_another_schedules_state_is_refused_with_what_is_missing():
    with pytest.raises(ConfigError, match=r"Plateau needs \['reduction', .*\], got \['last_epoch'\]"):
        Plateau(sgd()).load_state_dict(Cosine(sgd(), total_steps=3).state_dict())


# --- the YAMLs


@pytest.mark.slow
@pytest.mark.parametrize("name", static.group_options()["scheduler"])
def test_every_scheduler_yaml_builds_a_3000_step_schedule(name):
    # patience=auto is a number by the time that a schedule is built (effbench/automatic.py)
    words = ["scheduler.patience=2"] if static.member("scheduler", name).get("patience") == "auto" else []
    over = sgd(1.0)
    built = build.schedule(compose([f"scheduler={name}", *words]), over, total_steps=3000, steps_per_epoch=100)
    rates = []
    for _ in range(3000):
        rates.append(over.param_groups[0]["lr"])
        over.step()
        built.step()
    assert max(rates) == pytest.approx(1.0)
    assert 0 < rates[0] <= 1


# --- used from Python, as torch's own are


def two_groups():
    optimizer = sgd(1.0)
    optimizer.add_param_group({"params": [torch.nn.Parameter(torch.zeros(1))], "lr": 0.1})
    return optimizer


@pytest.mark.parametrize("as_tensor", [False, True])
def test_a_group_added_later_follows_from_its_own_base_lr(as_tensor):
    optimizer = sgd(1.0)
    schedule = Cosine(optimizer, total_steps=10)
    for _ in range(3):
        optimizer.step(), schedule.step()
    lr = torch.tensor(0.1) if as_tensor else 0.1
    optimizer.add_param_group({"params": [torch.nn.Parameter(torch.zeros(1))], "lr": lr})
    for _ in range(2):
        optimizer.step(), schedule.step()
    whole = Cosine(two_groups(), total_steps=10)
    whole.step(5)
    assert [float(group["lr"]) for group in optimizer.param_groups] == pytest.approx(whole.get_last_lr())
    assert schedule._last_lr == schedule.get_last_lr()
    assert schedule.base_lrs == pytest.approx([1.0, 0.1])
    schedule.load_state_dict({"last_epoch": 0})
    assert schedule.get_last_lr() == pytest.approx([1.0, 0.1])


def test_groups_that_were_taken_away_are_missed_by_name():
    optimizer = two_groups()
    schedule = Constant(optimizer)
    del optimizer.param_groups[0]
    with pytest.raises(ConfigError, match=r"must keep the 2 parameter groups .* it has 1\. Make a new schedule"):
        schedule.step()


def test_last_lr_is_the_schedule_s_even_if_the_group_was_changed():
    schedule = Step(sgd(), step_size=1, gamma=0.5)
    schedule.optimizer.param_groups[0]["lr"] = 7.0
    assert schedule.get_last_lr() == schedule._last_lr == [LR]
    schedule.step()
    assert schedule.get_last_lr() == [LR / 2]


def test_torchs_sequential_lr_runs_one_after_another():
    optimizer = sgd()
    both = [Constant(optimizer, warmup=4), Cosine(optimizer, total_steps=10)]
    whole = lr_scheduler.SequentialLR(optimizer, both, milestones=[4])
    rates = []
    for _ in range(12):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step(), whole.step()
    assert rates == pytest.approx([*trace(partial(Constant, warmup=4), 4), *trace(partial(Cosine, total_steps=10), 8)])
    assert whole.get_last_lr() == [optimizer.param_groups[0]["lr"]]


def test_schedule_continues_from_any_step_and_from_a_json_state():
    through = Plateau(sgd(), patience=0)
    for _ in range(3):
        through.step(), through.observe(1.0)
    restored = Plateau(sgd(), patience=0)
    restored.load_state_dict(json.loads(json.dumps(through.state_dict())))
    assert restored.get_last_lr() == through.get_last_lr() == [pytest.approx(LR / 100)]
    cosine = Cosine(sgd(), total_steps=10)
    cosine.step(torch.tensor(5))
    assert cosine.get_last_lr() == [pytest.approx(LR / 2)]
    assert json.loads(json.dumps(cosine.state_dict())) == {"last_epoch": 5}


def test_a_value_out_of_range_is_a_value_error_as_torchs():
    with pytest.raises(ValueError, match=r"scheduler\.gamma"):
        Step(sgd(), step_size=1, gamma=2.0)
