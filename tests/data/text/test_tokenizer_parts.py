"""A tokenizer that could make a text longer without end is refused before it reads one."""

from __future__ import annotations

import json
import lzma
from base64 import b64encode
from pathlib import Path
from typing import Any

import pytest

import effbench
from effbench.data.modality import Settings
from effbench.data.text.modality import Texts
from effbench.data.text.text_csv import text_csv
from effbench.data.text.tokenizer_parts import check_growth
from effbench.data.text.tokenizers import BytePairs, Given, restored_tokenizer
from effbench.errors import ConfigError, DataError
from effbench.records import sha256_of_plain
from effbench.run.resume import fitted_to

TEXTS = ["the cat sat on the mat and the dog", "the dog sat"] * 5


def replace(pattern: str, content: str) -> dict[str, Any]:
    return {"type": "Replace", "pattern": {"String": pattern}, "content": content}


def listed(*parts: dict[str, Any]) -> dict[str, Any]:
    return {"type": "Sequence", "normalizers": list(parts)}


def charsmap(*texts: str) -> str:
    """A map of SentencePiece: the size of its trie (here of no use), the trie, and texts that end with a NUL."""
    return b64encode((4).to_bytes(4, "little") + b"trie" + b"\0".join(text.encode() for text in texts)).decode()


UNICODE = [{"type": kind} for kind in ("NFKD", "StripAccents", "Lowercase", "NFC", "Nmt")]
PUBLISHED = {
    "BERT": {"normalizer": {"type": "BertNormalizer"}, "pre_tokenizer": {"type": "BertPreTokenizer"}},
    "ALBERT": {
        "normalizer": listed(
            replace("``", '"'), replace("''", '"'), *UNICODE[:3],
            {"type": "Precompiled", "precompiled_charsmap": charsmap("a", "ffi", "x" * 18)},
            {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "},
        )
    },
    "CLIP": {
        "normalizer": listed(
            {"type": "NFC"}, {"type": "Replace", "pattern": {"Regex": "\\s+"}, "content": " "}, {"type": "Lowercase"}
        ),
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [{"type": "Split"}, {"type": "ByteLevel"}]},
    },
    "Llama": {"normalizer": listed({"type": "Prepend", "prepend": "_"}, replace(" ", "_"))},
    "nothing": {"normalizer": None},
    "template": {
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "[CLS]"}}, {"Sequence": {"id": "A"}}, {"SpecialToken": {"id": "[SEP]"}}],
            "special_tokens": {"[CLS]": {"ids": [1]}, "[SEP]": {"ids": [2]}},
        }
    },
}  # fmt: skip


@pytest.mark.parametrize("name", PUBLISHED)
def test_parts_of_published_tokenizers_are_accepted(name):
    check_growth(PUBLISHED[name])


TWICE = {"type": "TemplateProcessing", "single": [{"Sequence": {"id": "A"}}] * 2, "special_tokens": {}}
HOSTILE = {
    "doubling": {"normalizer": listed(*[replace("a", "aa")] * 30)},
    "nested": {"normalizer": listed(*[listed(listed(replace("a", "aaaaa")))] * 9)},
    "long": {"normalizer": replace("a", "b" * 1001)},
    "everywhere": {"normalizer": {"type": "Replace", "pattern": {"Regex": "x*"}, "content": "y" * 1000}},
    "prepended": {"normalizer": {"type": "Prepend", "prepend": "x" * 10**6}},
    "charsmap": {"normalizer": {"type": "Precompiled", "precompiled_charsmap": charsmap("a", "z" * 5000)}},
    "bytes": {"pre_tokenizer": {"type": "Sequence", "pretokenizers": [{"type": "ByteLevel"}] * 20}},
    "copies": {"post_processor": {"type": "Sequence", "processors": [TWICE] * 20}},
    "tokens": {
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "x"}}] * 2000,
            "special_tokens": {"x": {"ids": [1] * 2000}},
        }
    },
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_parts_that_may_fill_the_memory_are_refused(name):
    with pytest.raises(ValueError, match=r"its \w+ may make a text more than 1,000 times as long"):
        check_growth(HOSTILE[name])


def test_endless_lists_of_parts_are_refused():
    with pytest.raises(ValueError, match="more than 100 steps"):
        check_growth({"normalizer": listed(*[{"type": "Lowercase"}] * 101)})


# --- with the library

tokenizers = pytest.importorskip("tokenizers")


def whole(**parts: Any) -> str:
    return json.dumps({**json.loads(BytePairs.fit(TEXTS, 300).content), **parts})


def as_file(content: str) -> dict[str, Any]:
    return {"name": "file", "content": b64encode(lzma.compress(content.encode())).decode()}


UNTYPED = {"normalizers": [{"pattern": {"String": "a"}, "content": "aa"}] * 30}  # as older versions wrote lists
LISTS = {"doubling": HOSTILE["doubling"], "bytes": HOSTILE["bytes"], "untyped": {"normalizer": UNTYPED}}


@pytest.mark.parametrize("name", LISTS)
def test_a_record_with_a_hostile_part_reads_no_text(name, tmp_path):
    content = whole(**LISTS[name])
    with pytest.raises(ValueError, match=r"no tokenizer"):
        restored_tokenizer({"name": "bpe", "content": content})
    with pytest.raises(ValueError, match=r"no tokenizer"):
        restored_tokenizer(as_file(content))
    (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(DataError, match=r"no whole tokenizer\.json \("):
        Given.read(tmp_path / "tokenizer.json")


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        ({"normalizer": {"type": "Lowercase"}}, "it has a normalizer, which data.tokenizer=bpe does not have"),
        ({"pre_tokenizer": {"type": "Whitespace"}}, "its pre_tokenizer is Whitespace"),
        ({"pre_tokenizer": None}, "its pre_tokenizer is None"),
        ({"decoder": {"type": "Fuse"}}, "its decoder is Fuse"),
        (
            {
                "post_processor": {
                    "type": "ByteLevel",
                    "add_prefix_space": True,
                    "trim_offsets": True,
                    "use_regex": True,
                }
            },
            "it has a post_processor",
        ),
    ],
)
def test_a_record_of_bpe_has_the_parts_that_fit_makes(parts, said, tmp_path):
    content = whole(**parts)
    with pytest.raises(ValueError, match=said):
        restored_tokenizer({"name": "bpe", "content": content})
    # the user's own file may have any part that stays within the bound
    (tmp_path / "tokenizer.json").write_text(content)
    assert Given.read(tmp_path / "tokenizer.json").encode("the cat")
    assert restored_tokenizer(as_file(content)).encode("the cat")


# --- a file of the user's


def word_file(path: Path, words: list[str]) -> str:
    vocabulary = {word: number for number, word in enumerate(["[PAD]", "[UNK]", *words])}
    own = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="[UNK]"))
    own.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    own.save(str(path))
    return str(path)


def test_a_file_s_tokenizer_is_compared_without_its_compression(tmp_path, monkeypatch):
    """As on a machine with another liblzma, which makes other bytes of the same JSON."""
    file = word_file(tmp_path / "tokenizer.json", ["good", "bad"])
    (tmp_path / "a.csv").write_text(
        "text,label\n" + "".join(f"{('good', 'bad')[n % 2]} {n},{n % 2}\n" for n in range(20))
    )
    compress = lzma.compress
    one = text_csv(str(tmp_path / "a.csv"), tokenizer=file)
    monkeypatch.setattr(lzma, "compress", lambda content, preset: compress(content, preset=preset - 6))
    two = text_csv(str(tmp_path / "a.csv"), tokenizer=file)
    assert one.facts["tokenizer"]["content"] != two.facts["tokenizer"]["content"]
    recorded = {"tokenizer": one.facts["tokenizer"], "shape": list(one.shape)}
    Texts.check_same(recorded, two)
    assert fitted_to(one) == fitted_to(two)
    Texts.fit(two, Settings()).check_pretrained_run(tmp_path, fitted_to(one), {})
    older = {"tokenizer": sha256_of_plain(two.facts["tokenizer"])}
    Texts.fit(two, Settings()).check_pretrained_run(tmp_path, older, {})
    other = text_csv(str(tmp_path / "a.csv"), tokenizer=word_file(tmp_path / "other.json", ["bad", "good"]))
    assert fitted_to(other) != fitted_to(one)
    with pytest.raises(ConfigError, match="the data's tokenizer is not the run's"):
        Texts.check_same(recorded, other)


@pytest.mark.proof
@pytest.mark.slow
@pytest.mark.parametrize("recorded", ["as it is", "compressed", "not at all"])
def test_a_resume_notices_another_tokenizer_at_its_path(recorded, tmp_path, monkeypatch):
    words = ["good", "bad", "day", "night"]
    file = word_file(tmp_path / "tokenizer.json", words)
    rows = "".join(f"{words[n % 2]} {words[2 + n % 3 % 2]} {n},{'ab'[n % 2]}\n" for n in range(40))
    (tmp_path / "a.csv").write_text(f"text,label\n{rows}")
    short = ["data=text_csv", f"data.file={tmp_path / 'a.csv'}", f"data.tokenizer={file}", "data.max_length=8",
             "model=ngrams", "model.buckets=50", "device=cpu", "device.threads=1"]  # fmt: skip
    if recorded != "as it is":  # as checkpoints of before
        older = Texts.older_identity if recorded == "compressed" else lambda _: {}
        monkeypatch.setattr(Texts, "identity", older)
    run = effbench.train([*short, "trainer.max_epochs=1"], folder=tmp_path / "run")
    monkeypatch.undo()
    again = [f"resume={run.folder}", "trainer.max_epochs=2"]
    other = Path(file).with_name("other.json")
    word_file(other, words[::-1])
    before = Path(file).read_text()
    Path(file).write_text(other.read_text())
    if recorded != "not at all":
        with pytest.raises(ConfigError, match=r"the tokenizer of .* must stay as in .* Restore"):
            effbench.train(again)
        Path(file).write_text(before)
    assert effbench.train(again).summary["epochs"] == 2
