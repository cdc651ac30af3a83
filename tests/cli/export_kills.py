"""Real exports, each killed (SIGKILL) at another of its calls that change the disk: python -m … OLD NEW FOLDER

OLD and NEW are runs of one model. In FOLDER the export of OLD lies already, or nothing, when that of NEW is killed;
afterwards NEW is exported once more. A process is forked for each from one that has imported everything and computed
nothing. Prints {"calls": [names], "kills": n, "faults": {moment: what is wrong}} as JSON.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

import torch

from effbench import cli
from effbench.export import files
from effbench.run import export
from effbench.run import lock as locking
from tests.torture.system_calls import Killing

NAME = "mlp-best.pt"


def exported(run: str, folder: Path, killing: Killing | None = None) -> int:
    """How the process that exports `run` ended; `killing` begins where its files do."""
    pid = os.fork()
    if pid:
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    code = 70
    try:
        quiet = os.open(folder.parent / "log.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(quiet, 1)
        os.dup2(quiet, 2)
        torch.set_num_threads(1)
        if killing is not None:
            files.publish_file = _from_here(killing, files.publish_file)  # type: ignore[assignment]
        code = cli.main(["export", run, "format=torchscript", f"output={folder}", "--json"])
        if killing is not None:
            (folder.parent / "calls.json").write_text(json.dumps([call.name for call in killing.calls]))
    except BaseException:  # noqa: BLE001 - a forked process must not return into its parent's code
        traceback.print_exc()
    finally:
        os._exit(code)


def _from_here(killing: Killing, put: Callable[..., object]) -> Callable[..., object]:
    def begun(*words: object) -> object:
        killing.install()
        return put(*words)

    return begun


def faults(folder: Path, whole: list[bytes], may_be_missing: bool) -> list[str]:
    """What a reader of the folder may trip over. whole: the contents that the file may have."""
    target, record = folder / NAME, folder / f"{NAME}.json"
    seen = {path.name for path in folder.iterdir() if not path.name.startswith(".")}
    found = [f"an unknown {name}" for name in sorted(seen - {target.name, record.name, f"{NAME}.README.md"})]
    if not target.exists():
        return found if may_be_missing and not record.exists() else [*found, "the file is gone"]
    content = target.read_bytes()
    if content not in whole:
        found.append(f"the file is neither the old nor the new one ({len(content)} bytes)")
    if record.exists() and json.loads(record.read_text())["sha256"] != hashlib.sha256(content).hexdigest():
        found.append("the record is not of the file beside it")
    return found


def after_a_kill(at: int, new: str, folder: Path, before: Path | None, contents: list[bytes]) -> list[str]:
    """One killed export into `folder`, which begins as a copy of `before`, and one that is left alone."""
    shutil.copytree(before, folder) if before else folder.mkdir()
    code = exported(new, folder, Killing(at))
    found = [] if code == -signal.SIGKILL else [f"exit code {code}, not killed"]
    found += faults(folder, contents, before is None)
    if (code := exported(new, folder)) != 0:
        found.append(f"exit code {code} of the next export")
    left = sorted(path.name for path in folder.iterdir())
    if left != [NAME, f"{NAME}.README.md", f"{NAME}.json"] or (folder / NAME).read_bytes() != contents[-1]:
        found.append(f"after the next export: {left}")
    shutil.rmtree(folder)
    return found


def main(old: str, new: str, work: Path) -> int:
    assert export.SAMPLES, locking.NAME == ".lock"  # both imported before the first fork
    work.mkdir()
    before, after = work / "old", work / "new"
    assert exported(old, before) == 0
    assert exported(new, after, Killing()) == 0
    calls = json.loads((work / "calls.json").read_text())
    contents = [(folder / NAME).read_bytes() for folder in (before, after)]
    assert contents[0] != contents[1]
    found = {
        f"{'replacing' if start else 'first'}, before call {at} ({calls[at - 1]})": after_a_kill(
            at, new, work / "killed", start, contents if start else contents[1:]
        )
        for start in (None, before)
        for at in range(1, len(calls) + 1)
    }
    told = {moment: wrong for moment, wrong in found.items() if wrong}
    print(json.dumps({"calls": calls, "kills": len(found), "faults": told}, indent=2))
    return int(bool(told))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2], Path(sys.argv[3])))
