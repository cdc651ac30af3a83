"""`effbench train`: what it writes, prints and refuses to overwrite."""

from __future__ import annotations

import csv
import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file

from effbench.automatic import settled
from effbench.config.compose import compose
from effbench.config.versions import stamped
from effbench.data.images.modality import Images
from effbench.records import STATUSES
from tests.cli.conftest import TWENTY_STEPS, Effbench
from tests.commandline import TINY


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir() or path.is_symlink()}


# --- the run's folder -------------------------------------------------------------------------------------------------


def test_a_run_leaves_exactly_the_documented_files(run: Path) -> None:
    steps = sorted(path.name for path in (run / "checkpoints").glob("step-*"))
    inside = {
        f"checkpoints/{step}/{name}" for step in steps for name in ("model.safetensors", "state.pt", "manifest.json")
    }
    hydra = {".hydra/config.yaml", ".hydra/hydra.yaml", ".hydra/overrides.yaml"}
    links = {"checkpoints/best", "checkpoints/last"}
    assert files(run) == {"config.yaml", "metrics.csv", "summary.json", "curves.png", *inside, *links, *hydra}
    assert 1 <= len(steps) <= 2
    assert steps[-1] == "step-00000020"


@pytest.mark.slow
def test_config_yaml_is_the_config_that_was_trained(run: Path) -> None:
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert config == stamped(settled(compose(TWENTY_STEPS), 5400, Images, (1, 28, 28)).to_dict())


def test_summary_json_holds_what_reports_and_comparisons_read(run: Path) -> None:
    summary = json.loads((run / "summary.json").read_text())
    assert {
        "schema_version",
        "status",
        "metrics",
        "timing",
        "memory",
        "model",
        "environment",
        "git",
        "argv",
        "data",
    } <= set(summary)
    assert summary["status"] == "completed"
    assert summary["status"] in STATUSES
    assert set(summary["metrics"]) == {"train/loss", "train/acc", "val/loss", "val/acc", "test/loss", "test/acc"}
    assert all(0 <= value <= 1 for name, value in summary["metrics"].items() if name.endswith("acc"))
    assert all(math.isfinite(value) for value in summary["metrics"].values())
    assert (summary["steps"], summary["epochs"], summary["images_seen"]) == (20, 2.0, 20 * 64)
    assert summary["model"]["parameters"] == 28 * 28 * 32 + 32 + 32 * 10 + 10
    assert summary["model"]["macs"] == 28 * 28 * 32 + 32 * 10
    assert re.fullmatch("[0-9a-f]{64}", summary["data"]["sha256"])
    assert summary["data"]["counts"] == {"train": 5400, "val": 600, "test": 2000}
    assert len(summary["data"]["classes"]) == 10
    assert summary["environment"]["torch"] == torch.__version__.partition("+")[0] or summary["environment"]["torch"]
    assert summary["timing"]["training_s"] <= summary["timing"]["seconds"]["total"]
    assert summary["memory"]["peak_rss_bytes"] > 50e6
    assert summary["best"]["metric"] == "val/acc"
    assert (run / "checkpoints" / summary["best"]["checkpoint"]).is_dir()


def test_metrics_csv_has_a_row_a_logged_step_and_a_row_an_epoch(run: Path) -> None:
    with (run / "metrics.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    rates = [column for column in rows[0] if column.startswith("lr/")]
    assert rates
    columns = {"row", "epoch", "step", "train/loss", "train/acc", "val/loss", "val/acc", "train/images_per_s"}
    assert set(rows[0]) == columns | set(rates)
    steps = [(int(row["step"]), int(row["epoch"])) for row in rows if row["row"] == "step"]
    assert steps == [(4, 0), (8, 0), (12, 1), (16, 1), (20, 1)]
    epochs = [row for row in rows if row["row"] == "epoch"]
    assert [(row["epoch"], row["step"]) for row in epochs] == [("1", "10"), ("2", "20")]
    assert all(row["val/acc"] for row in epochs)
    summary = json.loads((run / "summary.json").read_text())
    assert float(epochs[-1]["val/loss"]) == pytest.approx(summary["metrics"]["val/loss"], rel=1e-6)
    assert max(float(row["val/acc"]) for row in epochs) == pytest.approx(summary["best"]["value"], rel=1e-6)


def test_curves_png_is_an_image_that_is_not_blank(run: Path) -> None:
    with Image.open(run / "curves.png") as picture:
        assert picture.format == "PNG"
        width, height = picture.size
        assert 600 <= width <= 4000
        assert 200 <= height <= 2000
        assert len(np.unique(np.asarray(picture.convert("L")))) > 20


def test_best_and_last_are_checkpoints_with_file_digests(run: Path) -> None:
    for link in ("best", "last"):
        folder = run / "checkpoints" / link
        manifest = json.loads((folder / "manifest.json").read_text())
        assert set(manifest["sha256"]) == {"model.safetensors", "state.pt"}
        assert load_file(folder / "model.safetensors")


def test_the_result_is_on_stdout_and_the_narration_on_stderr(finished: tuple[Path, str, str]) -> None:
    folder, out, err = finished
    summary = json.loads((folder / "summary.json").read_text())
    assert f"{100 * summary['metrics']['test/acc']:.2f} %" in out
    assert str(folder / "curves.png") in out
    assert "epoch" not in out.split("steps")[0]
    assert [line for line in err.splitlines() if line.startswith("epoch 2/2")]
    assert "5400 train, 600 val, 2000 test" in err
    assert "\r" not in err  # no progress bar where there is no terminal
    assert "\x1b" not in out + err


def test_learning_happens(run: Path) -> None:
    summary = json.loads((run / "summary.json").read_text())
    assert summary["metrics"]["test/acc"] > 0.4  # chance is 0.1


@pytest.mark.process
def test_the_same_seed_learns_the_same_and_another_seed_does_not(run: Path, effbench: Effbench, tmp_path: Path) -> None:
    assert effbench("train", *TWENTY_STEPS, "hydra.run.dir=same")[0] == 0
    assert effbench("train", *TWENTY_STEPS, "seed=1", "hydra.run.dir=other")[0] == 0
    first, same, other = (
        load_file(folder / "checkpoints" / "last" / "model.safetensors")
        for folder in (run, tmp_path / "same", tmp_path / "other")
    )
    assert all(torch.equal(first[name], same[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first)


# --- where it writes --------------------------------------------------------------------------------------------------


@pytest.mark.process
def test_default_run_folder_is_outputs_by_date_and_time(effbench: Effbench, tmp_path: Path) -> None:
    assert effbench("train", *TINY)[0] == 0
    [summary] = tmp_path.glob("outputs/*/*/summary.json")
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", summary.parents[1].name)
    assert re.fullmatch(r"\d\d-\d\d-\d\d-\d{6}", summary.parent.name)


@pytest.mark.spread(2)
@pytest.mark.process
@pytest.mark.row(37)
@pytest.mark.parametrize("name", ["a b", "ü😀", "it\\'s", "a,b=c", "x" * 255])
def test_a_run_s_folder_may_have_any_name(name: str, effbench: Effbench, tmp_path: Path) -> None:
    code, out, _ = effbench("train", *TINY, f"hydra.run.dir='deep/{name}'")
    assert code == 0
    folder = tmp_path / "deep" / name.replace("\\", "")
    assert (folder / "summary.json").is_file()
    assert str(folder.relative_to(tmp_path)) in out
    assert effbench("eval", f"{folder}/")[0] == 0


@pytest.mark.slow
def test_a_folder_that_holds_a_run_is_refused_and_unchanged(run: Path, effbench: Effbench) -> None:
    before = {name: (run / name).stat().st_mtime_ns for name in files(run)}
    for folder in (f"{run}", f"{run}/"):
        code, out, err = effbench("train", *TINY, f"hydra.run.dir='{folder}'")
        assert (code, out) == (2, "")
        assert "holds a run already" in err
        assert f"resume={run}" in err
    assert {name: (run / name).stat().st_mtime_ns for name in files(run)} == before


@pytest.mark.slow
@pytest.mark.row(7)
@pytest.mark.parametrize("folder", ["taken", "taken/below", "/proc/effbench"])
def test_unwritable_output_folder_is_refused_before_training(folder: str, effbench: Effbench, tmp_path: Path) -> None:
    if folder.startswith("/proc") and not Path("/proc/self").exists():
        pytest.skip("there is no /proc here")
    (tmp_path / "taken").write_text("a file\n")
    code, out, err = effbench("train", *TINY, f"hydra.run.dir={folder}")
    assert (code, out) == (2, "")
    assert f"output folder {folder} cannot be written" in err
    assert "hydra.run.dir=DIR" in err
    assert "epoch" not in err
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]


@pytest.mark.slow
@pytest.mark.row(37, 43)
@pytest.mark.parametrize("name", ["run\udcff", "run\0"], ids=["no utf-8", "nul"])
def test_a_name_that_no_checkpoint_could_have_is_refused_at_once(name: str, effbench: Effbench, tmp_path: Path) -> None:
    code, out, err = effbench("train", *TINY, f"hydra.run.dir='{name}'")
    assert (code, out) == (2, "")
    assert "cannot be written" in err
    assert not any(tmp_path.iterdir())


@pytest.mark.process
@pytest.mark.parametrize("words", [["--json"], ["--json", "optimizer.lr=1e30"]], ids=["completed", "diverged"])
def test_json_puts_summary_json_on_stdout_and_nothing_else(
    words: list[str], effbench: Effbench, tmp_path: Path
) -> None:
    code, out, _ = effbench("train", *TINY, *words, "hydra.run.dir='ü'")
    summary = json.loads((tmp_path / "ü" / "summary.json").read_text())
    assert json.loads(out) == summary
    assert (code, summary["status"]) == ((1, "diverged") if len(words) > 1 else (0, "completed"))


# --- runs that do not end well ----------------------------------------------------------------------------------------


@pytest.mark.process
@pytest.mark.row(27)
def test_a_diverged_run_exits_1_and_says_what_to_lower(effbench: Effbench, tmp_path: Path) -> None:
    code, out, err = effbench("train", *TINY, "optimizer.lr=1e30", "hydra.run.dir=run")
    assert code == 1
    assert "diverged" in out
    assert "error: the run diverged" in err
    assert "optimizer.lr" in err
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["status"] == "diverged"
    assert "test/acc" not in summary["metrics"]
    assert not (tmp_path / "run" / "checkpoints" / "best").exists()


@pytest.mark.process
def test_an_exception_while_training_is_recorded_as_failed(
    effbench: Effbench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from effbench.errors import EffbenchError
    from effbench.training.trainer import Trainer

    def broken(*_: object) -> None:
        raise EffbenchError("the cable was pulled")

    monkeypatch.setattr(Trainer, "update", broken)
    code, _, err = effbench("train", *TINY, "hydra.run.dir=run")
    assert code == 1
    assert "the cable was pulled" in err
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["status"] == "failed"
    assert "the cable was pulled" in summary["error"]


@pytest.mark.process
def test_early_stopping_ends_with_0_and_its_own_status(effbench: Effbench, tmp_path: Path) -> None:
    words = [
        *TINY,
        "trainer.max_epochs=9",
        "optimizer.lr=1e-12",
        "early_stopping.patience=1",
        "early_stopping.min_delta=1",
    ]
    assert effbench("train", *words, "hydra.run.dir=run")[0] == 0
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["status"] == "stopped_early"
    assert summary["epochs"] == 2
    assert "test/acc" in summary["metrics"]


@pytest.mark.process
@pytest.mark.row(6)
def test_failed_curves_plot_is_a_warning_not_an_error(
    effbench: Effbench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> Path:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("effbench.run.session.draw_curves", broken)
    code, _, err = effbench("train", *TINY, "hydra.run.dir=run")
    assert code == 0
    assert "warning: curves.png was not drawn" in err
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["status"] == "completed"


@pytest.mark.process
def test_smoke_takes_two_steps_of_any_recipe(effbench: Effbench, tmp_path: Path) -> None:
    words = ["recipe=mobilenet_adamw", "model=mlp", "debug=smoke", "device.threads=1", "hydra.run.dir=run"]
    assert effbench("train", *words)[0] == 0
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["steps"] == 2


@pytest.mark.slow
@pytest.mark.parametrize(
    "word", ["model.width_mult=-1", "+model.widht=2", "optimizer.betas=[0.9,0.9,0.9]", "+scheduler.warmpu=3"]
)
def test_bad_options_are_refused_before_a_folder_is_decoded(
    word: str, effbench: Effbench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for kind in ("a", "b"):
        (tmp_path / "photos" / kind).mkdir(parents=True)
        for number in range(12):
            Image.new("RGB", (40, 40), (number, 0, 0)).save(tmp_path / "photos" / kind / f"{number}.png")
    words = ["data=image_folder", "data.root=photos", "data.image_size=32", "debug=smoke", "device.threads=1"]
    assert effbench("train", *words, word)[0] == 2
    assert not (tmp_path / "cache").exists()
    assert not (tmp_path / "outputs").exists()


@pytest.mark.process
@pytest.mark.row(52)
def test_limited_test_of_a_folder_covers_all_classes_and_says_so(effbench: Effbench, tmp_path: Path) -> None:
    """Classes b and c look alike: no model gets more than two thirds of equal parts right, and this one gets those."""
    for which, count in (("train", 24), ("val", 12), ("test", 12)):
        for kind, value in (("a", 0), ("b", 255), ("c", 255)):
            folder = tmp_path / "photos" / which / kind
            folder.mkdir(parents=True)
            for number in range(count):
                Image.new("RGB", (8, 8), (value, value, value)).save(folder / f"{number}.png")
    words = [
        "data=image_folder", "data.root=photos", "data.image_size=8", "data.cache_dir=cache", "model=mlp",
        "data.batch_size=24", "data.eval_batch_size=9", "trainer.max_epochs=4", "trainer.limit_val_batches=0.25",
        "trainer.limit_test_batches=1", "device.threads=1", "hydra.run.dir=run",
    ]  # fmt: skip
    code, out, err = effbench("train", *words)
    assert code == 0
    assert "val: a sample of 9 of 36 images, all 3 classes\n" in err
    assert "test: a sample of 9 of 36 images, all 3 classes\n" in err
    assert "66.67 % (a sample of 9 of 36 images)" in out
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["metrics"]["test/acc"] == pytest.approx(2 / 3)
    assert summary["metrics"]["val/acc"] == pytest.approx(2 / 3)
    assert summary["data"]["evaluated"] == {"val": 9, "test": 9}


OWN_DATA = """
import numpy as np, torch
from effbench.data.splits import Split, Splits
images = np.random.default_rng(0).integers(0, 256, (64, 1, 8, 8), dtype=np.uint8)
numbers = np.arange(64) % 4
LABELS = {
    "uint8": numbers.astype(np.uint8), "float": torch.tensor(numbers).float(), "multi_hot": torch.ones(64, 4),
    "regression": torch.rand(64),
}
def data(kind: str):
    if kind == "tuple":
        return images, numbers
    part = Split(images, LABELS[kind])
    return Splits("mine", part, part, None, ["a", "b", "c", "d"], "")
"""


@pytest.mark.spread(2)
@pytest.mark.process
@pytest.mark.row(65)
@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("uint8", None),
        ("float", "mine train labels must be class numbers, int64 (N,); got float32 (64,), sample 0: 0.0."),
        ("multi_hot", "mine train labels must be (N,), one class number a sample; got float32 (64, 4)"),
        ("regression", "Numbers to predict: task=regression."),
        ("tuple", "must return Splits; got tuple. Such as:\n  from effbench.data.splits import Split, Splits"),
    ],
)
def test_labels_of_a_custom_dataset_are_checked_before_training(
    kind: str, said: str | None, effbench: Effbench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / f"own_{kind}.py").write_text(OWN_DATA)
    monkeypatch.syspath_prepend(str(tmp_path))
    own = f"defaults: [_base, _self_]\n_target_: own_{kind}.data\nkind: {kind}\nbatch_size: 8\n"
    (tmp_path / "conf" / "data").mkdir(parents=True)
    (tmp_path / "conf" / "data" / "own.yaml").write_text(own)
    words = ["--config-dir", "conf", "data=own", f"allow_targets=[own_{kind}]", "model=mlp", "debug=smoke"]
    code, _, err = effbench("train", *words, "device.threads=1")
    assert code == (2 if said else 0), err
    assert said is None or said in err
