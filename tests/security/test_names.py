"""A name leads nowhere: run, sweep, job, project and recipe names stay where they belong, or are refused."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from PIL import Image

from effbench import cli
from effbench.config.compose import compose, compose_raw
from effbench.errors import ConfigError
from tests.commandline import TINY

pytestmark = pytest.mark.row(43)

CONTROL = {"NUL": "\0", "a newline": "\n", "a return": "\r", "an escape": "\x1b[31m", "delete": "\x7f", "C1": "\x9b"}
KEYS = ("hydra.run.dir", "hydra.sweep.dir", "hydra.sweep.subdir", "hydra.job.name")


def refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """What stderr says of a command that must end with 2 and leave no file, here or in the folder above."""
    before = sorted(Path.cwd().parent.rglob("*"))
    assert cli.main(words) == 2
    assert sorted(Path.cwd().parent.rglob("*")) == before
    err = capsys.readouterr().err
    assert err.startswith("error: ")
    assert not any(character in err for character in CONTROL.values() if character != "\n")
    return err


@pytest.fixture(autouse=True)
def below(elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that can be left: what is above it is the test's, too."""
    folder = elsewhere / "in" / "here"
    folder.mkdir(parents=True)
    monkeypatch.chdir(folder)
    return folder


@pytest.mark.spread(3)
@pytest.mark.slow
@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("case", CONTROL)
def test_control_characters_in_a_folder_name_are_refused_by_key(
    case: str, key: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert key in refused(["train", *TINY, f"{key}='a{CONTROL[case]}b'"], capsys)


@pytest.mark.spread(1)
@pytest.mark.slow
@pytest.mark.parametrize("key", KEYS)
def test_control_characters_are_refused_in_a_sweep_too(key: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert key in refused(["train", "-m", *TINY, f"{key}='a\nb'", "seed=1,2"], capsys)


@pytest.mark.slow
@pytest.mark.parametrize("key", KEYS)
def test_control_characters_from_the_environment_are_refused(
    key: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PLACE", "a\nb")
    assert key in refused(["train", *TINY, f"{key}=${{oc.env:PLACE}}"], capsys)


@pytest.mark.spread(2)
@pytest.mark.slow
@pytest.mark.parametrize("subdir", ["../../x", "..", "a/../../x", "/tmp/x", "a/.."])
@pytest.mark.parametrize("launcher", [[], ["hydra/launcher=basic"]], ids=["ours", "hydra's"])
def test_a_sweep_s_jobs_cannot_be_put_elsewhere(
    subdir: str, launcher: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["train", "-m", *TINY, "seed=1,2", *launcher, f"hydra.sweep.subdir={subdir}"]
    assert "hydra.sweep.subdir must stay below" in refused(words, capsys)


@pytest.mark.proof
@pytest.mark.slow
def test_a_job_s_folder_by_its_overrides_cannot_lead_out() -> None:
    subdir = "hydra.sweep.subdir='${hydra.job.override_dirname}'"
    assert compose_raw([subdir, "seed=1"]).hydra.job.override_dirname == "seed=1"
    for value in ("../../x", "..", "a/../../../x"):
        if value == "..":  # is 'data.root=..', which is a name
            compose_raw([subdir, f"data.root={value}"])
            continue
        with pytest.raises(ConfigError, match=r"hydra\.sweep\.subdir must stay below"):
            compose_raw([subdir, f"data.root={value}"])


@pytest.mark.spread(1)
@pytest.mark.slow
@pytest.mark.parametrize("launcher", [[], ["hydra/launcher=basic"]], ids=["ours", "hydra's"])
def test_one_job_outside_the_sweep_folder_stops_the_sweep(
    launcher: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["hydra.sweep.subdir='${hydra.job.override_dirname}'", "data.root=x,../../../x", "hydra.sweep.dir=sweep"]
    assert "hydra.sweep.subdir must stay below" in refused(["train", "-m", *TINY, *launcher, *words], capsys)


@pytest.mark.proof
@pytest.mark.process
@pytest.mark.parametrize("values", ["../../x,../y", "{top}/x,../y", "'a/../../../x','~/x'"])
def test_jobs_named_by_paths_stay_in_the_sweep_s_folder(
    values: str, below: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    top = below.parent.parent
    monkeypatch.setenv("HOME", str(top))
    (below / "a").mkdir()
    for root in (top / "x", below.parent / "y"):
        for shade, label in enumerate("ab"):
            (root / label).mkdir(parents=True)
            for number in range(5):
                Image.new("L", (8, 8), 100 * shade + number).save(root / label / f"{number}.png")
    before = [path for path in sorted(top.rglob("*")) if below not in path.parents]
    data = ["data=image_folder", "data.cache_dir=cache", f"data.root={values.format(top=top)}"]
    assert cli.main(["train", "-m", *TINY, *data, "hydra.sweep.dir=sweep"]) == 0
    summaries = sorted(top.rglob("summary.json"))
    assert [path.parent.parent for path in summaries] == [below / "sweep"] * 2
    assert [path for path in sorted(top.rglob("*")) if below not in path.parents] == before


@pytest.mark.slow
@pytest.mark.parametrize("name", ["../x", "a/b", "..", "/x"])
def test_a_job_s_name_is_a_name(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert "hydra.job.name must be a plain name" in refused(["train", *TINY, f"hydra.job.name={name}"], capsys)


@pytest.mark.slow
@pytest.mark.parametrize("subdir", ["../../x", "/tmp/x", "other"])
def test_the_record_s_folder_cannot_be_moved(subdir: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert "hydra.output_subdir" in refused(["train", *TINY, f"hydra.output_subdir={subdir}"], capsys)


@pytest.mark.slow
@pytest.mark.parametrize(
    "project", ["../x", "a/../../x", "..", "a\nb", "a\0b", "a\x1b[2Jb", "", "  ", "a\\..\\b", "a\u202eb"], ids=repr
)
def test_a_project_s_name_leads_nowhere(project: str, capsys: pytest.CaptureFixture[str]) -> None:
    text = project.replace("\\", "\\\\")
    assert "logger.project must be a name" in refused(["train", *TINY, f"logger.project='{text}'"], capsys)


@pytest.mark.slow
@pytest.mark.parametrize("project", ["effbench", "my runs", "a.b-c_d", "größe", "/Users/me/experiment", "a..b"])
def test_ordinary_projects_are_taken(project: str) -> None:
    assert compose([f"logger.project='{project}'"]).logger.project == project


@pytest.mark.spread(2)
@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        "../../etc/passwd",
        "../../../../../../etc/passwd",
        "/etc/passwd",
        "..",
        ".",
        "../secret",
        "~root/x",
        "a\0b",
        "a\nb",
    ],
    ids=repr,
)
def test_an_invalid_recipe_is_refused_without_showing_its_text(
    name: str, below: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (below.parent / "secret").write_text("hunter2: a line of a file that is no recipe\n")
    for words in (["train", f"recipe={name}"], ["train", f"recipe='{name}'"], ["recipe", "validate", name]):
        assert cli.main(words) == 2, words
        err = capsys.readouterr().err
        assert "hunter2" not in err
        assert "root:" not in err


@pytest.mark.parametrize(
    "name",
    ["../conf/config", "../recipes/swin_lion", "swin_lion/../swin_lion", "/etc/hostname", "..", "", "a\0b"],
    ids=repr,
)
def test_a_packaged_recipe_is_named_not_found_by_path(
    name: str, below: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for action in (["show", name], ["cp", name, "out"], ["cp", name, str(below.parent)]):
        assert "recipe" in refused(["recipe", *action], capsys)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="a folder of Linux")
def test_a_run_s_folder_that_is_no_folder_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert "cannot be written" in refused(["train", *TINY, "hydra.run.dir=/dev/null/x"], capsys)


@pytest.mark.parametrize("resume", ["a\0b", "a\nb", "../../../etc", "/etc/passwd"], ids=repr)
def test_a_run_that_is_none_cannot_be_resumed(resume: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert "no run in that folder" in refused(["train", f"resume={resume}"], capsys)
