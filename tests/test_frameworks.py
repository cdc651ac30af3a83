"""benchmarks/frameworks: what is counted, what a step is, and what the page says."""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from benchmarks.frameworks import measure, one, page, task
from benchmarks.frameworks.journal import Journal
from benchmarks.frameworks.lines import user_lines
from benchmarks.frameworks.measure import FRAMEWORKS, PEERS, Framework, overheads

CODE = '''"""A docstring,
of two lines."""

import torch  # a comment does not remove the line

# a comment alone does


def train(
    seed,
    epochs,
):
    """Another."""
    text = """a text is
    no docstring"""
    return text
'''


def test_lines_are_those_of_code_alone(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text(CODE)
    # import, four of the signature, two of the text, return
    assert user_lines(tmp_path / "a.py") == 8
    (tmp_path / "a.yaml").write_text("# a comment\n\n_target_: x.Y  # and one beside\nwidth: 3\n")
    assert user_lines(tmp_path / "a.yaml") == 2


def test_every_framework_has_a_file_with_one_way_in() -> None:
    files = {path.stem for path in PEERS.glob("*.py")} - {"__init__"}
    assert files == {framework.name for framework in FRAMEWORKS}
    for name in files:
        tree = ast.parse((PEERS / f"{name}.py").read_text())
        [train] = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == "train"]
        assert [argument.arg for argument in train.args.args] == ["seed", "epochs"], name


class Laps(list[float]):
    def lap(self, value: float) -> None:
        self.append(value)


def test_a_step_is_between_forward_passes_of_one_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    now, laps = [0.0], Laps()
    monkeypatch.setattr(one.time, "perf_counter", lambda: now[0])
    clock = one.StepClock(laps, slice_steps=3, warm_up=2)
    events = "t 9 t 9 t  1 t 100 e 50 t 2 t 3 t  5 t 5 t 5 t"  # t: of training, e: of evaluation, numbers: seconds
    for event in events.split():
        if event.isdecimal():
            now[0] += float(event)
        else:
            (clock.train_step if event == "t" else clock.evaluation)()
    assert laps == [9.0, 2.0, 5.0]


def test_the_module_tells_training_from_evaluation(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    monkeypatch.setattr(task, "on_train_step", lambda: told.append("train"))
    monkeypatch.setattr(task, "on_evaluation", lambda: told.append("eval"))
    net = task.Net()
    images = task.torch.zeros(2, 1, 28, 28)
    net.train()(images)
    net.eval()(images)
    assert told == ["train", "eval"]
    assert sum(parameter.numel() for parameter in net.parameters()) == 52_138


@pytest.fixture
def few(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The loops' data: 300 images whose class is their brightness."""
    labels = np.arange(300) % 10
    images = np.zeros((300, 1, 28, 28), np.float32) + labels[:, None, None, None].astype(np.float32) / 5 - 1
    arrays = dict.fromkeys(("train", "val", "test"), images)
    np.savez(tmp_path / "data.npz", **arrays, **{f"{which}_labels": labels for which in arrays})
    monkeypatch.setenv(task.DATA, str(tmp_path / "data.npz"))
    task.tensors.cache_clear()
    yield
    task.tensors.cache_clear()


@pytest.mark.slow
@pytest.mark.usefixtures("few")
def test_the_loop_by_hand_learns() -> None:
    from benchmarks.frameworks.peers import bare

    assert bare.train(0, 40) > 0.5


@pytest.mark.slow
@pytest.mark.usefixtures("few")
def test_effbench_trains_the_module_of_its_yaml() -> None:
    from benchmarks.frameworks.peers import effbench

    assert effbench.train(0, 1) > 0.5


@pytest.mark.usefixtures("few")
def test_loaders_read_whole_batches() -> None:
    train, val, _ = task.loaders()
    assert [tuple(images.shape) for images, _ in train] == [(task.BATCH, 1, 28, 28)] * 3
    images, labels = next(iter(val))
    assert images.equal(task.tensors("val")[0])
    assert labels.equal(task.tensors("val")[1])


def test_an_overhead_is_beyond_the_bare_loop_of_its_round() -> None:
    found = [{"bare": 1.0, "bare again": 1.25, "keras": 4.0}, {"bare": 2.0, "bare again": 2.0, "keras": 5.5}]
    assert overheads(found, "keras") == [3.0, 3.5]
    assert overheads(found, "bare") == [0.25, 0.0]


def test_a_framework_that_is_missing_is_named() -> None:
    assert Framework("none", "None", "no-such-distribution").problem == "no-such-distribution is not installed"
    assert not Framework("bare", "by hand").problem


def entry(title: str, lines: int, overhead_ms: float, problem: str = "") -> dict[str, object]:
    runs = [{"seed": seed, "seconds": 9.0 + seed, "train_s": 4.0, "peak_bytes": 5e8, "accuracy": 0.84 + seed / 100}
            for seed in range(2)]  # fmt: skip
    return {
        "title": title, "version": "1.2", "problem": problem, "lines": lines, "date": "2026-11-29", "commit": "abc",
        "machine": {"cpu": "x"}, "plan": {"seeds": 2, "epochs": 3}, "runs": [] if problem else runs,
        "bare_step_s": [2e-3] * 3, "overhead_s": [] if problem else [overhead_ms / 1e3] * 3,
    }  # fmt: skip


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    kept = {
        "bare": entry("by hand", 23, 0.01), "effbench": entry("effbench", 28, -0.1), "keras": entry("Keras 3", 24, 4.2),
        "fastai": entry("fastai", 17, 0, "fastai is not installed"),
    }  # fmt: skip
    path = tmp_path / "frameworks.json"
    path.write_text(json.dumps(kept))
    return path


def test_the_page_states_every_figure_and_what_is_left_out(journal: Path) -> None:
    page.write_page(journal)
    text = journal.with_suffix(".md").read_text()
    assert "| Keras 3 1.2 | 24 | 9.5 [9, 10] | 4 [4, 4] | 500 | 4.20 [4.20, 4.20] | 84.5 ± 0.7 (n = 2) |" in text
    assert "a step 2.00; control 0.01 [0.01, 0.01]" in text
    assert "Left out: fastai: fastai is not installed." in text
    # 4.2 beside -0.1; the loop by hand is 0 by definition
    assert "Longer: by hand +0.10 ms [+0.10, +0.10], Keras 3 +4.30 ms [+4.30, +4.30]." in text
    assert "![" in text
    assert "frameworks.svg" in text


def test_the_figure_has_both_schemes_and_places_loops_by_lines(journal: Path) -> None:
    page.write_page(journal)
    svg = journal.with_suffix(".svg").read_text()
    whole = {name: entry for name, entry in json.loads(journal.read_text()).items() if entry["runs"]}
    assert "prefers-color-scheme: dark" in svg
    places = {mark.label: mark.x for mark in page.quadrants(whole).marks}
    assert places["by hand"] < places["Keras 3"] < places["effbench"]
    for name in places:
        assert f">{name}</text>" in svg


def test_the_journal_keeps_the_others_and_the_table_s_order(journal: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.frameworks.journal.commit_here", lambda: "abc")
    monkeypatch.setattr("benchmarks.frameworks.journal.machine_here", lambda: {"cpu": "x"})
    before = json.loads(journal.read_text())
    written = Journal(journal, measure.Plan(seeds=1))
    written.begin(FRAMEWORKS[0])
    written.add_run("bare", {"seed": 0, "seconds": 1.0})
    written.add_steps(["bare"], [{"bare": 1.0, "bare again": 1.5}])
    after = json.loads(journal.read_text())
    assert list(after) == ["bare", "effbench", "fastai", "keras"]
    assert after["keras"] == before["keras"]
    assert after["bare"]["runs"] == [{"seed": 0, "seconds": 1.0}]
    assert after["bare"]["overhead_s"] == [0.5]


def test_whole_runs_take_turns_from_either_end(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(measure, "run", lambda name, seed, *_: {"name": name, "seed": seed})
    chosen = [Framework("bare", "by hand"), Framework("keras", "Keras 3")]
    told: list[tuple[str, int]] = []
    measure.all_runs(chosen, measure.Plan(seeds=2), tmp_path, lambda name, found: told.append((name, found["seed"])))
    assert told == [("bare", 0), ("keras", 0), ("keras", 1), ("bare", 1)]
