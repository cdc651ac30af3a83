"""Small files of texts to train on: classes with texts of many lengths, and one text for next-token prediction."""

from __future__ import annotations

import csv
from pathlib import Path

LENGTH, CONTEXT = 24, 16  # most tokens of a text; of a window
# Dropout, tokens left out, batches by length: whatever a text run draws.
LSTM = [
    "data=text_csv", "data.tokenizer=words", f"data.max_length={LENGTH}", "model=lstm_attention", "model.dim=8",
    "model.hidden=8", "model.attention=4", "device.threads=1",
]  # fmt: skip
GPT = [
    "data=text_file", f"data.context={CONTEXT}", "task=next_token", "model=gpt", "model.dim=16", "model.depth=1",
    "model.heads=2", "device.threads=1",
]  # fmt: skip


def write_texts(folder: Path, count: int = 100) -> Path:
    """A CSV file of two classes, with texts of 4 to 23 words."""
    path = folder / "texts.csv"
    with path.open("w", newline="") as stream:
        rows = [(f"{('guten Tag', 'good day')[n % 2]} {n} {'so ' * (n * 7 % 20)}end", n % 2) for n in range(count)]
        csv.writer(stream).writerows([("text", "label"), *rows])
    return path


def write_text(folder: Path, lines: int = 150) -> Path:
    """A file of one text, 13 to 18 bytes a line."""
    path = folder / "text.txt"
    path.write_text("".join(f"{row} and {row * row}.\n" for row in range(lines)))
    return path
