"""study.json: the plan of a study as it was before its first run. A study whose plan has changed is another study."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from effbench.config.compare import leaves
from effbench.config.versions import SCHEMA as CONFIG_SCHEMA
from effbench.errors import ConfigError
from effbench.guarded import MissingFileError, read_text
from effbench.records import STUDY_FILE, require_writable, write_text
from effbench.study.plan import FOLDER, RUNS, StudyPlan, compared, digest_of
from effbench.study.table import Arm, StudyRules

SCHEMA = 1
MOST_BYTES = 50_000_000  # of study.json: 500 arms; a folder may come from anyone, and JSON takes memory
# What older study.json files lack, as it was then: a rule or key that is added to the plan is added here, too.
_RULES_BEFORE = {"meaningful": 0.75, "tuning": 0.95, "budgets": [1, 2, 5, 10], "target_per_model": False}
_KEYS_BEFORE = {"keys.sampler": "qmc"}


def freeze(plan: StudyPlan) -> StudyPlan:
    """Write study.json, or check that the folder's study.json holds this very plan.

    Returns:
        The plan, with the digest and the rules of study.json: an older effbench may have written it, whose defaults
        were others.

    Raises:
        ConfigError: the folder holds another study, a damaged study.json, or one of a newer version; or runs without
            a study.json.
    """
    path = plan.folder / STUDY_FILE
    if path.exists():
        content = read_frozen(path)
        rules = frozen_rules(path, content)
        _check_same(path, content, plan)
        return replace(plan, frozen=(content["digest"], rules))
    refuse_strangers(plan)
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
    return replace(plan, frozen=(plan.digest, plan.rules))


def refuse_strangers(plan: StudyPlan) -> None:
    """Refuse a folder with runs and without a study.json. A new study would take them for its own, whatever their
    settings were.

    Raises:
        ConfigError: it is such a folder.
    """
    runs = plan.folder / RUNS
    if not (plan.folder / STUDY_FILE).exists() and runs.is_dir() and any(runs.iterdir()):
        raise ConfigError(
            f"{runs} holds runs, and there is no {STUDY_FILE} that says of which study. Restore that file, move the "
            f"runs away, or name another folder with {FOLDER}."
        )


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


def frozen_rules(path: Path, content: Mapping[str, Any]) -> StudyRules:
    """Return the rules by which the study of a study.json is judged.

    Args:
        path: of study.json, for messages.
        content: of it.

    Raises:
        ConfigError: a rule is missing, wrong, or unknown to this effbench.
    """
    try:
        keys = content["study"]["keys"]
        own = {key: keys[key] for key in ("alpha", "relevant_difference", "power", "seed")}
        rules = {**_RULES_BEFORE, **own, "confidence": 1 - keys["alpha"], **content["study"].get("rules", {})}
        # pydantic would fill in the default of now, and leave a rule of a newer effbench out
        missing = [name for name in StudyRules.__dataclass_fields__ if name not in rules]
        unknown = [name for name in rules if name not in StudyRules.__dataclass_fields__]
        if missing or unknown:
            raise ValueError(f"rules: missing {missing}, unknown {unknown}")
        return TypeAdapter(StudyRules).validate_python(rules)
    except (ValidationError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(
            f"{path}: the rules of the study cannot be read ({' '.join(str(error).split())}). Read it with effbench "
            f"{content.get('effbench')}, which wrote it."
        ) from error


def _check_same(path: Path, content: Mapping[str, Any], plan: StudyPlan) -> None:
    try:
        changed = differences(content, plan)
    except (KeyError, IndexError, TypeError, AttributeError) as error:  # its digest fits, but it is no plan
        raise ConfigError(
            f"{path} is damaged ({error!r}). Restore it, or start the study in another {FOLDER}."
        ) from error
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

    Keys that the config has got since then are not counted: they have the defaults with which older runs were made. The
    rules are not, either: what the user can set of them is among the keys, and a study keeps the rest as it was.
    """
    before, now = {**_KEYS_BEFORE, **leaves(_with_pairs(content["study"]))}, leaves(plan.record())
    keys = [key for key in dict.fromkeys([*before, *now]) if before.get(key) != now.get(key)]
    keys = [key for key in keys if not key.startswith("rules.")]
    if content.get("config_schema_version", CONFIG_SCHEMA) < CONFIG_SCHEMA:
        # a key that the older effbench did not have: only within .config., where it has a default
        keys = [key for key in keys if key in before or ".config." not in key]
    if "rules" not in content["study"]:
        keys = [key for key in keys if key in before or ".config.device." not in key]
    if set(content["study"]["arms"]) != {arm.name for arm in plan.arms}:  # from which the others follow
        keys = [key for key in keys if key not in ("baseline", "pairs")]
    return [f"{key}: {before.get(key)} there, {now.get(key)} asked for" for key in keys]


def _with_pairs(study: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return what is frozen of a study with its baseline and pairs; in older files they follow from the order of the
    arms, which a file keeps and its digest does not cover."""
    if "pairs" in study:
        return study
    arms = [Arm(name, each.get("model"), each.get("optimizer")) for name, each in study["arms"].items()]
    baseline = study["keys"].get("baseline") or arms[0].name
    return {**study, "baseline": baseline, "pairs": compared(arms, study["keys"]["compare"], baseline)}
