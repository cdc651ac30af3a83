"""The result and the page of real text runs: texts/s of classifiers, tokens/s and MACs a window of next-token runs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import effbench
from effbench.report.result import result_rows
from effbench.run.run import Run
from tests import texts
from tests.report.pages import page_of

pytestmark = pytest.mark.slow


def trained(folder: Path, words: list[str]) -> Run:
    return effbench.train([*words, "trainer.max_epochs=1", "trainer.log_every_n_steps=2"], folder / "run")


def check_speed(run: Run, column: str, unit: str, output: Path) -> None:
    """The number of summary.json, with its unit, in the result and on the page; in no other unit."""
    timing = run.summary["timing"]
    speed, skipped = timing[f"{column}"], timing[f"{column}_excludes_first_steps"]
    assert speed > 0
    rows = dict(result_rows(run.summary))
    assert rows["throughput"] == f"{speed:.0f} {unit}s/s (without the first {skipped} steps)"
    text = page_of(output, run.folder).text
    assert f"{speed:.0f} {unit}s/s" in text
    assert set(re.findall(r"\b\w+s/s\b", text)) == {f"{unit}s/s"}


def test_a_next_token_run_counts_tokens_and_macs_a_window(tmp_path: Path) -> None:
    run = trained(tmp_path, [*texts.GPT, "data.batch_size=4", f"data.file='{texts.write_text(tmp_path)}'"])
    check_speed(run, "tokens_per_s", "token", tmp_path / "page.html")
    assert run.summary["data"]["counted"] == "token"
    assert run.summary["tokens_seen"] == run.summary["steps"] * 4 * texts.CONTEXT
    model = dict(result_rows(run.summary))["model"]
    D, T = 16, texts.CONTEXT
    macs = T * (12 * D * D + 2 * T * D + 257 * D)
    assert model.endswith(f"parameters, {macs / 1e3:.0f}k MACs a window")


def test_a_text_run_counts_texts_a_second(tmp_path: Path) -> None:
    run = trained(tmp_path, [*texts.LSTM, "data.batch_size=4", f"data.file='{texts.write_texts(tmp_path)}'"])
    check_speed(run, "texts_per_s", "text", tmp_path / "page.html")
    assert dict(result_rows(run.summary))["model"].endswith("MACs a text")
