"""The collector's rest while libraries are imported."""

from __future__ import annotations

import gc
from contextlib import suppress
from pathlib import Path

import pytest

from effbench.gc_pause import uncollected
from tests.commandline import python


@pytest.mark.parametrize("on", [True, False])
def test_the_garbage_collector_state_is_restored(on: bool) -> None:
    (gc.enable if on else gc.disable)()
    try:
        with suppress(KeyError), uncollected():
            assert not gc.isenabled()
            raise KeyError
        assert gc.isenabled() == on
    finally:
        gc.enable()


@pytest.mark.proof
@pytest.mark.process
def test_only_the_import_of_torch_freezes_existing_objects(tmp_path: Path) -> None:
    code = """
import gc
from effbench.gc_pause import uncollected
with uncollected():
    import json
before = gc.get_freeze_count()
with uncollected():
    import torch
first = gc.get_freeze_count()
with uncollected():
    kept = [[] for _ in range(1000)]
print(before, first > 10_000, gc.get_freeze_count() <= first)
"""
    done = python("-c", code, cwd=tmp_path)
    assert done.stdout.split() == ["0", "True", "True"], done.stderr
