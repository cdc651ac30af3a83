"""Resolve the classes and functions that a config names, and call them with its options."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, TypeVar

from effbench.config.schema import Config
from effbench.config.static_compose import group_options, member
from effbench.config.words import boolean_word
from effbench.errors import ConfigError, EffbenchError, shown, unknown_name
from effbench.target_allowlist import resolve

Built = TypeVar("Built")


def call(
    group: str,
    target: str,
    config: Config,
    options: Mapping[str, Any],
    facts: Mapping[str, Any] | None = None,
    giver: str = "",
) -> Any:
    """Resolve a factory and call it with the config's options, and with those `facts` that it has parameters for.

    Args:
        group: config group, for messages and for the allowlist.
        target: dotted name of the factory.
        config: config with the allowed modules.
        options: keyword arguments from the config.
        facts: further arguments, such as num_classes.
        giver: source of the facts for messages, such as 'images'.

    Returns:
        The return value of the factory.

    Raises:
        ConfigError: the factory is not allowed, refuses its options, or needs others.
    """
    factory = resolve(group, target, config.allow_targets)
    words = inspect.signature(factory).parameters
    # A factory with **options gets all facts: only it can tell which of them it knows.
    open_ended = any(word.kind is word.VAR_KEYWORD for word in words.values())
    taken = {key: value for key, value in (facts or {}).items() if key in words or open_ended}
    # Without facts (data, augment) construct() names a missing argument, in Python's words.
    if facts is not None:
        _check_complete(group, target, words, {**options, **taken}, facts, giver)
    return construct(group, target, factory, {**options, **taken})


def refuse_given(group: str, options: Mapping[str, Any], facts: Mapping[str, Any]) -> None:
    """Refuse options that effbench sets itself to another value: they would have no effect.

    Only for training: a run that was trained with such an option can still be read.

    Args:
        group: config group, for messages.
        options: keyword arguments from the config.
        facts: keyword arguments that replace them. An object that no config can hold differs from every value.
    """
    for key, fact in facts.items():
        fact = list(fact) if isinstance(fact, tuple) else fact  # a config has no tuples
        if key in options and options[key] != fact:
            word, known = f"{group}.{key}", f" to {shown(fact)}" if isinstance(fact, str | int | list) else ""
            raise ConfigError(
                f"{word}={shown(options[key], quotes=False)} would have no effect: effbench sets it{known} itself. "
                f"Leave {word} out."
            )


def _check_complete(
    group: str,
    target: str,
    words: Mapping[str, inspect.Parameter],
    given: Collection[str],
    facts: Collection[str],
    giver: str,
) -> None:
    """Check that each parameter without a default is given, and one of those that take facts of some data.

    Args:
        group: config group.
        target: dotted name of the factory.
        words: its parameters.
        given: names of the arguments that it gets.
        facts: names of those that the data give.
        giver: what gives the facts, such as 'images'.
    """
    missing = [name for name in _required(words) if name not in given]
    # A model such as the MLP takes images or rows: it needs none of its facts, but one of them.
    optional = {name for name, word in words.items() if word.default is None} - set(given)
    if not missing and (not optional or set(facts) & (words.keys() - {"num_classes"})):
        return

    fitting, facts_of_all, own_keys = _shipped_facts(group, facts)
    if not missing and not optional & (facts_of_all - own_keys):
        return
    choose = f"Name a {group} of your own for {giver}."
    if fitting:
        # all of them: the first of an alphabet are no recommendation
        choose = f"For {giver} write {group}={' | '.join(fitting)}."
    # An option helps only if the value does not depend on the data: no in_channels makes a CNN take rows.
    if not missing or set(missing) & (facts_of_all - own_keys):
        remedy = choose
    else:
        remedy = f"Give {', '.join(f'{group}.{name}=VALUE' for name in missing)}; or: {choose}"
    needed = ", ".join(missing) or f"some of {', '.join(sorted(optional & facts_of_all))}"
    raise ConfigError(
        f"{group} ({target}) needs {needed}, which neither its options nor the data give: {giver} give "
        f"{', '.join(facts)}. {remedy}"
    )


def _shipped_facts(group: str, facts: Collection[str]) -> tuple[list[str], set[str], set[str]]:
    """Return which of effbench's own choices can be built from these facts, all facts of any data, and all YAML keys.

    Args:
        group: config group.
        facts: names of the arguments that the data give.
    """
    fitting, facts_of_all, own_keys = list[str](), set[str](), set[str]()
    for choice in group_options().get(group, []):
        own = member(group, choice)
        parameters = inspect.signature(resolve(group, own["_target_"])).parameters
        # Without a default in the YAML, an argument that is required or None comes from the data.
        facts_of_all |= {name for name, word in parameters.items() if word.default in (word.empty, None)}
        own_keys |= own.keys()
        # A model that takes num_classes alone knows nothing of these samples.
        takes_facts = (set(facts) - {"num_classes"}) & parameters.keys()
        if takes_facts and set(_required(parameters)) <= {*facts, *own}:
            fitting.append(choice)
    return fitting, facts_of_all, own_keys


def _required(words: Mapping[str, inspect.Parameter]) -> list[str]:
    # *args and **options have no default either, but need not be given.
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return [name for name, word in words.items() if word.default is word.empty and word.kind in named]


def construct(group: str, target: str, factory: Callable[..., Built], options: Mapping[str, Any]) -> Built:
    """Call factory(**options), and turn its complaints about options into a ConfigError.

    Args:
        group: config group, for messages.
        target: dotted name of the factory, for messages.
        factory: class or function.
        options: keyword arguments.

    Returns:
        The return value of the factory.

    Raises:
        ConfigError: the factory does not accept an option or its value.
    """
    check_names(group, factory, options)
    check_lists(group, factory, options)
    try:
        # Not `except Exception`: any other error is a fault in the factory, and its traceback is of use.
        return factory(**options)
    except EffbenchError:  # its message is complete
        raise
    except (TypeError, ValueError, AssertionError, LookupError, AttributeError, RuntimeError) as error:
        # These two are objects, not settings; their text would fill a page.
        settings = {key: value for key, value in options.items() if key not in ("params", "optimizer")}
        given = ", ".join(f"{key}={shown(value)}" for key, value in settings.items())
        raise ConfigError(f"{group} ({target}) refuses its options: {error!r}. Given: {given}.") from error


def check_booleans(
    group: str, factory: Callable[..., Any], options: Mapping[str, Any], allow_targets: Sequence[str]
) -> None:
    """Refuse texts such as `no` and `off`, which count as true, unless the parameter is declared as text.

    Args:
        group: config group, for messages.
        factory: class or function that gets the options.
        options: keyword arguments.
        allow_targets: the user's modules; for their functions the message suggests a type annotation.
    """
    words = inspect.signature(factory).parameters
    for key, value in options.items():
        meant = boolean_word(value)
        word = words.get(key)
        # A default or an annotation may declare it as text: then 'no' is what is meant.
        is_text = word and (isinstance(word.default, str) or re.search(r"\bstr\b|Literal", str(word.annotation)))
        if meant is not None and not is_text:
            mine = factory.__module__.partition(".")[0] in {name.partition(".")[0] for name in allow_targets}
            raise ConfigError(
                f"{group}.{key} is the text {value!r}, which counts as true. Write {group}.{key}={meant}."
                + (f" If text is meant, say so in your function: {key}: str." if mine else "")
            )


def check_lists(group: str, factory: Callable[..., Any], options: Mapping[str, Any]) -> None:
    """Refuse a single value where the parameter is declared as a list of numbers.

    Args:
        group: config group, for messages.
        factory: class or function that gets the options.
        options: keyword arguments.
    """
    words = inspect.signature(factory).parameters
    for key, value in options.items():
        is_list = key in words and re.fullmatch(r"(\w+\.)*(Sequence|list)\[(int|float)\]", str(words[key].annotation))
        if is_list and not isinstance(value, list | tuple):
            # '256,128' in quotes is a text
            number = value if re.fullmatch(r"[\d., ]+", str(value)) else 256
            raise ConfigError(
                f"{group}.{key} must be a list of numbers, such as [{number}]; got {shown(value)}. "
                f"Write {group}.{key}=[{number}]."
            )


def check_names(group: str, factory: Callable[..., Any], options: Mapping[str, Any]) -> None:
    """Refuse options for which the factory has no parameter.

    Args:
        group: config group, for messages.
        factory: class or function that gets the options.
        options: keyword arguments.
    """
    words = inspect.signature(factory).parameters
    # A factory with **options checks their names itself.
    if any(word.kind is word.VAR_KEYWORD for word in words.values()):
        return
    unknown = [key for key in options if key not in words]
    if unknown:
        # params: torch's name for the parameters to train, which the builder gives.
        listed = unknown_name(f"{group} option", unknown[0], [word for word in words if word != "params"])
        # A key of the group's files that the class lacks is no typing error: another class was named.
        in_files = {key for name in group_options().get(group, []) for key in member(group, name)}
        gone = [f"~{group}.{key}" for key in unknown if key in in_files]
        raise ConfigError(f"{listed} To leave out what it lacks, write {' '.join(gone)}." if gone else listed)
