"""Folders of images: layouts, splits, the cache, and every way in which they can be wrong.

Each picture is one flat colour that no other picture has, so that a row can be traced back to its file.

White-box: makes reading fail while a digest is taken.
"""

from __future__ import annotations

import gc
import hashlib
import inspect
import json
import os
import re
import resource
import shutil
import signal
import struct
import subprocess
import sys
import termios
import time
import zlib
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from torch import Tensor

from effbench.cache_dir import cache_home
from effbench.data.images import decoded_cache as module
from effbench.data.images.decoding import decode, from_pillow
from effbench.data.images.image_folder import image_folder
from effbench.data.images.white_levels import Levels
from effbench.data.splits import Split, Splits
from effbench.errors import ConfigError, DataError
from tests.patience import patience

Color = tuple[int, int, int]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the default cache goes."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    return tmp_path / "xdg" / "effbench"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "set"


class Painter:
    """Writes flat pictures, no two alike, and knows which file a row comes from."""

    def __init__(self) -> None:
        self.files: dict[Color, Path] = {}
        self._numbers = count(1)

    def paint(self, folder: Path, how_many: int, suffix: str = "png") -> list[Path]:
        folder.mkdir(parents=True, exist_ok=True)
        return [self._one(folder / f"{number:03}.{suffix}") for number in range(how_many)]

    def _one(self, path: Path) -> Path:
        number = next(self._numbers)
        color = (number % 256, number // 256, 7)
        Image.new("RGB", (6, 5), color).save(path)
        self.files[color] = path
        return path

    def sources(self, split: Split) -> list[Path]:
        """The file of each row."""
        assert torch.equal(split.images, split.images[:, :, :1, :1].expand_as(split.images))
        return [self.files[tuple(pixel)] for pixel in split.images[:, :, 0, 0].tolist()]  # type: ignore[index]


@pytest.fixture
def painter() -> Painter:
    return Painter()


def per_class(split: Split | None, splits: Splits) -> list[int]:
    assert split is not None
    return torch.bincount(split.labels, minlength=len(splits.classes)).tolist()


def check_labels(painter: Painter, splits: Splits, depth: int) -> None:
    """Every row's label is its file's class: the part `depth` of its path."""
    for split in splits.named().values():
        for path, label in zip(painter.sources(split), split.labels.tolist(), strict=True):
            assert path.parts[depth] == splits.classes[label]


# --- layouts --------------------------------------------------------------------------------------------------


def test_class_folders_are_stratified_without_overlap_or_loss(root: Path, painter: Painter) -> None:
    for name in ("b", "a", "c"):
        painter.paint(root / name, 20)
    splits = image_folder(root, image_size=4, val_fraction=0.2, test_fraction=0.3)
    assert splits.classes == ("a", "b", "c")
    assert splits.shape == (3, 4, 4)
    assert per_class(splits.train, splits) == [10] * 3
    assert per_class(splits.val, splits) == [4] * 3
    assert per_class(splits.test, splits) == [6] * 3
    rows = [path for split in splits.named().values() for path in painter.sources(split)]
    assert sorted(rows) == sorted(painter.files.values())
    check_labels(painter, splits, len(root.parts))


def test_the_split_seed_alone_draws_the_splits(root: Path, painter: Painter) -> None:
    for name in "ab":
        painter.paint(root / name, 20)

    def drawn(seed: int) -> list[Path]:
        val = image_folder(root, image_size=4, split_seed=seed).val
        assert val is not None
        return painter.sources(val)

    assert drawn(1) == drawn(1)
    assert drawn(1) != drawn(2)


@pytest.mark.parametrize("val_name", ["val", "valid", "validation"])
def test_train_val_test_folders_are_taken_as_they_are(root: Path, painter: Painter, val_name: str) -> None:
    for split, how_many in (("train", 5), (val_name, 3), ("test", 2)):
        for name in "ab":
            painter.paint(root / split / name, how_many)
    splits = image_folder(root, image_size=4)
    assert [per_class(split, splits) for split in (splits.train, splits.val, splits.test)] == [[5, 5], [3, 3], [2, 2]]
    assert {path.parts[len(root.parts)] for path in painter.sources(splits.val)} == {val_name}  # type: ignore[arg-type]
    check_labels(painter, splits, len(root.parts) + 1)


def test_missing_val_is_held_out_of_train_but_not_missing_test(root: Path, painter: Painter) -> None:
    for name in "ab":
        painter.paint(root / "train" / name, 10)
    splits = image_folder(root, image_size=4, val_fraction=0.2, test_fraction=0.3)
    assert per_class(splits.train, splits) == [8, 8]
    assert per_class(splits.val, splits) == [2, 2]
    assert splits.test is None


def test_a_fraction_of_0_leaves_a_split_out(root: Path, painter: Painter) -> None:
    for name in "ab":
        painter.paint(root / name, 1)
    splits = image_folder(root, image_size=4, val_fraction=0, test_fraction=0)
    assert (len(splits.train), splits.val, splits.test) == (2, None, None)


def test_train_may_be_a_class_beside_others(root: Path, painter: Painter) -> None:
    for name in ("bus", "car", "train"):
        painter.paint(root / name, 5)
    assert image_folder(root, image_size=4).classes == ("bus", "car", "train")


def test_nested_images_of_every_suffix_are_found(root: Path, painter: Painter) -> None:
    painter.paint(root / "a" / "left" / "far", 3)
    painter.paint(root / "a", 2, "PNG")
    painter.paint(root / "b", 2, "bmp")
    painter.paint(root / "b", 3, "tiff")
    (root / "b" / "labels.csv").write_text("1,2")
    (root / "readme.txt").write_text("hello")
    splits = image_folder(root, image_size=4)
    assert sum(map(len, splits.named().values())) == 10
    check_labels(painter, splits, len(root.parts))


def test_hidden_folders_and_files_are_passed_over(root: Path, painter: Painter) -> None:
    for name in "ab":
        painter.paint(root / name, 3)
        (root / name / "._000.png").write_bytes(b"what macOS leaves")
    painter.paint(root / ".ipynb_checkpoints", 2)
    splits = image_folder(root, image_size=4)
    assert splits.classes == ("a", "b")
    assert sum(map(len, splits.named().values())) == 6


# --- layouts that are wrong: named before anything is decoded -------------------------------------------------


@pytest.fixture
def no_decoding(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise AssertionError("decoded before the folders were checked")

    monkeypatch.setattr(module, "decode_many", refuse)


before_decoding = pytest.mark.usefixtures("no_decoding")


@before_decoding
@pytest.mark.parametrize("root_value", [None, ""])
def test_no_root_asks_for_one(root_value: str | None) -> None:
    with pytest.raises(ConfigError, match=r"data\.root=DIR"):
        image_folder(root_value)


@before_decoding
def test_a_root_that_is_no_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"data\.root=.*absent does not exist"):
        image_folder(tmp_path / "absent")
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match=r"data\.root=.*file is not a folder"):
        image_folder(tmp_path / "file")


@pytest.mark.row(34)
@before_decoding
def test_an_empty_root_and_one_of_loose_images_are_named(root: Path, painter: Painter) -> None:
    root.mkdir()
    with pytest.raises(DataError, match=r"set holds no class folders \(0 images"):
        image_folder(root)
    painter.paint(root, 3)
    with pytest.raises(DataError, match=r"set holds no class folders \(3 images without a class\).*set/CLASS/"):
        image_folder(root)


@pytest.mark.row(34)
@before_decoding
@pytest.mark.parametrize("split", ["train", "test"])
def test_a_split_without_class_folders_is_named(root: Path, painter: Painter, split: str) -> None:
    painter.paint(root / split, 2)
    for name in "ab":
        painter.paint(root / ("test" if split == "train" else "train") / name, 2)
    with pytest.raises(DataError, match=rf"set/{split} holds no class folders \(2 images"):
        image_folder(root)


@before_decoding
def test_val_and_test_without_train_are_named(root: Path, painter: Painter) -> None:
    painter.paint(root / "val" / "a", 2)
    painter.paint(root / "test" / "a", 2)
    with pytest.raises(DataError, match="holds 'test', 'val' and no train"):
        image_folder(root)


@before_decoding
def test_two_validation_folders_are_named(root: Path, painter: Painter) -> None:
    for split in ("train", "val", "valid"):
        painter.paint(root / split / "a", 2)
    with pytest.raises(DataError, match="holds 'val', 'valid': which is val"):
        image_folder(root)


@pytest.mark.row(34)
@before_decoding
def test_one_class_is_named(root: Path, painter: Painter) -> None:
    painter.paint(root / "only", 1)
    with pytest.raises(DataError, match="holds one class, 'only'"):
        image_folder(root)


@pytest.mark.row(34)
@before_decoding
def test_every_empty_class_is_named(root: Path, painter: Painter) -> None:
    painter.paint(root / "a", 3)
    (root / "b").mkdir()
    (root / "c").mkdir()
    (root / "c" / "x.txt").touch()
    with pytest.raises(DataError, match=r"holds 2 class folders without an image \(\.bmp, .*\): 'b', 'c'"):
        image_folder(root)


@pytest.mark.row(34)
@before_decoding
@pytest.mark.parametrize(
    ("layout", "has", "remedy"),
    [
        ("", "1 image", r"1 such class\)\. Add 2 images, or remove the class\."),
        ("", "2 images", r"Add an image, remove the class, or set data\.test_fraction=0\."),
        ("train", "1 image", r"Add an image, remove the class, or set data\.val_fraction=0\."),
    ],
)
def test_a_class_too_small_to_split_is_named(root: Path, painter: Painter, layout: str, has: str, remedy: str) -> None:
    painter.paint(root / layout / "big", 9)
    painter.paint(root / layout / "tiny", int(has[0]))
    with pytest.raises(DataError, match=rf"'tiny' has {has}, too few .*data\.val_fraction=0\.1.*{remedy}"):
        image_folder(root)


@pytest.mark.parametrize(
    ("layout", "how_many", "key"), [("", 3, ""), ("", 2, "test_fraction"), ("train", 1, "val_fraction")]
)
def test_the_remedy_for_a_small_class_works(root: Path, painter: Painter, layout: str, how_many: int, key: str) -> None:
    painter.paint(root / layout / "big", 9)
    painter.paint(root / layout / "tiny", how_many)
    for split in image_folder(root, image_size=4, **({key: 0} if key else {})).named().values():
        assert 1 in split.labels


@pytest.mark.row(35)
@before_decoding
def test_classes_that_differ_between_splits_are_listed(root: Path, painter: Painter) -> None:
    for name in ("train/a", "train/b", "train/d", "val/a", "val/c"):
        painter.paint(root / name, 2)
    with pytest.raises(DataError, match="only in train: 'b', 'd'; only in val: 'c'"):
        image_folder(root)


@before_decoding
@pytest.mark.parametrize(
    ("argument", "value", "said"),
    [
        ("image_size", 0, r"data\.image_size must be a whole number, at least 1 pixel; got 0"),
        ("image_size", "abc", r"data\.image_size must be a whole number, at least 1 pixel; got 'abc'"),
        ("image_size", 12.5, r"data\.image_size must be a whole number"),
        ("split_seed", "x", r"data\.split_seed must be a whole number of at most 64 bits; got 'x'"),
        ("max_pixels", -1, r"data\.max_pixels must be a whole number, at least 1 pixel; got -1"),
        ("val_fraction", 1.0, r"data\.val_fraction must be a number in \[0, 1\); got 1"),
        ("test_fraction", 10, r"data\.test_fraction must be a number in \[0, 1\); got 10\. For 10 % write 0\.1"),
        ("val_fraction", float("nan"), r"data\.val_fraction must be a number in"),
        ("val_fraction", 0.95, r"below 1, to leave samples to train on; got 0\.95 \+ 0\.1"),
        ("on_corrupt", "skp", r"data\.on_corrupt 'skp' is not one of: refuse, skip\. Did you mean 'skip'"),
    ],
)
def test_an_argument_out_of_range_is_named(root: Path, argument: str, value: Any, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        image_folder(root, **{argument: value})


@pytest.mark.row(37)
@before_decoding
def test_broken_link_is_refused_even_with_on_corrupt_skip(root: Path, painter: Painter) -> None:
    for name in "ab":
        painter.paint(root / name, 5)
    (root / "a" / "gone.png").symlink_to("nowhere.png")
    with pytest.raises(DataError, match=r"a/gone\.png cannot be read: No such file"):
        image_folder(root, on_corrupt="skip")


# --- names ----------------------------------------------------------------------------------------------------


@pytest.mark.row(37)
def test_names_of_any_bytes_work_and_class_names_are_printable(root: Path, painter: Painter) -> None:
    names = [b"two words", "\N{CAT FACE}".encode(), b"caf\xe9", b"c" * 255, b"=cmd|'x'", b"\x1b[31mred"]
    for name in names:
        folder = Path(os.fsdecode(os.fsencode(root) + b"/" + name))
        painter.paint(folder, 3)
        for number, path in enumerate(sorted(folder.iterdir())):
            path.rename(folder / os.fsdecode(b"p\xff %d.png" % number))
    splits = image_folder(root, image_size=4)
    assert set(splits.classes) == {"two words", "\N{CAT FACE}", r"caf\xe9", "c" * 255, "=cmd|'x'", r"\x1b[31mred"}
    assert all(name.isprintable() for name in splits.classes)
    assert len(splits.train) == len(names)


@pytest.mark.row(37)
def test_links_in_circles_neither_hang_nor_add_a_class(root: Path, painter: Painter) -> None:
    for name in "ab":
        painter.paint(root / name, 4)
    (root / "loop").symlink_to(".")
    (root / "up").symlink_to(root.parent)
    (root / "a" / "back").symlink_to("..")
    (root / "self").symlink_to("self")
    splits = image_folder(root, image_size=4)
    assert splits.classes == ("a", "b")
    assert sum(map(len, splits.named().values())) == 8


@pytest.mark.row(37)
def test_linked_class_folders_and_files_work(tmp_path: Path, root: Path, painter: Painter) -> None:
    painter.paint(tmp_path / "far" / "a", 3)
    painter.paint(root / "b", 3)
    (root / "a").symlink_to(tmp_path / "far" / "a")
    (root / "b" / "linked.png").symlink_to(painter.paint(tmp_path / "far" / "c", 1)[0])
    splits = image_folder(root, image_size=4)
    assert sum(map(len, splits.named().values())) == 7


# --- the cache ------------------------------------------------------------------------------------------------


def two_classes(root: Path, painter: Painter, how_many: int = 10) -> None:
    for name in "ab":
        painter.paint(root / name, how_many)


def everything(splits: Splits) -> Tensor:
    return torch.cat([split.images for split in splits.named().values()])


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """How many files each call decoded."""
    calls: list[int] = []
    real = module.decode_many

    def counted(paths: list[Path], *rest: Any) -> Any:
        calls.append(len(paths))
        return real(paths, *rest)

    monkeypatch.setattr(module, "decode_many", counted)
    return calls


def test_the_second_load_decodes_nothing_and_gives_the_same(root: Path, painter: Painter, decoded: list[int]) -> None:
    two_classes(root, painter)
    first, second = image_folder(root, image_size=4), image_folder(root, image_size=4)
    assert decoded == [20]
    assert torch.equal(everything(first), everything(second))
    assert first.sha256 == second.sha256
    assert [split.labels.tolist() for split in first.named().values()] == [
        split.labels.tolist() for split in second.named().values()
    ]


def test_sha256_is_that_of_the_pixels_and_labels(root: Path, painter: Painter) -> None:
    two_classes(root, painter)
    splits = image_folder(root, image_size=4)
    labels = np.concatenate([split.labels.numpy() for split in splits.named().values()])
    expected = hashlib.sha256(everything(splits).numpy().tobytes() + labels.tobytes()).hexdigest()
    assert splits.sha256 == expected


def test_images_are_memory_mapped_views_of_one_file(root: Path, painter: Painter, cache: Path) -> None:
    two_classes(root, painter)
    splits = image_folder(root, image_size=4)
    mapped = [line for line in Path("/proc/self/maps").read_text().splitlines() if str(cache) in line]
    assert len(mapped) == 1
    assert splits.train.images.untyped_storage().data_ptr() == splits.test.images.untyped_storage().data_ptr()  # type: ignore[union-attr]


@pytest.mark.parametrize("change", ["content", "time", "new", "removed", "renamed"])
def test_a_changed_file_is_decoded_again(root: Path, painter: Painter, decoded: list[int], change: str) -> None:
    two_classes(root, painter)
    before = image_folder(root, image_size=4)
    path = root / "a" / "003.png"
    if change == "content":
        Image.new("RGB", (60, 50), (1, 1, 1)).save(path)
    elif change == "time":
        os.utime(path, ns=(0, path.stat().st_mtime_ns + 1))
    elif change == "new":
        painter.paint(root / "a" / "more", 1)
    elif change == "removed":
        path.unlink()
    else:
        path.rename(root / "a" / "zzz.png")
    after = image_folder(root, image_size=4)
    assert len(decoded) == 2
    assert (after.sha256 == before.sha256) == (change == "time")


def test_another_size_split_or_limit_has_its_own_cache(root: Path, painter: Painter, decoded: list[int]) -> None:
    two_classes(root, painter)
    ways: list[dict[str, Any]] = [{}, {"image_size": 5}, {"split_seed": 1}, {"test_fraction": 0.3}, {"max_pixels": 99}]
    for way in ways * 2:
        image_folder(root, **{"image_size": 4, **way})
    assert decoded == [20] * len(ways)


def test_a_moved_dataset_keeps_its_cache(tmp_path: Path, root: Path, painter: Painter, decoded: list[int]) -> None:
    two_classes(root, painter)
    before = image_folder(root, image_size=4)
    root.rename(tmp_path / "moved")
    assert image_folder(tmp_path / "moved", image_size=4).sha256 == before.sha256
    assert decoded == [20]


@pytest.mark.parametrize("damage", ["no record", "junk record", "other record", "cut", "emptied", "removed"])
def test_a_damaged_cache_is_rebuilt(root: Path, painter: Painter, cache: Path, decoded: list[int], damage: str) -> None:
    two_classes(root, painter)
    before = image_folder(root, image_size=4)
    sha256, pixels = before.sha256, everything(before)
    (array,), (record,) = cache.glob("*.npy"), cache.glob("*.json")
    content = array.read_bytes()
    array.unlink()  # not written over: `before` still has the old file mapped
    array.write_bytes(content)
    if damage == "no record":
        record.unlink()
    elif damage == "junk record":
        record.write_bytes(b"\xff{")
    elif damage == "other record":
        record.write_text(json.dumps({"bad": [[0, "gone"]], "sha256": "0"}))
    elif damage == "cut":
        array.write_bytes(content[:-1])
    elif damage == "emptied":
        array.write_bytes(b"")
    else:
        array.unlink()
    after = image_folder(root, image_size=4)
    assert decoded == [20, 20]
    assert after.sha256 == sha256
    assert torch.equal(everything(after), pixels)


@pytest.mark.row(31)
def test_the_sources_stay_untouched(root: Path, painter: Painter) -> None:
    two_classes(root, painter)
    (root / "a" / "bad.png").write_bytes(b"bad")

    def seen() -> list[tuple[Path, bytes, int]]:
        return [
            (path, path.read_bytes(), path.stat().st_mtime_ns) for path in sorted(root.rglob("*")) if path.is_file()
        ]

    before = seen()
    image_folder(root, image_size=4, on_corrupt="skip")
    assert seen() == before


def test_cache_is_synced_then_renamed_and_its_record_comes_last(
    root: Path, painter: Painter, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    two_classes(root, painter)
    steps: list[str] = []
    sync, replace = os.fsync, Path.replace

    def synced(descriptor: int) -> None:
        path = Path(f"/proc/self/fd/{descriptor}").readlink()
        steps.append("sync folder" if path == cache else "sync" + path.suffixes[0])
        sync(descriptor)

    def renamed(path: Path, target: Path) -> Path:
        steps.append("rename" + target.suffix)
        assert not target.exists()
        return replace(path, target)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(Path, "replace", renamed)
    image_folder(root, image_size=4)
    assert steps == [
        *("sync.npy", "rename.npy", "sync folder"),
        *("sync.json", "rename.json", "sync folder"),
    ]
    assert sorted(path.suffix for path in cache.iterdir()) == [".json", ".npy"]


def test_rebuilt_cache_is_a_new_file_and_old_maps_stay_valid(
    root: Path, painter: Painter, cache: Path, decoded: list[int]
) -> None:
    two_classes(root, painter)
    running = image_folder(root, image_size=4)
    (array,), (record,) = cache.glob("*.npy"), cache.glob("*.json")
    old, pixels = array.stat().st_ino, everything(running)
    record.unlink()
    image_folder(root, image_size=4)
    assert decoded == [20, 20]
    assert array.stat().st_ino != old
    assert torch.equal(everything(running), pixels)


def test_an_interrupted_decoding_leaves_nothing(
    root: Path, painter: Painter, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    two_classes(root, painter)
    real = module.decode_many

    def interrupted(*arguments: Any) -> Iterator[Any]:
        for number, pixels in enumerate(real(*arguments)):
            if number == 7:
                raise KeyboardInterrupt
            yield pixels

    monkeypatch.setattr(module, "decode_many", interrupted)
    with pytest.raises(KeyboardInterrupt):
        image_folder(root, image_size=4)
    assert list(cache.iterdir()) == []


LEAVE = """
import os, signal, sys, time
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # these tests may run under nohup
from pathlib import Path
from effbench.data.images import decoded_cache
from effbench.data.images.image_folder import image_folder
real = decoded_cache.decode_many
def slow(*arguments):
    for pixels in real(*arguments):
        Path(sys.argv[2]).touch()
        yield pixels
        time.sleep(60)
decoded_cache.decode_many = slow
from effbench.cli import main
sys.exit(main(["train", "data=image_folder", f"data.root={sys.argv[1]}", "data.image_size=8", "model=mlp",
               "device.threads=1", f"hydra.run.dir={sys.argv[2]}-run"]))
"""


@pytest.mark.proof
@pytest.mark.process
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGKILL])
def test_killed_decoding_leaves_only_files_that_the_next_removes(
    tmp_path: Path, root: Path, painter: Painter, cache: Path, number: int
) -> None:
    two_classes(root, painter)
    mark = tmp_path / "begun"
    process = subprocess.Popen([sys.executable, "-c", LEAVE, root, mark], stderr=subprocess.PIPE, text=True)
    while not mark.exists():
        assert process.poll() is None
        time.sleep(0.01)
    [unfinished] = cache.glob(".image_folder-*.tmp")
    os.utime(unfinished, (time.time() - 90_000,) * 2)
    image_folder(root, image_size=4)
    assert unfinished.exists()  # locked by a live process, however old it seems
    process.send_signal(number)
    process.communicate(timeout=patience(60))
    assert process.returncode == (-number if number == signal.SIGKILL else 128 + number)
    if number != signal.SIGKILL:
        assert not unfinished.exists()
        return
    image_folder(root, image_size=4)
    assert not unfinished.exists()


def test_cache_cleanup_removes_only_old_files_of_dead_processes(root: Path, painter: Painter, cache: Path) -> None:
    two_classes(root, painter)
    cache.mkdir(parents=True)
    names = (".image_folder-x.npy.1-a.tmp", "image_folder-x.npy", ".image_folder-x.npy.2-b.tmp", "other.tmp")
    old, unrecorded, young, other = (cache / name for name in names)
    for path in (old, unrecorded, young, other):
        path.touch()
    for path in (old, unrecorded, other):
        os.utime(path, (time.time() - 120,) * 2)
    image_folder(root, image_size=4)
    assert [path.exists() for path in (old, unrecorded, young, other)] == [False, False, True, True]


# --- the budget -----------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_cache_eviction_is_lru_and_spares_caches_in_use(
    root: Path, painter: Painter, cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    two_classes(root, painter)
    size = 20 * 3 * 8 * 8 + 128
    monkeypatch.setenv("EFFBENCH_CACHE_GB", str(2.5 * size / 1e9))

    def made(seed: int) -> Path:
        before = set(cache.glob("*.npy"))
        image_folder(root, image_size=8, split_seed=seed)
        gc.collect()  # so that it is not in use
        [new] = set(cache.glob("*.npy")) - before or [None]
        return new

    first, second = made(1), made(2)
    os.utime(first.with_suffix(".json"), (1, 1))
    os.utime(first, (1, 1))
    os.utime(second.with_suffix(".json"), (2, 2))
    os.utime(second, (2, 2))
    image_folder(root, image_size=8, split_seed=1)  # used now: the second is the oldest
    third = made(3)
    assert [path.exists() for path in (first, second, third)] == [True, False, True]
    assert f"removed {second}, the least recently used" in capsys.readouterr().err
    assert not second.with_suffix(".json").exists()
    used = image_folder(root, image_size=8, split_seed=1)
    os.utime(first, (1, 1))
    os.utime(first.with_suffix(".json"), (1, 1))
    fourth = made(4)
    assert [path.exists() for path in (first, third, fourth)] == [True, False, True]
    assert len(used.train)


@pytest.mark.parametrize("value", ["many", "-1", "nan", "inf"])
def test_a_budget_that_is_no_size_is_named(
    root: Path, painter: Painter, monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    two_classes(root, painter)
    monkeypatch.setenv("EFFBENCH_CACHE_GB", value)
    with pytest.raises(ConfigError, match="EFFBENCH_CACHE_GB must be a number of gigabytes.*For 50 GB write 50"):
        image_folder(root, image_size=4)


# --- a cache that is not what was decoded ---------------------------------------------------------------------


def overwrite(path: Path, offset: int) -> None:
    """One byte, in place, with the time of the last change of content set back."""
    status = path.stat()
    with path.open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)
        file.seek(offset)
        file.write(bytes([byte[0] ^ 1]))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


@pytest.mark.spread(2)
@pytest.mark.slow
@pytest.mark.row(58)
@pytest.mark.parametrize("offset", [128, 600, -1])
def test_an_overwritten_byte_is_found_and_the_cache_rebuilt(
    root: Path, painter: Painter, cache: Path, decoded: list[int], capsys: pytest.CaptureFixture[str], offset: int
) -> None:
    two_classes(root, painter)
    pixels = everything(image_folder(root, image_size=4)).clone()
    [array] = cache.glob("*.npy")
    gc.collect()
    overwrite(array, offset % array.stat().st_size)
    capsys.readouterr()
    assert torch.equal(everything(image_folder(root, image_size=4)), pixels)
    assert decoded == [20, 20]
    assert f"{array} is not what was decoded (its sha256 differs): decoding again" in capsys.readouterr().err


@pytest.mark.row(58)
def test_a_copied_cache_is_digested_once_and_then_trusted(
    root: Path, painter: Painter, cache: Path, decoded: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    two_classes(root, painter)
    image_folder(root, image_size=4)
    [array] = cache.glob("*.npy")
    content = array.read_bytes()
    array.unlink()
    array.write_bytes(content)
    digested: list[int] = []
    real = module._sha256
    monkeypatch.setattr(module, "_sha256", lambda *arguments: digested.append(1) or real(*arguments))
    for _ in range(3):
        image_folder(root, image_size=4)
    assert (digested, decoded) == ([1], [20])


@pytest.mark.row(58)
@pytest.mark.parametrize("before", ['"bad": []', '"deep": {}', '"sha256": "'])
def test_an_altered_record_is_not_believed(
    root: Path, painter: Painter, cache: Path, decoded: list[int], before: str
) -> None:
    two_classes(root, painter)
    image_folder(root, image_size=4)
    [record] = cache.glob("*.json")
    text = record.read_text()
    assert before in text
    after = {'"bad": []': '"bad": [[3, "x"]]', '"deep": {}': '"deep": {"floats": 9}'}.get(before, before + "0")
    record.write_text(text.replace(before, after))
    image_folder(root, image_size=4)
    assert decoded == [20, 20]


@pytest.mark.spread(3)
@pytest.mark.slow
@pytest.mark.row(58)
@pytest.mark.parametrize("suffix", [".npy", ".json"])
@pytest.mark.parametrize("planted", ["by another user", "group may write", "all may write"])
def test_a_cache_that_others_could_have_written_is_not_loaded(
    root: Path, painter: Painter, cache: Path, decoded: list[int], capsys: pytest.CaptureFixture[str],
    planted: str, suffix: str,
) -> None:  # fmt: skip
    two_classes(root, painter)
    image_folder(root, image_size=4)
    [path] = cache.glob(f"*{suffix}")
    gc.collect()
    if planted == "by another user":
        if os.geteuid() != 0:
            pytest.skip("only root can give files away")
        os.chown(path, 12345, -1)
    else:
        path.chmod(0o664 if "group" in planted else 0o646)
    capsys.readouterr()
    for _ in range(2):
        image_folder(root, image_size=4)
    assert decoded == [20, 20]
    assert f"{path} is not used: " in capsys.readouterr().err
    assert path.stat().st_uid == os.geteuid()


@pytest.mark.row(58)
def test_caches_are_for_their_owner_to_write_whatever_the_umask(root: Path, painter: Painter, cache: Path) -> None:
    two_classes(root, painter)
    before = os.umask(0)
    try:
        image_folder(root, image_size=4)
    finally:
        os.umask(before)
    assert all(path.stat().st_mode & 0o022 == 0 for path in cache.iterdir())


def test_files_that_change_while_they_are_decoded_are_noticed(
    root: Path, painter: Painter, monkeypatch: pytest.MonkeyPatch
) -> None:
    two_classes(root, painter)
    real = module.decode_many

    def meddling(*arguments: Any) -> Iterator[Any]:
        yield from real(*arguments)
        os.utime(root / "a" / "000.png", (0, 0))

    monkeypatch.setattr(module, "decode_many", meddling)
    with pytest.raises(DataError, match=r"data\.root=.* changed while it was decoded"):
        image_folder(root, image_size=4)


LOAD = """
import sys, time
from pathlib import Path
from effbench.data.images.image_folder import image_folder
Path(sys.argv[2]).touch()
while not Path(sys.argv[3]).exists():
    time.sleep(0.001)
print(image_folder(sys.argv[1], image_size=32).sha256)
"""


@pytest.mark.proof
@pytest.mark.process
def test_concurrent_decoding_processes_do_not_interfere(
    tmp_path: Path, root: Path, painter: Painter, cache: Path
) -> None:
    two_classes(root, painter, 60)
    go, ready = tmp_path / "go", [tmp_path / f"ready{number}" for number in range(2)]
    racers = [
        subprocess.Popen([sys.executable, "-c", LOAD, root, mark, go], stdout=subprocess.PIPE, text=True)
        for mark in ready
    ]
    while not all(mark.exists() for mark in ready):
        assert all(racer.poll() is None for racer in racers)
        time.sleep(0.01)
    go.touch()
    digests = [racer.communicate(timeout=patience(120))[0].strip() for racer in racers]
    assert [racer.returncode for racer in racers] == [0, 0]
    assert set(digests) == {image_folder(root, image_size=32).sha256}
    assert len(list(cache.iterdir())) == 2


# --- no room --------------------------------------------------------------------------------------------------


def test_too_little_free_space_is_named_with_the_bytes_needed(
    root: Path, painter: Painter, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    two_classes(root, painter)
    monkeypatch.setattr(module.shutil, "disk_usage", lambda _: SimpleNamespace(free=959, total=10**12))
    with pytest.raises(
        DataError, match=r"need 960 B \(960 bytes\) in .*xdg/effbench: only 959 B are free.*cache_dir=DIR"
    ):
        image_folder(root, image_size=4)
    assert list(cache.iterdir()) == []


def test_a_write_that_fails_half_way_is_named_and_leaves_nothing(root: Path, painter: Painter, cache: Path) -> None:
    two_classes(root, painter)
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limit[1]))  # the kernel refuses what lies beyond
    try:
        with pytest.raises(
            DataError, match=r"need .*61440 bytes\) in .*xdg/effbench: File too large.*data\.cache_dir=DIR"
        ):
            image_folder(root, image_size=32)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert list(cache.iterdir()) == []


def test_a_cache_dir_that_cannot_be_one_is_named(tmp_path: Path, root: Path, painter: Painter) -> None:
    two_classes(root, painter)
    (tmp_path / "file").write_text("mine")
    with pytest.raises(DataError, match=r"/file: it is not a folder"):
        image_folder(root, image_size=4, cache_dir=tmp_path / "file")
    with pytest.raises(DataError, match=r"/file/below: Not a directory"):
        image_folder(root, image_size=4, cache_dir=tmp_path / "file" / "below")
    with pytest.raises(DataError, match=r"in /proc/effbench: "):
        image_folder(root, image_size=4, cache_dir="/proc/effbench")
    assert (tmp_path / "file").read_text() == "mine"


def test_cache_dir_says_where_the_cache_goes(tmp_path: Path, root: Path, painter: Painter, cache: Path) -> None:
    two_classes(root, painter)
    image_folder(root, image_size=4, cache_dir=tmp_path / "here")
    assert len(list((tmp_path / "here").iterdir())) == 2
    assert not cache.exists()


def test_cache_home_is_xdg_if_absolute_and_else_home_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_home() == tmp_path / "xdg" / "effbench"
    for value in ("", "relative/path"):
        monkeypatch.setenv("XDG_CACHE_HOME", value)
        assert cache_home() == tmp_path / ".cache" / "effbench"


# --- pictures of more than 8 bits -----------------------------------------------------------------------------


def tiff(pixels: bytes, shape: tuple[int, ...], order: str = "<", compression: int = 1) -> bytes:
    """uint16 (H, W, 3) RGB, (H, W, 4) CMYK, which Pillow cannot write."""
    height, width, samples = shape
    entries = ((256, width), (257, height), (258, 0), (259, compression), (262, 2 if samples == 3 else 5), (273, 0),
               (277, samples), (278, height), (279, len(pixels)))  # fmt: skip
    bits = 8 + 2 + 12 * len(entries) + 4
    places = {258: bits, 273: bits + 2 * samples}
    table = b"".join(
        struct.pack(f"{order}HHII", tag, 3, samples, places[tag]) if tag == 258
        else struct.pack(f"{order}HHII", tag, 4, 1, places.get(tag, value))
        for tag, value in entries
    )  # fmt: skip
    start = struct.pack(f"{order}2sHIH", b"II" if order == "<" else b"MM", 42, 8, len(entries))
    return start + table + struct.pack(f"{order}I{samples}H", 0, *[16] * samples) + pixels


def deep(path: Path, values: np.ndarray[Any, Any], kind: str = "png") -> None:
    """uint16, int32 or float32 (H, W) as a TIFF; uint16 (H, W, 3) as a PNG, TIFF or PPM, which Pillow cannot write."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if values.ndim == 2:
        Image.fromarray(values).save(path.with_suffix(".tif"))
        return
    if kind != "png":
        little, big = values.astype("<u2").tobytes(), values.astype(">u2").tobytes()
        header = f"P6 {values.shape[1]} {values.shape[0]} 65535\n".encode()
        content = {
            "tiff": lambda: tiff(little, values.shape),
            "tiff, big-endian": lambda: tiff(big, values.shape, ">"),
            "tiff, deflate": lambda: tiff(zlib.compress(little), values.shape, compression=8),
            "tiff, deflate, big-endian": lambda: tiff(zlib.compress(big), values.shape, ">", compression=8),
            "ppm": lambda: header + big,
        }[kind]()
        path.with_suffix(".ppm" if kind == "ppm" else ".tif").write_bytes(content)
        return

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    height, width, _ = values.shape
    header = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    content = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    path.with_suffix(".png").write_bytes(b"\x89PNG\r\n\x1a\n" + content)


@pytest.mark.row(53)
@pytest.mark.parametrize(
    ("kind", "highest", "white", "said"),
    [
        (np.uint16, 200, 255, r"integers from 0 to 255 \(8 bits\)"),
        (np.uint16, 1000, 1023, r"\(10 bits\)"),
        (np.uint16, 4095, 4095, r"integers from 0 to 4095 \(12 bits\) become 0 to 255"),
        (np.uint16, 9000, 2**14 - 1, r"\(14 bits\)"),
        (np.uint16, 65535, 65535, r"\(16 bits\)"),
        (np.int32, 4000, 4095, r"\(12 bits\)"),
        (np.int32, 10**6, 2**20 - 1, r"\(20 bits\)"),
        (np.float32, 1, 1, "floats from 0 to 1 become"),
        (np.float32, 0.05, 0.0625, "floats from 0 to 0.0625 become"),
        (np.float32, 4000, 4095, "floats from 0 to 4095 become"),
        ("png", 4095, 4095, r"\(12 bits\)"),
        ("tiff", 4095, 4095, r"\(12 bits\)"),
        ("tiff", 65535, 65535, r"\(16 bits\)"),
        ("tiff, big-endian", 4095, 4095, r"\(12 bits\)"),
        ("tiff, deflate", 4095, 4095, r"\(12 bits\)"),
        ("tiff, deflate, big-endian", 1000, 1023, r"\(10 bits\)"),
        ("ppm", 4095, 4095, r"\(12 bits\)"),
    ],
)
def test_deep_images_are_scaled_by_the_range_of_the_train_split(
    root: Path, capsys: pytest.CaptureFixture[str], kind: Any, highest: float, white: float, said: str
) -> None:
    """Each as numpy scales it; one scale for all, so that a dark picture stays dark beside a bright one."""
    shape, dtype = ((4, 4, 3), np.uint16) if isinstance(kind, str) else ((4, 4), kind)
    values = {}
    for number, (name, split) in enumerate((name, split) for name in "ab" for split in ("train", "val")):
        values[split, name] = np.random.default_rng(number).uniform(0, highest, shape).astype(dtype)
        if (split, name) == ("train", "a"):
            values[split, name].flat[0] = highest
        deep(root / split / name / "1", values[split, name], kind if isinstance(kind, str) else "")
    splits = image_folder(root, image_size=4)
    for which, split in splits.named().items():
        for label, name in enumerate("ab"):
            expected = np.rint(values[which, name].astype(np.float64) * 255 / white).astype(np.uint8)
            expected = expected if expected.ndim == 3 else expected[..., None].repeat(3, 2)
            assert np.array_equal(split.images[label].permute(1, 2, 0).numpy(), expected)
    assert re.search(f"4 pictures hold more than 8 bits: .*{said}", capsys.readouterr().err)
    again = image_folder(root, image_size=4, white_level=splits.facts["white_level"])  # as eval and export read it
    assert again.sha256 == splits.sha256


@pytest.mark.row(53)
def test_values_above_trains_range_become_white_and_are_counted(
    root: Path, capsys: pytest.CaptureFixture[str], decoded: list[int]
) -> None:
    for name in ("train/a", "train/b", "val/a", "val/b"):
        deep(root / name / "1", np.full((4, 4), 5000 if name == "val/b" else 900, np.uint16))
    splits = image_folder(root, image_size=4)
    assert splits.val is not None
    assert splits.val.images[1].unique().tolist() == [255]
    assert "in 1 of them larger values, which become 255 too" in capsys.readouterr().err
    wide = image_folder(root, image_size=4, white_level=16383)
    assert wide.train.images.unique().tolist() == [14]
    assert len(decoded) == 3  # the first stopped at once: it had no levels yet
    with pytest.raises(ConfigError, match=r"data\.white_level must be a number above 0.*For 12 bits write 4095"):
        image_folder(root, image_size=4, white_level=0)


@pytest.mark.row(53)
def test_16_bit_colours_readable_only_as_8_bits_are_refused(root: Path) -> None:
    for name in "ab":
        (root / name).mkdir(parents=True)
        for number in range(5):
            pixels = np.full((4, 4, 4), 64000 - number, np.uint16)  # nearly black, in CMYK
            (root / name / f"{number}.tif").write_bytes(tiff(pixels.astype("<u2").tobytes(), pixels.shape))
    with pytest.raises(DataError, match=r"holds colours of 16 bits as TIFF.* no more than \d+. Save them as PNG"):
        image_folder(root, image_size=4)


@pytest.mark.row(53)
def test_a_ppm_is_white_at_the_largest_value_that_it_names(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As a PGM is: 4095 of 4095 is white."""
    for name in "ab":
        (root / name).mkdir(parents=True)
        for number in range(5):
            pixels = np.array([[[4095, 2048, number]]] * 4, ">u2").repeat(4, 1).tobytes()
            (root / name / f"{number}.ppm").write_bytes(b"P6 4 4 4095\n" + pixels)
        (root / name / "5.ppm").write_bytes(b"P6 4 4 4095\n" + pixels[:-1])
    splits = image_folder(root, image_size=4, on_corrupt="skip")
    assert "2 of 12 files cannot be decoded: " in capsys.readouterr().err
    assert splits.train.images[:, :2].flatten(2)[..., 0].unique(dim=0).tolist() == [[255, 128]]


def test_a_copied_dataset_keeps_its_cache(tmp_path: Path, root: Path, painter: Painter, decoded: list[int]) -> None:
    two_classes(root, painter)
    before = image_folder(root, image_size=4)
    shutil.copytree(root, tmp_path / "copy")  # with the files' times
    for _ in range(2):
        assert image_folder(tmp_path / "copy", image_size=4).sha256 == before.sha256
    assert decoded == [20]


def test_other_files_of_equal_names_sizes_and_times_are_decoded(
    tmp_path: Path, root: Path, painter: Painter, decoded: list[int]
) -> None:
    """As two versions of a dataset out of archives that set all times alike."""
    for folder in (root, tmp_path / "second"):
        for name in "ab":
            for path in painter.paint(folder / name, 10, "bmp"):
                os.utime(path, (1, 1))
    for folder in (root, tmp_path / "second", tmp_path / "second"):
        splits = image_folder(folder, image_size=4)
        files = [path for split in splits.named().values() for path in painter.sources(split)]
        assert all(path.is_relative_to(folder) for path in files)
    assert decoded == [20, 20]


# --- corrupt files --------------------------------------------------------------------------------------------


@pytest.fixture
def damaged(root: Path, painter: Painter) -> Path:
    two_classes(root, painter, 20)
    (root / "a" / "bad empty.jpg").touch()
    (root / "a" / "bad text.png").write_text("<html>")
    whole = (root / "b" / "000.png").read_bytes()
    (root / "b" / "bad cut.png").write_bytes(whole[:-24])  # without the end of its pixels
    return root


@pytest.mark.row(31)
def test_refuse_names_the_files_their_faults_and_their_number(damaged: Path) -> None:
    for _ in range(2):  # from decoding, then from the cache
        with pytest.raises(DataError, match="3 of 43 files cannot be decoded") as caught:
            image_folder(damaged, image_size=4)
        said = str(caught.value)
        assert "a/bad empty.jpg is empty (0 bytes)" in said
        assert "a/bad text.png is not an image" in said
        assert "b/bad cut.png is a damaged PNG" in said
        assert "data.on_corrupt=skip" in said


@pytest.mark.row(31)
def test_refuse_lists_the_first_5_of_many(damaged: Path) -> None:
    for number in range(30):
        (damaged / "a" / f"worse {number}.png").touch()
    with pytest.raises(DataError, match="33 of 73 files") as caught:
        image_folder(damaged, image_size=4)
    assert str(caught.value).count("\n  ") == 6
    assert "... and 28 more" in str(caught.value)


@pytest.mark.row(31)
def test_skip_leaves_corrupt_files_out_and_warns_at_every_load(
    damaged: Path, painter: Painter, capsys: pytest.CaptureFixture[str], decoded: list[int]
) -> None:
    loads = []
    for _ in range(2):
        splits = image_folder(damaged, image_size=4, on_corrupt="skip")
        rows = [path for split in splits.named().values() for path in painter.sources(split)]
        assert sorted(rows) == sorted(painter.files.values())
        check_labels(painter, splits, len(damaged.parts))
        out, err = capsys.readouterr()
        assert out == ""
        lines = [line for line in err.splitlines() if "skipped" in line]
        assert len(lines) == 1
        assert "3 of 43 files cannot be decoded" in lines[0]
        loads.append(splits.sha256)
    assert decoded == [43]
    assert loads[0] == loads[1]


@pytest.mark.row(31)
@pytest.mark.parametrize("on_corrupt", ["refuse", "skip"])
def test_a_file_that_can_be_read_again_is_used(
    on_corrupt: str, root: Path, painter: Painter, decoded: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A permission that is given later changes neither size nor time of the file."""
    two_classes(root, painter)
    locked = root / "a" / "003.png"
    real = Path.open

    def refuse(path: Path, *args: Any, **options: Any) -> Any:
        if path == locked:
            raise PermissionError(13, "Permission denied")
        return real(path, *args, **options)

    with monkeypatch.context() as denied:
        denied.setattr(Path, "open", refuse)
        for _ in range(2):
            if on_corrupt == "refuse":
                with pytest.raises(DataError, match=r"a/003\.png cannot be read: Permission denied"):
                    image_folder(root, image_size=4)
            else:
                assert sum(map(len, image_folder(root, image_size=4, on_corrupt="skip").named().values())) == 19
    assert decoded == [20], "as long as it cannot be read, the cache serves"
    splits = image_folder(root, image_size=4, on_corrupt=on_corrupt)
    assert sorted(path for split in splits.named().values() for path in painter.sources(split)) == sorted(
        painter.files.values()
    )
    assert decoded == [20, 20]


@pytest.mark.row(31)
def test_skip_after_refuse_needs_no_second_decoding(damaged: Path, decoded: list[int]) -> None:
    with pytest.raises(DataError):
        image_folder(damaged, image_size=4)
    image_folder(damaged, image_size=4, on_corrupt="skip")
    assert decoded == [43]


@pytest.mark.row(34)
def test_a_class_without_images_left_to_train_on_is_named(root: Path, painter: Painter) -> None:
    two_classes(root, painter)
    (root / "c").mkdir()
    for number in range(3):
        (root / "c" / f"{number}.png").touch()
    with pytest.raises(DataError, match="no image to train on is left of the classes 'c'"):
        image_folder(root, image_size=4, on_corrupt="skip")


@pytest.mark.row(31)
def test_skipping_may_empty_a_class_but_not_a_whole_split(root: Path, painter: Painter) -> None:
    for name in ("train/a", "train/b", "val/a", "val/b"):
        painter.paint(root / name, 2)
    for path in (root / "val" / "a").iterdir():
        path.write_bytes(b"no")
    splits = image_folder(root, image_size=4, on_corrupt="skip")
    assert per_class(splits.val, splits) == [0, 2]
    for path in (root / "val" / "b").iterdir():
        path.write_bytes(b"no")
    with pytest.raises(DataError, match="no image is left in val"):
        image_folder(root, image_size=4, on_corrupt="skip")


@pytest.mark.row(34)
def test_a_set_without_one_whole_file_is_named(root: Path) -> None:
    for name in ("a/1", "a/2", "a/3", "b/1", "b/2", "b/3"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / f"{name}.png").touch()
    with pytest.raises(DataError, match="6 of 6 files cannot be decoded"):
        image_folder(root, image_size=4)
    with pytest.raises(DataError, match="no image to train on is left of the classes 'a', 'b'"):
        image_folder(root, image_size=4, on_corrupt="skip")


@pytest.mark.row(33)
def test_file_above_max_pixels_is_refused_until_limit_is_raised(root: Path, painter: Painter) -> None:
    two_classes(root, painter)
    Image.new("RGB", (20, 20)).save(root / "a" / "large.png")
    with pytest.raises(DataError, match=r"a/large\.png has 20 x 20 = 400 pixels, above the limit max_pixels=399"):
        image_folder(root, image_size=4, max_pixels=399)
    assert sum(map(len, image_folder(root, image_size=4, max_pixels=400).named().values())) == 21


# --- what is said ---------------------------------------------------------------------------------------------


def test_off_a_terminal_decoding_says_one_line_and_loading_none(
    root: Path, painter: Painter, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    two_classes(root, painter)
    image_folder(root, image_size=4)
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert f"decoded 20 images into {cache}/image_folder-" in err
    image_folder(root, image_size=4)
    assert capsys.readouterr() == ("", "")


def test_on_a_terminal_decoding_shows_a_bar(root: Path, painter: Painter, monkeypatch: pytest.MonkeyPatch) -> None:
    two_classes(root, painter)
    reader, writer = os.openpty()
    termios.tcsetwinsize(writer, (24, 100))
    with os.fdopen(writer, "w") as terminal:
        monkeypatch.setattr(sys, "stderr", terminal)
        image_folder(root, image_size=4)
        shown = ""
        while "decoded 20 images" not in shown:  # the line after the bar
            shown += os.read(reader, 10_000).decode()
    os.close(reader)
    assert "decoding: 100%" in shown
    assert "20/20" in shown


# --- config ---------------------------------------------------------------------------------------------------


def test_yaml_holds_exactly_the_parameters_and_their_defaults() -> None:
    path = Path(__file__).parents[3] / "conf" / "data" / "image_folder.yaml"
    config = yaml.safe_load(path.read_text())
    assert config.pop("defaults") == ["_base", "_self_"]
    assert config.pop("_target_") == "effbench.data.images.image_folder.image_folder"
    parameters = inspect.signature(image_folder).parameters
    assert config == {name: parameter.default for name, parameter in parameters.items()}


@pytest.mark.row(53)
@pytest.mark.parametrize("kind", ["png", "tiff", "tiff, deflate", "ppm"])
def test_16_bit_pillow_image_is_scaled_like_its_file(tmp_path: Path, kind: str) -> None:
    values = np.random.default_rng(0).integers(0, 4096, (4, 4, 3)).astype(np.uint16)
    deep(tmp_path / "1", values, kind)
    [path] = tmp_path.glob("1.*")
    expected = torch.from_numpy(np.rint(values * (255 / 4095)).astype(np.uint8)).permute(2, 0, 1)
    with Image.open(path) as image:
        for _ in range(2):
            assert torch.equal(from_pillow(image, 4, 3, Levels(4095)), expected)
        assert image.convert("RGB").size == (4, 4)  # Pillow itself still reads it
    assert torch.equal(decode(path, 4, 3, levels=Levels(4095)), expected)
