"""Every option of every dataset refuses a value of the wrong type by its key, before data are read."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from effbench.config.paths import conf_dir
from effbench.errors import ConfigError, shown

FILES = {path.stem: yaml.safe_load(path.read_text()) for path in sorted((conf_dir() / "data").glob("*.yaml"))}
BASE = FILES.pop("_base")
OPTIONS = [
    (name, key)
    for name, content in FILES.items()
    for key in content
    if key not in BASE and key not in ("defaults", "_target_")
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("classes")
    for name in ("a", "b"):
        (root / name).mkdir()
        for number in range(3):
            pixels = np.full((4, 4, 3), 40 * number + ord(name), np.uint8)
            Image.fromarray(pixels).save(root / name / f"{number}.png")
    return root


def refusal(name: str, key: str, value: Any, root: Path) -> str:
    module, _, function = FILES[name]["_target_"].rpartition(".")
    options = {"root": root, "cache_dir": root.parent / "cache"} if name == "image_folder" else {}
    with pytest.raises(ConfigError) as caught:
        getattr(importlib.import_module(module), function)(**{**options, key: value})
    return str(caught.value)


@pytest.mark.parametrize(("name", "key"), OPTIONS)
def test_value_of_another_type_is_refused_by_its_key(name: str, key: str, folder: Path) -> None:
    assert len(OPTIONS) > 30
    default = FILES[name][key]
    wrong: list[Any] = [{"a": 1}]
    if isinstance(default, int | float):
        wrong += ["x", None] if isinstance(default, bool) else ["x", None, True, float("nan"), [1]]
    for value in wrong:
        said = refusal(name, key, value, folder)
        assert said.startswith(f"data.{key} "), said
        assert " must be " in said or " is not one of: " in said, said
        assert shown(value) in said, said


@pytest.mark.parametrize(
    ("name", "key", "value", "said"),
    [
        ("synthetic_rows", "num_features", "x", "data.num_features must be a whole number, at least 1; got 'x'."),
        ("synthetic_rows", "num_classes", 1, "data.num_classes must be a whole number, at least 2; got 1."),
        ("synthetic_rows", "noise", -1, "data.noise must be a number >= 0; got -1."),
        ("synthetic", "noise", 1.5, "data.noise must be in [0, 1]; got 1.5."),
        ("fashion_mnist", "split_seed", 2**64, "data.split_seed must be a whole number of at most 64 bits; got 184467"),
        ("synthetic", "channels", 2, "data.channels must be 1 (gray) or 3 (RGB); got 2."),
        ("synthetic", "num_train", 10**15, "data.image_size: the samples would take 3.07e+06 TB of memory"),
        ("synthetic_rows", "num_features", 10**15, "data.num_features: the samples would take"),
        ("fashion_mnist", "image_size", 10**6, "data.image_size: the samples would take 8e+03 TB of memory"),
        ("cifar10", "download", 1, "data.download must be true or false; got 1."),
        ("image_folder", "white_level", True, "data.white_level must be a number above 0"),
        ("image_folder", "cache_dir", 3, "data.cache_dir must be a folder's path, as text; got 3."),
    ],
)  # fmt: skip
def test_refusal_states_rule_and_value(name: str, key: str, value: Any, said: str, folder: Path) -> None:
    assert refusal(name, key, value, folder).startswith(said)
