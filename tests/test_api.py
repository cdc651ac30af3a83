"""The small library behind the command: compose, train, load_run, and the optimizers."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

import effbench
from effbench.config.compare import leaves
from effbench.config.schema import Config
from effbench.data.modality import Settings
from effbench.data.rows.modality import Rows
from effbench.errors import ConfigError
from effbench.tasks.classification import Classification

WORDS = [
    "model=mlp",
    "model.hidden=[32]",
    "optimizer.lr=3e-3",
    "trainer.max_epochs=1",
    "trainer.limit_train_batches=20",
]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def config() -> Config:
    return effbench.compose([*WORDS, "device.threads=1"])


@pytest.mark.process
def test_train_returns_config_summary_metrics_model_and_classes(config: Config) -> None:
    run = effbench.train(config)
    asked, got = (leaves(each.model_dump(by_alias=True)) for each in (config, run.config))
    chosen = {key: got[key] for key in asked if got[key] != asked[key]}  # the numbers in the place of `auto`
    assert chosen == {"augment.crop_padding": 2, "data.batch_size": 64, "early_stopping.patience": 5}
    assert {asked[key] for key in chosen} == {"auto"}
    assert run.folder.parts[0] == "outputs"
    assert run.summary["status"] == "completed"
    assert run.summary["metrics"]["test/acc"] > 0.3  # chance is 0.1
    assert len(run.classes) == 10
    assert run.image_shape == (1, 28, 28)
    assert {row["row"] for row in run.metrics} == {"step", "epoch"}
    assert not run.model().training


@pytest.mark.process
def test_load_run_equals_the_run_train_returned(config: Config, tmp_path: Path) -> None:
    trained = effbench.train(config, tmp_path / "run")
    for folder in (tmp_path / "run", str(tmp_path / "run") + "/"):
        loaded = effbench.load_run(folder)
        assert loaded.config == trained.config
        assert loaded.summary == trained.summary
        assert loaded.metrics == trained.metrics
        before, after = trained.model().state_dict(), loaded.model().state_dict()
        assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.process
def test_predict_of_uint8_images_is_the_same_singly_or_batched(config: Config, tmp_path: Path) -> None:
    run = effbench.train(config, tmp_path / "run")
    images = torch.randint(0, 256, (5, 1, 28, 28), dtype=torch.uint8)
    probabilities = run.predict(images)
    assert probabilities.shape == (5, 10)
    assert probabilities.sum(1).allclose(torch.ones(5))
    assert run.predict(list(images)).equal(probabilities)
    assert run.predict(images.numpy()).equal(probabilities)
    assert torch.cat([run.predict(image[None]) for image in images]).allclose(probabilities, atol=1e-6)
    assert run.predict(images, "last").shape == (5, 10)


@pytest.mark.process
@pytest.mark.parametrize("images", [torch.zeros(2, 1, 28, 28), torch.zeros(2, 3, 28, 28, dtype=torch.uint8)])
def test_predict_refuses_images_of_another_kind(images: torch.Tensor, config: Config, tmp_path: Path) -> None:
    run = effbench.train(config.model_copy(update={"trainer": smallest(config)}), tmp_path / "run")
    with pytest.raises(ConfigError, match=r"uint8 \(N, 1, 28, 28\)"):
        run.predict(images)


def smallest(config: Config) -> object:
    limits = {"limit_train_batches": 1, "limit_val_batches": 1, "limit_test_batches": 1}
    return config.trainer.model_copy(update=limits)


@pytest.mark.process
def test_train_refuses_a_folder_that_holds_a_run(config: Config, tmp_path: Path) -> None:
    quick = config.model_copy(update={"trainer": smallest(config)})
    effbench.train(quick, tmp_path / "run")
    with pytest.raises(ConfigError, match="holds a run already"):
        effbench.train(quick, tmp_path / "run")


@pytest.mark.slow
def test_a_refused_config_leaves_no_folder(tmp_path: Path) -> None:
    config = effbench.compose(["model=mlp", "model.freeze=[nope]", "device.threads=1"])
    with pytest.raises(ConfigError, match="nope"):
        effbench.train(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.process
def test_train_in_a_thread_leaves_signals_alone(config: Config, tmp_path: Path) -> None:
    from concurrent.futures import ThreadPoolExecutor

    quick = config.model_copy(update={"trainer": smallest(config)})
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(effbench.train, quick, tmp_path / "run").result().summary["status"] == "completed"


@pytest.mark.slow
def test_compose_takes_a_folder_of_own_groups(tmp_path: Path) -> None:
    (tmp_path / "conf" / "model").mkdir(parents=True)
    (tmp_path / "conf" / "model" / "mine.yaml").write_text(
        "defaults: [_base, _self_]\n_target_: effbench.models.mlp.mlp\n"
    )
    assert effbench.compose(["model=mine"], tmp_path / "conf").model.target == "effbench.models.mlp.mlp"


def test_the_optimizers_are_ordinary_torch_optimizers() -> None:
    layer = torch.nn.Linear(2, 2)
    for kind in (effbench.optimizers.Lion, effbench.optimizers.Adan):
        optimizer = kind(layer.parameters(), lr=0.1)
        assert isinstance(optimizer, torch.optim.Optimizer)
        before = layer.weight.detach().clone()
        layer(torch.ones(1, 2)).sum().backward()
        optimizer.step()
        assert not layer.weight.equal(before)


def test_a_name_that_is_not_there_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="nope"):
        effbench.nope  # noqa: B018
    assert set(effbench.__all__) <= set(dir(effbench)) | set(effbench.__all__)
    assert all(callable(getattr(effbench, name)) for name in effbench.__all__)


Call = Callable[[], object]
WRONG: dict[str, tuple[Call, str]] = {
    "no folder": (lambda: effbench.evaluate_run(None), "folder must be a path, .* got null"),
    "a number as a folder": (lambda: effbench.load_run(3), "folder must be a path, .* got 3"),
    "bytes as a folder": (lambda: effbench.load_run(b"run"), "folder must be a path"),
    "one module as text": (
        lambda: effbench.load_run("run", allow_targets="mylab"),
        r"allow_targets must be a list of modules, \['mylab.models'\]; got 'mylab'",
    ),
    "a number as a module": (
        lambda: effbench.evaluate_run("run", allow_targets=[3]),
        "each item of allow_targets must be as in a list of modules",
    ),
    "no split": (lambda: effbench.evaluate_run("run", None), "split_name must be text; got null"),
    "a checkpoint's number": (
        lambda: effbench.export_run("run", checkpoint=3),
        "checkpoint must be text; got 3",
    ),
    "a list of formats": (
        lambda: effbench.export_run("run", ["onnx"]),
        r"format_name must be text; got \['onnx'\]",
    ),
    "text as a tolerance": (
        lambda: effbench.export_run("run", tolerance="1e-4"),
        r"tolerance must be a fraction .* got '1e-4'",
    ),
    "overrides in a list": (
        lambda: effbench.evaluate_run("run", data_overrides=["root=x"]),
        r"data_overrides must be a mapping of texts, such as \{'root': 'DIR'\}",
    ),
    "a number in the overrides": (
        lambda: effbench.evaluate_run("run", data_overrides={"root": 3}),
        "data_overrides must be a mapping of texts, .* got {'root': 3}",
    ),
    "no files": (lambda: effbench.predict_files("run", None), "paths must be a path or a list"),
    "a number as a file": (
        lambda: effbench.predict_files("run", ["a.png", 3]),
        "each item of paths must be .* got 3",
    ),
    "a backend that is not there": (
        lambda: effbench.bench_run("run", backends=["onnx"]),
        "backend 'onnx' is not one of: .*Did you mean 'onnxruntime'",
    ),
    "no option of bench": (
        lambda: effbench.bench_run("run", thread=2),
        "option of bench 'thread' is not one of: .*Did you mean 'threads'",
    ),
    "no method": (lambda: effbench.compress_run("run", "prune"), "method 'prune' is not one of: quantize, structured"),
    "an option of another method": (
        lambda: effbench.compress_run("run", "quantize", ratio=0.5),
        "option of method=quantize 'ratio' is not one of",
    ),
    "options in a list": (
        lambda: effbench.predict_files("run", "a.png", options=["max_pixels"]),
        "options must be a mapping",
    ),
    "a number as a folder of groups": (
        lambda: effbench.compose([], 3),
        "config_dir must be a path, .* got 3",
    ),
    "a number as the output": (lambda: effbench.train([], 3), "folder must be a path"),
    "no callbacks": (lambda: effbench.train([], callbacks=None), "callbacks must be a list"),
    "texts as rows": (
        lambda: list(Rows([0.0], [1.0], Settings()).given([["x"]])),
        "predict takes numbers, as an array",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_an_argument_of_another_type_is_refused_by_name(case: str) -> None:
    call, said = WRONG[case]
    with pytest.raises(ConfigError, match=said):
        call()


def photos(folder: Path) -> list[Path]:
    """Pictures of several sizes and kinds."""
    generator = torch.Generator().manual_seed(0)
    kinds = [("RGB", (90, 40), "jpg"), ("RGBA", (31, 64), "png"), ("L", (28, 28), "png"), ("RGB", (50, 50), "gif")]
    paths = []
    for number, (mode, (width, height), suffix) in enumerate(kinds):
        pixels = torch.randint(0, 256, (height, width, 4), generator=generator, dtype=torch.uint8).numpy()
        paths.append(folder / f"photo{number}.{suffix}")
        Image.fromarray(pixels, "RGBA").convert(mode).save(paths[-1])
    return paths


@pytest.mark.process
def test_train_takes_overrides_and_predict_takes_common_inputs(tmp_path: Path) -> None:
    run = effbench.train([*WORDS, "debug=smoke", "device.threads=1"], tmp_path / "run")
    assert run.config.model.options["hidden"] == [32]
    (tmp_path / "photos").mkdir()
    paths = photos(tmp_path / "photos")
    rows, _ = effbench.predict_files(str(run.folder), list(map(str, paths)), top_k=10)
    assert effbench.predict_files(run.folder, paths[0], top_k=10)[0] == rows[:1]
    with pytest.raises(ConfigError, match="top_k must be a whole number .* got 0"):
        effbench.predict_files(run.folder, paths, top_k=0)
    with pytest.raises(ConfigError, match="max_pixels must be a whole number .* got -1"):
        effbench.predict_files(run.folder, paths, options={"max_pixels": -1})
    found = [{entry["class"]: entry["probability"] for entry in row["top_k"]} for row in rows]
    by_command = torch.tensor([[row[name] for name in run.classes] for row in found])
    together = run.predict(paths)
    assert together.allclose(by_command, atol=2e-6)
    assert run.predict(list(map(str, paths))).equal(together)
    assert run.predict(tmp_path / "photos").equal(together)  # a folder
    assert run.predict(str(paths[1])).allclose(together[1:2], atol=1e-6)
    for number, path in enumerate(paths):
        with Image.open(path) as picture:
            assert run.predict(picture).allclose(together[number], atol=1e-6)
    one = torch.randint(0, 256, (1, 28, 28), dtype=torch.uint8)
    assert run.predict(one).equal(run.predict(one[None]))
    assert run.predict([one, paths[0]])[1].allclose(together[0], atol=1e-6)
    for wrong, named in ((3, "got int: 3"), ([None], "got NoneType"), ([], "no image"), ("nope.jpg", "does not exist")):
        with pytest.raises(ConfigError, match=named):
            run.predict(wrong)


@pytest.mark.process
def test_the_targets_of_a_split_are_checked_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checked, check = [], Classification.targets_of

    def counting(task: Classification, name: str, *rest: Any) -> torch.Tensor:
        checked.append(name)
        return check(task, name, *rest)

    monkeypatch.setattr(Classification, "targets_of", counting)
    effbench.train([*WORDS, "debug=smoke", "device.threads=1"], tmp_path / "run")
    assert checked == [f"fashion_mnist/embedded {split}" for split in ("train", "val", "test")]


@pytest.mark.process
def test_a_notebook_needs_no_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("effbench.cli")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "effbench.cli", None)  # any import of it raises ImportError
    from effbench.api import compose, evaluate_run, export_run, load_run, train

    run = train(compose([*WORDS, "device.threads=1"]), tmp_path / "run")
    measured = evaluate_run(run.folder)
    assert measured["samples"] == 2000
    assert {name: run.summary["metrics"][name] for name in ("test/acc", "test/loss")}.items() <= measured.items()
    assert export_run(run.folder, "torchscript")["parity"]["agreement"] == 1.0
    assert load_run(run.folder).predict(torch.zeros(1, 28, 28, dtype=torch.uint8)).sum() == pytest.approx(1)


@pytest.mark.process
def test_a_run_is_shown_as_one_line(config: Config, tmp_path: Path) -> None:
    run = effbench.train(config.model_copy(update={"trainer": smallest(config)}), tmp_path / "run")
    accuracy = 100 * run.summary["metrics"]["test/acc"]
    assert repr(run) == f"Run({str(tmp_path / 'run')!r}, completed, test accuracy {accuracy:.2f} %)"
    assert repr(effbench.Run(tmp_path / "nowhere", config)) == f"Run({str(tmp_path / 'nowhere')!r}, no summary yet)"


@pytest.mark.proof
@pytest.mark.process
def test_train_overrides_set_folder_and_resume_as_on_the_cli(tmp_path: Path) -> None:
    words = [*WORDS, "device.threads=1"]
    assert effbench.train([*words, "hydra.run.dir=named"]).folder == Path("named")
    for _ in range(2):  # begins, then finds it finished
        run = effbench.train([*words, "resume=auto"], folder="fixed")
        assert (run.folder, run.summary["epochs"]) == (Path("fixed"), 1)
    longer = effbench.train(["resume=named", "trainer.max_epochs=2", "ema=on"])
    assert longer.summary["epochs"] == 2
    assert longer.config.model.options["hidden"] == [32]
    assert (tmp_path / "named" / "checkpoints" / "last" / "ema.safetensors").is_file()
    with pytest.raises(ConfigError, match="continues in that folder"):
        effbench.train(["resume=named"], folder="other")
    with pytest.raises(ConfigError, match="resume=auto needs the overrides"):
        effbench.train(effbench.compose(["resume=auto"]))


@pytest.mark.parametrize("wrong", ["model=mlp", {"model": "mlp"}, [1], 3])
def test_overrides_that_are_no_list_of_words_are_refused(wrong: Any) -> None:
    with pytest.raises(ConfigError, match="overrides are a list of words"):
        effbench.train(wrong)


def test_dir_lists_the_public_names() -> None:
    names = set(dir(effbench))
    assert {"train", "compose", "load_run", "optimizers", "Config", "Run", "ConfigError", "__version__"} <= names
    assert not {"Any", "TYPE_CHECKING", "annotations"} & names
    assert effbench.__version__
