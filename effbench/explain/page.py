"""Explanations as one HTML page, without scripts and external resources."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from effbench.explain.content import Drawing, Explanation, Part
from effbench.records import write_output
from effbench.redaction import redact
from effbench.report.figures import FRAME, Figure
from effbench.report.templates import environment_of, harmless


def write_page(explanations: Sequence[Explanation], output: Path) -> None:
    """Write the page. Raise EffbenchError if it cannot be written."""
    template = environment_of(Path(__file__).parent).get_template("explain.html.j2")
    content = {
        "title": explanations[0].title if len(explanations) == 1 else "Explanations",
        "facts": f"effbench {version('effbench')}",
        "topics": [_topic(each) for each in explanations],
    }
    # a run's classes and a user's text are in it
    text = template.render(harmless(redact(content)), frame=FRAME, zip=zip)
    write_output(output, text, redacted=True)


def _topic(explanation: Explanation) -> dict[str, Any]:
    return {
        "topic": explanation.topic,
        "title": explanation.title,
        "parts": [_part(part) for part in explanation.parts],
        "references": list(explanation.references),
    }


def _part(part: Part) -> dict[str, Any]:
    content = {"kind": type(part).__name__.lower(), **asdict(part)}
    if isinstance(part, Drawing):
        content["legend"] = key_of(part)
    return content


def key_of(drawing: Drawing) -> list[tuple[int, str]]:
    """Return (index of the colour, name) of the series whose names are not beside their lines."""
    plots = [figure for figure in drawing.figures if isinstance(figure, Figure)]
    if all(figure.named for figure in plots):
        return []
    return sorted({(line.colour, line.label) for figure in plots for line in figure.panel.lines if line.label})
