"""Makes kjv.txt.xz: the King James Bible, a verse a line, a blank line between chapters.

Run `bible -f gen1:1-rev22:21 </dev/null >FILE`, then `python -m effbench.data.text.embedded.make_kjv FILE`. The program
and the text are in Debian's packages bible-kjv and bible-kjv-text. The script rewrites the file and its sha256; the
text is the same on every run.
"""

from __future__ import annotations

import sys
from itertools import groupby
from pathlib import Path

from effbench.data.shipped import write_shipped
from effbench.data.text.kjv import FILE
from effbench.data.text.tables import packed


def make(printed: str) -> str:
    """Return the text without references; `printed` has lines such as 'Rev22:21 The grace of our Lord …'."""
    verses = [line.split(" ", 1) for line in printed.split("\n") if line]
    chapters = groupby(verses, key=lambda verse: verse[0].partition(":")[0])
    return "\n\n".join("\n".join(text for _, text in chapter) for _, chapter in chapters)


if __name__ == "__main__":
    write_shipped(FILE, packed(make(Path(sys.argv[1]).read_text(encoding="ascii"))))
