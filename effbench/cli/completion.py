"""effbench -sc …: tab completion. Overrides are completed by Hydra, with the verb removed from the line."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from effbench.cli.flags import RECIPE_ACTIONS, VERB_FLAGS, VERBOSITY, WITHOUT_VALUE, flags_of, parse_flags
from effbench.errors import ConfigError

SHELLS = ("bash", "zsh", "fish")
WITH_CONFIG = ("train", "summary")  # verbs whose words are config overrides


def main(words: Sequence[str], verbs: Iterable[str] = ()) -> int:
    """Print completions or install them; return the exit code.

    words: -sc install=SHELL, -sc uninstall=SHELL, or -sc query=SHELL with the line in COMP_LINE.
    """
    request = parse_flags(words, ["completion"]).values["completion"]
    action, _, shell = request.partition("=")
    if action not in ("install", "uninstall", "query") or shell not in SHELLS:
        raise ConfigError(f"-sc takes install=SHELL or uninstall=SHELL, for {', '.join(SHELLS)}; got {request!r}.")
    if action != "query":
        return _hydra(request)

    line = os.environ.get("COMP_LINE", "").lstrip()
    program, _, line = line.partition(" ")
    verb, chosen, rest = line.lstrip().partition(" ")
    # flags may stand before the verb
    while verb in VERBOSITY and chosen:
        verb, chosen, rest = rest.lstrip().partition(" ")
    rest = " ".join(word for word in rest.split(" ") if word not in VERBOSITY)
    # fish takes a word a line
    separator = "\n" if shell == "fish" else " "

    if chosen and verb in VERB_FLAGS and (word := rest.split(" ")[-1]).startswith("-"):
        print(separator.join(flag for flag in flags_of(verb) if flag.startswith(word)))
    elif verb in WITH_CONFIG and chosen:
        if (found := _of_config(rest)) is not None:
            print(separator.join(found))
            return 0
        # Hydra expects a line without a verb
        os.environ["COMP_LINE"] = f"{program} {rest}"
        parts = rest.replace("--config-dir=", "--config-dir ").split()
        place = parts.index("--config-dir") + 1 if "--config-dir" in parts else len(parts)
        known = place < len(parts) and Path(parts[place]).is_dir()  # it may be half typed
        return _hydra(request, parts[place] if known else None)
    elif not chosen:
        print("\n".join(name for name in verbs if name.startswith(verb)))
    elif verb == "study":
        print("\n".join(_of_study(rest)))
    elif verb == "recipe":
        print("\n".join(_of_recipe(rest)))
    elif verb == "explain":
        print("\n".join(_of_explain(rest)))
    return 0


def _of_config(line: str) -> list[str] | None:
    """Return completions that need no Hydra, which is slow to import; None if Hydra is needed."""
    from effbench.config.names import completions

    words = [word for word in line.split() if word not in WITHOUT_VALUE]
    if any(word.startswith("-") for word in words):
        return None
    # after a space a new word begins
    last = words.pop() if words and not line[-1:].isspace() else ""
    return completions(words, last)


def _of_recipe(line: str) -> list[str]:
    """Return the actions, then the names of recipes; nothing for a folder, so that the shell offers files."""
    from effbench.config.recipes import shipped_recipes

    *done, word = line.split(" ")
    if not done:
        return [name for name in RECIPE_ACTIONS if name.startswith(word)]
    takes_name = done in (["show"], ["cp"], ["validate"])
    return [name for name in shipped_recipes() if name.startswith(word)] if takes_name else []


def _of_explain(line: str) -> list[str]:
    """Return the topics that are not in the line; nothing once a word is a run, so that the shell offers files."""
    from effbench.explain import TOPICS

    *done, word = line.split(" ")
    known = [*TOPICS, "all"]
    return [] if set(done) - set(known) else [name for name in known if name.startswith(word) and name not in done]


def _of_study(line: str) -> list[str]:
    """Return the studies for study=NAME, the first word; nothing for other words."""
    from effbench.config.study_files import options

    word = line.split(" ")[-1]
    names = [f"study={name}" for name in sorted(options("study"))]
    return [name for name in names if name.startswith(word)] if "study=" not in line or "study=" in word else []


def _hydra(request: str, config_dir: str | None = None) -> int:
    from effbench.run.hydra_app import as_hydra_app

    return as_hydra_app(["--shell-completion", request], lambda _: None, config_dir, program="effbench")
