"""Flipped bits and cut files: python -m tests.torture.damage --flips 200

Each must be noticed before a number of it is used, with the file named; a run then goes on from the checkpoint before,
and ends as if nothing had happened.
"""

from __future__ import annotations

import random
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from effbench.errors import EffbenchError
from effbench.training.checkpoint_files import read_checkpoint, read_weights
from tests.torture import runs
from tests.torture.runs import CONFIG, Hook

KILLED_AT = 50  # leaves the checkpoints of steps 48 (last and best) and 45
CUTS = range(100)  # percent of a file that is left


@dataclass
class Tally:
    tried: int = 0
    noticed: int = 0
    faults: list[str] = field(default_factory=list)

    def add(self, what: str, fault: str | None) -> None:
        self.tried += 1
        self.noticed += fault is None
        if fault is not None:
            self.faults.append(f"{what}: {fault}")


@contextmanager
def changed(path: Path, content: bytes | None) -> Iterator[None]:
    """`path` with other content, or gone, for a while."""
    before = path.read_bytes()
    try:
        path.unlink()
        if content is not None:
            path.write_bytes(content)
        yield
    finally:
        path.write_bytes(before)


def spots(checkpoint: Path, count: int, seed: int) -> list[tuple[Path, int, int]]:
    """(file, offset, bit), as many in each file, one in each of as many equal stretches of it."""
    draw, files = random.Random(seed), sorted(checkpoint.iterdir())
    chosen = []
    for number, path in enumerate(files):
        share, size = count // len(files) + (number < count % len(files)), path.stat().st_size
        chosen += [(path, int((part + draw.random()) * size / share), draw.randrange(8)) for part in range(share)]
    return chosen


def flipped(path: Path, offset: int, bit: int) -> bytes:
    content = bytearray(path.read_bytes())
    content[offset] ^= 1 << bit
    return bytes(content)


def flips(checkpoint: Path, count: int, seed: int = 0) -> Tally:
    """One bit at a time, in every file of the checkpoint."""
    tally = Tally()
    for path, offset, bit in spots(checkpoint, count, seed):
        with changed(path, flipped(path, offset, bit)):
            tally.add(f"{path.name} bit {bit} of byte {offset}", unnoticed(checkpoint, path))
    return tally


def cuts(checkpoint: Path, percents: Sequence[int] = CUTS) -> Tally:
    """Every file of the checkpoint, cut to each share of its length, and missing."""
    tally = Tally()
    for path in sorted(checkpoint.iterdir()):
        whole = path.read_bytes()
        for percent in percents:
            with changed(path, whole[: len(whole) * percent // 100]):
                tally.add(f"{path.name} cut to {percent} %", unnoticed(checkpoint, path))
        with changed(path, None):
            tally.add(f"{path.name} missing", unnoticed(checkpoint, path))
    return tally


def unnoticed(checkpoint: Path, damaged: Path) -> str | None:
    """What is wrong with how the readers take it: None where both refuse and name the file."""
    for read in (read_checkpoint, read_weights):
        try:
            read(checkpoint)
        except EffbenchError as error:
            if str(damaged) not in str(error):
                return f"{read.__name__} does not name the file: {error}"
        except Exception as error:  # noqa: BLE001 - whatever else it raises is a traceback to the user
            return f"{read.__name__} raises {type(error).__name__}: {error}"
        else:
            return f"{read.__name__} takes it"
    return None


WAYS: dict[str, Callable[[Path], bytes | None]] = {
    "with a flipped bit": lambda path: flipped(path, path.stat().st_size * 2 // 3, 3),
    "cut to a half": lambda path: path.read_bytes()[: path.stat().st_size // 2],
    "empty": lambda _: b"",
    "missing": lambda _: None,
}


class Fallback:
    """A killed run whose newest checkpoint is damaged in turn, and resumed."""

    def __init__(self, work: Path, reference: dict[str, Any]):
        self._work, self._reference = work, reference
        code, told = self._train("killed", [*CONFIG, "hydra.run.dir=run"], runs.dying_after_step(KILLED_AT))
        assert code == -9, told
        self.killed = work / "killed" / "run"

    def _train(self, name: str, words: Sequence[str], *hooks: Hook) -> tuple[int, str]:
        return runs.finish(words, self._work / name, *hooks)

    def fault(self, damage: Callable[[Path], Path], *hooks: Hook) -> str | None:
        """What is wrong after `damage` (which says what it damaged in the newest checkpoint) and a resume."""
        run = self._copy()
        path = damage(runs.committed(run)[-1])
        code, told = self._train("damaged", ["resume=run"], *hooks)
        if code != 0:
            return f"exit code {code}: {told[-1000:]}"
        if found := runs.mismatches(run, self._reference):
            return "; ".join(found[:5])
        named = str(path.relative_to(self._work / "damaged")) in told
        return None if named else f"the file is not named: {told[-1000:]}"

    def fault_with_nothing_whole(self) -> str | None:
        """Every checkpoint damaged: refused, each file named, no traceback."""
        run = self._copy()
        paths = [path / "model.safetensors" for path in runs.committed(run)]
        for path in paths:
            path.write_bytes(flipped(path, path.stat().st_size - 1, 0))
        code, told = self._train("damaged", ["resume=run"])
        named = all(str(path.relative_to(self._work / "damaged")) in told for path in paths)
        good = code in (1, 2) and named and "Traceback" not in told
        return None if good else f"exit code {code}: {told[-1000:]}"

    def _copy(self) -> Path:
        shutil.rmtree(self._work / "damaged", ignore_errors=True)
        return Path(shutil.copytree(self.killed, self._work / "damaged" / "run", symlinks=True))


def resumes(fallback: Fallback, ways: Sequence[str]) -> Tally:
    """Each file of the newest checkpoint damaged in each way; at last, every checkpoint."""
    tally = Tally()
    for name in sorted(path.name for path in runs.committed(fallback.killed)[-1].iterdir()):
        for way in ways:
            tally.add(f"{name} {way}", fallback.fault(partial(_damaged, name, way)))
    tally.add("every checkpoint damaged", fallback.fault_with_nothing_whole())
    return tally


def _damaged(name: str, way: str, checkpoint: Path) -> Path:
    path = checkpoint / name
    content = WAYS[way](path)
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    return path


def damage(folder: Path, count: int, seed: int = 0, ways: Sequence[str] = tuple(WAYS)) -> dict[str, Any]:
    """All of it as JSON. ways: of damaging a file, for the runs that are resumed."""
    begun = time.perf_counter()
    reference, _ = runs.uninterrupted(folder / "control")
    fallback = Fallback(folder, reference)
    checkpoint = runs.committed(fallback.killed)[-1]
    return {
        "flips": asdict(flips(checkpoint, count, seed)),
        "cuts": asdict(cuts(checkpoint)),
        "resumes": asdict(resumes(fallback, ways)),
        "seconds": round(time.perf_counter() - begun, 1),
    }


def main(argv: Sequence[str] | None = None) -> int:
    parser = runs.options("tests.torture.damage", __doc__)
    parser.add_argument("--flips", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args(argv)
    with runs.workplace(chosen.folder) as folder:
        result = damage(folder, chosen.flips, chosen.seed)
    runs.report(result, chosen.json)
    return 1 if any(result[part]["faults"] for part in ("flips", "cuts", "resumes")) else 0


if __name__ == "__main__":
    sys.exit(main())
