"""study.json: the plan of a study as it was before its first run. A study whose plan has changed is another study."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from effbench.config.compare import leaves
from effbench.config.versions import SCHEMA as CONFIG_SCHEMA
from effbench.errors import ConfigError
from effbench.guarded import MissingFileError, read_text
from effbench.records import require_writable, write_text
from effbench.study.plan import FOLDER, StudyPlan, digest_of

NAME = "study.json"
SCHEMA = 1
MOST_BYTES = 50_000_000  # of study.json: 500 arms; a folder may come from anyone, and JSON takes memory


def freeze(plan: StudyPlan) -> None:
    """Write study.json, or check that the folder's study.json holds this very plan.

    Raises:
        ConfigError: the folder holds another study, a damaged study.json, or one of a newer version.
    """
    path = plan.folder / NAME
    if path.exists():
        _check_same(path, read_frozen(path), plan)
        return
    # before the first trial, because a plan that is changed afterwards proves nothing
    require_writable(plan.folder, FOLDER)
    content = {
        "schema_version": SCHEMA,
        "name": plan.name,
        "digest": plan.digest,
        "created": f"{datetime.now().astimezone():%Y-%m-%d %H:%M:%S%z}",
        "effbench": version("effbench"),
        "config_schema_version": CONFIG_SCHEMA,
        "study": plan.record(),
    }
    write_text(path, json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def read_frozen(path: Path) -> dict[str, Any]:
    """Return the content of a study.json.

    Raises:
        ConfigError: it is damaged, or a newer effbench wrote it.
    """
    try:
        content = json.loads(read_text(path, MOST_BYTES))
        found = content["schema_version"]
        # before the digest: a newer version may compute it otherwise
        if isinstance(found, int) and found > SCHEMA:
            raise ConfigError(
                f"{path} has schema_version {found}, and this effbench reads up to {SCHEMA}: effbench "
                f"{content.get('effbench')} wrote it. Install that version or a later one (pip install -U effbench)."
            )
        if found != SCHEMA or digest_of(content["study"]) != content["digest"]:
            raise ValueError("its digest is not that of its content")
    except MissingFileError:
        raise
    except (ValueError, KeyError, TypeError, RecursionError) as error:  # whatever a damaged or hostile file gives
        raise ConfigError(
            f"{path} is damaged ({error}). Restore it, or start the study in another {FOLDER}."
        ) from error
    return dict(content)


def _check_same(path: Path, content: Mapping[str, Any], plan: StudyPlan) -> None:
    changed = differences(content, plan)
    if content["name"] != plan.name:
        changed.insert(0, f"name: {content['name']} there, {plan.name} asked for")
    if changed:
        # 20 lines fit a screen; one changed default of a group is a line for each arm
        shown = "\n".join(f"  {line}" for line in changed[:20])
        more = f"\n  and {len(changed) - 20} more" if len(changed) > 20 else ""
        raise ConfigError(
            f"{path.parent} holds another study. Changed:\n{shown}{more}\nA changed study is another study: give it "
            f"its own folder with {FOLDER}, or go on with the old one by its own words."
        )


def differences(content: Mapping[str, Any], plan: StudyPlan) -> list[str]:
    """Return one line for each value in which a frozen study differs from a plan.

    Keys that the config has got since then are not counted: they have the defaults with which older runs were made.
    """
    before, now = leaves(content["study"]), leaves(plan.record())
    older = content.get("config_schema_version", CONFIG_SCHEMA) < CONFIG_SCHEMA
    keys = [key for key in dict.fromkeys([*before, *now]) if before.get(key) != now.get(key)]
    if older:
        # a key that the older effbench did not have: only within .config., where it has a default
        keys = [key for key in keys if key in before or ".config." not in key]
    return [f"{key}: {before.get(key)} there, {now.get(key)} asked for" for key in keys]
