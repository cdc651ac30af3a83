"""Memory that a step has freed is the next step's, while a training lasts.

White-box: asks for glibc's own settings.
"""

from __future__ import annotations

import resource
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch

from effbench.training.malloc import _glibc, keeping_freed_memory
from tests.commandline import script

BLOCKS, STEPS, MB = 5, 4, 2**20
FAULTS = STEPS * BLOCKS * 40 * MB / resource.getpagesize() / 600  # of fresh memory; in huge pages, at the most
pytestmark = pytest.mark.skipif(_glibc() is None, reason="the C library is not glibc")


def faults_of_steps(keeping: bool, device: str = "cpu") -> int:
    """Page faults of STEPS steps that each fill and free five blocks of 40 MB: above every threshold of glibc's."""
    with keeping_freed_memory(torch.device(device)) if keeping else nullcontext():
        for _ in range(3):  # until the blocks have found their places
            step()
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        for _ in range(STEPS):
            step()
        return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


def step() -> None:
    blocks = [torch.zeros(10 * MB) for _ in range(BLOCKS)]
    assert sum(float(block[-1]) for block in blocks) == 0.0


def resident() -> int:
    with open("/proc/self/statm") as stream:  # noqa: PTH123 - not a file of ours
        return int(stream.read().split()[1]) * resource.getpagesize()


def in_a_fresh_process(*lines: str) -> list[int]:
    """The numbers that these lines print there: other tests leave the heap of this process in pieces."""
    code = "\n".join(["from tests.training.test_malloc import *", *lines])
    done = script(code, cwd=Path(__file__).parents[2])
    assert done.returncode == 0, done.stderr
    return [int(word) for word in done.stdout.split()]


def resident_around_a_step() -> tuple[int, int, int]:
    """Bytes before the training, after its step, after its end."""
    before = resident()
    with keeping_freed_memory(torch.device("cpu")):
        step()
        during = resident()
    return before, during, resident()


@pytest.mark.process
def test_a_step_meets_memory_it_has_touched_before():
    usual, kept = in_a_fresh_process("print(faults_of_steps(False))", "print(faults_of_steps(True))")
    assert usual > FAULTS
    assert kept < usual / 20


@pytest.mark.proof
@pytest.mark.process
def test_memory_is_returned_at_the_end():
    lines = ("print(*resident_around_a_step())", "print(faults_of_steps(False), faults_of_steps(True))")
    before, during, after, usual, kept = in_a_fresh_process(*lines)
    assert during > before + 150 * MB
    assert after < before + 50 * MB
    assert usual > 20 * kept


@pytest.mark.proof
@pytest.mark.process
def test_settings_of_the_user_and_other_devices_change_nothing():
    with_each = 'with pytest.MonkeyPatch.context() as patch:\n    patch.setenv("{}", "1"); print(faults_of_steps(True))'
    with_variables = [with_each.format(name) for name in ("MALLOC_MMAP_MAX_", "LD_PRELOAD", "GLIBC_TUNABLES")]
    found = in_a_fresh_process(*with_variables, 'print(faults_of_steps(True, "meta"))')
    assert len(found) == 4
    assert min(found) > FAULTS


@pytest.mark.process
def test_training_keeps_memory_between_steps(tmp_path):
    words = ["model=mlp", "data=synthetic", "data.num_train=64", "debug=smoke", "hydra.run.dir=run"]
    code = (
        "import sys, torch\n"
        "from effbench.training import malloc, trainer\n"
        "seen = []\n"
        "usual = malloc._set\n"
        "malloc._set = lambda libc, options: (seen.append(options), usual(libc, options))\n"
        "from effbench import cli\n"
        f"code = cli.main(['train', *{words!r}])\n"
        "assert seen == [malloc._KEEPING, malloc._USUAL], seen\n"
        "sys.exit(code)\n"
    )
    done = script(code, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
