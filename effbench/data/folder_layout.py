"""Find classes and splits in folders by names only, and count what is skipped."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from effbench.data.folder_files import FileKind, is_folder, printable, subfolders, visible, walk
from effbench.errors import DataError
from effbench.units import article

SPLITS = ("train", "val", "test")
ALL = "all"  # the single split of ROOT/CLASS, before it is divided
ClassFiles = dict[str, list[Path]]

_NAMES = {
    "train": ("train", "training", "trn", "trainval"),
    "val": (
        "val",
        "valid",
        "validation",
        "validate",
        "validating",
        "dev",
        "devel",
        "development",
        "eval",
        "evaluation",
    ),
    "test": ("test", "testing", "tst", "tests"),
}
_SPLIT_OF = {name: which for which, names in _NAMES.items() for name in names}
# words allowed beside a split's name: train_set, test-images, seg_train, X_val, Train Data v2
_BESIDE = frozenset(
    [
        *("a", "all", "class", "classes", "data", "dataset", "datasets", "dir", "directory", "doc", "docs", "document"),
        *("documents", "example", "examples"),
        *("file", "files", "final", "folder", "folders", "full", "image", "images", "img", "imgs", "jpeg", "jpg"),
        *("my", "new", "original", "photo", "photos", "pic", "pics", "picture", "pictures", "png", "px", "raw"),
        *(
            "resized",
            "sample",
            "samples",
            "seg",
            "set",
            "sets",
            "split",
            "splits",
            "subset",
            "text",
            "texts",
            "the",
            "txt",
            "v",
            "x",
        ),
    ]
)
# two words written as one: trainset, testimages
_JOINED = re.compile(rf"({'|'.join(sorted(_SPLIT_OF, key=len, reverse=True))})({'|'.join(sorted(_BESIDE, key=len))})")


def named_as(name: str) -> tuple[str | None, tuple[str, ...]]:
    """Return (split that a folder's name means, the other words of the name): Test_set -> test, ()."""
    # words are runs of letters, also in camelCase; digits and signs only separate: train2017, Test-Set (1)
    words = re.findall(r"[^\W\d_]+", re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name))
    splits, others = set(), []
    for word in (word.lower() for word in words):
        joined = _JOINED.fullmatch(word)
        which = _SPLIT_OF.get(joined[1] if joined else word)
        if which:
            splits.add(which)  # two of them, as in train_val, mean none: see below
        elif word not in _BESIDE:
            others.append(word)
    return (splits.pop() if len(splits) == 1 else None), tuple(others)


def _split_named(name: str) -> str | None:
    which, others = named_as(name)
    return None if others else which


@dataclass(frozen=True)
class Layout:
    """The folders of splits.

    Attributes:
        root: folder that holds the splits or classes, in the given one.
        splits: name -> folder; empty if root holds the classes.
        notes: one line for each thing that was skipped, or read in another place.
    """

    root: Path
    splits: dict[str, Path]
    notes: list[str]


@dataclass(frozen=True)
class Scan:
    """The files of a dataset.

    Attributes:
        kind: of the files.
        root: folder that holds the splits or classes, in the given one.
        splits: {split: {class: files}}, or {'all': {class: files}}.
        notes: one line for each thing that was skipped, or read in another place.
        skipped: suffix -> number of files of other kinds.
        warnings: what may be a mistake.
    """

    kind: FileKind
    root: Path
    splits: dict[str, ClassFiles]
    notes: list[str] = field(default_factory=list)
    skipped: Counter[str] = field(default_factory=Counter)
    warnings: list[str] = field(default_factory=list)


def scan(root: Path, kind: FileKind, need_train: bool = True) -> Scan:
    """Find every file of a kind below root by split and class.

    Args:
        root: the given folder.
        kind: of the files.
        need_train: refuse splits without a train folder.

    Raises:
        DataError: folders are ambiguous or missing.
    """
    layout = find_layout(root, kind)
    found = Scan(kind, layout.root, {}, layout.notes)
    if not layout.splits:
        found.splits[ALL] = _classes_in(layout.root, found)
        _find_split_like_classes(layout.root, found)
        return found
    if need_train and "train" not in layout.splits:
        names = [printable(path.name) for path in layout.splits.values()]
        raise DataError(f"data.root={printable(layout.root)} holds {listed(sorted(names))} and no train.")
    for which in SPLITS:
        if which in layout.splits:
            found.splits[which] = _classes_in(_inner(layout.splits[which], which, kind, found.notes), found)
    if need_train:
        train = found.splits["train"].keys()
        for which, classes in found.splits.items():
            if classes.keys() != train:
                here, there = classes.keys() - train, train - classes.keys()
                raise DataError(
                    f"data.root={printable(layout.root)}: train and {which} must have the same classes; "
                    f"only in train: {listed(sorted(there))}; only in {which}: {listed(sorted(here))}."
                    f"{differing_in_case(here, there)}"
                )
    return found


def find_layout(root: Path, kind: FileKind, depth: int = 4) -> Layout:
    """Find the splits in root, or in the single folder inside it; none if root holds the classes.

    Args:
        root: the given folder.
        kind: of the files.
        depth: single folders in each other that are searched.
    """
    folders = subfolders(root)
    splits = _splits_among(root, folders)
    if splits:
        return Layout(root, splits, _notes_beside(root, splits, folders, kind))
    # Archives often unpack to a folder in a folder; `depth` ends the search in a chain of them.
    # a file of the kind beside the single folder is a sign that root itself is meant
    if len(folders) == 1 and depth and not _loose(root, kind) and subfolders(folders[0]):
        inner = find_layout(folders[0], kind, depth - 1)
        # a folder such as ROOT/images/CLASS or ROOT/pets/pets/CLASS
        wraps = named_as(folders[0].name) == (None, ()) or folders[0].name.lower() == root.name.lower()
        if inner.splits or inner.root != folders[0] or wraps:
            note = f"reading {printable(inner.root)}, the only folder in {printable(root)}"
            return Layout(
                inner.root, inner.splits, [note, *(line for line in inner.notes if "only folder" not in line)]
            )
    return Layout(root, {}, [_loose_note(root, kind)] * bool(_loose(root, kind) and folders))


def _splits_among(root: Path, folders: Sequence[Path]) -> dict[str, Path]:
    """Return the folders whose names mean splits; {} if they are classes. Raises DataError if both are possible."""
    by_split: dict[str, list[Path]] = {}
    for path in folders:
        if which := _split_named(path.name):
            by_split.setdefault(which, []).append(path)
    others = [path for path in folders if not _split_named(path.name)]
    # Only without a plain `train`: beside it, asl_train is another dataset.
    if "train" not in by_split and (prefixed := _with_one_prefix(others)):
        by_split = prefixed
        others = [path for path in others if not any(path in paths for paths in prefixed.values())]
    if not by_split:
        return {}
    holds_folders = any(subfolders(path) for path in by_split.get("train", []))
    if others and not holds_folders:
        # Names of splits and others side by side: both readings are possible if several splits are named, or if some
        # of the others hold the same folders.
        named = [path for paths in by_split.values() for path in paths]
        inside = {name for path in named for name in _names_in(path)}
        if (alike := [path for path in others if inside & _names_in(path)]) or len(by_split) > 1:
            raise DataError(
                f"data.root={printable(root)} holds {_names(named)}, named like splits, beside "
                f"{_names(alike or others)}: which are splits, which are classes? Splits are "
                "train/CLASS, val/CLASS and test/CLASS; give another name to a class, and move out what is neither."
            )
        return {}  # 'train' is a class next to bus and car
    for which, paths in by_split.items():
        if len(paths) > 1:
            raise DataError(f"data.root={printable(root)} holds {_names(paths)}: which is {which}? Keep one.")
    return {which: by_split[which][0] for which in SPLITS if which in by_split}


def _with_one_prefix(folders: Sequence[Path]) -> dict[str, list[Path]]:
    """Find splits that share their other words (asl_alphabet_train, asl_alphabet_test); {} without a train folder."""
    by_words: dict[tuple[str, ...], dict[str, list[Path]]] = {}
    for path in folders:
        which, others = named_as(path.name)
        if which:
            by_words.setdefault(others, {}).setdefault(which, []).append(path)
    # one prefix only: of two pairs of train and test, neither can be chosen
    whole = [found for found in by_words.values() if "train" in found and len(found) > 1]
    return whole[0] if len(whole) == 1 else {}


def _notes_beside(root: Path, splits: Mapping[str, Path], folders: Sequence[Path], kind: FileKind) -> list[str]:
    """Note folders with files next to the splits. Raises DataError for one with the same classes as a split."""
    classes = {name for which, path in splits.items() for name in _names_in(_inner(path, which, kind, []))}
    notes = []
    for path in folders:
        count = len(walk(path, kind)[0]) if path not in splits.values() else 0
        if not count:
            continue
        if shared := _names_in(path) & classes:
            raise DataError(
                f"data.root={printable(root)}: '{printable(path.name)}' ({count} {kind.noun}s) holds class folders "
                f"({listed(sorted(shared), 3)}) like {_names(splits.values())}, but its name "
                "is that of no split. Name it train, val or test, or move it out."
            )
        notes.append(f"passed over '{printable(path.name)}' ({count} {kind.noun}s): its name is that of no split")
    if _loose(root, kind):
        notes.append(_loose_note(root, kind))
    return notes


def _inner(folder: Path, which: str, kind: FileKind, notes: list[str]) -> Path:
    """Return the folder of a split's classes: a single inner folder such as seg_train/seg_train or train/images."""
    here = folder
    # Only while names allow it: in train/cats alone, cats is a class.
    while not _loose(here, kind) and len(inside := subfolders(here)) == 1 and subfolders(inside[0]):
        name, others = named_as(inside[0].name)
        if others or name not in (which, None):
            break
        here = inside[0]
    if here != folder:
        notes.append(f"reading {which} from {printable(here)}")
    return here


def _names(folders: Iterable[Path]) -> str:
    return listed(printable(path.name) for path in folders)


def _names_in(folder: Path) -> set[str]:
    # in lower case: Cats in one folder and cats in another are meant to be one class
    return {printable(path.name).lower() for path in subfolders(folder)}


def _loose(folder: Path, kind: FileKind) -> int:
    """Return the number of files directly in the folder, which have no class there."""
    return sum(kind.holds(entry.name) and not is_folder(entry) for entry in visible(folder))


def _loose_note(folder: Path, kind: FileKind) -> str:
    return f"{_loose(folder, kind)} {kind.noun}s right in {printable(folder)} have no class: passed over"


def _classes_in(folder: Path, found: Scan) -> ClassFiles:
    """Return {printable class name: its files}, both sorted."""
    folders, kind = subfolders(folder), found.kind
    if not folders:
        raise DataError(
            f"{printable(folder)} holds no class folders ({_loose(folder, kind)} {kind.noun}s without a class). "
            f"Put each class's {kind.noun}s into {printable(folder)}/CLASS/."
        )
    # printable names are the classes' names everywhere: in records, reports and messages
    walked = {printable(path.name): walk(path, kind) for path in folders}
    if empty := [name for name, (files, _) in walked.items() if not files]:
        there = sum((walked[name][1] for name in empty), Counter[str]())
        holding = f"; they hold {counted(there)}" if there else ""
        suffixes = ", ".join(suffix or "no suffix" for suffix in kind.suffixes)
        raise DataError(
            f"{printable(folder)} holds {len(empty)} class folders without {article(kind.noun)} {kind.noun} "
            f"({suffixes}): {listed(empty)}{holding}. Fill, convert or remove them."
        )
    # counted only now: an error above already names the files of its classes
    for _, skipped in walked.values():
        found.skipped.update(skipped)
    if _loose(folder, kind) and not any(f"right in {printable(folder)} " in note for note in found.notes):
        found.notes.append(_loose_note(folder, kind))
    return {name: files for name, (files, _) in walked.items()}


def _find_split_like_classes(root: Path, found: Scan) -> None:
    """Warn of folders that all hold the same folders: they may be splits with unknown names, or contain the splits."""
    inside = [_names_in(path) for path in subfolders(root)]
    shared = set.intersection(*inside) if len(inside) > 1 else set()
    # ROOT/CLASS/train: reading it as classes would mix train and test
    if len(shared) > 1 and {_split_named(name) for name in shared} >= {"train"} and all(map(_split_named, shared)):
        raise DataError(
            f"data.root={printable(root)}: its folders {listed(found.splits[ALL])} hold the splits "
            f"{listed(sorted(shared))}, which would be mixed. Put the splits outside: train/CLASS, val/CLASS, "
            "test/CLASS."
        )
    # A warning and no error: classes may well hold the same folders, such as front/ and back/.
    if len(shared) > 1 and not any(_loose(path, found.kind) for path in subfolders(root)):
        found.warnings.append(
            f"the class folders {listed(found.splits[ALL])} all hold the folders {listed(sorted(shared))}; "
            "if these are the classes, name the outer folders train, val and test"
        )


def differing_in_case(names: Iterable[str], others: Iterable[str]) -> str:
    """Return a sentence about names that differ only in upper and lower case; '' if there are none."""
    # casefold and strip: a difference that nobody sees in a list of names
    by_fold = {other.casefold().strip(): other for other in others}
    pairs = [(name, by_fold[name.casefold().strip()]) for name in sorted(names) if name.casefold().strip() in by_fold]
    if not pairs:
        return ""
    shown = ", ".join(f"'{one}' and '{other}'" for one, other in pairs[:3])
    return f" {shown} differ in case alone: rename one of them."


def findings(found: Scan) -> list[str]:
    """Return lines about what was passed over, skipped or read in another place."""
    if not found.skipped:
        return found.notes
    suffixes = " ".join(suffix or "no suffix" for suffix in found.kind.suffixes)
    return [
        *found.notes,
        f"skipped {sum(found.skipped.values())} files that are no {found.kind.noun}s by their suffix: "
        f"{counted(found.skipped)} (read are {suffixes})",
    ]


def listed(names: Iterable[str], at_most: int = 5) -> str:
    every = [f"'{name}'" for name in names]
    more = f" and {len(every) - at_most} more" if len(every) > at_most else ""
    return (", ".join(every[:at_most]) + more) or "none"


def counted(skipped: Mapping[str, int], at_most: int = 6) -> str:
    """Return '7 .heic, 2 .txt', the most frequent first."""
    order = sorted(skipped.items(), key=lambda item: (-item[1], item[0]))
    parts = [f"{count} {suffix or 'without a suffix'}" for suffix, count in order[:at_most]]
    rest = sum(count for _, count in order[at_most:])
    return ", ".join([*parts, *([f"{rest} others"] if rest else [])])
