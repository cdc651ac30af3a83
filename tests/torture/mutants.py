"""The resume code broken on purpose, a line at a time: python -m tests.torture.mutants

A proof that nothing can fail proves nothing. Each mutant is a change of the source, made in the attempts' processes
only, and must be noticed by the check that is there for it; the unchanged code must pass every check.
"""

from __future__ import annotations

import inspect
import random
import shutil
import sys
import textwrap
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import cache, cached_property, reduce
from importlib import import_module
from pathlib import Path
from types import FunctionType
from typing import Any

from tests.torture import damage, runs, system_calls
from tests.torture.runs import CONFIG, Hook

KILLED_AT = 43  # the training step, in mid-epoch; its newest checkpoint is of step 42


@dataclass(frozen=True)
class Mutant:
    """edits: (text that occurs once in the function's source, what stands in its place). check: a key of CHECKS.

    everywhere: it changes what an uninterrupted run comes to as well, which is then its own measure.
    """

    name: str
    function: str  # module:qualified name
    edits: tuple[tuple[str, str], ...]
    check: str = "kills"
    words: tuple[str, ...] = ()  # beyond CONFIG
    everywhere: bool = False
    brief: bool = False  # whether the shortened torture tries it too

    def __call__(self, _: int) -> None:
        """As a hook: in the attempt's process."""
        if not self.edits:
            return
        function = self._function()
        inner: dict[str, Any] = {}
        exec(compile(self._source(function), self.function, "exec", dont_inherit=True), function.__globals__, inner)
        # The code is exchanged within the function, so that `from … import …` sees the change as well.
        function.__code__ = inner[function.__name__].__code__
        random.seed(0)  # for those that draw from a global stream: every process begins it anew

    def applies(self) -> bool:
        """Whether the source still holds each text, once."""
        return not self.edits or bool(self._source(self._function()))

    def _function(self) -> FunctionType:
        module, _, name = self.function.partition(":")
        found = reduce(getattr, name.split("."), import_module(module))
        assert isinstance(found, FunctionType), self.function
        return found

    def _source(self, function: FunctionType) -> str:
        source = textwrap.dedent(inspect.getsource(function))
        for old, new in self.edits:
            if source.count(old) != 1:
                raise LookupError(f"mutant '{self.name}': {self.function} holds {source.count(old)} times: {old}")
            source = source.replace(old, new)
        return "from __future__ import annotations\n" + source


RESTORE = "effbench.training.snapshots:restore"
STEPS = "effbench.training.trainer:Trainer.steps"
WRITE = "effbench.training.checkpoint_files:write_checkpoint"
SAVE = "effbench.training.checkpoint:Checkpoints.save"
GLOBAL_DRAW = "__import__('random').getrandbits(62)"
TELLING = ("mkdir", "save_file", "rename", "replace", "symlink", "unlink")
FP16 = ("trainer.precision=16-mixed",)

UNCHANGED = tuple(
    Mutant(" ".join(["unchanged code,", check, *words]), "", (), check, words, brief=not words)
    for check, words in (("kills", ()), ("kills", FP16), ("damage", ()), ("save", ()), ("order", ()))
)
MUTANTS = (
    Mutant(
        "dropout's stream is not seeded by step",
        STEPS,
        (("self._seed_forward(step)", "pass"),),
        everywhere=True,
        brief=True,
    ),
    Mutant("the place within the epoch is ignored", STEPS, (("start=state.batch", "start=0"),), brief=True),
    Mutant(
        "the order of the data comes from a global stream",
        "effbench.data.batches:TrainBatches._epoch_order",
        (("derived_seed(self.seed, Purpose.ORDER, epoch)", GLOBAL_DRAW),),
        everywhere=True,
    ),
    Mutant(
        "augmentation draws from a global stream",
        "effbench.data.batches:TrainBatches._drawn",
        (("seed_of_step(self.seed, Purpose.AUGMENT, epoch, step)", GLOBAL_DRAW),),
        everywhere=True,
    ),
    Mutant(
        "the average's counter is not restored",
        "effbench.training.ema:Ema.load_state_dict",
        (('self._steps = rest.pop("_ema_steps").clone()', 'rest.pop("_ema_steps")'),),
        brief=True,
    ),
    Mutant("the average is not restored", RESTORE, (("trainer.averaged.load_state_dict(snapshot.ema)", "pass"),)),
    Mutant(
        "the optimizer's state is not restored",
        RESTORE,
        (('load_optimizer(trainer.optimizer, snapshot.state["optimizer"])', "pass"),),
        brief=True,
    ),
    Mutant(
        "the schedule is not restored",
        RESTORE,
        (('trainer.schedule.load_state_dict(snapshot.state["schedule"])', "pass"),),
        brief=True,
    ),
    Mutant(
        "the loss scale is not restored",
        RESTORE,
        (('trainer.precision.load_state_dict(snapshot.state["precision"])', "pass"),),
        words=FP16,
    ),
    Mutant(
        "early stopping forgets",
        RESTORE,
        (('trainer.early_stopping.load_state_dict(snapshot.state["stopping"])', "pass"),),
    ),
    Mutant(
        "the epoch's sums are not restored",
        RESTORE,
        (('trainer.meter.load_state_dict(snapshot.state["meter"])', "pass"),),
    ),
    Mutant(
        "the ranking of the best is not restored",
        "effbench.training.checkpoint:Checkpoints.restore",
        (("for value, name in ranking", "for value, name in ()"),),
    ),
    Mutant(
        "rows logged after the checkpoint stay",
        "effbench.run.session:TrainingSession._watchers",
        (("keep_rows_up_to(", "(lambda *_, **__: None)("),),
        brief=True,
    ),
    Mutant(
        "no digest is looked at",
        "effbench.training.checkpoint_files:read_manifest",
        (("_digest_of(folder / name) != digest", "False"),),
        "damage",
        brief=True,
    ),
    Mutant(
        "a damaged checkpoint ends the resume",
        "effbench.training.checkpoint_files:read_newest",
        (("complaints.append(str(error))", "raise"),),
        "damage",
    ),
    Mutant(
        "written in place, without a rename",
        WRITE,
        (
            ('temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")', "temporary = target"),
            ("if target.exists():", "if False:"),
            ("move(temporary, target)", "pass"),
            ("shutil.rmtree(temporary, ignore_errors=True)", "pass"),
        ),
        "save",
        brief=True,
    ),
    Mutant(
        "a link is removed and made anew",
        "effbench.disk:point",
        (("move(temporary, link)", "(link.unlink(missing_ok=True), move(temporary, link))"),),
        "save",
        brief=True,
    ),
    Mutant(
        "`last` moves before its checkpoint is there",
        SAVE,
        (("write_checkpoint(target,", '_link(self.folder / "last", target.name), write_checkpoint(target,'),),
        "save",
    ),
    Mutant(
        "older checkpoints go before the new one is there",
        SAVE,
        (("write_checkpoint(target,", "shutil.rmtree(self.folder), self.folder.mkdir(), write_checkpoint(target,"),),
        "save",
    ),
    Mutant("files are not synced", WRITE, (("_sync_file(path)", "pass"),), "order", brief=True),
    Mutant("the folder is not synced before its rename", WRITE, (("sync_folder(temporary)", "pass"),), "order"),
    Mutant(
        "the folder is not synced after the rename",
        WRITE,
        (("sync_folder(target.parent)", "pass"),),
        "order",
        brief=True,
    ),
)


# --- what must notice them


class Bench:
    """Runs that several mutants are tried on. Each check returns the first thing that is wrong, or None."""

    def __init__(self, folder: Path):
        self.folder, self._number = folder, 0

    def by_kills(self, mutant: Mutant) -> str | None:
        """Killed and resumed, every checkpoint on the way and the end must be the uninterrupted run's."""
        (reference, states), killed = self._kept(mutant) if not mutant.everywhere else self._own(mutant)
        work = self._place()
        met = work / "met"
        shutil.copytree(killed, work / "run", symlinks=True)
        met.mkdir()
        code, told = runs.finish(["resume=run"], work, mutant, runs.keeping_all(met))
        if code:
            return f"exit code {code}: {told[-500:]}"
        found = [text for path in sorted(met.iterdir()) for text in _differ(path, states / path.name)]
        return next(iter([*found, *runs.mismatches(work / "run", reference)]), None)

    def _kept(self, mutant: Mutant) -> tuple[tuple[dict[str, Any], Path], Path]:
        return self._uninterrupted(mutant.words), self._killed(mutant.words)

    def _own(self, mutant: Mutant) -> tuple[tuple[dict[str, Any], Path], Path]:
        config = (*CONFIG, *mutant.words)
        return runs.uninterrupted(self._place(), mutant, config=config), self._die(config, mutant)

    @cache  # noqa: B019 - as long as its bench
    def _uninterrupted(self, words: tuple[str, ...] = ()) -> tuple[dict[str, Any], Path]:
        return runs.uninterrupted(self._place(), config=(*CONFIG, *words))

    @cache  # noqa: B019
    def _killed(self, words: tuple[str, ...]) -> Path:
        return self._die((*CONFIG, *words))

    def _die(self, config: Sequence[str], *hooks: Hook) -> Path:
        work = self._place()
        code, told = runs.finish([*config, "hydra.run.dir=run"], work, *hooks, runs.dying_after_step(KILLED_AT))
        assert code == -9, told
        return work / "run"

    def by_damage(self, mutant: Mutant) -> str | None:
        """A bit of the newest weights flipped."""

        def flip(checkpoint: Path) -> Path:
            path = checkpoint / "model.safetensors"
            path.write_bytes(damage.flipped(path, path.stat().st_size - 2, 6))
            return path

        return self._fallback.fault(flip, mutant)

    @cached_property
    def _fallback(self) -> damage.Fallback:
        return damage.Fallback(self._place(), self._uninterrupted()[0])

    def by_save(self, mutant: Mutant) -> str | None:
        """Killed after each call of a save that makes, names or removes something, until one is not survived."""
        with self._scenario(mutant) as scenario:
            for number, call in enumerate(scenario.listed(), start=1):
                if call.name in TELLING and (found := scenario.killed_and_left(number, after=True)):
                    return f"after {call.name} {Path(call.path).name}: {found[0]}"
        return None

    def by_order(self, mutant: Mutant) -> str | None:
        """What a power cut would ask for."""
        with self._scenario(mutant) as scenario:
            return next(iter(system_calls.order_faults(scenario.listed())), None)

    def _scenario(self, mutant: Mutant) -> closing[system_calls.Scenario]:
        return closing(system_calls.Scenario(self._before, self._place(), *self._uninterrupted(), mutant))

    @cached_property
    def _before(self) -> Path:
        return system_calls.before_the_save("next", self._place())

    def _place(self) -> Path:
        self._number += 1
        place = self.folder / f"{self._number}"
        place.mkdir(parents=True)
        return place


def _differ(path: Path, expected: Path) -> list[str]:
    if not expected.exists():
        return [f"{path.name} is no checkpoint of the uninterrupted run"]
    return list(runs.differences(runs.content(path), runs.content(expected), path.name))


CHECKS: dict[str, Callable[[Bench, Mutant], str | None]] = {
    "kills": Bench.by_kills,
    "damage": Bench.by_damage,
    "save": Bench.by_save,
    "order": Bench.by_order,
}


def tried(mutant: Mutant, bench: Bench) -> dict[str, Any]:
    """A row of the table."""
    begun = time.perf_counter()
    noticed = CHECKS[mutant.check](bench, mutant) if mutant.applies() else None
    print(f"{'caught' if noticed else 'not caught':<10}  {mutant.name}", file=sys.stderr, flush=True)
    seconds = round(time.perf_counter() - begun, 1)
    row = {"mutant": mutant.name, "check": mutant.check, "caught": noticed is not None}
    return {**row, "by": noticed and noticed.replace(f"{bench.folder}/", ""), "seconds": seconds}


def mutants(folder: Path, brief: bool = False) -> dict[str, Any]:
    """The table as JSON; all of it, or the `brief` ones."""
    begun = time.perf_counter()
    bench = Bench(folder)
    blamed = [tried(mutant, bench) for mutant in UNCHANGED if mutant.brief or not brief]
    table = [tried(mutant, bench) for mutant in MUTANTS if mutant.brief or not brief]
    return {
        "mutants": len(table),
        "caught": sum(row["caught"] for row in table),
        "table": table,
        "unchanged": blamed,
        "seconds": round(time.perf_counter() - begun, 1),
    }


def main(argv: Sequence[str] | None = None) -> int:
    parser = runs.options("tests.torture.mutants", __doc__)
    parser.add_argument("--brief", action="store_true", help="those that the tests try")
    chosen = parser.parse_args(argv)
    with runs.workplace(chosen.folder) as folder:
        result = mutants(folder, chosen.brief)
    runs.report(result, chosen.json)
    blamed = any(row["caught"] for row in result["unchanged"])
    return 0 if result["caught"] == result["mutants"] and not blamed else 1


if __name__ == "__main__":
    sys.exit(main())
