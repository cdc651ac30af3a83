"""A new YAML in conf/, with its class in a new file, is covered by contract tests and `make smoke` as they are.

White-box: effbench finds conf/ by `paths._find`.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from effbench.config import paths
from tests import smoke, test_contracts
from tests.commandline import TIMEOUT_S
from tests.patience import patience

ROOT = Path(__file__).parents[1]
TORCH = "_target_: torch.optim.lr_scheduler."
BASED = "defaults: [_base, _self_]\n_target_: "
NEW = {
    "model/newcomer": f"{BASED}effbench.models.cnn.cnn\nhidden: 8  # units\n",
    "model/newcomer_rows": f"{BASED}effbench.models.newcomer.newcomer\nwidth: 8  # units\n",
    "optimizer/newcomer": f"{BASED}torch.optim.NAdam\nlr: 2e-3  # step\nweight_decay: 0.01  # fraction\n",
    "scheduler/newcomer": f"{TORCH}PolynomialLR\ntotal_iters: total  # span\npower: 2.0  # > 0\n",
    "loss/newcomer": f"{BASED}effbench.tasks.newcomer.Huber\ndelta: 1.0  # > 0\n",
    "data/newcomer": f"{BASED}effbench.data.rows.synthetic.synthetic_rows\nbatch_size: 8\nnum_features: 5  # a row\n",
    "task/newcomer": "_target_: effbench.tasks.multilabel.Multilabel\nmetrics: [macro_f1]  # shipped ones\n",
    "augment/newcomer": "defaults: [none, _self_]\nflip: 0.25\n",
    "callbacks/newcomer": "newcomer:\n  _target_: effbench.callbacks.KeepWeights\n",
}
CLASSES = {
    "models/newcomer": """from torch import nn

def newcomer(num_classes: int, in_features: int, width: int = 8) -> nn.Module:
    return nn.Sequential(nn.Linear(in_features, width), nn.ReLU(), nn.Linear(width, num_classes))
""",
    "tasks/newcomer": """from torch import Tensor, nn

from effbench.tasks.losses import Loss

class Huber(Loss):
    targets = ("values",)

    def __init__(self, delta: float = 1.0):
        self.delta = delta

    def summed(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return nn.functional.huber_loss(outputs, targets, delta=self.delta, reduction="none").mean(1).sum()
""",
}
# The tests that walk conf/. A test of `newcomer` has the name in its id; those that loop inside are named here.
WALKS = ("test_contracts.py", "test_smoke.py", "models/test_model_configs.py", "optimizers", "study/test_space.py",
         "test_readme.py", "cpu/test_accelerate.py", "training/test_resume.py",
         "config/test_yaml_text.py", "test_schedulers.py", "config/test_data_choices.py", "config/test_names.py",
         "test_architectures.py")  # fmt: skip
FILES = ("README.md", "pyproject.toml", "CONTRIBUTING.md", "docs")
CHOSEN = "newcomer or table_lists or tries_every or plan_counts or space_of_every or of_the_table or page_is"


def add(tree: Path) -> None:
    """Add the files of NEW and CLASSES to a copy of conf/ and effbench/ in `tree`."""
    for name, content in NEW.items():
        (tree / "conf" / f"{name}.yaml").write_text(content)
    for name, content in CLASSES.items():
        (tree / "effbench" / f"{name}.py").write_text(content)


@pytest.mark.proof
@pytest.mark.slow
def test_smoke_and_the_contract_tests_take_a_new_yaml(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(ROOT / "conf", tmp_path / "conf")
    for package in ("models", "tasks"):
        (tmp_path / "effbench" / package).mkdir(parents=True)
        monkeypatch.setattr(
            f"effbench.{package}.__path__", [str(ROOT / "effbench" / package), str(tmp_path / "effbench" / package)]
        )
    add(tmp_path)
    found = paths._find
    monkeypatch.setattr(paths, "_find", lambda name: tmp_path / "conf" if name == "conf" else found(name))

    planned = [words for _, sweeps in smoke.plan(tmp_path / "scratch").values() for words in sweeps]
    choices = [choice for words in planned for choice in chosen(words[0])]
    for name in NEW:
        assert choices.count(name.replace("/", "=")) == 1
        path = tmp_path / "conf" / f"{name}.yaml"
        test_contracts.test_every_member_of_every_group_composes_and_builds(path)
        test_contracts.test_every_key_of_a_group_has_a_comment_there_or_in_its_base(path)


def chosen(word: str) -> list[str]:
    """group=a,b -> group=a, group=b."""
    group, _, names = word.partition("=")
    return [f"{group}={name}" for name in names.split(",")]


SMOKE = """
import sys, tempfile
from pathlib import Path
from tests import smoke

with tempfile.TemporaryDirectory() as scratch:
    planned = [words for _, sweeps in smoke.plan(Path(scratch) / "s").values() for words in sweeps]
    for group, name in (choice.split("/") for choice in sys.argv[1:]):
        first = {tuple(words[0].split("=")): words for words in planned}
        [words] = [words for (of, names), words in first.items() if of == group and name in names.split(",")]
        rows = smoke.sweep([f"{group}={name}", *words[1:]], Path(scratch) / f"{group}_{name}")
        assert [row["status"] for row in rows] == ["completed"], (group, name, rows)
"""


@pytest.mark.process
@pytest.mark.proof
def test_the_unedited_tests_and_smoke_pass_with_new_yamls(tmp_path: Path) -> None:
    for name in ("conf", "effbench", "recipes", "tests", "benchmarks", *FILES):
        source = ROOT / name
        copy = shutil.copytree if source.is_dir() else shutil.copy
        copy(source, tmp_path / name)
    add(tmp_path)
    environment = {**os.environ, "PYTHONPATH": str(tmp_path), "OMP_NUM_THREADS": "1"}
    walks = [f"tests/{name}" for name in WALKS]
    for words in (["-m", "pytest", "-q", "-x", "-n0", "-k", CHOSEN, *walks], ["-c", SMOKE, *NEW]):
        done = subprocess.run(
            [sys.executable, *words], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False,
            timeout=patience(TIMEOUT_S),
        )  # fmt: skip
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]


LINES = {  # file of effbench -> (what begins the line before which one is added, the added one)
    "export/formats.py": ("Format('torch_export'", "Format('newcomer', '.new', 'newcomer_files', program=True),"),
    "bench/backends.py": (
        "Backend('torch_export'",
        "Backend('newcomer', 'newcomer', 'a file', _torch, _load_torchscript),",
    ),
    "explain/__init__.py": ("'depthwise':", "'newcomer': 'a topic of its own',"),
}
MODULES = {
    "export/newcomer_files.py": """from effbench.export.torch_files import load_torchscript as load_newcomer
from effbench.export.torch_files import make_torchscript as make_newcomer
""",
    "explain/topics/newcomer.py": """from effbench.explain.content import Explanation, Paragraph

def explain(request):
    return Explanation("newcomer", "A newcomer", [Paragraph("It is here.")], {}, ["none"])
""",
}
USE = """
import json
from effbench.cli import main

small = ["data=synthetic", "data.image_size=8", "data.num_train=16", "data.num_val=8", "data.num_test=8",
         "data.batch_size=8"]
model = ["model=mlp", "model.hidden=[8]", "device.threads=1", "trainer.max_epochs=1", "hydra.run.dir=run"]
quick = ["backends=[eager,newcomer]", "rounds=3", "seconds=0.05", "batch_sizes=[1]"]
verbs = ["export", "run", "format=newcomer"], ["explain", "newcomer"], ["bench", "run", *quick]
for words in (["train", *small, *model], *verbs):
    assert main(words) == 0, words
arms = {arm["backend"]: arm["status"] for arm in json.load(open("run/bench/bench.json"))["arms"]}
assert arms == {"eager": "ok", "newcomer": "ok"}, arms
"""


@pytest.mark.process
@pytest.mark.proof
def test_a_format_a_backend_and_a_topic_are_a_line_each(tmp_path: Path) -> None:
    """As CONTRIBUTING.md says."""
    for name in ("conf", "effbench", "recipes"):
        shutil.copytree(ROOT / name, tmp_path / name)
    for name, (before, line) in LINES.items():
        path = tmp_path / "effbench" / name
        text, begins = path.read_text(), "    " + before.replace("'", '"')
        assert text.count(begins) == 1
        path.write_text(text.replace(begins, f"    {line}\n{begins}"))
    for name, content in MODULES.items():
        (tmp_path / "effbench" / name).write_text(content)
    environment = {**os.environ, "PYTHONPATH": str(tmp_path), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", USE], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False,
        timeout=patience(TIMEOUT_S),
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "It is here." in done.stdout
