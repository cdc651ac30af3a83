"""Text models: padding changes nothing, recurrence equals packed sequences, and each learns.

White-box: reads the row numbers of n-grams, which tell hashes that collide.
"""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from effbench.errors import OptionError
from effbench.models.accounting import layer_table, macs
from effbench.models.ngrams import Ngrams
from effbench.models.recurrent import LstmAttention, Recurrent
from effbench.models.text_cnn import TextCnn
from effbench.models.text_layers import ConvStem, masked_softmax, reversed_within
from effbench.models.transformer import TransformerEncoder

VOCAB, K, T = 50, 7, 20
MODELS = {
    "rnn": lambda: Recurrent(K, VOCAB, layers=2),
    "gru": lambda: Recurrent(K, VOCAB, cell="gru"),
    "lstm": lambda: Recurrent(K, VOCAB, cell="lstm"),
    "lstm_attention": lambda: LstmAttention(K, VOCAB, layers=2),
    "text_cnn": lambda: TextCnn(K, VOCAB),
    "ngrams": lambda: Ngrams(K, VOCAB, buckets=500),
    "ngrams_mlp": lambda: Ngrams(K, VOCAB, buckets=500, hidden=8),
    "ngrams_ends": lambda: Ngrams(K, VOCAB, buckets=500, hidden=8, ngram_dropout=0.5, boundaries=True),
    "transformer": lambda: TransformerEncoder(K, VOCAB, T, dim=32, depth=2),
    "post_norm": lambda: TransformerEncoder(K, VOCAB, T, dim=32, depth=2, norm="post", positions="rotary"),
    "local": lambda: TransformerEncoder(K, VOCAB, T, dim=32, depth=2, window=3, num_global=1, positions="none"),
    "conv_stem": lambda: TransformerEncoder(K, VOCAB, T, dim=32, depth=1, positions="rotary", conv_width=5),
}


def tokens() -> Tensor:
    """int64 (4, 12): texts of 12, 5 and 1 tokens, and one of padding alone."""
    found = torch.randint(1, VOCAB, (4, 12), generator=torch.Generator().manual_seed(0))
    found[1, 5:] = found[2, 1:] = found[3] = 0
    return found


def made(name: str) -> nn.Module:
    torch.manual_seed(0)
    model = MODELS[name]()
    with torch.no_grad():  # a linear model starts at zero: every output would be equal
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
        for layer in model.modules():
            if isinstance(layer, nn.Embedding):
                layer.weight[0] = 0  # padding, as the model makes it
    return model


@pytest.mark.parametrize("name", MODELS)
def test_padding_changes_no_output(name):
    model, given = made(name).eval(), tokens()
    with torch.no_grad():
        expected = model(given)
        assert expected.shape == (4, K)
        torch.testing.assert_close(model(F.pad(given, (0, 8))), expected, rtol=0, atol=1e-5)
        for row, length in ((0, 12), (1, 5), (2, 1)):
            alone = model(given[row : row + 1, :length])
            torch.testing.assert_close(alone, expected[row : row + 1], rtol=0, atol=1e-5)


@pytest.mark.parametrize("length", [1, 8])
def test_a_text_longer_than_learned_positions_is_refused_by_name(length):
    """One position would be added to all tokens, without a word."""
    model, given = TransformerEncoder(K, VOCAB, length, dim=8, heads=2, depth=1).eval(), torch.ones(2, 9).long()
    assert model(given[:, :length]).shape == (2, K)
    with pytest.raises(OptionError, match=rf"text has 9 tokens.* learned {length} positions \(data.max_length\)"):
        model(given)
    for positions in ("rotary", "none"):
        other = TransformerEncoder(K, VOCAB, length, dim=8, heads=2, depth=1, positions=positions)
        assert other(given).shape == (2, K)


@pytest.mark.parametrize("name", MODELS)
def test_padding_alone_gives_finite_outputs_and_gradients(name):
    model = made(name)
    out = model(tokens())
    F.cross_entropy(out, torch.arange(4)).backward()
    assert out.isfinite().all()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())
    rows = [layer.weight.grad[0] for layer in model.modules() if isinstance(layer, nn.Embedding)]
    assert not any(row.any() for row in rows), "the row of padding must not learn"


@pytest.mark.parametrize("name", MODELS)
def test_every_parameter_gets_a_gradient(name):
    model = made(name)
    F.cross_entropy(model(tokens()[:3]), torch.arange(3)).backward()
    assert [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()] == []


@pytest.mark.slow
@pytest.mark.spread(3)
@pytest.mark.parametrize("name", MODELS)
def test_each_model_learns_a_rule(name):
    """The class is the first token: 1 to 7."""
    model = made(name)
    generator = torch.Generator().manual_seed(1)
    given = torch.randint(K + 1, VOCAB, (64, 8), generator=generator)
    labels = torch.randint(0, K, (64,), generator=generator)
    given[:, 0] = labels + 1
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(60):
        optimizer.zero_grad()
        F.cross_entropy(model(given), labels).backward()
        optimizer.step()
    assert (model.eval()(given).argmax(1) == labels).float().mean() > 0.95


def test_bidirectional_states_equal_packed_sequences():
    torch.manual_seed(0)
    model = LstmAttention(K, VOCAB, dim=6, hidden=5, layers=2).eval()
    packed = nn.LSTM(6, 5, 2, batch_first=True, bidirectional=True)
    weights = {}
    for layer, (onward, backward) in enumerate(zip(model.forwards, model.backwards, strict=True)):
        for own, suffix in ((onward, ""), (backward, "_reverse")):
            weights |= {f"{key.removesuffix('_l0')}_l{layer}{suffix}": v for key, v in own.state_dict().items()}
    packed.load_state_dict(weights)
    given = tokens()[:3]
    mask = given != 0
    sequence = nn.utils.rnn.pack_padded_sequence(model.embedding(given), mask.sum(1), batch_first=True)
    expected, _ = nn.utils.rnn.pad_packed_sequence(packed(sequence)[0], batch_first=True)
    torch.testing.assert_close(model.states(given, mask)[mask], expected[mask], rtol=0, atol=1e-6)


def test_reversal_keeps_padding_and_is_its_own_inverse():
    mask = tokens() != 0
    x = torch.arange(4 * 12.0).view(4, 12, 1)
    turned = reversed_within(x, mask)
    assert turned[1, :, 0].tolist() == [16, 15, 14, 13, 12, *range(17, 24)]
    assert torch.equal(reversed_within(turned, mask), x)


def test_attention_weights_add_up_to_one_without_padding():
    mask = tokens() != 0
    weights = masked_softmax(torch.randn(4, 12), mask)
    torch.testing.assert_close(weights.sum(1), torch.tensor([1.0, 1.0, 1.0, 0.0]))
    assert not weights[~mask].any()


def test_linear_model_of_ngrams_sums_their_rows():
    model = Ngrams(3, VOCAB, shortest=2, longest=2, buckets=100_000)
    numbers = model._numbers(torch.tensor([[5, 6, 5, 0]]))[0][0].tolist()
    with torch.no_grad():
        model.rows.weight[numbers[0]] = torch.tensor([1.0, 0, 0])  # 5 6
        model.rows.weight[numbers[1]] = torch.tensor([0, 4.0, 0])  # 6 5
    root = 2**0.5
    torch.testing.assert_close(model(torch.tensor([[5, 6, 5, 0]])), torch.tensor([[1 / root, 4 / root, 0]]))


def test_ngrams_of_equal_tokens_share_a_row():
    model = Ngrams(3, VOCAB, shortest=1, longest=3, buckets=100_000)
    numbers = [each.tolist()[0] for each in model._numbers(torch.tensor([[5, 6, 5, 6, 5, 0]]))]
    assert [len(each) for each in numbers] == [6, 5, 4]
    one, two, three = numbers
    assert one == [one[0], one[1], one[0], one[1], one[0], 0]
    assert two == [two[0], two[1], two[0], two[1], 0]
    assert three == [three[0], three[1], three[0], 0]
    rows = [*one[:2], *two[:2], *three[:2]]
    assert all(a != b for a, b in itertools.combinations(rows, 2))
    assert min(rows) > 0


def test_ngrams_are_spread_over_the_rows():
    model = Ngrams(3, 257, shortest=1, longest=3, buckets=1000)
    given = torch.randint(1, 257, (50, 200), generator=torch.Generator().manual_seed(0))
    for numbers in model._numbers(given)[1:]:
        counts = torch.bincount(numbers.flatten(), minlength=1001)[1:].double()
        expected = counts.mean()
        # chi-squared of 999 degrees of freedom: 999 +- 45
        assert ((counts - expected) ** 2 / expected).sum() < 999 + 5 * 45


def test_boundaries_are_tokens_of_their_own():
    torch.manual_seed(0)
    model = Ngrams(3, VOCAB, shortest=2, longest=2, buckets=100_000, boundaries=True)
    torch.nn.init.normal_(model.rows.weight[1:])
    ab, aba, ba = (model(torch.tensor([each])) for each in ([5, 6, 0, 0], [5, 6, 5, 0], [6, 5, 0, 0]))
    # <5 56 6>, <5 56 65 5>, <6 65 5>: no n-gram of the first is missing in the second but 6>
    inside = Ngrams(3, VOCAB, shortest=2, longest=2, buckets=100_000)
    inside.load_state_dict(model.state_dict())
    pair = inside(torch.tensor([[5, 6]])) + inside(torch.tensor([[6, 5]]))  # 56 + 65
    ends = ab * 3**0.5 + ba * 3**0.5 - pair  # <5 6> <6 5>
    begins = aba * 4**0.5 - pair  # <5 5>
    assert not torch.allclose(ends, begins)
    # a text of one token: <5 5>, the two that the text 5 6 5 begins and ends with
    torch.testing.assert_close(model(torch.tensor([[5]])) * 2**0.5, begins)


@pytest.mark.parametrize("causal", [False, True])
def test_the_stem_adds_the_convolution_written_out(causal):
    torch.manual_seed(0)
    stem, x_BTD = ConvStem(6, 3, causal=causal).double(), torch.randn(2, 5, 6).double()
    mask_BT = torch.tensor([[True] * 5, [True] * 2 + [False] * 3])
    got = stem(x_BTD, mask_BT)
    first = -2 if causal else -1
    for text, length in ((0, 5), (1, 2)):
        assert not got[text, length:].any()
        for place in range(length):
            total = stem.conv.bias.clone()
            for column in range(3):
                if 0 <= place + first + column < length:
                    total += stem.conv.weight[:, :, column] @ x_BTD[text, place + first + column]
            expected = x_BTD[text, place] + F.gelu(F.layer_norm(total, (6,)))
            torch.testing.assert_close(got[text, place], expected)


def test_left_out_ngrams_keep_the_expected_output():
    torch.manual_seed(0)
    model = Ngrams(3, VOCAB, shortest=1, longest=2, buckets=1000, ngram_dropout=0.4)
    torch.nn.init.normal_(model.rows.weight)
    with torch.no_grad():
        model.rows.weight[0] = 0
        given = torch.tensor([[5, 6, 7, 8, 0, 0]])
        drawn = torch.cat([model(given.expand(1000, -1)) for _ in range(20)])  # each text draws for itself
        expected = model.eval()(given)[0]
        torch.testing.assert_close(drawn.mean(0), expected, rtol=0, atol=0.05)
        # of a sum of 7 rows, each kept with 0.6 and then divided by 0.6
        rows = torch.cat([each[0] for each in model._numbers(given)])
        variance = (model.rows.weight[rows] ** 2).sum(0) / 7 * 0.4 / 0.6
        torch.testing.assert_close(drawn.var(0), variance, rtol=0.05, atol=0)


WITH_TOKEN_DROPOUT = {
    "rnn": lambda share: Recurrent(K, VOCAB, dropout=0.0, token_dropout=share),
    "lstm_attention": lambda share: LstmAttention(K, VOCAB, dropout=0.0, token_dropout=share),
    "text_cnn": lambda share: TextCnn(K, VOCAB, dropout=0.0, token_dropout=share),
    "transformer": lambda share: TransformerEncoder(K, VOCAB, T, dim=32, depth=1, dropout=0.0, token_dropout=share),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", WITH_TOKEN_DROPOUT)
def test_token_dropout_leaves_out_its_share_in_training_only(name):
    share, given = 0.3, torch.randint(1, VOCAB, (1000, T), generator=torch.Generator().manual_seed(0))
    model = WITH_TOKEN_DROPOUT[name](share)
    seen = []
    model.embedding.register_forward_hook(lambda _layer, _given, rows: seen.append(rows.detach()))
    torch.manual_seed(0)
    model(given)
    first, kept = seen[0], (seen[0] != 0).any(2)
    model(given)
    # a share of 20,000 draws: its standard deviation is 0.0032
    assert abs(float((~kept).double().mean()) - share) < 0.015
    assert torch.equal(first[kept], model.embedding.weight[given[kept]])
    assert not torch.equal(first, seen[1])
    # in evaluation, the numbers of a model without token dropout
    plain = WITH_TOKEN_DROPOUT[name](0.0)
    plain.load_state_dict(model.state_dict())
    assert torch.equal(model.eval()(given[:8]), plain(given[:8]))


def test_macs_of_recurrence_and_attention_follow_their_formulas():
    given = torch.ones(1, 16, dtype=torch.int64)
    lstm = LstmAttention(K, VOCAB, dim=6, hidden=5, attention=4)
    per_token = 2 * 4 * 5 * (6 + 5) + 10 * 4 + 4 + 10  # both directions, score, weighted sum
    assert macs(lstm, given).macs == 16 * per_token + 10 * K
    encoder = TransformerEncoder(K, VOCAB, T, dim=8, depth=3, heads=2)
    block = 16 * (3 * 64 + 64 + 2 * 4 * 64) + 2 * 16 * 16 * 8
    assert macs(encoder, given).macs == 3 * block + 8 * K
    rows = {row.name: row for row in layer_table(encoder, given)}
    assert rows["blocks"].macs == 3 * block


@pytest.mark.parametrize(("num_global", "length"), [(0, 100), (2, 100), (0, 512), (2, 512)])
def test_macs_of_local_attention_follow_their_formula(num_global, length):
    """Blocks of `window` queries, each with the keys of its block and of one to each side."""
    window, dim = 32, 8
    model = TransformerEncoder(K, VOCAB, 512, dim=dim, depth=2, heads=2, window=window, num_global=num_global)
    blocks = -(-length // window)
    scores = blocks * window * (3 * window + num_global) + num_global * length
    block = length * (3 * dim**2 + dim**2 + 2 * 4 * dim**2) + 2 * scores * dim
    assert macs(model, torch.ones(1, length, dtype=torch.int64)).macs == 2 * block + dim * K


class Shapes(TorchDispatchMode):
    """Keeps the shape of every tensor that an operation returns."""

    def __init__(self):
        super().__init__()
        self.seen = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        every = out if isinstance(out, tuple | list) else (out,)
        self.seen |= {tuple(each.shape) for each in every if isinstance(each, Tensor)}
        return out


@pytest.mark.parametrize("num_global", [0, 2])
def test_local_attention_makes_no_tensor_of_n_by_n(num_global):
    length = 512
    given = torch.randint(1, VOCAB, (2, length), generator=torch.Generator().manual_seed(0))
    given[1, 300:] = 0

    torch.manual_seed(0)
    model = TransformerEncoder(K, VOCAB, length, dim=8, depth=1, heads=2, window=32, num_global=num_global)

    def squares(work):
        with Shapes() as shapes:
            work()
        assert (2, length, 8) in shapes.seen
        return [each for each in shapes.seen if each.count(length) > 1 or math.prod(each) >= length**2]

    assert squares(lambda: F.cross_entropy(model(given), torch.tensor([0, 1])).backward()) == []
    attention = model.blocks[0].attention
    assert squares(lambda: attention.weights(model.embedding(given))), "the weights to be looked at are such a tensor"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Recurrent(K, VOCAB, cell="lstn"), "model.cell 'lstn' .* 'lstm'"),
        (lambda: Recurrent(K, VOCAB, hidden=0), "model.hidden"),
        (lambda: LstmAttention(K, VOCAB, dropout=1.0), "model.dropout"),
        (lambda: TextCnn(K, VOCAB, widths=[]), "model.widths"),
        (lambda: TextCnn(K, VOCAB, widths=[0]), "model.widths"),
        (lambda: Ngrams(K, VOCAB, shortest=3, longest=2), "model.shortest must be at most model.longest"),
        (lambda: Ngrams(K, VOCAB, hidden=-1), "model.hidden must be a whole number of units, at least 0; got -1"),
        (lambda: Ngrams(K, VOCAB, hidden=64.5), r"model.hidden must be a whole number of units.*; got 64\.5"),
        (lambda: Ngrams(K, VOCAB, hidden="abc"), "model.hidden must be a whole number of units.*; got 'abc'"),
        (lambda: Ngrams(K, VOCAB, ngram_dropout=1.0), "model.ngram_dropout"),
        (lambda: TextCnn(K, VOCAB, token_dropout=1.0), "model.token_dropout"),
        (lambda: TransformerEncoder(K, VOCAB, T, norm="prenorm"), "model.norm 'prenorm'"),
        (lambda: TransformerEncoder(K, VOCAB, T, positions="sine"), "model.positions 'sine'"),
        (lambda: TransformerEncoder(K, VOCAB, T, conv_width=4), "model.conv_width must be .* an odd number .* got 4"),
        (lambda: TransformerEncoder(K, VOCAB, T, conv_width=True), "model.conv_width .* got true"),
        (lambda: TransformerEncoder(K, VOCAB, T, conv_width="abc"), "model.conv_width .* got 'abc'"),
        (lambda: TransformerEncoder(K, VOCAB, T, num_global=1), "model.num_global needs model.window"),
    ],
)
def test_bad_options_are_named(make, message):
    with pytest.raises(OptionError, match=message):
        make()
