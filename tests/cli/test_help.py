"""`effbench help train GROUP` tells each key with its default and its comment, out of the files themselves."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from effbench.cli import VERBS, main
from effbench.config import static_compose as static

OPTIONS = static.group_options()
CHOICES = [f"{group}={name}" for group in OPTIONS if group not in ("recipe", "debug") for name in OPTIONS[group]]


def told(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    assert main(words) == 0
    out, err = capsys.readouterr()
    assert not err
    return out


def lines_of(out: str) -> dict[str, str]:
    """'key=default' -> its comment."""
    found: dict[str, str] = {}
    key = ""
    for line in out.splitlines():
        if entry := re.match(r"  ((?:[a-z_]+\.[\w.]+|seed|resume|allow_targets)=.*?)(?: {2,}(.*))?$", line):
            key = entry[1]
            found[key] = entry[2] or ""
        elif line.startswith(" " * 30) and key:
            found[key] = f"{found[key]} {line.strip()}".strip()
    return found


@pytest.mark.parametrize("choice", CHOICES)
def test_every_key_of_every_choice_has_its_default_and_a_comment(
    choice: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    group, _, name = choice.partition("=")
    found = lines_of(told(["help", "train", choice], capsys))
    content = static.composed([(group, name)], OPTIONS)[group]
    if group == "callbacks":  # a level deeper: callbacks.NAME.KEY
        content = {f"{name}.{key}": value for name, own in content.items() for key, value in own.items()}
    known = {f"{group}.{key}" for key in content if key.rpartition(".")[2] != "_target_"}
    assert {key.partition("=")[0] for key in found} == known
    for line, comment in found.items():
        assert comment, f"{line} has no comment"
        value = content[line.partition("=")[0].partition(".")[2]]
        text = json.dumps(value) if value is None or isinstance(value, bool) else str(value)
        assert line.partition("=")[2].replace(" ", "") == text.replace(" ", "").replace(
            "'", ""
        )  # lists are shown without quotes


def test_help_of_train_holds_the_keys_of_a_plain_run(capsys: pytest.CaptureFixture[str]) -> None:
    out = told(["train", "--help"], capsys)
    leaves = {
        f"{section}.{key}" if isinstance(content, dict) else section
        for section, content in static.composed((), OPTIONS).items()
        for key in (content if isinstance(content, dict) else [section])
        if key != "_target_"
    }
    assert leaves <= {key.partition("=")[0] for key in lines_of(out)}
    assert "optimizer.lr=0.002" in out


def test_help_group_lists_choices_and_help_key_lists_its_choices(capsys: pytest.CaptureFixture[str]) -> None:
    group = told(["help", "train", "optimizer"], capsys)
    assert all(name in group for name in OPTIONS["optimizer"])
    assert "adamw (default)" in group
    key = told(["train", "--help", "optimizer.momentum"], capsys)
    assert "optimizer=sgd" in key
    assert "optimizer=lion" not in key
    assert "[0, 2^32)" in told(["help", "train", "seed"], capsys)


def test_help_covers_a_group_file_of_the_user(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "mine.yaml").write_text(
        "# My net: two blocks.\ndefaults: [_base, _self_]\n_target_: mylab.nets.create\n"
        "width: 8  # channels; 4 to 64\ncolour: '#fff'  # a text with a hash\n\n# what the head does\nhead:\n"
        "  depth: 2  # layers\n  kind: a#b\n"
    )
    out = told(["train", "--config-dir", str(tmp_path), "--help", "model=mine"], capsys)
    found = lines_of(out)
    assert "My net: two blocks." in out
    assert "mylab.nets.create" in out
    assert found["model.width=8"] == "channels; 4 to 64"
    assert found["model.colour=#fff"] == "a text with a hash"
    assert found["model.head.depth=2"] == "layers"
    assert found["model.head.kind=a#b"] == ""
    assert found["model.freeze=[]"].startswith("shell patterns")  # of _base
    assert "mine" in told(["train", "--help", "model", "--config-dir", str(tmp_path)], capsys)


@pytest.mark.parametrize("verb", VERBS)
def test_help_of_a_verb_is_its_help(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert told(["help", verb], capsys) == told([verb, "--help"], capsys)


@pytest.mark.parametrize(
    ("word", "named"), [("optimizer=AdamW", "optimizer=adamw"), ("optimiser", "optimizer"), ("lr", "optimizer.lr")]
)
def test_help_of_a_mistyped_name_lists_valid_names(word: str, named: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["help", "train", word]) == 2
    assert named in capsys.readouterr().err


def test_no_line_of_the_groups_is_wider_than_the_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    groups = told(["train", "--help"], capsys).split("groups (one of each):\n")[1].split("\n\n")[0]
    assert max(map(len, groups.splitlines())) <= 80
    named = {name for names in OPTIONS.values() for name in names}
    assert named <= set(groups.replace(",", " ").split())
