"""ExecuTorch files on the command line: `max_batch`, eval and predict as the run, trust, broken files.

tests/cli/test_export.py has what holds for files of every format.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from effbench import cli
from effbench.run.load import load_run
from tests.cli.conftest import Effbench
from tests.cli.test_exported_files import BY_CLASS, vouched

# The import of the exporter alone takes ten seconds of processor time and more.
pytestmark = [pytest.mark.proof, pytest.mark.process]


@pytest.fixture(scope="session")
def made(finished: tuple[Path, str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("executorch")
    words = ["format=executorch", "max_batch=7", f"output={folder}"]
    assert cli.main(["export", str(finished[0]), *words]) == 0
    return folder / "mlp-best.pte"


@pytest.fixture
def file(made: Path, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    return Path(shutil.copytree(made.parent, tmp_path / "files")) / made.name


def test_the_largest_batch_is_recorded_and_said(run: Path, made: Path, effbench: Effbench) -> None:
    record = json.loads(made.with_name("mlp-best.pte.json").read_text())
    assert record["input"]["batch"] == {"least": 1, "most": 7}
    assert record["input"]["shape"] == ["N", 1, 28, 28]
    assert record["parity"]["agreement"] == 1.0
    code, out, _ = effbench("export", str(run), "format=executorch", "max_batch=1", "output=it")
    assert code == 0
    assert "batch            exactly 1 (max_batch); effbench computes more in parts\n" in out


def test_eval_gives_the_metrics_of_the_run(run: Path, made: Path, effbench: Effbench) -> None:
    """In batches of 512, of which the file takes 7 at once."""
    assert load_run(run).config.data.eval_batch_size > 7
    expected = json.loads(effbench("eval", str(run), "--json")[1])
    code, out, _ = effbench("eval", str(made), "trust=true", "--json")
    assert code == 0
    found = json.loads(out)
    assert [found.pop(key) for key in BY_CLASS] == [expected.pop(key) for key in BY_CLASS]
    assert found == pytest.approx(expected, rel=1e-5)


def test_predict_answers_as_the_run(run: Path, made: Path, effbench: Effbench, tmp_path: Path) -> None:
    from PIL import Image

    (tmp_path / "photos").mkdir()
    for number in range(9):
        Image.effect_noise((40, 30), 10 + 9 * number).convert("RGB").save(tmp_path / f"photos/{number}.png")
    expected = json.loads(effbench("predict", str(run), "photos", "--json")[1])
    code, out, _ = effbench("predict", str(made), "photos", "trust=true", "--json")
    assert code == 0
    rows = json.loads(out)
    assert [row["class"] for row in rows] == [row["class"] for row in expected]
    assert [row["probability"] for row in rows] == pytest.approx([row["probability"] for row in expected], abs=1e-5)


@pytest.mark.parametrize("verb", ["eval", "predict", "bench"])
def test_a_file_is_run_only_if_it_is_trusted(verb: str, file: Path, effbench: Effbench) -> None:
    code, _, err = effbench(verb, str(file), *(["photo.png"] if verb == "predict" else []))
    assert (code, "is a program, which may do whatever you may do" in err) == (2, True), err
    assert "trust=true. Files of format=onnx and openvino hold no program" in err


def test_a_broken_file_is_refused(file: Path, effbench: Effbench) -> None:
    whole = file.read_bytes()
    [program] = [int.from_bytes(whole[16:24], "little")]
    zeros = whole[:64] + b"\0" * (program - 64) + whole[program:]  # the header is that of a whole file
    for content in (whole[:3000], b"", b"x" * 5000, zeros):
        code, _, err = effbench("eval", str(vouched(file, content)), "trust=true")
        assert (code, "mlp-best.pte is broken, or no file of format=executorch: " in err) == (2, True), err


def test_a_file_of_other_inputs_than_promised_is_refused(file: Path, effbench: Effbench) -> None:
    record = json.loads(file.with_name("mlp-best.pte.json").read_text())
    for shape in (["N", 1, 28, 29], ["N", 1, 29, 28], ["N", 784]):
        vouched(file, file.read_bytes(), input={**record["input"], "shape": shape})
        code, _, err = effbench("eval", str(file), "trust=true")
        assert (code, "mlp-best.pte is broken" in err) == (2, True), err
