"""Words keep their combining marks; runs with the rule of before keep their tokens."""

from __future__ import annotations

import csv
import json
import re
import sys
import unicodedata
from pathlib import Path

import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st

import effbench
from effbench import cli
from effbench.data.text.text_csv import text_csv
from effbench.data.text.tokenizers import FirstWords, Words, fitted_tokenizer, restored_tokenizer
from effbench.special_tokens import UNKNOWN

HINDI = "हिन्दी में किताबें पढ़ना अच्छा है।"
FIRST = r"\w+|[^\w\s]"  # the rule of before


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (HINDI, ["हिन्दी", "में", "किताबें", "पढ़ना", "अच्छा", "है", "।"]),
        ("தமிழ் மொழி", ["தமிழ்", "மொழி"]),
        ("العَرَبِيَّة!", ["العَرَبِيَّة", "!"]),
        ("שָׁלוֹם", ["שָׁלוֹם"]),
        ("می\u200cخواهم", ["می\u200cخواهم"]),
        ("Cafe\u0301 au lait", ["cafe\u0301", "au", "lait"]),
        ("İstanbul", ["i\u0307stanbul"]),  # lower case has a mark
        ("I \u2764\ufe0f it", ["i", "\u2764\ufe0f", "it"]),
        ("\u0301a", ["\u0301", "a"]),  # a mark of nothing
        ("don't x_1, 2.5", ["don", "'", "t", "x_1", ",", "2", ".", "5"]),
    ],
)
def test_words_of_many_scripts_stay_whole(text, words):
    assert list(Words.split(text)) == words


def test_words_are_those_of_another_library():
    library = pytest.importorskip("regex")
    for text in (HINDI, "বাংলা ভাষা, ไทย ကမ္ဘာ", "naïve cafe\u0301 — 3 %"):
        expected = library.findall(r"[\p{L}\p{N}_][\p{L}\p{N}_\p{M}]*|[^\p{L}\p{N}_\s]\p{M}*", text.lower())
        assert list(Words.split(text)) == expected


@pytest.mark.slow
def test_every_mark_of_unicode_continues_a_word():
    marks = [chr(code) for code in range(sys.maxunicode + 1) if unicodedata.category(chr(code))[0] == "M"]
    assert len(marks) > 2000
    assert [mark for mark in marks if len(list(Words.split(f"a{mark}a"))) != 1] == []


@given(st.text(st.characters(exclude_categories=["Cs", "Mn", "Mc", "Me"], exclude_characters="\u200c\u200d\u0130")))
def test_texts_without_marks_have_the_words_of_before(text):
    assert list(Words.split(text)) == list(FirstWords.split(text)) == re.findall(FIRST, text.lower())


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=40))
def test_words_lose_nothing_but_white_space(text):
    assert "".join(Words.split(text)) == "".join(text.lower().split())


def test_a_record_of_before_gives_the_tokens_of_before():
    words = re.findall(FIRST, HINDI)
    tokens = sorted(set(words))
    old = restored_tokenizer({"name": "words", "tokens": tokens})
    assert old.encode(HINDI) == [2 + tokens.index(word) for word in words]
    assert old.record() == {"name": "words", "tokens": tokens}
    new = restored_tokenizer(json.loads(json.dumps(Words.fit([HINDI], 99).record())))
    assert UNKNOWN not in new.encode(HINDI)
    assert len(new.encode(HINDI)) == 7
    assert fitted_tokenizer("words", [HINDI], 99, rules=1).record() == FirstWords.fit([HINDI], 99).record()


@pytest.mark.slow
def test_a_run_of_before_is_read_and_goes_on_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As schema 7 recorded it: the config knows of no rules. Its texts are Hindi, some of them in two forms."""
    monkeypatch.chdir(tmp_path)
    with Path("a.csv").open("w", newline="", encoding="utf-8") as stream:
        rows = [(f"{HINDI}{' ' * (n % 3 + 1)}{n // 3} {'हाँ' if n % 2 else 'नहीं'}", "ab"[n % 2]) for n in range(90)]
        csv.writer(stream).writerows([("text", "label"), *rows])
    words = ["data=text_csv", "data.file=a.csv", "data.tokenizer=words", "model=ngrams", "model.buckets=500",
             "model.hidden=0", "early_stopping=off",
             "device=cpu", "device.threads=1", "scheduler=constant", "scheduler.warmup=0"]  # fmt: skip
    whole = effbench.train([*words, "data.rules=1", "trainer.max_epochs=2"], folder="whole")
    assert cli.main(["train", *words, "data.rules=1", "trainer.max_epochs=1", "hydra.run.dir=begun"]) == 0
    config = yaml.safe_load(Path("begun/config.yaml").read_text())
    del config["data"]["rules"]
    Path("begun/config.yaml").write_text(yaml.safe_dump({**config, "schema_version": 7}))
    recorded = Path("begun/.hydra/overrides.yaml")
    recorded.write_text("".join(line for line in recorded.read_text().splitlines(True) if "rules" not in line))

    begun = effbench.load_run("begun")
    assert begun.summary["data"]["tokenizer"]["name"] == "words"
    measured = effbench.evaluate_run("begun")
    assert measured["test/acc"] == pytest.approx(begun.summary["metrics"]["test/acc"])
    assert cli.main(["train", "resume=begun", "trainer.max_epochs=2"]) == 0
    model, other = (effbench.load_run(folder).model("last").state_dict() for folder in (whole.folder, "begun"))
    assert all(torch.equal(tensor, other[name]) for name, tensor in model.items())
    # its weights were trained with other tokens
    assert cli.main(["train", "resume=begun", "trainer.max_epochs=3", "data.rules=2"]) == 2

    now = text_csv("a.csv", tokenizer="words")
    assert now.facts["tokenizer"]["name"] == "words_2"
    assert "हिन्दी" in now.facts["tokenizer"]["tokens"]
    assert "हिन्दी" not in begun.summary["data"]["tokenizer"]["tokens"]
