"""docs/export.md: the lines that use an exported file of texts with onnxruntime and numpy alone."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

import effbench
from effbench import cli

pytest.importorskip("onnxruntime")

DOCS = Path(__file__).parents[2] / "docs"


@pytest.mark.process
@pytest.mark.proof
def test_the_lines_of_the_docs_answer_as_the_run(tmp_path: Path) -> None:
    texts = {"yes": "good nice fine", "no": "bad poor awful"}
    rows = [
        f"{word} {index},{label}" for index in range(40) for label, words in texts.items() for word in words.split()
    ]
    (tmp_path / "own.csv").write_text("\n".join(["text,label", *rows]))
    words = [f"hydra.run.dir={tmp_path / 'RUN'}", "data=text_csv", f"data.file={tmp_path / 'own.csv'}", "device=cpu"]
    run = effbench.train([*words, "data.max_length=16", "trainer.max_epochs=2"])
    assert cli.main(["export", str(run.folder), f"output={tmp_path}"]) == 0
    blocks = re.findall(r"```python\n(.*?)```", (DOCS / "export.md").read_text(encoding="utf-8"), flags=re.DOTALL)
    [code] = [block for block in blocks if "Guten Tag" in block]
    for text in ("Guten Tag", "a text that is longer than all sixteen tokens"):
        lines = code.replace("ngrams-best.onnx", next(tmp_path.glob("*.onnx")).name).replace("Guten Tag", text)
        done = subprocess.run([sys.executable, "-c", lines], cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        name, share = done.stdout.split()
        answer = run.predict([text])
        assert run.classes[int(answer.argmax())] == name
        assert float(share) == pytest.approx(float(answer.max()), abs=1e-3)
