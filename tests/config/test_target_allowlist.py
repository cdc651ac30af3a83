"""What a `_target_` may name; what it may not is tried in tests/security/test_hostile_targets.py.

White-box: replaces where modules are looked for.
"""

from __future__ import annotations

import sys
import types
from pathlib import Path
from typing import Any

import pytest
import yaml

from effbench import cli
from effbench.build import check_options
from effbench.config.compose import compose
from effbench.errors import ConfigError
from effbench.run.load import load_run
from effbench.target_allowlist import MODULES, resolve


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("group", "target"),
    [
        ("model", "effbench.models.torchvision_zoo._build"),
        ("model", "torchvision.models.resnet._resnet"),
        ("data", "effbench.data.splits._check"),
        ("scheduler", "torch.optim.lr_scheduler._enable_get_lr_call"),
    ],
)
def test_private_names_are_refused_before_they_are_called(group: str, target: str) -> None:
    with pytest.raises(ConfigError, match="is not allowed"):
        resolve(group, target)


# --- and what is allowed ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("group", "target"),
    [
        ("model", "effbench.models.mlp.mlp"),
        ("model", "torchvision.models.resnet18"),
        ("model", "torchvision.models.ResNet"),
        ("optimizer", "torch.optim.AdamW"),
        ("optimizer", "torch.optim.sgd.SGD"),
        ("optimizer", "effbench.optimizers.Lion"),
        ("scheduler", "torch.optim.lr_scheduler.StepLR"),
        ("scheduler", "effbench.schedulers.Cosine"),
        ("data", "effbench.data.images.synthetic.synthetic"),
        ("augment", "effbench.data.images.augment.Augment"),
        ("loss", "torch.nn.MSELoss"),
        ("loss", "torch.nn.modules.loss.MSELoss"),
    ],
)
def test_targets_of_the_kind_of_their_group_are_allowed(group: str, target: str) -> None:
    assert resolve(group, target).__name__ == target.rpartition(".")[2]


def test_an_augmentation_is_found_in_the_folder_of_any_modality(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("effbench.data.sounds", "effbench.data.sounds.augment"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    added: Any = sys.modules["effbench.data.sounds.augment"]
    added.Pitch = type("Pitch", (), {"__module__": added.__name__})
    assert resolve("augment", "effbench.data.sounds.augment.Pitch") is added.Pitch
    for other in ("effbench.data.augment.Pitch", "effbench.data.sounds.modality.Pitch", "effbench.data.sounds.augment"):
        with pytest.raises(ConfigError, match="is not allowed"):
            resolve("augment", other)


@pytest.mark.slow
def test_a_function_is_no_augmentation_and_is_not_called() -> None:
    with pytest.raises(ConfigError, match=r"augment\._target_ 'effbench.data.images.augment.crop' must be a class"):
        check_options(compose(["augment._target_=effbench.data.images.augment.crop"]))


@pytest.mark.parametrize("target", ["torch.nn.Linear", "torch.nn.functional.mse_loss", "torch.nn.MSELoss.__init__"])
def test_other_names_of_torch_nn_are_no_loss(target: str) -> None:
    with pytest.raises(ConfigError, match="is not allowed"):
        resolve("loss", target)


def test_timm_s_models_are_allowed_by_name() -> None:
    timm = pytest.importorskip("timm")
    assert resolve("model", "timm.models.resnet18") is timm.models.resnet18


def test_every_target_in_conf_is_allowed() -> None:
    from effbench.config.paths import conf_dir

    for group in MODULES:
        for path in (conf_dir() / group).glob("[!_]*.yaml"):
            resolve(group, yaml.safe_load(path.read_text())["_target_"])


OWN = """
import torch
def own_model(num_classes, in_channels, image_size, hidden=4):
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(in_channels * image_size[0] ** 2, num_classes))
"""


@pytest.mark.process
def test_custom_model_needs_allow_targets_to_train_and_to_read(
    elsewhere: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (elsewhere / "mylab.py").write_text(OWN)
    (elsewhere / "conf" / "model").mkdir(parents=True)
    (elsewhere / "conf" / "model" / "own.yaml").write_text(
        "defaults: [_base, _self_]\n_target_: mylab.own_model\nhidden: 8\n"
    )
    monkeypatch.syspath_prepend(str(elsewhere))
    words = ["--config-dir", "conf", "model=own", "debug=smoke", "device.threads=1", "hydra.run.dir=run"]
    assert cli.main(["train", *words]) == 2
    assert "allow_targets=[your.module]" in capsys.readouterr().err
    assert cli.main(["train", *words, "allow_targets=[mylab]"]) == 0
    assert cli.main(["eval", "run"]) == 2
    assert cli.main(["eval", "run", "allow_targets=[mylab]"]) == 0
    assert cli.main(["eval", "run", "allow_targets=mylab"]) == 2
    assert load_run("run", ["mylab"]).model() is not None


def test_a_module_that_cannot_be_imported_is_named(elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (elsewhere / "broken_lab.py").write_text("def model(:\n")
    (elsewhere / "needy_lab.py").write_text("import surely_not_installed\n")
    monkeypatch.syspath_prepend(str(elsewhere))
    with pytest.raises(ConfigError, match="SyntaxError"):
        resolve("model", "broken_lab.model", ["broken_lab"])
    with pytest.raises(ConfigError, match="surely_not_installed"):
        resolve("model", "needy_lab.model", ["needy_lab"])
    with pytest.raises(ConfigError, match="does not exist"):
        resolve("model", "effbench.models.mlp.mpl")


# --- a module of the user's own beside --config-dir -------------------------------------------------------------------


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """project/conf and project/own_*.py, with sys.path and the folders looked in as they were afterwards."""
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path not in ("", str(Path.cwd()))])
    monkeypatch.setattr("effbench.target_allowlist._beside", [])
    monkeypatch.chdir(tmp_path)
    (tmp_path / "project" / "conf").mkdir(parents=True)
    return tmp_path / "project"


def own_network(folder: Path, name: str) -> None:
    (folder / f"{name}_helper.py").write_text("from torch import nn\n")
    code = (
        f"from {name}_helper import nn\n\n\ndef net(num_classes, in_channels, image_size):\n    return nn.Flatten()\n"
    )
    (folder / f"{name}.py").write_text(code)


@pytest.mark.slow
@pytest.mark.parametrize("place", [".", "conf"])
def test_allowed_module_is_found_in_config_dir_or_its_parent(project: Path, place: str) -> None:
    name = f"own_{place.strip('.') or 'beside'}"
    own_network(project / place, name)
    compose([], project / "conf")
    with pytest.raises(ConfigError, match="is not allowed"):
        resolve("model", f"{name}.net")
    assert name not in sys.modules
    assert resolve("model", f"{name}.net", [name]).__name__ == "net"


def test_allowed_module_is_found_in_cwd_but_not_in_a_run_folder(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own_network(project, "own_here")
    monkeypatch.chdir(project)
    (project / "summary.json").write_text("{}")
    with pytest.raises(ConfigError, match=r"no module 'own_here'.*--config-dir.*PYTHONPATH"):
        resolve("model", "own_here.net", ["own_here"])
    (project / "summary.json").unlink()
    assert resolve("model", "own_here.net", ["own_here"]).__name__ == "net"


@pytest.mark.slow
def test_installed_module_wins_over_one_in_the_config_dir(project: Path) -> None:
    (project / "wave.py").write_text("raise SystemExit('planted')\n")
    compose([], project / "conf")
    before = list(sys.path)
    resolve("model", "wave.open", ["wave"])
    assert sys.path == before
