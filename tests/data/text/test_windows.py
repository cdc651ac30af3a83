"""Windows of one text: shifted targets, random places in training, every token predicted once in evaluation.

White-box: short pieces of text, so that a small text has several.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from effbench.data.batches import EvalBatches, TrainBatches
from effbench.data.modality import Settings
from effbench.data.splits import Splits
from effbench.data.text.kjv import SplitText
from effbench.data.text.shipped import kjv
from effbench.data.text.text_file import other_text, text_file
from effbench.data.text.tokenizers import BytePairs, Bytes, Characters
from effbench.data.text.windows import Windows, cut, pieces, stream, window_options, window_splits
from effbench.errors import ConfigError, DataError

T = 16
TEXT = "".join(f"{row} and {row * row}.\n" for row in range(60))  # 724 bytes


def data(text: str = TEXT, context: int = T, tokenizer: str = "bytes") -> Splits:
    parts = SplitText(text.encode(), text[:50].encode(), text[:33].encode(), {})
    return window_splits("toy", parts, window_options(tokenizer, context, 300))


def bytes_of(tokens: torch.Tensor) -> bytes:
    return bytes(token - 1 for token in tokens.flatten().tolist() if token)


def batches(splits: Splits, **options) -> TrainBatches:
    kind = Windows.fit(splits, Settings())
    return TrainBatches(splits.train, num_classes=257, modality=kind, **{"batch_size": 8, "seed": 3, **options})


def test_targets_are_the_inputs_one_token_later_in_one_memory() -> None:
    train = data().train
    whole = torch.cat([train.inputs.flatten(), train.labels[-1, -1:]])
    assert torch.equal(train.labels.flatten(), whole[1:])
    assert train.inputs.untyped_storage().data_ptr() == train.labels.untyped_storage().data_ptr()


@pytest.mark.parametrize("length", [2, T, T + 1, T + 2, 2 * T, 2 * T + 1, 50])
def test_evaluation_predicts_every_byte_but_the_first_once(length: int) -> None:
    text = TEXT[:length]
    split = cut("toy", stream(Bytes(), text), T)
    kind = Windows(T, 257, Bytes(), Settings())
    seen = list(EvalBatches(split, batch_size=2, modality=kind))
    targets = torch.cat([batch.targets for batch in seen])
    assert bytes_of(targets) == text[1:].encode()
    assert targets.dtype == torch.int64
    for batch in seen:  # each target follows its input, where there is one
        assert torch.equal(
            batch.inputs[:, 1:][batch.targets[:, 1:] > 0], batch.targets[:, :-1][batch.targets[:, 1:] > 0]
        )


def test_training_windows_are_whole_and_lie_anywhere_in_the_text() -> None:
    made = batches(data(), drop_last=False)
    text, starts = TEXT.encode(), set()
    for epoch in range(40):
        for step in made.epoch(epoch):
            for batch in step.micro_batches:
                assert torch.equal(batch.inputs[:, 1:], batch.targets[:, :-1])
                for inputs, targets in zip(batch.inputs, batch.targets, strict=True):
                    assert len(bytes_of(targets)) == T
                    starts.add(text.index(bytes_of(inputs) + bytes_of(targets[-1:])))
    assert {start % T for start in starts} == set(range(T))
    assert max(starts) == len(text) - T - 1, "the end of the text must be seen"


def test_a_step_is_a_function_of_seed_epoch_and_step_alone() -> None:
    splits = data()
    one, other = batches(splits), batches(splits, num_workers=2)
    first = [batch for step in one.epoch(1) for batch in step.micro_batches]
    again = [batch for step in other.epoch(1) for batch in step.micro_batches]
    assert all(torch.equal(a.inputs, b.inputs) for a, b in zip(first, again, strict=True))
    late = batches(splits).make(1, 2)  # as a resumed run makes it, without the steps before
    assert torch.equal(late.inputs, first[2].inputs)
    assert torch.equal(late.targets, first[2].targets)
    halves = [batches(splits, batch_size=4, accumulate=2).make(1, 2, part).inputs for part in (0, 1)]
    assert torch.equal(torch.cat(halves), late.inputs)
    assert not torch.equal(batches(splits).make(2, 2).inputs, late.inputs)


@pytest.mark.parametrize("tokenizer", ["bytes", "chars", "bpe"])
def test_tokens_give_back_the_text_and_count_its_bytes(tokenizer: str) -> None:
    if tokenizer == "bpe":
        pytest.importorskip("tokenizers")
    text = TEXT + "été — 東京\n"
    kind = {"bytes": Bytes, "chars": Characters, "bpe": BytePairs}[tokenizer].fit([text], 300)
    tokens = stream(kind, text)
    assert kind.decode(tokens.tolist()) == text
    assert sum(kind.token_bytes()[token] for token in tokens.tolist()) == len(text.encode())
    assert Windows.task_facts({"tokenizer": kind.record()}) == {"token_bytes": kind.token_bytes()}
    assert len(kind.token_bytes()) == kind.vocab_size


def test_a_long_text_is_encoded_in_pieces_that_end_with_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("effbench.data.text.windows._PIECE", 20)
    for text in ("", "x", TEXT, "x" * 55, "y" * 20, f"{'z' * 30}\n{TEXT}"):
        found = list(pieces(text))
        assert "".join(found) == text
        assert all(piece.endswith("\n") or len(piece) == 20 for piece in found[:-1])


def test_kjv_has_the_books_as_splits() -> None:
    found = kjv()
    assert {which: split.inputs.shape[0] for which, split in found.named().items()} == {
        "train": 23909, "val": 3526, "test": 4903
    }  # fmt: skip
    assert found.facts["sizes"]["val"] == {"bytes": 451_329, "tokens": 451_329}
    assert bytes_of(found.train.inputs[0, :20]).startswith(b"In the beginning")


# --- files of the user ------------------------------------------------------------------------------------------------


def write(folder: Path, content: bytes | str, name: str = "own.txt") -> str:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return str(path)


def test_a_text_file_is_cut_by_position(tmp_path: Path) -> None:
    found = text_file(write(tmp_path, TEXT), val_fraction=0.2, test_fraction=0.1, context=T)
    sizes = {which: facts["bytes"] for which, facts in found.facts["sizes"].items()}
    assert sizes == {"train": 507, "val": 145, "test": 72}
    parts = [bytes_of(split.inputs)[:1] + bytes_of(split.labels) for split in found.named().values()]
    assert b"".join(parts) == TEXT.encode()
    assert list(text_file(write(tmp_path, TEXT), val_fraction=0, test_fraction=0, context=T).named()) == ["train"]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "own.txt is empty"),
        (b" \n ", "own.txt is empty"),
        (b"one\ntwo\xff", "line 2 is no utf-8-sig"),
        (b"one\ntwo\0three", "line 2 holds a NUL character"),
        (b"only a few words", "own.txt train has 12 tokens, and needs 17"),
    ],
)
def test_a_file_that_is_no_text_or_too_short_is_refused(tmp_path: Path, content: bytes, said: str) -> None:
    with pytest.raises(DataError, match=said):
        text_file(write(tmp_path, content), context=T)


def test_a_split_with_nothing_to_predict_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"own.txt val has 1 tokens, and needs 2: .* leave this split out"):
        text_file(write(tmp_path, TEXT[:60]), val_fraction=0.01, context=T)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"tokenizer": "words"}, "data.tokenizer must be bytes, chars or bpe"),
        ({"context": 0}, "data.context must be a whole number of tokens, at least 1; got 0"),
        ({"val_fraction": 0.5, "test_fraction": 0.5}, "to leave samples to train on"),
        ({"file": None}, "data=text_file needs data.file=FILE"),
    ],
)
def test_options_that_cannot_work_are_refused_by_name(tmp_path: Path, options: dict, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        text_file(**{"file": write(tmp_path, TEXT), "context": T, **options})


def test_another_file_is_read_whole_with_the_run_s_tokenizer(tmp_path: Path) -> None:
    found = text_file(write(tmp_path, TEXT), tokenizer="chars", context=T)
    recorded = {"tokenizer": found.facts["tokenizer"], "shape": [T]}
    before, now = {"file": str(tmp_path / "own.txt")}, {"file": write(tmp_path, "an extra\n4 and 4.\n", "b.txt")}
    which, split = other_text(before, now, recorded, "")
    assert which == "test"
    assert int((split.labels > 0).sum()) == 17
    assert int((split.labels == 1).sum()) == 4, "e, x, t and r do not occur in train"
    assert other_text(before, before, recorded, "") is None
    with pytest.raises(ConfigError, match="split 'tset' is not one of: test, train, val. Did you mean"):
        other_text(before, now, recorded, "tset")
    with pytest.raises(ConfigError, match="data.file is another file .* measured whole. Leave out split=val.$"):
        other_text(before, now, recorded, "val")


def test_the_runs_own_text_by_another_path_is_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Read as another file, all of it would be the test: most of it was trained on."""
    monkeypatch.chdir(tmp_path)
    own = write(tmp_path, TEXT)
    before = {"file": "own.txt", "val_fraction": 0.2, "test_fraction": 0.1, "tokenizer": "chars", "context": T}
    found = text_file(**before)
    recorded = {"tokenizer": found.facts["tokenizer"], "shape": [T], "sha256": found.sha256}
    (tmp_path / "elsewhere").mkdir()
    copy = write(tmp_path / "elsewhere", TEXT)
    for other in ("./own.txt", own, copy):
        assert other_text(before, {**before, "file": other}, recorded, "") is None
    monkeypatch.chdir("elsewhere")
    assert other_text(before, {**before, "file": own}, recorded, "") is None
    assert other_text(before, {**before, "file": write(tmp_path, TEXT + "more", "b.txt")}, recorded, "") is not None


def test_windows_with_padding_inside_are_refused() -> None:
    tokens = torch.ones(3, T, dtype=torch.int16)
    Windows.checked("toy", tokens, 3)
    for place in ((0, 3), (1, 0), (2, 0)):
        bad = tokens.clone()
        bad[place] = 0
        with pytest.raises(DataError, match="padding"):
            Windows.checked("toy", bad, 3)
