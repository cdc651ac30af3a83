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

# Keys that apply to one session only. allow_targets is among them so that no folder can widen the allowlist.
EPHEMERAL = ("resume", "allow_targets", "hydra")
# Consent to one change of the data: the next one must be refused again.
EPHEMERAL_KEYS = ("checkpoint.allow_changed_data",)
# KEY, KEY=VALUE, +KEY=VALUE, ++KEY=VALUE and ~KEY; not `group@package=...`, which writes to another section
_RECORDED = re.compile(r"(?:\+\+|\+|~)?(?P<key>[A-Za-z_$][\w.$/-]*)(?:=.*)?", re.ASCII | re.DOTALL)
LONGEST_RECORDED = 100_000  # characters of all words: Hydra parses 20,000 a second


def override_key(word: str) -> str:
    """Return the key of an override: 'optimizer.lr' for '+optimizer.lr=3e-4'."""
    return word.partition("=")[0].lstrip("+~")


def is_ephemeral(word: str) -> bool:
    """Return True if an override applies to one session only: resume, allow_targets, hydra.*, ..."""
    key = override_key(word)
    return key in EPHEMERAL_KEYS or re.split("[./@]", key)[0] in EPHEMERAL


def lasting(words: Iterable[str]) -> list[str]:
    """Return the overrides that define the experiment, without those of one session (`is_ephemeral`)."""
    return [as_meant(word) for word in words if not is_ephemeral(word)]


def recorded(words: Sequence[str], where: str) -> list[str]:
    """Check overrides from the record of a run or sweep, and drop those of one session.

    Args:
        words: the recorded overrides.
        where: path of the record, for messages.

    Returns:
        The lasting overrides.

    Raises:
        ConfigError: a word is not of the form KEY=VALUE. A record may come from an untrusted source; other forms
            (`group@package=...`) could write a file outside the run's folder.
    """
    # Before Hydra parses them: a record of a gigabyte would keep it busy for hours.
    if sum(map(len, words)) > LONGEST_RECORDED:
        raise ConfigError(f"{where} holds more than {LONGEST_RECORDED} characters of overrides.")
    for word in words:
        if _RECORDED.fullmatch(word) is None:
            raise ConfigError(
                f"{where} holds the override {word[:200]!r}, which is not read from a record: it may hold only "
                "KEY=VALUE. Start a new run with the overrides that you want."
            )
    return [word for word in words if not is_ephemeral(word)]


def recorded_overrides(folder: Path) -> list[str] | None:
    """Return the overrides that a run was started with; None if the folder holds no run.

    They are derived from config.yaml if the run was started in Python.
    """
    path = folder / ".hydra" / "overrides.yaml"
    try:
        words = parse_yaml(read_text(path), str(path), recorded=True)
    except MissingFileError:  # the run was started in Python
        path = folder / "config.yaml"
        if not path.is_file():
            return None
        from effbench.config.as_overrides import words_for
        from effbench.run.load import recorded_config

        return recorded(words_for(recorded_config(folder)), str(path))
    if not isinstance(words or [], list):
        raise ConfigError(f"{path} is not a list of overrides.")
    return [as_meant(word) for word in recorded([str(word) for word in words or []], str(path))]


def words_of_older(folder: Path) -> dict[str, str]:
    """Return key -> override by which a run of an older effbench goes on as it was begun; {} for one of this version.

    Its words are composed with today's defaults, and some of these would change what it computes.
    """
    from effbench.config.versions import before, version_of
    from effbench.config.yaml_text import read_record

    path = folder / "config.yaml"
    if not path.is_file():
        return {}
    content = read_record(path)
    version = version_of(content, str(path))
    found = {
        f"{section}.{key}": value
        for section, part in content.items()
        if isinstance(part, dict)
        for key, value in before(part.get("_target_"), version).items()
        if key not in part
    }
    return {key: f"++{key}={str(value).lower()}" for key, value in found.items()}


def merge_overrides(earlier: Sequence[str], now: Sequence[str]) -> list[str]:
    """Join two lists of overrides; those given now replace earlier ones with the same key."""
    keys = {override_key(word) for word in now}
    # A key that +KEY=VALUE added is known only through that word. Not a group (no dot): Hydra refuses ++GROUP=CHOICE.
    added = {override_key(word) for word in earlier if word.startswith("+") and "." in override_key(word)}
    words = [f"++{word}" if word[:1] not in ("+", "~") and override_key(word) in added else word for word in now]
    return [*(word for word in earlier if override_key(word) not in keys), *words]


def resume_command(words: Sequence[str], config_dir: str | None, allow_targets: Sequence[str]) -> str:
    """Return the shell command that resumes a run or a sweep.

    Args:
        words: overrides.
        config_dir: value of --config-dir.
        allow_targets: modules to allow. A run's folder does not record them, so the command must.

    Returns:
        The command line with shell quoting.
    """
    folder = ["--config-dir", config_dir] if config_dir else []
    allowed = [f"allow_targets=[{','.join(allow_targets)}]"] if allow_targets else []
    return shlex.join(["effbench", "train", *words, *folder, *allowed])
