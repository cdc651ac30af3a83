"""effbench <verb> …: finds the verb and runs it. Heavy imports happen only in the verb that needs them."""

from __future__ import annotations

import importlib
import logging
import sys
from collections.abc import Sequence

from effbench.cli.flags import COMMON_HELP, take_verbosity
from effbench.console import final_exit_code, guard
from effbench.errors import ConfigError, EffbenchError, unknown_name
from effbench.log import at_level

log = logging.getLogger(__name__)

VERBS = {
    "train": "train a model with an optimizer; with -m every combination of several values",
    "eval": "evaluate a finished run on any split",
    "predict": "apply a finished run to files, such as images",
    "export": "write a finished run for another runtime, such as ONNX, checked against the model",
    "bench": "how fast a run or an exported file answers with each backend, and which one to take",
    "compress": "make a finished run smaller or faster, and measure what that cost",
    "study": "which arm is better: equal tuning, paired seeds, a verdict with its interval",
    "explain": "a topic such as attention, with numbers computed while you wait, and figures",
    "report": "one HTML page about one or many runs: ranking, curves, failures",
    "summary": "parameters, MACs and memory of a model x optimizer, without training",
    "verify": "check a run's folder; prove that a config resumes exactly",
    "recipe": "list, show, copy or check the recipes that ship with effbench",
    "env": "versions, processor, memory: what to quote with a measured number",
}


# A signal such as SIGTERM raises in these verbs, so that no incomplete file remains. Train handles signals itself; the
# other verbs write at once.
WRITING = ("bench", "compress", "eval", "explain", "export", "predict")


def usage() -> str:
    """Return the text of `effbench --help`."""
    width = max(map(len, VERBS))
    lines = [f"  {verb:<{width}}  {text}" for verb, text in VERBS.items()]
    return "\n".join(
        [
            "usage: effbench VERB ...",
            "",
            *lines,
            "",
            COMMON_HELP,
            "",
            "  effbench VERB --help            how to use a verb",
            "  effbench help train optimizer   the keys of a config group",
            "  effbench --version",
            '  eval "$(effbench -sc install=bash)"   completion with the Tab key; also zsh and fish',
        ]
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run a verb and return the exit code. A user's mistake is one message, never a traceback."""
    guard()
    words, level = take_verbosity(sys.argv[1:] if argv is None else argv)
    with at_level(level):
        try:
            code = _dispatch(words)
        except EffbenchError as error:
            log.debug("traceback of the error below:", exc_info=True)
            log.error(error)
            code = error.exit_code
        except KeyboardInterrupt as stop:
            from effbench.run.signals import EXIT_CODES

            log.info("interrupted")
            code = EXIT_CODES.get(str(stop), 130)  # Interrupted holds the signal's name; Ctrl-C itself is 130
        except BrokenPipeError:  # an output file that is a pipe; stdout and stderr never raise
            log.error("the reader of the output file has closed it; the file is incomplete.")
            code = 1
        except RuntimeError as error:
            # Python raises a plain RuntimeError when the system refuses a thread: only its text tells it apart.
            if "can't start new thread" not in str(error):
                raise
            log.error(
                "the system starts no further thread for this process: its limit of threads or of memory is reached. "
                "Raise the limit (ulimit -u, ulimit -v, or the cluster's) or set data.num_workers=0 device.threads=1."
            )
            code = 1
        return final_exit_code(code)


def _dispatch(words: list[str]) -> int:
    """Return the exit code of a verb, of the usage, the version or a completion."""
    if words[:1] == ["help"] and len(words) > 1:
        # `effbench help train optimizer` is `effbench train optimizer --help`.
        words = [*words[1:], "--help"]
    if not words or words[0] in ("-h", "--help", "help"):
        # Asked for: stdout. After a mistake: stderr, so that a program behind a pipe gets nothing to read.
        print(usage(), file=sys.stdout if words else sys.stderr)
        return 0 if words else 2
    name, rest = words[0], words[1:]
    if name == "--version":
        from importlib.metadata import version

        print(f"effbench {version('effbench')}")
        return 0
    if name.partition("=")[0] in ("-sc", "--shell-completion"):
        return int(importlib.import_module("effbench.cli.completion").main(words, VERBS))

    if name not in VERBS:
        from effbench.config.hints import for_verb

        if verb := for_verb(name):  # another tool's word
            raise ConfigError(f"there is no verb '{name}'. Write effbench {verb}.")
        if "=" in name:
            raise ConfigError(f"{name} has no verb before it. Write effbench train {name}.")
        raise ConfigError(unknown_name("verb", name, VERBS))

    # Only the module of this verb: `effbench env` need not wait for Hydra.
    module = importlib.import_module(f"effbench.cli.{name}")
    if name not in WRITING:
        return int(module.main(rest))
    from effbench.run.signals import signal_handler

    with signal_handler() as handler, handler.raising():
        return int(module.main(rest))


if __name__ == "__main__":
    sys.exit(main())
