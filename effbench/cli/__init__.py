"""effbench <verb> …: finds the verb. Nothing heavy is imported before a verb needs it."""

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
    "eval": "measure a finished run again, on any split",
    "predict": "classify image files with a finished run",
    "export": "a finished run as an ONNX, TorchScript or torch.export file, proven to answer alike",
    "report": "one HTML page about one run or many: ranked, with curves and what failed",
    "summary": "parameters, MACs and memory of a model x optimizer, without training",
    "verify": "re-check a run's folder; prove that a config resumes exactly",
    "recipe": "list, show, copy or check the recipes that ship with effbench",
    "env": "versions, processor, memory: what a number was measured with",
}


def usage() -> str:
    width = max(map(len, VERBS))
    lines = [f"  {verb:<{width}}  {text}" for verb, text in VERBS.items()]
    return "\n".join(
        [
            "usage: effbench <verb> ...",
            "",
            *lines,
            "",
            COMMON_HELP,
            "effbench <verb> --help tells more; effbench help train optimizer tells of its keys. effbench --version",
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
    """SIGTERM and the like raise in verbs that write caches or files, so that nothing half done is left."""
    if verb not in ("eval", "export", "predict"):  # train hears them itself, the rest writes in an instant
        yield
        return
    from effbench.run.signals import listening

    with listening() as ears, ears.raising():
        yield


def _exit_code(stop: KeyboardInterrupt) -> int:
    from effbench.run.signals import EXIT_CODES

    return EXIT_CODES.get(str(stop), 130)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a verb and returns the exit code; a user's mistake is one message, never a traceback."""
    guard()
    words, level = take_verbosity(sys.argv[1:] if argv is None else argv)
    with at_level(level):
        return settled(_run(words))


def _run(words: list[str]) -> int:
    try:
        return _dispatch(words)
    except EffbenchError as error:
        log.debug("where the error below was raised:", exc_info=True)
        log.error(error)
        return error.exit_code
    except KeyboardInterrupt as stop:
        log.info("interrupted")
        return _exit_code(stop)
    except BrokenPipeError:  # of an output file that is a pipe: stdout and stderr never raise
        log.error("the reader of the output file has left; it is not whole.")
        return 1


def _dispatch(words: list[str]) -> int:
    """The exit code of a verb, or of the usage, the version or a completion."""
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
