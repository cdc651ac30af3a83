"""One save killed before and after each of its system calls: python -m tests.torture.system_calls

Three saves are tried. `first`: a run's first. `next`: a validation's save, which moves both links and forgets older
checkpoints. `again`: a resumed run validates at the step it was interrupted at, and writes the checkpoint that `last`
names once more.

By Python: the calls of os and of file objects that change the file system are wrapped, the process kills itself at the
k-th. By strace, where it is installed: the kernel delivers SIGKILL on entry of the k-th real call, so that what Rust
and C++ do within safetensors and torch.save is covered too.
"""

from __future__ import annotations

import builtins
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

from effbench.training import checkpoint_files
from effbench.training.callbacks import Progress
from tests.patience import patience
from tests.torture import runs
from tests.torture.runs import CONFIG, Hook

# What can change a disk, or decides whether a change is durable. Reading calls leave nothing to survive.
OS_CALLS = (
    "mkdir", "rename", "replace", "symlink", "link", "unlink", "remove", "rmdir", "open", "close", "write", "pwrite",
    "truncate", "ftruncate", "fsync", "fdatasync", "chmod", "utime",
)  # fmt: skip
KERNEL_CALLS = (
    "openat", "open", "creat", "write", "pwrite64", "writev", "pwritev", "ftruncate", "fallocate", "copy_file_range",
    "sendfile", "fsync", "fdatasync", "msync", "close", "mkdir", "mkdirat", "rename", "renameat", "renameat2", "link",
    "linkat", "symlink", "symlinkat", "unlink", "unlinkat", "rmdir", "chmod", "fchmod", "fchmodat", "utimensat",
)  # fmt: skip
SHOWN = 5  # faults told of one kill
ANEW = (*CONFIG, "hydra.run.dir=run")
EPOCH_END = 48  # the save of this step moves `last` and `best`, and forgets two checkpoints


@dataclass(frozen=True)
class Call:
    """name: what was called. path: on what, absolute where it is known. to: where a rename leads. reads: an open."""

    name: str
    path: str
    to: str = ""
    reads: bool = False


@dataclass
class Killing:
    """Wraps calls while a save lasts: notes each, and kills this process before or after number `at` (from 1)."""

    at: int | None = None
    after: bool = False
    calls: list[Call] = field(default_factory=list)
    _paths: dict[int, str] = field(default_factory=dict)  # of open descriptors

    def install(self) -> None:
        for name in OS_CALLS:
            setattr(os, name, self._around(name, getattr(os, name)))
        checkpoint_files.save_file = self._around("save_file", checkpoint_files.save_file, 1)  # type: ignore[attr-defined]
        opened = self._opened(io.open)
        io.open = builtins.open = opened  # type: ignore[assignment]

    def call(self, name: str, path: Any, run: Callable[[], Any], to: Any = "", reads: bool = False) -> Any:
        self.calls.append(Call(name, self._absolute(path), self._absolute(to), reads))
        number = len(self.calls)
        if number == self.at and not self.after:
            os.kill(os.getpid(), signal.SIGKILL)
        try:
            return run()
        finally:
            if number == self.at:
                os.kill(os.getpid(), signal.SIGKILL)

    def _around(self, name: str, function: Callable[..., Any], path_at: int = 0) -> Callable[..., Any]:
        def wrapped(*args: Any, **options: Any) -> Any:
            folder = options.get("dir_fd")
            path = args[path_at] if folder is None else f"{self._paths.get(folder, '?')}/{args[path_at]}"
            to = args[1] if name in ("rename", "replace", "symlink", "link") else ""
            reads = name == "open" and not args[1] & (os.O_WRONLY | os.O_RDWR)
            result = self.call(name, path, lambda: function(*args, **options), to, reads)
            if name == "open":
                self._paths[result] = self._absolute(path)
            return result

        return wrapped

    def _opened(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(file: Any, mode: str = "r", *args: Any, **options: Any) -> Any:
            if not set(mode) & set("wax+"):
                return function(file, mode, *args, **options)
            stream = self.call("open", file, lambda: function(file, mode, *args, **options))
            self._paths[stream.fileno()] = self._absolute(file)
            return _Stream(stream, file, self)

        return wrapped

    def _absolute(self, path: Any) -> str:
        if isinstance(path, int):
            return self._paths.get(path, f"descriptor {path}")
        return str(Path.cwd() / os.fsdecode(path)) if path else ""


class _Stream:
    """A file whose every write reaches the kernel by itself, so that each prefix of the file is met."""

    def __init__(self, stream: Any, path: Any, killing: Killing):
        self._stream, self._path, self._killing = stream, path, killing

    def write(self, data: Any) -> int:
        def through() -> int:
            count = self._stream.write(data)
            self._stream.flush()
            return int(count)

        return int(self._killing.call("write", self._path, through))

    def close(self) -> None:
        self._killing.call("close", self._path, self._stream.close)

    def __enter__(self) -> _Stream:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


# --- the save under test


class ForkServer:
    """A process that stands before the save under test, and forks one after another that goes through it.

    Each of those works in a folder of its own, a copy of the run as it is at that moment (paths of a run are relative
    to where the command was called). Its end, or its kill, is told by the fork server.
    """

    def __init__(self, words: Sequence[str], work: Path, *hooks: Hook):
        self.run = work / "run"
        self._asked, self._asks = os.pipe()
        self._answers, self._answered = os.pipe()
        self._pid = -1
        self._child = runs.start(words, work, *hooks, self._hook)  # first what changes the code, then what wraps it
        os.close(self._answered)
        self._line()

    def pass_through(self, cwd: Path, at: int | None = None, after: bool = False, tracer: Tracer | None = None) -> int:
        """Exit code of a process that goes through the save in `cwd`, killed as told, or under `tracer`."""
        shutil.copytree(self.run, cwd / "run", symlinks=True)
        self._ask({"cwd": str(cwd), "at": at, "after": after, "traced": tracer is not None})
        pid = int(self._line())
        if tracer is None:
            return int(self._line())
        with tracer.attached(pid):
            os.write(self._asks, b"!")
            return int(self._line())

    def close(self) -> None:
        self._child.kill()
        for descriptor in (self._asked, self._asks, self._answers):
            os.close(descriptor)

    def _ask(self, question: dict[str, Any]) -> None:
        os.write(self._asks, json.dumps(question).encode() + b"\n")

    def _line(self) -> str:
        if text := _read_line(self._answers):
            return text
        raise AssertionError(f"the save under test never began: {self._child.told()}")

    def _hook(self, _: int) -> None:
        os.close(self._asks)
        os.close(self._answers)
        killing = Killing()

        def before(number: int) -> None:
            if number == 1:
                self._serve(killing)

        runs.around_saves(before, lambda *_: self._leave(killing))

    def _serve(self, killing: Killing) -> None:
        """Returns in a forked process only, to go through the save."""
        _answer(self._answered, "ready")
        while line := _read_line(self._asked):
            question = json.loads(line)
            pid = os.fork()
            if pid == 0:
                os.chdir(question["cwd"])
                if question["traced"]:
                    os.read(self._asked, 1)  # until the tracer is there
                else:
                    killing.at, killing.after = question["at"], question["after"]
                    killing.install()
                return
            _answer(self._answered, str(pid))
            _answer(self._answered, str(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])))
        os._exit(0)

    def _leave(self, killing: Killing) -> None:
        """The save has ended: what was called is told, and nothing else happens to the run."""
        calls, killing.at = list(killing.calls), None
        if calls:
            Path("calls.json").write_text(json.dumps([vars(call) for call in calls]))
        os._exit(0)


def _answer(descriptor: int, text: str) -> None:
    os.write(descriptor, f"{text}\n".encode())


def _read_line(descriptor: int) -> str:
    """Byte by byte: what follows the line is for somebody else. Empty at the end."""
    text = b""
    while (byte := os.read(descriptor, 1)) not in (b"", b"\n"):
        text += byte
    return text.decode()


def before_the_save(name: str, work: Path) -> Path | None:
    """A run whose next save, once resumed, is the one to test; None to begin with. `name` is one of SCENARIOS."""
    hook = SCENARIOS[name]
    if hook is None:
        return None
    code, told = runs.finish(ANEW, work, hook)
    assert code in (-9, 143), told
    return work / "run"


def _terminated(_: int) -> None:
    """SIGTERM in the epoch's last step: saved without its validation, which the resumed run makes up for."""

    def step_end(_: Any, context: Any) -> None:
        if context.state.step == EPOCH_END:
            os.kill(os.getpid(), signal.SIGTERM)

    Progress.step_end = step_end  # type: ignore[method-assign]


SCENARIOS: dict[str, Hook | None] = {
    "first": None,
    "next": runs.dying_after_step(EPOCH_END - 1),
    "again": _terminated,
}


class Scenario:
    """One save of one run, to be gone through and killed in again and again.

    before: the run as `before_the_save` left it. hooks: changes to the code under test.
    """

    def __init__(self, before: Path | None, work: Path, reference: dict[str, Any], states: Path, *hooks: Hook):
        self.work, self._reference, self._states, self._hooks = work, reference, states, hooks
        self._number = 0
        if before is not None:
            shutil.copytree(before, work / "run", symlinks=True)
        self._server = ForkServer(self._words(work), work, *hooks)
        self._resumed: dict[Any, list[str]] = {}
        self._before = {path.name: runs.content(path) for path in runs.committed(self._server.run)}

    def listed(self) -> list[Call]:
        """The calls of the save, which is let through."""
        cwd = self._place()
        code = self._server.pass_through(cwd)
        assert code == 0, f"the save ends with {code}"
        calls = [Call(**entry) for entry in json.loads((cwd / "calls.json").read_text())]
        shutil.rmtree(cwd)
        return calls

    def killed(self, at: int | None = None, after: bool = False, tracer: Tracer | None = None) -> list[str]:
        """What is wrong after a kill: with what is there, and with the run resumed to its end."""
        with self._kill(at, after, tracer) as (cwd, faults):
            return faults or [*self._faults_there(cwd / "run"), *self._faults_of_the_end(cwd)]

    def killed_and_left(self, at: int, after: bool) -> list[str]:
        """What is wrong with what is there after a kill."""
        with self._kill(at, after) as (cwd, faults):
            return faults or self._faults_there(cwd / "run")

    @contextmanager
    def _kill(self, at: int | None, after: bool, tracer: Tracer | None = None) -> Iterator[tuple[Path, list[str]]]:
        cwd = self._place()
        code = self._server.pass_through(cwd, at, after, tracer)
        yield cwd, [] if code == -9 else [f"not killed: exit code {code}"]
        shutil.rmtree(cwd)

    def traced(self, tracer: Tracer) -> Path:
        """The save under a tracer that kills nothing: where it worked."""
        cwd = self._place()
        code = self._server.pass_through(cwd, tracer=tracer)
        assert code == 0, f"the save ends with {code} under strace"
        return cwd

    @property
    def resumed(self) -> int:
        """How many runs were resumed to their end: one for each state of the folder that differs."""
        return len(self._resumed)

    def close(self) -> None:
        self._server.close()

    @staticmethod
    def _words(cwd: Path) -> Sequence[str]:
        """What a user says next: resume what there is, or the same command again."""
        return ["resume=run"] if runs.committed(cwd / "run") else ANEW

    def _place(self) -> Path:
        self._number += 1
        return self.work / f"{self._number}"

    def _faults_there(self, run: Path) -> list[str]:
        """With what is committed, and with the links."""
        found = runs.broken(run)
        links = ("last", "best") if self._before else ()  # there before the save: there at any moment of it
        found += [f"{name} is missing" for name in links if not (run / "checkpoints" / name).is_symlink()]
        for path in filter(runs.whole, runs.committed(run)):
            allowed = [runs.content(self._states / path.name), self._before.get(path.name)]
            if all(list(runs.differences(runs.content(path), state)) for state in allowed):
                found.append(f"{path.name} is neither the old nor the new one")
        return found

    def _faults_of_the_end(self, cwd: Path) -> list[str]:
        state = _signature(cwd / "run")
        if state not in self._resumed:
            code, told = runs.finish(self._words(cwd), cwd, *self._hooks)
            found = runs.mismatches(cwd / "run", self._reference) if code == 0 else [f"exit code {code}: {told}"]
            self._resumed[state] = found
        return self._resumed[state]


def _signature(run: Path) -> Any:
    """All that differs between two kills as far as a resumed run can tell: sizes of what is unfinished, too."""
    folder = run / "checkpoints"
    names = []
    for path in sorted(folder.rglob("*")):
        name = re.sub(r"\.\d+\.|(?<=/)\.tmp\w+", ".", str(path.relative_to(folder)))
        unfinished = name.startswith(".") and path.is_file()
        names.append((name, path.is_symlink() and str(path.readlink()), unfinished and path.stat().st_size))
    committed = tuple((path.name, runs.whole(path)) for path in runs.committed(run))
    return tuple(sorted(names)), committed, (run / "summary.json").exists(), runs.steps_logged(run)


def moments(calls: Sequence[Call]) -> list[tuple[int, bool]]:
    """(number, after) of every kill to be tried."""
    return [(number, after) for number in range(1, len(calls) + 1) for after in (False, True)]


def by_python(scenario: Scenario, every: int, every_write: int) -> dict[str, Any]:
    """Kills before each call and after it, or at every n-th of those moments; writes, being many, have their own n."""
    calls = scenario.listed()
    writes = [moment for moment in moments(calls) if calls[moment[0] - 1].name == "write"]
    tried = [moment for moment in moments(calls) if moment not in writes][::every] + writes[::every_write]
    faults: dict[str, list[str]] = {}
    for number, after in tried:
        call = calls[number - 1]
        if found := scenario.killed(number, after):
            faults[f"{'after' if after else 'before'} call {number}: {call.name} {Path(call.path).name}"] = found[
                :SHOWN
            ]
    return _result(calls, len(tried), faults, scenario)


def _result(calls: Sequence[Call], kills: int, faults: dict[str, list[str]], scenario: Scenario) -> dict[str, Any]:
    return {
        "calls": len(calls),
        "by_name": dict(Counter(call.name for call in calls)),
        "kills": kills,
        "survived": kills - len(faults),
        "runs_resumed": scenario.resumed,
        "faults": faults,
        "order_faults": order_faults(calls),
    }


# --- what a power cut would ask for


def order_faults(calls: Sequence[Call]) -> list[str]:
    """Where the order write, fsync(file), rename, fsync(folder) is not kept. Kills cannot show it: the kernel lives.

    What is committed: a folder under a temporary name, renamed; links replaced by rename.
    """
    calls = _by_final_names(calls)
    renames = [(index, call) for index, call in enumerate(calls) if call.to and call.name in ("rename", "replace")]
    commits = [(index, call) for index, call in renames if Path(call.to).name.startswith("step-")]
    if len(commits) != 1:
        return [f"{len(commits)} renames to a checkpoint's name"]
    index, commit = commits[0]
    inside = {call.path for call in calls[:index] if _writes(call) and Path(call.path).parent == Path(commit.path)}
    faults = [] if inside else ["nothing was written before the rename"]
    for path in sorted([*inside, commit.path]):
        last_write = max((i for i, call in enumerate(calls[:index]) if _touches(call, path)), default=-1)
        if not any(call.name == "fsync" and call.path == path for call in calls[last_write + 1 : index]):
            faults.append(f"no fsync of {Path(path).name} between its last write and the rename")
    for at, call in renames:
        parent, name = str(Path(call.to).parent), Path(call.to).name
        following = next((c for c in calls[at + 1 :] if c.name in ("fsync", "rename", "replace")), None)
        if not name.startswith(".") and (following is None or (following.name, following.path) != ("fsync", parent)):
            faults.append(f"no fsync of the folder after the rename to {name}")
    return faults


def _by_final_names(calls: Sequence[Call]) -> list[Call]:
    """Without renames within the unfinished folder (safetensors does so): what was written has its later name."""
    within = {c.path: c.to for c in calls if c.name == "rename" and Path(c.to).parent.name.startswith(".step-")}
    return [replace(c, path=within.get(c.path, c.path)) for c in calls if not (c.to and c.path in within)]


def _writes(call: Call) -> bool:
    return call.name in ("write", "pwrite", "pwrite64", "writev", "pwritev", "save_file", "ftruncate", "fallocate")


def _touches(call: Call, path: str) -> bool:
    """Whether `call` changes the file at `path`, or puts a file into the folder there."""
    makes = call.name in ("open", "openat", "save_file") and str(Path(call.path).parent) == path
    return (makes and not call.reads) or (_writes(call) and call.path == path)


# --- by strace


class Tracer:
    """strace on a process that waits for it; the log holds a line a call, -y with the path behind each descriptor."""

    def __init__(self, log: Path, *options: str):
        self.log, self._command = log, ["strace", "-f", "-y", "-o", str(log), *options, "-p"]

    @contextmanager
    def attached(self, pid: int) -> Iterator[None]:
        command = [*self._command, str(pid)]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as tracer:
            deadline = time.monotonic() + patience(20)
            while "TracerPid:\t0\n" in Path(f"/proc/{pid}/status").read_text():
                if tracer.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError("strace cannot attach to a process here")
                time.sleep(0.002)
            yield


@cache
def has_strace() -> bool:
    """Installed, and allowed to attach to a process that is not its child."""
    if shutil.which("strace") is None:
        return False
    with subprocess.Popen(["sleep", "20"]) as process:
        try:
            with Tracer(Path(os.devnull), "-e", "trace=none").attached(process.pid):
                process.kill()  # strace ends with it
            return True
        except RuntimeError:
            return False
        finally:
            process.kill()


LINE = re.compile(r"^(?:\d+ +)?(?P<name>\w+)\((?P<arguments>.*)\) += ")


def kernel_calls(log: Path, cwd: Path) -> list[Call]:
    """strace's lines as calls."""
    matches = map(LINE.match, log.read_text(errors="replace").splitlines())
    return [_kernel_call(match["name"], match["arguments"], cwd) for match in matches if match]


def _kernel_call(name: str, arguments: str, cwd: Path) -> Call:
    descriptor = re.match(r"(?:AT_FDCWD|\d+)<(?P<path>[^>]*)>", arguments)
    base = Path(descriptor["path"]) if descriptor else cwd
    names = [] if "write" in name else re.findall(r'"((?:[^"\\]|\\.)*)"', arguments)
    paths = [str(base / text) for text in names] or [str(base)]
    reads = name.startswith("open") and "O_WRONLY" not in arguments and "O_RDWR" not in arguments
    plain = {"renameat": "rename", "renameat2": "rename", "symlinkat": "symlink", "mkdirat": "mkdir"}.get(name, name)
    return Call(plain, paths[0], paths[1] if len(paths) > 1 else "", reads)


def by_strace(scenario: Scenario, every: int) -> dict[str, Any]:
    """SIGKILL on entry of each real call; strace counts the calls of each name by themselves."""
    log = scenario.work / "strace.txt"
    names = ",".join(f"?{name}" for name in KERNEL_CALLS)  # ? lets those pass that this processor's kernel lacks
    cwd = scenario.traced(Tracer(log, "-e", f"trace={names}"))
    calls = kernel_calls(log, cwd)
    counts = Counter(match["name"] for line in log.read_text().splitlines() if (match := LINE.match(line)))
    tried = [(name, number) for name in counts for number in range(1, counts[name] + 1)][::every]
    faults: dict[str, list[str]] = {}
    for name, number in tried:
        killer = Tracer(log, "-e", f"trace={name}", "-e", f"inject={name}:signal=SIGKILL:when={number}")
        if found := scenario.killed(tracer=killer):
            faults[f"{name} {number}"] = found[:SHOWN]
    order = [_short(call, cwd) for call in calls if call.name in ("mkdir", "fsync", "rename") or _writes(call)]
    return {**_result(calls, len(tried), faults, scenario), "by_name": dict(counts), "order": order}


def _short(call: Call, cwd: Path) -> str:
    text = f"{call.path} -> {call.to}" if call.to else call.path
    return f"{call.name} " + text.replace(f"{cwd}/run/checkpoints", "checkpoints")


def system_calls(folder: Path, every: int = 1, every_write: int = 1, every_traced: int | None = 1) -> dict[str, Any]:
    """Every save of SCENARIOS, by Python and, unless `every_traced` is None or strace is not here, by strace."""
    begun = time.perf_counter()
    known = runs.uninterrupted(folder / "control")
    saves: dict[str, Any] = {}
    for name in SCENARIOS:
        before = before_the_save(name, folder / f"before-{name}")
        with closing(Scenario(before, folder / name, *known)) as scenario:
            saves[f"{name} by Python"] = by_python(scenario, every, every_write)
            if every_traced and has_strace():
                saves[f"{name} by strace"] = by_strace(scenario, every_traced)
        print(f"system calls of the save '{name}' done", file=sys.stderr)
    return {
        "kills": sum(save["kills"] for save in saves.values()),
        "survived": sum(save["survived"] for save in saves.values()),
        "order_faults": [fault for save in saves.values() for fault in save["order_faults"]],
        "saves": saves,
        "seconds": round(time.perf_counter() - begun, 1),
    }


def main(argv: Sequence[str] | None = None) -> int:
    parser = runs.options("tests.torture.system_calls", __doc__)
    parser.add_argument("--every", type=int, default=1, help="try every n-th moment only")
    parser.add_argument("--every-write", type=int, default=1, help="likewise of the writes within a file, by Python")
    parser.add_argument("--no-strace", action="store_true")
    chosen = parser.parse_args(argv)
    with runs.workplace(chosen.folder) as folder:
        every_traced = None if chosen.no_strace else chosen.every
        result = system_calls(folder, chosen.every, chosen.every_write, every_traced)
    runs.report(result, chosen.json)
    return 0 if result["survived"] == result["kills"] and not result["order_faults"] else 1


if __name__ == "__main__":
    sys.exit(main())
