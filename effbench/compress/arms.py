"""What a backend loses beside the one that a result was judged with, and which backend has the smallest file.

A result is judged once, in float32; a backend that computes in bfloat16, or reads a file that was made for another
runtime, gives other answers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch

from effbench.bench.answers import ANSWER_BATCH, judged, reference_answers
from effbench.bench.sources import Source
from effbench.compress.drop import risen
from effbench.compress.mixed import within
from effbench.compress.options import has_file

if TYPE_CHECKING:
    from effbench.run.run import Run

# format of the file that answers for a result -> the backend that computes as the judge did; '' for checkpoints
JUDGED_BY = {"": "eager", "onnx": "onnxruntime", "openvino": "openvino_f32"}


def more_lost(
    rows: Sequence[Mapping[str, Any]], judged_by: str, source: Source, result: Run | None = None
) -> dict[str, float]:
    """Return backend -> what is lost with it more than the judge found, in the unit of max_drop; at least 0.

    Both are compared on the same samples, so that few of them suffice.

    Args:
        rows: of the backends of one side, with metrics and what each loses.
        judged_by: the backend that computes as the judge did. If it is not among them, the judge's model is asked.
        source: what they were measured on.
        result: a quantized run, whose file is the judge's model; None: it is the source's model.
    """
    found = [row for row in rows if row.get("lost_of")]
    if not found:
        return {}
    base = next((row for row in found if row["backend"] == judged_by), None) or _of_judge(source, result)
    if base["lost_of"] == "accuracy":
        least = float(base["lost"]["estimate"])
        return {row["backend"]: max(0.0, float(row["lost"]["estimate"]) - least) for row in found}
    # answers that differ are no loss by themselves: max_drop is in percent of the loss
    least = float(base["metrics"]["loss"])
    return {row["backend"]: max(0.0, risen(least, float(row["metrics"]["loss"]))) for row in found}


@torch.inference_mode()
def _of_judge(source: Source, result: Run | None) -> dict[str, Any]:
    """Return metrics of the judge's model on the samples of a measurement, and what it loses. See `more_lost`."""
    reference = reference_answers(source)
    assert reference is not None  # a run's model is there
    if result is None:
        return judged(source, reference, reference)
    model = result.model("best")
    return judged(source, reference, torch.cat([model(chunk) for chunk in source.samples.split(ANSWER_BATCH)]))


def file_arm(speed: Mapping[str, Any], side: str, most: float | None = None) -> Mapping[str, Any] | None:
    """Return the arm with the smallest file that `effbench export` can write; None if no arm has one.

    A pickled module, which eager mode is measured with, is in no user's hands.

    Args:
        speed: as effbench.compress.speed.speeds returns it.
        side: 'before' or 'after'.
        most: what may be lost more than was judged; arms that lose more come last. None: all alike.
    """
    # a backend may have answered and crashed later
    working = [arm for arm in speed["arms"] if arm["side"] == side and arm["status"] == "ok"]
    found = [arm for arm in working if arm.get("bytes") and has_file(arm["backend"])]
    return min(found, key=lambda arm: (not _holds(arm, most), arm["bytes"], arm.get("more") or 0.0), default=None)


def _holds(arm: Mapping[str, Any], most: float | None) -> bool:
    return most is None or within(arm.get("more") or 0.0, most)
