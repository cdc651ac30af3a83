"""effbench explain: short texts with numbers computed there and then, and figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from effbench.cache_dir import expanded, is_folder, is_there
from effbench.cli.flags import VERB_FLAGS, parse_flags, show_help
from effbench.errors import ConfigError, unknown_name
from effbench.escaping import for_terminal
from effbench.explain import TAKES_RUN, TOPICS
from effbench.records import output_problem
from effbench.run.load import load_run, targets_from
from effbench.run.lock import holding
from effbench.strict_json import print_json

if TYPE_CHECKING:
    from effbench.explain.content import Explanation

HELP = """usage: effbench explain [TOPIC ...] [output=FILE.html|FOLDER] [seed=0] [--json]
       effbench explain attention [RUN] [text="a sentence"] [checkpoint=best|last] [allow_targets=[MODULE,...]]

Explains a topic with numbers that are computed while you wait, on real data and with effbench's own classes. Without a
topic it lists the topics; `all` means all of them.

attention: with RUN, a finished run on texts whose model has attention layers, it shows their weights on your sentence.

output=FILE.html writes a page with figures, output=FOLDER Markdown with SVG files, without times, which depend on the
machine. --json: the numbers of each topic, by name.
--text TEXT, --html FILE and --output FOLDER mean the same as text=TEXT and output=."""
OPTIONS = {"text": "text", "output": "output", "html": "output"}  # written with dashes -> the option
OF_RUN = ("checkpoint", "allow_targets")  # options of a run alone
PAGES = (".html", ".htm")
ALL = "all"


def main(words: Sequence[str]) -> int:
    arguments = parse_flags(words, VERB_FLAGS["explain"], OPTIONS)
    if arguments.has("help"):
        return show_help(f"{HELP}\n\ntopics:\n{_listed()}", asked=True)
    options = {"text": "", "output": "", "seed": "0", "checkpoint": "", "allow_targets": ""}
    topics, runs = list[str](), list[str]()
    for word in arguments.overrides:
        key, equals, value = word.partition("=")
        if equals and key in options:
            options[key] = value
        elif word in TOPICS or word == ALL:
            topics += list(TOPICS) if word == ALL else [word]
        # a run comes after its topic: any other word is a mistyped one
        elif set(topics) & set(TAKES_RUN):
            runs.append(word)
        else:
            raise ConfigError(unknown_name("topic", word, [*TOPICS, ALL]))
    if len(runs) > 1:
        raise ConfigError(f"explain takes one run; got {runs[1]!r} too.")
    if not runs and (of_run := [key for key in OF_RUN if options[key]]):
        raise ConfigError(
            f'{of_run[0]}={options[of_run[0]]} is for a run: effbench explain attention RUN text="a sentence".'
        )
    if not topics:
        if chosen := [key for key, value in options.items() if value and key in ("text", "output")]:
            raise ConfigError(f"{chosen[0]}={options[chosen[0]]} needs a topic, such as effbench explain all.")
        print(_listed())
        return 0
    return _explain(list(dict.fromkeys(topics)), runs, options, arguments.has("json"))


def _listed() -> str:
    width = max(map(len, TOPICS))
    return "\n".join(f"  {topic:<{width}}  {about}" for topic, about in TOPICS.items())


def _explain(topics: Sequence[str], runs: Sequence[str], options: Mapping[str, str], as_json: bool) -> int:
    """Explain topics and return the exit code. All words are checked before torch is imported, and before the work."""
    output = _checked_output(options["output"])
    seed = options["seed"]
    # isdecimal, because int() also reads ' 3', '+3' and '1_000'
    if not seed.isdecimal() or int(seed) >= 2**32:
        raise ConfigError(f"seed must be a whole number in [0, 2^32); got {seed!r}.")
    if options["text"] and not options["text"].strip():
        raise ConfigError('text is empty; write text="a sentence".')
    run = load_run(runs[0], targets_from(options["allow_targets"] or "[]")) if runs else None
    if run is not None and not options["text"]:
        raise ConfigError('a run needs a sentence: effbench explain attention RUN text="a sentence".')

    from effbench.explain.content import Request
    from effbench.explain.explaining import explained

    # Markdown leaves out what is measured
    measured = output is None or output.suffix in PAGES
    request = Request(run, options["checkpoint"] or "best", options["text"] or None, int(seed), measured)
    nothing = replace(request, run=None, text=None)
    found = [explained(topic, request if topic in TAKES_RUN or len(topics) == 1 else nothing) for topic in topics]
    written = _written(found, output)
    if as_json:
        topics_json = [{"topic": each.topic, "title": each.title, "values": dict(each.values)} for each in found]
        print_json({"topics": topics_json, "files": written})
    elif written:
        print(for_terminal("\n".join(written)))
    else:
        from effbench.explain.terminal import print_explanation

        for number, each in enumerate(found):
            print("\n" * bool(number), end="")
            print_explanation(each)
    return 0


def _written(found: Sequence[Explanation], output: Path | None) -> list[str]:
    """Write what output= asks for, and return the paths."""
    if output is None:
        return []
    if output.suffix in PAGES:
        from effbench.explain.page import write_page

        write_page(found, output)
        return [str(output)]
    from effbench.explain.documents import write_documents

    return [str(path) for path in write_documents(found, output)]


def _checked_output(text: str) -> Path | None:
    """Return the path of a page or a folder; None for no output."""
    if not text:
        return None
    output = expanded(text)
    if output.suffix in PAGES:
        if why := output_problem(output):
            raise ConfigError(f"output={text}: {why}.")
    elif is_there(output) and not is_folder(output):
        raise ConfigError(f"output={text} is a file; give a folder for Markdown, or a page's name that ends in .html.")
    elif output.suffix and not is_folder(output):
        raise ConfigError(f"output={text} must end in .html, for a page, or be a folder's name, for Markdown.")
    else:
        with holding(output, "output=FOLDER"):
            pass  # it can be written; a folder that was made for this is removed again
    return output
