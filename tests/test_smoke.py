"""What `make smoke` tries: every member of every group, but for a GPU that is not there, which it says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from effbench.config.compose import compose, group_options
from effbench.data.images.cifar10 import cifar10
from effbench.data.images.image_folder import image_folder
from tests import smoke


def tried(scratch: Path) -> set[str]:
    """group=name of every job."""
    first = [words[0].partition("=") for _, sweeps in smoke.plan(scratch).values() for words in sweeps]
    return {f"{group}={name}" for group, _, names in first for name in names.split(",")}


def every() -> set[str]:
    groups = group_options()
    return {f"{group}={name}" for group, names in groups.items() if group != "debug" for name in names}


@pytest.mark.proof
@pytest.mark.slow
@pytest.mark.parametrize("gpu", [False, True])
def test_smoke_tries_every_member_except_cuda_without_a_gpu(
    gpu: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: gpu)
    assert tried(tmp_path) == every() - (set() if gpu else {"device=cuda"})
    assert set(smoke.left_out()) == every() - tried(tmp_path / "again")


@pytest.mark.proof
@pytest.mark.slow
def test_the_plan_counts_its_jobs(tmp_path: Path) -> None:
    for count, sweeps in smoke.plan(tmp_path).values():
        assert count == sum(len(words[0].split(",")) for words in sweeps)
        for words in sweeps:
            compose([word for word in words if "," not in word])


def test_skipped_members_are_printed_with_the_reason(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr(smoke, "plan", lambda _: {"data": (1, [["data=synthetic"]])})
    monkeypatch.setattr(smoke, "sweep", lambda *_: [{"status": "completed"}])
    monkeypatch.setattr(smoke, "studies", lambda _: {})
    assert smoke.main() == 0
    assert "left out: device=cuda, for torch sees no GPU here" in capsys.readouterr().out


def test_every_study_that_ships_is_built_and_a_fault_counts(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(smoke, "plan", lambda _: {})
    monkeypatch.setattr(smoke, "study", lambda _: 0)
    monkeypatch.setattr(smoke, "study_plan", lambda name, _: 2 if name == "schedulers" else 0)
    assert smoke.main() == 1
    shown = capsys.readouterr().out
    shipped = {path.stem for path in (smoke.ROOT / "conf" / "study").glob("[!_]*.yaml")}
    assert set(re.findall(r"^study=(\w+)", shown, re.MULTILINE)) == shipped
    assert "FAILED study=schedulers --plan: exit code 2" in shown


def test_the_small_files_written_are_read_by_both_datasets(tmp_path: Path) -> None:
    smoke.write_cifar10(tmp_path / "cifar")
    smoke.write_images(tmp_path / "folder")
    sets = [
        cifar10(tmp_path / "cifar"),
        image_folder(str(tmp_path / "folder"), image_size=8, cache_dir=str(tmp_path / "c")),
    ]
    for data, classes in zip(sets, (10, 2), strict=True):
        assert len(data.classes) == classes
        assert len(data.train) >= 8  # two steps of four
        assert data.val is not None
        assert data.test is not None
