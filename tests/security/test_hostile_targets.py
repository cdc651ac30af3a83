"""No `_target_` runs what is not a part of training: refused before any call, wherever the config comes from."""

from __future__ import annotations

import copy
import importlib
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

import effbench
from effbench import build, cli
from effbench.config.compose import compose, parse
from effbench.data.images.modality import Images
from effbench.errors import ConfigError
from effbench.target_allowlist import MODULES
from tests.commandline import TINY
from tests.security.conftest import SENTINEL, told_anew

pytestmark = pytest.mark.row(40)

TOUCH = f"touch {SENTINEL}"
WRITE = f"open({SENTINEL!r}, 'w').close()"
HERE = {"filename": "evil.zip", "extract_dir": "."}
EVIL = {"f": "evil.pt", "weights_only": False}

# Defined where they are named.
DIRECT: list[tuple[str, dict[str, Any]]] = [
    ("os.system", {"command": TOUCH}),
    ("os.popen", {"cmd": TOUCH}),
    ("os.execv", {"path": "/usr/bin/touch", "argv": ["touch", SENTINEL]}),
    ("os.posix_spawn", {"path": "/usr/bin/touch", "argv": ["touch", SENTINEL], "env": {}}),
    ("os.remove", {"path": "evil.pt"}),
    ("os.kill", {"pid": 1, "signal": 0}),
    ("os._exit", {"status": 0}),
    ("os.putenv", {"name": "PATH", "value": "."}),
    ("posix.system", {"command": TOUCH}),
    ("pty.spawn", {"argv": ["touch", SENTINEL]}),
    ("sys.exit", {}),
    ("builtins.eval", {"source": WRITE}),
    ("builtins.exec", {"source": WRITE}),
    ("builtins.compile", {"source": WRITE, "filename": "x", "mode": "exec"}),
    ("builtins.open", {"file": SENTINEL, "mode": "w"}),
    ("builtins.__import__", {"name": "evil"}),
    ("builtins.getattr", {}),
    ("builtins.print", {"file": None}),
    ("io.open", {"file": SENTINEL, "mode": "w"}),
    ("subprocess.run", {"args": ["touch", SENTINEL]}),
    ("subprocess.call", {"args": ["touch", SENTINEL]}),
    ("subprocess.check_output", {"args": ["touch", SENTINEL]}),
    ("subprocess.Popen", {"args": ["touch", SENTINEL]}),
    ("asyncio.create_subprocess_shell", {"cmd": TOUCH}),
    ("multiprocessing.Process", {}),
    ("shutil.copy", {"src": "evil.pt", "dst": SENTINEL}),
    ("shutil.move", {"src": "evil.pt", "dst": SENTINEL}),
    ("shutil.rmtree", {"path": "inside"}),
    ("shutil.unpack_archive", HERE),
    ("pathlib.Path.touch", {"self": SENTINEL}),
    ("pathlib.Path.unlink", {"self": "evil.pt"}),
    ("pathlib.Path.write_text", {"self": SENTINEL, "data": ""}),
    ("pickle.loads", {"data": "cposix\nsystem\n(S'touch sentinel'\ntR."}),
    ("pickle.Unpickler", {"file": "evil.pt"}),
    ("marshal.loads", {"bytes": ""}),
    ("shelve.open", {"filename": SENTINEL}),
    ("numpy.load", {"file": "evil.npy", "allow_pickle": True}),
    ("numpy.save", {"file": SENTINEL, "arr": [1]}),
    ("torch.load", EVIL),
    ("torch.save", {"obj": 1, "f": SENTINEL}),
    ("torch.hub.load", {"repo_or_dir": ".", "model": "thing", "source": "local"}),
    ("torch.hub.download_url_to_file", {"url": "file:///etc/hostname", "dst": SENTINEL}),
    ("torch.hub.load_state_dict_from_url", {"url": "file:///etc/hostname"}),
    ("torch.jit.load", {"f": "evil.pt"}),
    ("torch.ops.load_library", {"path": "evil.so"}),
    ("torch.utils.cpp_extension.load_inline", {"name": "x", "cpp_sources": ""}),
    ("torch.utils.cpp_extension.load", {"name": "x", "sources": ["evil.cpp"]}),
    ("yaml.unsafe_load", {"stream": "!!python/object/apply:os.system ['touch sentinel']"}),
    ("hydra.utils.instantiate", {"config": {"path": "os.system"}}),
    ("hydra.utils.get_method", {"path": "os.system"}),
    ("functools.partial", {"func": "os.system"}),
    ("operator.methodcaller", {"name": "system"}),
    ("runpy.run_path", {"path_name": "evil.py"}),
    ("runpy.run_module", {"mod_name": "evil"}),
    ("importlib.import_module", {"name": "evil"}),
    ("importlib.reload", {}),
    ("code.interact", {}),
    ("timeit.timeit", {"stmt": WRITE, "number": 1}),
    ("cProfile.run", {"statement": WRITE}),
    ("ctypes.CDLL", {"name": "libc.so.6"}),
    ("ctypes.cdll.LoadLibrary", {"name": "libc.so.6"}),
    ("webbrowser.open", {"url": "file:///etc/hostname"}),
    ("urllib.request.urlopen", {"url": "file:///etc/hostname"}),
    ("urllib.request.urlretrieve", {"url": "file:///etc/hostname", "filename": SENTINEL}),
    ("http.client.HTTPConnection", {"host": "localhost"}),
    ("socket.create_connection", {"address": ["localhost", 9]}),
    ("smtplib.SMTP", {"host": "localhost"}),
    ("tarfile.open", {"name": SENTINEL, "mode": "w"}),
    ("zipfile.ZipFile", {"file": SENTINEL, "mode": "w"}),
    ("sqlite3.connect", {"database": SENTINEL}),
    ("tempfile.NamedTemporaryFile", {"dir": ".", "delete": False}),
    ("logging.FileHandler", {"filename": SENTINEL}),
    ("logging.config.fileConfig", {"fname": "evil.ini"}),
    ("signal.raise_signal", {"signalnum": 15}),
    ("threading.Timer", {"interval": 0}),
    ("evil.thing", {}),
    ("effbench.records.write_text", {"path": SENTINEL, "text": ""}),
    ("effbench.cli.train.main", {"words": []}),
    ("effbench.cli.main", {"argv": ["train"]}),
    ("effbench.training.checkpoint_files.read_checkpoint", {"folder": "."}),
]  # fmt: skip
# Reached through another module's names, most of them below an allowed one.
ALIASED: list[tuple[str, dict[str, Any]]] = [
    ("logging.os.system", {"command": TOUCH}),
    ("torch.os.system", {"command": TOUCH}),
    ("torchvision.os.system", {"command": TOUCH}),
    ("torch.optim.optimizer.torch.load", EVIL),
    ("torch.optim.sgd.torch.load", EVIL),
    ("torch.optim.sgd.torch.os.system", {"command": TOUCH}),
    ("torch.optim.optimizer.functools.partial", {"func": "os.system"}),
    ("torch.optim.lr_scheduler.warnings.sys.exit", {}),
    ("torch.optim.lr_scheduler.types.FunctionType", {}),
    ("torch.optim.swa_utils.torch.load", EVIL),
    ("torchvision.models.os.system", {"command": TOUCH}),
    ("torchvision.models.resnet.partial", {"func": "os.system"}),
    ("torchvision.models.resnet.torch.load", EVIL),
    ("torchvision.models.load_state_dict_from_url", {"url": "file:///etc/hostname"}),
    ("torchvision.models.get_model", {"name": "resnet18", "weights": "DEFAULT"}),
    ("torchvision.models.get_weight", {"name": "ResNet18_Weights.DEFAULT"}),
    ("torchvision.models.list_models", {}),
    ("torchvision.models.ResNet18_Weights.DEFAULT.get_state_dict", {}),
    ("timm.models.load_state_dict", {"checkpoint_path": "evil.pt", "weights_only": False}),
    ("timm.models.load_checkpoint", {"checkpoint_path": "evil.pt", "weights_only": False}),
    ("timm.models._helpers._torch_load", EVIL),
    ("timm.models._helpers.torch.load", EVIL),
    ("timm.models._hub.load_state_dict_from_hf", {"model_id": "x/y"}),
    ("timm.models.download_cached_file", {"url": "file:///etc/hostname"}),
    ("timm.models.create_model", {"model_name": "resnet18", "checkpoint_path": "evil.pt"}),
    ("timm.optim.optim_factory.importlib.import_module", {"name": "evil"}),
    ("effbench.models.torchvision_zoo.torch.hub.load", {"repo_or_dir": ".", "model": "thing", "source": "local"}),
    ("effbench.models.mlp.torch.load", EVIL),
    ("effbench.models.adapt.pickle.loads", {"data": ""}),
    ("effbench.models.adapt.load_file", {"filename": "evil.pt"}),
    ("effbench.models.adapt.difflib.re.sys.exit", {}),
    ("effbench.optimizers.lion.torch.load", EVIL),
    ("effbench.schedulers.math.prod", {}),
    ("effbench.data.images.cifar10.tarfile.open", {"name": SENTINEL, "mode": "w"}),
    ("effbench.data.images.cifar10.urllib.request.urlopen", {"url": "file:///etc/hostname"}),
    ("effbench.data.images.cifar10.pickle.loads", {"data": ""}),
    ("effbench.data.images.cifar10.os.remove", {"path": "evil.pt"}),
    ("effbench.data.images.decoded_cache.os.system", {"command": TOUCH}),
    ("effbench.data.images.image_folder.Path", {}),
    ("effbench.data.images.decoded_cache.shutil.rmtree", {"path": "inside"}),
    ("effbench.data.images.decoded_cache.np.load", {"file": "evil.npy", "allow_pickle": True}),
    ("effbench.data.images.decoding.ThreadPoolExecutor", {}),
]  # fmt: skip
# Names that only look allowed.
DISGUISED: list[tuple[str, dict[str, Any]]] = [
    ("effbench.models.mlp.mlp.__globals__.__getitem__", {"key": "__builtins__"}),
    ("effbench.models.mlp.mlp.__code__.replace", {}),
    ("effbench.models.mlp.__builtins__.get", {"key": "eval"}),
    ("effbench.models.mlp.__loader__.load_module", {}),
    ("effbench.models.torchvision_zoo._build", {}),
    ("effbench.data.splits._check", {}),
    ("torchvision.models.ResNet.__class__", {"name": "x", "bases": [], "dict": {}}),
    ("torch.optim.Optimizer.load_state_dict", {"state_dict": {}}),
    ("torch.optim.Adam.__init__.__globals__", {}),
    ("effbench.models_evil.thing", {}),
    ("effbench.models.evil.thing", {}),
    ("effbench.models.mlp.evil.thing", {}),
    ("effbench.evil.thing", {}),
    ("torch.optim.evil.thing", {}),
    ("torchvision.models.evil.thing", {}),
    ("effbench.models..evil.thing", {}),
    ("effbench.models...evil", {}),
    ("effbench.models/../../evil.thing", {}),
    ("effbench.models.evil:thing", {}),
    ("effbench.models..mlp", {}),
    (".effbench.models.mlp.mlp", {}),
    ("effbench.models.mlp. mlp", {}),
    ("effbench.models.mlp.mlp\n", {}),
    ("effbench.models.mlp.mlp\0", {}),
    ("effbеnch.models.mlp.mlp", {}),  # a Cyrillic letter in it
    ("effbench.models", {}),
    ("effbench", {}),
    ("...", {}),
    (" ", {}),
    ("", {}),
]  # fmt: skip
HOSTILE = dict([*DIRECT, *ALIASED, *DISGUISED])
TRIED = len(HOSTILE) * len(MODULES)  # each of them in each of the groups


@pytest.fixture(scope="module")
def valid() -> dict[str, Any]:
    return compose(["model=mlp"]).to_dict()


@pytest.fixture
def content(valid: dict[str, Any]) -> dict[str, Any]:
    return copy.deepcopy(valid)


def merged(content: dict[str, Any], hostile: dict[str, Any]) -> dict[str, Any]:
    return {**content, **{group: {**content[group], **options} for group, options in hostile.items()}}


def built(group: str, config: Any) -> object:
    """What effbench does with that group of a config."""
    layer = torch.nn.Linear(2, 2)
    if group == "model":
        return build.model(config, 10, Images.blank((1, 28, 28)))
    if group == "data":
        return build.splits(config)
    if group == "optimizer":
        return build.optimizer(config, layer)
    return build.schedule(config, torch.optim.SGD(layer.parameters(), 0.1), 100, 10)


def test_the_corpus_is_as_large_as_said() -> None:
    assert len(HOSTILE) == len(DIRECT) + len(ALIASED) + len(DISGUISED)
    assert len(HOSTILE) >= 60


@pytest.mark.process
@pytest.mark.parametrize(
    ("target", "event"),
    [
        ("os.system", "os.system"),
        ("subprocess.run", "subprocess.Popen"),
        ("shutil.copy", "shutil.copyfile"),
        ("torch.load", "pickle.find_class"),
        ("numpy.load", "pickle.find_class"),
        ("urllib.request.urlopen", "urllib.Request"),
        ("runpy.run_path", None),
        ("builtins.exec", None),
        ("importlib.import_module", None),
        ("timm.models.load_state_dict", "pickle.find_class"),
    ],
)
def test_the_traps_work(target: str, event: str | None, heard: list[str], traps: Path) -> None:
    module, _, name = target.rpartition(".")
    if module.startswith("timm"):
        pytest.importorskip("timm")
    options = dict(HOSTILE[target])
    function = getattr(importlib.import_module(module), name)
    first = [options.pop(key) for key in ("command", "source", "cmd") if key in options]
    try:
        function(*first, **options)
    except (AttributeError, TypeError, RuntimeError):  # what was unpickled is no weights: too late
        assert event is not None
    assert event in heard if event else (traps / SENTINEL).exists()
    sys.modules.pop("evil", None)


@pytest.mark.usefixtures("quiet")
@pytest.mark.parametrize("target", HOSTILE, ids=repr)
def test_hostile_target_is_refused_in_every_group_before_it_runs(target: str, valid: dict[str, Any]) -> None:
    for group in MODULES:
        hostile = merged(valid, {group: {"_target_": target, **HOSTILE[target]}})
        with pytest.raises(ConfigError):
            built(group, parse(hostile))


@pytest.mark.usefixtures("quiet")
@pytest.mark.parametrize("target", HOSTILE, ids=repr)
def test_a_hostile_callback_is_refused_before_anything_runs(target: str, valid: dict[str, Any]) -> None:
    hostile = valid | {"callbacks": {"mine": {"_target_": target, **HOSTILE[target]}}}
    with pytest.raises(ConfigError):
        build.callbacks(parse(hostile))


@pytest.mark.parametrize("target", [target for target, _ in DIRECT])
def test_a_target_of_no_group_is_refused_by_its_name(target: str, valid: dict[str, Any]) -> None:
    """So that nothing is imported for it: when the config is read, not when it is built."""
    for group in MODULES:
        with pytest.raises(ConfigError, match=r"_target_ .* is not allowed"):
            parse(merged(valid, {group: {"_target_": target}}))


@pytest.mark.process
def test_refusal_by_name_imports_neither_torch_nor_the_target(traps: Path) -> None:
    code = (
        "import sys; sys.path.insert(0, ''); from effbench.cli import main; from effbench.errors import ConfigError\n"
        "for target in sys.argv[1:]:\n"
        "    assert main(['train', 'model=mlp', f\"model._target_='{target}'\"]) == 2, target\n"
        "assert not {'torch', 'torchvision', 'evil'} & set(sys.modules)"
    )
    targets = ["evil.thing", "os.system", "torch.load", "effbench.models.mlp.__globals__", "effbench.evil.thing"]
    done = subprocess.run([sys.executable, "-c", code, *targets], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("is not allowed") == len(targets)
    assert not (traps / SENTINEL).exists()


# --- nested -----------------------------------------------------------------------------------------------------------

CALL = {"_target_": "os.system", "command": TOUCH}
PARTIAL = {"_target_": "functools.partial", "_args_": [{"_target_": "os.system"}], "command": TOUCH}
NESTED: dict[str, Any] = {
    "a mapping": CALL,
    "a partial": PARTIAL,
    "a marked partial": {"_target_": "os.system", "_partial_": True},
    "a list": [CALL],
    "a list in a list": [[1, [CALL]]],
    "a mapping in a list in a mapping": {"a": [{"b": CALL}]},
    "an allowed target": {"_target_": "effbench.models.mlp.mlp"},
    "arguments": {"_args_": [TOUCH]},
    "a way to convert": {"_convert_": "all"},
    "a way to recurse": [{"_recursive_": True}],
}
SECTIONS = ("model", "optimizer", "scheduler", "data", "trainer", "augment", "loss", "logger", "device", "checkpoint")


@pytest.mark.parametrize("section", SECTIONS)
@pytest.mark.parametrize("name", NESTED)
def test_no_option_builds_an_object(name: str, section: str, content: dict[str, Any]) -> None:
    key = sorted(key for key in content[section] if key != "_target_")[0]
    content[section][key] = NESTED[name]
    with pytest.raises(ConfigError, match=rf"{section}\.{key}.*(_target_|_partial_|_args_|_recursive_|_convert_)"):
        parse(content)


@pytest.mark.usefixtures("quiet")
@pytest.mark.parametrize("key", ["_partial_", "_args_", "_recursive_", "_convert_"])
@pytest.mark.parametrize("group", MODULES)
def test_hydra_s_other_keys_are_refused_beside_a_target(key: str, group: str, content: dict[str, Any]) -> None:
    content[group][key] = True
    with pytest.raises(ConfigError, match=rf"{group}\.{key}"):
        parse(content)


@pytest.mark.usefixtures("quiet")
@pytest.mark.parametrize("section", ["trainer", "augment", "loss", "logger", "device", "hydra"])
def test_other_sections_have_no_target(section: str, content: dict[str, Any]) -> None:
    content.setdefault(section, {})
    content[section] |= CALL
    with pytest.raises(ConfigError, match=rf"{section}\._target_"):
        parse(content)


@pytest.mark.usefixtures("quiet")
@pytest.mark.parametrize(
    "text",
    [
        "hidden: &a [*a]",
        "hidden: &a {b: {c: *a}}",
        "a: &a [1,1,1,1,1,1,1,1,1]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b,*b,*b]\n"
        "d: &d [*c,*c,*c,*c,*c,*c,*c,*c,*c]\ne: &e [*d,*d,*d,*d,*d,*d,*d,*d,*d]\nhidden: [*e,*e,*e,*e,*e,*e,*e,*e,*e]",
    ],
    ids=["itself", "itself, deeper", "a few lines for millions"],
)
def test_a_config_without_end_is_refused(text: str, content: dict[str, Any]) -> None:
    content["model"] |= yaml.safe_load(text)
    with pytest.raises(ConfigError, match=r"holds too much"):
        parse(content)


# --- wherever a config comes from -------------------------------------------------------------------------------------

CARRIED: dict[str, dict[str, Any]] = {
    "direct": {"model": CALL},
    "an own module": {"model": {"_target_": "evil.thing"}},
    "aliased": {"model": {"_target_": "effbench.models.mlp.torch.load", **EVIL}},
    "a loader of a library": {"model": {"_target_": "torchvision.models.load_state_dict_from_url", "url": "file:///x"}},
    "an optimizer": {"optimizer": {"_target_": "torch.optim.optimizer.torch.load", **EVIL}},
    "a scheduler": {"scheduler": {"_target_": "subprocess.run", "args": ["touch", SENTINEL]}},
    "data": {"data": {"_target_": "effbench.data.images.cifar10.tarfile.open", "name": SENTINEL, "mode": "w"}},
    "nested": {"model": {"dropout": CALL}},
    "nested in a list": {"optimizer": {"betas": [0.9, CALL]}},
    "a partial": {"optimizer": {**PARTIAL}},
}


def refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """What is said by a command that must end with 2 and leave nothing.

    A sweep tries what only looking the name up can tell, and ends with 1: every job of it failed.
    """
    before = sorted(Path.cwd().rglob("*"))
    code = cli.main(words)
    assert code == 2 or (code == 1 and "-m" in words)
    assert code == 1 or sorted(Path.cwd().rglob("*")) == before
    return "".join(capsys.readouterr())


def overrides(hostile: dict[str, Any]) -> list[str]:
    """The same on the command line."""

    def text(value: Any) -> str:
        if isinstance(value, dict):
            return "{" + ",".join(f"{key}:{text(item)}" for key, item in value.items()) + "}"
        return "[" + ",".join(map(text, value)) + "]" if isinstance(value, list) else f"'{value}'"

    return [f"++{group}.{key}={text(value)}" for group, options in hostile.items() for key, value in options.items()]


@pytest.mark.spread(1)
@pytest.mark.process
@pytest.mark.parametrize("name", CARRIED)
def test_hostile_target_in_a_recipe_by_path_is_refused(
    name: str, guarded: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (guarded / "evil.yaml").write_text("# @package _global_\n" + yaml.safe_dump(CARRIED[name]))
    others = [
        ["train", "-m", *TINY, "recipe=evil.yaml", "seed=1,2"],
        ["recipe", "validate", "evil.yaml"],
        ["summary", "recipe=evil.yaml", "input=1x28x28", "classes=10"],
    ]
    for words in [["train", *TINY, "recipe=evil.yaml"], *(others if name in ("direct", "aliased") else [])]:
        assert "_target_" in refused(words, capsys)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["direct", "aliased", "nested"])
def test_hostile_target_in_a_copied_recipe_is_refused(
    name: str, guarded: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = guarded / "mine" / "mobilenet_adamw_cpu.yaml"
    recipe.parent.mkdir()
    text = (Path(effbench.__file__).parents[1] / "recipes" / recipe.name).read_text()
    content = yaml.safe_load(text)
    for group, options in CARRIED[name].items():
        content[group] = {**content.get(group, {}), **options}
    recipe.write_text("# @package _global_\n" + yaml.safe_dump(content))
    words = ["debug=smoke", "device.threads=1"]
    assert "_target_" in refused(["train", *words, "recipe=mine/mobilenet_adamw_cpu.yaml"], capsys)


@pytest.mark.spread(2)
@pytest.mark.slow
@pytest.mark.parametrize("name", CARRIED)
def test_hostile_target_in_a_user_group_is_refused(
    name: str, guarded: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    [(group, options)] = CARRIED[name].items()
    (guarded / "conf" / group).mkdir(parents=True)
    base = {"model": "mlp", "optimizer": "adamw", "scheduler": "cosine", "data": "fashion_mnist"}[group]
    content = {"defaults": [base, "_self_"], **options}
    (guarded / "conf" / group / "evil.yaml").write_text(yaml.safe_dump(content))
    words = ["train", "--config-dir", "conf", *TINY[2:], "model=mlp", f"{group}=evil"]
    assert "_target_" in refused([word for word in words if word != f"{group}=mlp"], capsys)


@pytest.mark.slow
def test_a_group_of_the_user_s_folder_sets_no_callbacks(guarded: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (guarded / "conf" / "model").mkdir(parents=True)
    text = {"hydra": {"callbacks": {"evil": {"_target_": "shutil.unpack_archive", **HERE}}}}
    (guarded / "conf" / "model" / "evil.yaml").write_text("# @package _global_\n" + yaml.safe_dump(text))
    for words in ([], ["-m", "hydra/launcher=basic", "seed=1,2"], ["--cfg", "job"]):
        assert "hydra.callbacks" in refused(["train", "--config-dir", "conf", "model=evil", *words], capsys)


@pytest.mark.parametrize("key", ["hydra", "allow_targets"])
@pytest.mark.parametrize(
    "words", [["train"], ["train", "--cfg", "job"], ["train", "-m", "hydra/launcher=basic", "seed=1,2"]]
)
def test_a_recipe_widens_nothing(words: list[str], key: str, guarded: Path, capsys: pytest.CaptureFixture[str]) -> None:
    callbacks = {"callbacks": {"evil": {"_target_": "shutil.unpack_archive", **HERE}}}
    widened = {"hydra": callbacks, "allow_targets": ["evil"]}[key]
    recipe = {key: widened, "model": {"_target_": "evil.thing"}}
    (guarded / "evil.yaml").write_text("# @package _global_\n" + yaml.safe_dump(recipe))
    assert f"sets '{key}'" in refused([*words, "recipe=evil.yaml"], capsys)


@pytest.mark.spread(4)
@pytest.mark.process
@pytest.mark.usefixtures("guarded")
@pytest.mark.parametrize("name", CARRIED)
def test_hostile_target_in_overrides_or_a_sweep_job_is_refused(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = overrides(CARRIED[name])
    assert "_target_" in refused(["train", *TINY, *words], capsys)
    if name in ("direct", "aliased"):
        assert "_target_" in refused(["train", "-m", *TINY, *words, "seed=1,2"], capsys)


# --- a stranger's run -------------------------------------------------------------------------------------------------


@pytest.mark.spread(4)
@pytest.mark.slow
@pytest.mark.usefixtures("guarded")
@pytest.mark.parametrize("name", [name for name in CARRIED if "data" not in CARRIED[name]])
def test_hostile_target_in_the_record_of_a_run_is_refused(
    name: str, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = yaml.safe_load((run / "config.yaml").read_text())
    content = merged(content, CARRIED[name]) | {"allow_targets": ["evil", "os", "subprocess", "functools", "torch"]}
    (run / "config.yaml").write_text(yaml.safe_dump(content))
    (run / ".hydra" / "overrides.yaml").write_text(yaml.safe_dump([*TINY, *overrides(CARRIED[name])]))
    assert "_target_" in refused(["train", "resume=run"], capsys)
    if "model" in CARRIED[name]:  # the only part that the others build
        for words in (["eval", "run"], ["predict", "run", "evil.npy"]):
            assert "_target_" in refused(words, capsys)
        with pytest.raises(ConfigError):
            effbench.load_run(run).model()
    else:
        assert cli.main(["predict", "run", "evil.npy"]) in (1, 2)


@pytest.mark.slow
@pytest.mark.usefixtures("guarded")
@pytest.mark.parametrize("key", ["allow_targets", "++allow_targets", "hydra.callbacks", "hydra/launcher", "resume"])
def test_the_overrides_on_record_widen_nothing(key: str, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recorded = [*TINY, f"{key}=[evil]", "++model._target_=evil.thing"]
    (run / ".hydra" / "overrides.yaml").write_text(yaml.safe_dump(recorded))
    assert "'evil.thing' is not allowed" in refused(["train", "resume=run"], capsys)


@pytest.mark.process
@pytest.mark.usefixtures("guarded")
def test_hostile_target_in_checkpoint_state_is_only_data(run: Path) -> None:
    """Whatever the state says of targets, with a right digest: nothing of it is built."""
    last = (run / "checkpoints" / "last").resolve()
    state = torch.load(last / "state.pt", weights_only=True)
    state |= {"_target_": "os.system", "config": {"allow_targets": ["evil"], "model": {"_target_": "evil.thing"}}}
    state["schedule"] |= {"_target_": "evil.thing", "step": CALL}
    torch.save(state, last / "state.pt")
    told_anew(last, "state.pt")
    assert cli.main(["train", "resume=run", "trainer.max_epochs=2", "trainer.max_steps=4"]) in (0, 1, 2)
    assert "evil" not in (run / "config.yaml").read_text()
