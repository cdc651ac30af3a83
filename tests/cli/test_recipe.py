"""`effbench recipe ls | show | cp | validate`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from effbench.config.paths import recipes_dir
from tests.cli.conftest import Effbench

NAMES = sorted(path.stem for path in recipes_dir().glob("*.yaml"))


def test_ls_prints_a_line_with_a_description_per_recipe(effbench: Effbench) -> None:
    code, out, err = effbench("recipe", "ls")
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert [line.split()[0] for line in lines] == NAMES
    assert all(len(line.split()) > 3 for line in lines)


def test_ls_as_json_names_each_recipe_and_its_file(effbench: Effbench) -> None:
    _, table, _ = effbench("recipe", "ls")
    code, out, err = effbench("recipe", "ls", "--json")
    assert (code, err) == (0, "")
    rows = json.loads(out)
    assert [f"{row['name']} {row['summary']}".split() for row in rows] == [line.split() for line in table.splitlines()]
    assert [Path(row["path"]) for row in rows] == [recipes_dir() / f"{name}.yaml" for name in NAMES]


@pytest.mark.parametrize("name", NAMES)
def test_show_prints_the_file(name: str, effbench: Effbench) -> None:
    assert effbench("recipe", "show", name) == (0, (recipes_dir() / f"{name}.yaml").read_text(), "")


@pytest.mark.parametrize("folder", ["here", "a b/ü", ".", "deep/er/"])
def test_cp_copies_once_and_overwrites_nothing(folder: str, effbench: Effbench, tmp_path: Path) -> None:
    code, out, err = effbench("recipe", "cp", "swin_lion", folder)
    copied = tmp_path / folder / "swin_lion.yaml"
    assert (code, out.strip()) == (0, str(Path(folder) / "swin_lion.yaml"))
    assert "effbench train recipe=" in err
    assert copied.read_bytes() == (recipes_dir() / "swin_lion.yaml").read_bytes()
    copied.write_text("mine\n")
    assert effbench("recipe", "cp", "swin_lion", folder)[0] == 2
    assert copied.read_text() == "mine\n"


@pytest.mark.proof
@pytest.mark.process
def test_copied_recipe_based_on_another_runs_from_user_folder(effbench: Effbench, tmp_path: Path) -> None:
    assert effbench("recipe", "cp", "mobilenet_adamw_cpu", "my own")[0] == 0
    words = ["recipe=my own/mobilenet_adamw_cpu.yaml", "debug=smoke", "device.threads=1", "hydra.run.dir=run"]
    assert effbench("train", *words)[0] == 0
    assert (tmp_path / "run" / "summary.json").is_file()


@pytest.mark.spread(2)
@pytest.mark.slow
@pytest.mark.parametrize("word", ["mobilenet_adamw_cpu", "copy.yaml", "./copy.yaml", "copy"])
def test_validate_builds_a_recipe_by_name_or_by_file(word: str, effbench: Effbench, tmp_path: Path) -> None:
    (tmp_path / "copy.yaml").write_text((recipes_dir() / "mobilenet_adamw.yaml").read_text())
    code, out, err = effbench("recipe", "validate", word)
    if word == "copy":  # a bare word is a name
        assert code == 2
        assert "recipe 'copy'" in err
    else:
        assert (code, err) == (0, "")
        assert out.startswith("ok: ")
        assert "AdamW" in out


@pytest.mark.spread(4)
@pytest.mark.slow
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "@package _global_"),
        ("optimizer:\n  lr: 1\n", "@package _global_"),
        ("# @package _global_\n- a\n", ""),
        ("# @package _global_\ntrainer:\n  max_epoch: 1\n", "trainer.max_epochs"),
        ("# @package _global_\noptimizer:\n  lr: -1\n", "optimizer.lr"),
        ("# @package _global_\noptimizer:\n  lrr: 1\n", "'lrr'"),
        ("# @package _global_\nmodel:\n  dropout: 7\n", "dropout"),
        ("# @package _global_\nscheduler:\n  warmup: soon\n", "scheduler.warmup"),
        ("# @package _global_\ndefaults:\n  - override /model: mpl\n", "mpl"),
        ("# @package _global_\ndefaults:\n  - nope\n", "nope"),
    ],
)
def test_validate_refuses_a_recipe_that_would_not_train(
    text: str, expected: str, effbench: Effbench, tmp_path: Path
) -> None:
    (tmp_path / "r.yaml").write_text(text)
    code, out, err = effbench("recipe", "validate", "r.yaml")
    assert (code, out) == (2, "")
    assert expected in err


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["sow"], ["action of recipe 'sow'", "Did you mean 'show'?"]),
        (["show"], ["takes 1 argument; got 0"]),
        (["show", "swin_loin"], ["Did you mean 'swin_lion'?"]),
        (["cp", "swin_lion"], ["takes 2 arguments; got 1"]),
        (["cp", "nope", "x"], ["recipe 'nope'"]),
        (["cp", "swin_lion", "taken"], ["cannot write taken/swin_lion.yaml"]),
        (["cp", "../pyproject", "x"], ["recipe '../pyproject'"]),
        (["ls", "x"], ["takes 0 arguments; got 1"]),
        (["validate", "nope.yaml"], ["nope.yaml"]),
        (["validate", "swin_lion", "--config-dir", "nowhere"], ["--config-dir nowhere"]),
    ],
    ids=lambda value: " ".join(value[:2]),
)
def test_recipe_refuses_invalid_words_with_the_reason(
    words: list[str], expected: list[str], effbench: Effbench, tmp_path: Path
) -> None:
    (tmp_path / "taken").write_text("a file\n")
    code, out, err = effbench("recipe", *words)
    assert (code, out) == (2, "")
    assert all(part in err for part in expected), err
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]
