"""Explanations as Markdown with SVG figures: docs/explain, from `make explain`.

What differs from machine to machine, such as times, is left out, so that the files change only with the code.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from effbench.escaping import for_terminal, markdown_text
from effbench.explain import MEASURES, TOPICS
from effbench.explain.content import Drawing, Explanation, Listing, Paragraph, Part, Table
from effbench.explain.page import key_of
from effbench.records import write_output
from effbench.redaction import redact
from effbench.report.sheets import sheet

INDEX = "README.md"


def documents(explanation: Explanation) -> dict[str, str]:
    """Return file name -> content: TOPIC.md, and TOPIC-1.svg, ... of its figures."""
    files = dict[str, str]()
    blocks = [f"# {markdown_text(explanation.title)}"]
    for part in explanation.parts:
        if part.of_machine:
            continue
        if isinstance(part, Drawing):
            name = f"{explanation.topic}-{len(files) + 1}.svg"
            titles = "; ".join(each.text for each in part.figures)
            files[name] = redact(sheet(part.figures, titles, part.across, key_of(part)))
            blocks += [f"![{markdown_text(part.caption)}]({name})", markdown_text(part.caption)]
        else:
            blocks.append(_block(part))
    if explanation.topic in MEASURES:
        blocks.append(f"`effbench explain {explanation.topic}` also shows what depends on the machine, such as times.")
    if explanation.references:
        blocks += ["## References", "\n".join(f"- {markdown_text(each)}" for each in explanation.references)]
    text = "\n\n".join(blocks) + "\n"
    return {f"{explanation.topic}.md": redact(text), **files}


def index() -> str:
    """Return the page that lists all topics."""
    lines = [f"- [{topic}]({topic}.md): {about}" for topic, about in TOPICS.items()]
    head = (
        "# Explanations\n\nEach number is computed by `effbench explain TOPIC`; `make explain` wrote these pages.\n\n"
    )
    return head + "\n".join(lines) + "\n"


def write_documents(explanations: Sequence[Explanation], folder: Path) -> list[Path]:
    """Write the files into the folder, which may be new; with all topics also a page that lists them.

    Raises:
        EffbenchError: a file cannot be written.
    """
    files = {name: text for each in explanations for name, text in documents(each).items()}
    if {each.topic for each in explanations} == set(TOPICS):
        files[INDEX] = index()
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        write_output(folder / name, text, redacted=True)
    return [folder / name for name in files]


def _block(part: Part) -> str:
    if isinstance(part, Paragraph):
        return markdown_text(part.text)
    if isinstance(part, Listing):
        return f"```\n{for_terminal(part.text).replace('```', '` ` `')}\n```"
    assert isinstance(part, Table)
    cells = [[markdown_text(cell) for cell in row] for row in (part.heads, *part.rows)]
    rule = "|".join("---" if at < part.texts else "---:" for at in range(len(part.heads)))
    head, *rows = (f"| {' | '.join(row)} |" for row in cells)
    return "\n".join([head, f"|{rule}|", *rows])
