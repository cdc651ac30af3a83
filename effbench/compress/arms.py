"""What a backend loses beside the one that a result was judged with, and which backend has the smallest file.

A result is judged once, in float32; a backend that computes in bfloat16, or reads a file that was made for another
runtime, gives other answers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from effbench.compress.drop import risen
from effbench.compress.mixed import within
from effbench.compress.options import has_file

# format of the file that answers for a result -> the backend that computes as the judge did; '' for checkpoints
JUDGED_BY = {"": "eager", "onnx": "onnxruntime", "openvino": "openvino_f32"}


def more_lost(rows: Sequence[Mapping[str, Any]], judged_by: str, drop: float) -> dict[str, float]:
    """Return backend -> what is lost with it more than the judge found, in the unit of max_drop; at least 0.

    Both are compared on the same samples, so that few of them suffice.

    Args:
        rows: of the backends of one side, with metrics and what each loses.
        judged_by: the backend that computes as the judge did; it need not be among them.
        drop: what the judge found, in points of accuracy, for the place of that backend.
    """
    found = [row for row in rows if row.get("lost_of")]
    if any(row["lost_of"] == "accuracy" for row in found):
        lost = {row["backend"]: float(row["lost"]["estimate"]) for row in found}
        base = lost.get(judged_by, drop)
        return {name: max(0.0, value - base) for name, value in lost.items()}
    # answers that differ are no loss by themselves: max_drop is in percent of the loss
    losses = {row["backend"]: float(row["metrics"]["loss"]) for row in found}
    least = losses.get(judged_by, min(losses.values(), default=0.0))
    return {name: max(0.0, risen(least, value)) for name, value in losses.items()}


def file_arm(speed: Mapping[str, Any], side: str, most: float | None = None) -> Mapping[str, Any] | None:
    """Return the arm with the smallest file that `effbench export` can write; None if no arm has one.

    A pickled module, which eager mode is measured with, is in no user's hands.

    Args:
        speed: as effbench.compress.speed.speeds returns it.
        side: 'before' or 'after'.
        most: what may be lost more than was judged; arms that lose more come last. None: all alike.
    """
    found = [arm for arm in speed["arms"] if arm["side"] == side and arm.get("bytes") and has_file(arm["backend"])]
    return min(found, key=lambda arm: (not _holds(arm, most), arm["bytes"], arm.get("more") or 0.0), default=None)


def _holds(arm: Mapping[str, Any], most: float | None) -> bool:
    return most is None or within(arm.get("more") or 0.0, most)
