"""Paths below a folder that may not be entered, and too long names: a message with the reason, no traceback."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from effbench.cache_dir import cache_home
from effbench.data.folder_files import existing_folder
from effbench.data.option_checks import given_file
from effbench.errors import ConfigError
from effbench.export.opening import Opened
from effbench.guarded import kind_of
from effbench.models.weight_files import read_weights_file
from effbench.run.exported import run_folder
from tests.cli.conftest import Effbench

LONG = "x" * 300  # more than a file system takes


@pytest.fixture
def closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that the system lets nobody enter; a mode would not keep root out."""
    folder = tmp_path / "closed"
    folder.mkdir()

    def refusing(call: Callable[..., Any]) -> Callable[..., Any]:
        def asked(path: Any = ".", *rest: Any, **options: Any) -> Any:
            if isinstance(path, str | os.PathLike) and folder in Path(path).absolute().parents:
                raise PermissionError(errno.EACCES, "Permission denied", str(path))
            return call(path, *rest, **options)

        return asked

    permitted = os.access
    monkeypatch.setattr(
        os, "access", lambda path, mode, **options: Path(path) != folder and permitted(path, mode, **options)
    )
    for name in ("stat", "lstat", "open", "mkdir", "scandir"):
        monkeypatch.setattr(os, name, refusing(getattr(os, name)))
    return folder


READS = {
    "eval": ["eval", "closed/run"],
    "bench": ["bench", "closed/run"],
    "predict": ["predict", "closed/run", "a.png"],
    "export": ["export", "closed/run"],
    "compress": ["compress", "closed/run", "method=quantize"],
    "verify": ["verify", "closed/run"],
    "report": ["report", "closed/run"],
    "resume": ["train", "resume=closed/run"],
    "config-dir": ["train", "--config-dir", "closed/conf"],
    "recipe": ["train", "recipe=closed/mine.yaml"],
}


@pytest.mark.usefixtures("closed")
@pytest.mark.parametrize("name", READS)
def test_what_may_not_be_read_is_named_with_the_reason(name: str, effbench: Effbench) -> None:
    code, _, err = effbench(*READS[name])
    assert code == 2, err
    assert "closed/" in err
    assert "Permission denied" in err


WRITES = {
    "bench": ["bench", "RUN", "output=closed/x"],
    "export": ["export", "RUN", "output=closed/x"],
    "predict": ["predict", "RUN", "a.png", "output=closed/x.csv"],
    "report": ["report", "RUN", "output=closed/x.html"],
    "train": ["train", "hydra.run.dir=closed/x"],
    "requeue": ["train", "hydra.run.dir=closed/x", "resume=auto"],
    "sweep": ["train", "-m", "hydra.sweep.dir=closed/x", "seed=1,2"],
}


@pytest.mark.usefixtures("closed")
@pytest.mark.parametrize("name", WRITES)
def test_outputs_that_cannot_be_written_are_refused(name: str, run: Path, effbench: Effbench) -> None:
    code, _, err = effbench(*(str(run) if word == "RUN" else word for word in WRITES[name]))
    assert code == 2, err
    assert "closed" in err
    assert "cannot be written" in err or "no folder that can be written to" in err


@pytest.mark.parametrize(
    "words",
    [
        ["eval", LONG], ["bench", LONG], ["report", LONG], ["train", f"resume={LONG}"], ["train", f"recipe={LONG}"],
        ["train", f"data={LONG}"], ["train", "--config-dir", LONG], ["predict", "RUN", "a.png", f"output={LONG}.csv"],
    ],
    ids=lambda words: " ".join(words)[:25],
)  # fmt: skip
def test_names_that_are_too_long_are_a_message(words: list[str], run: Path, effbench: Effbench) -> None:
    code, _, err = effbench(*(str(run) if word == "RUN" else word for word in words))
    assert code == 2, err
    assert LONG[:50] in err or "too long" in err


def test_options_with_closed_paths_are_named(closed: Path) -> None:
    with pytest.raises(ConfigError, match=r"^data\.file: .*a\.csv cannot be read: Permission denied"):
        given_file("file", closed / "a.csv")
    with pytest.raises(ConfigError, match=r"^data\.root: .*photos cannot be read: Permission denied"):
        existing_folder(closed / "photos", "image_folder", "*.jpg")
    with pytest.raises(ConfigError, match=r"^model\.pretrained: .*a\.pt cannot be read: Permission denied"):
        read_weights_file(closed / "a.pt")


def test_a_path_is_of_a_kind_or_leads_nowhere(tmp_path: Path, closed: Path) -> None:
    (tmp_path / "a").write_text("")
    assert [kind_of(tmp_path / name) for name in ("a", "", "a/b", "no", "nul\0")] == [
        "a file", "a folder", None, None, None,
    ]  # fmt: skip
    with pytest.raises(ConfigError, match=r"^key: .*closed/x cannot be read: Permission denied"):
        kind_of(closed / "x", "key")


def test_a_cache_in_a_closed_folder_goes_elsewhere(closed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(closed / "cache"))
    assert closed not in cache_home().parents


@pytest.mark.usefixtures("closed")
@pytest.mark.parametrize("recorded", ["closed/run", LONG, "nul\0"])
def test_a_run_is_found_above_its_file_past_a_closed_path(recorded: str, run: Path, tmp_path: Path) -> None:
    copied = Path(shutil.copytree(run, tmp_path / "copied", symlinks=True))
    record = {"run": recorded, "checkpoint": {"name": "best"}}

    def unused(inputs: Any) -> Any:
        raise NotImplementedError

    assert run_folder(Opened(copied / "export" / "mlp-best.onnx", record, unused)) == copied
    assert run_folder(Opened(tmp_path / "mlp-best.onnx", record, unused)) is None
