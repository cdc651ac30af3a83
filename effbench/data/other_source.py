"""Datasets that read one split of another place than the run's, as it is, for `effbench eval`."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from effbench.cache_dir import expanded
from effbench.data.folder_layout import SPLITS
from effbench.data.splits import Split
from effbench.errors import ConfigError, shown, unknown_name

# (options of the run's data section, options of eval, `data` of the run's summary, name of a split or '')
# -> (name, split), or None if the options name the run's own data
Reader = Callable[[Mapping[str, Any], Mapping[str, Any], Mapping[str, Any], str], tuple[str, Split] | None]
Function = TypeVar("Function", bound=Reader)

_READERS: dict[Callable[..., Any], Reader] = {}


def reads_other_source(dataset: Callable[..., Any]) -> Callable[[Function], Function]:
    """Declare how a dataset's function reads data of another place for evaluation: a decorator of the reader.

    Without it `effbench eval` reads and divides other data as in training. See `effbench.data.images.image_folder`.

    Args:
        dataset: the dataset's function.
    """

    def declare(reader: Function) -> Function:
        _READERS[dataset] = reader
        return reader

    return declare


def keep_options(before: Mapping[str, Any], now: Mapping[str, Any], names: Sequence[str]) -> None:
    """Refuse another value of options that the trained model fixes, and that the reader would ignore.

    Args:
        before: options of the run.
        now: options of eval.
        names: of the fixed ones.

    Raises:
        ConfigError: names the option with both values.
    """
    for name in names:
        if name in now and now[name] != before.get(name, now[name]):
            raise ConfigError(
                f"data.{name} must stay as in training, {shown(before[name])}; got {shown(now[name])}. Other data are "
                "read as the run's were. Leave it out."
            )


def check_split(which: str) -> None:
    """Refuse a name that no split has, before another source is read. '' is the reader's choice. Raises ConfigError."""
    if which not in ("", *SPLITS):
        raise ConfigError(unknown_name("split", which, SPLITS))


def measured_whole(which: str, remedy: str = "") -> str:
    """Return 'test', the name of data.file, another file than the run's, which has no splits. Raises ConfigError.

    Args:
        which: split that was asked for; '' for none.
        remedy: what to write for another split than test, if there is a way.
    """
    if which not in ("", "test"):  # the run's split names mean nothing in it
        raise ConfigError(
            f"data.file is another file than the run's, without splits: it is measured whole. Leave out split={which}"
            f"{remedy and ', or '}{remedy}."
        )
    return "test"


def same_place(before: object, now: object) -> bool:
    """Return True if two path options lead to the same place, such as a.csv, ./a.csv and a link to it."""
    if not (isinstance(before, str) and isinstance(now, str) and before and now):
        return (before or None) == (now or None)
    return os.path.realpath(expanded(before)) == os.path.realpath(expanded(now))


def other_source_reader(dataset: Callable[..., Any]) -> Reader | None:
    return _READERS.get(dataset)
