"""A pickle can call anything: no file that effbench reads is unpickled, whatever its digest says."""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

import effbench
from effbench import cli
from effbench.data.images.cifar10 import cifar10
from effbench.errors import EffbenchError
from effbench.models.adapt import load_pretrained
from effbench.training.checkpoint_files import read_checkpoint, read_weights
from tests.commandline import TINY
from tests.security.conftest import SENTINEL, Evil, told_anew

pytestmark = pytest.mark.row(41)


def zipped(path: Path) -> None:
    """torch's format of today: a zip that holds data.pkl."""
    torch.save({"weight": Evil()}, path)


def plain(path: Path) -> None:
    """torch's old format."""
    torch.save({"weight": Evil()}, path, _use_new_zipfile_serialization=False)


def bare(path: Path) -> None:
    path.write_bytes(pickle.dumps({"weight": Evil()}, protocol=2))  # the one that torch writes


def within(path: Path) -> None:
    """Behind tensors that are in order."""
    torch.save({"weight": torch.zeros(2), "more": [1, {"a": Evil()}]}, path)


def replaced(path: Path) -> None:
    """A zip whose data.pkl is another."""
    torch.save({"weight": torch.zeros(2)}, path)
    with zipfile.ZipFile(path) as old:
        members = {name: old.read(name) for name in old.namelist()}
    with zipfile.ZipFile(path, "w") as new:
        for name, content in members.items():
            new.writestr(name, pickle.dumps(Evil(), protocol=2) if name.endswith("data.pkl") else content)


FORMATS: list[Callable[[Path], None]] = [zipped, plain, bare, within, replaced]


@pytest.mark.parametrize("write", FORMATS)
def test_the_pickles_do_run_where_pickle_is_trusted(write: Callable[[Path], None], traps: Path) -> None:
    write(Path("x.pt"))
    if write is bare:
        pickle.loads(Path("x.pt").read_bytes())
    else:
        torch.load("x.pt", weights_only=False)
    assert (traps / SENTINEL).exists()


@pytest.mark.slow
@pytest.mark.parametrize("write", FORMATS)
def test_pickle_in_checkpoint_state_with_valid_digest_is_refused(
    write: Callable[[Path], None], run: Path, guarded: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for link in ("last", "best"):
        checkpoint = (run / "checkpoints" / link).resolve()
        write(checkpoint / "state.pt")
        told_anew(checkpoint, "state.pt")
        with pytest.raises(EffbenchError, match=r"state\.pt"):
            read_checkpoint(checkpoint)
    assert cli.main(["train", "resume=run", "trainer.max_epochs=2"]) in (1, 2)
    assert "state.pt" in capsys.readouterr().err
    assert not (guarded / SENTINEL).exists()


@pytest.mark.parametrize("name", ["model.safetensors", "ema.safetensors", "manifest.json"])
@pytest.mark.parametrize("write", [zipped, bare])
def test_pickle_as_another_checkpoint_file_is_refused(
    write: Callable[[Path], None], name: str, run: Path, guarded: Path
) -> None:
    for link in ("last", "best"):
        checkpoint = (run / "checkpoints" / link).resolve()
        write(checkpoint / name)
        if name != "manifest.json":
            told_anew(checkpoint, name)
        with pytest.raises(EffbenchError, match=name):
            read_weights(checkpoint)
    assert cli.main(["eval", "run"]) in (1, 2)
    assert cli.main(["predict", "run", "."]) in (1, 2)
    with pytest.raises(EffbenchError):
        effbench.load_run(run).model()
    assert not (guarded / SENTINEL).exists()


@pytest.mark.spread(5)
@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".pt", ".pth", ".safetensors"])
@pytest.mark.parametrize("write", FORMATS)
def test_pickle_as_pretrained_weights_is_refused(
    write: Callable[[Path], None], suffix: str, guarded: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = guarded / f"weights{suffix}"
    write(path)
    with pytest.raises(EffbenchError, match="weights"):
        load_pretrained(torch.nn.Linear(1, 2), path)
    assert cli.main(["train", *TINY, f"model.pretrained={path}", "hydra.run.dir=new"]) == 2
    assert f"weights{suffix}" in capsys.readouterr().err
    assert not (guarded / "new").exists()


def test_pickle_as_a_cifar10_batch_is_refused(guarded: Path) -> None:
    folder = guarded / "cifar-10-batches-py"
    folder.mkdir()
    for name in [*(f"data_batch_{number}" for number in range(1, 6)), "test_batch", "batches.meta"]:
        (folder / name).write_bytes(pickle.dumps(Evil(), protocol=2))
    with pytest.raises(EffbenchError, match="refused"):
        cifar10(guarded)


def test_pickle_in_the_image_cache_is_not_read(guarded: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is not read, but made again."""
    from PIL import Image

    from effbench.data.images.image_folder import image_folder

    monkeypatch.setenv("XDG_CACHE_HOME", str(guarded / "cache"))
    for label in ("cat", "dog"):
        (guarded / "pets" / label).mkdir(parents=True)
        for index in range(10):
            Image.new("RGB", (8, 8), (index * 20, 0, 0)).save(guarded / "pets" / label / f"{index}.png")
    before = image_folder(guarded / "pets", image_size=8)
    images = before.train.images.clone()  # not the file itself, mapped
    [cache] = (guarded / "cache").rglob("*.npy")
    np.save(cache, np.array([Evil()], dtype=object), allow_pickle=True)
    after = image_folder(guarded / "pets", image_size=8)
    assert after.sha256 == before.sha256
    assert torch.equal(after.train.images, images)


@pytest.mark.slow
def test_pickle_as_fashion_mnist_files_is_refused(guarded: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import gzip

    for name in (
        "train-images-idx3-ubyte.gz",
        "train-labels-idx1-ubyte.gz",
        "t10k-images-idx3-ubyte.gz",
        "t10k-labels-idx1-ubyte.gz",
    ):
        (guarded / name).write_bytes(gzip.compress(pickle.dumps(Evil())))
    assert cli.main(["train", *TINY, "data.subset=full", "data.root=."]) == 2
    assert "idx" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["config.yaml", ".hydra/overrides.yaml"])
def test_yaml_object_tags_in_a_run_are_refused(
    name: str, run: Path, guarded: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (run / name).write_text(f"!!python/object/apply:os.system ['touch {SENTINEL}']\n")
    words = ["eval", "run"] if name == "config.yaml" else ["train", "resume=run"]
    assert cli.main(words) == 2
    assert "cannot be read" in capsys.readouterr().err
    assert not (guarded / SENTINEL).exists()


def test_yaml_object_tags_in_a_recipe_are_refused(guarded: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = f"# @package _global_\nseed: !!python/object/apply:os.system ['touch {SENTINEL}']\n"
    (guarded / "evil.yaml").write_text(text)
    assert cli.main(["train", "recipe=evil.yaml"]) == 2
    assert "python/object" in capsys.readouterr().err


@pytest.mark.usefixtures("run")
def test_pickle_as_an_image_is_refused(guarded: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (guarded / "evil.png").write_bytes(pickle.dumps(Evil()))
    assert cli.main(["predict", "run", "evil.png"]) == 1
    assert "is not an image" in capsys.readouterr().err
    assert (guarded / "evil.png").exists()
