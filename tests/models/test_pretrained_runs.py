"""Starting from a run, and names that stand for weights which are not there."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from effbench import build, cli, load_run
from effbench.config.compose import compose
from effbench.data.images.modality import Images
from effbench.data.modality import Settings
from effbench.data.text.modality import Texts
from effbench.data.text.tokenizers import BytePairs, FirstWords, Given, Tokenizer, Words
from effbench.errors import ConfigError, DataError

SMALL = ["data=synthetic", "data.num_train=64", "data.image_size=8", "device.threads=1"]
WORDS = ["model=mlp", "model.hidden=[8]", *SMALL]
TWO_STEPS = ["trainer.max_steps=2", "data.batch_size=16"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pretrained") / "run"
    assert cli.main(["train", *WORDS, *TWO_STEPS, "ema=on", f"hydra.run.dir={folder}"]) == 0
    return folder


@pytest.mark.process
@pytest.mark.parametrize("part", ["", "checkpoints/best", "checkpoints/last"])
def test_a_run_s_folder_gives_the_weights_that_it_evaluates(
    run: Path, part: str, capsys: pytest.CaptureFixture[str]
) -> None:
    config = compose([*WORDS, f"model.pretrained={run / part}"])
    built = build.model(config, 10, Images.blank((3, 8, 8))).state_dict()
    expected = load_run(run).model(part.rpartition("/")[2] or "best").state_dict()
    assert all(torch.equal(built[key], expected[key]) for key in expected)
    assert f"pretrained: 4 tensors of {run}" in capsys.readouterr().err


@pytest.mark.slow
def test_run_with_other_classes_gives_all_weights_but_the_head(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    built = build.model(compose([*WORDS, f"model.pretrained={run}"]), 7, Images.blank((3, 8, 8)))
    hidden = load_run(run).model().state_dict()["hidden1.0.weight"]
    assert torch.equal(built.state_dict()["hidden1.0.weight"], hidden)
    assert "newly initialised: head.bias, head.weight" in capsys.readouterr().err


@pytest.mark.slow
def test_pretrained_damaged_or_missing_checkpoint_is_refused(run: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"is no run with a checkpoint\. Name a run's folder"):
        build.model(compose([*WORDS, f"model.pretrained={tmp_path}"]), 10, Images.blank((3, 8, 8)))
    broken = tmp_path / "broken"
    broken.mkdir()
    for file in (run / "checkpoints" / "best").iterdir():
        content = bytearray(file.read_bytes())
        if file.name == "ema.safetensors":
            content[-1] ^= 1
        (broken / file.name).write_bytes(content)
    with pytest.raises(DataError, match=r"ema\.safetensors is missing or damaged"):
        build.model(compose([*WORDS, f"model.pretrained={broken}"]), 10, Images.blank((3, 8, 8)))


@pytest.mark.process
def test_resume_does_not_need_the_pretrained_weights(run: Path, tmp_path: Path) -> None:
    first, weights = tmp_path / "run", tmp_path / "weights.safetensors"
    save_file(load_run(run).model().state_dict(), weights)
    words = [*WORDS, "data.batch_size=16", f"model.pretrained={weights}", f"hydra.run.dir={first}"]
    assert cli.main(["train", *words, "trainer.max_epochs=1"]) == 0
    weights.unlink()
    assert cli.main(["train", f"resume={first}", "trainer.max_epochs=2"]) == 0
    assert load_run(first).summary["epochs"] == 2


@pytest.mark.slow
def test_timm_s_tag_of_trained_weights_trains_nothing_fresh(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("timm")
    words = ["model=timm", "model.name=resnet18.a1_in1k", *SMALL]
    assert cli.main(["train", *words, f"hydra.run.dir={tmp_path / 'run'}"]) == 2
    error = capsys.readouterr().err
    assert "names trained weights ('a1_in1k')" in error
    assert "model.name=resnet18;" in error
    assert "model.pretrained=FILE.safetensors" in error
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_timm_tag_with_a_weights_file_loads_it(tmp_path: Path) -> None:
    timm = pytest.importorskip("timm")
    theirs = timm.create_model("resnet18", num_classes=1000)
    save_file(theirs.state_dict(), tmp_path / "model.safetensors")
    words = ["model=timm", "model.name=resnet18.a1_in1k", f"model.pretrained={tmp_path / 'model.safetensors'}"]
    config = compose([*words, *SMALL])
    build.check_options(config)
    built = build.model(config, 10, Images.blank((3, 32, 32))).state_dict()
    assert torch.equal(built["layer1.0.conv1.weight"], theirs.state_dict()["layer1.0.conv1.weight"])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("target", "option"),
    [
        ("torchvision.models.resnet18", "weights=IMAGENET1K_V1"),
        ("effbench.models.timm_zoo.create", "checkpoint_path=weights.pth"),
    ],
)
def test_options_that_would_fetch_weights_are_refused(target: str, option: str) -> None:
    name = ["+model.name=resnet18"] if "timm" in target else []
    words = ["model=mlp", "~model.hidden", "~model.dropout", f"model._target_={target}", f"+model.{option}", *name]
    with pytest.raises(ConfigError, match=r"downloads no weights.*model\.pretrained=FILE"):
        build.model(compose(words), 10, Images.blank((3, 32, 32)))


# --- texts: weights are for the numbers of a tokenizer ---------------------------------------------------------------

NGRAMS = ["data=text_csv", "model=ngrams", "model.buckets=99", "model.hidden=4", "device.threads=1"]


def texts_of(folder: Path, words: str) -> list[str]:
    """The words of a run on a table whose texts hold these, in equal numbers: all vocabularies have one size."""
    file = folder / f"{words.split()[0]}.csv"
    rows = [f"{word} {number},{'ab'[number % 2]}" for number, word in enumerate(words.split() * 15)]
    file.write_text("\n".join(["text,label", *rows]))
    return [*NGRAMS, f"data.file={file}"]


@pytest.mark.slow
@pytest.mark.parametrize("tokenizer", ["words", "bytes"])
def test_a_run_of_another_vocabulary_gives_no_weights(
    tokenizer: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    chosen = [f"data.tokenizer={tokenizer}", "trainer.max_steps=1", "trainer.limit_test_batches=0"]
    one, other = texts_of(tmp_path, "good fine bad"), texts_of(tmp_path, "gut fein arg")
    first, second = tmp_path / "first", tmp_path / "second"
    assert cli.main(["train", *one, *chosen, f"hydra.run.dir={first}"]) == 0
    start = [*chosen, f"model.pretrained={first}", f"hydra.run.dir={second}"]
    capsys.readouterr()
    code, error = cli.main(["train", *other, *start]), capsys.readouterr().err
    if tokenizer == "bytes":  # the same for all texts
        assert (code, "pretrained: 3 tensors" in error) == (0, True), error
        return
    assert code == 2
    assert f"error: model.pretrained: '{first}/checkpoints/best' is of a run with another tokenizer" in error
    assert "Train both runs with data.tokenizer=bytes" in error
    assert cli.main(["train", *one, *start]) == 0  # fitted to the same texts
    assert "pretrained: 3 tensors" in capsys.readouterr().err


@pytest.mark.parametrize("fitted", [{}, {"tokenizer": None}, {"features": "0" * 64}])
def test_older_checkpoints_state_no_tokenizer(fitted: dict[str, str | None], caplog: pytest.LogCaptureFixture) -> None:
    texts = Texts(8, 4, Words.fit(["a b"], 4), Settings())
    texts.check_pretrained_run(Path("run"), fitted, {})
    assert "the tokenizer of 'run' is not recorded there" in caplog.text
    with pytest.raises(ConfigError, match=r"'run' is of a run with another tokenizer"):
        texts.check_pretrained_run(Path("run"), {**fitted, "tokenizer": "0" * 64}, {})
    Images.blank((3, 8, 8)).check_pretrained_run(Path("run"), {"tokenizer": "0" * 64}, {})


def own_texts(tokenizer: Tokenizer, name: str) -> Texts:
    return Texts(8, tokenizer.vocab_size, tokenizer, Settings(data={"tokenizer": name}))


def test_a_run_s_own_record_decides_without_a_digest() -> None:
    """As of a run of before checkpoints had one."""
    texts, run = own_texts(Words.fit(["a b"], 9), "words"), Path("run")
    texts.check_pretrained_run(run, {}, {"tokenizer": Words.fit(["b a"], 9).record()})
    with pytest.raises(ConfigError, match=r"another tokenizer, and .* with one data.tokenizer=FILE\.json"):
        texts.check_pretrained_run(run, {}, {"tokenizer": Words.fit(["b c"], 9).record()})


def test_words_of_other_rules_may_have_the_same_numbers() -> None:
    texts, run, other = own_texts(Words.fit(["a b"], 9), "words"), Path("run"), {"tokenizer": "0" * 64}
    texts.check_pretrained_run(run, other, {"tokenizer": FirstWords.fit(["a b"], 9).record()})
    with pytest.raises(ConfigError, match=r"another tokenizer by data\.rules=1, .* texts and the same data\.rules\. "):
        texts.check_pretrained_run(run, other, {"tokenizer": FirstWords.fit(["a c"], 9).record()})


def test_a_tokenizer_saved_again_has_the_same_numbers() -> None:
    pytest.importorskip("tokenizers")
    content = json.loads(BytePairs.fit(["good day"], 300).content)
    cut = {"direction": "Right", "max_length": 8, "strategy": "LongestFirst", "stride": 0}
    again = Given(json.dumps({**content, "truncation": cut}, indent=3))
    texts, run, other = own_texts(Given(json.dumps(content)), "~/DIR/x.json"), Path("run"), {"tokenizer": "0" * 64}
    texts.check_pretrained_run(run, other, {"tokenizer": again.record()})
    with pytest.raises(ConfigError, match=r"this run has data\.tokenizer=~/DIR/x\.json\."):
        texts.check_pretrained_run(run, other, {"tokenizer": BytePairs.fit(["bad night"], 300).record()})


# --- a file of a checkpoint, and a model whose embedding is its head

GPT = ["data=text_file", "task=next_token", "model=gpt", "model.dim=8", "model.depth=1", "model.heads=2"]
SHORT = ["data.context=8", "data.tokenizer=chars", "trainer.max_steps=1", "data.batch_size=4", "device.threads=1"]


def letters_of(folder: Path, letters: str) -> list[str]:
    """The words of a next-token run on a text of these letters."""
    (folder / f"{letters}.txt").write_text(letters * 400)
    return [*GPT, *SHORT, f"data.file={folder / f'{letters}.txt'}"]


@pytest.mark.process
def test_of_other_letters_gpt_takes_all_but_the_embedding(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, other = tmp_path / "run", f"hydra.run.dir={tmp_path / 'other'}"
    assert cli.main(["train", *letters_of(tmp_path, "abcdef"), f"hydra.run.dir={run}"]) == 0
    same_size = letters_of(tmp_path, "uvwxyz")
    best = run / "checkpoints" / "best"
    shutil.copytree(best, tmp_path / "copy")  # without the run's record
    old = tmp_path / "old" / "checkpoints" / "best"  # whose checkpoint says nothing, but the run does
    old.mkdir(parents=True)
    shutil.copy(best / "model.safetensors", old)
    shutil.copy(run / "summary.json", tmp_path / "old")
    for source in (run, best / "model.safetensors", tmp_path / "copy" / "model.safetensors", old / "model.safetensors"):
        capsys.readouterr()
        assert cli.main(["train", *same_size, f"model.pretrained={source}", other]) == 2
        error = capsys.readouterr().err
        assert "is of a run with another tokenizer" in error
        assert "Train both runs with data.tokenizer=bytes, or leave model.pretrained out." in error
    assert cli.main(["train", *letters_of(tmp_path, "uvwxyz12"), f"model.pretrained={run}", other]) == 0
    assert "newly initialised: embedding.weight" in capsys.readouterr().err
