"""A config key that is added, renamed or removed needs a new SCHEMA.

keys/SCHEMA.txt lists the keys of that SCHEMA.
"""

from __future__ import annotations

from pathlib import Path

from effbench.config import static_compose as static
from effbench.config.paths import conf_dir
from effbench.config.versions import SCHEMA

LISTS = Path(__file__).parent / "keys"
NO_SECTIONS = ("debug", static.GROUP)  # they set other groups' keys

REMEDY = f"""
effbench/config/versions.py: SCHEMA = {SCHEMA + 1}. Then `python -m tests.config.test_schema_keys` writes the list
tests/config/keys/{SCHEMA + 1}.txt. The list of an older SCHEMA never changes: records of that version hold its keys."""


def listed(schema: int) -> dict[str, list[str]]:
    """Return GROUP/CHOICE -> its target ("-": none) and keys, as a list of that SCHEMA has them."""
    lines = (LISTS / f"{schema}.txt").read_text().splitlines()
    return {line.split()[0]: line.split()[1:] for line in lines}


def keys_now() -> dict[str, list[str]]:
    """Return the same for conf/."""
    parts = {
        f"{group}/{name}": part
        for group in static.group_options()
        if group not in NO_SECTIONS
        for name, part in static.members(group).items()
    }
    root = static.read(conf_dir() / f"{static.ROOT}.yaml")
    parts[static.ROOT] = {key: value for key, value in root.items() if key not in ("defaults", "hydra")}
    return {
        place: [str(part.get("_target_", "-")), *sorted(static.all_keys(part) - {"_target_"})]
        for place, part in sorted(parts.items())
    }


def test_each_change_of_config_keys_has_a_new_schema() -> None:
    now, then = keys_now(), listed(SCHEMA)
    # A choice that is new has no older records: it is listed with the next SCHEMA.
    changed = {place: (then[place], now.get(place)) for place in then if then[place] != now.get(place)}
    assert not changed, REMEDY
    groups = {place.partition("/")[0] for place in now} - {place.partition("/")[0] for place in then}
    assert not groups, f"New groups: {groups}. {REMEDY}"


def test_each_schema_that_has_a_list_differs_from_the_one_before() -> None:
    lists = {int(path.stem): listed(int(path.stem)) for path in LISTS.glob("*.txt")}
    assert max(lists) == SCHEMA
    assert all(lists[schema] != lists[schema - 1] for schema in lists if schema - 1 in lists)


if __name__ == "__main__":
    text = "\n".join(" ".join([place, *keys]) for place, keys in keys_now().items())
    with (LISTS / f"{SCHEMA}.txt").open("x") as file:
        file.write(text + "\n")
