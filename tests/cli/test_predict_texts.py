"""`effbench predict` of a run on texts: files, a pipe, and text=TEXT.

White-box: `_as_csv`, because a run with labels named like columns would take a training for one row.
"""

from __future__ import annotations

import csv
import io
import json
import os
from pathlib import Path

import pytest
import torch

from effbench import cli
from effbench.cli import predict
from effbench.run.load import load_run
from effbench.run.run import Run
from tests.cli.conftest import Effbench

WORDS = ["data=text_csv", "data.max_length=12", "model=ngrams", "model.buckets=99", "model.hidden=4", "debug=smoke"]


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A run on texts of at most 12 bytes."""
    folder = tmp_path_factory.mktemp("texts")
    rows = [f"{word} {other},{label}" for label, word in enumerate(("gut", "good")) for other in range(40)]
    (folder / "texts.csv").write_text("\n".join(["text,label", *rows]) + "\n")
    assert cli.main(["train", *WORDS, f"data.file={folder / 'texts.csv'}", f"hydra.run.dir={folder / 'run'}"]) == 0
    return str(folder / "run")


@pytest.mark.slow
def test_a_text_itself_is_answered_as_its_file(texts: str, effbench: Effbench, tmp_path: Path) -> None:
    given = ["good day", "=gut, 3"]
    (tmp_path / "two.txt").write_text("\n".join(given))
    rows = json.loads(effbench("predict", texts, "two.txt", "--json")[1])
    for row, text in zip(rows, given, strict=True):
        del row["file"], row["row"], row["line"]
        row["text"] = text
    words = [f"text={given[0]}", "--text", given[1]]
    code, out, err = effbench("predict", texts, *words, "--json")
    assert (code, json.loads(out), err) == (0, rows, "")
    table = list(csv.DictReader(io.StringIO(effbench("predict", texts, *words, "top_k=1")[1])))
    assert [row["text"] for row in table] == ["good day", "'=gut, 3"]
    chances = load_run(texts).predict(given).max(1).values.tolist()
    assert [float(row["probability"]) for row in table] == pytest.approx(chances, abs=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["Guten Tag"], 'there is no file Guten Tag. For a text itself, write text="a sentence".'),
        (["text="], "text='' is empty"),
        (["text= "], "text=' ' is empty"),
        (["txt=Tag"], "option of predict 'txt' is not one of: "),
        (["txt=Tag"], "Did you mean 'text'?"),
        (["text=Tag", "run"], "predict takes files or texts; got 'run' too"),
        (["--text"], "--text needs a value"),
    ],
    ids=["file", "empty", "blank", "unknown", "near", "both", "none"],
)
def test_what_is_no_text_is_refused_by_name(words: list[str], said: str, texts: str, effbench: Effbench) -> None:
    code, out, err = effbench("predict", texts, *words)
    assert (code, out) == (2, "")
    assert said in err


def test_a_run_on_images_takes_no_text(run: Path, effbench: Effbench) -> None:
    code, out, err = effbench("predict", str(run), "text=good day")
    assert (code, out) == (2, "")
    assert "text= is for runs on texts, and this one is on images. Give their files instead." in err


@pytest.mark.slow
def test_a_text_that_names_a_file_is_told(texts: str, effbench: Effbench, tmp_path: Path) -> None:
    (tmp_path / "two.txt").write_text("good day\n")
    code, out, err = effbench("predict", texts, "text=two.txt", "--json")
    assert (code, json.loads(out)[0]["text"]) == (0, "two.txt")
    told = f"the text is the name of a file; to classify its content write effbench predict {texts} two.txt"
    assert f"text='two.txt': {told}" in err


@pytest.mark.slow
def test_the_model_reads_no_padding_that_all_texts_have(texts: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in an evaluation: data.max_length may be far more than the texts to predict."""
    run, widths = load_run(texts), list[int]()
    model = run.model()
    model.register_forward_pre_hook(lambda _, inputs: widths.append(inputs[0].shape[1]))
    monkeypatch.setattr(Run, "model", lambda *_: model)
    short = run.predict(["good", "gut"])
    both = run.predict(["gut", "a longer text than that"])
    assert widths == [4, 12]
    torch.testing.assert_close(short[1], both[0])


@pytest.mark.slow
def test_a_pipe_that_holds_no_text_is_named(texts: str, effbench: Effbench) -> None:
    """As of `printf ' ' | effbench predict RUN /dev/stdin`."""
    out, into = os.pipe()
    os.write(into, b" ")
    os.close(into)
    try:
        code, printed, err = effbench("predict", texts, f"/dev/fd/{out}")
    finally:
        os.close(out)
    assert (code, printed) == (1, "")
    assert f"error: /dev/fd/{out} holds no text." in err


@pytest.mark.slow
def test_a_text_that_is_cut_is_told(texts: str, effbench: Effbench) -> None:
    code, out, err = effbench("predict", texts, f"text={'good day ' * 1000}", "text=good")
    assert (code, len(list(csv.DictReader(io.StringIO(out))))) == (0, 2)
    told = "predict: 1 of 2 texts cut to the first 12 tokens, which are what the model reads (data.max_length)"
    assert err.splitlines() == [told]


@pytest.mark.slow
def test_an_output_never_replaces_its_input(texts: str, effbench: Effbench, tmp_path: Path) -> None:
    """Also through a link; the file of another input is still there after all."""
    content = "text\ngood day\n"
    (tmp_path / "in.csv").write_text(content)
    (tmp_path / "link.csv").symlink_to("in.csv")
    for output in ("in.csv", "link.csv", "./in.csv"):
        code, _, err = effbench("predict", texts, "in.csv", f"output={output}")
        assert (code, f"output={output} is a file that predict reads. Give another name." in err) == (2, True)
    assert (tmp_path / "in.csv").read_text() == content
    (tmp_path / "out.csv").write_text("of an earlier call")
    assert effbench("predict", texts, "in.csv", "output=out.csv")[0] == 0
    assert (tmp_path / "out.csv").read_text().startswith("file,row,line,class,")


@pytest.mark.slow
def test_rows_of_a_table_are_numbered_for_a_join(texts: str, effbench: Effbench, tmp_path: Path) -> None:
    """`line` is where a row ends in the file; a row with an empty text is told, and still counts."""
    (tmp_path / "in.csv").write_text('text\n"two\nlines"\n" "\ngood day\n')
    code, out, err = effbench("predict", texts, "in.csv")
    assert [(row["row"], row["line"]) for row in csv.DictReader(io.StringIO(out))] == [("1", "3"), ("3", "5")]
    assert (code, "in.csv line 4 is empty" in err) == (1, True)


@pytest.mark.parametrize(("kind", "prefix"), [("probabilities", "probability"), ("values", "value")])
def test_a_label_named_as_another_column_keeps_both(kind: str, prefix: str) -> None:
    """White-box: a run with such labels takes seconds to train."""
    answers = {"text": 0.9, "labels": 0.8, "good": 0.1, f"{prefix} text": 0.2}
    row = {"text": "Guten Tag", "labels": ["text", "labels"], kind: answers}
    [found] = csv.DictReader(io.StringIO(predict._as_csv([row])))
    assert (found["text"], found["labels"], found["good"]) == ("Guten Tag", "text; labels", "0.1")
    assert [float(found[f"{prefix} {name}"]) for name in ("text", "labels")] == [0.9, 0.8]
    assert float(found[f"{prefix} {prefix} text"]) == 0.2
