"""DeBERTa-v3 encoders of texts: the classes of transformers, built from sizes; nothing is downloaded."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field
from torch import Tensor, nn

from effbench.config.options import Rule
from effbench.errors import ConfigError, DataError, MissingExtraError, OptionError
from effbench.guarded import read_text
from effbench.log import without_torchao_notes
from effbench.models.layers import check_count, check_dropout
from effbench.models.text_layers import masked_mean, token_mask
from effbench.models.weight_files import read_weights_file

MAX_POSITION = 512  # distances up to this get buckets of their own, as in the published models
_BUCKETS = Rule[int](
    Annotated[int, Field(ge=4, le=MAX_POSITION, multiple_of=2)], f"an even number from 4 to {MAX_POSITION}"
)
# What makes a config of transformers a DeBERTa-v3 (arXiv:2111.09543; microsoft/deberta-v3-*).
_KIND: dict[str, Any] = {
    "relative_attention": True,
    "share_att_key": True,  # positions use the projections of the content
    "pos_att_type": ["p2c", "c2p"],
    "norm_rel_ebd": "layer_norm",
    "position_biased_input": False,
    "max_position_embeddings": MAX_POSITION,
    "max_relative_positions": -1,
    "type_vocab_size": 0,
    "layer_norm_eps": 1e-7,
    "hidden_act": "gelu",
}
_SIZES = {  # key of transformers -> option of the model
    "hidden_size": "dim",
    "num_hidden_layers": "depth",
    "num_attention_heads": "heads",
    "intermediate_size": "mlp_dim",
    "position_buckets": "position_buckets",
    "vocab_size": "vocab_rows",
}
_WEIGHTS = ("model.safetensors", "pytorch_model.bin")


class DebertaV3(nn.Module):
    """DeBERTa-v3 encoder with disentangled attention (arXiv:2006.03654, section 3), the mean over tokens, and a head.

    (B, T) token numbers -> logits (B, num_classes). Attention adds content-to-position and position-to-content scores,
    with distances in buckets that widen logarithmically; T is not limited.

    Args:
        num_classes: number of logits.
        vocab_size: token numbers, padding included.
        dim: width of a token, a multiple of heads.
        depth: blocks.
        heads: attention heads.
        mlp_dim: units of a block's hidden layer; None: 4 x dim.
        position_buckets: buckets of distances, half of them for each direction.
        vocab_rows: rows of the embedding; None: vocab_size.
        dropout: fraction dropped after the embedding, of what blocks add and before the head, in [0, 1).
        attention_dropout: fraction of attention weights dropped, in [0, 1).

    Raises:
        OptionError: an option is out of range.
        MissingExtraError: transformers is not installed.
    """

    def __init__(
        self, num_classes: int, vocab_size: int, dim: int = 128, depth: int = 4, heads: int = 4,
        mlp_dim: int | None = None, position_buckets: int = 32, vocab_rows: int | None = None, dropout: float = 0.1,
        attention_dropout: float = 0.1,
    ):  # fmt: skip
        super().__init__()
        check_count(dim, "model.dim", "channels")
        rows = vocab_size if vocab_rows is None else vocab_rows
        self.sizes = {
            "dim": dim, "depth": depth, "heads": heads, "mlp_dim": 4 * dim if mlp_dim is None else mlp_dim,
            "position_buckets": position_buckets, "vocab_rows": rows,
        }  # fmt: skip
        _check(self.sizes, vocab_size)
        check_dropout(dropout)
        check_dropout(attention_dropout, "model.attention_dropout")
        library = _library()
        config = library.DebertaV2Config(
            **_KIND,
            **{key: self.sizes[option] for key, option in _SIZES.items()},
            hidden_dropout_prob=dropout,
            attention_probs_dropout_prob=attention_dropout,
        )
        self.deberta = library.DebertaV2Model(config)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(dim, num_classes)

    def forward(self, tokens_BT: Tensor) -> Tensor:
        """(B, T) -> (B, num_classes)."""
        mask_BT = token_mask(tokens_BT)
        states_BTD = self.deberta(input_ids=tokens_BT, attention_mask=mask_BT.long()).last_hidden_state
        logits: Tensor = self.head(self.dropout(masked_mean(states_BTD, mask_BT)))
        return logits

    def weights_of(self, folder: Path) -> Mapping[str, Tensor]:
        """Return the encoder's weights of a folder of transformers, with the names of this model.

        Args:
            folder: holds config.json, and model.safetensors or pytorch_model.bin.

        Raises:
            ConfigError: it is another kind of model, or has other sizes; the message names the options.
            DataError: a file is missing or damaged.
        """
        self._check_config(folder, _read_config(folder / "config.json"))
        found = next((folder / name for name in _WEIGHTS if (folder / name).is_file()), None)
        if found is None:
            raise DataError(f"model.pretrained: '{folder}' holds no {' or '.join(_WEIGHTS)}.")
        state = read_weights_file(found)
        prefix = "deberta."
        if not any(name.startswith(prefix) for name in state):  # saved without a head
            state = {f"{prefix}{name}": value for name, value in state.items()}
        # heads of pretraining go, and tables of absolute places, which DeBERTa-v3 does not use
        unused = (f"{prefix}embeddings.position_ids", f"{prefix}embeddings.position_embeddings.weight")
        return {name: value for name, value in state.items() if name.startswith(prefix) and name not in unused}

    def _check_config(self, folder: Path, config: Mapping[str, Any]) -> None:
        defaults = _library().DebertaV2Config()
        for key, wanted in _KIND.items():
            value = config.get(key, getattr(defaults, key, None))
            if key == "pos_att_type" and isinstance(value, str):
                value = value.split("|")
            same = sorted(value) == sorted(wanted) if isinstance(wanted, list) and isinstance(value, list) else None
            if not (value == wanted if same is None else same):
                raise ConfigError(
                    f"model.pretrained: '{folder}' is no DeBERTa-v3: {key} of its config.json is {value!r}, not "
                    f"{wanted!r}. model=deberta_v3 takes folders such as microsoft/deberta-v3-small."
                )
        other = {option: config.get(key) for key, option in _SIZES.items() if config.get(key) != self.sizes[option]}
        if other:
            words = " ".join(f"model.{option}={value}" for option, value in other.items())
            raise ConfigError(f"model.pretrained: '{folder}' has other sizes than the model. Write {words}.")


def _check(sizes: Mapping[str, int], vocab_size: int) -> None:
    what = {"depth": "blocks", "heads": "heads", "mlp_dim": "units", "vocab_rows": "rows"}
    for key, unit in what.items():
        check_count(sizes[key], f"model.{key}", unit)
    if sizes["dim"] % sizes["heads"]:
        raise OptionError(
            f"model.heads must divide model.dim; got {sizes['heads']} heads for a width of {sizes['dim']}."
        )
    _BUCKETS.check(
        sizes["position_buckets"],
        "model.position_buckets",
        remedy="32 is usual for short texts; the published models have 256.",
    )
    if sizes["vocab_rows"] < vocab_size:
        raise OptionError(
            f"model.vocab_rows must be at least the {vocab_size} numbers of the tokenizer; got {sizes['vocab_rows']}."
        )


def _read_config(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(read_text(path))
    except ConfigError as error:
        raise DataError(f"model.pretrained: {error} Fetch the folder again.") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"model.pretrained: '{path}' is no whole JSON ({error}). Fetch it again.") from error
    if not isinstance(found, dict) or found.get("model_type") != "deberta-v2":
        kind = found.get("model_type") if isinstance(found, dict) else None
        raise ConfigError(
            f"model.pretrained: '{path}' is of a {kind!r}; model=deberta_v3 takes the model_type 'deberta-v2'."
        )
    return found


def _library() -> Any:
    try:
        with without_torchao_notes():  # transformers imports torchao where it is installed
            from transformers import DebertaV2Config, DebertaV2Model  # noqa: F401
            from transformers.models import deberta_v2
    except ImportError as error:
        raise MissingExtraError("model=deberta_v3", "transformers") from error
    return deberta_v2
