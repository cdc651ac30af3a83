"""A study from the wheel, installed beside nothing else, in an empty folder."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.study.kills import WORDS, table_in

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with effbench from its wheel."""
    made, site = tmp_path_factory.mktemp("wheel"), tmp_path_factory.mktemp("site")
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    built = subprocess.run(
        [*pip, "wheel", "--no-deps", "--wheel-dir", str(made), str(ROOT)], check=False, capture_output=True, text=True
    )
    if "No matching distribution found for hatchling" in built.stderr:
        pytest.skip("the package index, from which the build takes hatchling, does not answer")
    assert built.returncode == 0, built.stderr
    [wheel] = made.glob("effbench-*.whl")
    subprocess.run([*pip, "install", "--no-deps", "--target", str(site), str(wheel)], check=True)
    return site


@pytest.mark.process
@pytest.mark.proof
def test_a_study_runs_from_the_wheel_in_an_empty_folder(installed: Path, tmp_path: Path) -> None:
    pytest.importorskip("optuna")
    environment = {**os.environ, "PYTHONPATH": str(installed)}  # before the checkout, which .venv names
    told = subprocess.run(
        [sys.executable, "-m", "effbench", *WORDS],
        check=False, capture_output=True, text=True, cwd=tmp_path, env=environment,
    )  # fmt: skip
    assert told.returncode == 0, told.stderr
    assert (tmp_path / "out" / "study.html").is_file()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]
    table = table_in(tmp_path / "out")
    # a checkout would name its commit
    assert {each.commit.partition(" ")[0] for each in (*table.trials, *table.confirmations)} == {"effbench"}
