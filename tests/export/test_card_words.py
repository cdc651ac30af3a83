"""What a user wrote into a model card outlives the next export, and a kill of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from effbench.export.card_words import marked, with_words
from effbench.export.files import publish_file

USE, LIMIT = "To be filled in: what for.", "To be filled in. Known: a limit."
COPY = "it.README.md.before"


def new_card(step: int = 1) -> str:
    return marked(f"# it\n\n## Intended use\n\n{USE}\n\n## Data\n\n- step {step}\n\n## Limits\n\n{LIMIT}\n")


def edited(use: str, limit: str = LIMIT) -> str:
    """A card of step 1 into which the user wrote."""
    return new_card().replace(USE, use).replace(LIMIT, limit)


@pytest.fixture
def card(tmp_path: Path) -> Path:
    return tmp_path / "it.README.md"


def after_export(card: Path, step: int = 2) -> str:
    card.write_text(with_words(new_card(step), card))
    return card.read_text()


def others(card: Path) -> list[str]:
    return sorted(path.name for path in card.parent.iterdir() if path != card)


@pytest.mark.parametrize(
    "use", ["For birds.", "For birds.\n\n### Not for\n\n    bats\n\n| a | b |\n\\1 \\g<0>", f"{USE} Birds."]
)
def test_the_users_words_outlive_two_exports(card: Path, use: str) -> None:
    card.write_text(edited(use, f"{LIMIT}\nNot at night."))
    for step in (2, 3):
        text = after_export(card, step)
        assert f"## Intended use\n\n{use}\n\n## Data\n\n- step {step}\n" in text
        assert f"## Limits\n\n{LIMIT}\nNot at night.\n" in text
    assert others(card) == []


def test_text_after_the_card_is_of_its_last_section(card: Path) -> None:
    card.write_text(f"{new_card()}\nThe end.\n")
    assert f"## Limits\n\n{LIMIT}\n\n\n\nThe end.\n\n<!-- effbench" in after_export(card)
    assert others(card) == []


def test_a_card_as_it_was_written_is_replaced(card: Path) -> None:
    card.write_text(new_card())
    assert after_export(card) == new_card(2)
    # an editor's byte order mark, line ends and spaces are no words
    card.write_bytes(b"\xef\xbb\xbf" + new_card(2).replace("\n", " \r\n").encode())
    assert after_export(card, 3) == new_card(3)
    assert others(card) == []


def test_an_emptied_section_is_to_be_filled_in_again(card: Path) -> None:
    card.write_text(edited(""))
    assert after_export(card) == new_card(2)
    assert others(card) == []


@pytest.mark.parametrize(
    ("old", "new"),
    [("- step", "- birds, step"), ("# it\n", "# mine\n"), ("## Limits", "## Bias\n\nMuch.\n\n## Limits"),
     ("## Limits", "## Known limits"), ("<!-- ", "<!-- mine ")],
)  # fmt: skip
def test_a_card_that_was_changed_elsewhere_is_copied(card: Path, old: str, new: str) -> None:
    mine = edited("For birds.").replace(old, new)
    card.write_text(mine)
    assert "For birds." in after_export(card)
    assert (card.parent / COPY).read_text() == mine
    # once only; and a second change replaces no copy
    after_export(card, 3)
    assert others(card) == [COPY]
    card.write_text(card.read_text().replace("- step", "- bats, step"))
    after_export(card, 4)
    assert others(card) == [COPY, f"{COPY}2"]
    assert (card.parent / COPY).read_text() == mine


def test_a_card_without_digests_is_copied_and_keeps_words(card: Path, caplog: pytest.LogCaptureFixture) -> None:
    """As an older effbench wrote it: nothing but the placeholders tells what is the user's."""
    older = edited("For birds.").partition("\n<!-- ")[0]
    card.write_text(older)
    with caplog.at_level("INFO", logger="effbench"):
        assert after_export(card) == new_card(2).replace(USE, "For birds.")
    assert (card.parent / COPY).read_text() == older
    assert [record.getMessage() for record in caplog.records] == [
        "note: it.README.md keeps your text of Intended use",
        f"note: it.README.md has no digests at its end: a copy of it is {COPY}",
    ]


@pytest.mark.parametrize("content", ["all mine", edited("Für Vögel.")])
def test_a_card_that_cannot_be_understood_is_copied(card: Path, content: str) -> None:
    card.write_bytes(content.encode("latin-1"))
    assert after_export(card) == new_card(2)
    assert (card.parent / COPY).read_bytes() == content.encode("latin-1")


def test_what_a_card_links_to_is_not_copied(card: Path) -> None:
    """A run's folder may be a stranger's, and link to a private file."""
    private = card.with_name("private")
    private.write_text(edited("A secret."))
    card.symlink_to(private)
    assert with_words(new_card(2), card) == new_card(2)
    assert others(card) == ["private"]


def test_secrets_in_a_card_are_no_change_of_the_users(card: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "step 1234")
    for _ in range(2):
        publish_file(card.with_name("it"), b"1", lambda _: {}, {card: lambda _: with_words(new_card(1234), card)})
        assert "***" in card.read_text()
    assert others(card) == ["it", "it.json"]


@pytest.mark.parametrize("renamed", [0, 1, 2])
def test_a_killed_export_keeps_the_users_words(card: Path, renamed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """renamed: how many of file, record and card are in their places when the process ends."""
    card.write_text(edited("For birds."))
    rename, done = Path.replace, list[Path]()

    def killed(self: Path, to: Path) -> Path:
        if len(done) == renamed:
            raise KeyboardInterrupt
        done.append(to)
        return rename(self, to)

    monkeypatch.setattr(Path, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        publish_file(card.with_name("it"), b"1", lambda _: {}, {card: lambda _: with_words(new_card(2), card)})
    assert "For birds." in card.read_text()
