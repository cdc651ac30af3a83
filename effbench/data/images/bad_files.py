"""Leave out the files of a folder that cannot be decoded, or refuse them."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace

from effbench.data.folder_files import printable
from effbench.data.folder_layout import listed
from effbench.data.folder_rows import Rows, missing_classes
from effbench.errors import DataError

log = logging.getLogger(__name__)


def without_bad(rows: Rows, bad: Mapping[int, str], on_corrupt: str) -> Rows:
    """Return the rows that could be decoded.

    Args:
        rows: all rows.
        bad: row that could not be decoded -> reason.
        on_corrupt: 'refuse' or 'skip'.

    Raises:
        DataError: there are bad rows, and on_corrupt is 'refuse'; or a class or split has no image left.
    """
    if not bad:
        return rows
    # Some reasons, not all: in a folder of another kind of files, every file is bad.
    share = f"{len(bad)} of {len(rows.files)} files cannot be decoded"
    shown = list(bad.values())[:5]
    more = [f"... and {len(bad) - len(shown)} more"] if len(bad) > len(shown) else []
    if on_corrupt == "refuse":
        listing = "".join(f"\n  {line}" for line in shown + more)
        raise DataError(
            f"data.root={printable(rows.root)}: {share}:{listing}\n"
            "Mend or remove them, or go on without them: data.on_corrupt=skip."
        )
    log.info(f"image_folder: skipped: {share}: {' | '.join(shown + more)}")

    left = [row for row in range(len(rows.files)) if row not in bad]
    counts, start = {}, 0
    for which, count in rows.counts.items():
        counts[which] = sum(start <= row < start + count for row in left)
        start += count
    kept = replace(rows, files=[rows.files[row] for row in left], labels=rows.labels[left], counts=counts)

    # val and test may lose a class, but train may not, and no split may be empty
    if missing := missing_classes(kept).get("train"):
        names = listed(kept.classes[label] for label in missing)
        raise DataError(f"data.root={printable(kept.root)}: no image to train on is left of the classes {names}.")
    if empty := [which for which, count in counts.items() if count == 0]:
        raise DataError(f"data.root={printable(kept.root)}: no image is left in {', '.join(empty)}.")
    return kept
