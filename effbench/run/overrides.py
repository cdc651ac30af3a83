"""The overrides that a run is started and resumed with."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Sequence
from pathlib import Path

from effbench.config.words import as_meant
from effbench.config.yaml_text import parse_yaml
from effbench.errors import ConfigError
from effbench.guarded import MissingFileError, read_text

EPHEMERAL = ("resume", "allow_targets", "hydra")  # keys of one session


_RECORDED = re.compile(r"(?:\+\+|\+|~)?(?P<key>[A-Za-z_$][\w.$/-]*)(?:=.*)?", re.ASCII | re.DOTALL)
LONGEST_RECORDED = 100_000  # characters of all words: Hydra takes a second to read 20,000


def override_key(word: str) -> str:
    """'optimizer.lr' of '+optimizer.lr=3e-4'."""
    return word.partition("=")[0].lstrip("+~")


def is_ephemeral(word: str) -> bool:
    """Whether an override belongs to one session: paths, and allow_targets, which is never read from a run folder."""
    return re.split("[./@]", override_key(word))[0] in EPHEMERAL


def lasting(words: Iterable[str]) -> list[str]:
    """What tells runs apart: not where they lie, nor what may be built, which is not for a run's folder to say."""
    return [as_meant(word) for word in words if not is_ephemeral(word)]


def recorded(words: Sequence[str], where: str) -> list[str]:
    """Words read from a run's or a sweep's record, without those of one session. Raises ConfigError for what no record
    may say: a stranger's could put a file in another place by it (`group@package=...`).
    """
    if sum(map(len, words)) > LONGEST_RECORDED:
        raise ConfigError(f"{where} holds more than {LONGEST_RECORDED} characters of overrides.")
    for word in words:
        if _RECORDED.fullmatch(word) is None:
            raise ConfigError(
                f"{where} holds the override {word[:200]!r}, which is not read from a record: only KEY=VALUE is. "
                "Start a new run with the words that you want."
            )
    return [word for word in words if not is_ephemeral(word)]


def recorded_overrides(folder: Path) -> list[str] | None:
    """What a run was started with; None where the folder holds no run. Of one begun in Python, config.yaml tells it."""
    path = folder / ".hydra" / "overrides.yaml"
    try:
        words = parse_yaml(read_text(path), str(path), recorded=True)
    except MissingFileError:
        return _overrides_of_config(folder)
    if not isinstance(words or [], list):
        raise ConfigError(f"{path} is not a list of overrides.")
    return [as_meant(word) for word in recorded([str(word) for word in words or []], str(path))]


def _overrides_of_config(folder: Path) -> list[str] | None:
    path = folder / "config.yaml"
    if not path.is_file():
        return None
    from effbench.config.as_overrides import words_for
    from effbench.run.load import recorded_config

    return recorded(words_for(recorded_config(folder)), str(path))


def merge_overrides(earlier: Sequence[str], now: Sequence[str]) -> list[str]:
    """The overrides of before and those given now, which stand for earlier ones of the same key."""
    keys = {override_key(word) for word in now}
    return [*(word for word in earlier if override_key(word) not in keys), *now]


def go_on_with(words: Sequence[str], config_dir: str | None, allow_targets: Sequence[str]) -> str:
    """The command line that goes on, as a shell takes it: with what no run's folder may say."""
    folder = ["--config-dir", config_dir] if config_dir else []
    allowed = [f"allow_targets=[{','.join(allow_targets)}]"] if allow_targets else []
    return shlex.join(["effbench", "train", *words, *folder, *allowed])
