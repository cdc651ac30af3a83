"""What an explanation consists of. A topic returns it; the renderers print it and write it as a page or as Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from effbench.report.figures import Figure
from effbench.report.heat_maps import HeatMap

if TYPE_CHECKING:
    from effbench.run.run import Run


@dataclass(frozen=True)
class Paragraph:
    """Sentences.

    Attributes:
        text: without markup.
        of_machine: it holds numbers that differ from machine to machine, such as times: left out of documents.
    """

    text: str
    of_machine: bool = False


@dataclass(frozen=True)
class Listing:
    """Lines that keep their spaces, such as a computation.

    Attributes:
        text: at most 76 columns wide.
        of_machine: as in Paragraph.
    """

    text: str
    of_machine: bool = False


@dataclass(frozen=True)
class Table:
    """A table.

    Attributes:
        heads: of the columns.
        rows: one text a column.
        texts: number of columns at the left that hold words; the others hold numbers.
        of_machine: as in Paragraph.
    """

    heads: Sequence[str]
    rows: Sequence[Sequence[str]]
    texts: int = 1
    of_machine: bool = False


@dataclass(frozen=True)
class Drawing:
    """Figures that belong together.

    Attributes:
        figures: in order.
        caption: one or two sentences: what to see.
        across: figures beside each other, where there is room.
        of_machine: as in Paragraph.
    """

    figures: Sequence[Figure | HeatMap]
    caption: str
    across: int = 1
    of_machine: bool = False


Part = Paragraph | Listing | Table | Drawing


@dataclass(frozen=True)
class Explanation:
    """A topic, explained.

    Attributes:
        topic: its name on the command line.
        title: its heading.
        parts: in order.
        values: the numbers that the texts state, by name.
        references: papers and sections.
    """

    topic: str
    title: str
    parts: Sequence[Part]
    values: Mapping[str, float]
    references: Sequence[str]


@dataclass(frozen=True)
class Request:
    """What a user may choose.

    Attributes:
        run: a trained run; only some topics take one.
        checkpoint: of the run: 'best', 'last' or a name.
        text: a sentence; only some topics take one.
        seed: of everything that is drawn.
        measured: measure times, too.
    """

    run: Run | None = None
    checkpoint: str = "best"
    text: str | None = None
    seed: int = 0
    measured: bool = True
