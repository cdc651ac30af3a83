"""Every command of the README is run, shortened by debug=smoke where it trains."""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from PIL import Image

from effbench import cli
from tests.commandline import effbench, python

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, flags=re.DOTALL | re.MULTILINE)


COMMANDS = [line for block in blocks("console") for line in block.splitlines() if line.strip()]


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what the README's commands name: a run, photos, tables, an own config folder, a copied recipe."""
    folder = tmp_path_factory.mktemp("readme")
    for label in ("cat", "dog"):
        (folder / "photos" / label).mkdir(parents=True)
        for index in range(12):
            noise = torch.randint(0, 256, (70, 90, 3), dtype=torch.uint8)
            Image.fromarray(noise.numpy()).save(folder / "photos" / label / f"{index}.jpg")
    for label in ("english", "french"):
        (folder / "letters" / label).mkdir(parents=True)
        for index in range(40):
            (folder / "letters" / label / f"{index}.txt").write_text(f"{label} letter {index}")
    tables = {"reviews.csv": "text,label", "patients.csv": "age,ill"}
    for name, header in tables.items():
        lines = [f"{index},{('no', 'yes')[index % 2]}" for index in range(200)]
        (folder / name).write_text("\n".join([header, *lines]))
    (folder / "novel.txt").write_text("".join(f"{index} and {index * index}.\n" for index in range(2000)))
    (folder / "mine" / "model").mkdir(parents=True)
    [own_model] = [block for block in blocks("yaml") if "arch: shufflenet" in block]
    (folder / "mine" / "model" / "tiny.yaml").write_text(own_model)
    return folder


@pytest.fixture
def at_work(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(workplace)
    if not (workplace / "RUN").exists():
        assert cli.main(["train", "model=mlp", "debug=smoke", "hydra.run.dir=RUN"]) == 0
    return workplace


def test_the_readme_shows_commands() -> None:
    assert len(COMMANDS) > 15


def _param(command: str) -> Any:
    # Sweeps and ranks start several processes: together they take half a minute.
    several = re.search(r"train -m |torchrun", command)
    return pytest.param(command, marks=pytest.mark.proof) if several else command


@pytest.mark.proof
@pytest.mark.process
@pytest.mark.parametrize("command", [*map(_param, COMMANDS)])
def test_command_of_the_readme_works(command: str, at_work: Path) -> None:
    words = shlex.split(command)
    if "RUN/export/mlp-best.onnx" in words and not (at_work / "RUN/export/mlp-best.onnx").exists():
        assert cli.main(["export", "RUN"]) == 0
    resumes = any(word.startswith(("resume=", "sweep.resume=")) for word in words)
    trains = "train" in words and "--cfg" not in words and not resumes
    words += ["debug=smoke"] if trains else []
    if "recipe=mine/swin_lion_cpu.yaml" in words or "mine/swin_lion_cpu.yaml" in words:
        (at_work / "mine" / "swin_lion_cpu.yaml").exists() or cli.main(["recipe", "cp", "swin_lion_cpu", "mine"])
    elif "sweep.resume=SWEEP" in words:
        start(["effbench", "train", "-m", "model=mlp", "debug=smoke", "seed=0,1", "hydra.sweep.dir=SWEEP"])
    elif words[:3] == ["effbench", "recipe", "cp"]:
        (at_work / "mine" / "swin_lion_cpu.yaml").unlink(missing_ok=True)
    forks = "-m" in words or words[:3] == ["effbench", "verify", "resume"]  # not from here, where torch has computed
    if words[0] == "effbench" and "--cfg" not in words and not forks:
        assert cli.main(words[1:]) == 0
    else:
        start(words)


def start(words: list[str]) -> None:
    if words[0] == "effbench":
        done = effbench(*words[1:], cwd=Path.cwd(), OMP_NUM_THREADS="1")
    else:
        program = ["-m", "torch.distributed.run", *words[1:]] if words[0] == "torchrun" else ["-m", *words]
        done = python(*program, cwd=Path.cwd(), OMP_NUM_THREADS="1")
    assert done.returncode == 0, done.stderr


@pytest.mark.proof
@pytest.mark.process
@pytest.mark.usefixtures("at_work")
def test_the_notebook_lines_work() -> None:
    [code] = [block for block in blocks("python") if "import effbench" in block]
    code = code.replace('"trainer.max_epochs=2"', '"debug=smoke"')
    for call in ('backends=["eager", "torchscript"])', "ratio=0.5)"):  # minutes of measuring and fine-tuning
        assert call in code
        code = code.replace(call, f"{call[:-1]}, rounds=3, seconds=0.05)")
    code = code.replace("ratio=0.5,", "ratio=0.5, epochs=0,")
    names = {"images": torch.zeros(3, 1, 28, 28, dtype=torch.uint8)}
    exec(compile(code, "README.md", "exec"), names)  # the point: the text itself runs
    assert names["probabilities"].sum(1).allclose(torch.ones(3))


@pytest.mark.process
@pytest.mark.usefixtures("at_work")
def test_the_callback_shown_works(monkeypatch: pytest.MonkeyPatch) -> None:
    [source] = [block for block in blocks("python") if "Callback" in block]
    [own] = [block for block in blocks("yaml") if "hooks.Diary" in block]
    (Path("mine") / "callbacks").mkdir(exist_ok=True)
    (Path("mine") / "callbacks" / "diary.yaml").write_text(own)
    Path("hooks.py").write_text(source)
    monkeypatch.setattr(sys, "path", [*sys.path])
    words = ["model=mlp", "debug=smoke", "--config-dir", "mine", "allow_targets=[hooks]", "hydra.run.dir=DIARY"]
    assert cli.main(["train", *words, "callbacks=[keep_weights,diary]", "callbacks.diary.every=1"]) == 0
    assert "val/loss" in (Path("DIARY") / "diary-1.txt").read_text()


def test_the_table_lists_all_groups_and_only_real_choices() -> None:
    from effbench.config.compose import group_options

    for group, names in group_options().items():
        if group == "recipe":
            continue
        [row] = [line for line in README.splitlines() if line.startswith(f"| `{group}` |")]
        # not all of them: `effbench help train GROUP` lists a file that is new in conf/
        assert set(re.findall(r"`([^`]+)`", row)[1:]) <= set(names)


def test_the_table_of_recipes_repeats_their_headers() -> None:
    for path in sorted((ROOT / "recipes").glob("*.yaml")):
        header = path.read_text()
        if bits := re.search(r"\d\.\d\d bits a byte of validation", header):
            assert f"recipe={path.stem}" in README
            assert bits[0] in README
            continue
        [row] = [line for line in README.splitlines() if line.startswith(f"| `{path.stem}` |")]
        assert re.search(r"\d+\.\d %", row)
        assert re.search(r"test accuracy (\d+\.\d) %", header)[1] in row


def test_the_make_targets_of_the_readme_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"^make (\w+)", README, flags=re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE)


def test_ci_calls_the_documented_targets() -> None:
    assert "make lint type test proofs smoke" in (ROOT / ".ci" / "run").read_text()


def test_the_readmes_yaml_is_yaml() -> None:
    assert all(yaml.safe_load(block) for block in blocks("yaml"))
