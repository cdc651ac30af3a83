"""`effbench summary`: the published sizes come out, and the bytes an optimizer keeps."""

from __future__ import annotations

import json

import pytest

from tests.cli.conftest import Effbench

# Parameters and multiply-accumulates of torchvision's documentation, 3 x 224 x 224 and 1000 classes.
PUBLISHED = {"mobilenet": (2.54e6, 0.06e9), "swin": (28.29e6, 4.49e9), "resnet152": (60.19e6, 11.51e9)}
# Of float32 state a parameter.
STATE_BYTES = {"sgd": 4, "lion": 4, "rmsprop": 4, "adam": 8, "adamw": 8, "nadamw": 8, "adan": 16}


@pytest.mark.proof
@pytest.mark.slow
@pytest.mark.parametrize("model", PUBLISHED)
def test_the_published_sizes_come_out(model: str, effbench: Effbench) -> None:
    code, out, _ = effbench("summary", f"model={model}", "input=3x224x224", "classes=1000", "--json")
    assert code == 0
    [row] = json.loads(out)
    parameters, macs = PUBLISHED[model]
    assert row["parameters"] == pytest.approx(parameters, rel=2e-3)
    assert row["macs"] == pytest.approx(macs, rel=2e-3, abs=0.005e9)
    assert row["flops"] == 2 * row["macs"]
    assert row["weight_bytes"] == pytest.approx(4 * row["parameters"], rel=1e-2)  # and batch norm's statistics
    assert row["gradient_bytes"] == 4 * row["parameters"]


@pytest.mark.proof
@pytest.mark.slow
def test_an_optimizer_s_state_is_4_8_or_16_bytes_a_parameter(effbench: Effbench) -> None:
    optimizers = ",".join(STATE_BYTES)
    _, out, _ = effbench("summary", "model=mlp", f"optimizer={optimizers}", "input=3x32x32", "classes=10", "--json")
    rows = json.loads(out)
    assert [row["config"] for row in rows] == [f"model=mlp optimizer={name}" for name in STATE_BYTES]
    for row, per_parameter in zip(rows, STATE_BYTES.values(), strict=True):
        counters = 1000  # a step count for each tensor
        assert 0 <= row["optimizer_state_bytes"] - per_parameter * row["parameters"] < counters


@pytest.mark.slow
def test_muon_s_state_is_4_bytes_for_matrices_8_for_others(effbench: Effbench) -> None:
    words = ["model=mlp", "model.hidden=[64,32,16]", "optimizer=muon", "input=3x32x32", "classes=10"]
    [row] = json.loads(effbench("summary", *words, "--json")[1])
    matrices = 64 * 32 + 32 * 16
    assert 0 <= row["optimizer_state_bytes"] - 8 * row["parameters"] + 4 * matrices < 100  # step counts


@pytest.mark.slow
def test_an_average_of_the_optimizer_s_own_is_counted(effbench: Effbench) -> None:
    pytest.importorskip("schedulefree")
    words = ["model=mlp", "optimizer=schedule_free", "input=3x32x32", "classes=10"]
    [row] = json.loads(effbench("summary", *words, "--json")[1])
    assert row["optimizer_state_bytes"] == 8 * row["parameters"]
    assert row["ema_bytes"] == row["weight_bytes"] == 4 * row["parameters"]


@pytest.mark.slow
def test_depthwise_separable_network_has_a_fraction_of_the_macs(effbench: Effbench) -> None:
    _, out, _ = effbench("summary", "model=cnn,ds_cnn", "input=3x32x32", "classes=10", "--json")
    standard, separable = json.loads(out)
    assert separable["macs"] < standard["macs"] / 4


@pytest.mark.slow
def test_separable_layers_show_counted_ratio_and_closed_form(effbench: Effbench) -> None:
    words = ["model=cnn,ds_cnn", "model.channels=[8,16]", "model.kernel_size=5", "input=3x32x32", "classes=10"]
    _, out, _ = effbench("summary", *words, "--json")
    standard, separable = json.loads(out)
    assert standard["separable_layers"] == []
    first, second = separable["separable_layers"]
    assert (first["macs"], first["standard_macs"]) == (32 * 32 * 3 * (25 + 8), 32 * 32 * 25 * 3 * 8)
    assert (second["macs"], second["standard_macs"]) == (16 * 16 * 8 * (25 + 16), 16 * 16 * 25 * 8 * 16)
    for layer, c_out in ((first, 8), (second, 16)):
        assert layer["ratio"] == pytest.approx(1 / c_out + 1 / 25)
        assert layer["theory"] == pytest.approx(layer["ratio"])
    assert standard["macs"] - separable["macs"] == sum(
        layer["standard_macs"] - layer["macs"] for layer in (first, second)
    )
    code, out, _ = effbench("summary", *words)
    assert code == 0
    table = out[out.index("1/C_out + 1/k^2") :].splitlines()[1:]
    assert [line.split()[-2:] for line in table if line.strip()] == [["0.1650", "0.1650"], ["0.1025", "0.1025"]]


@pytest.mark.slow
@pytest.mark.parametrize(("model", "shown"), [("ds_cnn", True), ("cnn", False)])
def test_separable_table_is_shown_only_with_separable_layers(model: str, shown: bool, effbench: Effbench) -> None:
    _, out, _ = effbench("summary", f"model={model}", "input=3x32x32", "classes=10")
    assert ("1/C_out + 1/k^2" in out) == shown


@pytest.mark.slow
def test_summary_defaults_to_the_config_and_imagenet_settings(effbench: Effbench) -> None:
    code, out, err = effbench("summary", "model=mlp", "optimizer=lion")
    assert (code, err) == (0, "")
    assert "1x28x28, 10 classes" in out
    assert "3x224x224, 1000 classes" in out
    assert "hidden1" in out  # a line a part
    assert "FLOPs (2 x MACs)" in out


@pytest.mark.slow
def test_activations_grow_with_the_batch_and_the_rest_does_not(effbench: Effbench) -> None:
    _, out, _ = effbench("summary", "model=mlp", "data.batch_size=8,64", "input=1x28x28", "classes=10", "--json")
    small, large = json.loads(out)
    assert large["activation_bytes"] > 4 * small["activation_bytes"]
    for key in ("parameters", "macs", "weight_bytes", "optimizer_state_bytes"):
        assert large[key] == small[key]
    parts = ("weight_bytes", "gradient_bytes", "optimizer_state_bytes", "ema_bytes", "activation_bytes")
    assert large["step_bytes"] == sum(large[part] for part in parts)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "floats"),  # that the loss keeps, and a model without hidden layers nothing
    [
        (["task=classification", "loss=cross_entropy"], 64 * 10 + 1),
        (["task=regression"], 64 * 10),
        (["task=multilabel", "loss=bce"], 64 * 10 + 10),
    ],
    ids=["classification", "regression", "multilabel"],
)
def test_kept_activations_are_those_of_the_task_s_loss(words: list[str], floats: int, effbench: Effbench) -> None:
    of_model = ["model=mlp", "model.hidden=[]", "data.batch_size=64", "input=1x28x28", "classes=10", "--json"]
    code, out, err = effbench("summary", *of_model, *words)
    assert (code, err) == (0, "")
    assert json.loads(out)[0]["activation_bytes"] == 4 * floats


@pytest.mark.slow
def test_a_loss_that_is_not_the_task_s_is_refused_with_a_remedy(effbench: Effbench) -> None:
    code, out, err = effbench("summary", "model=mlp", "task=regression", "loss=focal", "input=1x28x28", "classes=10")
    assert (code, out) == (2, "")
    assert "loss=mse" in err


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["input=3x32"], ["3x224x224", "'3x32'"]),
        (["input=0x32x32"], ["'0x32x32'"]),
        (["classes=ten"], ["classes", "'ten'"]),
        (["model=mpl"], ["Did you mean 'mlp'?"]),
        (["model=zzz*"], ["zzz*"]),
        (["model=glob(zzz*)"], ["matches nothing"]),
        (["mlp"], ["'mlp'", "key=value"]),
        (["model=vit_tiny", "input=3x30x30"], ["data.image_size", "4 px"]),
        (["model=mlp", "data=image_folder", "data.root=nowhere"], ["nowhere", "input=3x224x224"]),
    ],
    ids=lambda value: value[0],
)
def test_summary_refuses_invalid_words_with_the_reason(
    words: list[str], expected: list[str], effbench: Effbench
) -> None:
    code, out, err = effbench("summary", *words)
    assert (code, out) == (2, "")
    assert all(part in err for part in expected), err


@pytest.mark.slow
def test_activations_are_counted_at_the_batch_size_of_training(effbench: Effbench) -> None:
    words = ["data=synthetic", "data.num_train=100", "data.image_size=8", "data.batch_size=auto"]
    words += ["model=mlp", "model.hidden=[]"]
    rows = json.loads(effbench("summary", *words, "--json")[1])
    # auto for 100 images, and for the unread images of the papers
    assert [row["batch_size"] for row in rows] == [8, 64]
    assert rows[0]["activation_bytes"] == 4 * (8 * 10 + 1)
    assert " at batch 8 " in effbench("summary", *words)[1]


@pytest.mark.slow
def test_summary_states_the_reference_of_the_data(effbench: Effbench) -> None:
    # and of a model without a single multiplication
    stated = (
        "on these data, linear n-grams: test accuracy 87.5 % (python -m benchmarks.text_baselines language_id, n = 1)"
    )
    _, out, _ = effbench("summary", "data=language_id", "model=ngrams", "model.buckets=100", "model.hidden=0")
    assert stated in out.splitlines()
    _, out, _ = effbench("summary", "data=synthetic", "model=mlp")
    assert "on these data" not in out
