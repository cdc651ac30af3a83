"""GPT: no output sees a later token; its numbers are those of a reference written out; its cost is the formula's."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from effbench.errors import OptionError
from effbench.models.accounting import macs, parameters
from effbench.models.adapt import head_names
from effbench.models.gpt import GPT
from effbench.optimizers.hidden_matrices import hidden_matrices

V, T, D, DEPTH, HEADS = 11, 8, 12, 2, 3


def made(**options) -> GPT:
    torch.manual_seed(0)
    model = GPT(V, T, **{"dim": D, "depth": DEPTH, "heads": HEADS, **options}).eval()
    with torch.no_grad():
        for parameter in model.parameters():  # at their small initial values attention would be nearly uniform
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model


def tokens(length: int = T) -> Tensor:
    return torch.randint(0, V, (2, length), generator=torch.Generator().manual_seed(1))


OPTIONS = [{}, {"positions": "rotary", "dim": 24}, {"tied": False}, {"conv_width": 3}]


@pytest.mark.parametrize("options", OPTIONS)
def test_a_later_token_changes_no_earlier_output(options: dict) -> None:
    model, given = made(**options), tokens()
    with torch.no_grad():
        expected = model(given)
        for place in range(T):
            changed = given.clone()
            changed[:, place] = (changed[:, place] + 1) % V
            got = model(changed)
            assert torch.equal(got[:, :place], expected[:, :place])
            assert not torch.allclose(got[:, place:], expected[:, place:])


def reference(model: GPT, row: list[int], positions: str) -> list[Tensor]:
    """The logits at each place of one text, token by token in float64; nothing of effbench but the weights."""
    w = {name: value.double() for name, value in model.state_dict().items()}
    dim, d = w["embedding.weight"].shape[1], w["embedding.weight"].shape[1] // HEADS

    def norm(x: Tensor, name: str) -> Tensor:
        x = (x - x.mean()) / (x.var(unbiased=False) + 1e-5).sqrt()
        return x * w[f"{name}.weight"] + w[f"{name}.bias"]

    def turned(x: Tensor, place: int) -> Tensor:  # each pair (n, n + d / 2) as a complex number
        rates = 10_000.0 ** (-torch.arange(0, d, 2).double() / d)
        z = torch.complex(x[: d // 2], x[d // 2 :]) * torch.polar(torch.ones_like(rates), place * rates)
        return torch.cat([z.real, z.imag])

    xs = [w["embedding.weight"][token] for token in row]
    if "stem.conv.weight" in w:
        kernel, embedded = w["stem.conv.weight"], xs
        xs = []
        for place, x in enumerate(embedded):
            seen = embedded[max(0, place + 1 - kernel.shape[2]) : place + 1]
            columns = kernel[:, :, kernel.shape[2] - len(seen) :].unbind(2)
            total = w["stem.conv.bias"] + sum(column @ one for column, one in zip(columns, seen, strict=True))
            xs.append(x + F.gelu(norm(total, "stem.norm")))
    if positions == "learned":
        xs = [x + w["pos_embedding"][place] for place, x in enumerate(xs)]
    for block in range(DEPTH):
        own = f"blocks.{block}"
        parts = [w[f"{own}.attention.qkv.weight"] @ norm(x, f"{own}.norm1") for x in xs]
        parts = [(part + w[f"{own}.attention.qkv.bias"]).split(dim) for part in parts]
        mixed = []
        for place in range(len(row)):
            heads = []
            for head in range(HEADS):
                at = slice(head * d, (head + 1) * d)
                q, keys = parts[place][0][at], [part[1][at] for part in parts[: place + 1]]
                if positions == "rotary":
                    q, keys = turned(q, place), [turned(key, n) for n, key in enumerate(keys)]
                share = torch.stack([q @ key / math.sqrt(d) for key in keys]).softmax(0)
                heads.append(sum(a * part[2][at] for a, part in zip(share, parts[: place + 1], strict=True)))
            mixed.append(torch.cat(heads))
        xs = [
            x + w[f"{own}.attention.out.weight"] @ m + w[f"{own}.attention.out.bias"]
            for x, m in zip(xs, mixed, strict=True)
        ]
        hidden = [
            F.gelu(w[f"{own}.mlp.0.weight"] @ norm(x, f"{own}.norm2") + w[f"{own}.mlp.0.bias"]) for x in xs
        ]  # fmt: skip
        xs = [x + w[f"{own}.mlp.2.weight"] @ h + w[f"{own}.mlp.2.bias"] for x, h in zip(xs, hidden, strict=True)]
    head = w.get("head.weight", w["embedding.weight"])
    return [head @ norm(x, "norm") for x in xs]


@pytest.mark.parametrize("options", OPTIONS)
def test_outputs_are_those_of_a_reference_written_out(options: dict) -> None:
    model, row = made(**options), tokens(5)[0]
    expected = torch.stack(reference(model, row.tolist(), options.get("positions", "learned")))
    with torch.no_grad():
        torch.testing.assert_close(model(row[None])[0].double(), expected, rtol=1e-4, atol=1e-4)


def test_a_sequence_longer_than_the_context_is_refused_by_name() -> None:
    for options in OPTIONS[:2]:
        with pytest.raises(OptionError, match=r"the sequence has 9 tokens, and the model takes 8 \(data.context\)"):
            made(**options)(tokens(T + 1))


def test_parameters_and_macs_are_those_of_the_formula() -> None:
    block, norms = 12 * D * D, 2 * 2 * D + 3 * D + D + 4 * D + D  # products; norms and biases
    rows = (V + T) * D
    assert parameters(made()).total == rows + DEPTH * (block + norms) + 2 * D
    assert parameters(made(tied=False)).total == parameters(made()).total + V * D
    a_token = DEPTH * (block + 2 * T * D) + V * D  # attention: scores and sums over all T places, as torch counts
    assert macs(made(), torch.zeros(1, T, dtype=torch.int64)).macs == T * a_token


def test_initial_weights_have_gpt_2_s_spread() -> None:
    torch.manual_seed(0)
    model = GPT(300, 64, dim=96, depth=8, heads=4)
    for name, parameter in model.state_dict().items():
        if parameter.dim() > 1:
            added = name.endswith(("attention.out.weight", "mlp.2.weight"))
            assert float(parameter.std()) == pytest.approx(0.02 / (4 if added else 1), rel=0.05), name
        else:
            assert torch.equal(parameter, torch.full_like(parameter, float("norm" in name and "weight" in name))), name
    with torch.no_grad():
        loss = F.cross_entropy(model(torch.randint(300, (2, 64))).flatten(0, 1), torch.randint(300, (128,)))
    assert float(loss) == pytest.approx(math.log(300), rel=0.02)


@pytest.mark.parametrize("tied", [True, False])
def test_muon_takes_the_matrices_of_blocks_and_no_others(tied: bool) -> None:
    model = made(tied=tied)
    chosen = {id(parameter) for parameter in hidden_matrices(model, head_names(model))}
    names = {name for name, parameter in model.named_parameters() if id(parameter) in chosen}
    assert names == {name for name, p in model.named_parameters() if name.startswith("blocks.") and p.dim() == 2}


def test_options_out_of_range_are_refused() -> None:
    for options, said in (
        ({"positions": "none"}, "model.positions"),
        ({"heads": 5}, "model.heads must divide model.dim"),
        ({"depth": 0}, "model.depth"),
        ({"dim": 8.5}, r"model\.dim must be a whole number .* got 8\.5"),
        ({"dropout": 1.0}, "model.dropout"),
        ({"conv_width": 1}, "model.conv_width must be null or a number of tokens >= 2"),
        ({"conv_width": "abc"}, "model.conv_width must be null or a number of tokens >= 2.*; got 'abc'"),
    ):
        with pytest.raises(OptionError, match=said):
            made(**options)
