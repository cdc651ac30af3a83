"""`effbench eval`: the numbers that training recorded, and honest refusals."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from effbench import build
from effbench.run.load import load_run
from tests.cli.conftest import Effbench
from tests.commandline import TINY


def recorded(run: Path) -> dict[str, float]:
    return dict(json.loads((run / "summary.json").read_text())["metrics"])


@pytest.mark.process
def test_eval_repeats_the_test_result_that_train_recorded(run: Path, effbench: Effbench) -> None:
    code, out, err = effbench("eval", str(run), "--json")
    assert (code, err) == (0, "")
    result = json.loads(out)
    assert result["samples"] == 2000
    assert result["test/acc"] == recorded(run)["test/acc"]
    assert result["test/loss"] == pytest.approx(recorded(run)["test/loss"], rel=1e-6)


def test_eval_tells_by_class_what_predict_answers(run: Path, effbench: Effbench) -> None:
    loaded = load_run(run)
    split = build.splits(loaded.config).named()["val"]
    true, predicted = split.labels.numpy(), loaded.predict(split.inputs).argmax(1).numpy()
    found = json.loads(effbench("eval", str(run), "split=val", "--json")[1])
    counts = np.zeros((10, 10), dtype=int)
    np.add.at(counts, (true, predicted), 1)
    assert found["confusion"] == counts.tolist()
    assert [row["samples"] for row in found["per_class"]] == counts.sum(1).tolist()
    recalls = [row["recall"] for row in found["per_class"]]
    assert recalls == pytest.approx((counts.diagonal() / counts.sum(1)).tolist())
    assert [row["class"] for row in found["per_class"]] == list(loaded.classes)
    lines = effbench("eval", str(run), "split=val")[1].splitlines()
    assert [line.split()[0] for line in lines[:3]] == ["val", "val", "samples"]
    assert lines[-1] == "--json has the confusion matrix."


def test_eval_of_the_last_checkpoint_repeats_the_last_validation(run: Path, effbench: Effbench) -> None:
    _, out, _ = effbench("eval", str(run), "split=val", "checkpoint=last", "--json")
    result = json.loads(out)
    assert result["samples"] == 600
    assert result["val/acc"] == recorded(run)["val/acc"]
    assert result["val/loss"] == pytest.approx(recorded(run)["val/loss"], rel=1e-6)


@pytest.mark.process
def test_the_batch_size_of_evaluation_changes_nothing(run: Path, effbench: Effbench) -> None:
    results = [json.loads(effbench("eval", str(run), f"data.eval_batch_size={n}", "--json")[1]) for n in (7, 2000)]
    assert results[0]["test/acc"] == results[1]["test/acc"]
    assert results[0]["test/loss"] == pytest.approx(results[1]["test/loss"], rel=1e-6)


def test_words_may_stand_in_any_order(run: Path, effbench: Effbench) -> None:
    first = effbench("eval", str(run), "split=val")
    assert first[0] == 0
    assert effbench("eval", "split=val", f"{run}/") == first
    assert effbench("eval", "--json", "split=val", str(run))[0] == 0
    assert "val accuracy" in first[1]


@pytest.mark.process
def test_eval_on_other_data_of_the_same_classes_is_noted(effbench: Effbench) -> None:
    assert effbench("train", *TINY, "data=synthetic", "data.image_size=8", "hydra.run.dir=run")[0] == 0
    assert effbench("eval", "run")[2] == ""
    code, _, err = effbench("eval", "run", "data.noise=0.9")
    assert code == 0
    assert "not the dataset that the run was trained on" in err


def test_eval_on_other_splits_of_the_same_data_is_noted(run: Path, effbench: Effbench) -> None:
    code, out, err = effbench("eval", str(run), "split=val", "data.split_seed=5", "--json")
    assert code == 0
    assert json.loads(out)["samples"] == 600
    assert "data.split_seed" in err
    assert "these may include images that the run was trained on" in err


@pytest.mark.process
@pytest.mark.parametrize(
    "words",
    [
        ["bench", "--json"],
        ["export", "output=file"],
        ["compress", "method=quantize", "output=small"],
        ["compress", "method=structured", "output=small"],
        ["compress", "target=latency/2", "output=small"],
    ],
    ids=" ".join,
)
@pytest.mark.parametrize("also", [[], ["data.eval_batch_size=64"]], ids=["alone", "with another key"])
def test_other_verbs_refuse_splits_that_are_drawn_anew(
    words: list[str], also: list[str], run: Path, effbench: Effbench, tmp_path: Path
) -> None:
    """What a model loses would be measured on samples that it was trained on."""
    code, out, err = effbench(words[0], str(run), *words[1:], "data.split_seed=5", *also)
    assert (code, out) == (2, "")
    assert "data.split_seed must be that of the training: with another, validation and test would hold images" in err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.process
def test_weights_are_the_averaged_ones_where_the_run_averaged(effbench: Effbench, tmp_path: Path) -> None:
    words = ["model=mlp", "model.hidden=[8]", "ema=on", "data=synthetic", "data.image_size=8", "trainer.max_epochs=2"]
    assert effbench("train", *words, "device.threads=1", "hydra.run.dir=run")[0] == 0
    result = json.loads(effbench("eval", "run", "--json")[1])
    assert result["test/acc"] == recorded(tmp_path / "run")["test/acc"]
    assert result["test/loss"] == pytest.approx(recorded(tmp_path / "run")["test/loss"], rel=1e-6)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["split=tset"], ["split 'tset'", "test, train, val", "Did you mean 'test'?"]),
        (["checkpoint=first"], ["checkpoint 'first'"]),
        (["checkpoint=../../config.yaml"], ["checkpoint '../../config.yaml'"]),
        (["device=tpu"], ["'cpu', 'cuda' or 'auto'", "'tpu'"]),
        (["splt=val"], ["option of eval 'splt'", "Did you mean 'split'?"]),
        (["another"], ["option of eval 'another'"]),
        (["data.rot=x"], ["data key 'rot'", "Did you mean 'root'?"]),
        (["data.eval_batch_size=many"], ["data.eval_batch_size", "integer", "'many'"]),
        (["data.val_fraction=["], ["data.val_fraction=["]),
        (["data.image_size=32"], ["(1, 32, 32)", "(1, 28, 28)"]),
        (["data.subset=full", "data.root=/nowhere"], ["/nowhere"]),
        (["data._target_=os.system"], ["'os.system' is not allowed"]),
        (["data._target_=effbench.data.images.synthetic.synthetic"], ["data"]),
    ],
    ids=lambda value: value[0],
)
def test_eval_refuses_invalid_words_with_the_reason(
    words: list[str], expected: list[str], run: Path, effbench: Effbench
) -> None:
    code, out, err = effbench("eval", str(run), *words)
    assert (code, out) == (2, "")
    assert all(part in err for part in expected), err


@pytest.mark.process
@pytest.mark.row(35)
def test_other_classes_are_refused(effbench: Effbench) -> None:
    assert effbench("train", *TINY, "data=synthetic", "data.num_classes=4", "hydra.run.dir=run")[0] == 0
    code, _, err = effbench("eval", "run", "data.num_classes=5")
    assert code == 2
    assert "5 classes are not the run's 4" in err


@pytest.mark.parametrize("verb", [["eval"], ["predict"]], ids=lambda verb: verb[0])
@pytest.mark.parametrize(
    "kind", ["nothing", "an empty folder", "a file", "no config", "half a summary", "a future one"]
)
def test_a_folder_that_is_no_run_is_named(
    kind: str, verb: list[str], run: Path, effbench: Effbench, tmp_path: Path
) -> None:
    folder = tmp_path / "it"
    if kind == "a file":
        folder.write_text("x")
    elif kind != "nothing":
        folder.mkdir()
    if kind in ("no config", "half a summary", "a future one"):
        text = (run / "summary.json").read_text()
        half = text[: len(text) // 2]
        future = json.dumps({**json.loads(text), "schema_version": 99})
        (folder / "summary.json").write_text({"no config": text, "half a summary": half}.get(kind, future))
    code, out, err = effbench(*verb, "it", *(["x.png"] if verb == ["predict"] else []))
    assert (code, out) == (2, "")
    assert err.startswith("error: it")
    assert {"no config": "config.yaml", "half a summary": "not valid JSON", "a future one": "99"}.get(kind, "") in err


@pytest.mark.row(3)
def test_damaged_weights_are_named(run: Path, effbench: Effbench, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "copy", symlinks=True)
    weights = tmp_path / "copy" / "checkpoints" / "best" / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    code, out, err = effbench("eval", "copy")
    assert (code, out) == (1, "")
    assert "model.safetensors is missing or damaged" in err


def test_a_checkpoint_that_is_not_there_is_named_with_the_way_on(run: Path, effbench: Effbench, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "run", symlinks=True)
    last = tmp_path / "run" / "checkpoints" / "last"
    last.unlink()
    last.symlink_to("nowhere")
    code, _, err = effbench("eval", "run", "checkpoint=last")
    assert (code, "points to nowhere" in err, "effbench verify run" in err) == (2, True, True)
    code, _, err = effbench("eval", "run", "checkpoint=newest")
    assert (code, "best, last" in err) == (2, True)


@pytest.fixture
def folders(tmp_path: Path, effbench: Effbench) -> Path:
    """own/: what `run` was trained on. Pictures are told apart by their colour."""
    for root, how_many in {"own": 20, "other": 7, "tested/test": 3}.items():
        paint(tmp_path / root, how_many, seed=len(root))
    words = ["data=image_folder", "data.root=own", "data.image_size=8", "data.batch_size=8", "trainer.max_epochs=2"]
    words += ["model=mlp", "model.hidden=[16]", "device.threads=1", "data.cache_dir=cache", "hydra.run.dir=run"]
    assert effbench("train", *words)[0] == 0
    return tmp_path


def paint(root: Path, how_many: int, seed: int, classes: str = "rgb") -> None:
    generator = torch.Generator().manual_seed(seed)
    for name in classes:
        (root / name).mkdir(parents=True)
        for number in range(how_many):
            pixels = torch.randint(0, 60, (8, 8, 3), dtype=torch.uint8, generator=generator)
            pixels[..., "rgb".index(name.lower())] += 150
            Image.fromarray(pixels.numpy()).save(root / name / f"{number}.png")


@pytest.mark.process
@pytest.mark.row(52)
def test_eval_of_another_folder_uses_all_images_or_test_split(effbench: Effbench, folders: Path) -> None:
    def samples(*words: str) -> tuple[int, str]:
        code, out, err = effbench("eval", "run", *words, "--json")
        assert code == 0, err
        return json.loads(out)["samples"], err

    assert samples()[0] == 6
    count, err = samples("data.root=other")
    assert count == 21
    assert "other is not the run's dataset: 21 of its images are evaluated" in err
    assert samples("data.root=tested")[0] == samples("data.root=tested/test")[0] == 9
    shutil.copytree(folders / "own", folders / "moved")  # with the files' times
    assert samples("data.root=moved") == (6, "")


@pytest.mark.proof
@pytest.mark.process
@pytest.mark.row(52)
def test_eval_of_the_runs_folder_with_one_file_more_warns(effbench: Effbench, folders: Path) -> None:
    """Its splits are drawn anew, or at another place all of it is read: most of it was trained on."""
    assert effbench("eval", "run")[2] == ""
    shutil.copytree(folders / "own", folders / "moved")
    for root in ("own", "moved"):
        Image.new("RGB", (8, 8), (9, 9, 200)).save(folders / root / "b" / "new.png")
    trained_on = "these may include images that the run was trained on"
    code, _, err = effbench("eval", "run")
    assert (code, "warning: image_folder/own has changed since the training, and test was drawn" in err) == (0, True)
    assert trained_on in err
    assert trained_on not in effbench("eval", "run", "split=train")[2]
    code, out, err = effbench("eval", "run", "data.root=moved", "--json")
    assert (code, json.loads(out)["samples"]) == (0, 61)
    assert "warning: the run's dataset has about as many images (60)" in err
    assert "about as many" not in effbench("eval", "run", "data.root=other")[2]


@pytest.mark.process
@pytest.mark.row(52)
def test_eval_folder_is_labelled_by_name_and_refused_if_unknown(effbench: Effbench, folders: Path) -> None:
    paint(folders / "part", 5, seed=1, classes="gb")
    code, out, err = effbench("eval", "run", "data.root=part", "--json")
    assert (code, json.loads(out)["samples"], json.loads(out)["test/acc"]) == (0, 10, 1.0)
    assert "holds 2 of the run's 3 classes" in err
    paint(folders / "wrong", 1, seed=1, classes="gB")
    code, _, err = effbench("eval", "run", "data.root=wrong")
    assert code == 2
    assert "'B' is no class of the run's: 'b', 'g', 'r'" in err


@pytest.mark.process
@pytest.mark.row(52)
def test_a_data_file_of_ones_own_may_leave_options_out(effbench: Effbench, folders: Path) -> None:
    """Here image_size, root and the fractions are in no key of the record."""
    config = folders / "run" / "config.yaml"
    content = yaml.safe_load(config.read_text())
    for key in ("root", "val_fraction", "test_fraction", "split_seed", "max_pixels"):
        del content["data"][key]
    config.write_text(yaml.safe_dump({**content, "data": {**content["data"], "root": "own"}}))
    code, out, err = effbench("eval", "run", "data.root=other", "--json")
    assert (code, json.loads(out or "{}").get("samples")) == (0, 21), err
    config.write_text(yaml.safe_dump(content))
    code, _, err = effbench("eval", "run")
    assert (code, "data=image_folder needs data.root=DIR" in err) == (2, True)


@pytest.mark.row(60)
@pytest.mark.parametrize("value", [[1, 1], "many", -1])
def test_a_record_with_a_wrong_pixel_limit_is_called_damaged(value: object, run: Path, effbench: Effbench) -> None:
    shutil.copytree(run, "copy", symlinks=True)
    content = yaml.safe_load(Path("copy/config.yaml").read_text())
    content["data"]["max_pixels"] = value
    Path("copy/config.yaml").write_text(yaml.safe_dump(content))
    code, _, err = effbench("predict", "copy", "copy/curves.png")
    assert (code, "config.yaml is damaged: data.max_pixels must be a whole number" in err) == (2, True)
