"""Options of `effbench bench`, checked before torch is imported."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from effbench.bench.backends import BACKENDS, DEFAULT
from effbench.config.arguments import check_list
from effbench.config.options import COUNT, NON_NEGATIVE, POSITIVE, THREADS
from effbench.errors import ConfigError, shown, unknown_name

if TYPE_CHECKING:
    from effbench.config.schema import Config

log = logging.getLogger(__name__)

DEVICE = "cpu"  # where everything is measured, whatever a config says: all backends run there
LEAST_ROUNDS = 3  # of two, Student's interval is 12.7 standard errors wide to each side


def check_counts(rounds: object, threads: object) -> None:
    """Refuse numbers of rounds and threads that cannot be measured. Raises ConfigError."""
    THREADS.check(threads, "threads", remedy="More threads than cores are slower.")
    if COUNT.check(rounds, "rounds") < LEAST_ROUNDS:
        raise ConfigError(f"rounds must be at least {LEAST_ROUNDS}, for intervals over them; got {rounds}.")


def note_device(config: Config) -> None:
    """Say that a config's device is not the one that is measured; `auto` is one only where a GPU is."""
    import torch.cuda

    if config.device.name != DEVICE and (config.device.name != "auto" or torch.cuda.is_available()):
        log.info(f"note: effbench bench measures on the CPU; device={config.device.name} is not used")


@dataclass(frozen=True)
class BenchOptions:
    """How backends are measured.

    Attributes:
        backends: names; () for all that need not be asked for.
        batch_sizes: samples of a call; 1 is what the latency is measured with.
        threads: of each process.
        rounds: processes of each arm; intervals are over them.
        seconds: longest timed part of a process.
        samples: validation samples on which answers are compared; of large outputs fewer.
        max_drop: points of accuracy that a winner may lose against the reference.

    Raises:
        ConfigError: a value is out of range, or a backend is unknown.
    """

    backends: Sequence[str] = ()
    batch_sizes: Sequence[int] = (1, 8, 32)
    threads: int = 1
    rounds: int = 5
    seconds: float = 2.0
    samples: int = 512
    max_drop: float = 0.5

    def __post_init__(self) -> None:
        check_list("backends", self.backends, str, "a list of names, [eager, onnxruntime]")
        for name in self.backends:
            if name not in BACKENDS:
                raise ConfigError(unknown_name("backend", name, BACKENDS))
        check_list("batch_sizes", self.batch_sizes, int, "a list of whole numbers, [1, 8, 32]")
        for size in self.batch_sizes:
            COUNT.check(size, "each item of batch_sizes")
        if not self.batch_sizes:
            raise ConfigError("batch_sizes must hold a number of samples, such as [1, 8, 32]; got [].")
        check_counts(self.rounds, self.threads)
        POSITIVE.check(self.seconds, "seconds")
        COUNT.check(self.samples, "samples")
        NON_NEGATIVE.check(self.max_drop, "max_drop", "points of accuracy, a number >= 0, such as 0.5")

    @property
    def chosen(self) -> tuple[str, ...]:
        """The backends to measure, in the order of BACKENDS."""
        return tuple(name for name in BACKENDS if name in (self.backends or DEFAULT))

    @property
    def sizes(self) -> tuple[int, ...]:
        """The batch sizes, the smallest first."""
        return tuple(sorted(set(self.batch_sizes)))


def bench_options(given: Mapping[str, Any]) -> BenchOptions:
    """Return the checked options of those that the user has set.

    Raises:
        ConfigError: there is no such option, or a value is out of range.
    """
    known = [each.name for each in fields(BenchOptions)]
    for key in given:
        if key not in known:
            raise ConfigError(unknown_name("option of bench", key, known))
    if "backends" in given and not given["backends"]:
        raise ConfigError(
            f"backends must name a backend; got {shown(given['backends'])}. Leave it out for the usual ones."
        )
    return BenchOptions(**given)
