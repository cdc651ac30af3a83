"""effbench explain: topics, pages, documents, and mistakes without a traceback."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from effbench import cli
from effbench.explain import TOPICS


def effbench(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    code = cli.main(["explain", *words])
    out, err = capsys.readouterr()
    return code, out, err


def test_without_a_topic_all_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = effbench(capsys)
    assert (code, err) == (0, "")
    assert [line.split()[0] for line in out.splitlines()] == list(TOPICS)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["nuron"], "topic 'nuron' is not one of: all, attention, convolution"),
        (["nuron"], "Did you mean 'neuron'?"),
        (["neuron", "mixedprecision"], "Did you mean 'mixed_precision'?"),
        (["attention", "text= "], "text is empty"),
        (["neuron", "text=a"], "topic neuron takes no text. Topics that do: attention."),
        (["neuron", "seed=-1"], "seed must be a whole number in [0, 2^32); got '-1'."),
        (["neuron", "output=x.pdf"], "output=x.pdf must end in .html"),
        (["neuron", "output=no/where.html"], "output=no/where.html: "),
        (["neuron", "output=file"], "output=file is a file"),
        (["output=x.html"], "output=x.html needs a topic"),
        (["attention", "nowhere"], "nowhere is not a run"),
        (["attention", "a", "b", "text=x"], "explain takes one run; got 'b' too."),
        (["attention", "checkpoint=last"], "checkpoint=last is for a run: effbench explain attention RUN"),
        (["neuron", "allow_targets=[mylab]"], "allow_targets=[mylab] is for a run"),
        (["checkpoint=last"], "checkpoint=last is for a run"),
        (["neuron", "--text"], "--text needs a value."),
        (["neuron", "--input=3"], "there is no flag --input=3 here."),
    ],
)
def test_a_mistake_is_named_without_a_traceback(
    words: list[str], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("file").write_text("")
    code, out, err = effbench(capsys, *words)
    assert (code, out) == (2, "")
    assert expected in err
    assert "Traceback" not in err


def test_a_mistake_leaves_no_folder_for_its_output(capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = effbench(capsys, "neuron", "output=some/new/folder", "seed=-1")
    assert (code, "seed must be" in err) == (2, True)
    assert not Path("some").exists()


@pytest.mark.slow
def test_a_topic_is_printed_and_written(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = effbench(capsys, "neuron")
    assert code == 0
    assert out.startswith("A gradient step of one neuron\n")
    for words in (["output=page.html"], ["--html", "page.html"], ["--output=page.html"]):
        code, out, _ = effbench(capsys, "neuron", *words)
        assert (code, out) == (0, "page.html\n")
    assert "<figure>" in Path("page.html").read_text()
    code, out, _ = effbench(capsys, "neuron", "--output", "pages")
    assert out.split() == ["pages/neuron.md", "pages/neuron-1.svg"]
    code, out, _ = effbench(capsys, "neuron", "--json")
    [found] = json.loads(out)["topics"]
    assert found["topic"] == "neuron"
    assert found["values"]["error"] < 0


@pytest.mark.slow
def test_attention_of_a_run_reads_the_users_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["data=language_id", "model=lstm_attention", "model.hidden=8", "debug=smoke", "hydra.run.dir=RUN"]
    assert cli.main(["train", *words]) == 0
    capsys.readouterr()
    code, out, err = effbench(capsys, "attention", "RUN", "text=Guten Tag")
    assert code == 0, err
    assert "reads 'Guten Tag'." in out
    assert "additive attention" in out
    code, _, err = effbench(capsys, "attention", "RUN")
    assert code == 2
    assert "a run needs a sentence" in err


@pytest.mark.slow
def test_attention_refuses_a_run_without_attention(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = effbench(capsys, "attention", str(run), "text=Guten Tag")
    assert code == 2
    assert "run is on images; explain attention takes a run on texts." in err
