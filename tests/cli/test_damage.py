"""A bit flipped, a file cut, other data than before: named, and gone on from what is whole."""

from __future__ import annotations

import hashlib
import json
import signal
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from effbench.training.checkpoint_files import read_checkpoint
from tests.cli.conftest import Effbench
from tests.cli.interrupting import FOUR_EPOCHS_OF_FIVE_STEPS, SendsSignal, ends_like, summary

FILES = ["model.safetensors", "ema.safetensors", "state.pt", "manifest.json"]


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def hashes(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.fixture
def broken_off(send: SendsSignal, effbench: Effbench, tmp_path: Path) -> Path:
    """A run that was stopped after step 12; the checkpoint before is that of step 10."""
    send(signal.SIGTERM, 12)
    assert effbench("train", *FOUR_EPOCHS_OF_FIVE_STEPS, "hydra.run.dir=run")[0] == 143
    send.never()
    assert {"step-00000010", "step-00000012"} <= {path.name for path in (tmp_path / "run/checkpoints").iterdir()}
    return tmp_path / "run"


@pytest.mark.proof
@pytest.mark.process
@pytest.mark.row(3, 4)
@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("harm", [flip, cut])
def test_resume_names_damaged_newest_and_ends_the_same(
    harm, file: str, broken_off: Path, uninterrupted: Path, effbench: Effbench
) -> None:
    spoilt = broken_off / "checkpoints" / "step-00000012" / file
    harm(spoilt)
    code, _, err = effbench("train", "resume=run")
    assert code == 0
    [warning] = [line for line in err.splitlines() if line.startswith("warning:")]
    assert str(spoilt.relative_to(broken_off.parent)) in warning
    assert "resuming from run/checkpoints/step-00000010, the newest undamaged checkpoint" in err
    ends_like(broken_off, uninterrupted)


@pytest.mark.process
@pytest.mark.row(3)
def test_resume_auto_with_workers_falls_back_too(
    send: SendsSignal, uninterrupted: Path, effbench: Effbench, tmp_path: Path
) -> None:
    send(signal.SIGTERM, 12)
    assert effbench("train", *FOUR_EPOCHS_OF_FIVE_STEPS)[0] == 143
    send.never()
    [run] = tmp_path.glob("outputs/*/*")
    flip(run / "checkpoints" / "last" / "state.pt")
    code, _, err = effbench("train", *FOUR_EPOCHS_OF_FIVE_STEPS, "resume=auto")
    assert (code, "step-00000012/state.pt is missing or damaged" in err) == (0, True)
    ends_like(run, uninterrupted)


@pytest.mark.process
@pytest.mark.row(3)
def test_resume_without_valid_checkpoint_names_all_damaged_files(broken_off: Path, effbench: Effbench) -> None:
    checkpoints = sorted((broken_off / "checkpoints").glob("step-*"))
    for number, checkpoint in enumerate(checkpoints):
        flip(checkpoint / FILES[number])
    before = hashes(broken_off)
    code, out, err = effbench("train", "resume=run")
    assert (code, out) == (1, "")
    assert "no checkpoint is whole" in err
    assert all(f"{path.name}/{FILES[number]}" in err for number, path in enumerate(checkpoints))
    assert hashes(broken_off) == before


@pytest.mark.process
@pytest.mark.row(3)
@pytest.mark.parametrize("verb", ["eval", "predict"])
def test_a_damaged_best_is_named_by_eval_and_predict(verb: str, broken_off: Path, effbench: Effbench) -> None:
    best = broken_off / "checkpoints" / "best"
    flip(best / "ema.safetensors")
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save("zero.png")
    code, out, err = effbench(verb, "run", *(["zero.png"] if verb == "predict" else []))
    assert (code, out) == (1, "")
    assert "best/ema.safetensors is missing or damaged" in err


@pytest.mark.process
@pytest.mark.row(3)
def test_damaged_best_is_reported_on_resume_and_run_completes(
    send: SendsSignal, effbench: Effbench, tmp_path: Path
) -> None:
    words = [*FOUR_EPOCHS_OF_FIVE_STEPS, "checkpoint.monitor=train/loss", "checkpoint.mode=min", "optimizer.lr=1e-9"]
    send(signal.SIGTERM, 17)
    assert effbench("train", *words, "hydra.run.dir=run")[0] == 143
    send.never()
    best = (tmp_path / "run" / "checkpoints" / "best").resolve()
    assert best.name != "step-00000017"
    flip(best / "model.safetensors")
    code, out, err = effbench("train", "resume=run")
    assert (code, "completed" in out) == (0, True), err
    assert f"{best.name}/model.safetensors is missing or damaged" in err
    assert "It can no longer be the best." in err
    assert summary(tmp_path / "run")["best"]["checkpoint"] == "step-00000020"
    read_checkpoint(tmp_path / "run" / "checkpoints" / "best")


# --- other formats, other data


@pytest.mark.process
@pytest.mark.row(22)
@pytest.mark.parametrize("version", [1, 99])
def test_checkpoint_of_other_format_is_refused_without_fallback(
    version: int, broken_off: Path, effbench: Effbench
) -> None:
    path = broken_off / "checkpoints" / "step-00000012" / "manifest.json"
    manifest = {**json.loads(path.read_text()), "format": version}
    del manifest["digest"]
    digest = hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()
    path.write_text(json.dumps(manifest | {"digest": digest}))
    before = hashes(broken_off)
    code, out, err = effbench("train", "resume=run")
    assert (code, out) == (2, "")
    assert f"step-00000012/manifest.json is of checkpoint format {version}; this effbench reads 2" in err
    assert hashes(broken_off) == before


def pictures(folder: Path, count: int) -> None:
    rng = np.random.default_rng(0)
    for label, name in enumerate(("cats", "dogs")):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            picture = rng.integers(0, 128, (8, 8, 3), dtype=np.uint8) + 127 * label
            Image.fromarray(picture.astype(np.uint8)).save(folder / name / f"{number}.png")


@pytest.fixture
def on_pictures(send: SendsSignal, effbench: Effbench, tmp_path: Path) -> Path:
    """A run over 2 x 20 image files, five steps an epoch, stopped after step 8; its pictures are in `pictures`."""
    pictures(tmp_path / "pictures", 20)
    shared = [
        word for word in FOUR_EPOCHS_OF_FIVE_STEPS if not word.startswith("data.num") and not word.startswith("data=")
    ]
    words = [
        *shared, "data=image_folder", "data.root=pictures", "data.cache_dir=cache", "data.val_fraction=0.3",
        "data.test_fraction=0.0", "data.batch_size=5",
    ]  # fmt: skip
    send(signal.SIGTERM, 8)
    code, _, err = effbench("train", *words, "hydra.run.dir=run")
    assert (code, "5 an epoch" in err) == (143, True), err
    send.never()
    return tmp_path / "run"


@pytest.mark.spread(1)
@pytest.mark.process
@pytest.mark.row(21)
@pytest.mark.parametrize("change", ["added", "removed", "altered"])
def test_changed_data_are_refused_and_the_run_is_unchanged(
    change: str, on_pictures: Path, effbench: Effbench, tmp_path: Path
) -> None:
    file = tmp_path / "pictures" / "cats" / "0.png"
    if change == "removed":
        file.unlink()
    else:
        Image.fromarray(np.full((8, 8, 3), 7, np.uint8)).save(file if change == "altered" else file.with_name("n.png"))
    before = hashes(on_pictures)
    code, out, err = effbench("train", "resume=run")
    assert (code, out) == (2, "")
    assert "the dataset is not the one that run/checkpoints/step-00000008 was trained on" in err
    assert "checkpoint.allow_changed_data=true" in err
    assert hashes(on_pictures) == before


@pytest.mark.spread(1)
@pytest.mark.process
@pytest.mark.row(21)
@pytest.mark.parametrize("kept", [8, 12, 30])
def test_changed_data_are_accepted_if_allowed(kept: int, on_pictures: Path, effbench: Effbench, tmp_path: Path) -> None:
    """The epoch that was begun ends there: with fewer images it may have no step left to go on with."""
    for path in (tmp_path / "pictures").rglob("*.png"):
        if int(path.stem) >= kept:
            path.unlink()
    pictures(tmp_path / "pictures", kept)
    code, _, err = effbench("train", "resume=run", "checkpoint.allow_changed_data=true", "trainer.max_steps=15")
    assert code == 0, err
    assert summary(on_pictures)["status"] == "completed"
    assert "epoch 2/" in err
    code, _, err = effbench("train", "resume=run", "trainer.max_steps=18", "trainer.max_epochs=99")
    assert code == 0, "from then on they are its data"


@pytest.mark.process
@pytest.mark.row(21)
def test_the_same_data_elsewhere_are_the_same(on_pictures: Path, effbench: Effbench, tmp_path: Path) -> None:
    assert summary(on_pictures)["status"] == "interrupted"
    (tmp_path / "pictures").rename(tmp_path / "moved")
    (tmp_path / "pictures").symlink_to("moved")
    (tmp_path / "moved" / "cats" / "0.png").touch()
    assert effbench("train", "resume=run")[0] == 0


@pytest.mark.proof
@pytest.mark.process
@pytest.mark.row(21)
def test_best_values_of_other_data_do_not_count(on_pictures: Path, effbench: Effbench, tmp_path: Path) -> None:
    """The first best is of the old validation images, and any later one may be worse than it."""
    before = summary(on_pictures)["data"]["sha256"]
    pictures(tmp_path / "pictures", 24)
    words = ["checkpoint.allow_changed_data=true", "trainer.max_steps=15", "optimizer.lr=1e-30"]
    code, _, err = effbench("train", "resume=run", *words)
    assert code == 0, err
    found = summary(on_pictures)
    now = found["data"]["sha256"]
    assert (
        f"warning: the dataset has changed since the checkpoint (its sha256 was {before[:12]}…, now {now[:12]}…)" in err
    )
    assert int(found["best"]["checkpoint"].removeprefix("step-")) > 8
    assert found["sessions"][-1]["changed"]["data.sha256"] == [before[:12], now[:12]]
    assert effbench("verify", "run")[0] == 0
    # consent holds for one session
    pictures(tmp_path / "pictures", 25)
    code, _, err = effbench("train", "resume=run", "trainer.max_steps=20")
    assert (code, "the dataset is not the one" in err) == (2, True)


@pytest.mark.process
@pytest.mark.row(21)
def test_changed_data_of_other_classes_are_refused(on_pictures: Path, effbench: Effbench, tmp_path: Path) -> None:
    pictures(tmp_path / "pictures", 24)
    (tmp_path / "pictures" / "dogs").rename(tmp_path / "pictures" / "apes")  # now the first of the two
    before = hashes(on_pictures)
    code, _, err = effbench("train", "resume=run", "checkpoint.allow_changed_data=true")
    assert (code, "the dataset has other classes, or in another order" in err) == (2, True), err
    assert hashes(on_pictures) == before


TABLE = ["data=table_csv", "data.file=a.csv", "model=mlp", "model.hidden=[8]", "device.threads=1", "hydra.run.dir=run"]


def table(path: Path, scale: float = 1.0, colour: str = "red") -> None:
    rows = [f"{n % 13},{('blue', colour)[n % 2]},{scale * (n % 13):g}" for n in range(80)]
    path.write_text("\n".join(["size,colour,label", *rows]) + "\n")


@pytest.mark.process
@pytest.mark.row(21)
def test_a_resume_keeps_the_unit_of_the_targets(effbench: Effbench, tmp_path: Path) -> None:
    """In deviations of the new targets the old weights would answer with numbers ten times too large."""
    table(tmp_path / "a.csv")
    words = [*TABLE, "data.targets=values", "task=regression", "trainer.max_epochs=3", "data.equal_rows_together=false"]
    code, _, err = effbench("train", *words)
    assert code == 0, err
    first = summary(tmp_path / "run")["task"]
    table(tmp_path / "a.csv", scale=10)
    words = ["resume=run", "checkpoint.allow_changed_data=true", "trainer.max_epochs=4"]
    code, _, err = effbench("train", *words)
    assert code == 0, err
    # and of the data that are its own from then on
    assert effbench("train", "resume=run", "trainer.max_epochs=5")[0] == 0
    task = summary(tmp_path / "run")["task"]
    assert (task["target_mean"], task["target_std"]) == (first["target_mean"], first["target_std"])


@pytest.mark.process
@pytest.mark.row(21)
def test_a_resume_refuses_other_categories_of_equal_number(effbench: Effbench, tmp_path: Path) -> None:
    table(tmp_path / "a.csv")
    words = ["data.targets=values", "task=regression", "trainer.max_epochs=2", "data.equal_rows_together=false"]
    assert effbench("train", *TABLE, *words)[0] == 0
    table(tmp_path / "a.csv", colour="pink")
    before = hashes(tmp_path / "run")
    words = ["resume=run", "checkpoint.allow_changed_data=true", "trainer.max_epochs=3"]
    code, _, err = effbench("train", *words)
    assert (code, "the features of a.csv must stay as in run/checkpoints/step-" in err) == (2, True), err
    assert hashes(tmp_path / "run") == before
