"""Only the command line decides `hydra.*`, `allow_targets` and `resume`: whatever a file says of them is refused.

Each route is a way for a stranger's recipe, folder of groups or run to change them. Nothing may be run by it.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

import effbench
from effbench import cli
from effbench.config.compose import compose_raw
from effbench.errors import ConfigError
from effbench.report.environment import git_state
from effbench.run.overrides import recorded_overrides
from tests.commandline import TINY
from tests.commandline import effbench as effbench_process
from tests.security.conftest import SENTINEL

pytestmark = pytest.mark.row(59)

GLOBAL = "# @package _global_\n"
ENV = {"CC": "./evil-cc", "XDG_CACHE_HOME": "cache"}
HANDLER = {"class": "logging.FileHandler", "filename": SENTINEL}
LOGGING = {"version": 1, "root": {"handlers": ["h"]}, "handlers": {"h": HANDLER}}


def write(path: str, content: object, header: str = "") -> None:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(header + (content if isinstance(content, str) else yaml.safe_dump(content)))


def recipe(content: object) -> None:
    write("evil.yaml", content, GLOBAL)


def mounted(package: str, content: object) -> None:
    """A recipe whose defaults put a second file, beside it, at `package`."""
    here = Path.cwd()
    write("payload.yaml", content, GLOBAL)
    recipe({"defaults": [{f"/recipe@{package}": f"{here}/payload"}, "_self_"]})


def chain() -> None:
    """Three files deep, and by a relative package."""
    here = Path.cwd()
    write("c.yaml", ENV, GLOBAL)
    write("b.yaml", {"defaults": [{"/recipe@job.env_set": f"{here}/c"}]}, GLOBAL)
    recipe({"defaults": [{"/recipe@hydra": f"{here}/b"}]})


def user(path: str, content: object, header: str = "") -> Callable[[], None]:
    return lambda: write(f"conf/{path}", content, header)


BY_RECIPE = ["recipe=evil.yaml"]
BY_FOLDER = ["--config-dir", "conf"]
EVIL_MODEL = [*BY_FOLDER, "model=evil"]

ROUTES: dict[str, tuple[Callable[[], None], list[str]]] = {
    "a file mounted at hydra.job.env_set": (lambda: mounted("hydra.job.env_set", ENV), BY_RECIPE),
    "at hydra.hydra_logging": (lambda: mounted("hydra.hydra_logging", LOGGING), BY_RECIPE),
    "at hydra.job_logging": (lambda: mounted("hydra.job_logging", LOGGING), BY_RECIPE),
    "at hydra.run": (lambda: mounted("hydra.run", {"dir": "moved"}), BY_RECIPE),
    "at hydra.sweep": (lambda: mounted("hydra.sweep", {"dir": "moved"}), BY_RECIPE),
    "at hydra.callbacks": (lambda: mounted("hydra.callbacks", {"e": {"_target_": "evil.thing"}}), BY_RECIPE),
    "at hydra.launcher": (lambda: mounted("hydra.launcher", {"_target_": "evil.thing"}), BY_RECIPE),
    "at hydra.sweeper": (lambda: mounted("hydra.sweeper", {"params": {"seed": "1,2"}}), BY_RECIPE),
    "at hydra.runtime.choices": (lambda: mounted("hydra.runtime.choices", {"x": "y"}), BY_RECIPE),
    "at hydra itself": (lambda: mounted("hydra", {"job": {"env_set": ENV}}), BY_RECIPE),
    "at _global_.hydra": (lambda: mounted("_global_.hydra.job.env_set", ENV), BY_RECIPE),
    "under the key hydra of a file mounted at _global_": (
        lambda: mounted("_global_", {"hydra": {"job": {"env_set": ENV}}}),
        BY_RECIPE,
    ),
    "through three files": (chain, BY_RECIPE),
    "by choosing another of hydra's groups": (
        lambda: recipe({"defaults": [{"override /hydra/job_logging": "disabled"}]}),
        BY_RECIPE,
    ),
    "by naming a file of hydra's": (lambda: recipe({"defaults": ["/hydra/job_logging/disabled"]}), BY_RECIPE),
    "by an interpolation in its place": (
        lambda: mounted("hydra.job", "env_set: ${spare}\n"),
        BY_RECIPE,
    ),
    "by a string in its place": (lambda: mounted("hydra.run", "dir: ${oc.env:HOME}/moved\n"), BY_RECIPE),
    "with searchpath": (lambda: mounted("hydra", {"searchpath": ["file:///tmp"]}), BY_RECIPE),
    "with chdir": (lambda: mounted("hydra.job", {"chdir": True}), BY_RECIPE),
    "with mode": (lambda: mounted("hydra", {"mode": "MULTIRUN"}), BY_RECIPE),
    "with output_subdir": (lambda: mounted("hydra", {"output_subdir": "../.."}), BY_RECIPE),
    "with env_copy": (lambda: mounted("hydra.job", {"env_copy": ["HOME"]}), BY_RECIPE),
    "from the command line, but out of a file": (
        lambda: recipe(ENV),
        [f"+recipe@hydra.job.env_set={'{here}'}/evil.yaml"],
    ),
    "in a group of the folder": (
        user("model/evil.yaml", {"defaults": ["mlp"], "hydra": {"job": {"env_set": ENV}}}, GLOBAL),
        EVIL_MODEL,
    ),
    "in a group of the folder whose package is hydra's": (
        user("extra/evil.yaml", ENV, "# @package hydra.job.env_set\n"),
        [*BY_FOLDER, "+extra=evil"],
    ),
    "in a recipe of the folder": (
        user("recipe/evil.yaml", {"hydra": {"run": {"dir": "moved"}}}, GLOBAL),
        [*BY_FOLDER, "recipe=evil"],
    ),
    "by a file in the place of hydra's own base": (
        user("hydra/config.yaml", {"job": {"env_set": ENV}}, "# @package hydra\n"),
        BY_FOLDER,
    ),
    "by a file in the place of hydra's own launcher": (
        user("hydra/launcher/basic.yaml", {"_target_": "evil.thing"}),
        BY_FOLDER,
    ),
    "by a launcher of the folder": (
        user("hydra/launcher/mine.yaml", {"_target_": "evil.thing"}),
        [*BY_FOLDER, "hydra/launcher=mine"],
    ),
    "by a job_logging of the folder": (
        user("hydra/job_logging/mine.yaml", LOGGING),
        [*BY_FOLDER, "hydra/job_logging=mine"],
    ),
    "allow_targets in a group of the folder": (
        user("debug/evil.yaml", {"allow_targets": ["evil"], "model": {"_target_": "evil.thing"}}, GLOBAL),
        [*BY_FOLDER, "debug=evil"],
    ),
    "allow_targets by a file mounted": (lambda: mounted("_global_", {"allow_targets": ["evil"]}), BY_RECIPE),
    "a resolver in a recipe": (lambda: recipe({"logger": {"project": "${oc.env:HOME}"}}), BY_RECIPE),
    "resume in a recipe": (lambda: recipe({"resume": "elsewhere"}), BY_RECIPE),
}


VERBS = (["train"], ["train", "-m", "seed=1,2"], ["train", "--cfg", "hydra"], ["summary"], ["verify", "resume"])


@pytest.mark.spread(3)
@pytest.mark.slow
@pytest.mark.parametrize(("number", "route"), list(enumerate(ROUTES)))
def test_no_file_changes_keys_reserved_for_the_command_line(
    number: int, route: str, guarded: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prepare, words = ROUTES[route]
    prepare()
    words = [word.format(here=guarded) for word in words]
    before = sorted(guarded.iterdir())
    for verb in (VERBS[0], VERBS[number % len(VERBS)])[: 1 + (number % len(VERBS) > 0)]:
        capsys.readouterr()
        assert cli.main([*verb, "device.threads=1", *words]) == 2, verb
        told = capsys.readouterr().err
        assert told.startswith("error: "), told
        assert any(key in told for key in ("hydra", "allow_targets", "resume", "oc.env")), told
    assert sorted(guarded.iterdir()) == before


@pytest.mark.slow
@pytest.mark.usefixtures("guarded")
def test_the_command_line_may_and_files_keep_their_other_keys() -> None:
    recipe({"defaults": [{"override /model": "mlp"}], "optimizer": {"lr": 0.25}, "data": {"batch_size": "${seed}"}})
    words = ["recipe=evil.yaml", "seed=32", "hydra/job_logging=disabled", "+hydra.job.env_set.A=b", "hydra.run.dir=x"]
    raw = compose_raw([*words, "allow_targets=[mylab]"])
    assert (raw.optimizer.lr, raw.data.batch_size, raw.model.hidden) == (0.25, 32, [512, 256, 128])
    assert (raw.hydra.job.env_set, raw.hydra.run.dir, raw.allow_targets) == ({"A": "b"}, "x", ["mylab"])
    assert effbench.compose(["recipe=evil.yaml", "seed=32"]).optimizer.lr == 0.25


@pytest.mark.proof
@pytest.mark.process
def test_recipe_that_names_a_compiler_runs_nothing(traps: Path) -> None:
    """As it was found: CC and an empty cache by a mount, and the compile step ran that CC."""
    (traps / "evil-cc").write_text(f"#!/bin/sh\ntouch {traps}/{SENTINEL}\nexit 1\n")
    (traps / "evil-cc").chmod(0o755)
    mounted("hydra.job.env_set", {"CC": f"{traps}/evil-cc", "XDG_CACHE_HOME": f"{traps}/cache"})
    done = effbench_process("train", *TINY, "recipe=evil.yaml", cwd=traps)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: the file recipe/")
    assert "changes hydra.job.env_set" in done.stderr
    assert not (traps / SENTINEL).exists()
    assert not (traps / "outputs").exists()


MOUNTS = {
    "a mount": "+recipe@hydra.job.env_set={here}/evil.yaml",
    "a mount elsewhere": "recipe@model={here}/evil.yaml",
    "a group of hydra's": "hydra/job_logging=disabled",
    "a value of hydra's": "++hydra.job.env_set.CC=evil",
    "a deletion": "~hydra.run",
    "a space before it": " hydra.job.env_set.CC=evil",
    "a renamed package": "recipe@a:hydra=x",
    "targets": "++allow_targets=[evil]",
    "brackets": "hydra[job]={env_set:{CC:evil}}",
}


@pytest.mark.process
@pytest.mark.parametrize("name", MOUNTS)
def test_a_run_s_record_mounts_nothing(name: str, guarded: Path, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What belongs to one session is left out; what no record of ours holds is refused."""
    recipe(ENV)
    word = MOUNTS[name].replace("{here}", str(guarded))
    (run / ".hydra" / "overrides.yaml").write_text(yaml.safe_dump([*TINY, word]))
    lasting = recorded_words(run)
    if lasting is None:
        assert cli.main(["train", "resume=run"]) == 2
        assert "which is not read from a record" in capsys.readouterr().err
    else:
        assert lasting == list(TINY)


def recorded_words(run: Path) -> list[str] | None:
    try:
        return recorded_overrides(run)
    except ConfigError:
        return None


def test_a_sweep_s_record_mounts_nothing(guarded: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe(ENV)
    mount = f"+recipe@hydra.job.env_set={guarded}/evil.yaml"
    for asked, words in (([mount], []), ([], [mount])):
        job = {"folder": "000", "apart": [], "overrides": [*TINY, *words]}
        write("sweep/sweep.json", json.dumps({"schema_version": 1, "overrides": [*TINY, *asked], "jobs": [job]}))
        assert cli.main(["train", "-m", "sweep.resume=sweep"]) == 2
        assert "which is not read from a record" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.usefixtures("guarded")
def test_plugins_beside_a_folder_of_groups_are_not_imported() -> None:
    """Hydra imports every module of the name space hydra_plugins that is on the path."""
    write("conf/model/mine.yaml", {"defaults": ["mlp", "_self_"]})
    write("conf/hydra_plugins/evil.py", f"open({SENTINEL!r}, 'w').close()\n")
    assert effbench.compose(["model=mine"], "conf").model.target.endswith("mlp")


@pytest.mark.process
@pytest.mark.parametrize("program", ["fsmonitor", "hook", "clean", "process", "filter of an included file"])
def test_git_state_is_read_without_running_repository_programs(program: str, traps: Path) -> None:
    """`git status` runs what a checkout's own config and hooks name."""

    def git(*words: str) -> None:
        subprocess.run(["git", "-c", "user.name=a", "-c", "user.email=a@b", *words], check=True)

    git("init", "-q")
    for name, content in ((".gitattributes", "* filter=evil"), ("a.txt", "a")):
        (traps / name).write_text(content)
        git("add", name)
    git("commit", "-q", "-m", "x")
    run = f"touch {traps / SENTINEL}; cat"
    if program == "fsmonitor":
        git("config", "core.fsmonitor", run)
    elif program == "hook":
        hook = traps / ".git" / "hooks" / "post-index-change"
        hook.parent.mkdir(exist_ok=True)
        hook.write_text(f"#!/bin/sh\n{run}\n")
        hook.chmod(0o755)
    elif program == "filter of an included file":
        (traps / ".git" / "more").write_text(f'[filter "evil"]\nclean = "{run}"\n')
        git("config", "include.path", "more")
    else:
        git("config", f"filter.evil.{program}", run)
    (traps / "a.txt").write_text("b")
    assert (git_state(traps) or {})["dirty"]
    assert not (traps / SENTINEL).exists()
