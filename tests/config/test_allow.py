"""What a `_target_` may name. Each hostile one would leave a sentinel file if anything of it ran."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from effbench import build, cli
from effbench.allow import MODULES, resolve
from effbench.commands.folders import load_run
from effbench.config.compose import compose
from effbench.errors import ConfigError
from tests.commandline import TINY

SENTINEL = "sentinel"


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


class Evil:
    """A pickle that touches the sentinel when it is loaded."""

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path(SENTINEL),)


# name: (target, its options)
HOSTILE: dict[str, tuple[str, dict[str, Any]]] = {
    # direct
    "a shell": ("os.system", {"command": f"touch {SENTINEL}"}),
    "a process": ("subprocess.run", {"args": ["touch", SENTINEL]}),
    "a process class": ("subprocess.Popen", {"args": ["touch", SENTINEL]}),
    "a file": ("builtins.open", {"file": SENTINEL, "mode": "w"}),
    "code": ("builtins.exec", {"source": f"open({SENTINEL!r}, 'w')"}),
    "an expression": ("builtins.eval", {"source": f"open({SENTINEL!r}, 'w')"}),
    "a copy": ("shutil.copy", {"src": "/etc/hostname", "dst": SENTINEL}),
    "an archive": ("shutil.unpack_archive", {"filename": "evil.zip", "extract_dir": "."}),
    "a path": ("pathlib.Path.touch", {"self": SENTINEL}),
    "an array": ("numpy.save", {"file": SENTINEL, "arr": [1]}),
    "an array of pickles": ("numpy.load", {"file": "evil.npy", "allow_pickle": True}),
    "a pickle": ("torch.load", {"f": "evil.pt", "weights_only": False}),
    "another pickle": ("pickle.loads", {"data": b"cposix\nsystem\n(S'touch sentinel'\ntR."}),
    "a repository": ("torch.hub.load", {"repo_or_dir": ".", "model": "x", "source": "local"}),
    "a compiler": ("torch.utils.cpp_extension.load_inline", {"name": "x", "cpp_sources": ""}),
    "an exit": ("os._exit", {"status": 0}),
    "a module": ("importlib.import_module", {"name": "evil"}),
    "a script": ("runpy.run_path", {"path_name": "evil.py"}),
    "an own module that nobody allowed": ("evil.model", {}),
    # aliased: reachable through an allowed name, defined elsewhere
    "torch through an optimizer": ("torch.optim.sgd.torch.load", {"f": "evil.pt", "weights_only": False}),
    "partial through an optimizer": ("torch.optim.optimizer.functools.partial", {"func": "os.system"}),
    "partial through a model": ("torchvision.models.resnet.partial", {"func": "os.system"}),
    "os through a dataset": ("effbench.data.image_folder.os.system", {"command": f"touch {SENTINEL}"}),
    "Path through a dataset": ("effbench.data.image_folder.Path", {}),
    "torch through a model": ("effbench.models.mlp.torch.load", {"f": "evil.pt", "weights_only": False}),
    "an importer through a model": ("effbench.models.adapt.inspect.importlib.import_module", {"name": "evil"}),
    # in an allowed library, but no model
    "timm's loader": ("timm.models.load_state_dict", {"checkpoint_path": "evil.pt", "weights_only": False}),
    "timm's loader, private": ("timm.models._helpers._torch_load", {"f": "evil.pt", "weights_only": False}),
    "timm's download": ("timm.models.download_cached_file", {"url": "file:///etc/hostname"}),
    "timm's maker": ("timm.models.create_model", {"model_name": "resnet18", "checkpoint_path": "evil.pt"}),
    "torchvision's maker": ("torchvision.models.get_model", {"name": "resnet18", "weights": "DEFAULT"}),
    "torchvision's list": ("torchvision.models.list_models", {}),
    # attributes and names that only look allowed
    "globals": ("effbench.models.mlp.mlp.__globals__.__getitem__", {"key": "__builtins__"}),
    "code objects": ("effbench.models.mlp.mlp.__code__.replace", {}),
    "a class's class": ("torchvision.models.ResNet.__class__", {"name": "x", "bases": [], "dict": {}}),
    "a private function": ("effbench.models.timm_zoo._import_timm", {}),
    "a neighbour's name": ("effbench.models_evil.model", {}),
    "dots": ("effbench.models..mlp", {}),
    "a leading dot": (".effbench.models.mlp.mlp", {}),
    "only dots": ("...", {}),
    "a package": ("effbench.models", {}),
    "nothing": ("", {}),
    "spaces": ("effbench.models.mlp. mlp", {}),
    "other letters that look alike": ("effbеnch.models.mlp.mlp", {}),
    "a method": ("torch.optim.Optimizer.load_state_dict", {"state_dict": {}}),
}  # fmt: skip


@pytest.fixture
def traps(elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What the hostile targets would find: pickles, a module, a script, an archive."""
    import shutil

    import numpy as np

    torch.save(Evil(), "evil.pt")
    np.save("evil.npy", np.array([Evil()], dtype=object), allow_pickle=True)
    text = f"open({str(elsewhere / SENTINEL)!r}, 'w').close()\ndef model(**_): pass\n"
    (elsewhere / "evil.py").write_text(text)
    (elsewhere / "hubconf.py").write_text(text)
    (elsewhere / "inside").mkdir()
    (elsewhere / "inside" / SENTINEL).touch()
    shutil.make_archive("evil", "zip", "inside")
    monkeypatch.syspath_prepend(str(elsewhere))
    monkeypatch.delitem(sys.modules, "evil", raising=False)
    return elsewhere


def built(group: str, config: Any) -> object:
    """What effbench does with that group of a config."""
    layer = torch.nn.Linear(2, 2)
    if group == "model":
        return build.model(config, 10, 1, (28, 28))
    if group == "data":
        return build.splits(config)
    if group == "optimizer":
        return build.optimizer(config, layer)
    return build.schedule(config, torch.optim.SGD(layer.parameters(), 0.1), 100, 10)


@pytest.fixture(scope="module")
def valid() -> Any:
    return compose(["model=mlp"])


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("group", MODULES)
def test_hostile_targets_are_refused_before_anything_runs(name: str, group: str, traps: Path, valid: Any) -> None:
    target, options = HOSTILE[name]
    if target.startswith("timm."):
        pytest.importorskip("timm")
    section = getattr(valid, group)
    hostile = type(section).model_validate({**section.model_dump(by_alias=True), "_target_": target, **options})
    with pytest.raises(ConfigError):
        built(group, valid.model_copy(update={group: hostile}))
    assert not (traps / SENTINEL).exists()


@pytest.mark.parametrize(
    ("group", "target"),
    [
        ("model", "effbench.models.timm_zoo._import_timm"),
        ("model", "torchvision.models.resnet._resnet"),
        ("data", "effbench.data.splits._check"),
        ("scheduler", "torch.optim.lr_scheduler._enable_get_lr_call"),
    ],
)
def test_private_names_are_refused_before_they_are_called(group: str, target: str) -> None:
    with pytest.raises(ConfigError, match="is not allowed"):
        resolve(group, target)


def test_the_traps_work(traps: Path) -> None:
    torch.load("evil.pt", weights_only=False)
    assert (traps / SENTINEL).exists()


def test_a_hostile_recipe_is_refused_by_the_command(traps: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = {"model": {"_target_": "timm.models.load_state_dict", "checkpoint_path": "evil.pt", "weights_only": False}}
    (traps / "evil.yaml").write_text("# @package _global_\n" + yaml.safe_dump(recipe))
    before = sorted(traps.iterdir())
    for words in (["train", "recipe=evil.yaml"], ["recipe", "validate", "evil.yaml"]):
        assert cli.main(words) == 2
        assert "timm.models.load_state_dict" in capsys.readouterr().err
    assert sorted(traps.iterdir()) == before


@pytest.mark.parametrize(
    "words", [["train"], ["train", "--cfg", "job"], ["train", "-m", "hydra/launcher=basic", "seed=1,2"]]
)
def test_a_recipe_cannot_make_hydra_run_code(words: list[str], traps: Path, capsys: pytest.CaptureFixture[str]) -> None:
    callback = {"_target_": "shutil.unpack_archive", "filename": "evil.zip", "extract_dir": "."}
    recipe = {"hydra": {"callbacks": {"evil": callback}}}
    (traps / "evil.yaml").write_text("# @package _global_\n" + yaml.safe_dump(recipe))
    assert cli.main([*words, "recipe=evil.yaml"]) == 2
    assert "sets 'hydra'" in capsys.readouterr().err
    assert not (traps / SENTINEL).exists()


def test_a_recipe_cannot_widen_what_may_be_built(traps: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = {"allow_targets": ["evil"], "model": {"_target_": "evil.model"}}
    (traps / "evil.yaml").write_text("# @package _global_\n" + yaml.safe_dump(recipe))
    assert cli.main(["train", "recipe=evil.yaml"]) == 2
    assert "sets 'allow_targets'" in capsys.readouterr().err
    assert not (traps / SENTINEL).exists()


def test_a_target_within_an_option_stays_a_plain_value(traps: Path) -> None:
    nested = "{_target_: os.system, command: 'touch sentinel'}"
    with pytest.raises(ConfigError):
        build.model(compose(["model=mlp", f"model.hidden={nested}"]), 10, 1, (28, 28))
    assert not (traps / SENTINEL).exists()


# --- a stranger's run -------------------------------------------------------------------------------------------------


@pytest.fixture
def strangers_run(traps: Path) -> Path:
    """A run whose record names a module that it allows itself."""
    assert cli.main(["train", *TINY, "hydra.run.dir=run"]) == 0
    run = traps / "run"
    content = yaml.safe_load((run / "config.yaml").read_text())
    content["allow_targets"] = ["evil"]
    content["model"]["_target_"] = "evil.model"
    (run / "config.yaml").write_text(yaml.safe_dump(content))
    recorded = [*TINY, "allow_targets=[evil]", "++model._target_=evil.model"]
    (run / ".hydra" / "overrides.yaml").write_text(yaml.safe_dump(recorded))
    return run


def test_a_run_s_folder_cannot_widen_what_may_be_built(
    strangers_run: Path, traps: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert load_run(strangers_run).config.allow_targets == []
    for words in (["eval", "run"], ["predict", "run", "evil.npy"], ["train", "resume=run"]):
        assert cli.main(words) == 2
        assert "'evil.model' is not allowed" in capsys.readouterr().err
    assert not (traps / SENTINEL).exists()


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
        ("data", "effbench.data.synthetic.synthetic"),
    ],
)
def test_what_the_groups_are_for_is_allowed(group: str, target: str) -> None:
    assert resolve(group, target).__name__ == target.rpartition(".")[2]


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


def test_an_own_model_is_allowed_by_name_for_training_and_later_for_its_run(
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
