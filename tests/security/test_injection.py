"""Names that a spreadsheet, a terminal or a browser would act on are shown, not obeyed."""

from __future__ import annotations

import csv
import io
import json
import sys
from pathlib import Path

import pytest
from PIL import Image

from effbench import cli
from effbench.escaping import csv_cell, for_terminal
from effbench.export.interface import RECORD_SCHEMA
from effbench.metrics import display_of
from effbench.records import write_summary
from effbench.report.sweep import Job, columns_of, sweep_rows, write_sweep
from tests.commandline import TINY

pytestmark = pytest.mark.row(44, 46)

FORMULAS = ["=cmd|' /C calc'!A0", "+1+1", "-2+3", "@SUM(A1)", "\t=1", "\r=1"]
CLASSES = [
    "=cmd|' '!A0", "+1", "-x", "@x", "<script>alert(1)<", "a\x1b[31mred", "b\x1b]0;title\x07", "two\nlines",
    "c\u202etxt", "plain",
]  # fmt: skip


@pytest.mark.parametrize("text", FORMULAS)
def test_a_formula_is_text_in_a_cell(text: str) -> None:
    assert csv_cell(text) == f"'{text}"


@pytest.mark.parametrize("value", [-0.5, 3, None, "", "0.5", "a=b", "a-b", "plain", True])
def test_numbers_and_other_text_are_unchanged(value: object) -> None:
    assert csv_cell(value) is value


def test_terminal_control_characters_are_escaped() -> None:
    assert for_terminal("a\x1b[2J\x07\x9b\x7f\r\u202eb\nc\td ü😀") == "a\\x1b[2J\\x07\\x9b\\x7f\\r\\u202eb\nc\td ü😀"


def test_sweep_csv_holds_no_formula_and_its_numbers_are_numbers(tmp_path: Path) -> None:
    folder = tmp_path / "000"
    folder.mkdir()
    summary = {"status": "completed", "best": {"metric": "val/loss", "value": -0.5}, "metrics": {"test/loss": -1.5}}
    write_summary(folder, summary)
    (tmp_path / "001").mkdir()
    write_summary(tmp_path / "001", {"status": "failed", "error": "=cmd|' '!A0\nx\x1b[31m", "metrics": {}})
    rows = sweep_rows([Job(0, ["+data.x=1"], folder), Job(1, ["@x=1", "b=2"], tmp_path / "001")])
    path = write_sweep(tmp_path, rows)
    with path.open(newline="", encoding="utf-8") as stream:
        first, second = csv.DictReader(stream)
    assert set(first) == set(columns_of(rows))
    assert (first["overrides"], first["value"], first["test/loss"]) == ("'+data.x=1", "-0.5", "-1.5")
    assert second["overrides"] == "'@x=1 b=2"
    assert second["error"].startswith("'=cmd")


@pytest.fixture
def photos(elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of classes with hostile names, as far as the file system takes them, and images of such names."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(elsewhere / "cache"))
    for number, name in enumerate(CLASSES):
        (elsewhere / "data" / name).mkdir(parents=True)
        for index in range(10):
            image = Image.new("RGB", (8, 8), (number * 20, index * 20, 0))
            image.save(elsewhere / "data" / name / f"{index}.png")
    (elsewhere / "photos").mkdir()
    for name in ("=1+1.png", "-x.png", "@y.png", "esc\x1b[31m.png", "two\nlines.png", "plain.png"):
        Image.new("RGB", (8, 8)).save(elsewhere / "photos" / name)
    return elsewhere


@pytest.mark.process
def test_hostile_names_are_escaped_from_training_to_predictions(
    photos: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [*TINY, "data=image_folder", "data.root=data", "data.image_size=8", "hydra.run.dir=run"]
    assert cli.main(["train", *words]) == 0
    told = "".join(capsys.readouterr())
    assert not any(character in told for character in "\x1b\x07\u202e")
    classes = json.loads((photos / "run" / "summary.json").read_text())["data"]["classes"]
    assert len(classes) == len(CLASSES)
    assert not any(character in name for name in classes for character in "\x1b\x07\n\u202e")
    assert cli.main(["eval", "run"]) == 0
    assert "\x1b" not in "".join(capsys.readouterr())

    monkeypatch.chdir(photos / "photos")
    files = sorted(path.name for path in Path().iterdir())
    assert (
        cli.main(["predict", "../run", *(f"./{name}" if name[0] == "-" else name for name in files), "top_k=10"]) == 0
    )
    text = capsys.readouterr().out
    rows = list(csv.reader(io.StringIO(text, newline="")))
    assert len(rows) == 1 + len(files)
    for row in rows[1:]:
        assert not any(cell[:1] in ("=", "+", "-", "@", "\t", "\r") for cell in row)
        assert all(0 <= float(cell) <= 1 for cell in row[2::2])  # numbers are numbers
    cells = {cell for row in rows[1:] for cell in row}
    assert {"'=cmd|' '!A0", "'+1", "'-x", "'@x", "<script>alert(1)<"} <= cells


@pytest.mark.process
@pytest.mark.usefixtures("photos")
def test_on_a_terminal_a_file_s_name_steers_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [*TINY, "data=image_folder", "data.root=data", "data.image_size=8", "hydra.run.dir=run"]
    assert cli.main(["train", *words]) == 0
    capsys.readouterr()
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    assert cli.main(["predict", "run", "photos"]) == 0
    out = capsys.readouterr().out
    assert "esc\\x1b[31m.png" in out
    assert "\x1b" not in out


@pytest.mark.parametrize("verb", ["bench", "eval"])
@pytest.mark.parametrize("name", ["image\x1b]0;title\x07s", "\x1b[2J", "i\u202es"], ids=repr)
def test_a_file_s_record_names_no_unit_that_steers(
    name: str, verb: str, elsewhere: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record = {
        "schema_version": RECORD_SCHEMA, "format": "onnx", "file": "m.onnx", "sha256": "", "run": "", "checkpoint": {},
        "probabilities": "softmax", "model": {}, "output": {"shape": ["N", 3]},
        "input": {"name": name, "dtype": "float32", "shape": ["N", 3]},
    }  # fmt: skip
    (elsewhere / "m.onnx").write_bytes(b"")
    (elsewhere / "m.onnx.json").write_text(json.dumps(record))
    assert cli.main([verb, "m.onnx"]) == 2
    told = "".join(capsys.readouterr())
    assert "input.name must be of printable characters" in told
    assert not any(character in told for character in "\x1b\x07\u202e")


@pytest.mark.parametrize(
    "words",
    [
        ["train", "model=a\x1b[2Jb"],
        ["train", "a\x1b[2Jb=1"],
        ["train", "data=image_folder", "data.root=a\x1b[2Jb"],
        ["train", "recipe=./a\x1b[2Jb.yaml"],
        ["eval", "a\x1b[2Jb"],
        ["predict", "a\x1b[2Jb", "x.png"],
        ["recipe", "show", "a\x1b[2Jb"],
        ["a\x1b[2Jb"],
    ],
    ids=repr,
)
def test_an_error_message_steers_no_terminal(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(words) == 2
    out, err = capsys.readouterr()
    assert "\x1b" not in out + err
    assert err.startswith("error: ")


@pytest.mark.slow
def test_a_script_in_an_option_draws_a_picture_all_the_same(elsewhere: Path) -> None:
    """curves.png is a bitmap: whatever the title says is drawn, and no program reads it."""
    from effbench.report.curves import draw_curves

    rows = "".join(f"epoch,{step},{step},1.0,0.5,1.0,0.5,0.1\n" for step in (1, 2, 3))
    (elsewhere / "metrics.csv").write_text("row,epoch,step,train/loss,train/acc,val/loss,val/acc,lr/all\n" + rows)
    for title in ("<script>alert(1)</script>", "=1+1", "50 dollars"):
        draw_curves(elsewhere, title, {name: display_of(name) for name in ("loss", "acc")})
        content = (elsewhere / "curves.png").read_bytes()
        assert content.startswith(b"\x89PNG")
        assert b"<script" not in content
    assert (elsewhere / "curves.png").stat().st_size > 1000
