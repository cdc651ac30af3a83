"""`effbench predict`: every image file gets its probabilities, everything else its reason."""

from __future__ import annotations

import csv
import io
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from effbench.data.images.modality import Images
from effbench.data.modality import Settings
from effbench.run.load import load_run
from tests.cli.conftest import Effbench


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Images of several sizes, modes and names, and what is none."""
    folder = tmp_path / "my photos"
    (folder / "ü").mkdir(parents=True)
    torch.manual_seed(0)
    for name, mode, size in [
        ("gray.png", "L", (28, 28)),
        ("wide.jpg", "RGB", (90, 40)),
        ("clear.png", "RGBA", (30, 50)),
        ("ü/=sum(A1).webp", "RGB", (64, 64)),
    ]:
        pixels = torch.randint(0, 256, (size[1], size[0], {"L": 1, "RGB": 3, "RGBA": 4}[mode]), dtype=torch.uint8)
        Image.fromarray(pixels.squeeze(2).numpy()).convert(mode).save(folder / name)
    (folder / "notes.txt").write_text("not an image\n")
    return folder


def table(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def test_predict_folder_gives_a_row_per_image_and_ignores_others(run: Path, photos: Path, effbench: Effbench) -> None:
    code, out, err = effbench("predict", str(run), str(photos))
    assert (code, err) == (0, "")
    names = [Path(row["file"]).name for row in table(out)]
    assert sorted(names) == sorted(["gray.png", "wide.jpg", "clear.png", "=sum(A1).webp"])


def test_all_classes_together_have_probability_1_largest_first(run: Path, photos: Path, effbench: Effbench) -> None:
    code, out, _ = effbench("predict", str(run), str(photos), "top_k=10")
    assert code == 0
    for row in table(out):
        columns = ["probability", *(f"probability_{rank}" for rank in range(2, 11))]
        values = [float(row[column]) for column in columns]
        assert sum(values) == pytest.approx(1, abs=1e-4)
        assert values == sorted(values, reverse=True)
        classes = {row["class"], *(row[f"class_{rank}"] for rank in range(2, 11))}
        assert classes == set(load_run(run).classes)


def test_rows_come_in_the_order_given_and_as_often(run: Path, photos: Path, effbench: Effbench) -> None:
    given = [str(photos / name) for name in ("wide.jpg", "clear.png", "wide.jpg")]
    assert [row["file"] for row in table(effbench("predict", str(run), *given)[1])] == given


@pytest.mark.row(33)
def test_the_runs_own_pixel_limit_holds_unless_another_is_given(
    run: Path, photos: Path, effbench: Effbench, tmp_path: Path
) -> None:
    shutil.copytree(run, tmp_path / "copy", symlinks=True)
    config = tmp_path / "copy" / "config.yaml"
    config.write_text(config.read_text().replace("\ndata:\n", "\ndata:\n  max_pixels: 3000\n", 1))
    code, _, err = effbench("predict", "copy", str(photos / "wide.jpg"))
    assert code == 1
    assert "3,600 pixels, above the limit max_pixels=3,000" in err
    assert "predict max_pixels=N" in err
    assert effbench("predict", "copy", str(photos / "wide.jpg"), "max_pixels=3600")[0] == 0
    assert "max_pixels must be a whole number" in effbench("predict", "copy", "x", "max_pixels=many")[2]


def test_json_and_csv_say_the_same(run: Path, photos: Path, effbench: Effbench) -> None:
    rows = table(effbench("predict", str(run), str(photos), "top_k=2")[1])
    entries = json.loads(effbench("predict", str(run), str(photos), "top_k=2", "--json")[1])
    assert [entry["file"] for entry in entries] == [row["file"].removeprefix("'") for row in rows]
    for entry, row in zip(entries, rows, strict=True):
        assert (entry["class"], entry["probability"]) == (row["class"], float(row["probability"]))
        assert [best["class"] for best in entry["top_k"]] == [row["class"], row["class_2"]]


def test_predict_file_equals_the_api_on_its_pixels(run: Path, photos: Path, effbench: Effbench) -> None:
    from effbench.data.images.decoding import decode

    _, out, _ = effbench("predict", str(run), str(photos / "gray.png"), "--json", "top_k=10")
    [entry] = json.loads(out)
    trained = load_run(run)
    [expected] = trained.predict(decode(photos / "gray.png", 28, 1)[None])
    got = {best["class"]: best["probability"] for best in entry["top_k"]}
    assert [got[name] for name in trained.classes] == pytest.approx(expected.tolist(), abs=1e-6)


def test_a_test_image_written_to_a_file_keeps_its_class(run: Path, effbench: Effbench, tmp_path: Path) -> None:
    from effbench import build

    trained = load_run(run)
    test = build.splits(trained.config).test
    assert test is not None
    images = test.images[:50]
    for index, image in enumerate(images):
        Image.fromarray(image[0].numpy()).save(tmp_path / f"{index:02d}.png")
    _, out, _ = effbench("predict", str(run), str(tmp_path), "--json", "top_k=1")
    expected = [trained.classes[label] for label in trained.predict(images).argmax(1).tolist()]
    assert [entry["class"] for entry in json.loads(out)] == expected


@pytest.mark.row(31)
def test_predict_names_bad_images_exits_1_and_answers_the_rest(
    run: Path, photos: Path, effbench: Effbench, tmp_path: Path
) -> None:
    bad = {"garbage.png": b"not an image", "empty.jpg": b"", "cut.png": (photos / "gray.png").read_bytes()[:100]}
    for name, content in bad.items():
        (tmp_path / name).write_bytes(content)
    words = [str(photos / "gray.png"), *bad]
    code, out, err = effbench("predict", str(run), *words)
    assert code == 1
    assert [Path(row["file"]).name for row in table(out)] == ["gray.png"]
    assert len(err.splitlines()) == 3
    assert all(any(line.startswith(f"error: {name}") for line in err.splitlines()) for name in bad)
    assert (tmp_path / "garbage.png").read_bytes() == bad["garbage.png"]


def test_no_readable_image_at_all_gives_no_table(run: Path, effbench: Effbench, tmp_path: Path) -> None:
    (tmp_path / "garbage.png").write_bytes(b"x")
    code, out, _ = effbench("predict", str(run), "garbage.png")
    assert (code, out) == (1, "")
    assert effbench("predict", str(run), "garbage.png", "--json")[1].strip() == "[]"


@pytest.mark.row(46)
@pytest.mark.parametrize("name", ["=cmd().png", "+1.png", "@x.png"])
def test_a_spreadsheet_takes_no_file_name_for_a_formula(
    name: str, run: Path, photos: Path, effbench: Effbench, tmp_path: Path
) -> None:
    shutil.copy(photos / "gray.png", tmp_path / name)
    _, out, _ = effbench("predict", str(run), name)
    assert table(out)[0]["file"] == f"'{name}"


@pytest.mark.row(37)
def test_a_file_name_that_is_no_utf8_can_be_printed(
    run: Path, photos: Path, effbench: Effbench, tmp_path: Path
) -> None:
    raw = bytes(tmp_path) + b"/raw"
    try:
        Path(raw.decode()).mkdir()
        with open(raw + b"/\xff.png", "wb") as stream:  # noqa: PTH123 - a Path cannot hold these bytes as they are
            stream.write((photos / "gray.png").read_bytes())
    except OSError:
        pytest.skip("this file system takes UTF-8 only")
    code, out, _ = effbench("predict", str(run), "raw", "--json")
    assert code == 0
    json.loads(out.encode("utf-8"))


@pytest.mark.parametrize("suffix", ["csv", "json"])
def test_output_file_equals_stdout(suffix: str, run: Path, photos: Path, effbench: Effbench, tmp_path: Path) -> None:
    json_flag = ["--json"] if suffix == "json" else []
    _, printed, _ = effbench("predict", str(run), str(photos), *json_flag)
    code, out, _ = effbench("predict", str(run), str(photos), f"output=it.{suffix}")
    assert (code, out) == (0, "")
    assert (tmp_path / f"it.{suffix}").read_bytes().decode() == printed
    assert {path.name for path in tmp_path.iterdir()} == {photos.name, f"it.{suffix}"}


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["x.png"], ["x.png does not exist"]),
        (["empty"], ["empty holds no image file", ".png"]),
        (["top_k=0", "photo.png"], ["top_k", "'0'"]),
        (["top_k=some", "photo.png"], ["top_k", "'some'"]),
        (["topk=3", "photo.png"], ["option of predict 'topk'", "max_pixels", "Did you mean 'top_k'?"]),
        (["photo=1.png"], ["option of predict 'photo'", "There is no file 'photo=1.png' either."]),
        (["jobs/000_lr=0.1/photo.png"], ["jobs/000_lr=0.1/photo.png does not exist"]),
        (["checkpoint=first", "photo.png"], ["checkpoint 'first'"]),
        (["output=nowhere/x.csv", "photo.png"], ["output=nowhere/x.csv", "nowhere"]),
        (["output=empty", "photo.png"], ["output=empty", "folder"]),
        (["output=photo.png", "photo.png"], ["output=photo.png is a file that predict reads. Give another name."]),
        (["output=empty/x.csv", "empty"], ["output=empty/x.csv lies in empty, which predict reads."]),
        (["data.root=new"], ["predict takes files themselves: effbench predict RUN new.", "is for `effbench eval`"]),
        (["data.image_size=9", "photo.png"], ["effbench predict RUN FILE. data.KEY=VALUE is for `effbench eval`"]),
    ],
    ids=lambda value: value[0],
)
def test_predict_refuses_invalid_words_with_the_reason(
    words: list[str], expected: list[str], run: Path, photos: Path, effbench: Effbench, tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    shutil.copy(photos / "gray.png", tmp_path / "photo.png")
    code, out, err = effbench("predict", str(run), *words)
    assert (code, out) == (2, "")
    assert all(part in err for part in expected), err
    assert not list(tmp_path.glob("**/*.tmp"))


@pytest.mark.process
@pytest.mark.row(53)
def test_pictures_of_12_bits_are_scaled_as_the_runs_data_were(effbench: Effbench, tmp_path: Path) -> None:
    """To the same pixels as `train` and `eval` have, and so to the same probabilities."""
    generator = np.random.default_rng(0)
    for name in ("train/low", "train/high", "val/low", "val/high"):
        (tmp_path / "set" / name).mkdir(parents=True)
        for number in range(12):
            values = generator.normal(1000 if "low" in name else 2600, 9, (8, 8)).astype(np.uint16)
            Image.fromarray(values).save(tmp_path / "set" / name / f"{number}.png")
    words = ["data=image_folder", "data.root=set", "data.image_size=8", "data.batch_size=8", "data.cache_dir=cache"]
    words += ["model=mlp", "model.hidden=[16]", "device.threads=1", "trainer.max_epochs=8", "hydra.run.dir=deep"]
    assert effbench("train", *words)[0] == 0
    trained = load_run("deep")
    assert trained.data["white_level"] == [4095.0, 1.0]
    code, out, _ = effbench("predict", "deep", "set/val", "top_k=2", "--json")
    assert code == 0
    from effbench import build

    val = build.splits(trained.config).val
    assert val is not None
    expected = trained.predict(val.images)
    for row, entry in zip(expected, json.loads(out), strict=True):
        assert Path(entry["file"]).parent.name == entry["class"]
        assert entry["probability"] == pytest.approx(float(row.max()), abs=1e-6)
    result = json.loads(effbench("eval", "deep", "data.root=set/val", "--json")[1])
    assert (result["test/acc"], result["samples"]) == (1.0, 24)
    bright = np.full((8, 8), 9000, np.uint16)
    Image.fromarray(bright).save(tmp_path / "bright.png")
    assert "1 images have values above 4095" in effbench("predict", "deep", "bright.png")[2]


@pytest.mark.row(53)
@pytest.mark.parametrize(("highest", "said"), [(4000, "16 times too little light"), (60_000, "")])
def test_deep_pictures_for_a_run_on_8_bits_are_warned_of(
    highest: int, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Scaled by 65535, values of 12 bits are nearly black."""
    images = Images.restored({"shape": (3, 8, 8), "mean": [0.5] * 3, "std": [0.2] * 3}, Settings())
    Image.fromarray(np.linspace(0, highest, 64).reshape(8, 8).astype(np.uint16)).save(tmp_path / "deep.png")
    Image.new("RGB", (8, 8)).save(tmp_path / "usual.png")
    problems: list[str] = []
    [(names, _)] = images.read_files([str(tmp_path)], {}, problems)
    assert (len(names), problems) == (2, [])
    err = capsys.readouterr().err
    assert "warning: 1 image of more than 8 bits: the run was trained on 8 bits" in err
    assert ("too little light" in err, said in err) == (bool(said), True)


def test_a_run_given_as_input_is_refused_but_its_curves_are_not(run: Path, photos: Path, effbench: Effbench) -> None:
    code, out, err = effbench("predict", str(run), str(photos), str(run))
    assert (code, out) == (2, "")
    assert f"{run} holds a run, whose {run}/curves.png is no photo" in err
    assert effbench("predict", str(run), str(run / "curves.png"))[0] == 0


@pytest.mark.spread(4)
@pytest.mark.parametrize(
    "words",
    [
        ["predict", "RUN", "URL"], ["predict", "URL", "x.png"], ["predict", "RUN", "x.png", "output=URL"],
        ["train", "resume=URL"], ["train", "hydra.run.dir=URL"], ["train", "-m", "hydra.sweep.dir=URL", "seed=1,2"],
        ["train", "recipe=URL"], ["train", "--config-dir", "URL"], ["train", "data=image_folder", "data.root=URL"],
        ["report", "URL"], ["train", "model=mlp", "model.pretrained=URL"],
    ],
    ids=" ".join,
)  # fmt: skip
def test_a_url_is_refused_as_it_was_typed_and_makes_no_folder(
    words: list[str], run: Path, effbench: Effbench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    url = "https://example.org/a.yaml"
    code, _, err = effbench(*[word.replace("URL", url).replace("RUN", str(run)) for word in words])
    assert code == 2
    assert err.count(f"{url} is a URL: effbench reads and writes local files alone") == 1
    assert not any(tmp_path.iterdir())
