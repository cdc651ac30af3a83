"""Models are counted, benched and checked with the sizes that their data give: outputs, and numbers of a tokenizer."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from effbench import build
from effbench.bench.sources import untrained_source
from effbench.config.compose import compose
from effbench.errors import ConfigError, DataError
from effbench.log import LOGGER
from effbench.report.cost import cost, setting_for
from effbench.run.validate import dry_build, dry_build_own, own_setting
from effbench.study.measure import inference_costs
from effbench.units import human_count
from tests.cli.conftest import Effbench
from tests.cli.conftest import effbench as effbench  # a fixture

GPT = ["model=gpt", "data=kjv", "task=next_token", "data.context=8", "model.dim=8", "model.depth=1", "model.heads=2"]
GPT_PARAMETERS = 257 * 8 + 8 * 8 + (4 * 8 * 8 + 4 * 8) + (2 * 8 * 32 + 32 + 8) + 3 * 2 * 8
WORDS = [
    "model=text_cnn",
    "data=text_csv",
    "data.tokenizer=words",
    "data.max_length=8",
    "model.dim=4",
    "data.val_fraction=0",
    "data.test_fraction=0",
]
DEBERTA = ["model=deberta_v3", "model.dim=8", "model.depth=1", "model.heads=2", "model.mlp_dim=8"]
NUMBERS = 2 + 20 + 2  # padding and unknown; 'word0' to 'word19', 'good', 'bad'


@pytest.fixture
def texts(tmp_path: Path) -> list[str]:
    """Words of a config for texts of three classes with a vocabulary of NUMBERS."""
    rows = [f"word{row} {('good', 'bad')[row % 2]},{'abc'[row % 3]}" for row in range(20)]
    (tmp_path / "texts.csv").write_text("\n".join(["text,label", *rows]))
    return [*WORDS, f"data.file={tmp_path / 'texts.csv'}", "optimizer=adamw"]


@pytest.fixture
def tokenizer(tmp_path: Path) -> Path:
    """A folder with a tokenizer.json of 1,000 numbers."""
    library = pytest.importorskip("tokenizers")
    words = {"[PAD]": 0, "[UNK]": 1, **{f"word{number}": number for number in range(2, 998)}, "good": 998, "bad": 999}
    own = library.Tokenizer(library.models.WordLevel(words, unk_token="[UNK]"))
    own.pre_tokenizer = library.pre_tokenizers.Whitespace()
    own.add_special_tokens(["[PAD]", "[UNK]"])
    (tmp_path / "given").mkdir()
    own.save(str(tmp_path / "given" / "tokenizer.json"))
    return tmp_path / "given"


@pytest.fixture
def audible() -> Iterator[None]:
    """What a process of its own silences is heard again."""
    before = LOGGER.level
    yield
    LOGGER.setLevel(before)
    assert before < logging.CRITICAL


def fitted_parameters(words: list[str]) -> int:
    """Count the parameters of the model as training builds it."""
    config = compose(words)
    data = build.splits(config)
    model = build.model(config, len(data.classes), build.modality(config, data, torch.device("cpu")))
    return sum(parameter.numel() for parameter in model.parameters())


def test_a_model_of_tokens_has_an_output_for_each_token() -> None:
    setting = own_setting(compose(GPT))
    assert (setting.num_classes, str(setting)) == (257, "8 tokens, 257 token numbers")
    assert cost(compose(GPT), setting)["parameters"] == GPT_PARAMETERS
    assert f"({human_count(GPT_PARAMETERS)} parameters)" in dry_build(compose(GPT), setting)


@pytest.mark.parametrize(("words", "shape"), [(GPT, (4, 8, 257)), ([*WORDS[:1], "data=language_id"], (4, 10))])
def test_an_untrained_text_model_takes_its_random_samples(words: list[str], shape: tuple[int, ...]) -> None:
    source = untrained_source(compose(words), 4)
    assert source.model is not None
    with torch.inference_mode():
        assert source.model(source.samples).shape == shape


def test_an_untrained_model_has_the_fitted_vocabulary(texts: list[str]) -> None:
    source = untrained_source(compose(texts), 4)
    assert source.facts["model"]["parameters"] == fitted_parameters(texts)
    # the preview alone has the most token numbers
    assert own_setting(compose(texts)).modality.provisional
    told = dry_build_own(compose(texts))
    assert "(at most " in told
    assert "(at most " not in dry_build(compose(texts), setting_for(compose(texts)))


def test_too_many_token_numbers_are_not_those_of_the_data(texts: list[str]) -> None:
    pytest.importorskip("transformers")
    words = [*texts, *DEBERTA, f"model.vocab_rows={NUMBERS}"]
    words = [word for word in words if word not in ("model=text_cnn", "model.dim=4")]
    assert dry_build_own(compose(words)).startswith("DebertaV3")
    with pytest.raises(ConfigError, match=f"at least the {NUMBERS} numbers of the tokenizer"):
        dry_build_own(compose([*words[:-1], f"model.vocab_rows={NUMBERS - 1}"]))


def test_summary_counts_the_model_of_the_fitted_vocabulary(texts: list[str], effbench: Effbench) -> None:
    code, out, err = effbench("summary", *texts, "--json")
    assert code == 0, err
    [row] = json.loads(out)
    assert row["parameters"] == fitted_parameters(texts)
    assert row["setting"] == "at most 8 tokens, 3 classes"
    assert setting_for(compose(texts)).modality.facts["vocab_size"] == NUMBERS


def test_without_data_and_classes_a_model_of_tokens_is_whole(effbench: Effbench) -> None:
    [row] = json.loads(effbench("summary", *GPT, "input=8", "--json")[1])
    assert row["parameters"] == GPT_PARAMETERS
    [row] = json.loads(effbench("summary", *GPT, "input=8", "classes=100", "--json")[1])
    assert row["parameters"] == GPT_PARAMETERS - 157 * 8


@pytest.mark.usefixtures("audible")
def test_a_study_s_state_is_that_of_the_run_s_model(texts: list[str]) -> None:
    for words, parameters in ((texts, fitted_parameters(texts)), ([*GPT, "optimizer=adamw"], GPT_PARAMETERS)):
        state = inference_costs(words, latency=False)["optimizer_state_bytes"]
        assert state is not None
        assert 0 <= state - 8 * parameters < 200  # a step count for each tensor


@pytest.mark.parametrize(
    "model", [["model=text_cnn"], pytest.param([*DEBERTA, "model.vocab_rows=1024"], marks=pytest.mark.proof)], ids=len
)
def test_a_named_tokenizer_gives_the_size_of_the_vocabulary(
    model: list[str], texts: list[str], tokenizer: Path
) -> None:
    if len(model) > 1:
        pytest.importorskip("transformers")
    words = [*texts, *model, f"data.tokenizer={tokenizer}"]
    config = compose(words)
    assert own_setting(config).modality.facts["vocab_size"] == 1000
    read, given = setting_for(config), setting_for(config, ((8,), 3))
    assert cost(config, read)["parameters"] == cost(config, given)["parameters"] == fitted_parameters(words)
    (tokenizer / "tokenizer.json").unlink()
    with pytest.raises(DataError, match="data.tokenizer"):
        own_setting(config)
