"""docs/explain is what the code makes: words to the letter, numbers as far as they do not depend on the processor."""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree

import pytest

from effbench.explain import TOPICS
from effbench.explain.content import Drawing, Explanation, Listing, Paragraph, Table
from effbench.explain.documents import INDEX, documents, index, write_documents
from effbench.report.heat_maps import heat_map
from tests.explain.examples import TRAINED, explanation

DOCS = Path(__file__).parents[2] / "docs" / "explain"
NUMBER = re.compile(r"-?\d+(?:[.,]\d+)*(?:e[-+]\d+)?")
STALE = "docs/explain is stale: make explain"
SLOW = (*TRAINED, "optimizers", "schedulers")


def words_of(text: str) -> str:
    return " ".join(NUMBER.sub("#", text).split())


@pytest.mark.slow
@pytest.mark.parametrize(
    "topic", [pytest.param(topic, marks=pytest.mark.proof) if topic in SLOW else topic for topic in TOPICS]
)
def test_the_documents_are_what_the_code_makes(topic):
    made = documents(explanation(topic))
    kept = {path.name: path.read_text(encoding="utf-8") for path in DOCS.glob(f"{topic}[.-]*")}
    assert kept.keys() == made.keys(), STALE
    # a trained model differs in its last digits between processors, and so do paths in a figure
    text, stored = made[f"{topic}.md"], kept[f"{topic}.md"]
    assert words_of(stored) == words_of(text), STALE
    if topic not in TRAINED:
        assert stored == text, STALE
        assert {name: words_of(content) for name, content in kept.items()} == {
            name: words_of(content) for name, content in made.items()
        }, STALE


def test_the_index_lists_all_topics_and_no_file_is_left_over():
    assert (DOCS / INDEX).read_text(encoding="utf-8") == index(), STALE
    names = {path.name for path in DOCS.iterdir()} - {INDEX}
    assert {name.split(".")[0].split("-")[0] for name in names} == set(TOPICS)


def test_figures_of_the_documents_are_whole_svg():
    paths = sorted(DOCS.glob("*.svg"))
    assert len(paths) >= len(TOPICS)
    for path in paths:
        root = ElementTree.parse(path).getroot()
        assert root.tag == "{http://www.w3.org/2000/svg}svg"
        assert root.get("aria-label")
        _, _, width, height = map(float, root.get("viewBox", "").split())
        assert float(root.get("width", 0)) / float(root.get("height", 1)) == pytest.approx(width / height, rel=0.06)


HOSTILE = "a|b <script> `x` ](http://x.example)\x1b[31m"


def hostile() -> Explanation:
    drawing = Drawing([heat_map(HOSTILE, HOSTILE, [[1.0, -1.0]], [HOSTILE], [HOSTILE, "b"])], HOSTILE)
    parts = [Paragraph(HOSTILE), Listing(f"```{HOSTILE}"), Table([HOSTILE], [[HOSTILE]]), drawing,
             Paragraph("seconds", of_machine=True)]  # fmt: skip
    return Explanation("neuron", HOSTILE, parts, {}, [HOSTILE])


@pytest.mark.slow
def test_what_a_user_wrote_stays_text_in_markdown_and_svg(tmp_path):
    paths = write_documents([hostile()], tmp_path / "new")
    markdown, svg = (path.read_text() for path in paths)
    assert "<script>" not in re.sub(r"```\n.*?\n```", "", markdown, flags=re.DOTALL) + svg
    assert "\x1b" not in markdown + svg
    assert "](http" not in re.sub(r"```\n.*?\n```", "", markdown, flags=re.DOTALL)
    assert markdown.count("```") == 2
    ElementTree.fromstring(svg)
    assert "seconds" not in markdown
    assert "depends on the machine" in documents(explanation("depthwise"))["depthwise.md"]
