"""Run folders that were never trained, and a report's page as a parser sees it."""

from __future__ import annotations

import csv
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import yaml

from effbench.records import write_summary
from effbench.report.collect import RunRecord, find_runs, read_runs
from effbench.report.html import view, write_html

COLUMNS = ["row", "epoch", "step", "train/loss", "train/acc", "val/loss", "val/acc", "train/images_per_s", "lr/decay"]
VOID = {"meta", "link", "img", "br", "hr", "input", "base", "source", "embed"}


def summary(value: float = 0.8, metric: str = "val/acc", **changes: Any) -> dict[str, Any]:
    """What a finished run of 8 steps an epoch wrote."""
    return {
        "status": "completed",
        "stop_reason": None,
        "metrics": {"val/loss": 0.5, "val/acc": 0.8, "test/loss": 0.6, "test/acc": value - 0.01},
        "best": {"metric": metric, "value": value, "checkpoint": "step-00000016"},
        "epochs": 2.0,
        "steps": 16,
        "timing": {
            "training_s": 2.0,
            "elapsed_s": 3.0,
            "images_per_s": 100.0,
            "images_per_s_excludes_first_steps": 5,
            "seconds": {"data": 0.5, "forward_backward": 1.5, "total": 3.0},
        },
        "memory": {"peak_rss_bytes": 1_000_000},
        "model": {"name": "mlp", "optimizer": "AdamW", "parameters": 1000, "macs": 900},
        "device": "cpu",
        "data": {"name": "fashion", "sha256": "ab", "classes": ["cat", "dog"]},
        "environment": {"cpu": "Z80", "cores": 1},
        "argv": ["/somewhere/bin/effbench", "train"],
        **changes,
    }


def config(seed: int = 0, **changes: Any) -> dict[str, Any]:
    return {
        "seed": seed,
        "resume": None,
        "allow_targets": [],
        "model": {"_target_": "effbench.models.mlp.mlp", "hidden": [8]},
        "optimizer": {"_target_": "torch.optim.AdamW", "lr": 0.1},
        **changes,
    }


def write_run(
    folder: Path, record: dict[str, Any] | None, content: Any = None, rows: list[dict[str, Any]] | None = None
) -> Path:
    """A run's folder; without a record it has no summary.json."""
    folder.mkdir(parents=True)
    if record is not None:
        write_summary(folder, record)
    (folder / "config.yaml").write_text(yaml.safe_dump(config() if content is None else content, sort_keys=False))
    with (folder / "metrics.csv").open("w", newline="") as stream:
        writer = csv.DictWriter(stream, COLUMNS)
        writer.writeheader()
        writer.writerows(curve() if rows is None else rows)
    return folder


def curve(epochs: int = 2, scale: float = 1.0) -> list[dict[str, Any]]:
    """Eight logged steps an epoch, and the epoch's row."""
    rows: list[dict[str, Any]] = []
    for step in range(1, 8 * epochs + 1):
        values = {"train/loss": scale / step, "train/acc": 0.5, "lr/decay": 0.1}
        rows.append({"row": "step", "epoch": (step - 1) // 8, "step": step, **values})
        if step % 8 == 0:
            rows.append({"row": "epoch", "epoch": step // 8, "step": step, "val/loss": scale / step, "val/acc": 0.6})
    return rows


def read(*paths: Path) -> list[RunRecord]:
    return read_runs(find_runs(paths)[0])


class Page(HTMLParser):
    """The elements, attributes and texts of a page; it must be well nested."""

    def __init__(self, text: str):
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.comments: list[str] = []
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert not self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._open and self._open[-1] != "style":
            self.texts.append(data)

    def handle_comment(self, data: str) -> None:
        self.comments.append(data)

    @property
    def text(self) -> str:
        return "\n".join(self.texts)

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


def page_of(output: Path, *paths: Path) -> Page:
    """The page about the runs below `paths`, written and parsed."""
    folders, unread = find_runs(paths)
    write_html(view(read_runs(folders), output, unread), output)
    return Page(output.read_text(encoding="utf-8"))
