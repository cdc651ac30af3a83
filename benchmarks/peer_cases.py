"""What reliability_peer.py does to a run: kills, damage, a folder that cannot be written, a second run, hostile input.

Each function takes a Side and returns plain counts; the texts are made of nothing else.
"""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import random
import shutil
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch
import yaml
from peer_sides import Effbench, Ended, Lightning, Side, difference
from safetensors.torch import load_file
from torch import Tensor

KILLED_AT = 50  # leaves a checkpoint of step 48, and an older one
ATTEMPTS = 60  # a run that needs more makes no progress
NOBODY = 65534
BESIDE_S = 15.0  # how long a second run is watched
SENTINEL = "sentinel"


@dataclass
class Reference:
    """The uninterrupted run: what it ends with, how long it takes; `equal` says that a second one ended alike."""

    state: dict[str, Tensor]
    seconds: float
    equal: bool


def finished(ended: Ended) -> Ended:
    """Raises where a run that nothing disturbs fails: no comparison would mean anything."""
    if ended.code:
        raise RuntimeError(f"an undisturbed run fails with {ended.code}:\n{ended.told[-3000:]}")
    return ended


def reference(side: Side, work: Path, count: int = 3) -> Reference:
    """The first of the runs also tells the host what is imported late; its time does not count."""
    seconds, states = [], []
    for number in range(count):
        cwd = work / f"control-{number}"
        seconds.append(finished(side.host.run(side.words(cwd), cwd, modules=str(work / "modules.json"))).seconds)
        states.append(side.state(cwd / "run"))
    equal = all(difference(states[0], other) is None for other in states[1:])
    return Reference(states[0], median(seconds[1:]), equal)


def killed_run(side: Side, cwd: Path, at: int = KILLED_AT, every: int = 3) -> Path:
    """A run that SIGKILL ended after step `at`, before that step was saved."""
    ended = side.host.run(side.words(cwd, every), cwd, die_after=at)
    if ended.code != -9:
        raise RuntimeError(f"not killed at step {at} but ended with {ended.code}:\n{ended.told[-3000:]}")
    return cwd / "run"


# --- 1 and 13: killed and resumed


def kills(side: Side, work: Path, wanted: int, seed: int, undisturbed: Reference) -> dict[str, Any]:
    """SIGKILL at moments uniform in the time of an uninterrupted run; each run is resumed until it ends by itself."""
    draw, tally, largest = random.Random(seed), Counter[str](), 0.0
    while tally["kills"] < wanted:
        cwd = work / f"killed-{tally['runs']}"
        tally["runs"] += 1
        killed = 0
        for _ in range(ATTEMPTS):
            side.host.start(side.words(cwd), cwd)
            left_alone = tally["kills"] >= wanted
            ended = side.host.wait(draw.uniform(0, undisturbed.seconds)) if not left_alone else side.host.wait()
            if ended.code != -9:
                break
            killed += 1
            tally["kills"] += 1
            whole = list(side.readable(cwd / "run").values())
            tally.update(checkpoints_read=len(whole), corrupt=whole.count(False), newest_corrupt=whole[-1:] == [False])
        tally["runs_killed"] += killed > 0
        if ended.code != 0:
            tally["failed"] += 1
        elif killed:
            apart = difference(side.state(cwd / "run"), undisturbed.state)
            tally["runs_equal"] += apart is None
            largest = max(largest, apart or 0.0)
    keys = (
        "kills", "runs_killed", "runs_equal", "corrupt", "newest_corrupt", "failed", "checkpoints_read",
    )  # fmt: skip
    return {**_counts(tally, *keys), "largest": largest}


def mid_epoch(side: Side, work: Path, steps: Sequence[int], undisturbed: Reference) -> dict[str, Any]:
    """A checkpoint every step; killed in step k + 1, so that the resume begins with the checkpoint of step k."""
    tally, largest = Counter[str](), 0.0
    for step in steps:
        cwd = work / f"batch-{step}"
        killed_run(side, cwd, step + 1, every=1)
        ended = side.host.run(side.words(cwd, every=1), cwd)
        tally["tried"] += 1
        tally["failed"] += ended.code != 0
        if ended.code == 0:
            apart = difference(side.state(cwd / "run"), undisturbed.state)
            tally["equal"] += apart is None
            largest = max(largest, apart or 0.0)
    return {**_counts(tally, "tried", "equal", "failed"), "largest": largest}


# --- 3 and 4: damaged checkpoints


def flips(side: Side, work: Path, count: int, seed: int) -> dict[str, Any]:
    """One bit of the newest checkpoint: one in each of `count` equal stretches of all its bytes."""
    return _damaged(side, work / "flips", lambda files: _flips(files, count, random.Random(seed)))


def cuts(side: Side, work: Path, count: int) -> dict[str, Any]:
    """Each file of the newest checkpoint cut to `count` shares of its length, from 0 to 99 %."""
    shares = [round(99 * number / (count - 1)) for number in range(count)]
    return _damaged(
        side,
        work / "cuts",
        lambda files: ((name, old[: len(old) * share // 100]) for name, old in files.items() for share in shares),
    )


def _flips(files: dict[str, bytes], count: int, draw: random.Random) -> Iterator[tuple[str, bytes]]:
    total = sum(map(len, files.values()))
    for part in range(count):
        offset = int((part + draw.random()) * total / count)
        for name, old in files.items():
            if offset < len(old):
                new = bytearray(old)
                new[offset] ^= 1 << draw.randrange(8)
                yield name, bytes(new)
                break
            offset -= len(old)


def _damaged(
    side: Side, work: Path, damages: Callable[[dict[str, bytes]], Iterator[tuple[str, bytes]]]
) -> dict[str, Any]:
    """The same killed run, resumed once for each damage, and once without any to compare with."""
    killed = killed_run(side, work / "killed")
    good = _resumed(side, killed, work / "good", None)
    expected = side.state(finished(good) and work / "good" / "run")
    tally, largest, errors = Counter[str](), 0.0, Counter[str]()
    for name, content in damages({path.name: path.read_bytes() for path in side.newest(killed)}):
        cwd = work / "damaged"
        ended = _resumed(side, killed, cwd, (name, content))
        named = name in ended.complaint
        tally["tried"] += 1
        tally["named"] += named
        tally["named_elsewhere"] += not named and ended.code != 0 and name in ended.told
        if ended.code != 0:
            tally["stopped_named" if named else "stopped_unnamed"] += 1
            errors[ended.error] += 1
            continue
        apart = difference(side.state(cwd / "run"), expected)
        tally["finished_named" if named else "silent"] += 1
        tally["finished_equal" if named else "silent_equal"] += apart is None
        largest = max(largest, apart or 0.0)
    keys = (
        "tried", "named", "named_elsewhere", "stopped_named", "stopped_unnamed", "finished_named", "finished_equal",
        "silent", "silent_equal",
    )  # fmt: skip
    return {**_counts(tally, *keys), "largest": largest, "errors": dict(errors.most_common())}


def _resumed(side: Side, killed: Path, cwd: Path, damage: tuple[str, bytes] | None) -> Ended:
    shutil.rmtree(cwd, ignore_errors=True)
    run = Path(shutil.copytree(killed, cwd / "run", symlinks=True))
    if damage is not None:
        [path] = [path for path in side.newest(run) if path.name == damage[0]]
        path.write_bytes(damage[1])
    return side.host.run(side.words(cwd), cwd)


# --- 7: a folder that cannot be written


def read_only(side: Side, work: Path) -> dict[str, Any]:
    """A new run in a folder that forbids writing; a new and a resumed one whose checkpoints' folder forbids it.

    Root, to whom nothing is forbidden, runs them as nobody.
    """
    (work / "new" / "run").mkdir(parents=True)
    (work / "half" / "run" / "checkpoints").mkdir(parents=True)
    killed_run(side, work / "killed")
    closed = {
        "run folder": work / "new" / "run",
        "checkpoints folder": work / "half" / "run" / "checkpoints",
        "checkpoints folder of a run to resume": work / "killed" / "run" / "checkpoints",
    }
    return {name: _in_closed(side, work / path.relative_to(work).parts[0], path) for name, path in closed.items()}


def _in_closed(side: Side, cwd: Path, closed: Path) -> dict[str, Any]:
    user = NOBODY if os.geteuid() == 0 else None
    if user is not None:
        for path in (cwd, *cwd.rglob("*")):
            os.chown(path, user, user, follow_symlinks=False)
    closed.chmod(0o555)
    before = set(side.readable(cwd / "run"))
    ended = side.host.run(side.words(cwd), cwd, uid=user, count=True)
    closed.chmod(0o755)
    return {
        "code": ended.code,
        "steps": ended.steps,
        "saved": len(set(side.readable(cwd / "run")) - before),
        "error": ended.error if ended.code else "",
        "traceback": "Traceback" in ended.told,
    }


# --- 23: two runs in one folder


def second_run(side: Side, work: Path) -> dict[str, Any]:
    """The same command again in the folder of a run that is at work."""
    cwd = work / "shared"
    endless = 1_000_000
    side.host.start(side.words(cwd, steps=endless), cwd)
    first = side.host.pid
    _wait_for(lambda: any(side.readable(cwd / "run").values()))
    commands = [side.words(cwd, steps=endless)]
    if isinstance(side, Effbench):
        commands.append(["train", *side.begin(steps=endless)])
    results = []
    for words in commands:
        side.spare.start(words, cwd)
        ended = side.spare.wait(BESIDE_S)
        results.append(
            {
                "refused": ended.code not in (0, -9) and ended.epochs == 0,
                "error": ended.error if ended.code not in (0, -9) else "",
                "code": ended.code,
                "pid_named": str(first) in ended.complaint,
                "host_named": socket.gethostname() in ended.complaint,
                "epochs": ended.epochs,
            }
        )
    alive = Path(f"/proc/{first}").exists()
    if alive:
        os.kill(first, 9)
    whole = side.readable(cwd / "run")
    return {
        "commands": results,
        "first_goes_on": alive and side.host.wait().code == -9,
        "corrupt": list(whole.values()).count(False),
    }


def _wait_for(condition: Callable[[], bool], timeout_s: float = 60.0) -> None:
    end = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > end:
            raise RuntimeError("the first run saves nothing")
        time.sleep(0.1)


# --- 40: hostile input

# What a name in a config may lead to, and its arguments. `evil` lies where a user keeps own modules; even importing it
# is told.
TARGETS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("os.system", {"command": f"touch {SENTINEL}"}),
    ("posix.system", {"command": f"touch {SENTINEL}"}),
    ("logging.os.system", {"command": f"touch {SENTINEL}"}),
    ("subprocess.Popen", {"args": ["touch", SENTINEL]}),
    ("subprocess.call", {"args": ["touch", SENTINEL]}),
    ("builtins.exec", {"source": f"open({SENTINEL!r}, 'w').close()"}),
    ("builtins.open", {"file": SENTINEL, "mode": "w"}),
    ("logging.FileHandler", {"filename": SENTINEL}),
    ("evil.Thing", {}),
    ("evil.touch", {}),
)
IMPORTED = "imported"
EVIL_MODULE = f"""open({IMPORTED!r}, "w").close()
def touch(*_, **__): open({SENTINEL!r}, "w").close()
class Thing: __init__ = touch
"""


class Evil:
    """A pickle that touches the sentinel when it is loaded."""

    def __init__(self, sentinel: Path):
        self._sentinel = sentinel

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch '{self._sentinel}'",)


def hostile_configs(side: Side, work: Path) -> dict[str, Any]:
    """Every target in every place of a config that names a class."""
    write = _effbench_configs if isinstance(side, Effbench) else _lightning_configs
    tally, where = Counter[str](), []
    cwd = work / "configs"
    cwd.mkdir(parents=True)
    (cwd / "evil.py").write_text(EVIL_MODULE)
    for place, target, words in write(cwd):
        for name in (SENTINEL, IMPORTED):
            (cwd / name).unlink(missing_ok=True)
        ended = side.host.run(words, cwd)
        executed = (cwd / SENTINEL).exists()
        refused = not executed and ended.code != 0
        named = refused and (target in ended.told or "_target_" in ended.told)  # the target, or the key that holds it
        tally.update(tried=1, executed=executed, refused=refused, named=named)
        tally["imported"] += not executed and (cwd / IMPORTED).exists()
        where += [f"{place}={target}"] if executed else []
        shutil.rmtree(cwd / "run", ignore_errors=True)
    return {**_counts(tally, "tried", "executed", "refused", "named", "imported"), "where": where}


def _effbench_configs(_: Path) -> Iterator[tuple[str, str, list[str]]]:
    for target, arguments in TARGETS:
        for place in ("model", "optimizer", "scheduler", "data"):
            more = [f"++{place}.{key}={_hydra(value)}" for key, value in arguments.items()]
            yield place, target, [*_EFFBENCH_SHORT, f"++{place}._target_={target}", *more]
        call = ",".join([f"_target_:{target}", *(f"{key}:{_hydra(value)}" for key, value in arguments.items())])
        yield "nested", target, [*_EFFBENCH_SHORT, f"++model.channels=[{{{call}}}]"]


_EFFBENCH_SHORT = ["train", *Effbench.CONFIG, "hydra.run.dir=run", "trainer.max_steps=2", "scheduler.warmup=1"]


def _hydra(value: Any) -> str:
    return f"[{','.join(map(_hydra, value))}]" if isinstance(value, list) else json.dumps(value)


def _lightning_configs(cwd: Path) -> Iterator[tuple[str, str, list[str]]]:
    model, data = {"class_path": "peer_lightning.TinyCnn"}, {"class_path": "peer_lightning.Images"}
    for target, arguments in TARGETS:
        thing: dict[str, Any] = {"class_path": target, "init_args": arguments}
        places: dict[str, dict[str, Any]] = {
            "model": {"model": thing, "data": data},
            "data": {"model": model, "data": thing},
            "callbacks": {"model": model, "data": data, "trainer": {"callbacks": [thing]}},
            "logger": {"model": model, "data": data, "trainer": {"logger": thing}},
            "optimizer": {"model": {**model, "init_args": {"optimizer": thing}}, "data": data},
        }
        for place, config in places.items():
            yield place, target, _lightning_cli(cwd, config)


def _lightning_cli(cwd: Path, config: dict[str, Any]) -> list[str]:
    trainer = {"max_steps": 2, "accelerator": "cpu", "default_root_dir": "run", "enable_progress_bar": False}
    (cwd / "config.yaml").write_text(yaml.safe_dump({**config, "trainer": {**trainer, **config.get("trainer", {})}}))
    return ["cli", "fit", "--config=config.yaml"]


def honest_config(side: Side, work: Path) -> None:
    """Raises where the way that the hostile ones take is closed to one in order: a refusal would mean nothing."""
    cwd = work / "honest"
    cwd.mkdir(parents=True)
    words = [*_EFFBENCH_SHORT, "++model._target_=effbench.models.cnn.cnn"]
    if isinstance(side, Lightning):
        optimizer = {"class_path": "torch.optim.AdamW", "init_args": {"lr": 0.01}}
        model = {"class_path": "peer_lightning.TinyCnn", "init_args": {"optimizer": optimizer}}
        words = _lightning_cli(cwd, {"model": model, "data": {"class_path": "peer_lightning.Images"}})
    finished(side.host.run(words, cwd))


def hostile_checkpoints(side: Side, work: Path) -> dict[str, Any]:
    """A pickle in the checkpoint, digests in order; through each loader, in torch's two formats and a bare pickle."""
    runs = {"resume": killed_run(side, work / "killed"), "load": work / "whole" / "run"}
    finished(side.host.run(side.words(work / "whole"), work / "whole"))
    tally, errors = Counter[str](), Counter[str]()
    for form in (None, *FORMS):
        for loader, source in runs.items():
            cwd = work / f"pickle-{form}-{loader}".replace(" ", "-")
            run, sentinel = Path(shutil.copytree(source, cwd / "run", symlinks=True)), cwd / SENTINEL
            if form is None:  # in order: it must load, or a refusal means nothing
                finished(side.host.run(_reading(side, run, loader), cwd))
                continue
            _poison(side, run, form, sentinel, loader)
            if sentinel.exists():
                raise RuntimeError("making the pickle has run it")
            ended = side.host.run(_reading(side, run, loader), cwd)
            executed = sentinel.exists()
            tally.update(tried=1, executed=executed, refused=not executed and ended.code != 0)
            errors[ended.error] += ended.code != 0
    return {**_counts(tally, "tried", "executed", "refused"), "errors": dict(errors)}


FORMS = ("zip", "legacy", "bare", "amid tensors")


def _reading(side: Side, run: Path, loader: str) -> list[str]:
    """The command that resumes, or that loads the weights alone."""
    if isinstance(side, Lightning):
        return side.words(run.parent) if loader == "resume" else ["load", str(run / "checkpoints" / "last.ckpt")]
    return ["train", "resume=run"] if loader == "resume" else ["eval", "run", "checkpoint=last"]


def _poison(side: Side, run: Path, form: str, sentinel: Path, loader: str) -> None:
    """In the file that the loader reads; in effbench in each checkpoint, as one more would be at hand."""
    if isinstance(side, Lightning):
        path = run / "checkpoints" / "last.ckpt"
        _write_evil(path, form, sentinel, torch.load(path, weights_only=False))
        return
    for checkpoint in (run / "checkpoints").glob("step-*"):
        path = checkpoint / ("state.pt" if loader == "resume" else "model.safetensors")
        content = torch.load(path, weights_only=True) if loader == "resume" else load_file(path)
        _write_evil(path, form, sentinel, content)
        _vouch(checkpoint)


def _write_evil(path: Path, form: str, sentinel: Path, content: dict[str, Any]) -> None:
    evil = Evil(sentinel)
    if form == "bare":
        path.write_bytes(pickle.dumps({"more": evil}, protocol=2))
    elif form == "amid tensors":
        torch.save({**content, "more": [torch.zeros(2), {"a": evil}]}, path)
    else:
        torch.save({"more": evil}, path, _use_new_zipfile_serialization=form == "zip")


def _vouch(checkpoint: Path) -> None:
    """The manifest speaks for the files as they are now, and for itself."""
    path = checkpoint / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["sha256"] = {
        name: hashlib.sha256((checkpoint / name).read_bytes()).hexdigest() for name in manifest["sha256"]
    }
    manifest.pop("digest", None)
    manifest["digest"] = hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()
    path.write_text(json.dumps(manifest))


def pickles_do_run(work: Path) -> None:
    """Raises where the trap itself is broken: loaded with trust, each form must spring it."""
    for form in FORMS:
        path, sentinel = work / f"trap-{form}.pt", work / f"trap-{form}"
        _write_evil(path, form, sentinel, {"weight": torch.zeros(2)})
        with suppress(Exception):
            pickle.loads(path.read_bytes()) if form == "bare" else torch.load(path, weights_only=False)
        if not sentinel.exists():
            raise RuntimeError(f"the pickle '{form}' does nothing when it is loaded")


def _counts(tally: Counter[str], *keys: str) -> dict[str, int]:
    return {key: tally[key] for key in keys}
