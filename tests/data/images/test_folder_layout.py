"""Which folder is which split, what is passed over and said, and which layouts are refused by name."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from effbench.data.folder_layout import named_as
from effbench.data.images.image_folder import image_folder, one_split
from effbench.errors import DataError

pytestmark = pytest.mark.row(53)
RNG = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "set"


def paint(folder: Path, how_many: int = 4, first: int = 0, suffix: str = "png") -> None:
    """Pictures of noise: no two alike."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(first, first + how_many):
        Image.fromarray(RNG.integers(0, 256, (4, 4, 3), dtype=np.uint8)).save(folder / f"{number}.{suffix}")


def fill(root: Path, *splits: str, classes: Iterable[str] = "ab", how_many: int = 4) -> None:
    for split in splits:
        for name in classes:
            paint(root / split / name, how_many)


def sizes(root: Path) -> dict[str, int]:
    splits = image_folder(root, image_size=4)
    assert splits.classes == ("a", "b")
    return {which: len(split) for which, split in splits.named().items()}


SPLIT_NAMES = {
    "train": ["train", "Training", "TRAIN", "train_set", "seg_train", "trainset", "train2017", "Train Data", "X_train"],
    "val": ["val", "Val", "valid", "VALIDATION", "dev", "eval", "val_images", "ValidationSet", "valid-split"],
    "test": ["test", "Testing", "Test_set", "test-images", "TestData", "1_test", "test (1)", "tests"],
}


@pytest.mark.parametrize(("which", "name"), [(which, name) for which, names in SPLIT_NAMES.items() for name in names])
def test_the_usual_names_of_splits_are_known_in_any_case(which: str, name: str) -> None:
    assert named_as(name) == (which, ())


@pytest.mark.parametrize(
    "name", ["bus", "invalid", "training_wheels", "contest", "testimony", "trained", "evaluate_me"]
)
def test_other_names_are_no_splits(name: str) -> None:
    assert named_as(name)[0] is None or named_as(name)[1]


@pytest.mark.parametrize(
    ("train", "val", "test"),
    [
        ("Training", "Val", "Testing"),
        ("TRAIN", "dev", "Test_set"),
        ("seg_train/seg_train", "seg_val/seg_val", "seg_test/seg_test"),
        ("train_data/images", "valid_data/images", "test_data/images"),
        ("asl_alphabet_train", "asl_alphabet_val", "asl_alphabet_test"),
        ("dataset/train", "dataset/eval", "dataset/test"),
        ("archive/Pets/Train", "archive/Pets/Valid", "archive/Pets/Test"),
    ],
)
def test_split_folders_of_usual_names_are_the_splits(root: Path, train: str, val: str, test: str) -> None:
    for number, name in enumerate((train, val, test), start=2):
        fill(root, name, how_many=number)
    (root / "__MACOSX" / "a").mkdir(parents=True)
    (root / "__MACOSX" / "a" / "x.png").touch()
    (root / ".DS_Store").touch()
    assert sizes(root) == {"train": 4, "val": 6, "test": 8}


@pytest.mark.parametrize("first", ["train", "Test"])
def test_a_class_may_be_named_like_a_split_beside_other_classes(root: Path, first: str) -> None:
    for name in (first, "bus", "car"):
        paint(root / name)
    assert set(image_folder(root, image_size=4).classes) == {first, "bus", "car"}


def test_freight_train_and_stress_test_are_classes(root: Path) -> None:
    fill(root, "freight_train", "bus", "stress_test", classes="xy")
    assert image_folder(root, image_size=4).classes == ("bus", "freight_train", "stress_test")


@pytest.mark.parametrize(
    ("splits", "named"),
    [
        (("train", "Training"), "'Training', 'train': which is train"),
        (("train", "dev", "valid"), "'dev', 'valid': which is val"),
        (("train", "test", "TESTING"), "'TESTING', 'test': which is test"),
        (("train", "holdout"), r"'holdout' \(8 images\) holds class folders \('a', 'b'\) like 'train'"),
        (("train", "private_test", "test"), r"'private_test' \(8 images\)"),
        (("learning", "test"), "'test', named like splits, beside 'learning'"),
        (("Val", "Test"), "holds 'Test', 'Val' and no train"),
    ],
)
def test_ambiguous_split_folders_are_refused_by_name(root: Path, splits: tuple[str, ...], named: str) -> None:
    fill(root, *splits)
    with pytest.raises(DataError, match=named):
        image_folder(root, image_size=4)


def test_train_and_test_of_loose_images_are_no_classes(root: Path) -> None:
    for name in ("train", "test1", "extra"):
        paint(root / name)
    with pytest.raises(DataError, match="'test1', 'train', named like splits, beside 'extra'"):
        image_folder(root, image_size=4)


def test_class_folders_that_differ_in_case_alone_are_named(root: Path) -> None:
    fill(root, "train", classes="ab")
    fill(root, "val", classes="Ab")
    with pytest.raises(DataError, match="'A' and 'a' differ in case alone"):
        image_folder(root, image_size=4)


def test_ignored_files_are_counted_and_reported_at_every_load(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fill(root, "train", how_many=10)
    paint(root / "unlabelled", 3)
    paint(root, 2)
    paint(root / "train", 1)
    for name in ("1.heic", "2.HEIC", "x.psd", "raw", "Thumbs.db", "._1.png"):
        (root / "train" / "a" / name).touch()
    for _ in range(2):
        splits = image_folder(root, image_size=4)
        err = capsys.readouterr().err
        assert "passed over 'unlabelled' (3 images)" in err
        assert f"2 images right in {root} have no class" in err
        assert f"1 images right in {root / 'train'} have no class" in err
        assert "skipped 4 files that are no images by their suffix: 2 .heic, 1 without a suffix, 1 .psd" in err
        assert splits.facts["skipped_files"] == {".heic": 2, ".psd": 1, "": 1}


def test_every_usual_suffix_of_a_decodable_format_is_read(root: Path) -> None:
    for number, suffix in enumerate(("jpe", "JFIF", "pgm", "PPM", "jpg", "dib")):
        picture = Image.fromarray(RNG.integers(0, 256, (4, 4), dtype=np.uint8))
        for name in "ab":
            (root / name).mkdir(parents=True, exist_ok=True)
            kind = {"jpe": "JPEG", "JFIF": "JPEG", "jpg": "JPEG", "dib": "BMP"}.get(suffix, "PPM")
            picture.save(root / name / f"{number}{name}.{suffix}", kind)
    assert sum(sizes(root).values()) == 12


def test_a_class_of_heic_files_only_is_refused_with_the_suffix(root: Path) -> None:
    paint(root / "a")
    (root / "b").mkdir()
    (root / "b" / "1.heic").touch()
    with pytest.raises(DataError, match=r"without an image .*'b'; they hold 1 \.heic"):
        image_folder(root, image_size=4)


def test_a_folder_that_only_wraps_the_classes_is_named(root: Path) -> None:
    fill(root, "Oxford", classes="ab")
    with pytest.raises(DataError, match=r"If 'Oxford' only wraps the class folders, give data\.root=.*/Oxford"):
        image_folder(root, image_size=4)
    (root / "Oxford").rename(root / "images")
    assert sum(sizes(root).values()) == 8


def test_exact_copies_are_counted_within_and_across_splits(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fill(root, "train", "val", how_many=6)
    content = (root / "train" / "a" / "0.png").read_bytes()
    for copy in ("train/a/again.png", "train/a/third.png", "val/a/seen.png", "val/b/other class.png"):
        (root / copy).write_bytes(content)
    (root / "train" / "a" / "0.png").with_suffix(".txt").write_bytes(b"x" * len(content))
    for _ in range(2):  # decoded, then from the cache
        splits = image_folder(root, image_size=4)
        assert splits.facts["copies"] == {"within": 3, "across": 1, "two_classes": 1}
        err = capsys.readouterr().err
        assert "copies under two classes or more: 1 pictures (such as train/a/0.png = val/b/other class.png)" in err
        assert "(such as train/a/0.png = val/a/seen.png)" in err
        told = [line for line in err.splitlines() if "exact copies" in line]
        assert all(line.startswith("warning: image_folder: exact copies") for line in told), told
        assert len(splits.warnings) == len(told) == 3


def test_folders_that_all_hold_the_same_folders_are_warned_of(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fill(root, "first", "second", how_many=6)
    [warning, *_] = image_folder(root, image_size=4).warnings
    assert "name the outer folders train, val and test" in warning
    assert f"warning: image_folder: {warning}" in capsys.readouterr().err


def test_subfolders_that_go_into_several_splits_are_named(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The images of a patient or of a video resemble each other."""
    for name in "ab":
        for patient in range(5):
            paint(root / name / f"patient {patient}" / "visit", 4)
        paint(root / name, 2, first=50)
    [warning] = image_folder(root, image_size=4, val_fraction=0.3, test_fraction=0.3).warnings
    assert "subfolders of a class, such as a/patient " in warning
    assert f"warning: image_folder: {warning}" in capsys.readouterr().err
    # split by hand, and where the classes have no subfolders
    for which, patients in {"train": range(3), "val": (3,), "test": (4,)}.items():
        for name in "ab":
            for patient in patients:
                (root / "by hand" / which / name).mkdir(parents=True, exist_ok=True)
                (root / name / f"patient {patient}").rename(root / "by hand" / which / name / f"patient {patient}")
    assert not image_folder(root / "by hand", image_size=4).warnings
    fill(root / "flat", "", how_many=20)
    assert not image_folder(root / "flat", image_size=4).warnings


def test_images_of_which_half_is_cut_off_are_counted(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fill(root, "", how_many=10)
    for name, size in {"wide": (41, 20), "high": (20, 41), "twice": (40, 20)}.items():
        Image.fromarray(RNG.integers(0, 256, (*size, 3), dtype=np.uint8)).save(root / "a" / f"{name}.png")
    for _ in range(2):  # decoded, then from the cache
        [warning] = image_folder(root, image_size=4).warnings
        assert warning.startswith("2 of 23 pictures are more than twice as long as they are wide")
        assert f"warning: image_folder: {warning}" in capsys.readouterr().err


def test_splits_that_are_folders_are_not_drawn(root: Path) -> None:
    fill(root / "whole", "", how_many=20)
    assert image_folder(root / "whole", image_size=4).drawn == ("val", "test")
    fill(root / "tested", "train", "test", how_many=20)
    assert image_folder(root / "tested", image_size=4).drawn == ("val",)


def test_corrupt_files_do_not_count_as_copies(root: Path) -> None:
    fill(root, "", how_many=20)
    for name in "ab":
        (root / name / "bad.png").write_bytes(b"not an image")
    assert "copies" not in image_folder(root, image_size=4, on_corrupt="skip").facts


def test_a_measured_folder_is_taken_whole_and_labelled_by_name(root: Path) -> None:
    fill(root, "", classes="ca", how_many=3)
    which, split, _ = one_split(None, ("a", "b", "c"), root, image_size=4)
    assert (which, split.labels.tolist()) == ("test", [0] * 3 + [2] * 3)


@pytest.mark.parametrize(
    ("splits", "asked", "expected"),
    [
        (("test",), None, ("test", 8)),
        (("Testing",), None, ("test", 8)),
        (("val",), None, ("val", 8)),
        (("train", "test"), None, ("test", 8)),
        (("train", "dev"), "val", ("val", 8)),
        (("train", "val"), None, "holds train, val and no test: choose one with split=NAME"),
        (("train", "test"), "val", "holds train, test and no val"),
        (("",), "val", "it is measured whole. Leave out split=val"),
    ],
)
def test_eval_folder_with_splits_gives_test_or_requested_split(
    root: Path, splits: tuple[str, ...], asked: str | None, expected: tuple[str, int] | str
) -> None:
    fill(root, *splits)
    if isinstance(expected, str):
        with pytest.raises(DataError, match=expected):
            one_split(asked, ("a", "b"), root, image_size=4)
    else:
        which, split, _ = one_split(asked, ("a", "b"), root, image_size=4)
        assert (which, len(split)) == expected


def test_eval_folder_with_unknown_classes_is_refused_by_name(root: Path) -> None:
    fill(root, "", classes="aBx")
    with pytest.raises(DataError, match=r"'B', 'x' is no class of the run's: 'a', 'b'.*'B' and 'b' differ in case"):
        one_split(None, ("a", "b"), root, image_size=4)


def test_splits_inside_the_classes_are_not_mixed(root: Path) -> None:
    fill(root, "cat", "dog", classes=["Train", "test_set"])  # CLASS/SPLIT
    with pytest.raises(DataError, match="its folders 'cat', 'dog' hold the splits 'test_set', 'train', which would be"):
        image_folder(root, image_size=4)
