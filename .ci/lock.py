"""Writes requirements.lock: every distribution that effbench and its tests need, pinned, with the sha256 of its files.

    .venv/bin/python .ci/lock.py

The versions are those of the environment this runs in, which is the one the tests passed in; what is missing there is
resolved afresh. For the Python and the platform that it runs on. It installs nothing. Install from it with

    pip install --require-hashes -r requirements.lock && pip install --no-deps -e .

Why a lock and not an audit in CI: pip-audit asks PyPI's or OSV's service for each package and knows no offline source
of advisories (its --vulnerability-service is pypi or osv), and CI has no network. Where there is one:

    pip install pip-audit && pip-audit --require-hashes -r requirements.lock
"""

from __future__ import annotations

import importlib.metadata
import json
import platform
import re
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LOCK = ROOT / "requirements.lock"


def requirements(project: dict, extra: str) -> list[str]:
    """The project's own requirements and those of `extra`, its references to the project's other extras followed."""
    found = list(project["dependencies"])
    waiting, seen = [extra], set()
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        for line in project["optional-dependencies"][name]:
            own = re.fullmatch(rf"{re.escape(project['name'])}\[([\w,.-]+)\]", line)
            if own:
                waiting += own[1].split(",")
            else:
                found.append(line)
    return found


def installed() -> list[str]:
    """name==version of what this environment holds, for pip to keep to; local builds ('+cpu') are in no index."""
    pins = {
        f"{distribution.metadata['Name']}=={distribution.version}"
        for distribution in importlib.metadata.distributions()
        if "+" not in distribution.version
    }
    return sorted(pins)


def resolved(wanted: list[str]) -> list[dict]:
    """pip's report of what it would install."""
    with tempfile.TemporaryDirectory() as folder:
        report, constraints = Path(folder) / "report.json", Path(folder) / "installed.txt"
        constraints.write_text("\n".join(installed()) + "\n")
        command = [
            sys.executable, "-m", "pip", "install", "--dry-run", "--ignore-installed", "--quiet",
            "--constraint", str(constraints), "--report", str(report), *wanted,
        ]  # fmt: skip
        subprocess.run(command, check=True)
        return json.loads(report.read_text())["install"]


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def lines(items: list[dict]) -> list[str]:
    pinned = {}
    for item in items:
        sha256 = item["download_info"]["archive_info"]["hashes"]["sha256"]
        name, version = normal(item["metadata"]["name"]), item["metadata"]["version"]
        pinned[name] = f"{name}=={version} \\\n    --hash=sha256:{sha256}"
    return [pinned[name] for name in sorted(pinned)]


def main() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    pinned = lines(resolved(requirements(project, "dev")))
    where = f"Python {sys.version_info[0]}.{sys.version_info[1]}, {platform.system()} {platform.machine()}"
    head = [
        f"# effbench and its dev extra, for {where}: {len(pinned)} distributions.",
        "# Made by .ci/lock.py; do not edit. pip install --require-hashes -r requirements.lock",
    ]
    LOCK.write_text("\n".join([*head, *pinned]) + "\n")
    print(f"{LOCK.name}: {len(pinned)} distributions")


if __name__ == "__main__":
    main()
