"""CONTRIBUTING's table, tried: each part of a user's own is one file and one YAML in a --config-dir."""

from __future__ import annotations

import json
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from effbench import build, cli
from effbench.config.compose import compose
from effbench.config.paths import conf_dir
from effbench.errors import ConfigError
from effbench.records import read_metrics
from tests.commandline import TINY, effbench


@dataclass(frozen=True)
class Part:
    """A user's file and YAML. option: one of the YAML's, with another value than its default."""

    source: str
    yaml: str
    option: str


PARTS = {
    "callbacks": Part(
        """
from effbench import Callback

class Mine(Callback):
    columns = ("largest_gradient",)

    def __init__(self, note="unset"):
        self.note = note

    def before_step(self, context):
        context.log("largest_gradient", max(float(p.grad.abs().max()) for p in context.model.parameters()))

    def step_end(self, context):
        with (context.folder / "callbacks.txt").open("a") as stream:
            stream.write(f"{self.note} {context.state.step}\\n")
""",
        "mine:\n  _target_: MODULE.Mine\n  note: unset\n",
        "callbacks.mine.note=told",
    ),
    "scheduler": Part(
        """
from pathlib import Path
from torch.optim.lr_scheduler import LRScheduler

class Mine(LRScheduler):
    def __init__(self, optimizer, dive, log="scheduler.txt"):
        self.dive, self.log = dive, log
        super().__init__(optimizer)

    def get_lr(self):
        Path(self.log).write_text(f"told {self.dive}")
        return [lr * max(0.0, 1 - self.last_epoch / self.dive) for lr in self.base_lrs]
""",
        "_target_: MODULE.Mine\ndive: 1 epochs  # span; steps down to zero\n",
        "scheduler.dive='3 epochs'",
    ),
    "data": Part(
        """
from pathlib import Path
import torch
from effbench.data.splits import Split, Splits, digest

def mine(count=40, classes=("cat", "dog")):
    Path("data.txt").write_text(f"told {count}")
    labels = torch.arange(count) % 2
    random = torch.Generator().manual_seed(0)
    split = Split(torch.randint(0, 256, (count, 1, 8, 8), dtype=torch.uint8, generator=random), labels)
    return Splits("mine", split, split, split, tuple(classes), digest(split.images, split.labels))
""",
        "defaults: [_base, _self_]\n_target_: MODULE.mine\ncount: 40\n",
        "data.count=160",
    ),
    "optimizer": Part(
        """
from pathlib import Path
import torch

class Mine(torch.optim.Optimizer):
    def __init__(self, params, lr, weight_decay=0.0, power=1):
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay, "power": power})

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            Path("optimizer.txt").write_text(f"told {group['power']}")
            for parameter in group["params"]:
                parameter.add_(parameter.grad.sign() * parameter.grad.abs() ** group["power"], alpha=-group["lr"])
""",
        "defaults: [_base, _self_]\n_target_: MODULE.Mine\nlr: 0.1\nweight_decay: 0.0\npower: 1\n",
        "optimizer.power=2",
    ),
    "model": Part(
        """
from pathlib import Path
from torch import nn

def mine(num_classes, in_channels, image_size, width=4):
    Path("model.txt").write_text(f"told {width}")
    pixels = in_channels * image_size[0] * image_size[1]
    return nn.Sequential(nn.Flatten(), nn.Linear(pixels, width), nn.ReLU(), nn.Linear(width, num_classes))
""",
        "defaults: [_base, _self_]\n_target_: MODULE.mine\nwidth: 4\n",
        "model.width=7",
    ),
}
TOLD = {
    "callbacks": "told 1\ntold 2\n",
    "scheduler": "told 6",
    "data": "told 160",
    "optimizer": "told 2",
    "model": "told 7",
}


def write(group: str, place: Path, name: str) -> None:
    """`place`/conf/GROUP/mine.yaml and the module beside it."""
    (place / "conf" / group).mkdir(parents=True)
    (place / "conf" / group / "mine.yaml").write_text(PARTS[group].yaml.replace("MODULE", name))
    (place / f"{name}.py").write_text(PARTS[group].source)


def words(groups: list[str], names: list[str]) -> list[str]:
    small = [word for word in TINY if not ("model" in groups and word.startswith("model"))]
    own = [word for group in groups for word in (f"{group}=mine", PARTS[group].option)]
    return [*small, *own, f"allow_targets=[{','.join(names)}]", "--config-dir", "conf", "hydra.run.dir=run"]


def check(groups: list[str], place: Path) -> None:
    summary: dict[str, Any] = json.loads((place / "run" / "summary.json").read_text())
    assert (summary["status"], summary["steps"]) == ("completed", 2)
    for group in groups:
        path = place / "run" / "callbacks.txt" if group == "callbacks" else place / f"{group}.txt"
        assert path.read_text() == TOLD[group], group
    if "callbacks" in groups:
        rows = read_metrics(place / "run")
        assert all(float(row["largest_gradient"]) > 0 for row in rows if row["row"] == "step")
    config = yaml.safe_load((place / "run" / "config.yaml").read_text())
    for group in groups:
        section = config[group]["mine"] if group == "callbacks" else config[group]
        assert section["_target_"].startswith("own_")


@pytest.mark.process
@pytest.mark.parametrize("group", PARTS)
def test_a_custom_part_needs_one_file_and_one_yaml(group: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    write(group, tmp_path, f"own_{group}")
    assert cli.main(["train", *words([group], [f"own_{group}"])]) == 0
    check([group], tmp_path)


@pytest.mark.process
def test_all_parts_at_once_train_in_a_process_and_resume(tmp_path: Path) -> None:
    names = [f"own_{group}" for group in PARTS]
    for group, name in zip(PARTS, names, strict=True):
        write(group, tmp_path, name)
    done = effbench("train", *words([*PARTS], names), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    check([*PARTS], tmp_path)
    resume_words = ["resume=run", "--config-dir", "conf", f"allow_targets=[{','.join(names)}]", "trainer.max_steps=3"]
    done = effbench("train", *resume_words, "trainer.max_epochs=2", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run" / "callbacks.txt").read_text().endswith("told 3\n")


@pytest.mark.parametrize("group", PARTS)
def test_help_and_completion_know_the_user_s_choice(
    group: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write(group, tmp_path, f"own_{group}")
    key = PARTS[group].option.partition("=")[0]
    assert cli.main(["help", "train", f"{group}=mine", "--config-dir", "conf"]) == 0
    assert f"{key}=" in capsys.readouterr().out
    monkeypatch.setenv("COMP_LINE", f"effbench train --config-dir conf {group}=mi")
    assert cli.main(["-sc", "query=bash"]) == 0
    assert f"{group}=mine" in capsys.readouterr().out.split()


@pytest.mark.slow
@pytest.mark.parametrize("span", ["soon", "3 weeks", "5 %%"])
def test_invalid_span_of_a_custom_schedule_is_refused_early(
    span: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    write("scheduler", tmp_path, "own_scheduler")
    given = [*TINY, "scheduler=mine", f"scheduler.dive='{span}'", "--config-dir", "conf"]
    assert cli.main(["train", *given, "allow_targets=[own_scheduler]", "hydra.run.dir=run"]) == 2
    said = capsys.readouterr().err
    assert "scheduler.dive" in said
    assert "data " not in said
    assert not (tmp_path / "run").exists()


HALF_A_SCHEDULE = """
from torch.optim.lr_scheduler import LRScheduler

class Mine(LRScheduler):
    def __init__(self, optimizer, **_):
        super().__init__(optimizer)

    def get_lr(self):
        return [group["lr"] for group in self.optimizer.param_groups]

    def observe(self, metric):
        raise AssertionError
"""


def test_a_schedule_with_observe_alone_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wrapped as a scheduler of torch, its observe() would never be called."""
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "own_half.py").write_text(HALF_A_SCHEDULE)
    config = compose(["scheduler=constant", "scheduler._target_=own_half.Mine", "allow_targets=[own_half]"])
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=0.1)
    with pytest.raises(ConfigError, match=r"own_half\.Mine' has observe\(\).*effbench\.schedulers\.Schedule"):
        build.schedule(config, optimizer, total_steps=10, steps_per_epoch=5)


def test_the_table_of_contributing_is_the_one_tried_here() -> None:
    text = (Path(__file__).parents[1] / "CONTRIBUTING.md").read_text()
    rows = dict(re.findall(r"^\| ([^|]+?) \| ([^|]+?) \|$", text, re.MULTILINE))
    one_file = next(what for what, touch in rows.items() if touch == "one file and one YAML")
    named = {"callbacks": "callback", "data": "dataset"}
    assert all(named.get(group, group) in one_file for group in PARTS)
    for path in re.findall(r"`((?:conf|effbench|tests|recipes)/[\w./]*)`", " ".join(rows.values())):
        assert (conf_dir().parent / path).exists(), path
