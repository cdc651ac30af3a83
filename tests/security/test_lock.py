"""requirements.lock: every distribution that effbench and its tests need, pinned, with the digest of its file."""

from __future__ import annotations

import importlib.metadata
import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

pytestmark = pytest.mark.row(49)

ROOT = Path(__file__).resolve().parents[2]
LOCK = ROOT / "requirements.lock"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
BEYOND_THE_LOCK = ("benchmarks", "frameworks")  # extras that dev does not hold


def locked() -> dict[str, tuple[str, list[str]]]:
    """{normalised name: (version, sha256 digests)}."""
    found: dict[str, tuple[str, list[str]]] = {}
    name = ""
    for line in LOCK.read_text().splitlines():
        if line.startswith("#"):
            continue
        if pinned := re.fullmatch(r"([a-z0-9-]+)==(\S+) \\", line):
            name = pinned[1]
            assert name not in found, f"{name} is there twice"
            found[name] = (pinned[2], [])
        else:
            digest = re.fullmatch(r"    --hash=sha256:([0-9a-f]{64})(?: \\)?", line)
            assert digest, f"requirements.lock: {line!r} is neither a pin nor a digest"
            found[name][1].append(digest[1])
    return found


def applies(requirement: Requirement, extra: str = "") -> bool:
    return requirement.marker is None or requirement.marker.evaluate({"extra": extra})


def required() -> list[Requirement]:
    """What pyproject.toml asks for in the dependencies and in dev, references to its own extras followed."""
    lines = list(PROJECT["dependencies"])
    waiting, seen = ["dev"], set()
    while waiting:
        extra = waiting.pop()
        if extra in seen:
            continue
        seen.add(extra)
        for line in PROJECT["optional-dependencies"][extra]:
            requirement = Requirement(line)
            if canonicalize_name(requirement.name) == PROJECT["name"]:
                waiting += sorted(requirement.extras)
            else:
                lines.append(line)
    return [requirement for requirement in map(Requirement, lines) if applies(requirement)]


def closure() -> set[str]:
    """The names of what is installed here of that, and of what it needs in turn.

    Only what has the locked version is followed: a later one, which pyproject.toml allows, may need other things.
    """
    pins = locked()
    found: set[str] = set()
    waiting = [(canonicalize_name(item.name), extra) for item in required() for extra in ("", *item.extras)]
    seen = set()
    while waiting:
        name, extra = waiting.pop()
        if (name, extra) in seen:
            continue
        seen.add((name, extra))
        try:
            distribution = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:
            continue  # an extra that is not installed here
        found.add(name)
        if name in pins and pins[name][0] != distribution.version:
            continue
        for line in distribution.requires or []:
            item = Requirement(line)
            if applies(item, extra):
                waiting += [(canonicalize_name(item.name), inner) for inner in ("", *item.extras)]
    return found


@pytest.mark.parametrize("requirement", required(), ids=str)
def test_each_requirement_is_pinned_within_the_pyproject_range(requirement: Requirement) -> None:
    version, digests = locked()[canonicalize_name(requirement.name)]
    assert requirement.specifier.contains(version, prereleases=True)
    assert digests


@pytest.mark.slow
def test_all_that_is_installed_of_it_is_pinned_with_a_digest() -> None:
    pins = locked()
    names = closure()
    assert len(names) > 20
    assert sorted(names - set(pins)) == []
    assert all(pins[name][1] for name in names)


@pytest.mark.slow
def test_pinned_versions_satisfy_each_other() -> None:
    """Each installed distribution's own requirements, against the pins."""
    pins = locked()
    for name in closure():
        distribution = importlib.metadata.distribution(name)
        for line in (distribution.requires or []) if distribution.version == pins[name][0] else []:
            item = Requirement(line)
            if applies(item) and (pin := pins.get(canonicalize_name(item.name))):
                assert item.specifier.contains(pin[0], prereleases=True), f"{name} needs {item}; locked {pin[0]}"


def test_the_lock_names_no_index_and_no_folder() -> None:
    for path in (LOCK, ROOT / ".ci" / "lock.py"):
        text = path.read_text()
        assert not re.search(r"https?://|file:|--(?:extra-)?index-url|--find-links|/opt/|/etc/|/root", text), path


def test_every_extra_is_locked_or_known_not_to_be() -> None:
    names = {canonicalize_name(item.name) for item in required()}
    for extra, lines in PROJECT["optional-dependencies"].items():
        if extra in BEYOND_THE_LOCK:
            continue
        wanted = {canonicalize_name(Requirement(line).name) for line in lines} - {PROJECT["name"]}
        assert wanted <= names, f"extra {extra}: {sorted(wanted - names)}"
