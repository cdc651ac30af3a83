"""curves.png, from a metrics.csv alone."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from effbench.metrics import display_of
from effbench.report.curves import draw_curves

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLUMNS = [
    "row",
    "epoch",
    "step",
    "train/loss",
    "train/acc",
    "val/loss",
    "val/acc",
    "train/images_per_s",
    "lr/a",
    "lr/b",
]

DISPLAYS = {name: display_of(name) for name in ("loss", "acc")}


def write(folder: Path, rows: list[dict[str, Any]], columns: list[str] = COLUMNS) -> None:
    with (folder / "metrics.csv").open("w", newline="") as stream:
        writer = csv.DictWriter(stream, columns)
        writer.writeheader()
        writer.writerows(rows)


def run(other_rate: float = 1.0) -> list[dict[str, Any]]:
    """Eight logged steps and two epochs; group b's rate is `other_rate` times group a's."""
    rows: list[dict[str, Any]] = []
    for step in range(1, 9):
        rate = 0.1 / step
        learning = {"train/loss": 2.0 / step, "train/acc": step / 10, "lr/a": rate, "lr/b": rate * other_rate}
        rows.append({"row": "step", "epoch": step // 4, "step": step, **learning})
        if step % 4 == 0:
            validated = {"val/loss": 3.0 / step, "val/acc": step / 20, "lr/a": rate, "lr/b": rate * other_rate}
            rows.append({"row": "epoch", "epoch": step // 4, "step": step, "train/loss": 9.0, **validated})
    return rows


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The figures that were saved."""
    from matplotlib.figure import Figure

    figures: list[Figure] = []
    save = Figure.savefig

    def kept(self: Figure, *args: Any, **options: Any) -> None:
        figures.append(self)
        save(self, *args, **options)

    monkeypatch.setattr(Figure, "savefig", kept)
    return figures


def lines(figure: Figure, panel: int) -> dict[str, tuple[list[float], list[float]]]:
    """Label -> (steps, values) of the lines of a panel."""
    return {
        str(line.get_label()): (list(map(float, line.get_xdata())), list(map(float, line.get_ydata())))
        for line in figure.axes[panel].lines
    }


@pytest.mark.slow
def test_loss_and_accuracy_are_drawn_over_steps_as_logged(tmp_path: Path, drawn: list[Figure]) -> None:
    write(tmp_path, run())
    assert draw_curves(tmp_path, "mlp with sgd", DISPLAYS) == tmp_path / "curves.png"
    [figure] = drawn
    loss, accuracy = lines(figure, 0), lines(figure, 1)
    assert set(loss) == set(accuracy) == {"train", "validation"}
    assert loss["train"] == ([1, 2, 3, 4, 5, 6, 7, 8], pytest.approx([2 / step for step in range(1, 9)]))
    assert loss["validation"] == ([4, 8], pytest.approx([0.75, 0.375]))
    assert accuracy["validation"] == ([4, 8], pytest.approx([0.2, 0.4]))
    assert figure.get_suptitle() == "mlp with sgd"


@pytest.mark.slow
def test_equal_learning_rates_are_one_line_and_others_are_named(tmp_path: Path, drawn: list[Figure]) -> None:
    write(tmp_path, run())
    draw_curves(tmp_path, "x", DISPLAYS)
    assert len(drawn[0].axes[2].lines) == 1
    assert drawn[0].axes[2].get_legend() is None
    write(tmp_path, run(other_rate=0.1))
    draw_curves(tmp_path, "x", DISPLAYS)
    assert set(lines(drawn[1], 2)) == {"a", "b"}


@pytest.mark.slow
def test_curves_png_is_a_png_that_is_not_blank(tmp_path: Path) -> None:
    write(tmp_path, run())
    draw_curves(tmp_path, "x", DISPLAYS)
    with Image.open(tmp_path / "curves.png") as picture:
        assert picture.format == "PNG"
        assert picture.size == (1440, 432)
        colours = np.asarray(picture.convert("RGB")).reshape(-1, 3)
    for expected in ((0x1F, 0x6F, 0xB4), (0xE0, 0x70, 0x1B)):  # train, validation
        assert (colours == expected).all(1).any()
    assert not list(tmp_path.glob("*.tmp"))


@pytest.mark.slow
@pytest.mark.parametrize("rows", [[], run()[:1], run()[:2]])
def test_runs_too_short_for_a_curve_are_not_drawn(rows: list[dict[str, Any]], tmp_path: Path) -> None:
    write(tmp_path, rows)
    assert draw_curves(tmp_path, "x", DISPLAYS) is None
    assert not (tmp_path / "curves.png").exists()


@pytest.mark.slow
def test_losses_that_are_not_finite_are_no_fault_of_the_picture(tmp_path: Path) -> None:
    write(tmp_path, [{"row": "epoch", "epoch": 0, "step": step, "train/loss": "nan"} for step in (1, 2, 3)])
    assert (draw_curves(tmp_path, "x", DISPLAYS) or tmp_path).stat().st_size > 1000


@pytest.mark.slow
def test_training_curve_falls_back_to_epoch_rows(tmp_path: Path, drawn: list[Figure]) -> None:
    epochs = [row for row in run() if row["row"] == "epoch"]
    write(tmp_path, [*epochs, {**epochs[-1], "epoch": 3, "step": 12}])
    draw_curves(tmp_path, "x", DISPLAYS)
    assert lines(drawn[0], 0)["train"] == ([4, 8, 12], [9.0, 9.0, 9.0])


def test_without_metrics_there_is_no_picture(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"metrics\.csv"):
        draw_curves(tmp_path, "x", DISPLAYS)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_the_matplotlib_backend_of_a_notebook_is_kept(tmp_path: Path) -> None:
    import matplotlib as mpl

    before = mpl.get_backend()
    mpl.use("svg")
    try:
        write(tmp_path, run())
        assert draw_curves(tmp_path, "title", DISPLAYS)
        assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
        assert mpl.get_backend() == "svg"
    finally:
        mpl.use(before)
