"""Refuses backends that cannot run the result before it is made, which may take hours of training."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING

from effbench.bench.answers import ANSWER_BATCH
from effbench.bench.backends import BACKENDS, Backend
from effbench.bench.run import answering, thread_count
from effbench.bench.scratch import scratch
from effbench.bench.sources import source_of
from effbench.compress.options import FineTuneOptions, QuantizeOptions, has_file, readers
from effbench.errors import ConfigError, EffbenchError, MissingExtraError, first_line
from effbench.export.formats import quiet, require_libraries

if TYPE_CHECKING:
    from effbench.compress.options import CompressOptions
    from effbench.run.run import Run

log = logging.getLogger(__name__)


def check_backends(source: Run, options: CompressOptions) -> None:
    """Raise unless one of the backends that are measured can run the result, as far as that is known now.

    Its library must be there and the processor able. Where training would follow, it must run the run itself.

    Args:
        source: the run.
        options: the method and the backends.

    Raises:
        MissingExtraError: none can; the library of one of them is not installed.
        ConfigError: none can, for other reasons.
    """
    own, names = options.own, options.bench.chosen
    if isinstance(own, QuantizeOptions):
        names = tuple(readers(own.backend, options.bench))
    faults: dict[str, EffbenchError] = {}
    # those that need minutes to prepare come last
    for name in sorted(names, key=lambda name: BACKENDS[name].asked_for):
        try:
            _check_here(BACKENDS[name], exported=not isinstance(own, QuantizeOptions))
            if isinstance(own, FineTuneOptions) and own.epochs:
                _check_answers(source, options, name)
            return
        except EffbenchError as error:
            faults[name] = error
    missing = next((error for error in faults.values() if isinstance(error, MissingExtraError)), None)
    if missing is not None:
        raise missing
    reasons = "; ".join(f"{name}: {first_line(error)}" for name, error in faults.items())
    raise ConfigError(
        f"backends=[{','.join(names)}]: none of them can run the result, so nothing was begun: {reasons}. Name another "
        "one, or leave backends out."
    )


def _check_here(backend: Backend, exported: bool) -> None:
    """Raise unless a backend's library is there and can run on this processor.

    Args:
        backend: the backend.
        exported: its file is to be exported, which may need other libraries.
    """
    try:
        with quiet():
            if exported and has_file(backend.name):
                require_libraries(backend.file)
            runtime = backend.runtime()
            obstacle = backend.obstacle(runtime)
    except (ImportError, MissingExtraError) as error:
        if not backend.extra:
            raise ConfigError(first_line(error)) from error
        raise MissingExtraError(f"backends=[{backend.name}]", backend.extra) from error
    except Exception as error:  # libraries raise anything where they do not fit the machine
        raise ConfigError(f"{type(error).__name__}: {first_line(error)}") from error
    if obstacle:
        raise ConfigError(obstacle)


def _check_answers(source: Run, options: CompressOptions, name: str) -> None:
    """Raise unless a backend answers for the run before, which has the same layers.

    Args:
        source: the run.
        options: its checkpoint, and how backends are measured.
        name: of the backend.
    """
    # eager mode runs what torch has trained; preparing those that are only measured when named takes minutes
    if name == "eager" or BACKENDS[name].asked_for:
        return
    log.info(f"checking before the training that backends=[{name}] runs this model")
    itself = source_of(source, options.checkpoint, ANSWER_BATCH)
    with scratch() as folder, thread_count(options.bench.threads):
        rows, working = answering(itself, replace(options.bench, backends=(name,)), folder)
    if not working:
        raise ConfigError(str(rows[name]["reason"]))
