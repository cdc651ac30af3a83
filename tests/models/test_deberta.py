"""DeBERTa-v3: padding changes nothing, published weights load with their tokenizer, and misfits are named."""

from __future__ import annotations

import csv
import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional as F

import effbench
from effbench.data.modality import Settings
from effbench.data.text.modality import Texts
from effbench.data.text.text_csv import text_csv
from effbench.data.text.tokenizers import fitted_tokenizer
from effbench.errors import ConfigError, DataError, MissingExtraError, OptionError
from effbench.models.accounting import macs
from effbench.models.adapt import load_state
from effbench.models.deberta import DebertaV3
from effbench.training.callbacks import Callback, Context

# not importorskip: its import takes seconds in every worker that only collects
pytestmark = pytest.mark.skipif(importlib.util.find_spec("transformers") is None, reason="needs transformers")
tokenizers = pytest.importorskip("tokenizers")

VOCAB, K = 30, 3
SIZES = {"dim": 16, "depth": 2, "heads": 2, "position_buckets": 8}


def tokens() -> Tensor:
    """int64 (4, 12): texts of 12, 5 and 1 tokens, and one of padding alone."""
    found = torch.randint(1, VOCAB, (4, 12), generator=torch.Generator().manual_seed(0))
    found[1, 5:] = found[2, 1:] = found[3] = 0
    return found


def made(**options) -> DebertaV3:
    torch.manual_seed(0)
    return DebertaV3(K, VOCAB, **{**SIZES, **options})


@pytest.mark.slow
def test_padding_changes_no_output_and_gives_no_nan() -> None:
    model, given = made().eval(), tokens()
    with torch.no_grad():
        expected = model(given)
        torch.testing.assert_close(model(F.pad(given, (0, 8))), expected, rtol=0, atol=1e-5)
        for row, length in ((0, 12), (1, 5), (2, 1)):
            alone = model(given[row : row + 1, :length])
            torch.testing.assert_close(alone, expected[row : row + 1], rtol=0, atol=1e-5)
        assert expected.isfinite().all()
        assert model(torch.ones(1, 700, dtype=torch.int64)).isfinite().all()  # beyond the 512 places of the buckets


def test_every_parameter_gets_a_finite_gradient_but_padding() -> None:
    model = made()
    F.cross_entropy(model(tokens()), torch.tensor([0, 1, 2, 0])).backward()
    grads = {name: parameter.grad for name, parameter in model.named_parameters()}
    assert [name for name, grad in grads.items() if grad is None or not grad.isfinite().all() or not grad.any()] == []
    assert not grads["deberta.embeddings.word_embeddings.weight"][0].any()


def test_order_of_tokens_matters() -> None:
    model = made().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(10)  # fresh weights are so small that attention is nearly even
        one, other = (model(torch.tensor([row])) for row in ([5, 6, 7], [7, 6, 5]))
    assert (one - other).abs().max() > 1e-4


@pytest.mark.parametrize("length", [10, 40])
def test_macs_of_disentangled_attention_follow_their_formula(length: int) -> None:
    """arXiv:2006.03654, section 3: content to content, content to position and position to content."""
    dim, mlp, rows = SIZES["dim"], 4 * SIZES["dim"], 2 * SIZES["position_buckets"]
    content = length * (4 * dim**2 + 2 * dim * mlp) + 2 * length**2 * dim
    places = 2 * rows * dim**2 + 2 * length * rows * dim  # their projections as keys and queries; both scores
    counted = macs(made(), torch.ones(1, length, dtype=torch.int64)).macs
    assert counted == SIZES["depth"] * (content + places) + dim * K


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"heads": 3}, "model.heads must divide model.dim"),
        ({"position_buckets": 7}, "model.position_buckets must be an even number"),
        ({"position_buckets": "abc"}, "model.position_buckets must be an even number .* got 'abc'"),
        ({"dim": None}, "model.dim must be a whole number .* got null"),
        ({"vocab_rows": 3}, "model.vocab_rows must be at least the 30 numbers"),
        ({"depth": 0}, "model.depth must be"),
        ({"attention_dropout": 1.0}, "model.attention_dropout"),
    ],
)
def test_bad_options_are_named(options, message) -> None:
    with pytest.raises(OptionError, match=message):
        made(**options)


def test_missing_library_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(MissingExtraError, match=r"effbench\[transformers\]"):
        made()


# --- folders of transformers


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """What save_pretrained writes: a classifier of other classes, and a tokenizer of words."""
    import transformers

    torch.manual_seed(1)
    config = transformers.DebertaV2Config(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, position_buckets=8,
        vocab_size=VOCAB, relative_attention=True, share_att_key=True, pos_att_type="p2c|c2p",
        norm_rel_ebd="layer_norm", position_biased_input=False, max_position_embeddings=512, type_vocab_size=0,
        num_labels=5,
    )  # fmt: skip
    transformers.DebertaV2ForSequenceClassification(config).save_pretrained(tmp_path / "weights")
    words = {word: number for number, word in enumerate(["[PAD]", "[CLS]", "[SEP]", "[UNK]", "good", "bad", "day"])}
    own = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="[UNK]"))
    own.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    own.post_processor = tokenizers.processors.TemplateProcessing("[CLS] $A [SEP]", None, [("[CLS]", 1), ("[SEP]", 2)])
    own.add_special_tokens(["[PAD]", "[CLS]", "[SEP]", "[UNK]"])
    own.save(str(tmp_path / "weights" / "tokenizer.json"))
    return tmp_path / "weights"


def test_weights_of_a_folder_give_its_states(folder: Path) -> None:
    import transformers

    model = made(vocab_rows=VOCAB).eval()
    loaded = load_state(model, model.weights_of(folder), str(folder))
    assert sorted(loaded.fresh) == ["head.bias", "head.weight"]
    theirs = transformers.DebertaV2ForSequenceClassification.from_pretrained(folder, local_files_only=True).eval()
    given, mask = tokens()[:3], (tokens()[:3] != 0).long()
    with torch.no_grad():
        expected = theirs.deberta(input_ids=given, attention_mask=mask).last_hidden_state
        got = model.deberta(input_ids=given, attention_mask=mask).last_hidden_state
        mean = torch.stack([row[:length].mean(0) for row, length in zip(expected, mask.sum(1).tolist(), strict=True)])
        torch.testing.assert_close(model(given), model.head(mean), rtol=0, atol=1e-5)
    assert torch.equal(got, expected)


class Start(Callback):
    """Keeps the weights before the first step."""

    def fit_start(self, context: Context) -> None:
        self.weights = {name: tensor.detach().clone() for name, tensor in context.model.state_dict().items()}


@pytest.mark.slow
def test_training_starts_from_the_weights_of_a_folder(folder: Path, tmp_path: Path) -> None:
    with (tmp_path / "a.csv").open("w", newline="") as stream:
        rows = [(f"{('good', 'bad')[n % 2]} day {'good bad day ' * (n % 3)}{n}", n % 2) for n in range(60)]
        csv.writer(stream).writerows([("text", "label"), *rows])
    sizes = [f"model.{key}={value}" for key, value in {**SIZES, "vocab_rows": VOCAB}.items()]
    words = [
        "data=text_csv", f"data.file='{tmp_path / 'a.csv'}'", "data.max_length=12", f"data.tokenizer='{folder}'",
        "model=deberta_v3", *sizes, f"model.pretrained='{folder}'", "trainer.max_epochs=1", "device.threads=1",
    ]  # fmt: skip
    start = Start()
    run = effbench.train(words, tmp_path / "run", callbacks=[start])
    theirs = load_file(folder / "model.safetensors")
    encoder = {name for name in start.weights if name.startswith("deberta.")}
    assert len(encoder) > 30
    assert encoder == {name for name in theirs if name.startswith("deberta.")}
    assert all(torch.equal(start.weights[name], theirs[name]) for name in encoder)
    trained = run.model("last").state_dict()
    assert not any(torch.equal(trained[name], theirs[name]) for name in encoder if "query_proj" in name)
    assert run.summary["data"]["tokenizer"]["name"] != "bytes"
    probabilities = run.predict(["good day", "bad day"])  # encoded with the folder's tokenizer
    numbers = torch.tensor([[1, 4, 6, 2], [1, 5, 6, 2]])
    torch.testing.assert_close(probabilities, run.model()(numbers).softmax(1), rtol=0, atol=1e-5)


def test_other_sizes_and_kinds_are_named_with_the_remedy(folder: Path) -> None:
    with pytest.raises(ConfigError, match="has other sizes than the model. Write model.dim=16 model.mlp_dim=64"):
        made(dim=32).weights_of(folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "position_biased_input": True}))
    with pytest.raises(ConfigError, match="is no DeBERTa-v3: position_biased_input of its config.json is True"):
        made().weights_of(folder)
    (folder / "config.json").write_text(json.dumps({**config, "model_type": "bert"}))
    with pytest.raises(ConfigError, match="is of a 'bert'"):
        made().weights_of(folder)
    (folder / "config.json").write_text("{")
    with pytest.raises(DataError, match="config.json' is no whole JSON"):
        made().weights_of(folder)
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "model.safetensors").unlink()
    with pytest.raises(DataError, match="holds no model.safetensors or pytorch_model.bin"):
        made().weights_of(folder)


def test_tokenizer_of_the_folder_is_read_recorded_and_required(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("text,label\ngood day,a\nbad [PAD] day,b\ngood,a\nnever,b\n")
    whole = {"file": str(tmp_path / "a.csv"), "val_fraction": 0, "test_fraction": 0, "max_length": 8}
    data = text_csv(**whole, tokenizer=str(folder))
    assert data.train.inputs[0].tolist() == [1, 4, 6, 2, 0, 0, 0, 0]
    assert 0 not in data.train.inputs[1, :5].tolist(), "a text must not hold the number of padding"
    kind = Texts.fit(data, Settings())
    kind.check_pretrained(folder)
    record = json.loads(json.dumps({"tokenizer": data.facts["tokenizer"], "shape": [8]}))
    restored = Texts.restored(record, Settings())
    assert next(iter(restored.given(["good day"]))).tolist() == [[1, 4, 6, 2, 0, 0, 0, 0]]
    with pytest.raises(ConfigError, match=r"has its own tokenizer.*Write data.tokenizer="):
        Texts.fit(text_csv(**whole), Settings()).check_pretrained(folder)
    (folder / "tokenizer.json").unlink()
    with pytest.raises(DataError, match="save_pretrained"):
        text_csv(**whole, tokenizer=str(folder))


@pytest.mark.parametrize(
    ("content", "message"),
    [("{", "is no whole tokenizer.json"), ("first", "number 0 of .* it must be the padding token")],
)
def test_tokenizers_that_do_not_fit_are_named(folder: Path, content: str, message: str) -> None:
    path = folder / "tokenizer.json"
    if content == "first":
        content = path.read_text().replace("[PAD]", "[ODD]")
    path.write_text(content)
    with pytest.raises(DataError, match=message):
        fitted_tokenizer(str(path), [], 100)


@pytest.mark.proof
def test_the_library_is_loaded_without_a_word() -> None:
    """Transformers imports torchao where it is installed, and torch then prints notes on torchao's classes."""
    words = [sys.executable, "-c", "from effbench.models import deberta; deberta._library()"]
    told = subprocess.run(words, capture_output=True, text=True, check=True)
    assert told.stdout + told.stderr == ""
