"""A modality is one file and one YAML: feature rows through every verb, and one of a user's own."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from effbench import build, cli, load_run
from effbench.builders.factories import call
from effbench.config.compose import compose
from effbench.data.images.modality import Images
from effbench.data.modality import Modality
from effbench.data.rows.modality import Rows
from effbench.data.splits import Split, Splits
from effbench.errors import ConfigError

OWN = '''
from pathlib import Path
import torch
from torch import nn
from effbench.config.options import COUNT
from effbench.data.modality import Modality, Settings
from effbench.data.other_source import reads_other_source
from effbench.data.splits import Split, Splits, digest
from effbench.errors import ConfigError, DataError

LETTERS = "abcdefgh"


class Hide:
    def __init__(self, letters: int = 1):
        if not 0 <= letters <= 6:
            raise ConfigError(f"augment.letters must be from 0 to 6; got {letters}.")
        self.letters = letters


class Words(Modality):
    """Words of up to 6 letters as int64 (N, 6): 1 to 8, padded with 0; in training some letters are hidden."""

    unit = "word"
    file_options = {"most_words": COUNT}
    layout = "(letters,)"
    augmentation = Hide

    def __init__(self, shape, settings, most_common=0):
        super().__init__(shape, settings.device)
        self.most_common, self.hide = most_common, settings.augment or Hide()

    @classmethod
    def checked(cls, name, inputs, count):
        if inputs.dtype != torch.int64 or inputs.dim() != 2 or len(inputs) != count:
            raise DataError(f"{name} words must be int64 (N, letters); got {inputs.dtype}.")
        return inputs

    @classmethod
    def fit(cls, data, settings):
        return cls(data.shape, settings, most(data.train.inputs))

    @classmethod
    def blank(cls, shape, settings=None):
        return cls(shape, settings or Settings())

    @classmethod
    def restored(cls, data, settings):
        return cls(data["shape"], settings, data["most_common"])

    def record(self):
        return {"most_common": self.most_common}

    @property
    def facts(self):
        return {"num_tokens": len(LETTERS) + 1}

    def example(self, count=1):
        return torch.zeros(count, *self.shape, dtype=torch.int64)

    @property
    def draws(self):
        return self.hide.letters > 0

    def draw(self, count, generator):
        return {"hidden": torch.randint(0, self.shape[0], (count, self.hide.letters), generator=generator)}

    def batch(self, inputs, indices, plan, rows):
        words = inputs[indices[rows]]
        return words.scatter(1, plan["hidden"][rows], self.most_common) if plan else words

    def plain(self, inputs, rows):
        return inputs[rows]

    def portable_example(self):
        return torch.zeros(2, *self.shape, dtype=torch.int64)

    def read_files(self, paths, options, problems):
        for path in paths:
            words = Path(path).read_text().split()[: options.get("most_words")]
            yield [{"file": path, "word": word} for word in words], torch.stack([encoded(word) for word in words])


def most(words):
    return int(words[words > 0].bincount().argmax())


def encoded(word):
    ids = [LETTERS.index(letter) + 1 for letter in word]
    return torch.tensor(ids + [0] * (6 - len(ids)))


def words(count=96):
    """Whether a word holds an 'a'."""
    def split(count, seed):
        generator = torch.Generator().manual_seed(seed)
        ids = torch.randint(0, len(LETTERS) + 1, (count, 6), generator=generator)
        return Split(ids, (ids == 1).any(1).long())

    train = split(count, 0)
    return Splits("words", train, split(48, 1), split(48, 2), ("without", "with"), digest(train.inputs), modality=Words)


@reads_other_source(words)
def other_words(before, now, recorded, which):
    if now["count"] == before["count"]:
        return None
    return which or "all", words(now["count"]).train


class Bag(nn.Module):
    def __init__(self, num_classes, num_tokens, width=16):
        super().__init__()
        self.embedding, self.head = nn.Embedding(num_tokens, width), nn.Linear(width, num_classes)

    def forward(self, ids):
        return self.head(self.embedding(ids).amax(1))
'''
pytestmark = pytest.mark.process
ROWS = ["data=synthetic_rows", "model=mlp", "model.hidden=[16]", "model.dropout=0", "device.threads=1"]


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The words that let a command see a user's own file, in the working folder."""
    for group, text in {"data": "words\ncount: 96", "model": "Bag\nwidth: 16", "augment": "Hide\nletters: 2"}.items():
        (tmp_path / "conf" / group).mkdir(parents=True)
        base = "" if group == "augment" else "defaults: [_base, _self_]\n"
        (tmp_path / "conf" / group / "mine.yaml").write_text(f"{base}_target_: own_words.{text}\n")
    (tmp_path / "own_words.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    return ["--config-dir", "conf", "allow_targets=[own_words]"]


def summary(folder: str) -> dict[str, Any]:
    return dict(json.loads((Path(folder) / "summary.json").read_text()))


def train(*words: str) -> int:
    return cli.main(["train", *words])


# --- a modality of a user's own


def test_own_modality_goes_through_every_verb(own: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    words = ["data=mine", "model=mine", "device.threads=1", "optimizer.lr=0.03", *own]
    assert train(*words, "trainer.max_epochs=12", "hydra.run.dir=run") == 0
    run = summary("run")
    assert (run["words_seen"], run["data"]["unit"], run["data"]["shape"]) == (run["steps"] * 8, "word", [6])
    assert "images_seen" not in run
    assert run["timing"]["words_per_s"] > 0
    assert run["model"]["macs"] == 32
    with Path("run/metrics.csv").open() as stream:
        assert "train/words_per_s" in next(csv.reader(stream))
    capsys.readouterr()
    allow = "allow_targets=[own_words]"
    assert cli.main(["eval", "run", allow, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["test/acc"] == run["metrics"]["test/acc"] > 0.6
    assert cli.main(["eval", "run", allow, "data.count=20", "--json"]) == 0
    other = json.loads(capsys.readouterr().out)
    assert (other["samples"], "all/acc" in other) == (20, True)
    Path("some.txt").write_text("abc bcd hag")
    assert cli.main(["predict", "run", "some.txt", allow]) == 0
    rows = list(csv.DictReader(capsys.readouterr().out.splitlines()))
    assert cli.main(["predict", "run", "some.txt", allow, "most_words=2"]) == 0  # an option of its files
    assert list(csv.DictReader(capsys.readouterr().out.splitlines())) == rows[:2]
    ids = torch.tensor([[1, 2, 3, 0, 0, 0], [2, 3, 4, 0, 0, 0], [8, 1, 7, 0, 0, 0]])
    answers = load_run("run", ["own_words"]).predict(ids).argmax(1)
    expected = [("without", "with")[answer] for answer in answers]
    assert [(row["file"], row["word"], row["class"]) for row in rows] == [
        ("some.txt", word, name) for word, name in zip(("abc", "bcd", "hag"), expected, strict=True)
    ]
    assert cli.main(["export", "run", "format=torch_export", allow]) == 0
    assert cli.main(["verify", "run"]) == 0
    assert cli.main(["report", "run", "output=page.html"]) == 0
    assert "words/s" in capsys.readouterr().out


@pytest.mark.proof
def test_own_modality_resumes_to_the_bit(own: list[str]) -> None:
    words = ["data=mine", "model=mine", "device.threads=1", *own]
    assert train(*words, "trainer.max_epochs=2", "hydra.run.dir=whole") == 0
    assert train(*words, "trainer.max_epochs=2", "trainer.max_time=0.000001", "hydra.run.dir=parts") == 0
    assert summary("parts")["steps"] < summary("whole")["steps"]
    assert train("resume=parts", "trainer.max_time=null", *own) == 0
    whole, parts = (Path(folder, "checkpoints/last/model.safetensors").read_bytes() for folder in ("whole", "parts"))
    assert whole == parts


def test_own_modality_needs_its_module_allowed(own: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    words = ["data=mine", "model=mine", "device.threads=1", "trainer.max_steps=1", *own]
    assert train(*words, "hydra.run.dir=run") == 0
    text = Path("run/summary.json").read_text()
    Path("run/summary.json").write_text(text.replace("own_words.Words", "os.path.join"))
    assert cli.main(["predict", "run", "x", "allow_targets=[own_words]"]) == 2
    assert "os.path.join" in capsys.readouterr().err


# --- its augmentation


def test_own_options_may_have_the_names_of_others() -> None:
    """The ranges of images' options, and of a shipped loss's, are not those of a class of the user's."""
    own = [
        "augment._target_=own_words.Hide",
        "augment.scale=3.0",
        "augment.rotate=[0,720]",
        "allow_targets=[own_words]",
    ]
    assert compose(own).augment.options["scale"] == 3.0
    assert compose(own).augment.options["rotate"] == [0, 720]
    loss = ["loss._target_=own_words.Margin", "loss.label_smoothing=2", "allow_targets=[own_words]"]
    assert compose(loss).loss.options["label_smoothing"] == 2
    for words in (own[1:], loss[1:]):
        with pytest.raises(ConfigError, match=r"augment\.scale|loss\.label_smoothing"):
            compose(words)


@pytest.mark.proof
def test_own_augmentation_group_reaches_the_modality(own: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    words = ["data=mine", "model=mine", "augment=mine", "device.threads=1", *own]
    assert train(*words, "augment.letters=3", "trainer.max_epochs=2", "hydra.run.dir=whole") == 0
    assert "counts as augment=none" not in capsys.readouterr().err
    assert load_run("whole", ["own_words"]).config.to_dict()["augment"] == {"_target_": "own_words.Hide", "letters": 3}
    stopped = [*words, "augment.letters=3", "trainer.max_epochs=2", "trainer.max_time=0.000001"]
    assert train(*stopped, "hydra.run.dir=parts") == 0
    assert train("resume=parts", "trainer.max_time=null", *own) == 0
    assert train(*words, "augment.letters=0", "trainer.max_epochs=2", "hydra.run.dir=plain") == 0
    whole, parts, plain = (
        Path(folder, "checkpoints/last/model.safetensors").read_bytes() for folder in ("whole", "parts", "plain")
    )
    assert whole == parts != plain


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ["data=mine", "model=mine", "augment=mine", "augment.letters=7"],
            "augment.letters must be from 0 to 6; got 7",
        ),
        (["data=synthetic", "augment=mine"], "augment._target_=own_words.Hide augment.letters=2: the augment group is"),
        (["data=mine", "model=mine", "augment=strong"], "augment=strong: the augment group is not for words"),
    ],
    ids=["refused by its class", "for other samples", "of images"],
)
def test_own_augmentation_is_refused_where_it_does_not_fit(
    words: list[str], said: str, own: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(*words, "device.threads=1", *own, "hydra.run.dir=run") == 2
    assert said in capsys.readouterr().err


# --- rows


@pytest.fixture(scope="module")
def rows_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("rows") / "run"
    assert train(*ROWS, "trainer.max_epochs=2", "optimizer.lr=0.03", f"hydra.run.dir={folder}") == 0
    return folder


@pytest.mark.proof
def test_rows_train_with_their_own_words(rows_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = summary(str(rows_run))
    assert (run["rows_seen"], run["data"]["shape"], run["data"]["unit"]) == (2048, [16], "row")
    assert run["metrics"]["test/acc"] > 0.7
    assert not [key for key in json.dumps(run["timing"]).split('"') if "image" in key]
    assert cli.main(["report", str(rows_run), f"output={rows_run}/page.html"]) == 0
    out = capsys.readouterr().out
    assert "rows/s" in out
    assert "images" not in out


def test_predict_reads_csv_as_run_predict_takes_arrays(rows_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = load_run(rows_run)
    rows = torch.linspace(-3, 3, 48).view(3, 16)
    path = rows_run / "some.csv"
    header = ",".join(f"x{column}" for column in range(15, -1, -1))
    np.savetxt(path, rows.flip(1).numpy(), delimiter=",", header=header, comments="")
    assert cli.main(["predict", str(rows_run), str(path), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    answers = run.predict(rows)
    assert [row["row"] for row in told] == [1, 2, 3]
    assert [run.classes.index(row["class"]) for row in told] == answers.argmax(1).tolist()
    torch.testing.assert_close(run.predict(str(path)), answers)
    assert cli.main(["predict", str(rows_run), str(path), "max_pixels=9"]) == 2
    assert "option of predict 'max_pixels' is not one of: allow_targets" in capsys.readouterr().err


@pytest.mark.parametrize("format_name", ["onnx", "torchscript", "torch_export"])
def test_rows_are_exported_with_their_normalisation(format_name: str, rows_run: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime" if format_name == "onnx" else "torch")
    assert cli.main(["export", str(rows_run), f"format={format_name}", f"output={tmp_path}"]) == 0
    about = json.loads(next(tmp_path.glob("*.json")).read_text())
    assert about["input"] == {"name": "rows", "shape": ["N", 16], "dtype": "float32"}
    assert about["parity"]["agreeing"] == about["parity"]["samples"] == 256


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["augment=strong"], "the augment group is not for rows"),
        (["augment.flip=0.1"], "augment.flip=0.1"),
        (["device.channels_last=true"], "device.channels_last=true is for images"),
        (
            ["model=cnn"],
            "rows give num_classes, in_features. For rows write model=linear | mlp | neuron.\n",
        ),
    ],
    ids=["strong", "flip", "channels_last", "cnn"],
)
def test_options_of_images_are_refused_for_rows(
    words: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [word for word in ROWS if not (words == ["model=cnn"] and word.startswith("model"))]
    assert train(*given, *words, f"hydra.run.dir={tmp_path / 'run'}") == 2
    assert said in capsys.readouterr().err


def test_a_model_that_lacks_arguments_is_told_what_helps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "narrow.py").write_text("def build(num_classes, in_features, width): ...\n")
    monkeypatch.syspath_prepend(tmp_path)
    config = compose(["allow_targets=[narrow]"])
    rows = {"num_classes": 2, "in_features": 3}
    with pytest.raises(
        ConfigError, match=r"needs width, .*Give model\.width=VALUE; or: For rows write model=linear \| "
    ):
        call("model", "narrow.build", config, {}, rows, "rows")
    images = {"num_classes": 2, "in_channels": 1, "image_size": (8, 8)}
    with pytest.raises(ConfigError, match=r"needs in_features, width, .*image_size\. For images write model=cnn \| "):
        call("model", "narrow.build", config, {}, images, "images")
    with pytest.raises(ConfigError, match=r"words give num_classes, length\. Name a model of your own for words\."):
        call("model", "effbench.models.cnn.cnn", config, {}, {"num_classes": 2, "length": 9}, "words")


def test_summary_counts_a_row_without_the_papers_setting(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["summary", *ROWS, "--json"]) == 0
    [row] = json.loads(capsys.readouterr().out)
    assert (row["unit"], row["macs"]) == ("row", 16 * 16 + 16 * 4)
    assert cli.main(["summary", *ROWS, "input=8", "classes=3", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["macs"] == 8 * 16 + 16 * 3
    assert cli.main(["summary", *ROWS, "input=3x224x224"]) == 2
    assert "(F,) of a row" in capsys.readouterr().err


# --- the interface itself


def test_split_takes_samples_under_both_names() -> None:
    images, labels = torch.zeros(2, 1, 4, 4, dtype=torch.uint8), torch.tensor([0, 1])
    for split in (Split(images, labels), Split(images=images, labels=labels), Split(inputs=images, labels=labels)):
        assert split.images is split.inputs is images
    with pytest.raises(TypeError):
        Split(images, labels, images=images)
    data = Splits("toy", Split(images=images, labels=labels), None, None, ("a", "b"), "")
    assert (data.modality, data.shape) == (Images, (1, 4, 4))


@pytest.mark.parametrize("kind", [Images, Rows])
def test_modality_is_restored_from_its_own_record(kind: type[Modality]) -> None:
    config = compose(["data=synthetic" if kind is Images else "data=synthetic_rows", "model=mlp"])
    data = build.splits(config)
    fitted = build.modality(config, data, torch.device("cpu"))
    recorded = {"modality": f"{kind.__module__}.{kind.__qualname__}", "shape": list(data.shape), **data.facts}
    restored = build.restored_modality(config, json.loads(json.dumps({**recorded, **fitted.record()})))
    assert type(restored) is kind
    for rows in (slice(0, 5), torch.tensor([3, 9])):
        assert torch.equal(restored.plain(data.train.inputs, rows), fitted.plain(data.train.inputs, rows))
    assert build.model(config, 4, restored)(fitted.plain(data.train.inputs, slice(0, 2))).shape == (2, 4)
