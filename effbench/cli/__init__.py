"""effbench <verb> …: finds the verb and runs it. Heavy imports happen only in the verb that needs them."""

from __future__ import annotations

import importlib
import logging
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from effbench.cli.flags import COMMON_HELP, take_verbosity
from effbench.console import guard, settled
from effbench.errors import ConfigError, EffbenchError, unknown_name
from effbench.log import at_level

log = logging.getLogger(__name__)

VERBS = {
    "train": "train a model with an optimizer; sweeps with -m",
    "eval": "evaluate a finished run on any split",
    "predict": "classify image files with a finished run",
    "export": "write a finished run as an ONNX, TorchScript or torch.export file, checked against the model",
    "report": "one HTML page about one or many runs: ranking, curves, failures",
    "summary": "parameters, MACs and memory of a model x optimizer, without training",
    "verify": "check a run's folder; prove that a config resumes exactly",
    "recipe": "list, show, copy or check the recipes that ship with effbench",
    "env": "versions, processor, memory: what to quote with a measured number",
}


def usage() -> str:
    """Return the text of `effbench --help`."""
    width = max(map(len, VERBS))
    lines = [f"  {verb:<{width}}  {text}" for verb, text in VERBS.items()]
    return "\n".join(
        [
            "usage: effbench <verb> ...",
            "",
            *lines,
            "",
            COMMON_HELP,
            "effbench <verb> --help: details. effbench help train optimizer: keys of a group. effbench --version",
            'Tab completion: eval "$(effbench -sc install=bash)"; also zsh and fish.',
        ]
    )


def _unknown_verb(word: str) -> str:
    from effbench.config.hints import for_verb

    if verb := for_verb(word):
        return f"there is no verb '{word}'. Write effbench {verb}."
    if "=" in word:
        return f"{word} has no verb before it. Write effbench train {word}."
    return unknown_name("verb", word, VERBS)


@contextmanager
def _ending_clean(verb: str) -> Iterator[None]:
    """Raise on SIGTERM and similar signals in verbs that write files, so that no incomplete file remains."""
    if verb not in ("eval", "export", "predict"):  # train handles signals itself; other verbs write at once
        yield
        return
    from effbench.run.signals import listening

    with listening() as ears, ears.raising():
        yield


def _exit_code(stop: KeyboardInterrupt) -> int:
    from effbench.run.signals import EXIT_CODES

    return EXIT_CODES.get(str(stop), 130)


def main(argv: Sequence[str] | None = None) -> int:
    """Run a verb and return the exit code. A user's mistake is one message, never a traceback."""
    guard()
    words, level = take_verbosity(sys.argv[1:] if argv is None else argv)
    with at_level(level):
        return settled(_run(words))


def _run(words: list[str]) -> int:
    try:
        return _dispatch(words)
    except EffbenchError as error:
        log.debug("traceback of the error below:", exc_info=True)
        log.error(error)
        return error.exit_code
    except KeyboardInterrupt as stop:
        log.info("interrupted")
        return _exit_code(stop)
    except BrokenPipeError:  # an output file that is a pipe; stdout and stderr never raise
        log.error("the reader of the output file has closed it; the file is incomplete.")
        return 1


def _dispatch(words: list[str]) -> int:
    """Return the exit code of a verb, of the usage, the version or a completion."""
    if words[:1] == ["help"] and len(words) > 1:
        words = [*words[1:], "--help"]
    if not words or words[0] in ("-h", "--help", "help"):
        print(usage(), file=sys.stdout if words else sys.stderr)
        return 0 if words else 2
    if words[0] == "--version":
        from importlib.metadata import version

        print(f"effbench {version('effbench')}")
        return 0
    if words[0].partition("=")[0] in ("-sc", "--shell-completion"):
        return int(importlib.import_module("effbench.cli.completion").main(words, VERBS))
    if words[0] not in VERBS:
        raise ConfigError(_unknown_verb(words[0]))
    verb = importlib.import_module(f"effbench.cli.{words[0]}")
    with _ending_clean(words[0]):
        return int(verb.main(words[1:]))


if __name__ == "__main__":
    sys.exit(main())
