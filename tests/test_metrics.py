"""Each metric against scikit-learn, summed over uneven batches; how values read."""

from __future__ import annotations

import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from effbench import metrics
from effbench.metrics import (
    Accuracy,
    Display,
    Metric,
    as_recorded,
    display_in,
    display_of,
    metric_of,
    recorded_displays,
    shipped_mode,
)
from effbench.tasks.classification import Classification
from effbench.tasks.losses import CrossEntropy
from effbench.tasks.next_token import NextToken


def over_batches(metric: Metric, outputs: Tensor, targets: Tensor, size: int) -> float | None:
    total = torch.zeros(metric.size(outputs.shape[1]), dtype=torch.float64)
    for part, own in zip(outputs.split(size), targets.split(size), strict=True):
        total += metric.sums(part, own)
    return metric.value(total.tolist(), len(outputs))


@st.composite
def classified(draw: st.DrawFn) -> tuple[Tensor, Tensor, int]:
    """(outputs (N, K), labels (N,), size of a batch); some classes may occur in neither."""
    count, classes = draw(st.integers(1, 40)), draw(st.integers(2, 8))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    labels = torch.randint(0, draw(st.integers(1, classes)), (count,), generator=generator)
    return torch.randn(count, classes, generator=generator), labels, draw(st.integers(1, count))


@pytest.mark.slow
@settings(deadline=None)
@given(classified())
def test_metrics_of_classes_are_scikit_learns(sample: tuple[Tensor, Tensor, int]) -> None:
    from sklearn import metrics as reference

    outputs, labels, size = sample
    predicted, true = outputs.argmax(1).numpy(), labels.numpy()
    assert over_batches(metrics.Accuracy(), outputs, labels, size) == pytest.approx(
        reference.accuracy_score(true, predicted)
    )
    assert over_batches(metrics.MacroF1(), outputs, labels, size) == pytest.approx(
        reference.f1_score(true, predicted, average="macro", zero_division=0)
    )
    recalls = reference.recall_score(true, predicted, average=None, labels=np.unique(true), zero_division=0)
    assert over_batches(metrics.BalancedAccuracy(), outputs, labels, size) == pytest.approx(recalls.mean())
    k = min(5, outputs.shape[1])
    scores = (
        reference.top_k_accuracy_score(true, outputs.numpy(), k=k, labels=range(outputs.shape[1]))
        if (outputs.shape[1] > 2 and k < outputs.shape[1])
        else None
    )
    if scores is not None:
        assert over_batches(metrics.Top5Accuracy(), outputs, labels, size) == pytest.approx(scores)


def test_the_top_five_of_fewer_classes_are_all() -> None:
    assert over_batches(metrics.Top5Accuracy(), torch.randn(7, 3), torch.tensor([0, 1, 2, 0, 1, 2, 0]), 2) == 1.0


def test_a_mixed_label_counts_by_its_largest_share() -> None:
    outputs, mixed = torch.eye(3), torch.tensor([[0.6, 0.4, 0.0], [0.6, 0.4, 0.0], [0.1, 0.2, 0.7]])
    assert over_batches(metrics.Accuracy(), outputs, mixed, 2) == pytest.approx(2 / 3)


@pytest.mark.slow
@settings(deadline=None)
@given(st.integers(1, 30), st.integers(1, 6), st.integers(0, 2**31), st.integers(1, 30))
def test_metrics_of_labels_are_scikit_learns(count: int, labels: int, seed: int, size: int) -> None:
    from sklearn import metrics as reference

    generator = torch.Generator().manual_seed(seed)
    outputs = torch.randn(count, labels, generator=generator)
    targets = (torch.rand(count, labels, generator=generator) < 0.4).float()
    true, predicted = targets.numpy().astype(int), (outputs > 0).numpy().astype(int)
    assert over_batches(metrics.LabelAccuracy(), outputs, targets, size) == pytest.approx((true == predicted).mean())
    f1 = [reference.f1_score(true[:, k], predicted[:, k], zero_division=0) for k in range(labels)]
    assert over_batches(metrics.LabelMacroF1(), outputs, targets, size) == pytest.approx(np.mean(f1))


@pytest.mark.parametrize("size", [1, 4, 11])
def test_metrics_of_values_are_scikit_learns(size: int) -> None:
    from sklearn import metrics as reference

    generator = torch.Generator().manual_seed(0)
    outputs, targets = torch.randn(11, 3, generator=generator), torch.randn(11, 3, generator=generator)
    mae = reference.mean_absolute_error(targets, outputs)
    assert over_batches(metrics.MeanAbsoluteError(), outputs, targets, size) == pytest.approx(mae)
    rmse = reference.mean_squared_error(targets, outputs) ** 0.5
    assert over_batches(metrics.RootMeanSquaredError(), outputs, targets, size) == pytest.approx(rmse)


def test_names_are_unique_among_the_metrics_for_a_kind_of_target() -> None:
    for kind in ("class", "labels", "values"):
        names = [metric.name for metric in metrics.SHIPPED if kind in metric.targets]
        assert len(names) == len(set(names)) > 0


def test_a_share_reads_in_per_cent_and_a_loss_with_four_digits() -> None:
    assert display_of("val/acc").text(0.848) == "84.80 %"
    assert display_of("test/macro_f1").text(0.5, 0.0123) == "50.00 ± 1.23 %"
    assert display_of("train/loss").text(0.12345) == "0.1235"
    assert display_of("val/rmse").mode == "min"


def test_a_metric_of_ones_own_reads_as_its_run_recorded_it() -> None:
    own = {"kappa": Display("Cohen's kappa", "max", as_percent=True)}
    summary = {"task": {"metrics": as_recorded(own)}, "metrics": {"val/kappa": 0.5, "val/loss": 1.0}}
    assert recorded_displays(summary)["kappa"] == own["kappa"]
    assert recorded_displays({"metrics": {"val/kappa": 0.5}})["kappa"].text(0.5) == "0.5000"


def test_a_record_without_is_share_keeps_a_shipped_metric_s() -> None:
    """Records of effbench 0.1 do not have it: the interval of their accuracy stays."""
    older = as_recorded({"acc": display_of("acc"), "kappa": Display("kappa", "max"), "top5": Display("mine", "min")})
    for about in older.values():
        del about["is_share"]
    found = {name: display_in({"task": {"metrics": older}}, f"val/{name}") for name in older}
    assert {name: display.is_share for name, display in found.items()} == {"acc": True, "kappa": False, "top5": False}
    assert found["top5"].mode == "min"


def test_tokens_of_a_text_are_no_independent_samples() -> None:
    tokens = NextToken(CrossEntropy(), [Accuracy()], num_outputs=3)
    assert Classification(CrossEntropy(), [Accuracy()], num_outputs=3).displays["acc"].is_share
    assert not tokens.displays["acc"].is_share
    assert not display_in({"task": tokens.display_record()}, "test/acc").is_share
    older = tokens.display_record()
    del older["metrics"]["acc"]["is_share"]
    assert not display_in({"task": older}, "test/acc").is_share
    assert not recorded_displays({"task": older})["acc"].is_share


def test_a_recorded_display_shows_no_control_characters() -> None:
    """A run's summary may come from anyone, and its titles are printed and drawn."""
    recorded = {"a": {"title": "x\x1b[31m\ny", "mode": "min", "unit": "\u202es"}}
    assert display_of("val/a", recorded).axis == r"x\x1b[31m\ny (\u202es)"
    assert display_of("val/b\x1bloss").title == r"b\x1bloss"


def test_a_column_is_spelt_by_its_metric_and_one_comment_only() -> None:
    """A column that is spelt elsewhere would have to be changed with the metric: everything derives from Metric."""
    root = Path(metrics.__file__).parents[1]
    files = [path for folder in ("effbench", "conf") for path in (root / folder).rglob("*") if path.is_file()]
    texts = {path: path.read_text() for path in files if path.suffix in (".py", ".yaml")}
    spelt = [path.relative_to(root) for path, text in texts.items() if re.search(r"/acc\b", text)]
    assert sorted(map(str, spelt)) == ["conf/checkpoint/default.yaml", "effbench/metrics.py"]


def test_a_large_value_has_no_more_digits_than_float32_holds() -> None:
    mae = display_of("val/mae")
    shown = {84943.6725: "84943.67", 11188314523.42: "11188314523", 999.5: "999.5000", -1234.5678: "-1234.568"}
    assert {value: mae.text(value) for value in shown} == shown
    assert mae.text(84943.6725, 12.3456) == "84943.67 ± 12.35"
    assert mae.text(math.inf) == "inf"


def test_a_value_has_the_digits_that_its_metric_asks_for() -> None:
    display = Display("wrong answers", "min", digits=1)
    assert (display.text(12.25), display.text(3, 0.55)) == ("12.2", "3.0 ± 0.6")
    summary = {"task": {"metrics": {"errors": {**as_recorded({"errors": display})["errors"], "of_2030": 1}}}}
    assert recorded_displays(summary) == {"errors": display}  # a newer version may have recorded more


def test_a_name_ends_at_the_first_slash_only_after_a_split() -> None:
    """A user's metric err/top5, to be minimised, is not effbench's top5."""
    assert [metric_of(column) for column in ("val/acc", "acc", "val/err/top5", "err/top5")] == [
        "acc",
        "acc",
        "err/top5",
        "err/top5",
    ]
    recorded = as_recorded({"err/top5": Display("wrong", "min")})
    assert display_of("val/err/top5", recorded).mode == "min"
    assert shipped_mode("val/err/top5") is None
    assert list(recorded_displays({"metrics": {"val/err/top5": 1.0, "val/loss": 2.0}})) == ["err/top5", "loss"]


@pytest.mark.parametrize(
    "wrong", [{"mode": "down"}, {"title": 3}, {"unit": None}, {"as_percent": "no"}, {"digits": True}, {"digits": 99}]
)
def test_a_display_of_wrong_types_is_refused_or_ignored(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Display(**{"title": "kappa", "mode": "max", **wrong})  # type: ignore[arg-type]
    about = {"val_loss": {"title": "a loss", "mode": "min", **wrong}}
    assert display_of("val/val_loss", about) == Display("val_loss", "min")


@pytest.mark.parametrize("damaged", [{"kappa": {"title": 1, "wrong": 2}}, {"kappa": 3}, [], None])
def test_a_damaged_record_of_metrics_gets_default_displays(damaged: object) -> None:
    assert recorded_displays({"task": {"metrics": damaged}, "metrics": {"val/kappa": 0.5}})["kappa"].mode == "max"
