"""The numbers of the explanations, against closed forms and torch's own results."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from effbench.errors import ConfigError
from effbench.explain import TOPICS
from effbench.explain.content import Drawing, Listing, Paragraph, Request, Table
from effbench.explain.examples import agreement
from effbench.explain.explaining import explained
from effbench.explain.topics.attention import (
    KEYS,
    MOST_READ,
    QUERIES,
    VALUES,
    Attended,
    attended,
    attention_by_hand,
    shown_weights,
)
from effbench.explain.topics.convolution import layer_cost, output_side
from effbench.explain.topics.depthwise import intensity, layers, ratio
from effbench.explain.topics.mixed_precision import lost, relative_error
from effbench.explain.topics.neuron import Neuron
from effbench.explain.topics.optimizers import START, STEEP, TURN, contours, gradient, path, surface
from effbench.explain.topics.quantization import affine, noise_ratio, symmetric
from effbench.explain.topics.schedulers import STEPS, factors
from effbench.models.attention import LocalAttention, SelfAttention
from effbench.models.gpt import GPT
from effbench.models.recurrent import LstmAttention
from effbench.models.transformer import TransformerEncoder
from tests.explain.examples import TRAINED, explanation

QUICK = [topic for topic in TOPICS if topic not in (*TRAINED, "optimizers")]


@pytest.mark.spread(2)
@pytest.mark.slow
@pytest.mark.parametrize("topic", QUICK)
def test_a_topic_has_text_figures_references_and_numbers(topic):
    found = explanation(topic)
    kinds = {type(part) for part in found.parts}
    assert found.topic == topic
    assert {Paragraph, Table, Drawing} <= kinds
    assert found.references
    assert all(isinstance(value, int | float) for value in found.values.values())
    for listing in (part for part in found.parts if isinstance(part, Listing)):
        assert max(map(len, listing.text.splitlines())) <= 76
    for drawing in (part for part in found.parts if isinstance(part, Drawing)):
        assert drawing.caption
        assert all(figure.text for figure in drawing.figures)


def test_threads_and_generator_are_left_as_they_were():
    threads, state = torch.get_num_threads(), torch.get_rng_state()
    explained("neuron")
    assert torch.get_num_threads() == threads
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("request_", [Request(text="a text"), Request(run=object())])  # type: ignore[arg-type]
def test_only_some_topics_take_a_run_or_a_text(request_):
    with pytest.raises(ConfigError, match="topic neuron takes no"):
        explained("neuron", request_)


def test_agreement_counts_decimals():
    assert agreement([0.1, 1.0], [0.1, 1.0004]) == "to 3 decimals"
    assert agreement([0.1], [0.1]) == "to 12 decimals"


# --- neuron -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", [0, 1])
def test_the_neurons_gradient_is_that_of_autograd(target):
    neuron, inputs = Neuron((0.3, -0.7, 0.2), 0.4), (1.5, -2.0, 0.25)
    w = torch.tensor([*neuron.weights, neuron.bias], dtype=torch.float64, requires_grad=True)
    loss = F.binary_cross_entropy(
        torch.sigmoid(w @ torch.tensor([*inputs, 1.0], dtype=torch.float64)), torch.tensor(float(target)).double()
    )
    loss.backward()
    weights, bias = neuron.gradient(inputs, target)
    np.testing.assert_allclose([*weights, bias], w.grad, rtol=1e-12)
    assert neuron.loss(inputs, target) == pytest.approx(loss.item(), rel=1e-12)
    after = neuron.stepped(inputs, target, 0.1)
    np.testing.assert_allclose([*after.weights, after.bias], (w - 0.1 * w.grad).detach(), rtol=1e-12)


@pytest.mark.slow
def test_the_text_of_neuron_states_its_numbers():
    values = explanation("neuron").values
    assert values["error"] == pytest.approx(values["p"] - 1)  # a malignant mass
    assert values["quotient"] == pytest.approx(values["dw1"], rel=1e-6)
    assert values["loss_after"] < values["loss"]
    assert values["last_loss"] < values["first_loss"]
    assert 0.85 < values["test_accuracy"] < 0.95


# --- convolutions -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("k", "padding", "stride"), [(3, 1, 1), (3, 0, 1), (3, 1, 2), (5, 2, 3), (2, 0, 2)])
def test_the_side_of_an_output_is_torchs(k, padding, stride):
    made = nn.Conv2d(1, 1, k, stride, padding)(torch.zeros(1, 1, 28, 28))
    assert output_side(28, k, padding, stride) == made.shape[-1]


@pytest.mark.slow
def test_a_convolution_costs_what_the_formula_says():
    values = explanation("convolution").values
    assert values["by_hand"] == pytest.approx(values["output"], rel=1e-12)
    assert values["flipped_sum"] == pytest.approx(0, abs=1e-12)
    for key, value in values.items():
        kind, *sizes = key.split("_")
        if kind in ("parameters", "macs"):
            assert value == layer_cost(*map(int, sizes))[kind == "macs"]


@pytest.mark.slow
def test_a_separable_convolution_costs_what_the_paper_says():
    values = explanation("depthwise").values
    counted = [key.removeprefix("macs_") for key in values if key.startswith("macs_")]
    assert len(counted) >= 4
    for key in counted:
        _, _, c_out, k = map(int, key.split("_"))
        for what in ("macs", "parameters"):
            assert values[f"separable_{what}_{key}"] / values[f"{what}_{key}"] == pytest.approx(ratio(c_out, k))


def test_bytes_of_the_intensity_are_those_of_the_tensors():
    standard, _ = layers(8, 16, 3)
    x = torch.zeros(1, 8, 10, 10)
    moved = sum(each.numel() * each.element_size() for each in (x, standard(x), standard.weight))
    assert intensity(10, 8, 16, 3) == pytest.approx(100 * 8 * 16 * 9 / moved)
    assert intensity(10, 8, 8, 3, groups=8) < 2


# --- attention --------------------------------------------------------------------------------------------------------


def test_attention_by_hand_is_torchs():
    scores, weights, outputs = attention_by_hand(QUERIES, KEYS, VALUES)
    q, k, v = (torch.tensor(each, dtype=torch.float64)[None, None] for each in (QUERIES, KEYS, VALUES))
    expected = F.scaled_dot_product_attention(q, k, v)[0, 0]
    np.testing.assert_allclose(outputs, expected, rtol=1e-12)
    np.testing.assert_allclose(np.sum(weights, 1), 1)
    assert scores[1][1] == pytest.approx(2 / math.sqrt(2))


def model_of(kind):
    torch.manual_seed(0)
    if kind == "lstm":
        return LstmAttention(3, 20, dim=8, hidden=6).eval()
    if kind == "gpt":
        return GPT(20, 16, dim=8, depth=2, heads=2).eval()
    window = 2 if kind == "local" else None
    return TransformerEncoder(3, 20, 16, dim=8, depth=2, heads=2, window=window).eval()


@pytest.mark.parametrize("kind", ["full", "local", "lstm", "gpt"])
def test_the_weights_shown_are_those_that_the_model_uses(kind):
    model, tokens = model_of(kind), torch.tensor([[3, 7, 7, 1, 19, 5]])
    last, layers, logits = attended(model, tokens)
    torch.testing.assert_close(logits, model(tokens)[0])
    torch.testing.assert_close(last.weights.sum(-1), torch.ones(last.weights.shape[:-1]))
    if kind == "local":
        outside = (torch.arange(6)[:, None] - torch.arange(6)).abs() > 2
        assert not last.weights[:, outside].any()
    if kind == "gpt":
        assert not last.weights.triu(1).any()
    assert layers == (1 if kind == "lstm" else 2)
    assert last.name == ("additive attention" if kind == "lstm" else "blocks.1.attention")
    assert not any(module._forward_pre_hooks for module in model.modules())


@pytest.mark.parametrize(
    "layer",
    [
        SelfAttention(8, 2),
        SelfAttention(8, 2, causal=True, rotary=True),
        LocalAttention(8, 2, window=3, num_global=1),
        LocalAttention(8, 2, window=2, causal=True),
    ],
)
def test_values_mixed_by_the_weights_are_the_layers_output(layer):
    torch.manual_seed(0)
    x, mask = torch.randn(2, 9, 8), torch.ones(2, 9, dtype=torch.bool)
    mask[1, 7:] = False
    weights = layer.weights(x, mask)
    v = layer.qkv(x)[..., 16:].view(2, 9, 2, 4).transpose(1, 2)
    mixed = layer.out((weights @ v).transpose(1, 2).flatten(2))
    torch.testing.assert_close(mixed[mask], layer(x, mask)[mask], rtol=1e-5, atol=1e-6)


def caption_and_titles(layers, heads, tokens, causal=False):
    """Of random weights: the caption, the figures as text, the numbers, and the weights of the last layer."""
    logits = torch.randn(layers, heads, tokens, tokens, generator=torch.Generator().manual_seed(0)) * 3
    if causal:
        logits = logits.masked_fill(torch.ones(tokens, tokens).triu(1).bool(), -torch.inf)
    weights, values = logits.softmax(-1), {}
    last = Attended("last", weights[-1])
    drawing = next(part for part in shown_weights(last, layers, [f"t{at}" for at in range(tokens)], values))
    return drawing.caption, [figure.text for figure in drawing.figures], values, weights[-1]


def test_attention_says_what_part_of_the_weights_is_shown():
    caption, texts, values, weights = caption_and_titles(layers=3, heads=6, tokens=50)
    extent = "Shown: the last of 3 attention layers, heads 1 to 4 of 6, the first 40 of 50 tokens. "
    assert caption.startswith(extent)
    shown = weights[:4, :40, :40]
    assert f"the largest of all is {float(shown.max()):.2f}. " in caption
    part = float(shown.sum(-1).mean())
    assert caption.endswith(f"adds up to 1.00 over all 50 tokens, to {part:.2f} over those shown.")
    assert len(texts) == 4
    for text, head in zip(texts, shown, strict=True):
        share, place = head.mean(0).max(0)
        assert f"most go to t{int(place)} {100 * float(share):.0f} %" in text
    np.testing.assert_allclose([values[f"received {at}"] for at in range(40)], shown.mean((0, 1)), rtol=1e-5)
    assert "received 40" not in values


def test_attention_shown_whole_has_a_plain_caption():
    caption, *_ = caption_and_titles(layers=1, heads=1, tokens=5)
    assert caption.startswith("Row: the token that looks.")
    assert caption.endswith("Each row adds up to 1.00.")
    # of a causal layer the first rows see the first tokens only
    caption, *_ = caption_and_titles(layers=1, heads=2, tokens=50, causal=True)
    assert caption.startswith("Shown: the first 40 of 50 tokens. ")
    assert caption.endswith("Each row adds up to 1.00.")


def test_only_the_last_layer_s_weights_are_computed(monkeypatch):
    """They are T x T numbers a head, gigabytes for a long text in a deep model."""
    computed, weights = [], SelfAttention.weights
    monkeypatch.setattr(SelfAttention, "weights", lambda self, *inputs: computed.append(self) or weights(self, *inputs))
    model = model_of("full")
    attended(model, torch.tensor([[3, 7, 7, 1]]))
    assert computed == [model.blocks[1].attention]


def test_a_text_of_too_many_tokens_is_refused():
    with pytest.raises(ConfigError, match=r"may have 2,048 tokens at most. Give a shorter text."):
        attended(model_of("gpt"), torch.ones(1, MOST_READ + 1, dtype=torch.int64))


def test_a_model_without_attention_is_refused():
    with pytest.raises(ConfigError, match="no attention layers"):
        attended(nn.Linear(2, 2), torch.zeros(1, 2))


# --- optimizers and schedules -----------------------------------------------------------------------------------------


def test_gradient_descent_follows_the_closed_form():
    found = path("torch.optim.SGD", {}, 0.03, steps=5)
    turn = np.array([[math.cos(TURN), math.sin(TURN)], [-math.sin(TURN), math.cos(TURN)]])
    along, across = turn @ START
    expected = turn.T @ [along * (1 - 0.03) ** 5, across * (1 - 0.03 * STEEP) ** 5]
    np.testing.assert_allclose(found.places[-1], expected, rtol=1e-10)


def test_lion_moves_each_coordinate_by_lr():
    found = path("effbench.optimizers.Lion", {"betas": [0.9, 0.99]}, 0.01, steps=3)
    np.testing.assert_allclose(np.abs(np.diff(found.places, axis=0)), 0.01, rtol=1e-9)


def test_muon_moves_both_entries_alike_and_a_path_can_diverge():
    moves = np.abs(np.diff(path("effbench.optimizers.Muon", {"ns_dtype": "float64"}, 0.01, steps=1).places, axis=0))[0]
    assert moves[0] == pytest.approx(moves[1], rel=0.6)  # singular values end between 0.7 and 1.2
    assert path("torch.optim.SGD", {}, 1.0).score > 1e100


def test_the_gradient_of_the_surface_is_that_of_autograd():
    place = torch.tensor([0.3, -1.2], dtype=torch.float64, requires_grad=True)
    surface(*place).backward()
    np.testing.assert_allclose(gradient(0.3, -1.2), place.grad, rtol=1e-12)


def test_contours_lie_on_the_surface():
    for guide in contours():
        heights = [surface(x, y) for x, y in guide.points]
        np.testing.assert_allclose(heights, heights[0], rtol=1e-9)


@pytest.mark.slow
def test_schedules_follow_their_formulas():
    cosine = factors("cosine", "scheduler.warmup=0")
    expected = [(1 + math.cos(math.pi * step / STEPS)) / 2 for step in range(STEPS)]
    np.testing.assert_allclose(cosine, expected, atol=1e-12)
    assert set(factors("constant")) == {1.0}
    plateau = factors("plateau", "scheduler.patience=2")
    # the validation after the last step reduces it again, for no step
    assert [plateau[0], round(plateau[STEPS // 2], 6), round(plateau[-1], 6)] == [1.0, 1.0, 0.1]


@pytest.mark.slow
def test_a_schedule_ends_with_the_rate_of_the_last_step():
    assert len(factors("step")) == STEPS
    # two drops: after the third there is no step
    assert explanation("schedulers").values["step_1"] == pytest.approx(0.01)


# --- number formats ---------------------------------------------------------------------------------------------------


def test_lost_counts_what_became_zero():
    reference = torch.tensor([1.0, 2.0**-24, 2.0**-26, 0.0, -(2.0**-30)], dtype=torch.float64)
    assert lost(reference, reference.half()) == 0.5
    assert lost(reference, reference.bfloat16()) == 0
    assert lost(reference, (reference * 2**16).half()) == 0
    assert relative_error(reference, reference) == 0
    assert relative_error(torch.tensor([3.0, 4.0]).double(), torch.tensor([3.0, 4.5])) == pytest.approx(0.1)


@pytest.mark.parametrize("per_row", [False, True])
def test_symmetric_numbers_are_torchs_fake_quantization(per_row):
    weights = torch.randn(6, 50, generator=torch.Generator().manual_seed(0))
    own = symmetric(weights, per_row=per_row)
    if per_row:
        zeros = torch.zeros(6, dtype=torch.int32)
        expected = torch.fake_quantize_per_channel_affine(weights, own.scale.flatten(), zeros, 0, -127, 127)
        np.testing.assert_allclose(own.scale.flatten(), weights.abs().amax(1) / 127)
    else:
        expected = torch.fake_quantize_per_tensor_affine(weights, float(own.scale), 0, -127, 127)
    torch.testing.assert_close(own.values, expected)
    assert int(own.numbers.abs().max()) == 127


def test_affine_numbers_keep_zero_and_are_torchs():
    values = torch.rand(1000, generator=torch.Generator().manual_seed(0)) * 3 - 0.5
    own = affine(values)
    expected = torch.fake_quantize_per_tensor_affine(values, float(own.scale), own.zero_point, 0, 255)
    torch.testing.assert_close(own.values, expected)
    assert affine(torch.tensor([0.0, 6.0])).zero_point == 0
    assert float(own.scale) * (own.zero_point - own.zero_point) == 0


def test_a_bit_is_worth_six_decibels():
    weights = torch.rand(20_000, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64) - 0.5
    gain = noise_ratio(weights, symmetric(weights, 8)) - noise_ratio(weights, symmetric(weights, 7))
    assert gain == pytest.approx(20 * math.log10(127 / 63), abs=0.1)


# --- topics that train ------------------------------------------------------------------------------------------------


@pytest.mark.proof
def test_trained_topics_state_what_they_should():
    gradients = explanation("mixed_precision").values
    assert gradients["late lost float16"] > 0.005 > gradients["late lost float16, loss x 65536"]
    assert gradients["late lost bfloat16"] == 0
    assert gradients["late error float16"] > 2 * gradients["late error float16, loss x 65536"]
    assert gradients["early_below_normal"] < 0.5 < gradients["late_below_normal"]
    own = explanation("quantization").values
    assert own["rms_tensor"] == pytest.approx(own["predicted_rms"], rel=0.03)
    assert own["rms_channel"] < own["rms_tensor"]
    assert own["by_integers"] == pytest.approx(own["exact"], rel=0.05)
    assert own["accuracy_8_channel"] == pytest.approx(own["accuracy"], abs=0.01)
    losses = explanation("regularisation").values
    assert losses["test_loss none"] > losses["lowest none"]
    assert losses["train_loss none"] < losses["train_loss dropout"] < losses["test_loss none"]
    assert losses["small l1"] > 2 * losses["small none"]
    heads = explanation("attention").values
    assert heads["val_accuracy"] > 0.8
    assert heads["row_sum"] == pytest.approx(1)


@pytest.mark.proof
@pytest.mark.parametrize("topic", ["quantization", "attention"])
def test_a_seed_gives_one_explanation(topic):
    assert explained(topic, Request(measured=False)) == explanation(topic)
    assert explained(topic, Request(measured=False, seed=1)).values != explanation(topic).values
