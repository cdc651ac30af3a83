"""Attention: softmax(Q K^T / sqrt d) V by hand and by torch, and the weights of a trained model on a sentence."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from effbench import build
from effbench.config.compose import compose
from effbench.data.modality import Modality
from effbench.errors import ConfigError
from effbench.explain.content import Drawing, Explanation, Listing, Paragraph, Part, Request, Table
from effbench.explain.examples import accuracy, agreement, trained
from effbench.log import at_level
from effbench.models.attention import SelfAttention
from effbench.models.recurrent import LstmAttention
from effbench.models.text_layers import token_mask
from effbench.report.figures import Figure
from effbench.report.heat_maps import HeatMap, heat_map
from effbench.special_tokens import PADDING

Matrix = list[list[float]]
# one query, key and value a token, d = 2
QUERIES: Matrix = [[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]
KEYS: Matrix = [[1.0, 0.0], [0.0, 2.0], [1.0, 1.0]]
VALUES: Matrix = [[1.0, 0.0], [0.0, 1.0], [0.5, 0.5]]

KINDS = ("animal", "food")  # of wordnet_gloss, for the small model
SENTENCE = "a small wild bird with a long tail that feeds on seeds"
DIM, EPOCHS, LR = 32, 3, 3e-3
MOST_TOKENS, MOST_HEADS = 40, 4  # that are shown
MOST_READ = 2048  # tokens of a text; the weights of 12 heads then take 200 MB
_MODELS = "model=transformer, local_attention, lstm_attention or gpt"
REFERENCES = (
    "Vaswani et al., Attention Is All You Need, arXiv:1706.03762, section 3.2.1, with footnote 4 for sqrt d",
    "Bahdanau et al., arXiv:1409.0473, section 3.1: additive attention, as in model=lstm_attention",
    "Jain and Wallace, Attention is not Explanation, arXiv:1902.10186: what weights do not tell",
)


def attention_by_hand(queries: Matrix, keys: Matrix, values: Matrix) -> tuple[Matrix, Matrix, Matrix]:
    """Return (scores, weights, outputs) of softmax(Q K^T / sqrt d) V, in plain Python.

    Args:
        queries: one row a token, d numbers.
        keys: likewise.
        values: one row a token.
    """
    d = len(queries[0])
    scores = [[sum(a * b for a, b in zip(q, k, strict=True)) / math.sqrt(d) for k in keys] for q in queries]
    weights = []
    for row in scores:
        exponentials = [math.exp(score) for score in row]
        weights.append([each / sum(exponentials) for each in exponentials])
    outputs = [
        [sum(w * v[at] for w, v in zip(row, values, strict=True)) for at in range(len(values[0]))] for row in weights
    ]
    return scores, weights, outputs


@dataclass(frozen=True)
class Attended:
    """The weights of one attention layer for one text.

    Attributes:
        name: of the layer.
        weights: (heads, T, T) float: row i holds what token i takes of each token; or (T,): what the summary of the
            text takes of each.
    """

    name: str
    weights: Tensor


def attended(model: nn.Module, tokens_1T: Tensor) -> tuple[Attended, int, Tensor]:
    """Return (the weights of the last attention layer for one text, how many such layers there are, the logits (K,)).

    Args:
        model: in eval mode, with layers of SelfAttention, or a LstmAttention.
        tokens_1T: int64 (1, T), without padding.

    Raises:
        ConfigError: the model has no such layer, or the text has more than MOST_READ tokens.
    """
    if (length := tokens_1T.shape[1]) > MOST_READ:
        raise ConfigError(
            f"explain attention computes the weights of {length:,} x {length:,} tokens; a text may have {MOST_READ:,} "
            "tokens at most. Give a shorter text."
        )
    # of the last call alone: each layer's weights are T x T numbers a head
    called = list[tuple[str, SelfAttention, tuple[Any, ...]]]()
    count = 0

    def watch(name: str) -> Any:
        def before(layer: nn.Module, inputs: tuple[Any, ...]) -> None:
            nonlocal count
            assert isinstance(layer, SelfAttention)
            count += 1
            called[:] = [(name, layer, inputs)]

        return before

    layers = {name: layer for name, layer in model.named_modules() if isinstance(layer, SelfAttention)}
    if not layers and not isinstance(model, LstmAttention):
        raise ConfigError(
            f"the run's model ({type(model).__name__}) has no attention layers that effbench can read. Train {_MODELS}."
        )
    hooks = [layer.register_forward_pre_hook(watch(name)) for name, layer in layers.items()]
    try:
        with torch.no_grad():
            logits = model(tokens_1T)[0]
            if isinstance(model, LstmAttention):
                mask = token_mask(tokens_1T)
                found = Attended("additive attention", model.attention(model.states(tokens_1T, mask), mask)[0])
                return found, count + 1, logits
            [(name, layer, inputs)] = called
            return Attended(name, layer.weights(*inputs)[0]), count, logits
    finally:
        for hook in hooks:
            hook.remove()


def explain(request: Request) -> Explanation:
    """Explain attention, and show the weights of the run, or else of a model trained now."""
    scores, weights, outputs = attention_by_hand(QUERIES, KEYS, VALUES)
    tensors = [torch.tensor(each, dtype=torch.float64)[None, None] for each in (QUERIES, KEYS, VALUES)]
    by_torch = F.scaled_dot_product_attention(tensors[0], tensors[1], tensors[2])[0, 0]
    same = agreement(torch.tensor(outputs, dtype=torch.float64), by_torch)
    values = {"w11": weights[0][0], "o11": outputs[0][0]}
    spread = _spread(64, request.seed)
    values |= {"spread_plain": spread[0], "spread_scaled": spread[1]}
    parts: list[Part] = [
        Paragraph(
            "Each token has a query, a key and a value, all made from its state by linear layers. The score of token "
            "j for token i is q_i . k_j / sqrt d. A softmax over j turns scores into weights that add up to 1, and "
            "the output of token i is the mean of all values with these weights: softmax(Q K^T / sqrt d) V. Three "
            "tokens with d = 2:"
        ),
        Listing(_by_hand(scores, weights, outputs)),
        Paragraph(
            f"torch.nn.functional.scaled_dot_product_attention gives the same outputs {same}. The division by sqrt d "
            "keeps the softmax soft: for random queries and keys of d = 64 the scores have a standard deviation of "
            f"{spread[0]:.2f} without it and {spread[1]:.2f} with it, whatever d is."
        ),
    ]
    if request.run is not None:
        parts += _of_run(request, values)
    else:
        parts += _of_small_model(request, values)
    return Explanation("attention", "Attention", parts, values, REFERENCES)


def _by_hand(scores: Matrix, weights: Matrix, outputs: Matrix) -> str:
    def written(rows: Matrix, form: str) -> list[str]:
        return [" ".join(f"{number:{form}}" for number in row) for row in rows]

    heads = ("Q", "K", "V", "Q K^T / sqrt 2", "weights", "output")
    forms = {".1f": (QUERIES, KEYS, VALUES), ".3f": (scores, weights, outputs)}
    columns = [written(each, form) for form, matrices in forms.items() for each in matrices]
    widths = [max(len(head), len(column[0])) for head, column in zip(heads, columns, strict=True)]
    rows = [heads, *zip(*columns, strict=True)]
    lines = ["  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)) for row in rows]
    first = " + ".join(f"exp({score:.3f})" for score in scores[0])
    return (
        "\n".join(line.rstrip() for line in lines)
        + f"\n\nw11 = exp({scores[0][0]:.3f}) / ({first}) = {weights[0][0]:.3f}"
    )


def _spread(d: int, seed: int) -> tuple[float, float]:
    """Return the standard deviation of q . k for normal queries and keys, and of q . k / sqrt d."""
    generator = torch.Generator().manual_seed(seed)
    q, k = (torch.randn(200, d, generator=generator, dtype=torch.float64) for _ in range(2))
    products = q @ k.T
    return float(products.std()), float((products / math.sqrt(d)).std())


# --- a trained model --------------------------------------------------------------------------------------------------


def _of_run(request: Request, values: dict[str, float]) -> list[Part]:
    assert request.run is not None
    modality = request.run.modality()
    model = request.run.model(request.checkpoint)
    tokens = _tokens(modality, request.text or "")
    found, count, logits = attended(model, tokens)
    about = f"The run's model ({type(model).__name__}) reads {_read(modality, request.text or '', tokens)}"
    parts: list[Part] = [Paragraph(about)]
    # other tasks have no single answer
    if request.run.task.kind in ("class", "tokens"):
        answer, values["probability"] = _answer(logits, modality, request.run.classes)
        parts.append(Paragraph(f"Its answer is {answer}, with a probability of {values['probability']:.3f}."))
    return [*parts, *shown_weights(found, count, _pieces(modality, tokens), values)]


def _of_small_model(request: Request, values: dict[str, float]) -> list[Part]:
    model, modality, correct = _small_model(request.seed)
    text = request.text or SENTENCE
    tokens = _tokens(modality, text)
    found, count, logits = attended(model, tokens)
    values["val_accuracy"] = correct
    answer, values["probability"] = _answer(logits, modality, KINDS)
    about = (
        f"A model trained just now: the same encoder as model=transformer, with one block of one head, width {DIM}, no "
        f"positions, on the glosses of {KINDS[0]}s and {KINDS[1]}s of data=wordnet_gloss, for {EPOCHS} epochs. It "
        f"tells {100 * correct:.1f} % of the validation glosses right. It reads {_read(modality, text, tokens)}"
    )
    said = f"Its answer is {answer}, with a probability of {values['probability']:.3f}."
    return [Paragraph(about), Paragraph(said), *shown_weights(found, count, _pieces(modality, tokens), values)]


def _small_model(seed: int) -> tuple[nn.Module, Modality, float]:
    """Train the encoder on two kinds of glosses, in float64. Return (model, modality, accuracy on validation)."""
    words = ["data=wordnet_gloss", "data.max_length=24", "data.vocab_size=2000", "model=transformer", f"seed={seed}"]
    words += ["model.depth=1", "model.heads=1", f"model.dim={DIM}", "model.positions=none"]
    config = compose(words)
    with at_level(logging.WARNING):  # how many texts are cut is of no interest here
        data = build.splits(config)
    assert data.val is not None
    modality = build.modality(config, data, torch.device("cpu"))
    torch.set_default_dtype(torch.float64)  # the weights are drawn in it
    try:
        model = build.model(config, len(KINDS), modality)
    finally:
        torch.set_default_dtype(torch.float32)
    kinds = [data.classes.index(kind) for kind in KINDS]
    (x, y), (x_val, y_val) = (
        (split.inputs[keep].long(), (split.labels[keep] == kinds[1]).long())
        for split in (data.train, data.val)
        for keep in [torch.isin(split.labels, torch.tensor(kinds))]
    )
    trained(model, x, y, EPOCHS, LR, seed)
    return model, modality, accuracy(model, x_val, y_val)


def _answer(logits: Tensor, modality: Modality, classes: Sequence[str]) -> tuple[str, float]:
    """Return the most likely class, or the most likely token after the text, and its probability."""
    chances = (logits if logits.dim() == 1 else logits[-1]).softmax(0)
    best = int(chances.argmax())
    name = classes[best] if logits.dim() == 1 else f"the token '{_pieces(modality, torch.tensor([[best]]))[0]}'"
    return name, float(chances[best])


def shown_weights(last: Attended, layers: int, names: Sequence[str], values: dict[str, float]) -> list[Part]:
    """Return the figure and what each token gets; all numbers are of the heads and tokens shown.

    Args:
        last: the weights of the last attention layer.
        layers: attention layers of the model.
        names: text of each token.
        values: gets the numbers.
    """
    parts: list[Part] = []
    heads = last.weights[None, None] if last.weights.dim() == 1 else last.weights
    rows = names[:MOST_TOKENS] if last.weights.dim() > 1 else ["text"]
    names_shown, shown = names[:MOST_TOKENS], heads[:MOST_HEADS, :MOST_TOKENS, :MOST_TOKENS]
    # what a token gets on average over the tokens that look
    received = shown.mean((0, 1))
    values |= {f"received {at}": float(share) for at, share in enumerate(received)}
    values |= {"row_sum": float(heads.sum(-1).mean()), "row_sum_shown": float(shown.sum(-1).mean())}
    figures: list[Figure | HeatMap] = []
    for head, own in enumerate(shown):
        title = last.name if len(heads) == 1 else f"{last.name}, head {head + 1}"
        of_head = own.mean(0)
        top = ", ".join(f"{names[at]} {100 * float(of_head[at]):.0f} %" for at in _ordered(of_head)[:5])
        figures.append(heat_map(title, f"weights; most go to {top}", own.tolist(), rows, names_shown))
    caption = _extent(layers, len(heads), len(names))
    caption += "Row: the token that looks. Column: the token that it looks at. The darkest cell has the largest weight"
    caption += f" of the {'head' if len(figures) > 1 else 'layer'}; the largest of all is {float(shown.max()):.2f}. "
    caption += f"Each row adds up to {values['row_sum']:.2f}"
    # of a causal layer the rows shown see no token behind them
    cut = values["row_sum_shown"] < values["row_sum"] - 0.005
    caption += f" over all {len(names)} tokens, to {values['row_sum_shown']:.2f} over those shown." if cut else "."
    parts.append(Drawing(figures, caption, across=1 if len(figures) == 1 else 2))
    means = [[names[at], f"{100 * float(received[at]):.1f} %"] for at in _ordered(received)[:8]]
    parts.append(Table(["token", "mean weight"], means))
    # without a mask of its own, no layer has only zeros right of the diagonal
    if heads.shape[1] > 1 and not heads.triu(1).any():
        equal = "A token sees itself and earlier ones only, so early tokens get more than later ones."
    else:
        equal = f"With equal weights each of the {len(names)} tokens would get {100 / len(names):.1f} %."
    why = (
        "Weights show where a layer reads, not why the model answers: values, later layers and the head decide as well."
    )
    parts.append(Paragraph(f"{equal} {why}"))
    return parts


def _ordered(received: Tensor) -> list[int]:
    """Return the places of tokens, the largest weight first."""
    return sorted(range(len(received)), key=lambda at: (-float(received[at]), at))


def _extent(layers: int, heads: int, tokens: int) -> str:
    """Return what part of a model's weights is shown; '' if it is all of them.

    Args:
        layers: attention layers of the model.
        heads: of the layer that is shown.
        tokens: of the text.
    """
    parts = [f"the last of {layers} attention layers"] if layers > 1 else []
    parts += [f"heads 1 to {MOST_HEADS} of {heads}"] if heads > MOST_HEADS else []
    parts += [f"the first {MOST_TOKENS} of {tokens} tokens"] if tokens > MOST_TOKENS else []
    return f"Shown: {', '.join(parts)}. " if parts else ""


def _tokens(modality: Modality, text: str) -> Tensor:
    """Return int64 (1, T), the tokens of a text without padding."""
    if not hasattr(modality, "tokenizer"):
        raise ConfigError(f"the run is on {modality.unit}s; explain attention takes a run on texts.")
    tokens = torch.cat(list(modality.given(text))).long()
    return tokens[:, : int((tokens != PADDING).sum())]


def _pieces(modality: Modality, tokens_1T: Tensor) -> list[str]:
    """Return the text of each token: _ for a space, ? for what is not in the vocabulary and for parts of a letter."""
    decode = modality.tokenizer.decode  # type: ignore[attr-defined]
    pieces = [decode([number]) for number in tokens_1T[0].tolist()]
    return [piece.strip().replace("\N{REPLACEMENT CHARACTER}", "?") or "_" for piece in pieces]


def _read(modality: Modality, text: str, tokens_1T: Tensor) -> str:
    """Return the sentence, and how much of it the model reads."""
    whole = len(modality.tokenizer.encode(text))  # type: ignore[attr-defined]
    read = tokens_1T.shape[1]
    return f"'{text}'" + (f": {read} of its {whole} tokens." if whole > read else ".")
