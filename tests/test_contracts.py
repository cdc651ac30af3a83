"""Every YAML of conf/ and recipes/ composes, builds and says what it means."""

from __future__ import annotations

import datetime
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from effbench import build
from effbench.config import schema
from effbench.config.compose import compose
from effbench.config.paths import conf_dir, recipes_dir
from effbench.config.static_compose import STUDY_GROUPS
from effbench.data.images.modality import Images
from effbench.report.cost import Setting
from effbench.run.validate import dry_build
from tests.fitting import NEEDS, words_beside

SMALL = Setting(Images.blank((3, 32, 32)), 10)
FILES = sorted(conf_dir().glob("*/*.yaml"))
GROUP_FILES = [path for path in FILES if path.parent.name not in STUDY_GROUPS]  # of a run's config
MEMBERS = [path for path in GROUP_FILES if not path.stem.startswith("_")]
RECIPES = sorted(recipes_dir().glob("*.yaml"))
TWINS = {path.stem.removesuffix("_cpu") for path in RECIPES if path.stem.endswith("_cpu")}
PAIRINGS = [path for path in RECIPES if path.stem.removesuffix("_cpu") in TWINS]  # MODEL_OPTIMIZER, and its _cpu twin
# What needs an extra is built where the extra is installed.


def name_of(path: Path) -> str:
    return f"{path.parent.name}/{path.stem}"


def test_there_is_something_to_check() -> None:
    assert len(MEMBERS) > 30
    assert len(RECIPES) >= 8
    groups = {path.parent.name for path in GROUP_FILES}
    assert groups - {"debug"} == {
        name for name, field in schema.Config.model_fields.items() if is_section(field.annotation)
    }


def is_section(annotation: object) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, schema.Section | schema.OpenSection)


# --- it composes and builds -------------------------------------------------------------------------------------------


@pytest.mark.spread(16)
@pytest.mark.slow
@pytest.mark.parametrize("path", MEMBERS, ids=name_of)
def test_every_member_of_every_group_composes_and_builds(path: Path) -> None:
    if path.stem in NEEDS:
        pytest.importorskip(NEEDS[path.stem])
    choice = f"{path.parent.name}={path.stem}"
    needs = words_beside(choice)
    small = [] if any(word.startswith("model=") for word in [choice, *needs]) else ["model=mlp"]
    config = compose([*small, choice, *needs])
    kind = build.preview(config) if any(word.startswith("data=") for word in [choice, *needs]) else None
    assert " with " in dry_build(config, SMALL if kind is None else Setting(kind, 10))


@pytest.mark.spread(4)
@pytest.mark.slow
@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_composes_and_builds_for_its_own_samples(path: Path) -> None:
    config = compose([f"recipe={path.stem}"])
    size = config.data.options.get("image_size")
    kind = build.preview(config) if size is None else Images.blank((1, size, size))
    assert kind is not None
    assert " with " in dry_build(config, Setting(kind, 10))


@pytest.mark.slow
@pytest.mark.parametrize("path", PAIRINGS, ids=lambda path: path.stem)
def test_pairing_recipe_matches_model_and_optimizer_in_its_name(path: Path) -> None:
    model, optimizer = path.stem.removesuffix("_cpu").rsplit("_", 1)
    config = compose([f"recipe={path.stem}"])
    assert optimizer in config.optimizer.target.lower()
    assert compose([f"recipe={path.stem}", "seed=0"]) == config
    # A CPU-sized twin may take a smaller network of the same family.
    assert model.rstrip("0123456789").partition("_")[0] in str(config.model.model_dump()).lower()


def test_every_pairing_is_there_in_both_sizes() -> None:
    assert {path.stem for path in RECIPES} >= TWINS
    assert {"mobilenet_adamw", "swin_lion", "resnet152_adan"} <= TWINS


# --- it says what it means --------------------------------------------------------------------------------------------


def commented_keys(path: Path) -> tuple[set[str], set[str]]:
    """(keys with a comment on their line, keys without), dotted; `defaults`, `_target_` and Hydra's own left out."""
    text = path.read_text(encoding="utf-8")
    lines = text.splitlines()
    told, untold = set(), set()
    for key, line in keys_of(yaml.compose(text)):
        if key.split(".")[0] in ("defaults", "hydra") or key.split(".")[-1] == "_target_":
            continue
        comment = re.search(r"(^|\s)#\s*\S", without_quotes(lines[line]))
        (told if comment else untold).add(key)
    return told, untold


def keys_of(node: yaml.Node | None, prefix: str = "") -> Iterator[tuple[str, int]]:
    """(dotted key, line) of every leaf of a block mapping."""
    if not isinstance(node, yaml.MappingNode):
        return
    for key, value in node.value:
        name = f"{prefix}{key.value}"
        if isinstance(value, yaml.MappingNode) and not value.flow_style:
            yield from keys_of(value, f"{name}.")
        else:
            yield name, key.start_mark.line


def without_quotes(line: str) -> str:
    return re.sub(r"'[^']*'|\"[^\"]*\"", "", line)


def bases(path: Path) -> Iterator[Path]:
    """The files of the same folder that a file builds on, and theirs."""
    for entry in (yaml.safe_load(path.read_text(encoding="utf-8")) or {}).get("defaults", []):
        if isinstance(entry, str) and entry != "_self_":
            base = path.with_name(f"{entry}.yaml")
            yield base
            yield from bases(base)


DOCUMENTED = {f"{path.parent.name}.{key}" for path in GROUP_FILES for key in commented_keys(path)[0]}


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_every_key_of_a_group_has_a_comment_there_or_in_its_base(path: Path) -> None:
    _, untold = commented_keys(path)
    inherited = {key for base in bases(path) for key in commented_keys(base)[0]}
    if path.parent.name == "debug":  # overrides of the groups
        inherited = DOCUMENTED
    assert not untold - inherited


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_key_has_a_comment_in_its_group(path: Path) -> None:
    assert not commented_keys(path)[1] - DOCUMENTED


def test_every_key_of_the_root_has_a_comment() -> None:
    assert not commented_keys(conf_dir() / "config.yaml")[1]


def test_a_key_without_a_comment_is_found(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_text("# head\na: 1  # meaning\nb: 2\nc: 'x # y'\nd:\n  e: 3\n  f: 4  # g\nh: [1, 2]  #\n_target_: x\n")
    assert commented_keys(path) == ({"a", "d.f"}, {"b", "c", "d.e", "h"})


# --- a recipe's header is its result ----------------------------------------------------------------------------------

FIELDS = ("command", "result", "machine", "versions", "date")


def header_of(text: str) -> dict[str, str]:
    """`# name: value` of the comment lines at the top; lines that follow a name belong to it."""
    found: dict[str, str] = {}
    name = None
    for line in text.splitlines():
        if not line.startswith("#"):
            break
        content = line.lstrip("#").strip()
        match = re.match(r"(\w+):(?:\s+(.*))?$", content)
        if match and match[1] in FIELDS:
            name = match[1]
            found[name] = (match[2] or "").strip()
        elif name and content:
            found[name] = f"{found[name]} {content}".strip()
        else:
            name = None
    return found


def faults_of(text: str) -> list[str]:
    """What keeps a header from being a result that can be repeated."""
    header = header_of(text)
    faults = [f"no {field}:" for field in FIELDS if not header.get(field)]
    faults += [
        f"{field}: is not filled in" for field, value in header.items() if re.search(r"TODO|TBD|\?\?|@@|…", value)
    ]
    if not re.search(r"\d", header.get("result", "")):
        faults.append("result: holds no number")
    if "torch" not in header.get("versions", ""):
        faults.append("versions: does not name torch")
    try:
        datetime.date.fromisoformat(header.get("date", "").split()[0] if header.get("date") else "")
    except ValueError:
        faults.append("date: is not YYYY-MM-DD")
    return faults


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_recipe_header_states_command_result_machine_and_date(path: Path) -> None:
    assert not faults_of(path.read_text(encoding="utf-8"))


@pytest.mark.slow
@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_the_command_in_a_recipe_s_header_can_be_given(path: Path) -> None:
    words = shlex.split(header_of(path.read_text(encoding="utf-8")).get("command", ""))
    assert words[:2] == ["effbench", "train"]
    assert f"recipe={path.stem}" in words
    compose([word for word in words[2:] if word not in ("-m", "--multirun") and "," not in word])


FILLED = """# @package _global_
# What it is.
#
# command: effbench train recipe=x
# result: test accuracy 85.5 % (n=3, +- 0.2) after 12 epochs
#   in 104 s
# machine: 2 cores
# versions: effbench 0.1.0, torch 2.14.1
# date: 2026-11-22
model: {}
"""


def test_a_filled_header_passes_and_is_read_whole() -> None:
    assert faults_of(FILLED) == []
    assert header_of(FILLED)["result"].endswith("after 12 epochs in 104 s")


@pytest.mark.parametrize("field", FIELDS)
@pytest.mark.parametrize("value", [None, "", "TODO", "??"])
def test_an_unfilled_header_is_rejected(field: str, value: str | None) -> None:
    line = "" if value is None else f"# {field}: {value}\n"
    text = re.sub(rf"# {field}: .*\n(#   .*\n)?", line, FILLED)
    assert text != FILLED
    assert faults_of(text)


# --- the tests themselves ---------------------------------------------------------------------------------------------
